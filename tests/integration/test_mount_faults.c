/* Everything that a mount hangs on dies or stands still in turn: whoever uses the mount gets an
 * answer in time, `umount` works, and nothing stays behind. */
#include "tests/lib/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"

/* Mounts the home of the sandbox's user on a new folder and returns that. */
static const char *mount_home(struct vm *vm, const char *sandbox)
{
    const char *folder = vm_path(vm, "mnt-%s", vm_name(vm));
    assert_int_equal(mkdir(folder, 0755), 0);
    (void)vm_ok(vm, "mount", vm_text(vm, "%s:/home/app", sandbox), folder, NULL);
    return folder;
}

static bool is_mounted(struct vm *vm, const char *folder)
{
    return strstr(vm_read(vm, "/proc/self/mountinfo", NULL), vm_text(vm, " %s ", folder)) != NULL;
}

struct wanted {
    struct vm *vm;
    const char *folder;
};

static bool is_unmounted(void *arg)
{
    const struct wanted *w = arg;
    return !is_mounted(w->vm, w->folder);
}

/* A process that asks for a name that nobody knows yet; its status is the errno. */
static pid_t start_access(struct vm *vm, const char *folder)
{
    const char *path = vm_text(vm, "%s/%s", folder, vm_name(vm));
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct stat st;
        _exit(lstat(path, &st) < 0 ? errno : 0);
    }
    return pid;
}

static int end_of(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* What an access may end with that was under way when the relay went. */
static void expect_ended(int r)
{
    if (r != EIO && r != ENOTCONN && r != ECONNABORTED && r != ENOENT) /* ENOENT: unmounted */
        fail_msg("%s", strerror(r));
}

static bool access_fails(void *arg)
{
    const struct wanted *w = arg;
    int r = end_of(start_access(w->vm, w->folder));
    return r == EIO || r == ENOTCONN;
}

static bool access_works(void *arg)
{
    const struct wanted *w = arg;
    return end_of(start_access(w->vm, w->folder)) == ENOENT;
}

/* Nothing of the mount is left, and the sandbox can be mounted again. */
static void expect_way_back(struct vm *vm, const char *sandbox, const char *folder)
{
    (void)vm_call(vm, "umount", folder, NULL); /* it may have gone by itself */
    struct wanted gone = {vm, folder};
    vm_wait("the mount to go", is_unmounted, &gone);
    assert_int_equal(rmdir(folder), 0);
    const char *again = mount_home(vm, sandbox);
    vm_write(vm_text(vm, "%s/again", again), "again\n", 6);
    (void)vm_ok(vm, "umount", again, NULL);
    assert_string_equal(vm_guest(vm, sandbox, "cat again; rm again"), "again\n");
}

static void the_guests_file_server_killed(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    const char *m = mount_home(vm, s);
    struct wanted w = {vm, m};
    assert_true(access_works(&w));
    const char *file = vm_text(vm, "%s/kept", m);
    vm_write(file, "kept\n", 5);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_string_not_equal(
        vm_guest(
            vm, s,
            "for p in /proc/[0-9]*; do if [ \"$(cat $p/comm 2>/dev/null)\" = bellglass-fuse ]; "
            "then sudo kill -9 ${p#/proc/}; echo killed; fi; done"),
        "");
    /* The agent lives, so there is another one soon; what was open is found again. */
    vm_wait("another file server", access_works, &w);
    char text[5];
    assert_int_equal(pread(fd, text, 5, 0), 5);
    assert_memory_equal(text, "kept\n", 5);
    assert_int_equal(close(fd), 0);
    assert_string_equal(vm_guest(vm, s, "cat kept; rm kept"), "kept\n");
    expect_way_back(vm, s, m);
}

static void the_relay_killed(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    const char *m = mount_home(vm, s);
    struct wanted w = {vm, m};
    int pids[2];
    vm_mount_pids(vm, m, pids);
    int keeper = pids[0], relay = pids[1];
    /* One waits in the kernel: the guest stands still. */
    int qemu = vm_pid(vm, s, "qemu_pid");
    assert_int_equal(kill(qemu, SIGSTOP), 0);
    pid_t waiting = start_access(vm, m);
    assert_int_equal(kill(relay, SIGKILL), 0);
    int r = end_of(waiting);
    assert_int_equal(kill(qemu, SIGCONT), 0);
    expect_ended(r);
    vm_wait("the keeper to unmount", is_unmounted, &w);
    vm_wait_gone(keeper);
    expect_way_back(vm, s, m);
}

static void the_keeper_killed(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    const char *m = mount_home(vm, s);
    int pids[2];
    vm_mount_pids(vm, m, pids);
    int keeper = pids[0], relay = pids[1];
    assert_int_equal(kill(keeper, SIGKILL), 0);
    vm_wait_gone(keeper);
    expect_ended(end_of(start_access(vm, m))); /* the relay serves on, or has ended with it */
    expect_way_back(vm, s, m);
    vm_wait_gone(relay);
}

static void the_supervisor_killed(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    const char *m = mount_home(vm, s);
    struct wanted w = {vm, m};
    pid_t waiting = start_access(vm, m);
    assert_int_equal(kill(vm_pid(vm, s, "supervisor_pid"), SIGKILL), 0);
    (void)end_of(waiting);
    vm_wait("an error", access_fails, &w);
    vm_wait_state(vm, s, "crashed");
    (void)vm_call(vm, "umount", m, NULL);
    vm_wait("the mount to go", is_unmounted, &w);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void a_guest_that_stands_still(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    const char *m = mount_home(vm, s);
    struct wanted w = {vm, m};
    vm_write(vm_text(vm, "%s/before", m), "before\n", 7);
    int qemu = vm_pid(vm, s, "qemu_pid");
    assert_int_equal(kill(qemu, SIGSTOP), 0);
    pid_t waiting[4];
    for (size_t i = 0; i < 4; i++)
        waiting[i] = start_access(vm, m);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(end_of(waiting[i]), EIO); /* at the deadline */
    assert_true(access_fails(&w));                 /* at once: it is known now */
    (void)vm_host(vm, "df %s >/dev/null && stat %s >/dev/null", m, m);
    assert_int_equal(kill(qemu, SIGCONT), 0);
    vm_wait("the guest to go on", access_works, &w);
    assert_string_equal(vm_host(vm, "cat %s/before", m), "before\n");
    vm_write(vm_text(vm, "%s/after", m), "after\n", 6);
    assert_string_equal(vm_guest(vm, s, "cat after"), "after\n");
    /* Taken down while it stands still. */
    assert_int_equal(kill(qemu, SIGSTOP), 0);
    waiting[0] = start_access(vm, m);
    (void)vm_ok(vm, "umount", m, NULL);
    int r = end_of(waiting[0]);
    assert_int_equal(kill(qemu, SIGCONT), 0);
    expect_ended(r);
    assert_false(is_mounted(vm, m));
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, cmocka_unit_test(the_guests_file_server_killed),
        cmocka_unit_test(the_relay_killed), cmocka_unit_test(the_keeper_killed),
        cmocka_unit_test(the_supervisor_killed), cmocka_unit_test(a_guest_that_stands_still))
