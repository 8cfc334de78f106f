/* forking: starts several sandboxes at once, a process each, as many at a time as there are CPUs.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/state/sandbox.h"
#include "host/cli/app.h"

struct forking_child {
    struct bg_sandbox sandbox; /* made, not started; borrowed by forking_start */
    bool made;                 /* its folder is there */
    bool started;
    struct bg_err why; /* if not; code 0: it was not tried */
};

/* Starts all that are made. signal_fd: as launch_opts. Returns 0, or the signal that ended it: what
 * was starting then has been told to end, and the rest was not tried. What did not start is still
 * there. */
int forking_start(struct app *app, struct forking_child *children, size_t count, int signal_fd,
                  bool quiet);
