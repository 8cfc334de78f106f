#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "common/limits.h"
#include "host/gateway/stream_ends.h"

static void an_end_is_said_after_two_pings(void **state)
{
    (void)state;
    struct stream_ends ends;
    uint64_t first = 0, second = 0, id = 0;
    stream_ends_init(&ends);
    assert_int_equal(stream_ends_add(&ends, 7, &first), 0);
    assert_false(stream_ends_next(&ends, &id));
    assert_true(stream_ends_pong(&ends, first, &second));
    assert_true(second > first);
    assert_false(stream_ends_next(&ends, &id));
    assert_false(stream_ends_pong(&ends, first, &second)); /* the first one once more */
    assert_false(stream_ends_next(&ends, &id));
    assert_false(stream_ends_pong(&ends, second, &first));
    assert_true(stream_ends_next(&ends, &id));
    assert_int_equal(id, 7);
    assert_false(stream_ends_next(&ends, &id));
    stream_ends_done(&ends);
}

static void one_answer_is_for_all_pings_before_it(void **state)
{
    (void)state;
    struct stream_ends ends;
    uint64_t ping = 0, second = 0, id = 0;
    stream_ends_init(&ends);
    for (uint64_t i = 1; i <= 3; i++)
        assert_int_equal(stream_ends_add(&ends, i, &ping), 0);
    assert_true(stream_ends_pong(&ends, ping, &second));
    assert_int_equal(stream_ends_add(&ends, 4, &ping), 0); /* its first ping is after that one */
    assert_false(stream_ends_pong(&ends, second, &id));
    for (uint64_t i = 1; i <= 3; i++) {
        assert_true(stream_ends_next(&ends, &id));
        assert_int_equal(id, i);
    }
    assert_false(stream_ends_next(&ends, &id));
    assert_int_equal(ends.count, 1);
    stream_ends_done(&ends);
}

static void a_cancelled_stream_has_no_end(void **state)
{
    (void)state;
    struct stream_ends ends;
    uint64_t ping = 0, second = 0, id = 0;
    stream_ends_init(&ends);
    assert_int_equal(stream_ends_add(&ends, 1, &ping), 0);
    assert_int_equal(stream_ends_add(&ends, 2, &ping), 0);
    assert_true(stream_ends_pong(&ends, ping, &second));
    assert_true(stream_ends_cancel(&ends, 1));
    assert_false(stream_ends_cancel(&ends, 1));
    assert_false(stream_ends_pong(&ends, second, &ping));
    assert_true(stream_ends_next(&ends, &id));
    assert_int_equal(id, 2);
    assert_false(stream_ends_next(&ends, &id));
    stream_ends_done(&ends);
}

static void a_client_that_answers_none_is_found_out(void **state)
{
    (void)state;
    struct stream_ends ends;
    uint64_t ping = 0;
    stream_ends_init(&ends);
    for (uint64_t i = 0; i < BG_GATEWAY_ENDS_MAX; i++)
        assert_int_equal(stream_ends_add(&ends, i, &ping), 0);
    assert_int_equal(stream_ends_add(&ends, 1, &ping), -EMFILE);
    stream_ends_done(&ends);
    assert_int_equal(ends.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_end_is_said_after_two_pings),
        cmocka_unit_test(one_answer_is_for_all_pings_before_it),
        cmocka_unit_test(a_cancelled_stream_has_no_end),
        cmocka_unit_test(a_client_that_answers_none_is_found_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
