#include "common/fold.h"

#include <stdint.h>

/* Size of the UTF-8 sequence at p that HFS+ ignores in names, or 0. */
static size_t ignorable(const uint8_t *p, size_t left)
{
    if (left < 3)
        return 0;
    if (p[0] == 0xe2 && p[1] == 0x80 &&
        ((p[2] >= 0x8c && p[2] <= 0x8f) || /* U+200C .. U+200F */
         (p[2] >= 0xaa && p[2] <= 0xae)))  /* U+202A .. U+202E */
        return 3;
    if (p[0] == 0xe2 && p[1] == 0x81 && p[2] >= 0xaa && p[2] <= 0xaf) /* U+206A .. U+206F */
        return 3;
    return p[0] == 0xef && p[1] == 0xbb && p[2] == 0xbf ? 3 : 0; /* U+FEFF */
}

/* The letter at p that folds to ASCII: *ret_size bytes of it. */
static char letter(const uint8_t *p, size_t left, size_t *ret_size)
{
    *ret_size = 1;
    if (left >= 2 && p[0] == 0xc5 && p[1] == 0xbf) { /* U+017F, long s */
        *ret_size = 2;
        return 's';
    }
    if (left >= 3 && p[0] == 0xe2 && p[1] == 0x84 && p[2] == 0xaa) { /* U+212A, the Kelvin sign */
        *ret_size = 3;
        return 'k';
    }
    return (char)(p[0] >= 'A' && p[0] <= 'Z' ? p[0] - 'A' + 'a' : p[0]);
}

size_t bg_fold_name(const char *name, size_t size, size_t least, char *out)
{
    const uint8_t *p = (const uint8_t *)name;
    size_t used = 0;
    for (size_t at = 0; at < size;) {
        size_t skip = ignorable(p + at, size - at);
        if (skip == 0)
            out[used++] = letter(p + at, size - at, &skip);
        at += skip;
    }
    while (used > least && (out[used - 1] == '.' || out[used - 1] == ' '))
        used--;
    out[used] = '\0';
    return used;
}
