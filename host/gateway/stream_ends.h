/* stream_ends: streams to the client of which only the end is still to be said. The SDK's handler
 * throws when it is told the end of a stream that its program has just cancelled, and the
 * connection is dead then. So an end is held back until the client has answered two pings: with the
 * first it has taken all chunks in, before the second what reads them has run, and a cancel of its
 * own is here. Pure: numbers in, numbers out. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/err.h"

struct stream_end;

struct stream_ends {
    TAILQ_HEAD(, stream_end) list;
    size_t count;
    uint64_t pings; /* number of the last one */
};

void stream_ends_init(struct stream_ends *ends);
void stream_ends_done(struct stream_ends *ends);

/* Takes a stream; the caller sends the ping with this number. Errors: -EMFILE
 * BG_GATEWAY_ENDS_MAX; -ENOMEM. */
int stream_ends_add(struct stream_ends *ends, uint64_t stream_id, uint64_t *ret_ping) BG_MUST_CHECK;

/* The client has cancelled it: its end is not said. False: it is not here. */
bool stream_ends_cancel(struct stream_ends *ends, uint64_t stream_id);

/* The client has answered this ping, and so all before it. True: a second ping is to be sent, with
 * *ret_ping. */
bool stream_ends_pong(struct stream_ends *ends, uint64_t ping, uint64_t *ret_ping);

/* After a pong: takes out the next stream whose end is to be said now. False: there is none. */
bool stream_ends_next(struct stream_ends *ends, uint64_t *ret_stream_id);
