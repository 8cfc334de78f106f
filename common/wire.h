/* What host and guest say to each other on a vsock connection (docs/protocol.md, "Streams"): the
 * header that opens a stream, the reply to it, and the frames of session, exec and copy streams.
 * Pure: bytes in, values out; both sides are hostile to this code. All integers little endian. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/err.h"
#include "common/limits.h"

/* Where each side listens. Ports below 1024 need CAP_NET_BIND_SERVICE in the guest. */
#define BG_VSOCK_HOST_CID    2u
#define BG_VSOCK_GUEST_CID   3u   /* the same in every guest: each has a private device */
#define BG_VSOCK_AGENT_PORT  700u /* agent listens: streams opened by the host */
#define BG_VSOCK_EGRESS_PORT 701u /* host listens: egress connects by the guest */

#define BG_WIRE_MAGIC       0x534c4742u /* "BGLS" */
#define BG_WIRE_REPLY_MAGIC 0x524c4742u /* "BGLR" */
#define BG_WIRE_VERSION     1u

enum bg_stream_kind {
    BG_STREAM_SESSION = 1,  /* host -> guest, one at a time */
    BG_STREAM_EXEC = 2,     /* host -> guest */
    BG_STREAM_COPY = 3,     /* host -> guest */
    BG_STREAM_FUSE = 4,     /* host -> guest */
    BG_STREAM_FORWARD = 5,  /* host -> guest: TCP to a port inside */
    BG_STREAM_BENCH = 6,    /* host -> guest: echo, sink, source */
    BG_STREAM_WATCH = 7,    /* host -> guest: what happens to its files */
    BG_STREAM_SHARE = 8,    /* host -> guest: a folder of the host for the guest */
    BG_STREAM_CHANGES = 9,  /* host -> guest: the layer of a copy-on-write share */
    BG_STREAM_FILES = 10,   /* host -> guest: file operations */
    BG_STREAM_DISK = 12,    /* host -> guest: mounts a second disk */
    BG_STREAM_EXECS = 13,   /* host -> guest: which execs there are */
    BG_STREAM_VOLUME = 14,  /* host -> guest: mounts a volume */
    BG_STREAM_CONNECT = 16, /* guest -> host: egress */
};

#define BG_STREAM_HEADER_SIZE 36u

#define BG_STREAM_RESUME 1u /* goes on with the stream of this kind and id; the body is a u64 */

struct bg_stream_header {
    uint16_t kind;      /* enum bg_stream_kind, checked */
    uint32_t id;        /* not 0; unique among the opener's streams since its boot or fork */
    uint32_t flags;     /* BG_STREAM_RESUME or 0 */
    uint8_t resume[16]; /* all zero: the stream does not survive a reconnect */
    uint32_t body_size; /* bytes that follow, <= BG_STREAM_BODY_MAX */
};

/* Parses exactly BG_STREAM_HEADER_SIZE untrusted bytes. Errors: -EPROTO magic, version, kind, flags
 * or size is off. */
int bg_stream_header_parse(const uint8_t *bytes, size_t size, struct bg_stream_header *ret,
                           struct bg_err *err) BG_MUST_CHECK;

/* How a stream goes on after its connection was taken away on purpose (docs/protocol.md,
 * "Resumption"). The body of a RESUME header: how many bytes of the stream's other side the opener
 * has. The body of the reply: how many of the opener's the other side has read. */
#define BG_RESUME_SIZE 8u
#define BG_RESUME_ANY  UINT64_MAX /* instead of a count: the opener's client reads no more */

/* Writes BG_STREAM_HEADER_SIZE bytes. */
void bg_stream_header_emit(const struct bg_stream_header *header,
                           uint8_t out[BG_STREAM_HEADER_SIZE]);

/* The reply that the accepting side sends before anything else. */
#define BG_REPLY_HEADER_SIZE 12u

struct bg_reply_header {
    int32_t status;     /* 0 or negative Linux errno */
    uint32_t body_size; /* <= BG_REPLY_TEXT_MAX: the error's text, or what the kind defines */
};

/* Parses exactly BG_REPLY_HEADER_SIZE untrusted bytes. Errors: -EPROTO. */
int bg_reply_header_parse(const uint8_t *bytes, size_t size, struct bg_reply_header *ret,
                          struct bg_err *err) BG_MUST_CHECK;
void bg_reply_header_emit(const struct bg_reply_header *reply, uint8_t out[BG_REPLY_HEADER_SIZE]);

/* Frames of session, exec and copy streams: u8 type, 3 zero bytes, u32 payload size, payload. */
#define BG_FRAME_HEADER_SIZE 8u

enum bg_frame_type {
    /* exec, host -> guest */
    BG_FRAME_STDIN = 1,     /* bytes, within the window */
    BG_FRAME_STDIN_EOF = 2, /* empty */
    BG_FRAME_RESIZE = 3,    /* u16 rows, u16 columns */
    BG_FRAME_SIGNAL = 4,    /* u32 Linux signal number, 1..64 */
    BG_FRAME_LEAVE = 5,     /* empty: the command goes on without us; our last frame */
    /* exec, guest -> host */
    BG_FRAME_STDOUT = 16,
    BG_FRAME_STDERR = 17,
    BG_FRAME_WINDOW = 18, /* u32: more stdin bytes may be sent */
    BG_FRAME_EXIT = 19,   /* u32 how (enum bg_exit_how), u32 status or signal; last frame */
    BG_FRAME_TAKEN = 20,  /* empty: another stream has been attached in our place; last frame */
    /* execs, guest -> host; END is the last one */
    BG_FRAME_EXEC_INFO = 24, /* struct bg_exec_info */
    /* copy, both ways */
    BG_FRAME_DATA = 32, /* tar bytes */
    BG_FRAME_END = 33,  /* i32 status, then text; last frame of its sender */
    /* session, host -> guest */
    BG_FRAME_IDENTITY = 48,
    BG_FRAME_PING = 49,     /* u64 sequence number */
    BG_FRAME_SHUTDOWN = 50, /* empty: sync, end all processes, power off */
    BG_FRAME_PREPARE = 51,  /* u8: 1 of the disk alone. A snapshot follows; answered by PREPARED */
    BG_FRAME_GO_ON = 52,    /* u8 enum bg_go_on: the end of what PREPARE began */
    BG_FRAME_WARM = 53,     /* empty: before IDENTITY, which may be long in coming; by WARMED */
    /* session, guest -> host */
    BG_FRAME_HELLO = 64,    /* u32 protocol version, text32 agent version */
    BG_FRAME_READY = 65,    /* i32 status, then text: the identity is in force (or why not) */
    BG_FRAME_PONG = 66,     /* u64 sequence number */
    BG_FRAME_LOG = 67,      /* text for the sandbox's log */
    BG_FRAME_PREPARED = 68, /* empty, or struct bg_page_records */
    BG_FRAME_WARMED = 69,   /* empty */
    /* watch, guest -> host; END is the last one if it goes wrong */
    BG_FRAME_CHANGE = 80, /* struct bg_watch_change */
    /* files */
    BG_FRAME_CALL = 96,   /* host -> guest: u8 enum bg_files_op and what it says */
    BG_FRAME_ANSWER = 97, /* guest -> host: struct bg_files_answer and what the op says */
};

/* What has become of the streams that stopped at PREPARE. */
enum bg_go_on {
    BG_GO_ON_ALIVE = 0,   /* no connection was taken away: all go on with theirs */
    BG_GO_ON_RESUMED = 1, /* those that were resumed go on, the others have ended */
};

enum bg_exit_how { BG_EXIT_STATUS = 0, BG_EXIT_SIGNAL = 1 };

struct bg_frame_header {
    uint8_t type;  /* not checked against the enum: that is the stream's own rule */
    uint32_t size; /* <= BG_FRAME_SIZE_MAX, or size_max given to parse */
};

/* Parses exactly BG_FRAME_HEADER_SIZE untrusted bytes. Errors: -EPROTO padding set or size above
 * size_max. */
int bg_frame_header_parse(const uint8_t *bytes, size_t size, uint32_t size_max,
                          struct bg_frame_header *ret, struct bg_err *err) BG_MUST_CHECK;
void bg_frame_header_emit(uint8_t type, uint32_t size, uint8_t out[BG_FRAME_HEADER_SIZE]);

/* An IDENTITY frame may be as large as a header body: the CA and the environment are in it. */
#define BG_IDENTITY_SIZE_MAX BG_STREAM_BODY_MAX

/* Exec request (body of a BG_STREAM_EXEC header). */
#define BG_EXEC_TTY       1u   /* a pty; stdout carries all output */
#define BG_EXEC_CLEAR_ENV 2u   /* nothing but PATH and the request's own env */
#define BG_EXEC_DETACH    4u   /* a stream that ends early closes its pipes, and kills nothing */
#define BG_EXEC_ALONE     128u /* the stream ends with the reply, and the command is kept */

struct bg_exec_request {
    uint32_t flags;
    uint16_t rows, columns;     /* of the pty; 0: 24 x 80 */
    char user[BG_NAME_MAX + 1]; /* "": the image's default user */
    char cwd[BG_PATH_MAX];      /* "": the user's home */
    uint32_t argc, envc;        /* argc >= 1 */
    const uint8_t *strings;     /* borrowed from the body: argc + envc blobs, checked */
    size_t strings_size;
};

/* Parses the body of an exec request; ret->strings borrows from bytes. Every string is without NUL
 * and within the body; walk them with bg_reader_blob32le. Errors: -EPROTO malformed; -E2BIG too
 * many strings. */
int bg_exec_request_parse(const uint8_t *bytes, size_t size, struct bg_exec_request *ret,
                          struct bg_err *err) BG_MUST_CHECK;

/* The other form of an exec's body: the stream is attached to a command that runs already. */
#define BG_EXEC_ATTACH 8u  /* always; says which form it is */
#define BG_EXEC_STEAL  16u /* from who is attached; without: -EBUSY */
#define BG_EXEC_KEPT   32u /* all output that is kept is wanted, whatever was read before */
#define BG_EXEC_OWN    64u /* the end of this stream ends the command, as it was begun */

struct bg_exec_attach {
    uint32_t flags;
    uint16_t rows, columns;  /* of the pty; 0: as it is */
    uint32_t pid;            /* as the exec's reply had it; 0: the only command there is */
    uint64_t out_at, err_at; /* bytes of its outputs that the host has */
};

/* True if the body of an exec request has that form. */
bool bg_exec_is_attach(const uint8_t *bytes, size_t size);
int bg_exec_attach_parse(const uint8_t *bytes, size_t size, struct bg_exec_attach *ret,
                         struct bg_err *err) BG_MUST_CHECK;
void bg_exec_attach_emit(const struct bg_exec_attach *attach, struct bg_writer *w);

/* The body of the reply to it. */
#define BG_EXEC_ATTACHED_SIZE 36u
#define BG_EXEC_IS_TTY        1u
#define BG_EXEC_STDIN_ENDED   2u

struct bg_exec_attached {
    uint32_t pid, flags;
    uint64_t out_at, err_at; /* where its outputs go on: later than asked for if some is lost */
    uint64_t stdin_taken;    /* bytes of stdin that the agent has got in all */
    uint32_t stdin_owed;     /* of these, those that no WINDOW has given back; <= the window */
};

/* Parses exactly BG_EXEC_ATTACHED_SIZE untrusted bytes. Errors: -EPROTO. */
int bg_exec_attached_parse(const uint8_t *bytes, size_t size, struct bg_exec_attached *ret,
                           struct bg_err *err) BG_MUST_CHECK;
void bg_exec_attached_emit(const struct bg_exec_attached *attached, struct bg_writer *w);

/* One command, on an execs stream. */
#define BG_EXEC_INFO_TTY      1u
#define BG_EXEC_INFO_ATTACHED 2u
#define BG_EXEC_INFO_ENDED    4u /* its end has been told to nobody yet */

struct bg_exec_info {
    uint32_t pid, flags;
    uint64_t age_ms;
    uint64_t waiting;              /* bytes of output that are kept */
    char command[BG_NAME_MAX + 1]; /* its arguments, cut */
};

int bg_exec_info_parse(const uint8_t *bytes, size_t size, struct bg_exec_info *ret,
                       struct bg_err *err) BG_MUST_CHECK;
void bg_exec_info_emit(const struct bg_exec_info *info, struct bg_writer *w);

/* Copy request (body of a BG_STREAM_COPY header). The tar's entries are `root` and `root/...`,
 * where root is the given name; see docs/protocol.md for where it lands. */
enum bg_copy_direction { BG_COPY_INTO_GUEST = 0, BG_COPY_OUT_OF_GUEST = 1 };
#define BG_COPY_UNPACK 1u /* into the guest: entries go below path as they are named */
#define BG_COPY_DISK   2u /* path, user and home are those of the disk that a disk stream mounted */

struct bg_copy_request {
    uint8_t direction; /* enum bg_copy_direction, checked */
    uint32_t flags;
    char user[BG_NAME_MAX + 1];
    char path[BG_PATH_MAX];     /* in the guest; relative: to the user's home */
    char root[BG_NAME_MAX + 1]; /* name of the top entry in the tar; one component */
};

int bg_copy_request_parse(const uint8_t *bytes, size_t size, struct bg_copy_request *ret,
                          struct bg_err *err) BG_MUST_CHECK;
/* Errors of the emitters: w fails if the request does not fit. */
void bg_copy_request_emit(const struct bg_copy_request *request, struct bg_writer *w);

/* Identity (payload of BG_FRAME_IDENTITY): what makes a fork itself. */
#define BG_IDENTITY_GOLDEN 1u /* the guest is about to become the golden snapshot */
#define BG_IDENTITY_CONTINUE                                                                       \
    2u                       /* it goes on after its snapshot: only clock and entropy are new      \
                              */
#define BG_IDENTITY_AGAIN 4u /* it was restored from a snapshot: connections are gone */

struct bg_identity {
    uint32_t flags;
    uint64_t realtime_ns; /* CLOCK_REALTIME to set */
    uint8_t entropy[64];  /* credited, then the generator is reseeded */
    uint8_t machine_id[16];
    char hostname[64 + 1];
    char sandbox_id[64 + 1];
    const uint8_t *ca_pem; /* borrowed; trusted by the guest's TLS clients; may be empty */
    size_t ca_pem_size;
    uint32_t envc;      /* environment of every exec: "K=V" */
    const uint8_t *env; /* borrowed: envc blobs, checked, without NUL */
    size_t env_size;
};

int bg_identity_parse(const uint8_t *bytes, size_t size, struct bg_identity *ret,
                      struct bg_err *err) BG_MUST_CHECK;
void bg_identity_emit(const struct bg_identity *identity, struct bg_writer *w);

/* Egress request (body of a BG_STREAM_CONNECT header). */
enum bg_connect_form {
    BG_CONNECT_NAME = 1,    /* the guest looked host up and dialled its synthetic address */
    BG_CONNECT_ADDRESS = 2, /* the guest dialled this address literal */
};

struct bg_connect_request {
    uint8_t form;               /* enum bg_connect_form, checked */
    uint16_t port;              /* not 0 */
    char host[BG_NAME_MAX + 1]; /* 1..255 bytes, no NUL; otherwise unchecked */
};

int bg_connect_request_parse(const uint8_t *bytes, size_t size, struct bg_connect_request *ret,
                             struct bg_err *err) BG_MUST_CHECK;
void bg_connect_request_emit(const struct bg_connect_request *request, struct bg_writer *w);

/* Bench request (body of a BG_STREAM_BENCH header): what the agent does with the bytes. */
enum bg_bench_mode {
    BG_BENCH_ECHO = 0,   /* sends back what it gets */
    BG_BENCH_SINK = 1,   /* reads `bytes` bytes, then sends one byte and closes */
    BG_BENCH_SOURCE = 2, /* sends `bytes` zero bytes and closes */
};

struct bg_bench_request {
    uint8_t mode; /* checked */
    uint64_t bytes;
};

int bg_bench_request_parse(const uint8_t *bytes, size_t size, struct bg_bench_request *ret,
                           struct bg_err *err) BG_MUST_CHECK;
void bg_bench_request_emit(const struct bg_bench_request *request, struct bg_writer *w);

/* Forward request (body of a BG_STREAM_FORWARD header): u16 port on the guest's loopback. */
int bg_forward_request_parse(const uint8_t *bytes, size_t size, uint16_t *ret_port,
                             struct bg_err *err) BG_MUST_CHECK;

/* FUSE request (body of a BG_STREAM_FUSE header): which folder to serve, as whom. */
#define BG_FUSE_READ_ONLY 1u
#define BG_FUSE_AS_ROOT   2u /* host writes are made as the guest's root, not its default user */
#define BG_FUSE_DISK      4u /* path and user are those of the disk that a disk stream mounted */

struct bg_fuse_request {
    uint32_t flags;
    char path[BG_PATH_MAX]; /* absolute, in the guest */
};

int bg_fuse_request_parse(const uint8_t *bytes, size_t size, struct bg_fuse_request *ret,
                          struct bg_err *err) BG_MUST_CHECK;
void bg_fuse_request_emit(const struct bg_fuse_request *request, struct bg_writer *w);

/* Share request (body of a BG_STREAM_SHARE header): where a folder of the host is mounted in the
 * guest, or which of those mounts is to end. */
#define BG_SHARE_READ_ONLY 1u
#define BG_SHARE_END       2u /* unmount the share at path; -EBUSY: it is in use */
#define BG_SHARE_LAZY      4u /* with END: also while it is in use */

struct bg_share_request {
    uint32_t flags;
    char path[BG_PATH_MAX]; /* absolute, in the guest; not "/" */
};

int bg_share_request_parse(const uint8_t *bytes, size_t size, struct bg_share_request *ret,
                           struct bg_err *err) BG_MUST_CHECK;
void bg_share_request_emit(const struct bg_share_request *request, struct bg_writer *w);

/* Watch request (body of a BG_STREAM_WATCH header): u32 flags = 0, text32 absolute path of a folder
 * or file. path: BG_PATH_MAX bytes. */
int bg_watch_request_parse(const uint8_t *bytes, size_t size, char path[BG_PATH_MAX],
                           struct bg_err *err) BG_MUST_CHECK;
void bg_watch_request_emit(const char *path, struct bg_writer *w);

/* What happened, in the order of the bits. MOVED and LOST come alone. */
enum bg_watch_kind {
    BG_WATCH_CREATED = 1,
    BG_WATCH_MOVED = 2,
    BG_WATCH_MODIFIED = 4,
    BG_WATCH_ATTRIBUTES = 8,
    BG_WATCH_WRITTEN = 16, /* closed after it was open for writing */
    BG_WATCH_DELETED = 32,
    BG_WATCH_IS_FOLDER = 64, /* with any of those */
    BG_WATCH_LOST = 128,     /* events were dropped: anything may have happened */
};

struct bg_watch_change {
    uint32_t kinds;
    char path[BG_PATH_MAX]; /* absolute; "" with LOST, or MOVED to a place that is not watched */
    char old_path[BG_PATH_MAX]; /* MOVED only: "" from a place that is not watched */
};

int bg_watch_change_parse(const uint8_t *bytes, size_t size, struct bg_watch_change *ret,
                          struct bg_err *err) BG_MUST_CHECK;
void bg_watch_change_emit(const struct bg_watch_change *change, struct bg_writer *w);

/* Disk request (body of a BG_STREAM_DISK header): which disk to mount, and how. */
#define BG_DISK_READ_ONLY  1u /* mounted read-only; the journal is replayed all the same */
#define BG_DISK_REPAIR     2u /* errors that need a decision are repaired, not refused */
#define BG_DISK_SERIAL_MAX 20 /* bytes of a virtio disk's serial number */

struct bg_disk_request {
    uint32_t flags;
    char serial[BG_DISK_SERIAL_MAX + 1]; /* not empty */
};

int bg_disk_request_parse(const uint8_t *bytes, size_t size, struct bg_disk_request *ret,
                          struct bg_err *err) BG_MUST_CHECK;
void bg_disk_request_emit(const struct bg_disk_request *request, struct bg_writer *w);

/* Volume request (body of a BG_STREAM_VOLUME header): which disk to mount where. */
#define BG_VOLUME_NEW                                                                              \
    1u /* it gets a file system if it has none, else that becomes as large as it */

struct bg_volume_request {
    uint32_t flags;
    char serial[BG_DISK_SERIAL_MAX + 1]; /* not empty */
    char path[BG_VOLUME_PATH_MAX + 1];   /* absolute */
};

int bg_volume_request_parse(const uint8_t *bytes, size_t size, struct bg_volume_request *ret,
                            struct bg_err *err) BG_MUST_CHECK;
void bg_volume_request_emit(const struct bg_volume_request *request, struct bg_writer *w);
