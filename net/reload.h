/* Has a running sandbox's proxy replaced by one that reads the files anew: what `policy apply` and
 * `secret set` do. Requests under way end with the old one. */
#pragma once

#include "common/err.h"
#include "common/state/sandbox.h"

/* Returns when the new one has taken over. Errors: -ENOTCONN the sandbox does not run; -ETIMEDOUT
 * no new one within some seconds: then nothing goes out, and the sandbox's proxy.log says why. */
int reload_sandbox(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                   struct bg_err *err) BG_MUST_CHECK;
