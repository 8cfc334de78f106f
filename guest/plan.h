/* What an exec request means on this system: user, environment, arguments, folder. */
#pragma once

#include <stdbool.h>

#include "common/wire.h"
#include "guest/accounts.h"
#include "guest/env.h"

struct plan {
    struct account account;
    struct env env;
    char **argv; /* as spawn_opts wants it; heap, with argc entries from argv[1] */
    uint32_t argc;
    char cwd[BG_PATH_MAX];
    bool cwd_optional; /* nobody asked for it */
};

/* agent_env: the identity's, borrowed for the call. Errors: -ESRCH no such user; -ENOMEM;
 * -ENAMETOOLONG; errno of reading /etc/passwd. On success end *ret with plan_done. */
int plan_make(const struct bg_exec_request *request, const struct env *agent_env, struct plan *ret,
              struct bg_err *err) BG_MUST_CHECK;
void plan_done(struct plan *plan);
