#include "host/gateway/stream_table.h"

#include <assert.h>
#include <stdlib.h>

#include "common/limits.h"

void stream_table_init(struct stream_table *table)
{
    *table = (struct stream_table){0};
    LIST_INIT(&table->list);
}

void stream_table_done(struct stream_table *table)
{
    while (!LIST_EMPTY(&table->list))
        inbound_drop(LIST_FIRST(&table->list));
}

static struct inbound *find(struct stream_table *table, int64_t id)
{
    struct inbound *in;
    LIST_FOREACH(in, &table->list, link)
    {
        if (in->id == id)
            return in;
    }
    return NULL;
}

int stream_table_start(struct stream_table *table, int64_t id)
{
    if (find(table, id))
        return -EEXIST;
    if (table->count >= BG_GATEWAY_STREAMS_MAX)
        return -EMFILE;
    struct inbound *in = calloc(1, sizeof *in);
    if (!in)
        return -ENOMEM;
    in->table = table;
    in->id = id;
    SIMPLEQ_INIT(&in->chunks);
    LIST_INSERT_HEAD(&table->list, in, link);
    table->count++;
    return 0;
}

struct stream_chunk *stream_chunk_new(size_t size)
{
    struct stream_chunk *chunk = malloc(sizeof *chunk + size);
    if (chunk) {
        chunk->size = size;
        chunk->taken = 0;
    }
    return chunk;
}

static void tell(const struct inbound *in)
{
    if (in->on_change)
        in->on_change(in->owner);
}

void stream_table_enqueue(struct stream_table *table, int64_t id, struct stream_chunk *chunk)
{
    struct inbound *in = find(table, id);
    if (!in || in->ended || chunk->size == 0) {
        free(chunk);
        return;
    }
    SIMPLEQ_INSERT_TAIL(&in->chunks, chunk, link);
    table->bytes += chunk->size;
    tell(in);
}

void stream_table_end(struct stream_table *table, int64_t id, bool failed)
{
    struct inbound *in = find(table, id);
    if (!in || in->ended)
        return;
    in->ended = true;
    in->failed = failed;
    tell(in);
}

struct inbound *stream_table_claim(struct stream_table *table, int64_t id,
                                   void (*on_change)(void *owner), void *owner)
{
    struct inbound *in = find(table, id);
    if (!in || in->on_change)
        return NULL;
    in->on_change = on_change;
    in->owner = owner;
    return in;
}

size_t inbound_next(const struct inbound *in, const uint8_t **ret_bytes)
{
    const struct stream_chunk *chunk = SIMPLEQ_FIRST(&in->chunks);
    if (!chunk)
        return 0;
    *ret_bytes = chunk->bytes + chunk->taken;
    return chunk->size - chunk->taken;
}

void inbound_take(struct inbound *in, size_t size)
{
    while (size > 0) {
        struct stream_chunk *chunk = SIMPLEQ_FIRST(&in->chunks);
        assert(chunk);
        size_t take = chunk->size - chunk->taken;
        if (take > size)
            take = size;
        chunk->taken += take;
        in->table->bytes -= take;
        size -= take;
        if (chunk->taken < chunk->size)
            continue;
        SIMPLEQ_REMOVE_HEAD(&in->chunks, link);
        free(chunk);
    }
}

bool inbound_over(const struct inbound *in)
{
    return in->ended && SIMPLEQ_EMPTY(&in->chunks);
}

void inbound_drop(struct inbound *in)
{
    const uint8_t *bytes;
    if (!in)
        return;
    for (size_t size; (size = inbound_next(in, &bytes)) > 0;)
        inbound_take(in, size);
    LIST_REMOVE(in, link);
    in->table->count--;
    free(in);
}
