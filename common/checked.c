#include "common/checked.h"

#include <errno.h>
#include <string.h>

/* Reads the digits at text; *ret_rest is what follows. */
static int parse_digits(const char *text, uint64_t *ret, const char **ret_rest)
{
    uint64_t value = 0;
    const char *p = text;
    if (*p < '0' || *p > '9')
        return -EINVAL;
    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
            return -ERANGE;
    *ret = value;
    *ret_rest = p;
    return 0;
}

int bg_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
    uint64_t value;
    const char *rest;
    int r = parse_digits(text, &value, &rest);
    if (r < 0)
        return r;
    if (*rest != '\0')
        return -EINVAL;
    if (value < min || value > max)
        return -ERANGE;
    *ret = value;
    return 0;
}

int bg_parse_bytes(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
    static const char suffixes[4] = {'K', 'M', 'G', 'T'}; /* no NUL: memchr must not find one */
    uint64_t value;
    const char *rest;
    int r = parse_digits(text, &value, &rest);
    if (r < 0)
        return r;
    if (*rest != '\0') {
        const char *s = memchr(suffixes, *rest & ~0x20, sizeof suffixes);
        if (!s || rest[1] != '\0')
            return -EINVAL;
        uint64_t factor = 1024;
        for (; s > suffixes; s--)
            factor *= 1024;
        if (__builtin_mul_overflow(value, factor, &value))
            return -ERANGE;
    }
    if (value < min || value > max)
        return -ERANGE;
    *ret = value;
    return 0;
}
