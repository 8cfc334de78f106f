/* One connection of the guest: finds out what it speaks, and passes it on as far as the policy
 * goes.
 *
 *   CONN_PEEK       the first bytes, unread so far by anyone, say: TLS, HTTP or something else
 *   CONN_HANDSHAKE  TLS with the guest, we being the host that it asked for
 *                   (if it has agreed on HTTP/2, the connection is h2.c's from then on, and each
 *                   of its streams a conn of its own, which begins at CONN_HTTP)
 *   CONN_HTTP       requests, one at a time (exchange.c)
 *   CONN_DIAL       something else or nothing yet, and a rule with a port: connecting
 *   CONN_LISTEN     connected, nobody has spoken: if the upstream does first, it is a protocol of
 * its own; if the guest does, its first bytes decide as in CONN_PEEK CONN_RELAY      bytes both
 * ways as they come; also after a WebSocket's handshake CONN_LINGER     the last answer is sent;
 * the guest may read it before the socket goes CONN_CLOSED     handles are closing; nothing else
 * happens any more Back to CONN_PEEK goes CONN_LISTEN for a slow client, and CONN_HTTP after a
 * forward proxy's CONNECT.
 *
 * Every state has a deadline. Each side is read only while less than BG_EGRESS_QUEUE_PAUSE waits to
 * be sent to the other, so that a connection's memory is bounded whatever either does. */
#pragma once

#include <uv.h>

#include "common/err.h"
#include "common/limits.h"
#include "net/channel.h"
#include "net/dial.h"
#include "net/engine.h"
#include "net/exchange.h"

enum conn_state {
    CONN_PEEK,
    CONN_HANDSHAKE,
    CONN_HTTP,
    CONN_DIAL,
    CONN_LISTEN,
    CONN_RELAY,
    CONN_LINGER,
    CONN_CLOSED,
};

enum conn_step {
    CONN_WAIT,  /* for a socket or the deadline */
    CONN_AGAIN, /* something has changed: look once more */
};

struct conn {
    struct engine *engine;
    struct conn *prev, *next, *again_next;
    bool on_again;
    enum conn_state state;
    uint32_t stream;                  /* the guest's id for it */
    struct channel *guest, *upstream; /* upstream may be NULL */
    struct dial *dial;
    uv_timer_t timer;
    uint64_t deadline_ms, timer_due_ms; /* loop time; the timer fires no later than the deadline */
    unsigned open_handles;              /* timer and channels; freed when they are closed */
    struct buffer guest_in;             /* read from the guest, not used yet */
    bool guest_eof, upstream_eof;
    bool to_known; /* false: a forward proxy's connection, each request names its own */
    struct destination to;
    const struct policy_rule *rule;   /* for to; NULL: it is refused */
    const struct policy_rule *denial; /* then, the rule that says so; NULL: none is for it */
    bool tls;                         /* the guest speaks through TLS with us as *to */
    bool is_stream;                   /* of HTTP/2: for one request, which is on its way */
    bool websocket;                   /* the relay belongs to the exchange */
    bool held;                        /* a side was not read since the other had no room */
    bool over;                        /* its rule's bytes are used up */
    size_t budget;                    /* bytes that may still be read in this turn */
    uint64_t started_ms;
    uint64_t bytes_up, bytes_down;            /* relay */
    char upstream_address[ADDRESS_TEXT_SIZE]; /* "": none */
    struct exchange exchange;
};

/* Starts a connection; takes fd in any case. to: of a transparent connection (checked against the
 * policy here), or NULL for a forward proxy's. reply: the stream's reply is sent first (the fd is a
 * sandbox's stream). */
void conn_open(struct engine *engine, int fd, uint32_t stream, const struct destination *to,
               bool reply);

/* Starts a connection that is one stream of HTTP/2, already within TLS for *to: on the channel that
 * it gives back, with opts as its owner, HTTP/1.1 is spoken for one request. Nothing happens on it
 * before the loop's next turn. Errors: -EAGAIN too many connections, or too little memory
 * for one more; -ENOMEM. */
int conn_open_stream(struct engine *engine, uint32_t stream, const struct destination *to,
                     const struct channel_opts *opts, struct channel **ret) BG_MUST_CHECK;

/* Sends a reply that refuses a stream, and closes fd. */
void conn_refuse(int fd, int status, const char *text);

/* Ends it, if it only waits for a request; engine_drain's part of one connection. */
void conn_drain(struct conn *conn);

/* Goes on with whatever can go on. */
void conn_run(struct conn *conn);

/* Ends it at once, with an audit line if something was going on. */
void conn_abort(struct conn *conn, const char *reason);

/* Closes its handles, without a word. */
void conn_close(struct conn *conn);

/* For exchange.c, which uses these and is used through exchange.h. */

/* Sends what is queued for the guest, then closes. */
void conn_linger(struct conn *conn);

/* Bytes of the guest, those given back first; *ret_bytes is valid until the next read of either
 * side. As channel_read; -EAGAIN also when this turn's share is used up. */
ssize_t conn_read_guest(struct conn *conn, const uint8_t **ret_bytes);
ssize_t conn_read_upstream(struct conn *conn, const uint8_t **ret_bytes);

/* Gives back the end of what conn_read_guest returned. */
void conn_unread_guest(struct conn *conn, const uint8_t *bytes, size_t size);

/* The state must have changed, or this be called again, within ms from now. */
void conn_deadline(struct conn *conn, uint64_t ms);

/* Connects; on_done gets the conn. Errors: -ENOMEM. */
int conn_dial(struct conn *conn, const struct destination *to, const struct policy_rule *rule,
              void (*on_done)(void *owner, const struct dial_result *result),
              struct bg_err *err) BG_MUST_CHECK;

/* The options of a channel that is a conn's upstream. */
struct channel_opts conn_upstream_opts(struct conn *conn);

/* Its upstream is from here on what it was given by upstreams.h; counts its handle. */
void conn_set_upstream(struct conn *conn, struct channel *channel);

/* The upstream's channel, for another owner. */
struct channel *conn_release_upstream(struct conn *conn);

/* Takes fd in any case. */
int conn_open_upstream(struct conn *conn, int fd, struct bg_err *err) BG_MUST_CHECK;
void conn_drop_upstream(struct conn *conn);

/* A CONNECT was answered: from here on the connection is for conn->to. */
void conn_start_peek(struct conn *conn);

/* A WebSocket's handshake is through. */
void conn_start_relay(struct conn *conn);

/* True while the other side may be read for this one. */
static inline bool conn_room(struct channel *channel)
{
    return buffer_size(channel_out(channel)) < BG_EGRESS_QUEUE_PAUSE;
}
