#include "fs/table.h"

#include <assert.h>
#include <string.h>

#include "common/io.h"

#define BUCKETS_MIN 64u

int fs_table_init(struct fs_table *table)
{
    *table = (struct fs_table){.size = BUCKETS_MIN};
    table->buckets = calloc(table->size, sizeof *table->buckets);
    if (!table->buckets)
        return -ENOMEM;
    bg_random(&table->seed, sizeof table->seed);
    return 0;
}

void fs_table_done(struct fs_table *table)
{
    free(table->buckets);
    *table = (struct fs_table){0};
}

/* The finalizer of MurmurHash3: every input bit reaches every output bit. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
    return x ^ x >> 33;
}

uint64_t fs_table_hash(const struct fs_table *table, uint64_t key)
{
    return mix(mix(key ^ table->seed) + table->seed);
}

uint64_t fs_table_hash_bytes(const struct fs_table *table, uint64_t key, const void *bytes,
                             size_t size)
{
    uint64_t hash = fs_table_hash(table, key);
    const uint8_t *at = bytes;
    for (; size >= 8; at += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        hash = mix(hash ^ word) + table->seed;
    }
    uint64_t last = size; /* so that trailing zeros count */
    for (; size > 0; at++, size--)
        last = last << 8 | *at;
    return mix(hash ^ last);
}

static void grow(struct fs_table *table)
{
    size_t size = table->size * 2;
    struct fs_link **buckets = calloc(size, sizeof *buckets);
    if (!buckets)
        return;
    for (size_t i = 0; i < table->size; i++) {
        struct fs_link *link = table->buckets[i];
        while (link) {
            struct fs_link *next = link->next;
            struct fs_link **bucket = &buckets[link->hash & (size - 1)];
            link->next = *bucket;
            *bucket = link;
            link = next;
        }
    }
    free(table->buckets);
    table->buckets = buckets;
    table->size = size;
}

void fs_table_insert(struct fs_table *table, struct fs_link *link, uint64_t hash)
{
    if (table->count >= table->size)
        grow(table);
    struct fs_link **bucket = &table->buckets[hash & (table->size - 1)];
    link->hash = hash;
    link->next = *bucket;
    *bucket = link;
    table->count++;
}

void fs_table_remove(struct fs_table *table, struct fs_link *link)
{
    struct fs_link **at = &table->buckets[link->hash & (table->size - 1)];
    while (*at && *at != link)
        at = &(*at)->next;
    assert(*at);
    *at = link->next;
    link->next = NULL;
    table->count--;
}

static struct fs_link *same_hash(struct fs_link *link, uint64_t hash)
{
    while (link && link->hash != hash)
        link = link->next;
    return link;
}

struct fs_link *fs_table_first(const struct fs_table *table, uint64_t hash)
{
    return same_hash(table->buckets[hash & (table->size - 1)], hash);
}

struct fs_link *fs_table_next(const struct fs_link *link)
{
    return same_hash(link->next, link->hash);
}

struct fs_link *fs_table_pop(struct fs_table *table, size_t *cursor)
{
    for (; *cursor < table->size; (*cursor)++) {
        struct fs_link *link = table->buckets[*cursor];
        if (link) {
            table->buckets[*cursor] = link->next;
            table->count--;
            return link;
        }
    }
    return NULL;
}

struct fs_link *fs_table_walk(const struct fs_table *table, const struct fs_link *at)
{
    if (at && at->next)
        return at->next;
    for (size_t i = at ? (at->hash & (table->size - 1)) + 1 : 0; i < table->size; i++)
        if (table->buckets[i])
            return table->buckets[i];
    return NULL;
}
