#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "common/io.h"

/* An empty folder of this test's own; *state is its fd. */
static char folder[64];

static int make_folder(void **state)
{
    (void)snprintf(folder, sizeof folder, "/tmp/bg-test-io-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    int *fd = malloc(sizeof *fd);
    if (!fd)
        return -1;
    *fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *state = fd;
    return *fd < 0 ? -1 : 0;
}

/* Names in the folder, apart from "." and ".."; removes them when asked. */
static size_t count_entries(int dir_fd, bool and_remove)
{
    size_t count = 0;
    DIR *dir = fdopendir(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        count++;
        if (and_remove)
            (void)unlinkat(dir_fd, e->d_name, strcmp(e->d_name, "sub") == 0 ? AT_REMOVEDIR : 0);
    }
    (void)closedir(dir);
    return count;
}

static int remove_folder(void **state)
{
    int *fd = *state;
    (void)count_entries(*fd, /* and_remove= */ true);
    (void)close(*fd);
    free(fd);
    return rmdir(folder);
}

static void full_reads_and_writes_cross_small_pipe_buffers(void **state)
{
    (void)state;
    enum { SIZE = 300000 };
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        static uint8_t out[SIZE];
        for (size_t i = 0; i < SIZE; i++)
            out[i] = (uint8_t)(i * 7);
        _exit(bg_write_full(fds[1], out, SIZE) == 0 ? 0 : 1);
    }
    (void)close(fds[1]);
    static uint8_t in[SIZE];
    assert_int_equal(bg_read_full(fds[0], in, SIZE), 0);
    for (size_t i = 0; i < SIZE; i++)
        assert_int_equal(in[i], (uint8_t)(i * 7));
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(bg_read_full(fds[0], in, 1), -ENODATA);
    (void)close(fds[0]);
}

static void read_full_says_nodata_in_the_middle(void **state)
{
    (void)state;
    int fds[2];
    char in[4];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(bg_write_full(fds[1], "ab", 2), 0);
    (void)close(fds[1]);
    assert_int_equal(bg_read_full(fds[0], in, sizeof in), -ENODATA);
    (void)close(fds[0]);
    assert_int_equal(bg_read_full(fds[0], in, sizeof in), -EBADF);
    assert_int_equal(bg_write_full(fds[0], "x", 1), -EBADF);
}

static void files_come_back_as_they_were_written(void **state)
{
    int dir = *(int *)*state;
    struct bg_err err = {0};
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 100000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        BG_AUTOFREE char *bytes = malloc(sizes[i] + 1);
        assert_non_null(bytes);
        memset(bytes, (int)i, sizes[i]);
        assert_int_equal(bg_write_file(dir, "f", bytes, sizes[i], 0640, &err), 0);
        BG_AUTOFREE char *back = NULL;
        size_t size = 1;
        assert_int_equal(bg_read_file(dir, "f", sizes[i], &back, &size, &err), 0);
        assert_int_equal(size, sizes[i]);
        assert_memory_equal(back, bytes, size);
        assert_int_equal(back[size], 0);
        assert_int_equal(count_entries(dir, false), 1); /* no temporary file is left */
    }
    struct stat st;
    assert_int_equal(fstatat(dir, "f", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
}

static void size_is_optional_and_maximum_is_kept(void **state)
{
    int dir = *(int *)*state;
    struct bg_err err = {0};
    BG_AUTOFREE char *back = NULL;
    char *untouched = folder;
    assert_int_equal(bg_write_file(dir, "f", "12345", 5, 0600, &err), 0);
    assert_int_equal(bg_read_file(dir, "f", 5, &back, NULL, &err), 0);
    assert_string_equal(back, "12345");
    assert_int_equal(bg_read_file(dir, "f", 4, &untouched, NULL, &err), -EFBIG);
    assert_ptr_equal(untouched, folder);
    assert_non_null(strstr(err.text, "f: larger than 4 bytes"));
}

static void missing_file_is_named(void **state)
{
    int dir = *(int *)*state;
    struct bg_err err = {0};
    char *back = NULL;
    assert_int_equal(bg_read_file(dir, "absent", 10, &back, NULL, &err), -ENOENT);
    assert_non_null(strstr(err.text, "absent"));
    assert_null(back);
}

static void failed_replacement_leaves_the_old_file(void **state)
{
    int dir = *(int *)*state;
    struct bg_err err = {0};
    /* A folder cannot be replaced by a file: rename fails after the temporary was written. */
    assert_int_equal(mkdirat(dir, "sub", 0700), 0);
    assert_int_equal(bg_write_file(dir, "sub", "x", 1, 0600, &err), -EISDIR);
    assert_int_equal(count_entries(dir, false), 1);
    assert_int_equal(bg_write_file(dir, "none/f", "x", 1, 0600, &err), -ENOENT);

    /* A file size limit stands in for a full disk. */
    assert_int_equal(bg_write_file(dir, "f", "old", 3, 0600, &err), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit none = {.rlim_cur = 4, .rlim_max = 4};
        (void)signal(SIGXFSZ, SIG_IGN);
        (void)setrlimit(RLIMIT_FSIZE, &none);
        _exit(bg_write_file(dir, "f", "0123456789", 10, 0600, NULL) == -EFBIG ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    BG_AUTOFREE char *back = NULL;
    assert_int_equal(bg_read_file(dir, "f", 10, &back, NULL, &err), 0);
    assert_string_equal(back, "old");
    assert_int_equal(count_entries(dir, false), 2);
}

static void fds_travel_with_their_message(void **state)
{
    (void)state;
    int pair[2], fds[BG_RECV_FDS_MAX], none[BG_RECV_FDS_MAX], file[2];
    char in[8];
    size_t count = 99;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(pipe2(file, O_CLOEXEC), 0);
    assert_int_equal(bg_send_fd(pair[0], "abc", 3, file[1]), 0);
    assert_int_equal(bg_send_fd(pair[0], "de", 2, -1), 0);
    assert_int_equal(bg_recv_fds(pair[1], in, sizeof in, fds, &count), 3);
    assert_int_equal(count, 1);
    assert_memory_equal(in, "abc", 3);
    assert_true(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
    assert_int_equal(bg_write_full(fds[0], "x", 1), 0);
    assert_int_equal(bg_read_full(file[0], in, 1), 0);
    assert_int_equal(bg_recv_fds(pair[1], in, sizeof in, none, &count), 2);
    assert_int_equal(count, 0);
    (void)close(pair[0]);
    assert_int_equal(bg_recv_fds(pair[1], in, sizeof in, none, &count), 0);
    (void)close(pair[1]);
    (void)close(fds[0]);
    (void)close(file[0]);
    (void)close(file[1]);
}

/* The lowest free descriptor: the same before and after when nothing leaked. */
static int lowest_free_fd(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    (void)close(fd);
    return fd;
}

static void messages_that_do_not_fit_keep_no_fd(void **state)
{
    (void)state;
    int pair[2], fds[BG_RECV_FDS_MAX];
    char in[2];
    size_t count = 99;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    int before = lowest_free_fd();
    assert_int_equal(bg_send_fd(pair[0], "abc", 3, STDERR_FILENO), 0);
    assert_int_equal(bg_recv_fds(pair[1], in, sizeof in, fds, &count), -EMSGSIZE);
    assert_int_equal(count, 99);
    assert_int_equal(lowest_free_fd(), before);

    /* One fd more than the receiver takes. */
    enum { MANY = BG_RECV_FDS_MAX + 1 };
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * MANY)];
    } control = {0};
    char byte = 'x';
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * MANY);
    for (size_t i = 0; i < MANY; i++) {
        int fd = STDERR_FILENO;
        memcpy(CMSG_DATA(c) + i * sizeof fd, &fd, sizeof fd);
    }
    assert_int_equal(sendmsg(pair[0], &msg, MSG_NOSIGNAL), 1);
    assert_int_equal(bg_recv_fds(pair[1], in, sizeof in, fds, &count), -EMSGSIZE);
    assert_int_equal(lowest_free_fd(), before);
    (void)close(pair[0]);
    (void)close(pair[1]);
}

static void sending_to_a_closed_peer_is_an_error_not_a_signal(void **state)
{
    (void)state;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    (void)close(pair[1]);
    assert_int_equal(bg_send_fd(pair[0], "x", 1, -1), -EPIPE);
    (void)close(pair[0]);
}

static void random_bytes_differ_and_hex_is_lowercase(void **state)
{
    (void)state;
    uint8_t a[32] = {0}, b[32] = {0};
    bg_random(a, sizeof a);
    bg_random(b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
    char hex[9];
    bg_hex("\x00\x7f\xab\xff", 4, hex);
    assert_string_equal(hex, "007fabff");
    bg_hex("", 0, hex);
    assert_string_equal(hex, "");
}

static void the_clock_does_not_go_back(void **state)
{
    (void)state;
    uint64_t before = bg_now_ms();
    assert_true(before > 0);
    assert_true(bg_now_ms() >= before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_reads_and_writes_cross_small_pipe_buffers),
        cmocka_unit_test(read_full_says_nodata_in_the_middle),
        cmocka_unit_test_setup_teardown(files_come_back_as_they_were_written, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(size_is_optional_and_maximum_is_kept, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(missing_file_is_named, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(failed_replacement_leaves_the_old_file, make_folder,
                                        remove_folder),
        cmocka_unit_test(fds_travel_with_their_message),
        cmocka_unit_test(messages_that_do_not_fit_keep_no_fd),
        cmocka_unit_test(sending_to_a_closed_peer_is_an_error_not_a_signal),
        cmocka_unit_test(random_bytes_differ_and_hex_is_lowercase),
        cmocka_unit_test(the_clock_does_not_go_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
