/* Lists of files: their order, and their file. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/changes/entry.h"

static void add(struct entries *entries, const char *path, uint64_t inode)
{
    struct bg_change c = {.type = BG_CHANGE_FILE, .mode = 0644, .inode = inode};
    (void)snprintf(c.path, sizeof c.path, "%s", path);
    assert_non_null(entries_add(entries, &c));
}

static void what_is_in_a_folder_comes_after_it(void **state)
{
    (void)state;
    static const char *const sorted[] = {"a", "a/b", "a/b/c", "a/c", "a b", "a-", "a.b", "ab", "b"};
    struct entries entries = {0};
    size_t count = sizeof sorted / sizeof *sorted, first, end;
    for (size_t i = count; i-- > 0;)
        add(&entries, sorted[i], i);
    entries_sort(&entries);
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(entries.list[i].path, sorted[i]);
        assert_ptr_equal(entries_find(&entries, sorted[i]), &entries.list[i]);
    }
    assert_null(entries_find(&entries, "a/"));
    assert_null(entries_find(&entries, ""));
    entries_below(&entries, "a", &first, &end);
    assert_int_equal(first, 1);
    assert_int_equal(end, 4);
    entries_below(&entries, "", &first, &end);
    assert_int_equal(end - first, count);
    entries_below(&entries, "ab", &first, &end);
    assert_int_equal(first, end);
    entries_below(&entries, "zz", &first, &end);
    assert_int_equal(first, end);
    entries_done(&entries);
}

static void a_path_is_there_once(void **state)
{
    (void)state;
    struct entries entries = {0};
    for (unsigned i = 0; i < 100; i++)
        add(&entries, i % 2 ? "a" : "b", i);
    entries_sort(&entries);
    assert_int_equal(entries.count, 2);
    entries_done(&entries);
}

static void a_list_comes_back_from_its_file(void **state)
{
    (void)state;
    struct entries entries = {0}, back;
    uint8_t *bytes;
    size_t size;
    add(&entries, "a", 1);
    add(&entries, "b/c", 2);
    entries.list[1].has_hash = true;
    entries.list[1].hash[31] = 7;
    assert_int_equal(entries_emit(&entries, &bytes, &size), 0);
    assert_int_equal(entries_parse(bytes, size, &back), 0);
    assert_int_equal(back.count, 2);
    assert_true(entry_same(&entries.list[1], &back.list[1]));
    assert_true(back.list[1].has_hash && back.list[1].hash[31] == 7);
    entries_done(&back);
    for (size_t i = 0; i < size; i++) {
        assert_int_equal(entries_parse(bytes, i, &back), -EUCLEAN);
        bytes[i] ^= 4;
        assert_int_equal(entries_parse(bytes, size, &back), -EUCLEAN);
        bytes[i] ^= 4;
    }
    free(bytes);
    entries_done(&entries);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_in_a_folder_comes_after_it),
        cmocka_unit_test(a_path_is_there_once),
        cmocka_unit_test(a_list_comes_back_from_its_file),
    };
    return cmocka_run_group_tests_name("entry", tests, NULL, NULL);
}
