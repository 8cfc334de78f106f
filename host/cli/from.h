/* from: `run` and `create` with --from: a sandbox that goes on from a snapshot, or from another one
 * as it is now. */
#pragma once

#include "common/state/sandbox.h"
#include "host/cli/app.h"
#include "host/cli/args.h"

/* Makes the sandbox that OPTION_FROM asks for, not started. All is the source's, but for the
 * variables and hosts that args add. *ret: the caller's. Errors: -EINVAL an option that does not go
 * with --from; as snapshots_open, bg_sandbox_create. */
int from_create(struct app *app, const struct args *args, const char *name, bool ephemeral,
                struct bg_sandbox *ret, struct bg_err *err) BG_MUST_CHECK;
