/* A supervisor as the process sees it that has started it: a launcher or a helper. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "host/supervisor/supervisor.h"

struct supervisor_child {
    pid_t pid;   /* 0: it does not run */
    int link_fd; /* -1: none; enum link_message */
    bool ended;  /* it has said why */
    struct bg_err why;
};

#define SUPERVISOR_LINK_MAX (1 + LINK_WANT_MAX) /* bytes of one message */

/* Starts it. opts: all but link_fd. not_its: fds of ours that it must not have; those below 0 are
 * passed over. Errors: errno of socketpair(2), fork(2). */
int supervisor_child_start(struct supervisor_child *child, const struct supervisor_opts *opts,
                           const int *not_its, size_t not_its_count,
                           struct bg_err *err) BG_MUST_CHECK;

/* Asks it to end in grace_ms; kills it if it cannot be asked. */
void supervisor_child_stop(const struct supervisor_child *child, uint64_t grace_ms);

/* Takes one message of the link, into message; its end and its reason are seen to here. Returns the
 * size, or what recv(2) did. */
ssize_t supervisor_child_spoke(struct supervisor_child *child, char message[SUPERVISOR_LINK_MAX]);

/* It has been waited for. who: "the supervisor", for the reason if it gave none. */
void supervisor_child_died(struct supervisor_child *child, int status, const char *who);
