/* SHA-256 (FIPS 180-4): names of images and snapshots, and the check of their files. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define BG_SHA256_SIZE 32

struct bg_sha256 {
    uint32_t state[8];
    uint64_t size; /* bytes taken so far */
    uint8_t block[64];
};

void bg_sha256_init(struct bg_sha256 *hash);
void bg_sha256_update(struct bg_sha256 *hash, const void *bytes, size_t size);
void bg_sha256_final(struct bg_sha256 *hash, uint8_t out[BG_SHA256_SIZE]);

/* The digest of bytes as 64 lowercase hex digits and a NUL. */
void bg_sha256_hex(const void *bytes, size_t size, char out[BG_SHA256_SIZE * 2 + 1]);

/* The digest of what is to be read from fd until its end. Errors: -ENOMEM, errno of read(2). */
int bg_sha256_fd(int fd, uint8_t out[BG_SHA256_SIZE]) BG_MUST_CHECK;

/* The digest of a whole file, as bg_sha256_hex gives it; *ret_size (may be NULL): its size. dir_fd
 * as in openat(2). Errors: errno of open, read. */
int bg_sha256_file(int dir_fd, const char *path, char out[BG_SHA256_SIZE * 2 + 1],
                   uint64_t *ret_size, struct bg_err *err) BG_MUST_CHECK;
