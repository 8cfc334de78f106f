/* Small files that come with the answer to OPEN. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "tests/unit/fs/bench.h"

static uint8_t content[BG_FS_AHEAD_MAX];

static int setup(void **state)
{
    *state = bench_new_usual();
    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (uint8_t)(i * 7);
    return 0;
}

static int teardown(void **state)
{
    bench_free(*state);
    return 0;
}

/* Opens the file for reading; the server answers with that much of it. */
static uint64_t open_with(struct bench *b, size_t size)
{
    struct fs_request asked =
        bench_pass(b, (struct fs_request){.opcode = FUSE_OPEN, .node = b->file});
    assert_true(asked.flags2 & FS_OPEN_READ);
    struct fs_reply reply = {.fh = 9, .data = content, .data_size = size};
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    struct fs_reply got = bench_kernel_got(b, FUSE_OPEN);
    assert_int_equal(got.error, 0);
    assert_int_equal(got.data_size, 0); /* not for the kernel */
    return got.fh;
}

static struct fs_request read_of(const struct bench *b, uint64_t fh, uint64_t offset, uint64_t size)
{
    return (struct fs_request){
        .opcode = FUSE_READ, .node = b->file, .fh = fh, .offset = offset, .size = size};
}

static void expect_here(struct bench *b, const struct fs_request *read, size_t want)
{
    bench_ask(b, *read);
    struct fs_reply got = bench_kernel_got(b, FUSE_READ);
    assert_int_equal(got.error, 0);
    assert_int_equal(got.data_size, want);
    if (want > 0)
        assert_memory_equal(got.data, content + read->offset, want);
    bench_expect_nothing_for_server(b);
}

static void expect_asked(struct bench *b, const struct fs_request *read)
{
    assert_int_equal(bench_pass(b, *read).opcode, FUSE_READ);
}

static void a_small_file_is_read_without_the_server(void **state)
{
    struct bench *b = *state;
    uint64_t fh = open_with(b, 5000);
    struct fs_request first = read_of(b, fh, 0, 4096), rest = read_of(b, fh, 4096, 4096);
    expect_here(b, &first, 4096);
    expect_here(b, &rest, 904);
    expect_asked(b, &rest); /* it was used up */
}

static void what_may_go_on_is_not_taken_for_the_end(void **state)
{
    struct bench *b = *state;
    uint64_t fh = open_with(b, BG_FS_AHEAD_MAX);
    struct fs_request inside = read_of(b, fh, 0, BG_FS_AHEAD_MAX - 1);
    expect_here(b, &inside, BG_FS_AHEAD_MAX - 1);
    struct fs_request over = read_of(b, fh, 0, BG_FS_AHEAD_MAX + 1);
    expect_asked(b, &over);
    struct fs_request beyond = read_of(b, open_with(b, 10), 11, 10);
    expect_asked(b, &beyond);
}

static void changes_and_time_end_it(void **state)
{
    struct bench *b = *state;
    static const uint8_t data[10];
    struct fs_request write = {.opcode = FUSE_WRITE,
                               .node = b->file,
                               .fh = b->fh,
                               .size = sizeof data,
                               .data = data,
                               .data_size = sizeof data};
    struct fs_request read = read_of(b, open_with(b, 100), 0, 100);
    write.flags = O_DSYNC;
    struct fs_request asked = bench_pass(b, write);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.size = sizeof data}), 0);
    (void)bench_kernel_got(b, FUSE_WRITE);
    expect_asked(b, &read);

    read = read_of(b, open_with(b, 100), 0, 100);
    assert_int_equal(bench_wait(b, 200), 0);
    expect_asked(b, &read);

    /* Changed while the OPEN was on its way. */
    asked = bench_pass(b, (struct fs_request){.opcode = FUSE_OPEN, .node = b->file});
    uint64_t unique = b->kernel_unique;
    (void)bench_pass(b, write);
    b->kernel_unique = unique;
    struct fs_reply reply = {.fh = 9, .data = content, .data_size = 100};
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    read.fh = bench_kernel_got(b, FUSE_OPEN).fh;
    b->kernel_unique += 2;
    expect_asked(b, &read);
}

static void it_is_asked_for_only_where_it_is_of_use(void **state)
{
    struct bench *b = *state;
    static const int flags[] = {O_RDWR, O_WRONLY, O_RDONLY | O_TRUNC};
    for (size_t i = 0; i < 3; i++) {
        struct fs_request open = {
            .opcode = FUSE_OPEN, .node = b->file, .flags = (uint64_t)flags[i]};
        struct fs_request asked = bench_pass(b, open);
        assert_false(asked.flags2 & FS_OPEN_READ);
        struct fs_reply lie = {.fh = 9, .data = content, .data_size = 100};
        assert_int_equal(bench_reply(b, &asked, lie), 0);
        struct fs_reply got = bench_kernel_got(b, FUSE_OPEN);
        assert_int_equal(got.data_size, 0);
        struct fs_request read = read_of(b, got.fh, 0, 100);
        expect_asked(b, &read);
    }
}

static void there_is_a_maximum_of_all(void **state)
{
    struct bench *b = *state;
    uint64_t last = 0;
    for (size_t i = 0; i < BG_FS_AHEAD_ALL_MAX / BG_FS_AHEAD_MAX; i++)
        last = open_with(b, BG_FS_AHEAD_MAX);
    struct fs_request open = {.opcode = FUSE_OPEN, .node = b->file};
    assert_false(bench_pass(b, open).flags2 & FS_OPEN_READ);
    bench_ask(b, (struct fs_request){.opcode = FUSE_RELEASE, .node = b->file, .fh = last});
    bench_expect_error(b, 0);
    assert_int_equal(bench_server_got(b).opcode, FUSE_RELEASE);
    assert_true(bench_pass(b, open).flags2 & FS_OPEN_READ);
}

int main(void)
{
#define AHEAD_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        AHEAD_TEST(a_small_file_is_read_without_the_server),
        AHEAD_TEST(what_may_go_on_is_not_taken_for_the_end),
        AHEAD_TEST(changes_and_time_end_it),
        AHEAD_TEST(it_is_asked_for_only_where_it_is_of_use),
        AHEAD_TEST(there_is_a_maximum_of_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
