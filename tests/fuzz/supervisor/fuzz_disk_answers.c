/* What the agent says on a disk stream, as the supervisor reads it. */
#include <stdlib.h>
#include <string.h>

#include "host/supervisor/disk_answers.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    /* The first byte says where the bytes are cut in two: that must not matter. */
    struct disk_answers whole = {0}, cut = {0};
    struct bg_err err = {0};
    size_t at = size > 1 ? bytes[0] % size : 0;
    if (size == 0)
        return 0;
    bytes++;
    size--;
    int r = disk_answers_feed(&whole, bytes, size, &err);
    if (strlen(err.text) >= sizeof err.text)
        abort();
    int s = disk_answers_feed(&cut, bytes, at, NULL);
    if (s == 0)
        s = disk_answers_feed(&cut, bytes + at, size - at, NULL);
    if (r != s || (r == 0 && (whole.mounted != cut.mounted || whole.ended != cut.ended)))
        abort();
    return 0;
}
