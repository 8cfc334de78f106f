/* extra: the routes that go beyond the SDK's protocol (docs/dashboard.md, "Routes"). What blocks
 * happens in libuv's threads; what a command of bellglass does is done by one, as a process. */
#pragma once

#include <stdbool.h>

#include <jansson.h>
#include <uv.h>

#include "common/err.h"
#include "common/log.h"
#include "host/gateway/extra_route.h"
#include "host/gateway/sandboxes.h"

struct extra;

struct extra_opts {
    struct app *app; /* borrowed, as the others; with its paths */
    const struct bg_log *log;
    struct sandboxes *sandboxes;
};

int extra_open(uv_loop_t *loop, const struct extra_opts *opts, struct extra **ret,
               struct bg_err *err) BG_MUST_CHECK;
/* Frees it when the last job is over; the loop must run until then. NULL: no-op. */
void extra_close(struct extra *extra);

struct extra_call {
    const struct extra_route *route; /* borrowed for the call, as the next three */
    const char *token;
    const struct quota *quota; /* what it may have */
    const void *body;          /* JSON or nothing */
    size_t body_size;
    bool all; /* the token is the machine owner's */
};

/* Told once, if the owner has not been forgotten. value: taken; NULL: err says why not. */
typedef void extra_done(void *owner, json_t *value, const struct bg_err *err);

/* Answers the kinds from EXTRA_OVERVIEW on, but for EXTRA_CONNECT. Errors go to on_done: -EINVAL
 * the request; -ENOENT no such thing, or another token's; -EAGAIN, -EBUSY, -EEXIST, -ENOTCONN as it
 * is now; -EUSERS too many at once; as sandboxes_claim. It may be told before this returns. */
void extra_run(struct extra *extra, const struct extra_call *call, extra_done *on_done,
               void *owner);

/* owner is gone: what it waits for is done without it. */
void extra_forget(struct extra *extra, const void *owner);
