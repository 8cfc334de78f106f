/* Images by the real builder: needs the way to Debian's mirrors that building `debian` needed. */
#include "tests/lib/vm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The harness links DATA/images to the image that all programs share. These tests change images, so
 * they work on a folder of their own with a copy of it, made anew where a test took it away. What
 * the builder caches is shared. */
static void own_store(struct vm *vm)
{
    const char *images = vm_text(vm, "%s/data/images", vm->home);
    struct stat st;
    static char shared[PATH_MAX];
    assert_int_equal(lstat(images, &st), 0);
    if (S_ISLNK(st.st_mode)) {
        ssize_t n = readlink(images, shared, sizeof shared - 1);
        assert_true(n > 0);
        shared[n] = '\0';
        assert_int_equal(unlink(images), 0);
        assert_int_equal(mkdir(images, 0755), 0);
        assert_int_equal(
            setenv("BELLGLASS_CACHE_DIR", vm_text(vm, "%s/../cache", shared), /* replace= */ 1), 0);
    }
    if (access(vm_text(vm, "%s/tags/debian", images), F_OK) == 0)
        return;
    (void)vm_host(vm,
                  "mkdir -p '%s/tags' && cd '%s/tags' && digest=$(readlink debian) && "
                  "cp -a --reflink=auto --sparse=always \"$digest\" '%s/' && "
                  "ln -s \"$digest\" '%s/tags/debian'",
                  images, shared, images, images);
}

/* The names in DATA/images but the lock, sorted and joined; digests are cut to 8 digits. */
static const char *store_names(struct vm *vm)
{
    return vm_host(
        vm, "cd '%s/data/images' && ls -A -I .lock | cut -c1-8 | LC_ALL=C sort | tr '\\n' ' '",
        vm->home);
}

static const char *write_recipe(struct vm *vm, const char *name, const char *text)
{
    const char *path = vm_path(vm, "%s.yaml", name);
    vm_write(path, text, strlen(text));
    return path;
}

static void builds_nothing_twice(void **state)
{
    struct vm *vm = *state;
    own_store(vm);
    const char *before = store_names(vm);
    const char *out = vm_ok(vm, "image", "build", NULL);
    assert_non_null(strstr(out, "built before"));
    json_t *result = vm_json(vm, "image", "build", "debian", "--name", "mine", "--json", NULL);
    assert_true(json_is_true(json_object_get(result, "cached")));
    assert_string_equal(json_string_value(json_object_get(result, "name")), "mine");
    json_t *mine = vm_json(vm, "image", "inspect", "mine", "--json", NULL);
    assert_true(json_equal(json_object_get(result, "digest"), json_object_get(mine, "digest")));
    assert_string_equal(json_string_value(json_object_get(mine, "user")), "app");
    json_decref(mine);
    json_decref(result);
    assert_string_equal(store_names(vm), before);
    (void)vm_ok(vm, "image", "rm", "mine", NULL); /* of two tags; the image stays */
    vm_refused(vm, "mine|image ls", "image", "inspect", "mine", NULL);
    (void)vm_ok(vm, "image", "inspect", "debian", NULL);
}

static void names_what_is_damaged(void **state)
{
    struct vm *vm = *state;
    own_store(vm);
    static const char *const files[] = {"vmlinuz", "manifest.json"};
    for (size_t i = 0; i < 2; i++) {
        const char *path = vm_text(vm, "%s/data/images/tags/debian/%s", vm->home, files[i]);
        size_t size;
        const char *bytes = vm_read(vm, path, &size);
        assert_int_equal(truncate(path, (off_t)size - 1), 0);
        const char *words = vm_text(vm, "debian|%s|image rm", files[i]);
        vm_refused(vm, words, "image", "inspect", "debian", NULL);
        vm_refused(vm, words, "run", "--", "true", NULL);
        const struct vm_result *ls = vm_call(vm, "image", "ls", "--json", NULL);
        assert_int_equal(ls->status, 0);
        assert_string_equal(ls->out, "[]\n");
        assert_non_null(strstr(ls->err, "1 damaged image"));
        vm_write(path, bytes, size);
    }
    (void)vm_ok(vm, "image", "inspect", "debian", NULL);
}

static void says_why_a_build_failed_and_leaves_nothing(void **state)
{
    struct vm *vm = *state;
    own_store(vm);
    const char *before = store_names(vm);
    const char *recipe = write_recipe(vm, "bad",
                                      "name: bad\nsuite: bookworm\n"
                                      "packages: [no-such-package-at-all]\n");
    const struct vm_result *r = vm_call(vm, "image", "build", recipe, NULL);
    assert_int_equal(r->status, 125);
    assert_non_null(strstr(r->err, "no-such-package-at-all"));
    assert_non_null(strstr(r->err, "step 'bootstrap'"));
    assert_string_equal(r->out, "");
    assert_string_equal(store_names(vm), before);
    recipe = write_recipe(vm, "typo", "name: x\nsuite: bookworm\npackagess: []\n");
    vm_refused(vm, "packagess|line 3|packages, kernel", "image", "build", recipe, NULL);
    vm_refused(vm, "'nope'", "image", "build", "nope", NULL);
}

static void leaves_nothing_when_interrupted(void **state)
{
    struct vm *vm = *state;
    own_store(vm);
    const char *before = store_names(vm);
    const char *recipe = write_recipe(vm, "never", "name: never\nsuite: bookworm\n");
    static const int signals[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < 2; i++) {
        struct vm_process *build =
            vm_start(vm, (const char *const[]){"image", "build", recipe, NULL});
        vm_expect(build, "bootstrap: ");
        assert_int_equal(vm_stop(build, signals[i]), 128 + signals[i]);
        assert_string_equal(store_names(vm), before);
    }
    vm_refused(vm, "never", "image", "inspect", "never", NULL);
}

static const char own_recipe[] = "name: own\n"
                                 "suite: bookworm\n"
                                 "packages: [ca-certificates, sudo]\n"
                                 "user: dev\n"
                                 "disk: 2G\n"
                                 "files:\n"
                                 "  - path: \"/opt/it's here\"\n"
                                 "    mode: \"0640\"\n"
                                 "    owner: dev\n"
                                 "    content: |\n"
                                 "      content\n"
                                 "  - path: /opt/from-source\n"
                                 "    source: beside me\n"
                                 "run:\n"
                                 "  - cat \"/opt/it's here\" >/opt/made\n"
                                 "  - |\n"
                                 "    id -un >>/opt/made\n"
                                 "    test \"$HOME\" = /root\n";

static void builds_once_what_two_ask_for(void **state)
{
    struct vm *vm = *state;
    own_store(vm);
    const char *recipe = write_recipe(vm, "own", own_recipe);
    vm_write(vm_path(vm, "beside me"), "source\n", strlen("source\n"));
    const char *const argv[] = {"image", "build", recipe, NULL};
    struct vm_process *first = vm_start(vm, argv);
    vm_expect(first, "bootstrap: ");
    struct vm_process *second = vm_start(vm, argv);
    vm_expect(second, "another build is running");
    /* Step by step, since each wait has the same deadline. */
    vm_expect(first, "bootstrap: done");
    vm_expect(first, "disk: done");
    vm_expect(first, "publish: done");
    assert_int_equal(vm_finish(first), 0);
    vm_expect(second, "built before");
    assert_int_equal(vm_finish(second), 0);

    const char *out = vm_ok(vm, "run", "--image", "own", "--", "sh", "-c",
                            "cd /opt && cat made from-source && id -un && sudo id -un && "
                            "stat -c '%a %U' \"it's here\" && "
                            "! sudo grep -rl bellglass-build /etc && "
                            "! ls -A / | grep bellglass",
                            NULL);
    assert_string_equal(out, "content\nroot\nsource\ndev\nroot\n640 dev\n");
    (void)vm_ok(vm, "image", "rm", "own", NULL);
}

/* A small root on a whole disk, and the same on a partition. */
static void make_disks(struct vm *vm)
{
    (void)vm_host(vm,
                  "PATH=$PATH:/usr/sbin && cd '%s' && mkdir -p r/etc r/bin r/opt r/proc && "
                  "printf 'root:x:0:0::/root:/bin/sh\\nbob:x:1000:1000::/:/bin/sh\\n' "
                  ">r/etc/passwd && printf '127.0.0.1 localhost\\n' >r/etc/hosts && "
                  "echo marked >r/opt/marker && ln -s /opt r/link && "
                  "truncate -s 64M whole && mke2fs -q -t ext4 -d r whole && "
                  "qemu-img convert -O qcow2 whole whole.qcow2 && "
                  "truncate -s 66M part && echo 2048,,L | sfdisk -q part && "
                  "dd if=whole of=part bs=1M seek=1 conv=notrunc status=none && "
                  "qemu-img convert -O qcow2 part part.qcow2",
                  vm->folder);
}

/* What an image's disk has, seen without mounting it. */
static const char *look(struct vm *vm, const char *image, const char *command)
{
    return vm_host(vm,
                   "PATH=$PATH:/usr/sbin && cd '%s' && "
                   "qemu-img convert -O raw '%s/data/images/tags/%s/root.qcow2' seen && "
                   "debugfs -R '%s' seen 2>/dev/null; dumpe2fs -h seen 2>/dev/null | "
                   "sed -n 's/.*volume name: *//p'; rm seen",
                   vm->folder, vm->home, image, command);
}

static void imports_disks(void **state)
{
    struct vm *vm = *state;
    own_store(vm);
    make_disks(vm);
    json_t *result = vm_json(vm, "image", "import", vm_path(vm, "whole.qcow2"), "--user", "root",
                             "--json", NULL);
    assert_string_equal(json_string_value(json_object_get(result, "name")), "whole");
    assert_string_equal(json_string_value(json_object_get(result, "user")), "root");
    json_decref(result);
    assert_string_equal(look(vm, "whole", "cat /opt/marker"), "marked\nbellglass\n");

    (void)vm_ok(vm, "image", "import", vm_path(vm, "part.qcow2"), "--name", "parted", NULL);
    assert_string_equal(look(vm, "parted", "cat /opt/marker"), "marked\nbellglass\n");
    json_t *parted = vm_json(vm, "image", "inspect", "parted", "--json", NULL);
    assert_string_equal(json_string_value(json_object_get(parted, "user")), "bob");
    json_decref(parted);

    const char *before = store_names(vm);
    struct vm_process *import =
        vm_start(vm, (const char *const[]){"image", "import", vm_path(vm, "whole.qcow2"), NULL});
    vm_expect(import, "disk: ");
    assert_int_equal(vm_stop(import, SIGINT), 130);
    assert_string_equal(store_names(vm), before);
    (void)vm_ok(vm, "image", "rm", "whole", NULL);
    (void)vm_ok(vm, "image", "rm", "parted", NULL);
}

/* The last line of stderr says why; what was done before it does not matter here. */
static void import_refused(struct vm *vm, const char *path, const char *why)
{
    const struct vm_result *r = vm_call(vm, "image", "import", path, NULL);
    assert_int_equal(r->status, 125);
    if (!strstr(r->err, why))
        print_error("%s\n", r->err);
    assert_non_null(strstr(r->err, why));
}

static void refuses_disks_that_lead_elsewhere(void **state)
{
    struct vm *vm = *state;
    own_store(vm);
    const char *before = store_names(vm);
    (void)vm_host(
        vm,
        "cd '%s' && qemu-img create -q -f qcow2 -b /etc/passwd -F raw on-host.qcow2 1G && "
        "qemu-img create -q -f qcow2 -o data_file=elsewhere,data_file_raw=on "
        "outside.qcow2 1G && qemu-img create -q -f qcow2 huge.qcow2 5T && "
        "printf 'QFI\\373 no more' >short.qcow2",
        vm->folder);
    import_refused(vm, vm_path(vm, "on-host.qcow2"), "stands on another file");
    import_refused(vm, vm_path(vm, "outside.qcow2"), "in another file");
    import_refused(vm, vm_path(vm, "huge.qcow2"), "not possible");
    import_refused(vm, vm_path(vm, "short.qcow2"), "not a qcow2");
    import_refused(vm, "/etc/passwd", "not a qcow2");
    import_refused(vm, "/dev/null", "not a file");
    import_refused(vm, vm_path(vm, "absent.qcow2"), "absent.qcow2");
    assert_string_equal(store_names(vm), before);
}

static const char *count_golden(struct vm *vm)
{
    return vm_host(vm, "ls '%s/data/snapshots' 2>/dev/null | grep -c ^golden- || true", vm->home);
}

static void keeps_an_image_that_a_sandbox_uses(void **state)
{
    struct vm *vm = *state;
    own_store(vm);
    const char *name = vm_sandbox(vm);
    assert_string_not_equal(count_golden(vm), "0\n");
    vm_refused(vm, vm_text(vm, "debian|%s|bellglass rm", name), "image", "rm", "debian", NULL);
    (void)vm_ok(vm, "image", "inspect", "debian", NULL);
    (void)vm_ok(vm, "rm", "--force", name, NULL);
    (void)vm_ok(vm, "image", "rm", "debian", NULL);
    assert_string_equal(count_golden(vm), "0\n");
    vm_refused(vm, "debian|image build", "image", "inspect", "debian", NULL);
    vm_refused(vm, "debian|image build", "run", "--", "true", NULL);
}

static void wants_room(void **state)
{
    struct vm *vm = *state;
    if (geteuid() != 0)
        skip();
    const char *small = vm_path(vm, "small");
    assert_int_equal(mkdir(small, 0755), 0);
    (void)vm_host(vm, "mount -t tmpfs -o size=64M tmpfs '%s'", small);
    assert_int_equal(setenv("BELLGLASS_HOME", small, 1), 0);
    const char *recipe = write_recipe(vm, "room", "name: room\nsuite: bookworm\n");
    const struct vm_result *r = vm_call(vm, "image", "build", recipe, NULL);
    const char *left = vm_host(vm, "ls -A '%s/data/images'; umount '%s'", small, small);
    assert_int_equal(setenv("BELLGLASS_HOME", vm->home, 1), 0);
    assert_int_equal(r->status, 125);
    assert_non_null(strstr(r->err, "MiB free"));
    assert_non_null(strstr(r->err, "BELLGLASS_HOME"));
    assert_string_equal(left, ".lock\ntags\n");
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(builds_nothing_twice),
        cmocka_unit_test(names_what_is_damaged),
        cmocka_unit_test(says_why_a_build_failed_and_leaves_nothing),
        cmocka_unit_test(leaves_nothing_when_interrupted),
        cmocka_unit_test(builds_once_what_two_ask_for), cmocka_unit_test(imports_disks),
        cmocka_unit_test(refuses_disks_that_lead_elsewhere), cmocka_unit_test(wants_room),
        cmocka_unit_test(keeps_an_image_that_a_sandbox_uses))
