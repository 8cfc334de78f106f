#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/state/qcow2.h"

/* A header as `qemu-img create -f qcow2` writes it. */
static const uint8_t good[QCOW2_HEADER_SIZE] = {
    'Q', 'F', 'I',  0xfb, 0, 0,    0,         3,         [8] = 0,    0,
    0,   0,   0,    0,    2, 0x28, [19] = 30, [23] = 16, [24] = 0,   0,
    0,   2,   0x80, 0,    0, 0,    [39] = 20, [95] = 4,  [103] = 112};

static void takes_our_own(void **state)
{
    (void)state;
    uint8_t bytes[sizeof good];
    memcpy(bytes, good, sizeof good);
    assert_int_equal(qcow2_check(bytes, sizeof bytes, NULL), 0);
    bytes[79] = 1; /* dirty: QEMU was killed */
    assert_int_equal(qcow2_check(bytes, sizeof bytes, NULL), 0);
}

static void refuses_others(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint8_t value;
        const char *word;
    } rows[] = {{0, 'q', "not a qcow2"}, {7, 2, "version 2"}, {7, 4, "version 4"},
                {23, 8, "made"},         {23, 22, "made"},    {35, 1, "encryption"},
                {35, 2, "encryption"},   {79, 2, "file"},     {79, 4, "another file"},
                {79, 5, "another file"}, {79, 8, "format"},   {79, 16, "format"},
                {72, 0x80, "format"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t bytes[sizeof good];
        struct bg_err err;
        memcpy(bytes, good, sizeof good);
        bytes[rows[i].at] = rows[i].value;
        assert_int_equal(qcow2_check(bytes, sizeof bytes, &err), -EMEDIUMTYPE);
        if (!strstr(err.text, rows[i].word))
            fail_msg("row %zu: no '%s' in '%s'", i, rows[i].word, err.text);
    }
}

static void refuses_every_truncation(void **state)
{
    (void)state;
    for (size_t size = 0; size < 80; size++)
        assert_int_equal(qcow2_check(good, size, NULL), -EMEDIUMTYPE);
}

static void an_empty_one_is_one_of_ours(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {512, 1ull << 30, QCOW2_BYTES_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint8_t *bytes = calloc(1, QCOW2_EMPTY_SIZE);
        assert_non_null(bytes);
        qcow2_emit_empty(sizes[i], bytes);
        assert_int_equal(qcow2_check(bytes, QCOW2_EMPTY_SIZE, NULL), 0);
        uint64_t size = 0;
        for (size_t k = 24; k < 32; k++)
            size = size << 8 | bytes[k];
        assert_true(size == sizes[i]);
        /* One reference for each of its clusters, and none beyond. */
        for (size_t k = 0; k < 8; k++)
            assert_int_equal(bytes[(2 << 16) + 2 * k + 1], k < QCOW2_EMPTY_SIZE >> 16);
        free(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_our_own),
        cmocka_unit_test(an_empty_one_is_one_of_ours),
        cmocka_unit_test(refuses_others),
        cmocka_unit_test(refuses_every_truncation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
