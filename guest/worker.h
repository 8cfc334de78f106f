/* A process of the agent's own code for what blocks or must not run as root: copies, the FUSE
 * server, a sync. It is a fork with its stream and nothing else of the agent's. */
#pragma once

#include "guest/agent.h"
#include "guest/link.h"

struct stream;

struct worker_opts {
    const char *name; /* for ps; at most 15 bytes count */
    /* The stream that it serves: its connection is taken, as by stream_detach(), also on failure;
     * NULL: none. */
    struct stream *stream;
    bool lasts; /* the stream may outlive its connection; else only link->fd is to be used */
    /* Runs in the worker; its result is the exit status. link: NULL without a stream. arg is as it
     * was at the fork. */
    int (*run)(struct link *link, void *arg);
    void *arg;
    /* In the agent, when it has ended; may be NULL. */
    void (*on_exit)(void *owner, int wait_status);
    void *owner; /* borrowed until on_exit */
};

/* Starts one. It is killed when the agent's streams are dropped. Errors: -ENOMEM, -EMFILE, errno of
 * fork; the stream is over then. */
int worker_start(struct agent *agent, const struct worker_opts *opts,
                 struct bg_err *err) BG_MUST_CHECK;

/* In any fork of the agent: gives up its fds but those to keep, which become WORKER_FD and on, its
 * signals and, if killable, its exemption from the OOM killer. */
#define WORKER_FD       3 /* 0, 1 and 2 stay as they are: the console */
#define WORKER_KEEP_MAX 3
int worker_shed(const char *name, const int *keep, int count, bool killable) BG_MUST_CHECK;
