/* Reads the records that a guest sends of a layer (docs/protocol.md, "Changes"), from bytes cut
 * anywhere. Pure. */
#pragma once

#include "common/changes.h"

struct records {
    bool with_contents; /* each file's record has its contents behind it */
    /* A negative result ends the reading with it. */
    int (*on_record)(void *owner, const struct bg_change *change, struct bg_err *err);
    int (*on_bytes)(void *owner, const uint8_t *bytes, size_t size, struct bg_err *err);
    int (*on_end)(void *owner, enum bg_change_read how, struct bg_err *err); /* of the contents */
    void *owner;
    /* Ours; zero at first. */
    uint8_t record[4 + BG_CHANGE_RECORD_MAX];
    size_t used;
    uint64_t contents_left;
    bool in_contents;
    size_t count, total; /* records, and bytes of them */
};

/* Errors: -EPROTO malformed; -E2BIG more than BG_CHANGES_RECORDS_MAX records (of one file that is
 * sent again each counts), or BG_CHANGES_LIST_MAX bytes of them; what a callback returned. */
int records_feed(struct records *r, const uint8_t *bytes, size_t size,
                 struct bg_err *err) BG_MUST_CHECK;

/* Errors: -EPROTO it ended in the middle of something. */
int records_finish(const struct records *r, struct bg_err *err) BG_MUST_CHECK;
