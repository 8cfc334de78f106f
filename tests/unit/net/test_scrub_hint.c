#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "net/scrub_hint.h"

/* 'a' then 'b' or 'B'; 'x' then 'y'; 0x80 then 0xff; and escapes. */
static void make(struct scrub_hint *hint)
{
    memset(hint, 0, sizeof *hint);
    for (unsigned c = 0; c < 256; c++)
        hint->may[1][c] = SCRUB_HINT_ESCAPE;
    for (const char *escape = "%=&\\"; *escape; escape++)
        hint->may[0][(uint8_t)*escape] = SCRUB_HINT_ESCAPE;
    hint->may[0]['a'] |= 1;
    hint->may[1]['b'] |= 1;
    hint->may[1]['B'] |= 1;
    hint->may[0]['x'] |= 2;
    hint->may[1]['y'] |= 2;
    hint->may[0][0x80] |= 64;
    hint->may[1][0xff] |= 64;
    scrub_hint_finish(hint);
}

typedef size_t scan_function(const struct scrub_hint *hint, const uint8_t *text, size_t at,
                             size_t size, uint32_t *ret_places);

static scan_function *const scans[] = {scrub_hint_scan, scrub_hint_scan_plain};

/* A mark for each place that passes. */
static void mark(scan_function *scan, const uint8_t *text, size_t size, uint8_t *marks)
{
    struct scrub_hint hint;
    make(&hint);
    memset(marks, 0, size);
    for (size_t next = 0; next < size;) {
        uint32_t places = 0;
        size_t base = scan(&hint, text, next, size, &places);
        assert_true(base <= size && base >= next);
        if (base < size)
            assert_int_not_equal(places, 0);
        for (; base < size && places; places &= places - 1) {
            size_t at = base + (size_t)__builtin_ctz(places);
            assert_true(at < size);
            marks[at] = 1;
        }
        next = size - base < SCRUB_HINT_BLOCK ? size : base + SCRUB_HINT_BLOCK;
    }
}

static void finds_a_place_wherever_it_is(void **state)
{
    (void)state;
    static const char *const pairs[] = {"ab",  "aB", "xy",  "\x80\xff", "%4", "%f", "%u",
                                        "=C3", "&#", "&am", "\\n",      "%U", "=0", "\\\""};
    uint8_t text[200], marks[sizeof text];
    for (size_t s = 0; s < 2; s++)
        for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++)
            for (size_t size = 2; size < sizeof text; size += 1 + size / 16)
                for (size_t at = 0; at + 1 < size; at++) {
                    memset(text, '.', sizeof text);
                    memcpy(text + at, pairs[p], 2);
                    mark(scans[s], text, size, marks);
                    if (!marks[at])
                        fail_msg("'%s' at %zu of %zu, scan %zu", pairs[p], at, size, s);
                }
}

static void the_last_place_needs_one_character(void **state)
{
    (void)state;
    static const char last[] = "ax\x80%=&\\";
    uint8_t text[100], marks[sizeof text];
    for (size_t s = 0; s < 2; s++)
        for (const char *c = last; *c; c++)
            for (size_t size = 1; size <= sizeof text; size++) {
                memset(text, '.', sizeof text);
                text[size - 1] = (uint8_t)*c;
                mark(scans[s], text, size, marks);
                assert_int_equal(marks[size - 1], 1);
            }
}

/* Or it would be of no use. */
static void passes_little_else(void **state)
{
    (void)state;
    static const char text[] = "aa bb ba by ya ayx. a.b x-y {\"abx\": 1} no % = escapes & none";
    uint8_t marks[sizeof text];
    for (size_t s = 0; s < 2; s++) {
        size_t count = 0;
        mark(scans[s], (const uint8_t *)text, sizeof text, marks);
        for (size_t i = 0; i < sizeof text; i++)
            count += marks[i];
        assert_in_range(count, 1, 4); /* "ab", and what begins escapes */
    }
}

static void finds_nothing_in_nothing(void **state)
{
    (void)state;
    struct scrub_hint hint;
    uint32_t places;
    make(&hint);
    for (size_t s = 0; s < 2; s++)
        assert_int_equal(scans[s](&hint, (const uint8_t *)"ab", 2, 2, &places), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_a_place_wherever_it_is),
        cmocka_unit_test(the_last_place_needs_one_character),
        cmocka_unit_test(passes_little_else),
        cmocka_unit_test(finds_nothing_in_nothing),
    };
    return cmocka_run_group_tests_name("net-scrub-hint", tests, NULL, NULL);
}
