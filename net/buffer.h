/* A growable byte queue that is born with its maximum. Puts are sticky: after one that failed the
 * buffer says so until buffer_reset, so that a writer of many pieces looks once, at the end. It
 * holds no memory while it is empty. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/cleanup.h"

struct buffer {
    uint8_t *bytes;              /* owned */
    size_t start, end, capacity; /* start <= end <= capacity <= size_max */
    size_t size_max;
    bool wipe;   /* it may hold a secret: memory is cleansed before it is given back */
    bool failed; /* a put did not fit or memory was out */
};

static inline struct buffer buffer_init(size_t size_max)
{
    return (struct buffer){.size_max = size_max};
}

static inline size_t buffer_size(const struct buffer *b)
{
    return b->end - b->start;
}

static inline bool buffer_ok(const struct buffer *b)
{
    return !b->failed;
}

/* The queued bytes, borrowed until the next call; NULL when there are none. */
static inline uint8_t *buffer_bytes(const struct buffer *b)
{
    return b->start == b->end ? NULL : b->bytes + b->start;
}

/* Appends; on failure nothing is added and the buffer is failed. */
void buffer_put(struct buffer *b, const void *bytes, size_t size);
void buffer_put_text(struct buffer *b, const char *text);
void buffer_printf(struct buffer *b, const char *format, ...) BG_PRINTF(2, 3);

/* Drops size bytes, at most buffer_size(), from the front. */
void buffer_drop(struct buffer *b, size_t size);

/* Keeps only the first size bytes. */
void buffer_cut(struct buffer *b, size_t size);

/* Empties it and frees its memory; it can be used again. */
void buffer_reset(struct buffer *b);
