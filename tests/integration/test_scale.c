/* Many at once: fifty forks that run, two hundred that sleep, and what a command does for one of
 * them when there are many others. */
#include "tests/lib/vm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define RUNNING           50
#define SLEEPING          200
#define CHILD_PRIVATE_KIB (96 * 1024) /* of a fork of a guest of 256 MiB */

/* ---- memory ---- */

static long private_kib(struct vm *vm, int pid)
{
    const char *text = vm_host(vm, "cat /proc/%d/smaps_rollup", pid);
    const char *found = strstr(text, "\nPrivate_Dirty:");
    assert_non_null(found);
    return strtol(found + strlen("\nPrivate_Dirty:"), NULL, 10);
}

/* ---- system calls ---- */

static void child_stopped(pid_t pid, int status, unsigned long *calls)
{
    int number = WSTOPSIG(status);
    if (number == (SIGTRAP | 0x80)) {
        ++*calls; /* at its entry and at its exit */
        number = 0;
    } else if (number == SIGTRAP || number == SIGSTOP) {
        number = 0; /* of the tracing itself */
    }
    (void)ptrace(PTRACE_SYSCALL, pid, 0, number); /* one that has just died is waited for */
}

/* Runs the command to its end and counts what it and its children ask of the kernel. */
static unsigned long system_calls(struct vm *vm, const char *const *argv)
{
    unsigned long calls = 0;
    char *all[16] = {vm->bellglass};
    for (size_t i = 0; argv[i]; i++)
        memcpy(&all[i + 1], &argv[i], sizeof argv[i]); /* execv writes to none of them */
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        /* A sanitizer's search for leaks traces too, which can be done once only. */
        const char *asan = getenv("ASAN_OPTIONS");
        (void)setenv("ASAN_OPTIONS", vm_text(vm, "%s:detect_leaks=0", asan ? asan : ""), 1);
        if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0 || raise(SIGSTOP) != 0)
            _exit(126);
        (void)execv(vm->bellglass, all);
        _exit(126);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSTOPPED(status));
    assert_int_equal(ptrace(PTRACE_SETOPTIONS, child, 0,
                            PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                                PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL),
                     0);
    assert_int_equal(ptrace(PTRACE_SYSCALL, child, 0, 0), 0);
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        assert_true(pid > 0);
        if (WIFSTOPPED(status))
            child_stopped(pid, status, &calls);
        else if (pid == child)
            break;
    }
    assert_int_equal(vm_status_of(status), 0);
    return calls;
}

/* ---- tests ---- */

/* Not all with one command: it says nothing before the last one runs, which takes long here. */
static const char *fork_many(struct vm *vm, const char *snapshot, size_t count, size_t at_once)
{
    const char *names = "";
    assert_int_equal(count % at_once, 0);
    for (size_t i = 0; i < count; i += at_once)
        names = vm_text(vm, "%s%s", names,
                        vm_ok(vm, "fork", "-q", "-n", vm_text(vm, "%zu", at_once), snapshot, NULL));
    return names;
}

static char **split(struct vm *vm, const char *lines, size_t count)
{
    char **names = vm_keep(vm, calloc(count + 1, sizeof *names)), *rest = NULL;
    char *copy = vm_keep(vm, strdup(lines));
    size_t n = 0;
    for (char *name = strtok_r(copy, "\n", &rest); name; name = strtok_r(NULL, "\n", &rest)) {
        assert_true(n < count);
        names[n++] = name;
    }
    assert_int_equal(n, count);
    return names;
}

static void remove_all(struct vm *vm, char **names)
{
    for (size_t i = 0; names[i]; i += 25) {
        const char *argv[32] = {"rm", "--force"};
        for (size_t k = 0; k < 25 && names[i + k]; k++)
            argv[2 + k] = names[i + k];
        (void)vm_ok_with(vm, argv);
    }
}

static void fifty_forks_of_one_snapshot_run(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox_with(vm, "--memory", "256M", NULL);
    (void)vm_guest(vm, s, "echo all of us have this >mark");
    (void)vm_ok(vm, "snapshot", s, "many", NULL);
    char **names = split(vm, fork_many(vm, vm_text(vm, "%s@many", s), RUNNING, 10), RUNNING);
    long sum = 0;
    for (size_t i = 0; i < RUNNING; i++)
        sum += private_kib(vm, vm_pid(vm, names[i], "qemu_pid"));
    print_message("%d forks: %ld MiB of private memory\n", RUNNING, sum / 1024);
    assert_true(sum < (long)RUNNING * CHILD_PRIVATE_KIB);
    for (size_t i = 0; i < RUNNING; i += 7)
        assert_string_equal(vm_guest(vm, names[i], "cat mark; hostname"),
                            vm_text(vm, "all of us have this\n%s\n", names[i]));
    remove_all(vm, names);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@many", s), NULL);
}

static void what_is_done_for_one_does_not_grow_with_the_others(void **state)
{
    struct vm *vm = *state;
    static const char *const one = "one", *const snapshot = "one@kept";
    const char *s = vm_sandbox_with(vm, "--memory", "256M", NULL);
    (void)vm_ok(vm, "snapshot", s, "source", NULL);
    const char *source = vm_text(vm, "%s@source", s);
    const char *const fork_one[] = {"fork", "-q", "--no-start", source, one, NULL},
                      *const inspect[] = {"inspect", one, NULL},
                      *const keep[] = {"snapshot", "-q", one, "kept", NULL},
                      *const drop[] = {"snapshot", "rm", "-q", snapshot, NULL},
                      *const remove[] = {"rm", one, NULL};
    const char *const *const commands[] = {fork_one, inspect, keep, drop, remove};
    unsigned long few[5], many[5];
    char **names = NULL;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < 5; i++)
            (round == 0 ? few : many)[i] = system_calls(vm, commands[i]);
        if (round > 0)
            break;
        names =
            split(vm, vm_ok(vm, "fork", "-q", "--no-start", "-n", "200", source, NULL), SLEEPING);
        for (size_t i = 0; i < SLEEPING; i++)
            (void)vm_ok(vm, "snapshot", "-q", names[i], "1", NULL);
    }
    for (size_t i = 0; i < 5; i++)
        print_message("%s: %lu and %lu system calls\n", commands[i][0], few[i] / 2, many[i] / 2);
    /* A name that was made up may be longer, and waiting may be interrupted. */
    for (size_t i = 0; i < 5; i++)
        assert_in_range(many[i], few[i] - few[i] / 10, few[i] + few[i] / 10);
    assert_string_equal(vm_host(vm, "%s ls | grep -c suspended", vm->bellglass),
                        vm_text(vm, "%d\n", SLEEPING));
    for (size_t i = 0; i < SLEEPING; i++)
        (void)vm_ok(vm, "snapshot", "rm", "-q", vm_text(vm, "%s@1", names[i]), NULL);
    remove_all(vm, names);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    (void)vm_ok(vm, "snapshot", "rm", source, NULL);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(fifty_forks_of_one_snapshot_run),
        cmocka_unit_test(what_is_done_for_one_does_not_grow_with_the_others))
