#include "host/gateway/conn.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <jansson.h>

#include "common/limits.h"
#include "common/quote.h"
#include "host/cli/ssh_names.h"
#include "host/gateway/http_request.h"
#include "host/gateway/loopback.h"
#include "host/gateway/openapi.h"
#include "host/gateway/route.h"
#include "host/gateway/tunnel.h"
#include "host/gateway/web.h"
#include "host/gateway/websocket.h"

#define READ_SIZE       (64 * 1024)
#define IDLE_MS         60000 /* without a request under way, or for one to come in whole */
#define CLOSE_MS        5000 /* for what was written last to get out, and for a WebSocket's close */
#define REMOVAL_MS      8000 /* the SDK waits 10 s for that, and its volumes may take longer */
#define KEEPALIVE_S     30   /* a client's machine that vanished is noticed in some minutes */
#define KEPT_MAX        (READ_SIZE * 2) /* bytes behind a request that is under way */
#define GOING_AWAY_CODE 1001

struct conn {
    LIST_ENTRY(conn) link;
    struct conn_shared *shared;
    uv_tcp_t tcp;
    struct tls *tls; /* NULL: plain */
    uv_timer_t timer;
    unsigned open_handles; /* whose memory the loop has */
    enum { CONN_REQUEST, CONN_ANSWERING, CONN_SOCKET, CONN_TUNNEL, CONN_CLOSING } state;
    bool reading;
    bool last;  /* the answer under way is the connection's last */
    bool ended; /* a WebSocket: no more messages are taken, the close is under way */
    struct http_request request;
    uint8_t *kept; /* read while ANSWERING */
    size_t kept_size;
    char token[64];            /* name of the one that the request under way has */
    bool all;                  /* that is the machine owner's */
    const struct login *login; /* the request under way has it by this one; NULL: by itself */
    char protocol[64];         /* a field for the answer 101, or "" */
    char set_cookie[WEB_COOKIE_FIELD_SIZE]; /* a field for the answer under way, or "" */
    char accept[WEBSOCKET_ACCEPT_SIZE];
    char *fields; /* more of the next answer's head, each with its CRLF; NULL: none */
    uint8_t *raw; /* of the request, until it is known whether it is for a sandbox */
    size_t raw_size;
    struct tunnel *tunnel;
    char used[ROUTE_ID_SIZE]; /* the sandbox that this is a use of, or "" */
    uint16_t port;            /* that the tunnel leads to */
    bool answered;            /* the answer's first line has passed */
    bool tunnel_ended;        /* all that it has said is on its way */
    struct websocket *ws;
    struct session *session;
    bool looks_on;  /* the sandbox is not to end with this connection */
    bool in_feed;   /* of ws: it and the session must not be freed */
    bool broken;    /* it is to be closed by the timer, at once */
    bool driving;   /* drive() is at work */
    bool head_seen; /* of the request: it is not a sandbox's */
    uint8_t buffer[READ_SIZE];
};

static void close_now(struct conn *c);
static void set_reading(struct conn *c, bool on);
static void drive(struct conn *c);
static void timer_fired(uv_timer_t *timer);

/* ---- writing ---- */

struct write {
    uv_write_t request;
    struct conn *conn;
    void *bytes;
};

static size_t unsent(const struct conn *c)
{
    return uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp);
}

static void wrote(uv_write_t *request, int status)
{
    struct write *w = request->data;
    struct conn *c = w->conn;
    free(w->bytes);
    free(w);
    if (c->state == CONN_CLOSING)
        return;
    bool over = c->tunnel_ended || (c->last && c->state == CONN_REQUEST);
    if (status < 0 || (over && unsent(c) == 0))
        close_now(c);
    else if (c->tunnel && unsent(c) <= BG_GATEWAY_OUT_MAX / 2)
        tunnel_pause(c->tunnel, false);
    else if (c->session && unsent(c) <= BG_GATEWAY_OUT_MAX / 2)
        session_congested(c->session, false);
}

/* Closes it in the loop's next turn: whoever writes may be deep in what would be freed. */
static void close_soon(struct conn *c)
{
    if (c->state == CONN_CLOSING)
        return;
    c->broken = c->ended = true;
    (void)uv_timer_start(&c->timer, timer_fired, 0, 0); /* fails only when closing */
}

/* bytes: taken; as they go to the network. What cannot be sent is the connection's end. */
static void send_raw(struct conn *c, void *bytes, size_t size)
{
    struct write *w = c->state == CONN_CLOSING ? NULL : calloc(1, sizeof *w);
    if (!w) {
        free(bytes);
        close_soon(c);
        return;
    }
    *w = (struct write){.conn = c, .bytes = bytes};
    w->request.data = w;
    const uv_buf_t buffer = uv_buf_init(bytes, (unsigned)size); /* far below 4 GiB */
    c->shared->session.metrics->bytes_out += size;
    if (uv_write(&w->request, (uv_stream_t *)&c->tcp, &buffer, 1, wrote) < 0) {
        free(bytes);
        free(w);
        close_soon(c);
    } else if (c->session && unsent(c) > BG_GATEWAY_OUT_MAX) {
        session_congested(c->session, true);
    } else if (c->tunnel && unsent(c) > BG_GATEWAY_OUT_MAX) {
        tunnel_pause(c->tunnel, true);
    }
}

/* What TLS has to say. */
static void flush_tls(struct conn *c)
{
    uint8_t *bytes;
    size_t size;
    if (tls_output(c->tls, &bytes, &size) < 0)
        close_soon(c);
    else if (size > 0)
        send_raw(c, bytes, size);
}

/* The same for what is meant. bytes: taken. */
static void send_bytes(struct conn *c, void *bytes, size_t size)
{
    if (!c->tls) {
        send_raw(c, bytes, size);
        return;
    }
    int r = tls_write(c->tls, bytes, size);
    free(bytes);
    if (r < 0)
        close_soon(c);
    else
        flush_tls(c);
}

static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *text;
    } reasons[] = {{200, "OK"},
                   {400, "Bad Request"},
                   {401, "Unauthorized"},
                   {403, "Forbidden"},
                   {404, "Not Found"},
                   {405, "Method Not Allowed"},
                   {409, "Conflict"},
                   {413, "Content Too Large"},
                   {421, "Misdirected Request"},
                   {426, "Upgrade Required"},
                   {429, "Too Many Requests"},
                   {431, "Request Header Fields Too Large"},
                   {500, "Internal Server Error"},
                   {502, "Bad Gateway"},
                   {501, "Not Implemented"},
                   {503, "Service Unavailable"}};
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        if (reasons[i].status == status)
            return reasons[i].text;
    return "Error";
}

/* Answers the request under way; the next one may come. fields: lines, with their ends. */
static void answer_bytes(struct conn *c, int status, const char *type, const char *fields,
                         const void *bytes, size_t size)
{
    char *head = NULL;
    if (!c->request.keep_alive || status == 431 || status == 413)
        c->last = true;
    int head_size =
        asprintf(&head,
                 "HTTP/1.1 %d %s\r\n"
                 "Content-Type: %s\r\n"
                 "Content-Length: %zu\r\n"
                 "Cache-Control: no-store\r\n"
                 "X-Content-Type-Options: nosniff\r\n"
                 "%s%s%s%s\r\n",
                 status, reason_of(status), type, size, fields, c->fields ? c->fields : "",
                 c->set_cookie, c->last ? "Connection: close\r\n" : "");
    char *message = head_size < 0 ? NULL : malloc((size_t)head_size + size);
    explicit_bzero(c->set_cookie, sizeof c->set_cookie);
    free(BG_TAKE(c->fields));
    c->state = CONN_REQUEST;
    if (message)
        memcpy(message, head, (size_t)head_size);
    if (head_size >= 0)
        free(head);
    if (!message) {
        close_soon(c);
        return;
    }
    memcpy(message + head_size, bytes, size);
    send_bytes(c, message, (size_t)head_size + size);
    http_request_done(&c->request);
    http_request_init(&c->request);
    c->head_seen = false;
    if (!c->broken)
        (void)uv_timer_start(&c->timer, timer_fired, IDLE_MS, 0); /* fails only when closing */
}

/* body: taken; NULL: out of memory. */
static void answer(struct conn *c, int status, json_t *body)
{
    BG_AUTOFREE char *text = body ? json_dumps(body, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    json_decref(body);
    if (text)
        answer_bytes(c, status, "application/json", "", text, strlen(text));
    else
        close_soon(c);
}

static void refuse(struct conn *c, int status, const char *code, const char *text)
{
    metric_count(&c->shared->session.metrics->refusals, code);
    answer(c, status, json_pack("{s:s, s:s}", "code", code, "message", text));
}

struct known_error {
    int code, status;
    const char *name;
};

static void refuse_known(struct conn *c, const struct known_error *known, size_t count,
                         const struct bg_err *err)
{
    for (size_t i = 0; i < count; i++)
        if (known[i].code == err->code) {
            refuse(c, known[i].status, known[i].name, err->text);
            return;
        }
    refuse(c, 500, "INTERNAL_ERROR", err->text);
}

/* An error of ours, or of what the client asked for. */
static void refuse_err(struct conn *c, const struct bg_err *err)
{
    static const struct known_error known[] = {
        {-EINVAL, 400, "BAD_REQUEST"},        {-EOPNOTSUPP, 501, "NOT_SUPPORTED"},
        {-EMFILE, 429, "TOO_MANY_SANDBOXES"}, {-EDQUOT, 429, "QUOTA_EXCEEDED"},
        {-ERANGE, 403, "LIFETIME_TOO_LONG"},  {-EKEYREJECTED, 403, "TOKEN_IN_SANDBOX"},
        {-ENOSPC, 503, "NO_SPACE"},           {-ENOMEDIUM, 404, "VOLUME_NOT_FOUND"},
        {-EBUSY, 409, "VOLUME_IN_USE"},       {-EEXIST, 409, "SLUG_IN_USE"},
        {-EMLINK, 409, "TOO_MANY_SNAPSHOTS"}, {-EPERM, 403, "FORBIDDEN"},
        {-EUSERS, 429, "TOO_MANY_VOLUMES"},   {-ENOMEM, 503, "NO_MEMORY"},
    };
    refuse_known(c, known, sizeof known / sizeof *known, err);
}

/* ---- the WebSocket ---- */

static void ws_output(void *owner, uint8_t *bytes, size_t size)
{
    send_bytes(owner, bytes, size);
}

static void ws_text(void *owner, const char *text, size_t size)
{
    struct conn *c = owner;
    if (c->session && !c->ended)
        session_message(c->session, text, size);
}

static void ws_pong(void *owner, uint64_t number)
{
    struct conn *c = owner;
    if (c->session && !c->ended)
        session_pong(c->session, number);
}

static void session_send(void *owner, const char *text, size_t size)
{
    struct conn *c = owner;
    if (c->state != CONN_SOCKET || c->ended)
        return;
    if (websocket_send(c->ws, text, size) < 0)
        close_soon(c);
}

static void session_ping(void *owner, uint64_t number)
{
    struct conn *c = owner;
    if (c->state == CONN_SOCKET && !c->ended && websocket_ping(c->ws, number) < 0)
        close_soon(c);
}

/* Ends the session, and gives the closing handshake its time. */
static void end_socket(struct conn *c, uint16_t code, const char *reason)
{
    char cut[124];
    if (c->state != CONN_SOCKET || c->ended)
        return;
    c->ended = true;
    (void)snprintf(cut, sizeof cut, "%s", reason);
    websocket_close(c->ws, code, cut);
    if (c->state == CONN_SOCKET)
        (void)uv_timer_start(&c->timer, timer_fired, CLOSE_MS, 0); /* fails only when closing */
    set_reading(c, true);
}

static void session_ends(void *owner, uint16_t code, const char *reason)
{
    end_socket(owner, code, reason);
}

static void session_input(void *owner)
{
    struct conn *c = owner;
    if (c->state == CONN_SOCKET)
        set_reading(c, c->ended || session_wants_input(c->session));
}

static void feed_socket(struct conn *c, const uint8_t *bytes, size_t size)
{
    struct bg_err err;
    c->in_feed = true;
    int r = websocket_feed(c->ws, bytes, size, &err);
    c->in_feed = false;
    if (c->state == CONN_CLOSING) {
        websocket_free(BG_TAKE(c->ws));
        session_close(BG_TAKE(c->session));
    } else if (r < 0 || websocket_over(c->ws)) {
        close_now(c);
    } else if (websocket_closing(c->ws) && !c->ended) { /* its frames were wrong */
        c->ended = true;
        (void)uv_timer_start(&c->timer, timer_fired, CLOSE_MS, 0); /* fails only when closing */
    }
}

/* Its client is on another machine. One whose address is not known is taken for near. */
static bool is_far(const struct conn *c)
{
    struct sockaddr_storage address;
    int size = sizeof address;
    return uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&address, &size) == 0 &&
           !loopback_is(&address);
}

/* The answer 101, and the session after it. */
static void open_socket(struct conn *c, struct sandbox_entry *entry)
{
    const struct websocket_opts ws = {.message_max = BG_GATEWAY_MESSAGE_MAX,
                                      .on_text = ws_text,
                                      .on_pong = ws_pong,
                                      .on_output = ws_output,
                                      .owner = c};
    const struct session_opts session = {.shared = &c->shared->session,
                                         .entry = entry,
                                         .looks_on = c->looks_on,
                                         .far = is_far(c),
                                         .send = session_send,
                                         .ping = session_ping,
                                         .close = session_ends,
                                         .on_input = session_input,
                                         .owner = c};
    struct bg_err err;
    char *message = NULL;
    int r = websocket_new(&ws, &c->ws, &err);
    if (r == 0)
        r = session_open(&session, &c->session, &err);
    int size = r < 0 ? -1
                     : asprintf(&message,
                                "HTTP/1.1 101 Switching Protocols\r\n"
                                "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                                "Sec-WebSocket-Accept: %s\r\n"
                                "%sX-Deno-Sandbox-Id: %s\r\n\r\n",
                                c->accept, c->protocol, entry->sandbox.name);
    if (size < 0) {
        close_soon(c);
        return;
    }
    c->state = CONN_SOCKET;
    (void)uv_timer_stop(&c->timer); /* cannot fail, as the next two: not closing */
    (void)uv_tcp_keepalive(&c->tcp, 1, KEEPALIVE_S);
    (void)uv_tcp_nodelay(&c->tcp, 1);
    http_request_done(&c->request);
    send_bytes(c, message, (size_t)size);
    set_reading(c, true);
}

/* ---- exposed ports ---- */

static void *copy_of(const void *bytes, size_t size)
{
    void *copy = malloc(size);
    if (copy)
        memcpy(copy, bytes, size);
    return copy;
}

/* `Connection: close` behind the first line: the client shall not send its next request here, nor
 * the guest wait for one. *size: of bytes, and of the result, which is heap; NULL: out of memory.
 */
static uint8_t *with_close(const uint8_t *bytes, size_t *size)
{
    static const char field[] = "Connection: close\r\n";
    const uint8_t *end = memchr(bytes, '\n', *size);
    size_t line = end ? (size_t)(end - bytes) + 1 : 0, extra = end ? sizeof field - 1 : 0;
    uint8_t *out = malloc(*size + extra);
    if (!out)
        return NULL;
    memcpy(out, bytes, line);
    memcpy(out + line, field, extra);
    memcpy(out + line + extra, bytes + line, *size - line);
    *size += extra;
    return out;
}

static void tunnel_data(void *owner, const uint8_t *bytes, size_t size)
{
    struct conn *c = owner;
    static const char interim[] = "HTTP/1.1 1";
    bool head = !c->request.upgrade && !c->answered &&
                (size < sizeof interim - 1 || memcmp(bytes, interim, sizeof interim - 1) != 0);
    c->answered |= head || c->request.upgrade;
    void *copy = head ? with_close(bytes, &size) : copy_of(bytes, size);
    if (copy)
        send_bytes(c, copy, size);
    else
        close_soon(c);
}

/* One that has answered nothing has not refused anything either: who asked is told. */
static void tunnel_over(void *owner, int status)
{
    struct conn *c = owner;
    char text[160];
    tunnel_close(BG_TAKE(c->tunnel));
    if (status < 0 || !c->answered) {
        c->last = true;
        if (status == -ECONNREFUSED)
            (void)snprintf(text, sizeof text, "nothing listens at port %u of %s", c->port, c->used);
        else if (status < 0)
            (void)snprintf(text, sizeof text, "port %u of %s: %s", c->port, c->used,
                           strerror(-status));
        else
            (void)snprintf(text, sizeof text,
                           "port %u of %s: its server has ended the connection without an answer",
                           c->port, c->used);
        refuse(c, 502, "PORT_NOT_REACHED", text);
        return;
    }
    c->tunnel_ended = true;
    if (unsent(c) == 0)
        close_soon(c);
}

static void tunnel_drained(void *owner)
{
    struct conn *c = owner;
    set_reading(c, true);
}

/* bytes: heap, taken. */
static void write_tunnel(struct conn *c, void *bytes, size_t size)
{
    if (!bytes || tunnel_write(c->tunnel, bytes, size) < 0)
        close_soon(c);
    else if (tunnel_unsent(c->tunnel) > BG_GATEWAY_OUT_MAX / 4)
        set_reading(c, false);
}

/* After a handshake all bytes pass. Else one request does and nothing behind it, whatever the guest
 * answers: a client that keeps connections for several names (a proxy) would hand the next request,
 * with its token, to the guest. */
static void feed_tunnel(struct conn *c, const uint8_t *bytes, size_t size)
{
    struct bg_err err;
    if (!c->tunnel)
        return; /* it has ended, and what it said is on its way */
    if (!c->request.upgrade &&
        (c->request.complete || http_request_feed(&c->request, bytes, size, &size, &err) < 0))
        return;
    if (size > 0)
        write_tunnel(c, copy_of(bytes, size), size);
}

static void write_head(struct conn *c)
{
    size_t size = c->raw_size;
    void *bytes = c->request.upgrade ? copy_of(c->raw, size) : with_close(c->raw, &size);
    write_tunnel(c, bytes, size);
}

/* Of one that was there when it was asked for, and was ended before it was awake. */
static bool has_ended(const struct bg_err *err)
{
    return err->code == -ENOENT || err->code == -ENOTCONN;
}

/* The sandbox runs: the request goes to it, as far as it has come. */
static void tunnel_awake(void *owner, struct sandbox_entry *entry, const struct bg_err *why)
{
    struct conn *c = owner;
    struct bg_err err;
    c->state = CONN_REQUEST;
    if (why) {
        bool ended = has_ended(why);
        refuse(c, ended ? 404 : 502, ended ? "NOT_EXPOSED" : "PORT_NOT_REACHED", why->text);
        return;
    }
    const struct tunnel_opts opts = {.paths = c->shared->session.paths,
                                     .sandbox = &entry->sandbox,
                                     .port = entry->record.port,
                                     .on_data = tunnel_data,
                                     .on_end = tunnel_over,
                                     .on_drain = tunnel_drained,
                                     .owner = c};
    if (tunnel_open(c->shared->session.loop, &opts, &c->tunnel, &err) < 0) {
        refuse(c, 502, "PORT_NOT_REACHED", err.text);
        return;
    }
    sandboxes_use_begin(entry);
    (void)snprintf(c->used, sizeof c->used, "%s", entry->sandbox.name);
    c->port = entry->record.port;
    c->state = CONN_TUNNEL;
    (void)uv_timer_stop(&c->timer); /* cannot fail */
    set_reading(c, true);           /* it may have waited */
    write_head(c);
    free(BG_TAKE(c->raw));
    drive(c); /* what came meanwhile; nothing if it is at work already */
}

/* The request's Host is a sandbox's: it goes to the port that was exposed, and wakes it. Nobody is
 * asked for a token, as the SDK has it. */
static void open_tunnel(struct conn *c, const char *id)
{
    struct sandbox_entry *entry = sandboxes_find_any(c->shared->session.sandboxes, id);
    c->last = true; /* of our own answers */
    if (!entry || entry->record.port == 0) {
        refuse(c, 404, "NOT_EXPOSED", "no such sandbox, or none of its ports is exposed");
        return;
    }
    c->request.pass_body = true;
    c->state = CONN_ANSWERING;
    sandboxes_wake(entry, tunnel_awake, c);
}

/* ---- routes ---- */

static void connected(void *owner, struct sandbox_entry *entry, const struct bg_err *err)
{
    struct conn *c = owner;
    if (err)
        refuse_err(c, err);
    else
        open_socket(c, entry);
    drive(c);
}

static void awake(void *owner, struct sandbox_entry *entry, const struct bg_err *err)
{
    struct conn *c = owner;
    if (err && has_ended(err)) {
        refuse(c, 404, "SANDBOX_NOT_FOUND", err->text);
        drive(c);
        return;
    }
    connected(c, entry, err);
}

/* A WebSocket to one that may sleep. */
static void do_connect(struct conn *c, struct sandbox_entry *entry, bool looks_on,
                       sandboxes_done *on_done)
{
    c->looks_on = looks_on;
    c->state = CONN_ANSWERING;
    sandboxes_wake(entry, on_done, c);
}

static bool take_upgrade(struct conn *c)
{
    const char *key;
    if (!http_request_is_websocket(&c->request, &key)) {
        refuse(c, 426, "UPGRADE_REQUIRED", "this route is a WebSocket's");
        return false;
    }
    websocket_accept(key, c->accept);
    (void)snprintf(c->protocol, sizeof c->protocol, "%s",
                   web_offers_protocol(&c->request) ? "Sec-WebSocket-Protocol: " WEB_PROTOCOL "\r\n"
                                                    : "");
    return true;
}

static uint64_t unix_ms(void)
{
    uv_timeval64_t now;
    (void)uv_gettimeofday(&now); /* cannot fail with a place to write to */
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_usec / 1000;
}

/* A token of the gateway's that would get into the sandbox as a secret or a variable. */
static int check_stray(const struct conn *c, const struct create_config *config, struct bg_err *err)
{
    for (size_t i = 0; i < config->secret_count; i++) {
        int r = tokens_check_stray(&c->shared->tokens->tokens, config->secrets[i].value, err);
        if (r < 0)
            return bg_err_prefix(err, "secret %.64s", config->secrets[i].name);
    }
    const char *name;
    json_t *value;
    json_object_foreach(config->env, name, value)
    {
        int r = tokens_check_stray(&c->shared->tokens->tokens, json_string_value(value), err);
        if (r < 0)
            return bg_err_prefix(err, "env %.64s", name);
    }
    return 0;
}

static void do_create(struct conn *c)
{
    const struct quota quota = tokens_quota(&c->shared->tokens->tokens, c->token);
    const char *text = http_request_field(&c->request, "x-deno-sandbox-config");
    struct create_config config;
    struct bg_err err;
    if (!take_upgrade(c))
        return;
    if (!text) {
        refuse(c, 400, "BAD_REQUEST", "no field x-deno-sandbox-config");
        return;
    }
    if (create_config_parse(text, strlen(text), unix_ms(), &config, &err) < 0) {
        refuse_err(c, &err);
        return;
    }
    if (check_stray(c, &config, &err) < 0) {
        create_config_done(&config);
        refuse_err(c, &err);
        return;
    }
    c->looks_on = false;
    c->state = CONN_ANSWERING;
    sandboxes_create(c->shared->session.sandboxes, &config, c->token, &quota, connected, c);
}

static void removed(void *owner, struct sandbox_entry *entry, const struct bg_err *err)
{
    struct conn *c = owner;
    (void)entry;
    if (err)
        refuse_err(c, err);
    else
        answer(c, 200, json_object());
    drive(c);
}

/* Nobody finds it any more; what is left of it goes without a witness. */
static void removal_goes_on(uv_timer_t *timer)
{
    struct conn *c = timer->data;
    sandboxes_forget(c->shared->session.sandboxes, c);
    removed(c, NULL, NULL);
}

static void do_remove(struct conn *c, struct sandbox_entry *entry)
{
    c->state = CONN_ANSWERING;
    (void)uv_timer_start(&c->timer, removal_goes_on, REMOVAL_MS, 0); /* fails only when closing */
    sandboxes_remove(entry, removed, c);
}

static void do_extend(struct conn *c, struct sandbox_entry *entry)
{
    json_auto_t *body = json_loadb(c->request.body ? (const char *)c->request.body : "",
                                   c->request.body_size, JSON_REJECT_DUPLICATES, NULL);
    const struct quota quota = tokens_quota(&c->shared->tokens->tokens, c->token);
    uint64_t at = 0;
    struct bg_err err;
    int r = create_config_stop_at(json_object_get(body, "stop_at_ms"), unix_ms(), &at, &err);
    if (r == 0)
        r = sandboxes_extend(entry, at, &quota, &err);
    if (r < 0)
        refuse_err(c, &err);
    else
        answer(c, 200, json_pack("{s:I}", "stop_at_ms", (json_int_t)at));
}

static void do_list(struct conn *c)
{
    json_auto_t *labels = NULL;
    if (route_labels(http_request_target(&c->request), &labels) < 0)
        refuse(c, 400, "BAD_REQUEST", "the query cannot be read");
    else
        answer(c, 200, sandboxes_list(c->shared->session.sandboxes, c->token, labels));
}

/* Where a list goes on: the SDK wants a whole address. */
static void link_next(struct conn *c, const char *cursor)
{
    const char *target = http_request_target(&c->request);
    if (asprintf(&c->fields, "Link: <http%s://%s%.*s?cursor=%s>; rel=\"next\"\r\n",
                 c->tls ? "s" : "", http_request_field(&c->request, "host"),
                 (int)strcspn(target, "?"), target, cursor) < 0)
        c->fields = NULL; /* out of memory: as if it were the last page; the answer fails too */
}

static void volumes_done(void *owner, json_t *body, const char *cursor, const struct bg_err *err)
{
    struct conn *c = owner;
    if (cursor[0] != '\0')
        link_next(c, cursor);
    if (err)
        refuse_err(c, err);
    else
        answer(c, 200, body);
    drive(c);
}

static void do_volumes(struct conn *c, const struct volume_target *target)
{
    json_auto_t *body = json_loadb(c->request.body ? (const char *)c->request.body : "",
                                   c->request.body_size, JSON_REJECT_DUPLICATES, NULL);
    c->state = CONN_ANSWERING;
    volume_jobs_start(c->shared->volumes, target, c->token, http_request_target(&c->request), body,
                      volumes_done, c);
}

static void do_metrics(struct conn *c)
{
    struct metrics_now now = {.connections = c->shared->count};
    BG_AUTOFREE struct metric_sandbox *sandboxes = NULL;
    const struct conn *other;
    if (!tokens_quota(&c->shared->tokens->tokens, c->token).metrics) {
        refuse(c, 403, "METRICS_NOT_ALLOWED",
               "this token may not read metrics, which tell of all tokens; allow it: bellglass "
               "serve token set NAME --metrics yes");
        return;
    }
    LIST_FOREACH(other, &c->shared->conns, link)
    {
        now.websockets += other->state == CONN_SOCKET;
        now.tunnels += other->state == CONN_TUNNEL;
    }
    int r = sandboxes_count(c->shared->session.sandboxes, &sandboxes, &now.sandbox_count);
    now.sandboxes = sandboxes;
    BG_AUTOFREE char *text = r < 0 ? NULL : metrics_text(c->shared->session.metrics, &now);
    if (text)
        answer_bytes(c, 200, "text/plain; version=0.0.4; charset=utf-8", "", text, strlen(text));
    else
        close_soon(c);
}

/* The one that the client has reached us by. */
static unsigned local_port(const struct conn *c)
{
    struct sockaddr_storage address;
    int size = sizeof address;
    if (uv_tcp_getsockname(&c->tcp, (struct sockaddr *)&address, &size) < 0)
        return 0; /* the connection is gone: nobody reads it */
    return ntohs(address.ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)&address)->sin6_port
                                               : ((const struct sockaddr_in *)&address)->sin_port);
}

static void do_route(struct conn *c, const struct route *route)
{
    struct sandbox_entry *entry =
        route->id[0] ? sandboxes_find(c->shared->session.sandboxes, route->id, c->token) : NULL;
    if (route->id[0] && !entry && route->kind != ROUTE_HOSTED &&
        route->kind != ROUTE_OTHER_METHOD) {
        refuse(c, 404, "SANDBOX_NOT_FOUND", "there is no such sandbox");
        return;
    }
    switch (route->kind) {
    case ROUTE_NONE:
        refuse(c, 404, "NOT_FOUND", "bellglass serve has no such route");
        break;
    case ROUTE_OTHER_METHOD:
        refuse(c, 405, "METHOD_NOT_ALLOWED", "this route wants another method");
        break;
    case ROUTE_HOSTED:
        refuse(c, 501, "NOT_IMPLEMENTED",
               "apps and deployments are of the hosted service; bellglass serve has none");
        break;
    case ROUTE_HEALTH:
        answer(c, 200, json_pack("{s:b}", "ok", 1));
        break;
    case ROUTE_OPENAPI:
        answer_bytes(c, 200, "application/json", "", openapi_text, openapi_size);
        break;
    case ROUTE_METRICS:
        do_metrics(c);
        break;
    case ROUTE_CREATE:
        do_create(c);
        break;
    case ROUTE_CONNECT:
        if (take_upgrade(c))
            do_connect(c, entry, /* looks_on= */ c->login != NULL, awake);
        break;
    case ROUTE_DELETE:
        do_remove(c, entry);
        break;
    case ROUTE_EXTEND:
        do_extend(c, entry);
        break;
    case ROUTE_EXPOSE_HTTP:
        answer(c, 200,
               json_pack("{s:o}", "domain",
                         json_sprintf("%s.localhost:%u", entry->sandbox.name, local_port(c))));
        break;
    case ROUTE_EXPOSE_SSH: /* a name that `bellglass ssh-config --write` makes ssh understand */
        answer(c, 200,
               json_pack("{s:o, s:s}", "hostname",
                         json_sprintf("%s" SSH_DOMAIN, entry->sandbox.name), "username", "app"));
        break;
    case ROUTE_EXPOSE_OTHER:
        refuse(c, 501, "NOT_SUPPORTED",
               "bellglass serve has no VS Code in the browser; `bellglass code ID` opens one here");
        break;
    case ROUTE_LIST:
        do_list(c);
        break;
    case ROUTE_VOLUMES:
        do_volumes(c, &route->volumes);
        break;
    case ROUTE_SHOW:
        answer(c, 200, sandboxes_describe(entry));
        break;
    }
}

static void set_token(struct conn *c, const struct token *token)
{
    (void)snprintf(c->token, sizeof c->token, "%s", token ? token->name : "");
    c->all = token && token->all;
}

/* The token that a browser has shown before, if it is still one. */
static const struct token *token_of_login(struct conn *c)
{
    const char *cookies = http_request_field(&c->request, "cookie");
    char key[LOGINS_SECRET_SIZE], name[WEB_COOKIE_NAME_SIZE];
    if (!cookies || !web_key(&c->request, key) || !web_from_own_page(&c->request))
        return NULL;
    web_cookie_name(local_port(c), name);
    c->login = logins_find(c->shared->logins, cookies, name, key, uv_now(c->tcp.loop));
    const struct token *token =
        c->login ? tokens_named(&c->shared->tokens->tokens, c->login->token) : NULL;
    return token && memcmp(token->hash, c->login->token_hash, sizeof token->hash) == 0 ? token
                                                                                       : NULL;
}

static void refresh_tokens(struct conn *c)
{
    struct bg_err err;
    if (token_file_refresh(c->shared->tokens, &err) < 0)
        bg_log(c->shared->session.log, BG_LOG_ERROR, "%s; going on with what it said before",
               err.text);
}

/* Who asks; c->token is set. */
static bool authorize(struct conn *c)
{
    static const char scheme[] = "Bearer ";
    const char *field = http_request_field(&c->request, "authorization");
    const struct token *token = NULL;
    c->login = NULL;
    refresh_tokens(c);
    if (!field)
        token = token_of_login(c);
    else if (strncasecmp(field, scheme, sizeof scheme - 1) == 0)
        token = tokens_find(&c->shared->tokens->tokens, field + sizeof scheme - 1);
    set_token(c, token);
    return token != NULL;
}

/* A page of a browser must not get here: not by a name that was made to lead here (DNS rebinding),
 * and not from another origin. */
static bool check_names(struct conn *c)
{
    const char *host = http_request_field(&c->request, "host");
    const char *origin = http_request_field(&c->request, "origin");
    char id[ROUTE_ID_SIZE];
    if (!host || route_host(host, c->shared->host_names, id) != ROUTE_HOST_GATEWAY) {
        refuse(c, 421, "WRONG_HOST",
               "the Host field is none of this gateway's names; see bellglass serve --host-name");
        return false;
    }
    if (origin && !route_origin_ok(origin, host)) {
        refuse(c, 403, "WRONG_ORIGIN", "requests of other origins' pages are refused");
        return false;
    }
    return true;
}

/* ---- beyond the SDK (docs/dashboard.md) ---- */

static void refuse_extra(struct conn *c, const struct bg_err *err)
{
    static const struct known_error known[] = {
        {-EINVAL, 400, "BAD_REQUEST"},        {-ENOENT, 404, "NOT_FOUND"},
        {-EAGAIN, 409, "CONFLICT"},           {-EBUSY, 409, "CONFLICT"},
        {-EEXIST, 409, "CONFLICT"},           {-ENOTCONN, 409, "CONFLICT"},
        {-EUSERS, 429, "TOO_MANY_REQUESTS"},  {-EOPNOTSUPP, 501, "NOT_SUPPORTED"},
        {-EMFILE, 429, "TOO_MANY_SANDBOXES"}, {-EDQUOT, 429, "QUOTA_EXCEEDED"},
        {-ENOSPC, 503, "NO_SPACE"},           {-ENOMEM, 503, "NO_MEMORY"},
    };
    refuse_known(c, known, sizeof known / sizeof *known, err);
}

static void extra_answered(void *owner, json_t *value, const struct bg_err *err)
{
    struct conn *c = owner;
    if (err)
        refuse_extra(c, err);
    else
        answer(c, 200, value);
    drive(c);
}

static void answer_login(struct conn *c, const char *key)
{
    answer(c, 200,
           json_pack("{s:s*, s:s, s:b, s:b}", "key", key, "token", c->token, "all", (int)c->all,
                     "terminal", (int)web_has_terminal));
}

/* A browser shows a token, for a cookie and a key. */
static void do_login(struct conn *c)
{
    json_auto_t *body = json_loadb(c->request.body ? (const char *)c->request.body : "",
                                   c->request.body_size, JSON_REJECT_DUPLICATES, NULL);
    const char *text = json_string_value(json_object_get(body, "token"));
    uint64_t now_ms = uv_now(c->tcp.loop);
    struct login_secrets secrets;
    if (!web_from_own_page(&c->request)) {
        refuse(c, 403, "WRONG_ORIGIN", "a login is for the dashboard's own page");
        return;
    }
    if (!logins_may_try(c->shared->logins, now_ms)) {
        refuse(c, 429, "TOO_MANY_TRIES", "too many wrong tokens: wait a minute");
        return;
    }
    refresh_tokens(c);
    const struct token *token = text ? tokens_find(&c->shared->tokens->tokens, text) : NULL;
    if (!token) {
        logins_failed(c->shared->logins, now_ms);
        bg_log(c->shared->session.log, BG_LOG_WARN, "a login with a wrong token");
        refuse(c, 401, "INVALID_TOKEN", "no such token; make one: bellglass serve token add NAME");
        return;
    }
    set_token(c, token);
    logins_open(c->shared->logins, token, now_ms, &secrets);
    web_cookie_field(local_port(c), secrets.cookie, /* secure= */ c->tls != NULL, c->set_cookie);
    answer_login(c, secrets.key);
    explicit_bzero(&secrets, sizeof secrets);
}

static void do_logout(struct conn *c)
{
    if (c->login) {
        logins_close(c->shared->logins, c->login);
        web_cookie_field(local_port(c), "", /* secure= */ c->tls != NULL, c->set_cookie);
    }
    answer(c, 200, json_object());
}

static void extra_connected(void *owner, struct sandbox_entry *entry, const struct bg_err *err)
{
    struct conn *c = owner;
    if (err)
        refuse_extra(c, err);
    else
        open_socket(c, entry);
    drive(c);
}

/* A WebSocket to any sandbox; it does not end with it. */
static void do_extra_connect(struct conn *c, const struct extra_route *route)
{
    struct sandbox_entry *entry;
    struct bg_err err;
    if (!take_upgrade(c))
        return;
    if (sandboxes_reach(c->shared->session.sandboxes, route->name, c->token, c->all, &entry, &err) <
        0)
        refuse_extra(c, &err);
    else
        do_connect(c, entry, /* looks_on= */ true, extra_connected);
}

static void do_extra(struct conn *c)
{
    const struct extra_route route =
        extra_route_find(http_request_method(&c->request), http_request_target(&c->request));
    if (route.kind == EXTRA_LOGIN) {
        do_login(c);
        return;
    }
    if (!authorize(c)) {
        refuse(c, 401, "INVALID_TOKEN", "log in, or give a token: bellglass serve token add NAME");
        return;
    }
    const struct quota quota = tokens_quota(&c->shared->tokens->tokens, c->token);
    const struct extra_call call = {.route = &route,
                                    .token = c->token,
                                    .quota = &quota,
                                    .all = c->all,
                                    .body = c->request.body,
                                    .body_size = c->request.body_size};
    switch (route.kind) {
    case EXTRA_NONE:
        refuse(c, 404, "NOT_FOUND", "bellglass serve has no such route");
        break;
    case EXTRA_BAD_NAME:
        refuse(c, 404, "NOT_FOUND", "no sandbox or snapshot can have that name");
        break;
    case EXTRA_OTHER_METHOD:
        refuse(c, 405, "METHOD_NOT_ALLOWED", "this route wants another method");
        break;
    case EXTRA_LOGIN:
    case EXTRA_SESSION:
        answer_login(c, NULL);
        break;
    case EXTRA_LOGOUT:
        do_logout(c);
        break;
    case EXTRA_CONNECT:
        do_extra_connect(c, &route);
        break;
    case EXTRA_OVERVIEW:
    case EXTRA_REMOVE:
    case EXTRA_START:
    case EXTRA_STOP:
    case EXTRA_SUSPEND:
    case EXTRA_SNAPSHOT:
    case EXTRA_FORK:
    case EXTRA_RESTORE:
    case EXTRA_POLICY:
    case EXTRA_SET_POLICY:
    case EXTRA_RULE:
    case EXTRA_AUDIT:
    case EXTRA_REMOVE_SNAPSHOT:
        c->state = CONN_ANSWERING;
        extra_run(c->shared->extra, &call, extra_answered, c);
        break;
    }
}

static void do_request(struct conn *c)
{
    const char *method = http_request_method(&c->request);
    const char *target = http_request_target(&c->request);
    const struct route route = route_find(method, target);
    const struct web_page *page = web_page_find(method, target);
    bool open = route.kind == ROUTE_HEALTH || route.kind == ROUTE_OPENAPI;
    c->shared->session.metrics->requests++;
    if (!check_names(c))
        return;
    if (page) { /* there is nothing in it that is not in the program */
        answer_bytes(c, 200, page->type, web_page_fields, page->bytes, page->size);
        return;
    }
    if (extra_route_is(target)) {
        do_extra(c);
        return;
    }
    if (!open && !authorize(c)) {
        refuse(c, 401, "INVALID_TOKEN", "no such token; make one: bellglass serve token add NAME");
        return;
    }
    do_route(c, &route);
}

/* ---- reading ---- */

/* Keeps what was read of a request until its head is whole, and then looks whose it is. */
static void look_at_host(struct conn *c, const uint8_t *bytes, size_t size)
{
    char id[ROUTE_ID_SIZE];
    uint8_t *grown = realloc(c->raw, c->raw_size + size + 1);
    if (!grown) {
        close_soon(c);
        return;
    }
    memcpy(grown + c->raw_size, bytes, size);
    c->raw = grown;
    c->raw_size += size;
    if (!c->request.head_complete)
        return;
    const char *host = http_request_field(&c->request, "host");
    c->head_seen = true;
    if (host && route_host(host, c->shared->host_names, id) == ROUTE_HOST_SANDBOX) {
        open_tunnel(c, id); /* which wants raw, now or later */
        return;
    }
    if (c->request.body_large) {
        c->last = true;
        refuse(c, 413, "TOO_LARGE", "the request's body is too large");
    }
    free(BG_TAKE(c->raw));
    c->raw_size = 0;
}

/* Goes on with what was read, as far as the state lets it. */
static void drive(struct conn *c)
{
    struct bg_err err;
    if (c->driving)
        return;
    c->driving = true;
    while (c->state == CONN_REQUEST && !c->last && c->kept_size > 0) {
        size_t used = 0;
        if (http_request_feed(&c->request, c->kept, c->kept_size, &used, &err) < 0) {
            c->last = true;
            refuse(c, c->request.status, "BAD_REQUEST", err.text);
            break;
        }
        if (!c->head_seen)
            look_at_host(c, c->kept, used);
        c->kept_size -= used;
        memmove(c->kept, c->kept + used, c->kept_size);
        if (c->request.complete && c->state == CONN_REQUEST && !c->last)
            do_request(c);
    }
    c->driving = false;
    if (c->state == CONN_TUNNEL && c->kept_size > 0) {
        BG_AUTOFREE uint8_t *kept = BG_TAKE(c->kept);
        size_t size = c->kept_size;
        c->kept_size = 0;
        feed_tunnel(c, kept, size);
    } else if (c->state == CONN_SOCKET && c->kept_size > 0) {
        BG_AUTOFREE uint8_t *kept = BG_TAKE(c->kept);
        size_t size = c->kept_size;
        c->kept_size = 0;
        feed_socket(c, kept, size);
    } else if (c->state == CONN_REQUEST || c->state == CONN_ANSWERING) {
        set_reading(c, c->kept_size <= READ_SIZE);
    }
}

/* While a request is under way what follows it is kept. */
static void keep(struct conn *c, const uint8_t *bytes, size_t size)
{
    uint8_t *grown = size > KEPT_MAX - c->kept_size ? NULL : realloc(c->kept, c->kept_size + size);
    if (!grown) {
        close_now(c);
        return;
    }
    memcpy(grown + c->kept_size, bytes, size);
    c->kept = grown;
    c->kept_size += size;
    drive(c);
}

static void allocate(uv_handle_t *handle, size_t size, uv_buf_t *ret)
{
    struct conn *c = handle->data;
    (void)size;
    *ret = uv_buf_init((char *)c->buffer, READ_SIZE);
}

/* What a client sent, as it is meant. */
static void take_bytes(struct conn *c, const uint8_t *bytes, size_t size)
{
    switch (c->state) {
    case CONN_REQUEST:
    case CONN_ANSWERING:
        keep(c, bytes, size);
        break;
    case CONN_SOCKET:
        feed_socket(c, bytes, size);
        break;
    case CONN_TUNNEL:
        feed_tunnel(c, bytes, size);
        break;
    case CONN_CLOSING:
        break;
    }
}

static void take_end(struct conn *c)
{
    if (c->state != CONN_TUNNEL) {
        close_now(c);
        return;
    }
    set_reading(c, false); /* half of it: the answer may still come */
    if (c->tunnel)
        tunnel_finish(c->tunnel);
}

/* What was read is decrypted, all of it: even if reading is to stop, it is no more than one buffer.
 */
static void take_tls(struct conn *c, const uint8_t *bytes, size_t size)
{
    uint8_t plain[16 * 1024]; /* a record */
    ssize_t n = tls_feed(c->tls, bytes, size) < 0 ? -ENOMEM : 1;
    while (n > 0 && c->state != CONN_CLOSING) {
        n = tls_read(c->tls, plain, sizeof plain);
        flush_tls(c); /* of the handshake, or an alert */
        if (n > 0)
            take_bytes(c, plain, (size_t)n);
    }
    if (n == 0)
        take_end(c);
    else if (n < 0 && n != -EAGAIN)
        close_soon(c); /* when the alert is out */
}

static void have_read(uv_stream_t *tcp, ssize_t n, const uv_buf_t *buffer)
{
    struct conn *c = tcp->data;
    (void)buffer;
    c->shared->session.metrics->bytes_in += n > 0 ? (uint64_t)n : 0;
    if (n == UV_EOF && !c->tls) /* with TLS nobody vouches for it: it may be cut off */
        take_end(c);
    else if (n < 0)
        close_now(c);
    else if (c->tls)
        take_tls(c, c->buffer, (size_t)n);
    else
        take_bytes(c, c->buffer, (size_t)n);
}

static void set_reading(struct conn *c, bool on)
{
    if (c->state == CONN_CLOSING || c->reading == on)
        return;
    c->reading = on;
    if (on)
        (void)uv_read_start((uv_stream_t *)&c->tcp, allocate, have_read); /* fails when closing */
    else
        (void)uv_read_stop((uv_stream_t *)&c->tcp); /* cannot fail */
}

/* ---- life ---- */

static void closed(uv_handle_t *handle)
{
    struct conn *c = handle->data;
    if (--c->open_handles > 0)
        return;
    http_request_done(&c->request);
    tls_free(c->tls);
    free(c->kept);
    free(c->raw);
    free(c->fields);
    free(c);
}

/* TLS's own end, so that the other side knows that nothing is missing: if the socket takes it now.
 */
static void say_last(struct conn *c)
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    if (!c->tls)
        return;
    tls_finish(c->tls);
    if (tls_output(c->tls, &bytes, &size) == 0 && size > 0 && unsent(c) == 0) {
        const uv_buf_t buffer = uv_buf_init((char *)bytes, (unsigned)size);
        (void)uv_try_write((uv_stream_t *)&c->tcp, &buffer, 1);
    }
    free(bytes);
}

static void close_now(struct conn *c)
{
    if (c->state == CONN_CLOSING)
        return;
    if (c->state == CONN_ANSWERING) {
        sandboxes_forget(c->shared->session.sandboxes, c);
        volume_jobs_forget(c->shared->volumes, c);
        extra_forget(c->shared->extra, c);
    }
    say_last(c);
    c->state = CONN_CLOSING;
    if (!c->in_feed) { /* else when that is over */
        websocket_free(BG_TAKE(c->ws));
        session_close(BG_TAKE(c->session));
    }
    tunnel_close(BG_TAKE(c->tunnel));
    if (c->used[0] != '\0')
        sandboxes_use_end(c->shared->session.sandboxes, c->used);
    LIST_REMOVE(c, link);
    c->shared->count--;
    uv_close((uv_handle_t *)&c->tcp, closed);
    uv_close((uv_handle_t *)&c->timer, closed);
}

static void timer_fired(uv_timer_t *timer)
{
    struct conn *c = timer->data;
    if (c->broken || c->state != CONN_ANSWERING)
        close_now(c);
}

int conn_accept(uv_stream_t *listener, struct conn_shared *shared, struct bg_err *err)
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        return bg_err_errno(err, -ENOMEM, "connection");
    int r = shared->tls ? tls_new(shared->tls, &c->tls, err) : 0;
    if (r < 0) {
        free(c);
        return r;
    }
    r = uv_tcp_init(listener->loop, &c->tcp);
    if (r < 0) {
        tls_free(c->tls);
        free(c);
        return bg_err_errno(err, r, "connection");
    }
    (void)uv_timer_init(listener->loop, &c->timer); /* cannot fail */
    c->tcp.data = c->timer.data = c;
    c->shared = shared;
    c->open_handles = 2;
    http_request_init(&c->request);
    LIST_INSERT_HEAD(&shared->conns, c, link);
    shared->count++;
    shared->session.metrics->connections++;
    shared->session.metrics->refused_connections += shared->count > BG_GATEWAY_CONNS_MAX;
    r = uv_accept(listener, (uv_stream_t *)&c->tcp);
    if (r < 0 || shared->count > BG_GATEWAY_CONNS_MAX) {
        close_now(c);
        return r < 0 ? bg_err_errno(err, r, "connection") : 0;
    }
    (void)uv_timer_start(&c->timer, timer_fired, IDLE_MS, 0); /* as this: fails when closing */
    set_reading(c, true);
    return 0;
}

void conn_close_all(struct conn_shared *shared)
{
    struct conn *c, *next;
    for (c = LIST_FIRST(&shared->conns); c; c = next) {
        next = LIST_NEXT(c, link);
        end_socket(c, GOING_AWAY_CODE, "the gateway ends");
        close_now(c);
    }
}
