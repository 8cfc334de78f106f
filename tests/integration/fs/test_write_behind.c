/* Write-behind through the real mount: what programs wrote is what the server's folder has, and
 * what could not be written is an error of one of their calls. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/integration/fs/mounted.h"

#define WRITERS 4u
#define REGION  (3u << 20) /* of each writer in the file that they share */
#define WRITES  4000u
#define LIMIT   (1u << 20) /* of the full disk */

static uint32_t any(uint64_t *random, uint32_t below)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (uint32_t)(*random >> 16) % below;
}

static int open_at(const char *folder, const char *name, int flags)
{
    char path[256];
    mounted_path(folder, name, path);
    int fd = open(path, flags | O_CLOEXEC, 0644);
    if (fd < 0)
        fail_msg("%s: %s", path, strerror(errno));
    return fd;
}

/* A writer's own part of the file, as it must be in the end: shared memory. */
static uint8_t *part(uint8_t *all, unsigned writer)
{
    return all + (size_t)writer * REGION;
}

/* In a child: writes at random, by and by, reads some of it back. Returns an exit status. */
static int write_at_random(const char *path, unsigned writer, uint8_t *mine)
{
    static uint8_t data[70000];
    uint64_t random = 0x9e3779b97f4a7c15u * (writer + 1), at = 0;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return 2;
    for (unsigned i = 0; i < WRITES; i++) {
        size_t size = 1 + any(&random, any(&random, 20) ? 5000 : sizeof data - 1);
        if (any(&random, 3) == 0) /* else it goes on where it was */
            at = any(&random, REGION);
        if (at + size > REGION)
            at = 0;
        off_t offset = (off_t)((uint64_t)writer * REGION + at);
        if (any(&random, 8) == 0) {
            if (pread(fd, data, size, offset) < 0)
                return 3;
            /* Short where nobody has written yet. */
            for (size_t k = 0; k < size && k < 64; k++)
                if (mine[at + k] != 0 && data[k] != mine[at + k])
                    return 4;
        } else {
            for (size_t k = 0; k < size; k++)
                data[k] = (uint8_t)(1 + any(&random, 255));
            if (pwrite(fd, data, size, offset) != (ssize_t)size)
                return 5;
            memcpy(mine + at, data, size);
            at += size;
        }
        if (any(&random, 500) == 0 && fsync(fd) < 0)
            return 6;
    }
    return close(fd) < 0 ? 7 : 0;
}

static void many_writers_leave_what_they_wrote(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    const size_t size = (size_t)WRITERS * REGION;
    uint8_t *want = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(want != MAP_FAILED);
    char path[256];
    mounted_path(m->mount, "shared", path);
    int fd = open_at(m->mount, "shared", O_RDWR | O_CREAT);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    pid_t writers[WRITERS];
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = fork();
        assert_true(writers[i] >= 0);
        if (writers[i] == 0)
            _exit(write_at_random(path, i, part(want, i)));
    }
    for (unsigned i = 0; i < WRITERS; i++)
        assert_int_equal(mounted_wait(writers[i]), 0);
    assert_int_equal(close(fd), 0);
    int real = open_at(m->source, "shared", O_RDONLY);
    uint8_t *have = mmap(NULL, size, PROT_READ, MAP_SHARED, real, 0);
    assert_true(have != MAP_FAILED);
    assert_memory_equal(have, want, size);
    (void)munmap(have, size);
    (void)munmap(want, size);
    (void)close(real);
    mounted_free(m);
}

static void what_close_and_fsync_return_after_is_there(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    char name[32];
    struct stat st;
    for (unsigned i = 0; i < 300; i++) {
        (void)snprintf(name, sizeof name, "file%u", i);
        int fd = open_at(m->mount, name, O_WRONLY | O_CREAT | O_EXCL);
        for (unsigned k = 0; k <= i % 7; k++)
            assert_int_equal(write(fd, "twelve bytes", 12), 12);
        assert_int_equal(fstat(fd, &st), 0); /* comes after the writes */
        assert_int_equal(st.st_size, (i % 7 + 1) * 12);
        if (i % 2)
            assert_int_equal(fsync(fd), 0);
        else
            assert_int_equal(close(fd), 0);
        int real = open_at(m->source, name, O_RDONLY);
        assert_int_equal(fstat(real, &st), 0);
        assert_int_equal(st.st_size, (i % 7 + 1) * 12);
        (void)close(real);
        if (i % 2)
            assert_int_equal(close(fd), 0);
    }
    mounted_free(m);
}

static void times_that_are_set_after_writing_stay(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    int fd = open_at(m->mount, "old", O_WRONLY | O_CREAT);
    assert_int_equal(write(fd, "old", 3), 3);
    const struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 2000}};
    assert_int_equal(futimens(fd, times), 0);
    assert_int_equal(close(fd), 0);
    struct stat st;
    int real = open_at(m->source, "old", O_RDONLY);
    assert_int_equal(fstat(real, &st), 0);
    assert_int_equal(st.st_mtim.tv_sec, 2000);
    (void)close(real);
    mounted_free(m);
}

/* Writes twice what there is room for. Returns the error of the first call that fails, 0 if none.
 */
static int overfill(int fd, bool syncs)
{
    static const uint8_t data[64 * 1024] = {1};
    int error = 0;
    for (size_t done = 0; done < 2 * (size_t)LIMIT && error == 0; done += sizeof data) {
        ssize_t n = write(fd, data, sizeof data);
        error = n < 0 ? errno : 0;
    }
    if (error == 0 && syncs && fsync(fd) < 0)
        error = errno;
    if (close(fd) < 0 && error == 0)
        error = errno;
    return error;
}

/* What is removed makes room when it is closed, too, which FUSE does after close() has returned. */
static void wait_for_room(const char *disk)
{
    struct statvfs fs;
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(statvfs(disk, &fs), 0);
        if (fs.f_bavail == fs.f_blocks)
            return;
        (void)poll(NULL, 0, 10);
    }
    fail_msg("%s is still not empty", disk);
}

static void a_full_disk_is_an_error_of_write_fsync_or_close(void **state)
{
    (void)state;
    char disk[] = "/var/tmp/bg-full-XXXXXX", options[32];
    assert_non_null(mkdtemp(disk));
    (void)snprintf(options, sizeof options, "size=%u,mode=0755", LIMIT);
    assert_int_equal(mount("full", disk, "tmpfs", 0, options), 0);
    struct mounted_opts opts = mounted_usual();
    opts.source = disk;
    struct mounted *m = mounted_new(&opts);
    for (int syncs = 0; syncs < 2; syncs++) {
        int fd = open_at(m->mount, "full", O_WRONLY | O_CREAT | O_TRUNC);
        int error = overfill(fd, syncs);
        if (error != ENOSPC)
            fail_msg("%s: %s", syncs ? "fsync" : "close", strerror(error));
        char path[256];
        mounted_path(m->mount, "full", path);
        assert_int_equal(unlink(path), 0);
    }
    /* And when there is room, there is no error any more. */
    wait_for_room(disk);
    int fd = open_at(m->mount, "small", O_WRONLY | O_CREAT);
    assert_int_equal(write(fd, "small", 5), 5);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(close(fd), 0);
    mounted_free(m);
    assert_int_equal(umount(disk), 0);
    assert_int_equal(rmdir(disk), 0);
}

static void a_server_that_is_gone_is_an_error_of_fsync_and_close(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    int fd = open_at(m->mount, "lost", O_WRONLY | O_CREAT);
    assert_int_equal(kill(m->server, SIGSTOP), 0); /* so that it cannot be done in time */
    assert_int_equal(write(fd, "lost", 4), 4);
    assert_int_equal(kill(m->server, SIGKILL), 0);
    assert_int_equal(fsync(fd), -1);
    assert_int_equal(errno, EIO);
    (void)close(fd);
    mounted_free(m);
}

static void the_end_of_the_mount_loses_nothing(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    int fd = open_at(m->mount, "last", O_WRONLY | O_CREAT);
    static uint8_t data[3 << 20];
    memset(data, 'x', sizeof data);
    assert_int_equal(write(fd, data, sizeof data), sizeof data);
    assert_int_equal(pwrite(fd, "last", 4, sizeof data), 4);
    assert_int_equal(kill(m->keeper, SIGTERM), 0); /* while the file is open */
    assert_int_equal(mounted_wait(m->keeper), 0);
    assert_int_equal(mounted_wait(m->server), 0);
    struct stat st;
    int real = open_at(m->source, "last", O_RDONLY);
    assert_int_equal(fstat(real, &st), 0);
    assert_int_equal(st.st_size, sizeof data + 4);
    (void)close(real);
    (void)close(fd);
    mounted_remove_all(m->base);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_writers_leave_what_they_wrote),
        cmocka_unit_test(what_close_and_fsync_return_after_is_there),
        cmocka_unit_test(times_that_are_set_after_writing_stay),
        cmocka_unit_test(a_server_that_is_gone_is_an_error_of_fsync_and_close),
        cmocka_unit_test(the_end_of_the_mount_loses_nothing),
    };
    const struct CMUnitTest as_root[] = {
        cmocka_unit_test(a_full_disk_is_an_error_of_write_fsync_or_close),
    };
    mounted_need_fuse();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    const char *required = getenv("BG_TEST_REQUIRE");
    if (geteuid() == 0)
        failed += cmocka_run_group_tests(as_root, NULL, NULL);
    else
        (void)fprintf(stderr, "only root can have a full disk of its own\n");
    if (failed == 0 && geteuid() != 0)
        return required && strstr(required, "root") ? 1 : 77;
    return failed;
}
