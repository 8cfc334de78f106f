#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/state/audit_files.h"

struct fixture {
    char dir[64];
    int fd;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/bg-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(f->fd >= 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char name[BG_AUDIT_NAME_SIZE];
    for (unsigned i = 0; i < BG_AUDIT_FILES_MAX + 1; i++) {
        bg_audit_name(i, name);
        (void)unlinkat(f->fd, name, 0);
    }
    (void)close(f->fd);
    assert_int_equal(rmdir(f->dir), 0); /* nothing else was left in it */
    free(f);
    return 0;
}

/* The text of all files from the oldest on; static. */
static const char *all(const struct fixture *f)
{
    static char text[256];
    int fds[BG_AUDIT_FILES_MAX];
    size_t count, used = 0;
    struct bg_err err;
    assert_int_equal(bg_audit_open_all(f->fd, fds, &count, &err), 0);
    for (size_t i = 0; i < count; i++) {
        ssize_t n = read(fds[i], text + used, sizeof text - 1 - used);
        assert_true(n >= 0);
        used += (size_t)n;
        (void)close(fds[i]);
    }
    text[used] = '\0';
    return text;
}

static void write_to(int fd, const char *text)
{
    assert_int_equal(bg_write_full(fd, text, strlen(text)), 0);
}

/* Opens with a limit of four bytes, and writes. */
static void put(const struct fixture *f, const char *text)
{
    int fd;
    struct bg_err err;
    assert_int_equal(bg_audit_open(f->fd, 4, &fd, &err), 0);
    write_to(fd, text);
    (void)close(fd);
}

static void turns_full_files_over(void **state)
{
    const struct fixture *f = *state;
    struct stat st;
    put(f, "1--");
    put(f, "1"); /* not yet full */
    assert_string_equal(all(f), "1--1");
    put(f, "2--2");
    put(f, "3--3-");
    assert_string_equal(all(f), "1--12--23--3-");
    put(f, "4--4");
    assert_string_equal(all(f), "1--12--23--3-4--4");
    put(f, "5--5"); /* the oldest goes */
    assert_string_equal(all(f), "2--23--3-4--45--5");
    assert_int_equal(fstatat(f->fd, BG_AUDIT_FILE, &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    char name[BG_AUDIT_NAME_SIZE];
    bg_audit_name(BG_AUDIT_FILES_MAX, name);
    assert_int_equal(faccessat(f->fd, name, F_OK, 0), -1);
}

static void goes_on_where_a_launcher_died(void **state)
{
    const struct fixture *f = *state;
    put(f, "1--1");
    put(f, "2--2");
    /* Both names already, and a new file that has none yet. */
    assert_int_equal(renameat(f->fd, "audit.ndjson.1", f->fd, "audit.ndjson.2"), 0);
    assert_int_equal(linkat(f->fd, BG_AUDIT_FILE, f->fd, "audit.ndjson.1", 0), 0);
    int fd = openat(f->fd, "audit.ndjson.new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    write_to(fd, "left");
    (void)close(fd);
    assert_string_equal(all(f), "1--12--2");
    put(f, "3--3");
    assert_string_equal(all(f), "1--12--23--3");
    assert_int_equal(faccessat(f->fd, "audit.ndjson.3", F_OK, 0), -1);
}

/* A reader that has opened some of them meets the rest under other names; here all it can meet. */
static void misses_nothing_that_is_turned_over(void **state)
{
    const struct fixture *f = *state;
    put(f, "1--1");
    put(f, "2--2");
    assert_int_equal(linkat(f->fd, "audit.ndjson.1", f->fd, "audit.ndjson.2", 0), 0);
    assert_string_equal(all(f), "1--12--2");
}

static void refuses_what_is_no_file(void **state)
{
    const struct fixture *f = *state;
    int fd, fds[BG_AUDIT_FILES_MAX];
    size_t count;
    struct bg_err err;
    assert_int_equal(symlinkat("/etc/passwd", f->fd, BG_AUDIT_FILE), 0);
    assert_int_equal(bg_audit_open(f->fd, 4, &fd, &err), -ELOOP);
    assert_int_equal(bg_audit_open_all(f->fd, fds, &count, &err), -ELOOP);
    assert_non_null(strstr(err.text, BG_AUDIT_FILE));
}

static void answers_the_proxy(void **state)
{
    const struct fixture *f = *state;
    int pair[2], fds[BG_RECV_FDS_MAX];
    size_t count;
    char byte;
    struct bg_err err;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
                     0);
    put(f, "1--1");
    assert_int_equal(bg_audit_answer(pair[0], f->fd, 4, &err), 0); /* nothing was asked */
    assert_int_equal(send(pair[1], "a", 1, 0), 1);
    assert_int_equal(bg_audit_answer(pair[0], f->fd, 4, &err), 0);
    assert_int_equal(bg_recv_fds(pair[1], &byte, 1, fds, &count), 1);
    assert_int_equal(count, 1);
    write_to(fds[0], "2--2");
    (void)close(fds[0]);
    assert_string_equal(all(f), "1--12--2");

    /* It cannot be turned over: told, and the proxy stays with the one that it has. */
    assert_int_equal(mkdirat(f->fd, "audit.ndjson.new", 0700), 0);
    assert_int_equal(send(pair[1], "a", 1, 0), 1);
    assert_int_equal(bg_audit_answer(pair[0], f->fd, 4, &err), -EISDIR);
    assert_int_equal(bg_recv_fds(pair[1], &byte, 1, fds, &count), 1);
    assert_int_equal(count, 0);
    assert_int_equal(unlinkat(f->fd, "audit.ndjson.new", AT_REMOVEDIR), 0);
    assert_string_equal(all(f), "1--12--2");

    /* One that asks and asks and reads nothing holds nobody up. */
    int r = 0;
    for (int i = 0; i < 100000 && r == 0; i++) {
        assert_int_equal(send(pair[1], "a", 1, 0), 1);
        r = bg_audit_answer(pair[0], f->fd, 1000, &err);
    }
    assert_int_equal(r, -EAGAIN);
    (void)close(pair[1]);
    while (r != -ENOTCONN)
        r = bg_audit_answer(pair[0], f->fd, 1000, &err);
    (void)close(pair[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(turns_full_files_over, setup, teardown),
        cmocka_unit_test_setup_teardown(goes_on_where_a_launcher_died, setup, teardown),
        cmocka_unit_test_setup_teardown(misses_nothing_that_is_turned_over, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_what_is_no_file, setup, teardown),
        cmocka_unit_test_setup_teardown(answers_the_proxy, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
