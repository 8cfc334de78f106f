/* guest_stream: a stream to a sandbox's guest, by way of its supervisor's control socket
 * (docs/protocol.md, "Control socket"), on the loop. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "common/err.h"
#include "common/state/sandbox.h"

struct guest_stream;

struct guest_stream_opts {
    const struct bg_paths *paths;     /* borrowed for the call, as all that is a pointer */
    const struct bg_sandbox *sandbox; /* likewise */
    const char *kind;                 /* "exec", ... */
    const void *body;
    size_t size;
    /* Bytes of the guest, from the reply on; borrowed for the call. May close us. */
    void (*on_data)(void *owner, const uint8_t *bytes, size_t size);
    /* The other side has ended: orderly if err is NULL. Last; may close us. */
    void (*on_end)(void *owner, const struct bg_err *err);
    /* What was written has gone out; may be NULL. */
    void (*on_drain)(void *owner);
    void *owner;
};

/* Errors: -ENOTCONN the sandbox does not run; -ENOMEM; errno. What goes wrong later comes by
 * on_end. */
int guest_stream_open(uv_loop_t *loop, const struct guest_stream_opts *opts,
                      struct guest_stream **ret, struct bg_err *err) BG_MUST_CHECK;

/* Sends bytes: heap, taken in any case. Errors: -ENOMEM; the stream is of no use then. */
int guest_stream_write(struct guest_stream *stream, void *bytes, size_t size) BG_MUST_CHECK;
size_t guest_stream_unsent(const struct guest_stream *stream);
/* Ends our side, after what was written. */
void guest_stream_finish(struct guest_stream *stream);
/* Stops and resumes on_data. */
void guest_stream_pause(struct guest_stream *stream, bool paused);
/* Closes at once and frees it; nothing is called after that. NULL: no-op. */
void guest_stream_close(struct guest_stream *stream);
