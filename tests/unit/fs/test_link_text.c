#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/server/link_text.h"

static void parents_after_names_need_cleaning(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool want;
    } table[] = {{"a", false},        {"../a", false},  {"../../", false},   {"./../a", false},
                 {"a/..", true},      {"a/../b", true}, {"../a/../b", true}, {"/a/b", false},
                 {"/../a", true},     {"/a/..", true},  {"a/...", false},    {"..a/b", false},
                 {"a//.././b", true}, {"", false},      {"..", false}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (fs_link_needs_cleaning(table[i].text) != table[i].want)
            fail_msg("%s", table[i].text);
}

static void ways_go_up_first_and_then_down(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *target, *rest, *want;
    } table[] = {{"", "", "", "."},
                 {"", "a/b", "", "a/b"},
                 {"", "a", "/b", "a/b"},
                 {"", "", "//b", "b"},
                 {"a", "", "", ".."},
                 {"a/b", "", "", "../.."},
                 {"a/b", "", "x", "../../x"},
                 {"a/b", "a", "", ".."},
                 {"a/b", "a/b", "", "."},
                 {"a/b", "a/b/c", "", "c"},
                 {"a/b", "a/bc", "/d/", "../bc/d/"},
                 {"a/b", "ab", "", "../../ab"},
                 {"a/b/c", "a/x/c", "y", "../../x/c/y"}};
    char out[BG_PATH_MAX];
    size_t size;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        assert_int_equal(
            fs_link_between(table[i].folder, table[i].target, table[i].rest, out, &size), 0);
        assert_string_equal(out, table[i].want);
        assert_int_equal(size, strlen(table[i].want));
    }
}

static void ways_have_a_maximum(void **state)
{
    (void)state;
    char out[BG_PATH_MAX], rest[BG_PATH_MAX + 8];
    size_t size;
    memset(rest, 'r', sizeof rest);
    rest[BG_PATH_MAX - 3] = '\0';
    assert_int_equal(fs_link_between("", "", rest, out, &size), 0);
    assert_int_equal(size, BG_PATH_MAX - 3);
    rest[BG_PATH_MAX - 3] = 'r';
    rest[BG_PATH_MAX - 2] = '\0';
    assert_int_equal(fs_link_between("", "", rest, out, &size), -ENAMETOOLONG);
    rest[BG_PATH_MAX - 4] = '\0';
    assert_int_equal(fs_link_between("a", "", rest, out, &size), -ENAMETOOLONG);
}

static int open_folder(const char *path)
{
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void links_are_resolved_inside_of_what_is_served(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *text, *want; /* NULL: nowhere */
        int error;
        const char *want_whole; /* when the root is that of the machine; NULL: as error says */
    } table[] = {{"a/b", "c/../f", "f", 0, "f"},
                 {"a/b", "c/..", ".", 0, "."},
                 {"a/b", "to-d/../f", "../../f", 0, "../../f"}, /* not b/f: to-d leads away */
                 {"a/b", "to-d/../../f", NULL, -EXDEV, "../../f"},
                 {"a/b", "/a/b/../x/y", NULL, -EXDEV, "../x/y"},
                 {"a/b", "/../x", NULL, -EXDEV, "../../x"},
                 {"a/b", "/..", NULL, -EXDEV, "../.."},
                 {"", "/..", NULL, -EXDEV, "."},
                 {"a/b", "out/../f", NULL, -EXDEV, "../../f"}, /* out is "/etc" */
                 {"", "d/../a/b/c/../../new/file", "a/new/file", 0, "a/new/file"},
                 {"a/b", "none/../f", NULL, -ENOENT, NULL},
                 {"a/b", "f/../f", NULL, -ENOTDIR, NULL},
                 {"a/b", "loop/../f", NULL, -ELOOP, NULL}};
    char top[] = "/tmp/bg-links-XXXXXX", command[512];
    assert_non_null(mkdtemp(top));
    assert_int_equal(chdir(top), 0);
    static const char *const folders[] = {"root",       "root/a", "root/a/b",
                                          "root/a/b/c", "root/d", "root/etc"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        assert_int_equal(mkdir(folders[i], 0755), 0);
    assert_int_equal(symlink("../../d", "root/a/b/to-d"), 0);
    assert_int_equal(symlink("/etc", "root/a/b/out"), 0);
    assert_int_equal(symlink("loop", "root/a/b/loop"), 0);
    assert_int_equal(close(open("root/a/b/f", O_CREAT | O_CLOEXEC, 0644)), 0);
    int root = open_folder("root");
    for (size_t i = 0; i < 2 * sizeof table / sizeof *table; i++) {
        char out[BG_PATH_MAX];
        size_t size;
        size_t row = i / 2;
        bool whole = i % 2;
        (void)snprintf(command, sizeof command, "root/%s", table[row].folder);
        const struct fs_link_place place = {
            .root_fd = root, .whole = whole, .folder_fd = open_folder(command)};
        int r = fs_link_clean(&place, table[row].text, out, &size);
        const char *want = whole ? table[row].want_whole : table[row].want;
        int error = whole && want ? 0 : table[row].error;
        if (r != error || (r == 0 && strcmp(out, want) != 0))
            fail_msg("%s in %s, %d: %d %s", table[row].text, table[row].folder, whole, r,
                     r == 0 ? out : "");
        (void)close(place.folder_fd);
    }
    int outside = open_folder(".");
    char out[BG_PATH_MAX];
    size_t size;
    const struct fs_link_place away = {.root_fd = root, .whole = true, .folder_fd = outside};
    assert_int_equal(fs_link_clean(&away, "root/../x", out, &size), -EXDEV);
    (void)close(outside);
    (void)close(root);
    static const char *const files[] = {"root/a/b/f", "root/a/b/loop", "root/a/b/out",
                                        "root/a/b/to-d"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        assert_int_equal(unlink(files[i]), 0);
    for (size_t i = sizeof folders / sizeof *folders; i > 0; i--)
        assert_int_equal(rmdir(folders[i - 1]), 0);
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(rmdir(top), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parents_after_names_need_cleaning),
        cmocka_unit_test(ways_go_up_first_and_then_down),
        cmocka_unit_test(ways_have_a_maximum),
        cmocka_unit_test(links_are_resolved_inside_of_what_is_served),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
