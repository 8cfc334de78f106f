#include "host/supervisor/flatten_plan.h"

#include <assert.h>

#include "common/limits.h"

size_t flatten_plan_from(const uint64_t *bytes, size_t count)
{
    assert(count > 0);
    size_t from = count - 1;
    uint64_t sum = bytes[from];
    while (from > 0 && (from > BG_FLATTEN_LEFT || bytes[from - 1] / 2 <= sum)) {
        uint64_t more = bytes[--from];
        sum = more > UINT64_MAX - sum ? UINT64_MAX : sum + more;
    }
    return from;
}

bool flatten_plan_due(size_t layers)
{
    return layers > BG_FLATTEN_LAYERS;
}

uint64_t flatten_plan_speed(size_t layers, bool waited)
{
    return waited || layers > BG_FLATTEN_HURRY ? 0 : BG_FLATTEN_SPEED;
}
