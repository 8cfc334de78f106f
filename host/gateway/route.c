#include "host/gateway/route.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/io.h"

#define ID_TAIL_CHARS "0123456789abcdefghjkmnpqrstuvwxyz"
#define ID_TAIL_SIZE  20
#define ID_SIZE       (ROUTE_ID_SIZE - 1)

static bool id_ok(const char *id, size_t size)
{
    if (size != ID_SIZE || memcmp(id, "sbx_", 4) != 0 || id[7] != '_')
        return false;
    for (size_t i = 4; i < 7; i++)
        if (id[i] < 'a' || id[i] > 'z')
            return false;
    for (size_t i = 8; i < size; i++)
        if (!memchr(ID_TAIL_CHARS, id[i], sizeof ID_TAIL_CHARS - 1))
            return false;
    return true;
}

bool route_id_ok(const char *id)
{
    return id_ok(id, strlen(id));
}

/* What stands in a path between before and after; false if it does not. */
static bool id_between(const char *path, size_t size, const char *before, const char *after,
                       char id[ROUTE_ID_SIZE])
{
    size_t head = strlen(before), tail = strlen(after);
    if (size != head + ID_SIZE + tail || memcmp(path, before, head) != 0 ||
        memcmp(path + head + ID_SIZE, after, tail) != 0 || !id_ok(path + head, ID_SIZE))
        return false;
    memcpy(id, path + head, ID_SIZE);
    id[ID_SIZE] = '\0';
    return true;
}

static const struct {
    const char *method, *before, *after; /* after NULL: no id, before is all of the path */
    enum route_kind kind;
} routes[] = {
    {"GET", "/health", NULL, ROUTE_HEALTH},
    {"GET", "/openapi.json", NULL, ROUTE_OPENAPI},
    {"GET", "/metrics", NULL, ROUTE_METRICS},
    {"GET", "/api/v3/sandboxes/create", NULL, ROUTE_CREATE},
    {"GET", "/api/v3/sandbox/", "/connect", ROUTE_CONNECT},
    {"DELETE", "/api/v3/sandbox/", "", ROUTE_DELETE},
    {"PATCH", "/api/v3/sandbox/", "", ROUTE_EXTEND},
    {"POST", "/api/v3/sandbox/", "/expose/http", ROUTE_EXPOSE_HTTP},
    {"POST", "/api/v3/sandbox/", "/expose/ssh", ROUTE_EXPOSE_SSH},
    {"POST", "/api/v3/sandbox/", "/expose/vscode", ROUTE_EXPOSE_OTHER},
    {"GET", "/api/v2/sandboxes", NULL, ROUTE_LIST},
    {"GET", "/api/v3/sandboxes", NULL, ROUTE_LIST}, /* the Python library's */
    {"DELETE", "/api/v3/sandboxes/", "", ROUTE_DELETE},
    {"GET", "/api/v2/sandboxes/", "", ROUTE_SHOW},
    {"POST", "/api/v2/sandboxes/", "/deploy", ROUTE_HOSTED},
};

bool route_pattern(size_t index, struct route_pattern *ret)
{
    if (index >= sizeof routes / sizeof routes[0])
        return false;
    ret->method = routes[index].method;
    (void)snprintf(ret->path, sizeof ret->path, "%s%s%s", routes[index].before,
                   routes[index].after ? "{id}" : "",
                   routes[index].after ? routes[index].after : "");
    return true;
}

/* Whole families of the hosted service. */
static const char *const hosted[] = {"apps", "layers", "revisions", "timelines"};

static bool is_hosted(const char *path, size_t size)
{
    static const char api[] = "/api/v2/";
    if (size < sizeof api - 1 || memcmp(path, api, sizeof api - 1) != 0)
        return false;
    const char *rest = path + sizeof api - 1;
    size_t word = strcspn(rest, "/?");
    for (size_t i = 0; i < sizeof hosted / sizeof hosted[0]; i++)
        if (strlen(hosted[i]) == word && memcmp(rest, hosted[i], word) == 0)
            return true;
    return false;
}

struct route route_find(const char *method, const char *target)
{
    struct route found = {.kind = ROUTE_NONE};
    size_t size = strcspn(target, "?#");
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        bool fits =
            routes[i].after
                ? id_between(target, size, routes[i].before, routes[i].after, found.id)
                : strlen(routes[i].before) == size && memcmp(target, routes[i].before, size) == 0;
        if (fits && strcmp(routes[i].method, method) == 0) {
            found.kind = routes[i].kind;
            return found;
        }
        if (fits)
            found.kind = ROUTE_OTHER_METHOD;
    }
    enum volume_match match = volume_target_find(method, target, &found.volumes);
    if (match != VOLUME_OTHER)
        found.kind = match == VOLUME_MATCH ? ROUTE_VOLUMES : ROUTE_OTHER_METHOD;
    if (found.kind == ROUTE_NONE && is_hosted(target, size))
        found.kind = ROUTE_HOSTED;
    return found;
}

/* ---- query ---- */

/* Undoes percent-encoding in place, + included; the new size, or -EINVAL. A NUL is refused. */
static int decode_part(char *text, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        char c = text[i] == '+' ? ' ' : text[i];
        if (c == '%') {
            int high = size - i > 2 ? bg_hex_digit(text[i + 1]) : -1;
            int low = high < 0 ? -1 : bg_hex_digit(text[i + 2]);
            if (high < 0 || low < 0)
                return -EINVAL;
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (c == '\0')
            return -EINVAL;
        text[used++] = c;
    }
    text[used] = '\0';
    return 0;
}

static int add_label(char *pair, json_t *labels)
{
    char *value = strchr(pair, '=');
    if (!value)
        return 0;
    *value++ = '\0';
    if (decode_part(pair, strlen(pair)) < 0 || decode_part(value, strlen(value)) < 0)
        return -EINVAL;
    size_t size = strlen(pair);
    if (strncmp(pair, "labels[", 7) != 0 || pair[size - 1] != ']')
        return 0;
    pair[size - 1] = '\0';
    return json_object_set_new(labels, pair + 7, json_string(value)) < 0 ? -EINVAL : 0;
}

int route_labels(const char *target, json_t **ret)
{
    json_auto_t *labels = json_object();
    const char *query = strchr(target, '?');
    BG_AUTOFREE char *copy = strdup(query ? query + 1 : "");
    if (!labels || !copy)
        return -ENOMEM;
    for (char *rest = copy, *pair; (pair = strsep(&rest, "&"));) {
        int r = add_label(pair, labels);
        if (r < 0)
            return r;
    }
    *ret = json_incref(labels);
    return 0;
}

/* ---- names ---- */

/* Size of a Host field's name, without the port; 0: it is malformed. */
static size_t name_size(const char *host)
{
    size_t size = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    if (host[0] == '[' && host[size - 1] != ']')
        return 0;
    const char *port = host + size;
    if (*port != '\0' && (*port != ':' || port[1 + strspn(port + 1, "0123456789")] != '\0'))
        return 0;
    return size;
}

static bool equals(const char *text, size_t size, const char *name)
{
    return strlen(name) == size && strncasecmp(text, name, size) == 0;
}

enum route_host route_host(const char *host, const char *const *names, char id[ROUTE_ID_SIZE])
{
    static const char *const own[] = {"localhost", "127.0.0.1", "[::1]", NULL};
    const char *const *lists[] = {own, names};
    size_t size = name_size(host);
    bool sandbox = size > ID_SIZE && host[ID_SIZE] == '.' && id_ok(host, ID_SIZE);
    const char *name = sandbox ? host + ID_SIZE + 1 : host;
    size -= (size_t)(name - host);
    for (size_t i = 0; i < 2 && size > 0; i++)
        for (const char *const *known = lists[i]; known && *known; known++) {
            if (!equals(name, size, *known))
                continue;
            if (!sandbox)
                return ROUTE_HOST_GATEWAY;
            memcpy(id, host, ID_SIZE);
            id[ID_SIZE] = '\0';
            return ROUTE_HOST_SANDBOX;
        }
    return ROUTE_HOST_WRONG;
}

bool route_origin_ok(const char *origin, const char *host)
{
    const char *rest = strncmp(origin, "http://", 7) == 0    ? origin + 7
                       : strncmp(origin, "https://", 8) == 0 ? origin + 8
                                                             : NULL;
    return rest && strcasecmp(rest, host) == 0;
}
