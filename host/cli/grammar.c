#include "host/cli/grammar.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/quote.h"
#include "common/state/snapshot.h"

#define HOST_SIZE_MAX  253 /* RFC 1035 §2.3.4, without the root's dot */
#define LABEL_SIZE_MAX 63
#define QUOTED_SIZE    320

static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

static bool is_letter(char c)
{
    return c != '\0' && strchr(letters, c);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool label_ok(const char *text, size_t size)
{
    if (size == 0 || size > LABEL_SIZE_MAX || text[0] == '-' || text[size - 1] == '-')
        return false;
    for (size_t i = 0; i < size; i++)
        if (!is_letter(text[i]) && !is_digit(text[i]) && text[i] != '-' && text[i] != '_')
            return false;
    return true;
}

static bool address6_ok(const char *text, size_t size)
{
    bool colon = false;
    for (size_t i = 0; i < size; i++) {
        colon = colon || text[i] == ':';
        if (text[i] == '\0' || !strchr("0123456789abcdefABCDEF:.", text[i]))
            return false;
    }
    return colon;
}

bool grammar_host_ok(const char *text, size_t size)
{
    if (size >= 2 && text[0] == '[' && text[size - 1] == ']')
        return address6_ok(text + 1, size - 2);
    if (size > 2 && text[0] == '*' && text[1] == '.') {
        text += 2;
        size -= 2;
    }
    if (size == 0 || size > HOST_SIZE_MAX)
        return false;
    for (;;) {
        const char *dot = memchr(text, '.', size);
        size_t label = dot ? (size_t)(dot - text) : size;
        if (!label_ok(text, label))
            return false;
        if (!dot)
            return true;
        text += label + 1;
        size -= label + 1;
    }
}

/* Addresses behind "=": the proxy reads them; here only what can be none is refused. */
static bool pins_ok(const char *text)
{
    return *text != '\0' && strspn(text, "0123456789abcdefABCDEF:.,[]/") == strlen(text);
}

/* ADDRESS/BITS with no bit set behind the first BITS, as the proxy wants it. */
static bool network_ok(const char *text, size_t size)
{
    char address[INET6_ADDRSTRLEN], bits_text[4];
    uint8_t bytes[16];
    uint64_t bits;
    const char *slash = memchr(text, '/', size);
    size_t head = (size_t)(slash - text), tail = size - head - 1;
    if (head > 1 && text[0] == '[' && text[head - 1] == ']') {
        text++;
        head -= 2;
    }
    if (head >= sizeof address || tail >= sizeof bits_text)
        return false;
    (void)snprintf(address, sizeof address, "%.*s", (int)head, text);
    (void)snprintf(bits_text, sizeof bits_text, "%.*s", (int)tail, slash + 1);
    bool v6 = strchr(address, ':') != NULL;
    if (inet_pton(v6 ? AF_INET6 : AF_INET, address, bytes) != 1 ||
        bg_parse_u64(bits_text, 0, v6 ? 128 : 32, &bits) < 0)
        return false;
    for (size_t bit = (size_t)bits; bit < (v6 ? 128 : 32); bit++)
        if (bytes[bit / 8] & 0x80 >> bit % 8)
            return false;
    return true;
}

int grammar_check_allow(const char *text, struct bg_err *err)
{
    char quoted[QUOTED_SIZE];
    size_t size = strcspn(text, "=");
    bool ok = text[size] == '\0' || pins_ok(text + size + 1);
    /* The colon before the port is the last one, and not inside brackets. */
    size_t host = size;
    const char *slash = memchr(text, '/', size);
    for (size_t i = size; i > 0 && text[i - 1] != ']' && text + i - 1 != slash; i--)
        if (text[i - 1] == ':')
            host = i - 1;
    char port[8] = "1";
    uint64_t number;
    if (host < size)
        ok = ok && (size_t)snprintf(port, sizeof port, "%.*s", (int)(size - host - 1),
                                    text + host + 1) < sizeof port;
    if (ok && bg_parse_u64(port, 1, 65535, &number) == 0 &&
        (slash ? network_ok(text, host) && text[size] == '\0' : grammar_host_ok(text, host)))
        return 0;
    return bg_err_set(err, -EINVAL,
                      "--allow %s: want HOST or HOST:PORT, with HOST a name such as "
                      "api.example.org or *.example.org, an address, or a network such as "
                      "10.0.3.0/24 (a scheme or a path has no place here)",
                      bg_quote(text, quoted, sizeof quoted));
}

bool grammar_name_ok(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (!is_letter(text[i]) && text[i] != '_' && (i == 0 || !is_digit(text[i])))
            return false;
    return size > 0;
}

static int secret_error(const char *text, struct bg_err *err)
{
    char quoted[QUOTED_SIZE];
    return bg_err_set(err, -EINVAL,
                      "--secret %s: want NAME@HOST or NAME@HOST,HOST, with NAME as in `bellglass "
                      "secret ls`",
                      bg_quote(text, quoted, sizeof quoted));
}

static char *lower_copy(const char *text, size_t size)
{
    char *copy = strndup(text, size);
    for (char *p = copy; p && *p != '\0'; p++)
        if (*p >= 'A' && *p <= 'Z')
            *p = (char)(*p | 0x20);
    return copy;
}

int grammar_parse_secret(const char *text, struct grammar_secret *ret, struct bg_err *err)
{
    const char *at = strchr(text, '@');
    if (!at || !grammar_name_ok(text, (size_t)(at - text)))
        return secret_error(text, err);
    struct grammar_secret secret = {.name = strndup(text, (size_t)(at - text))};
    size_t room = 1;
    for (const char *p = at; *p != '\0'; p++)
        room += *p == ',';
    secret.hosts = calloc(room, sizeof *secret.hosts);
    if (!secret.name || !secret.hosts) {
        grammar_secret_done(&secret);
        (void)bg_err_errno(err, -ENOMEM, "--secret");
        return -ENOMEM;
    }
    int r = 0;
    const char *host = at + 1;
    while (r == 0) {
        size_t size = strcspn(host, ",");
        char *copy = NULL;
        if (!grammar_host_ok(host, size))
            r = secret_error(text, err);
        else if (!(copy = lower_copy(host, size)))
            r = bg_err_errno(err, -ENOMEM, "--secret");
        else
            secret.hosts[secret.host_count++] = copy;
        if (host[size] == '\0')
            break;
        host += size + 1;
    }
    if (r < 0) {
        grammar_secret_done(&secret);
        return r;
    }
    *ret = secret;
    return 0;
}

void grammar_secret_done(struct grammar_secret *secret)
{
    free(secret->name);
    for (size_t i = 0; i < secret->host_count; i++)
        free(secret->hosts[i]);
    free(secret->hosts);
    *secret = (struct grammar_secret){0};
}

int grammar_parse_env(const char *text, char *(*getenv_fn)(const char *name), char **ret,
                      struct bg_err *err)
{
    char quoted[QUOTED_SIZE];
    if (*text == '\0' || *text == '=')
        return bg_err_set(err, -EINVAL, "-e %s: want K=V, or K to pass your own",
                          bg_quote(text, quoted, sizeof quoted));
    char *copy = NULL;
    if (strchr(text, '=')) {
        copy = strdup(text);
    } else {
        const char *value = getenv_fn(text);
        if (!value)
            return bg_err_set(err, -EINVAL, "-e %s: it is not set here; give -e K=V",
                              bg_quote(text, quoted, sizeof quoted));
        if (asprintf(&copy, "%s=%s", text, value) < 0)
            copy = NULL;
    }
    if (!copy)
        return bg_err_errno(err, -ENOMEM, "-e");
    *ret = copy;
    return 0;
}

bool grammar_split_path(const char *text, char **ret_name, const char **ret_path)
{
    const char *colon = strchr(text, ':');
    if (!colon)
        return false;
    BG_AUTOFREE char *name = strndup(text, (size_t)(colon - text));
    if (!name || (!bg_sandbox_name_ok(name) && !bg_snapshot_name_ok(name)))
        return false;
    *ret_name = BG_TAKE(name);
    *ret_path = colon + 1;
    return true;
}

int grammar_parse_duration(const char *text, uint64_t *ret_ms, struct bg_err *err)
{
    static const struct {
        char unit;
        uint64_t ms;
    } units[] = {{'s', 1000}, {'m', 60 * 1000}, {'h', 3600 * 1000}, {'d', 24 * 3600 * 1000}};
    char number[16], quoted[64];
    size_t size = strlen(text);
    uint64_t value;
    if (size >= 2 && size <= sizeof number) {
        (void)snprintf(number, sizeof number, "%.*s", (int)size - 1, text);
        for (size_t i = 0; i < sizeof units / sizeof *units; i++)
            if (text[size - 1] == units[i].unit &&
                bg_parse_u64(number, 0, 1000 * 1000 * 1000, &value) == 0) {
                *ret_ms = value * units[i].ms;
                return 0;
            }
    }
    return bg_err_set(err, -EINVAL, "%s: want a length of time such as 90s, 10m, 12h or 7d",
                      bg_quote(text, quoted, sizeof quoted));
}
