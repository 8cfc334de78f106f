/* fs/table: a chained hash table of links that live in the caller's structs. Hashes are keyed with
 * a random seed, since the other side chooses the keys. Not thread-safe. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/cleanup.h"

struct fs_link {
    struct fs_link *next;
    uint64_t hash;
};

struct fs_table {
    struct fs_link **buckets;
    size_t size; /* buckets; a power of two */
    size_t count;
    uint64_t seed;
};

/* Errors: -ENOMEM. */
int fs_table_init(struct fs_table *table) BG_MUST_CHECK;
void fs_table_done(struct fs_table *table); /* frees no link */

/* Hashes for use with this table. */
uint64_t fs_table_hash(const struct fs_table *table, uint64_t key);
uint64_t fs_table_hash_bytes(const struct fs_table *table, uint64_t key, const void *bytes,
                             size_t size);

/* Cannot fail: when there is no memory to grow, chains get longer. */
void fs_table_insert(struct fs_table *table, struct fs_link *link, uint64_t hash);
/* link is in the table. */
void fs_table_remove(struct fs_table *table, struct fs_link *link);

/* The links with exactly this hash, one after another; NULL at the end. The caller compares keys.
 */
struct fs_link *fs_table_first(const struct fs_table *table, uint64_t hash);
struct fs_link *fs_table_next(const struct fs_link *link);

/* Takes out any link; NULL when empty. For taking a table down: each call goes on from *cursor,
 * which starts at 0. */
struct fs_link *fs_table_pop(struct fs_table *table, size_t *cursor);

/* All links, in no order: NULL to begin with, the last one after that; NULL at the end. The table
 * must not change meanwhile. */
struct fs_link *fs_table_walk(const struct fs_table *table, const struct fs_link *at);

/* The struct that a link is in. */
#define FS_LINK_OWNER(link, type, member) ((type *)(void *)((char *)(link)-offsetof(type, member)))
