/* Write-behind: what the kernel is told early must be true in the end, in order, or be an error
 * that somebody hears of. */
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

#include "tests/unit/fs/bench.h"

#define MIB (1u << 20)

static const struct fs_hello takes_pieces = {
    .server = true, .flags = FS_HELLO_PIECES, .uid = 500, .gid = 501};

static int setup(void **state)
{
    *state = bench_new_usual();
    return 0;
}

static int teardown(void **state)
{
    bench_free(*state);
    return 0;
}

static struct fs_request on_file(const struct bench *b, uint32_t opcode)
{
    return (struct fs_request){.opcode = opcode, .node = b->file, .fh = b->fh};
}

static struct fs_request write_of(const struct bench *b, uint64_t offset, size_t size)
{
    static uint8_t data[MIB];
    struct fs_request request = on_file(b, FUSE_WRITE);
    request.offset = offset;
    request.size = request.data_size = size;
    request.data = data;
    return request;
}

/* The kernel writes and is answered at once. */
static void write_early(struct bench *b, uint64_t offset, size_t size)
{
    bench_ask(b, write_of(b, offset, size));
    struct fs_reply got = bench_kernel_got(b, FUSE_WRITE);
    assert_int_equal(got.error, 0);
    assert_int_equal(got.size, size);
}

static void done(struct bench *b, const struct fs_request *asked)
{
    assert_int_equal(asked->opcode, FUSE_WRITE);
    assert_int_equal(bench_reply(b, asked, (struct fs_reply){.size = asked->size}), 0);
}

static void expect_write(struct bench *b, uint64_t offset, size_t size, struct fs_request *ret)
{
    *ret = bench_server_got(b);
    assert_int_equal(ret->opcode, FUSE_WRITE);
    assert_int_equal(ret->offset, offset);
    assert_int_equal(ret->size, size);
    assert_true(ret->flags2 & FS_WRITE_WHOLE);
}

/* ---- joining ---- */

static void adjacent_writes_are_acknowledged_and_go_as_one(void **state)
{
    struct bench *b = *state;
    for (unsigned i = 0; i < 16; i++)
        write_early(b, i * 1000, 1000);
    bench_expect_nothing_for_server(b);
    assert_int_equal(bench_wait(b, 5), 0);
    struct fs_request asked;
    expect_write(b, 0, 16000, &asked);
    bench_expect_nothing_for_server(b);
    done(b, &asked);
    bench_expect_nothing_for_kernel(b);
}

static void a_joined_write_is_at_most_what_a_message_holds(void **state)
{
    struct bench *b = *state;
    struct fs_request asked;
    write_early(b, 0, 512 * 1024);
    expect_write(b, 0, 512 * 1024, &asked); /* large: not held back */
    struct fs_request first = asked;
    for (unsigned i = 0; i < 3; i++)
        write_early(b, (i + 1) * 512 * 1024, 512 * 1024);
    bench_expect_nothing_for_server(b); /* one at a time */
    done(b, &first);
    expect_write(b, 512 * 1024, MIB, &asked);
    done(b, &asked);
    expect_write(b, 512 * 1024 + MIB, 512 * 1024, &asked);
}

static void writes_elsewhere_are_not_joined_and_keep_their_order(void **state)
{
    struct bench *b = *state;
    static const uint64_t offsets[] = {8192, 0, 4096, 8192};
    static const struct {
        uint64_t offset;
        size_t size;
    } sent[] = {{8192, 100}, {0, 100}, {4096, 100}, {8192, 100}};
    for (size_t i = 0; i < 4; i++)
        write_early(b, offsets[i], 100);
    assert_int_equal(bench_wait(b, 5), 0);
    for (size_t i = 0; i < 4; i++) {
        struct fs_request asked;
        expect_write(b, sent[i].offset, sent[i].size, &asked);
        bench_expect_nothing_for_server(b);
        if (i == 2) /* the last one still waits for company */
            assert_int_equal(bench_wait(b, 5), 0);
        done(b, &asked);
    }
}

static void writes_elsewhere_go_as_pieces_to_who_knows_them(void **state)
{
    (void)state;
    struct bench *b = bench_new(&takes_pieces, false, false);
    static const struct {
        uint64_t offset;
        size_t size;
    } pieces[] = {{8192, 200}, {0, 100}, {4096, 100}};
    write_early(b, 8192, 100);
    write_early(b, 8292, 100);
    write_early(b, 0, 100);
    write_early(b, 4096, 50);
    write_early(b, 4146, 50);
    assert_int_equal(bench_wait(b, 5), 0);
    struct fs_request asked = bench_server_got(b);
    assert_true((asked.flags2 & FS_WRITE_PIECES) && (asked.flags2 & FS_WRITE_WHOLE));
    struct bg_reader in = bg_reader_init(asked.data, asked.data_size);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(bg_reader_u64le(&in), pieces[i].offset);
        assert_int_equal(bg_reader_u32le(&in), pieces[i].size);
        assert_int_equal(bg_reader_u32le(&in), 0);
        (void)bg_reader_bytes(&in, pieces[i].size);
    }
    assert_true(bg_reader_end(&in));
    done(b, &asked);
    bench_expect_nothing_for_server(b);
    bench_free(b);
}

static void what_must_be_there_at_once_is_not_acknowledged_early(void **state)
{
    struct bench *b = *state;
    static const int flags[] = {O_SYNC, O_DSYNC, O_DIRECT, O_APPEND};
    for (size_t i = 0; i < 4; i++) {
        struct fs_request request = write_of(b, 0, 100);
        request.flags = (uint64_t)flags[i];
        struct fs_request asked = bench_pass(b, request);
        assert_false(asked.flags2 & FS_WRITE_WHOLE);
        assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.size = 60}), 0);
        assert_int_equal(bench_kernel_got(b, FUSE_WRITE).size, 60);
    }
}

static void writers_wait_when_too_much_is_not_done(void **state)
{
    struct bench *b = *state;
    unsigned early = 0;
    for (; early < 100 && b->to_kernel.count == 0; early++) {
        bench_ask(b, write_of(b, (uint64_t)early * MIB, MIB));
        if (b->to_kernel.count == 0)
            break;
        (void)bench_kernel_got(b, FUSE_WRITE);
    }
    assert_true(early >= 3 && early <= BG_FS_GATHER_FILE_MAX / MIB);
    for (unsigned i = 0; i <= early; i++) {
        struct fs_request asked;
        expect_write(b, (uint64_t)i * MIB, MIB, &asked);
        done(b, &asked);
        if (i == 0) /* there is room again */
            assert_int_equal(bench_kernel_got(b, FUSE_WRITE).size, MIB);
        bench_expect_nothing_for_kernel(b);
    }
}

/* ---- order ---- */

static void what_depends_on_writes_comes_after_them(void **state)
{
    (void)state;
    static const uint32_t opcodes[] = {FUSE_READ,  FUSE_FSYNC, FUSE_FLUSH,           FUSE_FALLOCATE,
                                       FUSE_LSEEK, FUSE_GETLK, FUSE_COPY_FILE_RANGE, FUSE_SETLK,
                                       FUSE_SETLKW};
    for (size_t i = 0; i < sizeof opcodes / sizeof *opcodes; i++) {
        struct bench *b = bench_new_usual();
        struct fs_request request, asked;
        struct fs_reply reply;
        assert_true(bench_sample(b, opcodes[i], &request, &reply));
        write_early(b, 0, 100);
        bench_ask(b, request);
        expect_write(b, 0, 100, &asked);
        bench_expect_nothing_for_server(b);
        write_early(b, 5000, 100); /* and this one after it */
        done(b, &asked);
        asked = bench_server_got(b);
        assert_int_equal(asked.opcode, opcodes[i]);
        bench_expect_nothing_for_kernel(b);
        b->kernel_unique -= 2;
        assert_int_equal(bench_reply(b, &asked, reply), 0);
        assert_int_equal(bench_kernel_got(b, opcodes[i]).error, 0);
        bench_free(b);
    }
}

static void a_copy_waits_for_both_files(void **state)
{
    struct bench *b = *state;
    struct fs_request copy, asked, first, second;
    struct fs_reply reply;
    assert_true(bench_sample(b, FUSE_COPY_FILE_RANGE, &copy, &reply));
    asked = bench_pass(b, (struct fs_request){.opcode = FUSE_LOOKUP, .node = b->dir, .name = "to"});
    assert_int_equal(bench_reply(b, &asked, bench_entry(77, S_IFREG | 0644)), 0);
    copy.node2 = bench_kernel_got(b, FUSE_LOOKUP).node;
    asked = bench_pass(
        b, (struct fs_request){.opcode = FUSE_OPEN, .node = copy.node2, .flags = O_RDWR});
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = 78}), 0);
    copy.fh2 = bench_kernel_got(b, FUSE_OPEN).fh;
    write_early(b, 0, 10);
    struct fs_request to = write_of(b, 0, 20);
    to.node = copy.node2;
    to.fh = copy.fh2;
    bench_ask(b, to);
    assert_int_equal(bench_kernel_got(b, FUSE_WRITE).size, 20);
    bench_ask(b, copy);
    expect_write(b, 0, 10, &first);
    bench_expect_nothing_for_server(b);
    done(b, &first);
    expect_write(b, 0, 20, &second);
    bench_expect_nothing_for_server(b);
    bench_expect_nothing_for_kernel(b);
    done(b, &second);
    assert_int_equal(bench_server_got(b).opcode, FUSE_COPY_FILE_RANGE);
}

static void truncation_and_times_come_after_writes(void **state)
{
    struct bench *b = *state;
    struct fs_request asked;
    write_early(b, 0, 100);
    bench_ask(b,
              (struct fs_request){.opcode = FUSE_OPEN, .node = b->file, .flags = O_RDWR | O_TRUNC});
    expect_write(b, 0, 100, &asked);
    done(b, &asked);
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_OPEN);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = 99}), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_OPEN).error, 0);
    write_early(b, 0, 100);
    bench_ask(b,
              (struct fs_request){.opcode = FUSE_SETATTR, .node = b->file, .valid = FATTR_MTIME});
    expect_write(b, 0, 100, &asked);
    bench_expect_nothing_for_server(b);
    done(b, &asked);
    assert_int_equal(bench_server_got(b).opcode, FUSE_SETATTR);
}

static void a_handle_is_released_after_its_writes(void **state)
{
    struct bench *b = *state;
    struct fs_request asked;
    write_early(b, 0, 100);
    bench_ask(b, on_file(b, FUSE_RELEASE));
    bench_expect_error(b, 0);
    expect_write(b, 0, 100, &asked);
    bench_expect_nothing_for_server(b);
    done(b, &asked);
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_RELEASE);
    assert_true(asked.fh == BENCH_FH_SERVER);
}

static void sizes_of_look_ups_are_not_older_than_writes(void **state)
{
    struct bench *b = *state;
    struct fs_request lookup = {.opcode = FUSE_LOOKUP, .node = b->dir, .name = "file"};
    struct fs_request early = bench_pass(b, lookup), late, asked;
    write_early(b, 100000, 100);
    late = bench_pass(b, lookup);
    b->kernel_unique -= 4;
    assert_int_equal(bench_reply(b, &early, bench_entry(BENCH_FILE_SERVER, S_IFREG | 0644)), 0);
    struct fs_reply got = bench_kernel_got(b, FUSE_LOOKUP);
    assert_int_equal(got.attr.size, 100100);
    assert_int_equal(got.attr_valid, 0);
    assert_int_equal(bench_wait(b, 5), 0);
    expect_write(b, 100000, 100, &asked);
    done(b, &asked);
    b->kernel_unique += 4; /* asked for before the write was done */
    assert_int_equal(bench_reply(b, &late, bench_entry(BENCH_FILE_SERVER, S_IFREG | 0644)), 0);
    got = bench_kernel_got(b, FUSE_LOOKUP);
    assert_int_equal(got.attr.size, 100100);
    late = bench_pass(b, lookup);
    assert_int_equal(bench_reply(b, &late, bench_entry(BENCH_FILE_SERVER, S_IFREG | 0644)), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_LOOKUP).attr.size, 4096); /* as the server says */
}

/* Finds another file and opens it. */
static struct fs_request other_file(struct bench *b)
{
    struct fs_request other = {.opcode = FUSE_LOOKUP, .node = b->dir, .name = "to"};
    struct fs_request asked = bench_pass(b, other);
    assert_int_equal(bench_reply(b, &asked, bench_entry(77, S_IFREG | 0644)), 0);
    other = (struct fs_request){
        .opcode = FUSE_OPEN, .node = bench_kernel_got(b, FUSE_LOOKUP).node, .flags = O_RDWR};
    asked = bench_pass(b, other);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = 78}), 0);
    other.fh = bench_kernel_got(b, FUSE_OPEN).fh;
    return other;
}

/* What waited behind another file's writes is older than a look-up, and sent after it. */
static void sizes_are_not_older_though_others_waited_longer(void **state)
{
    struct bench *b = *state;
    struct fs_request other = other_file(b), to = write_of(b, 0, 20), first, asked;
    to.node = other.node;
    to.fh = other.fh;
    bench_ask(b, to);
    assert_int_equal(bench_kernel_got(b, FUSE_WRITE).size, 20);
    bench_ask(b, (struct fs_request){.opcode = FUSE_GETATTR, .node = other.node});
    expect_write(b, 0, 20, &first);
    write_early(b, 100000, 100);
    struct fs_request late =
        bench_pass(b, (struct fs_request){.opcode = FUSE_LOOKUP, .node = b->dir, .name = "file"});
    uint64_t late_unique = b->kernel_unique;
    assert_int_equal(bench_wait(b, 5), 0);
    expect_write(b, 100000, 100, &asked);
    done(b, &asked);
    done(b, &first);
    assert_int_equal(bench_server_got(b).opcode, FUSE_GETATTR);
    write_early(b, 0, 10);
    b->kernel_unique = late_unique; /* it was answered before the first write was done */
    assert_int_equal(bench_reply(b, &late, bench_entry(BENCH_FILE_SERVER, S_IFREG | 0644)), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_LOOKUP).attr.size, 100100);
}

static void closing_is_answered_here_when_it_has_nothing_to_report(void **state)
{
    struct bench *b = *state;
    struct fs_request asked =
        bench_pass(b, (struct fs_request){.opcode = FUSE_OPEN, .node = b->file, .flags = O_RDWR});
    struct fs_reply quiet = {.fh = 7, .open_flags = FOPEN_NOFLUSH};
    assert_int_equal(bench_reply(b, &asked, quiet), 0);
    struct fs_reply got = bench_kernel_got(b, FUSE_OPEN);
    assert_int_equal(got.open_flags, 0); /* not the kernel's affair */
    struct fs_request flush = on_file(b, FUSE_FLUSH);
    flush.fh = got.fh;
    bench_ask(b, flush);
    bench_expect_error(b, 0);
    write_early(b, 0, 10); /* by the other handle */
    bench_ask(b, flush);
    expect_write(b, 0, 10, &asked);
    bench_expect_nothing_for_kernel(b);
    done(b, &asked);
    bench_expect_error(b, 0);
    bench_expect_nothing_for_server(b);
}

/* ---- errors ---- */

static void lose_a_write(struct bench *b, int error)
{
    struct fs_request asked;
    write_early(b, 0, 100);
    assert_int_equal(bench_wait(b, 5), 0);
    expect_write(b, 0, 100, &asked);
    assert_int_equal(bench_reply_error(b, &asked, error), 0);
    bench_expect_nothing_for_kernel(b);
}

static void errors_reach_the_next_write_or_fsync_and_every_close(void **state)
{
    struct bench *b = *state;
    struct fs_request asked;
    lose_a_write(b, -ENOSPC);
    for (int i = 0; i < 2; i++) {
        bench_ask(b, on_file(b, FUSE_FLUSH));
        bench_expect_error(b, -ENOSPC);
    }
    bench_ask(b, on_file(b, FUSE_FSYNC));
    bench_expect_error(b, -ENOSPC);
    asked = bench_pass(b, on_file(b, FUSE_FSYNC)); /* once */
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    bench_expect_error(b, 0);
    lose_a_write(b, -EDQUOT);
    bench_ask(b, write_of(b, 0, 10));
    bench_expect_error(b, -EDQUOT);
    write_early(b, 0, 10);
}

static void each_open_handle_hears_of_an_error(void **state)
{
    struct bench *b = *state;
    uint64_t others[2];
    for (int i = 0; i < 2; i++) {
        if (i == 1)
            lose_a_write(b, -ENOSPC);
        struct fs_request asked = bench_pass(
            b, (struct fs_request){.opcode = FUSE_OPEN, .node = b->file, .flags = O_RDWR});
        assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = 50}), 0);
        others[i] = bench_kernel_got(b, FUSE_OPEN).fh;
    }
    struct fs_request fsync = on_file(b, FUSE_FSYNC);
    bench_ask(b, fsync);
    bench_expect_error(b, -ENOSPC);
    fsync.fh = others[0];
    bench_ask(b, fsync);
    bench_expect_error(b, -ENOSPC);
    fsync.fh = others[1]; /* opened later */
    assert_int_equal(bench_pass(b, fsync).opcode, FUSE_FSYNC);
}

static void a_short_count_is_an_error(void **state)
{
    struct bench *b = *state;
    struct fs_request asked;
    write_early(b, 0, 100);
    bench_ask(b, on_file(b, FUSE_FSYNC));
    expect_write(b, 0, 100, &asked);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.size = 99}), 0);
    bench_expect_error(b, -EIO);
}

static void silence_is_an_error_for_who_waits_behind_it(void **state)
{
    struct bench *b = *state;
    struct fs_request asked, release;
    write_early(b, 0, 100);
    bench_ask(b, on_file(b, FUSE_FSYNC));
    expect_write(b, 0, 100, &asked);
    write_early(b, 100, 100); /* waits behind the fsync */
    b->kernel_unique -= 2;
    assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS * 2), 0);
    bench_expect_error(b, -EIO);
    (void)release;
    b->kernel_unique += 2;
    /* The stream is not dead: what came later is sent, and the late answer changes nothing. */
    assert_int_equal(bench_wait(b, 5), 0);
    struct fs_request later;
    expect_write(b, 100, 100, &later);
    done(b, &asked);
    done(b, &later);
    asked = bench_pass(b, on_file(b, FUSE_FSYNC));
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    bench_expect_error(b, 0);
}

static void the_end_of_the_stream_answers_who_waits(void **state)
{
    struct bench *b = *state;
    write_early(b, 0, 100);
    bench_ask(b, on_file(b, FUSE_FSYNC));
    bench_expect_nothing_for_kernel(b);
    fs_relay_gone(b->relay);
    bench_expect_error(b, -EIO);
    assert_true(fs_relay_finish(b->relay, b->now_ms));
}

static void a_wait_for_a_lock_behind_writes_can_be_interrupted(void **state)
{
    struct bench *b = *state;
    struct fs_request lock = on_file(b, FUSE_SETLKW);
    lock.lock_type = F_WRLCK;
    write_early(b, 0, 100);
    bench_ask(b, lock);
    uint64_t unique = b->kernel_unique;
    bench_ask(b, (struct fs_request){.opcode = FUSE_INTERRUPT, .interrupted = unique});
    b->kernel_unique = unique;
    bench_expect_error(b, -EINTR);
    struct fs_request asked;
    expect_write(b, 0, 100, &asked);
    done(b, &asked);
    bench_expect_nothing_for_server(b);
}

static void the_end_of_the_mount_sends_what_waits(void **state)
{
    struct bench *b = *state;
    struct fs_request asked;
    write_early(b, 0, 100);
    assert_false(fs_relay_finish(b->relay, b->now_ms));
    expect_write(b, 0, 100, &asked);
    assert_false(fs_relay_finish(b->relay, b->now_ms));
    done(b, &asked);
    assert_true(fs_relay_finish(b->relay, b->now_ms));
}

/* ---- a model ---- */

/* Random operations of a kernel on a few files through two handles each, and a server that takes
 * its requests in any order. Whatever the kernel reads must be what a plain file would have. */

#define FILES     3u
#define FILE_SIZE 40000u
#define STEPS     4000u

struct content {
    uint8_t bytes[FILE_SIZE];
    size_t size;
};

struct model_file {
    uint64_t node, fh[2];
    uint64_t server_node, server_fh[2];
    struct content real, want;  /* the server's, and what the kernel has been told */
    unsigned changing, looking; /* requests without an answer */
    bool told[2];               /* losses: that handle has an error to hear of */
};

struct asked {
    uint32_t opcode;
    unsigned file, handle;
    struct content *want; /* as it was then; owned */
    uint64_t offset, size;
};

struct model {
    struct bench *b;
    uint64_t random;
    bool loses;
    struct model_file files[FILES];
    struct asked *asked; /* by kernel's number / 2 */
    size_t asked_room;
    unsigned waiting, losses, errors_heard;
};

static uint32_t any(struct model *m, uint32_t below)
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return (uint32_t)(m->random >> 16) % below;
}

static void content_write(struct content *c, uint64_t offset, const uint8_t *data, size_t size)
{
    if (offset > c->size)
        memset(c->bytes + c->size, 0, offset - c->size);
    memcpy(c->bytes + offset, data, size);
    c->size = offset + size > c->size ? offset + size : c->size;
}

static void content_truncate(struct content *c, uint64_t size)
{
    if (size > c->size)
        memset(c->bytes + c->size, 0, size - c->size);
    c->size = size;
}

static void model_open(struct model *m, unsigned which)
{
    struct model_file *f = &m->files[which];
    char name[16];
    (void)snprintf(name, sizeof name, "model%u", which);
    f->server_node = 100 + which;
    struct fs_request asked = bench_pass(
        m->b, (struct fs_request){.opcode = FUSE_LOOKUP, .node = m->b->dir, .name = name});
    struct fs_reply entry = bench_entry(f->server_node, S_IFREG | 0644);
    entry.attr.size = 0;
    assert_int_equal(bench_reply(m->b, &asked, entry), 0);
    f->node = bench_kernel_got(m->b, FUSE_LOOKUP).node;
    for (unsigned i = 0; i < 2; i++) {
        f->server_fh[i] = 1000 + which * 2 + i;
        asked = bench_pass(
            m->b, (struct fs_request){.opcode = FUSE_OPEN, .node = f->node, .flags = O_RDWR});
        assert_int_equal(bench_reply(m->b, &asked, (struct fs_reply){.fh = f->server_fh[i]}), 0);
        f->fh[i] = bench_kernel_got(m->b, FUSE_OPEN).fh;
    }
}

/* One request of the kernel, of a kind that it may make now: what changes a file and what looks at
 * it are not under way at the same time, so that there is one right answer. */
static void model_ask(struct model *m)
{
    static const uint32_t opcodes[] = {FUSE_WRITE,   FUSE_WRITE,  FUSE_WRITE, FUSE_WRITE,
                                       FUSE_READ,    FUSE_READ,   FUSE_FSYNC, FUSE_FLUSH,
                                       FUSE_GETATTR, FUSE_SETATTR};
    static uint8_t data[FILE_SIZE];
    unsigned which = any(m, FILES), handle = any(m, 2);
    struct model_file *f = &m->files[which];
    struct fs_request request = {
        .opcode = opcodes[any(m, 10)], .node = f->node, .fh = f->fh[handle]};
    bool changes = request.opcode == FUSE_WRITE || request.opcode == FUSE_SETATTR;
    if (f->changing > 0 || (changes && f->looking > 0) || m->waiting > 40)
        return;
    request.offset = any(m, 3) ? f->want.size % (FILE_SIZE - 5000) : any(m, FILE_SIZE - 5000);
    request.size = 1 + any(m, any(m, 4) ? 600 : 5000);
    if (request.opcode == FUSE_WRITE) {
        if (any(m, 10) == 0)
            request.flags = O_DSYNC;
        for (size_t i = 0; i < request.size; i++)
            data[i] = (uint8_t)any(m, 256);
        request.data = data;
        request.data_size = request.size;
        content_write(&f->want, request.offset, data, request.size);
    } else if (request.opcode == FUSE_SETATTR) {
        request.valid = FATTR_SIZE;
        request.size = any(m, FILE_SIZE - 5000);
        content_truncate(&f->want, request.size);
    }
    *(changes ? &f->changing : &f->looking) += 1;
    uint64_t number = (m->b->kernel_unique + 2) / 2;
    assert_true(number < m->asked_room);
    struct asked *asked = &m->asked[number];
    *asked = (struct asked){.opcode = request.opcode,
                            .file = which,
                            .handle = handle,
                            .offset = request.offset,
                            .size = request.size};
    asked->want = malloc(sizeof *asked->want);
    assert_non_null(asked->want);
    *asked->want = f->want;
    m->waiting++;
    bench_ask(m->b, request);
}

static void model_check(struct model *m, const struct asked *asked, const struct fs_reply *reply)
{
    struct model_file *f = &m->files[asked->file];
    bool syncs = asked->opcode == FUSE_FSYNC || asked->opcode == FUSE_WRITE;
    if (m->loses) { /* only that errors are heard of */
        if (reply->error < 0 && syncs) {
            m->errors_heard += f->told[asked->handle];
            f->told[asked->handle] = false;
        } else if (asked->opcode == FUSE_FSYNC || asked->opcode == FUSE_FLUSH) {
            assert_true(reply->error < 0 || !f->told[asked->handle]);
        }
        return;
    }
    assert_int_equal(reply->error, 0);
    if (asked->opcode == FUSE_READ) {
        size_t have = asked->offset < asked->want->size ? asked->want->size - asked->offset : 0;
        assert_int_equal(reply->data_size, have < asked->size ? have : asked->size);
        if (reply->data_size > 0)
            assert_memory_equal(reply->data, asked->want->bytes + asked->offset, reply->data_size);
    } else if (asked->opcode == FUSE_GETATTR || asked->opcode == FUSE_SETATTR) {
        assert_int_equal(reply->attr.size, asked->want->size);
    } else if (asked->opcode == FUSE_WRITE) {
        assert_int_equal(reply->size, asked->size);
    }
    if (asked->opcode == FUSE_FSYNC) { /* all of it is there by now */
        assert_int_equal(f->real.size, asked->want->size);
        assert_memory_equal(f->real.bytes, asked->want->bytes, f->real.size);
    }
}

/* The kernel looks at what it got. */
static void model_take(struct model *m)
{
    struct bench_queue *queue = &m->b->to_kernel;
    for (size_t i = 0; i < queue->count; i++) {
        struct bench_message *message = &queue->messages[i];
        struct asked *asked = &m->asked[fs_reply_unique(message->bytes) / 2];
        struct fs_reply reply;
        assert_non_null(asked->want); /* asked for, and answered once */
        assert_int_equal(fs_reply_parse(asked->opcode, message->bytes, message->size, &reply, NULL),
                         0);
        bool changes = asked->opcode == FUSE_WRITE || asked->opcode == FUSE_SETATTR;
        *(changes ? &m->files[asked->file].changing : &m->files[asked->file].looking) -= 1;
        m->waiting--;
        model_check(m, asked, &reply);
        free(asked->want);
        asked->want = NULL;
        free(message->bytes);
    }
    queue->count = 0;
}

static void model_lost(struct model *m, const struct fs_request *request)
{
    if (request->opcode == FUSE_WRITE && (request->flags2 & FS_WRITE_WHOLE)) {
        m->files[request->node - 100].told[0] = m->files[request->node - 100].told[1] = true;
        m->losses++;
    }
}

/* The server fails to write, or is silent until everything that it has was given up. */
static void model_lose(struct model *m, const struct fs_request *write)
{
    struct bench_queue *queue = &m->b->to_server;
    model_lost(m, write);
    if (any(m, 2) == 0) {
        assert_int_equal(bench_reply_error(m->b, write, -ENOSPC), 0);
        return;
    }
    assert_int_equal(bench_wait(m->b, BENCH_DEADLINE_MS * 8), 0);
    for (size_t i = 0; i < queue->count; i++) {
        struct fs_request request;
        assert_int_equal(
            fs_request_parse(queue->messages[i].bytes, queue->messages[i].size, &request, NULL), 0);
        model_lost(m, &request);
        free(queue->messages[i].bytes);
    }
    queue->count = 0;
}

static void serve_write(struct model_file *f, const struct fs_request *request)
{
    if (!(request->flags2 & FS_WRITE_PIECES)) {
        content_write(&f->real, request->offset, request->data, request->data_size);
        return;
    }
    struct bg_reader in = bg_reader_init(request->data, request->data_size);
    while (in.left > 0) {
        uint64_t offset = bg_reader_u64le(&in);
        size_t size = bg_reader_u32le(&in);
        assert_int_equal(bg_reader_u32le(&in), 0);
        const uint8_t *bytes = bg_reader_bytes(&in, size);
        assert_true(bg_reader_ok(&in) && size > 0);
        content_write(&f->real, offset, bytes, size);
    }
}

/* The server does one of the requests that it has, any. */
static void model_serve(struct model *m)
{
    struct bench_queue *queue = &m->b->to_server;
    if (queue->count == 0)
        return;
    size_t which = any(m, (uint32_t)queue->count);
    struct bench_message message = queue->messages[which];
    memmove(queue->messages + which, queue->messages + which + 1,
            (--queue->count - which) * sizeof message);
    struct fs_request request;
    assert_int_equal(fs_request_parse(message.bytes, message.size, &request, NULL), 0);
    if (fs_op_find(request.opcode)->reply == FS_REPLY_NONE || request.node < 100) {
        if (request.node == 1 && request.opcode == FUSE_GETATTR)
            assert_int_equal(bench_reply(m->b, &request,
                                         (struct fs_reply){.attr = bench_attr(1, S_IFDIR | 0755)}),
                             0);
        free(message.bytes);
        return;
    }
    struct model_file *f = &m->files[request.node - 100];
    struct fs_reply reply = {.attr = bench_attr(f->server_node + 1000, S_IFREG | 0644)};
    if (m->loses && request.opcode == FUSE_WRITE && any(m, 8) == 0) {
        model_lose(m, &request);
        free(message.bytes);
        return;
    }
    switch (request.opcode) {
    case FUSE_WRITE:
        serve_write(f, &request);
        reply.size = request.size;
        break;
    case FUSE_SETATTR:
        content_truncate(&f->real, request.size);
        break;
    case FUSE_READ:
        reply.data = f->real.bytes + request.offset;
        reply.data_size = request.offset < f->real.size ? f->real.size - request.offset : 0;
        if (reply.data_size > request.size)
            reply.data_size = request.size;
        break;
    default:
        break; /* GETATTR, FSYNC, FLUSH */
    }
    reply.attr.size = f->real.size;
    assert_int_equal(bench_reply(m->b, &request, reply), 0);
    free(message.bytes);
}

static void model_run(struct model *m)
{
    for (unsigned i = 0; i < FILES; i++)
        model_open(m, i);
    m->asked_room = m->b->kernel_unique / 2 + STEPS + 100;
    m->asked = calloc(m->asked_room, sizeof *m->asked);
    assert_non_null(m->asked);
    for (unsigned i = 0; i < STEPS; i++) {
        switch (any(m, 5)) {
        case 0:
        case 1:
            model_ask(m);
            break;
        case 2:
        case 3:
            model_serve(m);
            break;
        default:
            assert_int_equal(bench_wait(m->b, any(m, 4)), 0);
        }
        model_take(m);
    }
    for (unsigned i = 0;
         i < 10000 && (m->waiting > 0 || !fs_relay_finish(m->b->relay, m->b->now_ms)); i++) {
        model_serve(m);
        assert_int_equal(bench_wait(m->b, m->loses ? 100u : 1u), 0);
        model_take(m);
    }
    assert_int_equal(m->waiting, 0);
    for (unsigned i = 0; i < FILES && !m->loses; i++) {
        assert_int_equal(m->files[i].real.size, m->files[i].want.size);
        assert_memory_equal(m->files[i].real.bytes, m->files[i].want.bytes, m->files[i].real.size);
    }
    free(m->asked);
}

static void any_order_of_the_server_gives_a_plain_files_content(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct model *m = calloc(1, sizeof *m);
        assert_non_null(m);
        m->b = seed % 2 ? bench_new_usual() : bench_new(&takes_pieces, false, false);
        m->random = seed * 0x9e3779b97f4a7c15u;
        model_run(m);
        bench_free(m->b);
        free(m);
    }
}

static void every_lost_write_is_heard_of(void **state)
{
    (void)state;
    unsigned losses = 0, heard = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct model *m = calloc(1, sizeof *m);
        assert_non_null(m);
        m->b = seed % 2 ? bench_new_usual() : bench_new(&takes_pieces, false, false);
        m->random = seed * 0x9e3779b97f4a7c15u;
        m->loses = true;
        model_run(m);
        losses += m->losses;
        heard += m->errors_heard;
        bench_free(m->b);
        free(m);
    }
    assert_true(losses > 20 && heard > 20);
}

int main(void)
{
#define GATHER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        GATHER_TEST(adjacent_writes_are_acknowledged_and_go_as_one),
        GATHER_TEST(a_joined_write_is_at_most_what_a_message_holds),
        GATHER_TEST(writes_elsewhere_are_not_joined_and_keep_their_order),
        cmocka_unit_test(writes_elsewhere_go_as_pieces_to_who_knows_them),
        GATHER_TEST(what_must_be_there_at_once_is_not_acknowledged_early),
        GATHER_TEST(writers_wait_when_too_much_is_not_done),
        cmocka_unit_test(what_depends_on_writes_comes_after_them),
        GATHER_TEST(a_copy_waits_for_both_files),
        GATHER_TEST(truncation_and_times_come_after_writes),
        GATHER_TEST(a_handle_is_released_after_its_writes),
        GATHER_TEST(sizes_of_look_ups_are_not_older_than_writes),
        GATHER_TEST(sizes_are_not_older_though_others_waited_longer),
        GATHER_TEST(closing_is_answered_here_when_it_has_nothing_to_report),
        GATHER_TEST(errors_reach_the_next_write_or_fsync_and_every_close),
        GATHER_TEST(each_open_handle_hears_of_an_error),
        GATHER_TEST(a_short_count_is_an_error),
        GATHER_TEST(silence_is_an_error_for_who_waits_behind_it),
        GATHER_TEST(the_end_of_the_stream_answers_who_waits),
        GATHER_TEST(a_wait_for_a_lock_behind_writes_can_be_interrupted),
        GATHER_TEST(the_end_of_the_mount_sends_what_waits),
        cmocka_unit_test(any_order_of_the_server_gives_a_plain_files_content),
        cmocka_unit_test(every_lost_write_is_heard_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
