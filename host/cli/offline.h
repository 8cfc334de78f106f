/* offline: the files of what does not run, through a helper's VM (docs/protocol.md, "Supervisor
 * start"): a stopped sandbox's disk or an image's. Blocking. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "common/state/sandbox.h"
#include "host/cli/app.h"

struct offline_opts {
    const char *sandbox; /* its name, or NULL */
    const char *image;   /* if that is NULL */
    bool write;          /* a sandbox's only */
    bool repair;         /* with write */
};

struct offline {
    struct bg_sandbox helper; /* id and name, for client_open */
    int owner_fd;             /* the helper ends when the last copy of it is closed */
    int status_fd;
    pid_t pid;
};

/* Starts the helper and waits until the disk is mounted in it. Its start is told on stderr if it
 * takes long. Errors: what the helper says; -EPROTO and -ECHILD as launch_start. */
int offline_start(struct app *app, const struct offline_opts *opts, struct offline *ret,
                  struct bg_err *err) BG_MUST_CHECK;

/* Gives up our hold on the helper and waits for its end. Errors: what was wrong with the disk when
 * it was written back and checked; -EIO the helper was killed. */
int offline_finish(struct offline *offline, struct bg_err *err) BG_MUST_CHECK;

/* Lets go without waiting: others may hold the helper. */
void offline_done(struct offline *offline);

/* Waits until nobody has to do with the disk of a sandbox that does not run. Errors: -EBUSY a mount
 * has (the text names its folder and the way out), or a copy that does not end; errno. */
int offline_wait_unused(const struct bg_sandbox *sandbox, struct bg_err *err) BG_MUST_CHECK;

/* Removes the sockets that killed helpers of the sandbox left: all that is left of one. */
void offline_sweep(struct app *app, const struct bg_sandbox *sandbox);

/* The same, and ends all its helpers without waiting for what they have not written. */
void offline_kill(struct app *app, const struct bg_sandbox *sandbox);
