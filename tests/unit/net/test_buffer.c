#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/buffer.h"

static void is_a_queue(void **state)
{
    (void)state;
    struct buffer b = buffer_init(4096);
    assert_null(buffer_bytes(&b));
    buffer_put_text(&b, "hello ");
    buffer_printf(&b, "%d", 42);
    assert_int_equal(buffer_size(&b), 8);
    assert_memory_equal(buffer_bytes(&b), "hello 42", 8);
    buffer_drop(&b, 6);
    buffer_put(&b, "!", 1);
    assert_memory_equal(buffer_bytes(&b), "42!", 3);
    buffer_cut(&b, 2);
    assert_int_equal(buffer_size(&b), 2);
    buffer_drop(&b, 2);
    assert_null(b.bytes); /* empty: holds nothing */
    buffer_reset(&b);
}

static void fits_its_maximum_and_not_one_more(void **state)
{
    (void)state;
    static const uint8_t zeros[5000];
    struct buffer b = buffer_init(5000);
    buffer_put(&b, zeros, 4999);
    buffer_put(&b, zeros, 1);
    assert_true(buffer_ok(&b));
    buffer_put(&b, zeros, 1);
    assert_false(buffer_ok(&b));
    assert_int_equal(buffer_size(&b), 5000);
    buffer_put(&b, "", 0);
    assert_false(buffer_ok(&b)); /* sticks */
    buffer_reset(&b);
    assert_true(buffer_ok(&b));
    buffer_put(&b, zeros, 5000);
    assert_true(buffer_ok(&b));
    buffer_reset(&b);
}

static void uses_the_room_in_front(void **state)
{
    (void)state;
    uint8_t bytes[3000];
    struct buffer b = buffer_init(4000);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)i;
    buffer_put(&b, bytes, 3000);
    buffer_drop(&b, 2500);
    buffer_put(&b, bytes, 3000);
    assert_true(buffer_ok(&b));
    assert_int_equal(buffer_size(&b), 3500);
    assert_memory_equal(buffer_bytes(&b), bytes + 2500, 500);
    assert_memory_equal(buffer_bytes(&b) + 500, bytes, 3000);
    buffer_reset(&b);
}

static void fails_on_text_that_is_too_long_to_print(void **state)
{
    (void)state;
    struct buffer b = buffer_init(1 << 20);
    buffer_printf(&b, "%2000s", "x");
    assert_false(buffer_ok(&b));
    buffer_reset(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_a_queue),
        cmocka_unit_test(fits_its_maximum_and_not_one_more),
        cmocka_unit_test(uses_the_room_in_front),
        cmocka_unit_test(fails_on_text_that_is_too_long_to_print),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
