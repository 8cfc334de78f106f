/* What a guest sends on a watch stream: whatever it is, the lines are printable and whole. byte 0:
 * for programs; then the stream. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/wire.h"
#include "host/cli/watch_frames.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size == 0)
        return 0;
    bool json = bytes[0] & 1;
    for (size_t at = 1; at < size;) {
        char *text = NULL;
        struct bg_err err;
        int r = watch_frames_take(bytes + at, size - at, json, &text, &err);
        if (r <= 0) {
            assert(!text);
            break;
        }
        size_t length = strlen(text);
        assert(length > 0 && text[length - 1] == '\n');
        for (size_t i = 0; i < length; i++)
            assert(text[i] == '\n' || (unsigned char)text[i] >= 0x20);
        free(text);
        at += (size_t)r;
    }
    return 0;
}
