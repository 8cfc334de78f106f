/* flattening: makes the disk of a sandbox short again, for the commands that need it so. */
#pragma once

#include "host/cli/app.h"
#include "host/cli/life.h"

struct flattened {
    unsigned layers_before, layers;
};

/* Asks the supervisor of a running sandbox and waits. quiet: no progress on stderr. Errors: as
 * client_request; what the supervisor says: its disk is as before. */
int flattening_run(struct app *app, const struct life *life, bool quiet, struct flattened *ret,
                   struct bg_err *err) BG_MUST_CHECK;
