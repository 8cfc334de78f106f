/* exec_stream: ties stdin, stdout, stderr and signals here to one command in a guest. Blocks until
 * the command has ended; one poll loop, bounded buffers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "host/cli/terminal.h"

/* Where a command stands for us. */
struct exec_position {
    uint32_t pid;
    uint64_t out, err; /* bytes of its outputs that we have */
};

struct exec_stream_opts {
    int stream_fd; /* the exec stream (a socket), its body sent and nothing of it read; borrowed */
    bool attach;   /* the body attaches it to a command that runs already */
    bool leave;    /* the request was for a command that goes on without us from the start */
    bool detach_keys;                   /* with a tty, Ctrl-P Ctrl-Q leaves it */
    int stdin_fd, stdout_fd, stderr_fd; /* borrowed */
    int signal_fd;                      /* signals.h; borrowed; -1: none are looked at */
    struct terminal *terminal;          /* for a command with a tty, else NULL */
    /* May be NULL. Sees what the command writes before it goes on, in pieces as they come. Returns
     * how many bytes it has taken off the front, which go nowhere, or a negative errno with err,
     * which ends the run. */
    ssize_t (*on_output)(void *owner, bool is_stderr, const uint8_t *bytes, size_t size,
                         struct bg_err *err);
    /* May be NULL. The connection has ended before the command did. Opens another stream that is
     * attached to it at this position, however long that may take, as *ret_fd (taken). Returns 0;
     * the number of a signal that ended the wait; or a negative errno with err: there is none. */
    int (*on_lost)(void *owner, const struct exec_position *at, int *ret_fd, struct bg_err *err);
    void *owner;
};

struct exec_stream_result {
    /* What to exit with: the command's status, 128+N, 126 or 127; 128+N too when signal N ended us
     * (SIGPIPE: whoever read our output is gone). */
    int exit_status;
    bool started;
    bool left;    /* it goes on without us */
    uint32_t pid; /* in the guest, once started */
};

/* Runs the stream to its end. The terminal is restored whatever happens. Signals: INT, TERM, HUP,
 * QUIT, USR1 and USR2 go to the command; a second INT, TERM or QUIT within 2 s, and 2 s after a
 * HUP, the stream is left, which ends the command. Errors: -EPROTO the guest broke the protocol;
 * -ECONNRESET the stream ended before the command; -ESRCH, ... the guest's reason not to start it
 * (but "not found" and "cannot be run" are exit status 127 and 126, with the text in err); errno
 * of reading stdin or writing the outputs. */
int exec_stream_run(const struct exec_stream_opts *opts, struct exec_stream_result *ret,
                    struct bg_err *err) BG_MUST_CHECK;
