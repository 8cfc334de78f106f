#include "host/supervisor/dead_pages.h"

#include <stdlib.h>

#include "host/supervisor/memory_layer.h"

#define NO_BLOCK UINT64_MAX

struct dead_pages {
    struct dead_pages_opts opts;
    uint64_t block; /* the one that is in free_pages: its first page's number / BG_PAGE_BLOCK */
    bool free_pages[BG_PAGE_BLOCK];
    uint8_t records[]; /* of one block */
};

int dead_pages_new(const struct dead_pages_opts *opts, struct dead_pages **ret, struct bg_err *err)
{
    struct dead_pages *dead =
        calloc(1, sizeof *dead + (size_t)BG_PAGE_BLOCK * opts->records->record_size);
    if (!dead)
        return bg_err_set(err, -ENOMEM, "page records: out of memory");
    dead->opts = *opts;
    dead->block = NO_BLOCK;
    *ret = dead;
    return 0;
}

void dead_pages_free(struct dead_pages *dead)
{
    free(dead);
}

/* The number that the guest has for a page. */
static bool number_of(const struct dead_pages_opts *opts, uint64_t ram_page, uint64_t *ret)
{
    uint64_t at = opts->ram_address + ram_page * MEMORY_PAGE_SIZE;
    for (size_t i = 0; i < opts->region_count; i++) {
        const struct guest_region *region = &opts->regions[i];
        if (at >= region->user_addr && at - region->user_addr < region->size) {
            *ret = (region->guest_addr + (at - region->user_addr)) / MEMORY_PAGE_SIZE;
            return true;
        }
    }
    return false;
}

/* Where guest addresses are in RAM; all of them in one region. */
static bool offset_of(const struct dead_pages_opts *opts, uint64_t address, size_t size,
                      uint64_t *ret)
{
    for (size_t i = 0; i < opts->region_count; i++) {
        const struct guest_region *region = &opts->regions[i];
        if (address < region->guest_addr || address - region->guest_addr >= region->size)
            continue;
        uint64_t into = address - region->guest_addr;
        uint64_t at = region->user_addr + into - opts->ram_address;
        *ret = at;
        return size <= region->size - into && region->user_addr + into >= opts->ram_address &&
               at < opts->ram_size && size <= opts->ram_size - at;
    }
    return false;
}

/* The part of a block that one span has. */
static void read_span(struct dead_pages *dead, uint64_t first, const struct bg_page_span *span)
{
    const struct bg_page_records *records = dead->opts.records;
    uint64_t from = span->first_page > first ? span->first_page : first;
    uint64_t end = span->first_page + span->count;
    if (end > first + BG_PAGE_BLOCK)
        end = first + BG_PAGE_BLOCK;
    if (from >= end)
        return;
    uint8_t *to = dead->records + (size_t)(from - first) * records->record_size;
    size_t size = (size_t)(end - from) * records->record_size;
    uint64_t address = span->address + (from - span->first_page) * records->record_size, offset;
    if (!offset_of(&dead->opts, address, size, &offset) ||
        dead->opts.read(dead->opts.context, offset, to, size) < 0)
        memset(to, 0, size); /* a part may have been read */
}

static void read_block(struct dead_pages *dead, uint64_t block)
{
    const struct bg_page_records *records = dead->opts.records;
    memset(dead->records, 0, (size_t)BG_PAGE_BLOCK * records->record_size);
    for (uint32_t i = 0; i < records->span_count; i++)
        read_span(dead, block * BG_PAGE_BLOCK, &records->spans[i]);
    bg_page_records_free(records, dead->records, dead->free_pages);
    dead->block = block;
}

bool dead_pages_has(struct dead_pages *dead, uint64_t ram_page)
{
    uint64_t number;
    if (!number_of(&dead->opts, ram_page, &number))
        return false;
    if (number / BG_PAGE_BLOCK != dead->block)
        read_block(dead, number / BG_PAGE_BLOCK);
    return dead->free_pages[number % BG_PAGE_BLOCK];
}
