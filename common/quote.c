#include "common/quote.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* The size of the valid, printable UTF-8 sequence at bytes (1 to 4), or 0 (RFC 3629 §4). */
static size_t printable_sequence(const uint8_t *bytes, size_t size)
{
    uint8_t b = bytes[0];
    if (b < 0x80)
        return b >= 0x20 && b != 0x7f ? 1 : 0;
    size_t want = b >= 0xc2 && b <= 0xdf   ? 2
                  : b >= 0xe0 && b <= 0xef ? 3
                  : b >= 0xf0 && b <= 0xf4 ? 4
                                           : 0;
    if (want == 0 || want > size)
        return 0;
    for (size_t i = 1; i < want; i++)
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
    if ((b == 0xc2 && bytes[1] < 0xa0) || /* C1 controls */
        (b == 0xe0 && bytes[1] < 0xa0) ||
        (b == 0xed && bytes[1] > 0x9f) || /* overlong, surrogate */
        (b == 0xf0 && bytes[1] < 0x90) || (b == 0xf4 && bytes[1] > 0x8f))
        return 0;
    if (b == 0xe2 && bytes[1] == 0x80 && (bytes[2] >= 0xa8 && bytes[2] <= 0xae))
        return 0; /* line separators and bidirectional overrides */
    if (b == 0xe2 && bytes[1] == 0x81 && (bytes[2] >= 0xa6 && bytes[2] <= 0xa9))
        return 0; /* bidirectional isolates */
    return want;
}

void bg_escape(const char *bytes, size_t size, char *out, size_t out_size)
{
    static const char hex[] = "0123456789abcdef";
    const uint8_t *in = (const uint8_t *)bytes;
    size_t used = 0;
    for (size_t at = 0; at < size;) {
        size_t n = printable_sequence(in + at, size - at);
        size_t need = n == 0 ? 4 : in[at] == '\\' ? 2 : n;
        if (used + need + 4 > out_size) { /* room for "..." and NUL */
            memcpy(out + used, "...", 3);
            used += 3;
            break;
        }
        if (n == 0) {
            out[used++] = '\\';
            out[used++] = 'x';
            out[used++] = hex[in[at] >> 4];
            out[used++] = hex[in[at] & 15];
            at++;
            continue;
        }
        if (in[at] == '\\')
            out[used++] = '\\';
        memcpy(out + used, in + at, n);
        used += n;
        at += n;
    }
    out[used] = '\0';
}

const char *bg_quote(const char *text, char *out, size_t out_size)
{
    out[0] = '\'';
    bg_escape(text, strlen(text), out + 1, out_size - 2);
    size_t used = strlen(out);
    out[used] = '\'';
    out[used + 1] = '\0';
    return out;
}
