/* Runs the builder's blocking work in child processes, so that a signal can end it at any moment:
 * programs (mmdebstrap, qemu-img, ...) and our own functions (all that calls libguestfs).
 *
 * Each job is a process group of its own, so Ctrl-C reaches only us; we end the group, wait for
 * it and report -ECANCELED, and the caller cleans up. A job also ends when we are killed. */
#pragma once

#include <stdint.h>

#include "common/err.h"

struct jobs {
    int signal_fd;
    int signal;  /* that interrupted us; 0: none */
    int lock_fd; /* borrowed; programs inherit it, so that what it locks stays locked while they
                    clean up after our death; negative: none */
};

struct job {
    const char *name;                           /* for errors */
    char *const *argv;                          /* a program, looked up in PATH; or NULL and ... */
    int (*call)(void *arg, struct bg_err *err); /* ... a function to call in the child */
    void *arg;
    char *const *env;    /* "K=V" to set in the child, NULL-terminated; may be NULL */
    const char *log;     /* file that output is appended to */
    int out_fd;          /* stdout goes here if > 0 */
    unsigned uid, gid;   /* drop to these if uid is not 0 */
    uint64_t memory_max; /* address space in bytes; 0: as it is */
    unsigned cpu_s_max;  /* processor time; 0: as it is */
};

/* From here on SIGINT, SIGTERM and SIGHUP only end jobs. Errors: errno of signalfd. */
int jobs_init(struct jobs *jobs, struct bg_err *err) BG_MUST_CHECK;
void jobs_done(struct jobs *jobs);

/* Runs a job to its end. Errors: -ECANCELED a signal came (jobs->signal; also one that came since
 * the last job); -ENOENT no such program; -EREMOTEIO the program failed; what call returned. */
int job_run(struct jobs *jobs, const struct job *job, struct bg_err *err) BG_MUST_CHECK;
