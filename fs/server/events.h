/* The kernel's records of fanotify(7), as values. Pure. Layout: <linux/fanotify.h>, event version
 * 3, with FAN_REPORT_DFID_NAME_TARGET. The machine is little-endian, as every one that bellglass
 * runs on. */
#pragma once

#include "common/bytes.h"
#include "common/err.h"

/* A file as the kernel names it: valid on the file system that fsid stands for. */
struct fs_event_file {
    uint64_t fsid; /* struct statfs's f_fsid; 0: not told */
    int32_t handle_type;
    const uint8_t *handle; /* borrowed */
    size_t handle_size;
    const char *name; /* in that folder; NUL-terminated, borrowed; NULL: the file itself */
};

struct fs_event {
    uint64_t mask;                  /* FAN_* */
    int32_t pid;                    /* who did it; 0: not in our view */
    struct fs_event_file file;      /* what it happened to; folder and name are in the next */
    struct fs_event_file folder;    /* where; FAN_RENAME: where it was */
    struct fs_event_file folder_to; /* FAN_RENAME: where it is */
};

/* Takes the next event. Returns 1, or 0 at the end. Errors: -EPROTO not what a kernel that we know
 * says. */
int fs_event_next(struct bg_reader *events, struct fs_event *ret, struct bg_err *err) BG_MUST_CHECK;
