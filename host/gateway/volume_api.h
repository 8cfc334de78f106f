/* volume_api: volumes and their snapshots as the REST routes have them (docs/deno-protocol.md,
 * "Volumes"): targets, bodies, answers. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"
#include "common/state/volume.h"
#include "host/gateway/route_pattern.h"

#define VOLUME_NAME_SIZE   64 /* of an id or a slug, with room for those that are none */
#define VOLUME_CURSOR_SIZE 64
#define VOLUME_IMAGE       "builtin:debian-13" /* what `from` may be: the gateway's own image */

enum volume_verb { VOLUME_LIST, VOLUME_CREATE, VOLUME_SHOW, VOLUME_DELETE, VOLUME_SNAPSHOT };

struct volume_target {
    enum volume_verb verb;
    bool snapshots;              /* the list of snapshots, or one of them */
    char name[VOLUME_NAME_SIZE]; /* of one: an id or a slug; "": what can be neither */
};

enum volume_match { VOLUME_OTHER, VOLUME_WRONG_METHOD, VOLUME_MATCH };

/* Looks whether a request is one of these. */
enum volume_match volume_target_find(const char *method, const char *target,
                                     struct volume_target *ret);

/* The routes, as route_pattern (route.h) tells of its own. */
bool volume_route_pattern(size_t index, struct route_pattern *ret);

/* What a list is asked for. */
struct volume_query {
    size_t limit;
    char search[VOLUME_NAME_SIZE]; /* part of a slug; "": any */
    char after_id[BG_VOLUME_ID_SIZE];
    uint64_t after_ms; /* with after_id: the last one of the page before; "": from the first */
};

/* Errors: -EINVAL with what is wrong. */
int volume_query_parse(const char *target, struct volume_query *ret,
                       struct bg_err *err) BG_MUST_CHECK;

/* A page of these, which are the oldest first: those of the kind. cursor: what the next page's
 * query is to have, "" if this is the last one. NULL: out of memory. sizes: what is asked for each
 * that is on it. */
json_t *volume_page(const struct bg_volume *all, size_t count, bool snapshots,
                    const struct volume_query *query,
                    void (*sizes)(const struct bg_volume *volume, uint64_t *own, uint64_t *whole),
                    char cursor[VOLUME_CURSOR_SIZE]);

/* One as the API tells of it. NULL: out of memory. */
json_t *volume_describe(const struct bg_volume *volume, uint64_t own_bytes, uint64_t all_bytes);

/* What a volume or a snapshot is to be. Texts are borrowed from the body. */
struct volume_request {
    const char *slug, *region, *from; /* from NULL: empty */
    uint64_t capacity;
};

/* body: NULL if it was no JSON. Errors: -EINVAL with what is wrong. */
int volume_request_create(const json_t *body, struct volume_request *ret,
                          struct bg_err *err) BG_MUST_CHECK;
int volume_request_snapshot(const json_t *body, struct volume_request *ret,
                            struct bg_err *err) BG_MUST_CHECK;
