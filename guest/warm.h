/* Before the golden snapshot is taken: runs a few everyday commands once, so that their files, and
 * the agent's own way of starting them, are in memory in every fork. A fork that is to wait for its
 * identity runs the shortest of them, since an emulated CPU has to translate their way first. */
#pragma once

#include "guest/agent.h"

/* Starts them (all, or the shortest) one after the other; on_done comes when the last has ended, or
 * after a deadline. owner: borrowed until then. Errors: -ENOMEM. */
int warm_start(struct agent *agent, bool all, void (*on_done)(void *owner),
               void *owner) BG_MUST_CHECK;
