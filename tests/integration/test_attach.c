/* Commands that live on without the connection that they were begun on: left, in a fork, and while
 * their sandbox sleeps. */
#include "tests/lib/vm.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *begin(struct vm *vm, const char *sandbox, const char *first, const char *second)
{
    const char *pid = vm_ok(vm, "exec", "-d", sandbox, "--", first, second, NULL);
    assert_true(strlen(pid) > 1 && pid[strlen(pid) - 1] == '\n');
    return vm_text(vm, "%.*s", (int)strlen(pid) - 1, pid);
}

static struct vm_process *attach(struct vm *vm, const char *sandbox, const char *pid)
{
    return vm_start(vm, (const char *const[]){"attach", sandbox, pid, NULL});
}

/* What `ps` says of the process. */
static json_t *info_of(struct vm *vm, const char *sandbox, const char *pid)
{
    json_t *list = vm_json(vm, "ps", "--json", sandbox, NULL), *info;
    size_t i;
    json_array_foreach(list, i, info)
    {
        if (json_integer_value(json_object_get(info, "pid")) == strtoll(pid, NULL, 10)) {
            json_incref(info);
            json_decref(list);
            return info;
        }
    }
    json_decref(list);
    return NULL;
}

struct command {
    struct vm *vm;
    const char *sandbox, *pid;
};

static bool is_attached(void *arg)
{
    const struct command *c = arg;
    json_auto_t *info = info_of(c->vm, c->sandbox, c->pid);
    return json_is_true(json_object_get(info, "attached"));
}

static void is_left_and_attached_to_again(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    const char *pid = begin(vm, s, "python3", "-qui");
    struct vm_process *p = attach(vm, s, pid);
    vm_send(p, "x = 40; print('ready')\n", 23);
    vm_expect(p, "ready\n");
    json_t *info = info_of(vm, s, pid);
    assert_true(json_is_true(json_object_get(info, "attached")));
    assert_false(json_is_true(json_object_get(info, "tty")));
    assert_string_equal(json_string_value(json_object_get(info, "command")), "python3 -qui");
    json_decref(info);
    vm_refused(vm, "attached", "attach", s, pid, NULL);
    struct vm_process *thief =
        vm_start(vm, (const char *const[]){"attach", "--steal", s, pid, NULL});
    vm_send(thief, "print(x + 2)\n", 13);
    vm_expect(thief, "42\n");
    vm_expect(p, "somebody else");
    assert_int_equal(vm_finish(p), 125);
    assert_int_equal(vm_stop(thief, SIGKILL), 128 + SIGKILL); /* it lives on */
    struct vm_result *r;
    const char *const argv[] = {"attach", s, pid, NULL};
    static const char last[] = "import sys; print('end'); sys.exit(x)\n";
    do
        r = vm_call_with(vm, argv, last, strlen(last));
    while (strstr(r->err, "attached")); /* until the guest has seen the end of the one before */
    assert_int_equal(r->status, 40);
    assert_non_null(strstr(r->out, "end\n"));
    assert_null(info_of(vm, s, pid));
    vm_refused(vm, pid, "attach", s, pid, NULL);
}

static void keys_leave_a_terminal(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    const char *pid = vm_ok(vm, "exec", "-d", "-t", s, "--", "sh", NULL);
    pid = vm_text(vm, "%.*s", (int)strlen(pid) - 1, pid);
    const char *const argv[] = {"attach", s, pid, NULL};
    struct vm_process *p = vm_start_terminal(vm, 33, 99, argv);
    vm_send(p, "stty size; y=left\n", 18);
    vm_expect(p, "33 99");
    vm_send(p, "\x10\x11", 2);
    vm_expect(p, "bellglass attach");
    assert_int_equal(vm_finish(p), 0);
    p = vm_start_terminal(vm, 20, 80, argv);
    vm_send(p, "echo $y; exit 3\n", 16);
    vm_expect(p, "left\r\n");
    assert_int_equal(vm_finish(p), 3);
}

static void goes_on_in_each_fork(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm), *names[2];
    const char *pid = begin(vm, s, "python3", "-qui");
    struct vm_process *p = attach(vm, s, pid);
    vm_send(p, "x = ['here']; print(x)\n", 23);
    vm_expect(p, "['here']\n");
    for (size_t i = 0; i < 2; i++) {
        names[i] = vm_name(vm);
        (void)vm_ok(vm, "fork", "-q", s, names[i], NULL);
    }
    for (size_t i = 0; i < 2; i++) {
        struct vm_process *child = attach(vm, names[i], pid);
        const char *line = vm_text(vm, "x.append('%s'); print(x)\n", names[i]);
        vm_send(child, line, strlen(line));
        vm_expect(child, vm_text(vm, "['here', '%s']\n", names[i]));
        vm_send(child, "exit(0)\n", 8);
        assert_int_equal(vm_finish(child), 0);
    }
    vm_send(p, "print(x); exit(9)\n", 18); /* our own connection is still the same */
    vm_expect(p, "['here']\n");
    assert_int_equal(vm_finish(p), 9);
    (void)vm_ok(vm, "rm", "--force", s, names[0], names[1], NULL);
}

/* The file has the numbers from 1 on, each once and in order, and the notes of a sandbox that slept
 * beside them. */
static void check_numbers(struct vm *vm, const char *path)
{
    long count = 0;
    const char *line = vm_read(vm, path, NULL);
    for (; *line; line += strcspn(line, "\n") + 1)
        if (strtol(line, NULL, 10) != ++count)
            fail_msg("%.*s instead of %ld", (int)strcspn(line, "\n"), line, count);
    assert_true(count > 1000);
}

static void sleeps_with_its_sandbox(void **state)
{
    enum { INPUT = 4 << 20, SLEEPS = 4 };
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    struct vm_process *ask =
        vm_start(vm, (const char *const[]){"exec", s, "--", "sh", "-c",
                                           "echo $$; read x; echo got $x >&2; exit 7", NULL});
    const char *numbers = vm_path(vm, "numbers");
    struct vm_process *writer = vm_start_program(
        vm, (const char *const[]){
                "/bin/bash", "-c",
                vm_text(vm,
                        "'%s' exec %s -- sh -c 'i=0; until [ -e enough ]; do i=$((i + 1)); "
                        "echo $i; done; exit 6' >'%s'; echo $?",
                        vm->bellglass, s, numbers),
                NULL});
    struct vm_process *reader =
        vm_start(vm, (const char *const[]){"exec", s, "--", "sha256sum", NULL});
    struct vm_process *shell =
        vm_start_terminal(vm, 30, 90, (const char *const[]){"shell", s, NULL});
    vm_expect(ask, "\n");
    struct command asking = {vm, s, vm_text(vm, "%ld", strtol(ask->text, NULL, 10))};
    vm_send(shell, "z=kept; stty size\n", 18);
    vm_expect(shell, "30 90");
    static uint8_t input[INPUT];
    struct vm_noise noise = {.state = 11};
    vm_noise_fill(&noise, input, sizeof input);
    for (size_t i = 0; i < SLEEPS; i++) {
        vm_send(reader, input + i * (INPUT / SLEEPS), INPUT / SLEEPS);
        (void)vm_ok(vm, "suspend", "-q", s, NULL);
        vm_expect(ask, "is suspended");
        (void)vm_ok(vm, "resume", "-q", s, NULL);
        /* One that is not back before the next sleep has said it already. */
        vm_wait("the command is attached to again", is_attached, &asking);
    }
    vm_send(ask, "an answer\n", 10);
    vm_expect(ask, "got an answer\n");
    assert_int_equal(vm_finish(ask), 7);
    vm_send(shell, "echo $z; exit 5\n", 16);
    vm_expect(shell, "kept\r\n");
    assert_int_equal(vm_finish(shell), 5);
    const char *path = vm_path(vm, "input");
    vm_write(path, input, sizeof input);
    const char *sum = vm_host(vm, "sha256sum <'%s'", path);
    (void)close(reader->in);
    reader->in = -1;
    vm_expect(reader, sum);
    assert_int_equal(vm_finish(reader), 0);
    (void)vm_guest(vm, s, "touch enough");
    vm_expect(writer, "\n6\n");
    (void)vm_finish(writer);
    check_numbers(vm, numbers);
    /* Who gives up the wait is let go. */
    ask = vm_start(vm, (const char *const[]){"exec", s, "--", "sh", "-c", "echo on; read x", NULL});
    vm_expect(ask, "on\n");
    (void)vm_ok(vm, "suspend", "-q", s, NULL);
    vm_expect(ask, "is suspended");
    assert_int_equal(vm_stop(ask, SIGINT), 128 + SIGINT);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

/* What it knows besides its file, such as how to undo, is in memory alone. */
static void an_editor_sleeps_with_its_sandbox(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_ok(vm, "cp", "/usr/bin/vim.tiny", vm_text(vm, "%s:/home/app/vim", s), NULL);
    struct vm_process *editor =
        vm_start_terminal(vm, 24, 80,
                          (const char *const[]){"exec", s, "--", "env", "TERM=xterm", "./vim", "-u",
                                                "NONE", "-i", "NONE", "-N", "text", NULL});
    vm_send(editor, "ione\x1b:w\r", 8);
    vm_expect(editor, "4B written");
    (void)vm_ok(vm, "suspend", "-q", s, NULL);
    (void)vm_ok(vm, "resume", "-q", s, NULL);
    vm_send(editor, "otwo\x1b:w\r", 8);
    vm_expect(editor, "8B written");
    (void)vm_ok(vm, "suspend", "-q", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cat text"), "one\ntwo\n"); /* which wakes it */
    vm_send(editor, "u:w\r", 4);
    vm_expect(editor, "4B written");
    vm_send(editor, ":q\r", 3);
    assert_int_equal(vm_finish(editor), 0);
    assert_string_equal(vm_guest(vm, s, "cat text"), "one\n");
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void is_told_that_its_sandbox_is_gone(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    struct vm_process *p =
        vm_start(vm, (const char *const[]){"exec", s, "--", "sh", "-c", "echo on; read x", NULL});
    vm_expect(p, "on\n");
    (void)vm_ok(vm, "suspend", "-q", s, NULL);
    vm_expect(p, "is suspended");
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    vm_expect(p, "is removed");
    assert_int_equal(vm_finish(p), 125);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(is_left_and_attached_to_again),
        cmocka_unit_test(keys_leave_a_terminal), cmocka_unit_test(goes_on_in_each_fork),
        cmocka_unit_test(sleeps_with_its_sandbox),
        cmocka_unit_test(an_editor_sleeps_with_its_sandbox),
        cmocka_unit_test(is_told_that_its_sandbox_is_gone))
