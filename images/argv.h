/* A growing, NULL-terminated array of heap strings: argument lists. A failed allocation sticks, as
 * in bg_writer; look at argv_ok() once before use. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/cleanup.h"

struct argv {
    char **at;
    size_t count;
    bool failed;
};

void argv_add(struct argv *argv, const char *format, ...) BG_PRINTF(2, 3);

/* Adds text in single quotes as a shell reads it, behind the prefix. */
void argv_add_quoted(struct argv *argv, const char *prefix, const char *text, const char *suffix);
static inline bool argv_ok(const struct argv *argv)
{
    return !argv->failed && argv->at;
}
void argv_done(struct argv *argv);
