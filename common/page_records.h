/* page_records: where a guest's kernel keeps what it knows of each page of its RAM, and which pages
 * are free by that (docs/protocol.md, "Page records"). Linux has an array of struct page, and says
 * where its fields are to whoever looks at its memory from outside (vmcoreinfo), so that a dump can
 * leave out what nobody uses. The agent finds the array; the host reads it when the CPUs stand.
 *
 * A page is free if it is in a block of the kernel's allocator: the first page of a block has the
 * type "free" and the block's order, and no page of it has a reference. What such a page holds
 * matters to nobody.
 *
 *   u32 record_size, u32 type_offset, u32 refs_offset, u32 order_offset, u32 free_type, u32 count,
 *   count times {u64 first_page, u64 address, u32 pages}                    all little endian */
#pragma once

#include "common/bytes.h"
#include "common/err.h"
#include "common/limits.h"

#define BG_PAGE_BLOCK        1024u /* pages of the allocator's largest block: order 10 */
#define BG_PAGE_RECORD_MAX   256u  /* bytes; Linux has 64 */
#define BG_PAGE_RECORDS_SIZE (24u + 20u * BG_PAGE_SPANS_MAX)

/* The records of pages that follow each other, which lie one behind the other. */
struct bg_page_span {
    uint64_t first_page; /* number of the first page: its guest address / 4096 */
    uint64_t address;    /* guest address of its record; a multiple of record_size */
    uint32_t count;      /* pages, > 0 */
};

struct bg_page_records {
    uint32_t record_size;              /* a power of two, 16 to BG_PAGE_RECORD_MAX */
    uint32_t type_offset, refs_offset; /* in a record: of a u32 each */
    uint32_t order_offset;             /* likewise, of a u64 */
    uint32_t free_type;                /* what the type is of the first page of a free block */
    uint32_t span_count;               /* > 0 */
    struct bg_page_span spans[BG_PAGE_SPANS_MAX]; /* sorted by first_page, none overlaps another */
};

/* Parses exactly size untrusted bytes. Errors: -EPROTO. */
int bg_page_records_parse(const uint8_t *bytes, size_t size, struct bg_page_records *ret,
                          struct bg_err *err) BG_MUST_CHECK;

/* What the other end parses; returns its size. */
size_t bg_page_records_emit(const struct bg_page_records *records,
                            uint8_t out[BG_PAGE_RECORDS_SIZE]);

/* Sets free_pages[i] for each page of one block. bytes: the records of its BG_PAGE_BLOCK pages,
 * untrusted; zeros where there is none. The block's first number is a multiple of its size. */
void bg_page_records_free(const struct bg_page_records *records, const uint8_t *bytes,
                          bool free_pages[BG_PAGE_BLOCK]);
