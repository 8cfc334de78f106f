/* command: one run of the `bellglass` command, on the loop. What starts, ends or forks a sandbox is
 * its work: it cleans up after itself when it is told to end. */
#pragma once

#include <stddef.h>

#include <uv.h>

#include "common/err.h"

struct command;

struct command_opts {
    const char *program;     /* path of bellglass; borrowed for the call, as the next */
    const char *const *argv; /* what follows "bellglass"; NULL-terminated */
    int hold_fd; /* it has it until it ends, as nothing that it starts has; -1: none. Borrowed */
    /* A line of its stderr; borrowed. May be NULL. */
    void (*on_note)(void *owner, const char *text);
    /* Last. status: as of a shell. out: its stdout, cut at BG_MCP_TEXT_MAX; why: its last words on
     * stderr, one line. Both borrowed. */
    void (*on_done)(void *owner, int status, const char *out, const char *why);
    void *owner;
};

/* It goes on if we end. Errors: -ENOMEM; errno of starting it. */
int command_start(uv_loop_t *loop, const struct command_opts *opts, struct command **ret,
                  struct bg_err *err) BG_MUST_CHECK;

/* Asks it to end, as Ctrl-C would; on_done follows when it has cleaned up. */
void command_stop(struct command *command);
