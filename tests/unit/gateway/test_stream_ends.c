#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "common/limits.h"
#include "host/gateway/stream_ends.h"

/* One ping, answered. */
static void round_trip(struct turns *turns)
{
    uint64_t number = turns_ping(turns);
    assert_true(number > 0);
    assert_true(turns_pong(turns, number));
}

static void an_end_is_said_when_the_turn_is_over(void **state)
{
    (void)state;
    struct stream_ends ends;
    struct turns turns = {.reads = BG_GATEWAY_TURN_READS};
    uint64_t id = 0;
    stream_ends_init(&ends);
    assert_false(stream_ends_next(&ends, &turns, &id));
    assert_int_equal(stream_ends_add(&ends, 7, turns_mark(&turns)), 0);
    for (int i = 0; i < BG_GATEWAY_TURN_READS; i++) {
        round_trip(&turns);
        assert_false(stream_ends_next(&ends, &turns, &id));
    }
    round_trip(&turns);
    assert_true(stream_ends_next(&ends, &turns, &id));
    assert_int_equal(id, 7);
    assert_false(stream_ends_next(&ends, &turns, &id));
    assert_int_equal(ends.count, 0);
    stream_ends_done(&ends);
}

static void several_are_said_in_their_order(void **state)
{
    (void)state;
    struct stream_ends ends;
    struct turns turns = {.reads = BG_GATEWAY_TURN_READS};
    uint64_t id = 0;
    stream_ends_init(&ends);
    for (uint64_t i = 1; i <= 3; i++)
        assert_int_equal(stream_ends_add(&ends, i, turns_mark(&turns)), 0);
    round_trip(&turns);
    assert_int_equal(stream_ends_add(&ends, 4, turns_mark(&turns)), 0);
    for (int i = 0; i < BG_GATEWAY_TURN_READS; i++)
        round_trip(&turns);
    for (uint64_t i = 1; i <= 3; i++) {
        assert_true(stream_ends_next(&ends, &turns, &id));
        assert_int_equal(id, i);
    }
    assert_false(stream_ends_next(&ends, &turns, &id));
    assert_int_equal(ends.count, 1);
    stream_ends_done(&ends);
}

static void a_cancelled_stream_has_no_end(void **state)
{
    (void)state;
    struct stream_ends ends;
    struct turns turns = {.reads = BG_GATEWAY_TURN_READS};
    uint64_t id = 0;
    stream_ends_init(&ends);
    assert_int_equal(stream_ends_add(&ends, 1, turns_mark(&turns)), 0);
    assert_int_equal(stream_ends_add(&ends, 2, turns_mark(&turns)), 0);
    assert_true(stream_ends_cancel(&ends, 1));
    assert_false(stream_ends_cancel(&ends, 1));
    for (int i = 0; i <= BG_GATEWAY_TURN_READS; i++)
        round_trip(&turns);
    assert_true(stream_ends_next(&ends, &turns, &id));
    assert_int_equal(id, 2);
    assert_false(stream_ends_next(&ends, &turns, &id));
    stream_ends_done(&ends);
}

static void a_client_that_answers_none_is_found_out(void **state)
{
    (void)state;
    struct stream_ends ends;
    stream_ends_init(&ends);
    for (uint64_t i = 0; i < BG_GATEWAY_ENDS_MAX; i++)
        assert_int_equal(stream_ends_add(&ends, i, 1), 0);
    assert_int_equal(stream_ends_add(&ends, 1, 1), -EMFILE);
    stream_ends_done(&ends);
    assert_int_equal(ends.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_end_is_said_when_the_turn_is_over),
        cmocka_unit_test(several_are_said_in_their_order),
        cmocka_unit_test(a_cancelled_stream_has_no_end),
        cmocka_unit_test(a_client_that_answers_none_is_found_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
