/* bucket: a number of things at once, and so many more a second. Pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct bucket {
    uint64_t size;      /* how many at once; below 2^32 */
    uint64_t per_s;     /* likewise; 0: never any more */
    uint64_t level;     /* thousandths that are left; at most size * 1000 */
    uint64_t filled_ms; /* when that was */
};

/* A full one. */
void bucket_init(struct bucket *bucket, uint64_t size, uint64_t per_s, uint64_t now_ms);

/* Takes one, unless fewer than leave would stay for others. now_ms: of a clock that only goes
 * forward; a step back gives nothing. */
bool bucket_take(struct bucket *bucket, uint64_t leave, uint64_t now_ms);
