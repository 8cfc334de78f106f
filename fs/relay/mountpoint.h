/* Mounting and unmounting: mount(2) where we may, else fusermount3. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

#define FS_MOUNT_TYPE "fuse.bellglass"

/* A mount as /proc/self/mountinfo has it. */
struct fs_mount {
    char device[32]; /* "MAJOR:MINOR", which no other live mount has */
    char type[64];
    bool nosymfollow; /* no symbolic link in it is followed */
};

/* The topmost mount at path (absolute, without symbolic links). Errors: -ENOENT nothing is mounted
 * there; errno of reading mountinfo. */
int fs_mount_find(const char *path, struct fs_mount *ret, struct bg_err *err) BG_MUST_CHECK;

/* Checks that dir can be mounted on and that there is what mounting needs, and gives its path
 * without symbolic links; the caller frees it. Errors: -ENOENT, -ENOTDIR, -EBUSY one of ours is
 * there, -ENOTCONN a dead one is, -ENODEV no /dev/fuse, -EACCES; the text says what to do. */
int fs_mount_check(const char *dir, char **ret_path, struct bg_err *err) BG_MUST_CHECK;

struct fs_mount_opts {
    const char *path; /* from fs_mount_check */
    const char *name; /* shown as the file system's source: bellglass:NAME */
    bool read_only, exec;
    bool nosymfollow; /* only by mount(2): fusermount3 does not know it */
};

/* Mounts. *ret_fd: /dev/fuse, non-blocking, O_CLOEXEC; it must never be in a second process, since
 * the kernel frees those who wait for the file system when the last one closes it.
 * Errors: -ENOENT no fusermount3; -EPERM; -EOPNOTSUPP the kernel has no nosymfollow; what mount(2)
 * or fusermount3 say. */
int fs_mount_make(const struct fs_mount_opts *opts, int *ret_fd, struct bg_err *err) BG_MUST_CHECK;

/* Makes the kernel fail every access to the mount, pending ones too: for a relay that has not ended
 * (so the mount's number is no other's) and cannot let go of /dev/fuse. By the file system fusectl,
 * where it is mounted; else as root, if `expected` is still what is mounted at path. */
void fs_mount_abort(const char *path, const struct fs_mount *expected);

/* Unmounts if `expected` is still what is mounted at path; 0 too when it is not. lazily: also while
 * it is in use. Errors: -EBUSY; what umount2(2) or fusermount3 say. */
int fs_mount_end(const char *path, const struct fs_mount *expected, bool lazily,
                 struct bg_err *err) BG_MUST_CHECK;
