#include "host/mcp/capture.h"

#include <stdio.h>
#include <string.h>

#include "host/gateway/text.h"

#define NOTE_SIZE 96

void capture_init(struct capture *capture, size_t max)
{
    *capture = (struct capture){.max = max};
}

void capture_done(struct capture *capture)
{
    free(capture->head);
    free(capture->tail);
    *capture = (struct capture){0};
}

static size_t head_max(const struct capture *c)
{
    return c->max / 2;
}

static size_t tail_max(const struct capture *c)
{
    return c->max - head_max(c);
}

/* Into the ring, over what is oldest there. */
static void add_tail(struct capture *c, const uint8_t *bytes, size_t size)
{
    size_t max = tail_max(c);
    if (size > max) {
        bytes += size - max;
        size = max;
    }
    size_t at = (c->tail_at + c->tail_used) % max;
    size_t first = size < max - at ? size : max - at;
    memcpy(c->tail + at, bytes, first);
    memcpy(c->tail, bytes + first, size - first);
    size_t over = c->tail_used + size > max ? c->tail_used + size - max : 0;
    c->tail_at = (c->tail_at + over) % max;
    c->tail_used += size - over;
}

int capture_add(struct capture *capture, const uint8_t *bytes, size_t size)
{
    struct capture *c = capture;
    if (size == 0)
        return 0;
    if (!c->head && !(c->head = malloc(head_max(c) + 1)))
        return -ENOMEM;
    size_t room = head_max(c) - c->head_used, first = size < room ? size : room;
    if (size > first && !c->tail && !(c->tail = malloc(tail_max(c) + 1)))
        return -ENOMEM;
    memcpy(c->head + c->head_used, bytes, first);
    c->head_used += first;
    c->total += size;
    if (size > first)
        add_tail(c, bytes + first, size - first);
    return 0;
}

uint64_t capture_lost(const struct capture *capture)
{
    return capture->total - capture->head_used - capture->tail_used;
}

json_t *capture_text(const struct capture *capture)
{
    const struct capture *c = capture;
    uint64_t lost = capture_lost(c);
    char note[NOTE_SIZE] = "";
    if (lost > 0)
        (void)snprintf(note, sizeof note, "\n[... %llu bytes left out ...]\n",
                       (unsigned long long)lost);
    size_t note_size = strlen(note), used = 0;
    BG_AUTOFREE char *text = malloc(c->head_used + c->tail_used + note_size + 1);
    if (!text)
        return NULL;
    if (c->head_used > 0)
        memcpy(text, c->head, c->head_used);
    used = c->head_used;
    memcpy(text + used, note, note_size);
    used += note_size;
    if (c->tail_used > 0) {
        size_t max = tail_max(c), first = max - c->tail_at;
        first = first < c->tail_used ? first : c->tail_used;
        memcpy(text + used, c->tail + c->tail_at, first);
        memcpy(text + used + first, c->tail, c->tail_used - first);
        used += c->tail_used;
    }
    return text_lossy(text, used);
}
