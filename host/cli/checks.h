/* checks: what doctor looks at, one function a subject. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "host/cli/app.h"

enum check_level { CHECK_OK, CHECK_WARN, CHECK_FAIL };

struct check_result {
    enum check_level level;
    char text[BG_ERR_TEXT_SIZE]; /* what was found; escaped where it repeats others */
    char hint[BG_ERR_TEXT_SIZE]; /* what to do about it; "" if nothing */
};

/* Fill *ret; cut is fine. */
void check_found(struct check_result *ret, enum check_level level, const char *format, ...)
    BG_PRINTF(3, 4);
void check_hint(struct check_result *ret, const char *format, ...) BG_PRINTF(2, 3);

struct check {
    const char *name;
    /* fix: also remove what is stale. Fills *ret. */
    void (*run)(struct app *app, bool fix, struct check_result *ret);
};

/* Ended by one without a name. */
extern const struct check checks[];
