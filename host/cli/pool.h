/* pool: new sandboxes that are made from the members of pools, when one fits. */
#pragma once

#include "common/state/sandbox.h"
#include "host/cli/app.h"

/* bg_sandbox_create, or, if there is a member of a pool that fits, that one. sandbox: as for
 * bg_sandbox_create. *ret_fd: 0, or for launch_start (launch_opts.claim_fd) and then to be closed;
 * closed before that, the sandbox is removed. Errors: as bg_sandbox_create. */
int pool_create(struct app *app, struct bg_sandbox *sandbox, int *ret_fd,
                struct bg_err *err) BG_MUST_CHECK;
