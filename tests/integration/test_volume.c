/* --volume of run and create: disks that outlive sandboxes. (Their clients':
 * gateway/sdk-volumes.mjs.) */
#include "tests/lib/vm.h"

#include <poll.h>
#include <signal.h>
#include <string.h>

static void what_one_sandbox_writes_the_next_reads(void **state)
{
    struct vm *vm = *state;
    (void)vm_ok(vm, "volume", "create", "--size", "64MiB", "cache", NULL);
    /* It ends with its command, and what was not yet on the disk is written all the same. */
    assert_string_equal(vm_ok(vm, "run", "--volume", "cache:/home/app/.cache/x", "--", "sh", "-ec",
                              "cd .cache/x; echo kept >file; stat -c %U .; findmnt -no FSTYPE .",
                              NULL),
                        "app\next4\n");
    const char *first = vm_sandbox_with(vm, "--volume", "cache:/data", NULL);
    assert_string_equal(vm_guest(vm, first, "cat /data/file; echo more >>/data/file"), "kept\n");
    json_t *one = vm_json(vm, "inspect", first, NULL);
    json_t *volumes = json_object_get(json_is_array(one) ? json_array_get(one, 0) : one, "volumes");
    assert_int_equal(json_array_size(volumes), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(volumes, 0), "path")),
                        "/data");
    json_decref(one);
    /* One at a time, and the other is named with the way out. */
    const char *words = vm_text(vm, "'cache' is in use|bellglass stop %s", first);
    vm_refused(vm, words, "run", "--volume", "cache:/data", "--", "true", NULL);
    vm_refused(vm, "in use", "volume", "rm", "cache", NULL);
    vm_refused(vm, "volumes", "suspend", first, NULL);
    (void)vm_ok(vm, "stop", "-t", VM_POWER_OFF_S, first, NULL);
    assert_string_equal(
        vm_ok(vm, "run", "--volume", "cache:/data", "--", "cat", "/data/file", NULL),
        "kept\nmore\n");
    (void)vm_ok(vm, "start", first, NULL); /* it still wants its own */
    assert_string_equal(vm_guest(vm, first, "cat /data/file"), "kept\nmore\n");
    (void)vm_ok(vm, "rm", "-f", first, NULL);
    (void)vm_ok(vm, "volume", "rm", "cache", NULL);
}

static void several_are_mounted_the_outer_ones_first(void **state)
{
    struct vm *vm = *state;
    (void)vm_ok(vm, "volume", "create", "--size", "64MiB", "inner", NULL);
    (void)vm_ok(vm, "volume", "create", "--size", "64MiB", "outer", NULL);
    assert_string_equal(vm_ok(vm, "run", "--volume", "inner:/data/a/b", "--volume", "outer:/data",
                              "--", "sh", "-ec",
                              "echo 1 >/data/one; echo 2 >/data/a/b/two; findmnt -rno TARGET | "
                              "grep ^/data",
                              NULL),
                        "/data\n/data/a/b\n");
    assert_string_equal(vm_ok(vm, "run", "--volume", "inner:/i", "--", "cat", "/i/two", NULL),
                        "2\n");
    (void)vm_ok(vm, "volume", "rm", "inner", "outer", NULL);
}

/* BG_VOLUME_GRACE_MS is 20 s, whoever asks for its end, and how. */
static void a_guest_has_its_time_to_write_back(void **state)
{
    struct vm *vm = *state;
    (void)vm_ok(vm, "volume", "create", "--size", "64MiB", "slow", NULL);
    const char *first = vm_sandbox_with(vm, "--volume", "slow:/data", NULL);
    (void)vm_guest(vm, first, "echo kept >/data/file");
    int qemu = vm_pid(vm, first, "qemu_pid");
    const char *const argv[] = {"rm", "-f", first, NULL};
    assert_int_equal(kill(qemu, SIGSTOP), 0);
    struct vm_process *rm = vm_start(vm, argv);
    struct pollfd ended = {.fd = rm->out, .events = POLLIN};
    assert_int_equal(poll(&ended, 1, 17000), 0);
    assert_int_equal(kill(qemu, SIGCONT), 0);
    assert_int_equal(vm_finish(rm), 0);
    assert_string_equal(vm_ok(vm, "run", "--volume", "slow:/data", "--", "cat", "/data/file", NULL),
                        "kept\n");
    (void)vm_ok(vm, "volume", "rm", "slow", NULL);
}

static void what_cannot_be_is_refused_before_anything_starts(void **state)
{
    struct vm *vm = *state;
    const char *folder = vm_path(vm, "folder");
    (void)vm_host(vm, "mkdir -p '%s'", folder);
    (void)vm_ok(vm, "volume", "create", "--size", "64MiB", "data", NULL);
    (void)vm_ok(vm, "volume", "snapshot", "data", "data-then", NULL);
    (void)vm_ok(vm, "volume", "create", "--image", "debian", "tools", NULL);
    static const struct {
        const char *volume, *words;
    } rows[] = {
        {"data", "--volume|want NAME:PATH"},
        {"data:relative", "--volume|relative"},
        {"none:/data", "there is no volume 'none'|bellglass volume create none"},
        {"data-then:/data", "is a snapshot|bellglass volume create --from data-then"},
        {"tools:/data", "'tools' is bootable"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        vm_refused(vm, rows[i].words, "create", "--volume", rows[i].volume, NULL);
    vm_refused(vm, "'data' is there twice", "create", "--volume", "data:/a", "--volume", "data:/b",
               NULL);
    vm_refused(vm, "--mount is at /a", "create", "--volume", "data:/a", "--mount",
               vm_text(vm, "%s:/a", folder), NULL);
    vm_refused(vm, "--idle-suspend|--volume", "create", "--volume", "data:/a", "--idle-suspend",
               "1h", NULL);
    vm_refused(vm, "--volume does not go with --from", "create", "--from", "x@y", "--volume",
               "data:/a", NULL);
    json_t *list = vm_json(vm, "ls", "--json", NULL);
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
    (void)vm_ok(vm, "volume", "rm", "data", "data-then", "tools", NULL);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(what_one_sandbox_writes_the_next_reads),
        cmocka_unit_test(several_are_mounted_the_outer_ones_first),
        cmocka_unit_test(a_guest_has_its_time_to_write_back),
        cmocka_unit_test(what_cannot_be_is_refused_before_anything_starts))
