#include "net/bucket.h"

#include <assert.h>

#define ONE 1000 /* a second has as many milliseconds */

void bucket_init(struct bucket *bucket, uint64_t size, uint64_t per_s, uint64_t now_ms)
{
    assert(size <= UINT32_MAX && per_s <= UINT32_MAX);
    *bucket =
        (struct bucket){.size = size, .per_s = per_s, .level = size * ONE, .filled_ms = now_ms};
}

static void fill(struct bucket *bucket, uint64_t now_ms)
{
    if (now_ms <= bucket->filled_ms)
        return;
    uint64_t gone_ms = now_ms - bucket->filled_ms, room = bucket->size * ONE - bucket->level;
    bucket->filled_ms = now_ms;
    if (bucket->per_s > 0 && gone_ms >= room / bucket->per_s + 1)
        bucket->level = bucket->size * ONE;
    else
        bucket->level += gone_ms * bucket->per_s; /* no more than room, so it cannot wrap */
}

bool bucket_take(struct bucket *bucket, uint64_t leave, uint64_t now_ms)
{
    fill(bucket, now_ms);
    if (bucket->level < ONE || bucket->level - ONE < leave * ONE)
        return false;
    bucket->level -= ONE;
    return true;
}
