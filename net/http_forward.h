/* Writes heads anew for the other side. Hop-by-hop fields end here; framing and Host are ours;
 * placeholders become secrets on the way out. Pure. */
#pragma once

#include "net/http_head.h"
#include "net/http_route.h"
#include "net/scrub.h"

/* How the body's bytes are wrapped on the way on. */
enum http_wrap {
    HTTP_WRAP_PLAIN,   /* as counted by Content-Length, none, or until the connection ends */
    HTTP_WRAP_CHUNKED, /* http_forward_chunk, http_forward_last_chunk */
};

struct http_forward_request_opts {
    uint16_t port_default; /* of the scheme */
    bool to_scrub; /* what comes back must be whole, without a content coding or an extension */
    /* Of a body that was read before (net/body.h); the others go on as they come. */
    bool body_read, body_decoded, body_changed;
    size_t body_size; /* as it will be sent */
};

/* Puts the request's head for route->destination, HTTP/1.1. Fails by failing out. */
void http_forward_request(const struct http_head *head, const struct http_route *route,
                          const struct http_forward_request_opts *opts,
                          const struct secrets_scope *scope, struct buffer *out,
                          struct secrets_use *use);

struct http_forward_response_opts {
    bool to_http10;      /* the guest speaks HTTP/1.0: no chunks */
    bool keep_alive;     /* the guest's connection goes on afterwards, if that can be */
    bool switching;      /* a 101 that the guest asked for */
    bool decoded;        /* the body's content codings are taken off */
    struct scrub *scrub; /* for the fields; the body will be of another length then. NULL: none */
};

/* Puts the response's head. *ret_keep_alive: whether the head says that the connection goes on. */
void http_forward_response(const struct http_head *head,
                           const struct http_forward_response_opts *opts, struct buffer *out,
                           enum http_wrap *ret_wrap, bool *ret_keep_alive);

void http_forward_chunk(const uint8_t *bytes, size_t size, struct buffer *out);
void http_forward_last_chunk(struct buffer *out);

/* The last chunk, with fields after it. scrub: as for a response's head. */
void http_forward_trailers(const struct http_head *trailers, struct scrub *scrub,
                           struct buffer *out);

/* Whether the request says that its sender takes trailers (RFC 9110, 10.1.4). */
bool http_takes_trailers(const struct http_head *head);

/* Puts an answer of our own: text/plain, one line. */
void http_forward_answer(int status, const char *text, bool keep_alive, bool no_body,
                         struct buffer *out);

/* "403 Forbidden" for the statuses that we send. */
const char *http_status_text(int status);
