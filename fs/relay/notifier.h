/* Tells the kernel what to forget, from a thread of its own: the kernel takes a folder's lock or
 * waits for a page for it, which may need the answer to a request that is still to be read. So the
 * thread that answers never does this itself.
 *
 * An answer goes to the kernel at once, but what it says is taken up only when who asked runs
 * again. A notice about a node that comes before that finds nothing to forget, and then the kernel
 * believes the older answer. So what it did not know is told again, until it does, or the answer
 * would be forgotten by itself.
 *
 * The thread shares no fds with the rest of the process: it has /dev/fuse and nothing else. If the
 * process is killed while the thread waits in the kernel, everything else is closed at once, which
 * is how the keeper knows that it has to abort the mount (main.c). */
#pragma once

#include "fs/relay/relay.h"

struct fs_notifier;

/* Errors: -ENOMEM. */
int fs_notifier_new(struct fs_notifier **ret) BG_MUST_CHECK;

/* Starts the thread; when this returns it makes no more system calls than the filter allows (see
 * sandbox.h). fuse_fd: borrowed until the thread has ended. Errors: -EAGAIN no thread. */
int fs_notifier_start(struct fs_notifier *notifier, int fuse_fd) BG_MUST_CHECK;

/* Queues a copy. False: there is no room. */
bool fs_notifier_push(struct fs_notifier *notifier, const struct fs_notice *notice);

/* Drops what is queued and lets the thread end. Returns whether it has: until then the kernel's
 * requests must be answered. */
bool fs_notifier_stop(struct fs_notifier *notifier);

/* Only once it has stopped, or was not started. */
void fs_notifier_free(struct fs_notifier *notifier);
