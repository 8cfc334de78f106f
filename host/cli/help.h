/* help: what the commands' tables say, as --help, as man pages and as shell completion. */
#pragma once

#include <stdio.h>

#include "host/cli/args.h"

/* All commands, in the order of the overview; NULL-terminated. */
extern const struct command *const commands[];

/* NULL if there is none of that name. */
const struct command *command_find(const char *name);

/* What `bellglass --help` and `bellglass NAME --help` print. */
void help_overview(FILE *out);
void help_command(FILE *out, const struct command *command);

/* bellglass.1 (command NULL) or bellglass-NAME.1, as roff for man(7). */
void help_man(FILE *out, const struct command *command, const char *version);

/* A completion script for bash. */
void help_completion(FILE *out);
