/* archive_sum: the checksum of a file in an export (docs/protocol.md, "Exports"): SHA-256 over
 * those of its 64 KiB chunks that are not all zeros, each after its offset, and over the file's
 * size. So it costs what is in the file, not what the holes would be, and says the same however
 * they are stored. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/sha256.h"

#define ARCHIVE_CHUNK_SIZE (64u * 1024)

struct archive_sum {
    struct bg_sha256 hash;
    uint64_t chunk_at; /* offset of the chunk at hand */
    uint64_t end;      /* of what was added; what comes next is not before it */
    bool has_chunk;
    uint8_t chunk[ARCHIVE_CHUNK_SIZE];
};

void archive_sum_init(struct archive_sum *sum);

/* Adds bytes at their place in the file. Errors: -EINVAL before the end of what was added. */
int archive_sum_add(struct archive_sum *sum, uint64_t offset, const void *bytes,
                    size_t size) BG_MUST_CHECK;

/* size: of the file. Errors: -EINVAL more was added than that. */
int archive_sum_final(struct archive_sum *sum, uint64_t size,
                      char out[BG_SHA256_SIZE * 2 + 1]) BG_MUST_CHECK;
