/* Carries messages between /dev/fuse, the relay and the stream. One thread, poll(2). */
#pragma once

#include "fs/relay/relay.h"

struct fs_loop;

struct fs_loop_opts {
    int in_fd, out_fd;          /* the stream; may be the same; made non-blocking, borrowed */
    int notes_fd;               /* approvals, both ways (notes.h); -1: none. Borrowed */
    struct fs_relay_opts relay; /* to_kernel, to_server, owner, guard.on_note are set by the loop */
    void (*on_ready)(void *owner); /* the mount can be used */
    void *owner;
};

/* Errors: -ENOMEM. */
int fs_loop_new(const struct fs_loop_opts *opts, struct fs_loop **ret,
                struct bg_err *err) BG_MUST_CHECK;
void fs_loop_free(struct fs_loop *loop);

/* fs_relay_note. */
int fs_loop_note(struct fs_loop *loop, const struct fs_pin_note *note) BG_MUST_CHECK;

/* Exchanges hellos with the server, waiting at most timeout_ms. Before there is a mount. Errors:
 * -ETIMEDOUT; -ECONNRESET it hung up; -EPROTO it is no file server. */
int fs_loop_greet(struct fs_loop *loop, uint64_t timeout_ms, struct bg_err *err) BG_MUST_CHECK;

/* Serves until the file system is unmounted (0) or signal_fd, a signalfd, becomes readable (0;
 * every waiting request has been answered). fuse_fd: non-blocking, borrowed. Errors: the server's
 * fault before the mount was ready; errno of /dev/fuse. */
int fs_loop_run(struct fs_loop *loop, int fuse_fd, int signal_fd, struct bg_err *err) BG_MUST_CHECK;
