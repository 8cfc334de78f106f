#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "host/gateway/stream_table.h"

static void count(void *owner)
{
    ++*(int *)owner;
}

static void put(struct stream_table *table, int64_t id, const char *text)
{
    struct stream_chunk *chunk = stream_chunk_new(strlen(text));
    assert_non_null(chunk);
    memcpy(chunk->bytes, text, strlen(text));
    stream_table_enqueue(table, id, chunk);
}

static void what_came_before_its_reader_waits(void **state)
{
    (void)state;
    struct stream_table table;
    const uint8_t *bytes;
    int changes = 0;
    stream_table_init(&table);
    assert_int_equal(stream_table_start(&table, 4), 0);
    put(&table, 4, "abc");
    put(&table, 4, "");
    put(&table, 4, "de");
    assert_int_equal(table.bytes, 5);
    struct inbound *in = stream_table_claim(&table, 4, count, &changes);
    assert_non_null(in);
    assert_null(stream_table_claim(&table, 4, count, &changes));
    assert_null(stream_table_claim(&table, 5, count, &changes));
    assert_int_equal(inbound_next(in, &bytes), 3);
    inbound_take(in, 2);
    assert_int_equal(inbound_next(in, &bytes), 1);
    assert_int_equal(bytes[0], 'c');
    inbound_take(in, 3);
    assert_int_equal(inbound_next(in, &bytes), 0);
    assert_int_equal(table.bytes, 0);
    assert_false(inbound_over(in));
    put(&table, 4, "f");
    stream_table_end(&table, 4, false);
    assert_int_equal(changes, 2);
    put(&table, 4, "after the end");
    stream_table_end(&table, 4, true);
    assert_int_equal(changes, 2);
    assert_false(in->failed);
    assert_false(inbound_over(in));
    inbound_take(in, 1);
    assert_true(inbound_over(in));
    inbound_drop(in);
    assert_int_equal(table.count, 0);
    stream_table_done(&table);
}

static void unknown_and_dropped_ones_are_passed_over(void **state)
{
    (void)state;
    struct stream_table table;
    int changes = 0;
    stream_table_init(&table);
    put(&table, 9, "x");
    stream_table_end(&table, 9, false);
    assert_int_equal(stream_table_start(&table, 9), 0);
    assert_int_equal(stream_table_start(&table, 9), -EEXIST);
    put(&table, 9, "x");
    inbound_drop(stream_table_claim(&table, 9, count, &changes));
    assert_int_equal(table.bytes, 0);
    put(&table, 9, "x");
    assert_int_equal(table.bytes, 0);
    inbound_drop(NULL);
    stream_table_done(&table);
}

static void there_is_a_maximum(void **state)
{
    (void)state;
    struct stream_table table;
    stream_table_init(&table);
    for (int64_t i = 0; i < BG_GATEWAY_STREAMS_MAX; i++)
        assert_int_equal(stream_table_start(&table, i), 0);
    assert_int_equal(stream_table_start(&table, BG_GATEWAY_STREAMS_MAX), -EMFILE);
    put(&table, 1, "x");
    stream_table_done(&table);
    assert_int_equal(table.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_came_before_its_reader_waits),
        cmocka_unit_test(unknown_and_dropped_ones_are_passed_over),
        cmocka_unit_test(there_is_a_maximum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
