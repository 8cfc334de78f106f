#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "net/bucket.h"

static unsigned take_all(struct bucket *bucket, uint64_t leave, uint64_t now_ms)
{
    unsigned count = 0;
    while (bucket_take(bucket, leave, now_ms))
        count++;
    return count;
}

static void gives_so_many_at_once_and_a_second(void **state)
{
    (void)state;
    struct bucket b;
    bucket_init(&b, 5, 2, 1000);
    assert_int_equal(take_all(&b, 0, 1000), 5);
    assert_int_equal(take_all(&b, 0, 1499), 0);
    assert_int_equal(take_all(&b, 0, 1500), 1);
    assert_int_equal(take_all(&b, 0, 3000), 3);
    /* What was there before a look is not lost by it. */
    for (uint64_t ms = 3001; ms < 4000; ms++)
        assert_int_equal(bucket_take(&b, 0, ms), ms == 3500);
    assert_true(bucket_take(&b, 0, 4000));
}

static void gets_no_fuller_than_full(void **state)
{
    (void)state;
    struct bucket b;
    bucket_init(&b, 5, 2, 0);
    assert_int_equal(take_all(&b, 0, 1000000), 5);
    assert_int_equal(take_all(&b, 0, UINT64_MAX), 5);
    bucket_init(&b, UINT32_MAX, UINT32_MAX, 0);
    assert_true(bucket_take(&b, 0, UINT64_MAX));
    assert_int_equal(b.level, (uint64_t)UINT32_MAX * 1000 - 1000);
}

static void leaves_some_for_others(void **state)
{
    (void)state;
    struct bucket b;
    bucket_init(&b, 5, 1, 0);
    assert_int_equal(take_all(&b, 3, 0), 2);
    assert_int_equal(take_all(&b, 5, 0), 0);
    assert_int_equal(take_all(&b, 0, 0), 3);
    assert_int_equal(take_all(&b, 3, 3000), 0);
    assert_int_equal(take_all(&b, 3, 4000), 1);
}

static void gives_nothing_when_the_clock_goes_back(void **state)
{
    (void)state;
    struct bucket b;
    bucket_init(&b, 2, 1, 5000);
    assert_int_equal(take_all(&b, 0, 5000), 2);
    assert_int_equal(take_all(&b, 0, 0), 0);
    assert_int_equal(take_all(&b, 0, 5999), 0);
    assert_int_equal(take_all(&b, 0, 6000), 1);
    bucket_init(&b, 1, 0, 0);
    assert_int_equal(take_all(&b, 0, UINT64_MAX), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_so_many_at_once_and_a_second),
        cmocka_unit_test(gets_no_fuller_than_full),
        cmocka_unit_test(leaves_some_for_others),
        cmocka_unit_test(gives_nothing_when_the_clock_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
