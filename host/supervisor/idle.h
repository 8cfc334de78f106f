/* idle: tells when a sandbox has done nothing for so long that it may be suspended. Nothing is: no
 * byte on a stream (commands, mounts, forwards, connections to the world), and less than one
 * fiftieth of one CPU used by its QEMU, over the whole time. A guest's timers need some even when
 * all of its processes sleep. Pure: the owner looks, and says what it saw. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct idle {
    uint64_t limit_ms; /* 0: never */
    uint64_t since_ms; /* nothing has been seen since */
    uint64_t look_ms;  /* of the last look */
    uint64_t bytes;    /* as last seen */
    uint64_t cpu_ms;   /* at since_ms */
};

/* From here on. bytes, cpu_ms: what there is by now; they only grow. */
void idle_start(struct idle *idle, uint64_t limit_ms, uint64_t now_ms, uint64_t bytes,
                uint64_t cpu_ms);

/* Takes what is seen now. True if it has been idle for limit_ms. Time in which nobody looked, since
 * the owner or the whole machine stood still, does not count: what came meanwhile is still to be
 * read. */
bool idle_look(struct idle *idle, uint64_t now_ms, uint64_t bytes, uint64_t cpu_ms);

/* In how many ms to look again; UINT64_MAX: never. More often than the limit, so that what is seen
 * late is late by a tenth of it. */
uint64_t idle_interval_ms(const struct idle *idle);
