/* What a relay that was taken over tells its keeper. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fs/guard/pins.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct fs_pin_note note;
    uint8_t head[BG_PATH_MAX + 32];
    struct bg_err err;
    if (fs_pin_note_parse(bytes, size, &note, &err) < 0)
        return 0;
    if (!fs_pin_path_ok(note.path) || note.size > BG_GUARD_FILE_MAX || note.mode > 0777)
        abort();
    size_t used = fs_pin_note_emit(&note, head);
    if (used + note.size != size || memcmp(head, bytes, used) != 0)
        abort();
    return 0;
}
