#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guest/backlog.h"

static uint8_t byte_at(uint64_t position)
{
    return (uint8_t)(position * 31 >> 3);
}

static void put(struct backlog *log, size_t size)
{
    uint8_t bytes[1000];
    for (size_t i = 0; i < size; i++)
        bytes[i] = byte_at(log->end + i);
    backlog_put(log, bytes, size);
}

static void check(const struct backlog *log, uint64_t start, uint64_t end)
{
    assert_true(backlog_start(log) == start && log->end == end);
    for (uint64_t from = start; from <= end; from++) {
        size_t size;
        const uint8_t *bytes = backlog_from(log, from, &size);
        assert_int_equal(size, end - from);
        for (size_t i = 0; i < size; i++)
            assert_int_equal(bytes[i], byte_at(from + i));
    }
}

static void keeps_what_was_not_forgotten(void **state)
{
    (void)state;
    struct backlog log = {0};
    check(&log, 0, 0);
    put(&log, 10);
    check(&log, 0, 10);
    backlog_forget(&log, 4);
    check(&log, 4, 10);
    backlog_forget(&log, 3); /* it is already */
    check(&log, 4, 10);
    put(&log, 100);
    check(&log, 4, 110);
    backlog_forget(&log, 110);
    check(&log, 110, 110);
    assert_null(log.bytes);
    backlog_done(&log);
}

static void what_passes_is_counted(void **state)
{
    (void)state;
    struct backlog log = {0};
    backlog_pass(&log, 1000);
    put(&log, 5);
    check(&log, 1000, 1005);
    backlog_pass(&log, 1);
    check(&log, 1006, 1006);
    backlog_done(&log);
}

static void moves_on_in_steps_of_any_size(void **state)
{
    (void)state;
    struct backlog log = {0};
    uint64_t start = 0;
    for (unsigned i = 0; i < 2000; i++) {
        put(&log, i * 7919 % 257);
        uint64_t kept = log.end - start;
        start += i % 3 == 0 ? kept * (i % 5) / 4 : 0;
        backlog_forget(&log, start);
        if (i % 100 == 0)
            check(&log, start, log.end);
    }
    backlog_done(&log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_what_was_not_forgotten),
        cmocka_unit_test(what_passes_is_counted),
        cmocka_unit_test(moves_on_in_steps_of_any_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
