/* disk.json. What is accepted is written again as something that is accepted, and names nothing
 * outside of its folder. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/state/disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct bg_disk disk, again;
    struct bg_err err;
    if (bg_disk_parse((const char *)bytes, size, &disk, &err) < 0)
        return 0;
    assert(disk.count <= BG_DISK_LAYERS_MAX && !strchr(disk.golden, '/'));
    for (size_t i = 0; i < disk.count; i++)
        assert(!strchr(disk.layers[i].file, '/') && disk.layers[i].file[0] != '.');
    char *text = bg_disk_emit(&disk);
    assert(text);
    int r = bg_disk_parse(text, strlen(text), &again, &err);
    assert(r == 0 && again.count == disk.count && again.top == disk.top);
    bg_disk_done(&disk);
    bg_disk_done(&again);
    free(text);
    return 0;
}
