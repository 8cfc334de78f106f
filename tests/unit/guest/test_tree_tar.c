/* common/tree: what goes in comes out, and hostile streams stay below their destination. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/tree/tree_tar.h"

struct stream {
    uint8_t *bytes;
    size_t used, room, at;
    size_t fail_after; /* write fails with -EPIPE past this; 0: never */
    size_t step;       /* bytes that read gives at once */
    unsigned skipped;
    char skipped_name[256];
};

static int stream_write(void *owner, const void *bytes, size_t size)
{
    struct stream *s = owner;
    if (s->fail_after && s->used + size > s->fail_after)
        return -EPIPE;
    if (!s->bytes || s->used + size > s->room) {
        s->room = (s->used + size) * 2;
        s->bytes = realloc(s->bytes, s->room);
        assert_non_null(s->bytes);
    }
    memcpy(s->bytes + s->used, bytes, size);
    s->used += size;
    return 0;
}

static ssize_t stream_read(void *owner, const void **ret_bytes)
{
    struct stream *s = owner;
    size_t n = s->used - s->at;
    if (s->step && n > s->step)
        n = s->step;
    *ret_bytes = s->bytes + s->at;
    s->at += n;
    return (ssize_t)n;
}

static void stream_skip(void *owner, const char *name, const char *why)
{
    struct stream *s = owner;
    assert_non_null(why);
    s->skipped++;
    (void)snprintf(s->skipped_name, sizeof s->skipped_name, "%s", name);
}

static int remove_tree(const char *path)
{
    pid_t pid = fork();
    if (pid == 0) {
        (void)execl("/bin/rm", "rm", "-rf", "--", path, NULL);
        _exit(127);
    }
    int status;
    return waitpid(pid, &status, 0) == pid && status == 0 ? 0 : -1;
}

static int enter_temp(void **state)
{
    char *path = strdup("/tmp/bg-tree-XXXXXX");
    if (!path || !mkdtemp(path) || chdir(path) < 0)
        return -1;
    *state = path;
    return 0;
}

static int leave_temp(void **state)
{
    char *path = *state;
    int r = chdir("/") < 0 ? -1 : remove_tree(path);
    free(path);
    return r;
}

static void make_file(const char *path, const char *text, mode_t mode)
{
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(bg_write_full(fd, text, strlen(text)), 0);
    assert_int_equal(fchmod(fd, mode), 0);
}

static void expect_file(const char *path, const char *text)
{
    struct bg_err err = {0};
    BG_AUTOFREE char *bytes = NULL;
    size_t size;
    assert_int_equal(bg_read_file(AT_FDCWD, path, 1 << 20, &bytes, &size, &err), 0);
    assert_string_equal(bytes, text);
}

static void set_mtime(const char *path, time_t sec, long nsec)
{
    struct timespec t[2] = {{.tv_sec = sec, .tv_nsec = nsec}, {.tv_sec = sec, .tv_nsec = nsec}};
    assert_int_equal(utimensat(AT_FDCWD, path, t, AT_SYMLINK_NOFOLLOW), 0);
}

static int pack(struct stream *s, const char *path, const char *root, struct bg_err *err)
{
    struct tree_tar_pack_opts opts = {.dir_fd = AT_FDCWD,
                                      .path = path,
                                      .root = root,
                                      .write = stream_write,
                                      .on_skip = stream_skip,
                                      .owner = s};
    return tree_tar_pack(&opts, NULL, err);
}

static int unpack(struct stream *s, const char *path, const char *root, struct bg_err *err)
{
    struct tree_tar_unpack_opts opts = {.dir_fd = AT_FDCWD,
                                        .path = path,
                                        .root = root,
                                        .read = stream_read,
                                        .on_skip = stream_skip,
                                        .owner = s};
    s->at = 0;
    return tree_tar_unpack(&opts, NULL, err);
}

static void make_tree(void)
{
    assert_int_equal(mkdir("src", 0755), 0);
    assert_int_equal(mkdir("src/sub", 0755), 0);
    make_file("src/plain", "hello", 0640);
    make_file("src/sub/run", "#!/bin/sh\n", 0755);
    make_file("src/empty", "", 0600);
    make_file("src/\xff\xfe caf\xc3\xa9", "bytes", 0644);
    make_file("src/setid", "x", 0644);
    assert_int_equal(chmod("src/setid", 06755), 0);
    assert_int_equal(link("src/plain", "src/sub/linked"), 0);
    assert_int_equal(symlink("../else\xffwhere", "src/sub/sym"), 0);
    char deep[300] = "src/";
    memset(deep + 4, 'n', 200);
    make_file(deep, "long name", 0644);
    set_mtime("src/plain", 1234567890, 123456789);
    set_mtime("src/sub/sym", 1111111111, 5);
    assert_int_equal(chmod("src/sub", 0555), 0);
    set_mtime("src/sub", 1000000000, 42);
    set_mtime("src", 1000000001, 0);
}

static void expect_tree(const char *top)
{
    assert_int_equal(chdir(top), 0);
    struct stat a, b;
    expect_file("plain", "hello");
    expect_file("sub/run", "#!/bin/sh\n");
    expect_file("empty", "");
    expect_file("\xff\xfe caf\xc3\xa9", "bytes");
    char deep[201] = "";
    memset(deep, 'n', 200);
    expect_file(deep, "long name");
    assert_int_equal(stat("plain", &a), 0);
    assert_int_equal(stat("sub/linked", &b), 0);
    assert_int_equal(a.st_ino, b.st_ino);
    assert_int_equal(a.st_mode & 07777, 0640);
    assert_int_equal(a.st_mtim.tv_sec, 1234567890);
    assert_int_equal(a.st_mtim.tv_nsec, 123456789);
    assert_int_equal(stat("setid", &a), 0);
    assert_int_equal(a.st_mode & 07777, 0755);
    assert_int_equal(stat("sub", &a), 0);
    assert_int_equal(a.st_mode & 07777, 0555);
    assert_int_equal(a.st_mtim.tv_sec, 1000000000);
    assert_int_equal(a.st_mtim.tv_nsec, 42);
    char target[64] = "";
    assert_true(readlink("sub/sym", target, sizeof target - 1) > 0);
    assert_string_equal(target, "../else\xffwhere");
    assert_int_equal(lstat("sub/sym", &a), 0);
    assert_int_equal(a.st_mtim.tv_sec, 1111111111);
    assert_int_equal(stat(".", &a), 0);
    assert_int_equal(a.st_mtim.tv_sec, 1000000001);
    assert_int_equal(chdir(strchr(top, '/') ? "../.." : ".."), 0);
}

static void round_trip_keeps_what_it_should(void **state)
{
    (void)state;
    make_tree();
    struct stream s = {0};
    struct bg_err err = {0};
    assert_int_equal(pack(&s, "src", "src", &err), 0);
    for (size_t step = 1; step < 100000; step = step * 7 + 1) { /* any cut of the stream */
        s.step = step;
        char name[32];
        (void)snprintf(name, sizeof name, "copy%zu", step);
        assert_int_equal(unpack(&s, name, "src", &err), 0);
        expect_tree(name);
    }
    free(s.bytes);
}

static void lands_in_a_folder_or_becomes_the_path(void **state)
{
    (void)state;
    make_tree();
    struct stream s = {0}, f = {0};
    struct bg_err err = {0};
    assert_int_equal(pack(&s, "src", "src", &err), 0);
    assert_int_equal(mkdir("there", 0700), 0);
    assert_int_equal(unpack(&s, "there", "src", &err), 0);
    expect_tree("there/src");
    assert_int_equal(unpack(&s, "below", NULL, &err), 0);
    expect_tree("below/src");

    assert_int_equal(pack(&f, "src/plain", "plain", &err), 0);
    assert_int_equal(unpack(&f, "there", "plain", &err), 0);
    expect_file("there/plain", "hello");
    assert_int_equal(unpack(&f, "there/", "plain", &err), 0);
    make_file("old", "old text that is longer", 0600);
    assert_int_equal(unpack(&f, "old", "plain", &err), 0);
    expect_file("old", "hello");
    assert_int_equal(unpack(&f, "missing/x", "plain", &err), -ENOENT);
    assert_non_null(strstr(err.text, "missing"));
    assert_int_equal(unpack(&f, "missing/", "plain", &err), -ENOENT);
    assert_int_equal(unpack(&s, "old", "src", &err), -ENOTDIR);
    assert_int_equal(unpack(&f, "old", "other", &err), -EPROTO);
    expect_file("old", "hello");
    free(s.bytes);
    free(f.bytes);
}

static void dot_root_spreads_into_the_folder(void **state)
{
    (void)state;
    make_tree();
    struct stream s = {0};
    struct bg_err err = {0};
    assert_int_equal(pack(&s, "src", ".", &err), 0);
    assert_int_equal(mkdir("there", 0700), 0);
    assert_int_equal(unpack(&s, "there", ".", &err), 0);
    expect_file("there/plain", "hello");
    struct stat st;
    assert_int_equal(stat("there", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700); /* it was there before */
    assert_int_equal(unpack(&s, "nothing", ".", &err), -ENOTDIR);
    free(s.bytes);
}

static void leaves_out_what_is_no_file(void **state)
{
    (void)state;
    assert_int_equal(mkdir("src", 0700), 0);
    assert_int_equal(mkfifo("src/fifo", 0600), 0);
    struct stream s = {0};
    struct bg_err err = {0};
    assert_int_equal(pack(&s, "src", "src", &err), 0);
    assert_int_equal(s.skipped, 1);
    assert_string_equal(s.skipped_name, "src/fifo");
    free(s.bytes);
    s = (struct stream){0};
    assert_int_equal(pack(&s, "src/fifo", "fifo", &err), -EINVAL);
    free(s.bytes);
}

static void says_which_path_failed(void **state)
{
    (void)state;
    struct stream s = {.fail_after = 700};
    struct bg_err err = {0};
    assert_int_equal(pack(&s, "nowhere", "x", &err), -ENOENT);
    assert_non_null(strstr(err.text, "nowhere"));
    make_file("big", "0123456789", 0600);
    assert_int_equal(truncate("big", 1 << 20), 0);
    assert_int_equal(pack(&s, "big", "big", &err), -EPIPE);
    assert_string_equal(err.text, "stream");
    free(s.bytes);
    s = (struct stream){0};
    assert_int_equal(pack(&s, "big", "big", &err), 0);
    free(s.bytes);
}

/* ---- streams that our packer would not make ---- */

struct raw_entry {
    const char *name;
    char type;
    const char *link;
    const char *data;
    unsigned mode;
};

static void put_octal(uint8_t *out, size_t digits, size_t value)
{
    for (; digits > 0; digits--, value /= 8)
        out[digits - 1] = (uint8_t)('0' + value % 8);
}

static void add_raw(struct stream *s, const struct raw_entry *e)
{
    uint8_t h[512] = {0};
    size_t size = e->data ? strlen(e->data) : 0;
    memcpy(h, e->name, strlen(e->name));
    put_octal(h + 100, 7, e->mode ? e->mode : 0644);
    memcpy(h + 108, "0000000", 8);
    memcpy(h + 116, "0000000", 8);
    put_octal(h + 124, 11, size);
    memcpy(h + 136, "00000000000", 12);
    h[156] = (uint8_t)e->type;
    if (e->link)
        (void)memccpy(h + 157, e->link, 0, 100);
    static const uint8_t magic[] = {'u', 's', 't', 'a', 'r', 0, '0', '0'};
    memcpy(h + 257, magic, sizeof magic);
    memset(h + 148, ' ', 8);
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof h; i++)
        sum += h[i];
    put_octal(h + 148, 6, sum);
    assert_int_equal(stream_write(s, h, sizeof h), 0);
    if (size > 0) {
        uint8_t block[512] = {0};
        assert_true(size <= sizeof block);
        memcpy(block, e->data, size);
        assert_int_equal(stream_write(s, block, sizeof block), 0);
    }
}

static int unpack_raw(const struct raw_entry *entries, size_t count, const char *path,
                      const char *root, struct bg_err *err)
{
    struct stream s = {0};
    for (size_t i = 0; i < count; i++)
        add_raw(&s, &entries[i]);
    uint8_t end[1024] = {0};
    assert_int_equal(stream_write(&s, end, sizeof end), 0);
    int r = unpack(&s, path, root, err);
    free(s.bytes);
    return r;
}

#define UNPACK_RAW(path, root, err, ...)                                                           \
    unpack_raw((const struct raw_entry[]){__VA_ARGS__},                                            \
               sizeof((const struct raw_entry[]){__VA_ARGS__}) / sizeof(struct raw_entry), path,   \
               root, err)

static void stays_below_the_destination(void **state)
{
    (void)state;
    struct bg_err err = {0};
    assert_int_equal(mkdir("dest", 0755), 0);
    assert_int_equal(mkdir("outside", 0755), 0);
    make_file("outside/victim", "safe", 0644);
    static const char *const names[] = {"/abs", "../up", "a/../../up", "..", "a/..", "./../x"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(
            UNPACK_RAW("dest", NULL, &err, {.name = names[i], .type = '0', .data = "x"}), -EPROTO);
    /* Through a symlink of the stream, and through one that was there. */
    assert_int_equal(UNPACK_RAW("dest", NULL, &err,
                                {.name = "l", .type = '2', .link = "../outside"},
                                {.name = "l/victim", .type = '0', .data = "gone"}),
                     -ELOOP);
    assert_non_null(strstr(err.text, "symbolic link"));
    assert_int_equal(UNPACK_RAW("dest", NULL, &err, {.name = "l/new", .type = '5'}), -ELOOP);
    /* A file where a symlink is replaces the link itself. */
    assert_int_equal(symlink("../outside/victim", "dest/v"), 0);
    assert_int_equal(UNPACK_RAW("dest", NULL, &err, {.name = "v", .type = '0', .data = "mine"}), 0);
    expect_file("dest/v", "mine");
    /* A hard link to something outside. */
    assert_int_equal(
        UNPACK_RAW("dest", NULL, &err, {.name = "h", .type = '1', .link = "../outside/victim"}),
        -EPROTO);
    assert_int_equal(UNPACK_RAW("dest", NULL, &err, {.name = "h", .type = '1', .link = "l/victim"}),
                     -ELOOP);
    /* A hard link to a symlink, then a file of that name: the link is replaced, not followed. */
    assert_int_equal(UNPACK_RAW("dest", NULL, &err, {.name = "h", .type = '1', .link = "l"},
                                {.name = "h", .type = '0', .data = "mine"}),
                     0);
    expect_file("dest/h", "mine");
    expect_file("outside/victim", "safe");
    struct stat st;
    assert_int_equal(lstat("outside/new", &st), -1);
}

static void makes_no_devices_and_no_set_id(void **state)
{
    (void)state;
    struct bg_err err = {0};
    assert_int_equal(UNPACK_RAW("dest", NULL, &err, {.name = "d", .type = '3'},
                                {.name = "f", .type = '6'},
                                {.name = "s", .type = '0', .data = "x", .mode = 06755},
                                {.name = "sd", .type = '5', .mode = 06777}),
                     0);
    struct stat st;
    assert_int_equal(lstat("dest/d", &st), -1);
    assert_int_equal(lstat("dest/f", &st), -1);
    assert_int_equal(lstat("dest/s", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
    assert_int_equal(lstat("dest/sd", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0777);
}

static void folders_and_files_do_not_replace_each_other(void **state)
{
    (void)state;
    struct bg_err err = {0};
    assert_int_equal(mkdir("dest", 0755), 0);
    assert_int_equal(mkdir("dest/folder", 0755), 0);
    make_file("dest/file", "text", 0600);
    assert_int_equal(UNPACK_RAW("dest", NULL, &err, {.name = "folder", .type = '0', .data = "x"}),
                     -EISDIR);
    assert_int_equal(UNPACK_RAW("dest", NULL, &err, {.name = "folder", .type = '2', .link = "x"}),
                     -EISDIR);
    assert_int_equal(UNPACK_RAW("dest", NULL, &err, {.name = "file", .type = '5'}), -ENOTDIR);
    assert_int_equal(UNPACK_RAW("dest", NULL, &err, {.name = "file/x", .type = '0', .data = "x"}),
                     -ENOTDIR);
    expect_file("dest/file", "text");
}

static void makes_parents_that_the_stream_does_not_name(void **state)
{
    (void)state;
    struct bg_err err = {0};
    assert_int_equal(UNPACK_RAW("dest", NULL, &err, {.name = "a/b/c", .type = '0', .data = "deep"},
                                {.name = "./a//b/./d", .type = '0', .data = "odd"}),
                     0);
    expect_file("dest/a/b/c", "deep");
    expect_file("dest/a/b/d", "odd");
}

static void a_cut_stream_leaves_the_old_file(void **state)
{
    (void)state;
    struct bg_err err = {0};
    make_file("new", "0123456789", 0600);
    assert_int_equal(truncate("new", 100000), 0);
    struct stream s = {0};
    assert_int_equal(pack(&s, "new", "new", &err), 0);
    make_file("old", "kept", 0600);
    size_t whole = s.used;
    for (s.used = 0; s.used < 100000; s.used += 777)
        assert_int_equal(unpack(&s, "old", "new", &err), -EPROTO);
    expect_file("old", "kept");
    s.used = whole;
    s.bytes[0] ^= 1; /* the first header's checksum is off */
    assert_int_equal(unpack(&s, "old", "new", &err), -EPROTO);
    expect_file("old", "kept");
    free(s.bytes);
}

static void takes_other_programs_tars(void **state)
{
    (void)state;
    make_tree();
    struct bg_err err = {0};
    static const char *const formats[] = {"--format=gnu", "--format=pax"};
    for (size_t i = 0; i < 2; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            (void)execlp("tar", "tar", formats[i], "-cf", "x.tar", "src", NULL);
            _exit(127);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (status != 0)
            skip();
        struct stream s = {.step = 10000};
        size_t size;
        char *bytes;
        assert_int_equal(bg_read_file(AT_FDCWD, "x.tar", 1 << 20, &bytes, &size, &err), 0);
        assert_int_equal(stream_write(&s, bytes, size), 0);
        free(bytes);
        char name[16];
        (void)snprintf(name, sizeof name, "copy%zu", i);
        assert_int_equal(unpack(&s, name, NULL, &err), 0);
        assert_int_equal(chdir(name), 0);
        expect_file("src/\xff\xfe caf\xc3\xa9", "bytes");
        expect_file("src/sub/linked", "hello");
        assert_int_equal(chdir(".."), 0);
        free(s.bytes);
    }
}

static void full_disk_is_named(void **state)
{
    (void)state;
    /* Past RLIMIT_FSIZE a write fails with EFBIG: the path has to be in the text. */
    make_file("src", "x", 0600);
    assert_int_equal(truncate("src", 1 << 20), 0);
    struct stream s = {0};
    struct bg_err err = {0};
    assert_int_equal(pack(&s, "src", "src", &err), 0);
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 4096;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int r = unpack(&s, "copy", "src", &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(r, -EFBIG);
    assert_non_null(strstr(err.text, "copy"));
    assert_int_equal(access("copy", F_OK), -1);
    free(s.bytes);
}

int main(void)
{
#define IN_TEMP(f) cmocka_unit_test_setup_teardown(f, enter_temp, leave_temp)
    const struct CMUnitTest tests[] = {
        IN_TEMP(round_trip_keeps_what_it_should),
        IN_TEMP(lands_in_a_folder_or_becomes_the_path),
        IN_TEMP(dot_root_spreads_into_the_folder),
        IN_TEMP(leaves_out_what_is_no_file),
        IN_TEMP(says_which_path_failed),
        IN_TEMP(stays_below_the_destination),
        IN_TEMP(makes_no_devices_and_no_set_id),
        IN_TEMP(folders_and_files_do_not_replace_each_other),
        IN_TEMP(makes_parents_that_the_stream_does_not_name),
        IN_TEMP(a_cut_stream_leaves_the_old_file),
        IN_TEMP(takes_other_programs_tars),
        IN_TEMP(full_disk_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
