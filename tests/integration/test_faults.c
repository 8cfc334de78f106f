/* Processes that die, files that are damaged, things that are missing: each a clear error, nothing
 * lost, and the way back works. */
#include "tests/lib/vm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"

/* ---- processes that die ---- */

/* Kills one process of a running sandbox and checks the way back. */
static void survives_death_of(struct vm *vm, const char *field)
{
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "echo kept >file; sync");
    const char *const argv[] = {"exec", s, "--", "sh", "-c", "echo up; sleep 1000", NULL};
    struct vm_process *p = vm_start(vm, argv);
    vm_expect(p, "up");
    int qemu = vm_pid(vm, s, "qemu_pid"), proxy = vm_pid(vm, s, "proxy_pid");
    assert_int_equal(kill(vm_pid(vm, s, field), SIGKILL), 0);
    assert_int_equal(vm_finish(p), 125); /* its guest is gone: told at once */
    vm_wait_state(vm, s, "crashed");
    vm_wait_gone(qemu);
    vm_wait_gone(proxy);
    vm_refused(vm, vm_text(vm, "%s|start", s), "exec", s, "--", "true", NULL);
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cat file"), "kept\n");
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void qemu_killed(void **state)
{
    survives_death_of(*state, "qemu_pid");
}

static void launcher_killed(void **state)
{
    survives_death_of(*state, "launcher_pid");
}

static void supervisor_killed(void **state)
{
    survives_death_of(*state, "supervisor_pid");
}

static void a_crashed_sandbox_can_be_removed(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    assert_int_equal(kill(vm_pid(vm, s, "qemu_pid"), SIGKILL), 0);
    vm_wait_state(vm, s, "crashed");
    (void)vm_ok(vm, "rm", s, NULL);
    assert_string_equal(vm_state(vm, s), "gone");
}

static void a_killed_client_of_create_leaves_a_whole_sandbox_or_none(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_name(vm);
    const char *const argv[] = {"create", name, NULL};
    struct vm_process *p = vm_start(vm, argv);
    const char *folder = vm_sandbox_dir(vm, name);
    (void)vm_host(vm, "for i in $(seq 600); do [ -e %s ] && exit; sleep 0.1; done; exit 1", folder);
    (void)vm_stop(p, SIGKILL);
    /* Whatever it had come to, the name can be used again. */
    (void)vm_call(vm, "rm", "--force", name, NULL);
    assert_string_equal(vm_state(vm, name), "gone");
    assert_string_equal(vm_ok(vm, "create", name, NULL), vm_text(vm, "%s\n", name));
}

static bool waits_or_has_ended(void *arg)
{
    void **both = arg;
    const struct vm_process *p = both[1];
    return *vm_host(both[0],
                    "grep -ls inotify /proc/%d/fdinfo/* || [ -e /proc/%d/exe ] || echo ended",
                    p->pid, p->pid) != '\0';
}

/* Its supervisor has the lock, and has not said yet who it is: it still asks QEMU for its version,
 * which it never hears (a snapshot made with this QEMU would be another one).
 */
static void one_that_only_begins_to_start_can_be_removed(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_name(vm), *qemu = vm_path(vm, "slow-qemu"), *gate = vm_path(vm, "gate");
    (void)vm_host(vm,
                  "mkfifo %s; printf '#!/bin/sh\ntouch %s.asked; read x <%s\n' >%s; chmod 755 %s",
                  gate, qemu, gate, qemu, qemu);
    assert_int_equal(setenv("BELLGLASS_QEMU", qemu, 1), 0);
    struct vm_process *create = vm_start(vm, (const char *const[]){"create", name, NULL});
    assert_int_equal(unsetenv("BELLGLASS_QEMU"), 0);
    vm_wait_path("QEMU is asked", vm_text(vm, "%s.asked", qemu));
    assert_int_equal(kill(create->pid, SIGKILL), 0);
    struct vm_process *rm = vm_start(vm, (const char *const[]){"rm", "--force", name, NULL});
    vm_wait("rm to wait", waits_or_has_ended, (void *[]){vm, rm});
    (void)vm_host(vm, "echo >%s", gate);
    assert_int_equal(vm_finish(rm), 0);
    assert_string_equal(vm_state(vm, name), "gone");
    (void)vm_finish(create);
}

/* ---- damaged files ---- */

/* Changes one file of the golden snapshot that the tests use. */
static void damage_golden(struct vm *vm, const char *script)
{
    (void)vm_sandbox(vm);
    (void)vm_host(vm, "for d in %s/data/snapshots/golden-*/; do cd $d; chmod -R u+w .; %s; done",
                  vm->home, script);
}

static void a_damaged_snapshot_is_made_anew(void **state)
{
    struct vm *vm = *state;
    static const char *const damages[] = {
        "truncate -s 1M memory",
        "truncate -s -1 state",
        "printf x | dd of=state bs=1 seek=100 conv=notrunc status=none",
        "rm -f disk.qcow2",
        "printf '{' >manifest.json",
        "printf '{}' >manifest.json",
        "rm -f manifest.json",
    };
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        damage_golden(vm, damages[i]);
        const char *s = vm_sandbox(vm);
        assert_string_equal(vm_guest(vm, s, "echo whole"), "whole\n");
        /* One that runs on the damaged files cannot be asked for more than to go. */
        (void)vm_host(vm, "for s in $(ls %s/state/sandboxes); do %s rm --force $s; done", vm->home,
                      vm->bellglass);
    }
}

static void an_interrupted_making_leaves_nothing_behind(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_name(vm);
    const char *const argv[] = {"create", "--memory", "352M", name, NULL};
    struct vm_process *p = vm_start(vm, argv);
    vm_expect(p, "golden"); /* the progress line of the making */
    (void)vm_stop(p, SIGINT);
    (void)vm_call(vm, "rm", "--force", name, NULL);
    const char *next = vm_sandbox_with(vm, "--memory", "352M", NULL);
    assert_string_equal(vm_guest(vm, next, "echo up"), "up\n");
    assert_string_equal(
        vm_host(vm, "ls %s/data/snapshots | { grep -vE '^golden-[0-9a-f.]+(\\.lock)?$' || true; }",
                vm->home),
        "");
}

/* A home whose images folder is a copy that may be damaged; ends with own_images_done. */
static void own_images(struct vm *vm, const char *const *script_of_damage, const char *words)
{
    (void)vm_host(vm,
                  "cd %s/data; mv images images.shared; cp -a --reflink=auto $(readlink "
                  "images.shared) images; "
                  "cd images/$(readlink images/tags/debian | cut -c4-); %s",
                  vm->home, *script_of_damage);
    vm_refused(vm, words, "create", "--memory", "416M", vm_name(vm), NULL);
    (void)vm_host(vm, "cd %s/data; rm -r images; mv images.shared images", vm->home);
}

static void a_damaged_image_is_named(void **state)
{
    struct vm *vm = *state;
    static const struct {
        const char *damage, *words;
    } rows[] = {
        {"truncate -s 1M root.qcow2", "root.qcow2|image"},
        {"rm vmlinuz", "vmlinuz"},
        {"printf '{' >manifest.json", "manifest.json"},
        {"rm manifest.json", "manifest.json"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        own_images(vm, &rows[i].damage, rows[i].words);
}

static void damaged_state_is_named_and_can_be_removed(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_ok(vm, "stop", s, NULL);
    (void)vm_host(vm, "echo '{\"version\":1,' >%s/sandbox.json", vm_sandbox_dir(vm, s));
    vm_refused(vm, vm_text(vm, "%s|rm", s), "start", s, NULL);
    (void)vm_ok(vm, "ls", NULL); /* the others are still shown */
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    assert_string_equal(vm_state(vm, s), "gone");
}

static void an_unreadable_state_file_reads_as_crashed(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "echo kept >file; sync");
    (void)vm_ok(vm, "stop", s, NULL);
    (void)vm_host(vm, "echo junk >%s/state.json", vm_sandbox_dir(vm, s));
    (void)vm_ok(vm, "ls", NULL);
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cat file"), "kept\n");
}

/* ---- things that are missing ---- */

static void missing_or_old_qemu_is_told(void **state)
{
    struct vm *vm = *state;
    assert_int_equal(setenv("BELLGLASS_QEMU", "/no/such/qemu", 1), 0);
    vm_refused(vm, "qemu", "create", vm_name(vm), NULL);
    const char *fake = vm_path(vm, "old-qemu");
    static const char script[] = "#!/bin/sh\necho 'QEMU emulator version 5.2.0 (Debian)'\n";
    vm_write(fake, script, sizeof script - 1);
    assert_int_equal(chmod(fake, 0755), 0);
    assert_int_equal(setenv("BELLGLASS_QEMU", fake, 1), 0);
    vm_refused(vm, "5.2|7.2", "create", vm_name(vm), NULL);
    assert_int_equal(unsetenv("BELLGLASS_QEMU"), 0);
}

static void a_home_that_is_no_path_is_told(void **state)
{
    struct vm *vm = *state;
    assert_int_equal(setenv("BELLGLASS_HOME", "relative/path", 1), 0);
    vm_refused(vm, "BELLGLASS_HOME|absolute", "ls", NULL);
    assert_int_equal(setenv("BELLGLASS_HOME", vm->home, 1), 0);
}

static void no_space_is_told_and_leaves_nothing(void **state)
{
    struct vm *vm = *state;
    if (geteuid() != 0)
        skip(); /* a small file system takes a mount */
    const char *small = vm_path(vm, "small");
    assert_int_equal(mkdir(small, 0755), 0);
    assert_int_equal(mount("small", small, "tmpfs", 0, "size=24m,mode=0711"), 0);
    (void)vm_host(vm, "mkdir -p %s/data; ln -s $(readlink %s/data/images) %s/data/images", small,
                  vm->home, small);
    assert_int_equal(setenv("BELLGLASS_HOME", small, 1), 0);
    const struct vm_result *r = vm_call(vm, "create", vm_name(vm), NULL);
    const char *left = vm_host(
        vm,
        "ls -A %s/data/snapshots %s/state/sandboxes 2>/dev/null | grep golden-[0-9a-f]*$ || true",
        small, small);
    assert_int_equal(setenv("BELLGLASS_HOME", vm->home, 1), 0);
    assert_int_equal(umount2(small, MNT_DETACH), 0);
    assert_int_equal(r->status, 125);
    assert_non_null(strstr(r->err, "space"));
    assert_string_equal(left, "");
}

static void no_dev_fuse_is_told(void **state)
{
    struct vm *vm = *state;
    if (geteuid() != 0)
        skip(); /* hiding the device takes a mount namespace */
    const char *s = vm_shared(vm);
    const char *folder = vm_path(vm, "mnt");
    assert_int_equal(mkdir(folder, 0755), 0);
    const char *out =
        vm_host(vm,
                "unshare --mount --propagation private bash -c 'd=%s/dev; mkdir $d; mount -t "
                "tmpfs dev $d; for n in null zero full random urandom tty; do touch $d/$n; "
                "mount --bind /dev/$n $d/$n; done; mount --rbind $d /dev; "
                "%s mount %s %s' 2>&1 && exit 1; true",
                vm->folder, vm->bellglass, s, folder);
    assert_non_null(strstr(out, "/dev/fuse"));
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(qemu_killed), cmocka_unit_test(launcher_killed),
        cmocka_unit_test(supervisor_killed), cmocka_unit_test(a_crashed_sandbox_can_be_removed),
        cmocka_unit_test(a_killed_client_of_create_leaves_a_whole_sandbox_or_none),
        cmocka_unit_test(one_that_only_begins_to_start_can_be_removed),
        cmocka_unit_test(a_damaged_snapshot_is_made_anew),
        cmocka_unit_test(an_interrupted_making_leaves_nothing_behind),
        cmocka_unit_test(a_damaged_image_is_named),
        cmocka_unit_test(damaged_state_is_named_and_can_be_removed),
        cmocka_unit_test(an_unreadable_state_file_reads_as_crashed),
        cmocka_unit_test(missing_or_old_qemu_is_told),
        cmocka_unit_test(a_home_that_is_no_path_is_told),
        cmocka_unit_test(no_space_is_told_and_leaves_nothing),
        cmocka_unit_test(no_dev_fuse_is_told))
