/* reattach: for commands whose connection to a sandbox ended: waits while the sandbox sleeps, and
 * opens another connection to the command in it. */
#pragma once

#include <stdbool.h>

#include "common/state/sandbox.h"
#include "host/cli/app.h"
#include "host/cli/exec_stream.h"

struct reattach {
    struct app *app;
    const struct bg_sandbox *sandbox;
    int signal_fd; /* signals.h; -1: none are looked at */
    bool own;      /* the command ends with our connection, as with the one that it was begun on */
    bool resize;   /* it has our terminal */
    /* Of reattach_lost: connections in a row that ended where the one before had. */
    unsigned tries;
    uint64_t out_at, err_at;
};

/* Opens an exec stream that is attached to a process of the sandbox, as the flags of common/wire.h
 * say; nothing of it is read. at: NULL: all that is kept is wanted. Errors: as client_open. */
int reattach_open(const struct reattach *reattach, const struct exec_position *at, uint32_t pid,
                  uint32_t flags, int *ret_fd, struct bg_err *err) BG_MUST_CHECK;

/* exec_stream_opts.on_lost, with a struct reattach for its owner. A sandbox that is suspended is
 * waited for, which is said once on stderr; one that has stopped, crashed or gone is an error, as
 * is one that does not come to rest or to run within a minute, and one that takes us back again and
 * again to say nothing. */
int reattach_lost(void *owner, const struct exec_position *at, int *ret_fd, struct bg_err *err);
