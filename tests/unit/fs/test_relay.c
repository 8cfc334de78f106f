/* The relay against a hostile server: a case for each thing that such a server may try, and for
 * each way in which it may fail to answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "tests/unit/fs/bench.h"

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

static struct fs_request lookup(uint64_t parent, const char *name)
{
    return (struct fs_request){.opcode = FUSE_LOOKUP, .node = parent, .name = name};
}

static struct fs_request getattr(uint64_t node)
{
    return (struct fs_request){.opcode = FUSE_GETATTR, .node = node};
}

static struct fs_request read_at(const struct bench *b, uint64_t size)
{
    return (struct fs_request){.opcode = FUSE_READ, .node = b->file, .fh = b->fh, .size = size};
}

/* ---- what passes ---- */

static void every_good_answer_passes(void **state)
{
    (void)state;
    for (uint32_t opcode = 1; opcode < FS_OPCODE_MAX; opcode++) {
        struct bench *b = bench_new_usual();
        struct fs_request request;
        struct fs_reply reply;
        if (bench_sample(b, opcode, &request, &reply)) {
            struct fs_request asked = bench_pass(b, request);
            assert_int_equal(asked.opcode, opcode);
            assert_int_equal(asked.caller_uid | asked.caller_pid, 0); /* not the guest's affair */
            assert_int_equal(bench_reply(b, &asked, reply), 0);
            struct fs_reply got = bench_kernel_got(b, opcode);
            if (got.error != 0)
                fail_msg("%s: %d", fs_op_find(opcode)->name, got.error);
        }
        bench_free(b);
    }
}

static void ids_and_handles_are_translated(void **state)
{
    struct bench *b = *state;
    struct fs_request asked = bench_pass(b, read_at(b, 100));
    assert_int_equal(asked.node, BENCH_FILE_SERVER);
    assert_true(asked.fh == BENCH_FH_SERVER);
    assert_true(b->file != BENCH_FILE_SERVER && b->fh != BENCH_FH_SERVER);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    (void)bench_kernel_got(b, FUSE_READ);
    asked = bench_pass(
        b,
        (struct fs_request){
            .opcode = FUSE_RENAME2, .node = b->dir, .node2 = 1, .name = "file", .name2 = "moved"});
    assert_int_equal(asked.node, BENCH_DIR_SERVER);
    assert_int_equal(asked.node2, 1);
}

static void ids_that_the_kernel_cannot_have_are_stale(void **state)
{
    struct bench *b = *state;
    bench_ask(b, getattr(BENCH_FILE_SERVER));
    bench_expect_error(b, -ESTALE);
    bench_ask(b, (struct fs_request){.opcode = FUSE_READ, .node = b->file, .fh = BENCH_FH_SERVER});
    bench_expect_error(b, -EBADF);
    bench_ask(b, (struct fs_request){.opcode = FUSE_READ, .node = b->file, .fh = b->dir_fh});
    bench_expect_error(b, -EBADF);
    bench_expect_nothing_for_server(b);
}

static void closing_what_was_only_read_is_answered_here(void **state)
{
    struct bench *b = *state;
    struct fs_request asked =
        bench_pass(b, (struct fs_request){.opcode = FUSE_OPEN, .node = b->file});
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = 5}), 0);
    uint64_t fh = bench_kernel_got(b, FUSE_OPEN).fh;
    struct fs_request flush = {.opcode = FUSE_FLUSH, .node = b->file, .fh = fh, .owner = 3};
    bench_ask(b, flush);
    bench_expect_error(b, 0);
    bench_expect_nothing_for_server(b);
    struct fs_request lock = {
        .opcode = FUSE_SETLK, .node = b->file, .fh = fh, .owner = 3, .lock_type = F_RDLCK};
    asked = bench_pass(b, lock);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    bench_expect_error(b, 0);
    assert_int_equal(bench_pass(b, flush).owner, 3); /* its locks end there */
}

/* ---- 2.1: lengths and numbers ---- */

static void every_flipped_byte_leaves_one_harmless_answer(void **state)
{
    (void)state;
    static const uint8_t flips[] = {0xff, 0x01, 0x80, 0x10};
    for (uint32_t opcode = 1; opcode < FS_OPCODE_MAX; opcode++)
        for (size_t at = 0; at < 512; at++)
            for (size_t i = 0; i < sizeof flips; i++) {
                struct bench *b = bench_new_usual();
                struct fs_request request;
                struct fs_reply reply;
                if (!bench_sample(b, opcode, &request, &reply)) {
                    bench_free(b);
                    at = 512;
                    break;
                }
                struct fs_request asked = bench_pass(b, request);
                uint8_t bytes[1024];
                struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
                reply.unique = asked.unique;
                fs_reply_emit(opcode, &reply, &w);
                bg_writer_bytes(&w, reply.data, reply.data_size);
                if (at >= w.used) {
                    bench_free(b);
                    at = 512;
                    break;
                }
                bytes[at] ^= flips[i];
                struct bg_err err;
                if (fs_relay_reply(b->relay, bytes, w.used, b->now_ms, &err) < 0)
                    fs_relay_gone(b->relay);
                if (b->to_kernel.count == 0) /* it was for nobody */
                    assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS * 40), 0);
                if (b->to_kernel.count == 0) { /* SETLKW waits for ever */
                    assert_int_equal(opcode, FUSE_SETLKW);
                    fs_relay_gone(b->relay);
                }
                struct fs_reply got = bench_kernel_got(b, opcode);
                uint64_t type = got.attr.mode & S_IFMT;
                if (got.attr.mode != 0)
                    assert_true(type == S_IFREG || type == S_IFDIR || type == S_IFLNK);
                assert_int_equal(got.attr.mode & 07000, 0);
                assert_true(got.attr.size <= 1ull << 53 && got.attr.atime_ns < 1000000000);
                assert_true(got.attr.flags == 0 && got.attr.rdev == 0);
                assert_true(got.open_flags == 0 && got.generation == 0);
                assert_true(got.data_size <= 4096);
                assert_true(got.error == 0 || fs_error_allowed(opcode, got.error));
                bench_free(b);
            }
}

static void every_truncated_answer_is_an_error(void **state)
{
    (void)state;
    for (uint32_t opcode = 1; opcode < FS_OPCODE_MAX; opcode++) {
        bool more = true;
        for (size_t cut = FS_REPLY_HEADER_SIZE; more; cut++) {
            struct bench *b = bench_new_usual();
            struct fs_request request;
            struct fs_reply reply;
            more = bench_sample(b, opcode, &request, &reply);
            if (more) {
                struct fs_request asked = bench_pass(b, request);
                uint8_t bytes[1024];
                struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
                reply.unique = asked.unique;
                fs_reply_emit(opcode, &reply, &w);
                bg_writer_bytes(&w, reply.data, reply.data_size);
                more = cut < w.used;
                uint32_t stated = (uint32_t)cut;
                memcpy(bytes, &stated, sizeof stated);
                enum fs_reply_kind kind = fs_op_find(opcode)->reply;
                bool any = kind == FS_REPLY_DATA || kind == FS_REPLY_TEXT || kind == FS_REPLY_XATTR;
                if (more) {
                    struct bg_err err;
                    assert_int_equal(fs_relay_reply(b->relay, bytes, cut, b->now_ms, &err), 0);
                    int error = bench_kernel_got(b, opcode).error;
                    /* Shorter data is data; no entries are the end of a folder. */
                    bool end = reply.data && cut == FS_REPLY_HEADER_SIZE;
                    if (!any && !end)
                        assert_true(error < 0 || kind == FS_REPLY_DIRENTS ||
                                    kind == FS_REPLY_DIRENTS_PLUS);
                }
            }
            bench_free(b);
        }
    }
}

static void answers_to_nothing_end_the_stream_after_a_few(void **state)
{
    struct bench *b = *state;
    struct fs_request nothing = {.opcode = FUSE_FLUSH, .unique = 0}; /* as a notification has */
    for (int i = 0; i < BG_FS_ODD_REPLIES_MAX; i++)
        assert_int_equal(bench_reply_error(b, &nothing, i % 2 ? 0 : -EIO), 0);
    bench_expect_nothing_for_kernel(b);
    assert_int_equal(bench_reply_error(b, &nothing, 0), -EPROTO);
}

static void a_second_answer_is_one_to_nothing(void **state)
{
    struct bench *b = *state;
    struct fs_request asked = bench_pass(b, read_at(b, 100));
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    (void)bench_kernel_got(b, FUSE_READ);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    bench_expect_nothing_for_kernel(b);
}

static void errors_are_those_that_the_operation_may_have(void **state)
{
    struct bench *b = *state;
    static const struct {
        int sent, want;
    } table[] = {{-ENOENT, -ENOENT}, {-ENOSYS, -EIO}, {-512, -EIO},   {-EINTR, -EIO},
                 {-4095, -EIO},      {-EIO, -EIO},    {-ENOSPC, -EIO}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct fs_request asked = bench_pass(b, lookup(b->dir, "x"));
        assert_int_equal(bench_reply_error(b, &asked, table[i].sent), 0);
        bench_expect_error(b, table[i].want);
    }
}

static void more_data_than_asked_for_is_an_error(void **state)
{
    struct bench *b = *state;
    static const uint8_t data[200] = "user.x";
    static const uint32_t opcodes[] = {FUSE_READ, FUSE_GETXATTR, FUSE_READDIR, FUSE_READDIRPLUS};
    for (size_t i = 0; i < sizeof opcodes / sizeof *opcodes; i++) {
        struct fs_request request;
        struct fs_reply reply;
        assert_true(bench_sample(b, opcodes[i], &request, &reply));
        request.size = 100;
        struct fs_request asked = bench_pass(b, request);
        assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.data = data, .data_size = 101}),
                         0);
        bench_expect_error(b, -EIO);
    }
}

static void more_written_than_asked_for_is_an_error(void **state)
{
    struct bench *b = *state;
    static const uint8_t data[100];
    struct fs_request request = {.opcode = FUSE_WRITE,
                                 .node = b->file,
                                 .fh = b->fh,
                                 .size = sizeof data,
                                 .flags = O_DSYNC,
                                 .data = data,
                                 .data_size = sizeof data};
    static const struct {
        uint64_t count;
        int want;
    } table[] = {{100, 0}, {1, 0}, {101, -EIO}, {0, -EIO}, {UINT32_MAX, -EIO}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct fs_request asked = bench_pass(b, request);
        assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.size = table[i].count}), 0);
        assert_int_equal(bench_kernel_got(b, FUSE_WRITE).error, table[i].want);
    }
}

/* ---- 2.1: folders ---- */

struct listing {
    uint8_t bytes[4096];
    struct bg_writer w;
    bool plus;
};

static void add(struct listing *l, const char *name, size_t size, uint64_t offset, uint64_t node)
{
    struct fs_dirent entry = {
        .ino = 1000 + node, .offset = offset, .type = DT_REG, .name = name, .name_size = size};
    if (l->plus && node != 0)
        entry.entry = bench_entry(node, S_IFREG | 0644);
    fs_dirent_emit(&entry, l->plus, &l->w);
}

static struct listing *listing(bool plus)
{
    static struct listing l;
    l.plus = plus;
    l.w = bg_writer_init(l.bytes, sizeof l.bytes);
    return &l;
}

static struct fs_request readdir_request(const struct bench *b, bool plus, uint64_t offset)
{
    return (struct fs_request){.opcode = plus ? FUSE_READDIRPLUS : FUSE_READDIR,
                               .node = b->dir,
                               .fh = b->dir_fh,
                               .size = 4096,
                               .offset = offset};
}

/* Sends the listing and returns the names that the kernel gets, with spaces between them. */
static const char *shown(struct bench *b, struct listing *l, int *ret_error)
{
    static char names[4096];
    struct fs_request asked = bench_pass(b, readdir_request(b, l->plus, 0));
    struct fs_reply reply = {.data = l->bytes, .data_size = l->w.used};
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    struct fs_reply got = bench_kernel_got(b, asked.opcode);
    *ret_error = got.error;
    struct bg_reader in = bg_reader_init(got.data, got.data_size);
    struct fs_dirent entry;
    size_t used = 0;
    while (fs_dirent_parse(&in, l->plus, &entry)) {
        memcpy(names + used, entry.name, entry.name_size);
        used += entry.name_size;
        names[used++] = ' ';
    }
    assert_true(bg_reader_ok(&in));
    names[used] = '\0';
    return names;
}

static uint64_t forgets_of(struct bench *b, uint64_t server_id)
{
    uint64_t sum = 0;
    fs_relay_flush_forgets(b->relay);
    while (b->to_server.count > 0) {
        struct fs_request request = bench_server_got(b);
        for (size_t i = 0; request.opcode == FUSE_BATCH_FORGET && i < request.count; i++) {
            uint64_t node, count;
            fs_forget_at(&request, i, &node, &count);
            sum += node == server_id ? count : 0;
        }
    }
    return sum;
}

static void names_in_folders_are_names(void **state)
{
    (void)state;
    for (int plus = 0; plus < 2; plus++) {
        struct bench *b = bench_new_usual();
        struct listing *l = listing(plus);
        int error;
        add(l, ".", 1, 1, 0);
        add(l, "..", 2, 2, 0);
        add(l, "good", 4, 3, 40);
        add(l, "a/b", 3, 4, 41);
        add(l, "nul\0", 4, 5, 42);
        add(l, "good", 4, 6, 43); /* again */
        add(l, "ctl\x1b[2J", 7, 7, 44);
        add(l, "\xff\xfe", 2, 8, 45); /* not UTF-8: real trees have it */
        assert_string_equal(shown(b, l, &error), ". .. good \xff\xfe ");
        assert_int_equal(error, 0);
        bench_free(b);
    }
}

static void what_is_not_shown_is_given_back(void **state)
{
    struct bench *b = *state;
    struct listing *l = listing(true);
    int error;
    add(l, ".", 1, 1, 46); /* must have none */
    add(l, "x", 1, 2, 47);
    add(l, "x", 1, 3, 48);
    assert_string_equal(shown(b, l, &error), ". x ");
    fs_relay_flush_forgets(b->relay);
    struct fs_request forgets = bench_server_got(b);
    assert_int_equal(forgets.opcode, FUSE_BATCH_FORGET);
    assert_int_equal(forgets.count, 2);
}

static void malformed_folders_are_errors(void **state)
{
    (void)state;
    static const uint64_t offsets[] = {0, 1ull << 63, UINT64_MAX};
    for (int plus = 0; plus < 2; plus++)
        for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
            struct bench *b = bench_new_usual();
            struct listing *l = listing(plus);
            int error;
            add(l, "first", 5, 3, 40);
            add(l, "second", 6, offsets[i], 41);
            assert_string_equal(shown(b, l, &error), "");
            assert_int_equal(error, -EIO);
            if (plus)
                assert_int_equal(forgets_of(b, 40), 1);
            bench_free(b);
            b = bench_new_usual();
            l = listing(plus);
            add(l, "cut", 3, 3, 40);
            l->w.used -= 8;
            (void)shown(b, l, &error);
            assert_int_equal(error, -EIO);
            bench_free(b);
        }
}

static void a_folder_that_leads_back_to_the_same_place_is_an_error(void **state)
{
    struct bench *b = *state;
    struct listing *l = listing(false);
    add(l, "again", 5, 77, 0);
    struct fs_request asked = bench_pass(b, readdir_request(b, false, 77));
    struct fs_reply reply = {.data = l->bytes, .data_size = l->w.used};
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    bench_expect_error(b, -EIO);
}

static void a_folder_without_end_ends(void **state)
{
    struct bench *b = *state;
    uint64_t offset = 1;
    size_t given = 0;
    int error = 0;
    while (error == 0 && given <= 2u * BG_FS_DIR_ENTRIES_MAX) {
        struct listing *l = listing(false);
        char name[16];
        struct fs_request asked = bench_pass(b, readdir_request(b, false, offset));
        for (int i = 0; i < 100; i++, given++) {
            int size = snprintf(name, sizeof name, "%zu", given);
            add(l, name, (size_t)size, ++offset, 0);
        }
        struct fs_reply reply = {.data = l->bytes, .data_size = l->w.used};
        assert_int_equal(bench_reply(b, &asked, reply), 0);
        error = bench_kernel_got(b, FUSE_READDIR).error;
    }
    assert_int_equal(error, -EIO);
    assert_true(given >= BG_FS_DIR_ENTRIES_MAX);
}

static void a_folder_that_is_slow_for_ever_ends(void **state)
{
    struct bench *b = *state;
    int error = 0, rounds = 0;
    for (uint64_t offset = 1; error == 0; offset++, rounds++) {
        struct listing *l = listing(false);
        char name[16];
        struct fs_request asked = bench_pass(b, readdir_request(b, false, offset));
        add(l, name, (size_t)snprintf(name, sizeof name, "%d", rounds), offset + 1, 0);
        assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS - 1), 0);
        struct fs_reply reply = {.data = l->bytes, .data_size = l->w.used};
        assert_int_equal(bench_reply(b, &asked, reply), 0);
        error = bench_kernel_got(b, FUSE_READDIR).error;
        assert_true(rounds < 100);
    }
    assert_int_equal(error, -EIO);
}

static void folders_of_hidden_names_only_are_read_on(void **state)
{
    struct bench *b = *state;
    struct listing *l = listing(false);
    add(l, "a\nb", 3, 5, 0);
    add(l, "c\x7f", 2, 6, 0);
    struct fs_request asked = bench_pass(b, readdir_request(b, false, 0));
    struct fs_reply reply = {.data = l->bytes, .data_size = l->w.used};
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    bench_expect_nothing_for_kernel(b);
    asked = bench_server_got(b);
    assert_int_equal(asked.offset, 6);
    assert_true(asked.fh == BENCH_DIR_FH_SERVER);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.data_size = 0}), 0);
    struct fs_reply got = bench_kernel_got(b, FUSE_READDIR);
    assert_int_equal(got.error, 0);
    assert_int_equal(got.data_size, 0);
}

static void raw_names_are_shown_when_asked_for(void **state)
{
    (void)state;
    static const struct fs_hello hello = {.server = true, .uid = 500, .gid = 501};
    struct bench *b = bench_new(&hello, /* raw_names= */ true, false);
    struct listing *l = listing(false);
    int error;
    add(l, "a\nb", 3, 5, 0);
    assert_string_equal(shown(b, l, &error), "a\nb ");
    bench_free(b);
}

static void hidden_names_are_not_there(void **state)
{
    struct bench *b = *state;
    static const struct {
        uint32_t opcode;
        int want;
    } table[] = {{FUSE_LOOKUP, -ENOENT}, {FUSE_UNLINK, -ENOENT}, {FUSE_RMDIR, -ENOENT},
                 {FUSE_MKDIR, -EPERM},   {FUSE_CREATE, -EPERM},  {FUSE_SYMLINK, -EPERM},
                 {FUSE_LINK, -EPERM},    {FUSE_RENAME, -ENOENT}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct fs_request request;
        struct fs_reply reply;
        assert_true(bench_sample(b, table[i].opcode, &request, &reply));
        request.name = "a\x1b";
        bench_ask(b, request);
        bench_expect_error(b, table[i].want);
    }
    bench_expect_nothing_for_server(b);
}

/* ---- 2.1: types and attributes ---- */

static void special_files_cannot_be_opened(void **state)
{
    struct bench *b = *state;
    static const uint32_t modes[] = {S_IFIFO | 0666, S_IFSOCK | 0777, S_IFCHR | 0666,
                                     S_IFBLK | 0660};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        struct fs_request asked = bench_pass(b, lookup(b->dir, "special"));
        struct fs_reply entry = bench_entry(50 + i, modes[i]);
        entry.attr.rdev = 0x103;
        assert_int_equal(bench_reply(b, &asked, entry), 0);
        struct fs_reply got = bench_kernel_got(b, FUSE_LOOKUP);
        assert_int_equal(got.attr.mode, S_IFREG);
        assert_int_equal(got.attr.rdev, 0);
        bench_ask(b, (struct fs_request){.opcode = FUSE_OPEN, .node = got.node});
        bench_expect_error(b, -EACCES);
        bench_ask(b,
                  (struct fs_request){
                      .opcode = FUSE_SETATTR, .node = got.node, .valid = FATTR_MODE, .mode = 0777});
        bench_expect_error(b, -EPERM);
        bench_expect_nothing_for_server(b);
    }
}

static void what_was_asked_to_be_made_must_come(void **state)
{
    struct bench *b = *state;
    static const struct {
        uint32_t opcode, mode;
    } table[] = {{FUSE_MKDIR, S_IFREG},   {FUSE_MKDIR, S_IFLNK},  {FUSE_SYMLINK, S_IFREG},
                 {FUSE_SYMLINK, S_IFDIR}, {FUSE_MKNOD, S_IFDIR},  {FUSE_MKNOD, S_IFIFO},
                 {FUSE_CREATE, S_IFDIR},  {FUSE_CREATE, S_IFCHR}, {FUSE_LINK, S_IFDIR}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct fs_request request;
        struct fs_reply reply;
        assert_true(bench_sample(b, table[i].opcode, &request, &reply));
        struct fs_request asked = bench_pass(b, request);
        reply.node = 60 + i;
        reply.attr.mode = table[i].mode;
        assert_int_equal(bench_reply(b, &asked, reply), 0);
        bench_expect_error(b, -EIO);
        assert_int_equal(forgets_of(b, 60 + i), 1);
    }
}

static void a_new_name_must_be_the_same_file(void **state)
{
    struct bench *b = *state;
    struct fs_request request;
    struct fs_reply reply;
    assert_true(bench_sample(b, FUSE_LINK, &request, &reply));
    struct fs_request asked = bench_pass(b, request);
    assert_int_equal(bench_reply(b, &asked, bench_entry(70, S_IFREG | 0644)), 0);
    bench_expect_error(b, -EIO);
    assert_int_equal(forgets_of(b, 70), 1);
}

static void nodes_that_turn_into_something_else_are_stale(void **state)
{
    (void)state;
    static const struct {
        uint64_t ino;
        uint32_t mode;
    } table[] = {{BENCH_FILE_SERVER + 1000, S_IFDIR | 0755},
                 {BENCH_FILE_SERVER + 1000, S_IFLNK | 0777},
                 {BENCH_FILE_SERVER + 1000, S_IFIFO | 0644},
                 {999, S_IFREG | 0644}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct bench *b = bench_new_usual();
        struct fs_request asked = bench_pass(b, getattr(b->file));
        struct fs_reply reply = {.attr = bench_attr(table[i].ino, table[i].mode)};
        assert_int_equal(bench_reply(b, &asked, reply), 0);
        bench_expect_error(b, -ESTALE);
        bench_ask(b, read_at(b, 10));
        bench_expect_error(b, -ESTALE);
        bench_free(b);
    }
}

static void a_folder_at_two_places_is_two_nodes(void **state)
{
    struct bench *b = *state;
    struct fs_request asked = bench_pass(b, lookup(1, "elsewhere"));
    assert_int_equal(bench_reply(b, &asked, bench_entry(BENCH_DIR_SERVER, S_IFDIR | 0755)), 0);
    assert_true(bench_kernel_got(b, FUSE_LOOKUP).node != b->dir);
    bench_ask(b, lookup(b->dir, "file"));
    bench_expect_error(b, -ESTALE);
}

static void folders_inside_themselves_are_refused(void **state)
{
    struct bench *b = *state;
    static const uint64_t ids[] = {BENCH_DIR_SERVER, 1};
    for (size_t i = 0; i < 2; i++) {
        struct fs_request asked = bench_pass(b, lookup(b->dir, "loop"));
        assert_int_equal(bench_reply(b, &asked, bench_entry(ids[i], S_IFDIR | 0755)), 0);
        bench_expect_error(b, -ELOOP);
    }
}

static void attributes_are_cleaned(void **state)
{
    struct bench *b = *state;
    struct fs_request asked = bench_pass(b, getattr(b->file));
    struct fs_reply reply = {.attr_valid = UINT64_MAX,
                             .attr_valid_ns = UINT32_MAX,
                             .attr = bench_attr(BENCH_FILE_SERVER + 1000, S_IFREG | 06777)};
    reply.attr.uid = 0;
    reply.attr.flags = FUSE_ATTR_SUBMOUNT | FUSE_ATTR_DAX;
    reply.attr.size = UINT64_MAX;
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    struct fs_reply got = bench_kernel_got(b, FUSE_GETATTR);
    assert_int_equal(got.attr.mode, S_IFREG | 0777);
    assert_int_equal(got.attr.uid, 65534);
    assert_int_equal(got.attr.gid, 1001);
    assert_int_equal(got.attr.flags, 0);
    assert_true(got.attr.size == 1ull << 53);
    assert_int_equal(got.attr_valid, 1);
    assert_int_equal(got.attr_valid_ns, 0);
}

static void open_flags_are_the_relays_own(void **state)
{
    struct bench *b = *state;
    struct fs_request asked =
        bench_pass(b, (struct fs_request){.opcode = FUSE_OPEN,
                                          .node = b->file,
                                          .flags = O_RDWR | O_APPEND | O_DIRECT | O_CREAT});
    assert_int_equal(asked.flags, O_RDWR | O_APPEND);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = 1, .open_flags = UINT32_MAX}),
                     0);
    assert_int_equal(bench_kernel_got(b, FUSE_OPEN).open_flags, 0);
}

/* ---- 2.1: the rest ---- */

static void attributes_other_than_the_users_do_not_pass(void **state)
{
    struct bench *b = *state;
    static const uint32_t opcodes[] = {FUSE_GETXATTR, FUSE_SETXATTR, FUSE_REMOVEXATTR};
    static const char *const names[] = {"security.capability", "system.posix_acl_access",
                                        "trusted.overlay.opaque", "user."};
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < 4; j++) {
            struct fs_request request;
            struct fs_reply reply;
            assert_true(bench_sample(b, opcodes[i], &request, &reply));
            request.name = names[j];
            bench_ask(b, request);
            bench_expect_error(b, -EOPNOTSUPP);
        }
    static const char list[] = "user.a\0security.capability";
    struct fs_request asked =
        bench_pass(b, (struct fs_request){.opcode = FUSE_LISTXATTR, .node = b->file, .size = 100});
    struct fs_reply reply = {.data = (const uint8_t *)list, .data_size = sizeof list};
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    bench_expect_error(b, -EIO);
    asked = bench_pass(b, (struct fs_request){.opcode = FUSE_LISTXATTR, .node = b->file});
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.size = BG_FS_XATTR_MAX + 1}), 0);
    bench_expect_error(b, -EIO);
}

static void calls_without_meaning_here_are_answered_here(void **state)
{
    struct bench *b = *state;
    static const struct {
        uint32_t opcode;
        int want;
    } table[] = {{FUSE_IOCTL, -ENOTTY},
                 {FUSE_POLL, -ENOSYS},
                 {FUSE_BMAP, -ENOSYS},
                 {FUSE_SYNCFS, -ENOSYS},
                 {FUSE_DESTROY, 0}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        bench_ask(b, (struct fs_request){.opcode = table[i].opcode, .node = b->file});
        bench_expect_error(b, table[i].want);
    }
    bench_expect_nothing_for_server(b);
}

static void holes_lie_after_what_was_asked(void **state)
{
    struct bench *b = *state;
    static const struct {
        uint64_t offset;
        int want;
    } table[] = {
        {100, 0}, {99, -EIO}, {1ull << 53, 0}, {(1ull << 53) + 1, -EIO}, {UINT64_MAX, -EIO}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct fs_request asked = bench_pass(b, (struct fs_request){.opcode = FUSE_LSEEK,
                                                                    .node = b->file,
                                                                    .fh = b->fh,
                                                                    .offset = 100,
                                                                    .whence = SEEK_DATA});
        assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.offset = table[i].offset}), 0);
        assert_int_equal(bench_kernel_got(b, FUSE_LSEEK).error, table[i].want);
    }
}

static void links_that_leave_the_mount_are_refused(void **state)
{
    struct bench *b = *state;
    static const struct {
        const char *text;
        int want;
    } table[] = {{"file", 0},        {"../x", 0}, {"../../x", -EPERM}, {"/etc/passwd", -EPERM},
                 {"a/../b", -EPERM}, {"", -EIO}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct fs_request asked =
            bench_pass(b, (struct fs_request){.opcode = FUSE_READLINK, .node = b->link});
        struct fs_reply reply = {.data = (const uint8_t *)table[i].text,
                                 .data_size = strlen(table[i].text)};
        assert_int_equal(bench_reply(b, &asked, reply), 0);
        struct fs_reply got = bench_kernel_got(b, FUSE_READLINK);
        assert_int_equal(got.error, table[i].want);
        if (got.error == 0)
            assert_memory_equal(got.data, table[i].text, got.data_size);
    }
}

static void a_link_that_is_moved_deeper_is_found_anew(void **state)
{
    struct bench *b = *state;
    struct fs_request asked =
        bench_pass(b, (struct fs_request){.opcode = FUSE_LOOKUP, .node = 1, .name = "top"});
    assert_int_equal(bench_reply(b, &asked, bench_entry(90, S_IFLNK | 0777)), 0);
    uint64_t link = bench_kernel_got(b, FUSE_LOOKUP).node;
    /* One reads it while another moves it: the text is right for its new place only. */
    bench_ask(b, (struct fs_request){.opcode = FUSE_READLINK, .node = link});
    uint64_t reader = b->kernel_unique;
    struct fs_request reading = bench_server_got(b);
    asked = bench_pass(
        b,
        (struct fs_request){
            .opcode = FUSE_RENAME, .node = 1, .name = "top", .node2 = b->dir, .name2 = "deeper"});
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_RENAME).error, 0);
    struct fs_reply reply = {.data = (const uint8_t *)"../x", .data_size = 4};
    b->kernel_unique = reader;
    assert_int_equal(bench_reply(b, &reading, reply), 0);
    bench_expect_error(b, -ESTALE);
    b->kernel_unique += 4;
    bench_ask(b, (struct fs_request){.opcode = FUSE_READLINK, .node = link});
    bench_expect_error(b, -ESTALE); /* the kernel looks it up again */
}

static void links_follow_the_place_that_the_host_moves_them_to(void **state)
{
    struct bench *b = *state;
    struct fs_request asked = bench_pass(
        b, (struct fs_request){
               .opcode = FUSE_RENAME, .node = b->dir, .name = "link", .node2 = 1, .name2 = "link"});
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_RENAME).error, 0);
    asked = bench_pass(b, (struct fs_request){.opcode = FUSE_READLINK, .node = b->link});
    struct fs_reply reply = {.data = (const uint8_t *)"../x", .data_size = 4};
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    bench_expect_error(b, -EPERM); /* was right in dir, leaves the mount here */
}

static void absolute_links_of_a_whole_machine_are_made_relative(void **state)
{
    (void)state;
    static const struct fs_hello hello = {
        .server = true, .uid = 500, .gid = 501, .flags = FS_HELLO_WHOLE};
    struct bench *b = bench_new(&hello, false, false);
    struct fs_request asked =
        bench_pass(b, (struct fs_request){.opcode = FUSE_READLINK, .node = b->link});
    struct fs_reply reply = {.data = (const uint8_t *)"/usr/bin", .data_size = 8};
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    struct fs_reply got = bench_kernel_got(b, FUSE_READLINK);
    assert_int_equal(got.data_size, 10);
    assert_memory_equal(got.data, "../usr/bin", 10);
    bench_free(b);
}

static void owners_are_translated_both_ways(void **state)
{
    struct bench *b = *state;
    struct fs_request give = {
        .opcode = FUSE_SETATTR, .node = b->file, .valid = FATTR_UID | FATTR_GID, .gid = 1001};
    give.uid = 1000;
    struct fs_request asked = bench_pass(b, give);
    assert_int_equal(asked.uid, 500);
    assert_int_equal(asked.gid, 501);
    struct fs_reply reply = {.attr = bench_attr(BENCH_FILE_SERVER + 1000, S_IFREG | 0644)};
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_SETATTR).attr.uid, 1000);
    give.uid = 0;
    bench_ask(b, give);
    bench_expect_error(b, -EPERM);
}

static void set_id_bits_are_not_passed_on(void **state)
{
    struct bench *b = *state;
    static const uint32_t opcodes[] = {FUSE_MKDIR, FUSE_MKNOD, FUSE_CREATE, FUSE_SETATTR};
    for (size_t i = 0; i < 4; i++) {
        struct fs_request request;
        struct fs_reply reply;
        assert_true(bench_sample(b, opcodes[i], &request, &reply));
        request.mode = S_IFREG | 07755;
        struct fs_request asked = bench_pass(b, request);
        assert_int_equal(asked.mode & 07777, 0755);
    }
}

static void devices_are_not_made(void **state)
{
    struct bench *b = *state;
    static const uint32_t types[] = {S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK};
    for (size_t i = 0; i < 4; i++) {
        bench_ask(b,
                  (struct fs_request){
                      .opcode = FUSE_MKNOD, .node = b->dir, .name = "n", .mode = types[i] | 0666});
        bench_expect_error(b, -EPERM);
    }
    bench_expect_nothing_for_server(b);
}

static void a_read_only_mount_changes_nothing(void **state)
{
    (void)state;
    static const struct fs_hello hello = {.server = true, .uid = 500, .gid = 501};
    struct bench *b = bench_new(&hello, false, /* read_only= */ true);
    for (uint32_t opcode = 1; opcode < FS_OPCODE_MAX; opcode++) {
        struct fs_request request;
        struct fs_reply reply;
        if (!fs_op_mutates(opcode) || !bench_sample(b, opcode, &request, &reply))
            continue;
        bench_ask(b, request);
        bench_expect_error(b, -EROFS);
    }
    static const uint64_t flags[] = {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC};
    for (size_t i = 0; i < 3; i++) {
        bench_ask(b, (struct fs_request){.opcode = FUSE_OPEN, .node = b->file, .flags = flags[i]});
        bench_expect_error(b, -EROFS);
    }
    bench_expect_nothing_for_server(b);
    bench_free(b);
}

/* ---- 2.3: never hang ---- */

static void silence_is_eio_at_the_deadline(void **state)
{
    (void)state;
    for (uint32_t opcode = 1; opcode < FS_OPCODE_MAX; opcode++) {
        struct bench *b = bench_new_usual();
        struct fs_request request;
        struct fs_reply reply;
        if (bench_sample(b, opcode, &request, &reply) && opcode != FUSE_SETLKW) {
            (void)bench_pass(b, request);
            enum fs_class class = fs_op_find(opcode)->class;
            uint64_t deadline = class == FS_CLASS_META   ? BENCH_DEADLINE_MS
                                : class == FS_CLASS_DATA ? 2 * BENCH_DEADLINE_MS
                                                         : 8 * BENCH_DEADLINE_MS;
            assert_int_equal(bench_wait(b, deadline - 1), 0);
            bench_expect_nothing_for_kernel(b);
            assert_int_equal(bench_wait(b, 1), 0);
            if (opcode == FUSE_STATFS) /* answered from memory */
                assert_int_equal(bench_kernel_got(b, opcode).error, 0);
            else
                bench_expect_error(b, -EIO);
        }
        bench_free(b);
    }
}

static void a_busy_server_has_four_deadlines(void **state)
{
    struct bench *b = *state;
    bench_ask(b, lookup(b->dir, "slow"));
    struct fs_request slow = bench_server_got(b);
    uint64_t slow_unique = b->kernel_unique;
    for (int i = 0; i < 7; i++) {
        assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS / 2), 0);
        bench_expect_nothing_for_kernel(b);
        struct fs_request asked = bench_pass(b, read_at(b, 10));
        assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
        (void)bench_kernel_got(b, FUSE_READ);
    }
    assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS / 2), 0);
    b->kernel_unique = slow_unique;
    bench_expect_error(b, -EIO);
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_LIVE);
    (void)slow;
}

static void three_times_silent_is_stale_and_an_answer_ends_it(void **state)
{
    struct bench *b = *state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fs_relay_state(b->relay), FS_RELAY_LIVE);
        (void)bench_pass(b, lookup(b->dir, "x"));
        assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS), 0);
        bench_expect_error(b, -EIO);
    }
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_STALE);
    bench_ask(b, read_at(b, 10));
    bench_expect_error(b, -EIO); /* at once */
    bench_ask(b, getattr(1));
    assert_int_equal(bench_kernel_got(b, FUSE_GETATTR).error, 0);
    bench_ask(b, (struct fs_request){.opcode = FUSE_STATFS, .node = 1});
    assert_int_equal(bench_kernel_got(b, FUSE_STATFS).error, 0);
    bench_expect_nothing_for_server(b);

    assert_int_equal(bench_wait(b, 1000), 0);
    struct fs_request probe = bench_server_got(b);
    assert_int_equal(probe.opcode, FUSE_GETATTR);
    assert_int_equal(bench_wait(b, 5000), 0);
    bench_expect_nothing_for_server(b); /* one probe is enough */
    struct fs_reply root = {.attr = bench_attr(1, S_IFDIR | 0755)};
    assert_int_equal(bench_reply(b, &probe, root), 0);
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_LIVE);
    bench_expect_nothing_for_kernel(b);
}

static void when_one_makes_it_stale_all_are_answered(void **state)
{
    struct bench *b = *state;
    for (int i = 0; i < 5; i++)
        bench_ask(b, lookup(b->dir, "x"));
    bench_ask(b, (struct fs_request){.opcode = FUSE_SETLKW,
                                     .node = b->file,
                                     .fh = b->fh,
                                     .lock_end = 1,
                                     .lock_type = F_WRLCK});
    bench_ask(b, (struct fs_request){.opcode = FUSE_FSYNC, .node = b->file, .fh = b->fh});
    assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS), 0);
    assert_int_equal(b->to_kernel.count, 7);
    assert_int_equal(fs_relay_state(b->relay), FS_RELAY_STALE);
}

static void the_end_of_the_stream_answers_everybody(void **state)
{
    struct bench *b = *state;
    for (int i = 0; i < 10; i++)
        bench_ask(b, read_at(b, 10));
    fs_relay_gone(b->relay);
    assert_int_equal(b->to_kernel.count, 10);
    for (int i = 0; i < 10; i++) {
        int32_t error;
        memcpy(&error, b->to_kernel.messages[i].bytes + 4, sizeof error);
        assert_int_equal(error, -EIO);
        free(b->to_kernel.messages[i].bytes);
    }
    b->to_kernel.count = 0;
    for (uint32_t opcode = 1; opcode < FS_OPCODE_MAX; opcode++) {
        struct fs_request request;
        struct fs_reply reply;
        if (!bench_sample(b, opcode, &request, &reply))
            continue;
        bench_ask(b, request);
        assert_int_equal(bench_kernel_got(b, opcode).error, opcode == FUSE_STATFS ? 0 : -EIO);
    }
}

static void closing_works_on_a_dead_mount(void **state)
{
    struct bench *b = *state;
    fs_relay_gone(b->relay);
    bench_ask(b, (struct fs_request){.opcode = FUSE_RELEASE, .node = b->file, .fh = b->fh});
    bench_expect_error(b, 0);
    bench_ask(b, (struct fs_request){.opcode = FUSE_RELEASEDIR, .node = b->dir, .fh = b->dir_fh});
    bench_expect_error(b, 0);
    bench_ask(b, (struct fs_request){.opcode = FUSE_FORGET, .node = b->file, .nlookup = 1});
    bench_expect_nothing_for_kernel(b);
}

static void the_window_closes_and_opens(void **state)
{
    struct bench *b = *state;
    struct fs_request first = {0};
    for (int i = 0; i < BG_FS_WINDOW; i++) {
        assert_true(fs_relay_has_room(b->relay));
        bench_ask(b, lookup(b->dir, "x"));
        if (i == 0)
            first = bench_server_got(b);
    }
    assert_false(fs_relay_has_room(b->relay));
    assert_int_equal(bench_reply_error(b, &first, -ENOENT), 0);
    assert_true(fs_relay_has_room(b->relay));
    for (int i = 0; i < 10; i++) /* waits for locks take no room */
        bench_ask(b, (struct fs_request){.opcode = FUSE_SETLKW,
                                         .node = b->file,
                                         .fh = b->fh,
                                         .lock_end = 1,
                                         .lock_type = F_WRLCK});
    assert_true(fs_relay_has_room(b->relay));
}

static void slow_requests_have_a_maximum(void **state)
{
    struct bench *b = *state;
    struct fs_request wait = {
        .opcode = FUSE_SETLKW, .node = b->file, .fh = b->fh, .lock_end = 1, .lock_type = F_WRLCK};
    for (int i = 0; i < BG_FS_SLOW_MAX; i++)
        bench_ask(b, wait);
    bench_expect_nothing_for_kernel(b);
    bench_ask(b, wait);
    bench_expect_error(b, -ENOLCK);
    bench_ask(b, (struct fs_request){.opcode = FUSE_FSYNC, .node = b->file, .fh = b->fh});
    bench_expect_error(b, -EIO);
}

static void unanswered_requests_end_the_stream_at_last(void **state)
{
    struct bench *b = *state;
    int r = 0;
    size_t asked = 0;
    while (r == 0 && asked < 4u * BG_FS_LATE_MAX) {
        /* Each round three are left unanswered and one is answered, so it never gets stale. */
        for (int i = 0; i < 2; i++, asked++)
            bench_ask(b, lookup(b->dir, "x"));
        while (b->to_server.count > 0)
            (void)bench_server_got(b);
        r = bench_wait(b, BENCH_DEADLINE_MS);
        while (b->to_kernel.count > 0)
            free(b->to_kernel.messages[--b->to_kernel.count].bytes);
        struct fs_request alive = bench_pass(b, read_at(b, 1));
        assert_int_equal(bench_reply(b, &alive, (struct fs_reply){0}), 0);
        (void)bench_kernel_got(b, FUSE_READ);
    }
    assert_int_equal(r, -EPROTO);
    assert_true(asked >= BG_FS_LATE_MAX);
}

/* ---- late answers ---- */

static struct fs_request give_up_on(struct bench *b, struct fs_request request)
{
    struct fs_request asked = bench_pass(b, request);
    assert_int_equal(bench_wait(b, 8 * BENCH_DEADLINE_MS), 0);
    bench_expect_error(b, -EIO);
    return asked;
}

static void late_references_are_given_back(void **state)
{
    struct bench *b = *state;
    struct fs_request asked = give_up_on(b, lookup(b->dir, "late"));
    assert_int_equal(bench_reply(b, &asked, bench_entry(80, S_IFREG | 0644)), 0);
    bench_expect_nothing_for_kernel(b);
    assert_int_equal(forgets_of(b, 80), 1);

    struct fs_request request;
    struct fs_reply reply;
    assert_true(bench_sample(b, FUSE_READDIRPLUS, &request, &reply));
    asked = give_up_on(b, request);
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    assert_int_equal(forgets_of(b, 40), 1);
}

static void late_handles_are_released(void **state)
{
    struct bench *b = *state;
    static const uint32_t opcodes[] = {FUSE_OPEN, FUSE_OPENDIR, FUSE_CREATE};
    for (size_t i = 0; i < 3; i++) {
        struct fs_request request;
        struct fs_reply reply;
        assert_true(bench_sample(b, opcodes[i], &request, &reply));
        struct fs_request asked = give_up_on(b, request);
        assert_int_equal(bench_reply(b, &asked, reply), 0);
        bench_expect_nothing_for_kernel(b);
        struct fs_request release = bench_server_got(b);
        assert_int_equal(release.opcode,
                         opcodes[i] == FUSE_OPENDIR ? FUSE_RELEASEDIR : FUSE_RELEASE);
        assert_int_equal(release.fh, reply.fh);
        if (opcodes[i] == FUSE_CREATE)
            assert_int_equal(forgets_of(b, 30), 1);
    }
}

static void late_answers_of_every_kind_leave_nothing_behind(void **state)
{
    (void)state;
    for (uint32_t opcode = 1; opcode < FS_OPCODE_MAX; opcode++) {
        struct bench *b = bench_new_usual();
        struct fs_request request;
        struct fs_reply reply;
        if (bench_sample(b, opcode, &request, &reply) && opcode != FUSE_SETLKW &&
            opcode != FUSE_STATFS) {
            struct fs_request asked = give_up_on(b, request);
            enum fs_reply_kind kind = fs_op_find(opcode)->reply;
            bool entry = kind == FS_REPLY_ENTRY || kind == FS_REPLY_ENTRY_OPEN;
            assert_int_equal(bench_reply(b, &asked, reply), 0);
            bench_expect_nothing_for_kernel(b);
            if (kind == FS_REPLY_OPEN || kind == FS_REPLY_ENTRY_OPEN)
                assert_true(bench_server_got(b).fh == reply.fh);
            if (opcode == FUSE_SETLK)
                assert_int_equal(bench_server_got(b).lock_type, F_UNLCK);
            if (entry || kind == FS_REPLY_DIRENTS_PLUS)
                assert_int_equal(forgets_of(b, entry ? reply.node : 40), 1);
            bench_expect_nothing_for_server(b);
            /* Once more: nobody has asked any longer. */
            assert_int_equal(bench_reply(b, &asked, reply), 0);
            bench_expect_nothing_for_kernel(b);
            bench_expect_nothing_for_server(b);
        }
        bench_free(b);
    }
}

static void every_answer_counts_once(void **state)
{
    (void)state;
    for (uint32_t opcode = 1; opcode < FS_OPCODE_MAX; opcode++) {
        struct bench *b = bench_new_usual();
        struct fs_request request;
        struct fs_reply reply;
        if (bench_sample(b, opcode, &request, &reply)) {
            struct fs_request asked = bench_pass(b, request), other = asked;
            other.unique += 1000; /* an answer to something else */
            assert_int_equal(bench_reply(b, &other, reply), 0);
            bench_expect_nothing_for_kernel(b);
            assert_int_equal(bench_reply(b, &asked, reply), 0);
            assert_int_equal(bench_kernel_got(b, opcode).error, 0);
            assert_int_equal(bench_reply(b, &asked, reply), 0);
            bench_expect_nothing_for_kernel(b);
        }
        bench_free(b);
    }
}

static void a_nameless_file_must_be_new(void **state)
{
    struct bench *b = *state;
    struct fs_request request;
    struct fs_reply reply;
    assert_true(bench_sample(b, FUSE_TMPFILE, &request, &reply));
    struct fs_request asked = bench_pass(b, request);
    assert_string_equal(asked.name, "/");
    reply.node = BENCH_FILE_SERVER; /* one that has a name */
    reply.attr = bench_attr(BENCH_FILE_SERVER + 1000, S_IFREG | 0644);
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    bench_expect_error(b, -EIO);
    struct fs_request release = bench_server_got(b);
    assert_int_equal(release.opcode, FUSE_RELEASE);
    assert_int_equal(release.fh, reply.fh);
    assert_int_equal(bench_pass(b, getattr(b->file)).opcode, FUSE_GETATTR); /* which stays good */
}

static void late_locks_are_dropped(void **state)
{
    struct bench *b = *state;
    struct fs_request wait = {.opcode = FUSE_SETLKW,
                              .node = b->file,
                              .fh = b->fh,
                              .owner = 9,
                              .lock_start = 3,
                              .lock_end = 8,
                              .lock_type = F_WRLCK};
    struct fs_request asked = bench_pass(b, wait);
    assert_int_equal(bench_wait(b, 3600 * 1000), 0); /* may take as long as it likes */
    bench_expect_nothing_for_kernel(b);
    bench_ask(b, (struct fs_request){.opcode = FUSE_INTERRUPT, .interrupted = b->kernel_unique});
    struct fs_request interrupt = bench_server_got(b);
    assert_int_equal(interrupt.opcode, FUSE_INTERRUPT);
    assert_true(interrupt.interrupted == asked.unique);
    b->kernel_unique -= 2; /* the interrupt itself has no answer */
    assert_int_equal(bench_wait(b, 100), 0);
    bench_expect_error(b, -EINTR);
    assert_int_equal(bench_server_got(b).opcode, FUSE_INTERRUPT); /* once more */
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    struct fs_request unlock = bench_server_got(b);
    assert_int_equal(unlock.opcode, FUSE_SETLK);
    assert_int_equal(unlock.lock_type, F_UNLCK);
    assert_int_equal(unlock.lock_start, 3);
    assert_int_equal(unlock.lock_end, 8);
    assert_int_equal(unlock.owner, 9);
    assert_true(unlock.fh == BENCH_FH_SERVER);
}

static void interrupts_of_other_requests_change_nothing(void **state)
{
    struct bench *b = *state;
    struct fs_request asked = bench_pass(b, read_at(b, 10));
    uint64_t unique = b->kernel_unique;
    bench_ask(b, (struct fs_request){.opcode = FUSE_INTERRUPT, .interrupted = unique});
    assert_int_equal(bench_wait(b, 500), 0);
    bench_expect_nothing_for_kernel(b);
    bench_expect_nothing_for_server(b);
    b->kernel_unique = unique;
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_READ).error, 0);
}

static void what_the_kernel_no_longer_wants_is_given_back(void **state)
{
    struct bench *b = *state;
    static const uint32_t opcodes[] = {FUSE_LOOKUP, FUSE_CREATE, FUSE_OPEN, FUSE_READDIRPLUS};
    for (size_t i = 0; i < 4; i++) {
        struct fs_request request;
        struct fs_reply reply;
        assert_true(bench_sample(b, opcodes[i], &request, &reply));
        struct fs_request asked = bench_pass(b, request);
        b->kernel_error = -ENOENT;
        assert_int_equal(bench_reply(b, &asked, reply), 0);
        b->kernel_error = 0;
        if (opcodes[i] != FUSE_LOOKUP && opcodes[i] != FUSE_READDIRPLUS)
            assert_int_equal(bench_server_got(b).opcode, FUSE_RELEASE);
        if (opcodes[i] != FUSE_OPEN)
            assert_int_equal(forgets_of(b, opcodes[i] == FUSE_READDIRPLUS ? 40 : 30), 1);
    }
}

static void references_and_handles_add_up(void **state)
{
    struct bench *b = *state;
    bench_ask(b, (struct fs_request){.opcode = FUSE_RELEASE, .node = b->file, .fh = b->fh});
    bench_expect_error(b, 0);
    struct fs_request release = bench_server_got(b);
    assert_int_equal(release.opcode, FUSE_RELEASE);
    assert_true(release.fh == BENCH_FH_SERVER && release.node == BENCH_FILE_SERVER);
    uint8_t forgets[2 * FS_FORGET_SIZE];
    struct bg_writer w = bg_writer_init(forgets, sizeof forgets);
    bg_writer_u64le(&w, b->file);
    bg_writer_u64le(&w, 1);
    bg_writer_u64le(&w, b->link);
    bg_writer_u64le(&w, 1);
    bench_ask(b, (struct fs_request){.opcode = FUSE_BATCH_FORGET,
                                     .count = 2,
                                     .data = forgets,
                                     .data_size = sizeof forgets});
    fs_relay_flush_forgets(b->relay);
    struct fs_request passed = bench_server_got(b);
    assert_int_equal(passed.opcode, FUSE_BATCH_FORGET);
    assert_int_equal(passed.count, 2);
    bench_ask(b, read_at(b, 10));
    bench_expect_error(b, -ESTALE);
}

int main(void)
{
#define RELAY_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_good_answer_passes),
        RELAY_TEST(ids_and_handles_are_translated),
        RELAY_TEST(ids_that_the_kernel_cannot_have_are_stale),
        RELAY_TEST(closing_what_was_only_read_is_answered_here),
        cmocka_unit_test(every_flipped_byte_leaves_one_harmless_answer),
        cmocka_unit_test(every_truncated_answer_is_an_error),
        RELAY_TEST(answers_to_nothing_end_the_stream_after_a_few),
        RELAY_TEST(a_second_answer_is_one_to_nothing),
        RELAY_TEST(errors_are_those_that_the_operation_may_have),
        RELAY_TEST(more_data_than_asked_for_is_an_error),
        RELAY_TEST(more_written_than_asked_for_is_an_error),
        cmocka_unit_test(names_in_folders_are_names),
        RELAY_TEST(what_is_not_shown_is_given_back),
        cmocka_unit_test(malformed_folders_are_errors),
        RELAY_TEST(a_folder_that_leads_back_to_the_same_place_is_an_error),
        RELAY_TEST(a_folder_without_end_ends),
        RELAY_TEST(a_folder_that_is_slow_for_ever_ends),
        RELAY_TEST(folders_of_hidden_names_only_are_read_on),
        cmocka_unit_test(raw_names_are_shown_when_asked_for),
        RELAY_TEST(hidden_names_are_not_there),
        RELAY_TEST(special_files_cannot_be_opened),
        RELAY_TEST(what_was_asked_to_be_made_must_come),
        RELAY_TEST(a_new_name_must_be_the_same_file),
        cmocka_unit_test(nodes_that_turn_into_something_else_are_stale),
        RELAY_TEST(a_folder_at_two_places_is_two_nodes),
        RELAY_TEST(folders_inside_themselves_are_refused),
        RELAY_TEST(attributes_are_cleaned),
        RELAY_TEST(open_flags_are_the_relays_own),
        RELAY_TEST(attributes_other_than_the_users_do_not_pass),
        RELAY_TEST(calls_without_meaning_here_are_answered_here),
        RELAY_TEST(holes_lie_after_what_was_asked),
        RELAY_TEST(links_that_leave_the_mount_are_refused),
        RELAY_TEST(a_link_that_is_moved_deeper_is_found_anew),
        RELAY_TEST(links_follow_the_place_that_the_host_moves_them_to),
        cmocka_unit_test(absolute_links_of_a_whole_machine_are_made_relative),
        RELAY_TEST(owners_are_translated_both_ways),
        RELAY_TEST(set_id_bits_are_not_passed_on),
        RELAY_TEST(devices_are_not_made),
        cmocka_unit_test(a_read_only_mount_changes_nothing),
        cmocka_unit_test(silence_is_eio_at_the_deadline),
        RELAY_TEST(a_busy_server_has_four_deadlines),
        RELAY_TEST(three_times_silent_is_stale_and_an_answer_ends_it),
        RELAY_TEST(when_one_makes_it_stale_all_are_answered),
        RELAY_TEST(the_end_of_the_stream_answers_everybody),
        RELAY_TEST(closing_works_on_a_dead_mount),
        RELAY_TEST(the_window_closes_and_opens),
        RELAY_TEST(slow_requests_have_a_maximum),
        RELAY_TEST(unanswered_requests_end_the_stream_at_last),
        RELAY_TEST(late_references_are_given_back),
        RELAY_TEST(late_handles_are_released),
        cmocka_unit_test(late_answers_of_every_kind_leave_nothing_behind),
        cmocka_unit_test(every_answer_counts_once),
        RELAY_TEST(a_nameless_file_must_be_new),
        RELAY_TEST(late_locks_are_dropped),
        RELAY_TEST(interrupts_of_other_requests_change_nothing),
        RELAY_TEST(what_the_kernel_no_longer_wants_is_given_back),
        RELAY_TEST(references_and_handles_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
