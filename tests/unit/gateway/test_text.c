#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "host/gateway/text.h"

/* The same as TextDecoder's: checked against Node's for each of these. */
static void what_is_not_utf_8_is_replaced(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } texts[] = {
        {"", ""},
        {"plain", "plain"},
        {"\xc3\xa4", "\xc3\xa4"},
        {"a\xff"
         "b",
         "a\xef\xbf\xbd"
         "b"},
        {"\xc3", "\xef\xbf\xbd"},
        {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe2\x82", "\xef\xbf\xbd"},
        {"\xe2\x82x", "\xef\xbf\xbdx"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98\x80\xff", "\xf0\x9f\x98\x80\xef\xbf\xbd"},
        {"\xf0\x9f\x98", "\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        json_t *text = text_lossy(texts[i].in, strlen(texts[i].in));
        assert_string_equal(json_string_value(text), texts[i].out);
        json_decref(text);
    }
    json_t *text = text_lossy("a\0\xff", 3);
    assert_int_equal(json_string_length(text), 5);
    json_decref(text);
    text = text_lossy(NULL, 0);
    assert_string_equal(json_string_value(text), "");
    json_decref(text);
}

static void times_go_both_ways(void **state)
{
    (void)state;
    static const struct {
        int64_t ns;
        const char *text;
    } times[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {981173106789000000, "2001-02-03T04:05:06.789Z"},
        {-1000000, "1969-12-31T23:59:59.999Z"},
        {-1500000000, "1969-12-31T23:59:58.500Z"},
    };
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        int64_t ns = 1;
        json_t *text = text_time(times[i].ns);
        assert_string_equal(json_string_value(text), times[i].text);
        assert_int_equal(text_parse_time(times[i].text, &ns), 0);
        assert_int_equal(ns, times[i].ns);
        json_decref(text);
    }
    json_decref(text_time(INT64_MIN));
    json_decref(text_time(INT64_MAX));
}

static void times_of_other_languages_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ns;
    } times[] = {
        {"2001-02-03T04:05:06Z", 981173106000000000},
        {"2001-02-03T04:05:06+00:00", 981173106000000000},
        {"2001-02-03T04:05:06.123456+00:00", 981173106123456000},
        {"2001-02-03T04:05:06.1234567891Z", 981173106123456789},
        {"2001-02-03T06:35:06+02:30", 981173106000000000},
        {"2001-02-02T23:05:06-05:00", 981173106000000000},
    };
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        int64_t ns = 1;
        assert_int_equal(text_parse_time(times[i].text, &ns), 0);
        assert_int_equal(ns, times[i].ns);
    }
}

static void what_is_no_time_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",
                                        "2001-02-03",
                                        "2001-02-03T04:05:06.789",
                                        "2001-02-03T04:05:06,789Z",
                                        "2001-02-03T04:05:06.7x9Z",
                                        "2001-13-03T04:05:06.789Z",
                                        "2001-02-03T04:05:06.Z",
                                        "2001-02-03T04:05:06.789ZZ",
                                        "2001-02-03T04:05:06+2:00",
                                        "2001-02-03T04:05:06+24:00",
                                        "2001-02-03T04:05:06+02:60",
                                        "2001-02-03T04:05:06+02:0x",
                                        "9999-02-03T04:05:06.789Z", /* no nanoseconds go so far */
                                        "0001-02-03T04:05:06.789Z",
                                        "+002001-02-03T04:05:06.789Z",
                                        " 001-02-03T04:05:06.789Z"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        int64_t ns;
        assert_int_equal(text_parse_time(wrong[i], &ns), -EINVAL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_utf_8_is_replaced),
        cmocka_unit_test(times_go_both_ways),
        cmocka_unit_test(times_of_other_languages_are_read),
        cmocka_unit_test(what_is_no_time_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
