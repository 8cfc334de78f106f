/* Bounded reading and writing of wire bytes. A reader cannot pass its end: a failed read sticks and
 * yields zeros, so a parser reads all fields, looks at bg_reader_end() or bg_reader_ok() once, and
 * only then acts. A writer likewise never passes its buffer; look at bg_writer_ok() before use.
 * Byte order is in each function's name. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct bg_reader {
    const uint8_t *at; /* borrowed */
    size_t left;
    bool failed;
};

static inline struct bg_reader bg_reader_init(const void *bytes, size_t size)
{
    return (struct bg_reader){.at = bytes, .left = size};
}

/* The next size bytes, borrowed from the input; NULL when they are not there. size 0 is never NULL
 * unless an earlier read failed. */
static inline const uint8_t *bg_reader_bytes(struct bg_reader *r, size_t size)
{
    if (r->failed || size > r->left) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *p = r->at;
    r->at += size;
    r->left -= size;
    return p;
}

static inline uint8_t bg_reader_u8(struct bg_reader *r)
{
    const uint8_t *p = bg_reader_bytes(r, 1);
    return p ? p[0] : 0;
}

static inline uint16_t bg_reader_u16le(struct bg_reader *r)
{
    const uint8_t *p = bg_reader_bytes(r, 2);
    return p ? (uint16_t)(p[0] | p[1] << 8) : 0;
}

static inline uint16_t bg_reader_u16be(struct bg_reader *r)
{
    const uint8_t *p = bg_reader_bytes(r, 2);
    return p ? (uint16_t)(p[0] << 8 | p[1]) : 0;
}

static inline uint32_t bg_reader_u32le(struct bg_reader *r)
{
    const uint8_t *p = bg_reader_bytes(r, 4);
    return p ? (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24
             : 0;
}

static inline uint32_t bg_reader_u32be(struct bg_reader *r)
{
    const uint8_t *p = bg_reader_bytes(r, 4);
    return p ? (uint32_t)p[3] | (uint32_t)p[2] << 8 | (uint32_t)p[1] << 16 | (uint32_t)p[0] << 24
             : 0;
}

static inline uint64_t bg_reader_u64le(struct bg_reader *r)
{
    uint64_t low = bg_reader_u32le(r);
    return low | (uint64_t)bg_reader_u32le(r) << 32;
}

/* A u32 length and that many bytes, at most size_max; *ret_size is 0 on failure. Borrowed. */
static inline const uint8_t *bg_reader_blob32le(struct bg_reader *r, size_t size_max,
                                                size_t *ret_size)
{
    size_t size = bg_reader_u32le(r);
    if (size > size_max)
        r->failed = true;
    const uint8_t *p = bg_reader_bytes(r, size);
    *ret_size = p ? size : 0;
    return p;
}

/* A u32 length and that many bytes without a NUL, copied to out with a NUL after them. out_size
 * bounds length + 1. On failure out is "". */
static inline void bg_reader_text32le(struct bg_reader *r, char *out, size_t out_size)
{
    size_t size;
    const uint8_t *p = bg_reader_blob32le(r, out_size - 1, &size);
    if (p && memchr(p, 0, size))
        r->failed = true;
    if (!p || r->failed)
        size = 0;
    else if (size > 0)
        memcpy(out, p, size);
    out[size] = '\0';
}

static inline bool bg_reader_ok(const struct bg_reader *r)
{
    return !r->failed;
}

/* True when nothing failed and nothing is left over. */
static inline bool bg_reader_end(const struct bg_reader *r)
{
    return !r->failed && r->left == 0;
}

struct bg_writer {
    uint8_t *start; /* the caller's buffer */
    size_t used, size;
    bool failed;
};

static inline struct bg_writer bg_writer_init(void *buffer, size_t size)
{
    return (struct bg_writer){.start = buffer, .size = size};
}

/* Room for size more bytes, to be filled by the caller; NULL when it does not fit. */
uint8_t *bg_writer_room(struct bg_writer *w, size_t size);

void bg_writer_bytes(struct bg_writer *w, const void *bytes, size_t size);

static inline void bg_writer_u8(struct bg_writer *w, uint8_t v)
{
    bg_writer_bytes(w, &v, 1);
}

static inline void bg_writer_u16le(struct bg_writer *w, uint16_t v)
{
    uint8_t b[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
    bg_writer_bytes(w, b, sizeof b);
}

static inline void bg_writer_u16be(struct bg_writer *w, uint16_t v)
{
    uint8_t b[2] = {(uint8_t)(v >> 8), (uint8_t)v};
    bg_writer_bytes(w, b, sizeof b);
}

static inline void bg_writer_u32le(struct bg_writer *w, uint32_t v)
{
    uint8_t b[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    bg_writer_bytes(w, b, sizeof b);
}

static inline void bg_writer_u32be(struct bg_writer *w, uint32_t v)
{
    uint8_t b[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
    bg_writer_bytes(w, b, sizeof b);
}

static inline void bg_writer_u64le(struct bg_writer *w, uint64_t v)
{
    bg_writer_u32le(w, (uint32_t)v);
    bg_writer_u32le(w, (uint32_t)(v >> 32));
}

/* A u32 length and the bytes. */
static inline void bg_writer_blob32le(struct bg_writer *w, const void *bytes, size_t size)
{
    if (size > UINT32_MAX) {
        w->failed = true;
        return;
    }
    bg_writer_u32le(w, (uint32_t)size);
    bg_writer_bytes(w, bytes, size);
}

static inline void bg_writer_text32le(struct bg_writer *w, const char *text)
{
    bg_writer_blob32le(w, text, strlen(text));
}

static inline bool bg_writer_ok(const struct bg_writer *w)
{
    return !w->failed;
}
