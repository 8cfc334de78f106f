#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "host/gateway/quota.h"

#define GIB  ((uint64_t)1 << 30)
#define NOW  ((uint64_t)1000000)
#define HOUR ((uint64_t)3600000)

static void without_limits_all_is_admitted(void **state)
{
    (void)state;
    const struct quota quota = quota_default();
    const struct quota_use use = {.sandboxes = UINT32_MAX, .memory_bytes = UINT64_MAX};
    const struct quota_ask ask = {
        .memory_bytes = UINT64_MAX, .now_ms = NOW, .stop_at_ms = UINT64_MAX};
    struct bg_err err;
    assert_int_equal(quota_admit(&quota, "a", &use, &ask, &err), 0);
    assert_int_equal(quota_ends_by(&quota, NOW), 0);
}

static void each_limit_is_kept_exactly(void **state)
{
    (void)state;
    const struct quota quota = {.sandboxes = 2, .memory_bytes = 4 * GIB, .lifetime_ms = HOUR};
    static const struct {
        uint64_t sandboxes, used, wanted, stop_at_ms;
        int status;
        const char *text;
    } cases[] = {
        {0, 0, 4 * GIB, NOW + HOUR, 0, NULL},
        {1, GIB, 3 * GIB, 0, 0, NULL},
        {2, 0, GIB, 0, -EDQUOT, "end one"},
        {UINT64_MAX, 0, GIB, 0, -EDQUOT, "end one"},
        {1, GIB, 3 * GIB + 1, 0, -EDQUOT, "memory"},
        {1, 5 * GIB, 0, 0, -EDQUOT, "memory"}, /* the limit was lowered */
        {1, GIB, UINT64_MAX, 0, -EDQUOT, "memory"},
        {0, 0, GIB, NOW + HOUR + 1, -ERANGE, "3600 s"},
        {0, 0, GIB, UINT64_MAX, -ERANGE, "3600 s"},
    };
    struct bg_err err;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct quota_use use = {cases[i].sandboxes, cases[i].used};
        const struct quota_ask ask = {cases[i].wanted, NOW, cases[i].stop_at_ms};
        assert_int_equal(quota_admit(&quota, "laptop", &use, &ask, &err), cases[i].status);
        if (cases[i].text) {
            assert_non_null(strstr(err.text, cases[i].text));
            assert_non_null(strstr(err.text, "'laptop'"));
        }
    }
    assert_int_equal(quota_ends_by(&quota, NOW), NOW + HOUR);
    assert_int_equal(quota_check_stop(&quota, "a", NOW, NOW + HOUR, &err), 0);
    assert_int_equal(quota_check_stop(&quota, "a", NOW, NOW + HOUR + 1, &err), -ERANGE);
}

static void none_are_made_where_there_may_be_none(void **state)
{
    (void)state;
    struct quota quota = quota_default();
    const struct quota_use use = {0};
    const struct quota_ask ask = {.memory_bytes = GIB, .now_ms = NOW};
    struct bg_err err;
    quota.sandboxes = 0;
    assert_int_equal(quota_admit(&quota, "a", &use, &ask, &err), -EDQUOT);
    assert_non_null(strstr(err.text, "makes no sandboxes"));
}

static void words_are_read_as_they_are_written(void **state)
{
    (void)state;
    const struct quota all = {.sandboxes = INT64_MAX,
                              .memory_bytes = INT64_MAX,
                              .lifetime_ms = INT64_MAX,
                              .nested = true,
                              .metrics = true};
    struct quota read = quota_default();
    char text[QUOTA_TEXT_SIZE];
    struct bg_err err;
    quota_emit(&read, text);
    assert_string_equal(text, "");
    quota_emit(&all, text);
    assert_true(strlen(text) < QUOTA_TEXT_SIZE - 1); /* nothing was cut off */
    for (char *rest = text + 1, *word; (word = strsep(&rest, " "));)
        assert_int_equal(quota_parse_word(word, &read, &err), 0);
    assert_int_equal(read.sandboxes, INT64_MAX);
    assert_int_equal(read.memory_bytes, INT64_MAX);
    assert_int_equal(read.lifetime_ms, INT64_MAX);
    assert_true(read.nested && read.metrics);
    static const char *const wrong[] = {"",
                                        "sandboxes",
                                        "sandboxes=",
                                        "sandboxes=x",
                                        "sandboxes=-1",
                                        "sandboxes=9223372036854775808",
                                        "nested=1",
                                        "Metrics",
                                        "memory=5"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(quota_parse_word(wrong[i], &read, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_limits_all_is_admitted),
        cmocka_unit_test(each_limit_is_kept_exactly),
        cmocka_unit_test(none_are_made_where_there_may_be_none),
        cmocka_unit_test(words_are_read_as_they_are_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
