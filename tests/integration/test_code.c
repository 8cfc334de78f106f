/* `bellglass code` with a VS Code that only writes down how it was called, and with other editors;
 * `bellglass fs`. */
#include "tests/lib/vm.h"

#include <string.h>
#include <sys/stat.h>

/* A folder with such a `code`, and with an `ssh` that has `file` as its user's configuration;
 * either may be left out. */
static const char *programs(struct vm *vm, bool code, const char *file)
{
    const char *folder = vm_path(vm, "bin-%s", vm_name(vm));
    (void)vm_host(vm,
                  "mkdir %s && cd %s && if %s; then printf '#!/bin/sh\\n"
                  "printf \"<%%%%s>\" \"$@\"\\nexit 3\\n' >code && chmod 755 code; fi",
                  folder, folder, code ? "true" : "false");
    if (file)
        (void)vm_host(
            vm,
            "cd %s && printf '#!/bin/sh\\nexec %%s -F %%s \"$@\"\\n' \"$(command -v ssh)\" "
            "%s >ssh && chmod 755 ssh",
            folder, file);
    return folder;
}

/* Runs `bellglass code ARGS` with the folder in front of the PATH. What it printed, and then its
 * status. */
static const char *open_code(struct vm *vm, const char *folder, const char *environment,
                             const char *args)
{
    return vm_host(vm, "PATH=%s:/usr/bin:/bin; unset VISUAL EDITOR; %s %s code %s 2>&1; echo $?",
                   folder, environment, vm->bellglass, args);
}

static void vs_code_is_opened_by_ssh(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_shared(vm), *file = vm_path(vm, "user_config");
    vm_write(file, "", 0);
    const char *bin = programs(vm, true, file);
    /* Before ssh knows of sandboxes it says what to do, and opens nothing. */
    const char *said = open_code(vm, bin, "set +e;", name);
    assert_non_null(strstr(said, "bellglass ssh-config --write"));
    assert_non_null(strstr(said, "\n125\n"));
    (void)vm_ok(vm, "ssh-config", "--write", "--file", file, NULL);
    assert_string_equal(open_code(vm, bin, "set +e;", vm_text(vm, "%s /srv", name)),
                        vm_text(vm, "<--remote><ssh-remote+%s.bellglass></srv>3\n", name));
    /* The host that it is given is one that ssh reaches. */
    assert_string_equal(vm_host(vm, "%s/ssh -o BatchMode=yes %s.bellglass echo reached", bin, name),
                        "reached\n");
    assert_string_equal(
        open_code(vm, bin, "", vm_text(vm, "--print %s '/a b'", name)),
        vm_text(vm, "%s/code --remote ssh-remote+%s.bellglass '/a b'\n0\n", bin, name));
}

static void a_mount_is_made_once_and_goes_with_its_sandbox(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox(vm), *bin = programs(vm, true, NULL);
    const char *folder = vm_text(vm, "%s/run/mounts/%s", vm->home, name);
    assert_string_equal(
        open_code(vm, bin, "", vm_text(vm, "--print --mount %s", name)),
        vm_text(vm, "bellglass mount %s %s\n%s/code %s/home/app\n0\n", name, folder, bin, folder));
    for (int i = 0; i < 2; i++) {
        const char *said = open_code(vm, bin, "set +e;", vm_text(vm, "--mount %s /etc", name));
        assert_non_null(strstr(said, "Restricted Mode"));
        assert_non_null(strstr(said, vm_text(vm, "<%s/etc>3\n", folder)));
    }
    assert_string_equal(vm_host(vm, "cat %s/etc/hostname", folder), vm_text(vm, "%s\n", name));
    assert_non_null(strstr(vm_ok(vm, "ls", NULL), folder));
    json_t *all = vm_json(vm, "inspect", name, NULL);
    assert_string_equal(json_string_value(json_array_get(json_object_get(all, "mounts"), 0)),
                        folder);
    json_decref(all);
    (void)vm_ok(vm, "rm", "-f", name, NULL);
    assert_null(strstr(vm_read(vm, "/proc/self/mountinfo", NULL), folder));
    struct stat st;
    assert_int_equal(stat(folder, &st), -1);
}

static void another_editor_gets_the_file(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox(vm), *bin = programs(vm, false, NULL);
    (void)vm_guest(vm, name, "echo before >note");
    const char *said = open_code(vm, bin, "set +e; EDITOR='sed -i s/before/after/'",
                                 vm_text(vm, "%s /home/app/note", name));
    assert_string_equal(said, "0\n");
    assert_string_equal(vm_guest(vm, name, "cat note"), "after\n");
    said = open_code(vm, bin, "set +e;", name);
    assert_non_null(strstr(said, "$EDITOR"));
    said = open_code(vm, bin, "set +e; VISUAL=true", vm_text(vm, "%s etc", name));
    assert_non_null(strstr(said, "must be absolute"));
    (void)vm_ok(vm, "stop", name, NULL);
    said = open_code(vm, bin, "set +e; VISUAL=true", name);
    assert_non_null(strstr(said, "is not running"));
}

static void a_folder_is_served_without_a_sandbox(void **state)
{
    struct vm *vm = *state;
    const char *from = vm_path(vm, "from"), *to = vm_path(vm, "to");
    (void)vm_host(vm, "mkdir %s %s; echo served >%s/file", from, to, from);
    /* What serves keeps the terminal of who mounts, for questions that an ssh may have. */
    (void)vm_host(vm, "%s fs mount %s -- %s fs serve %s >/dev/null 2>&1", vm->bellglass, to,
                  vm->bellglass, from);
    assert_string_equal(vm_read(vm, vm_text(vm, "%s/file", to), NULL), "served\n");
    (void)vm_ok(vm, "umount", to, NULL);
    assert_null(strstr(vm_read(vm, "/proc/self/mountinfo", NULL), to));
    assert_non_null(strstr(vm_ok(vm, "fs", "--help", NULL), "usage: bellglass fs serve"));
    assert_non_null(strstr(vm_ok(vm, "fs", "mount", "--help", NULL), "--deadline-ms"));
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, cmocka_unit_test(vs_code_is_opened_by_ssh),
        cmocka_unit_test(a_mount_is_made_once_and_goes_with_its_sandbox),
        cmocka_unit_test(another_editor_gets_the_file),
        cmocka_unit_test(a_folder_is_served_without_a_sandbox))
