/* File locks of the client's processes, taken here so that they count for everybody on this
 * machine.
 *
 * POSIX locks belong to an owner (a number that the client's kernel chose): each (file, owner) has
 * an open file description of its own and locks with F_OFD_SETLK. They end at FLUSH by that owner.
 * flock(2) locks belong to the handle's own description. Waiting is done by a thread for each
 * waiting request, which a signal interrupts. Thread-safe. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "fs/proto/proto.h"
#include "fs/server/handles.h"

struct fs_locks;

struct fs_locks_opts {
    struct fs_handles *handles;         /* borrowed until close */
    const struct fs_identity *identity; /* likewise */
    size_t owners_max;
    /* Answers a SETLKW that had to wait: 0 or negative errno. Called from another thread. */
    void (*answer)(void *owner, uint64_t unique, int error);
    void *owner;
};

/* Errors: -ENOMEM. */
int fs_locks_open(const struct fs_locks_opts *opts, struct fs_locks **ret) BG_MUST_CHECK;
/* Ends all waits without answering and drops all locks. */
void fs_locks_close(struct fs_locks *locks);

/* GETLK, SETLK and SETLKW. Errors: errno of fcntl and flock; -EBADF not open for that; -ENOLCK too
 * many; -EINPROGRESS: answer() will be called, and the caller's reference to handle is taken. */
int fs_locks_apply(struct fs_locks *locks, const struct fs_request *request,
                   struct fs_handle *handle, struct fs_reply *reply) BG_MUST_CHECK;

/* owner has closed the file: its POSIX locks end. */
void fs_locks_flush(struct fs_locks *locks, uint64_t node, uint64_t owner);
/* The handle is closed for good. An open file description that locked (F_OFD_SETLK) is an owner
 * whose end only this tells; a process has been heard of by fs_locks_flush before. */
void fs_locks_released(struct fs_locks *locks, uint64_t node, uint64_t handle);

/* The request, if it waits here, is answered with -EINTR unless it got its lock just now. */
void fs_locks_interrupt(struct fs_locks *locks, uint64_t unique);
