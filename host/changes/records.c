#include "host/changes/records.h"

#include <string.h>

/* Adds to the record until it has want bytes. Returns how many were taken. */
static size_t fill(struct records *r, const uint8_t *bytes, size_t size, size_t want)
{
    size_t n = want - r->used < size ? want - r->used : size;
    memcpy(r->record + r->used, bytes, n);
    r->used += n;
    return n;
}

static int take_record(struct records *r, struct bg_err *err)
{
    struct bg_change change;
    int result = bg_change_parse(r->record + 4, r->used - 4, &change, err);
    r->total += r->used;
    r->used = 0;
    if (result < 0)
        return result;
    if (r->total > BG_CHANGES_LIST_MAX)
        return bg_err_set(err, -E2BIG, "more than %u MiB of names", BG_CHANGES_LIST_MAX >> 20);
    if (++r->count > BG_CHANGES_RECORDS_MAX)
        return bg_err_set(err, -E2BIG, "more than %d records", BG_CHANGES_RECORDS_MAX);
    result = r->on_record(r->owner, &change, err);
    if (result == 0 && r->with_contents && change.type == BG_CHANGE_FILE) {
        r->in_contents = true;
        r->contents_left = change.size;
    }
    return result;
}

/* The head is the size; then the rest of the record. Returns how many bytes were taken. */
static ssize_t feed_record(struct records *r, const uint8_t *bytes, size_t size, struct bg_err *err)
{
    size_t taken = 0;
    if (r->used < 4) {
        taken = fill(r, bytes, size, 4);
        if (r->used < 4)
            return (ssize_t)taken;
    }
    struct bg_reader head = bg_reader_init(r->record, 4);
    uint32_t record_size = bg_reader_u32le(&head);
    if (record_size == 0 || record_size > BG_CHANGE_RECORD_MAX)
        return bg_err_set(err, -EPROTO, "a record of %u bytes", record_size);
    taken += fill(r, bytes + taken, size - taken, 4 + record_size);
    int result = r->used == 4 + record_size ? take_record(r, err) : 0;
    return result < 0 ? result : (ssize_t)taken;
}

static ssize_t feed_contents(struct records *r, const uint8_t *bytes, size_t size,
                             struct bg_err *err)
{
    if (r->contents_left > 0) {
        size_t n = r->contents_left < size ? (size_t)r->contents_left : size;
        r->contents_left -= n;
        int result = r->on_bytes(r->owner, bytes, n, err);
        return result < 0 ? result : (ssize_t)n;
    }
    if (bytes[0] > BG_CHANGE_READ_GONE)
        return bg_err_set(err, -EPROTO, "contents end with %u", bytes[0]);
    r->in_contents = false;
    int result = r->on_end(r->owner, (enum bg_change_read)bytes[0], err);
    return result < 0 ? result : 1;
}

int records_feed(struct records *r, const uint8_t *bytes, size_t size, struct bg_err *err)
{
    while (size > 0) {
        ssize_t n =
            r->in_contents ? feed_contents(r, bytes, size, err) : feed_record(r, bytes, size, err);
        if (n < 0)
            return (int)n;
        bytes += n;
        size -= (size_t)n;
    }
    return 0;
}

int records_finish(const struct records *r, struct bg_err *err)
{
    if (r->used > 0 || r->in_contents)
        return bg_err_set(err, -EPROTO, "the list ends in the middle");
    return 0;
}
