/* offline: the files of what does not run, through a helper's VM (docs/protocol.md, "Supervisor
 * start"): the disk of a stopped sandbox, of a snapshot or of an image. Blocking. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "common/state/sandbox.h"
#include "host/cli/app.h"

struct offline_opts {
    const struct bg_sandbox *sandbox; /* borrowed; or NULL */
    const char *image;                /* if that is NULL: an image, or a snapshot "NAME@TAG" */
    bool write;                       /* a sandbox's only */
    bool repair;                      /* with write */
};

struct offline {
    struct bg_sandbox helper; /* id and name, for client_open */
    int owner_fd;             /* the helper ends when the last copy of it is closed */
    int status_fd;
    pid_t pid;
};

/* Starts the helper and waits until the disk is mounted in it; before that, until those have ended
 * who have the disk, as offline_await. Its start is told on stderr if it takes long. Errors: as
 * offline_await; what the helper says; -EPROTO and -ECHILD as launch_start. */
int offline_start(struct app *app, const struct offline_opts *opts, struct offline *ret,
                  struct bg_err *err) BG_MUST_CHECK;

/* Gives up our hold on the helper and waits for its end. Errors: what was wrong with the disk when
 * it was written back and checked; -EIO the helper was killed. */
int offline_finish(struct offline *offline, struct bg_err *err) BG_MUST_CHECK;

/* Lets go without waiting: others may hold the helper. */
void offline_done(struct offline *offline);

/* Waits until the disk of a sandbox that does not run may be read, or written (which includes a
 * start). Errors: -EBUSY a mount has it (the text names its folder and the way out), or a command
 * that does not end; errno. */
int offline_await(const struct bg_sandbox *sandbox, bool write, struct bg_err *err) BG_MUST_CHECK;

/* Removes the sockets that killed helpers left: all that is left of one. id: the sandbox's, or
 * BG_HELPER_IMAGE_ID. */
void offline_sweep(struct app *app, const char *id);

/* The same, and ends all helpers of the sandbox without waiting for what they have not written. */
void offline_kill(struct app *app, const struct bg_sandbox *sandbox);

/* ---- pure ---- */

/* True if a file of that name among the control sockets is a helper's. */
bool offline_socket_id(const char *file, char ret_id[32]);

enum offline_line { OFFLINE_PROGRESS, OFFLINE_READY, OFFLINE_ENDED };

/* One line of the helper's status. text: progress, or the helper's id, escaped. Errors: -EPROTO;
 * the errno that the line carries. */
int offline_parse_line(const char *line, size_t size, enum offline_line *ret,
                       char text[BG_ERR_TEXT_SIZE], struct bg_err *err) BG_MUST_CHECK;
