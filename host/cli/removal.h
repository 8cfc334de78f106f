/* removal: `rm` of a command that is a verb (snapshot rm, volume rm): one or more are removed. */
#pragma once

#include <jansson.h>

#include "host/cli/app.h"
#include "host/cli/args.h"

/* Removes one and tells of it: by a line, or with OPTION_JSON by an object appended to array. */
typedef int removal_one(struct app *app, const char *name, const struct args *args, json_t *array,
                        struct bg_err *err);

/* For each operand behind the verb; one that fails is told of and keeps no other. kind: the
 * command's name, and what one is called. Returns main's status. */
int removal_run(struct app *app, const struct args *args, const char *kind, removal_one *remove);
