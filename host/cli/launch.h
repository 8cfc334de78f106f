/* launch: starts a sandbox's supervisor and waits until the guest is ready (docs/protocol.md,
 * "Supervisor start"). */
#pragma once

#include <stdbool.h>

#include <jansson.h>

#include "common/err.h"
#include "common/state/sandbox.h"

struct launch_opts {
    int signal_fd; /* signals.h; INT, TERM, HUP and QUIT end the start */
    int owner_fd;  /* the read end of a pipe: at its end of file the supervisor removes the sandbox;
                      -1: the sandbox stays. Borrowed */
    int claim_fd;  /* of pool_claim(): the sandbox is a member that waits for its word; 0: it is
                      none. Borrowed */
    bool cold;     /* boot its disk, whatever memory it could go on from */
    bool quiet;    /* no progress on stderr */
};

/* Returns when the sandbox runs. *ret_signal: 0, or the signal that ended the start; the supervisor
 * was told to end then (-ECANCELED). *ret_timings (may be NULL): the caller's object, may be NULL
 * in it. Errors: -ECANCELED; -EPROTO and -ECHILD: the supervisor ended without a word; what it
 * said. */
int launch_start(const struct bg_sandbox *sandbox, const struct launch_opts *opts,
                 json_t **ret_timings, int *ret_signal, struct bg_err *err) BG_MUST_CHECK;

/* The same for another helper that says it on status_fd, such as the keeper of a pool, once all is
 * ready: `what` names it; a signal ends it. pid: our child, which is waited for unless it is ready
 * and runs on. */
int launch_follow(const char *what, pid_t pid, int status_fd, const struct launch_opts *opts,
                  int *ret_signal, struct bg_err *err) BG_MUST_CHECK;

enum launch_line_kind { LAUNCH_PROGRESS, LAUNCH_READY, LAUNCH_ERROR };

/* One line of the supervisor's status. *ret_text: progress, escaped; *ret_timings: of READY, the
 * caller's. Errors: -EPROTO; LAUNCH_ERROR returns the errno that the line carries. */
int launch_parse_line(const char *line, size_t size, enum launch_line_kind *ret,
                      char text[BG_ERR_TEXT_SIZE], json_t **ret_timings,
                      struct bg_err *err) BG_MUST_CHECK;
