/* File operations in the guest as host and guest speak of them on a files stream
 * (docs/protocol.md, "Files"): calls, their answers, and what a file is like. Pure: bytes in,
 * values out. The guest's are hostile bytes to the host. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/err.h"
#include "common/limits.h"

/* Request (body of a BG_STREAM_FILES header). */
struct bg_files_request {
    uint32_t umask; /* <= 0777 */
    char user[BG_NAME_MAX + 1];
};

int bg_files_request_parse(const uint8_t *bytes, size_t size, struct bg_files_request *ret,
                           struct bg_err *err) BG_MUST_CHECK;
void bg_files_request_emit(const struct bg_files_request *request, struct bg_writer *w);

/* What a call asks for; beside each, what follows the op in its frame, and what its answer has.
 * Paths are text32, relative ones from the user's home. */
enum bg_files_op {
    BG_FILES_STAT = 1,      /* u8 follow links, path: attributes */
    BG_FILES_LIST = 2,      /* path: entries, in several answers */
    BG_FILES_REMOVE = 3,    /* u8 recursive, path */
    BG_FILES_MKDIR = 4,     /* u8 recursive, u32 mode, path */
    BG_FILES_RENAME = 5,    /* path, new path */
    BG_FILES_COPY = 6,      /* path, new path */
    BG_FILES_LINK = 7,      /* target, path */
    BG_FILES_SYMLINK = 8,   /* target, path */
    BG_FILES_READLINK = 9,  /* path: blob32 */
    BG_FILES_REALPATH = 10, /* path: blob32 */
    BG_FILES_CHMOD = 11,    /* u32 mode, path */
    BG_FILES_CHOWN = 12,    /* u32 uid, u32 gid, path; 0xffffffff: as it is */
    BG_FILES_TRUNCATE = 13, /* u64 size, path */
    BG_FILES_UMASK = 14,    /* u32 */
    BG_FILES_UTIME = 15,    /* u64 atime, u64 mtime (ns since 1970, signed), path */
    BG_FILES_TEMP = 16, /* u8 folder, folder it is in ("": the usual one), prefix, suffix: blob32 */
    /* The rest is about the one file that the stream has open. */
    BG_FILES_OPEN = 17,     /* u32 BG_FILES_OPEN_*, u32 mode, path */
    BG_FILES_READ = 18,     /* u32 size: blob32, empty at the end */
    BG_FILES_WRITE = 19,    /* blob32: u32 written */
    BG_FILES_SEEK = 20,     /* u64 offset (signed), u8 whence 0..2: u64 position */
    BG_FILES_FSTAT = 21,    /* attributes */
    BG_FILES_RESIZE = 22,   /* u64 size */
    BG_FILES_SYNC = 23,     /* u8 data only */
    BG_FILES_LOCK = 24,     /* u8: 0 unlock, 1 shared, 2 exclusive; waits */
    BG_FILES_SET_TIME = 25, /* as UTIME, without path */
};

#define BG_FILES_OPEN_READ      1u
#define BG_FILES_OPEN_WRITE     2u
#define BG_FILES_OPEN_APPEND    4u
#define BG_FILES_OPEN_TRUNCATE  8u
#define BG_FILES_OPEN_CREATE    16u
#define BG_FILES_OPEN_EXCLUSIVE 32u
#define BG_FILES_OPEN_SET_MODE  64u /* the mode, without the umask, also if it was there */

/* Of one READ or WRITE: a frame has room for it. */
#define BG_FILES_DATA_MAX (BG_FRAME_SIZE_MAX - 16)

/* An answer's frame: i32 status (0 or a negative errno), u8 more (1: another one follows to the
 * same call), and what the op says. */
struct bg_files_answer {
    int32_t status;
    bool more;
};

void bg_files_answer_emit(const struct bg_files_answer *answer, struct bg_writer *w);
/* Leaves *r at what the op says. Errors: -EPROTO. */
int bg_files_answer_parse(struct bg_reader *r, struct bg_files_answer *ret,
                          struct bg_err *err) BG_MUST_CHECK;

struct bg_files_attributes {
    uint32_t mode; /* with the type, as in stat(2) */
    uint32_t nlink, uid, gid, block_size;
    uint64_t size, blocks, inode, device, special_device;
    int64_t atime_ns, mtime_ns, ctime_ns, birth_ns;
};

void bg_files_attributes_emit(const struct bg_files_attributes *a, struct bg_writer *w);
/* Look at bg_reader_end() after it. */
struct bg_files_attributes bg_files_attributes_parse(struct bg_reader *r);

/* An entry of a folder: u8 type (S_IFMT >> 12), text32 name. */
void bg_files_entry_emit(uint8_t type, const char *name, struct bg_writer *w);
/* name: BG_NAME_MAX + 1 bytes; not empty, without '/', not . or .. False: malformed. */
bool bg_files_entry_parse(struct bg_reader *r, uint8_t *ret_type,
                          char name[BG_NAME_MAX + 1]) BG_MUST_CHECK;
