#include "net/learn.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <jansson.h>

#include "net/request_match.h"
#include "net/secrets.h"

#define PATHS_AS_THEY_ARE 8  /* so many paths are listed one by one */
#define GROUPS_MAX        16 /* more groups than that are no rule */

static const char *text_of(const json_t *line, const char *key)
{
    const char *text = json_string_value(json_object_get(line, key));
    return text ? text : "";
}

void learn_done(struct learn *learn)
{
    for (size_t i = 0; i < learn->count; i++) {
        struct learn_host *h = &learn->hosts[i];
        for (size_t k = 0; k < LEARN_NAMES_MAX; k++) {
            free(h->methods[k]);
            free(h->placeholders[k]);
        }
        for (size_t k = 0; k < h->path_count; k++)
            free(h->paths[k].text);
        free(h->paths);
    }
    free(learn->hosts);
    *learn = (struct learn){0};
}

/* ---- lines ---- */

/* Refusals that a rule would lift. Those of a deny rule, of certificates, of damaged requests, are
 * not for a policy to change. */
static bool is_about_rules(const json_t *line)
{
    static const char *const reasons[] = {"host-not-allowed", "request-not-allowed",
                                          "protocol-not-allowed"};
    if (strcmp(text_of(line, "decision"), "allow") == 0)
        return true;
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (strcmp(text_of(line, "reason"), reasons[i]) == 0)
            return true;
    return false;
}

static int add_name(char *names[LEARN_NAMES_MAX], const char *name)
{
    for (size_t i = 0; i < LEARN_NAMES_MAX; i++) {
        if (!names[i]) {
            names[i] = strdup(name);
            return names[i] ? 0 : -ENOMEM;
        }
        if (strcmp(names[i], name) == 0)
            return 0;
    }
    return 0;
}

static int find_host(struct learn *learn, const struct destination *to, struct learn_host **ret)
{
    *ret = NULL;
    for (size_t i = 0; i < learn->count; i++)
        if (destination_same_host(&learn->hosts[i].to, to) && learn->hosts[i].to.port == to->port)
            *ret = &learn->hosts[i];
    if (*ret || learn->count == LEARN_HOSTS_MAX)
        return 0;
    struct learn_host *hosts = reallocarray(learn->hosts, learn->count + 1, sizeof *hosts);
    if (!hosts)
        return -ENOMEM;
    learn->hosts = hosts;
    hosts[learn->count] = (struct learn_host){.to = *to};
    *ret = &hosts[learn->count++];
    return 0;
}

static int add_path(struct learn_host *host, const char *text)
{
    if (host->any_path)
        return 0;
    for (size_t i = 0; i < host->path_count; i++)
        if (strcmp(host->paths[i].text, text) == 0) {
            host->paths[i].count++;
            return 0;
        }
    if (host->path_count == LEARN_PATHS_MAX) {
        host->any_path = true;
        return 0;
    }
    struct learn_path *paths = reallocarray(host->paths, host->path_count + 1, sizeof *paths);
    if (!paths)
        return -ENOMEM;
    host->paths = paths;
    paths[host->path_count] = (struct learn_path){.text = strdup(text), .count = 1};
    if (!paths[host->path_count].text)
        return -ENOMEM;
    host->path_count++;
    return 0;
}

/* A path that can be a pattern as it is. */
static bool is_pattern(const char *path)
{
    struct request_match match = {0};
    bool ok = !strchr(path, '*') && request_match_add_path(&match, path, NULL) == 0;
    request_match_done(&match);
    return ok;
}

static int take_request(struct learn_host *host, const json_t *line)
{
    const char *method = text_of(line, "method"), *target = text_of(line, "path");
    struct request_match match = {0};
    struct buffer path = buffer_init(1 << 16);
    bool good = request_match_add_method(&match, method, NULL) == 0;
    request_match_done(&match);
    int r = good ? add_name(host->methods, method) : 0;
    if (request_path_normalize((struct slice){target, strlen(target)}, &path) == 0) {
        buffer_put(&path, "", 1);
        if (!buffer_ok(&path))
            r = -ENOMEM;
        else if (r == 0 && is_pattern((const char *)buffer_bytes(&path)))
            r = add_path(host, (const char *)buffer_bytes(&path));
        else
            host->any_path = true;
    } else {
        host->unclear++;
    }
    buffer_reset(&path);
    return r;
}

static int take(struct learn *learn, const json_t *line)
{
    const char *name = text_of(line, "host");
    json_int_t port = json_integer_value(json_object_get(line, "port"));
    struct destination to;
    struct learn_host *host;
    if (!is_about_rules(line) || port < 1 || port > 65535 ||
        destination_parse_host(name, strlen(name), &to, NULL) < 0)
        return 0;
    to.port = (uint16_t)port;
    learn->lines++;
    if (to.is_address && address_classify(&to.address) != ADDRESS_PUBLIC) {
        learn->never++;
        return 0;
    }
    int r = find_host(learn, &to, &host);
    if (r < 0)
        return r;
    if (!host) {
        learn->further++;
        return 0;
    }
    if (strcmp(text_of(line, "decision"), "allow") == 0)
        host->allowed++;
    else
        host->refused++;
    const json_t *names = json_object_get(line, "placeholders_not_approved");
    for (size_t i = 0; r == 0 && i < json_array_size(names); i++)
        if (json_is_string(json_array_get(names, i)) &&
            secret_name_ok(json_string_value(json_array_get(names, i))))
            r = add_name(host->placeholders, json_string_value(json_array_get(names, i)));
    if (r == 0 && json_is_string(json_object_get(line, "method")))
        return take_request(host, line);
    host->tcp = true;
    return r;
}

int learn_line(struct learn *learn, const char *line, size_t size)
{
    json_auto_t *json = json_loadb(line, size, JSON_REJECT_DUPLICATES, NULL);
    return json_is_object(json) ? take(learn, json) : 0;
}

/* ---- the file ---- */

/* The size of the path's first so many segments, with the '/' before and not the one behind; 0: it
 * has no more than that. */
static size_t head_of(const char *path, unsigned segments)
{
    const char *end = path;
    for (unsigned i = 0; i < segments && end; i++)
        end = strchr(end + 1, '/');
    return end && end[1] ? (size_t)(end - path) : 0;
}

/* Inside of YAML's single quotes only they themselves mean something else. */
static void put_quoted(struct buffer *out, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        buffer_put(out, &text[i], 1);
        if (text[i] == '\'')
            buffer_put_text(out, "'");
    }
}

/* Writes the patterns that cover all paths, those with the same first segments as one; at most
 * GROUPS_MAX. Returns false if there would be more. */
static bool put_groups(const struct learn_host *host, unsigned segments, struct buffer *out)
{
    size_t groups = 0;
    for (size_t i = 0; i < host->path_count; i++) {
        const char *path = host->paths[i].text;
        size_t head = segments ? head_of(path, segments) : 0;
        bool seen = false;
        for (size_t k = 0; k < i && head > 0; k++)
            seen |= head_of(host->paths[k].text, segments) == head &&
                    memcmp(host->paths[k].text, path, head) == 0;
        if (seen)
            continue;
        if (++groups > GROUPS_MAX)
            return false;
        buffer_put_text(out, groups == 1 ? "'" : ", '");
        put_quoted(out, path, head > 0 ? head : strlen(path));
        buffer_put_text(out, head > 0 ? "/**'" : "'");
    }
    return true;
}

static void put_paths(const struct learn_host *host, const char *indent, struct buffer *out)
{
    if (host->path_count == 0 || host->any_path)
        return;
    for (unsigned segments = host->path_count <= PATHS_AS_THEY_ARE ? 0 : 3;
         segments<4; segments = segments> 1 ? segments - 1 : 4) {
        struct buffer list = buffer_init(1 << 20);
        bool fits = put_groups(host, segments, &list) && buffer_ok(&list);
        if (fits) {
            buffer_put_text(out, indent);
            buffer_put_text(out, "  paths: [");
            buffer_put(out, buffer_bytes(&list), buffer_size(&list));
            buffer_put_text(out, "]\n");
        }
        buffer_reset(&list);
        if (fits || segments == 0)
            return;
    }
}

static void put_host(const struct learn_host *host, struct buffer *out)
{
    char text[DESTINATION_TEXT_SIZE];
    uint64_t count = host->allowed + host->refused;
    /* What was refused and asked for once may be a slip, or bait. */
    const char *indent = host->allowed == 0 && count == 1 ? "    # " : "    ";
    uint16_t port = host->to.port;
    destination_format(&host->to, port == 80 || port == 443 ? port : 0, text);
    buffer_printf(out, "    # %" PRIu64 " request%s, %" PRIu64 " refused%s\n", count,
                  count == 1 ? "" : "s", host->refused,
                  indent[4] ? "; asked for only once, so look before you allow it" : "");
    for (size_t i = 0; i < LEARN_NAMES_MAX && host->placeholders[i]; i++)
        buffer_printf(out,
                      "    # the placeholder of %s was in one, and has no rule for that place\n",
                      host->placeholders[i]);
    if (host->unclear > 0)
        buffer_printf(out, "    # %" PRIu64 " with a path that has several readings\n",
                      host->unclear);
    buffer_printf(out, "%s- allow: '%s'\n", indent, text);
    if (host->tcp && port != 80 && port != 443) {
        buffer_printf(out, "%s  protocol: tcp\n", indent);
        return;
    }
    if (host->methods[0]) {
        buffer_printf(out, "%s  methods: [", indent);
        for (size_t i = 0; i < LEARN_NAMES_MAX && host->methods[i]; i++)
            buffer_printf(out, "%s%s", i ? ", " : "", host->methods[i]);
        buffer_put_text(out, "]\n");
    }
    put_paths(host, indent, out);
}

static bool comes_before(const struct learn_host *a, const struct learn_host *b)
{
    uint64_t of_a = a->allowed + a->refused, of_b = b->allowed + b->refused;
    return of_a != of_b ? of_a > of_b : strcmp(a->to.host, b->to.host) < 0;
}

void learn_put(const struct learn *learn, const char *sandbox, struct buffer *out)
{
    bool done[LEARN_HOSTS_MAX] = {false};
    buffer_printf(out, "# What %s asked for: %" PRIu64 " requests and connections. Cut it down.\n",
                  sandbox, learn->lines);
    if (learn->never > 0)
        buffer_printf(out,
                      "# %" PRIu64 " to addresses that are not public (local, private, metadata); "
                      "they are left out.\n",
                      learn->never);
    if (learn->further > 0)
        buffer_printf(out, "# %" PRIu64 " to more hosts than the %d that are here.\n",
                      learn->further, LEARN_HOSTS_MAX);
    buffer_put_text(out, learn->count > 0 ? "network:\n  rules:\n" : "network:\n  rules: []\n");
    for (size_t n = 0; n < learn->count; n++) {
        size_t best = learn->count;
        for (size_t i = 0; i < learn->count; i++)
            if (!done[i] &&
                (best == learn->count || comes_before(&learn->hosts[i], &learn->hosts[best])))
                best = i;
        done[best] = true;
        put_host(&learn->hosts[best], out);
    }
}
