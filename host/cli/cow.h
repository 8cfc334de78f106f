/* cow: what a copy-on-write share is beside a share that can only be read (docs/protocol.md,
 * "Changes"). In the guest a layer over it; here SANDBOX/cow/ID, with the base: how the folder was.
 * bellglass-changes does the rest. */
#pragma once

#include "common/limits.h"
#include "common/state/sandbox.h"
#include "host/cli/app.h"

/* Where the guest has the share itself. */
void cow_lower(const struct bg_share *share, char out[BG_PATH_MAX]);

/* The share itself is served: lays the layer over it and shows both in its place. The first time
 * the layer is empty and the base is made. Errors: what the sandbox or bellglass-changes say. */
int cow_start(struct app *app, const struct bg_sandbox *sandbox, const struct bg_share *share,
              struct bg_err *err) BG_MUST_CHECK;

/* Takes that away, before the share itself ends. *ret_busy: it was in use. */
int cow_end(struct app *app, const struct bg_sandbox *sandbox, const struct bg_share *share,
            bool *ret_busy, struct bg_err *err) BG_MUST_CHECK;

/* The share is no more: one that gets its number begins with an empty layer. */
void cow_forget(const struct bg_sandbox *sandbox, const struct bg_share *share);
