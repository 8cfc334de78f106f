/* Where connections come from: a supervisor that hands them over one by one, or a listening socket.
 * Loop thread only. */
#pragma once

#include <uv.h>

#include "common/err.h"
#include "net/engine.h"

struct intake;

/* Who may connect to a listener, and how its connections are counted. */
struct intake_clients {
    const struct address_network *networks; /* borrowed; none: anyone */
    size_t network_count;
    _Atomic uint32_t *next_stream; /* shared by processes, or NULL */
};

struct intake_opts {
    struct engine *engine;         /* borrowed until on_closed */
    int fd;                        /* borrowed until on_closed */
    bool listening;                /* a TCP listener: a forward proxy; else a supervisor's socket */
    struct intake_clients clients; /* listening */
    void (*on_end)(void *owner);   /* the supervisor has gone */
    void (*on_closed)(void *owner);
    void *owner;
};

/* Errors: -ENOMEM, errno. */
int intake_open(uv_loop_t *loop, const struct intake_opts *opts, struct intake **ret,
                struct bg_err *err) BG_MUST_CHECK;

/* Takes no more connections. */
void intake_stop(struct intake *intake);

/* The same; frees it in a later turn, then calls on_closed. */
void intake_close(struct intake *intake);
