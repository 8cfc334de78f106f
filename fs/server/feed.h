/* The change feed: tells the client what others on this machine do to the files it knows. By
 * fanotify(7), a mark for each file system, so it needs CAP_SYS_ADMIN and a Linux of 5.17; without
 * them there is no feed. Our own changes, which are the client's, are not told.
 *
 * A thread reads the kernel's events, which merge while it pauses, finds out which of the files and
 * folders the client knows, and hands whole messages (fs/proto/change.h) on. What it cannot keep up
 * with the kernel drops, and says so: then everything counts as changed. Changes through a shared
 * writable mapping are not seen by the kernel before the file is closed. */
#pragma once

#include "fs/server/nodes.h"

struct fs_feed;

/* Errors: -EPERM, -EINVAL, -ENOSYS this machine or process cannot; -ENOMEM, -EMFILE. */
int fs_feed_open(struct fs_feed **ret) BG_MUST_CHECK;

/* Begins to watch the file system that fd is on. False: it cannot be watched. For
 * fs_nodes_opts.watch; callers exclude one another. */
bool fs_feed_watch(void *feed, int fd);

struct fs_feed_opts {
    struct fs_nodes *nodes; /* borrowed until fs_feed_close */
    /* Takes a message for the client; from the feed's own thread. May block. */
    void (*emit)(void *owner, const uint8_t *bytes, size_t size);
    void *owner;
};

/* Errors: -EAGAIN no thread. */
int fs_feed_start(struct fs_feed *feed, const struct fs_feed_opts *opts) BG_MUST_CHECK;

/* Ends the thread, if it was started. NULL: no-op. */
void fs_feed_close(struct fs_feed *feed);
