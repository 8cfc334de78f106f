/* When a sandbox counts as idle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "host/supervisor/idle.h"

#define LIMIT_MS 100000u /* of which a fiftieth is 2000 ms of CPU */
#define STEP_MS  10000u

/* Looks every STEP_MS until now_ms, with so much CPU used in each step. Returns when it was idle,
 * or 0. */
static uint64_t look_until(struct idle *idle, uint64_t *now_ms, uint64_t until_ms, uint64_t bytes,
                           uint64_t *cpu_ms, uint64_t step_cpu_ms)
{
    while (*now_ms < until_ms) {
        *now_ms += STEP_MS;
        *cpu_ms += step_cpu_ms;
        if (idle_look(idle, *now_ms, bytes, *cpu_ms))
            return *now_ms;
    }
    return 0;
}

static void one_that_sleeps_is_idle_after_the_time(void **state)
{
    struct idle idle;
    uint64_t now = 5, cpu = 700;
    (void)state;
    idle_start(&idle, LIMIT_MS, now, 12, cpu);
    /* Its timers may take what they take: 1.9 of 2 percent. */
    assert_int_equal(look_until(&idle, &now, 10 * LIMIT_MS, 12, &cpu, 190), 5 + LIMIT_MS);
}

static void a_busy_one_is_never_idle(void **state)
{
    struct idle idle;
    uint64_t now = 0, cpu = 0;
    (void)state;
    idle_start(&idle, LIMIT_MS, now, 0, cpu);
    assert_int_equal(look_until(&idle, &now, 10 * LIMIT_MS, 0, &cpu, STEP_MS), 0);
    /* Not even one that uses a little more than it may. */
    assert_int_equal(look_until(&idle, &now, 20 * LIMIT_MS, 0, &cpu, 230), 0);
    /* It counts from the last look at which that was seen. */
    uint64_t busy_until = now;
    uint64_t idle_at = look_until(&idle, &now, 30 * LIMIT_MS, 0, &cpu, 0);
    assert_true(idle_at > busy_until && idle_at <= busy_until + LIMIT_MS);
}

static void a_byte_begins_the_time_anew(void **state)
{
    struct idle idle;
    uint64_t now = 0, cpu = 0, bytes = 0;
    (void)state;
    idle_start(&idle, LIMIT_MS, now, bytes, cpu);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(look_until(&idle, &now, now + LIMIT_MS - STEP_MS, bytes, &cpu, 0), 0);
        bytes++;
    }
    assert_int_equal(look_until(&idle, &now, now + LIMIT_MS, bytes, &cpu, 0), 0);
    assert_true(look_until(&idle, &now, now + LIMIT_MS, bytes, &cpu, 0) > 0);
}

static void without_a_limit_nothing_is_idle(void **state)
{
    struct idle idle;
    (void)state;
    idle_start(&idle, 0, 0, 0, 0);
    assert_false(idle_look(&idle, UINT64_MAX, 0, 0));
    assert_true(idle_interval_ms(&idle) == UINT64_MAX);
}

static void one_whose_clock_goes_backwards_is_busy(void **state)
{
    struct idle idle;
    (void)state;
    idle_start(&idle, LIMIT_MS, 0, 0, 500);
    assert_false(idle_look(&idle, LIMIT_MS, 0, 0)); /* QEMU has ended: its clock says nothing */
}

static void time_in_which_nobody_looked_does_not_count(void **state)
{
    struct idle idle;
    uint64_t now = 0, cpu = 0;
    (void)state;
    idle_start(&idle, LIMIT_MS, now, 0, cpu);
    assert_int_equal(look_until(&idle, &now, LIMIT_MS / 2, 0, &cpu, 0), 0);
    now += LIMIT_MS;
    assert_false(idle_look(&idle, now, 0, cpu)); /* counts as one step */
    assert_false(idle_look(&idle, now, 0, cpu));
    uint64_t rest = LIMIT_MS / 2 - STEP_MS, stood_until = now;
    assert_int_equal(look_until(&idle, &now, now + LIMIT_MS, 0, &cpu, 0), stood_until + rest);
    /* What came meanwhile is seen at the next look. */
    idle_start(&idle, LIMIT_MS, now, 0, cpu);
    now += 2 * LIMIT_MS;
    assert_false(idle_look(&idle, now, 0, cpu));
    stood_until = now;
    assert_int_equal(look_until(&idle, &now, now + LIMIT_MS - STEP_MS, 1, &cpu, 0), 0);
    assert_int_equal(look_until(&idle, &now, now + LIMIT_MS, 1, &cpu, 0),
                     stood_until + STEP_MS + LIMIT_MS);
}

static void looks_often_enough_and_not_more(void **state)
{
    struct idle idle;
    (void)state;
    static const uint64_t rows[][2] = {
        {1000, 200}, {2000, 200}, {30000, 3000}, {100000, 10000}, {7ull * 86400 * 1000, 10000}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        idle_start(&idle, rows[i][0], 0, 0, 0);
        assert_int_equal(idle_interval_ms(&idle), rows[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_sleeps_is_idle_after_the_time),
        cmocka_unit_test(a_busy_one_is_never_idle),
        cmocka_unit_test(a_byte_begins_the_time_anew),
        cmocka_unit_test(without_a_limit_nothing_is_idle),
        cmocka_unit_test(one_whose_clock_goes_backwards_is_busy),
        cmocka_unit_test(time_in_which_nobody_looked_does_not_count),
        cmocka_unit_test(looks_often_enough_and_not_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
