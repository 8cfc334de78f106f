/* Escaped text fits its buffer, has no byte that a terminal acts on, and a cut ends in "...". The
 * first byte chooses the size of the buffer. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/quote.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size == 0)
        return 0;
    size_t out_size = 8 + (size_t)bytes[0] * 8;
    char *out = malloc(out_size); /* exact, so that a sanitizer sees one byte too many */
    if (!out)
        return 0;
    bg_escape((const char *)bytes + 1, size - 1, out, out_size);
    size_t used = strnlen(out, out_size);
    if (used == out_size)
        abort();
    for (size_t i = 0; i < used; i++) {
        uint8_t b = (uint8_t)out[i];
        bool c1 = b == 0xc2 && (uint8_t)out[i + 1] < 0xa0;
        if (b < 0x20 || b == 0x7f || c1)
            abort();
    }
    free(out);
    return 0;
}
