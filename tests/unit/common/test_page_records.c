#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "common/page_records.h"

#define FREE_TYPE 0xffffff7fu
#define USED      0xffffffffu

static const struct bg_page_records linux61 = {
    .record_size = 64,
    .type_offset = 48,
    .refs_offset = 52,
    .order_offset = 40,
    .free_type = FREE_TYPE,
    .span_count = 2,
    .spans = {{.first_page = 1, .address = 4096, .count = 100},
              {.first_page = 256, .address = 1 << 20, .count = 32768}}};

static void comes_back_as_it_was_and_not_cut_short(void **state)
{
    (void)state;
    uint8_t bytes[BG_PAGE_RECORDS_SIZE + 1] = {0}, again[BG_PAGE_RECORDS_SIZE];
    struct bg_page_records got;
    struct bg_err err;
    size_t size = bg_page_records_emit(&linux61, bytes);
    assert_int_equal(size, 24 + 2 * 20);
    assert_int_equal(bg_page_records_parse(bytes, size, &got, &err), 0);
    assert_int_equal(bg_page_records_emit(&got, again), size);
    assert_memory_equal(again, bytes, size);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(bg_page_records_parse(bytes, i, &got, &err), -EPROTO);
    assert_int_equal(bg_page_records_parse(bytes, size + 1, &got, &err), -EPROTO);
}

static void refuses_what_cannot_be(void **state)
{
    (void)state;
    static const struct {
        size_t offset;
        uint64_t value;
        bool wide;
    } rows[] = {
        {0, 0, false},
        {0, 8, false},
        {0, 48, false},
        {0, 512, false},
        {4, 61, false},
        {8, 61, false},
        {12, 57, false},
        {4, UINT32_MAX, false},
        {20, 0, false},
        {20, BG_PAGE_SPANS_MAX + 1, false},
        {20, 1, false},
        {20, 3, false},
        {24, 1ull << 40, true},
        {32, 1ull << 52, true},
        {32, 4096 + 32, true},
        {40, 0, false},
        {24, 300, true},
        {40, 256, false},
        {44, 100, true},
        {44, UINT64_MAX, true},
        {52, UINT64_MAX - 63, true},
    };
    uint8_t good[BG_PAGE_RECORDS_SIZE], bytes[BG_PAGE_RECORDS_SIZE];
    struct bg_page_records got;
    size_t size = bg_page_records_emit(&linux61, good);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        memcpy(bytes, good, size);
        struct bg_writer w = bg_writer_init(bytes + rows[i].offset, 8);
        if (rows[i].wide)
            bg_writer_u64le(&w, rows[i].value);
        else
            bg_writer_u32le(&w, (uint32_t)rows[i].value);
        if (bg_page_records_parse(bytes, size, &got, NULL) != -EPROTO)
            fail_msg("row %zu was taken", i);
    }
    /* As many spans as there may be. */
    struct bg_page_records many = linux61;
    many.span_count = BG_PAGE_SPANS_MAX;
    for (uint32_t i = 0; i < BG_PAGE_SPANS_MAX; i++)
        many.spans[i] = (struct bg_page_span){.first_page = i, .count = 1};
    assert_int_equal(bg_page_records_emit(&many, bytes), BG_PAGE_RECORDS_SIZE);
    assert_int_equal(bg_page_records_parse(bytes, BG_PAGE_RECORDS_SIZE, &got, NULL), 0);
}

static void set(uint8_t *bytes, size_t page, uint32_t type, uint32_t refs, uint64_t order)
{
    struct bg_writer w = bg_writer_init(bytes + page * 64 + 40, 16);
    bg_writer_u64le(&w, order);
    bg_writer_u32le(&w, type);
    bg_writer_u32le(&w, refs);
}

static size_t count_free(const uint8_t *bytes, bool free_pages[BG_PAGE_BLOCK])
{
    size_t count = 0;
    bg_page_records_free(&linux61, bytes, free_pages);
    for (size_t i = 0; i < BG_PAGE_BLOCK; i++)
        count += free_pages[i];
    return count;
}

static void knows_the_pages_of_free_blocks(void **state)
{
    (void)state;
    bool free_pages[BG_PAGE_BLOCK];
    uint8_t *bytes = calloc(BG_PAGE_BLOCK, 64);
    assert_non_null(bytes);
    assert_int_equal(count_free(bytes, free_pages), 0);
    for (size_t i = 0; i < BG_PAGE_BLOCK; i++)
        set(bytes, i, USED, 1, 0);
    set(bytes, 5, FREE_TYPE, 0, 0);
    for (size_t i = 8; i < 16; i++)
        set(bytes, i, i == 8 ? FREE_TYPE : USED, 0, i == 8 ? 3 : 0);
    assert_int_equal(count_free(bytes, free_pages), 9);
    assert_true(free_pages[5] && free_pages[8] && free_pages[15] && !free_pages[16]);
    /* A page of the block is used, so its order is not what it says. */
    set(bytes, 12, USED, 1, 0);
    assert_int_equal(count_free(bytes, free_pages), 1);
    set(bytes, 12, USED, 0, 0);
    /* Orders that there are not, or not there. */
    set(bytes, 8, FREE_TYPE, 0, 4);
    assert_int_equal(count_free(bytes, free_pages), 1);
    set(bytes, 8, FREE_TYPE, 0, 11);
    assert_int_equal(count_free(bytes, free_pages), 1);
    set(bytes, 8, FREE_TYPE, 0, UINT64_MAX);
    assert_int_equal(count_free(bytes, free_pages), 1);
    set(bytes, 8, FREE_TYPE, 0, 64);
    assert_int_equal(count_free(bytes, free_pages), 1);
    set(bytes, BG_PAGE_BLOCK - 1, FREE_TYPE, 0, 1);
    assert_int_equal(count_free(bytes, free_pages), 1);
    /* All of it. */
    for (size_t i = 0; i < BG_PAGE_BLOCK; i++)
        set(bytes, i, i == 0 ? FREE_TYPE : USED, 0, i == 0 ? 10 : 0);
    assert_int_equal(count_free(bytes, free_pages), BG_PAGE_BLOCK);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back_as_it_was_and_not_cut_short),
        cmocka_unit_test(refuses_what_cannot_be),
        cmocka_unit_test(knows_the_pages_of_free_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
