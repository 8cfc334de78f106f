#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/file_ops.h"

/* A stream's worker, called as its loop does; the process stands in a folder of the test's own. */
struct fixture {
    struct file_ops ops;
    char folder[32];
    uint8_t call[BG_FRAME_SIZE_MAX];
    struct bg_writer w; /* over call */
    uint8_t answer[BG_FRAME_SIZE_MAX];
    size_t answer_size;
    size_t answers;      /* to the last call */
    struct bg_reader in; /* the last one, behind its head */
    char names[4096];    /* of a list: "T:NAME " each */
};

static int take_answer(void *owner, const uint8_t *bytes, size_t size)
{
    struct fixture *f = owner;
    f->answers++;
    memcpy(f->answer, bytes, size);
    f->answer_size = size;
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_files_answer answer;
    assert_int_equal(bg_files_answer_parse(&in, &answer, NULL), 0);
    while (answer.more && in.left > 0) {
        uint8_t type;
        char name[BG_NAME_MAX + 1];
        assert_true(bg_files_entry_parse(&in, &type, name));
        size_t used = strlen(f->names);
        (void)snprintf(f->names + used, sizeof f->names - used, "%o:%s ", type, name);
    }
    return 0;
}

static struct bg_writer *begin(struct fixture *f, enum bg_files_op op)
{
    f->w = bg_writer_init(f->call, sizeof f->call);
    bg_writer_u8(&f->w, (uint8_t)op);
    return &f->w;
}

/* Makes the call that was begun; its status. */
static int end(struct fixture *f)
{
    struct bg_files_answer answer = {0};
    f->answers = 0;
    f->names[0] = '\0';
    assert_true(bg_writer_ok(&f->w));
    int r = file_ops_call(&f->ops, f->call, f->w.used, NULL);
    if (r < 0) {
        assert_int_equal(f->answers, 0);
        return r;
    }
    f->in = bg_reader_init(f->answer, f->answer_size);
    assert_int_equal(bg_files_answer_parse(&f->in, &answer, NULL), 0);
    assert_false(answer.more);
    return answer.status;
}

static int call_path(struct fixture *f, enum bg_files_op op, const char *path)
{
    bg_writer_text32le(begin(f, op), path);
    return end(f);
}

static int call_flag(struct fixture *f, enum bg_files_op op, uint8_t flag, const char *path)
{
    bg_writer_u8(begin(f, op), flag);
    bg_writer_text32le(&f->w, path);
    return end(f);
}

static int call_names(struct fixture *f, enum bg_files_op op, const char *a, const char *b)
{
    bg_writer_text32le(begin(f, op), a);
    bg_writer_text32le(&f->w, b);
    return end(f);
}

static int make_folder(struct fixture *f, bool recursive, uint32_t mode, const char *path)
{
    bg_writer_u8(begin(f, BG_FILES_MKDIR), recursive);
    bg_writer_u32le(&f->w, mode);
    bg_writer_text32le(&f->w, path);
    return end(f);
}

static int open_at(struct fixture *f, uint32_t flags, uint32_t mode, const char *path)
{
    bg_writer_u32le(begin(f, BG_FILES_OPEN), flags);
    bg_writer_u32le(&f->w, mode);
    bg_writer_text32le(&f->w, path);
    return end(f);
}

static void shut(struct fixture *f)
{
    if (f->ops.fd >= 0)
        (void)close(f->ops.fd);
    f->ops.fd = -1;
}

static int put(struct fixture *f, const char *text)
{
    bg_writer_blob32le(begin(f, BG_FILES_WRITE), text, strlen(text));
    return end(f);
}

static const char *get(struct fixture *f, uint32_t want)
{
    static char text[256];
    size_t size;
    bg_writer_u32le(begin(f, BG_FILES_READ), want);
    assert_int_equal(end(f), 0);
    const uint8_t *bytes = bg_reader_blob32le(&f->in, BG_FILES_DATA_MAX, &size);
    assert_true(bg_reader_end(&f->in) && size < sizeof text);
    memcpy(text, bytes, size);
    text[size] = '\0';
    return text;
}

static const char *blob(struct fixture *f)
{
    static char text[BG_PATH_MAX];
    bg_reader_text32le(&f->in, text, sizeof text);
    assert_true(bg_reader_end(&f->in));
    return text;
}

static struct bg_files_attributes attributes(struct fixture *f, const char *path, bool follow)
{
    assert_int_equal(call_flag(f, BG_FILES_STAT, follow, path), 0);
    struct bg_files_attributes a = bg_files_attributes_parse(&f->in);
    assert_true(bg_reader_end(&f->in));
    return a;
}

static void make_file(struct fixture *f, const char *path, const char *text)
{
    assert_int_equal(
        open_at(f, BG_FILES_OPEN_WRITE | BG_FILES_OPEN_CREATE | BG_FILES_OPEN_TRUNCATE, 0666, path),
        0);
    assert_int_equal(put(f, text), 0);
    assert_int_equal(bg_reader_u32le(&f->in), strlen(text));
    shut(f);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->ops = (struct file_ops){.fd = -1, .answer = take_answer, .owner = f};
    (void)snprintf(f->folder, sizeof f->folder, "/tmp/bg-files-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    assert_int_equal(chdir(f->folder), 0);
    (void)umask(022);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    shut(f);
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(call_flag(f, BG_FILES_REMOVE, 1, f->folder), 0);
    assert_int_equal(access(f->folder, F_OK), -1);
    free(f);
    return 0;
}

static void files_are_made_read_and_described(void **state)
{
    struct fixture *f = *state;
    make_file(f, "a", "hello");
    assert_int_equal(open_at(f, BG_FILES_OPEN_READ, 0, "a"), 0);
    assert_string_equal(get(f, 3), "hel");
    assert_string_equal(get(f, 100), "lo");
    assert_string_equal(get(f, 100), "");
    assert_int_equal(open_at(f, BG_FILES_OPEN_READ, 0, "a"), -EMFILE);
    assert_int_equal(put(f, "x"), -EBADF);
    shut(f);
    struct bg_files_attributes a = attributes(f, "a", true);
    assert_int_equal(a.mode, S_IFREG | 0644);
    assert_int_equal(a.size, 5);
    assert_int_equal(a.nlink, 1);
    assert_int_equal(a.uid, geteuid());
    assert_true(a.mtime_ns > 1000000000ll * 1000000000);
    assert_int_equal(call_flag(f, BG_FILES_STAT, 1, "b"), -ENOENT);
    assert_int_equal(open_at(f, BG_FILES_OPEN_READ, 0, "b"), -ENOENT);
    assert_int_equal(
        open_at(f, BG_FILES_OPEN_WRITE | BG_FILES_OPEN_CREATE | BG_FILES_OPEN_EXCLUSIVE, 0666, "a"),
        -EEXIST);
    assert_int_equal(open_at(f, BG_FILES_OPEN_APPEND | BG_FILES_OPEN_SET_MODE, 0600, "a"), 0);
    assert_int_equal(put(f, "!"), 0);
    shut(f);
    a = attributes(f, "a", true);
    assert_int_equal(a.mode, S_IFREG | 0600);
    assert_int_equal(a.size, 6);
}

static void an_open_file_has_a_place_and_a_size(void **state)
{
    struct fixture *f = *state;
    make_file(f, "a", "0123456789");
    assert_int_equal(open_at(f, BG_FILES_OPEN_READ | BG_FILES_OPEN_WRITE, 0, "a"), 0);
    bg_writer_u64le(begin(f, BG_FILES_SEEK), (uint64_t)-4);
    bg_writer_u8(&f->w, 2);
    assert_int_equal(end(f), 0);
    assert_int_equal(bg_reader_u64le(&f->in), 6);
    assert_string_equal(get(f, 2), "67");
    bg_writer_u64le(begin(f, BG_FILES_SEEK), (uint64_t)-20);
    bg_writer_u8(&f->w, 1);
    assert_int_equal(end(f), -EINVAL);
    bg_writer_u64le(begin(f, BG_FILES_SEEK), 0);
    bg_writer_u8(&f->w, 3);
    assert_int_equal(end(f), -EINVAL);
    bg_writer_u64le(begin(f, BG_FILES_RESIZE), 4);
    assert_int_equal(end(f), 0);
    bg_writer_u8(begin(f, BG_FILES_SYNC), 0);
    assert_int_equal(end(f), 0);
    bg_writer_u8(begin(f, BG_FILES_SYNC), 1);
    assert_int_equal(end(f), 0);
    for (uint8_t how = 0; how < 3; how++) {
        bg_writer_u8(begin(f, BG_FILES_LOCK), how);
        assert_int_equal(end(f), 0);
    }
    bg_writer_u8(begin(f, BG_FILES_LOCK), 3);
    assert_int_equal(end(f), -EINVAL);
    bg_writer_u64le(begin(f, BG_FILES_SET_TIME), 5500000000);
    bg_writer_u64le(&f->w, (uint64_t)-1500000000);
    assert_int_equal(end(f), 0);
    (void)begin(f, BG_FILES_FSTAT);
    assert_int_equal(end(f), 0);
    struct bg_files_attributes a = bg_files_attributes_parse(&f->in);
    assert_int_equal(a.size, 4);
    assert_int_equal(a.atime_ns, 5500000000);
    assert_int_equal(a.mtime_ns, -1500000000);
    shut(f);
    (void)begin(f, BG_FILES_FSTAT);
    assert_int_equal(end(f), -EBADF);
}

static void folders_are_made_listed_and_removed(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(make_folder(f, false, 0777, "d/e/f"), -ENOENT);
    assert_int_equal(make_folder(f, true, 0777, "d/e/f"), 0);
    assert_int_equal(make_folder(f, true, 0777, "d/e/f"), 0);
    assert_int_equal(make_folder(f, true, 0777, "/"), 0);
    assert_int_equal(make_folder(f, false, 0700, "d"), -EEXIST);
    make_file(f, "d/file", "");
    assert_int_equal(make_folder(f, true, 0777, "d/file"), -EEXIST);
    assert_int_equal(make_folder(f, true, 0777, "d/file/x"), -ENOTDIR);
    assert_int_equal(call_names(f, BG_FILES_SYMLINK, "/nowhere", "d/link"), 0);
    assert_int_equal(call_path(f, BG_FILES_LIST, "d"), 0);
    assert_non_null(strstr(f->names, "4:e "));
    assert_non_null(strstr(f->names, "10:file "));
    assert_non_null(strstr(f->names, "12:link "));
    assert_int_equal(strlen(f->names), strlen("4:e 10:file 12:link "));
    assert_int_equal(call_path(f, BG_FILES_LIST, "none"), -ENOENT);
    assert_int_equal(call_path(f, BG_FILES_LIST, "d/file"), -ENOTDIR);
    assert_int_equal(call_flag(f, BG_FILES_REMOVE, 0, "d"), -ENOTEMPTY);
    assert_int_equal(call_flag(f, BG_FILES_REMOVE, 0, "d/link"), 0);
    assert_int_equal(call_flag(f, BG_FILES_REMOVE, 1, "d"), 0);
    assert_int_equal(call_flag(f, BG_FILES_REMOVE, 1, "d"), -ENOENT);
}

/* More entries than one answer holds. */
static void a_large_folder_comes_in_several_answers(void **state)
{
    struct fixture *f = *state;
    char path[300] = "large/";
    assert_int_equal(make_folder(f, false, 0777, "large"), 0);
    for (unsigned i = 0; i < 400; i++) {
        memset(path + 6, 'x', 250);
        (void)snprintf(path + 250, 8, "%u", i);
        assert_int_equal(mknod(path, S_IFREG | 0600, 0), 0);
    }
    size_t more = 0;
    bg_writer_text32le(begin(f, BG_FILES_LIST), "large");
    assert_int_equal(end(f), 0);
    more = f->answers;
    assert_true(more >= 3);
}

static void links_are_made_and_read(void **state)
{
    struct fixture *f = *state;
    make_file(f, "a", "x");
    assert_int_equal(call_names(f, BG_FILES_LINK, "a", "hard"), 0);
    assert_int_equal(attributes(f, "a", true).nlink, 2);
    assert_int_equal(call_names(f, BG_FILES_SYMLINK, "a", "soft"), 0);
    assert_int_equal(attributes(f, "soft", false).mode & S_IFMT, S_IFLNK);
    assert_int_equal(attributes(f, "soft", true).mode & S_IFMT, S_IFREG);
    assert_int_equal(call_path(f, BG_FILES_READLINK, "soft"), 0);
    assert_string_equal(blob(f), "a");
    assert_int_equal(call_path(f, BG_FILES_READLINK, "a"), -EINVAL);
    assert_int_equal(call_path(f, BG_FILES_REALPATH, "soft"), 0);
    const char *real = blob(f);
    assert_string_equal(real + strlen(real) - 2, "/a");
    assert_int_equal(real[0], '/');
    assert_int_equal(call_path(f, BG_FILES_REALPATH, "none"), -ENOENT);
}

static void files_move_copy_and_change(void **state)
{
    struct fixture *f = *state;
    make_file(f, "a", "text");
    assert_int_equal(chmod("a", 0751), 0);
    make_file(f, "b", "longer than that");
    assert_int_equal(call_names(f, BG_FILES_COPY, "a", "b"), 0);
    assert_int_equal(attributes(f, "b", true).mode, S_IFREG | 0751);
    assert_int_equal(attributes(f, "b", true).size, 4);
    assert_int_equal(call_names(f, BG_FILES_COPY, "b", "b"), 0);
    assert_int_equal(attributes(f, "b", true).size, 4);
    assert_int_equal(call_names(f, BG_FILES_COPY, ".", "c"), -EISDIR);
    assert_int_equal(call_names(f, BG_FILES_COPY, "/proc/self/status", "c"), 0);
    assert_true(attributes(f, "c", true).size > 100);
    assert_int_equal(call_names(f, BG_FILES_RENAME, "b", "d"), 0);
    assert_int_equal(call_names(f, BG_FILES_RENAME, "b", "d"), -ENOENT);
    bg_writer_u32le(begin(f, BG_FILES_CHMOD), 0640);
    bg_writer_text32le(&f->w, "d");
    assert_int_equal(end(f), 0);
    assert_int_equal(attributes(f, "d", true).mode, S_IFREG | 0640);
    bg_writer_u32le(begin(f, BG_FILES_CHOWN), UINT32_MAX);
    bg_writer_u32le(&f->w, getegid());
    bg_writer_text32le(&f->w, "d");
    assert_int_equal(end(f), 0);
    bg_writer_u64le(begin(f, BG_FILES_TRUNCATE), 1);
    bg_writer_text32le(&f->w, "d");
    assert_int_equal(end(f), 0);
    assert_int_equal(attributes(f, "d", true).size, 1);
    bg_writer_u64le(begin(f, BG_FILES_TRUNCATE), UINT64_MAX);
    bg_writer_text32le(&f->w, "d");
    assert_int_equal(end(f), -EFBIG);
    bg_writer_u64le(begin(f, BG_FILES_UTIME), 1000000000);
    bg_writer_u64le(&f->w, 2000000000);
    bg_writer_text32le(&f->w, "d");
    assert_int_equal(end(f), 0);
    assert_int_equal(attributes(f, "d", true).mtime_ns, 2000000000);
    bg_writer_u32le(begin(f, BG_FILES_UMASK), 077);
    assert_int_equal(end(f), 0);
    make_file(f, "e", "");
    assert_int_equal(attributes(f, "e", true).mode, S_IFREG | 0600);
}

static void temporary_names_are_new(void **state)
{
    struct fixture *f = *state;
    for (uint8_t is_folder = 0; is_folder < 2; is_folder++) {
        bg_writer_u8(begin(f, BG_FILES_TEMP), is_folder);
        bg_writer_text32le(&f->w, ".");
        bg_writer_text32le(&f->w, "pre-");
        bg_writer_text32le(&f->w, ".suf");
        assert_int_equal(end(f), 0);
        const char *path = blob(f);
        assert_memory_equal(path, "./pre-", 6);
        assert_string_equal(path + strlen(path) - 4, ".suf");
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode, is_folder ? S_IFDIR | 0700 : S_IFREG | 0600);
    }
    bg_writer_u8(begin(f, BG_FILES_TEMP), 0);
    bg_writer_text32le(&f->w, "none");
    bg_writer_text32le(&f->w, "");
    bg_writer_text32le(&f->w, "");
    assert_int_equal(end(f), -ENOENT);
}

/* Every call cut short, and with a byte too many, does nothing. */
static void what_is_malformed_is_refused(void **state)
{
    struct fixture *f = *state;
    make_file(f, "a", "x");
    assert_int_equal(open_at(f, BG_FILES_OPEN_READ, 0, "a"), 0);
    for (unsigned op = 0; op < 256; op++) {
        (void)begin(f, op);
        bg_writer_bytes(&f->w, (uint8_t[64]){[3] = 0xff}, 64);
        assert_int_equal(end(f), -EPROTO);
    }
    f->w.used = 0;
    assert_int_equal(end(f), -EPROTO);
    for (size_t cut = 1; cut < 10; cut++) {
        (void)call_names(f, BG_FILES_RENAME, "a", "b");
        f->w.used -= cut;
        assert_int_equal(end(f), -EPROTO);
        assert_int_equal(call_names(f, BG_FILES_RENAME, "b", "a"), 0);
    }
    bg_writer_blob32le(begin(f, BG_FILES_LIST), "a\0b", 3);
    assert_int_equal(end(f), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_are_made_read_and_described, setup, teardown),
        cmocka_unit_test_setup_teardown(an_open_file_has_a_place_and_a_size, setup, teardown),
        cmocka_unit_test_setup_teardown(folders_are_made_listed_and_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_large_folder_comes_in_several_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(links_are_made_and_read, setup, teardown),
        cmocka_unit_test_setup_teardown(files_move_copy_and_change, setup, teardown),
        cmocka_unit_test_setup_teardown(temporary_names_are_new, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_malformed_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
