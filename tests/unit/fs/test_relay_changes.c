/* What the relay lets the kernel keep, and what it tells it to forget. */
#include "tests/unit/fs/bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "fs/proto/change.h"

#define LONG   60
#define ABSENT 5
#define SHORT  1

static int setup(void **state)
{
    *state = bench_new_fed();
    return 0;
}

static int teardown(void **state)
{
    bench_free(*state);
    return 0;
}

static void say_kind(struct bench *b, uint32_t kinds, uint64_t node)
{
    const struct fs_change change = {.kinds = kinds, .node = node};
    assert_int_equal(bench_say(b, &change, 1), 0);
}

static void say_name(struct bench *b, uint32_t kinds, uint64_t folder, const char *name)
{
    const struct fs_change change = {
        .kinds = kinds, .folder = folder, .name = name, .name_size = strlen(name)};
    assert_int_equal(bench_say(b, &change, 1), 0);
}

static struct fs_request lookup(const struct bench *b, const char *name)
{
    return (struct fs_request){.opcode = FUSE_LOOKUP, .node = b->dir, .name = name};
}

static struct fs_request getattr(uint64_t node)
{
    return (struct fs_request){.opcode = FUSE_GETATTR, .node = node};
}

static struct fs_reply file_attr(uint64_t size)
{
    struct fs_reply reply = {.attr_valid = 1,
                             .attr = bench_attr(BENCH_FILE_SERVER + 1000, S_IFREG | 0644)};
    reply.attr.size = size;
    return reply;
}

static struct fs_reply file_entry(void)
{
    return bench_entry(BENCH_FILE_SERVER, S_IFREG | 0644);
}

/* Asks and answers; returns what the kernel gets. */
static struct fs_reply ask(struct bench *b, struct fs_request request, struct fs_reply reply)
{
    struct fs_request asked = bench_pass(b, request);
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    return bench_kernel_got(b, request.opcode);
}

static uint64_t open_flags(struct bench *b, uint32_t opcode)
{
    bool file = opcode == FUSE_OPEN;
    /* For writing, so that the server is asked; a folder may be opened here (test_lazy.c). */
    struct fs_request request = {
        .opcode = opcode, .node = file ? b->file : b->dir, .flags = file ? O_RDWR : O_RDONLY};
    bench_ask(b, request);
    if (file || b->to_server.count > 0) {
        struct fs_request asked = bench_server_got(b);
        assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = 77}), 0);
    }
    return bench_kernel_got(b, opcode).open_flags;
}

/* ---- how long ---- */

static void what_is_covered_is_kept_for_long(void **state)
{
    struct bench *b = *state;
    struct fs_reply got = ask(b, lookup(b, "file"), file_entry());
    assert_int_equal(got.entry_valid, LONG);
    assert_int_equal(got.attr_valid, LONG);
    assert_int_equal(ask(b, getattr(b->file), file_attr(4096)).attr_valid, LONG);
}

static void what_is_not_covered_is_kept_for_a_second(void **state)
{
    struct bench *b = *state;
    struct fs_reply entry = file_entry(), attr = file_attr(4096);
    entry.attr_valid = attr.attr_valid = 0;
    struct fs_reply got = ask(b, lookup(b, "file"), entry);
    assert_int_equal(got.entry_valid, SHORT);
    assert_int_equal(got.attr_valid, SHORT);
    assert_int_equal(ask(b, getattr(b->file), attr).attr_valid, SHORT);
    assert_int_equal(open_flags(b, FUSE_OPEN), 0);
}

static void without_a_feed_all_is_as_before(void **state)
{
    (void)state;
    struct bench *b = bench_new_usual();
    struct fs_reply got = ask(b, lookup(b, "file"), file_entry());
    assert_int_equal(got.entry_valid, SHORT);
    assert_int_equal(got.attr_valid, SHORT);
    assert_int_equal(open_flags(b, FUSE_OPEN), 0);
    assert_int_equal(open_flags(b, FUSE_OPENDIR), 0);
    struct fs_request asked = bench_pass(b, lookup(b, "none"));
    assert_int_equal(bench_reply_error(b, &asked, -ENOENT), 0);
    bench_expect_error(b, -ENOENT);
    const struct fs_change change = {.kinds = FS_CHANGE_MODIFIED, .node = BENCH_FILE_SERVER};
    for (unsigned i = 0; i < BG_FS_ODD_REPLIES_MAX; i++)
        assert_int_equal(bench_say(b, &change, 1),
                         0); /* nobody asked for it: borne as other oddities */
    assert_int_equal(bench_say(b, &change, 1), -EPROTO);
    bench_free(b);
}

static void absent_names_are_kept_for_a_while(void **state)
{
    struct bench *b = *state;
    struct fs_request asked = bench_pass(b, lookup(b, "none"));
    assert_int_equal(bench_reply_error(b, &asked, -ENOENT), 0);
    struct fs_reply got = bench_kernel_got(b, FUSE_LOOKUP);
    assert_int_equal(got.error, 0);
    assert_true(got.node == 0);
    assert_int_equal(got.entry_valid, ABSENT);
    asked = bench_pass(b, lookup(b, "none"));
    assert_int_equal(bench_reply_error(b, &asked, -EACCES), 0);
    bench_expect_error(b, -EACCES);
}

/* ---- what is told ---- */

static void contents_are_forgotten(void **state)
{
    struct bench *b = *state;
    say_kind(b, FS_CHANGE_MODIFIED, BENCH_FILE_SERVER);
    assert_true(bench_noticed(b, b->file, NULL, true));
    say_kind(b, FS_CHANGE_WRITTEN, BENCH_FILE_SERVER);
    assert_true(bench_noticed(b, b->file, NULL, true));
    say_kind(b, FS_CHANGE_ATTRIBUTES, BENCH_FILE_SERVER);
    assert_true(bench_noticed(b, b->file, NULL, false));
    say_kind(b, FS_CHANGE_MODIFIED, 999); /* not ours */
    assert_int_equal(b->notice_count, 0);
}

static void names_are_forgotten(void **state)
{
    struct bench *b = *state;
    static const uint32_t kinds[] = {FS_CHANGE_CREATED, FS_CHANGE_DELETED};
    for (size_t i = 0; i < 2; i++) {
        say_name(b, kinds[i], BENCH_DIR_SERVER, "x");
        size_t count = b->notice_count;
        assert_true(bench_noticed(b, b->dir, "x", false));
        b->notice_count = count;
        assert_true(bench_noticed(b, b->dir, NULL, true));
    }
    const struct fs_change moved = {.kinds = FS_CHANGE_MOVED,
                                    .node = BENCH_FILE_SERVER,
                                    .folder = BENCH_DIR_SERVER,
                                    .folder2 = 1,
                                    .name = "file",
                                    .name_size = 4,
                                    .name2 = "moved",
                                    .name2_size = 5};
    assert_int_equal(bench_say(b, &moved, 1), 0);
    size_t count = b->notice_count;
    assert_true(bench_noticed(b, b->dir, "file", false));
    b->notice_count = count;
    assert_true(bench_noticed(b, 1, "moved", false));
    b->notice_count = count;
    assert_true(bench_noticed(b, b->file, NULL, false)); /* its ctime */
}

static void a_link_is_found_by_its_place(void **state)
{
    struct bench *b = *state;
    const struct fs_change change = {.kinds = FS_CHANGE_ATTRIBUTES,
                                     .node = BENCH_LINK_SERVER,
                                     .folder = BENCH_DIR_SERVER,
                                     .name = "link",
                                     .name_size = 4};
    assert_int_equal(bench_say(b, &change, 1), 0);
    assert_true(bench_noticed(b, b->link, NULL, false));
}

/* ---- answers that cross a change ---- */

static void an_answer_that_crosses_a_change_is_not_kept(void **state)
{
    struct bench *b = *state;
    static const struct {
        uint32_t kinds;
        uint64_t node;
        bool attr, entry; /* which of the two answers it spoils */
    } table[] = {
        {FS_CHANGE_MODIFIED, BENCH_FILE_SERVER, true, true},
        {FS_CHANGE_ATTRIBUTES, BENCH_FILE_SERVER, true, true},
        {FS_CHANGE_ATTRIBUTES, BENCH_DIR_SERVER, false, true},
        {FS_CHANGE_ATTRIBUTES, 999, false, true}, /* perhaps what the answer brings */
        {FS_CHANGE_EVERYTHING, 0, true, true},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct fs_request asked = bench_pass(b, getattr(b->file));
        say_kind(b, table[i].kinds, table[i].node);
        assert_int_equal(bench_reply(b, &asked, file_attr(4096)), 0);
        struct fs_reply got = bench_kernel_got(b, FUSE_GETATTR);
        assert_int_equal(got.attr_valid, table[i].attr ? 0 : LONG);
        asked = bench_pass(b, lookup(b, "file"));
        say_kind(b, table[i].kinds, table[i].node);
        assert_int_equal(bench_reply(b, &asked, file_entry()), 0);
        got = bench_kernel_got(b, FUSE_LOOKUP);
        if (table[i].entry)
            assert_int_equal(got.entry_valid + got.attr_valid, 0);
        b->notice_count = 0;
    }
}

static void an_absence_that_crosses_a_change_is_not_kept(void **state)
{
    struct bench *b = *state;
    struct fs_request asked = bench_pass(b, lookup(b, "new"));
    say_name(b, FS_CHANGE_CREATED, BENCH_DIR_SERVER, "new");
    assert_int_equal(bench_reply_error(b, &asked, -ENOENT), 0);
    bench_expect_error(b, -ENOENT);
}

static void contents_that_cross_a_change_are_forgotten_again(void **state)
{
    struct bench *b = *state;
    struct fs_request request = {.opcode = FUSE_READ, .node = b->file, .fh = b->fh, .size = 4};
    struct fs_reply reply = {.data = (const uint8_t *)"old!", .data_size = 4};
    struct fs_request asked = bench_pass(b, request);
    say_kind(b, FS_CHANGE_MODIFIED, BENCH_FILE_SERVER);
    assert_true(bench_noticed(b, b->file, NULL, true));
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    (void)bench_kernel_got(b, FUSE_READ);
    assert_true(bench_noticed(b, b->file, NULL, true));
    (void)ask(b, request, reply);
    assert_int_equal(b->notice_count, 0);

    request =
        (struct fs_request){.opcode = FUSE_READDIR, .node = b->dir, .fh = b->dir_fh, .size = 4096};
    asked = bench_pass(b, request);
    say_name(b, FS_CHANGE_DELETED, BENCH_DIR_SERVER, "x");
    b->notice_count = 0;
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    (void)bench_kernel_got(b, FUSE_READDIR);
    assert_true(bench_noticed(b, b->dir, NULL, true));
}

/* ---- opening ---- */

static void pages_are_kept_while_nothing_changes(void **state)
{
    struct bench *b = *state;
    assert_int_equal(open_flags(b, FUSE_OPEN), FOPEN_KEEP_CACHE); /* the bench has opened it */
    say_kind(b, FS_CHANGE_MODIFIED, BENCH_FILE_SERVER);
    assert_int_equal(open_flags(b, FUSE_OPEN), 0);
    assert_int_equal(open_flags(b, FUSE_OPEN), FOPEN_KEEP_CACHE);
    say_kind(b, FS_CHANGE_ATTRIBUTES, BENCH_FILE_SERVER);
    assert_int_equal(open_flags(b, FUSE_OPEN), FOPEN_KEEP_CACHE);
    assert_int_equal(open_flags(b, FUSE_OPENDIR), FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE);
    say_name(b, FS_CHANGE_CREATED, BENCH_DIR_SERVER, "x");
    assert_int_equal(open_flags(b, FUSE_OPENDIR), FOPEN_CACHE_DIR);
    assert_int_equal(open_flags(b, FUSE_OPENDIR), FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE);
}

static void an_open_that_crosses_a_change_keeps_nothing(void **state)
{
    struct bench *b = *state;
    struct fs_request asked =
        bench_pass(b, (struct fs_request){.opcode = FUSE_OPEN, .node = b->file, .flags = O_RDWR});
    say_kind(b, FS_CHANGE_MODIFIED, BENCH_FILE_SERVER);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = 78}), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_OPEN).open_flags, 0);
    assert_int_equal(open_flags(b, FUSE_OPEN), 0); /* the one before was not after the change */
    assert_int_equal(open_flags(b, FUSE_OPEN), FOPEN_KEEP_CACHE);
}

static void a_change_without_an_event_is_seen_by_size_and_time(void **state)
{
    struct bench *b = *state;
    (void)ask(b, getattr(b->file), file_attr(4096));
    assert_int_equal(b->notice_count, 0);
    (void)ask(b, getattr(b->file), file_attr(4097));
    assert_true(bench_noticed(b, b->file, NULL, true));
    assert_int_equal(open_flags(b, FUSE_OPEN), 0);
    (void)ask(b, getattr(b->file), file_attr(4097));
    assert_int_equal(b->notice_count, 0);
}

static void our_own_writes_are_no_change(void **state)
{
    struct bench *b = *state;
    struct fs_request write = {.opcode = FUSE_WRITE,
                               .node = b->file,
                               .fh = b->fh,
                               .flags = O_SYNC, /* acknowledged when it is done */
                               .size = 4,
                               .data = (const uint8_t *)"text",
                               .data_size = 4};
    (void)ask(b, getattr(b->file), file_attr(4096));
    /* Attributes that were asked for while it was written may be older or newer. */
    struct fs_request asked = bench_pass(b, write);
    (void)ask(b, getattr(b->file), file_attr(4100));
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.size = 4}), 0);
    b->kernel_unique -= 2; /* the one before the last */
    (void)bench_kernel_got(b, FUSE_WRITE);
    b->kernel_unique += 2;
    (void)ask(b, getattr(b->file), file_attr(4104));
    assert_int_equal(b->notice_count, 0);
    assert_int_equal(open_flags(b, FUSE_OPEN), FOPEN_KEEP_CACHE);
    (void)ask(b, getattr(b->file), file_attr(4105)); /* that is somebody else */
    assert_true(bench_noticed(b, b->file, NULL, true));
}

static void what_both_append_to_is_forgotten(void **state)
{
    struct bench *b = *state;
    struct fs_request write = {.opcode = FUSE_WRITE,
                               .node = b->file,
                               .fh = b->fh,
                               .flags = O_APPEND,
                               .size = 4,
                               .data = (const uint8_t *)"text",
                               .data_size = 4};
    (void)ask(b, write, (struct fs_reply){.size = 4});
    assert_int_equal(b->notice_count, 0);
    say_kind(b, FS_CHANGE_MODIFIED, BENCH_FILE_SERVER);
    b->notice_count = 0;
    (void)ask(b, write, (struct fs_reply){.size = 4});
    assert_true(bench_noticed(b, b->file, NULL, true));
}

/* ---- lost changes ---- */

static void after_a_loss_all_is_forgotten(void **state)
{
    struct bench *b = *state;
    say_kind(b, FS_CHANGE_EVERYTHING, 0);
    assert_int_equal(open_flags(b, FUSE_OPEN), 0);
    assert_int_equal(ask(b, getattr(b->file), file_attr(4096)).attr_valid, SHORT);
    assert_int_equal(bench_wait(b, 1000), 0);
    assert_true(b->notice_count >= 5);
    assert_true(b->notices[0].notice.all_names);
    size_t count = b->notice_count;
    const uint64_t nodes[] = {1, b->dir, b->file, b->link};
    for (size_t i = 0; i < 4; i++) {
        b->notice_count = count;
        assert_true(bench_noticed(b, nodes[i], NULL, true));
    }
    assert_int_equal(ask(b, getattr(b->file), file_attr(4096)).attr_valid, LONG);
    assert_int_equal(open_flags(b, FUSE_OPEN), 0);
    assert_int_equal(open_flags(b, FUSE_OPEN), FOPEN_KEEP_CACHE);
}

static void a_kernel_that_is_slow_is_not_told_more(void **state)
{
    struct bench *b = *state;
    b->notice_room = 1;
    say_kind(b, FS_CHANGE_MODIFIED, BENCH_FILE_SERVER);
    assert_int_equal(ask(b, getattr(b->file), file_attr(4096)).attr_valid, LONG);
    say_kind(b, FS_CHANGE_MODIFIED, BENCH_DIR_SERVER);
    assert_int_equal(ask(b, getattr(b->file), file_attr(4096)).attr_valid, SHORT);
    for (unsigned i = 0; i < 20; i++) {
        b->notice_count = 0; /* it takes one after the other */
        assert_int_equal(bench_wait(b, 1000), 0);
    }
    assert_int_equal(ask(b, getattr(b->file), file_attr(4096)).attr_valid, LONG);
}

static void a_flood_makes_caches_short_and_no_work(void **state)
{
    struct bench *b = *state;
    struct fs_change changes[100];
    for (size_t i = 0; i < 100; i++)
        changes[i] = (struct fs_change){.kinds = FS_CHANGE_MODIFIED, .node = BENCH_FILE_SERVER};
    for (size_t sent = 0; sent <= BG_FS_CHANGES_RATE; sent += 100) {
        b->notice_count = 0;
        assert_int_equal(bench_say(b, changes, 100), 0);
    }
    assert_int_equal(ask(b, getattr(b->file), file_attr(4096)).attr_valid, SHORT);
    b->notice_count = 0;
    assert_int_equal(bench_say(b, changes, 100), 0);
    assert_int_equal(b->notice_count, 0);
}

static void an_ended_feed_makes_caches_short_for_good(void **state)
{
    struct bench *b = *state;
    say_kind(b, FS_CHANGE_ENDED, 0);
    assert_int_equal(bench_wait(b, 1000), 0);
    assert_true(b->notice_count > 0);
    assert_int_equal(ask(b, getattr(b->file), file_attr(4096)).attr_valid, SHORT);
    assert_int_equal(open_flags(b, FUSE_OPEN), 0);
}

static void bad_records_are_borne_and_then_not(void **state)
{
    struct bench *b = *state;
    const struct fs_change bad = {.kinds = FS_CHANGE_MODIFIED};
    for (unsigned i = 0; i < BG_FS_ODD_REPLIES_MAX; i++)
        assert_int_equal(bench_say(b, &bad, 1), 0);
    assert_int_equal(bench_say(b, &bad, 1), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_covered_is_kept_for_long, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_not_covered_is_kept_for_a_second, setup, teardown),
        cmocka_unit_test(without_a_feed_all_is_as_before),
        cmocka_unit_test_setup_teardown(absent_names_are_kept_for_a_while, setup, teardown),
        cmocka_unit_test_setup_teardown(contents_are_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(names_are_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(a_link_is_found_by_its_place, setup, teardown),
        cmocka_unit_test_setup_teardown(an_answer_that_crosses_a_change_is_not_kept, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_absence_that_crosses_a_change_is_not_kept, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(contents_that_cross_a_change_are_forgotten_again, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(pages_are_kept_while_nothing_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(an_open_that_crosses_a_change_keeps_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_change_without_an_event_is_seen_by_size_and_time, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(our_own_writes_are_no_change, setup, teardown),
        cmocka_unit_test_setup_teardown(what_both_append_to_is_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(after_a_loss_all_is_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(a_kernel_that_is_slow_is_not_told_more, setup, teardown),
        cmocka_unit_test_setup_teardown(a_flood_makes_caches_short_and_no_work, setup, teardown),
        cmocka_unit_test_setup_teardown(an_ended_feed_makes_caches_short_for_good, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_records_are_borne_and_then_not, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
