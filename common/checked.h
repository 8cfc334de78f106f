/* Arithmetic and conversions that say no instead of wrapping. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/cleanup.h"

/* False on overflow, *ret untouched then. */
static inline bool BG_MUST_CHECK bg_size_add(size_t a, size_t b, size_t *ret)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *ret = sum;
    return true;
}

static inline bool BG_MUST_CHECK bg_size_mul(size_t a, size_t b, size_t *ret)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *ret = product;
    return true;
}

/* Narrowing; false when x does not fit, *ret untouched then. */
static inline bool BG_MUST_CHECK bg_to_u16(uint64_t x, uint16_t *ret)
{
    if (x > UINT16_MAX)
        return false;
    *ret = (uint16_t)x;
    return true;
}

static inline bool BG_MUST_CHECK bg_to_u32(uint64_t x, uint32_t *ret)
{
    if (x > UINT32_MAX)
        return false;
    *ret = (uint32_t)x;
    return true;
}

/* Decimal text, all of it, to a number in [min, max].
 * Errors: -EINVAL not a plain decimal number; -ERANGE outside the range. */
int bg_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret) BG_MUST_CHECK;

/* "512M", "2G", "64k", "1048576" to bytes: binary multiples, suffix K, M, G or T in either case.
 * Errors: -EINVAL malformed; -ERANGE outside [min, max]. */
int bg_parse_bytes(const char *text, uint64_t min, uint64_t max, uint64_t *ret) BG_MUST_CHECK;
