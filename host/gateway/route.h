/* route: what a request is about, by method and target. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "common/err.h"
#include "host/gateway/route_pattern.h"
#include "host/gateway/volume_api.h"

enum route_kind {
    ROUTE_NONE,         /* no such route: 404 */
    ROUTE_OTHER_METHOD, /* 405 */
    ROUTE_HOSTED,       /* only where the SDK's makers host it: 501 */
    ROUTE_HEALTH,
    ROUTE_OPENAPI,
    ROUTE_METRICS,
    ROUTE_CREATE,
    ROUTE_CONNECT,
    ROUTE_DELETE,
    ROUTE_EXTEND,
    ROUTE_EXPOSE_HTTP,
    ROUTE_EXPOSE_SSH,
    ROUTE_EXPOSE_OTHER, /* vscode: 501 */
    ROUTE_LIST,
    ROUTE_SHOW,
    ROUTE_VOLUMES, /* and their snapshots: what exactly is in `volumes` */
};

#define ROUTE_ID_SIZE 29 /* "sbx_", "ord", "_", 20 characters and a NUL */

struct route {
    enum route_kind kind;
    char id[ROUTE_ID_SIZE]; /* of the kinds that have one, well-formed */
    struct volume_target volumes;
};

/* target: origin form, as it came. */
struct route route_find(const char *method, const char *target);

/* The routes that there are, one after the other: false behind the last. Without those of volumes
 * (volume_api.h). */
bool route_pattern(size_t index, struct route_pattern *ret);

/* "sbx_REGION_" and 20 characters, as the SDK checks it. */
bool route_id_ok(const char *id);

/* The labels[KEY]=VALUE of a target's query: an object of texts, the caller's. Other keys are
 * passed over. Errors: -EINVAL it is not percent-encoded UTF-8; -ENOMEM. */
int route_labels(const char *target, json_t **ret) BG_MUST_CHECK;

enum route_host {
    ROUTE_HOST_WRONG,   /* a name that somebody made lead here (DNS rebinding) */
    ROUTE_HOST_GATEWAY, /* the gateway itself */
    ROUTE_HOST_SANDBOX, /* a sandbox's exposed port: ID and a dot before a name of the gateway */
};

/* What a Host field names. Names of the gateway are loopback's and `names` (NULL-terminated, may be
 * NULL). id: the sandbox's. */
enum route_host route_host(const char *host, const char *const *names, char id[ROUTE_ID_SIZE]);

/* An Origin field fits a Host field: both are one host and port. */
bool route_origin_ok(const char *origin, const char *host);
