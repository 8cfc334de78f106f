/* The stream is lost and another one comes: what is found again, what is not, and who waits. */
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

#define DIR_AGAIN    120u
#define FILE_AGAIN   121u
#define FH_AGAIN     0x55u
#define DIR_FH_AGAIN 0x56u

static const struct fs_hello usual_hello = {.server = true, .uid = 500, .gid = 501};

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

static void lose(struct bench *b)
{
    assert_int_equal(fs_relay_lost(b->relay, b->now_ms), 0);
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_LOST);
}

static int come_back(struct bench *b, const struct fs_hello *hello)
{
    uint8_t bytes[FS_HELLO_SIZE];
    struct bg_err err;
    fs_hello_emit(hello, bytes);
    return fs_relay_returned(b->relay, bytes, sizeof bytes, b->now_ms, &err);
}

/* The same file as before under the server's new id. */
static struct fs_reply same(uint64_t new_id, uint64_t old_id, uint32_t mode)
{
    return (struct fs_reply){.node = new_id, .attr = bench_attr(old_id + 1000, mode)};
}

static void expect_look_up(struct bench *b, uint64_t parent, const char *name,
                           struct fs_reply reply)
{
    struct fs_request asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_LOOKUP);
    assert_int_equal(asked.node, parent);
    assert_string_equal(asked.name, name);
    assert_int_equal(bench_reply(b, &asked, reply), 0);
}

/* The server has all that it had, under other numbers. */
static void find_all(struct bench *b, const char *file_name)
{
    expect_look_up(b, 1, "dir", same(DIR_AGAIN, BENCH_DIR_SERVER, S_IFDIR | 0755));
    expect_look_up(b, DIR_AGAIN, file_name, same(FILE_AGAIN, BENCH_FILE_SERVER, S_IFREG | 0644));
    for (int i = 0; i < 2; i++) { /* in either order */
        struct fs_request asked = bench_server_got(b);
        bool folder = asked.opcode == FUSE_OPENDIR;
        assert_int_equal(asked.opcode, folder ? FUSE_OPENDIR : FUSE_OPEN);
        assert_int_equal(asked.node, folder ? DIR_AGAIN : FILE_AGAIN);
        assert_int_equal(asked.flags & O_ACCMODE, O_RDWR);
        struct fs_reply reply = {.fh = folder ? DIR_FH_AGAIN : FH_AGAIN};
        assert_int_equal(bench_reply(b, &asked, reply), 0);
    }
}

static struct fs_request getattr(uint64_t node)
{
    return (struct fs_request){.opcode = FUSE_GETATTR, .node = node};
}

static struct fs_request read_file(const struct bench *b)
{
    return (struct fs_request){.opcode = FUSE_READ, .node = b->file, .fh = b->fh, .size = 100};
}

static void open_files_go_on_under_the_new_numbers(void **state)
{
    struct bench *b = *state;
    lose(b);
    bench_ask(b, read_file(b)); /* waits */
    bench_expect_nothing_for_kernel(b);
    bench_expect_nothing_for_server(b);
    assert_int_equal(come_back(b, &usual_hello), 0);
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_REBINDING);
    find_all(b, "file");
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_LIVE);
    struct fs_request asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_READ);
    assert_int_equal(asked.node, FILE_AGAIN);
    assert_int_equal(asked.fh, FH_AGAIN);
    assert_int_equal(
        bench_reply(b, &asked, (struct fs_reply){.data = (const uint8_t *)"x", .data_size = 1}), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_READ).data_size, 1);
    asked = bench_pass(
        b, (struct fs_request){.opcode = FUSE_READDIR, .node = b->dir, .fh = b->dir_fh, .size = 9});
    assert_int_equal(asked.fh, DIR_FH_AGAIN);
}

static void what_is_another_file_now_is_not_opened(void **state)
{
    struct bench *b = *state;
    lose(b);
    assert_int_equal(come_back(b, &usual_hello), 0);
    expect_look_up(b, 1, "dir", same(DIR_AGAIN, BENCH_DIR_SERVER, S_IFDIR | 0755));
    expect_look_up(b, DIR_AGAIN, "file", bench_entry(FILE_AGAIN, S_IFREG | 0644)); /* other inode */
    struct fs_request asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_OPENDIR);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = DIR_FH_AGAIN}), 0);
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_LIVE);
    fs_relay_flush_forgets(b->relay);
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_BATCH_FORGET); /* its reference is given back */
    uint64_t id, count;
    fs_forget_at(&asked, 0, &id, &count);
    assert_int_equal(id, FILE_AGAIN);
    assert_int_equal(count, 1);
    bench_ask(b, read_file(b));
    bench_expect_error(b, -ESTALE);
    bench_ask(b, (struct fs_request){.opcode = FUSE_RELEASE, .node = b->file, .fh = b->fh});
    bench_expect_error(b, 0);
    bench_expect_nothing_for_server(b);
    /* Links are looked up anew by whoever needs them. */
    bench_ask(b, (struct fs_request){.opcode = FUSE_READLINK, .node = b->link});
    bench_expect_error(b, -ESTALE);
}

static void a_folder_that_is_gone_takes_along_what_was_in_it(void **state)
{
    struct bench *b = *state;
    lose(b);
    assert_int_equal(come_back(b, &usual_hello), 0);
    struct fs_request asked = bench_server_got(b);
    assert_int_equal(bench_reply_error(b, &asked, -ENOENT), 0);
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_LIVE);
    bench_expect_nothing_for_server(b);
    bench_ask(b, getattr(b->dir));
    bench_expect_error(b, -ESTALE);
    bench_ask(b, getattr(b->file));
    bench_expect_error(b, -ESTALE);
}

static void lies_about_folders_are_not_believed(void **state)
{
    struct bench *b = *state;
    const struct fs_reply lies[] = {
        same(1, BENCH_DIR_SERVER, S_IFDIR | 0755),             /* the root */
        same(DIR_AGAIN, BENCH_DIR_SERVER, S_IFREG | 0644),     /* another type */
        same(DIR_AGAIN, BENCH_DIR_SERVER, S_IFIFO | 0644),     /* a special file */
        same(DIR_AGAIN, BENCH_DIR_SERVER, 0170000),            /* no type */
        {.node = 0, .attr = bench_attr(1020, S_IFDIR | 0755)}, /* no id */
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct bench *fresh = bench_new_usual();
        lose(fresh);
        assert_int_equal(come_back(fresh, &usual_hello), 0);
        expect_look_up(fresh, 1, "dir", lies[i]);
        assert_int_equal(fs_relay_state(fresh->relay), FS_RELAY_LIVE);
        bench_ask(fresh, getattr(fresh->dir));
        bench_expect_error(fresh, -ESTALE);
        bench_free(fresh);
    }
    bench_expect_nothing_for_server(b);
}

static void files_with_locks_are_not_opened_again(void **state)
{
    struct bench *b = *state;
    struct fs_request lock = {
        .opcode = FUSE_SETLK, .node = b->file, .fh = b->fh, .owner = 3, .lock_type = F_WRLCK};
    struct fs_request asked = bench_pass(b, lock);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    bench_expect_error(b, 0);
    lose(b);
    assert_int_equal(come_back(b, &usual_hello), 0);
    expect_look_up(b, 1, "dir", same(DIR_AGAIN, BENCH_DIR_SERVER, S_IFDIR | 0755));
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_OPENDIR);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    bench_ask(b, read_file(b));
    bench_expect_error(b, -ESTALE);
}

static void a_renamed_open_file_is_found_at_its_new_name(void **state)
{
    struct bench *b = *state;
    struct fs_request asked = bench_pass(b, (struct fs_request){.opcode = FUSE_RENAME2,
                                                                .node = b->dir,
                                                                .node2 = b->dir,
                                                                .name = "file",
                                                                .name2 = "saved"});
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    bench_expect_error(b, 0);
    lose(b);
    assert_int_equal(come_back(b, &usual_hello), 0);
    find_all(b, "saved");
    assert_int_equal(bench_pass(b, read_file(b)).fh, FH_AGAIN);
}

static void the_root_answers_while_nobody_else_does(void **state)
{
    struct bench *b = *state;
    lose(b);
    bench_ask(b, getattr(1));
    assert_int_equal(bench_kernel_got(b, FUSE_GETATTR).attr.ino, 1);
    bench_ask(b, (struct fs_request){.opcode = FUSE_STATFS, .node = 1});
    assert_int_equal(bench_kernel_got(b, FUSE_STATFS).error, 0);
}

static void waiting_ends(void **state)
{
    struct bench *b = *state;
    lose(b);
    bench_ask(b, read_file(b));
    assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS - 1), 0);
    bench_expect_nothing_for_kernel(b);
    assert_int_equal(bench_wait(b, 1), 0);
    bench_expect_error(b, -EIO);
    bench_ask(b, read_file(b)); /* who comes later does not wait */
    bench_expect_error(b, -EIO);
    assert_int_equal(come_back(b, &usual_hello), 0);
    bench_ask(b, read_file(b)); /* now it pays again */
    bench_expect_nothing_for_kernel(b);
    find_all(b, "file");
    assert_int_equal(bench_server_got(b).opcode, FUSE_READ);
}

/* Whatever starts a server gives its stream before it is known whether there will be one. */
static void streams_without_a_server_make_nobody_wait_longer(void **state)
{
    struct bench *b = *state;
    lose(b);
    bench_ask(b, read_file(b));
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS / 4 - 1), 0);
        lose(b);
    }
    bench_expect_nothing_for_kernel(b);
    assert_int_equal(bench_wait(b, 4), 0);
    bench_expect_error(b, -EIO);
}

/* How long the relay would have nothing to do. */
static uint64_t idle_ms(struct bench *b)
{
    uint64_t next_ms;
    struct bg_err err;
    assert_int_equal(fs_relay_tick(b->relay, b->now_ms, &next_ms, &err), 0);
    return next_ms;
}

static void a_server_that_sleeps_is_woken_by_the_first_who_needs_it(void **state)
{
    struct bench *b = *state;
    lose(b);
    fs_relay_asleep(b->relay, b->now_ms);
    assert_true(idle_ms(b) == UINT64_MAX);
    b->now_ms += 1000ull * BENCH_DEADLINE_MS;
    assert_true(idle_ms(b) == UINT64_MAX);
    /* What is known here is no need, nor is what the kernel tells for the server's good. */
    bench_ask(b, getattr(1));
    assert_int_equal(bench_kernel_got(b, FUSE_GETATTR).attr.ino, 1);
    bench_ask(b, (struct fs_request){.opcode = FUSE_STATFS, .node = 1});
    assert_int_equal(bench_kernel_got(b, FUSE_STATFS).error, 0);
    bench_ask(b, (struct fs_request){.opcode = FUSE_FORGET, .node = b->link, .nlookup = 1});
    assert_int_equal(b->needed, 0);
    bench_ask(b, read_file(b));
    assert_int_equal(b->needed, 1);
    bench_ask(b, getattr(b->file));
    assert_int_equal(b->needed, 1);
    /* The deadline begins here, however long it has slept. */
    assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS - 1), 0);
    bench_expect_nothing_for_kernel(b);
    assert_int_equal(come_back(b, &usual_hello), 0);
    find_all(b, "file");
    assert_int_equal(bench_server_got(b).opcode, FUSE_READ);
    assert_int_equal(bench_server_got(b).opcode, FUSE_GETATTR);
}

static void one_that_waits_already_wakes_it(void **state)
{
    struct bench *b = *state;
    struct fs_request read = read_file(b);
    (void)bench_pass(b, read); /* and the server fell asleep over it */
    lose(b);
    assert_int_equal(b->needed, 0);
    fs_relay_asleep(b->relay, b->now_ms);
    assert_int_equal(b->needed, 1);
    assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS), 0);
    bench_expect_error(b, -EIO);
    /* It did not come, and sleeps again: the next one tries again. */
    fs_relay_not_soon(b->relay);
    fs_relay_asleep(b->relay, b->now_ms);
    assert_true(idle_ms(b) == UINT64_MAX);
    bench_ask(b, read_file(b));
    assert_int_equal(b->needed, 2);
    bench_expect_nothing_for_kernel(b);
}

static void one_that_is_back_is_not_asleep(void **state)
{
    struct bench *b = *state;
    fs_relay_asleep(b->relay, b->now_ms); /* a word that came late */
    lose(b);
    fs_relay_asleep(b->relay, b->now_ms);
    assert_int_equal(come_back(b, &usual_hello), 0); /* somebody else has woken it */
    find_all(b, "file");
    assert_int_equal(b->needed, 0);
    lose(b);
    bench_ask(b, read_file(b));
    assert_int_equal(b->needed, 0);
    assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS), 0);
    bench_expect_error(b, -EIO);
}

static void waiting_ends_early_on_request(void **state)
{
    struct bench *b = *state;
    lose(b);
    bench_ask(b, read_file(b));
    uint64_t unique = b->kernel_unique;
    bench_ask(b, (struct fs_request){.opcode = FUSE_INTERRUPT, .interrupted = unique});
    b->kernel_unique = unique;
    bench_expect_error(b, -EINTR);
    b->kernel_unique += 2;
    bench_ask(b, read_file(b));
    fs_relay_not_soon(b->relay);
    bench_expect_error(b, -EIO);
    bench_ask(b, getattr(b->file));
    bench_expect_error(b, -EIO);
    fs_relay_gone(b->relay);
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_GONE);
}

static struct fs_request write_file(const struct bench *b)
{
    return (struct fs_request){.opcode = FUSE_WRITE,
                               .node = b->file,
                               .fh = b->fh,
                               .size = 1,
                               .data = (const uint8_t *)"x",
                               .data_size = 1};
}

static void changes_on_their_way_fail_at_the_loss(void **state)
{
    struct bench *b = *state;
    (void)bench_pass(b, (struct fs_request){.opcode = FUSE_MKDIR, .node = b->dir, .name = "new"});
    lose(b);
    bench_expect_error(b, -EIO);
}

static void acknowledged_writes_that_are_lost_are_told_at_the_close(void **state)
{
    struct bench *b = *state;
    bench_ask(b, write_file(b));
    assert_int_equal(bench_kernel_got(b, FUSE_WRITE).size, 1); /* the server has not heard of it */
    lose(b);
    bench_expect_nothing_for_kernel(b);
    assert_int_equal(come_back(b, &usual_hello), 0);
    find_all(b, "file");
    bench_ask(b, (struct fs_request){.opcode = FUSE_FSYNC, .node = b->file, .fh = b->fh});
    bench_expect_error(b, -EIO);
    bench_expect_nothing_for_server(b);
}

static void questions_on_their_way_are_asked_again(void **state)
{
    struct bench *b = *state;
    (void)bench_pass(b, read_file(b));
    lose(b);
    bench_expect_nothing_for_kernel(b);
    assert_int_equal(come_back(b, &usual_hello), 0);
    find_all(b, "file");
    struct fs_request asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_READ);
    assert_int_equal(asked.fh, FH_AGAIN);
    bench_expect_nothing_for_server(b);
}

/* Writes once, and loses the server. */
static void lose_a_write(struct bench *b, bool synced)
{
    bench_ask(b, write_file(b));
    (void)bench_kernel_got(b, FUSE_WRITE);
    assert_int_equal(bench_wait(b, 100), 0); /* no other joins it */
    struct fs_request asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_WRITE);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.size = 1}), 0);
    if (synced) {
        asked =
            bench_pass(b, (struct fs_request){.opcode = FUSE_FSYNC, .node = b->file, .fh = b->fh});
        assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
        bench_expect_error(b, 0);
    }
    lose(b);
}

static void writes_that_a_reboot_may_have_lost_are_told_once(void **state)
{
    (void)state;
    struct fs_hello hello = usual_hello;
    hello.boot = 7;
    for (int i = 0; i < 4; i++) {
        bool synced = i & 1, same_boot = i & 2;
        struct bench *b = bench_new(&hello, false, false);
        struct fs_hello next = hello;
        next.boot = same_boot ? 7 : 8;
        lose_a_write(b, synced);
        assert_int_equal(come_back(b, &next), 0);
        find_all(b, "file");
        struct fs_request flush = {.opcode = FUSE_FLUSH, .node = b->file, .fh = b->fh};
        if (!synced && !same_boot) {
            bench_ask(b, flush);
            bench_expect_error(b, -EIO);
        }
        assert_int_equal(bench_pass(b, flush).fh, FH_AGAIN);
        bench_free(b);
    }
}

static void a_full_waiting_room_leaves_the_rest_in_the_kernel(void **state)
{
    struct bench *b = *state;
    lose(b);
    for (unsigned i = 0; i < BG_FS_WINDOW; i++) {
        assert_true(fs_relay_has_room(b->relay));
        bench_ask(b, read_file(b));
    }
    assert_false(fs_relay_has_room(b->relay));
    bench_expect_nothing_for_kernel(b);
    assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS), 0);
    assert_int_equal(b->to_kernel.count, BG_FS_WINDOW);
    assert_true(fs_relay_has_room(b->relay));
}

static void what_was_closed_and_forgotten_is_not_looked_for(void **state)
{
    struct bench *b = *state;
    lose(b);
    bench_ask(b, (struct fs_request){.opcode = FUSE_RELEASE, .node = b->file, .fh = b->fh});
    bench_expect_error(b, 0);
    bench_ask(b, (struct fs_request){.opcode = FUSE_RELEASEDIR, .node = b->dir, .fh = b->dir_fh});
    bench_expect_error(b, 0);
    bench_ask(b, (struct fs_request){.opcode = FUSE_FORGET, .node = b->file, .nlookup = 1});
    bench_ask(b, (struct fs_request){.opcode = FUSE_FORGET, .node = b->link, .nlookup = 1});
    bench_ask(b, (struct fs_request){.opcode = FUSE_FORGET, .node = b->dir, .nlookup = 1});
    assert_int_equal(come_back(b, &usual_hello), 0);
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_LIVE);
    bench_expect_nothing_for_server(b);
}

static void a_file_closed_while_it_is_opened_again_is_released(void **state)
{
    struct bench *b = *state;
    lose(b);
    assert_int_equal(come_back(b, &usual_hello), 0);
    expect_look_up(b, 1, "dir", same(DIR_AGAIN, BENCH_DIR_SERVER, S_IFDIR | 0755));
    expect_look_up(b, DIR_AGAIN, "file", same(FILE_AGAIN, BENCH_FILE_SERVER, S_IFREG | 0644));
    bench_ask(b, (struct fs_request){.opcode = FUSE_RELEASE, .node = b->file, .fh = b->fh});
    bench_expect_error(b, 0);
    for (int i = 0; i < 2; i++) {
        struct fs_request asked = bench_server_got(b);
        assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = 70}), 0);
    }
    struct fs_request asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_RELEASE);
    assert_int_equal(asked.fh, 70);
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_LIVE);
}

static void a_second_loss_begins_anew(void **state)
{
    struct bench *b = *state;
    lose(b);
    bench_ask(b, read_file(b));
    assert_int_equal(come_back(b, &usual_hello), 0);
    expect_look_up(b, 1, "dir", same(DIR_AGAIN, BENCH_DIR_SERVER, S_IFDIR | 0755));
    (void)bench_server_got(b); /* the file's LOOKUP is never answered */
    lose(b);
    assert_int_equal(come_back(b, &usual_hello), 0);
    find_all(b, "file");
    assert_int_equal(bench_server_got(b).opcode, FUSE_READ); /* which has waited all the time */
}

static void a_server_that_takes_too_long_is_given_up(void **state)
{
    struct bench *b = *state;
    lose(b);
    assert_int_equal(come_back(b, &usual_hello), 0);
    assert_int_equal(bench_wait(b, 4 * BENCH_DEADLINE_MS - 1), 0);
    assert_int_equal(bench_wait(b, 1), -ETIMEDOUT);
    lose(b);
}

static void another_folder_is_refused(void **state)
{
    struct bench *b = *state;
    const struct fs_hello others[] = {
        {.server = true, .uid = 501, .gid = 501},
        {.server = true, .uid = 500, .gid = 500},
        {.server = true, .uid = 500, .gid = 501, .flags = FS_HELLO_WHOLE},
        {.server = false, .uid = 500, .gid = 501},
    };
    lose(b);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assert_int_equal(come_back(b, &others[i]), -EPROTO);
        assert_int_equal(fs_relay_state(b->relay), FS_RELAY_LOST);
    }
    assert_int_equal(come_back(b, &usual_hello), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(open_files_go_on_under_the_new_numbers),
        TEST(what_is_another_file_now_is_not_opened),
        TEST(a_folder_that_is_gone_takes_along_what_was_in_it),
        TEST(lies_about_folders_are_not_believed),
        TEST(files_with_locks_are_not_opened_again),
        TEST(a_renamed_open_file_is_found_at_its_new_name),
        TEST(the_root_answers_while_nobody_else_does),
        TEST(waiting_ends),
        TEST(streams_without_a_server_make_nobody_wait_longer),
        TEST(a_server_that_sleeps_is_woken_by_the_first_who_needs_it),
        TEST(one_that_waits_already_wakes_it),
        TEST(one_that_is_back_is_not_asleep),
        TEST(waiting_ends_early_on_request),
        TEST(changes_on_their_way_fail_at_the_loss),
        TEST(acknowledged_writes_that_are_lost_are_told_at_the_close),
        TEST(questions_on_their_way_are_asked_again),
        cmocka_unit_test(writes_that_a_reboot_may_have_lost_are_told_once),
        TEST(a_full_waiting_room_leaves_the_rest_in_the_kernel),
        TEST(what_was_closed_and_forgotten_is_not_looked_for),
        TEST(a_file_closed_while_it_is_opened_again_is_released),
        TEST(a_second_loss_begins_anew),
        TEST(a_server_that_takes_too_long_is_given_up),
        TEST(another_folder_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
