/* volume.json. What is accepted is written again as something that is accepted, and names nothing
 * outside of its folder. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/state/volume.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct bg_volume volume, again;
    struct bg_err err;
    if (bg_volume_parse((const char *)bytes, size, &volume, &err) < 0)
        return 0;
    assert(bg_volume_id_ok(volume.id, volume.snapshot) && bg_volume_slug_ok(volume.slug));
    assert(volume.capacity >= BG_VOLUME_BYTES_MIN && volume.capacity <= BG_VOLUME_BYTES_MAX);
    char *text = bg_volume_emit(&volume);
    assert(text);
    int r = bg_volume_parse(text, strlen(text), &again, &err);
    assert(r == 0 && strcmp(again.id, volume.id) == 0 && again.ready == volume.ready);
    bg_volume_done(&volume);
    bg_volume_done(&again);
    free(text);
    return 0;
}
