#include "tests/unit/fs/bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static void push(struct bench_queue *queue, const struct iovec *parts, int count)
{
    assert_true(queue->count < BENCH_MESSAGES_MAX);
    struct bench_message *message = &queue->messages[queue->count++];
    message->size = 0;
    for (int i = 0; i < count; i++)
        message->size += parts[i].iov_len;
    message->bytes = malloc(message->size);
    assert_non_null(message->bytes);
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        memcpy(message->bytes + used, parts[i].iov_base, parts[i].iov_len);
        used += parts[i].iov_len;
    }
}

static struct bench_message pop(struct bench_queue *queue)
{
    assert_true(queue->count > 0);
    struct bench_message first = queue->messages[0];
    queue->count--;
    memmove(queue->messages, queue->messages + 1, queue->count * sizeof first);
    return first;
}

static void drain(struct bench_queue *queue)
{
    while (queue->count > 0)
        free(pop(queue).bytes);
}

static int to_kernel(void *owner, const struct iovec *parts, int count)
{
    struct bench *b = owner;
    if (b->kernel_error < 0)
        return b->kernel_error;
    push(&b->to_kernel, parts, count);
    return 0;
}

static void to_server(void *owner, const struct iovec *parts, int count)
{
    struct bench *b = owner;
    push(&b->to_server, parts, count);
}

static bool notify(void *owner, const struct fs_notice *notice)
{
    struct bench *b = owner;
    if (b->notice_count == b->notice_room)
        return false;
    struct bench_notice *queued = &b->notices[b->notice_count++];
    *queued = (struct bench_notice){.notice = *notice};
    if (notice->name) {
        assert_true(notice->name_size < sizeof queued->name);
        memcpy(queued->name, notice->name, notice->name_size);
    }
    return true;
}

static bool to_echoer(void *owner, const uint8_t *bytes, size_t size)
{
    struct bench *b = owner;
    assert_int_equal(b->command_size, 0); /* one at a time */
    assert_true(size <= sizeof b->command);
    memcpy(b->command, bytes, size);
    b->command_size = size;
    return true;
}

bool bench_noticed(struct bench *b, uint64_t node, const char *name, bool contents)
{
    bool found = false;
    for (size_t i = 0; i < b->notice_count; i++) {
        const struct bench_notice *n = &b->notices[i];
        bool same_name = name ? n->notice.name && strcmp(n->name, name) == 0 : !n->notice.name;
        found = found || (n->notice.node == node && same_name && n->notice.contents == contents &&
                          !n->notice.all_names);
    }
    b->notice_count = 0;
    return found;
}

void bench_ask(struct bench *b, struct fs_request request)
{
    static uint8_t bytes[BG_FS_MESSAGE_MAX];
    b->kernel_unique += 2;
    request.unique = b->kernel_unique;
    request.caller_uid = 1000;
    if (request.caller_pid == 0)
        request.caller_pid = b->caller_pid != 0 ? b->caller_pid : 4711;
    request.name_size = request.name ? strlen(request.name) : 0;
    request.name2_size = request.name2 ? strlen(request.name2) : 0;
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    fs_request_emit(&request, &w);
    if (request.data_size > 0)
        bg_writer_bytes(&w, request.data, request.data_size);
    assert_true(bg_writer_ok(&w));
    fs_relay_request(b->relay, bytes, w.used, b->now_ms);
}

struct fs_request bench_server_got(struct bench *b)
{
    static uint8_t *last; /* what the caller borrows */
    struct bench_message message = pop(&b->to_server);
    struct fs_request request;
    assert_int_equal(fs_request_parse(message.bytes, message.size, &request, NULL), 0);
    free(last);
    last = message.bytes;
    return request;
}

void bench_expect_nothing_for_server(const struct bench *b)
{
    fs_relay_flush_forgets(b->relay);
    assert_int_equal(b->to_server.count, 0);
}

struct fs_request bench_pass(struct bench *b, struct fs_request request)
{
    bench_ask(b, request);
    bench_expect_nothing_for_kernel(b);
    return bench_server_got(b);
}

int bench_reply(struct bench *b, const struct fs_request *asked, struct fs_reply reply)
{
    static uint8_t bytes[BG_FS_MESSAGE_MAX];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    struct bg_err err;
    reply.unique = asked->unique;
    fs_reply_emit(asked->opcode, &reply, &w);
    if (reply.error == 0 && reply.data_size > 0)
        bg_writer_bytes(&w, reply.data, reply.data_size);
    assert_true(bg_writer_ok(&w));
    return fs_relay_reply(b->relay, bytes, w.used, b->now_ms, &err);
}

int bench_reply_error(struct bench *b, const struct fs_request *asked, int error)
{
    return bench_reply(b, asked, (struct fs_reply){.error = error});
}

int bench_say(struct bench *b, const struct fs_change *changes, size_t count)
{
    static uint8_t bytes[BG_FS_MESSAGE_MAX];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    struct bg_err err;
    fs_changes_begin(&w);
    for (size_t i = 0; i < count; i++)
        assert_true(fs_changes_add(&w, &changes[i]));
    fs_changes_end(&w);
    return fs_relay_reply(b->relay, bytes, w.used, b->now_ms, &err);
}

struct fs_reply bench_kernel_got(struct bench *b, uint32_t opcode)
{
    static uint8_t *last;
    assert_int_equal(b->to_kernel.count, 1);
    struct bench_message message = pop(&b->to_kernel);
    struct fs_reply reply;
    assert_int_equal(fs_reply_parse(opcode, message.bytes, message.size, &reply, NULL), 0);
    assert_true(reply.unique == b->kernel_unique);
    free(last);
    last = message.bytes;
    return reply;
}

void bench_expect_error(struct bench *b, int error)
{
    assert_int_equal(bench_kernel_got(b, FUSE_FLUSH).error, error);
}

void bench_expect_nothing_for_kernel(const struct bench *b)
{
    assert_int_equal(b->to_kernel.count, 0);
}

int bench_wait(struct bench *b, uint64_t ms)
{
    uint64_t next;
    struct bg_err err;
    b->now_ms += ms;
    return fs_relay_tick(b->relay, b->now_ms, &next, &err);
}

struct fs_attr bench_attr(uint64_t ino, uint32_t mode)
{
    return (struct fs_attr){.ino = ino,
                            .size = 4096,
                            .blocks = 8,
                            .mode = mode,
                            .nlink = 1,
                            .uid = 500,
                            .gid = 501,
                            .blksize = 4096};
}

struct fs_reply bench_entry(uint64_t server_id, uint32_t mode)
{
    return (struct fs_reply){
        .node = server_id, .attr_valid = 1, .attr = bench_attr(server_id + 1000, mode)};
}

static uint64_t look_up(struct bench *b, uint64_t parent, const char *name, uint64_t server_id,
                        uint32_t mode)
{
    struct fs_request asked =
        bench_pass(b, (struct fs_request){.opcode = FUSE_LOOKUP, .node = parent, .name = name});
    assert_int_equal(bench_reply(b, &asked, bench_entry(server_id, mode)), 0);
    struct fs_reply got = bench_kernel_got(b, FUSE_LOOKUP);
    assert_int_equal(got.error, 0);
    return got.node;
}

static uint64_t open_node(struct bench *b, uint32_t opcode, uint64_t node, uint64_t server_fh)
{
    struct fs_request asked =
        bench_pass(b, (struct fs_request){.opcode = opcode, .node = node, .flags = O_RDWR});
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = server_fh}), 0);
    struct fs_reply got = bench_kernel_got(b, opcode);
    assert_int_equal(got.error, 0);
    return got.fh;
}

static void initialise(struct bench *b)
{
    uint8_t bytes[FS_REQUEST_HEADER_SIZE + 64] = {0};
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    b->kernel_unique += 2;
    bg_writer_u32le(&w, sizeof bytes);
    bg_writer_u32le(&w, FUSE_INIT);
    bg_writer_u64le(&w, b->kernel_unique);
    w.used = FS_REQUEST_HEADER_SIZE;
    bg_writer_u32le(&w, 7);
    bg_writer_u32le(&w, 45); /* newer than ours */
    bg_writer_u32le(&w, 131072);
    bg_writer_u32le(&w, UINT32_MAX); /* offers everything */
    bg_writer_u32le(&w, UINT32_MAX);
    fs_relay_request(b->relay, bytes, sizeof bytes, b->now_ms);
    assert_int_equal(b->to_kernel.count, 1);
    free(pop(&b->to_kernel).bytes);
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_NEW);
    struct fs_request probe = bench_server_got(b);
    assert_int_equal(probe.opcode, FUSE_GETATTR);
    struct fs_reply root = {.attr_valid = 1, .attr = bench_attr(1, S_IFDIR | 0755)};
    assert_int_equal(bench_reply(b, &probe, root), 0);
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_LIVE);
}

static void take_note(void *owner, const struct fs_pin_note *note)
{
    struct bench *b = owner;
    size_t used = strlen(b->notes);
    if (note->forget)
        (void)snprintf(b->notes + used, sizeof b->notes - used, "-%s\n", note->path);
    else
        (void)snprintf(b->notes + used, sizeof b->notes - used, "+%s=%.*s\n", note->path,
                       (int)note->size, note->bytes ? (const char *)note->bytes : "");
}

static void needed(void *owner)
{
    struct bench *b = owner;
    b->needed++;
}

static struct bench *new_bench(const struct fs_hello *hello, bool raw_names, bool read_only,
                               const struct fs_guard_opts *guard)
{
    struct bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->now_ms = 1000000;
    b->notice_room = BENCH_NOTICES_MAX;
    struct fs_relay_opts opts = {.uid = 1000,
                                 .gid = 1001,
                                 .raw_names = raw_names,
                                 .read_only = read_only,
                                 .returns = true,
                                 .deadline_ms = BENCH_DEADLINE_MS,
                                 .to_kernel = to_kernel,
                                 .to_server = to_server,
                                 .notify = hello->flags & FS_HELLO_FEED ? notify : NULL,
                                 .to_echoer = to_echoer,
                                 .on_needed = needed,
                                 .owner = b};
    if (guard) {
        opts.guard = *guard;
        opts.guard.on_note = take_note;
        opts.guard.owner = b;
    }
    assert_int_equal(fs_relay_new(&opts, &b->relay), 0);
    uint8_t bytes[FS_HELLO_SIZE];
    fs_hello_emit(hello, bytes);
    assert_int_equal(fs_relay_greeted(b->relay, bytes, sizeof bytes, NULL), 0);
    initialise(b);
    b->dir = look_up(b, 1, "dir", BENCH_DIR_SERVER, S_IFDIR | 0755);
    b->file = look_up(b, b->dir, "file", BENCH_FILE_SERVER, S_IFREG | 0644);
    b->link = look_up(b, b->dir, "link", BENCH_LINK_SERVER, S_IFLNK | 0777);
    if (!read_only)
        b->fh = open_node(b, FUSE_OPEN, b->file, BENCH_FH_SERVER);
    b->dir_fh = open_node(b, FUSE_OPENDIR, b->dir, BENCH_DIR_FH_SERVER);
    return b;
}

struct bench *bench_new(const struct fs_hello *hello, bool raw_names, bool read_only)
{
    return new_bench(hello, raw_names, read_only, NULL);
}

struct bench *bench_new_guarded(enum guard_policy policy, const char *root)
{
    static const struct fs_hello hello = {.server = true, .uid = 500, .gid = 501};
    struct fs_guard_opts guard = {.policy = policy, .root = root};
    return new_bench(&hello, false, false, &guard);
}

struct bench *bench_new_usual(void)
{
    static const struct fs_hello hello = {.server = true, .uid = 500, .gid = 501};
    return bench_new(&hello, false, false);
}

struct bench *bench_new_fed(void)
{
    static const struct fs_hello hello = {
        .server = true, .flags = FS_HELLO_FEED, .uid = 500, .gid = 501};
    return bench_new(&hello, false, false);
}

void bench_free(struct bench *b)
{
    fs_relay_free(b->relay); /* answers what waits */
    drain(&b->to_kernel);
    drain(&b->to_server);
    free(b);
}

/* Two entries, as a server would send them. */
static struct fs_reply sample_entries(bool plus)
{
    static uint8_t bytes[2][1024];
    struct bg_writer w = bg_writer_init(bytes[plus], sizeof bytes[plus]);
    for (uint64_t i = 0; i < 2; i++) {
        struct fs_dirent entry = {.ino = 1040 + i,
                                  .offset = 7 + i,
                                  .type = S_IFREG >> 12,
                                  .name = i ? "beta" : "alpha",
                                  .name_size = i ? 4 : 5};
        if (plus)
            entry.entry = bench_entry(40 + i, S_IFREG | 0600);
        fs_dirent_emit(&entry, plus, &w);
    }
    assert_true(bg_writer_ok(&w));
    return (struct fs_reply){.data = bytes[plus], .data_size = w.used};
}

bool bench_sample(const struct bench *b, uint32_t opcode, struct fs_request *ret_request,
                  struct fs_reply *ret_reply)
{
    static const uint8_t text[] = "0123456789";
    static const uint8_t list[] = "user.a\0user.b";
    struct fs_request request = {.opcode = opcode, .node = b->dir, .name = NULL};
    struct fs_reply reply = {0};
    const struct fs_op *op = fs_op_find(opcode);
    if (!op || op->reply == FS_REPLY_NONE || op->reply == FS_REPLY_OTHER ||
        opcode == FUSE_DESTROY || opcode == FUSE_SYNCFS || opcode == FUSE_RELEASE ||
        opcode == FUSE_RELEASEDIR)
        return false; /* answered without the server */
    if (op->tail != FS_TAIL_NONE && op->tail != FS_TAIL_DATA)
        request.name = "name";
    if (fs_op_has_handle(opcode)) {
        request.node = b->file;
        request.fh = b->fh;
    }
    switch (opcode) {
    case FUSE_LOOKUP:
    case FUSE_MKNOD:
    case FUSE_CREATE:
    case FUSE_TMPFILE:
        request.mode = S_IFREG | 0644;
        reply = bench_entry(30, S_IFREG | 0644);
        reply.fh = opcode == FUSE_CREATE || opcode == FUSE_TMPFILE ? 31 : 0;
        if (opcode == FUSE_TMPFILE)
            request.name = "/"; /* as the kernel says */
        break;
    case FUSE_MKDIR:
        reply = bench_entry(30, S_IFDIR | 0755);
        break;
    case FUSE_SYMLINK:
        request.name2 = "file";
        reply = bench_entry(30, S_IFLNK | 0777);
        break;
    case FUSE_LINK:
        request.node2 = b->file;
        reply = bench_entry(BENCH_FILE_SERVER, S_IFREG | 0644);
        break;
    case FUSE_RENAME:
    case FUSE_RENAME2:
        request.node2 = 1;
        request.name2 = "name2";
        break;
    case FUSE_GETATTR:
    case FUSE_SETATTR:
        request.fh = 0;
        request.mode = 0600;
        request.valid = opcode == FUSE_SETATTR ? FATTR_MODE : 0;
        reply.attr = bench_attr(BENCH_FILE_SERVER + 1000, S_IFREG | 0600);
        break;
    case FUSE_READLINK:
        request.node = b->link;
        reply.data = (const uint8_t *)"../dir/file";
        reply.data_size = 11;
        break;
    case FUSE_OPEN:
        request.node = b->file;
        reply.fh = 32;
        break;
    case FUSE_OPENDIR:
        reply.fh = 33;
        break;
    case FUSE_READ:
        request.size = 4096;
        reply.data = text;
        reply.data_size = sizeof text;
        break;
    case FUSE_WRITE:
        request.flags = O_DSYNC; /* others are answered before the server does it */
        request.data = text;
        request.size = request.data_size = sizeof text;
        reply.size = sizeof text;
        break;
    case FUSE_COPY_FILE_RANGE:
        request.node2 = b->file;
        request.fh2 = b->fh;
        request.size = 100;
        reply.size = 100;
        break;
    case FUSE_FSYNCDIR:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        request.node = b->dir;
        request.fh = b->dir_fh;
        request.size = 4096;
        if (opcode != FUSE_FSYNCDIR)
            reply = sample_entries(opcode == FUSE_READDIRPLUS);
        break;
    case FUSE_SETXATTR:
        request.data = text;
        request.size = request.data_size = sizeof text;
        request.name = "user.name";
        break;
    case FUSE_GETXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_LISTXATTR:
        if (opcode != FUSE_LISTXATTR)
            request.name = "user.name";
        request.size = opcode == FUSE_REMOVEXATTR ? 0 : 100;
        if (opcode != FUSE_REMOVEXATTR) {
            reply.data = opcode == FUSE_GETXATTR ? text : list;
            reply.data_size = opcode == FUSE_GETXATTR ? sizeof text : sizeof list;
        }
        break;
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW:
        request.owner = 5;
        request.lock_end = INT64_MAX;
        request.lock_type = F_WRLCK;
        if (opcode == FUSE_GETLK) {
            reply.lock_type = F_RDLCK;
            reply.lock_end = 10;
        }
        break;
    case FUSE_LSEEK:
        request.whence = SEEK_DATA;
        reply.offset = 10;
        break;
    case FUSE_STATFS:
        reply.statfs = (struct fs_statfs){100, 50, 50, 10, 5, 4096, 255, 4096};
        break;
    default:
        break; /* UNLINK, RMDIR, FLUSH, FSYNC, FALLOCATE, ACCESS: a name or a handle will do */
    }
    *ret_request = request;
    *ret_reply = reply;
    return true;
}
