/* Which layers are copied into one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "host/supervisor/flatten_plan.h"

static void a_big_layer_is_left_where_it_is(void **state)
{
    static const struct {
        uint64_t bytes[8];
        size_t count, from;
    } rows[] = {
        {{5}, 1, 0},
        {{10, 5}, 2, 0},
        {{12, 5}, 2, 1},
        {{100, 1, 1, 1}, 4, 1},
        {{7, 1, 1, 1}, 4, 0}, /* half as much has been written above it */
        {{8, 1, 1, 1}, 4, 1},
        {{100, 50, 3, 2, 1}, 5, 2}, /* 50 is more than twice 6 */
        {{100, 13, 3, 2, 1}, 5, 1},
        {{0, 0, 0, 0}, 4, 0}, /* empty ones cost nothing */
        {{1, 2, 4, 8, 16}, 5, 0},
        {{UINT64_MAX, UINT64_MAX, UINT64_MAX}, 3, 0}, /* no sum wraps */
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(flatten_plan_from(rows[i].bytes, rows[i].count), rows[i].from);
}

/* Each is much bigger than all above it. */
static void at_most_so_many_are_left(void **state)
{
    uint64_t bytes[20];
    (void)state;
    for (size_t i = 0; i < 20; i++)
        bytes[i] = UINT64_C(1) << (3 * (20 - i));
    assert_int_equal(flatten_plan_from(bytes, 20), BG_FLATTEN_LEFT);
    assert_int_equal(flatten_plan_from(bytes, BG_FLATTEN_LEFT + 1), BG_FLATTEN_LEFT);
    assert_int_equal(flatten_plan_from(bytes, BG_FLATTEN_LEFT), BG_FLATTEN_LEFT - 1);
}

struct disk {
    uint64_t bytes[BG_DISK_LAYERS_MAX]; /* of the frozen ones; above them is a top */
    size_t count;
};

/* Returns what is copied. */
static uint64_t take_snapshot(struct disk *disk, uint64_t bytes)
{
    uint64_t copied = 0;
    assert_true(disk->count + 1 < BG_DISK_LAYERS_MAX);
    disk->bytes[disk->count++] = bytes;
    if (!flatten_plan_due(disk->count + 1))
        return 0;
    size_t from = flatten_plan_from(disk->bytes, disk->count);
    for (size_t i = from; i < disk->count; i++)
        copied += disk->bytes[i];
    disk->bytes[from] = copied;
    disk->count = from + 1;
    return copied;
}

/* Of a disk with a big layer below and small ones above, that one is not copied again and again. */
static void a_thousand_snapshots_copy_little(void **state)
{
    struct disk disk = {.bytes = {1000000}, .count = 1};
    uint64_t copied = 0;
    size_t longest = 0;
    (void)state;
    for (size_t i = 0; i < 1000; i++) {
        copied += take_snapshot(&disk, 10);
        longest = disk.count > longest ? disk.count : longest;
    }
    assert_true(longest <= BG_FLATTEN_LAYERS);
    assert_true(copied < 10 * 10000); /* ten times what was written */
    assert_true(disk.bytes[0] == 1000000);
}

/* There is always room for more snapshots while one is being flattened. */
static void the_limits_agree(void **state)
{
    (void)state;
    assert_true(BG_FLATTEN_LEFT + 2 < BG_FLATTEN_LAYERS);
    assert_false(flatten_plan_due(BG_FLATTEN_LAYERS));
    assert_true(flatten_plan_due(BG_FLATTEN_LAYERS + 1));
    assert_int_equal(flatten_plan_speed(BG_FLATTEN_LAYERS + 1, false), BG_FLATTEN_SPEED);
    assert_int_equal(flatten_plan_speed(BG_FLATTEN_LAYERS + 1, true), 0);
    assert_int_equal(flatten_plan_speed(BG_FLATTEN_HURRY + 1, false), 0);
    assert_true(BG_FLATTEN_HURRY + 1 < BG_DISK_LAYERS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_big_layer_is_left_where_it_is),
        cmocka_unit_test(at_most_so_many_are_left),
        cmocka_unit_test(a_thousand_snapshots_copy_little),
        cmocka_unit_test(the_limits_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
