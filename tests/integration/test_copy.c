/* cp: files, folders and tar streams in both directions. */
#include "tests/lib/vm.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"

static void files_arrive_as_they_were(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    static uint8_t bytes[3 << 20];
    struct vm_noise noise = {1};
    vm_noise_fill(&noise, bytes, sizeof bytes);
    const char *here = vm_path(vm, "noise"), *back = vm_path(vm, "back");
    vm_write(here, bytes, sizeof bytes);
    assert_int_equal(chmod(here, 0640), 0);
    (void)vm_ok(vm, "cp", here, vm_text(vm, "%s:/home/app/noise", s), NULL);
    assert_string_equal(vm_guest(vm, s, "stat -c '%%a %%s %%U' noise"), "640 3145728 app\n");
    (void)vm_ok(vm, "cp", vm_text(vm, "%s:noise", s), back, NULL); /* relative: to the home */
    size_t size;
    const char *got = vm_read(vm, back, &size);
    assert_int_equal(size, sizeof bytes);
    assert_memory_equal(got, bytes, size);
}

static void a_folder_as_target_takes_the_name(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    const char *here = vm_path(vm, "letter");
    vm_write(here, "dear\n", 5);
    (void)vm_ok(vm, "cp", here, vm_text(vm, "%s:/tmp", s), NULL);
    assert_string_equal(vm_guest(vm, s, "cat /tmp/letter"), "dear\n");
    (void)vm_ok(vm, "cp", here, vm_text(vm, "%s:/tmp/renamed", s), NULL);
    assert_string_equal(vm_guest(vm, s, "cat /tmp/renamed"), "dear\n");
    const char *folder = vm_path(vm, "into");
    assert_int_equal(mkdir(folder, 0755), 0);
    (void)vm_ok(vm, "cp", vm_text(vm, "%s:/tmp/renamed", s), folder, NULL);
    assert_string_equal(vm_read(vm, vm_path(vm, "into/renamed"), NULL), "dear\n");
}

static void folders_keep_modes_links_and_odd_names(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    const char *root = vm_path(vm, "tree");
    (void)vm_host(vm,
                  "mkdir -p %s/sub/empty; cd %s; printf a >'with space'; ln -s 'with space' "
                  "link; ln -s /nowhere dangling; printf x >sub/run; chmod 750 sub/run; "
                  "printf odd >\"$(printf '\\377name')\"; touch -d @1000000000 sub/run; echo ok",
                  root, root);
    (void)vm_ok(vm, "cp", root, vm_text(vm, "%s:/tmp/tree", s), NULL);
    static const char list[] =
        "cd /tmp/tree; find . ! -type d -printf '%y %m %P %l\\n' | LC_ALL=C "
        "sort; stat -c %Y sub/run; test -d sub/empty; cat \"$(printf '\\377name')\"";
    assert_string_equal(vm_guest(vm, s, "%s", list), "f 644 with space \n"
                                                     "f 644 \xffname \n"
                                                     "f 750 sub/run \n"
                                                     "l 777 dangling /nowhere\n"
                                                     "l 777 link with space\n"
                                                     "1000000000\n"
                                                     "odd");
    (void)vm_ok(vm, "cp", vm_text(vm, "%s:/tmp/tree", s), vm_path(vm, "copy"), NULL);
    assert_string_equal(
        vm_host(vm, "diff -r --no-dereference %s %s/copy && echo same", root, vm->folder),
        "same\n");
}

static void a_dash_is_a_tar_stream(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    (void)vm_guest(vm, s,
                   "mkdir -p /tmp/pack/sub; echo one >/tmp/pack/one; echo two >/tmp/pack/sub/two");
    const char *list =
        vm_host(vm,
                "%s cp %s:/tmp/pack - >%s/pack.tar; tar -tf %s/pack.tar | sort; "
                "%s cp - %s:/tmp/unpacked <%s/pack.tar; echo done",
                vm->bellglass, s, vm->folder, vm->folder, vm->bellglass, s, vm->folder);
    assert_string_equal(list, "pack/\npack/one\npack/sub/\npack/sub/two\ndone\n");
    assert_string_equal(vm_guest(vm, s, "cat /tmp/unpacked/pack/one /tmp/unpacked/pack/sub/two"),
                        "one\ntwo\n");
}

static void a_name_of_full_length_survives(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    char name[256];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    const char *here = vm_path(vm, "%s", name);
    vm_write(here, "long", 4);
    (void)vm_ok(vm, "cp", here, vm_text(vm, "%s:/tmp/", s), NULL);
    assert_string_equal(vm_guest(vm, s, "cat /tmp/%s", name), "long");
}

static void says_what_is_missing(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    const char *here = vm_path(vm, "absent");
    vm_refused(vm, "absent", "cp", here, vm_text(vm, "%s:/tmp/x", s), NULL);
    vm_refused(vm, "/tmp/absent", "cp", vm_text(vm, "%s:/tmp/absent", s), vm_path(vm, "x"), NULL);
    vm_write(vm_path(vm, "there"), "x", 1);
    vm_refused(vm, "/no/parent", "cp", vm_path(vm, "there"), vm_text(vm, "%s:/no/parent/x", s),
               NULL);
    vm_refused(vm, "nobody", "cp", vm_path(vm, "there"), "nobody:/tmp/x", NULL);
    assert_int_equal(access(vm_path(vm, "x"), F_OK), -1);
}

static void a_full_guest_is_told_and_the_guest_goes_on(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm);
    (void)vm_guest(
        vm, s,
        "sudo mkdir -p /mnt/small; sudo mount -t tmpfs -o size=1m,mode=1777 small /mnt/small");
    static uint8_t bytes[4 << 20];
    const char *here = vm_path(vm, "big");
    vm_write(here, bytes, sizeof bytes);
    vm_refused(vm, "full|/mnt/small", "cp", here, vm_text(vm, "%s:/mnt/small/big", s), NULL);
    assert_string_equal(vm_guest(vm, s, "sudo umount /mnt/small; echo still here"), "still here\n");
}

static void a_full_disk_in_the_guest_is_an_error_there(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    /* Blocks that are taken but not written fill the file system without filling the host. */
    (void)vm_guest(
        vm, s,
        "free=$(df --output=avail -B1 / | tail -1); sudo fallocate -l $((free - 4194304)) "
        "/fill");
    const struct vm_result *r =
        vm_call(vm, "exec", s, "--", "dd", "if=/dev/zero", "of=full", "bs=1M", "count=64", NULL);
    assert_int_equal(r->status, 1);
    assert_non_null(strstr(r->err, "No space left on device"));
    assert_string_equal(vm_guest(vm, s, "rm -f full; sudo rm /fill; echo ok >full; cat full"),
                        "ok\n");
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(files_arrive_as_they_were),
        cmocka_unit_test(a_folder_as_target_takes_the_name),
        cmocka_unit_test(folders_keep_modes_links_and_odd_names),
        cmocka_unit_test(a_dash_is_a_tar_stream), cmocka_unit_test(a_name_of_full_length_survives),
        cmocka_unit_test(says_what_is_missing),
        cmocka_unit_test(a_full_guest_is_told_and_the_guest_goes_on),
        cmocka_unit_test(a_full_disk_in_the_guest_is_an_error_there))
