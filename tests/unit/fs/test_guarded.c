/* Guarded files in the relay, against a server that says something else each time. */
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
    *state = bench_new_guarded(GUARD_PIN, NULL);
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

/* Approves without the kernel. */
static void approve(struct bench *b, const char *path, const char *bytes)
{
    struct fs_pin_note note = {
        .mode = 0644, .bytes = (const uint8_t *)bytes, .size = strlen(bytes)};
    memcpy(note.path, path, strlen(path) + 1);
    assert_int_equal(fs_relay_note(b->relay, &note), 0);
}

static void forget(struct bench *b, const char *path)
{
    struct fs_pin_note note = {.forget = true};
    memcpy(note.path, path, strlen(path) + 1);
    assert_int_equal(fs_relay_note(b->relay, &note), 0);
}

/* The server makes a folder known. Returns the kernel's id. */
static uint64_t folder(struct bench *b, uint64_t parent, const char *name, uint64_t server_id)
{
    struct fs_request asked = bench_pass(b, lookup(parent, name));
    assert_int_equal(bench_reply(b, &asked, bench_entry(server_id, S_IFDIR | 0755)), 0);
    struct fs_reply got = bench_kernel_got(b, FUSE_LOOKUP);
    assert_int_equal(got.error, 0);
    return got.node;
}

/* Reads a file of the relay's through a handle; nobody is asked. */
static const char *content_of(struct bench *b, uint64_t node)
{
    static char text[8192];
    bench_ask(b, (struct fs_request){.opcode = FUSE_OPEN, .node = node});
    uint64_t fh = bench_kernel_got(b, FUSE_OPEN).fh;
    bench_ask(b, (struct fs_request){.opcode = FUSE_READ, .node = node, .fh = fh, .size = 8000});
    struct fs_reply got = bench_kernel_got(b, FUSE_READ);
    assert_int_equal(got.error, 0);
    if (got.data_size > 0)
        memcpy(text, got.data, got.data_size);
    text[got.data_size] = '\0';
    bench_ask(b, (struct fs_request){.opcode = FUSE_FLUSH, .node = node, .fh = fh});
    bench_expect_error(b, 0);
    bench_ask(b, (struct fs_request){.opcode = FUSE_RELEASE, .node = node, .fh = fh});
    bench_expect_error(b, 0);
    bench_expect_nothing_for_server(b);
    return text;
}

/* The server's part of reading a small file: looked up, opened, read, released, forgotten. */
static void serve_fetch(struct bench *b, const char *text, uint64_t server_id)
{
    struct fs_request asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_LOOKUP);
    assert_int_equal(bench_reply(b, &asked, bench_entry(server_id, S_IFREG | 0644)), 0);
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_OPEN);
    assert_int_equal(asked.node, server_id);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = 77}), 0);
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_READ);
    struct fs_reply reply = {.data = (const uint8_t *)text, .data_size = strlen(text)};
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_RELEASE);
    assert_int_equal(asked.fh, 77);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    fs_relay_flush_forgets(b->relay);
    assert_int_equal(bench_server_got(b).opcode, FUSE_BATCH_FORGET);
}

/* Looks up a file of git's for which the server has text. */
static struct fs_reply look_up_filtered(struct bench *b, uint64_t git, const char *name,
                                        const char *text)
{
    bench_ask(b, lookup(git, name));
    serve_fetch(b, text, 90);
    return bench_kernel_got(b, FUSE_LOOKUP);
}

/* ---- pinned ---- */

static void nobody_is_asked_for_a_pinned_file(void **state)
{
    struct bench *b = *state;
    bench_ask(b, lookup(b->dir, ".envrc"));
    bench_expect_error(b, -ENOENT);
    approve(b, "/dir/.envrc", "host");
    bench_ask(b, lookup(b->dir, ".envrc"));
    struct fs_reply got = bench_kernel_got(b, FUSE_LOOKUP);
    assert_int_equal(got.error, 0);
    assert_int_equal(got.attr.size, 4);
    assert_int_equal(got.attr.mode, S_IFREG | 0644);
    assert_int_equal(got.attr.uid, 1000);
    assert_string_equal(content_of(b, got.node), "host");
    uint64_t ino = got.attr.ino;
    bench_ask(b, (struct fs_request){.opcode = FUSE_GETATTR, .node = got.node});
    assert_int_equal(bench_kernel_got(b, FUSE_GETATTR).attr.ino, ino);
    bench_expect_nothing_for_server(b);
    /* Even when there is no server any more. */
    fs_relay_gone(b->relay);
    assert_string_equal(content_of(b, got.node), "host");
}

static void another_approval_is_another_node(void **state)
{
    struct bench *b = *state;
    approve(b, "/dir/.envrc", "first");
    bench_ask(b, lookup(b->dir, ".envrc"));
    uint64_t first = bench_kernel_got(b, FUSE_LOOKUP).node;
    bench_ask(b, (struct fs_request){.opcode = FUSE_OPEN, .node = first});
    uint64_t fh = bench_kernel_got(b, FUSE_OPEN).fh;
    approve(b, "/dir/.envrc", "second");
    /* Who has it open keeps it; it cannot be opened any more, so that the name is looked up. */
    bench_ask(b, (struct fs_request){.opcode = FUSE_READ, .node = first, .fh = fh, .size = 100});
    struct fs_reply got = bench_kernel_got(b, FUSE_READ);
    assert_int_equal(got.data_size, 5);
    assert_memory_equal(got.data, "first", 5);
    bench_ask(b, (struct fs_request){.opcode = FUSE_OPEN, .node = first});
    bench_expect_error(b, -ESTALE);
    bench_ask(b, lookup(b->dir, ".envrc"));
    uint64_t second = bench_kernel_got(b, FUSE_LOOKUP).node;
    assert_true(second != first);
    assert_string_equal(content_of(b, second), "second");
    forget(b, "/dir/.envrc");
    bench_ask(b, lookup(b->dir, ".envrc"));
    bench_expect_error(b, -ENOENT);
    bench_ask(b, (struct fs_request){.opcode = FUSE_RELEASE, .node = first, .fh = fh});
    bench_expect_error(b, 0);
    bench_ask(b, (struct fs_request){.opcode = FUSE_FORGET, .node = first, .nlookup = 1});
    bench_ask(b, (struct fs_request){.opcode = FUSE_GETATTR, .node = first});
    bench_expect_error(b, -ESTALE);
}

static void what_is_written_is_told_and_stored(void **state)
{
    struct bench *b = *state;
    struct fs_request create = {.opcode = FUSE_CREATE,
                                .node = b->dir,
                                .name = ".envrc",
                                .mode = S_IFREG | 0600,
                                .flags = O_WRONLY};
    bench_ask(b, create);
    struct fs_reply made = bench_kernel_got(b, FUSE_CREATE);
    assert_int_equal(made.error, 0);
    static const uint8_t text[] = "hello";
    bench_ask(b, (struct fs_request){.opcode = FUSE_WRITE,
                                     .node = made.node,
                                     .fh = made.fh,
                                     .data = text,
                                     .data_size = 5,
                                     .size = 5});
    assert_int_equal(bench_kernel_got(b, FUSE_WRITE).size, 5);
    bench_expect_nothing_for_server(b);
    assert_string_equal(b->notes, "");
    bench_ask(b, (struct fs_request){.opcode = FUSE_FLUSH, .node = made.node, .fh = made.fh});
    bench_expect_nothing_for_kernel(b); /* it waits until the guest has it */
    assert_string_equal(b->notes, "+/dir/.envrc=hello\n");
    struct fs_request asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_LOOKUP);
    assert_int_equal(bench_reply_error(b, &asked, -ENOENT), 0);
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_CREATE);
    assert_int_equal(asked.mode, S_IFREG | 0600);
    struct fs_reply entry = bench_entry(60, S_IFREG | 0600);
    entry.fh = 61;
    assert_int_equal(bench_reply(b, &asked, entry), 0);
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_WRITE);
    assert_int_equal(asked.data_size, 5);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.size = 2}), 0); /* not all of it */
    asked = bench_server_got(b);
    assert_int_equal(asked.offset, 2);
    assert_memory_equal(asked.data, "llo", 3);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.size = 3}), 0);
    asked = bench_server_got(b);
    assert_int_equal(asked.opcode, FUSE_FLUSH);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    bench_expect_error(b, 0);
    assert_int_equal(bench_server_got(b).opcode, FUSE_RELEASE);
}

/* Whatever the server does at any step, the host's close ends, and the bytes are the host's. */
static void a_server_that_fails_in_the_middle_changes_nothing_here(void **state)
{
    (void)state;
    for (int fails_at = 0; fails_at < 4; fails_at++)
        for (int how = 0; how < 3; how++) {
            struct bench *b = bench_new_guarded(GUARD_PIN, NULL);
            approve(b, "/dir/.envrc", "before");
            bench_ask(b, lookup(b->dir, ".envrc"));
            uint64_t node = bench_kernel_got(b, FUSE_LOOKUP).node;
            bench_ask(b, (struct fs_request){
                             .opcode = FUSE_SETATTR, .node = node, .valid = FATTR_SIZE, .size = 3});
            for (int step = 0; step <= fails_at; step++) {
                struct fs_request asked = bench_server_got(b);
                struct fs_reply good = asked.opcode == FUSE_LOOKUP ? bench_entry(60, S_IFREG | 0644)
                                       : asked.opcode == FUSE_OPEN ? (struct fs_reply){.fh = 61}
                                                                   : (struct fs_reply){.size = 3};
                if (asked.opcode == FUSE_FLUSH)
                    good = (struct fs_reply){0};
                if (step < fails_at) {
                    assert_int_equal(bench_reply(b, &asked, good), 0);
                } else if (how == 0) {
                    assert_int_equal(bench_reply_error(b, &asked, -EIO), 0);
                } else if (how == 1) { /* too late: what it brings goes back */
                    assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS * 20), 0);
                    assert_int_equal(b->to_kernel.count, 1);
                    assert_int_equal(bench_reply(b, &asked, good), 0);
                } else {
                    fs_relay_gone(b->relay);
                }
            }
            assert_true(bench_kernel_got(b, FUSE_SETATTR).error < 0);
            assert_string_equal(b->notes, "+/dir/.envrc=bef\n");
            fs_relay_flush_forgets(b->relay);
            while (b->to_server.count > 0)
                (void)bench_server_got(b);
            assert_string_equal(content_of(b, node), "bef");
            bench_free(b);
        }
}

static void a_pinned_name_is_never_a_node_of_the_servers(void **state)
{
    struct bench *b = *state;
    uint8_t bytes[4096];
    for (int plus = 0; plus < 2; plus++) {
        struct fs_request asked =
            bench_pass(b, (struct fs_request){.opcode = plus ? FUSE_READDIRPLUS : FUSE_READDIR,
                                              .node = b->dir,
                                              .fh = b->dir_fh,
                                              .size = 4096});
        static const char *const names[] = {".envrc", ".ENVRC",  ".git",
                                            "plain",  ".claude", ".vscode"};
        static const uint32_t types[] = {DT_REG, DT_DIR, DT_DIR, DT_REG, DT_LNK, DT_LNK};
        struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
        for (size_t i = 0; i < 6; i++) {
            struct fs_dirent entry = {.ino = 100 + i,
                                      .offset = 1 + i,
                                      .type = types[i],
                                      .name = names[i],
                                      .name_size = strlen(names[i])};
            if (plus)
                entry.entry = bench_entry(100 + i, S_IFREG | 0644); /* .git too, it says now */
            fs_dirent_emit(&entry, plus, &w);
        }
        struct fs_reply reply = {.data = bytes, .data_size = w.used};
        assert_int_equal(bench_reply(b, &asked, reply), 0);
        struct fs_reply got = bench_kernel_got(b, asked.opcode);
        struct bg_reader in = bg_reader_init(got.data, got.data_size);
        struct fs_dirent entry;
        char shown[64] = "";
        size_t used = 0;
        while (fs_dirent_parse(&in, plus, &entry)) {
            assert_true(used + entry.name_size + 2 < sizeof shown);
            memcpy(shown + used, entry.name, entry.name_size);
            used += entry.name_size;
            shown[used++] = ' ';
            assert_true(entry.entry.node == 0 || entry.name[0] == 'p');
        }
        assert_string_equal(shown, ".git plain ");
    }
}

static void pins_come_after_the_servers_names(void **state)
{
    struct bench *b = *state;
    approve(b, "/dir/.envrc", "a");
    approve(b, "/dir/.npmrc", "b");
    approve(b, "/dir/sub/.npmrc", "c");
    approve(b, "/dir/plain", "d"); /* none that would be shown */
    struct fs_request readdir = {
        .opcode = FUSE_READDIR, .node = b->dir, .fh = b->dir_fh, .size = 4096, .offset = 5};
    struct fs_request asked = bench_pass(b, readdir);
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    struct fs_reply got = bench_kernel_got(b, FUSE_READDIR);
    struct bg_reader in = bg_reader_init(got.data, got.data_size);
    struct fs_dirent one, two, none;
    assert_true(fs_dirent_parse(&in, false, &one) && fs_dirent_parse(&in, false, &two));
    assert_false(fs_dirent_parse(&in, false, &none));
    assert_memory_equal(one.name, ".envrc", 6);
    assert_memory_equal(two.name, ".npmrc", 6);
    readdir.offset = one.offset;
    bench_ask(b, readdir); /* goes on where it was, without the server */
    got = bench_kernel_got(b, FUSE_READDIR);
    in = bg_reader_init(got.data, got.data_size);
    assert_true(fs_dirent_parse(&in, false, &two) && !fs_dirent_parse(&in, false, &none));
    readdir.offset = two.offset;
    bench_ask(b, readdir);
    assert_int_equal(bench_kernel_got(b, FUSE_READDIR).data_size, 0);
    bench_expect_nothing_for_server(b);
}

/* Listing a folder looks whether the guest has changed a pinned file: nobody waits for that. */
static void listing_looks_for_changes_beside_it(void **state)
{
    struct bench *b = *state;
    approve(b, "/dir/.envrc", "host");
    struct fs_request asked = bench_pass(
        b,
        (struct fs_request){.opcode = FUSE_READDIR, .node = b->dir, .fh = b->dir_fh, .size = 4096});
    uint8_t bytes[128];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    struct fs_dirent entry = {
        .ino = 100, .offset = 1, .type = DT_REG, .name = ".envrc", .name_size = 6};
    fs_dirent_emit(&entry, false, &w);
    entry = (struct fs_dirent){
        .ino = 101, .offset = 2, .type = DT_REG, .name = "plain", .name_size = 5};
    fs_dirent_emit(&entry, false, &w);
    struct fs_reply reply = {.data = bytes, .data_size = w.used};
    assert_int_equal(bench_reply(b, &asked, reply), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_READDIR).error, 0);
    serve_fetch(b, "guest", 90);
    bench_expect_nothing_for_kernel(b);
    bench_ask(b, lookup(b->dir, ".envrc"));
    assert_string_equal(content_of(b, bench_kernel_got(b, FUSE_LOOKUP).node), "host");
}

static void the_path_has_the_mounts_own(void **state)
{
    (void)state;
    struct bench *b = bench_new_guarded(GUARD_PIN, "/home/app/./x/..//");
    approve(b, "/home/app/dir/.envrc", "host");
    bench_ask(b, lookup(b->dir, ".envrc"));
    assert_int_equal(bench_kernel_got(b, FUSE_LOOKUP).error, 0);
    bench_free(b);
    b = bench_new_guarded(GUARD_PIN, "/home/.vscode"); /* its name counts */
    bench_ask(b, lookup(1, "tasks.json"));
    bench_expect_error(b, -ENOENT);
    bench_free(b);
    struct fs_relay *relay;
    struct fs_relay_opts opts = {.deadline_ms = 1, .guard = {.policy = GUARD_PIN, .root = "x"}};
    assert_int_equal(fs_relay_new(&opts, &relay), -EINVAL);
}

/* ---- a file that becomes one ---- */

static struct fs_reply create_plain(struct bench *b, const char *name, uint64_t server_id)
{
    struct fs_request create = {.opcode = FUSE_CREATE,
                                .node = b->dir,
                                .name = name,
                                .mode = S_IFREG | 0644,
                                .flags = O_WRONLY | O_EXCL};
    struct fs_request asked = bench_pass(b, create);
    struct fs_reply entry = bench_entry(server_id, S_IFREG | 0644);
    entry.fh = server_id;
    assert_int_equal(bench_reply(b, &asked, entry), 0);
    return bench_kernel_got(b, FUSE_CREATE);
}

static void write_plain(struct bench *b, const struct fs_reply *file, uint64_t offset,
                        const char *text)
{
    struct fs_request asked = bench_pass(b, (struct fs_request){.opcode = FUSE_WRITE,
                                                                .node = file->node,
                                                                .fh = file->fh,
                                                                .flags = O_SYNC,
                                                                .offset = offset,
                                                                .data = (const uint8_t *)text,
                                                                .data_size = strlen(text),
                                                                .size = strlen(text)});
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.size = strlen(text)}), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_WRITE).error, 0);
}

static struct fs_request rename_in(const struct bench *b, const char *from, const char *to)
{
    return (struct fs_request){
        .opcode = FUSE_RENAME2, .node = b->dir, .node2 = b->dir, .name = from, .name2 = to};
}

static void a_rename_brings_the_bytes_that_the_host_wrote(void **state)
{
    struct bench *b = *state;
    struct fs_reply file = create_plain(b, "temporary", 70);
    write_plain(b, &file, 0, "Hello");
    write_plain(b, &file, 6, "you");
    write_plain(b, &file, 0, "h");
    struct fs_request asked = bench_pass(b, rename_in(b, "temporary", ".envrc"));
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    bench_expect_error(b, 0);
    assert_memory_equal(b->notes, "+/dir/.envrc=hello", 18);
    /* The kernel knows the server's file by that name: it is not opened by it. */
    bench_ask(b, (struct fs_request){.opcode = FUSE_OPEN, .node = file.node});
    bench_expect_error(b, -ESTALE);
    bench_ask(b, (struct fs_request){.opcode = FUSE_GETATTR, .node = file.node});
    bench_expect_error(b, -ESTALE);
    /* Its handle goes on. */
    asked =
        bench_pass(b, (struct fs_request){.opcode = FUSE_FLUSH, .node = file.node, .fh = file.fh});
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    bench_expect_error(b, 0);
    bench_ask(b, lookup(b->dir, ".envrc"));
    struct fs_reply got = bench_kernel_got(b, FUSE_LOOKUP);
    assert_int_equal(got.attr.size, 9);
    assert_string_equal(content_of(b, got.node), "hello"); /* then a NUL */
    /* Where the guest moves its file to, it is a file like others. */
    asked = bench_pass(b, lookup(b->dir, "elsewhere"));
    assert_int_equal(bench_reply(b, &asked, bench_entry(70, S_IFREG | 0644)), 0);
    got = bench_kernel_got(b, FUSE_LOOKUP);
    assert_true(got.error == 0 && got.node != file.node);
    asked = bench_pass(b, (struct fs_request){.opcode = FUSE_OPEN, .node = got.node});
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.fh = 5}), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_OPEN).error, 0);
}

static void names_that_are_hidden_are_so_here_too(void **state)
{
    struct bench *b = *state;
    struct fs_request create = {.opcode = FUSE_CREATE,
                                .node = b->dir,
                                .name = "a\n.code-workspace",
                                .mode = S_IFREG | 0644,
                                .flags = O_WRONLY};
    bench_ask(b, create);
    bench_expect_error(b, -EPERM);
    struct fs_reply file = create_plain(b, "temporary", 70);
    write_plain(b, &file, 0, "host");
    bench_ask(b, rename_in(b, "temporary", "a\n.code-workspace"));
    bench_expect_error(b, -EPERM);
}

static void a_rename_that_fails_brings_nothing(void **state)
{
    struct bench *b = *state;
    struct fs_reply file = create_plain(b, "temporary", 70);
    write_plain(b, &file, 0, "host");
    struct fs_request asked = bench_pass(b, rename_in(b, "temporary", ".envrc"));
    assert_int_equal(bench_reply_error(b, &asked, -EACCES), 0);
    bench_expect_error(b, -EACCES);
    bench_ask(b, lookup(b->dir, ".envrc"));
    bench_expect_error(b, -ENOENT);
    bench_ask(b, rename_in(b, "file", ".envrc")); /* bytes of the server's */
    bench_expect_error(b, -EPERM);
    bench_ask(b, rename_in(b, "link", ".envrc"));
    bench_expect_error(b, -EPERM);
    bench_expect_nothing_for_server(b);
    assert_string_equal(b->notes, "");
}

static void bytes_that_came_otherwise_are_not_known(void **state)
{
    struct bench *b = *state;
    struct fs_reply file = create_plain(b, "temporary", 70);
    write_plain(b, &file, 0, "host");
    struct fs_request asked = bench_pass(b, (struct fs_request){.opcode = FUSE_COPY_FILE_RANGE,
                                                                .node = b->file,
                                                                .fh = b->fh,
                                                                .node2 = file.node,
                                                                .fh2 = file.fh,
                                                                .size = 4});
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){.size = 4}), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_COPY_FILE_RANGE).error, 0);
    bench_ask(b, rename_in(b, "temporary", ".envrc"));
    bench_expect_error(b, -EPERM);
}

static void many_files_are_not_kept_for_ever(void **state)
{
    struct bench *b = *state;
    struct fs_reply first = create_plain(b, "first", 1000);
    write_plain(b, &first, 0, "host");
    for (unsigned i = 1; i <= BG_GUARD_COPIES_MAX; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "%u", i);
        struct fs_reply file = create_plain(b, name, 1000 + i);
        write_plain(b, &file, 0, "x");
    }
    bench_ask(b, rename_in(b, "first", ".envrc"));
    bench_expect_error(b, -EPERM);
    struct fs_request asked = bench_pass(b, rename_in(b, "7", ".envrc"));
    assert_int_equal(bench_reply(b, &asked, (struct fs_reply){0}), 0);
    bench_expect_error(b, 0);
    assert_string_equal(b->notes, "+/dir/.envrc=x\n");
}

/* ---- git ---- */

static void a_node_of_gits_has_one_content(void **state)
{
    struct bench *b = *state;
    uint64_t git = folder(b, b->dir, ".git", 50);
    struct fs_reply first =
        look_up_filtered(b, git, "config", "[core]\nbare = false\nfsmonitor = x\n");
    assert_int_equal(first.error, 0);
    assert_string_equal(content_of(b, first.node), "[core]\n\tbare = \"false\"\n");
    assert_int_equal(first.attr.size, strlen("[core]\n\tbare = \"false\"\n"));
    struct fs_reply again = look_up_filtered(b, git, "config", "[core]\nbare = false\npager = y\n");
    assert_int_equal(again.node, first.node); /* nothing that is shown is different */
    struct fs_reply other = look_up_filtered(b, git, "config", "[core]\nbare = true\n");
    assert_true(other.node != first.node && other.attr.ino != first.attr.ino);
    assert_string_equal(content_of(b, other.node), "[core]\n\tbare = \"true\"\n");
    bench_ask(b, (struct fs_request){.opcode = FUSE_OPEN, .node = first.node});
    bench_expect_error(b, -ESTALE);
    bench_ask(b, (struct fs_request){.opcode = FUSE_GETATTR, .node = first.node});
    assert_int_equal(bench_kernel_got(b, FUSE_GETATTR).attr.size, first.attr.size);
}

static void a_config_that_cannot_be_read_is_refused(void **state)
{
    struct bench *b = *state;
    uint64_t git = folder(b, b->dir, ".git", 50);
    assert_int_equal(look_up_filtered(b, git, "config", "[core\n").error, -EACCES);
    static const uint32_t modes[] = {S_IFDIR | 0755, S_IFLNK | 0777, S_IFIFO | 0644};
    for (size_t i = 0; i < 3; i++) {
        struct fs_request asked = bench_pass(b, lookup(git, "config"));
        assert_int_equal(bench_reply(b, &asked, bench_entry(91 + i, modes[i])), 0);
        bench_expect_error(b, -ENOENT);
    }
    struct fs_request asked = bench_pass(b, lookup(git, "config"));
    assert_int_equal(bench_reply(b, &asked, bench_entry(1, S_IFREG | 0644)), 0); /* the root */
    bench_expect_error(b, -EIO);
    asked = bench_pass(b, lookup(git, "config"));
    assert_int_equal(bench_wait(b, BENCH_DEADLINE_MS * 5), 0);
    bench_expect_error(b, -EIO);
    assert_int_equal(bench_reply(b, &asked, bench_entry(95, S_IFREG | 0644)), 0);
    fs_relay_flush_forgets(b->relay);
}

static void what_the_host_wrote_is_shown_whole(void **state)
{
    struct bench *b = *state;
    uint64_t git = folder(b, b->dir, ".git", 50);
    approve(b, "/dir/.git/config", "[alias]\nx = y\n");
    struct fs_reply got = look_up_filtered(b, git, "config", "[alias]\nx = y\n");
    assert_string_equal(content_of(b, got.node), "[alias]\nx = y\n");
    got = look_up_filtered(b, git, "config", "[alias]\nx = !y\n");
    assert_string_equal(content_of(b, got.node), "");
}

static void hooks_are_empty_and_cannot_be_made(void **state)
{
    struct bench *b = *state;
    uint64_t git = folder(b, b->dir, ".git", 50), hooks = folder(b, git, "hooks", 51);
    bench_ask(b, lookup(hooks, "pre-commit"));
    bench_expect_error(b, -ENOENT);
    static const uint32_t makes[] = {FUSE_CREATE, FUSE_MKNOD, FUSE_MKDIR, FUSE_SYMLINK, FUSE_LINK};
    for (size_t i = 0; i < 5; i++) {
        struct fs_request request = {
            .opcode = makes[i], .node = hooks, .name = "pre-commit", .mode = S_IFREG | 0755};
        request.name2 = makes[i] == FUSE_SYMLINK ? "x" : NULL;
        request.node2 = b->file;
        bench_ask(b, request);
        bench_expect_error(b, -EROFS);
    }
    bench_expect_nothing_for_server(b);
    (void)bench_pass(b, lookup(hooks, "pre-commit.sample"));
}

static void a_git_folder_cannot_be_a_link(void **state)
{
    struct bench *b = *state;
    static const struct {
        const char *name;
        uint32_t mode;
    } rows[] = {{".git", S_IFLNK | 0777},    {".GIT", S_IFLNK | 0777},    {".claude", S_IFLNK},
                {".claude", S_IFREG | 0644}, {".vscode", S_IFLNK | 0777}, {".git", S_IFIFO}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct fs_request asked = bench_pass(b, lookup(b->dir, rows[i].name));
        assert_int_equal(bench_reply(b, &asked, bench_entry(80 + i, rows[i].mode)), 0);
        bench_expect_error(b, -ENOENT);
    }
}

static void a_git_file_is_read_and_checked(void **state)
{
    struct bench *b = *state;
    static const struct {
        const char *text;
        int want;
    } rows[] = {{"gitdir: ../x\n", 0},
                {"gitdir: ../../x\n", -EACCES},
                {"gitdir: /x\n", -EACCES},
                {"[core]\n", -EACCES}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct fs_request asked = bench_pass(b, lookup(b->dir, ".git"));
        assert_int_equal(bench_reply(b, &asked, bench_entry(55, S_IFREG | 0644)), 0);
        bench_expect_nothing_for_kernel(b);
        serve_fetch(b, rows[i].text, 56);
        struct fs_reply got = bench_kernel_got(b, FUSE_LOOKUP);
        assert_int_equal(got.error, rows[i].want);
        if (got.error == 0)
            assert_string_equal(content_of(b, got.node), rows[i].text);
    }
}

static void a_bare_repository_is_one_as_soon_as_it_looks_so(void **state)
{
    struct bench *b = *state;
    struct fs_request asked = bench_pass(b, lookup(b->dir, "config"));
    assert_int_equal(bench_reply(b, &asked, bench_entry(40, S_IFREG | 0644)), 0);
    struct fs_reply got = bench_kernel_got(b, FUSE_LOOKUP);
    assert_true(got.error == 0 && got.entry_valid == 0); /* asked again at each use */
    asked = bench_pass(b, lookup(b->dir, "HEAD"));
    assert_int_equal(bench_reply(b, &asked, bench_entry(41, S_IFREG | 0644)), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_LOOKUP).error, 0);
    asked = bench_pass(b, lookup(b->dir, "objects"));
    assert_int_equal(bench_reply(b, &asked, bench_entry(42, S_IFLNK | 0777)), 0);
    bench_expect_error(b, -ENOENT); /* and its objects are no link */
    got = look_up_filtered(b, b->dir, "config", "[core]\npager = x\n");
    assert_string_equal(content_of(b, got.node), "");
}

/* The kernel may keep what it was told only if it stays true when the folder looks like git's. */
static void what_may_become_gits_is_asked_for_at_each_use(void **state)
{
    struct bench *b = *state;
    uint64_t hooks = folder(b, b->dir, "hooks", 50);
    static const struct {
        bool in_hooks;
        const char *name;
        uint32_t mode;
        uint64_t valid;
    } rows[] = {{false, "config", S_IFREG | 0644, 0},  {false, "config", S_IFDIR | 0755, 1},
                {false, "objects", S_IFDIR | 0755, 1}, {false, "commondir", S_IFDIR | 0755, 1},
                {true, "pre-commit", S_IFREG, 0},      {true, "pre-push", S_IFLNK, 0},
                {true, "x.sample", S_IFREG, 1},        {false, "plain", S_IFREG, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct fs_request asked =
            bench_pass(b, lookup(rows[i].in_hooks ? hooks : b->dir, rows[i].name));
        assert_int_equal(bench_reply(b, &asked, bench_entry(60 + i, rows[i].mode)), 0);
        struct fs_reply got = bench_kernel_got(b, FUSE_LOOKUP);
        if (got.error != 0 || got.entry_valid != rows[i].valid)
            fail_msg("%s", rows[i].name);
    }
}

static void a_folder_of_the_guests_does_not_become_a_guarded_one(void **state)
{
    struct bench *b = *state;
    static const char *const names[] = {".vscode", ".claude"};
    (void)folder(b, b->dir, "sub", 50);
    for (size_t i = 0; i < 2; i++) {
        bench_ask(b, rename_in(b, "sub", names[i]));
        bench_expect_error(b, -EPERM);
    }
    bench_expect_nothing_for_server(b);
    (void)bench_pass(b, rename_in(b, "sub", "other"));
}

static void too_many_errands_are_an_error(void **state)
{
    struct bench *b = *state;
    uint64_t git = folder(b, b->dir, ".git", 50);
    for (unsigned i = 0; i < BG_GUARD_ERRANDS_MAX; i++)
        bench_ask(b, lookup(git, "config"));
    bench_expect_nothing_for_kernel(b);
    bench_ask(b, lookup(git, "config"));
    bench_expect_error(b, -EIO);
}

/* ---- the other policies ---- */

static void owner_shows_them_as_somebody_elses(void **state)
{
    (void)state;
    struct bench *b = bench_new_guarded(GUARD_OWNER, NULL);
    static const char *const names[] = {".git", ".envrc", "plain"};
    for (size_t i = 0; i < 3; i++) {
        struct fs_request asked = bench_pass(b, lookup(b->dir, names[i]));
        uint32_t mode = i == 0 ? S_IFDIR | 0755 : S_IFREG | 0644;
        struct fs_reply entry = bench_entry(50 + i, mode);
        entry.attr.uid = 500;
        assert_int_equal(bench_reply(b, &asked, entry), 0);
        struct fs_reply got = bench_kernel_got(b, FUSE_LOOKUP);
        assert_int_equal(got.attr.uid, i < 2 ? 65534 : 1000);
        uint64_t node = got.node;
        asked = bench_pass(b, (struct fs_request){.opcode = FUSE_GETATTR, .node = node});
        struct fs_reply attr = {.attr = entry.attr};
        assert_int_equal(bench_reply(b, &asked, attr), 0);
        got = bench_kernel_got(b, FUSE_GETATTR);
        assert_int_equal(got.error, 0);
        assert_int_equal(got.attr.uid, i < 2 ? 65534 : 1000);
    }
    bench_free(b);
}

static void off_guards_nothing(void **state)
{
    (void)state;
    struct bench *b = bench_new_guarded(GUARD_OFF, NULL);
    struct fs_request asked = bench_pass(b, lookup(b->dir, ".envrc"));
    assert_int_equal(bench_reply(b, &asked, bench_entry(50, S_IFREG | 0644)), 0);
    assert_int_equal(bench_kernel_got(b, FUSE_LOOKUP).error, 0);
    bench_free(b);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(nobody_is_asked_for_a_pinned_file),
        TEST(another_approval_is_another_node),
        TEST(what_is_written_is_told_and_stored),
        cmocka_unit_test(a_server_that_fails_in_the_middle_changes_nothing_here),
        TEST(a_pinned_name_is_never_a_node_of_the_servers),
        TEST(pins_come_after_the_servers_names),
        TEST(listing_looks_for_changes_beside_it),
        cmocka_unit_test(the_path_has_the_mounts_own),
        TEST(a_rename_brings_the_bytes_that_the_host_wrote),
        TEST(names_that_are_hidden_are_so_here_too),
        TEST(a_rename_that_fails_brings_nothing),
        TEST(bytes_that_came_otherwise_are_not_known),
        TEST(many_files_are_not_kept_for_ever),
        TEST(a_node_of_gits_has_one_content),
        TEST(a_config_that_cannot_be_read_is_refused),
        TEST(what_the_host_wrote_is_shown_whole),
        TEST(hooks_are_empty_and_cannot_be_made),
        TEST(a_git_folder_cannot_be_a_link),
        TEST(a_git_file_is_read_and_checked),
        TEST(a_bare_repository_is_one_as_soon_as_it_looks_so),
        TEST(what_may_become_gits_is_asked_for_at_each_use),
        TEST(a_folder_of_the_guests_does_not_become_a_guarded_one),
        TEST(too_many_errands_are_an_error),
        cmocka_unit_test(owner_shows_them_as_somebody_elses),
        cmocka_unit_test(off_guards_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
