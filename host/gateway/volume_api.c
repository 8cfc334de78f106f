#include "host/gateway/volume_api.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/io.h"
#include "host/gateway/rpc.h"

#define LIMIT_DEFAULT 100
#define LIMIT_MAX     1000
#define REGION_MAX    32
#define NAME_CHARS    "abcdefghijklmnopqrstuvwxyz0123456789-_"

/* ---- targets ---- */

#define PREFIX "/api/v2/"

static const struct {
    const char *method, *before, *after; /* of the name; after NULL: before is all */
    enum volume_verb verb;
    bool snapshots;
} routes[] = {
    {"GET", "volumes", NULL, VOLUME_LIST, false},
    {"POST", "volumes", NULL, VOLUME_CREATE, false},
    {"GET", "volumes/", "", VOLUME_SHOW, false},
    {"DELETE", "volumes/", "", VOLUME_DELETE, false},
    {"POST", "volumes/", "/snapshot", VOLUME_SNAPSHOT, false},
    {"GET", "snapshots", NULL, VOLUME_LIST, true},
    {"GET", "snapshots/", "", VOLUME_SHOW, true},
    {"DELETE", "snapshots/", "", VOLUME_DELETE, true},
};

bool volume_route_pattern(size_t index, struct route_pattern *ret)
{
    if (index >= sizeof routes / sizeof routes[0])
        return false;
    const char *after = routes[index].after;
    const char *name = !after ? "" : routes[index].snapshots ? "{snapshot}" : "{volume}";
    ret->method = routes[index].method;
    (void)snprintf(ret->path, sizeof ret->path, PREFIX "%s%s%s", routes[index].before, name,
                   after ? after : "");
    return true;
}

/* An id or a slug needs no percent-encoding: what has any is none of ours. */
static void take_name(const char *text, size_t size, char name[VOLUME_NAME_SIZE])
{
    (void)snprintf(name, VOLUME_NAME_SIZE, "%.*s", (int)(size < VOLUME_NAME_SIZE ? size : 0), text);
    if (strspn(name, NAME_CHARS) != strlen(name))
        name[0] = '\0';
}

/* The path fits a route but for its method; name: what stands in it. */
static bool fits(size_t i, const char *path, size_t size, char name[VOLUME_NAME_SIZE])
{
    const char *after = routes[i].after;
    size_t head = strlen(routes[i].before), tail = after ? strlen(after) : 0;
    name[0] = '\0';
    if (!after)
        return size == head && memcmp(path, routes[i].before, head) == 0;
    if (size <= head + tail || memcmp(path, routes[i].before, head) != 0 ||
        memcmp(path + size - tail, after, tail) != 0 ||
        memchr(path + head, '/', size - head - tail))
        return false;
    take_name(path + head, size - head - tail, name);
    return true;
}

enum volume_match volume_target_find(const char *method, const char *target,
                                     struct volume_target *ret)
{
    enum volume_match match = VOLUME_OTHER;
    size_t size = strcspn(target, "?#");
    if (size < sizeof PREFIX - 1 || memcmp(target, PREFIX, sizeof PREFIX - 1) != 0)
        return VOLUME_OTHER;
    const char *path = target + sizeof PREFIX - 1;
    size -= sizeof PREFIX - 1;
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        struct volume_target t = {.verb = routes[i].verb, .snapshots = routes[i].snapshots};
        if (!fits(i, path, size, t.name))
            continue;
        bool right = strcmp(routes[i].method, method) == 0;
        match = right ? VOLUME_MATCH : VOLUME_WRONG_METHOD;
        *ret = t;
        if (right)
            break;
    }
    return match;
}

/* ---- lists ---- */

/* What stands behind NAME= in a query, percent-decoded; false: it is not there, or is too long or
 * malformed, and then *ret_ok is false. */
static bool query_text(const char *query, const char *name, char *out, size_t out_size,
                       bool *ret_ok)
{
    size_t name_size = strlen(name), used = 0;
    for (const char *at = query; at; at = strchr(at, '&')) {
        at += *at == '&';
        if (strncmp(at, name, name_size) != 0 || at[name_size] != '=')
            continue;
        for (at += name_size + 1; *at && *at != '&'; at++) {
            char c = *at == '+' ? ' ' : *at;
            if (c == '%') {
                int high = bg_hex_digit(at[1]), low = high < 0 ? -1 : bg_hex_digit(at[2]);
                c = low < 0 ? '\0' : (char)(high << 4 | low);
                at += low < 0 ? 0 : 2;
            }
            if (c == '\0' || used + 1 >= out_size)
                return *ret_ok = false;
            out[used++] = c;
        }
        out[used] = '\0';
        return true;
    }
    return false;
}

static bool is_cursor_id(const char *id)
{
    return bg_volume_id_ok(id, /* snapshot= */ false) || bg_volume_id_ok(id, /* snapshot= */ true);
}

static bool parse_cursor(const char *text, struct volume_query *q)
{
    char digits[24];
    const char *dot = strchr(text, '.');
    size_t size = dot ? (size_t)(dot - text) : sizeof digits;
    if (size >= sizeof digits || !is_cursor_id(dot + 1))
        return false;
    memcpy(digits, text, size);
    digits[size] = '\0';
    memcpy(q->after_id, dot + 1, sizeof q->after_id);
    return bg_parse_u64(digits, 0, INT64_MAX, &q->after_ms) == 0;
}

int volume_query_parse(const char *target, struct volume_query *ret, struct bg_err *err)
{
    struct volume_query q = {.limit = LIMIT_DEFAULT};
    const char *query = strchr(target, '?');
    char text[VOLUME_CURSOR_SIZE];
    bool ok = true;
    uint64_t limit;
    query = query ? query + 1 : "";
    if (query_text(query, "limit", text, sizeof text, &ok)) {
        if (bg_parse_u64(text, 1, LIMIT_MAX, &limit) < 0)
            return bg_err_set(err, -EINVAL, "limit: want a number from 1 to %d", LIMIT_MAX);
        q.limit = (size_t)limit;
    }
    if (query_text(query, "cursor", text, sizeof text, &ok) && !parse_cursor(text, &q))
        return bg_err_set(err, -EINVAL, "cursor: want one that a list gave");
    (void)query_text(query, "search", q.search, sizeof q.search, &ok); /* "": any */
    if (!ok)
        return bg_err_set(err, -EINVAL, "the query cannot be read");
    *ret = q;
    return 0;
}

static bool is_after(const struct bg_volume *v, const struct volume_query *q)
{
    return !q->after_id[0] || v->created_ms > q->after_ms ||
           (v->created_ms == q->after_ms && strcmp(v->id, q->after_id) > 0);
}

json_t *volume_page(const struct bg_volume *all, size_t count, bool snapshots,
                    const struct volume_query *query,
                    void (*sizes)(const struct bg_volume *volume, uint64_t *own, uint64_t *whole),
                    char cursor[VOLUME_CURSOR_SIZE])
{
    json_auto_t *page = json_array();
    const struct bg_volume *last = NULL;
    cursor[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        const struct bg_volume *v = &all[i];
        uint64_t own, whole;
        if (v->snapshot != snapshots || !strstr(v->slug, query->search) || !is_after(v, query))
            continue;
        if (json_array_size(page) == query->limit) {
            (void)snprintf(cursor, VOLUME_CURSOR_SIZE, "%" PRIu64 ".%s", last->created_ms,
                           last->id);
            break;
        }
        sizes(v, &own, &whole);
        if (json_array_append_new(page, volume_describe(v, own, whole)) < 0)
            return NULL;
        last = v;
    }
    return json_incref(page);
}

json_t *volume_describe(const struct bg_volume *v, uint64_t own_bytes, uint64_t all_bytes)
{
    json_t *source = v->source.id[0]
                         ? json_pack("{s:s, s:s}", "id", v->source.id, "slug", v->source.slug)
                         : json_null();
    if (v->snapshot)
        return json_pack("{s:s, s:s, s:s, s:I, s:I, s:b, s:o}", "id", v->id, "slug", v->slug,
                         "region", v->region, "allocated_size", (json_int_t)own_bytes,
                         "flattened_size", (json_int_t)all_bytes, "is_bootable",
                         v->image_digest != NULL, "volume", source);
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:o}", "id", v->id, "slug", v->slug,
                     "region", v->region, "capacity", (json_int_t)v->capacity,
                     "estimated_allocated_size", (json_int_t)own_bytes, "estimated_flattened_size",
                     (json_int_t)all_bytes, "is_bootable", v->image_digest != NULL, "base_snapshot",
                     source);
}

/* ---- bodies ---- */

static int check_slug(const char *slug, struct bg_err *err)
{
    return bg_volume_slug_ok(slug)
               ? 0
               : bg_err_set(err, -EINVAL,
                            "slug: want 2 to %d of a-z, 0-9 and '-', without '-' at its ends or "
                            "'--' in third place",
                            BG_VOLUME_SLUG_MAX);
}

static int read_capacity(const json_t *value, uint64_t *ret, struct bg_err *err)
{
    char text[32];
    double number = json_is_real(value) ? json_real_value(value) : -1;
    if (json_is_string(value))
        return bg_volume_parse_capacity(json_string_value(value), ret, err);
    /* A client may say 1e10. */
    if (number >= 1 && number <= (double)BG_VOLUME_BYTES_MAX)
        (void)snprintf(text, sizeof text, "%" PRIu64, (uint64_t)number);
    else
        (void)snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
    return bg_volume_parse_capacity(text, ret, err);
}

int volume_request_create(const json_t *body, struct volume_request *ret, struct bg_err *err)
{
    struct rpc_params p = rpc_params(body);
    struct volume_request q = {.slug = rpc_text(&p, "slug"),
                               .region = rpc_text(&p, "region"),
                               .from = rpc_text_or_null(&p, "from")};
    const json_t *capacity = json_object_get(body, "capacity");
    if (!rpc_params_ok(&p))
        return bg_err_set(err, -EINVAL, "%s", p.problem);
    int r = check_slug(q.slug, err);
    size_t size = strlen(q.region);
    if (r == 0 && (size < 1 || size > REGION_MAX || strspn(q.region, NAME_CHARS) != size))
        r = bg_err_set(err, -EINVAL, "region: want one's name, such as ord");
    if (r == 0 && q.from && strlen(q.from) >= VOLUME_NAME_SIZE)
        r = bg_err_set(err, -EINVAL, "from: want a snapshot's id or slug, or " VOLUME_IMAGE);
    if (r == 0)
        r = read_capacity(capacity, &q.capacity, err);
    if (r == 0)
        *ret = q;
    return r;
}

int volume_request_snapshot(const json_t *body, struct volume_request *ret, struct bg_err *err)
{
    struct rpc_params p = rpc_params(body);
    struct volume_request q = {.slug = rpc_text(&p, "slug")};
    if (!rpc_params_ok(&p))
        return bg_err_set(err, -EINVAL, "%s", p.problem);
    int r = check_slug(q.slug, err);
    if (r == 0)
        *ret = q;
    return r;
}
