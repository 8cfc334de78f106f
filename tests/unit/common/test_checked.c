#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/checked.h"

static void sums_and_products_refuse_to_wrap(void **state)
{
    (void)state;
    size_t out = 7;
    assert_true(bg_size_add(SIZE_MAX - 1, 1, &out));
    assert_true(out == SIZE_MAX);
    assert_false(bg_size_add(SIZE_MAX, 1, &out));
    assert_true(out == SIZE_MAX); /* untouched */
    assert_true(bg_size_mul(SIZE_MAX / 2, 2, &out));
    assert_false(bg_size_mul(SIZE_MAX / 2 + 1, 2, &out));
    assert_true(out == SIZE_MAX - 1);
}

static void narrowing_refuses_what_does_not_fit(void **state)
{
    (void)state;
    uint16_t small = 7;
    uint32_t middle = 7;
    assert_true(bg_to_u16(UINT16_MAX, &small));
    assert_int_equal(small, UINT16_MAX);
    assert_false(bg_to_u16(UINT16_MAX + UINT64_C(1), &small));
    assert_int_equal(small, UINT16_MAX);
    assert_true(bg_to_u32(UINT32_MAX, &middle));
    assert_false(bg_to_u32(UINT32_MAX + UINT64_C(1), &middle));
    assert_true(middle == UINT32_MAX);
}

struct row {
    const char *text;
    uint64_t min, max;
    int status;
    uint64_t want;
};

static void decimal_numbers(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"0", 0, 10, 0, 0},
        {"007", 0, 10, 0, 7},
        {"18446744073709551615", 0, UINT64_MAX, 0, UINT64_MAX},
        {"18446744073709551616", 0, UINT64_MAX, -ERANGE, 0},
        {"99999999999999999999999", 0, UINT64_MAX, -ERANGE, 0},
        {"10", 0, 10, 0, 10},
        {"11", 0, 10, -ERANGE, 0},
        {"1", 2, 10, -ERANGE, 0},
        {"", 0, 10, -EINVAL, 0},
        {" 1", 0, 10, -EINVAL, 0},
        {"1 ", 0, 10, -EINVAL, 0},
        {"+1", 0, 10, -EINVAL, 0},
        {"-1", 0, 10, -EINVAL, 0},
        {"0x1", 0, 10, -EINVAL, 0},
        {"1\n", 0, 10, -EINVAL, 0},
        {"1k", 0, UINT64_MAX, -EINVAL, 0},
        {"\xd9\xa1", 0, 10, -EINVAL, 0}, /* an Arabic digit is not one of ours */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t out = 77;
        assert_int_equal(bg_parse_u64(rows[i].text, rows[i].min, rows[i].max, &out),
                         rows[i].status);
        assert_true(out == (rows[i].status == 0 ? rows[i].want : 77));
    }
}

static void byte_counts_with_suffixes(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"1048576", 0, UINT64_MAX, 0, 1048576},
        {"64k", 0, UINT64_MAX, 0, 64 << 10},
        {"512M", 0, UINT64_MAX, 0, 512 << 20},
        {"2G", 0, UINT64_MAX, 0, UINT64_C(2) << 30},
        {"3t", 0, UINT64_MAX, 0, UINT64_C(3) << 40},
        {"16777215T", 0, UINT64_MAX, 0, UINT64_C(16777215) << 40},
        {"16777216T", 0, UINT64_MAX, -ERANGE, 0},
        {"128M", UINT64_C(256) << 20, UINT64_MAX, -ERANGE, 0},
        {"2G", 0, UINT64_C(1) << 30, -ERANGE, 0},
        {"", 0, UINT64_MAX, -EINVAL, 0},
        {"M", 0, UINT64_MAX, -EINVAL, 0},
        {"1MB", 0, UINT64_MAX, -EINVAL, 0},
        {"1Mi", 0, UINT64_MAX, -EINVAL, 0},
        {"1.5G", 0, UINT64_MAX, -EINVAL, 0},
        {"1 M", 0, UINT64_MAX, -EINVAL, 0},
        {"1P", 0, UINT64_MAX, -EINVAL, 0},
        {"-1M", 0, UINT64_MAX, -EINVAL, 0},
        {"1\x0d", 0, UINT64_MAX, -EINVAL, 0}, /* 0x0d | 0x20 is '-', & ~0x20 stays 0x0d */
        {"1\x20", 0, UINT64_MAX, -EINVAL, 0}, /* & ~0x20 makes it the NUL that ends the list */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t out = 77;
        assert_int_equal(bg_parse_bytes(rows[i].text, rows[i].min, rows[i].max, &out),
                         rows[i].status);
        assert_true(out == (rows[i].status == 0 ? rows[i].want : 77));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_and_products_refuse_to_wrap),
        cmocka_unit_test(narrowing_refuses_what_does_not_fit),
        cmocka_unit_test(decimal_numbers),
        cmocka_unit_test(byte_counts_with_suffixes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
