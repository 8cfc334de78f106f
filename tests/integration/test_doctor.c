/* What killed processes leave, and `bellglass doctor` that finds and removes it. It looks at every
 * mount of ours that it sees, so it is run where it sees no others: in mounts of this program's
 * own.
 */
#include "tests/lib/vm.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* Leaves the mounts of others behind: what is made from here on is seen here only. */
static int enter_own_mounts(void **state)
{
    struct vm *vm = *state;
    static bool entered;
    if (!entered &&
        (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0))
        return -1;
    entered = true;
    /* Some go by themselves meanwhile, with their folder. */
    (void)vm_host(vm, "awk '/ fuse.bellglass /{print $5}' /proc/self/mountinfo | "
                      "while read -r m; do umount -l \"$m\" || true; done; "
                      "! grep ' fuse.bellglass ' /proc/self/mountinfo");
    return 0;
}

static const char *mount_it(struct vm *vm, const char *sandbox)
{
    const char *folder = vm_path(vm, "mnt-%s", vm_name(vm));
    assert_int_equal(mkdir(folder, 0755), 0);
    (void)vm_ok(vm, "mount", sandbox, folder, NULL);
    return folder;
}

static bool is_mounted(struct vm *vm, const char *folder)
{
    return strstr(vm_read(vm, "/proc/self/mountinfo", NULL), vm_text(vm, " %s ", folder)) != NULL;
}

static void kill_both(struct vm *vm, const char *folder)
{
    int pids[2];
    vm_mount_pids(vm, folder, pids);
    assert_int_equal(kill(pids[0], SIGKILL), 0); /* first: it would clean up after the other */
    vm_wait_gone(pids[0]);
    assert_int_equal(kill(pids[1], SIGKILL), 0);
    vm_wait_gone(pids[1]);
}

static void kill_sandbox(struct vm *vm, const char *sandbox)
{
    static const char *const fields[] = {"launcher_pid", "supervisor_pid", "qemu_pid"};
    int pids[3];
    for (size_t i = 0; i < 3; i++)
        pids[i] = vm_pid(vm, sandbox, fields[i]);
    assert_int_equal(kill(pids[0], SIGKILL), 0); /* it takes the others along */
    for (size_t i = 0; i < 3; i++)
        vm_wait_gone(pids[i]);
}

/* One check's line of doctor's report. */
static const char *check(struct vm *vm, bool fix, const char *name, const char *level)
{
    json_t *report = vm_json(vm, "doctor", "--json", fix ? "--fix" : NULL, NULL), *row;
    const char *found = NULL;
    size_t i;
    json_array_foreach(report, i, row)
    {
        if (strcmp(json_string_value(json_object_get(row, "check")), name) != 0)
            continue;
        found = vm_text(vm, "%s -> %s", json_string_value(json_object_get(row, "text")),
                        json_string_value(json_object_get(row, "hint")));
        if (strcmp(json_string_value(json_object_get(row, "level")), level) != 0)
            fail_msg("%s is not %s: %s", name, level, found);
    }
    json_decref(report);
    assert_non_null(found);
    return found;
}

static void expect_in(const char *text, const char *words)
{
    if (!strstr(text, words))
        fail_msg("no '%s' in: %s", words, text);
}

static void a_mount_without_its_processes_is_removed(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox(vm), *dead = mount_it(vm, name), *lives = mount_it(vm, name);
    expect_in(check(vm, false, "mounts", "ok"), "2, none of them dead");
    kill_both(vm, dead);
    const char *said = check(vm, false, "mounts", "warn");
    expect_in(said, dead);
    expect_in(said, "its process is gone");
    expect_in(said, "bellglass doctor --fix");
    assert_null(strstr(said, lives));
    assert_true(is_mounted(vm, dead)); /* it only looked */
    expect_in(check(vm, true, "mounts", "ok"), "removed 1 dead");
    assert_false(is_mounted(vm, dead));
    /* The other one is as it was. */
    assert_string_equal(vm_host(vm, "cat %s/etc/hostname", lives), vm_text(vm, "%s\n", name));
    (void)vm_ok(vm, "umount", lives, NULL);
    expect_in(check(vm, true, "mounts", "ok"), "0, none");
}

static void everything_killed_is_named_and_cleaned_up(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox(vm), *folder = mount_it(vm, name);
    kill_both(vm, folder);
    kill_sandbox(vm, name);
    expect_in(check(vm, false, "mounts", "warn"), folder);
    const char *said = check(vm, false, "leftovers", "warn");
    expect_in(said, name);
    expect_in(said, "1 sandboxes whose processes were killed, 1 dead sockets");
    assert_true(is_mounted(vm, folder));
    expect_in(check(vm, true, "mounts", "ok"), "removed 1 dead");
    assert_false(is_mounted(vm, folder));
    expect_in(check(vm, true, "leftovers", "ok"), "nothing was left behind");
    assert_string_equal(vm_state(vm, name), "crashed");
}

/* After a crash a mount waits for its sandbox: it is not taken for dead. */
static void a_mount_that_waits_is_left_alone(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox(vm), *folder = mount_it(vm, name);
    kill_sandbox(vm, name);
    expect_in(check(vm, true, "mounts", "ok"), "1, none of them dead");
    expect_in(check(vm, true, "leftovers", "ok"), "nothing was left behind");
    (void)vm_ok(vm, "start", name, NULL);
    vm_wait_path("the mount to be served again", vm_text(vm, "%s/etc/hostname", folder));
    (void)vm_ok(vm, "umount", folder, NULL);
}

/* Without root: by fusermount3, and only what is one's own. */
static void a_user_removes_what_is_his(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox(vm), *roots = mount_it(vm, name),
               *folder = vm_path(vm, "user-mnt");
    (void)vm_host(vm, "mkdir %s/user-home %s; chown nobody %s/user-home %s", vm->folder, folder,
                  vm->folder, folder);
    const char *as_user = vm_text(
        vm,
        "setpriv --reuid=nobody --regid=nogroup --clear-groups env BELLGLASS_HOME=%s/user-home %s",
        vm->folder, vm->bellglass);
    (void)vm_host(vm, "%s fs mount %s -- %s fs serve /etc >/dev/null 2>&1", as_user, folder,
                  vm->bellglass);
    kill_both(vm, folder);
    kill_both(vm, roots);
    const char *said = vm_host(vm, "%s doctor --fix || true", as_user);
    expect_in(said, "removed 1 dead");
    assert_null(strstr(said, roots));
    assert_false(is_mounted(vm, folder));
    assert_true(is_mounted(vm, roots));
    expect_in(check(vm, true, "mounts", "ok"), "removed 1 dead");
    assert_false(is_mounted(vm, roots));
}

/* The worst of them: a relay that is there and does not serve. Who asks it anything hangs. */
static void accesses_that_hang_are_freed(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox(vm), *folder = mount_it(vm, name);
    int pids[2];
    vm_mount_pids(vm, folder, pids);
    assert_int_equal(kill(pids[0], SIGKILL), 0);
    vm_wait_gone(pids[0]);
    assert_int_equal(kill(pids[1], SIGSTOP), 0);
    /* While the sandbox runs it may only be slow: it is named, and left alone. */
    const char *said = check(vm, true, "mounts", "warn");
    expect_in(said, "does not answer");
    expect_in(said, "bellglass umount");
    assert_true(is_mounted(vm, folder));
    const char *const reader[] = {"/bin/cat", vm_text(vm, "%s/etc/passwd", folder), NULL};
    struct vm_process *p = vm_start_program(vm, reader);
    kill_sandbox(vm, name);
    expect_in(check(vm, false, "mounts", "warn"), "it hangs, and the sandbox has ended");
    expect_in(check(vm, true, "mounts", "ok"), "removed 1 dead");
    assert_false(is_mounted(vm, folder));
    assert_int_equal(vm_finish(p), 1); /* it was freed, with an error */
    assert_string_equal(vm_host(vm, "grep -c fusectl /proc/self/mountinfo || true"), "0\n");
    (void)kill(pids[1], SIGKILL);
    (void)kill(pids[1], SIGCONT);
    vm_wait_gone(pids[1]);
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE | VM_NEEDS_ROOT,
        cmocka_unit_test_setup(a_mount_without_its_processes_is_removed, enter_own_mounts),
        cmocka_unit_test_setup(everything_killed_is_named_and_cleaned_up, enter_own_mounts),
        cmocka_unit_test_setup(a_mount_that_waits_is_left_alone, enter_own_mounts),
        cmocka_unit_test_setup(a_user_removes_what_is_his, enter_own_mounts),
        cmocka_unit_test_setup(accesses_that_hang_are_freed, enter_own_mounts))
