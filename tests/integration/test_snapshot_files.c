/* What else comes of snapshots with real guests: exports that run again, images of disks, and
 * commands that go on from one. */
#include "tests/lib/vm.h"

#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The images that all test programs share are left alone: these tests have a folder of their own,
 * with links of the image's files. */
static void own_images(struct vm *vm)
{
    const char *images = vm_text(vm, "%s/data/images", vm->home);
    char shared[PATH_MAX];
    ssize_t n = readlink(images, shared, sizeof shared - 1);
    if (n < 0)
        return; /* done before */
    shared[n] = '\0';
    (void)vm_host(
        vm,
        "rm '%s' && mkdir -p '%s/tags' && digest=$(basename \"$(readlink '%s/tags/debian')\") "
        "&& { cp -al '%s'/$digest '%s/' 2>/dev/null || cp -a --reflink=auto "
        "'%s'/$digest '%s/'; } && ln -s ../$digest '%s/tags/debian'",
        images, images, shared, shared, images, shared, images, images);
}

static void an_export_goes_on_where_it_was(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm), *file = vm_path(vm, "s.bgs"), *child = vm_name(vm);
    (void)vm_guest(vm, s,
                   "echo in memory >/dev/shm/note; echo on disk >note; sync; "
                   "sleep 100000 >/dev/null 2>&1 </dev/null &");
    const char *name = vm_text(vm, "%s@out", s);
    (void)vm_ok(vm, "snapshot", s, "out", NULL);
    (void)vm_ok(vm, "export", name, file, NULL);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    (void)vm_ok(vm, "snapshot", "rm", name, NULL);
    /* Nothing of it is left, not even the golden snapshot that it stood on. */
    (void)vm_host(vm, "rm -r '%s/data/snapshots'", vm->home);
    assert_string_equal(vm_ok(vm, "import", file, NULL), vm_text(vm, "%s\n", name));
    (void)vm_ok(vm, "fork", name, child, NULL);
    assert_string_equal(vm_guest(vm, child, "cat /dev/shm/note note; pgrep -c sleep"),
                        "in memory\non disk\n1\n");
    (void)vm_ok(vm, "rm", "--force", child, NULL);
    (void)vm_ok(vm, "snapshot", "rm", name, NULL);
}

static void a_disk_becomes_an_image(void **state)
{
    struct vm *vm = *state;
    own_images(vm);
    const char *s = vm_sandbox(vm), *child = vm_name(vm);
    (void)vm_guest(vm, s, "echo saved >note");
    json_auto_t *image = vm_json(vm, "image", "save", "--json", s, "saved", NULL);
    assert_string_equal(json_string_value(json_object_get(image, "name")), "saved");
    assert_string_equal(vm_state(vm, s), "running");
    (void)vm_guest(vm, s, "echo later >note");
    assert_string_equal(vm_ok(vm, "snapshot", "ls", "--all", s, NULL), "");
    (void)vm_ok(vm, "create", "--image", "saved", child, NULL);
    assert_string_equal(vm_guest(vm, child, "cat note"), "saved\n");
    /* It stays as long as something stands on it. */
    (void)vm_ok(vm, "snapshot", child, "kept", NULL);
    (void)vm_ok(vm, "rm", "--force", child, NULL);
    vm_refused(vm, "image", "image", "save", s, "../x", NULL);
    struct vm_result *refused = vm_call(vm, "image", "rm", "saved", NULL);
    assert_int_equal(refused->status, 125);
    assert_non_null(strstr(refused->err, vm_text(vm, "%s@kept", child)));
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@kept", child), NULL);
    (void)vm_ok(vm, "image", "rm", "saved", NULL);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void commands_go_on_from_a_snapshot(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm), *child = vm_name(vm);
    (void)vm_guest(vm, s, "echo first >note");
    (void)vm_ok(vm, "snapshot", s, "from", NULL);
    (void)vm_guest(vm, s, "echo second >note");
    const char *name = vm_text(vm, "%s@from", s);
    assert_string_equal(
        vm_ok(vm, "run", "--from", name, "-e", "A=b", "--", "sh", "-c", "cat note; echo $A", NULL),
        "first\nb\n");
    assert_string_equal(vm_ok(vm, "run", "--from", s, "--", "cat", "note", NULL), "second\n");
    assert_string_equal(vm_ok(vm, "create", "--from", name, child, NULL),
                        vm_text(vm, "%s\n", child));
    assert_string_equal(vm_guest(vm, child, "cat note"), "first\n");
    assert_non_null(strstr(vm_ok(vm, "tree", s, NULL), vm_text(vm, "─ %s  running", child)));
    /* Of those that run for a command nothing is left. */
    json_auto_t *all = vm_json(vm, "snapshot", "ls", "--all", "--json", NULL);
    assert_int_equal(json_array_size(all), 1);
    (void)vm_ok(vm, "rm", "--force", s, child, NULL);
    (void)vm_ok(vm, "snapshot", "rm", name, NULL);
}

static void an_interrupted_fork_leaves_only_what_runs(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    json_auto_t *before = vm_json(vm, "ls", "--json", NULL);
    const char *argv[] = {"fork", "-q", "-n", "40", s, NULL}; /* it shall not be over before us */
    struct vm_process *fork = vm_start(vm, argv);
    /* The first ones are being started when there are more sandboxes than before. */
    (void)vm_host(vm,
                  "for i in $(seq 600); do [ $(ls '%s/state/sandboxes' | wc -l) -gt %zu ] && exit; "
                  "sleep 0.1; done; exit 1",
                  vm->home, json_array_size(before));
    int status = vm_stop(fork, SIGINT);
    assert_int_equal(status, 128 + SIGINT);
    json_auto_t *after = vm_json(vm, "ls", "--json", NULL);
    size_t i;
    json_t *entry;
    json_array_foreach(after, i, entry)
        assert_string_equal(json_string_value(json_object_get(entry, "state")), "running");
    assert_true(json_array_size(after) < json_array_size(before) + 40);
    json_auto_t *all = vm_json(vm, "snapshot", "ls", "--all", "--json", NULL);
    assert_int_equal(json_array_size(all), 0);
    json_array_foreach(after, i, entry)(void)
        vm_ok(vm, "rm", "--force", json_string_value(json_object_get(entry, "name")), NULL);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(an_export_goes_on_where_it_was),
        cmocka_unit_test(a_disk_becomes_an_image), cmocka_unit_test(commands_go_on_from_a_snapshot),
        cmocka_unit_test(an_interrupted_fork_leaves_only_what_runs))
