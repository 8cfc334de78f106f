/* policy_helper: asks bellglass-policy, which knows what policies and projects' files are. */
#pragma once

#include <stddef.h>

#include "common/err.h"

/* Runs its verb (names, project) on the file; what it prints is in out, cut at size - 1. option: of
 * the command line, named by errors. Errors: -EINVAL what is wrong with the file, with its line;
 * -ETIME; as process_output. */
int policy_helper_ask(const char *option, char *verb, const char *path, char *out, size_t size,
                      struct bg_err *err) BG_MUST_CHECK;
