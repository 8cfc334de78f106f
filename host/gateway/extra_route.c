#include "host/gateway/extra_route.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/io.h"
#include "common/state/sandbox.h"
#include "common/state/snapshot.h"

enum name_of { OF_NOTHING, OF_SANDBOX, OF_SNAPSHOT };

static const struct {
    const char *method, *before, *after; /* of the name; without one before is all of it */
    enum name_of name;
    enum extra_kind kind;
} routes[] = {
    {"POST", "session", "", OF_NOTHING, EXTRA_LOGIN},
    {"DELETE", "session", "", OF_NOTHING, EXTRA_LOGOUT},
    {"GET", "session", "", OF_NOTHING, EXTRA_SESSION},
    {"GET", "overview", "", OF_NOTHING, EXTRA_OVERVIEW},
    {"GET", "sandboxes/", "/connect", OF_SANDBOX, EXTRA_CONNECT},
    {"DELETE", "sandboxes/", "", OF_SANDBOX, EXTRA_REMOVE},
    {"POST", "sandboxes/", "/start", OF_SANDBOX, EXTRA_START},
    {"POST", "sandboxes/", "/resume", OF_SANDBOX, EXTRA_START},
    {"POST", "sandboxes/", "/stop", OF_SANDBOX, EXTRA_STOP},
    {"POST", "sandboxes/", "/suspend", OF_SANDBOX, EXTRA_SUSPEND},
    {"POST", "sandboxes/", "/snapshot", OF_SANDBOX, EXTRA_SNAPSHOT},
    {"POST", "sandboxes/", "/fork", OF_SANDBOX, EXTRA_FORK},
    {"POST", "sandboxes/", "/restore", OF_SANDBOX, EXTRA_RESTORE},
    {"GET", "sandboxes/", "/policy", OF_SANDBOX, EXTRA_POLICY},
    {"PUT", "sandboxes/", "/policy", OF_SANDBOX, EXTRA_SET_POLICY},
    {"POST", "sandboxes/", "/rules", OF_SANDBOX, EXTRA_RULE},
    {"GET", "sandboxes/", "/audit", OF_SANDBOX, EXTRA_AUDIT},
    {"POST", "snapshots/", "/fork", OF_SNAPSHOT, EXTRA_FORK},
    {"DELETE", "snapshots/", "", OF_SNAPSHOT, EXTRA_REMOVE_SNAPSHOT},
};

bool extra_route_pattern(size_t index, struct route_pattern *ret)
{
    static const char *const names[] = {"", "{name}", "{snapshot}"};
    if (index >= sizeof routes / sizeof routes[0])
        return false;
    ret->method = routes[index].method;
    (void)snprintf(ret->path, sizeof ret->path, EXTRA_PREFIX "%s%s%s", routes[index].before,
                   names[routes[index].name], routes[index].after);
    return true;
}

bool extra_route_is(const char *target)
{
    return strncmp(target, EXTRA_PREFIX, sizeof EXTRA_PREFIX - 1) == 0;
}

/* Undoes percent-encoding. False: it is none, or too long, or has a NUL. */
static bool decode(const char *text, size_t size, char *out, size_t out_size)
{
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (c == '%') {
            int high = size - i > 2 ? bg_hex_digit(text[i + 1]) : -1;
            int low = high < 0 ? -1 : bg_hex_digit(text[i + 2]);
            if (low < 0)
                return false;
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (c == '\0' || used + 1 >= out_size)
            return false;
        out[used++] = c;
    }
    out[used] = '\0';
    return true;
}

static bool name_ok(enum name_of of, const char *name)
{
    char own[BG_SANDBOX_NAME_MAX + 1], tag[BG_SANDBOX_NAME_MAX + 2];
    return of == OF_SANDBOX ? bg_sandbox_name_ok(name) : bg_snapshot_split(name, own, tag);
}

/* The path fits a route but for its method. */
static bool fits(size_t i, const char *path, size_t size, struct extra_route *found,
                 bool *name_good)
{
    size_t before = strlen(routes[i].before), after = strlen(routes[i].after);
    *name_good = true;
    if (routes[i].name == OF_NOTHING)
        return size == before && memcmp(path, routes[i].before, size) == 0;
    if (size <= before + after || memcmp(path, routes[i].before, before) != 0 ||
        memcmp(path + size - after, routes[i].after, after) != 0 ||
        memchr(path + before, '/', size - before - after))
        return false;
    *name_good = decode(path + before, size - before - after, found->name, sizeof found->name) &&
                 name_ok(routes[i].name, found->name);
    return true;
}

static void read_after(const char *target, char after[EXTRA_AFTER_SIZE])
{
    static const char key[] = "after=";
    const char *at = strchr(target, '?');
    while (at) {
        at++;
        size_t size = strcspn(at, "&#");
        if (size >= sizeof key - 1 && memcmp(at, key, sizeof key - 1) == 0 &&
            decode(at + sizeof key - 1, size - (sizeof key - 1), after, EXTRA_AFTER_SIZE))
            return;
        after[0] = '\0';
        at = at[size] == '&' ? at + size : NULL;
    }
}

struct extra_route extra_route_find(const char *method, const char *target)
{
    struct extra_route found = {.kind = EXTRA_NONE};
    if (!extra_route_is(target))
        return found;
    const char *path = target + sizeof EXTRA_PREFIX - 1;
    size_t size = strcspn(path, "?#");
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        bool good;
        if (!fits(i, path, size, &found, &good))
            continue;
        if (strcmp(routes[i].method, method) == 0) {
            found.kind = good ? routes[i].kind : EXTRA_BAD_NAME;
            read_after(target, found.after);
            break;
        }
        found.kind = EXTRA_OTHER_METHOD;
    }
    if (found.kind == EXTRA_NONE || found.kind == EXTRA_OTHER_METHOD ||
        found.kind == EXTRA_BAD_NAME)
        found.name[0] = '\0';
    return found;
}
