/* app: what main hands to each command. */
#pragma once

#include <stdbool.h>

#include "common/err.h"
#include "common/state/paths.h"

/* The exit status of bellglass's own errors, as docker and env use it. */
#define APP_FAILED 125

struct app {
    const char *version;
    struct bg_paths paths; /* after app_paths() */
    bool has_paths;
};

/* Finds and makes the folders, once. Errors: as bg_paths_init. */
int app_paths(struct app *app, struct bg_err *err) BG_MUST_CHECK;
void app_done(struct app *app);

/* Prints "bellglass: TEXT" on stderr and returns APP_FAILED. The text is one line, escaped already
 * where it repeats what others said. */
int app_fail(const struct bg_err *err);

/* Adds the way out to an error of a full disk here; leaves others as they are. */
void app_hint_space(struct bg_err *err);

/* Prints a warning or a note on stderr, one line. */
void app_note(const char *format, ...) BG_PRINTF(1, 2);

/* Flushes stdout and says if that failed (a full disk): the last step of commands that print.
 * Returns status, or APP_FAILED. */
int app_printed(int status);

/* The first thing in main: standard fds are open, nothing else is passed on, SIGPIPE is an error
 * like others. Returns false if even /dev/null cannot be opened. */
bool app_start(void);
