/* What happens in the guest, told to the host: by `bellglass watch`, and by the mount, whose caches
 * are long because it is told. */
#include "tests/lib/vm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct vm_process *watch(struct vm *vm, const char *sandbox, const char *path, bool json)
{
    const char *argv[] = {"watch", sandbox, path, json ? "--json" : NULL, NULL};
    struct vm_process *process = vm_start(vm, argv);
    vm_expect(process, "Ctrl-C"); /* the guest has answered: nothing is missed from here on */
    return process;
}

static void people_see_what_happens(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "mkdir project; echo before >project/old");
    struct vm_process *p = watch(vm, s, "/home/app/project", false);
    (void)vm_guest(vm, s, "echo elsewhere >other; cd project; echo text >new");
    vm_expect(p, "created    /home/app/project/new\n");
    vm_expect(p, "modified   /home/app/project/new\n");
    vm_expect(p, "written    /home/app/project/new\n");
    (void)vm_guest(vm, s, "cd project; mkdir sub; mv new sub/newer");
    vm_expect(p, "created    /home/app/project/sub/\n");
    vm_expect(p, "moved      /home/app/project/new -> /home/app/project/sub/newer\n");
    (void)vm_guest(vm, s, "cd project; chmod 700 sub/newer; mv sub/newer ..");
    vm_expect(p, "attributes /home/app/project/sub/newer\n");
    vm_expect(p, "moved      /home/app/project/sub/newer -> (elsewhere)\n");
    (void)vm_guest(vm, s, "cd project; rm old; printf x >\"$(printf 'a\\033b')\"; rmdir sub");
    vm_expect(p, "deleted    /home/app/project/old\n");
    vm_expect(p, "created    /home/app/project/a\\x1bb\n");
    vm_expect(p, "deleted    /home/app/project/sub/\n");
    assert_null(strstr(p->text, "other"));
    assert_int_equal(vm_stop(p, SIGINT), 128 + SIGINT);
}

static void programs_get_lines_of_json(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    struct vm_process *p = watch(vm, s, "/", true); /* other file systems too: /dev/shm, /tmp */
    (void)vm_guest(vm, s, "echo x >a; mv a b; echo x >/dev/shm/c; mkdir d");
    vm_expect(p, "{\"kind\":\"created\",\"path\":\"/home/app/a\",\"folder\":false}\n");
    vm_expect(p, "{\"kind\":\"moved\",\"path\":\"/home/app/b\",\"old_path\":\"/home/app/a\",");
    vm_expect(p, "{\"kind\":\"created\",\"path\":\"/home/app/d\",\"folder\":true}\n");
    assert_int_equal(vm_stop(p, SIGTERM), 128 + SIGTERM);
}

static void one_file_can_be_watched(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "echo x >file");
    struct vm_process *p = watch(vm, s, "/home/app/file", false);
    (void)vm_guest(vm, s, "echo x >file2; echo y >>file");
    vm_expect(p, "modified   /home/app/file\n");
    assert_null(strstr(p->text, "file2"));
    assert_int_equal(vm_stop(p, SIGINT), 128 + SIGINT);
}

static void ends_with_the_sandbox(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    struct vm_process *p = watch(vm, s, "/home/app", false);
    (void)vm_ok(vm, "stop", s, NULL);
    vm_expect(p, "has ended");
    assert_int_equal(vm_finish(p), 0);
}

static void wrong_paths_are_refused(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    vm_refused(vm, "/no/such", "watch", s, "/no/such", NULL);
    vm_refused(vm, "absolute", "watch", s, "relative", NULL);
    vm_refused(vm, "/proc|watched", "watch", s, "/proc", NULL);
    vm_refused(vm, "two paths", "watch", vm_text(vm, "%s:/a", s), "/b", NULL);
    vm_refused(vm, "nosuch", "watch", "nosuch", NULL);
}

static bool file_is_new(void *arg)
{
    char text[64] = "";
    FILE *file = fopen(arg, "re");
    if (!file)
        return false;
    size_t size = fread(text, 1, sizeof text - 1, file);
    (void)fclose(file);
    return size > 0 && strcmp(text, "new text, longer\n") == 0;
}

static void a_mount_shows_the_guests_changes(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "echo old >file; mkdir folder; echo x >folder/x");
    const char *m = vm_path(vm, "mnt-%s", s);
    char path[512];
    assert_int_equal(mkdir(m, 0755), 0);
    (void)vm_ok(vm, "mount", vm_text(vm, "%s:/home/app", s), m, NULL);
    char *file = vm_read(vm, vm_text(vm, "%s/file", m), NULL);
    assert_string_equal(file, "old\n");
    assert_string_equal(vm_host(vm, "ls %s/folder", m), "x\n");
    (void)vm_guest(vm, s, "echo 'new text, longer' >file; mv folder moved; touch moved/y");
    (void)snprintf(path, sizeof path, "%s/file", m);
    vm_wait("the guest's text in the mount", file_is_new, path);
    vm_wait_path("the moved folder", vm_text(vm, "%s/moved/y", m));
    assert_string_equal(vm_host(vm, "ls %s %s/moved | xargs", m, m),
                        vm_text(vm, "%s: file moved %s/moved: x y\n", m, m));
    (void)vm_ok(vm, "umount", m, NULL);
    assert_int_equal(rmdir(m), 0);
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, cmocka_unit_test(people_see_what_happens),
        cmocka_unit_test(programs_get_lines_of_json), cmocka_unit_test(one_file_can_be_watched),
        cmocka_unit_test(ends_with_the_sandbox), cmocka_unit_test(wrong_paths_are_refused),
        cmocka_unit_test(a_mount_shows_the_guests_changes))
