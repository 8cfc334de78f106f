#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"

static void reads_each_width_in_its_byte_order(void **state)
{
    (void)state;
    static const uint8_t in[] = {0x7f, 0x01, 0x02, 0x01, 0x02, 0xf1, 0xf2, 0xf3, 0xf4, 0xf1, 0xf2,
                                 0xf3, 0xf4, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0xf8};
    struct bg_reader r = bg_reader_init(in, sizeof in);
    assert_int_equal(bg_reader_u8(&r), 0x7f);
    assert_int_equal(bg_reader_u16le(&r), 0x0201);
    assert_int_equal(bg_reader_u16be(&r), 0x0102);
    assert_int_equal(bg_reader_u32le(&r), 0xf4f3f2f1);
    assert_int_equal(bg_reader_u32be(&r), 0xf1f2f3f4);
    assert_true(bg_reader_u64le(&r) == UINT64_C(0xf807060504030201));
    assert_true(bg_reader_end(&r));
}

static void failed_read_sticks_and_yields_zeros(void **state)
{
    (void)state;
    static const uint8_t in[] = {1, 2, 3, 4, 5};
    struct bg_reader r = bg_reader_init(in, sizeof in);
    assert_int_equal(bg_reader_u32le(&r), 0x04030201);
    assert_int_equal(bg_reader_u32le(&r), 0); /* only one byte is left */
    assert_false(bg_reader_ok(&r));
    assert_int_equal(bg_reader_u8(&r), 0); /* it would have fitted */
    assert_null(bg_reader_bytes(&r, 0));
    assert_false(bg_reader_end(&r));
}

static void end_wants_nothing_left_over(void **state)
{
    (void)state;
    static const uint8_t in[] = {1, 2};
    struct bg_reader r = bg_reader_init(in, sizeof in);
    (void)bg_reader_u8(&r);
    assert_true(bg_reader_ok(&r));
    assert_false(bg_reader_end(&r));
    (void)bg_reader_u8(&r);
    assert_true(bg_reader_end(&r));
}

static void takes_no_bytes_from_an_empty_input(void **state)
{
    (void)state;
    struct bg_reader r = bg_reader_init("", 0);
    assert_non_null(bg_reader_bytes(&r, 0));
    assert_true(bg_reader_end(&r));
    assert_null(bg_reader_bytes(&r, 1));
    assert_false(bg_reader_ok(&r));
}

static void refuses_sizes_near_the_top_of_size_t(void **state)
{
    (void)state;
    static const uint8_t in[] = {1, 2, 3, 4};
    struct bg_reader r = bg_reader_init(in, sizeof in);
    (void)bg_reader_u8(&r);
    assert_null(bg_reader_bytes(&r, SIZE_MAX)); /* at + SIZE_MAX would wrap to before the end */
    assert_false(bg_reader_ok(&r));
}

static void bounds_blobs_by_input_and_by_maximum(void **state)
{
    (void)state;
    static const struct {
        uint8_t in[8];
        size_t size, size_max;
        bool ok;
        size_t want;
    } rows[] = {
        {{0, 0, 0, 0}, 4, 10, true, 0},
        {{4, 0, 0, 0, 'a', 'b', 'c', 'd'}, 8, 4, true, 4},
        {{4, 0, 0, 0, 'a', 'b', 'c', 'd'}, 8, 3, false, 0},
        {{5, 0, 0, 0, 'a', 'b', 'c', 'd'}, 8, 10, false, 0},
        {{0xff, 0xff, 0xff, 0xff, 'a', 'b', 'c', 'd'}, 8, SIZE_MAX, false, 0},
        {{1, 0, 0}, 3, 10, false, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct bg_reader r = bg_reader_init(rows[i].in, rows[i].size);
        size_t size = 77;
        const uint8_t *p = bg_reader_blob32le(&r, rows[i].size_max, &size);
        assert_int_equal(bg_reader_ok(&r), rows[i].ok);
        assert_int_equal(p != NULL, rows[i].ok);
        assert_int_equal(size, rows[i].want);
    }
}

static void text_fits_with_its_nul_or_is_refused(void **state)
{
    (void)state;
    static const uint8_t in[] = {3, 0, 0, 0, 'a', 'b', 'c'};
    char exact[4], small[3];
    struct bg_reader r = bg_reader_init(in, sizeof in);
    bg_reader_text32le(&r, exact, sizeof exact);
    assert_true(bg_reader_end(&r));
    assert_string_equal(exact, "abc");

    r = bg_reader_init(in, sizeof in);
    bg_reader_text32le(&r, small, sizeof small);
    assert_false(bg_reader_ok(&r));
    assert_string_equal(small, "");
}

static void text_with_a_nul_inside_is_refused(void **state)
{
    (void)state;
    static const uint8_t in[] = {3, 0, 0, 0, 'a', 0, 'c'};
    char out[8] = "before";
    struct bg_reader r = bg_reader_init(in, sizeof in);
    bg_reader_text32le(&r, out, sizeof out);
    assert_false(bg_reader_ok(&r));
    assert_string_equal(out, "");
}

static void failed_text_is_empty_even_after_an_earlier_failure(void **state)
{
    (void)state;
    static const uint8_t in[] = {1, 0, 0, 0, 'x'};
    char out[8] = "before";
    struct bg_reader r = bg_reader_init(in, sizeof in);
    r.failed = true;
    bg_reader_text32le(&r, out, sizeof out);
    assert_string_equal(out, "");
}

static void writes_what_the_reader_reads(void **state)
{
    (void)state;
    uint8_t buffer[64];
    struct bg_writer w = bg_writer_init(buffer, sizeof buffer);
    bg_writer_u8(&w, 0xab);
    bg_writer_u16le(&w, 0x1234);
    bg_writer_u16be(&w, 0x1234);
    bg_writer_u32le(&w, 0x89abcdef);
    bg_writer_u32be(&w, 0x89abcdef);
    bg_writer_u64le(&w, UINT64_C(0xfedcba9876543210));
    bg_writer_text32le(&w, "text");
    bg_writer_blob32le(&w, "\0\1", 2);
    bg_writer_blob32le(&w, NULL, 0);
    assert_true(bg_writer_ok(&w));

    struct bg_reader r = bg_reader_init(buffer, w.used);
    char text[16];
    size_t size;
    assert_int_equal(bg_reader_u8(&r), 0xab);
    assert_int_equal(bg_reader_u16le(&r), 0x1234);
    assert_int_equal(bg_reader_u16be(&r), 0x1234);
    assert_int_equal(bg_reader_u32le(&r), 0x89abcdef);
    assert_int_equal(bg_reader_u32be(&r), 0x89abcdef);
    assert_true(bg_reader_u64le(&r) == UINT64_C(0xfedcba9876543210));
    bg_reader_text32le(&r, text, sizeof text);
    assert_string_equal(text, "text");
    assert_memory_equal(bg_reader_blob32le(&r, 10, &size), "\0\1", 2);
    assert_int_equal(size, 2);
    assert_non_null(bg_reader_blob32le(&r, 10, &size));
    assert_int_equal(size, 0);
    assert_true(bg_reader_end(&r));
}

static void writer_never_passes_its_buffer(void **state)
{
    (void)state;
    uint8_t buffer[8];
    memset(buffer, 0x55, sizeof buffer);
    struct bg_writer w = bg_writer_init(buffer, 6);
    bg_writer_u32le(&w, 1);
    bg_writer_u32le(&w, 2); /* two bytes too many */
    assert_false(bg_writer_ok(&w));
    bg_writer_u8(&w, 3); /* would fit, but the failure sticks */
    assert_int_equal(w.used, 4);
    for (size_t i = 4; i < sizeof buffer; i++)
        assert_int_equal(buffer[i], 0x55);
    assert_null(bg_writer_room(&w, 0));
}

static void writer_fills_its_buffer_to_the_last_byte(void **state)
{
    (void)state;
    uint8_t buffer[4];
    struct bg_writer w = bg_writer_init(buffer, sizeof buffer);
    bg_writer_u32le(&w, 1);
    assert_true(bg_writer_ok(&w));
    assert_non_null(bg_writer_room(&w, 0));
    assert_null(bg_writer_room(&w, 1));
    assert_null(bg_writer_room(&w, SIZE_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_each_width_in_its_byte_order),
        cmocka_unit_test(failed_read_sticks_and_yields_zeros),
        cmocka_unit_test(end_wants_nothing_left_over),
        cmocka_unit_test(takes_no_bytes_from_an_empty_input),
        cmocka_unit_test(refuses_sizes_near_the_top_of_size_t),
        cmocka_unit_test(bounds_blobs_by_input_and_by_maximum),
        cmocka_unit_test(text_fits_with_its_nul_or_is_refused),
        cmocka_unit_test(text_with_a_nul_inside_is_refused),
        cmocka_unit_test(failed_text_is_empty_even_after_an_earlier_failure),
        cmocka_unit_test(writes_what_the_reader_reads),
        cmocka_unit_test(writer_never_passes_its_buffer),
        cmocka_unit_test(writer_fills_its_buffer_to_the_last_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
