/* exec and run: what goes in comes out, and how a command ended is told. */
#include "tests/lib/vm.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void passes_the_exit_status(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    assert_int_equal(vm_call(vm, "exec", s, "--", "true", NULL)->status, 0);
    assert_int_equal(vm_call(vm, "exec", s, "--", "false", NULL)->status, 1);
    assert_int_equal(vm_call(vm, "exec", s, "--", "sh", "-c", "exit 42", NULL)->status, 42);
    assert_int_equal(vm_call(vm, "exec", s, "--", "sh", "-c", "exit 255", NULL)->status, 255);
}

static void tells_signals_as_128_and_more(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    assert_int_equal(vm_call(vm, "exec", s, "--", "sh", "-c", "kill -KILL $$", NULL)->status, 137);
    assert_int_equal(vm_call(vm, "exec", s, "--", "sh", "-c", "kill -TERM $$", NULL)->status, 143);
}

static void says_why_a_command_cannot_start(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    const struct vm_result *r = vm_call(vm, "exec", s, "--", "no-such-command", NULL);
    assert_int_equal(r->status, 127);
    assert_non_null(strstr(r->err, "no-such-command"));
    r = vm_call(vm, "exec", s, "--", "/etc/passwd", NULL);
    assert_int_equal(r->status, 126);
    assert_non_null(strstr(r->err, "/etc/passwd"));
    vm_refused(vm, "/no/such/folder", "exec", "-w", "/no/such/folder", s, "--", "true", NULL);
    vm_refused(vm, "nobody-here", "exec", "-u", "nobody-here", s, "--", "true", NULL);
}

static void keeps_stdout_and_stderr_apart(void **state)
{
    struct vm *vm = *state;
    const struct vm_result *r =
        vm_call(vm, "exec", vm_shared(vm), "--", "sh", "-c", "echo out; echo err >&2", NULL);
    assert_int_equal(r->status, 0);
    assert_string_equal(r->out, "out\n");
    assert_string_equal(r->err, "err\n");
}

static void passes_every_byte_value(void **state)
{
    struct vm *vm = *state;
    uint8_t all[4096];
    for (size_t i = 0; i < sizeof all; i++)
        all[i] = (uint8_t)(i + i / 256);
    const char *const argv[] = {"exec", vm_shared(vm), "--", "cat", NULL};
    const struct vm_result *r = vm_call_with(vm, argv, all, sizeof all);
    assert_int_equal(r->status, 0);
    assert_int_equal(r->out_size, sizeof all);
    assert_memory_equal(r->out, all, sizeof all);
}

static void ends_stdin_when_ours_ends(void **state)
{
    struct vm *vm = *state;
    assert_string_equal(vm_ok(vm, "exec", vm_shared(vm), "--", "cat", NULL), "");
    const char *const argv[] = {"exec", vm_shared(vm), "--", "wc", "-c", NULL};
    assert_string_equal(vm_call_with(vm, argv, "12345", 5)->out, "5\n");
}

static void a_command_need_not_read_its_stdin(void **state)
{
    struct vm *vm = *state;
    static uint8_t much[4 << 20];
    const char *const argv[] = {"exec", vm_shared(vm), "--", "echo", "done", NULL};
    const struct vm_result *r = vm_call_with(vm, argv, much, sizeof much);
    assert_int_equal(r->status, 0);
    assert_string_equal(r->out, "done\n");
}

static void passes_arguments_byte_for_byte(void **state)
{
    struct vm *vm = *state;
    const struct vm_result *r = vm_call(vm, "exec", vm_shared(vm), "--", "printf", "[%s]", "",
                                        "a b", "\xff\xfe\x01", "'\"$x`\n", "-n", "--", NULL);
    assert_int_equal(r->status, 0);
    assert_string_equal(r->out, "[][a b][\xff\xfe\x01]['\"$x`\n][-n][--]");
}

static void runs_as_the_images_user_or_another(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    assert_string_equal(vm_ok(vm, "exec", s, "--", "sh", "-c", "id -un; pwd; echo $HOME", NULL),
                        "app\n/home/app\n/home/app\n");
    assert_string_equal(vm_ok(vm, "exec", "-u", "root", s, "--", "id", "-u", NULL), "0\n");
    assert_string_equal(vm_ok(vm, "exec", s, "--", "sudo", "id", "-u", NULL), "0\n");
    assert_string_equal(vm_ok(vm, "exec", "-w", "/usr/lib", s, "--", "pwd", NULL), "/usr/lib\n");
}

static void sets_the_environment(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox_with(vm, "-e", "OF_THE_SANDBOX=1 2", NULL);
    assert_string_equal(vm_ok(vm, "exec", "-e", "OF_THE_EXEC=\xff=", s, "--", "sh", "-c",
                              "echo \"$OF_THE_SANDBOX,$OF_THE_EXEC,$USER,$LANG\"", NULL),
                        "1 2,\xff=,app,C.UTF-8\n");
    /* The host's environment stays on the host. */
    assert_string_equal(vm_ok(vm, "exec", s, "--", "sh", "-c", "echo $BELLGLASS_HOME", NULL), "\n");
}

static void a_terminal_has_our_size_and_follows_it(void **state)
{
    struct vm *vm = *state;
    const char *const argv[] = {"exec", "-t", vm_shared(vm), "--", "sh", NULL};
    struct vm_process *p = vm_start_terminal(vm, 33, 77, argv);
    vm_send(p, "stty size\n", 10);
    vm_expect(p, "33 77");
    const struct winsize size = {.ws_row = 44, .ws_col = 99};
    assert_int_equal(ioctl(p->in, TIOCSWINSZ, &size), 0);
    /* The size travels beside the bytes typed here: ask until it has arrived. */
    static const char ask[] = "while [ \"$(stty size)\" != '44 99' ]; do :; done; echo ma''tches\n";
    vm_send(p, ask, sizeof ask - 1);
    vm_expect(p, "matches");
    vm_send(p, "exit 5\n", 7);
    assert_int_equal(vm_finish(p), 5);
}

static void only_t_makes_a_terminal(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    assert_int_equal(vm_call(vm, "exec", s, "--", "test", "-t", "1", NULL)->status, 1);
    const char *const argv[] = {"exec", "-t", s, "--", "sh", "-c", "test -t 0 && test -t 2", NULL};
    assert_int_equal(vm_finish(vm_start_terminal(vm, 24, 80, argv)), 0);
}

static void ctrl_c_reaches_the_command(void **state)
{
    struct vm *vm = *state;
    const char *const argv[] = {
        "exec",
        "-t",
        vm_shared(vm),
        "--",
        "sh",
        "-c",
        "trap 'echo caught; exit 9' INT; echo ready; while :; do read x; done",
        NULL};
    struct vm_process *p = vm_start_terminal(vm, 24, 80, argv);
    vm_expect(p, "ready");
    vm_send(p, "\x03", 1);
    vm_expect(p, "caught");
    assert_int_equal(vm_finish(p), 9);
}

static void signals_are_passed_on(void **state)
{
    struct vm *vm = *state;
    const char *const argv[] = {
        "exec", vm_shared(vm), "--",
        "sh",   "-c",          "trap 'exit 8' TERM; echo ready; while :; do sleep 0.1; done",
        NULL};
    struct vm_process *p = vm_start(vm, argv);
    vm_expect(p, "ready");
    assert_int_equal(vm_stop(p, SIGTERM), 8);
}

struct marked {
    struct vm *vm;
    const char *sandbox, *mark;
};

/* No process in the guest has the mark among its arguments. */
static bool mark_is_gone(void *arg)
{
    const struct marked *m = arg;
    const char *script =
        vm_text(m->vm, "grep -l -a '[m]%s' /proc/[0-9]*/cmdline || true", m->mark + 1);
    return vm_ok(m->vm, "exec", m->sandbox, "--", "sh", "-c", script, NULL)[0] == '\0';
}

/* Starts a command that sets children loose and ignores polite signals. */
static struct vm_process *start_stubborn(struct vm *vm, const char *mark, bool terminal)
{
    const char *script = vm_text(vm,
                                 "trap '' HUP TERM INT; (trap '' HUP TERM; exec sh -c 'while :; do "
                                 "sleep 1; done' %s) & echo ready; while :; do sleep 1; done",
                                 mark);
    const char *argv[10] = {"exec", vm_shared(vm), "--", "sh", "-c", script, mark, NULL};
    if (terminal) {
        memmove(argv + 2, argv + 1, 8 * sizeof *argv);
        argv[1] = "-t";
    }
    struct vm_process *p = terminal ? vm_start_terminal(vm, 24, 80, argv) : vm_start(vm, argv);
    vm_expect(p, "ready");
    return p;
}

static void a_killed_client_leaves_nothing_in_the_guest(void **state)
{
    struct vm *vm = *state;
    struct vm_process *p = start_stubborn(vm, "mark-one-", /* terminal= */ false);
    assert_int_equal(vm_stop(p, SIGKILL), 137);
    struct marked m = {vm, vm_shared(vm), "mark-one-"};
    vm_wait("the command is gone with its client", mark_is_gone, &m);
}

static void a_closed_terminal_leaves_nothing_in_the_guest(void **state)
{
    struct vm *vm = *state;
    struct vm_process *p = start_stubborn(vm, "mark-two-", /* terminal= */ true);
    (void)close(p->out);
    p->in = -1;
    p->out = -1;
    vm_wait_gone(p->pid);
    struct marked m = {vm, vm_shared(vm), "mark-two-"};
    vm_wait("the command is gone with its terminal", mark_is_gone, &m);
    (void)vm_finish(p);
}

static void children_left_in_the_background_live_on(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    (void)vm_ok(vm, "exec", s, "--", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $! >/tmp/left",
                NULL);
    (void)vm_ok(vm, "exec", s, "--", "sh", "-c", "kill $(cat /tmp/left)", NULL);
}

static void runs_once_and_leaves_nothing(void **state)
{
    struct vm *vm = *state;
    const struct vm_result *r = vm_call(vm, "run", "--", "sh", "-c", "echo $((6*7)); exit 3", NULL);
    assert_int_equal(r->status, 3);
    assert_string_equal(r->out, "42\n");
    assert_string_equal(vm_ok(vm, "run", "-e", "A=b", "--", "sh", "-c", "echo $A; id -un", NULL),
                        "b\napp\n");
    json_t *list = vm_json(vm, "ls", "--json", NULL);
    json_t *sandbox;
    size_t i;
    json_array_foreach(list, i, sandbox)
        assert_string_equal(json_string_value(json_object_get(sandbox, "name")), VM_SHARED);
    json_decref(list);
}

static void a_named_run_stays(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_name(vm);
    assert_string_equal(
        vm_ok(vm, "run", "--name", name, "--", "sh", "-c", "echo kept >f; cat f", NULL), "kept\n");
    assert_string_not_equal(vm_state(vm, name), "gone");
}

static bool only_shared_is_left(void *arg)
{
    struct vm *vm = arg;
    return vm_host(vm, "ls %s/state/sandboxes | { grep -v '^shared$' || true; }", vm->home)[0] ==
           '\0';
}

static void a_killed_run_leaves_nothing(void **state)
{
    struct vm *vm = *state;
    const char *const argv[] = {"run", "--", "sh", "-c", "echo up; sleep 1000", NULL};
    struct vm_process *p = vm_start(vm, argv);
    vm_expect(p, "up");
    (void)vm_stop(p, SIGKILL);
    /* The harness sees processes that stay; the folder is checked here. */
    vm_wait("the sandbox is gone", only_shared_is_left, vm);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(passes_the_exit_status),
        cmocka_unit_test(tells_signals_as_128_and_more),
        cmocka_unit_test(says_why_a_command_cannot_start),
        cmocka_unit_test(keeps_stdout_and_stderr_apart), cmocka_unit_test(passes_every_byte_value),
        cmocka_unit_test(ends_stdin_when_ours_ends),
        cmocka_unit_test(a_command_need_not_read_its_stdin),
        cmocka_unit_test(passes_arguments_byte_for_byte),
        cmocka_unit_test(runs_as_the_images_user_or_another),
        cmocka_unit_test(sets_the_environment),
        cmocka_unit_test(a_terminal_has_our_size_and_follows_it),
        cmocka_unit_test(only_t_makes_a_terminal), cmocka_unit_test(ctrl_c_reaches_the_command),
        cmocka_unit_test(signals_are_passed_on),
        cmocka_unit_test(a_killed_client_leaves_nothing_in_the_guest),
        cmocka_unit_test(a_closed_terminal_leaves_nothing_in_the_guest),
        cmocka_unit_test(children_left_in_the_background_live_on),
        cmocka_unit_test(runs_once_and_leaves_nothing), cmocka_unit_test(a_named_run_stays),
        cmocka_unit_test(a_killed_run_leaves_nothing))
