/* The mounts of shares: made and ended by workers of the agent, found again in
 * /proc/self/mountinfo. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

#define SHARE_MOUNT_TYPE "fuse.bellglass-share"

struct share_mount_opts {
    const char *path; /* absolute, a folder */
    uint32_t id;      /* tells this share's mount from others: its stream's */
    bool read_only;
    uid_t uid; /* the guest's user */
    gid_t gid;
};

/* Makes the folder if it is not there, and those above it, each given to uid and gid.
 * Errors: -ENOTDIR, -ELOOP the last part is a symbolic link; errno of the calls. */
int share_folder_make(const char *path, uid_t uid, gid_t gid, struct bg_err *err) BG_MUST_CHECK;

/* Mounts. *ret_fuse_fd: /dev/fuse, non-blocking; only the caller's process may have it, since its
 * last close is what frees those who wait. Errors: -EBUSY a share is there; errno of open, mount.
 */
int share_mount(const struct share_mount_opts *opts, int *ret_fuse_fd,
                struct bg_err *err) BG_MUST_CHECK;

/* Unmounts the share that is mounted at path, if it is what is on top there. lazily: also while it
 * is in use. Errors: -EINVAL there is none; -EBUSY. */
int share_unmount(const char *path, bool lazily, struct bg_err *err) BG_MUST_CHECK;

/* Unmounts the share with this id lazily, wherever it is. 0 too if it is gone. */
int share_unmount_id(uint32_t id, struct bg_err *err) BG_MUST_CHECK;
