#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/limits.h"
#include "host/gateway/turns.h"

static void answer(struct turns *turns)
{
    uint64_t number = turns_ping(turns);
    assert_true(number > 0);
    assert_true(turns_pong(turns, number));
}

static void one_ping_is_on_its_way_at_a_time(void **state)
{
    (void)state;
    struct turns turns = {.reads = BG_GATEWAY_TURN_READS};
    assert_false(turns_pong(&turns, 0)); /* nobody asked */
    assert_int_equal(turns_ping(&turns), 1);
    assert_int_equal(turns_ping(&turns), 0);
    assert_false(turns_pong(&turns, 2)); /* it was never sent */
    assert_int_equal(turns_ping(&turns), 0);
    assert_true(turns_pong(&turns, 1));
    assert_false(turns_pong(&turns, 1)); /* once more */
    assert_int_equal(turns_ping(&turns), 2);
    assert_false(turns_pong(&turns, UINT64_MAX));
    assert_true(turns_pong(&turns, 2));
}

/* A client that reads as often in a turn as may be: k + 1 pings are read in one turn with what came
 * before them, for each k that can be. */
static void pings_alone_tell_a_turn_by_their_number(void **state)
{
    (void)state;
    struct turns turns = {.reads = BG_GATEWAY_TURN_READS};
    answer(&turns); /* an old one counts for nothing */
    uint64_t mark = turns_mark(&turns);
    for (int reads = 0; reads < BG_GATEWAY_TURN_READS; reads++) {
        assert_false(turns_later(&turns, mark));
        assert_false(turns_over(&turns, mark));
        answer(&turns);
    }
    assert_true(turns_later(&turns, mark)); /* what is sent now is the 33rd thing that is read */
    assert_false(turns_over(&turns, mark)); /* the last pong can be of that turn still */
    answer(&turns);
    assert_true(turns_over(&turns, mark));
}

static void fewer_are_asked_of_one_that_is_far(void **state)
{
    (void)state;
    struct turns turns = {.reads = BG_GATEWAY_TURN_READS_FAR};
    uint64_t mark = turns_mark(&turns);
    for (int reads = 0; reads < BG_GATEWAY_TURN_READS_FAR; reads++) {
        assert_false(turns_later(&turns, mark));
        answer(&turns);
    }
    assert_true(turns_later(&turns, mark));
    assert_false(turns_over(&turns, mark));
    answer(&turns);
    assert_true(turns_over(&turns, mark));
}

static void a_ping_under_way_counts_for_nothing(void **state)
{
    (void)state;
    struct turns turns = {.reads = BG_GATEWAY_TURN_READS};
    assert_int_equal(turns_ping(&turns), 1);
    uint64_t mark = turns_mark(&turns);
    assert_int_equal(mark, 2);
    assert_true(turns_pong(&turns, 1));
    turns_message(&turns); /* of something before the mark */
    assert_false(turns_later(&turns, mark));
}

static void a_message_after_a_pong_tells_it_earlier(void **state)
{
    (void)state;
    struct turns turns = {.reads = BG_GATEWAY_TURN_READS};
    uint64_t mark = turns_mark(&turns);
    turns_message(&turns); /* before any pong: no word of it */
    assert_false(turns_later(&turns, mark));
    answer(&turns);
    assert_false(turns_later(&turns, mark));
    uint64_t number = turns_ping(&turns);
    turns_message(&turns);
    assert_true(turns_later(&turns, mark));
    /* A cancel can come right after that message, and the ping was sent before it. */
    assert_true(turns_pong(&turns, number));
    assert_false(turns_over(&turns, mark));
    answer(&turns);
    assert_true(turns_over(&turns, mark));
    assert_false(turns_over(&turns, turns_mark(&turns)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_ping_is_on_its_way_at_a_time),
        cmocka_unit_test(pings_alone_tell_a_turn_by_their_number),
        cmocka_unit_test(fewer_are_asked_of_one_that_is_far),
        cmocka_unit_test(a_ping_under_way_counts_for_nothing),
        cmocka_unit_test(a_message_after_a_pong_tells_it_earlier),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
