#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "net/json_scan.h"

/* Writes the strings to out, names in [], values in (); returns what the last call did. */
static int strings(const char *text, size_t size, char *out, size_t out_size)
{
    struct json_scan scan;
    struct json_string s;
    size_t used = 0;
    int r;
    out[0] = '\0';
    json_scan_init(&scan, text, size);
    while ((r = json_scan_next(&scan, &s)) > 0) {
        assert_true(s.start <= s.end && s.end < size && text[s.end] == '"');
        assert_true(text[s.start - 1] == '"');
        int n = snprintf(out + used, out_size - used, s.is_name ? "[%.*s]" : "(%.*s)",
                         (int)(s.end - s.start), text + s.start);
        used += (size_t)n;
        assert_true(used < out_size);
    }
    return r;
}

static void finds_names_and_values(void **state)
{
    (void)state;
    static const struct {
        const char *text, *strings;
    } rows[] = {
        {"", ""},
        {" \t\r\n", ""},
        {"0", ""},
        {"-0.5e-7", ""},
        {"120E+3 true false null", ""},
        {"\"\"", "()"},
        {"\"a\"\"b\"", "(a)(b)"},
        {"{}", ""},
        {"[ ]", ""},
        {"{\"a\":\"b\",\"c\":[\"d\",{\"e\":1},\"f\"],\"g\":{\"h\":\"i\"}}",
         "[a](b)[c](d)[e](f)[g][h](i)"},
        {"{\"a\" : 1 , \"b\" : \"c\"}\n{\"d\":null}", "[a][b](c)[d]"},
        {"[\"a\\\"b\",\"\\\\\",\"\\u00e9\\/\\b\\f\\n\\r\\t\"]",
         "(a\\\"b)(\\\\)(\\u00e9\\/\\b\\f\\n\\r\\t)"},
        {"\xef\xbb\xbf\"\xc3\xa9\xff\x7f\"", "(\xc3\xa9\xff\x7f)"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char got[256];
        if (strings(rows[i].text, strlen(rows[i].text), got, sizeof got) != 0 ||
            strcmp(got, rows[i].strings) != 0)
            fail_msg("%s: %s", rows[i].text, got);
    }
}

static void refuses_what_is_no_json(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{",
        "}",
        "[",
        "]",
        "[}",
        "{]",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1,,2]",
        ",",
        ":",
        "1,2",
        "{1:2}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" 1}",
        "{\"a\":1:2}",
        "{\"a\"\"b\"}",
        "{[]:1}",
        "[\"a\":1]",
        "01",
        "-",
        "-a",
        "1.",
        ".5",
        "+1",
        "1e",
        "1e+",
        "0x1",
        "nul",
        "True",
        "NaN",
        "'a'",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u123\"",
        "\"\\u123g\"",
        "\"\n\"",
        "\"\x1f\"",
        "/**/1",
        "\xef\xbb",
        "\xef\xbb\xbf\xef\xbb\xbf",
        "\"\\",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char got[256];
        if (strings(texts[i], strlen(texts[i]), got, sizeof got) != -EPROTO)
            fail_msg("%s", texts[i]);
    }
    char got[16];
    assert_int_equal(strings("\"a\0b\"", 5, got, sizeof got), -EPROTO);
    assert_int_equal(strings("\"\\\0\"", 4, got, sizeof got), -EPROTO);
    assert_int_equal(strings("\0", 1, got, sizeof got), -EPROTO);
}

static void refuses_every_truncation(void **state)
{
    (void)state;
    static const char text[] = "{\"a\":[\"b\\u0041\",-1.5e3,true,null,{\"c\":\"\\n\"}]}";
    char got[256];
    for (size_t size = 1; size < sizeof text - 1; size++) {
        /* In memory of its own, so that a byte too many is seen. */
        char *copy = test_malloc(size);
        memcpy(copy, text, size);
        assert_int_equal(strings(copy, size, got, sizeof got), -EPROTO);
        test_free(copy);
    }
    assert_int_equal(strings(text, sizeof text - 1, got, sizeof got), 0);
}

static void has_a_depth(void **state)
{
    (void)state;
    char text[2 * JSON_SCAN_DEPTH_MAX + 2], got[16];
    for (size_t depth = JSON_SCAN_DEPTH_MAX; depth <= JSON_SCAN_DEPTH_MAX + 1; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        assert_int_equal(strings(text, 2 * depth, got, sizeof got),
                         depth == JSON_SCAN_DEPTH_MAX ? 0 : -EPROTO);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_names_and_values),
        cmocka_unit_test(refuses_what_is_no_json),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(has_a_depth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
