/* archiving: export and import, in bellglass-archive only. */
#pragma once

#include "host/cli/app.h"
#include "host/cli/args.h"

int archive_export(struct app *app, const struct args *args);
int archive_import(struct app *app, const struct args *args);
