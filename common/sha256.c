#include "common/sha256.h"

#include <fcntl.h>
#include <string.h>

#include "common/io.h"

/* FIPS 180-4 §4.2.2: the first 32 bits of the fractional parts of the cube roots of the first 64
 * primes. */
static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate_right(uint32_t x, unsigned bits)
{
    return x >> bits | x << (32 - bits);
}

static void take_block(uint32_t state[8], const uint8_t *block)
{
    uint32_t w[64];
    for (size_t i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | (uint32_t)block[4 * i + 3];
    for (size_t i = 16; i < 64; i++) {
        uint32_t s0 = rotate_right(w[i - 15], 7) ^ rotate_right(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotate_right(w[i - 2], 17) ^ rotate_right(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1; /* wraps: modulo 2^32 */
    }
    uint32_t v[8];
    memcpy(v, state, sizeof v);
    for (size_t i = 0; i < 64; i++) {
        uint32_t s1 = rotate_right(v[4], 6) ^ rotate_right(v[4], 11) ^ rotate_right(v[4], 25);
        uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
        uint32_t t1 = v[7] + s1 + choice + round_constants[i] + w[i];
        uint32_t s0 = rotate_right(v[0], 2) ^ rotate_right(v[0], 13) ^ rotate_right(v[0], 22);
        uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        memmove(&v[1], &v[0], 7 * sizeof v[0]);
        v[4] += t1;
        v[0] = t1 + s0 + majority;
    }
    for (size_t i = 0; i < 8; i++)
        state[i] += v[i];
}

void bg_sha256_init(struct bg_sha256 *hash)
{
    /* FIPS 180-4 §5.3.3: likewise the square roots of the first 8 primes. */
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    *hash = (struct bg_sha256){0};
    memcpy(hash->state, start, sizeof start);
}

void bg_sha256_update(struct bg_sha256 *hash, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    size_t held = hash->size % sizeof hash->block;
    hash->size += size;
    if (held > 0) {
        size_t n = sizeof hash->block - held;
        if (n > size)
            n = size;
        if (n > 0)
            memcpy(hash->block + held, at, n);
        at += n;
        size -= n;
        if (held + n < sizeof hash->block)
            return;
        take_block(hash->state, hash->block);
    }
    for (; size >= sizeof hash->block; at += sizeof hash->block, size -= sizeof hash->block)
        take_block(hash->state, at);
    if (size > 0)
        memcpy(hash->block, at, size);
}

void bg_sha256_final(struct bg_sha256 *hash, uint8_t out[BG_SHA256_SIZE])
{
    uint64_t bits = hash->size * 8;
    static const uint8_t padding[64] = {0x80};
    size_t held = hash->size % 64;
    bg_sha256_update(hash, padding, held < 56 ? 56 - held : 120 - held);
    uint8_t length[8];
    for (unsigned i = 0; i < 8; i++)
        length[i] = (uint8_t)(bits >> (56 - 8 * i));
    bg_sha256_update(hash, length, sizeof length);
    for (size_t i = 0; i < BG_SHA256_SIZE; i++)
        out[i] = (uint8_t)(hash->state[i / 4] >> (24 - 8 * (i % 4)));
}

void bg_sha256_hex(const void *bytes, size_t size, char out[BG_SHA256_SIZE * 2 + 1])
{
    struct bg_sha256 hash;
    uint8_t digest[BG_SHA256_SIZE];
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, bytes, size);
    bg_sha256_final(&hash, digest);
    bg_hex(digest, sizeof digest, out);
}

/* Reads fd to its end. */
static int update_from(struct bg_sha256 *hash, int fd)
{
    size_t buffer_size = (size_t)256 * 1024;
    BG_AUTOFREE uint8_t *buffer = malloc(buffer_size);
    if (!buffer)
        return -ENOMEM;
    for (;;) {
        ssize_t n = read(fd, buffer, buffer_size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return 0;
        bg_sha256_update(hash, buffer, (size_t)n);
    }
}

int bg_sha256_fd(int fd, uint8_t out[BG_SHA256_SIZE])
{
    struct bg_sha256 hash;
    bg_sha256_init(&hash);
    int r = update_from(&hash, fd);
    if (r == 0)
        bg_sha256_final(&hash, out);
    return r;
}

int bg_sha256_file(int dir_fd, const char *path, char out[BG_SHA256_SIZE * 2 + 1],
                   uint64_t *ret_size, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    struct bg_sha256 hash;
    bg_sha256_init(&hash);
    int r = update_from(&hash, fd);
    if (r < 0)
        return bg_err_errno(err, r, "%s", path);
    uint64_t size = hash.size;
    uint8_t digest[BG_SHA256_SIZE];
    bg_sha256_final(&hash, digest);
    bg_hex(digest, sizeof digest, out);
    if (ret_size)
        *ret_size = size;
    return 0;
}
