#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "fs/relay/check.h"

static const struct fs_check_owners owners = {
    .uid = 1000, .gid = 1001, .server_uid = 500, .server_gid = 501};

static void types_become_files_folders_links_or_nothing_to_open(void **state)
{
    (void)state;
    static const struct {
        uint64_t mode, want;
        bool special;
    } table[] = {
        {S_IFREG | 0644, S_IFREG | 0644, false},
        {S_IFDIR | 01777, S_IFDIR | 0777, false},
        {S_IFLNK | 0777, S_IFLNK | 0777, false},
        {S_IFREG | 06755, S_IFREG | 0755, false},
        {S_IFCHR | 0666, S_IFREG, true},
        {S_IFBLK | 0666, S_IFREG, true},
        {S_IFIFO | 0666, S_IFREG, true},
        {S_IFSOCK | 0777, S_IFREG, true},
        {S_IFREG | 0xffff0fff, S_IFREG | 0777, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct fs_attr attr = {.mode = table[i].mode, .size = 5, .rdev = 0x103};
        bool special;
        assert_int_equal(fs_check_attr(&owners, &attr, &special), 0);
        assert_int_equal(attr.mode, table[i].want);
        assert_int_equal(special, table[i].special);
        assert_int_equal(attr.size, table[i].special ? 0 : 5);
        assert_int_equal(attr.rdev, 0);
    }
    static const uint64_t none[] = {0, 0777, 0110000, 0030000, 0170000};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        struct fs_attr attr = {.mode = none[i]};
        bool special;
        assert_int_equal(fs_check_attr(&owners, &attr, &special), -EIO);
    }
}

static void numbers_are_brought_into_their_ranges(void **state)
{
    (void)state;
    struct fs_attr attr = {.size = UINT64_MAX,
                           .blocks = UINT64_MAX,
                           .atime = (uint64_t)INT64_MIN,
                           .mtime = INT64_MAX,
                           .ctime = 12,
                           .atime_ns = UINT32_MAX,
                           .mtime_ns = 999999999,
                           .ctime_ns = 1000000000,
                           .mode = S_IFREG,
                           .nlink = UINT32_MAX,
                           .blksize = 123,
                           .flags = UINT32_MAX};
    bool special;
    assert_int_equal(fs_check_attr(&owners, &attr, &special), 0);
    assert_true(attr.size == 1ull << 53);
    assert_true(attr.blocks == (1ull << 53) / 512);
    assert_int_equal((int64_t)attr.atime, -2147483648ll);
    assert_int_equal(attr.mtime, 253402300799ll);
    assert_int_equal(attr.ctime, 12);
    assert_int_equal(attr.atime_ns, 999999999);
    assert_int_equal(attr.mtime_ns, 999999999);
    assert_int_equal(attr.ctime_ns, 999999999);
    assert_int_equal(attr.nlink, INT32_MAX);
    assert_int_equal(attr.blksize, 4096);
    assert_int_equal(attr.flags, 0);
}

static void owners_are_the_user_or_nobody(void **state)
{
    (void)state;
    bool special;
    struct fs_attr mine = {.mode = S_IFREG, .uid = 500, .gid = 501};
    assert_int_equal(fs_check_attr(&owners, &mine, &special), 0);
    assert_int_equal(mine.uid, 1000);
    assert_int_equal(mine.gid, 1001);
    struct fs_attr roots = {.mode = S_IFREG, .uid = 0, .gid = 1001};
    assert_int_equal(fs_check_attr(&owners, &roots, &special), 0);
    assert_int_equal(roots.uid, FS_NOBODY);
    assert_int_equal(roots.gid, FS_NOBODY);
    struct fs_check_owners all = owners;
    all.all = true;
    roots = (struct fs_attr){.mode = S_IFREG};
    assert_int_equal(fs_check_attr(&all, &roots, &special), 0);
    assert_int_equal(roots.uid, 1000);
}

static void links_stay_inside_the_mount(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        unsigned depth;
        bool whole;
        int want;
        const char *shown; /* NULL: unchanged */
    } table[] = {
        {"a", 0, false, 0, NULL},
        {"a/b/c", 0, false, 0, NULL},
        {"./a", 0, false, 0, NULL},
        {".", 0, false, 0, NULL},
        {"a//b", 0, false, 0, NULL},
        {"...", 0, false, 0, NULL},
        {"..a/..b", 0, false, 0, NULL},
        {"..", 0, false, -EPERM, NULL},
        {"..", 1, false, 0, NULL},
        {"../", 1, false, 0, NULL},
        {"../..", 1, false, -EPERM, NULL},
        {"../../x", 2, false, 0, NULL},
        {"./../.././../x", 2, false, -EPERM, NULL},
        {"./../.././../x", 3, false, 0, NULL},
        {"..//../x", 1, false, -EPERM, NULL},
        {"a/..", 5, false, -EPERM, NULL},
        {"../a/../b", 5, false, -EPERM, NULL},
        {"a/../../../../etc/passwd", 1, false, -EPERM, NULL},
        {"/etc/passwd", 3, false, -EPERM, NULL},
        {"/", 0, false, -EPERM, NULL},
        {"/etc/passwd", 0, true, 0, "etc/passwd"},
        {"/etc/passwd", 2, true, 0, "../../etc/passwd"},
        {"//etc", 1, true, 0, "../etc"},
        {"/", 0, true, 0, "."},
        {"/", 2, true, 0, "../../"},
        {"/../etc", 3, true, -EPERM, NULL},
        {"/a/../etc", 3, true, -EPERM, NULL},
        {"", 3, true, -EIO, NULL},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char out[BG_PATH_MAX];
        size_t size = 0;
        const char *text = table[i].text, *want = table[i].shown ? table[i].shown : text;
        int r = fs_check_link((const uint8_t *)text, strlen(text), table[i].depth, table[i].whole,
                              out, &size);
        if (r != table[i].want)
            fail_msg("link '%s' at depth %u: %d", text, table[i].depth, r);
        if (r == 0) {
            assert_int_equal(size, strlen(want));
            assert_memory_equal(out, want, size);
        }
    }
}

static void link_texts_that_are_none_are_refused(void **state)
{
    (void)state;
    char text[BG_PATH_MAX], out[BG_PATH_MAX];
    size_t size;
    memset(text, 'x', sizeof text);
    const uint8_t *bytes = (const uint8_t *)text;
    assert_int_equal(fs_check_link(bytes, BG_PATH_MAX - 1, 0, false, out, &size), 0);
    assert_int_equal(fs_check_link(bytes, BG_PATH_MAX, 0, false, out, &size), -EIO);
    assert_int_equal(fs_check_link((const uint8_t *)"a\0b", 3, 0, false, out, &size), -EIO);
    text[0] = '/';
    assert_int_equal(fs_check_link(bytes, BG_PATH_MAX - 1, 0, true, out, &size), 0);
    assert_int_equal(fs_check_link(bytes, BG_PATH_MAX - 1, 9, true, out, &size), -ENAMETOOLONG);
}

static void names_with_control_characters_are_hidden(void **state)
{
    (void)state;
    for (int c = 1; c < 256; c++) {
        char name[] = {'a', (char)c, 'b'};
        bool control = c < 0x20 || c == 0x7f;
        assert_int_equal(fs_check_name_shown(name, sizeof name, false), !control);
        assert_true(fs_check_name_shown(name, sizeof name, true));
    }
}

static void only_user_attributes_pass(void **state)
{
    (void)state;
    assert_true(fs_check_xattr_name("user.a"));
    assert_false(fs_check_xattr_name("user."));
    assert_false(fs_check_xattr_name("security.capability"));
    assert_false(fs_check_xattr_name("system.posix_acl_access"));
    assert_false(fs_check_xattr_name("trusted.x"));
    static const struct {
        const char *list;
        size_t size;
        bool good;
    } table[] = {{"", 0, true},
                 {"user.a", 7, true},
                 {"user.a\0user.b", 14, true},
                 {"user.a", 6, false},
                 {"user.a\0", 8, false},
                 {"user.a\0security.b", 18, false},
                 {"user.a\0user.b", 13, false}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_int_equal(fs_check_xattr_list((const uint8_t *)table[i].list, table[i].size),
                         table[i].good);
}

static void file_system_numbers_fit_each_other(void **state)
{
    (void)state;
    struct fs_statfs fs = {.blocks = UINT64_MAX,
                           .bfree = UINT64_MAX,
                           .bavail = UINT64_MAX,
                           .files = 5,
                           .ffree = 6,
                           .bsize = 0,
                           .namelen = 4095,
                           .frsize = 3};
    fs_check_statfs(&fs);
    assert_true(fs.blocks == 1ull << 53 && fs.bfree <= fs.blocks && fs.bavail <= fs.bfree);
    assert_int_equal(fs.ffree, 5);
    assert_int_equal(fs.bsize, 4096);
    assert_int_equal(fs.frsize, 4096);
    assert_int_equal(fs.namelen, 255);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_become_files_folders_links_or_nothing_to_open),
        cmocka_unit_test(numbers_are_brought_into_their_ranges),
        cmocka_unit_test(owners_are_the_user_or_nobody),
        cmocka_unit_test(links_stay_inside_the_mount),
        cmocka_unit_test(link_texts_that_are_none_are_refused),
        cmocka_unit_test(names_with_control_characters_are_hidden),
        cmocka_unit_test(only_user_attributes_pass),
        cmocka_unit_test(file_system_numbers_fit_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
