/* mounts: which sandboxes' files are mounted where. There is no list of our own that could be
 * wrong: the kernel's, /proc/self/mountinfo, has type fuse.bellglass and source bellglass:NAME. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "common/state/sandbox.h"

struct mount_entry {
    char *sandbox; /* NAME */
    char *id;      /* ID; "": no sandbox is behind it (bellglass fs mount) */
    char *path;    /* mount point, as the kernel names it */
    bool read_only;
};

struct mount_list {
    struct mount_entry *entries;
    size_t count;
};

/* All mounts of sandboxes, in the order they were made. */
int mounts_read(struct mount_list *ret, struct bg_err *err) BG_MUST_CHECK;
void mounts_done(struct mount_list *list);

/* Reads the text of a mountinfo file. Pure. text: NUL-terminated. Errors: -ENOMEM. */
int mounts_parse(const char *text, struct mount_list *ret, struct bg_err *err) BG_MUST_CHECK;

/* Where `bellglass code` mounts a sandbox (RUNTIME/mounts/NAME); "": the folder of all of them.
 * Heap, the caller's; NULL when memory is out. */
char *mounts_own_folder(const struct bg_paths *paths, const char *sandbox);

/* True if the entry is a mount of this sandbox. */
bool mounts_match(const struct mount_entry *entry, const struct bg_sandbox *sandbox);

/* Unmounts one mount point, also a stale or busy one: what still uses it keeps what it has, and the
 * name is free. *ret_busy (may be NULL): that was so. Errors: -EBUSY and others from the kernel;
 * what fusermount3 said. */
int mounts_unmount(const char *path, bool *ret_busy, struct bg_err *err) BG_MUST_CHECK;

/* Unmounts all of one sandbox, the last first. Goes on after a failure and returns the first. */
int mounts_unmount_sandbox(const struct bg_sandbox *sandbox, struct bg_err *err) BG_MUST_CHECK;
