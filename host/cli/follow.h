/* follow: reads a growing file line by line. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

#define FOLLOW_LINE_MAX (128 * 1024) /* a longer line comes in pieces of this size */

struct follow_opts {
    const char *path;
    bool on; /* at the end, wait for more until the file is removed */
    /* One line without its newline; the last may lack one. A negative errno ends the reading. */
    int (*on_line)(void *owner, const char *line, size_t size);
    /* Before waiting for more: what was printed shall be seen. May be NULL. */
    void (*on_idle)(void *owner);
    void *owner;
};

/* Errors: -ENOENT no such file; errno of reading; what on_line returned. */
int follow_file(const struct follow_opts *opts, struct bg_err *err) BG_MUST_CHECK;
