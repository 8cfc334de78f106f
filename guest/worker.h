/* A process of the agent's own code for what blocks or must not run as root: copies, the FUSE
 * server, a sync. It is a fork with one fd and nothing else of the agent's. */
#pragma once

#include "guest/agent.h"

struct worker_opts {
    const char *name; /* for ps; at most 15 bytes count */
    int fd;           /* handed to it, made blocking; taken; -1: none */
    /* Runs in the worker; its result is the exit status. arg is as it was at the fork. */
    int (*run)(int fd, void *arg);
    void *arg;
    /* In the agent, when it has ended; may be NULL. */
    void (*on_exit)(void *owner, int wait_status);
    void *owner; /* borrowed until on_exit */
};

/* Starts one. It is killed when the agent's streams are dropped. Errors: -ENOMEM, -EMFILE, errno of
 * fork; opts->fd is closed then too. */
int worker_start(struct agent *agent, const struct worker_opts *opts,
                 struct bg_err *err) BG_MUST_CHECK;

/* In any fork of the agent: gives up its fds but keep (-1: none; it becomes the result, which is
 * blocking), its signals and, if killable, its exemption from the OOM killer. */
int worker_shed(const char *name, int keep, bool killable) BG_MUST_CHECK;
