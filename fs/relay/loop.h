/* Carries messages between /dev/fuse, the relay and the stream. One thread, poll(2), and a second
 * one that tells the kernel what to forget (notifier.h). */
#pragma once

#include "fs/relay/relay.h"

#define FS_LOOP_FINISH_MS                                                                          \
    5000u /* for what was acknowledged, when the mount ends; then it is lost */

struct fs_loop;

struct fs_loop_opts {
    int in_fd,
        out_fd; /* the stream; may be the same; made non-blocking. Borrowed until it is lost */
    /* Where another stream comes from when this one is lost (loop_return_*); borrowed. -1: none
     * does, and every access fails from then on. */
    int return_fd;
    void (*on_lost)(void *owner);   /* another stream is wanted */
    void (*on_needed)(void *owner); /* after FS_LOOP_ASLEEP: it is wanted now */
    int notes_fd;                   /* approvals, both ways (notes.h); -1: none. Borrowed */
    struct fs_relay_opts relay;     /* its functions and owner are set by the loop */
    void (*on_ready)(void *owner);  /* the mount can be used */
    void *owner;
};

/* What comes on return_fd, a stream socket: one of these bytes, FS_LOOP_STREAM with an fd. */
enum fs_loop_return {
    FS_LOOP_STREAM = 'S',   /* another stream: non-blocking, a server of the same folder */
    FS_LOOP_NOT_SOON = 'N', /* nobody shall wait for it */
    FS_LOOP_ASLEEP = 'Z',   /* it comes when it is needed */
    FS_LOOP_NEVER = 'G',    /* as the end of return_fd */
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

/* Whether the server tells of changes. After fs_loop_greet. */
bool fs_loop_is_told(const struct fs_loop *loop);

/* Makes echoes by the process at the other end of fd (echoer.h), which is borrowed. Errors:
 * -ENOMEM.
 */
int fs_loop_echo_by(struct fs_loop *loop, int fd, pid_t pid, struct bg_err *err) BG_MUST_CHECK;

/* Starts the second thread. To be called with fs_loop_run's fuse_fd, before it. Errors: -EAGAIN. */
int fs_loop_start(struct fs_loop *loop, int fuse_fd, struct bg_err *err) BG_MUST_CHECK;

/* Serves until the file system is unmounted (0) or signal_fd, a signalfd, becomes readable (0;
 * every waiting request has been answered). fuse_fd: non-blocking, borrowed. Errors: the server's
 * fault before the mount was ready; errno of /dev/fuse. */
int fs_loop_run(struct fs_loop *loop, int fuse_fd, int signal_fd, struct bg_err *err) BG_MUST_CHECK;
