/* manifest.json of a snapshot, which an import may bring from anywhere. What is accepted is written
 * again as something that is accepted, and names nothing outside of its folder. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/state/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct bg_snapshot s, again;
    struct bg_err err;
    if (bg_snapshot_parse((const char *)bytes, size, &s, &err) < 0)
        return 0;
    assert(bg_sandbox_name_ok(s.source_name));
    assert(!strchr(s.golden, '/') && !strchr(s.tag, '/'));
    assert(!s.parent || bg_snapshot_name_ok(s.parent));
    char *text = bg_snapshot_emit(&s);
    assert(text);
    int r = bg_snapshot_parse(text, strlen(text), &again, &err);
    assert(r == 0);
    assert(s.memory_count == again.memory_count && s.disk_count == again.disk_count);
    for (size_t i = 0; i < s.disk_count; i++)
        assert(bg_layer_id_ok(s.disk[i].id) && s.disk[i].size == again.disk[i].size);
    assert(s.kind != BG_SNAPSHOT_DISK || s.memory_count == 0);
    bg_snapshot_done(&s);
    bg_snapshot_done(&again);
    free(text);
    return 0;
}
