/* leftovers: doctor's checks of what crashed or killed processes left, and the removal of it. Only
 * with fix is anything changed. */
#pragma once

#include "host/cli/checks.h"

/* Mounts that nothing answers. */
void leftovers_mounts(struct app *app, bool fix, struct check_result *ret);

/* Sandboxes whose processes were killed or whose files are damaged, and their sockets. */
void leftovers_files(struct app *app, bool fix, struct check_result *ret);

/* Snapshots that were not finished, those that are damaged, and sandboxes whose memory is. */
void leftovers_snapshots(struct app *app, bool fix, struct check_result *ret);
