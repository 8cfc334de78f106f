/* What PREPARED tells of page records, and records themselves: the bytes after what is told are
 * those of a block. */
#include <stdlib.h>
#include <string.h>

#include "common/page_records.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static uint8_t block[BG_PAGE_BLOCK * BG_PAGE_RECORD_MAX];
    struct bg_page_records records;
    uint8_t out[BG_PAGE_RECORDS_SIZE];
    bool free_pages[BG_PAGE_BLOCK];
    struct bg_reader in = bg_reader_init(bytes, size);
    for (int i = 0; i < 5; i++)
        (void)bg_reader_u32le(&in);
    uint64_t told = 24 + 20 * (uint64_t)bg_reader_u32le(&in);
    if (told > size)
        told = size;
    struct bg_err err;
    if (bg_page_records_parse(bytes, (size_t)told, &records, &err) < 0)
        return 0;
    must(bg_page_records_emit(&records, out) == told && memcmp(out, bytes, (size_t)told) == 0);
    for (uint32_t i = 1; i < records.span_count; i++)
        must(records.spans[i - 1].first_page + records.spans[i - 1].count <=
             records.spans[i].first_page);
    size_t rest = size - (size_t)told;
    memset(block, 0, sizeof block);
    memcpy(block, bytes + told, rest < sizeof block ? rest : sizeof block);
    bg_page_records_free(&records, block, free_pages);
    return 0;
}
