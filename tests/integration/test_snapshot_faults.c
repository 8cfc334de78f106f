/* A process that dies, or a write that fails, at any step of a snapshot, a suspend or a resume: the
 * sandbox goes on or can be started, nothing of its disk is lost, and every snapshot that the store
 * has is whole. */
#include "tests/lib/vm.h"

#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A process that holds a number, and a file that holds the same. */
static void leave_marks(struct vm *vm, const char *s)
{
    (void)vm_guest(
        vm, s,
        "echo kept >kept; sync; setsid sh -c 'X=kept; while :; do sleep 1; echo $X >said; "
        "done' >/dev/null 2>&1 </dev/null &");
}

static void check_memory(struct vm *vm, const char *s)
{
    assert_string_equal(
        vm_guest(vm, s, "rm -f said; until [ -s said ]; do sleep 0.2; done; cat said kept"),
        "kept\nkept\n");
}

/* The sandbox was started with the fault in its processes' environment. */
static const char *sandbox_with(struct vm *vm, const char *fault)
{
    (void)vm_shared(vm); /* the golden snapshot is made without the fault */
    assert_int_equal(setenv("BELLGLASS_FAULT", fault, 1), 0);
    const char *s = vm_sandbox(vm);
    assert_int_equal(unsetenv("BELLGLASS_FAULT"), 0);
    leave_marks(vm, s);
    return s;
}

/* Every snapshot that there is can be gone on from. */
static size_t expect_whole_store(struct vm *vm, const char *s)
{
    size_t mine = 0;
    (void)vm_call(vm, "doctor", "--fix", NULL);
    json_t *list = vm_json(vm, "snapshot", "ls", "--all", "--json", NULL);
    size_t i;
    json_t *one;
    json_array_foreach(list, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (strncmp(name, s, strlen(s)) != 0 || name[strlen(s)] != '@')
            continue;
        mine++;
        const char *child = vm_name(vm);
        (void)vm_ok(vm, "fork", name, child, NULL);
        check_memory(vm, child);
        (void)vm_ok(vm, "rm", "--force", child, NULL);
        (void)vm_ok(vm, "snapshot", "rm", name, NULL);
    }
    json_decref(list);
    assert_string_equal(vm_host(vm, "ls -A %s/state/snapshots", vm->home), "");
    return mine;
}

/* It has been ended by the fault, can be made to run, and has its file. */
static void expect_start(struct vm *vm, const char *s, const char *state)
{
    vm_wait_state(vm, s, state);
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cat kept"), "kept\n");
}

/* The same, and when it says that it has ended, its QEMU has let go of its disk. */
static void expect_end(struct vm *vm, const char *s, int qemu, const char *state)
{
    vm_wait_state(vm, s, state);
    assert_int_equal(kill(qemu, 0), -1);
    expect_start(vm, s, state);
}

enum who { SUPERVISOR, LAUNCHER, FINISHER };

#define PERHAPS_ONE SIZE_MAX /* snapshots made */

static void dies_at(struct vm *vm, enum who who, const char *fault, size_t made)
{
    const char *s = sandbox_with(vm, fault);
    int qemu = vm_pid(vm, s, "qemu_pid");
    struct vm_result *r = vm_call(vm, "snapshot", s, "tag", NULL);
    assert_int_not_equal(r->status, 0);
    if (who == SUPERVISOR)
        expect_end(vm, s, qemu, "crashed");
    else if (who == LAUNCHER)
        expect_start(vm, s, "crashed");
    else
        check_memory(vm, s);
    size_t found = expect_whole_store(vm, s);
    if (made == PERHAPS_ONE ? found > 1 : found != made)
        fail_msg("%s: %zu snapshots were made", fault, found);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void the_supervisor_dies(void **state)
{
    static const char *const points[] = {"snapshot-prepared", "snapshot-unplugged",
                                         "snapshot-stopped",  "snapshot-state",
                                         "snapshot-memory",   "snapshot-switched"};
    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        dies_at(*state, SUPERVISOR, points[i], 0);
    /* All was written by then: it is brought into the store without the sandbox. */
    dies_at(*state, SUPERVISOR, "snapshot-replug", 1);
}

/* QEMU is killed while the supervisor is at each step. */
static void qemu_dies(void **state)
{
    static const char *const points[] = {"snapshot-prepared=CHILD", "snapshot-unplugged=CHILD",
                                         "snapshot-stopped=CHILD", "snapshot-state=CHILD",
                                         "snapshot-memory=CHILD"};
    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        dies_at(*state, SUPERVISOR, points[i], 0);
    /* All is written: whether QEMU's end is seen before that is told is left open. */
    dies_at(*state, SUPERVISOR, "snapshot-switched=CHILD", PERHAPS_ONE);
    dies_at(*state, SUPERVISOR, "snapshot-replug=CHILD", PERHAPS_ONE);
}

static void the_launcher_dies(void **state)
{
    dies_at(*state, LAUNCHER, "snapshot-begun", 0);
    dies_at(*state, LAUNCHER, "snapshot-noted", 0);
}

static void the_finisher_dies(void **state)
{
    static const char *const points[] = {"snapshot-linked", "snapshot-synced", "snapshot-written"};
    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        dies_at(*state, FINISHER, points[i], 0);
    dies_at(*state, FINISHER, "snapshot-committed", 1);
}

static void a_write_fails(void **state)
{
    struct vm *vm = *state;
    static const char *const points[] = {"snapshot-begun=ENOSPC", "snapshot-state=EIO",
                                         "snapshot-memory=ENOSPC", "snapshot-linked=EIO",
                                         "snapshot-synced=ENOSPC"};
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        const char *s = sandbox_with(vm, points[i]);
        int qemu = vm_pid(vm, s, "qemu_pid");
        vm_refused(vm, strstr(points[i], "EIO") ? "Input/output" : "No space", "snapshot", "-q", s,
                   "tag", NULL);
        assert_int_equal(vm_pid(vm, s, "qemu_pid"), qemu);
        check_memory(vm, s);
        assert_int_equal(expect_whole_store(vm, s), 0);
        /* Suspending fails likewise, and the guest goes on. */
        vm_refused(vm, strstr(points[i], "EIO") ? "Input/output" : "No space", "suspend", "-q", s,
                   NULL);
        assert_int_equal(vm_pid(vm, s, "qemu_pid"), qemu);
        check_memory(vm, s);
        (void)vm_ok(vm, "rm", "--force", s, NULL);
    }
}

/* bellglass itself, at this point of what it does. */
static struct vm_result *cut_short(struct vm *vm, const char *fault, const char *verb,
                                   const char *first, const char *second)
{
    assert_int_equal(setenv("BELLGLASS_FAULT", fault, 1), 0);
    struct vm_result *r = vm_call(vm, verb, first, second, NULL);
    assert_int_equal(unsetenv("BELLGLASS_FAULT"), 0);
    assert_int_equal(r->status, strchr(fault, '=') ? 125 : 128 + SIGKILL);
    return r;
}

/* Sandboxes that a command had made and not started can be, and nothing else is left of it. */
static void expect_whole_sandboxes(struct vm *vm, const char *s)
{
    /* What may still be in the making is left alone. */
    (void)vm_host(vm, "touch -cd '2 days ago' %s/state/sandboxes/.[!.]*", vm->home);
    (void)vm_call(vm, "doctor", "--fix", NULL);
    json_auto_t *list = vm_json(vm, "ls", "--json", NULL);
    size_t i;
    json_t *one;
    json_array_foreach(list, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (strcmp(name, s) == 0 || strcmp(name, "shared") == 0)
            continue;
        (void)vm_ok(vm, "start", name, NULL);
        check_memory(vm, name);
        (void)vm_ok(vm, "rm", "--force", name, NULL);
    }
    assert_string_equal(vm_host(vm, "ls -A %s/state/sandboxes | sort", vm->home),
                        strcmp(s, "shared") < 0 ? vm_text(vm, "%s\nshared\n", s)
                                                : vm_text(vm, "shared\n%s\n", s));
}

static void a_fork_is_cut_short(void **state)
{
    struct vm *vm = *state;
    static const char *const points[] = {
        "fork-taken",     "fork-linked",          "fork-layers",        "fork-noted",
        "create-filled",  "create-renamed",       "fork-exchanged",     "fork-made",
        "remove-renamed", "create-filled=ENOSPC", "fork-linked=ENOSPC", "fork-layers=EIO"};
    const char *s = sandbox_with(vm, "");
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        const char *child = vm_name(vm);
        struct vm_result *r = cut_short(vm, points[i], "fork", s, child);
        if (strchr(points[i], '='))
            assert_non_null(strstr(r->err, strstr(points[i], "EIO") ? "Input/output" : "No space"));
        check_memory(vm, s);
        expect_whole_sandboxes(vm, s);
        (void)expect_whole_store(vm, s);
    }
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void a_restore_is_cut_short(void **state)
{
    struct vm *vm = *state;
    static const char *const points[] = {"restore-stopped", "fork-linked",    "fork-layers",
                                         "fork-noted",      "fork-exchanged", "restore-put",
                                         "fork-layers=EIO"};
    const char *s = sandbox_with(vm, "");
    (void)vm_ok(vm, "snapshot", s, "then", NULL);
    const char *name = vm_text(vm, "%s@then", s);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        bool changed = i == 3 || i == 4 || i == 5; /* the disk was the snapshot's by then */
        (void)vm_guest(vm, s, "echo later >later; sync");
        (void)cut_short(vm, points[i], "restore", "-y", name);
        (void)vm_ok(vm, "start", s, NULL);
        assert_string_equal(vm_guest(vm, s, "cat kept; cat later 2>/dev/null || echo back"),
                            changed ? "kept\nback\n" : "kept\nlater\n");
        if (changed)
            check_memory(vm, s);
        expect_whole_sandboxes(vm, s);
    }
    (void)vm_ok(vm, "restore", "-y", name, NULL);
    check_memory(vm, s);
    assert_int_equal(expect_whole_store(vm, s), 1);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void what_is_done_with_a_suspended_one_is_cut_short(void **state)
{
    struct vm *vm = *state;
    static const struct {
        const char *point;
        size_t made;
    } rows[] = {{"folder-frozen", 0}, {"folder-linked", 0},        {"store-written", 0},
                {"store-renamed", 1}, {"folder-linked=ENOSPC", 0}, {"remove-renamed", 0}};
    const char *s = sandbox_with(vm, "");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        (void)vm_ok(vm, "suspend", s, NULL);
        if (strcmp(rows[i].point, "remove-renamed") == 0) {
            (void)vm_ok(vm, "snapshot", s, "tag", NULL);
            (void)cut_short(vm, rows[i].point, "snapshot", "rm", vm_text(vm, "%s@tag", s));
        } else {
            (void)cut_short(vm, rows[i].point, "snapshot", s, "tag");
        }
        assert_int_equal(expect_whole_store(vm, s), rows[i].made);
        (void)vm_ok(vm, "start", s, NULL);
        check_memory(vm, s);
        expect_whole_sandboxes(vm, s);
    }
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void a_suspend_is_cut_short(void **state)
{
    struct vm *vm = *state;
    static const char *const points[] = {"snapshot-memory", "snapshot-synced", "suspend-committed"};
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        const char *s = sandbox_with(vm, points[i]);
        int qemu = vm_pid(vm, s, "qemu_pid");
        assert_int_not_equal(vm_call(vm, "suspend", s, NULL)->status, 0);
        bool whole = strcmp(points[i], "suspend-committed") == 0;
        if (strcmp(points[i], "snapshot-memory") == 0)
            expect_end(vm, s, qemu, "crashed");
        else
            expect_start(vm, s, whole ? "suspended" : "crashed");
        if (whole)
            check_memory(vm, s);
        (void)vm_ok(vm, "rm", "--force", s, NULL);
    }
}

static void a_resume_is_cut_short(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    leave_marks(vm, s);
    (void)vm_ok(vm, "suspend", s, NULL);
    assert_int_equal(setenv("BELLGLASS_FAULT", "resume-consumed", 1), 0);
    assert_int_not_equal(vm_call(vm, "resume", s, NULL)->status, 0);
    assert_int_equal(unsetenv("BELLGLASS_FAULT"), 0);
    expect_start(vm, s, "crashed");
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

/* The guest's kernel may drop what it would say to the first request for a connection. */
static void a_lost_answer_is_asked_for_again(void **state)
{
    struct vm *vm = *state;
    const char *s = sandbox_with(vm, "connect-answer=EIO");
    check_memory(vm, s);
    (void)vm_ok(vm, "snapshot", s, "tag", NULL); /* the device is plugged anew, and lost again */
    check_memory(vm, s);
    assert_int_equal(expect_whole_store(vm, s), 1);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void a_damaged_one_is_refused(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    leave_marks(vm, s);
    (void)vm_ok(vm, "snapshot", s, "whole", NULL);
    const char *name = vm_text(vm, "%s@whole", s);
    (void)vm_host(vm,
                  "cd %s/state/snapshots/%s && printf x | dd of=state conv=notrunc bs=1 seek=99 "
                  "2>/dev/null",
                  vm->home, name);
    vm_refused(vm, "whole|state", "fork", name, NULL);
    (void)vm_ok(vm, "suspend", s, NULL);
    (void)vm_host(vm, "cd %s/resume && printf x >>manifest.json", vm_sandbox_dir(vm, s));
    vm_refused(vm, vm_text(vm, "%s|--cold", s), "start", s, NULL);
    (void)vm_ok(vm, "start", "--cold", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cat kept"), "kept\n");
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    (void)vm_ok(vm, "snapshot", "rm", name, NULL);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(the_supervisor_dies), cmocka_unit_test(qemu_dies),
        cmocka_unit_test(the_launcher_dies), cmocka_unit_test(the_finisher_dies),
        cmocka_unit_test(a_write_fails), cmocka_unit_test(a_fork_is_cut_short),
        cmocka_unit_test(a_restore_is_cut_short),
        cmocka_unit_test(what_is_done_with_a_suspended_one_is_cut_short),
        cmocka_unit_test(a_suspend_is_cut_short), cmocka_unit_test(a_resume_is_cut_short),
        cmocka_unit_test(a_lost_answer_is_asked_for_again),
        cmocka_unit_test(a_damaged_one_is_refused))
