/* pool_keeper: the process that keeps sandboxes ready, `bellglass-pool`. It starts members one
 * after the other (`bellglass-supervisor member`) and holds a pipe to each: when that breaks the
 * member is somebody's, or has ended, and another one is started. When the keeper ends, however
 * that comes, so do its members; what was claimed has nothing to do with it any more. */
#pragma once

#include "host/cli/app.h"
#include "host/cli/pools.h"

struct pool_keeper_opts {
    struct pool_info info; /* image, cpus, memory_bytes, wanted, gateway; borrowed */
    int status_fd; /* for whoever waits, lines as of the supervisor's status; -1: nobody. Taken */
    int owner_fd;  /* a pipe at whose end it ends; -1: none */
};

/* Runs until SIGTERM, SIGINT or SIGHUP, or the owner's end. Errors: the pool has a keeper; the
 * first member cannot be started (which is told on the status fd as well); errno. */
int pool_keeper_run(struct app *app, const struct pool_keeper_opts *opts,
                    struct bg_err *err) BG_MUST_CHECK;
