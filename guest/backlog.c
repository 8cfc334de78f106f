#include "guest/backlog.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void backlog_done(struct backlog *log)
{
    free(log->bytes);
    *log = (struct backlog){.end = log->end};
}

void backlog_put(struct backlog *log, const uint8_t *bytes, size_t size)
{
    log->end += size;
    if (log->at > 0 && log->room - log->used < size) {
        memmove(log->bytes, log->bytes + log->at, log->used - log->at);
        log->used -= log->at;
        log->at = 0;
    }
    if (log->room - log->used < size) {
        size_t room = log->used + size; /* both bounded by the owner: no overflow */
        if (room < 2 * log->room)
            room = 2 * log->room;
        uint8_t *grown = realloc(log->bytes, room);
        if (!grown) {
            backlog_done(log);
            return;
        }
        log->bytes = grown;
        log->room = room;
    }
    if (size > 0)
        memcpy(log->bytes + log->used, bytes, size);
    log->used += size;
}

void backlog_pass(struct backlog *log, size_t size)
{
    if (log->bytes)
        backlog_done(log);
    log->end += size;
}

void backlog_forget(struct backlog *log, uint64_t before)
{
    uint64_t start = backlog_start(log);
    if (before <= start)
        return;
    assert(before <= log->end);
    log->at += (size_t)(before - start);
    if (log->at == log->used)
        backlog_done(log);
}

const uint8_t *backlog_from(const struct backlog *log, uint64_t position, size_t *ret_size)
{
    assert(position >= backlog_start(log) && position <= log->end);
    *ret_size = (size_t)(log->end - position);
    return log->bytes ? log->bytes + (log->used - *ret_size) : NULL;
}
