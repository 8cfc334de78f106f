/* Tells the user on stderr which step runs and how long each took: one line that is finished in
 * place on a terminal, plain lines elsewhere. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/cleanup.h"

struct progress {
    bool terminal;
    uint64_t start_ms, step_ms;
    const char *step; /* borrowed until the next one */
};

void progress_init(struct progress *progress);

/* Begins a step; the text says what it does. */
void progress_begin(struct progress *progress, const char *step, const char *format, ...)
    BG_PRINTF(3, 4);
void progress_end(struct progress *progress, bool ok);

/* A line that belongs to no step. */
void progress_note(const char *format, ...) BG_PRINTF(1, 2);

/* Shows the last lines of a log, escaped. */
void progress_log_tail(const char *path);
