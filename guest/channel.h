/* A nonblocking fd on the loop: input when asked for, output through a bounded queue. Everything
 * the agent moves (streams, pipes of commands, TCP connections) goes through channels.
 *
 * Bytes are counted both ways, and the fd of a parked channel can be replaced: so a stream can go
 * on with another connection (docs/protocol.md, "Resumption").
 *
 * The struct is a member of its owner; its memory belongs to the loop from channel_open until
 * on_closed. Callbacks are made from the loop only, never from inside a call. Loop thread only. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <uv.h>

#include "common/cleanup.h"

struct channel_ops {
    void (*on_readable)(void *owner);           /* there is input, or its end; channel_read it */
    void (*on_room)(void *owner);               /* the queue has become shorter; may be NULL */
    void (*on_broken)(void *owner, int status); /* the fd failed, nothing more will come */
};

struct channel {
    uv_poll_t poll;
    const struct channel_ops *ops;
    void *owner;
    int fd;
    enum { CHANNEL_NONE, CHANNEL_OPEN, CHANNEL_CLOSING } state;
    int events;      /* what the loop watches now */
    bool want_input; /* the owner's wish */
    bool finishing;  /* shut down the sending side once the queue is empty */
    bool parked;     /* nothing is read or written */
    uint64_t bytes_read, bytes_written;
    uint8_t *queue; /* bytes [queue_at, queue_end) are still to be written */
    size_t queue_at, queue_end, queue_room;
    void (*on_closed)(void *owner);
};

/* Takes fd (any kind that can be polled) and makes it nonblocking; input is off at first. On
 * failure the fd is not taken. Errors: those of uv_poll_init. */
int channel_open(struct channel *ch, uv_loop_t *loop, int fd, const struct channel_ops *ops,
                 void *owner) BG_MUST_CHECK;

void channel_want_input(struct channel *ch, bool want);

/* As read(2): > 0, 0 at the end of the input, -EAGAIN, or another negative errno. A pty whose other
 * side is gone is at its end. */
ssize_t channel_read(struct channel *ch, void *buffer, size_t size) BG_MUST_CHECK;

/* Writes what the fd takes now and queues the rest, so that it takes all or fails. The caller
 * bounds the queue: it looks at channel_queued() before it makes more output.
 * Errors: -ENOMEM; errno of write. */
int channel_write(struct channel *ch, const struct iovec *parts, int count) BG_MUST_CHECK;

/* Queues without a try to write: for a socket that is still connecting. Errors: -ENOMEM. */
int channel_write_later(struct channel *ch, const struct iovec *parts, int count) BG_MUST_CHECK;

static inline size_t channel_queued(const struct channel *ch)
{
    return ch->queue_end - ch->queue_at;
}

/* Ends our sending side (shutdown(2)) after the queue. For sockets. */
void channel_finish(struct channel *ch);

/* From now on nothing is read from the fd or written to it, and nobody looks at it; output is
 * queued. It may be parked already. */
void channel_park(struct channel *ch);

/* Puts another connected socket (nonblocking, taken) in the place of a parked channel's. Errors:
 * those of dup3; it is not taken then. */
int channel_swap(struct channel *ch, int fd) BG_MUST_CHECK;

/* Ends the parking: with another fd it says its half-close again. */
void channel_go_on(struct channel *ch);

/* Closes the fd at once, the queue is dropped; on_closed (may be NULL) comes in a later turn of the
 * loop. Once only, in state CHANNEL_OPEN. */
void channel_close(struct channel *ch, void (*on_closed)(void *owner));

/* As channel_close, but hands the fd to the caller: nonblocking, with the queue dropped. */
int channel_detach(struct channel *ch, void (*on_closed)(void *owner));
