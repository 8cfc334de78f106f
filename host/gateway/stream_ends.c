#include "host/gateway/stream_ends.h"

#include <stdlib.h>

#include "common/limits.h"

struct stream_end {
    TAILQ_ENTRY(stream_end) link;
    uint64_t stream_id;
    uint64_t ping; /* that it waits for */
    enum { FIRST_PING, SECOND_PING, SAY_IT } state;
};

void stream_ends_init(struct stream_ends *ends)
{
    TAILQ_INIT(&ends->list);
    ends->count = 0;
    ends->pings = 0;
}

static void drop(struct stream_ends *ends, struct stream_end *end)
{
    TAILQ_REMOVE(&ends->list, end, link);
    ends->count--;
    free(end);
}

void stream_ends_done(struct stream_ends *ends)
{
    while (!TAILQ_EMPTY(&ends->list))
        drop(ends, TAILQ_FIRST(&ends->list));
}

int stream_ends_add(struct stream_ends *ends, uint64_t stream_id, uint64_t *ret_ping)
{
    struct stream_end *end;
    if (ends->count == BG_GATEWAY_ENDS_MAX)
        return -EMFILE;
    end = calloc(1, sizeof *end);
    if (!end)
        return -ENOMEM;
    *end = (struct stream_end){.stream_id = stream_id, .ping = ++ends->pings, .state = FIRST_PING};
    TAILQ_INSERT_TAIL(&ends->list, end, link);
    ends->count++;
    *ret_ping = end->ping;
    return 0;
}

bool stream_ends_cancel(struct stream_ends *ends, uint64_t stream_id)
{
    struct stream_end *end;
    TAILQ_FOREACH(end, &ends->list, link)
    {
        if (end->stream_id == stream_id) {
            drop(ends, end);
            return true;
        }
    }
    return false;
}

bool stream_ends_pong(struct stream_ends *ends, uint64_t ping, uint64_t *ret_ping)
{
    struct stream_end *end;
    bool again = false;
    TAILQ_FOREACH(end, &ends->list, link)
    {
        if (end->ping > ping || end->state == SAY_IT)
            continue;
        end->state = end->state == FIRST_PING ? SECOND_PING : SAY_IT;
        if (end->state == SECOND_PING) {
            end->ping = ends->pings + 1;
            again = true;
        }
    }
    if (again)
        *ret_ping = ++ends->pings;
    return again;
}

bool stream_ends_next(struct stream_ends *ends, uint64_t *ret_stream_id)
{
    struct stream_end *end;
    TAILQ_FOREACH(end, &ends->list, link)
    {
        if (end->state == SAY_IT) {
            *ret_stream_id = end->stream_id;
            drop(ends, end);
            return true;
        }
    }
    return false;
}
