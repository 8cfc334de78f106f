/* What makes a fork itself: entropy, clock, names, ssh host keys, trust store, environment. */
#pragma once

#include <stdbool.h>

#include "common/wire.h"
#include "guest/env.h"

/* Puts the identity in force. whole_machine: change this machine too, not only *env (false where
 * the agent runs as an ordinary process); of it only entropy and clock with BG_IDENTITY_CONTINUE.
 * *env is replaced on success by the environment of every later exec. Errors: those of the first
 * step that failed; the steps after it are still made. */
int identity_apply(const struct bg_identity *identity, bool whole_machine, struct env *env,
                   struct bg_err *err) BG_MUST_CHECK;
