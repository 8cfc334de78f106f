/* The launcher's part in flattening: which files are made, what disk.json says then, and what is
 * left when something fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "common/state/folder.h"
#include "common/state/qcow2.h"
#include "host/supervisor/flatten.h"

#define LAYERS 4 /* three that are frozen, and the top */

struct fixture {
    char folder[64];
    int dir_fd;
    struct bg_sandbox sandbox;
    struct golden golden;
    struct source source;
    struct flatten_opts opts;
    struct flatten flatten;
    struct link_flatten said;
    int file; /* what QEMU is to fill; -1: none */
};

static void put_disk(int dir_fd, const char *name)
{
    static uint8_t bytes[QCOW2_EMPTY_SIZE];
    memset(bytes, 0, sizeof bytes);
    qcow2_emit_empty(1 << 20, bytes);
    BG_AUTOCLOSE int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_int_equal(bg_write_full(fd, bytes, sizeof bytes), 0);
}

static int setup(void **state)
{
    struct bg_err err;
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    (void)snprintf(f->folder, sizeof f->folder, "/tmp/bg-flatten-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    f->dir_fd = open(f->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->sandbox = (struct bg_sandbox){.name = f->folder, .dir = f->folder};
    put_disk(f->dir_fd, "child.qcow2");
    f->golden.dir = f->folder;
    f->golden.child_fd = openat(f->dir_fd, "child.qcow2", O_RDONLY | O_CLOEXEC);
    f->source = (struct source){.state_fd = -1, .base_fd = -1, .has_disk = true};
    f->source.disk =
        (struct bg_disk){.golden = strdup("golden-debian"), .parent = strdup("web@3"), .top = true};
    for (unsigned i = 0; i < LAYERS; i++) {
        char id[BG_LAYER_ID_SIZE];
        (void)snprintf(id, sizeof id, "%016x", i);
        assert_int_equal(bg_disk_push(&f->source.disk, id, i == 0 ? BG_DISK_FIRST : NULL, &err), 0);
        put_disk(f->dir_fd, f->source.disk.layers[i].file);
    }
    assert_int_equal(bg_disk_save(f->dir_fd, &f->source.disk, &err), 0);
    f->opts =
        (struct flatten_opts){.sandbox = &f->sandbox, .golden = &f->golden, .source = &f->source};
    flatten_init(&f->flatten, &f->opts);
    f->file = -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->file >= 0)
        (void)close(f->file);
    while (waitpid(-1, NULL, 0) > 0)
        ;
    (void)close(f->golden.child_fd);
    source_done(&f->source);
    (void)close(f->dir_fd);
    assert_int_equal(bg_folder_remove(AT_FDCWD, f->folder), 0);
    free(f);
    return 0;
}

static void expect_disk(struct fixture *f, size_t count, size_t strays)
{
    struct bg_err err;
    struct bg_disk disk;
    size_t found;
    assert_int_equal(bg_disk_load(f->dir_fd, &disk, &err), 0);
    assert_int_equal(disk.count, count);
    assert_int_equal(f->source.disk.count, count);
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(disk.layers[i].id, f->source.disk.layers[i].id);
        assert_int_equal(faccessat(f->dir_fd, disk.layers[i].file, F_OK, 0), 0);
    }
    assert_string_equal(disk.parent, "web@3");
    assert_true(disk.top);
    assert_int_equal(bg_disk_strays(f->dir_fd, &disk, false, &found, &err), 0);
    assert_int_equal(found, strays);
    bg_disk_done(&disk);
}

static void begin(struct fixture *f)
{
    struct bg_err err;
    assert_int_equal(flatten_begin(&f->flatten, /* all= */ true, &f->said, &f->file, &err), 0);
    assert_int_equal(f->flatten.step, FLATTEN_COPYING);
    assert_int_equal(f->said.from, 0);
    assert_int_equal(f->said.count, LAYERS - 1);
    expect_disk(f, LAYERS, 1);
}

/* As QEMU has filled it. Returns what the syncing says. */
static int sync_it(struct fixture *f, struct bg_err *err)
{
    const struct bg_err none = {0};
    assert_int_equal(flatten_copied(&f->flatten, &none, err), 0);
    struct pollfd fd = {.fd = f->flatten.finisher_fd, .events = POLLIN};
    assert_int_equal(poll(&fd, 1, 60000), 1);
    return flatten_synced(&f->flatten, err);
}

static void several_layers_become_one(void **state)
{
    struct fixture *f = *state;
    struct bg_err err, none = {0};
    struct stat st;
    char top[BG_LAYER_ID_SIZE];
    memcpy(top, f->source.disk.layers[LAYERS - 1].id, sizeof top);
    begin(f);
    assert_int_equal(sync_it(f, &err), 0);
    expect_disk(f, LAYERS, 1);
    assert_int_equal(flatten_put(&f->flatten, &err), 0);
    expect_disk(f, 2, 0);
    assert_string_equal(f->source.disk.layers[0].id, f->flatten.id);
    assert_string_equal(f->source.disk.layers[1].id, top);
    assert_int_equal(fstatat(f->dir_fd, f->source.disk.layers[0].file, &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0400); /* frozen */
    flatten_used(&f->flatten, &none);
    assert_int_equal(f->flatten.step, FLATTEN_NONE);
    int file;
    assert_int_equal(flatten_begin(&f->flatten, true, &f->said, &file, &err), -ENODATA);
}

static void one_at_a_time(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    int file;
    begin(f);
    assert_int_equal(flatten_begin(&f->flatten, true, &f->said, &file, &err), -EBUSY);
    flatten_drop(&f->flatten);
    expect_disk(f, LAYERS, 0);
    (void)close(f->file);
    begin(f);
}

static void a_copy_that_failed_is_dropped(void **state)
{
    struct fixture *f = *state;
    struct bg_err err, why;
    begin(f);
    (void)bg_err_set(&why, -EREMOTEIO, "QEMU: no");
    assert_int_equal(flatten_copied(&f->flatten, &why, &err), -EREMOTEIO);
    assert_string_equal(err.text, "QEMU: no");
    assert_int_equal(f->flatten.step, FLATTEN_NONE);
    expect_disk(f, LAYERS, 0);
}

/* QEMU is the guest's, perhaps. */
static void a_forged_file_is_dropped(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    const uint8_t external_data = 4; /* a bit of the header's incompatible features */
    begin(f);
    assert_int_equal(pwrite(f->file, &external_data, 1, 79), 1);
    assert_int_equal(sync_it(f, &err), -EMEDIUMTYPE);
    expect_disk(f, LAYERS, 0);
}

static void a_file_that_is_gone_is_an_error(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    begin(f);
    char file[BG_LAYER_FILE_SIZE];
    bg_layer_disk_file(f->flatten.id, file);
    assert_int_equal(unlinkat(f->dir_fd, file, 0), 0);
    assert_int_equal(sync_it(f, &err), -ENOENT);
    expect_disk(f, LAYERS, 0);
}

/* The disk is the same all the same. */
static void a_qemu_that_refuses_is_not_asked_again(void **state)
{
    struct fixture *f = *state;
    struct bg_err err, why;
    int file;
    begin(f);
    assert_int_equal(sync_it(f, &err), 0);
    assert_int_equal(flatten_put(&f->flatten, &err), 0);
    (void)bg_err_set(&why, -EREMOTEIO, "QEMU: no");
    flatten_used(&f->flatten, &why);
    expect_disk(f, 2, 0);
    assert_int_equal(flatten_begin(&f->flatten, true, &f->said, &file, &err), -EOPNOTSUPP);
}

static void what_is_in_use_is_not_dropped(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    begin(f);
    assert_int_equal(sync_it(f, &err), 0);
    assert_int_equal(flatten_put(&f->flatten, &err), 0);
    flatten_drop(&f->flatten);
    expect_disk(f, 2, 0);
}

static void a_volume_is_not_flattened(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    int file;
    f->source.root_dir = f->folder;
    assert_int_equal(flatten_begin(&f->flatten, true, &f->said, &file, &err), -EOPNOTSUPP);
    expect_disk(f, LAYERS, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(several_layers_become_one),       TEST(one_at_a_time),
        TEST(a_copy_that_failed_is_dropped),   TEST(a_forged_file_is_dropped),
        TEST(a_file_that_is_gone_is_an_error), TEST(a_qemu_that_refuses_is_not_asked_again),
        TEST(what_is_in_use_is_not_dropped),   TEST(a_volume_is_not_flattened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
