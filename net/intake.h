/* Where connections come from: a supervisor that hands them over one by one, or a listening socket.
 * Loop thread only. */
#pragma once

#include <uv.h>

#include "common/err.h"
#include "net/engine.h"

struct intake;

struct intake_opts {
    struct engine *engine;       /* borrowed until on_closed */
    int fd;                      /* borrowed until on_closed */
    bool listening;              /* a TCP listener: a forward proxy; else a supervisor's socket */
    void (*on_end)(void *owner); /* the supervisor has gone */
    void (*on_closed)(void *owner);
    void *owner;
};

/* Errors: -ENOMEM, errno. */
int intake_open(uv_loop_t *loop, const struct intake_opts *opts, struct intake **ret,
                struct bg_err *err) BG_MUST_CHECK;

/* Takes no more connections; frees it in a later turn, then calls on_closed. */
void intake_close(struct intake *intake);
