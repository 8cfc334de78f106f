/* meter: how far a long copy has come, for the person who waits. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct meter {
    const char *what; /* "exporting web@1"; borrowed */
    uint64_t total;   /* 0: not known */
    uint64_t begin_ms, shown_ms;
    bool quiet, terminal, shown;
};

void meter_begin(struct meter *meter, const char *what, uint64_t total, bool quiet);
/* done: so far. Shows nothing in the first second; then a line that changes on a terminal, else one
 * line and no more. */
void meter_update(struct meter *meter, uint64_t done);
/* Takes the line away. */
void meter_end(struct meter *meter);
