/* Whom a request is for. All that names a destination (the connection's own, the request target,
 * Host) must name the same one; a request that disagrees with itself is refused. Pure. */
#pragma once

#include "net/destination.h"
#include "net/http_head.h"

struct http_route_opts {
    const struct destination *fixed; /* whom the connection is for; NULL: a plain forward proxy's
                                        connection, where each request says */
    bool tls;                        /* the request came through TLS that was opened for *fixed */
};

struct http_route {
    struct destination destination;
    struct slice path; /* origin form, to be sent upstream: "/..." or "*"; borrowed */
    bool is_connect;   /* only without a fixed destination; path is empty */
};

/* On failure *ret_status is 400 or 421. Errors: -EPROTO. */
int http_route(const struct http_head *head, const struct http_route_opts *opts,
               struct http_route *ret, int *ret_status, struct bg_err *err) BG_MUST_CHECK;
