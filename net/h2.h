/* One connection of HTTP/2 (RFC 9113, by nghttp2), towards the guest or an upstream. Each of its
 * streams is a channel within this process on which HTTP/1.1 is spoken, for one request and its
 * response: to conn and exchange, which decide about requests, one is as the other. So no rule has
 * a second place where it could be forgotten.
 *
 *   guest -> h2 (server) -> pair -> conn, exchange -> pair -> h2 (client) -> upstream
 *
 * Towards the guest a stream makes a conn (conn_open_stream); towards an upstream the exchange asks
 * for one (h2_open_stream). Bytes are held up by the windows: a stream's is opened again only when
 * the other side has taken what came, and the other side is read only while less than
 * BG_EGRESS_QUEUE_PAUSE waits to be sent.
 *
 *   H2_OPEN      streams come and go
 *   H2_DRAINING  no further ones; ends with the last
 *   H2_LINGER    all is said; the peer may read it before the socket goes
 *   H2_CLOSED    handles are closing
 * Loop thread only. */
#pragma once

#include "common/err.h"
#include "net/channel.h"
#include "net/upstreams.h"

struct engine;
struct h2;

struct h2_server_opts {
    uint32_t stream; /* the guest's id for the connection */
    const struct destination *to;
};

/* Serves the guest on a connection whose TLS has agreed on HTTP/2; takes it from its owner on
 * success, whose on_closed is not called. It frees itself. Errors: -ENOMEM. */
int h2_open_server(struct engine *engine, const struct h2_server_opts *opts,
                   struct channel *connection, struct bg_err *err) BG_MUST_CHECK;

struct h2_client_opts {
    const struct upstream_key *key;
    const char *address; /* dialled */
};

/* The same towards an upstream, on the engine's list of sessions. */
int h2_open_client(struct engine *engine, const struct h2_client_opts *opts,
                   struct channel *connection, struct h2 **ret, struct bg_err *err) BG_MUST_CHECK;

/* A channel for one request of HTTP/1.1 and its response, with opts as its owner. Errors: -ENOMEM.
 */
int h2_open_stream(struct h2 *h2, const struct channel_opts *opts, struct channel **ret,
                   struct bg_err *err) BG_MUST_CHECK;

/* Whether one more stream can be opened. */
bool h2_has_room(const struct h2 *h2);

const struct upstream_key *h2_key(const struct h2 *h2);
const char *h2_address(const struct h2 *h2);

/* The next one of the engine's list, or NULL. */
struct h2 *h2_next(const struct h2 *h2);

/* No further streams on any of the list; those without streams close now. */
void h2_drain_all(struct h2 *first);

/* Ends it with all of its streams, and takes it off its list. Not from a callback of its own. */
void h2_close(struct h2 *h2);
