/* The first steps of a process that goes on after the command that started it. */
#pragma once

#include "common/err.h"

/* Leaves the caller's session, terminal, pipes and folder. SIGCHLD, SIGTERM, SIGINT and SIGHUP are
 * from now on read from *ret_signal_fd, which the caller closes; SIGPIPE is ignored. Errors: errno
 * of the calls. */
int background_begin(int *ret_signal_fd, struct bg_err *err) BG_MUST_CHECK;
