#include "net/buffer.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CAPACITY_MIN 1024u

/* Memory that may have held a secret is never given to realloc, which could leave a copy behind. */
static bool grow(struct buffer *b, size_t size)
{
    size_t used = b->end - b->start;
    if (size > b->size_max || used > b->size_max - size)
        return false;
    if (b->start > 0 && size <= b->capacity - used) {
        memmove(b->bytes, b->bytes + b->start, used);
        b->start = 0;
        b->end = used;
        return true;
    }
    size_t capacity = b->capacity < CAPACITY_MIN ? CAPACITY_MIN : b->capacity;
    while (capacity < used + size && capacity <= b->size_max / 2)
        capacity *= 2;
    if (capacity < used + size)
        capacity = b->size_max;
    if (capacity > b->size_max)
        capacity = b->size_max;
    uint8_t *bytes = malloc(capacity);
    if (!bytes)
        return false;
    if (used > 0)
        memcpy(bytes, b->bytes + b->start, used);
    if (b->wipe && b->bytes)
        explicit_bzero(b->bytes, b->capacity);
    free(b->bytes);
    b->bytes = bytes;
    b->capacity = capacity;
    b->start = 0;
    b->end = used;
    return true;
}

void buffer_put(struct buffer *b, const void *bytes, size_t size)
{
    if (b->failed || size == 0)
        return;
    if (size > b->capacity - b->end && !grow(b, size)) {
        b->failed = true;
        return;
    }
    memcpy(b->bytes + b->end, bytes, size);
    b->end += size;
}

void buffer_put_text(struct buffer *b, const char *text)
{
    buffer_put(b, text, strlen(text));
}

void buffer_printf(struct buffer *b, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text) {
        b->failed = true;
        return;
    }
    buffer_put(b, text, (size_t)n);
}

void buffer_drop(struct buffer *b, size_t size)
{
    assert(size <= buffer_size(b));
    b->start += size;
    if (b->start == b->end && !b->failed)
        buffer_reset(b);
}

void buffer_cut(struct buffer *b, size_t size)
{
    assert(size <= buffer_size(b));
    b->end = b->start + size;
}

void buffer_reset(struct buffer *b)
{
    if (b->wipe && b->bytes)
        explicit_bzero(b->bytes, b->capacity);
    free(b->bytes);
    *b = (struct buffer){.size_max = b->size_max, .wipe = b->wipe};
}
