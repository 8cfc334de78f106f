#include "net/engine.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/limits.h"
#include "net/audit_socket.h"
#include "net/conn.h"
#include "net/h2.h"

const struct engine_timeouts engine_timeouts_default = {
    .peek_ms = BG_EGRESS_PEEK_MS,
    .handshake_ms = BG_EGRESS_HANDSHAKE_MS,
    .greet_ms = BG_EGRESS_GREET_MS,
    .head_ms = BG_EGRESS_HEAD_MS,
    .idle_ms = BG_EGRESS_IDLE_MS,
    .resolve_ms = BG_EGRESS_RESOLVE_MS,
    .connect_ms = BG_EGRESS_CONNECT_MS,
    .response_ms = BG_EGRESS_RESPONSE_MS,
    .stall_ms = BG_EGRESS_STALL_MS,
    .tcp_idle_ms = BG_EGRESS_TCP_IDLE_MS,
    .linger_ms = BG_EGRESS_LINGER_MS,
    .upstream_idle_ms = BG_EGRESS_UPSTREAM_IDLE_MS,
};

void engine_init(struct engine *engine, uv_loop_t *loop, const struct engine_opts *opts)
{
    memset(engine, 0, sizeof *engine);
    engine->loop = loop;
    engine->opts = *opts;
    (void)uv_idle_init(loop, &engine->idle); /* cannot fail */
    engine->idle.data = engine;
}

static void idle_closed(uv_handle_t *handle)
{
    struct engine *engine = handle->data;
    explicit_bzero(engine->scratch, sizeof engine->scratch);
    engine->on_closed(engine->owner);
}

/* Something has ended: perhaps it was the last. */
static void check_end(struct engine *engine)
{
    if (engine->conn_count > 0)
        return;
    if (engine->closing && engine->held == 0 && !uv_is_closing((uv_handle_t *)&engine->idle))
        uv_close((uv_handle_t *)&engine->idle, idle_closed);
    else if (!engine->closing && !engine->h2_guests && engine->on_drained)
        BG_TAKE(engine->on_drained)(engine->drain_owner);
}

void engine_hold(struct engine *engine)
{
    engine->held++;
}

void engine_released(struct engine *engine)
{
    engine->held--;
    check_end(engine);
}

void engine_close(struct engine *engine, void (*on_closed)(void *owner), void *owner)
{
    assert(!engine->closing);
    engine->closing = true;
    engine->on_closed = on_closed;
    engine->owner = owner;
    struct conn *next;
    for (struct conn *conn = engine->conns; conn; conn = next) {
        next = conn->next;
        conn_abort(conn, "proxy-ended");
    }
    while (engine->h2_guests)
        h2_close(engine->h2_guests);
    upstreams_close(engine);
    check_end(engine);
}

void engine_drain(struct engine *engine, void (*on_drained)(void *owner), void *owner)
{
    struct conn *next;
    for (struct conn *conn = engine->conns; conn; conn = next) {
        next = conn->next;
        conn_drain(conn);
    }
    engine_retire(engine, on_drained, owner);
}

void engine_retire(struct engine *engine, void (*on_drained)(void *owner), void *owner)
{
    engine->draining = true;
    h2_drain_all(engine->h2_guests);
    upstreams_drain(engine);
    engine->on_drained = on_drained;
    engine->drain_owner = owner;
    check_end(engine);
}

void engine_add(struct engine *engine, struct conn *conn)
{
    conn->prev = NULL;
    conn->next = engine->conns;
    if (conn->next)
        conn->next->prev = conn;
    engine->conns = conn;
    engine->conn_count++;
}

void engine_remove(struct engine *engine, struct conn *conn)
{
    if (conn->on_again) {
        struct conn **at = &engine->again;
        while (*at != conn)
            at = &(*at)->again_next;
        *at = conn->again_next;
        if (!engine->again)
            (void)uv_idle_stop(&engine->idle); /* cannot fail */
    }
    if (conn->prev)
        conn->prev->next = conn->next;
    else
        engine->conns = conn->next;
    if (conn->next)
        conn->next->prev = conn->prev;
    engine->conn_count--;
    check_end(engine);
}

static void run_again(uv_idle_t *idle)
{
    struct engine *engine = idle->data;
    struct conn *conn = engine->again;
    engine->again = conn->again_next;
    conn->on_again = false;
    if (!engine->again)
        (void)uv_idle_stop(idle); /* cannot fail */
    conn_run(conn);               /* last: may end it */
}

void engine_again(struct engine *engine, struct conn *conn)
{
    if (conn->on_again)
        return;
    struct conn **at = &engine->again; /* at the end, so that all get their turn */
    while (*at)
        at = &(*at)->again_next;
    *at = conn;
    conn->again_next = NULL;
    conn->on_again = true;
    (void)uv_idle_start(&engine->idle, run_again); /* cannot fail */
}

static uint64_t realtime_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void engine_audit(struct engine *engine, struct audit_event *event)
{
    event->realtime_ms = realtime_ms();
    event->sandbox = engine->opts.sandbox;
    event->secrets = engine->opts.secrets;
    size_t size = audit_format(event, engine->line, sizeof engine->line);
    ssize_t n;
    do {
        n = write(engine->opts.audit_fd, engine->line, size);
    } while (n < 0 && errno == EINTR);
    bool lost = n != (ssize_t)size;
    if (lost && engine->audit_lost == 0)
        bg_log(engine->opts.log, BG_LOG_ERROR, "cannot write the audit log: %s; %s",
               n < 0 ? strerror(errno) : "short write",
               engine->opts.audit_best_effort ? "its lines are lost until that works again"
                                              : "nothing goes out until that works again");
    else if (!lost && engine->audit_lost > 0)
        bg_log(engine->opts.log, BG_LOG_INFO, "the audit log can be written again");
    engine->audit_lost = lost ? engine->audit_lost + 1 : 0;
    if (engine->audit_socket)
        audit_socket_check(engine->audit_socket);
}

bool engine_may_go_on(struct engine *engine)
{
    if (engine->audit_lost > 0) {
        char detail[64];
        (void)snprintf(detail, sizeof detail, "%llu lines", (unsigned long long)engine->audit_lost);
        struct audit_event event = {.host = "",
                                    .scheme = "",
                                    .decision = AUDIT_ERROR,
                                    .reason = "audit-lines-lost",
                                    .detail = detail};
        uint64_t lost = engine->audit_lost;
        engine_audit(engine, &event);
        if (engine->audit_lost > 0)
            engine->audit_lost = lost; /* this line was only a try */
    }
    return engine->audit_lost == 0 || engine->opts.audit_best_effort;
}
