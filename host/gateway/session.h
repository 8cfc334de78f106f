/* session: one client's connection to one sandbox: its calls, its streams, its processes
 * (docs/deno-protocol.md, "Messages"). Knows of no socket. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "common/err.h"
#include "common/log.h"
#include "host/gateway/metrics.h"
#include "host/gateway/sandboxes.h"
#include "host/gateway/tokens.h"

struct session;

/* What all sessions of a gateway have together. */
struct session_shared {
    uv_loop_t *loop;
    struct sandboxes *sandboxes;
    const struct bg_paths *paths;
    const struct bg_log *log;
    const struct token_file *tokens; /* of which none gets into a sandbox by mistake */
    struct metrics *metrics;
    /* The SDK keeps the streams of all its connections in one table, so their ids are of the whole
     * gateway; they begin anywhere, so that those of the next gateway are others, too. */
    uint64_t next_stream;
};

struct session_opts {
    struct session_shared *shared; /* borrowed until session_close */
    struct sandbox_entry *entry;
    bool looks_on; /* the sandbox does not end with it */
    bool far;      /* the client is on another machine */
    void (*send)(void *owner, const char *text, size_t size);
    /* Asks for a session_pong. */
    void (*ping)(void *owner, uint64_t number);
    /* The client is to be sent away; the owner calls session_close some time later. */
    void (*close)(void *owner, uint16_t code, const char *reason);
    /* session_wants_input has changed. */
    void (*on_input)(void *owner);
    void *owner;
};

int session_open(const struct session_opts *opts, struct session **ret,
                 struct bg_err *err) BG_MUST_CHECK;

/* One message of the client. */
void session_message(struct session *session, const char *text, size_t size);

/* The client has answered the ping of this number, and those before it. */
void session_pong(struct session *session, uint64_t number);

/* The client does not read what it was sent: nothing that can wait is made for it. */
void session_congested(struct session *session, bool congested);

/* False: the guest does not take what the client sends; nothing more is to be read from it. */
bool session_wants_input(const struct session *session);

/* The connection is gone: ends what is its own. NULL: no-op. */
void session_close(struct session *session);
