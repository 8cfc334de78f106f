#include "host/cli/archive_sum.h"

#include <string.h>

#include "common/io.h"

void archive_sum_init(struct archive_sum *sum)
{
    bg_sha256_init(&sum->hash);
    sum->chunk_at = sum->end = 0;
    sum->has_chunk = false;
}

static void add_number(struct archive_sum *sum, uint64_t number)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(number >> (8 * i)); /* little endian */
    bg_sha256_update(&sum->hash, bytes, sizeof bytes);
}

static void finish_chunk(struct archive_sum *sum)
{
    static const uint8_t zeros[ARCHIVE_CHUNK_SIZE];
    if (sum->has_chunk && memcmp(sum->chunk, zeros, sizeof zeros) != 0) {
        add_number(sum, sum->chunk_at);
        bg_sha256_update(&sum->hash, sum->chunk, sizeof sum->chunk);
    }
    sum->has_chunk = false;
}

int archive_sum_add(struct archive_sum *sum, uint64_t offset, const void *bytes, size_t size)
{
    const uint8_t *in = bytes;
    if (offset < sum->end || offset + size < offset)
        return -EINVAL;
    while (size > 0) {
        uint64_t chunk_at = offset - offset % ARCHIVE_CHUNK_SIZE;
        if (sum->has_chunk && chunk_at != sum->chunk_at)
            finish_chunk(sum);
        if (!sum->has_chunk) {
            memset(sum->chunk, 0, sizeof sum->chunk);
            sum->chunk_at = chunk_at;
            sum->has_chunk = true;
        }
        size_t at = (size_t)(offset - chunk_at);
        size_t part = size < ARCHIVE_CHUNK_SIZE - at ? size : ARCHIVE_CHUNK_SIZE - at;
        memcpy(sum->chunk + at, in, part);
        in += part;
        offset += part;
        size -= part;
        sum->end = offset;
    }
    return 0;
}

int archive_sum_final(struct archive_sum *sum, uint64_t size, char out[BG_SHA256_SIZE * 2 + 1])
{
    uint8_t digest[BG_SHA256_SIZE];
    if (size < sum->end)
        return -EINVAL;
    finish_chunk(sum);
    add_number(sum, size);
    bg_sha256_final(&sum->hash, digest);
    bg_hex(digest, sizeof digest, out);
    return 0;
}
