/* vsock_pipe: carries bytes between one vsock connection and one fd, both ways, each way with its
 * own end of file, until both are over. Reads the fd only when the guest has room, and takes from
 * the guest at most BG_VSOCK_BUFFER_MAX bytes that the fd does not take. Loop thread only.
 *
 * A pipe of a stream with an id can outlive its connection (docs/protocol.md, "Resumption"): parked
 * it sends nothing more, a reset of its connection does not end it, and on another connection it
 * goes on where the guest is. What the fd's client writes meanwhile waits in the fd. */
#pragma once

#include "common/wire.h"
#include "host/vsock/vsock.h"

struct vsock_pipe;

struct vsock_pipe_opts {
    struct vsock_conn *conn; /* taken on success; accepted or from vsock_connect(), open or not */
    /* Taken on success; becomes non-blocking. A stream socket, or one end of a pipe: then the other
     * direction is closed from the start, and the process must ignore SIGPIPE. */
    int fd;
    const uint8_t *to_guest; /* bytes to send to the guest before the fd's; borrowed for the call */
    size_t to_guest_size;
    size_t opening_size; /* the part of them that has to be sent before the pipe can be parked */
    enum bg_stream_kind kind; /* of the stream; 0: it ends with its connection */
    uint32_t id;
    uint64_t guest_size; /* bytes of the guest's that were taken off conn before */
    /* Bytes that the guest has sent already, for the fd before those to come; borrowed for the
     * call. Their credit is the caller's: vsock_consumed() has been or is called by the caller
     * before. */
    const uint8_t *to_fd;
    size_t to_fd_size;
    /* Both ways are over, conn and fd are gone; pipe is invalid from here on. to_guest_bytes,
     * from_guest_bytes: what has been carried. Last callback; may come after the device's
     * on_closed. */
    void (*on_end)(void *owner, uint64_t to_guest_bytes, uint64_t from_guest_bytes);
    /* vsock_pipe_park() said "not yet", and now it is; may be NULL if it is never parked. */
    void (*on_parked)(void *owner);
    void (*on_resumed)(void *owner); /* vsock_pipe_resume() is done; likewise */
    void *owner;
};

/* Errors: -ENOMEM; -EPERM fd cannot be polled (a regular file). */
int vsock_pipe_start(uv_loop_t *loop, const struct vsock_pipe_opts *opts,
                     struct vsock_pipe **ret_pipe, struct bg_err *err) BG_MUST_CHECK;

/* Ends it now: resets the connection, closes the fd, drops what is on its way; on_end follows.
 * More than once is fine until on_end. */
void vsock_pipe_stop(struct vsock_pipe *pipe);

/* Sends nothing more that is not part of the opening. Returns whether that is out; if not,
 * on_parked or on_end follows. A pipe that is parked is fine. */
bool vsock_pipe_park(struct vsock_pipe *pipe);

/* Takes another connection to the agent for a parked pipe; its own, if it is still there, is reset.
 * Returns whether there is something to wait for: on_resumed follows then, when it goes on or the
 * guest does not know the stream any more. In that case the pipe ends, as soon as the fd has taken
 * all; so does one that is not parked. */
bool vsock_pipe_resume(struct vsock_pipe *pipe, struct vsock_device *device);

/* Bytes that it has carried, both ways. Grows with whatever happens on it. */
uint64_t vsock_pipe_bytes(const struct vsock_pipe *pipe);

/* Goes on with the connection that it has. A parked pipe without one ends, and one that is still
 * being resumed. */
void vsock_pipe_go_on(struct vsock_pipe *pipe);
