/* copy: what `bellglass cp` does; linked into bellglass-copy only. */
#pragma once

#include "host/cli/app.h"
#include "host/cli/args.h"

/* args: as cmd_cp's table reads them. Returns the exit status. */
int copy_run(struct app *app, const struct args *args);
