/* fs/proto/change: what a file server tells its client, unasked, about changes that others make to
 * the files (docs/protocol.md, "FUSE stream"). Pure: bytes in, values out.
 *
 * A message has a reply's header with unique 0, then records to its end:
 *   0 u16 kinds | 2 u16 name_size | 4 u16 name2_size | 6 u16 0 | 8 u64 node | 16 u64 folder
 *   24 u64 folder2 | 32 name, name2
 * In one record kinds have happened in the order of their bits. MOVED: name in folder is now name2
 * in folder2; a folder that the client does not know is 0, then its name is not there. Other kinds:
 * name in folder, where it is known, is the place that the file was changed through. */
#pragma once

#include "common/bytes.h"
#include "common/err.h"
#include "common/limits.h"

#define FS_CHANGE_HEAD_SIZE 32u

enum fs_change_kind {
    FS_CHANGE_CREATED = 1,
    FS_CHANGE_MOVED = 2, /* alone, or with IS_FOLDER */
    FS_CHANGE_MODIFIED = 4,
    FS_CHANGE_ATTRIBUTES = 8,
    FS_CHANGE_WRITTEN = 16, /* closed after it was open for writing */
    FS_CHANGE_DELETED = 32,
    FS_CHANGE_IS_FOLDER = 64,   /* what the record is about; never alone */
    FS_CHANGE_EVERYTHING = 128, /* alone: changes have been lost, all may have changed */
    FS_CHANGE_ENDED = 256,      /* alone: no more changes will be told */
};

#define FS_CHANGE_HAPPENED                                                                         \
    (FS_CHANGE_CREATED | FS_CHANGE_MOVED | FS_CHANGE_MODIFIED | FS_CHANGE_ATTRIBUTES |             \
     FS_CHANGE_WRITTEN | FS_CHANGE_DELETED)

struct fs_change {
    uint32_t kinds;                 /* FS_CHANGE_* */
    uint64_t node, folder, folder2; /* 0: not known to the client, or none */
    const char *name, *name2;       /* borrowed, not NUL-terminated; NULL when size is 0 */
    size_t name_size, name2_size;
};

/* Starts a message in w; the records follow. */
void fs_changes_begin(struct bg_writer *w);
/* Adds a record. False, and nothing is written, when w has no room for it. */
bool fs_changes_add(struct bg_writer *w, const struct fs_change *change);
/* Writes the message's size; w starts at the message's start. */
void fs_changes_end(struct bg_writer *w);

/* Checks a whole message's header and gives a reader of its records. Errors: -EPROTO. */
int fs_changes_open(const uint8_t *bytes, size_t size, struct bg_reader *ret,
                    struct bg_err *err) BG_MUST_CHECK;
/* Takes the next record. Returns 1, or 0 at the end. Errors: -EPROTO. */
int fs_changes_next(struct bg_reader *records, struct fs_change *ret,
                    struct bg_err *err) BG_MUST_CHECK;
