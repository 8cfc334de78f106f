/* signals: the signals that a user or a terminal sends to a command that waits, as an fd. */
#pragma once

#include "common/err.h"

/* Blocks SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH and SIGCONT for the calling
 * thread and gives an fd (not blocking) that they are read from instead. A signal that was ignored
 * when we were started (nohup, a shell's background) stays ignored. Children are started with none
 * blocked (process.h). */
int signals_open(int *ret_fd, struct bg_err *err) BG_MUST_CHECK;

/* The next signal, or 0 if there is none. */
int signals_next(int fd);
