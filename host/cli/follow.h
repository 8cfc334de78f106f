/* follow: reads files line by line, and goes on while they grow. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

#define FOLLOW_LINE_MAX  (128 * 1024) /* a longer line comes in pieces of this size */
#define FOLLOW_FILES_MAX 4

struct follow_opts {
    const char *dir;                     /* the folder of all of them */
    const char *names[FOLLOW_FILES_MAX]; /* read in this order; one that is missing is empty */
    size_t count;
    bool audit; /* instead of names: the audit log, through all its files as they are turned over */
    bool on;    /* at the end, wait for more until the folder is renamed or removed */
    /* One line of file `index` without its newline; the last may lack one. A negative errno ends
     * the reading. */
    int (*on_line)(void *owner, size_t index, const char *line, size_t size);
    void (*on_idle)(void *owner); /* before waiting: what was printed shall be seen */
    void *owner;
};

/* Errors: errno of reading; what on_line returned. */
int follow_files(const struct follow_opts *opts, struct bg_err *err) BG_MUST_CHECK;
