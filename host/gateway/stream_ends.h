/* stream_ends: streams to the client of which only the end is still to be said. The SDK's handler
 * throws when it is told the end of a stream that its program has just cancelled, and the
 * connection, or with Deno the program, is dead then. So an end is held back until what reads the
 * chunks has run (turns.h): a cancel of its own is here then. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/err.h"
#include "host/gateway/turns.h"

struct stream_end;

struct stream_ends {
    TAILQ_HEAD(, stream_end) list;
    size_t count;
};

void stream_ends_init(struct stream_ends *ends);
void stream_ends_done(struct stream_ends *ends);

/* Takes a stream, all of which was sent before the mark. Errors: -EMFILE BG_GATEWAY_ENDS_MAX;
 * -ENOMEM. */
int stream_ends_add(struct stream_ends *ends, uint64_t stream_id, uint64_t mark) BG_MUST_CHECK;

/* The client has cancelled it: its end is not said. False: it is not here. */
bool stream_ends_cancel(struct stream_ends *ends, uint64_t stream_id);

/* Takes out the next stream whose end is to be said now. False: there is none. */
bool stream_ends_next(struct stream_ends *ends, const struct turns *turns, uint64_t *ret_stream_id);
