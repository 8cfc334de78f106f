/* session: the host's end of the session with the agent (docs/protocol.md, "Session"). Pure: bytes
 * in, decisions out, no clock of its own; the VM owns the connection. All bytes are the guest's. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/page_records.h"
#include "common/wire.h"

struct session_ops {
    /* Sends bytes to the agent; the session has at most SESSION_OUT_MAX outstanding. */
    void (*send)(void *owner, const uint8_t *bytes, size_t size);
    void (*on_hello)(void *owner,
                     const char *agent_version); /* identity may be sent, now or later */
    void (*on_warmed)(void *owner);              /* as asked by session_warm */
    void (*on_ready)(void *owner);               /* identity is in force */
    /* records: where the kernel's page records are, for this snapshot; NULL: not told. Borrowed. */
    void (*on_prepared)(void *owner, const struct bg_page_records *records);
    void (*on_log)(void *owner, const char *text, size_t size); /* the guest's text: escape it */
    void *owner;
};

struct session {
    struct session_ops ops;
    enum {
        SESSION_REPLY,    /* the stream's reply is awaited */
        SESSION_HELLO,    /* the agent's greeting */
        SESSION_GREETED,  /* identity is ours to send */
        SESSION_IDENTITY, /* sent, READY awaited */
        SESSION_READY
    } state;
    bool warming;          /* WARMED is awaited */
    bool preparing;        /* PREPARED is awaited */
    uint64_t pings, pongs; /* sent and answered */
    uint64_t heard_ms;     /* when the last frame came */
    uint8_t buffer[BG_FRAME_HEADER_SIZE + 4096];
    size_t used;
};

/* Begins: call when the connection is open, then send session_opening(). */
void session_init(struct session *session, const struct session_ops *ops, uint64_t now_ms);

/* Sends the stream header. */
void session_open(struct session *session, uint32_t stream_id);

/* Takes the guest's bytes. Errors: -EPROTO malformed or out of order; -EREMOTEIO the agent refused
 * the identity. The session is over then. */
int session_feed(struct session *session, const uint8_t *bytes, size_t size, uint64_t now_ms,
                 struct bg_err *err) BG_MUST_CHECK;

/* The agent runs a command or two, so that the first one after the identity is quick. Only between
 * on_hello and session_identify. */
void session_warm(struct session *session);
/* payload: an emitted struct bg_identity. Once, in on_hello or after it, and not while warming. */
void session_identify(struct session *session, const uint8_t *payload, size_t size);
void session_ping(struct session *session);
void session_shutdown(struct session *session);
/* of_disk: a snapshot of the disk alone follows, and the guest's file system stands still too. */
void session_prepare(struct session *session, bool of_disk);
/* After PREPARED, on this session or on the next. */
void session_go_on(struct session *session, enum bg_go_on how);
