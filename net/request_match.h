/* Conditions on a request: its method and its path. Pure.
 *
 * A path pattern begins with '/'; '*' stands for any bytes but '/', '**' for any. It is compared
 * with the request's path as servers see it: without the query, percent-encoded letters, digits,
 * '-', '.',
 * '_' and '~' decoded (RFC 3986, 6.2.2.2), other escapes in capitals. */
#pragma once

#include "net/buffer.h"
#include "net/http_head.h"

#define REQUEST_PATTERN_MAX 512
#define REQUEST_LIST_MAX    64

struct request_match {
    char **methods; /* owned; none: any */
    size_t method_count;
    char **paths; /* owned; none: any */
    size_t path_count;
};

void request_match_done(struct request_match *match);

/* A copy. Errors: -ENOMEM. */
int request_match_copy(const struct request_match *match, struct request_match *ret) BG_MUST_CHECK;

/* Errors: -EINVAL no method (capital letters), no pattern; -E2BIG; -ENOMEM. */
int request_match_add_method(struct request_match *match, const char *method,
                             struct bg_err *err) BG_MUST_CHECK;
int request_match_add_path(struct request_match *match, const char *pattern,
                           struct bg_err *err) BG_MUST_CHECK;

static inline bool request_match_is_any(const struct request_match *match)
{
    return match->method_count == 0 && match->path_count == 0;
}

/* path: normalized; not looked at if no path is asked for. */
bool request_match_covers(const struct request_match *match, struct slice method,
                          const struct buffer *path);

/* Puts the path of a request's target to out, in the form that patterns are compared with. Errors:
 * -EINVAL servers could read it in more than one way: dot segments, empty ones, ';', '\', an
 * encoded
 * '/', '\' or NUL, a '%' without digits, more than 8 KiB; -ENOMEM. */
int request_path_normalize(struct slice target, struct buffer *out) BG_MUST_CHECK;
