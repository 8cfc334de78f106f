/* The files of what does not run: stopped and crashed sandboxes, images. */
#include "tests/lib/vm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "common/state/sandbox.h"

static const char *new_folder(struct vm *vm)
{
    const char *folder = vm_path(vm, "mnt-%s", vm_name(vm));
    assert_int_equal(mkdir(folder, 0755), 0);
    return folder;
}

/* Mounts a sandbox on a new folder; option: NULL or one more. */
static const char *mount_it(struct vm *vm, const char *what, const char *option)
{
    const char *folder = new_folder(vm);
    const char *argv[] = {"mount", what, folder, option, NULL};
    (void)vm_ok_with(vm, argv);
    return folder;
}

static bool is_mounted(struct vm *vm, const char *folder)
{
    return strstr(vm_read(vm, "/proc/self/mountinfo", NULL), vm_text(vm, " %s ", folder)) != NULL;
}

/* vm_refused for what may take so long that it is told on a line before. */
static void refused_later(struct vm *vm, const char *word, const char *arg, ...)
{
    const char *argv[VM_ARGS_MAX + 1];
    VM_COLLECT(argv, arg);
    const struct vm_result *r = vm_call_with(vm, argv, NULL, 0);
    assert_int_equal(r->status, 125);
    if (!strstr(r->err, word))
        fail_msg("no '%s' in: %s", word, r->err);
}

static const char *stopped(struct vm *vm, const char *script)
{
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "%s", script);
    (void)vm_ok(vm, "stop", s, NULL);
    return s;
}

static const char *disk_of(struct vm *vm, const char *sandbox)
{
    return vm_text(vm, "%s/disk.qcow2", vm_sandbox_dir(vm, sandbox));
}

static const char *hash(struct vm *vm, const char *path)
{
    return vm_host(vm, "sha256sum <%s", path);
}

/* The name of the control socket of the sandbox's helper, "" if there is none; id: its first part.
 */
static const char *helper_id(struct vm *vm, const char *sandbox)
{
    return vm_host(vm,
                   "cd %s/run; for f in $(sed 's/.*\"id\":\"\\([^\"]*\\)\".*/\\1/;t;d' "
                   "%s/sandbox.json | head -n 1).??????.sock; do test -S $f && printf %%s "
                   "${f%%.sock}; done; true",
                   vm->home, vm_sandbox_dir(vm, sandbox));
}

/* "qemu_pid", "supervisor_pid" or "launcher_pid" of the helper. */
static int helper_pid(struct vm *vm, const char *sandbox, const char *field)
{
    static const char request[] = "{\"op\":\"status\"}\n";
    struct bg_paths paths;
    struct bg_sandbox helper = {0};
    struct bg_err err;
    int fd = -1;
    char name[] = "helper";
    helper.name = name;
    (void)snprintf(helper.id, sizeof helper.id, "%s", helper_id(vm, sandbox));
    assert_int_equal(bg_paths_init(&paths, &err), 0);
    if (bg_sandbox_connect(&paths, &helper, &fd, &err) < 0)
        fail_msg("%s: %s", sandbox, err.text);
    assert_int_equal(bg_write_full(fd, request, sizeof request - 1), 0);
    json_t *answer = json_loadfd(fd, JSON_DISABLE_EOF_CHECK, NULL);
    (void)close(fd);
    bg_paths_done(&paths);
    int pid = (int)json_integer_value(json_object_get(answer, field));
    json_decref(answer);
    assert_true(pid > 1);
    return pid;
}

struct wanted_use {
    struct vm *vm;
    const char *sandbox;
};

static bool is_unused(void *arg)
{
    const struct wanted_use *w = arg;
    struct bg_paths paths;
    struct bg_sandbox s;
    struct bg_err err;
    enum bg_sandbox_use use = BG_SANDBOX_OWNED;
    assert_int_equal(bg_paths_init(&paths, &err), 0);
    assert_int_equal(bg_sandbox_load(&paths, w->sandbox, &s, &err), 0);
    assert_int_equal(bg_sandbox_use(&s, &use, &err), 0);
    bg_sandbox_done(&s);
    bg_paths_done(&paths);
    return use == BG_SANDBOX_UNUSED;
}

static void wait_unused(struct vm *vm, const char *sandbox)
{
    struct wanted_use wanted = {vm, sandbox};
    vm_wait("the helper's end", is_unused, &wanted);
}

static void a_stopped_one_is_seen_as_it_was_left(void **state)
{
    struct vm *vm = *state;
    const char *s =
        stopped(vm, "echo left >file; ln -s /etc/os-release absolute; sudo touch roots; "
                    "ln -s /home/app/deep/target dangling; mkdir deep; chmod 700 deep");
    const char *before = hash(vm, disk_of(vm, s));
    const char *m = mount_it(vm, s, NULL);
    assert_string_equal(vm_read(vm, vm_text(vm, "%s/home/app/file", m), NULL), "left\n");
    assert_string_equal(
        vm_host(vm, "cd %s/home/app; stat -c '%%u %%a' file deep; stat -c %%U roots", m),
        vm_text(vm, "%u 644\n%u 700\nnobody\n", getuid(), getuid()));
    assert_string_equal(vm_host(vm,
                                "cd %s/home/app; cmp absolute ../../etc/os-release; readlink "
                                "absolute dangling",
                                m),
                        "../../etc/os-release\n../../home/app/deep/target\n");
    assert_int_equal(open(vm_text(vm, "%s/home/app/new", m), O_WRONLY | O_CREAT | O_CLOEXEC, 0644),
                     -1);
    assert_int_equal(errno, EROFS);
    /* It is not running for that, and cannot be started meanwhile. */
    assert_string_equal(vm_state(vm, s), "stopped");
    assert_non_null(strstr(vm_ok(vm, "ls", NULL), m));
    vm_refused(vm, vm_text(vm, "%s|mounted on|umount", m), "start", s, NULL);
    /* Others may look at the same time. */
    const char *m2 = mount_it(vm, vm_text(vm, "%s:/home/app", s), NULL);
    assert_string_equal(vm_read(vm, vm_text(vm, "%s/file", m2), NULL), "left\n");
    vm_refused(vm, "mounted", "mount", "--rw", s, new_folder(vm), NULL);
    (void)vm_ok(vm, "umount", m, m2, NULL);
    assert_string_equal(hash(vm, disk_of(vm, s)), before);
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cat file"), "left\n");
}

static void a_crashed_one_is_seen_after_its_journal(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "seq 1000 | xargs touch; echo safe >file; sync; echo lost >>file");
    assert_int_equal(kill(vm_pid(vm, s, "qemu_pid"), SIGKILL), 0);
    vm_wait_state(vm, s, "crashed");
    const char *before = hash(vm, disk_of(vm, s));
    const char *m = mount_it(vm, vm_text(vm, "%s:/home/app", s), NULL);
    assert_string_equal(vm_state(vm, s), "crashed");
    assert_string_equal(vm_host(vm, "head -n 1 %s/file; ls %s | wc -l", m, m), "safe\n1001\n");
    (void)vm_ok(vm, "ls",
                NULL); /* which notes crashes, and must not take this mount for a dead one */
    assert_true(is_mounted(vm, m));
    (void)vm_ok(vm, "umount", m, NULL);
    assert_string_equal(hash(vm, disk_of(vm, s)), before);
}

static void a_stopped_one_can_be_changed(void **state)
{
    struct vm *vm = *state;
    const char *s = stopped(vm, "echo old >file; mkdir folder");
    const char *m = mount_it(vm, s, "--rw");
    vm_write(vm_text(vm, "%s/home/app/file", m), "new\n", 4);
    (void)vm_host(vm,
                  "cd %s/home/app; mv folder moved; seq 2000 | (cd moved; xargs touch); head -c "
                  "5000000 /dev/zero >large; ln -s moved link",
                  m);
    vm_refused(vm, vm_text(vm, "%s|for writing|umount", m), "start", s, NULL);
    vm_refused(vm, "mounted", "mount", s, new_folder(vm), NULL);
    vm_refused(vm, "mounted", "cp", vm_text(vm, "%s:file", s), vm->folder, NULL);
    /* Its end has checked the file system. */
    (void)vm_ok(vm, "umount", m, NULL);
    assert_string_equal(helper_id(vm, s), "");
    (void)vm_host(vm, "qemu-img check -q %s", disk_of(vm, s));
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cat file; ls link | wc -l; stat -c '%%U %%s' large"),
                        "new\n2000\napp 5000000\n");
}

struct cut_off {
    struct vm *vm;
    const char *mount;
    unsigned number;
};

/* The mount is gone, or fails for a name that nobody has asked for yet: only the helper could tell
 * that it is not there. */
static bool is_cut_off(void *arg)
{
    struct cut_off *c = arg;
    const char *path = vm_text(c->vm, "%s/home/app/none-%u", c->mount, ++c->number);
    assert_int_equal(access(path, F_OK), -1);
    return errno == EIO || errno == ENOTCONN || !is_mounted(c->vm, c->mount);
}

static void a_dead_helper_is_an_io_error(void **state)
{
    struct vm *vm = *state;
    static const char *const fields[] = {"qemu_pid", "supervisor_pid", "launcher_pid"};
    const char *s = stopped(vm, "echo x >file");
    for (size_t i = 0; i < 3; i++) {
        const char *m = mount_it(vm, s, "--rw");
        int held = open(vm_text(vm, "%s/home/app/file", m), O_RDONLY | O_CLOEXEC);
        assert_true(held >= 0);
        assert_int_equal(kill(helper_pid(vm, s, fields[i]), SIGKILL), 0);
        wait_unused(vm, s);
        /* Its lock may be free before the mount has noticed, and a small file's bytes have come
         * with its opening. */
        struct cut_off cut_off = {.vm = vm, .mount = m};
        vm_wait("the mount has noticed", is_cut_off, &cut_off);
        char byte;
        assert_int_equal(pread(held, &byte, 1, 0), -1);
        assert_true(errno == EIO || errno == ENOTCONN);
        (void)close(held);
        (void)vm_call(vm, "umount", m, NULL); /* it may have gone by itself */
        assert_false(is_mounted(vm, m));
    }
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cat file"), "x\n");
}

/* From its kill on the process stands at its end, with all that it has open. */
static void hold_end(int pid)
{
    if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)(uintptr_t)PTRACE_O_TRACEEXIT) < 0) {
        print_message("ptrace, which not every container lets: %s\n", strerror(errno));
        skip();
    }
}

static bool is_at_its_end(void *arg)
{
    const int *pid = arg;
    int status, r = waitpid(*pid, &status, __WALL | WNOHANG);
    assert_true(r >= 0);
    return r == *pid && status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8);
}

static void await_end(int pid)
{
    vm_wait("QEMU is killed", is_at_its_end, &pid);
}

static void let_end(int pid)
{
    assert_int_equal(ptrace(PTRACE_DETACH, pid, NULL, NULL), 0);
}

struct opener {
    struct vm *vm;
    const struct vm_process *process;
    const char *program, *disk;
};

/* The process that is to serve or run it has its disk open; or the command has ended. */
static bool has_opened_or_ended(void *arg)
{
    const struct opener *o = arg;
    return *vm_host(o->vm,
                    "[ -e /proc/%d/exe ] || echo ended; for p in $(pgrep -f -- '%s'); do "
                    "ls -l /proc/$p/fd 2>/dev/null | grep -F %s || true; done",
                    o->process->pid, o->program, o->disk) != '\0';
}

/* Runs the command while the QEMU stands at its end: it has to wait for that. */
static void works_after_the_end(struct vm *vm, int qemu, const char *program, const char *disk,
                                const char *const *argv)
{
    struct vm_process *process = vm_start(vm, argv);
    struct opener opener = {vm, process, program, disk};
    vm_wait("its disk is opened", has_opened_or_ended, &opener);
    let_end(qemu);
    assert_int_equal(vm_finish(process), 0);
}

/* Whose launcher was killed has let go of its lock before its QEMU has let go of the disk. */
static void a_qemu_that_is_ending_is_waited_for(void **state)
{
    struct vm *vm = *state;
    const char *s = stopped(vm, "echo x >file"), *m = mount_it(vm, s, NULL);
    int qemu = helper_pid(vm, s, "qemu_pid");
    hold_end(qemu);
    assert_int_equal(kill(helper_pid(vm, s, "launcher_pid"), SIGKILL), 0);
    await_end(qemu);
    wait_unused(vm, s);
    (void)vm_call(vm, "umount", m, NULL);
    works_after_the_end(vm, qemu, "^bellglass-supervisor run ", disk_of(vm, s),
                        (const char *const[]){"start", s, NULL});
    qemu = vm_pid(vm, s, "qemu_pid");
    hold_end(qemu);
    assert_int_equal(kill(vm_pid(vm, s, "launcher_pid"), SIGKILL), 0);
    await_end(qemu);
    vm_wait_state(vm, s, "crashed");
    m = new_folder(vm);
    works_after_the_end(vm, qemu, "^bellglass-supervisor files ", disk_of(vm, s),
                        (const char *const[]){"mount", s, m, NULL});
    assert_string_equal(vm_read(vm, vm_text(vm, "%s/home/app/file", m), NULL), "x\n");
    (void)vm_ok(vm, "umount", m, NULL);
}

static void a_kill_of_all_in_the_middle_of_writing_is_repaired(void **state)
{
    struct vm *vm = *state;
    const char *s = stopped(vm, "echo before >file");
    const char *m = mount_it(vm, s, "--rw");
    const char *const argv[] = {
        "/bin/bash", "-c",
        vm_text(
            vm,
            "cd %s/home/app; mkdir w; cd w; for i in $(seq 300); do echo $i >$i; done; "
            "sync [0-9]* . ..; echo written; while echo $i >$i; do i=$((i + 1)); done 2>/dev/null",
            m),
        NULL};
    struct vm_process *writer = vm_start_program(vm, argv);
    vm_expect(writer, "written");
    int pids[5] = {helper_pid(vm, s, "launcher_pid"), helper_pid(vm, s, "supervisor_pid"),
                   helper_pid(vm, s, "qemu_pid"), 0, 0};
    vm_mount_pids(vm, m, pids + 3);
    for (size_t i = 0; i < 5; i++)
        (void)kill(pids[i], SIGKILL); /* one may have gone with another */
    (void)vm_finish(writer);
    (void)vm_call(vm, "umount", m, NULL);
    assert_false(is_mounted(vm, m));
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s,
                                 "cat file; seq 300 >want; (cd w; cat $(seq 300)) | cmp - want; "
                                 "dmesg | grep -c 'EXT4-fs error' || true"),
                        "before\n0\n");
    assert_string_equal(helper_id(vm, s), "");
}

static void it_ends_with_its_mount(void **state)
{
    struct vm *vm = *state;
    const char *s = stopped(vm, "echo x >file");
    for (int i = 0; i < 2; i++) {
        const char *m = mount_it(vm, s, "--rw");
        int pids[2];
        vm_mount_pids(vm, m, pids);
        assert_int_equal(kill(pids[i], SIGKILL), 0);
        wait_unused(vm, s);
        (void)vm_call(vm, "umount", m, NULL);
        assert_false(is_mounted(vm, m));
    }
    /* What is open in a mount that was taken away keeps both alive. */
    const char *m = mount_it(vm, s, "--rw");
    int held = open(vm_text(vm, "%s/home/app/file", m), O_RDWR | O_CLOEXEC);
    assert_true(held >= 0);
    (void)vm_ok(vm, "umount", m, NULL);
    assert_int_equal(pwrite(held, "y", 1, 0), 1);
    (void)close(held);
    wait_unused(vm, s);
    assert_string_equal(vm_ok(vm, "cp", vm_text(vm, "%s:file", s), vm_path(vm, "got"), NULL), "");
    assert_string_equal(vm_read(vm, vm_path(vm, "got"), NULL), "y\n");
}

static void removing_the_sandbox_ends_it(void **state)
{
    struct vm *vm = *state;
    const char *s = stopped(vm, "echo x >file");
    const char *m = mount_it(vm, s, "--rw");
    int held = open(vm_text(vm, "%s/home/app/file", m), O_RDONLY | O_CLOEXEC);
    int pid = helper_pid(vm, s, "launcher_pid");
    (void)vm_ok(vm, "rm", s, NULL);
    assert_false(is_mounted(vm, m));
    assert_string_equal(vm_state(vm, s), "gone");
    vm_wait_gone(pid);
    (void)close(held);
}

static void an_interrupted_start_leaves_nothing(void **state)
{
    struct vm *vm = *state;
    const char *s = stopped(vm, "true");
    const char *m = new_folder(vm);
    const char *const argv[] = {"mount", s, m, NULL};
    struct vm_process *process = vm_start(vm, argv);
    if (vm_stop(process, SIGINT) == 0) /* it was faster */
        (void)vm_ok(vm, "umount", m, NULL);
    wait_unused(vm, s);
    (void)vm_ok(vm, "start", s, NULL);
}

static void an_image_is_read_only(void **state)
{
    struct vm *vm = *state;
    const char *m = new_folder(vm);
    vm_refused(vm, "read-only", "mount", "--image", "--rw", "debian", m, NULL);
    vm_refused(vm, "no-such", "mount", "--image", "no-such", m, NULL);
    (void)vm_ok(vm, "mount", "--image", "debian:/etc", m, NULL);
    assert_non_null(strstr(vm_read(vm, vm_text(vm, "%s/debian_version", m), NULL), "."));
    assert_int_equal(open(vm_text(vm, "%s/new", m), O_WRONLY | O_CREAT | O_CLOEXEC, 0644), -1);
    assert_int_equal(errno, EROFS);
    assert_string_equal(
        vm_host(vm, "cat %s/hostname %s/machine-id 2>/dev/null | grep -c golden || true", m, m),
        "0\n"); /* as it was built, not as it was booted */
    /* Images belong to no installation: those of a test beside this one are listed too. */
    json_t *mounts = vm_json(vm, "mount", "--json", NULL);
    const json_t *ours = NULL;
    for (size_t i = 0; i < json_array_size(mounts); i++) {
        const json_t *one = json_array_get(mounts, i);
        if (strcmp(json_string_value(json_object_get(one, "dir")), m) == 0)
            ours = one;
    }
    assert_non_null(ours);
    assert_true(json_is_true(json_object_get(ours, "image")));
    assert_true(json_is_true(json_object_get(ours, "read_only")));
    json_decref(mounts);
    assert_non_null(strstr(vm_ok(vm, "mount", NULL), m));
    (void)vm_ok(vm, "umount", m, NULL);
}

/* What doctor has to say about leftovers. */
static const char *leftovers(struct vm *vm, const char *option)
{
    const char *const argv[] = {"doctor", option, NULL};
    const char *line = strstr(vm_call_with(vm, argv, NULL, 0)->out, "leftovers");
    assert_non_null(line);
    return line;
}

static void doctor_knows_what_is_left(void **state)
{
    struct vm *vm = *state;
    const char *s = stopped(vm, "echo x >file");
    const char *m = mount_it(vm, s, NULL), *m2 = new_folder(vm);
    (void)vm_ok(vm, "mount", "--image", "debian", m2, NULL);
    assert_non_null(strstr(leftovers(vm, "--fix"), "nothing was left"));
    assert_true(is_mounted(vm, m) && is_mounted(vm, m2));
    /* The helper's socket and the dead mount are what a kill leaves. */
    int launcher = helper_pid(vm, s, "launcher_pid");
    assert_int_equal(kill(launcher, SIGKILL), 0);
    vm_wait_gone(launcher);
    wait_unused(vm, s);
    assert_string_not_equal(helper_id(vm, s), "");
    (void)leftovers(vm, "--fix");
    assert_string_equal(helper_id(vm, s), "");
    assert_false(is_mounted(vm, m));
    assert_true(is_mounted(vm, m2));
    assert_int_equal(access(vm_text(vm, "%s/bin", m2), F_OK), 0);
    (void)vm_ok(vm, "umount", m2, NULL);
}

static void copies_wait_for_each_other(void **state)
{
    struct vm *vm = *state;
    const char *s = stopped(vm, "mkdir d");
    const char *file = vm_path(vm, "one");
    vm_write(file, "one\n", 4);
    struct vm_process *processes[3];
    for (int i = 0; i < 3; i++) {
        const char *const argv[] = {"cp", file, vm_text(vm, "%s:d/%d", s, i), NULL};
        processes[i] = vm_start(vm, argv);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(vm_finish(processes[i]), 0);
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cat d/0 d/1 d/2"), "one\none\none\n");
}

static void files_can_be_copied(void **state)
{
    struct vm *vm = *state;
    const char *s = stopped(vm, "mkdir -p d/e; echo deep >d/e/f; ln -s /etc/passwd d/link");
    const char *before = hash(vm, disk_of(vm, s));
    const char *out = vm_path(vm, "out");
    (void)vm_ok(vm, "cp", vm_text(vm, "%s:d", s), out, NULL);
    assert_string_equal(vm_host(vm, "cat %s/e/f; readlink %s/link", out, out),
                        "deep\n/etc/passwd\n");
    assert_string_equal(hash(vm, disk_of(vm, s)), before);
    (void)vm_host(vm, "mkdir %s/more; seq 500 | (cd %s/more; xargs touch); echo new >%s/e/f", out,
                  out, out);
    (void)vm_ok(vm, "cp", out, vm_text(vm, "%s:back", s), NULL);
    (void)vm_ok(vm, "cp", "-u", "root", vm_text(vm, "%s/e/f", out), vm_text(vm, "%s:/srv/f", s),
                NULL);
    refused_later(vm, "no/such", "cp", vm_text(vm, "%s:no/such", s), out, NULL);
    refused_later(vm, "nobody-here", "cp", "-u", "nobody-here", vm_text(vm, "%s:d", s), out, NULL);
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s,
                                 "cat back/e/f /srv/f; ls back/more | wc -l; stat -c %%U "
                                 "back/e/f /srv/f"),
                        "new\nnew\n500\napp\nroot\n");
}

/* Replaces the disk by what the script makes at $disk. */
static void replace_disk(struct vm *vm, const char *sandbox, const char *script)
{
    (void)vm_host(vm, "disk=%s; rm $disk; %s", disk_of(vm, sandbox), script);
}

static void a_disk_of_garbage_is_refused(void **state)
{
    struct vm *vm = *state;
    const char *s = stopped(vm, "true");
    const char *m = new_folder(vm);
    replace_disk(vm, s,
                 "head -c 3000000 /dev/urandom >$disk.raw; truncate -s 10G $disk.raw; "
                 "qemu-img convert -q -f raw -O qcow2 $disk.raw $disk; rm $disk.raw");
    refused_later(vm, "file system", "mount", s, m, NULL);
    refused_later(vm, "file system", "mount", "--rw", s, m, NULL);
    refused_later(vm, "file system", "cp", vm_text(vm, "%s:x", s), m, NULL);
    replace_disk(vm, s, "head -c 3000000 /dev/urandom >$disk");
    refused_later(vm, "not a qcow2", "mount", s, m, NULL);
    assert_false(is_mounted(vm, m));
    assert_string_equal(helper_id(vm, s), "");
}

static void names_of_files_in_a_disk_are_not_followed(void **state)
{
    struct vm *vm = *state;
    const char *s = stopped(vm, "true");
    /* With these bytes at the place of the file system it could not be mounted. */
    const char *bait = vm_path(vm, "bait");
    (void)vm_host(vm, "head -c 20000000 /dev/urandom >%s", bait);
    replace_disk(vm, s, vm_text(vm, "qemu-img create -q -f qcow2 -F raw -b %s $disk 10G", bait));
    const char *m = mount_it(vm, s, NULL);
    assert_non_null(strstr(vm_host(vm, "cat %s/etc/os-release", m), "debian"));
    (void)vm_ok(vm, "umount", m, NULL);
    replace_disk(
        vm, s,
        vm_text(vm, "qemu-img create -q -f qcow2 -o data_file=%s $disk 10G >/dev/null", bait));
    refused_later(vm, "another file", "mount", s, m, NULL);
}

static void damage_is_refused_or_repaired(void **state)
{
    struct vm *vm = *state;
    const char *s = stopped(vm, "mkdir d; echo x >d/f; echo y >g");
    const char *m = new_folder(vm);
    /* A folder of noise, in a file system that says of itself that it has errors. */
    const char *dir = vm_sandbox_dir(vm, s);
    (void)vm_host(vm,
                  "cd %s; PATH=$PATH:/sbin; qemu-img convert -q -O raw disk.qcow2 flat; "
                  "b=$(debugfs -R 'blocks /home/app/d' flat 2>/dev/null | head -n 1); dd "
                  "if=/dev/urandom of=flat bs=4096 seek=$((b)) count=1 conv=notrunc 2>/dev/null; "
                  "debugfs -w -R 'ssv state 2' flat 2>/dev/null; qemu-img convert -q -O qcow2 flat "
                  "disk.qcow2; rm flat",
                  dir);
    refused_later(vm, "--force", "mount", "--rw", s, m, NULL);
    (void)vm_ok(vm, "mount", "--rw", "--force", s, m, NULL);
    (void)vm_ok(vm, "umount", m, NULL);
    assert_int_equal(access(vm_text(vm, "%s/disk.before-repair.qcow2", dir), F_OK), 0);
    (void)vm_ok(vm, "mount", "--rw", "--as-root", s, m, NULL);
    assert_string_equal(vm_host(vm, "cat %s/home/app/g %s/lost+found/*", m, m), "y\nx\n");
    (void)vm_ok(vm, "umount", m, NULL);
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, cmocka_unit_test(a_stopped_one_is_seen_as_it_was_left),
        cmocka_unit_test(a_crashed_one_is_seen_after_its_journal),
        cmocka_unit_test(a_stopped_one_can_be_changed),
        cmocka_unit_test(a_dead_helper_is_an_io_error),
        cmocka_unit_test(a_qemu_that_is_ending_is_waited_for),
        cmocka_unit_test(a_kill_of_all_in_the_middle_of_writing_is_repaired),
        cmocka_unit_test(it_ends_with_its_mount), cmocka_unit_test(removing_the_sandbox_ends_it),
        cmocka_unit_test(an_interrupted_start_leaves_nothing),
        cmocka_unit_test(an_image_is_read_only), cmocka_unit_test(files_can_be_copied),
        cmocka_unit_test(copies_wait_for_each_other), cmocka_unit_test(doctor_knows_what_is_left),
        cmocka_unit_test(a_disk_of_garbage_is_refused),
        cmocka_unit_test(names_of_files_in_a_disk_are_not_followed),
        cmocka_unit_test(damage_is_refused_or_repaired))
