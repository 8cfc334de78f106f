/* What a person sees of a change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fs/trust/diff.h"

static void only_what_differs_is_shown(void **state)
{
    (void)state;
    static const struct {
        const char *before, *after, *want;
    } rows[] = {
        {NULL, "", ""},
        {NULL, "a\n", "+a\n"},
        {"", "a\nb\n", "+a\n+b\n"},
        {"a\n", "a\n", ""},
        {"a\nb\nc\n", "a\nx\nc\n", "@@ after line 1 @@\n-b\n+x\n"},
        {"a\nb\n", "a\n", "@@ after line 1 @@\n-b\n"},
        {"a\na\n", "a\na\na\n", "@@ after line 2 @@\n+a\n"},
        {"a", "a\n", "-a\n\\ no end of line\n+a\n"},
        {"a\n", "", "-a\n"},
        {NULL, "\x1b[2J\r\n", "+\\x1b[2J\\x0d\n"},
        {NULL,
         "a\xe2\x80\xae"
         "b\n",
         "+a\\xe2\\x80\\xaeb\n"},
        {NULL, "\xe2\x80\x8b\xef\xbb\xbf\xd8\x9c\n", "+\\u200b\\ufeff\\u061c\n"},
        {NULL, "\xc3\xa4\n", "+\xc3\xa4\n"},
        {NULL, "\xff\n", "+\\xff\n"},
        {NULL, "a\\u202eb\n", "+a\\\\u202eb\n"}, /* one that was typed is another */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *got;
        assert_int_equal(trust_diff((const uint8_t *)rows[i].before,
                                    rows[i].before ? strlen(rows[i].before) : 0,
                                    (const uint8_t *)rows[i].after, strlen(rows[i].after), &got),
                         0);
        assert_string_equal(got, rows[i].want);
        free(got);
    }
}

static void a_nul_is_shown(void **state)
{
    (void)state;
    char *got;
    assert_int_equal(trust_diff(NULL, 0, (const uint8_t *)"a\0b\n", 4, &got), 0);
    assert_string_equal(got, "+a\\x00b\n");
    free(got);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_differs_is_shown),
        cmocka_unit_test(a_nul_is_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
