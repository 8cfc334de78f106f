/* Conditions on a request: its method, its path, its query and its header. Pure.
 *
 * A path pattern begins with '/'; '*' stands for any bytes but '/', '**' for any. It is compared
 * with the request's path as servers see it: without the query, percent-encoded letters, digits,
 * '-', '.', '_' and '~' decoded (RFC 3986, 6.2.2.2), other escapes in capitals.
 *
 * Values of the query and of header fields are compared as a whole, case and all; '*' stands for
 * any bytes. The query is read as forms write it: KEY=VALUE joined by '&', percent-decoded. */
#pragma once

#include "net/buffer.h"
#include "net/http_head.h"

#define REQUEST_PATTERN_MAX     512
#define REQUEST_LIST_MAX        64
#define REQUEST_QUERY_PAIRS_MAX 256

/* A query key or a header field that has to be there, with a value that matches one of patterns. */
struct request_condition {
    char *name; /* a field's: lower case */
    char **patterns;
    size_t pattern_count;
};

struct request_match {
    char **methods; /* owned, as all below; none: any */
    size_t method_count;
    char **paths; /* none: any */
    size_t path_count;
    struct request_condition *query; /* all of these */
    size_t query_count;
    bool only_keys; /* no other keys than those of query and of keys */
    char **keys;
    size_t key_count;
    struct request_condition *header; /* all of these */
    size_t header_count;
    bool any_field; /* of fields with the same name one has to match; else each of them */
};

void request_match_done(struct request_match *match);

/* A copy. Errors: -ENOMEM. */
int request_match_copy(const struct request_match *match, struct request_match *ret) BG_MUST_CHECK;

/* Errors: -EINVAL no method (capital letters), no pattern, no key, no field's name or one that the
 * proxy writes itself; -E2BIG; -ENOMEM. A further pattern for the same name is an alternative. */
int request_match_add_method(struct request_match *match, const char *method,
                             struct bg_err *err) BG_MUST_CHECK;
int request_match_add_path(struct request_match *match, const char *pattern,
                           struct bg_err *err) BG_MUST_CHECK;
int request_match_add_query(struct request_match *match, const char *key, const char *pattern,
                            struct bg_err *err) BG_MUST_CHECK;
int request_match_add_key(struct request_match *match, const char *key,
                          struct bg_err *err) BG_MUST_CHECK;
int request_match_add_header(struct request_match *match, const char *name, const char *pattern,
                             struct bg_err *err) BG_MUST_CHECK;

static inline bool request_match_asks_query(const struct request_match *match)
{
    return match->query_count > 0 || match->only_keys;
}

static inline bool request_match_is_any(const struct request_match *match)
{
    return match->method_count == 0 && match->path_count == 0 && match->header_count == 0 &&
           !request_match_asks_query(match);
}

/* A request as it came; all of it borrowed. */
struct request_text {
    struct slice method, target;
    const struct http_field *fields;
    size_t field_count;
};

/* KEY=VALUE, decoded: offsets in request_query.text. */
struct request_pair {
    size_t key, key_size, value, value_size;
};

struct request_query {
    char *text; /* a '+' is a space */
    char *plus; /* the same, where a '+' is one; NULL: there is none */
    struct request_pair *pairs;
    size_t count;
};

enum request_part { REQUEST_PATH = 1, REQUEST_QUERY = 2 };

/* A request in the form that conditions are compared with. */
struct request_view {
    const struct request_text *text; /* borrowed */
    unsigned clear;                  /* of enum request_part: those that have one reading */
    struct buffer path;
    struct request_query query;
};

/* Reads those parts (of enum request_part) that conditions ask for. One that has several readings,
 * or no memory, is not clear. */
void request_view_init(struct request_view *view, const struct request_text *text, unsigned parts);
void request_view_done(struct request_view *view);

/* False if it asks for a part that is not clear. */
bool request_match_covers(const struct request_match *match, const struct request_view *view);

/* True if the query cannot be compared with the conditions on it: it is not clear, or one of its
 * keys is nearly one that they name (servers differ in whether 'A', 'a[]' and 'a' are the same), or
 * a '+' in a value makes the difference. */
bool request_match_query_unclear(const struct request_match *match,
                                 const struct request_view *view);

/* Puts the path of a request's target to out, in the form that patterns are compared with. Errors:
 * -EINVAL servers could read it in more than one way: dot segments, empty ones, ';', '\', an
 * encoded '/', '\' or NUL, a '%' without digits, more than 8 KiB; -ENOMEM. */
int request_path_normalize(struct slice target, struct buffer *out) BG_MUST_CHECK;

/* Takes the query of a request's target apart. Errors: -EINVAL servers could read it in more than
 * one way: a key that is there twice, empty, or has a '+' or a control byte in it, ';', a '%'
 * without digits, an encoded NUL, more than 8 KiB or REQUEST_QUERY_PAIRS_MAX keys; -ENOMEM. */
int request_query_parse(struct slice target, struct request_query *ret) BG_MUST_CHECK;
void request_query_done(struct request_query *query);
