/* attach: the volumes and the root that a new sandbox's client asks for. Blocks: for a thread. */
#pragma once

#include <stdbool.h>

#include "common/err.h"
#include "common/state/sandbox.h"
#include "common/state/volume.h"
#include "host/gateway/create_config.h"

/* Fills in what the sandbox is to have, its image too if it boots a volume or a snapshot. token:
 * whose they are. waits: a sandbox is just ending, and may be the one that still has them.
 * ret_root: a snapshot that its disk goes on from, for bg_volume_fork_into; id "": none. Errors:
 * -ENOMEDIUM no such; -EBUSY another sandbox has one; -EINVAL one that cannot be used so; errno. */
int attach_volumes(const struct bg_paths *paths, const char *token,
                   const struct create_config *config, bool waits, struct bg_sandbox *sandbox,
                   struct bg_volume *ret_root, struct bg_err *err) BG_MUST_CHECK;
