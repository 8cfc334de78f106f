/* Links that are walked while folders move. The bench's tree is /dir/link, with one more folder
 * /dir/sub/deep/link2 that the tests move about. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "tests/unit/fs/bench.h"

#define WALK_MS 100u

struct world {
    struct bench *b;
    uint64_t sub, deep, link;
};

static uint64_t find(struct bench *b, uint64_t parent, const char *name, uint64_t server_id,
                     uint32_t mode)
{
    struct fs_request asked =
        bench_pass(b, (struct fs_request){.opcode = FUSE_LOOKUP, .node = parent, .name = name});
    assert_int_equal(bench_reply(b, &asked, bench_entry(server_id, mode)), 0);
    return bench_kernel_got(b, FUSE_LOOKUP).node;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->b = bench_new_usual();
    w->sub = find(w->b, w->b->dir, "sub", 101, S_IFDIR | 0755);
    w->deep = find(w->b, w->sub, "deep", 102, S_IFDIR | 0755);
    w->link = find(w->b, w->deep, "link2", 103, S_IFLNK | 0777);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    bench_free(w->b);
    free(w);
    return 0;
}

/* A thread reads link2, whose text is this; the server answers. */
static void read_link(struct world *w, uint32_t thread, const char *text)
{
    struct fs_request asked = bench_pass(
        w->b, (struct fs_request){.opcode = FUSE_READLINK, .node = w->link, .caller_pid = thread});
    struct fs_reply reply = {.data = (const uint8_t *)text, .data_size = strlen(text)};
    assert_int_equal(bench_reply(w->b, &asked, reply), 0);
}

static void expect_text(struct world *w)
{
    assert_int_equal(bench_kernel_got(w->b, FUSE_READLINK).error, 0);
}

/* Another thread moves deep to the mount's root. */
static struct fs_request move_up(const struct world *w)
{
    return (struct fs_request){.opcode = FUSE_RENAME,
                               .node = w->sub,
                               .name = "deep",
                               .node2 = 1,
                               .name2 = "shallow",
                               .caller_pid = 9};
}

static void expect_held(struct world *w)
{
    bench_expect_nothing_for_kernel(w->b);
    bench_expect_nothing_for_server(w->b);
}

static void a_move_up_waits_for_who_walks(void **state)
{
    struct world *w = *state;
    read_link(w, 5, "../../../x");
    expect_text(w);
    bench_ask(w->b, move_up(w));
    expect_held(w);
    assert_int_equal(bench_wait(w->b, WALK_MS - 1), 0);
    expect_held(w);
    assert_int_equal(bench_wait(w->b, 1), 0);
    struct fs_request asked = bench_server_got(w->b);
    assert_int_equal(asked.opcode, FUSE_RENAME);
    assert_string_equal(asked.name2, "shallow");
    assert_int_equal(bench_reply(w->b, &asked, (struct fs_reply){0}), 0);
    bench_expect_error(w->b, 0);
}

static void a_walk_that_is_over_stops_nobody(void **state)
{
    struct world *w = *state;
    read_link(w, 5, "../../../x");
    expect_text(w);
    /* It has gone up and looks for a name now. */
    bench_ask(w->b,
              (struct fs_request){.opcode = FUSE_LOOKUP, .node = 1, .name = "x", .caller_pid = 5});
    (void)bench_server_got(w->b);
    assert_int_equal(bench_pass(w->b, move_up(w)).opcode, FUSE_RENAME);
}

static void a_walk_that_asks_on_its_way_lasts(void **state)
{
    struct world *w = *state;
    read_link(w, 5, "../../../x");
    expect_text(w);
    /* May it pass through this folder? A slow server draws the walk out. */
    struct fs_request may = bench_pass(
        w->b, (struct fs_request){.opcode = FUSE_GETATTR, .node = w->sub, .caller_pid = 5});
    uint64_t walker = w->b->kernel_unique;
    bench_ask(w->b, move_up(w));
    uint64_t mover = w->b->kernel_unique;
    expect_held(w);
    assert_int_equal(bench_wait(w->b, 5 * WALK_MS), 0);
    expect_held(w);
    struct fs_reply attr = {.attr = bench_attr(1101, S_IFDIR | 0755)};
    w->b->kernel_unique = walker;
    assert_int_equal(bench_reply(w->b, &may, attr), 0);
    assert_int_equal(bench_kernel_got(w->b, FUSE_GETATTR).error, 0);
    assert_int_equal(bench_wait(w->b, WALK_MS / 2), 0);
    expect_held(w);
    assert_int_equal(bench_wait(w->b, WALK_MS), 0);
    w->b->kernel_unique = mover;
    assert_int_equal(bench_server_got(w->b).opcode, FUSE_RENAME);
}

static void moves_that_leave_it_inside_do_not_wait(void **state)
{
    struct world *w = *state;
    read_link(w, 5, "../x");
    expect_text(w);
    assert_int_equal(bench_pass(w->b, move_up(w)).opcode, FUSE_RENAME); /* 1 is deep enough */
}

static void moves_of_other_folders_and_files_do_not_wait(void **state)
{
    struct world *w = *state;
    read_link(w, 5, "../../../x");
    expect_text(w);
    uint64_t other = find(w->b, w->sub, "other", 104, S_IFDIR | 0755);
    assert_true(other != 0);
    struct fs_request request = move_up(w);
    request.name = "other";
    assert_int_equal(bench_pass(w->b, request).opcode, FUSE_RENAME);
    request = move_up(w);
    request.node = w->b->dir;
    request.name = "file";
    assert_int_equal(bench_pass(w->b, request).opcode, FUSE_RENAME);
}

static void an_exchange_moves_both(void **state)
{
    struct world *w = *state;
    uint64_t top = find(w->b, 1, "top", 105, S_IFDIR | 0755);
    assert_true(top != 0);
    read_link(w, 5, "../../../x");
    expect_text(w);
    struct fs_request request = {.opcode = FUSE_RENAME2,
                                 .node = 1,
                                 .name = "top",
                                 .node2 = w->sub,
                                 .name2 = "deep",
                                 .flags = RENAME_EXCHANGE,
                                 .caller_pid = 9};
    bench_ask(w->b, request);
    expect_held(w);
    assert_int_equal(bench_wait(w->b, WALK_MS), 0);
    assert_int_equal(bench_server_got(w->b).opcode, FUSE_RENAME2);
}

static void links_below_a_folder_on_the_move_wait(void **state)
{
    struct world *w = *state;
    struct fs_request moving = bench_pass(w->b, move_up(w));
    uint64_t mover = w->b->kernel_unique;
    read_link(w, 5, "../../../x"); /* right for where it is, not for where it goes */
    expect_held(w);
    uint64_t reader = w->b->kernel_unique;
    w->b->kernel_unique = mover;
    assert_int_equal(bench_reply(w->b, &moving, (struct fs_reply){0}), 0);
    bench_expect_error(w->b, 0);
    /* Asked again, it is judged by the new place. */
    assert_int_equal(bench_wait(w->b, 1), 0);
    struct fs_request asked = bench_server_got(w->b);
    assert_int_equal(asked.opcode, FUSE_READLINK);
    struct fs_reply reply = {.data = (const uint8_t *)"../../../x", .data_size = 10};
    assert_int_equal(bench_reply(w->b, &asked, reply), 0);
    w->b->kernel_unique = reader;
    bench_expect_error(w->b, -EPERM);
}

static void links_below_a_folder_that_went_down_wait_for_the_kernel(void **state)
{
    struct world *w = *state;
    uint64_t top = find(w->b, 1, "top", 105, S_IFDIR | 0755);
    w->link = find(w->b, top, "link3", 106, S_IFLNK | 0777);
    struct fs_request down = {.opcode = FUSE_RENAME,
                              .node = 1,
                              .name = "top",
                              .node2 = w->deep,
                              .name2 = "bottom",
                              .caller_pid = 9};
    struct fs_request moving = bench_pass(w->b, down);
    assert_int_equal(bench_reply(w->b, &moving, (struct fs_reply){0}), 0);
    bench_expect_error(w->b, 0);
    read_link(w, 5, "../../x"); /* right now, but the kernel may not have moved it yet */
    expect_held(w);
    uint64_t reader = w->b->kernel_unique;
    assert_int_equal(bench_wait(w->b, WALK_MS), 0);
    struct fs_request asked = bench_server_got(w->b);
    struct fs_reply reply = {.data = (const uint8_t *)"../../x", .data_size = 7};
    assert_int_equal(bench_reply(w->b, &asked, reply), 0);
    w->b->kernel_unique = reader;
    expect_text(w);
}

static void a_failed_move_changes_nothing(void **state)
{
    struct world *w = *state;
    struct fs_request moving = bench_pass(w->b, move_up(w));
    assert_int_equal(bench_reply_error(w->b, &moving, -EACCES), 0);
    bench_expect_error(w->b, -EACCES);
    read_link(w, 5, "../../../x");
    expect_text(w);
}

static void waiting_has_an_end(void **state)
{
    struct world *w = *state;
    read_link(w, 5, "../../../x");
    expect_text(w);
    bench_ask(w->b, (struct fs_request){.opcode = FUSE_GETATTR, .node = w->sub, .caller_pid = 5});
    (void)bench_server_got(w->b);
    /* The server keeps alive and answers all but this. */
    bench_ask(w->b, move_up(w));
    uint64_t mover = w->b->kernel_unique;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(bench_wait(w->b, BENCH_DEADLINE_MS / 2 - 1), 0);
        expect_held(w);
        bench_ask(w->b,
                  (struct fs_request){.opcode = FUSE_GETATTR, .node = w->b->file, .caller_pid = 6});
        struct fs_request asked = bench_server_got(w->b);
        struct fs_reply attr = {.attr = bench_attr(BENCH_FILE_SERVER + 1000, S_IFREG | 0644)};
        assert_int_equal(bench_reply(w->b, &asked, attr), 0);
        assert_int_equal(bench_kernel_got(w->b, FUSE_GETATTR).error, 0);
    }
    assert_int_equal(bench_wait(w->b, 2), 0);
    w->b->kernel_unique = mover;
    bench_expect_error(w->b, -EBUSY);
}

static void who_waits_is_answered_at_the_end(void **state)
{
    struct world *w = *state;
    read_link(w, 5, "../../../x");
    expect_text(w);
    bench_ask(w->b, move_up(w));
    expect_held(w);
    fs_relay_gone(w->b->relay);
    bench_expect_error(w->b, -EIO);
}

static void who_waits_leaves_nothing_behind(void **state)
{
    struct world *w = *state;
    read_link(w, 5, "../../../x");
    expect_text(w);
    bench_ask(w->b, move_up(w));
    expect_held(w); /* and the relay is freed */
}

static void more_walks_than_can_be_remembered_stop_every_move_up(void **state)
{
    struct world *w = *state;
    for (uint32_t i = 0; i <= BG_FS_WALKS_MAX; i++) {
        read_link(w, 100 + i, "../x");
        expect_text(w);
    }
    bench_ask(w->b, move_up(w)); /* which "../x" alone would allow */
    expect_held(w);
    assert_int_equal(bench_wait(w->b, WALK_MS), 0);
    assert_int_equal(bench_server_got(w->b).opcode, FUSE_RENAME);
}

int main(void)
{
#define WALKS_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        WALKS_TEST(a_move_up_waits_for_who_walks),
        WALKS_TEST(a_walk_that_is_over_stops_nobody),
        WALKS_TEST(a_walk_that_asks_on_its_way_lasts),
        WALKS_TEST(moves_that_leave_it_inside_do_not_wait),
        WALKS_TEST(moves_of_other_folders_and_files_do_not_wait),
        WALKS_TEST(an_exchange_moves_both),
        WALKS_TEST(links_below_a_folder_on_the_move_wait),
        WALKS_TEST(links_below_a_folder_that_went_down_wait_for_the_kernel),
        WALKS_TEST(a_failed_move_changes_nothing),
        WALKS_TEST(waiting_has_an_end),
        WALKS_TEST(who_waits_is_answered_at_the_end),
        WALKS_TEST(who_waits_leaves_nothing_behind),
        WALKS_TEST(more_walks_than_can_be_remembered_stop_every_move_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
