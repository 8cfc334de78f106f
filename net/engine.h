/* What all connections of one proxy process share: policy, secrets, TLS, audit log, limits. Loop
 * thread only. */
#pragma once

#include <uv.h>

#include "common/err.h"
#include "common/log.h"
#include "net/audit.h"
#include "net/policy.h"
#include "net/secrets.h"
#include "net/tls.h"
#include "net/tunnel.h"
#include "net/upstreams.h"

/* How long each phase may take, in milliseconds; see common/limits.h for the defaults. */
struct engine_timeouts {
    uint64_t peek_ms, handshake_ms, greet_ms, head_ms, idle_ms, resolve_ms, connect_ms, response_ms,
        stall_ms, tcp_idle_ms, linger_ms, upstream_idle_ms;
};

extern const struct engine_timeouts engine_timeouts_default;

struct engine_opts {
    const char *sandbox;         /* for the audit; borrowed */
    const struct policy *policy; /* borrowed until closed, as all below */
    const struct secrets *secrets;
    struct tls_context *tls;
    const struct parent *parent; /* NULL: connections go straight to where they are for */
    int audit_fd;                /* append only; changes when the log is turned over */
    bool audit_best_effort;      /* go on without it when it cannot be written */
    const struct bg_log *log;
    struct engine_timeouts timeouts;
    unsigned conns_max;
};

struct conn;

struct engine {
    uv_loop_t *loop;
    struct engine_opts opts;
    struct conn *conns; /* list of the open ones */
    unsigned conn_count, h2_guest_count;
    struct h2 *h2_guests; /* list of the guest's connections of HTTP/2 */
    struct upstreams upstreams;
    unsigned held;      /* objects beside the conns whose handles are not closed yet */
    size_t body_bytes;  /* memory for bodies that are read whole */
    struct conn *again; /* those with work left that no socket event will announce */
    uv_idle_t idle;     /* runs while again is not empty */
    unsigned racing;    /* see dial.h */
    struct audit_socket *audit_socket; /* NULL: the log is not turned over; borrowed */
    uint64_t audit_lost; /* lines that could not be written since the last that could */
    bool closing, draining;
    void (*on_drained)(void *owner);
    void *drain_owner;
    void (*on_closed)(void *owner);
    void *owner;
    char line[AUDIT_LINE_MAX];
    uint8_t scratch[64 * 1024]; /* for one read, within one callback */
};

void engine_init(struct engine *engine, uv_loop_t *loop, const struct engine_opts *opts);

/* Lets requests and pass-throughs that are under way end, and closes whatever only waits for a next
 * one. Calls on_drained when nothing is open any more, perhaps at once; engine_close may come
 * before. */
void engine_drain(struct engine *engine, void (*on_drained)(void *owner), void *owner);

/* The same, but leaves those that only wait for a request until engine_drain: the next one is their
 * last. */
void engine_retire(struct engine *engine, void (*on_drained)(void *owner), void *owner);

/* Closes all connections, then calls on_closed; the memory is the caller's again then. */
void engine_close(struct engine *engine, void (*on_closed)(void *owner), void *owner);

/* Writes the event to the audit log, with the time and the sandbox filled in. A failure is logged
 * and counted in audit_lost. */
void engine_audit(struct engine *engine, struct audit_event *event);

/* Tries the audit log again if it was broken. False if it still is, and nothing may go out without
 * it. */
bool engine_may_go_on(struct engine *engine);

/* For what else has handles on the loop: the engine ends after each of them has been released. */
void engine_hold(struct engine *engine);
void engine_released(struct engine *engine);

/* True while one more connection may be had: those of HTTP/2 count, and so do their streams. */
static inline bool engine_has_room(const struct engine *engine)
{
    return engine->conn_count + engine->h2_guest_count < engine->opts.conns_max;
}

/* For conn only: the list of connections, and their place on the again list. */
void engine_add(struct engine *engine, struct conn *conn);
void engine_remove(struct engine *engine, struct conn *conn);
void engine_again(struct engine *engine, struct conn *conn);
