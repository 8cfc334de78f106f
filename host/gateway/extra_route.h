/* extra_route: what a request is about that goes beyond the SDK's protocol (docs/dashboard.md,
 * "Routes"). Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "host/gateway/route_pattern.h"

#define EXTRA_PREFIX "/api/bellglass/"

enum extra_kind {
    EXTRA_NONE,         /* no such route: 404 */
    EXTRA_OTHER_METHOD, /* 405 */
    EXTRA_BAD_NAME,     /* a name that no sandbox or snapshot can have: 404 */
    EXTRA_LOGIN,
    EXTRA_LOGOUT,
    EXTRA_SESSION,
    EXTRA_OVERVIEW,
    EXTRA_CONNECT,
    EXTRA_REMOVE,
    EXTRA_START,
    EXTRA_STOP,
    EXTRA_SUSPEND,
    EXTRA_SNAPSHOT,
    EXTRA_FORK,
    EXTRA_RESTORE,
    EXTRA_POLICY,
    EXTRA_SET_POLICY,
    EXTRA_RULE,
    EXTRA_AUDIT,
    EXTRA_REMOVE_SNAPSHOT,
};

#define EXTRA_NAME_SIZE  128 /* "NAME@TAG" and a NUL */
#define EXTRA_AFTER_SIZE 64

struct extra_route {
    enum extra_kind kind;
    char name[EXTRA_NAME_SIZE];   /* of the kinds that have one, a good one */
    char after[EXTRA_AFTER_SIZE]; /* the query's `after`, as it came; "": there is none */
};

/* The target is one of this family, whether or not there is a route. */
bool extra_route_is(const char *target);

/* The routes, as route_pattern (route.h) tells of its own. */
bool extra_route_pattern(size_t index, struct route_pattern *ret);

/* target: origin form, as it came. */
struct extra_route extra_route_find(const char *method, const char *target);
