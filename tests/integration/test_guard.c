/* Files of a guest that programs here would run: approvals, for the life of a sandbox. */
#include "tests/lib/vm.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *mount_it(struct vm *vm, const char *what)
{
    const char *folder = vm_path(vm, "mnt-%s", vm_name(vm));
    assert_int_equal(mkdir(folder, 0755), 0);
    (void)vm_ok(vm, "mount", what, folder, NULL);
    return folder;
}

static void unmount_it(struct vm *vm, const char *folder)
{
    (void)vm_ok(vm, "umount", folder, NULL);
    assert_int_equal(rmdir(folder), 0);
}

static void what_is_approved_stays_so(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "mkdir p; cd p; echo guest >.envrc; echo guest >CLAUDE.md; echo x >x");
    const char *m = mount_it(vm, vm_text(vm, "%s:/home/app/p", s));
    assert_string_equal(vm_host(vm, "ls -A %s", m), "x\n");
    assert_string_equal(vm_ok(vm, "guard", vm_text(vm, "%s:/home/app", s), NULL),
                        "not approved  /home/app/p/.envrc\n"
                        "not approved  /home/app/p/CLAUDE.md\n");
    vm_refused(vm, "/home/app/p/x|no guarded file", "trust", s, "/home/app/p/x", NULL);

    const char *shown = vm_ok(vm, "trust", "--yes", s, "/home/app/p/.envrc", NULL);
    assert_non_null(strstr(shown, "+guest\n"));
    (void)vm_host(vm, "until test -e %s/.envrc; do :; done", m); /* the test's own deadline */
    (void)vm_guest(vm, s, "echo changed >p/.envrc");
    assert_string_equal(vm_host(vm, "cat %s/.envrc", m), "guest\n");
    (void)vm_host(vm, "echo host >%s/CLAUDE.md", m);
    assert_string_equal(vm_guest(vm, s, "cat p/CLAUDE.md"), "host\n");
    unmount_it(vm, m);

    m = mount_it(vm, s); /* another root, the same files */
    assert_string_equal(vm_host(vm, "cd %s/home/app/p; cat .envrc CLAUDE.md", m), "guest\nhost\n");
    json_t *list = vm_json(vm, "guard", "--json", vm_text(vm, "%s:/home/app/p", s), NULL);
    assert_int_equal(json_array_size(list), 2);
    json_decref(list);
    assert_string_equal(vm_ok(vm, "guard", vm_text(vm, "%s:/home/app", s), NULL),
                        "changed       /home/app/p/.envrc\n"
                        "approved      /home/app/p/CLAUDE.md\n");
    (void)vm_ok(vm, "trust", "--forget", s, "/home/app/p/.envrc", NULL);
    (void)vm_host(vm, "while test -e %s/home/app/p/.envrc; do :; done", m);
    unmount_it(vm, m);
    vm_refused(vm, "pin, owner or off", "mount", "--guard", "maybe", s, vm->folder, NULL);
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, cmocka_unit_test(what_is_approved_stays_so), )
