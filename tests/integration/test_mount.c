/* The guest's files as a folder of the host, while it lives and when it dies. */
#include "tests/lib/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Mounts what ("NAME" or "NAME:PATH") on a new folder and returns that. */
static const char *mount_it(struct vm *vm, const char *what)
{
    const char *folder = vm_path(vm, "mnt-%s", vm_name(vm));
    assert_int_equal(mkdir(folder, 0755), 0);
    (void)vm_ok(vm, "mount", what, folder, NULL);
    return folder;
}

static bool is_mounted(struct vm *vm, const char *folder)
{
    return strstr(vm_read(vm, "/proc/self/mountinfo", NULL), vm_text(vm, " %s ", folder)) != NULL;
}

static void unmount_it(struct vm *vm, const char *folder)
{
    (void)vm_ok(vm, "umount", folder, NULL);
    assert_false(is_mounted(vm, folder));
    assert_int_equal(rmdir(folder), 0);
}

static void edits_are_seen_on_both_sides(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "echo from guest >/home/app/file");
    const char *m = mount_it(vm, s);
    const char *file = vm_text(vm, "%s/home/app/file", m);
    assert_string_equal(vm_read(vm, file, NULL), "from guest\n");
    vm_write(file, "from host\n", 10);
    assert_string_equal(vm_guest(vm, s, "cat file"), "from host\n");
    (void)vm_guest(vm, s, "echo longer than before, from the guest >file");
    assert_string_equal(vm_read(vm, file, NULL), "longer than before, from the guest\n");
    vm_write(vm_text(vm, "%s/home/app/new", m), "new\n", 4);
    assert_string_equal(vm_guest(vm, s, "stat -c '%%U %%a' new; cat new"), "app 644\nnew\n");
    unmount_it(vm, m);
    assert_string_equal(vm_guest(vm, s, "cat new"), "new\n");
}

static void a_path_can_be_mounted_alone(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "mkdir project; echo x >project/x");
    const char *m = mount_it(vm, vm_text(vm, "%s:/home/app/project", s));
    assert_string_equal(vm_host(vm, "ls %s", m), "x\n");
    unmount_it(vm, m);
    vm_refused(vm, "/no/such", "mount", vm_text(vm, "%s:/no/such", s), vm->folder, NULL);
}

static void files_can_be_made_moved_and_removed(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    const char *m = mount_it(vm, vm_text(vm, "%s:/home/app", s));
    (void)vm_host(
        vm,
        "cd %s; mkdir -p a/b; echo one >a/one; mv a/one a/b/two; ln -s two a/b/link; ln a/b/two "
        "a/hard; cat a/b/link >a/three; cat a/three >>a/b/two; chmod 700 a/b; truncate -s 5 "
        "a/hard; touch -d @1000000000 "
        "a/hard; printf odd >$'\\xff-name'",
        m);
    assert_string_equal(
        vm_guest(vm, s,
                 "cat a/b/two; stat -c '%%a %%h %%Y' a/hard; stat -c %%a a/b; readlink a/b/link; "
                 "cat \"$(printf '\\377-name')\""),
        "one\no644 2 1000000000\n700\ntwo\nodd");
    (void)vm_host(vm, "cd %s; rm -r a; ls -A", m);
    assert_string_equal(vm_guest(vm, s, "ls -d a 2>&1 || true"),
                        "ls: cannot access 'a': No such file or directory\n");
    unmount_it(vm, m);
}

static void many_and_large_files_survive(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    const char *m = mount_it(vm, vm_text(vm, "%s:/home/app", s));
    (void)vm_guest(
        vm, s,
        "mkdir many; cd many; seq 3000 | xargs touch; head -c 24000000 /dev/urandom >../large");
    assert_string_equal(vm_host(vm, "ls %s/many | wc -l", m), "3000\n");
    assert_string_equal(vm_host(vm, "sha256sum <%s/large", m), vm_guest(vm, s, "sha256sum <large"));
    (void)vm_host(vm, "head -c 24000000 /dev/urandom >%s/back", m);
    assert_string_equal(vm_host(vm, "sha256sum <%s/back", m), vm_guest(vm, s, "sha256sum <back"));
    unmount_it(vm, m);
}

static void the_mount_gives_no_rights_away(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(
        vm, s,
        "cp /bin/true set; sudo chown root set; sudo chmod 4755 set; sudo mknod dev c 1 3; "
        "ln -s /etc/passwd absolute; ln -s ../../../../../../etc/passwd up; mkfifo fifo");
    const char *m = mount_it(vm, vm_text(vm, "%s:/home/app", s));
    const char *line = vm_host(vm, "grep ' %s ' /proc/self/mountinfo", m);
    assert_non_null(strstr(line, "nosuid"));
    assert_non_null(strstr(line, "nodev"));
    assert_string_equal(vm_host(vm, "stat -c %%a %s/set", m), "755\n");
    /* A link that leaves the mount must not lead to a file of the host. */
    const char *ours = vm_read(vm, "/etc/passwd", NULL);
    assert_string_not_equal(vm_host(vm, "cat %s/absolute 2>&1 || true", m), ours);
    assert_string_not_equal(vm_host(vm, "cat %s/up 2>&1 || true", m), ours);
    /* A device or fifo of the guest is none here. */
    (void)vm_host(vm, "! test -c %s/dev && ! test -p %s/fifo", m, m);
    unmount_it(vm, m);
}

/* A name that nobody has asked for yet: only the guest could tell that it is not there. */
static int ask_anew(struct vm *vm, const char *folder)
{
    return access(vm_text(vm, "%s/%s", folder, vm_name(vm)), F_OK) < 0 ? errno : 0;
}

struct asked {
    struct vm *vm;
    const char *folder;
};

static bool is_cut_off(void *arg)
{
    const struct asked *a = arg;
    int r = ask_anew(a->vm, a->folder);
    return r == EIO || r == ENOTCONN;
}

/* The mount tries to find its sandbox again every few seconds. */
static bool is_back(void *arg)
{
    const struct asked *a = arg;
    return ask_anew(a->vm, a->folder) == ENOENT;
}

static void wait_until_back(struct vm *vm, const char *folder)
{
    struct asked asked = {vm, folder};
    vm_wait("the mount to be served again", is_back, &asked);
}

static void a_dead_guest_is_an_io_error(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    const char *m = mount_it(vm, vm_text(vm, "%s:/home/app", s));
    (void)vm_guest(vm, s, "echo x >file");
    int held = open(vm_text(vm, "%s/file", m), O_RDONLY | O_CLOEXEC);
    assert_true(held >= 0);
    assert_int_equal(kill(vm_pid(vm, s, "qemu_pid"), SIGKILL), 0);
    vm_wait_state(vm, s, "crashed");
    /* The mount may notice that later, and a small file's bytes have come with its opening. */
    struct asked asked = {vm, m};
    vm_wait("the mount has noticed", is_cut_off, &asked);
    char byte;
    assert_int_equal(pread(held, &byte, 1, 0), -1);
    assert_true(errno == EIO || errno == ENOTCONN);
    assert_int_equal(open(vm_text(vm, "%s/other", m), O_RDONLY | O_CLOEXEC), -1);
    (void)close(held);
    unmount_it(vm, m);
}

static void a_crashed_guest_comes_back_under_its_mount(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "mkdir project; echo kept >project/file; sync");
    const char *m = mount_it(vm, vm_text(vm, "%s:/home/app", s));
    int held = open(vm_text(vm, "%s/project/file", m), O_RDWR | O_CLOEXEC);
    int folder = open(vm_text(vm, "%s/project", m), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(held >= 0 && folder >= 0);
    assert_int_equal(kill(vm_pid(vm, s, "qemu_pid"), SIGKILL), 0);
    vm_wait_state(vm, s, "crashed");
    (void)vm_ok(vm, "start", s, NULL);
    wait_until_back(vm, vm_text(vm, "%s/project", m));
    assert_string_equal(vm_read(vm, vm_text(vm, "%s/project/file", m), NULL), "kept\n");
    char text[8] = {0};
    assert_int_equal(pread(held, text, sizeof text - 1, 0), 5);
    assert_string_equal(text, "kept\n");
    assert_int_equal(pwrite(held, "more\n", 5, 5), 5);
    assert_int_equal(close(held), 0);
    int inside = openat(folder, "new", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_true(inside >= 0);
    assert_int_equal(close(inside), 0);
    (void)close(folder);
    assert_string_equal(vm_guest(vm, s, "cat project/file; ls project"), "kept\nmore\nfile\nnew\n");
    unmount_it(vm, m);
}

static void a_killed_file_server_is_replaced(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    const char *m = mount_it(vm, vm_text(vm, "%s:/home/app", s));
    vm_write(vm_text(vm, "%s/file", m), "before\n", 7);
    (void)vm_guest(vm, s, "sudo pkill -KILL -x bellglass-fuse");
    assert_string_equal(vm_read(vm, vm_text(vm, "%s/file", m), NULL), "before\n");
    wait_until_back(vm, m);
    unmount_it(vm, m);
}

static void a_stopped_guest_leaves_no_mount(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    const char *m = mount_it(vm, s);
    vm_write(vm_text(vm, "%s/home/app/last", m), "last\n", 5);
    (void)vm_ok(vm, "stop", s, NULL);
    (void)vm_call(vm, "umount", m, NULL);
    assert_false(is_mounted(vm, m));
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cat last"), "last\n");
}

static void a_used_mount_can_be_unmounted(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    const char *m = mount_it(vm, s);
    int held = open(vm_text(vm, "%s/etc/hostname", m), O_RDONLY | O_CLOEXEC);
    assert_true(held >= 0);
    (void)vm_ok(vm, "umount", m, NULL);
    assert_false(is_mounted(vm, m));
    (void)close(held);
}

static void wrong_places_are_refused(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    vm_refused(vm, "/no/such/folder", "mount", s, "/no/such/folder", NULL);
    const char *file = vm_path(vm, "file");
    vm_write(file, "x", 1);
    vm_refused(vm, file, "mount", s, file, NULL);
    const char *folder = vm_path(vm, "plain");
    assert_int_equal(mkdir(folder, 0755), 0);
    vm_refused(vm, folder, "umount", folder, NULL);
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, cmocka_unit_test(edits_are_seen_on_both_sides),
        cmocka_unit_test(a_path_can_be_mounted_alone),
        cmocka_unit_test(files_can_be_made_moved_and_removed),
        cmocka_unit_test(many_and_large_files_survive),
        cmocka_unit_test(the_mount_gives_no_rights_away),
        cmocka_unit_test(a_dead_guest_is_an_io_error),
        cmocka_unit_test(a_crashed_guest_comes_back_under_its_mount),
        cmocka_unit_test(a_killed_file_server_is_replaced),
        cmocka_unit_test(a_stopped_guest_leaves_no_mount),
        cmocka_unit_test(a_used_mount_can_be_unmounted), cmocka_unit_test(wrong_places_are_refused))
