#include "tests/integration/fs/liar.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "fs/proto/proto.h"

#define LATE_MS      1500u
#define SLOW_LINK_MS 1300u /* longer than the kernel believes attributes */
#define SLOW_ATTR_MS 700u
#define QUEUE_MAX    64u

enum { ROOT = 1, DIR_D, DIR_E, FILE_F, LINK_L, DIR_A, DIR_B, DIR_C, LINK_OUT, FIRST_NEW };

struct delayed {
    uint64_t due_ms;
    uint8_t *bytes;
    size_t size;
};

struct liar {
    struct liar_opts opts;
    int stream;
    uint64_t next_id;
    uint32_t new_types[64]; /* of ids from FIRST_NEW, going round */
    unsigned told;          /* lies so far */
    bool link_read;
    struct delayed queue[QUEUE_MAX];
    size_t queued;
};

static uint32_t mode_of(const struct liar *liar, uint64_t id)
{
    static const uint32_t modes[FIRST_NEW] = {
        [ROOT] = S_IFDIR | 0755,   [DIR_D] = S_IFDIR | 0755,  [DIR_E] = S_IFDIR | 0755,
        [FILE_F] = S_IFREG | 0644, [LINK_L] = S_IFLNK | 0777, [DIR_A] = S_IFDIR | 0755,
        [DIR_B] = S_IFDIR | 0755,  [DIR_C] = S_IFDIR | 0755,  [LINK_OUT] = S_IFLNK | 0777};
    return id < FIRST_NEW ? modes[id] : liar->new_types[id % 64];
}

static struct fs_attr attr_of(const struct liar *liar, uint64_t id)
{
    return (struct fs_attr){.ino = id + 100,
                            .size = 8192,
                            .blocks = 16,
                            .mode = mode_of(liar, id),
                            .nlink = 2,
                            .uid = geteuid(),
                            .gid = getegid(),
                            .mtime = 1000000000,
                            .blksize = 4096};
}

static uint64_t find(uint64_t parent, const char *name)
{
    static const struct {
        uint64_t parent;
        const char *name;
        uint64_t id;
    } tree[] = {{ROOT, "d", DIR_D},  {ROOT, "e", DIR_E},      {ROOT, "f", FILE_F},
                {ROOT, "l", LINK_L}, {ROOT, "a", DIR_A},      {DIR_A, "b", DIR_B},
                {DIR_B, "c", DIR_C}, {DIR_C, "out", LINK_OUT}};
    for (size_t i = 0; i < sizeof tree / sizeof *tree; i++)
        if (tree[i].parent == parent && strcmp(tree[i].name, name) == 0)
            return tree[i].id;
    return 0;
}

static uint64_t make(struct liar *liar, uint32_t mode)
{
    uint64_t id = liar->next_id++;
    liar->new_types[id % 64] = mode;
    return id;
}

static void list(struct liar *liar, const struct fs_request *request, struct fs_reply *reply)
{
    static uint8_t bytes[4096];
    static const char *const names[] = {"d", "e", "f", "l"};
    bool plus = request->opcode == FUSE_READDIRPLUS;
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    for (uint64_t i = request->offset; i < 4 && request->node == ROOT; i++) {
        uint64_t id = find(ROOT, names[i]);
        struct fs_dirent entry = {.ino = id + 100,
                                  .offset = i + 1,
                                  .type = mode_of(liar, id) >> 12,
                                  .name = names[i],
                                  .name_size = 1};
        if (plus)
            entry.entry = (struct fs_reply){.node = id, .attr = attr_of(liar, id)};
        if (fs_dirent_size(&entry, plus) > request->size - w.used)
            break;
        fs_dirent_emit(&entry, plus, &w);
    }
    reply->data = bytes;
    reply->data_size = w.used;
}

/* The true answer. */
static struct fs_reply answer(struct liar *liar, const struct fs_request *request)
{
    static const uint8_t zeros[BG_FS_IO_MAX], names[] = "user.a";
    struct fs_reply reply = {.unique = request->unique};
    switch (request->opcode) {
    case FUSE_LOOKUP:
        reply.node = find(request->node, request->name);
        reply.error = reply.node == 0 ? -ENOENT : 0;
        break;
    case FUSE_LINK:
        reply.node = request->node2;
        break;
    case FUSE_SYMLINK:
        reply.node = make(liar, S_IFLNK | 0777);
        break;
    case FUSE_MKDIR:
        reply.node = make(liar, S_IFDIR | 0755);
        break;
    case FUSE_MKNOD:
    case FUSE_CREATE:
    case FUSE_TMPFILE:
        reply.node = make(liar, S_IFREG | 0644);
        reply.fh = 7;
        break;
    case FUSE_OPEN:
    case FUSE_OPENDIR:
        reply.fh = 8;
        break;
    case FUSE_READ:
        reply.data = zeros;
        reply.data_size = (size_t)request->size;
        break;
    case FUSE_WRITE:
    case FUSE_COPY_FILE_RANGE:
        reply.size = request->size;
        break;
    case FUSE_READLINK:
        reply.data = (const uint8_t *)(request->node == LINK_OUT ? "../../canary" : "f");
        reply.data_size = request->node == LINK_OUT ? 12 : 1;
        break;
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        list(liar, request, &reply);
        break;
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
        reply.size = sizeof names;
        if (request->size > 0) {
            reply.data = names;
            reply.data_size = sizeof names;
        }
        break;
    case FUSE_LSEEK:
        reply.offset = request->offset;
        break;
    case FUSE_GETLK:
        reply.lock_type = F_UNLCK;
        break;
    case FUSE_STATFS:
        reply.statfs = (struct fs_statfs){100, 50, 50, 10, 5, 4096, 255, 4096};
        break;
    default:
        break;
    }
    if (reply.node != 0)
        reply.attr = attr_of(liar, reply.node);
    else if (request->opcode == FUSE_GETATTR || request->opcode == FUSE_SETATTR)
        reply.attr = attr_of(liar, request->node);
    return reply;
}

/* ---- lies ---- */

static void lie_about_kind(const struct liar *liar, struct fs_reply *reply)
{
    static const uint32_t types[] = {S_IFDIR, S_IFREG, S_IFLNK, S_IFIFO, S_IFBLK, 0, 0xf000};
    reply->attr.mode = types[liar->told % 7] | 07777;
    reply->attr.ino += liar->told % 3;
    if (reply->node != 0 && liar->told % 2)
        reply->node = liar->told % 4 == 1 ? ROOT : UINT64_MAX;
    reply->fh = UINT64_MAX;
    reply->lock_type = 77;
}

static void lie_about_numbers(struct fs_reply *reply)
{
    struct fs_attr *a = &reply->attr;
    a->size = a->blocks = UINT64_MAX;
    a->atime = a->mtime = a->ctime = (uint64_t)1 << 63;
    a->atime_ns = a->mtime_ns = a->ctime_ns = UINT32_MAX;
    a->nlink = a->uid = a->gid = a->rdev = a->blksize = a->flags = UINT32_MAX;
    reply->entry_valid = reply->attr_valid = UINT64_MAX;
    reply->entry_valid_ns = reply->attr_valid_ns = UINT32_MAX;
    reply->open_flags = UINT32_MAX;
    reply->generation = UINT64_MAX;
    reply->offset = UINT64_MAX;
    reply->lock_end = UINT64_MAX;
    reply->size = UINT32_MAX;
    struct fs_statfs *s = &reply->statfs;
    s->blocks = s->bfree = s->bavail = s->files = s->ffree = UINT64_MAX;
    s->bsize = s->frsize = s->namelen = UINT32_MAX;
}

static void put(struct liar *liar, const uint8_t *bytes, size_t size)
{
    if (bg_write_full(liar->stream, bytes, size) < 0)
        _exit(0);
}

static void put_later(struct liar *liar, const uint8_t *bytes, size_t size, uint64_t delay_ms)
{
    if (liar->queued == QUEUE_MAX)
        return;
    struct delayed *d = &liar->queue[liar->queued++];
    d->due_ms = bg_now_ms() + delay_ms;
    d->size = size;
    d->bytes = malloc(size);
    if (!d->bytes)
        _exit(1);
    memcpy(d->bytes, bytes, size);
}

static void put_due(struct liar *liar)
{
    for (size_t i = 0; i < liar->queued;) {
        struct delayed d = liar->queue[i];
        if (d.due_ms > bg_now_ms()) {
            i++;
            continue;
        }
        liar->queue[i] = liar->queue[--liar->queued];
        put(liar, d.bytes, d.size);
        free(d.bytes);
    }
}

static void set_size(uint8_t *bytes, size_t size)
{
    uint32_t stated = (uint32_t)size; /* this machine is little-endian, as the protocol */
    memcpy(bytes, &stated, sizeof stated);
}

static void slow_walk(struct liar *liar, const struct fs_request *request, const uint8_t *bytes,
                      size_t size)
{
    if (request->opcode == FUSE_READLINK) {
        liar->link_read = true;
        put_later(liar, bytes, size, SLOW_LINK_MS);
    } else if (request->opcode == FUSE_GETATTR && liar->link_read && request->node != ROOT) {
        put_later(liar, bytes, size, SLOW_ATTR_MS);
    } else {
        put(liar, bytes, size);
    }
}

static void respond(struct liar *liar, const struct fs_request *request)
{
    static uint8_t bytes[BG_FS_MESSAGE_MAX + 64];
    static const int32_t errors[] = {-512, -4095, -ENOSYS, 1, INT32_MIN, -EINTR, -EAGAIN, -4096};
    bool lies = liar->opts.opcode == 0 || liar->opts.opcode == request->opcode;
    enum lie lie = lies ? liar->opts.lie : LIE_NONE;
    struct fs_reply reply = answer(liar, request);
    if (lie == LIE_KIND)
        lie_about_kind(liar, &reply);
    if (lie == LIE_NUMBERS)
        lie_about_numbers(&reply);
    struct bg_writer w = bg_writer_init(bytes, BG_FS_MESSAGE_MAX);
    fs_reply_emit(request->opcode, &reply, &w);
    if (reply.error == 0)
        bg_writer_bytes(&w, reply.data, reply.data_size);
    if (!bg_writer_ok(&w))
        _exit(3); /* our own mistake */
    size_t size = w.used, payload = size - FS_REPLY_HEADER_SIZE;
    liar->told++;
    switch (lie) {
    case LIE_NONE:
    case LIE_KIND:
    case LIE_NUMBERS:
        break;
    case LIE_SILENCE:
        return;
    case LIE_UNIQUE:
        bytes[9] ^= 0x5a;
        break;
    case LIE_TWICE:
        put(liar, bytes, size);
        break;
    case LIE_LATE:
        put_later(liar, bytes, size, LATE_MS);
        return;
    case LIE_SHORT:
        size -= (payload + 1) / 2;
        set_size(bytes, size);
        break;
    case LIE_LONG:
        memset(bytes + size, 0x5a, 13);
        size += 13;
        set_size(bytes, size);
        break;
    case LIE_SIZE:
        set_size(bytes, liar->told % 2 ? 3 : BG_FS_MESSAGE_MAX + 1u);
        break;
    case LIE_ERRORS:
        memcpy(bytes + 4, &errors[liar->told % 8], 4);
        size = FS_REPLY_HEADER_SIZE;
        set_size(bytes, size);
        break;
    case LIE_FLIPS:
        bytes[4 + (liar->opts.seed + liar->told) % (size - 4)] ^=
            (uint8_t)(1 << (liar->opts.seed + liar->told / 7) % 8);
        break;
    case LIE_CLOSE:
        _exit(0);
    case LIE_SLOW_WALK:
        slow_walk(liar, request, bytes, size);
        return;
    }
    put(liar, bytes, size);
}

static void serve(struct liar *liar)
{
    static uint8_t bytes[BG_FS_MESSAGE_MAX];
    static const struct fs_hello hello = {.server = true, .flags = FS_HELLO_ALL_USERS};
    fs_hello_emit(&hello, bytes);
    put(liar, bytes, FS_HELLO_SIZE);
    if (bg_read_full(liar->stream, bytes, FS_HELLO_SIZE) < 0)
        _exit(0);
    bool probed = false;
    for (;;) {
        size_t size;
        struct fs_request request;
        struct pollfd p = {.fd = liar->stream, .events = POLLIN};
        int ready = poll(&p, 1, liar->queued > 0 ? 10 : -1);
        put_due(liar);
        if (ready <= 0)
            continue;
        if (bg_read_full(liar->stream, bytes, 4) < 0 ||
            fs_message_size(bytes, FS_REQUEST_HEADER_SIZE, &size, NULL) < 0 ||
            bg_read_full(liar->stream, bytes + 4, size - 4) < 0 ||
            fs_request_parse(bytes, size, &request, NULL) < 0)
            _exit(0);
        if (fs_op_find(request.opcode)->reply == FS_REPLY_NONE)
            continue;
        enum lie lie = liar->opts.lie;
        if (!probed) /* the first question is the relay's own: without its answer, no mount */
            liar->opts.lie = LIE_NONE;
        respond(liar, &request);
        liar->opts.lie = lie;
        probed = true;
    }
}

pid_t liar_start(const struct liar_opts *opts, int *ret_stream)
{
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)signal(SIGPIPE, SIG_IGN); /* the relay may have had enough */
        (void)close(sockets[0]);
        struct liar *liar = calloc(1, sizeof *liar);
        if (!liar)
            _exit(1);
        liar->opts = *opts;
        liar->stream = sockets[1];
        liar->next_id = FIRST_NEW;
        serve(liar);
    }
    (void)close(sockets[1]);
    *ret_stream = sockets[0];
    return pid;
}
