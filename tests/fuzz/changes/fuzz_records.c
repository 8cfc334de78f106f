/* A guest's list of changes, cut as the first byte says, with and without contents. What is taken
 * must be a path below the share, and come back from its own record. */
#include <assert.h>
#include <stdlib.h>

#include "host/changes/records.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct taken {
    bool with_contents;
    uint64_t left; /* of the contents */
    bool in_file;
};

static int on_record(void *owner, const struct bg_change *c, struct bg_err *err)
{
    struct taken *taken = owner;
    static uint8_t bytes[4 + BG_CHANGE_RECORD_MAX];
    struct bg_change again;
    assert(!taken->in_file && bg_changes_path_ok(c->path) && c->path[0] != '/');
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_change_emit(c, &w);
    assert(bg_writer_ok(&w) && bg_change_parse(bytes + 4, w.used - 4, &again, err) == 0);
    assert(bg_change_same(c, &again));
    taken->left = c->size;
    taken->in_file = taken->with_contents && c->type == BG_CHANGE_FILE;
    return 0;
}

static int on_bytes(void *owner, const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct taken *taken = owner;
    (void)bytes;
    (void)err;
    assert(taken->in_file && size > 0 && size <= taken->left);
    taken->left -= size;
    return 0;
}

static int on_end(void *owner, enum bg_change_read how, struct bg_err *err)
{
    struct taken *taken = owner;
    (void)how;
    (void)err;
    assert(taken->in_file && taken->left == 0);
    taken->in_file = false;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_err err;
    struct bg_changes_request request;
    if (size == 0)
        return 0;
    struct taken taken = {.with_contents = data[0] & 1};
    if (bg_changes_request_parse(data, size, &request, &err) == 0)
        assert(request.share > 0);
    struct records *r = calloc(1, sizeof *r);
    if (!r)
        return 0;
    size_t step = (data[0] >> 1) + 1u;
    *r = (struct records){.with_contents = taken.with_contents,
                          .on_record = on_record,
                          .on_bytes = on_bytes,
                          .on_end = on_end,
                          .owner = &taken};
    int result = 0;
    for (size_t at = 1; result == 0 && at < size; at += step)
        result = records_feed(r, data + at, size - at < step ? size - at : step, &err);
    if (result == 0)
        (void)(records_finish(r, &err) < 0); /* either is fine */
    free(r);
    return 0;
}
