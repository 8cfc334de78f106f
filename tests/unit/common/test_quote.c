#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/quote.h"

static void escapes_all_that_could_move_a_terminal(void **state)
{
    (void)state;
    static const struct {
        const char *in, *want;
    } rows[] = {
        {"", ""},
        {"plain text", "plain text"},
        {"a\\b", "a\\\\b"},
        {"\x1b[2J", "\\x1b[2J"},
        {"a\nb\tc\rd", "a\\x0ab\\x09c\\x0dd"},
        {"\x7f", "\\x7f"},
        {"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
        {"\xe2\x82\xac \xf0\x9f\xa6\xa6", "\xe2\x82\xac \xf0\x9f\xa6\xa6"},
        {"\xc2\x9b", "\\xc2\\x9b"},          /* C1: control sequence introducer */
        {"\xc2\xa0", "\xc2\xa0"},            /* first after C1 */
        {"\xc0\xaf", "\\xc0\\xaf"},          /* overlong '/' */
        {"\xc1\xbf", "\\xc1\\xbf"},          /* overlong */
        {"\xe0\x80\xaf", "\\xe0\\x80\\xaf"}, /* overlong */
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"}, /* surrogate */
        {"\xf0\x80\x80\xaf", "\\xf0\\x80\\x80\\xaf"},
        {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"}, /* above U+10FFFF */
        {"\xf5\x80\x80\x80", "\\xf5\\x80\\x80\\x80"},
        {"\xff", "\\xff"},
        {"\xe2\x82", "\\xe2\\x82"},          /* cut sequence */
        {"\xe2\x28\xa1", "\\xe2(\\xa1"},     /* wrong continuation */
        {"\xe2\x80\xae", "\\xe2\\x80\\xae"}, /* right-to-left override */
        {"\xe2\x80\xa8", "\\xe2\\x80\\xa8"}, /* line separator */
        {"\xe2\x81\xa6", "\\xe2\\x81\\xa6"}, /* isolate */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char out[128];
        bg_escape(rows[i].in, strlen(rows[i].in), out, sizeof out);
        assert_string_equal(out, rows[i].want);
    }
}

static void shows_nul_bytes_of_sized_input(void **state)
{
    (void)state;
    char out[32];
    bg_escape("a\0b", 3, out, sizeof out);
    assert_string_equal(out, "a\\x00b");
}

static void cuts_between_sequences_at_every_size(void **state)
{
    (void)state;
    static const char in[] = "a\x01\xe2\x82\xac\\\xf0\x9f\xa6\xa6\x02tail that is long enough";
    char whole[128];
    bg_escape(in, sizeof in - 1, whole, sizeof whole);
    for (size_t out_size = 8; out_size < sizeof whole; out_size++) {
        char out[sizeof whole + 1];
        memset(out, '#', sizeof out);
        bg_escape(in, sizeof in - 1, out, out_size);
        size_t used = strlen(out);
        assert_true(used < out_size);
        assert_int_equal(out[out_size], '#');
        if (strcmp(out, whole) == 0)
            continue;
        assert_string_equal(out + used - 3, "...");
        assert_memory_equal(out, whole, used - 3);
        /* What was kept is whole: it escapes to itself but for the backslashes. */
        for (size_t i = 0; i < used; i++)
            assert_false((unsigned char)out[i] < 0x20);
    }
}

static void quotes_for_messages(void **state)
{
    (void)state;
    char out[32], small[10];
    assert_ptr_equal(bg_quote("web\n", out, sizeof out), out);
    assert_string_equal(out, "'web\\x0a'");
    assert_string_equal(bg_quote("", out, sizeof out), "''");
    (void)bg_quote("much too long a name", small, sizeof small);
    assert_true(strlen(small) < sizeof small);
    assert_int_equal(small[0], '\'');
    assert_int_equal(small[strlen(small) - 1], '\'');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escapes_all_that_could_move_a_terminal),
        cmocka_unit_test(shows_nul_bytes_of_sized_input),
        cmocka_unit_test(cuts_between_sequences_at_every_size),
        cmocka_unit_test(quotes_for_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
