/* start: starting a sandbox with what belongs to it, and undoing that. */
#pragma once

#include "host/cli/launch.h"
#include "host/cli/life.h"

/* Starts it, then the folders that are shared with it: without them it would work on empty ones, so
 * if one fails it is ended again, or suspended again if it was. Errors: as shares_check,
 * launch_start, shares_start_all. */
int start_with_shares(struct app *app, struct life *life, const struct launch_opts *opts,
                      int *ret_signal, struct bg_err *err) BG_MUST_CHECK;

/* Removes a sandbox that was just made, whatever state it has come to: one that never ran is of no
 * use, and its name is wanted for the next attempt. What fails is told. */
void start_undo(struct app *app, const struct bg_sandbox *sandbox);
