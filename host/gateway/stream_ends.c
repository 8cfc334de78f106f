#include "host/gateway/stream_ends.h"

#include <stdlib.h>

#include "common/limits.h"

struct stream_end {
    TAILQ_ENTRY(stream_end) link;
    uint64_t stream_id, mark;
};

void stream_ends_init(struct stream_ends *ends)
{
    TAILQ_INIT(&ends->list);
    ends->count = 0;
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

int stream_ends_add(struct stream_ends *ends, uint64_t stream_id, uint64_t mark)
{
    struct stream_end *end;
    if (ends->count == BG_GATEWAY_ENDS_MAX)
        return -EMFILE;
    end = calloc(1, sizeof *end);
    if (!end)
        return -ENOMEM;
    *end = (struct stream_end){.stream_id = stream_id, .mark = mark};
    TAILQ_INSERT_TAIL(&ends->list, end, link);
    ends->count++;
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

/* Marks only grow, so the first one is the next. */
bool stream_ends_next(struct stream_ends *ends, const struct turns *turns, uint64_t *ret_stream_id)
{
    struct stream_end *end = TAILQ_FIRST(&ends->list);
    if (!end || !turns_over(turns, end->mark))
        return false;
    *ret_stream_id = end->stream_id;
    drop(ends, end);
    return true;
}
