#include "host/supervisor/idle.h"

#define CPU_SHARE       50u /* of one CPU, over the time */
#define LOOKS           10u
#define INTERVAL_MIN_MS 200u
#define INTERVAL_MAX_MS 10000u

void idle_start(struct idle *idle, uint64_t limit_ms, uint64_t now_ms, uint64_t bytes,
                uint64_t cpu_ms)
{
    *idle = (struct idle){.limit_ms = limit_ms,
                          .since_ms = now_ms,
                          .look_ms = now_ms,
                          .bytes = bytes,
                          .cpu_ms = cpu_ms};
}

bool idle_look(struct idle *idle, uint64_t now_ms, uint64_t bytes, uint64_t cpu_ms)
{
    if (idle->limit_ms == 0)
        return false;
    uint64_t interval_ms = idle_interval_ms(idle), passed_ms = now_ms - idle->look_ms;
    if (passed_ms > 2 * interval_ms)
        idle->since_ms += passed_ms - interval_ms;
    idle->look_ms = now_ms;
    /* All that the whole time may cost, spent at once, is work as well. */
    bool busy = bytes != idle->bytes || cpu_ms - idle->cpu_ms > idle->limit_ms / CPU_SHARE;
    if (busy)
        idle_start(idle, idle->limit_ms, now_ms, bytes, cpu_ms);
    return now_ms - idle->since_ms >= idle->limit_ms;
}

uint64_t idle_interval_ms(const struct idle *idle)
{
    uint64_t interval = idle->limit_ms / LOOKS;
    if (idle->limit_ms == 0)
        return UINT64_MAX;
    return interval < INTERVAL_MIN_MS   ? INTERVAL_MIN_MS
           : interval > INTERVAL_MAX_MS ? INTERVAL_MAX_MS
                                        : interval;
}
