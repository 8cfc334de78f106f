/* The head of an HTTP/1.x message: taken apart, and refused unless there is exactly one way to read
 * it (RFC 9112, without what it merely tolerates). Nothing of it is ever forwarded as it came; what
 * goes on is written anew from these fields. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct slice {
    const char *at; /* borrowed; no NUL after it */
    size_t size;
};

struct http_field {
    struct slice name;  /* a token, as it came */
    struct slice value; /* without white space around it; no control byte but HTAB inside */
};

enum http_framing {
    HTTP_NO_BODY,
    HTTP_LENGTH,
    HTTP_CHUNKED,
    HTTP_UNTIL_CLOSE, /* responses only */
};

struct http_head {
    /* requests */
    struct slice method; /* a token */
    struct slice target; /* printable ASCII without '#'; not empty */
    /* responses */
    unsigned status; /* 100..599 */
    struct slice reason;
    /* both */
    unsigned minor;            /* HTTP/1.minor: 0 or 1 */
    struct http_field *fields; /* owned, in the order they came, those for framing too */
    size_t field_count;
    enum http_framing framing;
    uint64_t length;        /* HTTP_LENGTH */
    bool keep_alive;        /* the sender would go on after this message */
    bool upgrade_websocket; /* Connection: upgrade and Upgrade: websocket */
};

/* Parses a whole request head, up to and with its empty line. bytes: untrusted, borrowed by *ret.
 * On failure *ret_status is the HTTP status to answer with (400, 405, 417, 431, 501 or 505).
 * Errors: -EPROTO refused; -ENOMEM. */
int http_head_parse_request(const char *bytes, size_t size, struct http_head *ret, int *ret_status,
                            struct bg_err *err) BG_MUST_CHECK;

/* Parses only the first line of a request, which ends in CR LF, so that what is no HTTP/1.x is not
 * waited for. Errors as above. */
int http_head_check_request_line(const char *bytes, size_t size, int *ret_status,
                                 struct bg_err *err) BG_MUST_CHECK;

/* The same for a response to a request with the given method. Errors: -EPROTO, -ENOMEM. */
int http_head_parse_response(const char *bytes, size_t size, struct slice request_method,
                             struct http_head *ret, struct bg_err *err) BG_MUST_CHECK;

/* Field lines alone, up to and with the empty one: trailers. Only fields and field_count are set.
 * Errors: -EPROTO, -ENOMEM. */
int http_head_parse_trailers(const char *bytes, size_t size, struct http_head *ret,
                             struct bg_err *err) BG_MUST_CHECK;

void http_head_done(struct http_head *head);

/* The only field of that name, NULL if there is none or more than one; *ret_count (may be NULL) is
 * how many. name: lower case. */
const struct http_field *http_head_field(const struct http_head *head, const char *name,
                                         size_t *ret_count);

/* ASCII without case. */
bool slice_is(struct slice s, const char *text_lower);

/* A token as in RFC 9110 §5.6.2, not empty. */
bool slice_is_token(struct slice s);

/* Without white space around it. */
struct slice slice_trim(struct slice s);

/* What stands before the first c, or all of it; *s is then what follows that. */
struct slice slice_cut(struct slice *s, char c);

/* True if the comma-separated list has the token. */
bool slice_has_token(struct slice s, const char *token_lower);
