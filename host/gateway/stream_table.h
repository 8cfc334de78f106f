/* stream_table: the streams that a client sends (docs/deno-protocol.md, "Streams"), from their
 * start until whoever reads them has all. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/err.h"

struct stream_chunk {
    SIMPLEQ_ENTRY(stream_chunk) link;
    size_t size, taken;
    uint8_t bytes[];
};

struct inbound {
    LIST_ENTRY(inbound) link;
    struct stream_table *table;
    int64_t id;
    SIMPLEQ_HEAD(, stream_chunk) chunks;
    bool ended, failed;             /* no more chunks come; failed: it broke off */
    void (*on_change)(void *owner); /* more chunks, or the end; NULL: nobody reads it yet. May call
                                       inbound_drop */
    void *owner;
};

struct stream_table {
    LIST_HEAD(, inbound) list;
    size_t count;
    size_t bytes; /* that wait, of all of them */
};

void stream_table_init(struct stream_table *table);
void stream_table_done(struct stream_table *table);

/* Notifications of the client. One about a stream that is not in the table (any more) is passed
 * over: it may have been on its way when the stream was cancelled. Errors of start: -EEXIST;
 * -EMFILE BG_GATEWAY_STREAMS_MAX; -ENOMEM. Of enqueue: -ENOMEM. chunk: taken. */
int stream_table_start(struct stream_table *table, int64_t id) BG_MUST_CHECK;
struct stream_chunk *stream_chunk_new(size_t size); /* NULL: out of memory */
void stream_table_enqueue(struct stream_table *table, int64_t id, struct stream_chunk *chunk);
void stream_table_end(struct stream_table *table, int64_t id, bool failed);

/* Begins to read a stream; on_change is first called for what comes after this. NULL: there is no
 * such stream, or it is read already. */
struct inbound *stream_table_claim(struct stream_table *table, int64_t id,
                                   void (*on_change)(void *owner), void *owner);

/* The bytes that come next, borrowed; 0: there are none now. */
size_t inbound_next(const struct inbound *in, const uint8_t **ret_bytes);
/* The first size bytes of those are done with. */
void inbound_take(struct inbound *in, size_t size);
/* All was taken, and no more comes. */
bool inbound_over(const struct inbound *in);
/* Forgets it, with what waits. NULL: no-op. */
void inbound_drop(struct inbound *in);
