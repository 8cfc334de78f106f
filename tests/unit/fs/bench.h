/* A relay between a pretended kernel and a pretended server: each test says what either sends, and
 * looks at what comes out on the other side. */
#pragma once

#include "fs/proto/change.h"
#include "fs/proto/proto.h"
#include "fs/relay/relay.h"

#define BENCH_MESSAGES_MAX 4096
#define BENCH_DEADLINE_MS  1000u
#define BENCH_NOTICES_MAX  256u

/* What every bench has at its start, found by LOOKUP and opened: kernel's ids, server's ids. */
#define BENCH_DIR_SERVER    20u
#define BENCH_FILE_SERVER   21u
#define BENCH_LINK_SERVER   22u
#define BENCH_FH_SERVER     0xdeadbeef00000001u
#define BENCH_DIR_FH_SERVER 0xdeadbeef00000002u

struct bench_message {
    uint8_t *bytes;
    size_t size;
};

struct bench_queue {
    struct bench_message messages[BENCH_MESSAGES_MAX];
    size_t count;
};

/* What the relay told the kernel to forget. */
struct bench_notice {
    struct fs_notice notice;
    char name[256];
};

struct bench {
    struct fs_relay *relay;
    uint64_t now_ms;
    uint64_t kernel_unique; /* of the last request */
    uint64_t dir, file, link, fh, dir_fh;
    struct bench_queue to_kernel, to_server;
    struct bench_notice notices[BENCH_NOTICES_MAX]; /* oldest first; taken by bench_noticed */
    size_t notice_count, notice_room;               /* room: what the kernel's thread takes */
    uint8_t command[16384]; /* the last one for the process that makes echoes */
    size_t command_size;    /* 0: none, or taken */
    uint32_t caller_pid;    /* who asks; 0: somebody */
    unsigned needed;        /* how often the relay has asked for a server that sleeps */
    int kernel_error;       /* what /dev/fuse says to the next answers */
    /* What the relay has told about guarded files, oldest first: "+PATH=BYTES\n", "-PATH\n". */
    char notes[4096];
};

struct bench *bench_new(const struct fs_hello *hello, bool raw_names, bool read_only);
/* A server whose user is 500:501, the mount's is 1000:1001. */
struct bench *bench_new_usual(void);
/* The same, and the server tells of changes. */
struct bench *bench_new_fed(void);
/* The same with a guard; root: the mount's, NULL is "/". */
struct bench *bench_new_guarded(enum guard_policy policy, const char *root);
void bench_free(struct bench *b);

/* Takes the notices that there are; true if one of them was this. name: of an entry; NULL: of the
 * node itself, with its contents or just its attributes. */
bool bench_noticed(struct bench *b, uint64_t node, const char *name, bool contents);

/* The kernel asks. unique is set. */
void bench_ask(struct bench *b, struct fs_request request);
/* As bench_ask, and the relay must have passed it on; returns what the server sees. */
struct fs_request bench_pass(struct bench *b, struct fs_request request);

/* Takes the oldest message for the server; there must be one. Borrowed until the next call. */
struct fs_request bench_server_got(struct bench *b);
void bench_expect_nothing_for_server(const struct bench *b);

/* The server answers `asked`. Returns fs_relay_reply's result. */
int bench_reply(struct bench *b, const struct fs_request *asked, struct fs_reply reply);
int bench_reply_error(struct bench *b, const struct fs_request *asked, int error);

/* The server tells of changes. Returns fs_relay_reply's result. */
int bench_say(struct bench *b, const struct fs_change *changes, size_t count);

/* The one answer that the kernel must have got to its last request. */
struct fs_reply bench_kernel_got(struct bench *b, uint32_t opcode);
void bench_expect_error(struct bench *b, int error);
void bench_expect_nothing_for_kernel(const struct bench *b);

/* Time goes by. Returns fs_relay_tick's result. */
int bench_wait(struct bench *b, uint64_t ms);

/* A good entry. */
struct fs_reply bench_entry(uint64_t server_id, uint32_t mode);
struct fs_attr bench_attr(uint64_t ino, uint32_t mode);

/* A request of every opcode that is passed on, and a good answer to it; false: no such opcode. */
bool bench_sample(const struct bench *b, uint32_t opcode, struct fs_request *ret_request,
                  struct fs_reply *ret_reply);
