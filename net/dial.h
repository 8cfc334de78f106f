/* Connects to a destination that the policy allows: resolves its name once, drops the addresses
 * that may not be dialled, and tries the others, each a little after the one before; the first to
 * connect wins. What is dialled is what was checked. With a parent proxy it goes through that,
 * which resolves the name then, unless the rule or the destination itself says which address it is
 * and that is not a public one. Loop thread only. */
#pragma once

#include <uv.h>

#include "common/err.h"
#include "net/policy.h"
#include "net/tunnel.h"

struct dial;

struct dial_result {
    int fd;                 /* a connected non-blocking socket, the callee's; -1: failed */
    struct address address; /* dialled: the destination's, or the parent's */
    const char *reason;     /* failed: a word for the audit: resolve-failed, address-not-public,
                               address-not-allowed, connect-failed, parent-refused, timeout */
    struct bg_err err;      /* failed: -EHOSTUNREACH, -EACCES, -ECONNREFUSED, -ETIMEDOUT */
};

struct dial_opts {
    const struct destination *to;    /* copied */
    const struct policy *policy;     /* borrowed until on_done */
    const struct policy_rule *rule;  /* of it, that allows the destination */
    uint64_t resolve_ms, connect_ms; /* connect_ms: from when the last address was begun with */
    const struct parent *parent;     /* borrowed until on_done; NULL: none */
    unsigned *racing; /* borrowed until on_done: sockets of all dials beyond each one's first */
    void (*on_done)(void *owner, const struct dial_result *result); /* once, unless cancelled */
    void *owner;
};

/* Errors: -ENOMEM. on_done is never called from inside. */
int dial_start(uv_loop_t *loop, const struct dial_opts *opts, struct dial **ret,
               struct bg_err *err) BG_MUST_CHECK;

/* Before on_done only: it will not be called. NULL: no-op. */
void dial_cancel(struct dial *dial);
