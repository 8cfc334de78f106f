#include "common/bytes.h"

uint8_t *bg_writer_room(struct bg_writer *w, size_t size)
{
    if (w->failed || size > w->size - w->used) {
        w->failed = true;
        return NULL;
    }
    uint8_t *p = w->start + w->used;
    w->used += size;
    return p;
}

void bg_writer_bytes(struct bg_writer *w, const void *bytes, size_t size)
{
    uint8_t *p = bg_writer_room(w, size);
    if (p && size > 0)
        memcpy(p, bytes, size);
}
