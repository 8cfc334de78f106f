#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "host/mcp/lines.h"

#define MAX 8

/* Feeds text in pieces of this size and writes what comes as "line|line|!|" (! is a lost one). */
static void cut(const char *text, size_t piece, char *out)
{
    struct lines lines;
    size_t left = strlen(text);
    lines_init(&lines, MAX);
    while (left > 0) {
        size_t size = piece < left ? piece : left, line_size;
        const char *bytes = text, *line;
        text += size;
        left -= size;
        for (enum lines_event event;
             (event = lines_next(&lines, &bytes, &size, &line, &line_size)) != LINES_NEED_MORE;) {
            if (event != LINES_LINE) {
                line = "!";
                line_size = 1;
            }
            memcpy(out, line, line_size);
            out += line_size;
            *out++ = '|';
        }
    }
    *out = '\0';
    lines_done(&lines);
}

static void lines_come_whole_in_whatever_pieces(void **state)
{
    (void)state;
    char out[64];
    for (size_t piece = 1; piece < 20; piece++) {
        cut("a\n\n12345678\nbc\nrest", piece, out);
        assert_string_equal(out, "a||12345678|bc|");
    }
}

static void one_that_is_too_long_is_passed_over_once(void **state)
{
    (void)state;
    char out[64];
    for (size_t piece = 1; piece < 40; piece++) {
        cut("a\n123456789\nb\n1234567890123456789012345\n12345678\n", piece, out);
        assert_string_equal(out, "a|!|b|!|12345678|");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_come_whole_in_whatever_pieces),
        cmocka_unit_test(one_that_is_too_long_is_passed_over_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
