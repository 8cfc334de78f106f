/* lines: cuts what comes on stdin into lines, the messages of the protocol. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/cleanup.h"

struct lines {
    char *bytes; /* of the line that has begun; owned */
    size_t used, room;
    size_t max;    /* bytes of a line, without its newline */
    bool skipping; /* the line that has begun was too long */
};

enum lines_event {
    LINES_NEED_MORE, /* all bytes are used up */
    LINES_LINE,      /* a whole one */
    LINES_TOO_LONG,  /* one was longer than max; the rest of it is passed over */
    LINES_NO_MEMORY, /* likewise, for want of memory */
};

void lines_init(struct lines *lines, size_t max);
void lines_done(struct lines *lines);

/* Takes from *bytes, of which *size are left, up to the next event. *ret_line: borrowed until the
 * next call, or as long as the bytes are. */
enum lines_event lines_next(struct lines *lines, const char **bytes, size_t *size,
                            const char **ret_line, size_t *ret_size);
