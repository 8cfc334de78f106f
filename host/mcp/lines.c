#include "host/mcp/lines.h"

#include <string.h>

#define KEEP_MAX (64 * 1024) /* a buffer that one long line made is not kept */

void lines_init(struct lines *lines, size_t max)
{
    *lines = (struct lines){.max = max};
}

void lines_done(struct lines *lines)
{
    free(lines->bytes);
    *lines = (struct lines){0};
}

static bool keep(struct lines *l, const char *bytes, size_t size)
{
    if (size > l->room - l->used) {
        size_t want = l->used + size; /* both at most max */
        size_t room = 2 * l->room > want ? 2 * l->room : want;
        char *grown = realloc(l->bytes, room);
        if (!grown)
            return false;
        l->bytes = grown;
        l->room = room;
    }
    if (size > 0)
        memcpy(l->bytes + l->used, bytes, size);
    l->used += size;
    return true;
}

/* The line that was kept has been looked at. */
static void begin_line(struct lines *l)
{
    if (l->used == 0 && l->room > KEEP_MAX) {
        free(l->bytes);
        l->bytes = NULL;
        l->room = 0;
    }
}

enum lines_event lines_next(struct lines *lines, const char **bytes, size_t *size,
                            const char **ret_line, size_t *ret_size)
{
    begin_line(lines);
    while (*size > 0) {
        const char *begin = *bytes, *end = memchr(begin, '\n', *size);
        size_t part = end ? (size_t)(end - begin) : *size;
        *bytes += end ? part + 1 : part;
        *size -= end ? part + 1 : part;
        if (lines->skipping) {
            lines->skipping = !end;
            continue;
        }
        bool fits = part <= lines->max - lines->used;
        if (fits && end && lines->used == 0) {
            *ret_line = begin;
            *ret_size = part;
            return LINES_LINE;
        }
        if (!fits || !keep(lines, begin, part)) {
            lines->used = 0;
            lines->skipping = !end;
            return fits ? LINES_NO_MEMORY : LINES_TOO_LONG;
        }
        if (end) {
            *ret_line = lines->bytes;
            *ret_size = lines->used;
            lines->used = 0;
            return LINES_LINE;
        }
    }
    return LINES_NEED_MORE;
}
