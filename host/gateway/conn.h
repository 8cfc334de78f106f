/* conn: one TCP connection of a client: requests one after the other, until one of them makes it a
 * WebSocket, or is for a port in a sandbox.
 *
 *   REQUEST -> ANSWERING -> REQUEST ...   an answer that takes time (a sandbox is made or removed)
 *                        -> SOCKET        101; the rest is the session's
 *   REQUEST -> TUNNEL                     its Host is a sandbox's: all goes to the exposed port
 *   any     -> CLOSING
 *
 * While ANSWERING what comes is kept, and not looked at: one request is under way at a time. */
#pragma once

#include <sys/queue.h>

#include <uv.h>

#include "common/err.h"
#include "host/gateway/extra.h"
#include "host/gateway/logins.h"
#include "host/gateway/session.h"
#include "host/gateway/tls.h"
#include "host/gateway/tokens.h"
#include "host/gateway/volume_jobs.h"

struct conn;
LIST_HEAD(conn_list, conn);

/* What all connections of a gateway have together. */
struct conn_shared {
    struct session_shared session;
    struct volume_jobs *volumes; /* borrowed, as the next four */
    struct token_file *tokens;
    struct logins *logins;
    struct extra *extra;
    struct tls_server *tls;        /* NULL: plain HTTP */
    const char *const *host_names; /* of the gateway, beside loopback's; NULL-terminated */
    struct conn_list conns;
    size_t count;
};

/* Accepts a connection. One too many is closed at once. Errors: errno of accept; -ENOMEM. */
int conn_accept(uv_stream_t *listener, struct conn_shared *shared,
                struct bg_err *err) BG_MUST_CHECK;

/* The gateway ends: all are closed. */
void conn_close_all(struct conn_shared *shared);
