/* lifetime: when a running sandbox has to end, and after how long without work it is suspended, as
 * its sandbox.json says: also when that is changed while it runs. For the launcher, which polls. */
#pragma once

#include <stdbool.h>

#include "common/err.h"
#include "common/state/sandbox.h"

struct lifetime {
    const struct bg_paths *paths;
    const struct bg_sandbox *sandbox;
    int timer_fd; /* readable when it is over, or the clock was set */
    int watch_fd; /* readable when something happened to the sandbox's folder */
    uint64_t ttl_s, expires_ms, idle_suspend_s;
};

/* paths, sandbox: borrowed until lifetime_close. Errors: errno; lifetime_close is fine then too. */
int lifetime_open(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                  struct lifetime *ret, struct bg_err *err) BG_MUST_CHECK;
void lifetime_close(struct lifetime *lifetime);

/* Takes what watch_fd has. True if sandbox.json says something else now. */
bool lifetime_changed(struct lifetime *lifetime);

/* Takes what timer_fd has. True if it is over. */
bool lifetime_is_over(struct lifetime *lifetime);
