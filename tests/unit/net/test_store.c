#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "common/limits.h"
#include "net/locked.h"
#include "net/store.h"

struct folder {
    char path[64];
};

static int set_up(void **state)
{
    struct folder *folder = calloc(1, sizeof *folder);
    (void)snprintf(folder->path, sizeof folder->path, "/tmp/bellglass-store-XXXXXX");
    *state = folder;
    return mkdtemp(folder->path) ? 0 : -1;
}

static int tear_down(void **state)
{
    struct folder *folder = *state;
    struct store_entry *entries;
    size_t count;
    char path[128];
    (void)snprintf(path, sizeof path, "%s/secrets", folder->path);
    (void)chmod(path, 0700);
    if (store_list(folder->path, &entries, &count, NULL) == 0) {
        for (size_t i = 0; i < count; i++)
            assert_int_equal(store_remove(folder->path, entries[i].name, NULL), 0);
        store_list_free(entries, count);
    }
    (void)rmdir(path);
    int r = rmdir(folder->path);
    free(folder);
    return r;
}

static const char *path_of(const struct folder *folder, const char *name, char path[128])
{
    (void)snprintf(path, 128, "%s/secrets%s%s", folder->path, *name ? "/" : "", name);
    return path;
}

static void keeps_a_value_for_its_owner_only(void **state)
{
    const struct folder *folder = *state;
    char path[128];
    struct stat st;
    void *value;
    size_t size;
    assert_int_equal(store_set(folder->path, "TOKEN", "v\xff", 2, NULL), 0);
    assert_int_equal(stat(path_of(folder, "", path), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(stat(path_of(folder, "TOKEN", path), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(store_get(folder->path, "TOKEN", &value, &size, NULL, NULL), 0);
    assert_int_equal(size, 2);
    assert_memory_equal(value, "v\xff", 2);
    locked_free(value, size);
    assert_int_equal(store_set(folder->path, "TOKEN", "new", 3, NULL), 0);
    assert_int_equal(store_get(folder->path, "TOKEN", &value, &size, NULL, NULL), 0);
    assert_int_equal(size, 3);
    locked_free(value, size);
}

static void says_what_is_missing(void **state)
{
    const struct folder *folder = *state;
    struct bg_err err;
    void *value;
    size_t size;
    assert_int_equal(store_get(folder->path, "NONE", &value, &size, NULL, &err), -ENOENT);
    assert_non_null(strstr(err.text, "bellglass secret set NONE"));
    assert_int_equal(store_remove(folder->path, "NONE", &err), -ENOENT);
    assert_int_equal(store_set(folder->path, "OTHER", "x", 1, &err), 0);
    assert_int_equal(store_get(folder->path, "NONE", &value, &size, NULL, &err), -ENOENT);
    assert_int_equal(store_remove(folder->path, "NONE", &err), -ENOENT);
}

static void lists_names_in_order(void **state)
{
    const struct folder *folder = *state;
    struct store_entry *entries;
    size_t count;
    assert_int_equal(store_list(folder->path, &entries, &count, NULL), 0);
    assert_int_equal(count, 0);
    assert_int_equal(store_set(folder->path, "B", "x", 1, NULL), 0);
    assert_int_equal(store_set(folder->path, "A", "x", 1, NULL), 0);
    assert_int_equal(store_list(folder->path, &entries, &count, NULL), 0);
    assert_int_equal(count, 2);
    assert_string_equal(entries[0].name, "A");
    assert_string_equal(entries[1].name, "B");
    assert_true(entries[0].changed_ms > 0);
    store_list_free(entries, count);
}

static void refuses_bad_names_and_values(void **state)
{
    const struct folder *folder = *state;
    static const char *const names[] = {"", "..", "a/b", "../x", "1A", "A B", "A\n", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(store_set(folder->path, names[i], "x", 1, NULL), -EINVAL);
    assert_int_equal(store_set(folder->path, "A", "", 0, NULL), -EINVAL);
    assert_int_equal(store_set(folder->path, "A", "a\nb", 3, NULL), -EINVAL);
}

static void does_not_read_what_others_may_touch(void **state)
{
    const struct folder *folder = *state;
    char path[128];
    void *value;
    size_t size;
    assert_int_equal(store_set(folder->path, "A", "x", 1, NULL), 0);
    assert_int_equal(chmod(path_of(folder, "A", path), 0640), 0);
    assert_int_equal(store_get(folder->path, "A", &value, &size, NULL, NULL), -EPERM);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(chmod(path_of(folder, "", path), 0750), 0);
    assert_int_equal(store_get(folder->path, "A", &value, &size, NULL, NULL), -EPERM);
    assert_int_equal(store_set(folder->path, "A", "x", 1, NULL), -EPERM);
    assert_int_equal(chmod(path, 0700), 0);
}

static void does_not_follow_a_link(void **state)
{
    const struct folder *folder = *state;
    char path[128];
    void *value;
    size_t size;
    assert_int_equal(store_set(folder->path, "A", "x", 1, NULL), 0);
    assert_int_equal(symlink("A", path_of(folder, "LINK", path)), 0);
    assert_int_equal(store_get(folder->path, "LINK", &value, &size, NULL, NULL), -ELOOP);
    assert_int_equal(unlink(path), 0);
}

static void does_not_take_a_damaged_file(void **state)
{
    const struct folder *folder = *state;
    static const char *const contents[] = {"", "a\nb", "a\rb"};
    char path[128];
    void *value;
    size_t size;
    assert_int_equal(store_set(folder->path, "A", "x", 1, NULL), 0);
    for (size_t i = 0; i < 3; i++) {
        int fd = open(path_of(folder, "A", path), O_WRONLY | O_TRUNC | O_CLOEXEC);
        assert_int_equal(write(fd, contents[i], strlen(contents[i])), strlen(contents[i]));
        (void)close(fd);
        assert_int_equal(store_get(folder->path, "A", &value, &size, NULL, NULL), -EINVAL);
    }
    assert_int_equal(truncate(path, BG_SECRET_SIZE_MAX + 1), 0);
    assert_int_equal(store_get(folder->path, "A", &value, &size, NULL, NULL), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(keeps_a_value_for_its_owner_only, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_what_is_missing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lists_names_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_bad_names_and_values, set_up, tear_down),
        cmocka_unit_test_setup_teardown(does_not_read_what_others_may_touch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(does_not_follow_a_link, set_up, tear_down),
        cmocka_unit_test_setup_teardown(does_not_take_a_damaged_file, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
