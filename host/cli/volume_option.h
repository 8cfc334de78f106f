/* volume_option: --volume NAME:PATH, the volumes that a new sandbox has. */
#pragma once

#include "common/state/sandbox.h"
#include "host/cli/app.h"
#include "host/cli/args.h"

/* Pure: NAME:PATH cut up, the path plain; both heap, the caller's. Errors: -EINVAL with the text
 * quoted and what is wrong; -ENOMEM. */
int volume_option_parse(const char *text, char **ret_name, char **ret_path,
                        struct bg_err *err) BG_MUST_CHECK;

/* Finds the volumes that OPTION_VOLUME names, of whomever, and puts them into sandbox, whose shares
 * are there already. Errors: -EINVAL a path is taken, or what it names is none for data;
 * -ENOMEDIUM there is none; -EBUSY another sandbox has it: its name is said; -EMFILE too many. */
int volume_option_read(struct app *app, const struct args *args, struct bg_sandbox *sandbox,
                       struct bg_err *err) BG_MUST_CHECK;
