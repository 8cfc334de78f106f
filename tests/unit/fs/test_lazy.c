/* What is opened again without the server, and what becomes of it when the server is needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "fs/proto/change.h"
#include "tests/unit/fs/bench.h"

#define LAZY_FH_SERVER 0xdeadbeef00000077u

static int setup(void **state)
{
    *state = bench_new_fed(); /* it has opened the file and the folder */
    return 0;
}

static int teardown(void **state)
{
    bench_free(*state);
    return 0;
}

static void say(struct bench *b, const struct fs_change *change)
{
    assert_int_equal(bench_say(b, change, 1), 0);
}

static void say_kind(struct bench *b, uint32_t kinds, uint64_t node)
{
    const struct fs_change change = {.kinds = kinds, .node = node};
    say(b, &change);
}

static struct fs_request opening(const struct bench *b, uint32_t opcode)
{
    return (struct fs_request){.opcode = opcode, .node = opcode == FUSE_OPEN ? b->file : b->dir};
}

/* Opens what the server need not be asked for. */
static uint64_t open_here(struct bench *b, uint32_t opcode)
{
    bench_ask(b, opening(b, opcode));
    bench_expect_nothing_for_server(b);
    struct fs_reply got = bench_kernel_got(b, opcode);
    assert_int_equal(got.error, 0);
    assert_int_equal(got.open_flags,
                     FOPEN_KEEP_CACHE | (opcode == FUSE_OPENDIR ? FOPEN_CACHE_DIR : 0));
    return got.fh;
}

static void expect_asked(struct bench *b, struct fs_request request)
{
    struct fs_request asked = bench_pass(b, request);
    assert_int_equal(asked.opcode, request.opcode);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = 77}), 0);
    assert_int_equal(bench_kernel_got(b, request.opcode).error, 0);
}

static struct fs_request read_of(const struct bench *b, uint64_t fh)
{
    return (struct fs_request){.opcode = FUSE_READ, .node = b->file, .fh = fh, .size = 4096};
}

static struct fs_request list_of(const struct bench *b, uint64_t fh)
{
    return (struct fs_request){.opcode = FUSE_READDIR, .node = b->dir, .fh = fh, .size = 4096};
}

static void what_has_not_changed_is_opened_and_closed_here(void **state)
{
    struct bench *b = *state;
    static const uint32_t opcodes[][2] = {{FUSE_OPEN, FUSE_RELEASE},
                                          {FUSE_OPENDIR, FUSE_RELEASEDIR}};
    for (size_t i = 0; i < 2; i++) {
        uint64_t fh = open_here(b, opcodes[i][0]), second = open_here(b, opcodes[i][0]);
        assert_int_not_equal(fh, second);
        struct fs_request close = opening(b, opcodes[i][0]);
        close.opcode = opcodes[i][1];
        close.fh = fh;
        bench_ask(b, close);
        bench_expect_error(b, 0);
        bench_expect_nothing_for_server(b);
    }
}

static void a_folder_that_is_read_after_all_is_opened_first(void **state)
{
    struct bench *b = *state;
    uint64_t fh = open_here(b, FUSE_OPENDIR);
    struct fs_request asked = bench_pass(b, list_of(b, fh));
    assert_int_equal(asked.opcode, FUSE_OPENDIR);
    assert_int_equal(asked.node, BENCH_DIR_SERVER);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = LAZY_FH_SERVER}), 0);
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_READDIR);
    assert_true(asked.fh == LAZY_FH_SERVER);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_READDIR).error, 0);
    /* From here on it is as any other. */
    assert_int_equal(bench_pass(b, list_of(b, fh)).opcode, FUSE_READDIR);
    bench_ask(b, (struct fs_request){.opcode = FUSE_RELEASEDIR, .node = b->dir, .fh = fh});
    bench_expect_error(b, 0);
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_RELEASEDIR);
    assert_true(asked.fh == LAZY_FH_SERVER);
}

static void a_file_that_is_read_after_all_costs_one_turn(void **state)
{
    struct bench *b = *state;
    static const uint8_t content[] = "what it holds";
    uint64_t fh = open_here(b, FUSE_OPEN);
    struct fs_request asked = bench_pass(b, read_of(b, fh));
    assert_int_equal(asked.opcode, FUSE_OPEN);
    assert_true(asked.flags2 & FS_OPEN_READ);
    struct fs_reply reply = {.fh = LAZY_FH_SERVER, .data = content, .data_size = sizeof content};
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    bench_expect_nothing_for_server(b);
    struct fs_reply got = bench_kernel_got(b, FUSE_READ);
    assert_int_equal(got.error, 0);
    assert_int_equal(got.data_size, sizeof content);
    assert_memory_equal(got.data, content, sizeof content);
}

static void its_error_is_the_one_that_needed_it(void **state)
{
    struct bench *b = *state;
    uint64_t fh = open_here(b, FUSE_OPEN);
    struct fs_request asked = bench_pass(b, read_of(b, fh));
    assert_int_equal(bench_reply_error(b, &asked, -EACCES), 0);
    bench_expect_error(b, -EACCES);
    asked = bench_pass(b, read_of(b, fh)); /* it is still to be opened */
    assert_int_equal(asked.opcode, FUSE_OPEN);
}

static void two_who_need_it_at_once_open_it_once(void **state)
{
    struct bench *b = *state;
    uint64_t fh = open_here(b, FUSE_OPENDIR);
    struct fs_request first = bench_pass(b, list_of(b, fh));
    uint64_t unique = b->kernel_unique;
    struct fs_request sync = {.opcode = FUSE_FSYNCDIR, .node = b->dir, .fh = fh};
    struct fs_request second = bench_pass(b, sync);
    assert_int_equal(second.opcode, FUSE_OPENDIR);
    assert_int_equal(bench_reply(b, &first, (struct fs_reply){.fh = LAZY_FH_SERVER}), 0);
    struct fs_request list = bench_server_got(b);
    assert_int_equal(list.opcode, FUSE_READDIR);
    assert_int_equal(bench_reply(b, &second, (struct fs_reply){.fh = LAZY_FH_SERVER + 1}), 0);
    struct fs_request asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_RELEASEDIR);
    assert_true(asked.fh == LAZY_FH_SERVER + 1);
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_FSYNCDIR);
    assert_true(asked.fh == LAZY_FH_SERVER);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    bench_expect_error(b, 0);
    b->kernel_unique = unique;
    assert_int_equal(bench_reply(b, &list, (struct fs_reply){0}), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_READDIR).error, 0);
}

static void one_that_comes_too_late_is_closed(void **state)
{
    struct bench *b = *state;
    uint64_t fh = open_here(b, FUSE_OPENDIR);
    struct fs_request asked = bench_pass(b, list_of(b, fh));
    assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS), 0);
    bench_expect_error(b, -EIO);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = LAZY_FH_SERVER}), 0);
    struct fs_request release;
    do { /* probes may come first */
        release = bench_server_got(b);
    } while (release.opcode == FUSE_GETATTR);
    assert_int_equal(release.opcode, FUSE_RELEASEDIR);
    assert_true(release.fh == LAZY_FH_SERVER);
}

static void what_has_changed_is_asked_for(void **state)
{
    struct bench *b = *state;
    static const uint32_t kinds[] = {FS_CHANGE_MODIFIED, FS_CHANGE_WRITTEN, FS_CHANGE_ATTRIBUTES};
    for (size_t i = 0; i < 3; i++) {
        say_kind(b, kinds[i], BENCH_FILE_SERVER);
        expect_asked(b, opening(b, FUSE_OPEN));
        (void)open_here(b, FUSE_OPEN);
    }
    const struct fs_change name = {
        .kinds = FS_CHANGE_CREATED, .folder = BENCH_DIR_SERVER, .name = "x", .name_size = 1};
    say(b, &name);
    expect_asked(b, opening(b, FUSE_OPENDIR));
    (void)open_here(b, FUSE_OPENDIR);
    say_kind(b, FS_CHANGE_EVERYTHING, 0);
    expect_asked(b, opening(b, FUSE_OPEN));
    expect_asked(b, opening(b, FUSE_OPENDIR));
    say_kind(b, FS_CHANGE_ENDED, 0);
    assert_int_equal(bench_wait(b, 1000), 0);
    expect_asked(b, opening(b, FUSE_OPEN));
    expect_asked(b, opening(b, FUSE_OPEN));
}

static void who_writes_asks(void **state)
{
    struct bench *b = *state;
    static const uint64_t flags[] = {O_RDWR, O_WRONLY, O_RDONLY | O_TRUNC};
    for (size_t i = 0; i < 3; i++) {
        struct fs_request request = opening(b, FUSE_OPEN);
        request.flags = flags[i];
        expect_asked(b, request);
    }
}

/* The server may let somebody write who may not read. */
static void what_was_only_written_is_not_known_to_be_readable(void **state)
{
    struct bench *b = *state;
    struct fs_request request = opening(b, FUSE_OPEN);
    request.flags = O_WRONLY;
    say_kind(b, FS_CHANGE_MODIFIED, BENCH_FILE_SERVER);
    expect_asked(b, request);
    expect_asked(b, opening(b, FUSE_OPEN));
    (void)open_here(b, FUSE_OPEN);
}

static void without_a_feed_all_is_asked_for(void **state)
{
    (void)state;
    struct bench *b = bench_new_usual();
    for (size_t i = 0; i < 2; i++) {
        expect_asked(b, opening(b, FUSE_OPEN));
        expect_asked(b, opening(b, FUSE_OPENDIR));
    }
    bench_free(b);
}

/* A server that comes back is asked for what was open there, and for the rest when it is needed. */
static void it_outlives_the_server(void **state)
{
    struct bench *b = *state;
    const struct fs_hello hello = {.server = true, .uid = 500, .gid = 501, .flags = FS_HELLO_FEED};
    uint8_t bytes[FS_HELLO_SIZE];
    struct bg_err err;
    unsigned opened = 0;
    uint64_t fh = open_here(b, FUSE_OPEN);
    assert_int_equal(fs_relay_lost(b->relay, b->now_ms), 0);
    bench_ask(b, read_of(b, fh)); /* waits */
    bench_expect_nothing_for_server(b);
    fs_hello_emit(&hello, bytes);
    assert_int_equal(fs_relay_returned(b->relay, bytes, sizeof bytes, b->now_ms, &err), 0);
    while (fs_relay_state(b->relay) == FS_RELAY_REBINDING) {
        struct fs_request asked = bench_server_got(b);
        struct fs_reply reply = {.fh = 50 + opened};
        if (asked.opcode == FUSE_LOOKUP) {
            bool folder = strcmp(asked.name, "dir") == 0;
            reply.node = folder ? 120 : 121;
            reply.attr = folder ? bench_attr(BENCH_DIR_SERVER + 1000, S_IFDIR | 0755)
                                : bench_attr(BENCH_FILE_SERVER + 1000, S_IFREG | 0644);
        } else {
            opened++;
        }
        assert_int_equal(bench_reply(b, &asked, reply), 0);
    }
    assert_int_equal(opened, 2); /* the bench's own */
    struct fs_request asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_OPEN);
    assert_int_equal(asked.node, 121);
    /* And when it goes in the middle of that, the next one has it. */
    assert_int_equal(fs_relay_lost(b->relay, b->now_ms), 0);
    assert_int_equal(b->to_kernel.count, 0);
}

int main(void)
{
#define LAZY_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        LAZY_TEST(what_has_not_changed_is_opened_and_closed_here),
        LAZY_TEST(a_folder_that_is_read_after_all_is_opened_first),
        LAZY_TEST(a_file_that_is_read_after_all_costs_one_turn),
        LAZY_TEST(its_error_is_the_one_that_needed_it),
        LAZY_TEST(two_who_need_it_at_once_open_it_once),
        LAZY_TEST(one_that_comes_too_late_is_closed),
        LAZY_TEST(what_has_changed_is_asked_for),
        LAZY_TEST(who_writes_asks),
        LAZY_TEST(what_was_only_written_is_not_known_to_be_readable),
        LAZY_TEST(it_outlives_the_server),
        cmocka_unit_test(without_a_feed_all_is_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
