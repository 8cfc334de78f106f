#include "common/page_records.h"

#include <assert.h>
#include <errno.h>

#define ORDER_MAX 10u /* 2^10 = BG_PAGE_BLOCK */

/* Further pages than any guest has, so that no sum of these numbers wraps around. */
#define PAGES_MAX     (1ull << 40)
#define ADDRESSES_MAX (1ull << 52)

static bool layout_is_sane(const struct bg_page_records *r)
{
    uint32_t size = r->record_size;
    return size >= 16 && size <= BG_PAGE_RECORD_MAX && (size & (size - 1)) == 0 &&
           r->type_offset <= size - 4 && r->refs_offset <= size - 4 && r->order_offset <= size - 8;
}

static bool span_is_sane(const struct bg_page_records *r, const struct bg_page_span *span,
                         uint64_t next_page)
{
    return span->count > 0 && span->first_page >= next_page && span->first_page < PAGES_MAX &&
           span->address < ADDRESSES_MAX && span->address % r->record_size == 0;
}

int bg_page_records_parse(const uint8_t *bytes, size_t size, struct bg_page_records *ret,
                          struct bg_err *err)
{
    struct bg_page_records r = {.record_size = 0};
    struct bg_reader in = bg_reader_init(bytes, size);
    r.record_size = bg_reader_u32le(&in);
    r.type_offset = bg_reader_u32le(&in);
    r.refs_offset = bg_reader_u32le(&in);
    r.order_offset = bg_reader_u32le(&in);
    r.free_type = bg_reader_u32le(&in);
    r.span_count = bg_reader_u32le(&in);
    if (!bg_reader_ok(&in) || !layout_is_sane(&r) || r.span_count == 0 ||
        r.span_count > BG_PAGE_SPANS_MAX)
        return bg_err_set(err, -EPROTO, "page records: bad layout or number of spans");
    uint64_t next_page = 0;
    for (uint32_t i = 0; i < r.span_count; i++) {
        struct bg_page_span span = {.first_page = bg_reader_u64le(&in),
                                    .address = bg_reader_u64le(&in)};
        span.count = bg_reader_u32le(&in);
        if (!bg_reader_ok(&in) || !span_is_sane(&r, &span, next_page))
            return bg_err_set(err, -EPROTO, "page records: bad span %u of %u", i, r.span_count);
        next_page = span.first_page + span.count;
        r.spans[i] = span;
    }
    if (!bg_reader_end(&in))
        return bg_err_set(err, -EPROTO, "page records: %zu bytes too many", in.left);
    *ret = r;
    return 0;
}

size_t bg_page_records_emit(const struct bg_page_records *records,
                            uint8_t out[BG_PAGE_RECORDS_SIZE])
{
    struct bg_writer w = bg_writer_init(out, BG_PAGE_RECORDS_SIZE);
    bg_writer_u32le(&w, records->record_size);
    bg_writer_u32le(&w, records->type_offset);
    bg_writer_u32le(&w, records->refs_offset);
    bg_writer_u32le(&w, records->order_offset);
    bg_writer_u32le(&w, records->free_type);
    bg_writer_u32le(&w, records->span_count);
    for (uint32_t i = 0; i < records->span_count; i++) {
        bg_writer_u64le(&w, records->spans[i].first_page);
        bg_writer_u64le(&w, records->spans[i].address);
        bg_writer_u32le(&w, records->spans[i].count);
    }
    assert(bg_writer_ok(&w));
    return w.used;
}

static uint32_t u32_at(const uint8_t *bytes)
{
    struct bg_reader in = bg_reader_init(bytes, 4);
    return bg_reader_u32le(&in);
}

static uint64_t u64_at(const uint8_t *bytes)
{
    struct bg_reader in = bg_reader_init(bytes, 8);
    return bg_reader_u64le(&in);
}

/* Pages of the free block that begins with the page of this index; 0: none does. */
static size_t free_block(const struct bg_page_records *r, const uint8_t *bytes, size_t index)
{
    const uint8_t *record = bytes + index * r->record_size;
    uint64_t order = u64_at(record + r->order_offset);
    if (u32_at(record + r->type_offset) != r->free_type || order > ORDER_MAX)
        return 0;
    size_t count = (size_t)1 << order;
    if (index % count != 0)
        return 0;
    /* The kernel has none of these references. It may stand between two stores; we take no chances
     * with what an order that is not there yet would name. */
    for (size_t i = 0; i < count; i++)
        if (u32_at(record + i * r->record_size + r->refs_offset) != 0)
            return 0;
    return count;
}

void bg_page_records_free(const struct bg_page_records *records, const uint8_t *bytes,
                          bool free_pages[BG_PAGE_BLOCK])
{
    memset(free_pages, 0, BG_PAGE_BLOCK * sizeof *free_pages);
    for (size_t i = 0; i < BG_PAGE_BLOCK;) {
        size_t count = free_block(records, bytes, i);
        /* Aligned within the block, so it does not pass its end. */
        memset(free_pages + i, 1, count);
        i += count > 0 ? count : 1;
    }
}
