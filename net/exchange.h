/* HTTP on one connection: reads a request, decides, sends it on, and brings the response back; then
 * the next one. Pipelined requests wait their turn unread, so answers come in order.
 *
 *   EXCHANGE_REQUEST -> EXCHANGE_DIAL -> EXCHANGE_TLS -> EXCHANGE_FORWARD -> EXCHANGE_REQUEST ...
 * A body in which a secret may stand is read whole before the second of these (EXCHANGE_BODY), and
 * has a length from there on, whatever it came with; all others stream in EXCHANGE_FORWARD.
 * A kept connection to the request's destination is used again, which skips the middle: the one of
 * the request before, or one that another guest connection has left (upstreams.h). If such a one
 * turns out to be dead before a byte of the response has come, and the request had no body, it is
 * sent once more on a new connection. */
#pragma once

#include "net/audit.h"
#include "net/body.h"
#include "net/filter.h"
#include "net/http_forward.h"
#include "net/http_reader.h"
#include "net/upstreams.h"
#include "net/websocket.h"

struct conn;
enum conn_step;

/* One request and its response. */
struct exchange {
    enum exchange_state {
        EXCHANGE_REQUEST, /* its head, or the next one's */
        EXCHANGE_BODY,    /* its body, if that has to be whole */
        EXCHANGE_DIAL,
        EXCHANGE_TLS,     /* handshake with the upstream */
        EXCHANGE_FORWARD, /* body up, response down, at the same time */
    } state;
    struct http_reader request, response;
    struct http_route route;
    const struct policy_rule *rule; /* NULL: refused */
    struct secrets_use use;
    struct filter filter; /* of the response's body, where a secret can come back */
    struct body body;     /* its type is 0 unless the body is read whole */
    size_t body_counted;  /* its part of the engine's body_bytes */
    struct buffer head;   /* to be sent upstream, secrets in it; kept until the response begins */
    bool reused;          /* the upstream connection has served another request before */
    bool response_begun;  /* bytes of it have come */
    bool answered;        /* its final head was passed on */
    bool keep_alive;      /* the guest's connection goes on after it */
    bool surplus;         /* the upstream sent more than its response */
    bool over;            /* its rule's bytes are used up: nothing more passes */
    unsigned interim_count;
    uint8_t challenge[WEBSOCKET_CHALLENGE_SIZE]; /* of a request for a WebSocket */
    struct websocket *frames;         /* read and scrubbed on their way down; NULL: bytes pass */
    enum http_wrap wrap;              /* of the response's body */
    struct upstream_key upstream_key; /* what conn->upstream is good for */
    uint64_t bytes_up, bytes_down, started_ms;
};

void exchange_init(struct conn *conn);
void exchange_done(struct conn *conn);

/* One step in the state CONN_HTTP. */
enum conn_step exchange_run(struct conn *conn);

/* The deadline has passed. */
void exchange_timed_out(struct conn *conn);

/* Which sides are to be read next. */
bool exchange_reads_guest(const struct conn *conn);
bool exchange_reads_upstream(const struct conn *conn);

/* True when a request is on its way and the guest has sent all of it. */
bool exchange_waits(const struct conn *conn);

/* Moves a WebSocket's frames down, where exchange.frames is set; the state is CONN_RELAY. Returns
 * false when the connection is broken; a wrong frame ends it with a word to the guest. */
bool exchange_relay_frames(struct conn *conn);

/* Leaves the upstream connection to others, if it is idle. */
void exchange_give_back(struct conn *conn);

/* The connection ends here: writes the request's audit line, if one is open. */
void exchange_abort(struct conn *conn, enum audit_decision decision, const char *reason);
