/* Starts one process of the guest: in its own session, cgroup and user, with three fds and nothing
 * else of the agent's. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest/accounts.h"
#include "guest/env.h"

/* Where a start failed. */
enum spawn_stage { SPAWN_SETUP = 1, SPAWN_CWD = 2, SPAWN_EXEC = 3 };

struct spawn_opts {
    /* argv[0] is room for us (a script without #! is given to /bin/sh); the command is argv[1],
     * then its arguments, then NULL. */
    char **argv;
    const struct env *env; /* PATH in it finds a command without '/' */
    const struct account *account;
    const char *cwd;   /* entered as the user */
    bool cwd_optional; /* "/" if cwd cannot be entered */
    int stdio[3];      /* each > 2; with tty all the same */
    bool tty;          /* stdio is a pty's side: make it the controlling terminal */
    int cgroup_fd;     /* -1: stay in the agent's */
    bool drop_rights;  /* become account; false only where the agent itself is not root */
};

/* Starts the process. *ret_status_fd (nonblocking, owned by the caller) tells how it went: end of
 * file when the command runs, else SPAWN_STATUS_SIZE bytes for spawn_status_parse.
 * Errors: errno of pipe2, clone3. */
int spawn(const struct spawn_opts *opts, pid_t *ret_pid, int *ret_status_fd,
          struct bg_err *err) BG_MUST_CHECK;

#define SPAWN_STATUS_SIZE (2 * sizeof(int))

/* Sets *err to what the bytes from the status fd say, with a text for the user. */
void spawn_status_explain(const uint8_t bytes[SPAWN_STATUS_SIZE], const char *command,
                          const char *cwd, struct bg_err *err);
