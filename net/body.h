/* The body of a request in which a rule allows a secret: collected whole, and then its placeholders
 * are exchanged. What it is is told by its Content-Type:
 *
 *   json       application/json, text/json, application/x-ndjson, anything/anything+json: in string
 *              values, not in names of members; each character of a placeholder as itself or as
 *              \uXXXX; the secret is escaped anew. One value or several after each other (RFC 8259)
 *   form       application/x-www-form-urlencoded: in values, not in names; each character as
 *              itself or as %XX; the secret is percent-encoded
 *   multipart  multipart/anything: in what a part holds, by the part's own Content-Type as above,
 *              and as it is in any other; not in a part's head, around the parts, across two of
 *              them, nor in parts that are multipart or transfer-encoded themselves
 *   text       any other text/anything: as it is
 *
 * What cannot be read as it says (no JSON, boundaries that two readers could see differently)
 * passes unchanged. A multipart secret must not become a boundary, of which a guest could learn it
 * character by character: one is not put where the text before it may be the beginning of a
 * boundary, nor, if it begins with '-', at the beginning of a line. A secret that is no UTF-8 is
 * not put into JSON. Placeholders that stay are noted as not approved. Pure. */
#pragma once

#include "net/multipart.h"
#include "net/secrets.h"

/* What a body may grow by with its secrets; more is an error. */
#define BODY_GROWTH_MAX ((size_t)4 * BG_SECRET_SIZE_MAX)

struct body {
    unsigned type; /* of enum secret_body_type; 0: no rule is for it, and it is not to be read */
    bool coded;    /* it has a content coding, which is to be taken off */
    bool changed;  /* out is not what came, apart from the coding */
    size_t size_max;
    struct multipart_mark mark; /* multipart */
    struct buffer in;           /* as it came; at most size_max */
    struct buffer out;          /* as it is to be sent; has secrets in it */
};

/* Whether the request's body has to be read whole, for a secret may stand in it. scope: without its
 * body. */
bool body_start(struct body *body, const struct secrets_scope *scope, const struct http_head *head);

/* Adds what has come. buffer_ok(&body->in) is false if that was too much. */
void body_put(struct body *body, const uint8_t *bytes, size_t size);

/* All has come: moves it from in to out. scope: as before. *use is added to. Errors: -E2BIG it is
 * larger than size_max without its coding, or too large with its secrets; -EPROTO the coding is
 * damaged; -ENOMEM. */
int body_finish(struct body *body, const struct secrets_scope *scope, const struct http_head *head,
                struct secrets_use *use, struct bg_err *err) BG_MUST_CHECK;

/* Cleanses and frees. A zeroed one: no-op. */
void body_done(struct body *body);

/* The memory that it takes. */
static inline size_t body_memory(const struct body *body)
{
    return body->in.capacity + body->out.capacity;
}
