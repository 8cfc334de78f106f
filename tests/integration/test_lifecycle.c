/* The life of a sandbox as the user sees it, and every wrong name and option. */
#include "tests/lib/vm.h"

#include <string.h>
#include <unistd.h>

static const json_t *find(const json_t *list, const char *name)
{
    size_t i;
    const json_t *one;
    json_array_foreach(list, i, one) if (strcmp(json_string_value(json_object_get(one, "name")),
                                                name) == 0) return one;
    return NULL;
}

static void lives_from_create_to_rm(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    assert_string_equal(vm_state(vm, s), "running");
    json_t *list = vm_json(vm, "ls", "--json", NULL);
    const json_t *mine = find(list, s);
    assert_non_null(mine);
    assert_string_equal(json_string_value(json_object_get(mine, "state")), "running");
    json_decref(list);
    assert_non_null(strstr(vm_ok(vm, "ls", NULL), s));

    int qemu = vm_pid(vm, s, "qemu_pid");
    (void)vm_ok(vm, "stop", s, NULL);
    assert_string_equal(vm_state(vm, s), "stopped");
    vm_wait_gone(qemu);
    (void)vm_ok(vm, "rm", s, NULL);
    assert_string_equal(vm_state(vm, s), "gone");
}

static void files_outlive_a_stop(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "echo kept >/home/app/file; sudo sh -c 'echo k >/etc/kept'");
    (void)vm_ok(vm, "stop", "-t", VM_POWER_OFF_S, s, NULL);
    vm_refused(vm, vm_text(vm, "%s|not running|start", s), "exec", s, "--", "true", NULL);
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cat /home/app/file /etc/kept; hostname"),
                        vm_text(vm, "kept\nk\n%s\n", s));
}

static void inspect_shows_what_was_asked_for(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox_with(vm, "-e", "A=b", "--allow", "example.com:443", NULL);
    json_t *shown = vm_json(vm, "inspect", s, "--json", NULL);
    assert_string_equal(json_string_value(json_object_get(shown, "name")), s);
    const char *text = vm_keep(vm, json_dumps(shown, 0));
    json_decref(shown);
    assert_non_null(strstr(text, "A=b"));
    assert_non_null(strstr(text, "example.com:443"));
    assert_non_null(strstr(text, "debian"));
}

static void logs_show_the_guests_console_and_the_supervisor(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    /* A console line of the guest cannot move the reader's terminal. */
    (void)vm_guest(vm, s, "printf 'mark \\033[2J mark\\n' | sudo tee /dev/console >/dev/null");
    const char *folder = vm_sandbox_dir(vm, s);
    (void)vm_host(
        vm, "for i in $(seq 600); do grep -q mark %s/console.log && exit; sleep 0.1; done; exit 1",
        folder);
    const char *logs = vm_ok(vm, "logs", s, NULL);
    assert_non_null(strstr(logs, "mark"));
    assert_null(strchr(logs, '\x1b'));
}

static void a_name_is_taken_once(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    vm_refused(vm, vm_text(vm, "%s|in use", s), "create", s, NULL);
    assert_string_equal(vm_guest(vm, s, "echo still here"), "still here\n");
}

static void of_two_that_race_for_a_name_one_wins(void **state)
{
    struct vm *vm = *state;
    for (int round = 0; round < 3; round++) {
        const char *name = vm_name(vm);
        const char *const argv[] = {"create", name, NULL};
        struct vm_process *a = vm_start(vm, argv), *b = vm_start(vm, argv);
        int first = vm_finish(a), second = vm_finish(b);
        assert_true((first == 0 && second == 125) || (first == 125 && second == 0));
        assert_string_equal(vm_guest(vm, name, "echo one"), "one\n");
    }
}

static void two_starts_at_once_make_one_sandbox(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_ok(vm, "stop", s, NULL);
    const char *const argv[] = {"start", s, NULL};
    struct vm_process *a = vm_start(vm, argv), *b = vm_start(vm, argv);
    int first = vm_finish(a), second = vm_finish(b);
    assert_true(first == 0 || second == 0);
    assert_string_equal(vm_state(vm, s), "running");
    assert_string_equal(vm_guest(vm, s, "echo one"), "one\n");
}

static void a_running_one_is_not_removed_unasked(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    vm_refused(vm, vm_text(vm, "%s|running", s), "rm", s, NULL);
    assert_string_equal(vm_state(vm, s), "running");
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    assert_string_equal(vm_state(vm, s), "gone");
}

static void unknown_names_are_named(void **state)
{
    struct vm *vm = *state;
    static const char *const verbs[] = {"stop", "start", "rm", "inspect", "logs", "audit"};
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        vm_refused(vm, "nobody", verbs[i], "nobody", NULL);
    vm_refused(vm, "nobody|ls", "exec", "nobody", "--", "true", NULL);
    vm_refused(vm, "nobody", "mount", "nobody", vm->folder, NULL);
    vm_refused(vm, "no-such-image|image", "run", "--image", "no-such-image", "--", "true", NULL);
}

static void wrong_usage_is_told_in_one_line(void **state)
{
    struct vm *vm = *state;
    vm_refused(vm, "--no-such-option", "run", "--no-such-option", "--", "true", NULL);
    vm_refused(vm, "frobnicate", "frobnicate", NULL);
    vm_refused(vm, "memory", "create", "--memory", "12 apples", NULL);
    vm_refused(vm, "memory", "create", "--memory", "1M", NULL);
    vm_refused(vm, "cpus", "create", "--cpus", "0", NULL);
    vm_refused(vm, "../up", "create", "../up", NULL);
    vm_refused(vm, "Upper", "create", "Upper", NULL);
    vm_refused(vm, "NOVALUE", "create", "-e", "NOVALUE", NULL);
    vm_refused(vm, "HOST", "create", "--secret", "TOKEN", NULL);
    assert_string_equal(
        vm_host(vm, "ls %s/state/sandboxes | { grep -v '^shared$' || true; }", vm->home), "");
}

static void every_verb_explains_itself(void **state)
{
    struct vm *vm = *state;
    static const char *const verbs[] = {"run",   "create", "exec",  "shell",  "cp",      "ls",
                                        "logs",  "stop",   "start", "rm",     "mount",   "umount",
                                        "image", "secret", "audit", "doctor", "version", "inspect"};
    const char *overview = vm_ok(vm, "--help", NULL);
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        assert_non_null(strstr(overview, verbs[i]));
        const char *help = vm_ok(vm, verbs[i], "--help", NULL);
        assert_non_null(strstr(help, vm_text(vm, "bellglass %s", verbs[i])));
    }
    assert_non_null(strstr(vm_ok(vm, "version", NULL), "0.1"));
}

static void doctor_finds_this_machine_fit(void **state)
{
    struct vm *vm = *state;
    const char *report = vm_ok(vm, "doctor", NULL);
    assert_non_null(strstr(report, "qemu"));
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(lives_from_create_to_rm),
        cmocka_unit_test(files_outlive_a_stop), cmocka_unit_test(inspect_shows_what_was_asked_for),
        cmocka_unit_test(logs_show_the_guests_console_and_the_supervisor),
        cmocka_unit_test(a_name_is_taken_once),
        cmocka_unit_test(of_two_that_race_for_a_name_one_wins),
        cmocka_unit_test(two_starts_at_once_make_one_sandbox),
        cmocka_unit_test(a_running_one_is_not_removed_unasked),
        cmocka_unit_test(unknown_names_are_named),
        cmocka_unit_test(wrong_usage_is_told_in_one_line),
        cmocka_unit_test(every_verb_explains_itself),
        cmocka_unit_test(doctor_finds_this_machine_fit))
