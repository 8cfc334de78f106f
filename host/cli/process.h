/* process: starts the helper programs, with nothing but what they are given. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

#define PROCESS_FDS_MAX 6

struct process_fd {
    int from; /* ours; borrowed */
    int to;   /* the number it has in the child */
};

struct process_opts {
    const char *path;  /* or a name to be looked for on the PATH */
    char *const *argv; /* NULL-terminated */
    struct process_fd fds[PROCESS_FDS_MAX];
    size_t fd_count;
    bool new_session; /* away from our terminal */
};

/* Forks and executes; all signals are at their defaults and unblocked in the child. fds that are
 * not named are closed there, but for 0, 1 and 2. Errors: errno of fork; of exec, naming the
 * program. */
int process_start(const struct process_opts *opts, pid_t *ret_pid,
                  struct bg_err *err) BG_MUST_CHECK;

/* Waits for the child. Returns its exit status, or 128+N. */
int process_wait(pid_t pid);

/* Waits at most timeout_ms for the child. True if it has ended; it is no child any more then. */
bool process_wait_for(pid_t pid, int timeout_ms);

/* Runs a program to its end, its output (stdout and stderr, cut at size - 1) in out, within
 * timeout_ms. *ret_status as of process_wait. Errors: as process_start; -ETIME. */
int process_output(char *const *argv, char *out, size_t size, int timeout_ms, int *ret_status,
                   struct bg_err *err) BG_MUST_CHECK;

/* Where a program is on the PATH: heap, the caller's; NULL: nowhere. */
char *process_find(const char *program);

/* The path of this program itself: heap, the caller's; NULL with errno. */
char *process_self(void);

/* Becomes the program; returns only when that fails. */
int process_become(const char *path, char *const *argv, struct bg_err *err);
