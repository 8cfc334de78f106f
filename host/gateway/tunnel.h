/* tunnel: a connection to a port of a guest's loopback, on the loop (docs/protocol.md, "Forward").
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "common/err.h"
#include "common/state/sandbox.h"

struct tunnel;

struct tunnel_opts {
    const struct bg_paths *paths; /* borrowed for the call, as the next one */
    const struct bg_sandbox *sandbox;
    uint16_t port;
    void (*on_data)(void *owner, const uint8_t *bytes, size_t size);
    /* Last. status: 0, or why the port could not be reached: a negative errno. */
    void (*on_end)(void *owner, int status);
    void (*on_drain)(void *owner); /* what was written has gone */
    void *owner;                   /* any of these may close us */
};

/* Errors: as guest_stream_open. */
int tunnel_open(uv_loop_t *loop, const struct tunnel_opts *opts, struct tunnel **ret,
                struct bg_err *err) BG_MUST_CHECK;
/* bytes: heap, taken. Errors: -ENOMEM. */
int tunnel_write(struct tunnel *tunnel, void *bytes, size_t size) BG_MUST_CHECK;
size_t tunnel_unsent(const struct tunnel *tunnel);
void tunnel_finish(struct tunnel *tunnel); /* nothing more is written */
void tunnel_pause(struct tunnel *tunnel, bool paused);
void tunnel_close(struct tunnel *tunnel); /* NULL: no-op */
