/* guest_command: runs one command in a running sandbox, tied to our stdin, stdout and stderr. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/state/sandbox.h"
#include "host/cli/app.h"
#include "host/cli/args.h"

struct guest_command {
    const char *user, *cwd; /* "": the guest's default */
    bool tty;
    char *const *argv;
    size_t argc;
    char *const *env; /* "K=V", beside the sandbox's own */
    size_t envc;
    int signal_fd; /* signals.h */
    bool leave;    /* it is begun, and goes on without us */
};

/* Runs it. If the sandbox is suspended meanwhile, it goes on when that is resumed. *ret_pid (may be
 * NULL): its process in the guest. *ret_status: what to exit with; err says more if it could not be
 * run (126, 127), and is empty otherwise. Errors: as exec_stream_run, naming the sandbox. */
int guest_command_run(struct app *app, const struct bg_sandbox *sandbox,
                      const struct guest_command *command, uint32_t *ret_pid, int *ret_status,
                      struct bg_err *err) BG_MUST_CHECK;

/* The same with a command that runs already, and that may go on without us. pid: 0: the only one
 * there is. steal: from who is attached to it. Errors: also -EBUSY somebody is. */
int guest_command_attach(struct app *app, const struct bg_sandbox *sandbox, uint32_t pid,
                         bool steal, int signal_fd, int *ret_status,
                         struct bg_err *err) BG_MUST_CHECK;

/* The command among operands from `at` on: a "--" in front of it is dropped. Errors: -EINVAL none,
 * or it begins with a dash: an option in the wrong place. */
int guest_command_operands(const struct args *args, size_t at, struct guest_command *ret,
                           struct bg_err *err) BG_MUST_CHECK;
