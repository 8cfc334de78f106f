#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "host/mcp/capture.h"

/* What is kept of text, fed in pieces. */
static char *keep(const char *text, size_t max, size_t piece, uint64_t *ret_lost)
{
    struct capture capture;
    capture_init(&capture, max);
    for (size_t left = strlen(text); left > 0;) {
        size_t size = piece < left ? piece : left;
        assert_int_equal(capture_add(&capture, (const uint8_t *)text, size), 0);
        text += size;
        left -= size;
    }
    json_t *json = capture_text(&capture);
    char *kept = strdup(json_string_value(json));
    *ret_lost = capture_lost(&capture);
    json_decref(json);
    capture_done(&capture);
    return kept;
}

static void what_fits_is_kept_whole(void **state)
{
    (void)state;
    static const char text[] = "0123456789";
    uint64_t lost;
    for (size_t max = 10; max < 14; max++)
        for (size_t piece = 1; piece < 12; piece++) {
            char *kept = keep(text, max, piece, &lost);
            assert_string_equal(kept, text);
            assert_int_equal(lost, 0);
            free(kept);
        }
}

static void of_more_the_beginning_and_the_end_are_kept(void **state)
{
    (void)state;
    uint64_t lost;
    for (size_t piece = 1; piece < 30; piece++) {
        char *kept = keep("abcdefghijklmnopqrstuvwxyz", 7, piece, &lost);
        assert_string_equal(kept, "abc\n[... 19 bytes left out ...]\nwxyz");
        assert_int_equal(lost, 19);
        free(kept);
    }
}

static void what_is_no_text_is_made_one(void **state)
{
    (void)state;
    struct capture capture;
    capture_init(&capture, 8);
    json_t *none = capture_text(&capture);
    assert_string_equal(json_string_value(none), "");
    json_decref(none);
    assert_int_equal(capture_add(&capture, (const uint8_t *)"a\xff\0b", 4), 0);
    json_t *text = capture_text(&capture);
    assert_int_equal(json_string_length(text), 6);
    assert_memory_equal(json_string_value(text), "a\xef\xbf\xbd\0b", 6);
    json_decref(text);
    capture_done(&capture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_fits_is_kept_whole),
        cmocka_unit_test(of_more_the_beginning_and_the_end_are_kept),
        cmocka_unit_test(what_is_no_text_is_made_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
