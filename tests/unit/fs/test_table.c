#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/table.h"

struct item {
    struct fs_link link;
    uint64_t key;
};

#define COUNT 5000

static struct item *find(const struct fs_table *table, uint64_t key)
{
    struct fs_link *link = fs_table_first(table, fs_table_hash(table, key));
    for (; link; link = fs_table_next(link)) {
        struct item *item = FS_LINK_OWNER(link, struct item, link);
        if (item->key == key)
            return item;
    }
    return NULL;
}

static void finds_what_was_put_in_and_not_what_was_taken_out(void **state)
{
    (void)state;
    struct fs_table table;
    struct item *items = calloc(COUNT, sizeof *items);
    assert_non_null(items);
    assert_int_equal(fs_table_init(&table), 0);
    for (uint64_t i = 0; i < COUNT; i++) {
        items[i].key = i * i;
        fs_table_insert(&table, &items[i].link, fs_table_hash(&table, items[i].key));
    }
    assert_int_equal(table.count, COUNT);
    for (uint64_t i = 0; i < COUNT; i += 2)
        fs_table_remove(&table, &items[i].link);
    for (uint64_t i = 0; i < COUNT; i++)
        assert_ptr_equal(find(&table, i * i), i % 2 ? &items[i] : NULL);
    size_t cursor = 0, left = 0;
    while (fs_table_pop(&table, &cursor))
        left++;
    assert_int_equal(left, COUNT / 2);
    fs_table_done(&table);
    free(items);
}

static void hashes_of_bytes_tell_length_and_key(void **state)
{
    (void)state;
    struct fs_table table;
    assert_int_equal(fs_table_init(&table), 0);
    static const char zeros[32];
    for (size_t a = 0; a < sizeof zeros; a++)
        for (size_t b = 0; b < a; b++)
            assert_true(fs_table_hash_bytes(&table, 1, zeros, a) !=
                        fs_table_hash_bytes(&table, 1, zeros, b));
    assert_true(fs_table_hash_bytes(&table, 1, "name", 4) !=
                fs_table_hash_bytes(&table, 2, "name", 4));
    fs_table_done(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_was_put_in_and_not_what_was_taken_out),
        cmocka_unit_test(hashes_of_bytes_tell_length_and_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
