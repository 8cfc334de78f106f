/* Field blocks of HTTP/2 made into heads of HTTP/1.1 (RFC 9113, 8.3). What is written here is read
 * by http_head and http_reader before anything is done with it: their rules hold for both versions,
 * and there is one place that decides. Pure. */
#pragma once

#include "common/err.h"
#include "net/buffer.h"
#include "net/http_forward.h"

/* One block, as it comes in. */
struct h2_fields {
    struct buffer method, scheme, authority, path, status; /* pseudo-header fields */
    struct buffer host, cookie;                            /* cookie: its parts joined */
    struct buffer lines;                                   /* all others, ready to be put */
    size_t size;                                           /* as RFC 9113, 10.5.1 counts it */
    unsigned count;
    bool has_length;
};

void h2_fields_init(struct h2_fields *fields);
void h2_fields_done(struct h2_fields *fields); /* and makes ready for the next block */

/* Adds a field. name, value: untrusted. Errors: -E2BIG more than a head may have; -EPROTO a byte or
 * a field that HTTP/1.1 could read as something else. */
int h2_fields_add(struct h2_fields *fields, struct slice name, struct slice value) BG_MUST_CHECK;

/* Puts the head of a request. no_body: the stream ends with it; else *ret_wrap is how its DATA goes
 * on. Errors: -EPROTO. */
int h2_fields_put_request(const struct h2_fields *fields, bool no_body, struct buffer *out,
                          enum http_wrap *ret_wrap) BG_MUST_CHECK;

enum h2_body {
    H2_BODY,
    H2_NO_BODY, /* the stream ends with the block */
    H2_OF_HEAD, /* a response to HEAD, whose length is of what it would have been */
};

/* Puts the head of a response; the connection ends after it. *ret_status: below 200 another one
 * follows. Errors: -EPROTO. */
int h2_fields_put_response(const struct h2_fields *fields, enum h2_body body, struct buffer *out,
                           enum http_wrap *ret_wrap, unsigned *ret_status) BG_MUST_CHECK;

/* Puts the last chunk, with the fields as trailers. */
void h2_fields_put_trailers(const struct h2_fields *fields, struct buffer *out);

/* Whether a field of HTTP/1.1 goes into a block: those for one connection do not, and Host is
 * :authority. */
bool h2_field_passes(const struct http_field *field);
