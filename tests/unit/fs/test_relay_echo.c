/* Echoes: which operations are asked for, and that nothing of the process that does them reaches
 * the server. */
#include "tests/unit/fs/bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "fs/proto/change.h"
#include "fs/relay/echoer.h"

#define ECHOER 99

static int setup(void **state)
{
    struct bench *b = bench_new_fed();
    assert_int_equal(fs_relay_echo_by(b->relay, ECHOER), 0);
    *state = b;
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
    b->notice_count = 0;
}

static void say_name(struct bench *b, uint32_t kinds, uint64_t folder, const char *name,
                     uint64_t node)
{
    const struct fs_change change = {
        .kinds = kinds, .node = node, .folder = folder, .name = name, .name_size = strlen(name)};
    say(b, &change);
}

static void say_moved(struct bench *b, uint64_t node, uint64_t from, const char *name, uint64_t to,
                      const char *name2)
{
    const struct fs_change change = {.kinds = FS_CHANGE_MOVED,
                                     .node = node,
                                     .folder = from,
                                     .folder2 = to,
                                     .name = name,
                                     .name2 = name2,
                                     .name_size = from ? strlen(name) : 0,
                                     .name2_size = to ? strlen(name2) : 0};
    say(b, &change);
}

/* Waits for the next operation and checks it. */
static void expect_op(struct bench *b, uint8_t op, const char *folder, const char *name)
{
    static struct fs_echo_command command;
    if (b->command_size == 0)
        assert_int_equal(bench_wait(b, 100), 0);
    assert_int_equal(fs_echo_command_parse(b->command, b->command_size, &command), 0);
    b->command_size = 0;
    assert_int_equal(command.op, op);
    assert_string_equal(command.folder, folder);
    assert_string_equal(command.name, name);
}

static void expect_no_op(struct bench *b)
{
    assert_int_equal(bench_wait(b, 2000), 0);
    assert_int_equal(b->command_size, 0);
}

static void op_ends(struct bench *b, int status)
{
    fs_relay_echoed(b->relay, status, b->now_ms);
}

/* The process asks, and is answered without the server. */
static struct fs_reply ask_here(struct bench *b, struct fs_request request)
{
    b->caller_pid = ECHOER;
    bench_ask(b, request);
    b->caller_pid = 0;
    bench_expect_nothing_for_server(b);
    return bench_kernel_got(b, request.opcode);
}

static struct fs_request in_dir(const struct bench *b, uint32_t opcode, const char *name)
{
    return (struct fs_request){
        .opcode = opcode, .node = b->dir, .name = name, .mode = S_IFREG | 0644};
}

/* ---- which operations ---- */

static void a_new_file_is_made_written_and_closed(void **state)
{
    struct bench *b = *state;
    say_name(b, FS_CHANGE_CREATED | FS_CHANGE_MODIFIED | FS_CHANGE_WRITTEN, BENCH_DIR_SERVER, "new",
             0);
    expect_op(b, FS_ECHO_CREATE, "dir", "new");
    assert_int_equal(ask_here(b, in_dir(b, FUSE_LOOKUP, "new")).error, -ENOENT);
    struct fs_reply got = ask_here(b, in_dir(b, FUSE_CREATE, "new"));
    assert_int_equal(got.error, 0);
    assert_int_equal(got.entry_valid + got.attr_valid, 0); /* it stands for the real one once */
    struct fs_request flush = {.opcode = FUSE_FLUSH, .node = got.node, .fh = got.fh};
    assert_int_equal(ask_here(b, flush).error, 0);
    flush.opcode = FUSE_RELEASE;
    assert_int_equal(ask_here(b, flush).error, 0);
    op_ends(b, 0);
    expect_op(b, FS_ECHO_WRITE, "dir", "new");
    op_ends(b, 0);
    expect_no_op(b);
    bench_ask(b, (struct fs_request){.opcode = FUSE_FORGET, .node = got.node, .nlookup = 1});
    bench_expect_nothing_for_server(b);
}

static void a_change_is_answered_with_what_the_file_is(void **state)
{
    struct bench *b = *state;
    say_name(b, FS_CHANGE_MODIFIED, BENCH_DIR_SERVER, "file", BENCH_FILE_SERVER);
    expect_op(b, FS_ECHO_WRITE, "dir", "file");
    struct fs_reply got =
        ask_here(b, (struct fs_request){.opcode = FUSE_OPEN, .node = b->file, .flags = O_WRONLY});
    assert_int_equal(got.error, 0);
    assert_int_equal(got.open_flags, FOPEN_KEEP_CACHE);
    b->caller_pid = ECHOER;
    struct fs_request asked = bench_pass(b, (struct fs_request){.opcode = FUSE_SETATTR,
                                                                .node = b->file,
                                                                .fh = got.fh,
                                                                .valid = FATTR_SIZE | FATTR_FH,
                                                                .size = 0});
    b->caller_pid = 0;
    assert_int_equal(asked.opcode, FUSE_GETATTR); /* never the size */
    struct fs_reply attr = {.attr_valid = 1,
                            .attr = bench_attr(BENCH_FILE_SERVER + 1000, S_IFREG | 0644)};
    attr.attr.size = 777;
    assert_int_equal(bench_reply(b, &asked, attr), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_SETATTR).attr.size, 777);
    op_ends(b, 0);
    expect_no_op(b);
}

static void without_its_server_it_fails_at_once(void **state)
{
    struct bench *b = *state;
    say_name(b, FS_CHANGE_ATTRIBUTES, BENCH_DIR_SERVER, "file", BENCH_FILE_SERVER);
    expect_op(b, FS_ECHO_TOUCH, "dir", "file");
    assert_int_equal(fs_relay_lost(b->relay, b->now_ms), 0);
    struct fs_request touch = {.opcode = FUSE_SETATTR, .node = b->file, .valid = FATTR_MTIME_NOW};
    assert_int_equal(ask_here(b, touch).error, -EIO);
}

static void names_that_go_are_taken_once_more(void **state)
{
    struct bench *b = *state;
    say_name(b, FS_CHANGE_DELETED, BENCH_DIR_SERVER, "file", BENCH_FILE_SERVER);
    expect_op(b, FS_ECHO_UNLINK, "dir", "file");
    assert_true(ask_here(b, in_dir(b, FUSE_LOOKUP, "file")).node == b->file);
    assert_int_equal(ask_here(b, in_dir(b, FUSE_UNLINK, "file")).error, 0);
    op_ends(b, 0);
    say_name(b, FS_CHANGE_DELETED | FS_CHANGE_IS_FOLDER, 1, "dir", BENCH_DIR_SERVER);
    expect_op(b, FS_ECHO_RMDIR, "", "dir");
    struct fs_request rmdir = {.opcode = FUSE_RMDIR, .node = 1, .name = "dir"};
    assert_int_equal(ask_here(b, rmdir).error, 0);
    op_ends(b, 0);
    say_name(b, FS_CHANGE_DELETED, 1, "never seen", 0);
    expect_op(b, FS_ECHO_UNLINK, "", "never seen");
    struct fs_request lookup = {.opcode = FUSE_LOOKUP, .node = 1, .name = "never seen"};
    assert_int_equal(ask_here(b, lookup).error, 0); /* something stands for it */
}

static void a_moved_folder_keeps_its_node(void **state)
{
    struct bench *b = *state;
    say_moved(b, BENCH_DIR_SERVER, 1, "dir", 1, "moved");
    expect_op(b, FS_ECHO_RENAME, "", "dir");
    struct fs_request lookup = {.opcode = FUSE_LOOKUP, .node = 1, .name = "dir"};
    assert_true(ask_here(b, lookup).node == b->dir);
    lookup.name = "moved";
    assert_int_equal(ask_here(b, lookup).error, -ENOENT);
    struct fs_request rename = {
        .opcode = FUSE_RENAME2, .node = 1, .node2 = 1, .name = "dir", .name2 = "moved"};
    assert_int_equal(ask_here(b, rename).error, 0);
    op_ends(b, 0);
    struct fs_request asked = bench_pass(b, lookup);
    assert_int_equal(bench_reply(b, &asked, bench_entry(BENCH_DIR_SERVER, S_IFDIR | 0755)), 0);
    assert_true(bench_kernel_got(b, FUSE_LOOKUP).node == b->dir);
    say_name(b, FS_CHANGE_ATTRIBUTES, BENCH_DIR_SERVER, "file", BENCH_FILE_SERVER);
    expect_op(b, FS_ECHO_TOUCH, "moved", "file");
}

static void a_move_that_fails_touches_the_folders(void **state)
{
    struct bench *b = *state;
    say_moved(b, BENCH_FILE_SERVER, BENCH_DIR_SERVER, "file", 1, "file");
    expect_op(b, FS_ECHO_RENAME, "dir", "file");
    op_ends(b, -ENOENT);
    expect_op(b, FS_ECHO_TOUCH, "dir", "");
    op_ends(b, 0);
    expect_op(b, FS_ECHO_TOUCH, "", "");
}

static void a_move_with_one_end_in_sight_is_a_beginning_or_an_end(void **state)
{
    struct bench *b = *state;
    say_moved(b, 0, 0, NULL, BENCH_DIR_SERVER, "in");
    expect_op(b, FS_ECHO_CREATE, "dir", "in");
    op_ends(b, 0);
    say_moved(b, BENCH_FILE_SERVER, BENCH_DIR_SERVER, "file", 0, NULL);
    expect_op(b, FS_ECHO_UNLINK, "dir", "file");
}

static void what_the_kernel_has_already_is_touched(void **state)
{
    struct bench *b = *state;
    say_name(b, FS_CHANGE_CREATED, BENCH_DIR_SERVER, "new", 0);
    expect_op(b, FS_ECHO_CREATE, "dir", "new");
    op_ends(b, -EEXIST);
    expect_op(b, FS_ECHO_TOUCH, "dir", "new");
    /* A folder that is known is not displaced by something that stands for it. */
    op_ends(b, 0);
    say_name(b, FS_CHANGE_CREATED | FS_CHANGE_IS_FOLDER, 1, "dir", 0);
    expect_op(b, FS_ECHO_MKDIR, "", "dir");
    b->caller_pid = ECHOER;
    struct fs_request asked =
        bench_pass(b, (struct fs_request){.opcode = FUSE_LOOKUP, .node = 1, .name = "dir"});
    b->caller_pid = 0;
    assert_int_equal(bench_reply(b, &asked, bench_entry(BENCH_DIR_SERVER, S_IFDIR | 0755)), 0);
    assert_true(bench_kernel_got(b, FUSE_LOOKUP).node == b->dir);
    struct fs_request mkdir = {.opcode = FUSE_MKDIR, .node = 1, .name = "dir"};
    assert_int_equal(ask_here(b, mkdir).error, -EEXIST);
}

/* ---- gathering and limits ---- */

static void changes_to_one_name_are_gathered(void **state)
{
    struct bench *b = *state;
    for (unsigned i = 0; i < 50; i++)
        say_name(b, FS_CHANGE_MODIFIED, BENCH_DIR_SERVER, "file", BENCH_FILE_SERVER);
    say_name(b, FS_CHANGE_WRITTEN, BENCH_DIR_SERVER, "file", BENCH_FILE_SERVER);
    assert_int_equal(bench_wait(b, 5), 0);
    assert_int_equal(b->command_size, 0); /* not yet */
    expect_op(b, FS_ECHO_WRITE, "dir", "file");
    op_ends(b, 0);
    expect_no_op(b);
}

static void what_is_gone_and_comes_again_is_two(void **state)
{
    struct bench *b = *state;
    say_name(b, FS_CHANGE_DELETED, BENCH_DIR_SERVER, "file", BENCH_FILE_SERVER);
    say_name(b, FS_CHANGE_CREATED, BENCH_DIR_SERVER, "file", 0);
    expect_op(b, FS_ECHO_UNLINK, "dir", "file");
    op_ends(b, 0);
    expect_op(b, FS_ECHO_CREATE, "dir", "file");
}

static void names_are_not_sure_while_an_echo_waits(void **state)
{
    struct bench *b = *state;
    say_name(b, FS_CHANGE_CREATED, BENCH_DIR_SERVER, "new", 0);
    struct fs_request asked = bench_pass(b, in_dir(b, FUSE_LOOKUP, "new"));
    assert_int_equal(bench_reply(b, &asked, bench_entry(60, S_IFREG | 0644)), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_LOOKUP).entry_valid, 0);
    asked = bench_pass(b, in_dir(b, FUSE_LOOKUP, "none"));
    assert_int_equal(bench_reply_error(b, &asked, -ENOENT), 0);
    bench_expect_error(b, -ENOENT);
}

static void more_than_fits_is_a_touch_of_the_folder(void **state)
{
    struct bench *b = *state;
    char name[16];
    for (unsigned i = 0; i < 2 * BG_FS_ECHOES_MAX; i++) {
        (void)snprintf(name, sizeof name, "f%u", i);
        say_name(b, FS_CHANGE_CREATED, BENCH_DIR_SERVER, name, 0);
    }
    unsigned made = 0, touched = 0;
    while (b->command_size > 0 || (bench_wait(b, 1000) == 0 && b->command_size > 0)) {
        struct fs_echo_command command;
        assert_int_equal(fs_echo_command_parse(b->command, b->command_size, &command), 0);
        made += command.op == FS_ECHO_CREATE;
        touched += command.op == FS_ECHO_TOUCH && command.name[0] == '\0';
        b->command_size = 0;
        op_ends(b, 0);
    }
    assert_int_equal(made, BG_FS_ECHOES_MAX / 2);
    assert_int_equal(touched, 1);
}

/* Does all operations that are given out now; returns how many. */
static unsigned do_all(struct bench *b)
{
    unsigned done = 0;
    for (; b->command_size > 0; done++) {
        b->command_size = 0;
        op_ends(b, 0);
    }
    return done;
}

static void there_are_so_many_in_a_second(void **state)
{
    struct bench *b = *state;
    unsigned done = 0, asked = 0;
    char name[16];
    assert_int_equal(bench_wait(b, 2000), 0); /* a second begins with the first */
    while (asked < BG_FS_ECHOES_RATE + 100) {
        for (unsigned i = 0; i < 100; i++) {
            (void)snprintf(name, sizeof name, "f%u", asked++);
            say_name(b, FS_CHANGE_CREATED, BENCH_DIR_SERVER, name, 0);
        }
        assert_int_equal(bench_wait(b, 20), 0);
        done += do_all(b);
    }
    assert_int_equal(done, BG_FS_ECHOES_RATE);
    assert_int_equal(bench_wait(b, 1000), 0);
    assert_int_equal(do_all(b), 100);
}

static void hidden_and_unknown_places_have_none(void **state)
{
    struct bench *b = *state;
    say_name(b, FS_CHANGE_CREATED, BENCH_DIR_SERVER, "a\nb", 0);
    say_name(b, FS_CHANGE_CREATED, 999, "name", 0);
    say_name(b, FS_CHANGE_CREATED, BENCH_FILE_SERVER, "name", 0); /* no folder */
    expect_no_op(b);
}

/* ---- who is believed ---- */

static void nothing_unexpected_is_forwarded(void **state)
{
    struct bench *b = *state;
    static const uint32_t opcodes[] = {
        FUSE_MKNOD,  FUSE_MKDIR,   FUSE_UNLINK,   FUSE_RMDIR,     FUSE_RENAME,   FUSE_RENAME2,
        FUSE_LINK,   FUSE_SYMLINK, FUSE_CREATE,   FUSE_SETXATTR,  FUSE_READ,     FUSE_WRITE,
        FUSE_FSYNC,  FUSE_OPENDIR, FUSE_READLINK, FUSE_FALLOCATE, FUSE_SETLK,    FUSE_GETXATTR,
        FUSE_ACCESS, FUSE_STATFS,  FUSE_LSEEK,    FUSE_SETATTR,   FUSE_LISTXATTR};
    for (unsigned busy = 0; busy < 2; busy++) {
        if (busy) {
            say_name(b, FS_CHANGE_CREATED, BENCH_DIR_SERVER, "new", 0);
            expect_op(b, FS_ECHO_CREATE, "dir", "new");
        }
        for (size_t i = 0; i < sizeof opcodes / sizeof *opcodes; i++) {
            struct fs_request request;
            struct fs_reply reply;
            if (opcodes[i] == FUSE_SETATTR && busy)
                continue; /* is asked as GETATTR, above */
            assert_true(bench_sample(b, opcodes[i], &request, &reply));
            assert_true(ask_here(b, request).error < 0);
        }
    }
}

static void others_are_not_taken_for_it(void **state)
{
    struct bench *b = *state;
    say_name(b, FS_CHANGE_DELETED, BENCH_DIR_SERVER, "file", BENCH_FILE_SERVER);
    expect_op(b, FS_ECHO_UNLINK, "dir", "file");
    struct fs_request asked = bench_pass(b, in_dir(b, FUSE_UNLINK, "file"));
    assert_int_equal(asked.opcode, FUSE_UNLINK);
    assert_int_equal(bench_reply_error(b, &asked, -ENOENT), 0);
    bench_expect_error(b, -ENOENT);
}

static void without_the_process_there_is_nothing(void **state)
{
    struct bench *b = *state;
    say_name(b, FS_CHANGE_CREATED, BENCH_DIR_SERVER, "new", 0);
    assert_int_equal(fs_relay_echo_by(b->relay, 0), 0);
    expect_no_op(b);
    b->caller_pid = ECHOER; /* somebody else has the number by now */
    struct fs_request asked = bench_pass(b, in_dir(b, FUSE_LOOKUP, "new"));
    assert_int_equal(bench_reply_error(b, &asked, -ENOENT), 0);
}

static void a_server_cannot_hand_out_stand_ins(void **state)
{
    struct bench *b = *state;
    struct fs_request asked = bench_pass(b, in_dir(b, FUSE_LOOKUP, "x"));
    assert_int_equal(bench_reply(b, &asked, bench_entry(1ull << 63 | 1, S_IFREG | 0644)), 0);
    bench_expect_error(b, -EIO);
}

/* ---- commands ---- */

static void commands_are_checked(void **state)
{
    (void)state;
    static struct fs_echo_command command = {
        .op = FS_ECHO_RENAME, .folder = "a/b", .name = "c", .folder2 = "d", .name2 = "e"};
    static struct fs_echo_command got;
    uint8_t bytes[FS_ECHO_COMMAND_MAX + 1];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    fs_echo_command_emit(&command, &w);
    assert_int_equal(fs_echo_command_parse(bytes, w.used, &got), 0);
    assert_string_equal(got.name2, "e");
    for (size_t cut = 0; cut < w.used; cut++)
        assert_int_equal(fs_echo_command_parse(bytes, cut, &got), -EPROTO);
    assert_int_equal(fs_echo_command_parse(bytes, w.used + 1, &got), -EPROTO);
    static const struct fs_echo_command bad[] = {
        {.op = 0, .name = "a"},
        {.op = FS_ECHO_RENAME + 1, .name = "a"},
        {.op = FS_ECHO_UNLINK, .name = ""},
        {.op = FS_ECHO_UNLINK, .name = ".."},
        {.op = FS_ECHO_UNLINK, .name = "a/b"},
        {.op = FS_ECHO_UNLINK, .name = "a", .folder = "/etc"},
        {.op = FS_ECHO_UNLINK, .name = "a", .name2 = "b"},
        {.op = FS_ECHO_RENAME, .name = "a", .name2 = ".."},
        {.op = FS_ECHO_WRITE, .name = "a", .size = 1ull << 63},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        w = bg_writer_init(bytes, sizeof bytes);
        fs_echo_command_emit(&bad[i], &w);
        if (fs_echo_command_parse(bytes, w.used, &got) != -EPROTO)
            fail_msg("command %zu passes", i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_new_file_is_made_written_and_closed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_change_is_answered_with_what_the_file_is, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(without_its_server_it_fails_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(names_that_go_are_taken_once_more, setup, teardown),
        cmocka_unit_test_setup_teardown(a_moved_folder_keeps_its_node, setup, teardown),
        cmocka_unit_test_setup_teardown(a_move_that_fails_touches_the_folders, setup, teardown),
        cmocka_unit_test_setup_teardown(a_move_with_one_end_in_sight_is_a_beginning_or_an_end,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_kernel_has_already_is_touched, setup, teardown),
        cmocka_unit_test_setup_teardown(changes_to_one_name_are_gathered, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_gone_and_comes_again_is_two, setup, teardown),
        cmocka_unit_test_setup_teardown(names_are_not_sure_while_an_echo_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(more_than_fits_is_a_touch_of_the_folder, setup, teardown),
        cmocka_unit_test_setup_teardown(there_are_so_many_in_a_second, setup, teardown),
        cmocka_unit_test_setup_teardown(hidden_and_unknown_places_have_none, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_unexpected_is_forwarded, setup, teardown),
        cmocka_unit_test_setup_teardown(others_are_not_taken_for_it, setup, teardown),
        cmocka_unit_test_setup_teardown(without_the_process_there_is_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(a_server_cannot_hand_out_stand_ins, setup, teardown),
        cmocka_unit_test(commands_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
