#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "host/cli/mounts.h"

static void finds_ours_among_the_kernels(void **state)
{
    (void)state;
    static const char text[] =
        "22 1 0:21 / /proc rw,nosuid - proc proc rw\n"
        "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "40 23 0:50 / /home/u/web rw,nosuid,nodev - fuse.bellglass bellglass:web:sbx_1 "
        "rw,user_id=1000\n"
        "41 23 0:51 / /home/u/a\\040b\\134c\\012 rw shared:2 master:1 - fuse.bellglass "
        "bellglass:my.box:sbx_2 rw\n"
        "42 23 0:52 / /mnt rw - fuse.sshfs bellglass:web:sbx_1 rw\n"
        "43 23 0:53 / /mnt rw - fuse.bellglass web:sbx_1 rw\n"
        "44 23 0:54 / /mnt rw - fuse.bellglassx bellglass:web:sbx_1 rw\n"
        "45 23\n"
        "45 23 0:55 / /mnt rw - fuse.bellglass bellglass:web rw\n"
        "45 23 0:55 / /mnt rw - fuse.bellglass bellglass::sbx_1 rw\n"
        "45 23 0:55 / /mnt rw - fuse.bellglass bellglass:web: rw\n"
        "46 23 0:55 / /mnt rw fuse.bellglass bellglass:web:sbx_1 rw\n"
        "47 23 0:56 / /mnt rw -\n"
        "48 23 0:57 / /mnt rw - fuse.bellglass\n"
        "\n"
        "49 23 0:58 / /last ro,nosuid - fuse.bellglass bellglass:z:sbx_3 rw";
    struct mount_list list;
    struct bg_err err;
    assert_int_equal(mounts_parse(text, &list, &err), 0);
    assert_int_equal(list.count, 5);
    assert_string_equal(list.entries[0].sandbox, "web");
    assert_string_equal(list.entries[0].id, "sbx_1");
    assert_string_equal(list.entries[0].path, "/home/u/web");
    assert_string_equal(list.entries[1].sandbox, "my.box");
    assert_string_equal(list.entries[1].path, "/home/u/a b\\c\n");
    for (size_t i = 2; i < 4; i++) { /* without an id */
        assert_string_equal(list.entries[i].sandbox, "web");
        assert_string_equal(list.entries[i].id, "");
    }
    assert_string_equal(list.entries[4].path, "/last");
    assert_false(list.entries[0].read_only || list.entries[1].read_only);
    assert_true(list.entries[4].read_only);
    mounts_done(&list);
}

static void takes_any_cut_of_the_list(void **state)
{
    (void)state;
    static const char line[] = "40 23 0:50 / /a\\0 rw - fuse.bellglass bellglass:web:sbx_1 rw\n";
    char cut[sizeof line];
    for (size_t size = 0; size < sizeof line; size++) {
        struct mount_list list;
        struct bg_err err;
        memcpy(cut, line, size);
        cut[size] = '\0';
        assert_int_equal(mounts_parse(cut, &list, &err), 0);
        assert_true(list.count <= 1);
        mounts_done(&list);
    }
}

static void reads_this_machines_list(void **state)
{
    (void)state;
    struct mount_list list;
    struct bg_err err;
    assert_int_equal(mounts_read(&list, &err), 0);
    mounts_done(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_ours_among_the_kernels),
        cmocka_unit_test(takes_any_cut_of_the_list),
        cmocka_unit_test(reads_this_machines_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
