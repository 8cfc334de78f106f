#include "net/secrets.h"

#include <string.h>

#include "common/limits.h"
#include "common/quote.h"
#include "net/base64.h"
#include "net/locked.h"

#define NAME_MAX_SIZE 128u
#define HEX_DIGITS    64u

bool secret_name_ok(const char *name)
{
    size_t size = strlen(name);
    if (size == 0 || size > NAME_MAX_SIZE || (name[0] >= '0' && name[0] <= '9'))
        return false;
    for (size_t i = 0; i < size; i++) {
        char c = name[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '_'))
            return false;
    }
    return true;
}

int secret_value_check(const void *value, size_t size, struct bg_err *err)
{
    if (size == 0)
        return bg_err_set(err, -EINVAL, "the value is empty");
    if (size > BG_SECRET_SIZE_MAX)
        return bg_err_set(err, -EINVAL, "the value is larger than %d bytes", BG_SECRET_SIZE_MAX);
    if (memchr(value, '\r', size) || memchr(value, '\n', size) || memchr(value, '\0', size))
        return bg_err_set(err, -EINVAL,
                          "the value has a line break or a NUL byte, which no HTTP "
                          "header can carry");
    return 0;
}

/* Lower-case digits only: so are they made, and only the exact placeholder counts. */
static bool is_placeholder(const char *text, size_t size)
{
    if (size < SECRET_PLACEHOLDER_SIZE ||
        memcmp(text, SECRET_PREFIX, sizeof SECRET_PREFIX - 1) != 0)
        return false;
    for (size_t i = sizeof SECRET_PREFIX - 1; i < SECRET_PLACEHOLDER_SIZE; i++)
        if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f')))
            return false;
    return true;
}

static void secret_done(struct secret *secret)
{
    free(secret->name);
    free(secret->hosts);
    locked_free(secret->value, secret->value_size);
    *secret = (struct secret){0};
}

void secrets_done(struct secrets *secrets)
{
    for (size_t i = 0; i < secrets->count; i++)
        secret_done(&secrets->items[i]);
    free(secrets->items);
    *secrets = (struct secrets){0};
}

int secrets_add(struct secrets *secrets, const char *name, const char *placeholder,
                const char *const *hosts, size_t host_count, void *value, size_t value_size,
                struct bg_err *err)
{
    char shown[160];
    if (!secret_name_ok(name))
        return bg_err_set(err, -EINVAL, "secret %s: a name is letters, digits and _",
                          bg_quote(name, shown, sizeof shown));
    if (secrets->count == BG_EGRESS_SECRETS_MAX)
        return bg_err_set(err, -E2BIG, "more than %d secrets", BG_EGRESS_SECRETS_MAX);
    if (strlen(placeholder) != SECRET_PLACEHOLDER_SIZE ||
        !is_placeholder(placeholder, SECRET_PLACEHOLDER_SIZE))
        return bg_err_set(err, -EINVAL, "secret %s: malformed placeholder", name);
    for (size_t i = 0; i < secrets->count; i++)
        if (strcmp(secrets->items[i].name, name) == 0 ||
            strcmp(secrets->items[i].placeholder, placeholder) == 0)
            return bg_err_set(err, -EEXIST, "secret %s: given twice", name);
    if (value && secret_value_check(value, value_size, err) < 0)
        return (void)bg_err_prefix(err, "secret %s", name), -EINVAL;
    struct secret *items = reallocarray(secrets->items, secrets->count + 1, sizeof *items);
    if (!items)
        return bg_err_errno(err, -ENOMEM, "secret %s", name);
    secrets->items = items;
    struct secret s = {.name = strdup(name),
                       .hosts = calloc(host_count ? host_count : 1, sizeof *s.hosts)};
    int r = s.name && s.hosts ? 0 : bg_err_errno(err, -ENOMEM, "secret %s", name);
    memcpy(s.placeholder, placeholder, SECRET_PLACEHOLDER_SIZE);
    for (; r == 0 && s.host_count < host_count; s.host_count++) {
        r = host_pattern_parse(hosts[s.host_count], strlen(hosts[s.host_count]),
                               &s.hosts[s.host_count], err);
        if (r < 0)
            (void)bg_err_prefix(err, "secret %s: host %s", name,
                                bg_quote(hosts[s.host_count], shown, sizeof shown));
    }
    if (r < 0) {
        secret_done(&s);
        return r;
    }
    s.value = value;
    s.value_size = value_size;
    secrets->items[secrets->count++] = s;
    return 0;
}

static bool is_for(const struct secret *secret, const struct destination *to)
{
    for (size_t i = 0; i < secret->host_count; i++) {
        const struct host_pattern *host = &secret->hosts[i];
        if (host_pattern_matches(host, to) && (host->host.port == 0 || host->host.port == to->port))
            return true;
    }
    return false;
}

uint64_t secrets_at(const struct secrets *secrets, const struct destination *to)
{
    uint64_t set = 0;
    for (size_t i = 0; i < secrets->count; i++)
        if (is_for(&secrets->items[i], to))
            set |= UINT64_C(1) << i;
    return set;
}

/* Takes the same time whichever digit differs, so that answers tell nothing about near misses. */
static bool same_placeholder(const char *a, const char *b)
{
    unsigned char diff = 0;
    for (size_t i = 0; i < SECRET_PLACEHOLDER_SIZE; i++)
        diff |= (unsigned char)(a[i] ^ b[i]);
    return diff == 0;
}

/* Puts what stands for the placeholder at text: its secret, or itself. */
static void put_placeholder(const struct secrets_scope *scope, const char *text, struct buffer *out,
                            struct secrets_use *use)
{
    const struct secret *found = NULL;
    for (size_t i = 0; i < scope->secrets->count; i++)
        if (same_placeholder(text, scope->secrets->items[i].placeholder))
            found = &scope->secrets->items[i];
    if (!found) {
        use->unknown++;
        buffer_put(out, text, SECRET_PLACEHOLDER_SIZE);
        return;
    }
    uint64_t bit = UINT64_C(1) << (found - scope->secrets->items);
    if (!scope->verified || !is_for(found, scope->to)) {
        use->not_approved |= bit;
        buffer_put(out, text, SECRET_PLACEHOLDER_SIZE);
    } else if (!found->value) {
        use->valueless |= bit;
        buffer_put(out, text, SECRET_PLACEHOLDER_SIZE);
    } else {
        use->used |= bit;
        buffer_put(out, found->value, found->value_size);
    }
}

static void put_text(const struct secrets_scope *scope, const char *text, size_t size,
                     struct buffer *out, struct secrets_use *use)
{
    while (size > 0) {
        const char *hit = memmem(text, size, SECRET_PREFIX, sizeof SECRET_PREFIX - 1);
        size_t before = hit ? (size_t)(hit - text) : size;
        buffer_put(out, text, before);
        text += before;
        size -= before;
        if (!hit)
            return;
        size_t take = sizeof SECRET_PREFIX - 1;
        if (is_placeholder(text, size)) {
            take = SECRET_PLACEHOLDER_SIZE;
            put_placeholder(scope, text, out, use);
        } else {
            buffer_put(out, text, take);
        }
        text += take;
        size -= take;
    }
}

/* Puts Basic credentials with their placeholders exchanged; false: none in there, nothing put. */
static bool put_basic(const struct secrets_scope *scope, struct slice value, struct buffer *out,
                      struct secrets_use *use)
{
    size_t at = 6;
    if (value.size < at || strncasecmp(value.at, "basic ", at) != 0)
        return false;
    while (at < value.size && value.at[at] == ' ')
        at++;
    size_t text_size = value.size - at;
    BG_AUTOFREE uint8_t *plain = malloc(text_size + 3);
    if (!plain) {
        out->failed = true;
        return true;
    }
    ssize_t plain_size = base64_decode(value.at + at, text_size, plain);
    if (plain_size < 0 ||
        !memmem(plain, (size_t)plain_size, SECRET_PREFIX, sizeof SECRET_PREFIX - 1))
        return false;

    struct secrets_use inside = {0};
    struct buffer joined = buffer_init(2 * BG_SECRET_SIZE_MAX);
    joined.wipe = true;
    put_text(scope, (const char *)plain, (size_t)plain_size, &joined, &inside);
    use->used |= inside.used;
    use->not_approved |= inside.not_approved;
    use->valueless |= inside.valueless;
    use->unknown += inside.unknown;
    if (inside.used == 0) {
        buffer_reset(&joined);
        buffer_put(out, value.at, value.size); /* as it came, but what stood in it is noted */
        return true;
    }
    size_t encoded_size = BASE64_SIZE(buffer_size(&joined));
    char *encoded = buffer_ok(&joined) ? malloc(encoded_size) : NULL;
    if (encoded) {
        base64_encode(buffer_bytes(&joined), buffer_size(&joined), encoded);
        buffer_put(out, value.at, at);
        buffer_put(out, encoded, encoded_size);
        explicit_bzero(encoded, encoded_size);
        free(encoded);
    } else {
        out->failed = true;
    }
    buffer_reset(&joined);
    return true;
}

void secrets_put_field(const struct secrets_scope *scope, const struct http_field *field,
                       struct buffer *out, struct secrets_use *use)
{
    static const char *const never[] = {
        "host", "content-length", "transfer-encoding", "range", "expect", "connection", "upgrade",
    };
    bool eligible = true;
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        eligible &= !slice_is(field->name, never[i]);
    if (!eligible) {
        buffer_put(out, field->value.at, field->value.size);
        return;
    }
    if (slice_is(field->name, "authorization") && put_basic(scope, field->value, out, use))
        return;
    put_text(scope, field->value.at, field->value.size, out, use);
}
