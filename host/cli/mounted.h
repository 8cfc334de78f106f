/* mounted: `bellglass mount` without a folder: what is mounted where. */
#pragma once

#include <stdbool.h>

#include "host/cli/app.h"

/* Prints all mounts, of images too; returns the exit status. */
int mounted_print(bool as_json);
