/* A disk is opened for a new QEMU only when the one before has let go of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "host/supervisor/source.h"

#define QEMU_PERMISSIONS 100 /* QEMU 7.2, block/file-posix.c: RAW_LOCK_PERM_BASE, then its bits */
#define QEMU_READS       0x01
#define QEMU_WRITES      0x02

/* As `qemu-img create -f qcow2` writes it. */
static const uint8_t header[] = {
    'Q', 'F', 'I', 0xfb, 0, 0, 0,         3,         0,           0,         0,        0,
    0,   0,   2,   0x28, 0, 0, [19] = 30, [23] = 16, [28] = 0x80, [39] = 20, [95] = 4, [103] = 112};

struct fixture {
    char folder[64];
    int dir_fd;
    struct bg_sandbox sandbox;
    atomic_bool *let_go; /* shared with the child */
    pid_t child;
};

static int setup(void **state)
{
    struct bg_err err;
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    (void)snprintf(f->folder, sizeof f->folder, "/tmp/bg-source-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    f->dir_fd = open(f->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->sandbox = (struct bg_sandbox){.name = f->folder, .dir = f->folder};
    struct bg_disk disk = {.golden = strdup("golden-debian"), .top = true};
    assert_int_equal(bg_disk_push(&disk, "0123456789abcdef", BG_DISK_FIRST, &err), 0);
    assert_int_equal(bg_disk_save(f->dir_fd, &disk, &err), 0);
    bg_disk_done(&disk);
    int fd = openat(f->dir_fd, BG_DISK_FIRST, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(bg_write_full(fd, header, sizeof header), 0);
    (void)close(fd);
    f->let_go =
        mmap(NULL, sizeof *f->let_go, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(f->let_go, MAP_FAILED);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(unlinkat(f->dir_fd, BG_DISK_FIRST, 0), 0);
    assert_int_equal(unlinkat(f->dir_fd, BG_DISK_FILE, 0), 0);
    (void)close(f->dir_fd);
    assert_int_equal(rmdir(f->folder), 0);
    (void)munmap(f->let_go, sizeof *f->let_go);
    free(f);
    return 0;
}

/* Stands for a QEMU with these permissions that has been killed and ends a moment later. */
static void start_qemu(struct fixture *f, unsigned permissions)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    f->child = fork();
    if (f->child == 0) {
        int fd = openat(f->dir_fd, BG_DISK_FIRST, O_RDWR);
        for (int bit = 0; bit < 2; bit++) {
            struct flock lock = {.l_type = F_RDLCK,
                                 .l_whence = SEEK_SET,
                                 .l_start = QEMU_PERMISSIONS + bit,
                                 .l_len = 1};
            if ((permissions & 1u << bit) && fcntl(fd, F_OFD_SETLK, &lock) < 0)
                _exit(1);
        }
        if (write(ready[1], "", 1) != 1)
            _exit(1);
        (void)poll(NULL, 0, 300);
        atomic_store(f->let_go, true);
        _exit(0);
    }
    (void)close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    (void)close(ready[0]);
}

static void open_disk(struct fixture *f, bool write)
{
    struct bg_err err;
    struct bg_disk disk;
    int fds[BG_DISK_LAYERS_MAX];
    size_t count;
    assert_int_equal(source_open_layers(&f->sandbox, write, &disk, fds, &count, &err), 0);
    assert_int_equal(count, 1);
    (void)close(fds[0]);
    bg_disk_done(&disk);
}

static void end_qemu(struct fixture *f)
{
    int status;
    assert_int_equal(waitpid(f->child, &status, 0), f->child);
    assert_int_equal(status, 0);
}

static void waits_for_a_writer_to_end(void **state)
{
    struct fixture *f = *state;
    start_qemu(f, QEMU_READS | QEMU_WRITES);
    open_disk(f, /* write= */ true);
    assert_true(atomic_load(f->let_go));
    end_qemu(f);
}

static void waits_for_no_reader(void **state)
{
    struct fixture *f = *state;
    start_qemu(f, QEMU_READS);
    open_disk(f, /* write= */ true);
    end_qemu(f);
    start_qemu(f, QEMU_READS | QEMU_WRITES);
    open_disk(f, /* write= */ false);
    end_qemu(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(waits_for_a_writer_to_end, setup, teardown),
        cmocka_unit_test_setup_teardown(waits_for_no_reader, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
