/* The secrets of a sandbox, and the exchange of a placeholder for one. A placeholder is
 * "BELLGLASS_SECRET_" and 64 hex digits; it becomes its secret only where a rule of that secret
 * says so (by default: in the values of request headers, on the way to a host), and only inside of
 * TLS whose far end was verified. Anywhere else it stays what it is. Pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "net/buffer.h"
#include "net/http_head.h"
#include "net/policy.h"
#include "net/request_match.h"
#include "net/scrub_hint.h"

#define SECRET_PREFIX           "BELLGLASS_SECRET_"
#define SECRET_PLACEHOLDER_SIZE (sizeof SECRET_PREFIX - 1 + 64)

/* Places in a request. */
enum secret_place {
    SECRET_IN_HEADER = 1, /* a field's value */
    SECRET_IN_BASIC = 2,  /* inside of Basic credentials, which are then encoded anew */
    SECRET_IN_QUERY = 4,  /* percent-encoded there, and in the path */
    SECRET_IN_PATH = 8,
    SECRET_IN_BODY = 16, /* of a kind that the rule lists; net/body.h says where in it */
};

#define SECRET_IN_DEFAULT ((unsigned)SECRET_IN_HEADER | SECRET_IN_BASIC)

/* Kinds of bodies, by the request's Content-Type. */
enum secret_body_type {
    SECRET_BODY_JSON = 1,
    SECRET_BODY_FORM = 2,
    SECRET_BODY_MULTIPART = 4,
    SECRET_BODY_TEXT = 8,
};

#define SECRET_BODY_TYPES                                                                          \
    ((unsigned)SECRET_BODY_JSON | SECRET_BODY_FORM | SECRET_BODY_MULTIPART | SECRET_BODY_TEXT)

/* Which bodies a rule is for. */
struct secret_body {
    unsigned types; /* of enum secret_body_type */
    size_t size_max;
    bool decode; /* those with a content coding too, which is taken off */
};

/* Where a secret may go. */
struct secret_rule {
    struct host_pattern host; /* without a port: any port that the policy allows */
    unsigned in;              /* of enum secret_place */
    char **headers;           /* owned, lower case: only in these; none: in any */
    size_t header_count;
    struct secret_body body; /* for SECRET_IN_BODY */
    struct request_match match;
    struct policy_meter *meter; /* of requests that it is put into; shared; NULL: any */
    unsigned budget;            /* which of a set's meters that is: a bit of secrets_use.budgets */
};

void secret_rule_done(struct secret_rule *rule);

struct secret {
    char *name;
    char placeholder[SECRET_PLACEHOLDER_SIZE + 1];
    /* Of a fork: placeholders that its memory has from before. They become the secret where its own
     * would, but never take its place in an answer. Owned; at most BG_SECRET_INHERITED_MAX. */
    char (*inherited)[SECRET_PLACEHOLDER_SIZE + 1];
    size_t inherited_count;
    struct secret_rule *rules; /* owned; any of them */
    size_t rule_count;
    void *value; /* locked memory; NULL: the store has none, and requests that need it fail */
    size_t value_size;
};

struct secrets {
    struct secret *items; /* owned; at most BG_EGRESS_SECRETS_MAX, so that a set fits a uint64_t */
    size_t count;
    unsigned budget_count;     /* at most BG_EGRESS_BUDGETS_MAX, likewise */
    struct scrub_hints *hints; /* owned, locked memory; of scrub.c; NULL: there is no secret */
};

/* What a text is asked to be turned into, and for whom. */
struct secrets_scope {
    const struct secrets *secrets;
    const struct destination *to;
    bool verified;                   /* the destination has proven its name */
    const struct request_view *view; /* path and query read; NULL: a request of which nothing is
                                        known */
    uint64_t now_ms;                 /* of a clock that only goes forward; for budgets */
    struct {
        unsigned type; /* of enum secret_body_type; 0: none of these */
        bool coded;
        size_t size; /* without the coding */
    } body;
};

/* What happened; bits are indices of secrets. Zero it before the first of a request's headers. */
struct secrets_use {
    uint64_t used;         /* replaced */
    uint64_t inherited;    /* of these, those that an inherited placeholder stood for */
    uint64_t scrubbed;     /* found in the answer and taken out (net/scrub.h) */
    uint64_t not_approved; /* left alone: not for this destination */
    uint64_t valueless;    /* approved, but the store has no value: the request must not go out */
    uint64_t used_up;      /* approved, but its budget is gone: likewise */
    uint64_t too_fast;     /* of these, those that will have some again in time */
    uint64_t budgets;      /* those that this request was counted in; by secret_rule.budget */
    unsigned unknown;      /* placeholders of no secret here: another sandbox's, or removed */
};

/* Adds a secret; takes value (locked memory of value_size bytes, or NULL) on success. Errors:
 * -EINVAL malformed placeholder, host or value (which must do as header text); -EEXIST;
 * -E2BIG too many; -ENOMEM. */
int secrets_add(struct secrets *secrets, const char *name, const char *placeholder,
                const char *const *hosts, size_t host_count, void *value, size_t value_size,
                struct bg_err *err) BG_MUST_CHECK;
void secrets_done(struct secrets *secrets);

/* Adds a placeholder to the secret of that name, for one that the sandbox has inherited. Errors:
 * -EINVAL malformed; -EEXIST it is one already; -ENOENT no such secret; -E2BIG too many; -ENOMEM.
 */
int secrets_add_inherited(struct secrets *secrets, const char *name, const char *placeholder,
                          struct bg_err *err) BG_MUST_CHECK;

/* Adds a rule to the secret of that name and takes it, on success. Errors: -ENOENT; -E2BIG too many
 * budgets; -ENOMEM. */
int secrets_add_rule(struct secrets *secrets, const char *name, struct secret_rule *rule,
                     struct bg_err *err) BG_MUST_CHECK;

/* Those that are approved for the destination, as a set of bits: their values may come back from
 * it, in answers to requests that held none too. */
uint64_t secrets_at(const struct secrets *secrets, const struct destination *to);

/* Puts the value of the field to out, placeholders exchanged; inside of Basic credentials too,
 * which are then encoded anew. Fields that say where a request goes or how it is framed are left
 * alone. *use is added to. */
void secrets_put_field(const struct secrets_scope *scope, const struct http_field *field,
                       struct buffer *out, struct secrets_use *use);

/* Puts the target of a request (path and query), placeholders exchanged where a rule says so; each
 * of their characters may be percent-encoded. */
void secrets_put_target(const struct secrets_scope *scope, struct slice target, struct buffer *out,
                        struct secrets_use *use);

/* The size of the largest body of the scope's kind in which a rule allows a secret; 0: none does.
 */
size_t secrets_body_max(const struct secrets_scope *scope);

/* The secret whose value takes the place of the placeholder (SECRET_PLACEHOLDER_SIZE bytes, see
 * secret_is_placeholder), in a place without a name of its own; NULL: it stays. place: 0: nothing
 * may stand there. *use is added to. */
const struct secret *secrets_resolve(const struct secrets_scope *scope, unsigned place,
                                     const char *placeholder, struct secrets_use *use);

/* True if the text begins with what looks like a placeholder, whoever's. */
bool secret_is_placeholder(const char *text, size_t size);

/* Puts bytes percent-encoded: all but letters, digits and "-._~". */
void secret_put_encoded(struct buffer *out, const void *bytes, size_t size);

static inline void secrets_use_add(struct secrets_use *use, const struct secrets_use *more)
{
    use->used |= more->used;
    use->inherited |= more->inherited;
    use->scrubbed |= more->scrubbed;
    use->not_approved |= more->not_approved;
    use->valueless |= more->valueless;
    use->used_up |= more->used_up;
    use->too_fast |= more->too_fast;
    use->budgets |= more->budgets;
    use->unknown += more->unknown;
}

/* True if a secret's value is fit for the store and for a header: not empty, at most
 * BG_SECRET_SIZE_MAX, no CR, LF or NUL. Errors: -EINVAL. */
int secret_value_check(const void *value, size_t size, struct bg_err *err) BG_MUST_CHECK;

/* [A-Za-z_][A-Za-z0-9_]*, at most 128: a name for an environment variable. */
bool secret_name_ok(const char *name);
