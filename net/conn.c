#include "net/conn.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "common/wire.h"
#include "net/client_hello.h"
#include "net/h2.h"

/* A connection's share of one turn of the loop. */
#define TURN_BYTES_MAX (1024u * 1024)
/* A first line that is not whole by then is none of HTTP. */
#define FIRST_LINE_MAX 8192u

static void conn_audit(struct conn *conn, enum audit_decision decision, const char *reason,
                       const char *scheme, int status, const char *detail)
{
    struct audit_event event = {
        .stream = conn->stream,
        .host = conn->to.host,
        .port = conn->to.port,
        .scheme = scheme,
        .rule = conn->rule     ? conn->rule->text
                : conn->denial ? conn->denial->text
                               : NULL,
        .decision = decision,
        .reason = reason,
        .detail = detail,
        .status = status,
        .address = conn->upstream_address[0] ? conn->upstream_address : NULL,
        .bytes_up = conn->bytes_up,
        .bytes_down = conn->bytes_down,
        .duration_ms = uv_now(conn->engine->loop) - conn->started_ms,
    };
    engine_audit(conn->engine, &event);
}

/* Why there is no rule for the connection. */
static const char *refusal(const struct conn *conn)
{
    return conn->denial ? "request-denied" : "host-not-allowed";
}

static void free_if_closed(struct conn *conn)
{
    if (--conn->open_handles > 0)
        return;
    engine_remove(conn->engine, conn);
    exchange_done(conn);
    buffer_reset(&conn->guest_in);
    free(conn);
}

static void timer_closed(uv_handle_t *handle)
{
    free_if_closed(handle->data);
}

static void channel_closed(void *owner)
{
    free_if_closed(owner);
}

void conn_close(struct conn *conn)
{
    if (conn->state == CONN_CLOSED)
        return;
    if (conn->state == CONN_HTTP)
        exchange_give_back(conn);
    conn->state = CONN_CLOSED;
    dial_cancel(BG_TAKE(conn->dial));
    channel_close(BG_TAKE(conn->guest));
    channel_close(BG_TAKE(conn->upstream));
    uv_close((uv_handle_t *)&conn->timer, timer_closed);
}

void conn_abort(struct conn *conn, const char *reason)
{
    switch (conn->state) {
    case CONN_PEEK:
        if (buffer_size(&conn->guest_in) > 0)
            conn_audit(conn, AUDIT_ERROR, reason, "", 0, NULL);
        break;
    case CONN_HANDSHAKE:
        conn_audit(conn, AUDIT_ERROR, reason, "tls", 0, NULL);
        break;
    case CONN_HTTP:
        exchange_abort(conn, AUDIT_ERROR, reason);
        break;
    case CONN_DIAL:
    case CONN_LISTEN:
    case CONN_RELAY: {
        enum audit_decision decision = conn->over                 ? AUDIT_DENY
                                       : conn->state == CONN_DIAL ? AUDIT_ERROR
                                                                  : AUDIT_ALLOW;
        if (conn->websocket)
            exchange_abort(conn, decision, reason);
        else
            conn_audit(conn, decision, reason, "tcp", 0, NULL);
        break;
    }
    case CONN_LINGER:
    case CONN_CLOSED:
        break;
    }
    conn_close(conn);
}

void conn_linger(struct conn *conn)
{
    if (conn->state == CONN_HTTP)
        exchange_give_back(conn);
    conn->state = CONN_LINGER;
    conn_drop_upstream(conn);
    channel_finish(conn->guest);
    conn_deadline(conn, conn->engine->opts.timeouts.linger_ms);
}

/* Reading and writing. */

static ssize_t read_channel(struct conn *conn, struct channel *channel, const uint8_t **ret_bytes)
{
    struct engine *engine = conn->engine;
    if (conn->budget == 0)
        return -EAGAIN;
    ssize_t n = channel_read(channel, engine->scratch, sizeof engine->scratch);
    if (n > 0)
        conn->budget -= (size_t)n < conn->budget ? (size_t)n : conn->budget;
    *ret_bytes = engine->scratch;
    return n;
}

ssize_t conn_read_guest(struct conn *conn, const uint8_t **ret_bytes)
{
    size_t size = buffer_size(&conn->guest_in);
    if (size > 0) {
        assert(size <= sizeof conn->engine->scratch);
        memcpy(conn->engine->scratch, buffer_bytes(&conn->guest_in), size);
        buffer_reset(&conn->guest_in);
        *ret_bytes = conn->engine->scratch;
        return (ssize_t)size;
    }
    ssize_t n = conn->guest_eof ? 0 : read_channel(conn, conn->guest, ret_bytes);
    conn->guest_eof |= n == 0;
    return n;
}

void conn_unread_guest(struct conn *conn, const uint8_t *bytes, size_t size)
{
    assert(buffer_size(&conn->guest_in) == 0);
    buffer_put(&conn->guest_in, bytes, size);
}

ssize_t conn_read_upstream(struct conn *conn, const uint8_t **ret_bytes)
{
    ssize_t n = conn->upstream_eof ? 0 : read_channel(conn, conn->upstream, ret_bytes);
    conn->upstream_eof |= n == 0;
    return n;
}

/* The deadline. Setting one later than the timer is due costs nothing: the timer is looked at when
 * it fires, and set anew. */

static void timer_fired(uv_timer_t *timer);

static void start_timer(struct conn *conn, uint64_t ms)
{
    conn->timer_due_ms = uv_now(conn->engine->loop) + ms;
    (void)uv_timer_start(&conn->timer, timer_fired, ms, 0); /* fails only when closing */
}

void conn_deadline(struct conn *conn, uint64_t ms)
{
    conn->deadline_ms = uv_now(conn->engine->loop) + ms;
    if (!uv_is_active((uv_handle_t *)&conn->timer) || conn->deadline_ms < conn->timer_due_ms)
        start_timer(conn, ms);
}

static enum conn_step peek_timed_out(struct conn *conn);

static void timer_fired(uv_timer_t *timer)
{
    struct conn *conn = timer->data;
    uint64_t now = uv_now(conn->engine->loop);
    if (now < conn->deadline_ms) {
        start_timer(conn, conn->deadline_ms - now);
        return;
    }
    switch (conn->state) {
    case CONN_PEEK:
        if (peek_timed_out(conn) == CONN_AGAIN)
            conn_run(conn);
        break;
    case CONN_HTTP:
        exchange_timed_out(conn);
        if (conn->state != CONN_CLOSED)
            conn_run(conn);
        break;
    case CONN_HANDSHAKE:
    case CONN_DIAL:
    case CONN_LISTEN:
    case CONN_RELAY:
        conn_abort(conn, "timeout");
        break;
    case CONN_LINGER:
        conn_close(conn);
        break;
    case CONN_CLOSED:
        break;
    }
}

/* The upstream. */

static void channel_ready(void *owner)
{
    conn_run(owner);
}

int conn_dial(struct conn *conn, const struct destination *to, const struct policy_rule *rule,
              void (*on_done)(void *owner, const struct dial_result *result), struct bg_err *err)
{
    const struct engine_timeouts *timeouts = &conn->engine->opts.timeouts;
    struct dial_opts opts = {.to = to,
                             .policy = conn->engine->opts.policy,
                             .rule = rule,
                             .resolve_ms = timeouts->resolve_ms,
                             .connect_ms = timeouts->connect_ms,
                             .parent = conn->engine->opts.parent,
                             .racing = &conn->engine->racing,
                             .on_done = on_done,
                             .owner = conn};
    return dial_start(conn->engine->loop, &opts, &conn->dial, err);
}

struct channel_opts conn_upstream_opts(struct conn *conn)
{
    return (struct channel_opts){
        .on_ready = channel_ready, .on_closed = channel_closed, .owner = conn, .wipe = true};
}

void conn_set_upstream(struct conn *conn, struct channel *channel)
{
    conn->upstream = channel;
    conn->upstream_eof = false;
    conn->open_handles++;
}

struct channel *conn_release_upstream(struct conn *conn)
{
    conn->upstream_eof = false;
    conn->open_handles--; /* the timer's is still there */
    return BG_TAKE(conn->upstream);
}

int conn_open_upstream(struct conn *conn, int fd, struct bg_err *err)
{
    struct channel *channel;
    const struct channel_opts opts = conn_upstream_opts(conn);
    int r = channel_open(conn->engine->loop, fd, &opts, &channel, err);
    if (r < 0) {
        (void)close(fd); /* it never carried anything */
        return r;
    }
    conn_set_upstream(conn, channel);
    return 0;
}

void conn_drop_upstream(struct conn *conn)
{
    channel_close(BG_TAKE(conn->upstream));
    conn->upstream_eof = false;
}

/* CONN_PEEK */

enum sniffed { SNIFF_MORE, SNIFF_TLS, SNIFF_HTTP, SNIFF_OTHER };

/* A request line is a method of capitals, and "HTTP/" at its end. Plain TCP is allowed only beside
 * a rule with a port, so taking HTTP for something else gives nothing away. */
static enum sniffed sniff(const uint8_t *bytes, size_t size)
{
    if (size == 0)
        return SNIFF_MORE;
    if (bytes[0] == 22)
        return SNIFF_TLS;
    size_t start = 0;
    if (size >= 2 && bytes[0] == '\r' && bytes[1] == '\n')
        start = 2; /* see http_reader */
    size_t i = start;
    while (i < size && i - start < 24 && ((bytes[i] >= 'A' && bytes[i] <= 'Z') || bytes[i] == '-'))
        i++;
    if (i == size && i - start < 24)
        return SNIFF_MORE;
    if (i == start || i - start >= 24 || bytes[i] != ' ')
        return SNIFF_OTHER;
    const uint8_t *lf = memchr(bytes + i, '\n', size - i);
    size_t line = lf ? (size_t)(lf - bytes) : size;
    if (memmem(bytes + i, line - i, " HTTP/", 6))
        return SNIFF_HTTP;
    return lf || size >= FIRST_LINE_MAX ? SNIFF_OTHER : SNIFF_MORE;
}

/* Without a word, as far as it has none: the agent sees a connection that ends early. */
static enum conn_step refuse_bytes(struct conn *conn)
{
    if (conn->rule)
        conn_audit(conn, AUDIT_DENY, "protocol-not-allowed", "tcp", 0,
                   "neither HTTP nor TLS, and the rule names no port");
    else
        conn_audit(conn, AUDIT_DENY, refusal(conn), "tcp", 0, NULL);
    conn_close(conn);
    return CONN_WAIT;
}

static enum conn_step refuse_tls(struct conn *conn, uint8_t alert, const char *reason, int status,
                                 const char *detail)
{
    uint8_t bytes[TLS_ALERT_SIZE];
    tls_alert(alert, bytes);
    buffer_put(channel_out(conn->guest), bytes, sizeof bytes);
    conn_audit(conn, AUDIT_DENY, reason, "tls", status, detail);
    conn_linger(conn);
    return CONN_AGAIN;
}

static enum conn_step start_handshake(struct conn *conn, const struct destination *as)
{
    struct bg_err err;
    struct tls_session *session;
    const struct tls_accept_opts opts = {.as = as,
                                         .offer = TLS_OFFER_H2_TOO,
                                         .allowed = conn->rule != NULL,
                                         .now_ms = uv_now(conn->engine->loop),
                                         .fd = channel_fd(conn->guest),
                                         .prefix = buffer_bytes(&conn->guest_in),
                                         .prefix_size = buffer_size(&conn->guest_in)};
    int r = tls_accept(conn->engine->opts.tls, &opts, &session, &err);
    if (r == -EAGAIN)
        return refuse_tls(conn, TLS_ALERT_INTERNAL_ERROR, "names-too-many", 0, err.text);
    if (r < 0) {
        bg_log(conn->engine->opts.log, BG_LOG_ERROR, "stream %u: %s", conn->stream, err.text);
        conn_abort(conn, "internal");
        return CONN_WAIT;
    }
    buffer_reset(&conn->guest_in);
    channel_set_tls(conn->guest, session);
    conn->state = CONN_HANDSHAKE;
    conn_deadline(conn, conn->engine->opts.timeouts.handshake_ms);
    return CONN_AGAIN;
}

static void start_http(struct conn *conn, bool tls)
{
    conn->tls = tls;
    conn->state = CONN_HTTP;
    conn_deadline(conn, conn->engine->opts.timeouts.head_ms);
}

static void tcp_dialled(void *owner, const struct dial_result *result)
{
    struct conn *conn = owner;
    struct bg_err err = result->err;
    conn->dial = NULL;
    if (result->fd < 0) {
        conn_audit(conn, result->err.code == -EACCES ? AUDIT_DENY : AUDIT_ERROR, result->reason,
                   "tcp", 0, result->err.text);
        conn_close(conn);
        return;
    }
    if (conn_open_upstream(conn, result->fd, &err) < 0) {
        conn_abort(conn, "internal");
        return;
    }
    address_format(&result->address, conn->upstream_address);
    conn_start_relay(conn);
    if (sniff(buffer_bytes(&conn->guest_in), buffer_size(&conn->guest_in)) == SNIFF_MORE)
        conn->state = CONN_LISTEN;
    conn_run(conn);
}

/* Connects for bytes that nobody here reads. */
static enum conn_step dial_blind(struct conn *conn)
{
    struct bg_err err;
    if (policy_bytes_gone(conn->rule)) {
        conn_audit(conn, AUDIT_DENY, "bytes-used-up", "tcp", 0, NULL);
        conn_close(conn);
        return CONN_WAIT;
    }
    bool may = engine_may_go_on(conn->engine);
    if (!may || conn_dial(conn, &conn->to, conn->rule, tcp_dialled, &err) < 0) {
        conn_abort(conn, may ? "internal" : "audit-lost");
        return CONN_WAIT;
    }
    conn->state = CONN_DIAL;
    /* dial has its own deadlines; this one only keeps the rule that each state has one. */
    const struct engine_timeouts *t = &conn->engine->opts.timeouts;
    conn_deadline(conn, t->resolve_ms + BG_EGRESS_ADDRESSES_MAX * t->connect_ms);
    return CONN_WAIT;
}

static enum conn_step peek_tls(struct conn *conn)
{
    struct client_hello hello;
    struct bg_err err;
    int r = client_hello_parse(buffer_bytes(&conn->guest_in), buffer_size(&conn->guest_in), &hello,
                               &err);
    if (r == -EAGAIN)
        return CONN_WAIT;
    if (r < 0)
        return refuse_tls(conn, TLS_ALERT_DECODE_ERROR, "bad-client-hello", 0, err.text);
    bool passes = conn->rule && conn->rule->passthrough;
    if (passes && !hello.has_server_name)
        return refuse_tls(conn, TLS_ALERT_UNRECOGNIZED_NAME, "identity-mismatch", 421,
                          "passthrough goes by the server name, and there is none");
    if (passes && hello.has_ech) /* what is opened here ends here, and with it the extension */
        return refuse_tls(conn, TLS_ALERT_UNRECOGNIZED_NAME, "identity-mismatch", 421,
                          "passthrough goes by the server name, and ECH may hide another");
    if (!passes && hello.has_alpn && !hello.alpn_ours)
        return refuse_tls(conn, TLS_ALERT_NO_APPLICATION_PROTOCOL, "alpn-not-supported", 0,
                          "the client speaks neither HTTP/2 nor HTTP/1.1");
    /* A refused host is answered inside of TLS, so that a person reads why; any name will do then.
     */
    if (!conn->rule)
        return start_handshake(conn, hello.has_server_name ? &hello.server_name : &conn->to);
    if (hello.has_server_name && !destination_same_host(&hello.server_name, &conn->to)) {
        (void)bg_err_set(&err, -EPROTO, "server name %s on a connection for %s",
                         hello.server_name.host, conn->to.host);
        return refuse_tls(conn, TLS_ALERT_UNRECOGNIZED_NAME, "identity-mismatch", 421, err.text);
    }
    return passes ? dial_blind(conn) : start_handshake(conn, &conn->to);
}

static enum conn_step start_tcp(struct conn *conn)
{
    return conn->rule && conn->rule->tcp ? dial_blind(conn) : refuse_bytes(conn);
}

/* Nothing was said, or less than tells what it is: perhaps the other side speaks first. */
static enum conn_step peek_timed_out(struct conn *conn)
{
    if (sniff(buffer_bytes(&conn->guest_in), buffer_size(&conn->guest_in)) == SNIFF_TLS)
        return refuse_tls(conn, TLS_ALERT_DECODE_ERROR, "timeout", 0, NULL);
    if (conn->rule && !conn->rule->tcp) {
        conn_abort(conn, "timeout");
        return CONN_WAIT;
    }
    return start_tcp(conn);
}

/* Adds what has come to guest_in. Returns false when the connection has ended. */
static bool peek_read(struct conn *conn)
{
    struct engine *engine = conn->engine;
    size_t room = sizeof engine->scratch - buffer_size(&conn->guest_in);
    ssize_t n = conn->guest_eof ? -EAGAIN : channel_read(conn->guest, engine->scratch, room);
    if (n > 0)
        buffer_put(&conn->guest_in, engine->scratch, (size_t)n);
    else if (n == 0)
        conn->guest_eof = true;
    return n >= 0 || n == -EAGAIN;
}

static enum conn_step peek_run(struct conn *conn)
{
    size_t had = buffer_size(&conn->guest_in);
    if (!peek_read(conn)) {
        conn_abort(conn, "guest-gone");
        return CONN_WAIT;
    }
    size_t size = buffer_size(&conn->guest_in);
    if (had == 0 && size > 0)
        conn_deadline(conn, conn->engine->opts.timeouts.handshake_ms);
    switch (sniff(buffer_bytes(&conn->guest_in), size)) {
    case SNIFF_TLS: {
        enum conn_step step = peek_tls(conn);
        if (step == CONN_WAIT && conn->state == CONN_PEEK && conn->guest_eof)
            conn_abort(conn, "guest-gone");
        return step;
    }
    case SNIFF_HTTP:
        start_http(conn, /* tls= */ false);
        return CONN_AGAIN;
    case SNIFF_OTHER:
        return start_tcp(conn);
    case SNIFF_MORE:
        break;
    }
    if (!conn->guest_eof)
        return CONN_WAIT;
    if (size == 0) { /* it came and went, as a health check does */
        conn_close(conn);
        return CONN_WAIT;
    }
    return start_tcp(conn);
}

static enum conn_step listen_run(struct conn *conn)
{
    const uint8_t *bytes;
    ssize_t n = conn_read_upstream(conn, &bytes);
    if (n != -EAGAIN) {
        conn_start_relay(conn);
        if (n < 0) {
            conn_abort(conn, "broken");
            return CONN_WAIT;
        }
        conn->bytes_down += (uint64_t)n;
        if (n > 0 && !policy_spend_bytes(conn->rule, (uint64_t)n)) {
            conn->over = true;
            conn_abort(conn, "bytes-used-up");
            return CONN_WAIT;
        }
        if (n > 0)
            buffer_put(channel_out(conn->guest), bytes, (size_t)n);
        return CONN_AGAIN;
    }
    if (!peek_read(conn)) {
        conn_abort(conn, "guest-gone");
        return CONN_WAIT;
    }
    switch (sniff(buffer_bytes(&conn->guest_in), buffer_size(&conn->guest_in))) {
    case SNIFF_TLS:
    case SNIFF_HTTP:
        conn_drop_upstream(conn);
        conn->upstream_address[0] = '\0';
        conn_start_peek(conn);
        return CONN_AGAIN;
    case SNIFF_MORE:
        if (!conn->guest_eof)
            return CONN_WAIT;
        break;
    case SNIFF_OTHER:
        break;
    }
    conn_start_relay(conn);
    return CONN_AGAIN;
}

void conn_start_peek(struct conn *conn)
{
    const struct engine_timeouts *t = &conn->engine->opts.timeouts;
    conn->state = CONN_PEEK;
    conn->started_ms = uv_now(conn->engine->loop);
    /* A client that is to speak first may take its time, a refused one less; only where the other
     * side may have to speak first the wait is short. */
    bool web = conn->to.port == 80 || conn->to.port == 443;
    if (!conn->rule)
        conn_deadline(conn, web ? t->head_ms : 10 * t->peek_ms);
    else
        conn_deadline(conn, conn->rule->tcp ? t->peek_ms : t->idle_ms);
}

/* CONN_HANDSHAKE */

/* The connection is h2's; what remains here is closed. */
static enum conn_step start_h2(struct conn *conn)
{
    struct bg_err err;
    const struct h2_server_opts opts = {.stream = conn->stream, .to = &conn->to};
    if (h2_open_server(conn->engine, &opts, conn->guest, &err) < 0) {
        conn_abort(conn, "internal");
        return CONN_WAIT;
    }
    conn->guest = NULL;
    conn->open_handles--; /* the timer's is still there */
    conn_close(conn);
    return CONN_WAIT;
}

static enum conn_step handshake_run(struct conn *conn)
{
    struct bg_err err;
    int r = channel_handshake(conn->guest, &err);
    if (r == -EAGAIN)
        return CONN_WAIT;
    if (r < 0) {
        /* Most often: it does not trust our CA, or pins the host's certificate. */
        conn_audit(conn, AUDIT_ERROR, "guest-tls", "tls", 0, err.text);
        conn_close(conn);
        return CONN_WAIT;
    }
    if (channel_is_h2(conn->guest))
        return start_h2(conn);
    start_http(conn, /* tls= */ true);
    return CONN_AGAIN;
}

/* CONN_RELAY */

void conn_start_relay(struct conn *conn)
{
    conn->state = CONN_RELAY;
    conn_deadline(conn, conn->engine->opts.timeouts.tcp_idle_ms);
}

static bool relay_way_done(const struct conn *conn, bool up)
{
    if (!up)
        return conn->upstream_eof;
    return conn->guest_eof && buffer_size(&conn->guest_in) == 0;
}

/* Moves bytes one way. Returns false when the connection has ended. */
static bool relay_way(struct conn *conn, bool up)
{
    struct channel *to = up ? conn->upstream : conn->guest;
    uint64_t *count = up ? &conn->bytes_up : &conn->bytes_down;
    while (conn_room(to) && !relay_way_done(conn, up)) {
        const uint8_t *bytes;
        ssize_t n = up ? conn_read_guest(conn, &bytes) : conn_read_upstream(conn, &bytes);
        if (n == -EAGAIN)
            break;
        if (n < 0)
            return false;
        conn_deadline(conn, conn->engine->opts.timeouts.tcp_idle_ms);
        *count += (uint64_t)n;
        const struct policy_rule *rule = conn->websocket ? conn->exchange.rule : conn->rule;
        if (!policy_spend_bytes(rule, (uint64_t)n)) {
            conn->over = true;
            return false;
        }
        if (n > 0)
            buffer_put(channel_out(to), bytes, (size_t)n);
        if (channel_flush(to) < 0)
            return false;
    }
    conn->held |= !conn_room(to);
    if (relay_way_done(conn, up))
        channel_finish(to);
    return channel_flush(to) == 0;
}

static enum conn_step relay_run(struct conn *conn)
{
    bool ok =
        relay_way(conn, /* up= */ true) &&
        (conn->exchange.frames ? exchange_relay_frames(conn) : relay_way(conn, /* up= */ false));
    if (conn->state != CONN_RELAY)
        return CONN_AGAIN;
    if (!ok)
        conn_abort(conn, conn->over ? "bytes-used-up" : "broken");
    else if (channel_finished(conn->guest) && channel_finished(conn->upstream))
        conn_abort(conn, "allowed");
    return CONN_WAIT;
}

/* CONN_LINGER */

static enum conn_step linger_run(struct conn *conn)
{
    if (channel_flush(conn->guest) < 0) {
        conn_close(conn);
        return CONN_WAIT;
    }
    for (;;) {
        /* What it still sends must be read, or closing would take the answer back. */
        const uint8_t *bytes;
        ssize_t n = conn->guest_eof ? 0 : read_channel(conn, conn->guest, &bytes);
        if (n > 0)
            continue;
        conn->guest_eof |= n == 0;
        if ((n == 0 && channel_finished(conn->guest)) || (n < 0 && n != -EAGAIN))
            conn_close(conn);
        return CONN_WAIT;
    }
}

/* All of it. */

static void watch(struct conn *conn)
{
    bool guest = false, upstream = false;
    switch (conn->state) {
    case CONN_PEEK:
    case CONN_HANDSHAKE:
    case CONN_LINGER:
        guest = !conn->guest_eof;
        break;
    case CONN_HTTP:
        guest = exchange_reads_guest(conn);
        upstream = exchange_reads_upstream(conn);
        break;
    case CONN_LISTEN:
    case CONN_RELAY:
        guest = !conn->guest_eof && conn_room(conn->upstream);
        upstream = !conn->upstream_eof && conn_room(conn->guest);
        break;
    case CONN_DIAL:
    case CONN_CLOSED:
        break;
    }
    channel_watch(conn->guest, guest);
    if (conn->upstream)
        channel_watch(conn->upstream, upstream);
}

static void run_states(struct conn *conn)
{
    enum conn_step step = CONN_AGAIN;
    while (step == CONN_AGAIN) {
        switch (conn->state) {
        case CONN_PEEK:
            step = peek_run(conn);
            break;
        case CONN_HANDSHAKE:
            step = handshake_run(conn);
            break;
        case CONN_HTTP:
            step = exchange_run(conn);
            break;
        case CONN_LISTEN:
            step = listen_run(conn);
            break;
        case CONN_RELAY:
            step = relay_run(conn);
            break;
        case CONN_LINGER:
            step = linger_run(conn);
            break;
        case CONN_DIAL:
        case CONN_CLOSED:
            step = CONN_WAIT;
            break;
        }
    }
}

/* Sends what is queued. Returns true if that made room for a side that was held up: bytes of it may
 * be inside of TLS already, where no event of its socket would tell of them. */
static bool flush(struct conn *conn)
{
    if (channel_flush(conn->guest) < 0) {
        conn_abort(conn, "guest-gone");
        return false;
    }
    if (conn->upstream && channel_flush(conn->upstream) < 0)
        return false; /* shows, and is said better, when it is read */
    return conn->held && conn_room(conn->guest) && (!conn->upstream || conn_room(conn->upstream));
}

void conn_run(struct conn *conn)
{
    if (conn->state == CONN_CLOSED)
        return;
    if (channel_gone(conn->guest) && conn->state == CONN_HTTP && exchange_waits(conn)) {
        conn_abort(conn, "guest-gone");
        return;
    }
    conn->budget = TURN_BYTES_MAX;
    do {
        conn->held = false;
        run_states(conn);
    } while (conn->state != CONN_CLOSED && flush(conn));
    if (conn->state == CONN_CLOSED)
        return;
    if (conn->budget == 0)
        engine_again(conn->engine, conn);
    watch(conn);
}

void conn_drain(struct conn *conn)
{
    switch (conn->state) {
    case CONN_PEEK:
    case CONN_HANDSHAKE:
        conn_close(conn); /* nothing was asked for yet */
        break;
    case CONN_HTTP:
        if (conn->exchange.state == EXCHANGE_REQUEST && !conn->is_stream)
            conn_close(conn);
        break;
    case CONN_DIAL:
    case CONN_LISTEN:
    case CONN_RELAY:
    case CONN_LINGER:
    case CONN_CLOSED:
        break;
    }
}

static void put_reply(struct buffer *out, int status, const char *text)
{
    uint8_t header[BG_REPLY_HEADER_SIZE];
    struct bg_reply_header reply = {.status = status, .body_size = (uint32_t)strlen(text)};
    bg_reply_header_emit(&reply, header);
    buffer_put(out, header, sizeof header);
    buffer_put_text(out, text);
}

void conn_refuse(int fd, int status, const char *text)
{
    struct buffer out = buffer_init(BG_REPLY_HEADER_SIZE + BG_REPLY_TEXT_MAX);
    put_reply(&out, status, text);
    /* A new socket's buffer has room for it; and whoever does not read it has lost nothing. */
    if (buffer_ok(&out))
        (void)send(fd, buffer_bytes(&out), buffer_size(&out), MSG_NOSIGNAL | MSG_DONTWAIT);
    buffer_reset(&out);
    (void)close(fd);
}

/* Ports of protocols that are not HTTP: a refused client there could not read an answer in HTTP, or
 * would wait for the other side to speak. It is told by a reset. */
static bool refused_at_once(const struct destination *to)
{
    static const uint16_t others[] = {
        1433, 1521, 2049, 3306, 3389, 5432, 5672, 5900, 6379, 9092, 11211, 27017,
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (to->port == others[i])
            return true;
    return to->port < 1024 && to->port != 80 && to->port != 443;
}

/* NULL: there are too many, or there is no memory. */
static struct conn *new_conn(struct engine *engine, uint32_t stream, const struct destination *to)
{
    struct conn *conn = engine_has_room(engine) ? calloc(1, sizeof *conn) : NULL;
    if (!conn)
        return NULL;
    conn->engine = engine;
    conn->stream = stream;
    conn->to_known = to != NULL;
    if (to)
        conn->to = *to;
    conn->rule = to ? policy_find(engine->opts.policy, to) : NULL;
    conn->denial = to && !conn->rule ? policy_denial(engine->opts.policy, to) : NULL;
    conn->guest_in = buffer_init(sizeof engine->scratch);
    conn->started_ms = uv_now(engine->loop);
    return conn;
}

/* Its guest's channel is there. */
static void start(struct conn *conn)
{
    (void)uv_timer_init(conn->engine->loop, &conn->timer); /* cannot fail */
    conn->timer.data = conn;
    conn->open_handles = 2;
    exchange_init(conn);
    engine_add(conn->engine, conn);
}

int conn_open_stream(struct engine *engine, uint32_t stream, const struct destination *to,
                     const struct channel_opts *opts, struct channel **ret)
{
    struct conn *conn = new_conn(engine, stream, to);
    if (!conn)
        return -EAGAIN;
    const struct channel_opts both[2] = {
        {.on_ready = channel_ready, .on_closed = channel_closed, .owner = conn}, *opts};
    struct channel *ends[2];
    int r = channel_open_pair(engine->loop, both, ends, NULL);
    if (r < 0) {
        free(conn);
        return r;
    }
    conn->guest = ends[0];
    conn->is_stream = true;
    *ret = ends[1];
    start(conn);
    start_http(conn, /* tls= */ true);
    watch(conn);
    return 0;
}

void conn_open(struct engine *engine, int fd, uint32_t stream, const struct destination *to,
               bool reply)
{
    struct bg_err err;
    struct conn *conn = new_conn(engine, stream, to);
    if (!conn) {
        if (reply)
            conn_refuse(fd, -EAGAIN, "too many connections");
        else
            (void)close(fd); /* nothing was promised */
        return;
    }
    if (reply && to && !conn->rule && refused_at_once(to)) {
        conn_audit(conn, AUDIT_DENY, refusal(conn), "tcp", 0, NULL);
        conn_refuse(fd, -EACCES, "not allowed by this sandbox's rules");
        free(conn);
        return;
    }
    struct channel_opts opts = {
        .on_ready = channel_ready, .on_closed = channel_closed, .owner = conn};
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ||
        channel_open(engine->loop, fd, &opts, &conn->guest, &err) < 0) {
        bg_log(engine->opts.log, BG_LOG_ERROR, "stream %u: cannot serve it", stream);
        (void)close(fd); /* the agent sees its stream end */
        free(conn);
        return;
    }
    start(conn);
    if (reply)
        put_reply(channel_out(conn->guest), 0, "");
    if (to)
        conn_start_peek(conn);
    else
        start_http(conn, /* tls= */ false);
    conn_run(conn);
}
