/* fs/proto: the FUSE protocol as one table: for each opcode the layout of its request and of its
 * reply, what follows the fixed part, which errors an answer may carry and how long it may take.
 * Relay, server, tests and fuzzers all encode and decode through it. Pure: bytes in, values out;
 * nothing here trusts its input.
 *
 * A message is a header and a payload: a fixed part of little-endian integers, then names (each
 * with a NUL after it) and data. Decoded values live in one struct for all opcodes: a member that
 * the opcode does not have is 0. Layouts are those of <linux/fuse.h>, protocol 7.31 to 7.38,
 * without the features that change them (SETXATTR_EXT, SECURITY_CTX), which bellglass never
 * negotiates. */
#pragma once

#include <linux/fuse.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/err.h"
#include "common/limits.h"

#define FS_REQUEST_HEADER_SIZE 40u
#define FS_REPLY_HEADER_SIZE   16u
#define FS_OPCODE_MAX          52u /* table size: opcodes are 1 .. FS_OPCODE_MAX - 1 */
#define FS_FORGET_SIZE         16u /* one entry of BATCH_FORGET */

/* What follows the fixed part of a request. */
enum fs_tail {
    FS_TAIL_NONE,
    FS_TAIL_NAME,      /* name */
    FS_TAIL_NAME_NAME, /* name, name2 */
    FS_TAIL_NAME_TEXT, /* name, text: target of a symbolic link */
    FS_TAIL_DATA,      /* data, its size is the member size */
    FS_TAIL_NAME_DATA, /* name, data */
    FS_TAIL_FORGETS,   /* data: count entries of FS_FORGET_SIZE */
};

/* What a successful reply holds. */
enum fs_reply_kind {
    FS_REPLY_NONE, /* the request has no reply */
    FS_REPLY_EMPTY,
    FS_REPLY_ENTRY,      /* a node, with a reference to it */
    FS_REPLY_ATTR,       /* attributes */
    FS_REPLY_OPEN,       /* a handle; for OPEN at most BG_FS_AHEAD_MAX bytes of the file */
    FS_REPLY_ENTRY_OPEN, /* both: CREATE */
    FS_REPLY_DATA,       /* at most request.size bytes */
    FS_REPLY_TEXT,       /* 1 .. 4095 bytes: target of a symbolic link */
    FS_REPLY_DIRENTS,    /* at most request.size bytes of fs_dirent records */
    FS_REPLY_DIRENTS_PLUS,
    FS_REPLY_COUNT, /* bytes written or copied, at most request.size */
    FS_REPLY_STATFS,
    FS_REPLY_LOCK,
    FS_REPLY_XATTR, /* request.size 0: the size there is; else at most that many bytes */
    FS_REPLY_OFFSET,
    FS_REPLY_OTHER, /* INIT, IOCTL, POLL, BMAP: never on our streams */
};

/* WRITE, flags2: nobody will look at the count, so an error counts even if some was written. Beyond
 * the kernel's protocol. */
#define FS_WRITE_WHOLE (1u << 31)

/* WRITE, flags2: data is one or more pieces, to be written in this order: u64 offset, u32 size (at
 * least 1), u32 0, and so many bytes. The request's own offset means nothing. Only with
 * FS_WRITE_WHOLE, and to a server that knows it (FS_HELLO_PIECES). */
#define FS_WRITE_PIECES (1u << 30)
#define FS_PIECE_SIZE   16u /* without the bytes */

/* OPEN, flags2: if the file is no larger than BG_FS_AHEAD_MAX, what is in it follows the answer's
 * fixed part. Likewise. */
#define FS_OPEN_READ (1u << 31)

/* How long a person may have to wait for an answer. */
enum fs_class { FS_CLASS_META, FS_CLASS_DATA, FS_CLASS_SYNC, FS_CLASS_WAIT /* no deadline */ };

struct fs_request {
    uint32_t opcode; /* in the table */
    uint64_t unique, node;
    uint32_t caller_uid, caller_gid, caller_pid;

    uint64_t node2; /* new folder, old node of LINK, target of COPY_FILE_RANGE */
    uint64_t fh, fh2;
    uint64_t offset, offset2;
    uint64_t size;   /* of I/O, of a value, or wanted at most */
    uint64_t flags;  /* the operation's own: open(2), rename, fsync, getattr, lock, copy ... */
    uint64_t flags2; /* open_flags, read_flags, write_flags, release_flags */
    uint64_t owner;  /* of locks */
    uint64_t valid;  /* FATTR_* */
    uint64_t atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns;
    uint64_t mode, umask, rdev, uid, gid;
    uint64_t mask;           /* ACCESS */
    uint64_t whence;         /* LSEEK */
    uint64_t nlookup, count; /* FORGET, BATCH_FORGET */
    uint64_t interrupted;    /* INTERRUPT: the unique of the other request */
    uint64_t lock_start, lock_end, lock_type, lock_pid;

    const char *name, *name2;     /* NUL-terminated, borrowed from the input; else NULL */
    size_t name_size, name2_size; /* without the NUL */
    const uint8_t *data;          /* borrowed */
    size_t data_size;
};

struct fs_attr {
    uint64_t ino, size, blocks;
    uint64_t atime, mtime, ctime; /* seconds, two's complement */
    uint64_t atime_ns, mtime_ns, ctime_ns;
    uint64_t mode, nlink, uid, gid, rdev, blksize, flags;
};

struct fs_statfs {
    uint64_t blocks, bfree, bavail, files, ffree, bsize, namelen, frsize;
};

struct fs_reply {
    uint64_t unique;
    int32_t error; /* 0 or negative errno; then the rest is 0 */

    uint64_t node, generation;
    uint64_t entry_valid, entry_valid_ns, attr_valid, attr_valid_ns;
    struct fs_attr attr;
    uint64_t fh, open_flags;
    uint64_t size; /* COUNT, or XATTR without data */
    uint64_t offset;
    uint64_t lock_start, lock_end, lock_type, lock_pid;
    struct fs_statfs statfs;

    const uint8_t *data; /* borrowed: DATA, TEXT, DIRENTS, XATTR, OPEN */
    size_t data_size;
};

/* One integer of a fixed part: its width on the wire and the member it is (bytes from the start of
 * the struct), or FS_PAD for one that nobody looks at. Width 0 ends the list. */
#define FS_PAD       UINT16_MAX
#define FS_ITEMS_MAX 32u

struct fs_item {
    uint8_t width; /* 2, 4 or 8 */
    uint16_t member;
};

struct fs_op {
    const char *name; /* NULL: no such opcode */
    enum fs_tail tail;
    enum fs_reply_kind reply;
    enum fs_class class;
    uint32_t traits; /* which kinds of error its answer may carry, and whether it changes files */
    struct fs_item request[FS_ITEMS_MAX];
};

/* The table's row; NULL for an opcode that is not in it. */
const struct fs_op *fs_op_find(uint32_t opcode);

/* True for operations that are refused on a read-only stream (OPEN depends on its flags). */
bool fs_op_mutates(uint32_t opcode);

/* True when the request's fixed part has a handle (GETATTR and SETATTR: if their flag says so). */
bool fs_op_has_handle(uint32_t opcode);

/* True when an answer to opcode may carry this errno (negative). */
bool fs_error_allowed(uint32_t opcode, int32_t error);

/* How long the message is that starts with these four bytes, checked to be one that can be:
 * header_size .. BG_FS_MESSAGE_MAX. Errors: -EPROTO. */
int fs_message_size(const uint8_t bytes[4], size_t header_size, size_t *ret_size,
                    struct bg_err *err) BG_MUST_CHECK;

/* Parses a whole request; ret borrows from bytes. Names are non-empty, without '/', of at most
 * BG_FS_NAME_MAX bytes and neither "." nor "..", a link's text has 1 .. BG_PATH_MAX - 1 bytes.
 * INIT's payload is not looked at (fs_init_parse). Errors: -EPROTO malformed; -ENOSYS the opcode is
 * not in the table; -ENAMETOOLONG. For the last two, ret's header members are valid. */
int fs_request_parse(const uint8_t *bytes, size_t size, struct fs_request *ret,
                     struct bg_err *err) BG_MUST_CHECK;

/* Writes header, fixed part and names; the length it states counts data_size bytes that the caller
 * sends after it. w fails if it does not fit or a member does not fit its width. */
void fs_request_emit(const struct fs_request *request, struct bg_writer *w);

/* Parses a whole reply to opcode; ret borrows from bytes. Checks the layout only: the caller checks
 * values against its request. Errors: -EPROTO. */
int fs_reply_parse(uint32_t opcode, const uint8_t *bytes, size_t size, struct fs_reply *ret,
                   struct bg_err *err) BG_MUST_CHECK;

/* Writes header and fixed part, as fs_request_emit. XATTR: with data if data_size > 0 or size is 0
 * and data is not NULL. */
void fs_reply_emit(uint32_t opcode, const struct fs_reply *reply, struct bg_writer *w);

/* unique of a reply whose opcode is not known yet. bytes: FS_REPLY_HEADER_SIZE of them. */
uint64_t fs_reply_unique(const uint8_t *bytes);

/* One entry of BATCH_FORGET's data. index < request.count. */
void fs_forget_at(const struct fs_request *request, size_t index, uint64_t *ret_node,
                  uint64_t *ret_nlookup);

/* A folder's entries. In READDIRPLUS each comes with what LOOKUP would have said; reply.node 0: not
 * looked up, no reference. */
struct fs_dirent {
    struct fs_reply entry; /* plus only: node, generation, validity, attr */
    uint64_t ino, offset;
    uint32_t type;    /* DT_* */
    const char *name; /* borrowed; not NUL-terminated, not checked */
    size_t name_size; /* 1 .. BG_FS_NAME_MAX */
};

/* Takes the next record. False at the end, or when what is left is malformed: r tells which. */
bool fs_dirent_parse(struct bg_reader *r, bool plus, struct fs_dirent *ret);

/* Size of the record with its padding. */
size_t fs_dirent_size(const struct fs_dirent *entry, bool plus);
void fs_dirent_emit(const struct fs_dirent *entry, bool plus, struct bg_writer *w);

/* INIT is between the kernel and the relay only. */
struct fs_init {
    uint32_t major, minor, max_readahead;
    uint64_t flags; /* with flags2 in the upper half when the kernel has INIT_EXT */
    uint16_t max_background, congestion_threshold, max_pages;
    uint32_t max_write, time_gran;
};

/* payload: what follows the request's header. Errors: -EPROTO. */
int fs_init_parse(const uint8_t *payload, size_t size, struct fs_init *ret,
                  struct bg_err *err) BG_MUST_CHECK;
void fs_init_reply_emit(uint64_t unique, const struct fs_init *init, struct bg_writer *w);

/* Hello: what each side says first on a stream, before any message (docs/protocol.md, "FUSE
 * stream"). */
#define FS_HELLO_SIZE      32u
#define FS_HELLO_VERSION   1u
#define FS_HELLO_READ_ONLY 1u /* server: refuses changes; client: will make none */
#define FS_HELLO_ALL_USERS                                                                         \
    2u /* server: requests have all rights, so every file counts as the user's */
#define FS_HELLO_WHOLE       4u /* server: the folder is the root of its machine */
#define FS_HELLO_FEED        8u /* server: can tell of changes (change.h); client: wants to be told */
#define FS_HELLO_CLEAN_LINKS 16u /* client: links' texts shall have ".." at their start only */
#define FS_HELLO_PIECES      32u /* server: knows FS_WRITE_PIECES */

struct fs_hello {
    bool server;       /* which side speaks */
    uint32_t flags;    /* FS_HELLO_* */
    uint32_t uid, gid; /* server: whose rights the requests have */
    uint64_t boot;     /* server: another value after each start of its machine; 0: unknown */
};

/* Parses exactly FS_HELLO_SIZE untrusted bytes. Errors: -EPROTO. */
int fs_hello_parse(const uint8_t *bytes, size_t size, bool from_server, struct fs_hello *ret,
                   struct bg_err *err) BG_MUST_CHECK;
void fs_hello_emit(const struct fs_hello *hello, uint8_t out[FS_HELLO_SIZE]);

/* Names as they may stand in a path: 1 .. BG_FS_NAME_MAX bytes, no '/', no NUL, not "." or "..". */
bool fs_name_ok(const char *name, size_t size);
