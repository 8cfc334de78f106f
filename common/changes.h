/* The layer of a copy-on-write share as host and guest speak of it (docs/protocol.md, "Changes"):
 * what one stream asks for, and the records of what lies in the layer. Pure: bytes in, values out.
 * The guest's are hostile bytes to the host. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/err.h"
#include "common/limits.h"

enum bg_changes_op {
    BG_CHANGES_LIST = 0,    /* all records of the layer, without contents */
    BG_CHANGES_FETCH = 1,   /* the named files with their contents */
    BG_CHANGES_SETTLE = 2,  /* drop what the folder below has by now, if it is still as named */
    BG_CHANGES_DISCARD = 3, /* drop the named, whatever it is by now */
    BG_CHANGES_MOUNT = 4,   /* lay the layer over the share, and show both at a path */
    BG_CHANGES_NEW = 5,     /* the same with an empty layer */
    BG_CHANGES_UNMOUNT = 6, /* take that away; -EBUSY: it is in use */
    BG_CHANGES_DETACH = 7,  /* also while it is in use */
};

/* Request (body of a BG_STREAM_CHANGES header). */
struct bg_changes_request {
    uint8_t op;             /* enum bg_changes_op, checked */
    uint32_t share;         /* its id in the sandbox, > 0 */
    char path[BG_PATH_MAX]; /* from MOUNT on: where it is shown, absolute and not "/"; else "" */
};

/* Where the guest has the parts of share N: BG_CHANGES_FOLDER/N/lower is where the plain, read-only
 * share is mounted, upper is the layer. Root's alone. */
#define BG_CHANGES_FOLDER "/var/lib/bellglass/cow"

int bg_changes_request_parse(const uint8_t *bytes, size_t size, struct bg_changes_request *ret,
                             struct bg_err *err) BG_MUST_CHECK;
void bg_changes_request_emit(const struct bg_changes_request *request, struct bg_writer *w);

enum bg_change_type {
    BG_CHANGE_FILE = 1,
    BG_CHANGE_FOLDER = 2,
    BG_CHANGE_SYMLINK = 3,
    BG_CHANGE_REMOVED = 4, /* a whiteout: what the folder below has under this name is hidden */
    BG_CHANGE_SPECIAL = 5, /* a pipe, socket or device: told, never fetched */
};

#define BG_CHANGE_OPAQUE 1u /* of a folder: nothing of the folder below shows in it */
#define BG_CHANGE_NEWER  2u /* in an answer to SETTLE: changed since, so it was kept */
#define BG_CHANGE_BUSY   4u /* likewise: a process has it open, so it was kept */

struct bg_change {
    uint8_t type;  /* enum bg_change_type, checked */
    uint8_t flags; /* BG_CHANGE_*, checked */
    uint16_t mode; /* permission bits, <= 07777 */
    uint64_t size; /* bytes, <= INT64_MAX; of files only */
    /* Together with type, mode and size: the same as before means the same contents. */
    uint64_t mtime_ns, ctime_ns, inode;
    char path[BG_PATH_MAX];   /* below the share's folder; bg_changes_path_ok */
    char target[BG_PATH_MAX]; /* of a symlink, not empty; else "" */
};

/* A record is a u32 with its size and then this many bytes at most. */
#define BG_CHANGE_RECORD_MAX (44 + 2 * BG_PATH_MAX)

/* True for what may be a path below a share: not absolute, no empty, "." or ".." component, each at
 * most BG_NAME_MAX bytes, at most BG_CHANGES_DEPTH_MAX of them. */
bool bg_changes_path_ok(const char *path);

/* Parses one record (without the size before it). Errors: -EPROTO. */
int bg_change_parse(const uint8_t *bytes, size_t size, struct bg_change *ret,
                    struct bg_err *err) BG_MUST_CHECK;

/* Writes the record with its size before it. */
void bg_change_emit(const struct bg_change *change, struct bg_writer *w);

/* True if both say the same of one path, so that its contents need not be read again. */
bool bg_change_same(const struct bg_change *a, const struct bg_change *b);

/* After a fetched file's record come its `size` bytes and one byte of this. */
enum bg_change_read {
    BG_CHANGE_READ_WHOLE = 0,
    BG_CHANGE_READ_TORN = 1, /* it was written to meanwhile: not to be used */
    BG_CHANGE_READ_GONE = 2, /* it could not be read to its end (the rest is zeros) */
};
