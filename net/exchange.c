#include "net/exchange.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/quote.h"
#include "net/conn.h"

/* Room for the largest head, and for secrets in it. */
#define UPSTREAM_HEAD_MAX (BG_EGRESS_HEAD_MAX + 2 * BG_SECRET_SIZE_MAX)

/* Why a request was not, or not wholly, passed on. */
struct failure {
    enum audit_decision decision;
    const char *reason;
    int status;
    const char *text; /* for the guest and the audit */
};

static const char bytes_used_up[] = "the bytes that this sandbox's rules allow there are used up";
static const char body_too_large[] = "the body is larger than this sandbox's rules allow there";

static const char *scheme_of(const struct conn *conn)
{
    return conn->tls ? "https" : "http";
}

static void audit(struct conn *conn, enum audit_decision decision, const char *reason, int status,
                  const char *detail)
{
    struct exchange *ex = &conn->exchange;
    /* A head that could not be read names nobody; then the connection's own name stands there. */
    ex->use.scrubbed = ex->filter.scrub.found | (ex->frames ? ex->frames->scrub.found : 0);
    const struct destination *to = ex->route.destination.port ? &ex->route.destination : &conn->to;
    bool connected = ex->state == EXCHANGE_TLS || ex->state == EXCHANGE_FORWARD;
    struct audit_event event = {
        .stream = conn->stream,
        .host = to->host,
        .port = to->port,
        .scheme = scheme_of(conn),
        .method = ex->request.head.method,
        .path = ex->route.path.size ? ex->route.path : ex->request.head.target,
        .rule = ex->rule ? ex->rule->text : NULL,
        .decision = decision,
        .reason = reason,
        .detail = detail,
        .status = status,
        .address = connected ? conn->upstream_address : NULL,
        .bytes_up = ex->bytes_up + (conn->websocket ? conn->bytes_up : 0),
        .bytes_down = ex->bytes_down + (conn->websocket ? conn->bytes_down : 0),
        .duration_ms = uv_now(conn->engine->loop) - ex->started_ms,
        .use = ex->use,
    };
    engine_audit(conn->engine, &event);
}

/* The word for a request that went through. */
static const char *allow_reason(const struct exchange *ex)
{
    if (ex->use.not_approved)
        return "placeholder-not-approved";
    return ex->use.unknown ? "placeholder-unknown" : "allowed";
}

/* Counts bytes of a body; false: they must not pass, and the request ends at the next look. */
static bool spend_bytes(struct exchange *ex, size_t size)
{
    if (!ex->over && ex->rule && !policy_spend_bytes(ex->rule, size))
        ex->over = true;
    return !ex->over;
}

static int fail_over(struct bg_err *err)
{
    return bg_err_set(err, -EDQUOT, "%s", bytes_used_up);
}

/* What has come of the request's body is within its rule's limits. Errors: -EDQUOT, -EMSGSIZE. */
static int check_body(const struct exchange *ex, struct bg_err *err)
{
    if (ex->over)
        return fail_over(err);
    if (ex->bytes_up > ex->rule->body_max) /* in chunks, without a length to tell before */
        return bg_err_set(err, -EMSGSIZE, "%s", body_too_large);
    return 0;
}

/* How to answer a request whose body is refused; err: also that it is malformed. */
static struct failure body_failure(const struct bg_err *err)
{
    if (err->code == -EDQUOT)
        return (struct failure){AUDIT_DENY, "bytes-used-up", 403, err->text};
    if (err->code == -EMSGSIZE)
        return (struct failure){AUDIT_DENY, "body-too-large", 413, err->text};
    return (struct failure){AUDIT_DENY, "bad-request", 400, err->text};
}

static void request_body(void *owner, const uint8_t *bytes, size_t size)
{
    struct conn *conn = owner;
    struct exchange *ex = &conn->exchange;
    ex->bytes_up += size;
    if (!spend_bytes(ex, size))
        return;
    if (ex->state == EXCHANGE_BODY)
        body_put(&ex->body, bytes, size);
    else if (ex->request.head.framing == HTTP_CHUNKED)
        http_forward_chunk(bytes, size, channel_out(conn->upstream));
    else
        buffer_put(channel_out(conn->upstream), bytes, size);
}

static bool filters(const struct exchange *ex)
{
    return ex->filter.scrub.set != 0;
}

static void put_down(struct conn *conn, const uint8_t *bytes, size_t size)
{
    const struct exchange *ex = &conn->exchange;
    if (ex->wrap == HTTP_WRAP_CHUNKED)
        http_forward_chunk(bytes, size, channel_out(conn->guest));
    else
        buffer_put(channel_out(conn->guest), bytes, size);
}

static void response_body(void *owner, const uint8_t *bytes, size_t size)
{
    struct conn *conn = owner;
    struct exchange *ex = &conn->exchange;
    ex->bytes_down += size;
    if (!spend_bytes(ex, size))
        return;
    if (filters(ex))
        filter_put(&ex->filter, bytes, size);
    else
        put_down(conn, bytes, size);
}

static void frames_free(struct websocket *frames)
{
    if (frames)
        websocket_done(frames);
    free(frames);
}

/* Brings the engine's sum up to date. */
static void count_body(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    size_t now = body_memory(&ex->body);
    conn->engine->body_bytes += now - ex->body_counted; /* wraps, and back */
    ex->body_counted = now;
}

static void drop_body(struct conn *conn)
{
    body_done(&conn->exchange.body);
    count_body(conn);
}

void exchange_done(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    http_reader_done(&ex->request);
    http_reader_done(&ex->response);
    filter_done(&ex->filter);
    frames_free(BG_TAKE(ex->frames));
    drop_body(conn);
    buffer_reset(&ex->head);
}

/* Makes ready for the next request. */
static void start_request(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    struct upstream_key key = ex->upstream_key;
    exchange_done(conn);
    *ex = (struct exchange){.head = buffer_init(UPSTREAM_HEAD_MAX), .upstream_key = key};
    ex->head.wipe = true;
    http_reader_init(&ex->request, /* is_response= */ false, request_body, conn);
    http_reader_init(&ex->response, /* is_response= */ true, response_body, conn);
}

void exchange_init(struct conn *conn)
{
    start_request(conn);
}

bool exchange_waits(const struct conn *conn)
{
    const struct exchange *ex = &conn->exchange;
    return ex->state != EXCHANGE_REQUEST && ex->request.state == HTTP_READER_DONE;
}

bool exchange_reads_guest(const struct conn *conn)
{
    const struct exchange *ex = &conn->exchange;
    if (conn->guest_eof)
        return false;
    if (ex->state == EXCHANGE_REQUEST)
        return conn_room(conn->guest);
    if (ex->state == EXCHANGE_BODY)
        return true;
    return ex->state == EXCHANGE_FORWARD && ex->request.state == HTTP_READER_BODY &&
           conn_room(conn->upstream);
}

bool exchange_reads_upstream(const struct conn *conn)
{
    const struct exchange *ex = &conn->exchange;
    /* Between requests too: an upstream that closes, or speaks out of turn, is seen at once. */
    return ex->state != EXCHANGE_FORWARD || (!conn->upstream_eof && conn_room(conn->guest));
}

void exchange_abort(struct conn *conn, enum audit_decision decision, const char *reason)
{
    struct exchange *ex = &conn->exchange;
    if (ex->state == EXCHANGE_REQUEST && ex->request.state == HTTP_READER_HEAD)
        return; /* what came of a head was not one */
    int status = ex->answered ? (int)ex->response.head.status : 0;
    audit(conn, decision, reason, status, NULL);
}

/* The request ends here: the guest's connection goes on to the next one, or closes. */
static enum conn_step go_on_after(struct conn *conn, bool keep_alive)
{
    if (!keep_alive || conn->engine->draining) {
        start_request(conn);
        conn_linger(conn);
        return CONN_AGAIN;
    }
    start_request(conn);
    conn_deadline(conn, conn->engine->opts.timeouts.idle_ms);
    return CONN_AGAIN;
}

/* Answers in the upstream's place, or breaks off if the guest has got part of an answer already. */
static enum conn_step fail(struct conn *conn, const struct failure *failure)
{
    struct exchange *ex = &conn->exchange;
    audit(conn, failure->decision, failure->reason, failure->status, failure->text);
    if (ex->state != EXCHANGE_REQUEST)
        conn_drop_upstream(conn);
    if (ex->answered) {
        conn_close(conn);
        return CONN_WAIT;
    }
    bool keep_alive = ex->request.state == HTTP_READER_DONE && ex->request.head.keep_alive;
    http_forward_answer(failure->status, failure->text, keep_alive,
                        slice_is(ex->request.head.method, "head"), channel_out(conn->guest));
    return go_on_after(conn, keep_alive);
}

/* From a request's head to the connection that it needs. */

static enum conn_step start_forward(struct conn *conn);

/* The host is allowed, the request is not. */
static enum conn_step refuse_request(struct conn *conn, enum policy_verdict verdict)
{
    struct exchange *ex = &conn->exchange;
    char target[DESTINATION_TEXT_SIZE], rule[DESTINATION_TEXT_SIZE * 2], text[1024];
    destination_format(&ex->route.destination, 0, target);
    struct failure failure = {AUDIT_DENY, "request-not-allowed", 403, text};
    if (verdict == POLICY_NO_REQUEST) {
        (void)snprintf(text, sizeof text,
                       "this request is none of those that this sandbox's rules allow at %s",
                       target);
    } else if (verdict == POLICY_UNCLEAR_PATH) {
        failure.reason = "path-unclear";
        (void)snprintf(text, sizeof text,
                       "the path can be read in more than one way, and this sandbox's rules for %s "
                       "look at paths",
                       target);
    } else if (verdict == POLICY_UNCLEAR_QUERY) {
        failure.reason = "query-unclear";
        (void)snprintf(text, sizeof text,
                       "the query can be read in more than one way, and this sandbox's rules for "
                       "%s look at queries",
                       target);
    } else {
        failure.reason = "request-denied";
        bg_escape(ex->rule->text, strlen(ex->rule->text), rule, sizeof rule);
        (void)snprintf(text, sizeof text, "this sandbox's rules deny it at %s: %s", target, rule);
    }
    return fail(conn, &failure);
}

static enum conn_step refuse_host(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    char target[DESTINATION_TEXT_SIZE], rule[DESTINATION_TEXT_SIZE], text[1024];
    const struct destination *to = &ex->route.destination;
    bool web = to->port == 80 || to->port == 443;
    ex->rule = policy_denial(conn->engine->opts.policy, to);
    if (ex->rule)
        return refuse_request(conn, POLICY_DENIED);
    destination_format(to, 0, target);
    destination_format(to, web ? to->port : 0, rule);
    (void)snprintf(text, sizeof text,
                   "%s is not allowed by this sandbox's rules; allow it with --allow %s", target,
                   rule);
    struct failure failure = {AUDIT_DENY, "host-not-allowed", 403, text};
    return fail(conn, &failure);
}

/* Counts the request against its rule. Returns false with *ret filled if the rule's limits forbid
 * it. */
static bool spend(struct conn *conn, struct failure *ret)
{
    struct exchange *ex = &conn->exchange;
    const struct http_head *head = &ex->request.head;
    if (head->framing == HTTP_LENGTH && head->length > ex->rule->body_max) {
        *ret = (struct failure){AUDIT_DENY, "body-too-large", 413, body_too_large};
        return false;
    }
    uint64_t body_size = head->framing == HTTP_LENGTH ? head->length : 0;
    switch (policy_spend(ex->rule, body_size, uv_now(conn->engine->loop))) {
    case POLICY_SPENT:
        return true;
    case POLICY_TOO_FAST:
        *ret = (struct failure){AUDIT_DENY, "rate-exceeded", 429,
                                "more requests than this sandbox's rules allow there in that time"};
        return false;
    case POLICY_USED_UP:
        *ret = (struct failure){AUDIT_DENY, "requests-used-up", 403,
                                "the requests that this sandbox's rules allow there are used up"};
        return false;
    case POLICY_BYTES_USED_UP:
        *ret = (struct failure){AUDIT_DENY, "bytes-used-up", 403, bytes_used_up};
        return false;
    }
    return false;
}

static enum conn_step answer_connect(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    struct destination to = ex->route.destination;
    const struct policy_rule *rule = ex->rule;
    buffer_put_text(channel_out(conn->guest), "HTTP/1.1 200 Connection established\r\n\r\n");
    start_request(conn);
    conn->to = to;
    conn->to_known = true;
    conn->rule = rule;
    conn_start_peek(conn);
    return CONN_AGAIN;
}

/* The request, for conditions on it. */
static struct request_text text_of(const struct exchange *ex)
{
    const struct http_head *head = &ex->request.head;
    return (struct request_text){.method = head->method,
                                 .target = ex->route.path,
                                 .fields = head->fields,
                                 .field_count = head->field_count};
}

/* Whom the request's secrets are for; set: those of its destination. *ret_text and *ret_view are
 * parts of it; the view is the caller's to end afterwards. */
static struct secrets_scope scope_of(const struct conn *conn, uint64_t set,
                                     struct request_text *ret_text, struct request_view *ret_view)
{
    const struct exchange *ex = &conn->exchange;
    *ret_text = text_of(ex);
    request_view_init(ret_view, ret_text, set ? (unsigned)REQUEST_PATH | REQUEST_QUERY : 0);
    return (struct secrets_scope){.secrets = conn->engine->opts.secrets,
                                  .to = &ex->route.destination,
                                  .verified = conn->tls,
                                  .view = ret_view,
                                  .now_ms = uv_now(conn->engine->loop)};
}

/* Puts the head for the upstream together. Errors: -EPROTO, *ret says how to answer. */
static int write_head(struct conn *conn, struct failure *ret, struct bg_err *err)
{
    struct exchange *ex = &conn->exchange;
    const struct secrets *secrets = conn->engine->opts.secrets;
    if (ex->request.head.upgrade_websocket &&
        websocket_check_request(&ex->request.head, ex->challenge, err) < 0) {
        *ret = (struct failure){AUDIT_DENY, "bad-request", 400, err->text};
        return -EPROTO;
    }
    struct request_text text;
    struct request_view view;
    uint64_t set = secrets_at(secrets, &ex->route.destination);
    struct secrets_scope scope = scope_of(conn, set, &text, &view);
    if (set)
        filter_init(&ex->filter, secrets, set);
    struct http_forward_request_opts opts = {.port_default = conn->tls ? 443 : 80,
                                             .to_scrub = filters(ex),
                                             .body_read = ex->body.type != 0,
                                             .body_decoded = ex->body.coded,
                                             .body_changed = ex->body.changed,
                                             .body_size = buffer_size(&ex->body.out)};
    http_forward_request(&ex->request.head, &ex->route, &opts, &scope, &ex->head, &ex->use);
    request_view_done(&view);
    if (!buffer_ok(&ex->head)) {
        *ret = (struct failure){AUDIT_DENY, "head-too-large", 431, err->text};
        return bg_err_set(err, -EPROTO, "the request's head is too large with its secrets");
    }
    if (conn->engine->opts.policy->strict && (ex->use.not_approved || ex->use.unknown)) {
        *ret = (struct failure){AUDIT_DENY, "placeholder-not-approved", 403, err->text};
        return bg_err_set(err, -EPROTO,
                          "a placeholder stands where its secret may not go, and this sandbox's "
                          "rules are strict");
    }
    if (ex->use.valueless) {
        size_t i = (size_t)__builtin_ctzll(ex->use.valueless);
        const char *name = secrets->items[i].name;
        *ret = (struct failure){AUDIT_ERROR, "secret-without-value", 503, err->text};
        return bg_err_set(err, -EPROTO,
                          "secret %s has no value on the host; set it there with 'bellglass secret "
                          "set %s'",
                          name, name);
    }
    if (ex->use.used_up) {
        bool for_now = (ex->use.used_up & ~ex->use.too_fast) == 0;
        *ret = (struct failure){AUDIT_DENY, "secret-used-up", for_now ? 429 : 403, err->text};
        return bg_err_set(err, -EPROTO, "the budget of secret %s is used up%s",
                          secrets->items[__builtin_ctzll(ex->use.used_up)].name,
                          for_now ? " for now" : "");
    }
    return 0;
}

static struct upstream_key upstream_key(const struct conn *conn)
{
    const struct exchange *ex = &conn->exchange;
    return (struct upstream_key){.to = ex->route.destination,
                                 .policy = conn->engine->opts.policy,
                                 .rule = ex->rule,
                                 .tls = conn->tls};
}

/* A WebSocket's handshake is HTTP/1.1's. */
static bool may_be_h2(const struct exchange *ex)
{
    return !ex->request.head.upgrade_websocket;
}

/* A kept connection, if there is one. */
static bool take_upstream(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    const struct upstream_key key = upstream_key(conn);
    if (conn->upstream && !conn->upstream_eof && !channel_gone(conn->upstream) &&
        upstream_key_fits(&ex->upstream_key, &key)) {
        ex->reused = true;
        return true;
    }
    exchange_give_back(conn);
    conn_drop_upstream(conn);
    const struct channel_opts opts = conn_upstream_opts(conn);
    struct channel *channel;
    if (!upstreams_take(conn->engine, &key, may_be_h2(ex), &opts, &channel, conn->upstream_address))
        return false;
    conn_set_upstream(conn, channel);
    ex->upstream_key = key;
    ex->reused = true;
    return true;
}

void exchange_give_back(struct conn *conn)
{
    const struct exchange *ex = &conn->exchange;
    if (conn->upstream && ex->state == EXCHANGE_REQUEST && !conn->upstream_eof && !conn->websocket)
        upstreams_put(conn->engine, &ex->upstream_key, conn_release_upstream(conn),
                      conn->upstream_address);
}

static void dialled(void *owner, const struct dial_result *result);

static enum conn_step start_dial(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    struct bg_err err;
    conn_drop_upstream(conn);
    conn->upstream_address[0] = '\0';
    ex->reused = false;
    ex->state = EXCHANGE_DIAL;
    if (conn_dial(conn, &ex->route.destination, ex->rule, dialled, &err) < 0) {
        struct failure failure = {AUDIT_ERROR, "internal", 503, err.text};
        return fail(conn, &failure);
    }
    /* dial has its own deadlines, one an address; the sum is ours. */
    const struct engine_timeouts *t = &conn->engine->opts.timeouts;
    conn_deadline(conn, t->resolve_ms + BG_EGRESS_ADDRESSES_MAX * t->connect_ms);
    return CONN_WAIT;
}

/* All that must be known of it before is known. */
static enum conn_step send_request(struct conn *conn)
{
    return take_upstream(conn) ? start_forward(conn) : start_dial(conn);
}

/* One that waits for the next request, but has closed, or spoken out of turn. */
static void drop_restless_upstream(struct conn *conn)
{
    const uint8_t *unwanted;
    if (conn->upstream && conn_read_upstream(conn, &unwanted) != -EAGAIN)
        conn_drop_upstream(conn);
}

/* A body that is read whole. */

static enum conn_step refuse_body(struct conn *conn)
{
    char text[256];
    (void)snprintf(text, sizeof text,
                   "the body is larger than %zu bytes, the most in which this sandbox's rules look "
                   "for placeholders there",
                   conn->exchange.body.size_max);
    struct failure failure = {AUDIT_DENY, "body-too-large", 413, text};
    return fail(conn, &failure);
}

static bool wants_body(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    struct request_text text;
    struct request_view view;
    uint64_t set = secrets_at(conn->engine->opts.secrets, &ex->route.destination);
    if (ex->request.state != HTTP_READER_BODY || !set)
        return false;
    struct secrets_scope scope = scope_of(conn, set, &text, &view);
    bool wants = body_start(&ex->body, &scope, &ex->request.head);
    request_view_done(&view);
    return wants;
}

/* The head is approved; what was written of it was to see that. */
static enum conn_step start_body(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    const struct http_head *head = &ex->request.head;
    buffer_reset(&ex->head);
    if (head->framing == HTTP_LENGTH && head->length > ex->body.size_max)
        return refuse_body(conn);
    if (head->minor == 1 && http_head_field(head, "expect", NULL))
        buffer_put_text(channel_out(conn->guest), "HTTP/1.1 100 Continue\r\n\r\n");
    ex->state = EXCHANGE_BODY;
    conn_deadline(conn, conn->engine->opts.timeouts.stall_ms);
    return CONN_AGAIN;
}

static enum conn_step exchange_body(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    struct failure failure = {AUDIT_DENY, "body-too-large", 413, NULL};
    struct bg_err err;
    struct request_text text;
    struct request_view view;
    uint64_t set = secrets_at(conn->engine->opts.secrets, &ex->route.destination);
    struct secrets_scope scope = scope_of(conn, set, &text, &view);
    /* write_head adds the head's again, but for what was counted */
    ex->use = (struct secrets_use){.budgets = ex->use.budgets};
    int r = body_finish(&ex->body, &scope, &ex->request.head, &ex->use, &err);
    request_view_done(&view);
    count_body(conn);
    if (r == -EPROTO)
        failure = (struct failure){AUDIT_DENY, "bad-request", 400, NULL};
    else if (r < 0 && r != -E2BIG)
        failure = (struct failure){AUDIT_ERROR, "internal", 503, NULL};
    failure.text = err.text;
    if (r < 0 || write_head(conn, &failure, &err) < 0)
        return fail(conn, &failure);
    return send_request(conn);
}

static enum conn_step read_body(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    struct bg_err err;
    const uint8_t *bytes;
    drop_restless_upstream(conn);
    ssize_t n = conn_read_guest(conn, &bytes);
    if (n == -EAGAIN)
        return CONN_WAIT;
    ssize_t used = -EPROTO;
    if (n > 0)
        used = http_reader_feed(&ex->request, bytes, (size_t)n, &err);
    else
        (void)bg_err_set(&err, -EPROTO, "the connection ended inside of the request's body");
    if (used >= 0) {
        conn_unread_guest(conn, bytes + used, (size_t)(n - used));
        count_body(conn);
    }
    if (used < 0 || check_body(ex, &err) < 0) {
        struct failure failure = body_failure(&err);
        return fail(conn, &failure);
    }
    if (conn->engine->body_bytes > BG_EGRESS_BODIES_MAX) {
        struct failure failure = {AUDIT_ERROR, "bodies-too-many", 503,
                                  "too many bodies are being searched for placeholders at once; "
                                  "try again later"};
        return fail(conn, &failure);
    }
    if (!buffer_ok(&ex->body.in))
        return refuse_body(conn);
    if (ex->request.state == HTTP_READER_DONE)
        return exchange_body(conn);
    conn_deadline(conn, conn->engine->opts.timeouts.stall_ms);
    return CONN_AGAIN;
}

static enum conn_step request_read(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    struct bg_err err;
    int status;
    const struct http_route_opts route_opts = {.fixed = conn->to_known ? &conn->to : NULL,
                                               .tls = conn->tls};
    ex->started_ms = uv_now(conn->engine->loop);
    if (conn->to_known && !conn->rule) { /* whatever it says: the connection itself is refused */
        ex->route.destination = conn->to;
        if (http_reader_go_on(&ex->request, &err) < 0) {
            struct failure failure = {AUDIT_DENY, "bad-request", ex->request.status, err.text};
            return fail(conn, &failure);
        }
        return refuse_host(conn);
    }
    if (http_route(&ex->request.head, &route_opts, &ex->route, &status, &err) < 0) {
        struct failure failure = {AUDIT_DENY, status == 421 ? "identity-mismatch" : "bad-request",
                                  status, err.text};
        return fail(conn, &failure);
    }
    if (http_reader_go_on(&ex->request, &err) < 0) {
        struct failure failure = {AUDIT_DENY, "bad-request", ex->request.status, err.text};
        return fail(conn, &failure);
    }
    const struct policy *policy = conn->engine->opts.policy;
    const struct request_text request = text_of(ex);
    enum policy_verdict verdict = POLICY_ALLOWED;
    if (ex->route.is_connect)
        ex->rule = policy_find(policy, &ex->route.destination);
    else
        verdict = policy_decide(policy, &ex->route.destination, &request, &ex->rule);
    if (verdict == POLICY_NO_HOST || (verdict == POLICY_ALLOWED && !ex->rule))
        return refuse_host(conn);
    if (verdict != POLICY_ALLOWED)
        return refuse_request(conn, verdict);
    if (!engine_may_go_on(conn->engine)) {
        struct failure failure = {AUDIT_ERROR, "audit-lost", 503,
                                  "the audit log cannot be written; nothing goes out until it can"};
        return fail(conn, &failure);
    }
    if (ex->route.is_connect)
        return answer_connect(conn);
    struct failure failure;
    if (!spend(conn, &failure) || write_head(conn, &failure, &err) < 0)
        return fail(conn, &failure);
    return wants_body(conn) ? start_body(conn) : send_request(conn);
}

static enum conn_step read_request(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    struct bg_err err;
    /* An answer that is not read holds the next request up. */
    if (channel_flush(conn->guest) < 0) {
        conn_close(conn);
        return CONN_WAIT;
    }
    if (!conn_room(conn->guest)) {
        conn->held = true;
        return CONN_WAIT;
    }
    drop_restless_upstream(conn);
    const uint8_t *bytes;
    ssize_t n = conn_read_guest(conn, &bytes);
    if (n == -EAGAIN)
        return CONN_WAIT;
    if (n <= 0) {
        if (http_reader_fresh(&ex->request) && n == 0)
            conn_linger(conn);
        else
            conn_abort(conn, "guest-gone");
        return CONN_AGAIN;
    }
    if (http_reader_fresh(&ex->request))
        conn_deadline(conn, conn->engine->opts.timeouts.head_ms);
    ssize_t used = http_reader_feed(&ex->request, bytes, (size_t)n, &err);
    if (used < 0) {
        ex->started_ms = uv_now(conn->engine->loop);
        struct failure failure = {AUDIT_DENY, "bad-request", ex->request.status, err.text};
        return fail(conn, &failure);
    }
    conn_unread_guest(conn, bytes + used, (size_t)(n - used));
    return ex->request.state == HTTP_READER_HAVE_HEAD ? request_read(conn) : CONN_AGAIN;
}

/* The upstream connection. */

static void dialled(void *owner, const struct dial_result *result)
{
    struct conn *conn = owner;
    struct exchange *ex = &conn->exchange;
    struct bg_err err = result->err;
    conn->dial = NULL;
    if (result->fd < 0) {
        int status = err.code == -EACCES ? 403 : err.code == -ETIMEDOUT ? 504 : 502;
        struct failure failure = {status == 403 ? AUDIT_DENY : AUDIT_ERROR, result->reason, status,
                                  err.text};
        if (fail(conn, &failure) == CONN_AGAIN)
            conn_run(conn);
        return;
    }
    struct tls_session *session = NULL;
    int r = conn_open_upstream(conn, result->fd, &err);
    if (r == 0 && conn->tls)
        r = tls_connect(conn->engine->opts.tls, &ex->route.destination,
                        may_be_h2(ex) ? TLS_OFFER_H2_TOO : TLS_OFFER_HTTP11, result->fd, &session,
                        &err);
    if (r < 0) {
        struct failure failure = {AUDIT_ERROR, "internal", 503, err.text};
        if (fail(conn, &failure) == CONN_AGAIN)
            conn_run(conn);
        return;
    }
    address_format(&result->address, conn->upstream_address);
    ex->upstream_key = upstream_key(conn);
    if (session) {
        channel_set_tls(conn->upstream, session);
        ex->state = EXCHANGE_TLS;
        conn_deadline(conn, conn->engine->opts.timeouts.greet_ms);
    } else {
        (void)start_forward(conn);
    }
    conn_run(conn);
}

/* HTTP/2 was chosen: the connection is there for others too. */
static int share_upstream(struct conn *conn, struct bg_err *err)
{
    const struct upstream_key key = upstream_key(conn);
    const struct channel_opts opts = conn_upstream_opts(conn);
    struct channel *channel;
    int r = upstreams_add_h2(conn->engine, &key, conn_release_upstream(conn),
                             conn->upstream_address, &opts, &channel, err);
    if (r == 0)
        conn_set_upstream(conn, channel);
    return r;
}

/* What may be the cause, if the upstream ends the connection before it has answered. */
static int explain_end(const struct conn *conn, struct bg_err *err)
{
    if (channel_wants_certificate(conn->upstream))
        return bg_err_prefix(err, "it asks for a client certificate, which only a rule with "
                                  "'protocol: passthrough' lets the sandbox show");
    return err->code;
}

static enum conn_step shake_hands(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    struct bg_err err;
    char text[BG_ERR_TEXT_SIZE + DESTINATION_TEXT_SIZE + 32], target[DESTINATION_TEXT_SIZE];
    int r = channel_handshake(conn->upstream, &err);
    if (r == -EAGAIN)
        return CONN_WAIT;
    if (r == 0 && channel_is_h2(conn->upstream))
        r = share_upstream(conn, &err);
    if (r == 0)
        return start_forward(conn);
    destination_format(&ex->route.destination, 0, target);
    if (r != -EKEYREJECTED)
        (void)explain_end(conn, &err);
    (void)snprintf(text, sizeof text, "%s cannot be trusted: %s", target, err.text);
    if (r != -EKEYREJECTED)
        (void)snprintf(text, sizeof text, "%s: %s", target, err.text);
    struct failure failure = {
        AUDIT_ERROR, r == -EKEYREJECTED ? "upstream-certificate" : "upstream-tls", 502, text};
    return fail(conn, &failure);
}

/* Both directions. */

static enum conn_step start_forward(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    ex->state = EXCHANGE_FORWARD;
    ex->response.request_method = ex->request.head.method;
    buffer_put(channel_out(conn->upstream), buffer_bytes(&ex->head), buffer_size(&ex->head));
    conn_deadline(conn, conn->engine->opts.timeouts.response_ms);
    return CONN_AGAIN;
}

/* Nothing of the request is left to be sent. */
static bool all_up(const struct exchange *ex)
{
    return ex->request.state == HTTP_READER_DONE && buffer_size(&ex->body.out) == 0;
}

/* A body that was read before, as far as there is room. */
static void forward_body(struct conn *conn)
{
    struct buffer *out = &conn->exchange.body.out;
    while (buffer_size(out) > 0 && conn_room(conn->upstream) && conn->budget > 0) {
        size_t size = buffer_size(out);
        if (size > BG_EGRESS_QUEUE_PAUSE)
            size = BG_EGRESS_QUEUE_PAUSE;
        conn->budget -= size < conn->budget ? size : conn->budget;
        buffer_put(channel_out(conn->upstream), buffer_bytes(out), size);
        buffer_drop(out, size);
        count_body(conn);
        conn_deadline(conn, conn->engine->opts.timeouts.response_ms);
        if (channel_flush(conn->upstream) < 0)
            return; /* it may have answered before it stopped to listen */
    }
}

/* The body on its way up. Returns false if the request turned out bad. */
static bool forward_request(struct conn *conn, struct bg_err *err)
{
    struct exchange *ex = &conn->exchange;
    forward_body(conn);
    while (ex->request.state == HTTP_READER_BODY && conn_room(conn->upstream)) {
        const uint8_t *bytes;
        ssize_t n = conn_read_guest(conn, &bytes);
        if (n == -EAGAIN)
            break;
        if (n <= 0) {
            (void)bg_err_set(err, -EPROTO, "the connection ended inside of the request's body");
            return false;
        }
        ssize_t used = http_reader_feed(&ex->request, bytes, (size_t)n, err);
        if (used < 0)
            return false;
        if (check_body(ex, err) < 0)
            return false;
        conn_unread_guest(conn, bytes + used, (size_t)(n - used));
        if (ex->request.state == HTTP_READER_DONE && ex->request.head.framing == HTTP_CHUNKED)
            http_forward_last_chunk(channel_out(conn->upstream));
        conn_deadline(conn, conn->engine->opts.timeouts.stall_ms);
        if (channel_flush(conn->upstream) < 0)
            break; /* it may have answered before it stopped to listen */
    }
    conn->held |= !conn_room(conn->upstream);
    return true;
}

/* Makes ready for a body that has to be looked through. Errors: -EPROTO. */
static int start_filter(struct exchange *ex, struct bg_err *err)
{
    const struct http_head *head = &ex->response.head;
    if (!filters(ex) || head->framing == HTTP_NO_BODY)
        return 0;
    if (head->status == 206)
        return bg_err_set(err, -EPROTO,
                          "a part of the body was sent where all of it was asked for");
    return filter_start(&ex->filter, head, err) < 0 ? -EPROTO : 0;
}

/* A 101 has come. Errors: -EPROTO, -ENOMEM. */
static int start_websocket(struct conn *conn, struct bg_err *err)
{
    struct exchange *ex = &conn->exchange;
    uint8_t hash[TLS_SHA1_SIZE];
    if (!ex->response.head.upgrade_websocket || !ex->request.head.upgrade_websocket || !all_up(ex))
        return bg_err_set(err, -EPROTO, "a switch of protocols that nobody asked for");
    if (tls_sha1(ex->challenge, sizeof ex->challenge, hash, err) < 0)
        return -EPROTO;
    if (!websocket_accepts(&ex->response.head, hash))
        return bg_err_set(
            err, -EPROTO,
            "a switch to a WebSocket whose Sec-WebSocket-Accept does not fit the key");
    if (!filters(ex))
        return 0;
    ex->frames = malloc(sizeof *ex->frames);
    if (!ex->frames)
        return bg_err_errno(err, -ENOMEM, "WebSocket");
    websocket_init(ex->frames, ex->filter.scrub.secrets, ex->filter.scrub.set);
    return 0;
}

/* A response's head is there. Errors: -EPROTO. */
static int forward_head(struct conn *conn, struct bg_err *err)
{
    struct exchange *ex = &conn->exchange;
    const struct http_head *head = &ex->response.head;
    bool switching = head->status == 101;
    if (switching && start_websocket(conn, err) < 0)
        return -EPROTO;
    if (head->status < 200 && !switching) {
        if (++ex->interim_count > BG_EGRESS_INTERIM_MAX)
            return bg_err_set(err, -EPROTO, "more than %d interim answers", BG_EGRESS_INTERIM_MAX);
        /* Of these only 100 is of use to a client that does not know what the proxy knows. */
        if (head->status == 100 && ex->request.head.minor == 1 && !ex->body.type)
            buffer_put_text(channel_out(conn->guest), "HTTP/1.1 100 Continue\r\n\r\n");
        return http_reader_go_on(&ex->response, err);
    }
    if (start_filter(ex, err) < 0)
        return -EPROTO;
    struct http_forward_response_opts opts = {
        .scrub = filters(ex) ? &ex->filter.scrub : NULL,
        .decoded = ex->filter.decoder != NULL,
        .to_http10 = ex->request.head.minor == 0,
        .keep_alive = ex->request.head.keep_alive && ex->request.state == HTTP_READER_DONE &&
                      !conn->engine->draining,
        .switching = switching,
    };
    http_forward_response(head, &opts, channel_out(conn->guest), &ex->wrap, &ex->keep_alive);
    ex->answered = true;
    conn->websocket = switching;
    return http_reader_go_on(&ex->response, err);
}

/* Feeds bytes of the upstream. Errors: -EPROTO. */
static int take_response(struct conn *conn, const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct exchange *ex = &conn->exchange;
    ex->response_begun = true;
    buffer_reset(&ex->head); /* it will not be sent again */
    while (size > 0 && ex->response.state != HTTP_READER_DONE) {
        ssize_t used = http_reader_feed(&ex->response, bytes, size, err);
        if (used < 0)
            return (int)used;
        if (ex->over)
            return fail_over(err);
        bytes += used;
        size -= (size_t)used;
        if (ex->response.state == HTTP_READER_HAVE_HEAD) {
            int r = forward_head(conn, err);
            if (r < 0)
                return r;
        }
        if (ex->response.state == HTTP_READER_DONE && !ex->answered) {
            struct slice method = ex->response.request_method;
            http_reader_next(&ex->response); /* it was an interim one */
            ex->response.request_method = method;
        }
    }
    ex->surplus = size > 0;
    if (conn->websocket && size > 0) {
        if (!spend_bytes(ex, size))
            return fail_over(err);
        conn->bytes_down += size;
        if (ex->frames)
            websocket_put(ex->frames, bytes, size);
        else
            buffer_put(channel_out(conn->guest), bytes, size);
    }
    return 0;
}

/* Now it is the upstream's turn, or, if not all could be sent, the guest's. */
static void wait_for_either(struct conn *conn)
{
    const struct engine_timeouts *t = &conn->engine->opts.timeouts;
    conn_deadline(conn, buffer_size(channel_out(conn->guest)) > 0 ? t->stall_ms : t->response_ms);
}

/* Sends on what the filter makes of the body, as far as there is room. Errors: -EPROTO and such. */
static int run_filter(struct conn *conn, struct bg_err *err)
{
    struct filter *f = &conn->exchange.filter;
    if (conn->exchange.response.state == HTTP_READER_DONE)
        filter_end(f);
    while (conn_room(conn->guest) && conn->budget > 0) {
        size_t size = buffer_size(&f->out);
        if (size == 0 && !filter_ready(f))
            return 0;
        if (size == 0) {
            int r = filter_step(f, err);
            if (r < 0)
                return r;
            continue;
        }
        if (size > BG_EGRESS_QUEUE_PAUSE)
            size = BG_EGRESS_QUEUE_PAUSE;
        conn->budget -= size < conn->budget ? size : conn->budget;
        put_down(conn, buffer_bytes(&f->out), size);
        buffer_drop(&f->out, size);
    }
    return 0;
}

static bool all_sent(const struct exchange *ex)
{
    return ex->response.state == HTTP_READER_DONE &&
           (!filters(ex) || (ex->filter.ended && buffer_size(&ex->filter.out) == 0));
}

/* Reads the response and queues it for the guest, as far as there is room. Errors: -EPROTO it is
 * bad, or ended early. */
static int pull_response(struct conn *conn, struct bg_err *err)
{
    struct exchange *ex = &conn->exchange;
    for (;;) {
        int r = filters(ex) ? run_filter(conn, err) : 0;
        if (r < 0)
            return r;
        bool busy = filters(ex) && (filter_ready(&ex->filter) || buffer_size(&ex->filter.out) > 0);
        if (ex->response.state == HTTP_READER_DONE || !conn_room(conn->guest) || busy)
            break;
        const uint8_t *bytes;
        ssize_t n = conn_read_upstream(conn, &bytes);
        if (n == -EAGAIN)
            break;
        if (n > 0)
            r = take_response(conn, bytes, (size_t)n, err);
        else if (n == 0)
            r = http_reader_fresh(&ex->response)
                    ? bg_err_set(err, -EPROTO, "the connection ended without an answer")
                    : http_reader_eof(&ex->response, err);
        else /* TLS that was cut is no proof of an end */
            r = bg_err_set(err, -EPROTO, "the connection broke: %s", strerror((int)-n));
        if (r < 0)
            return n <= 0 && http_reader_fresh(&ex->response) ? explain_end(conn, err) : r;
    }
    return 0;
}

/* The response on its way down: sent in as large pieces as there is room for, not in those that it
 * comes in. Errors: as pull_response. */
static int forward_response(struct conn *conn, struct bg_err *err)
{
    size_t before = conn->budget;
    int r = pull_response(conn, err);
    conn->held |= !conn_room(conn->guest);
    /* The end of an answer waits for its line in the audit log: who has all of it may look there.
     */
    if (r == 0 && all_sent(&conn->exchange))
        return 0;
    if (conn->budget != before &&
        channel_flush(conn->guest) == 0) /* a failure: seen by the caller */
        wait_for_either(conn);
    return r;
}

static enum conn_step finish(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    if (conn->websocket) {
        conn_start_relay(conn);
        return CONN_AGAIN;
    }
    if (ex->wrap == HTTP_WRAP_CHUNKED && http_takes_trailers(&ex->request.head))
        http_forward_trailers(&ex->response.trailers, filters(ex) ? &ex->filter.scrub : NULL,
                              channel_out(conn->guest));
    else if (ex->wrap == HTTP_WRAP_CHUNKED)
        http_forward_last_chunk(channel_out(conn->guest));
    bool request_done = ex->request.state == HTTP_READER_DONE;
    audit(conn, AUDIT_ALLOW, allow_reason(ex), (int)ex->response.head.status, NULL);
    if (!ex->response.head.keep_alive || ex->surplus || conn->upstream_eof || !all_up(ex))
        conn_drop_upstream(conn);
    return go_on_after(conn, ex->keep_alive && request_done);
}

/* A connection that was good once may be closed by its peer just when it is used again. */
static bool may_try_again(const struct exchange *ex)
{
    return ex->reused && !ex->response_begun && ex->request.head.framing == HTTP_NO_BODY;
}

/* The guest reads why in a Close frame: what it has got so far are whole frames. */
static void refuse_frame(struct conn *conn, const struct bg_err *why)
{
    char text[BG_ERR_TEXT_SIZE + 16];
    audit(conn, AUDIT_ERROR, "upstream-frame", (int)conn->exchange.response.head.status, why->text);
    (void)snprintf(text, sizeof text, "bellglass: %s", why->text);
    websocket_put_close(text, channel_out(conn->guest));
    conn_linger(conn);
}

bool exchange_relay_frames(struct conn *conn)
{
    struct websocket *ws = conn->exchange.frames;
    struct bg_err err;
    while (conn_room(conn->guest) && conn->budget > 0) {
        const uint8_t *bytes;
        size_t size = buffer_size(&ws->out);
        if (size > 0) {
            size = size < BG_EGRESS_QUEUE_PAUSE ? size : BG_EGRESS_QUEUE_PAUSE;
            conn->budget -= size < conn->budget ? size : conn->budget;
            buffer_put(channel_out(conn->guest), buffer_bytes(&ws->out), size);
            buffer_drop(&ws->out, size);
            if (channel_flush(conn->guest) < 0)
                return false;
            continue;
        }
        if (websocket_ready(ws)) {
            if (websocket_step(ws, &err) < 0) {
                refuse_frame(conn, &err);
                return true;
            }
            continue;
        }
        ssize_t n = conn_read_upstream(conn, &bytes);
        if (n < 0 && n != -EAGAIN)
            return false;
        if (n <= 0)
            break;
        conn_deadline(conn, conn->engine->opts.timeouts.tcp_idle_ms);
        conn->bytes_down += (uint64_t)n;
        if (!policy_spend_bytes(conn->exchange.rule, (uint64_t)n)) {
            conn->over = true;
            return false;
        }
        websocket_put(ws, bytes, (size_t)n);
    }
    conn->held |= !conn_room(conn->guest);
    if (conn->upstream_eof && buffer_size(&ws->out) == 0 && !websocket_ready(ws))
        channel_finish(conn->guest);
    return channel_flush(conn->guest) == 0;
}

static enum conn_step forward(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    struct bg_err err;
    if (!forward_request(conn, &err)) {
        struct failure failure = body_failure(&err);
        return fail(conn, &failure);
    }
    if (forward_response(conn, &err) < 0) {
        if (err.code == -EDQUOT) {
            struct failure failure = body_failure(&err);
            return fail(conn, &failure);
        }
        if (may_try_again(ex))
            return start_dial(conn);
        char text[BG_ERR_TEXT_SIZE + DESTINATION_TEXT_SIZE + 8], target[DESTINATION_TEXT_SIZE];
        destination_format(&ex->route.destination, 0, target);
        (void)snprintf(text, sizeof text, "%s: %s", target, err.text);
        struct failure failure = {AUDIT_ERROR, "upstream-response", 502, text};
        return fail(conn, &failure);
    }
    return all_sent(ex) ? finish(conn) : CONN_WAIT;
}

enum conn_step exchange_run(struct conn *conn)
{
    switch (conn->exchange.state) {
    case EXCHANGE_REQUEST:
        return read_request(conn);
    case EXCHANGE_BODY:
        return read_body(conn);
    case EXCHANGE_DIAL:
        return CONN_WAIT;
    case EXCHANGE_TLS:
        return shake_hands(conn);
    case EXCHANGE_FORWARD:
        return forward(conn);
    }
    return CONN_WAIT;
}

void exchange_timed_out(struct conn *conn)
{
    struct exchange *ex = &conn->exchange;
    struct failure failure = {AUDIT_ERROR, "timeout", 504, NULL};
    switch (ex->state) {
    case EXCHANGE_REQUEST:
        if (http_reader_fresh(&ex->request) || ex->request.state != HTTP_READER_HEAD) {
            conn_close(conn); /* it was idle */
            return;
        }
        ex->started_ms = uv_now(conn->engine->loop);
        failure = (struct failure){AUDIT_DENY, "timeout", 408, "the request's head took too long"};
        break;
    case EXCHANGE_BODY:
        failure = (struct failure){AUDIT_DENY, "timeout", 408, "the request's body stalled"};
        break;
    case EXCHANGE_DIAL:
        failure.text = "the host could not be reached in time";
        break;
    case EXCHANGE_TLS:
        failure.text = "the host did not finish its TLS handshake in time";
        break;
    case EXCHANGE_FORWARD:
        if (buffer_size(channel_out(conn->guest)) > 0) {
            failure.text = "the answer was not read";
        } else if (ex->request.state == HTTP_READER_BODY) {
            failure.status = 408;
            failure.text = "the request's body stalled";
        } else {
            failure.text = "the host did not answer in time";
        }
        break;
    }
    dial_cancel(BG_TAKE(conn->dial));
    (void)fail(conn, &failure); /* the caller runs the connection */
}
