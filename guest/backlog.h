/* Output of a command that its reader may not have yet: a window over all of it, counted from the
 * first byte. While a stream is up it is at most the frame on its way; without one it is what the
 * command writes until somebody comes. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct backlog {
    uint8_t *bytes; /* owned; room of them */
    size_t at, used, room;
    uint64_t end; /* how much there was in all: the window's end */
};

void backlog_done(struct backlog *log);

/* The position of the first byte that is kept. */
static inline uint64_t backlog_start(const struct backlog *log)
{
    return log->end - (log->used - log->at);
}

/* Counts size bytes and keeps them. If they cannot be kept for want of memory, nothing is. */
void backlog_put(struct backlog *log, const uint8_t *bytes, size_t size);

/* Counts bytes that need not be kept, and forgets those before. */
void backlog_pass(struct backlog *log, size_t size);

/* Forgets what is before the position. */
void backlog_forget(struct backlog *log, uint64_t before);

/* What is kept from the position on; *ret_size may be 0. The position must be within. Borrowed
 * until the next call. */
const uint8_t *backlog_from(const struct backlog *log, uint64_t position, size_t *ret_size);
