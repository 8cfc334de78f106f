#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "host/gateway/record.h"

static void what_is_written_is_read_again(void **state)
{
    (void)state;
    char name[] = "laptop";
    struct record out = {.token = name,
                         .stop_at_ms = 1234567890123,
                         .labels = json_pack("{s:s}", "a", "b"),
                         .env = json_pack("{s:s, s:n}", "K", "v", "GONE"),
                         .port = 8000};
    struct record in;
    struct bg_err err;
    char *text = record_emit(&out);
    assert_non_null(text);
    assert_int_equal(record_parse(text, strlen(text), &in, &err), 0);
    assert_string_equal(in.token, "laptop");
    assert_int_equal(in.stop_at_ms, 1234567890123);
    assert_true(json_equal(in.labels, out.labels));
    assert_true(json_equal(in.env, out.env));
    assert_int_equal(in.port, 8000);
    /* No truncation of it is one. */
    for (size_t i = 0; i < strlen(text); i++) {
        struct record cut;
        assert_true(record_parse(text, i, &cut, &err) < 0);
    }
    free(text);
    record_done(&in);
    json_decref(out.labels);
    json_decref(out.env);
}

static void what_is_no_record_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "{}",
        "{\"version\":2,\"token\":\"a\",\"stop_at_ms\":0,\"labels\":{},\"env\":{},\"port\":0}",
        "{\"version\":1,\"token\":\"a\",\"stop_at_ms\":-1,\"labels\":{},\"env\":{},\"port\":0}",
        "{\"version\":1,\"token\":5,\"stop_at_ms\":0,\"labels\":{},\"env\":{},\"port\":0}",
        "{\"version\":1,\"token\":\"a\",\"stop_at_ms\":0,\"labels\":{\"a\":null},\"env\":{},"
        "\"port\":0}",
        "{\"version\":1,\"token\":\"a\",\"stop_at_ms\":0,\"labels\":{},\"env\":{\"a\":1},\"port\":"
        "0}",
        "{\"version\":1,\"token\":\"a\",\"stop_at_ms\":0,\"labels\":{},\"env\":[],\"port\":0}",
        "{\"version\":1,\"token\":\"a\",\"stop_at_ms\":0,\"labels\":{},\"env\":{},\"port\":0,\"x\":"
        "1}",
        "{\"version\":1,\"token\":\"a\",\"stop_at_ms\":0,\"labels\":{},\"env\":{},\"port\":65536}",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct record record;
        struct bg_err err;
        assert_int_equal(record_parse(wrong[i], strlen(wrong[i]), &record, &err), -EINVAL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_again),
        cmocka_unit_test(what_is_no_record_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
