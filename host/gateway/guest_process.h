/* guest_process: one command in a sandbox's guest, on the loop (docs/protocol.md, "Exec"). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "common/err.h"
#include "common/state/sandbox.h"
#include "host/cli/exec_request.h"
#include "host/gateway/stream_table.h"

struct guest_process;

/* How it ended. */
struct guest_exit {
    int status; /* as a shell gives it: 0..255, 128 + signal */
    int signal; /* 0: it exited */
};

struct guest_process_opts {
    const struct bg_paths *paths; /* borrowed for the call, as the next two */
    const struct bg_sandbox *sandbox;
    const struct exec_request *request;
    void (*on_started)(void *owner, uint32_t pid);
    /* It could not be started: status is a negative errno. Last. */
    void (*on_refused)(void *owner, int status, const char *text);
    void (*on_output)(void *owner, bool is_stderr, const uint8_t *bytes, size_t size);
    void (*on_room)(void *owner); /* it takes more input; may be NULL */
    /* Last. how NULL: the sandbox is gone, or its guest broke the protocol, as err says. */
    void (*on_ended)(void *owner, const struct guest_exit *how, const struct bg_err *err);
    void *owner; /* any of these may close us */
};

/* Errors: as guest_stream_open; -E2BIG the request. */
int guest_process_start(uv_loop_t *loop, const struct guest_process_opts *opts,
                        struct guest_process **ret, struct bg_err *err) BG_MUST_CHECK;

/* Gives it what has come of `in`, as far as there is room. Errors: -ENOMEM; it is to be closed
   then. */
int guest_process_feed(struct guest_process *process, struct inbound *in) BG_MUST_CHECK;
/* No more input. Once, at any time. Errors: -ENOMEM. */
int guest_process_end_input(struct guest_process *process) BG_MUST_CHECK;
/* number: 1 to 64. Errors: -ENOMEM. */
int guest_process_signal(struct guest_process *process, int number) BG_MUST_CHECK;
/* Of one with a terminal. Errors: -ENOMEM. */
int guest_process_resize(struct guest_process *process, uint16_t rows,
                         uint16_t columns) BG_MUST_CHECK;
void guest_process_pause(struct guest_process *process, bool paused);
/* Lets go of it at once: the guest does what the request's `detach` says. NULL: no-op. */
void guest_process_close(struct guest_process *process);
