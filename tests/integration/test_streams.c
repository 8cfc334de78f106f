/* Every kind of stream of a sandbox, while snapshots of it are taken: nothing ends, no byte is lost
 * or doubled. What runs in the streams is clients/across.py, which checks all that it moves. */
#include "tests/lib/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PYTHON    "/usr/bin/python3"
#define SNAPSHOTS 10
#define OWNER     4242 /* of the shared folder, where the test is root */

static const char *script(struct vm *vm)
{
    const char *folder = getenv("BG_TEST_CLIENTS");
    return vm_text(vm, "%s/across.py", folder ? folder : "tests/integration/clients");
}

/* On the host, with what follows the mode. */
static struct vm_process *start_here(struct vm *vm, const char *mode, const char *first, ...)
{
    const char *argv[VM_ARGS_MAX] = {PYTHON, "-B", script(vm), mode};
    va_list args;
    size_t count = 4;
    va_start(args, first);
    for (const char *a = first; a; a = va_arg(args, const char *))
        argv[count++] = a;
    va_end(args);
    argv[count] = NULL;
    return vm_start_program(vm, argv);
}

/* In the guest. */
static struct vm_process *start_there(struct vm *vm, const char *s, const char *command)
{
    const char *const argv[] = {
        "exec", s, "--", "sh", "-c", vm_text(vm, "exec python3 -B across.py %s", command), NULL};
    return vm_start(vm, argv);
}

static void take_snapshots(struct vm *vm, const char *s, const char *prefix, int count)
{
    for (int i = 0; i < count; i++) {
        const char *tag = vm_text(vm, "%s%d", prefix, i);
        (void)vm_ok(vm, "snapshot", s, tag, NULL);
        (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@%s", s, tag), NULL);
    }
}

static void expect_good(struct vm_process *process)
{
    vm_expect(process, "good ");
    assert_int_equal(vm_finish(process), 0);
}

static void bring_script(struct vm *vm, const char *s)
{
    (void)vm_ok(vm, "cp", script(vm), vm_text(vm, "%s:/home/app/across.py", s), NULL);
}

static const char *control_socket(struct vm *vm, const char *s)
{
    json_t *about = vm_json(vm, "inspect", s, NULL);
    const char *id = json_string_value(json_object_get(json_array_get(about, 0), "id"));
    if (!id)
        id = json_string_value(json_object_get(about, "id"));
    assert_non_null(id);
    const char *path = vm_text(vm, "%s/run/%s.sock", vm->home, id);
    json_decref(about);
    return path;
}

static void commands_and_forwards_go_on(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm), *stop = vm_path(vm, "stop-here");
    bring_script(vm, s);
    struct vm_process *echo = start_there(vm, s, "echo 8000");
    vm_expect(echo, "ready");
    struct vm_process *all[] = {
        start_here(vm, "pipe", stop, vm->bellglass, "exec", s, "--", "cat", NULL),
        start_here(vm, "forward", stop, control_socket(vm, s), "8000", NULL),
    };
    const char *const terminal[] = {
        "exec", "-t", s, "--", "sh", "-c", "while read l; do echo \"<$l>\"; done", NULL};
    struct vm_process *tty = vm_start_terminal(vm, 24, 80, terminal);
    for (size_t i = 0; i < 2; i++)
        vm_expect(all[i], "going");
    for (int i = 0; i < SNAPSHOTS; i++) {
        const char *line = vm_text(vm, "line %d\n", i);
        vm_send(tty, line, strlen(line));
        take_snapshots(vm, s, vm_text(vm, "c%d-", i), 1);
        vm_expect(tty, vm_text(vm, "<line %d>", i));
    }
    vm_write(stop, "", 0);
    for (size_t i = 0; i < 2; i++)
        expect_good(all[i]);
    vm_send(tty, "\4", 1);
    assert_int_equal(vm_finish(tty), 0);
    (void)vm_stop(echo, 15);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void mounts_and_shares_go_on(void **state)
{
    struct vm *vm = *state;
    const char *shared = vm_path(vm, "shared"), *stop = vm_path(vm, "stop-files");
    assert_int_equal(mkdir(shared, 0755), 0);
    if (geteuid() == 0)
        assert_int_equal(chown(shared, OWNER, OWNER), 0);
    const char *s =
        vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/home/app/shared", shared), NULL);
    bring_script(vm, s);
    const char *folder = vm_path(vm, "mounted");
    assert_int_equal(mkdir(folder, 0755), 0);
    (void)vm_guest(vm, s, "mkdir work");
    (void)vm_ok(vm, "mount", vm_text(vm, "%s:/home/app/work", s), folder, NULL);
    struct vm_process *mounted = start_here(vm, "files", stop, folder, NULL);
    struct vm_process *share = start_there(vm, s, "files stop shared");
    vm_expect(mounted, "going");
    vm_expect(share, "going");
    take_snapshots(vm, s, "f", SNAPSHOTS);
    vm_write(stop, "", 0);
    expect_good(mounted);
    (void)vm_guest(vm, s, "touch stop");
    expect_good(share);
    (void)vm_ok(vm, "umount", folder, NULL);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void copies_and_new_streams_go_on(void **state)
{
    struct vm *vm = *state;
    const char *s, *stop = vm_path(vm, "stop-copies"), *layered = vm_path(vm, "layered");
    const char *copied = vm_path(vm, "copied");
    assert_int_equal(mkdir(copied, 0755), 0);
    assert_int_equal(mkdir(layered, 0755), 0);
    (void)vm_host(vm, "seq 1 1000 >%s/file", layered);
    if (geteuid() == 0)
        (void)vm_host(vm, "chown -R %d:%d %s", OWNER, OWNER, layered);
    s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/home/app/layered:cow", layered), NULL);
    (void)vm_guest(vm, s, "cd layered; for i in $(seq 1 200); do echo $i >new-$i; done");
    const char *const watching[] = {"watch", s, "/home/app", NULL};
    struct vm_process *watch = vm_start(vm, watching);
    /* It does not say when it has begun. */
    (void)vm_guest(vm, s,
                   "while [ ! -e watched ]; do rm -f begun; touch begun; sleep 0.2; done "
                   ">/dev/null 2>&1 </dev/null &");
    vm_expect(watch, "begun");
    (void)vm_guest(vm, s, "touch watched");
    struct vm_process *all[] = {
        start_here(vm, "copies", stop, copied, s, vm->bellglass, NULL),
        start_here(vm, "again", stop, vm->bellglass, "exec", s, "--", "true", NULL),
        start_here(vm, "again", stop, vm->bellglass, "diff", s, NULL),
    };
    for (size_t i = 0; i < 3; i++)
        vm_expect(all[i], "going");
    for (int i = 0; i < SNAPSHOTS; i++) {
        take_snapshots(vm, s, vm_text(vm, "n%d-", i), 1);
        (void)vm_guest(vm, s, "touch seen-%d", i);
        vm_expect(watch, vm_text(vm, "seen-%d", i));
    }
    vm_write(stop, "", 0);
    for (size_t i = 0; i < 3; i++)
        expect_good(all[i]);
    (void)vm_stop(watch, 2);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void transfers_through_the_proxy_go_on(void **state)
{
    struct vm *vm = *state;
    struct vm_process *server = start_here(vm, "serve", NULL);
    int port;
    vm_expect(server, "\n");
    /* Its own line, in a fixed form. NOLINTNEXTLINE(cert-err34-c) */
    assert_int_equal(sscanf(server->text, "port %d", &port), 1);
    const char *s =
        vm_sandbox_with(vm, "--allow", vm_text(vm, "across.test:%d=127.0.0.1", port), NULL);
    bring_script(vm, s);
    struct vm_process *up = start_there(vm, s, vm_text(vm, "upload stop across.test %d", port));
    struct vm_process *down = start_there(vm, s, vm_text(vm, "download stop across.test %d", port));
    vm_expect(up, "going");
    vm_expect(down, "going");
    take_snapshots(vm, s, "p", SNAPSHOTS);
    (void)vm_guest(vm, s, "touch stop");
    expect_good(up);
    expect_good(down);
    (void)vm_stop(server, 15);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, cmocka_unit_test(commands_and_forwards_go_on),
        cmocka_unit_test(mounts_and_shares_go_on), cmocka_unit_test(copies_and_new_streams_go_on),
        cmocka_unit_test(transfers_through_the_proxy_go_on))
