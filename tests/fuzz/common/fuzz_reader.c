/* Any sequence of reads over any bytes: a reader never hands out more than there was, and a failure
 * sticks. The first 32 bytes are the program, the rest is the input. */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

#define PROGRAM_SIZE 32

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size < PROGRAM_SIZE)
        return 0;
    size_t input_size = size - PROGRAM_SIZE;
    uint8_t *input = malloc(input_size + 1); /* a copy: a sanitizer then knows its end */
    if (!input)
        return 0;
    memcpy(input, bytes + PROGRAM_SIZE, input_size);
    struct bg_reader r = bg_reader_init(input, input_size);
    for (size_t i = 0; i < PROGRAM_SIZE; i++) {
        bool had_failed = !bg_reader_ok(&r);
        size_t left = r.left, got;
        uint64_t value = 0;
        char text[16];
        const uint8_t *p;
        switch (bytes[i] % 8) {
        case 0:
            value = bg_reader_u8(&r);
            break;
        case 1:
            value = bg_reader_u16le(&r);
            break;
        case 2:
            value = bg_reader_u32be(&r);
            break;
        case 3:
            value = bg_reader_u64le(&r);
            break;
        case 4:
            bg_reader_text32le(&r, text, 1 + bytes[i] / 8 % sizeof text);
            if (strlen(text) > bytes[i] / 8 % sizeof text)
                abort();
            value = (uint8_t)text[0];
            break;
        case 5:
            p = bg_reader_blob32le(&r, SIZE_MAX, &got);
            if (p && got > left)
                abort();
            break;
        case 6:
            p = bg_reader_bytes(&r, bytes[i]);
            if (p && bytes[i] > left)
                abort();
            break;
        default:
            value = bg_reader_u16be(&r);
            break;
        }
        if (had_failed && (bg_reader_ok(&r) || value != 0))
            abort();
        if (r.left > left)
            abort();
    }
    free(input);
    return 0;
}
