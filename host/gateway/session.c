#include "host/gateway/session.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/base64.h"
#include "common/limits.h"
#include "common/quote.h"
#include "host/gateway/fault.h"
#include "host/gateway/session_state.h"

/* Close codes beyond RFC 6455's (docs/deno-protocol.md). */
#define CLOSE_GOING_AWAY     1000
#define CLOSE_INTERNAL_ERROR 1011
#define CLOSE_BAD_JSON       4000
#define CLOSE_BAD_RPC        4001
#define CLOSE_POLICY         1008

#define NUMBER_MAX ((int64_t)1 << 53)

#define DEFAULT_UMASK 022

static const struct {
    const char *name;
    method_fn *fn;
} methods[] = {
    {"abort", method_abort},
    {"chmod", method_chmod},
    {"chown", method_chown},
    {"copyFile", method_copy_file},
    {"create", method_create},
    {"denoHttpWait", method_deno_http_wait},
    {"denoReplCall", method_deno_repl_call},
    {"denoReplClose", method_deno_repl_close},
    {"denoReplEval", method_deno_repl_eval},
    {"envDelete", method_env_delete},
    {"envGet", method_env_get},
    {"envSet", method_env_set},
    {"envToObject", method_env_to_object},
    {"expandGlob", method_expand_glob},
    {"exposeHttp", method_expose_http},
    {"fetch", method_fetch},
    {"fileClose", method_file_close},
    {"fileLock", method_file_lock},
    {"fileRead", method_file_read},
    {"fileSeek", method_file_seek},
    {"fileStat", method_file_stat},
    {"fileSync", method_file_sync},
    {"fileSyncData", method_file_sync_data},
    {"fileTruncate", method_file_truncate},
    {"fileUnlock", method_file_unlock},
    {"fileUtime", method_file_utime},
    {"fileWrite", method_file_write},
    {"link", method_link},
    {"lstat", method_lstat},
    {"makeTempDir", method_make_temp_dir},
    {"makeTempFile", method_make_temp_file},
    {"mkdir", method_mkdir},
    {"open", method_open},
    {"processKill", method_process_kill},
    {"processResize", method_process_resize},
    {"processWait", method_process_wait},
    {"readDir", method_read_dir},
    {"readFile", method_read_file},
    {"readLink", method_read_link},
    {"readTextFile", method_read_text_file},
    {"realPath", method_real_path},
    {"remove", method_remove},
    {"rename", method_rename},
    {"spawn", method_spawn},
    {"spawnDeno", method_spawn_deno},
    {"spawnDenoRepl", method_spawn_deno_repl},
    {"stat", method_stat},
    {"symlink", method_symlink},
    {"truncate", method_truncate},
    {"umask", method_umask},
    {"utime", method_utime},
    {"vscode", method_vscode},
    {"walk", method_walk},
    {"writeFile", method_write_file},
    {"writeTextFile", method_write_text_file},
};

static void end(struct session *s, uint16_t code, const char *reason)
{
    if (s->closing)
        return;
    s->closing = true;
    s->opts.close(s->opts.owner, code, reason);
}

/* text: taken; NULL: out of memory, and then the client would wait for ever. */
static void send_text(struct session *s, char *text)
{
    if (text && !s->closing)
        s->opts.send(s->opts.owner, text, strlen(text));
    if (!text)
        end(s, CLOSE_INTERNAL_ERROR, "out of memory");
    free(text);
}

/* Sends a ping if something waits for what its answer says. */
static void ping(struct session *s)
{
    if (s->closing || (SIMPLEQ_EMPTY(&s->held) && s->ends.count == 0))
        return;
    uint64_t number = turns_ping(&s->turns);
    if (number > 0)
        s->opts.ping(s->opts.owner, number);
}

void session_reply(struct session *s, const json_t *id, json_t *value)
{
    send_text(s, rpc_result(id, value));
    ping(s);
}

void session_reply_bytes(struct session *s, const json_t *id, const void *bytes, size_t size)
{
    send_text(s, rpc_result_bytes(id, bytes, size));
}

void session_throw(struct session *s, const json_t *id, json_t *error)
{
    const char *class_name = json_string_value(json_object_get(error, "constructorName"));
    metric_count(&s->opts.shared->metrics->call_errors, class_name ? class_name : "Error");
    send_text(s, rpc_thrown(id, error));
}

char *session_doing(const char *verb, const char *path)
{
    char *text = NULL;
    return asprintf(&text, "%s '%s'", verb, path) < 0 ? NULL : text;
}

void session_fault(struct session *s, const json_t *id, enum rpc_code code, const char *text)
{
    metric_count(&s->opts.shared->metrics->call_errors, "protocol");
    send_text(s, rpc_fault(id, code, text));
}

/* ---- streams to the client ---- */

static json_t *stream_params(uint64_t id)
{
    return json_pack("{s:I}", "streamId", (json_int_t)id);
}

/* The SDK tells of a cancelled stream only if its program had the call's answer, which names the
 * stream, in hand before the stream began; else it keeps silent and its handler throws at the
 * stream's end. So the answer goes first, a ping with it, and all about the stream is held back for
 * a later turn of the client's. */
struct held {
    SIMPLEQ_ENTRY(held) link;
    uint64_t stream_id, mark;
    char *text;
    size_t size;
};

static void update_congestion(struct session *s)
{
    bool congested = s->unread || !SIMPLEQ_EMPTY(&s->held);
    if (congested == s->congested || s->closing)
        return;
    s->congested = congested;
    session_children_congested(s, congested);
    session_fetches_congested(s, congested);
    session_walks_congested(s, congested);
    session_globs_congested(s, congested);
}

static void held_free(struct session *s, struct held *held)
{
    SIMPLEQ_REMOVE(&s->held, held, held, link);
    free(held->text);
    free(held);
}

/* Sends what is about a stream, now or when it may. text: taken; NULL: out of memory. */
static void send_about(struct session *s, const struct outbound *out, char *text, size_t size)
{
    bool later = turns_later(&s->turns, out->mark);
    struct held *held = !later && text ? malloc(sizeof *held) : NULL;
    if (held) {
        *held = (struct held){.stream_id = out->id, .mark = out->mark, .text = text, .size = size};
        SIMPLEQ_INSERT_TAIL(&s->held, held, link);
        update_congestion(s);
        return;
    }
    if (!text || !later)
        end(s, CLOSE_INTERNAL_ERROR, "out of memory");
    else if (!s->closing)
        s->opts.send(s->opts.owner, text, size);
    free(text);
}

static void notify_about(struct session *s, const struct outbound *out, const char *verb,
                         json_t *params)
{
    char *text = rpc_notification(verb, params);
    send_about(s, out, text, text ? strlen(text) : 0);
}

void session_stream_start(struct session *s, struct outbound *out)
{
    s->opts.shared->metrics->streams_out++;
    out->id = s->opts.shared->next_stream++;
    out->mark = turns_mark(&s->turns);
    out->open = true;
    LIST_INSERT_HEAD(&s->outbound, out, link);
    notify_about(s, out, "$sandbox.stream.start", stream_params(out->id));
}

void session_stream_send(struct session *s, const struct outbound *out, const void *bytes,
                         size_t size)
{
    const uint8_t *at = bytes;
    while (out->open && size > 0 && !s->closing) {
        size_t take = size < BG_GATEWAY_CHUNK_MAX ? size : BG_GATEWAY_CHUNK_MAX, text_size = 0;
        char *text = rpc_chunk(out->id, at, take, &text_size);
        send_about(s, out, text, text_size);
        at += take;
        size -= take;
    }
}

static void forget_outbound(struct outbound *out)
{
    out->open = false;
    LIST_REMOVE(out, link);
}

void session_stream_end(struct session *s, struct outbound *out)
{
    if (!out->open)
        return;
    forget_outbound(out);
    int r = stream_ends_add(&s->ends, out->id, turns_mark(&s->turns));
    if (r == 0)
        ping(s);
    else
        end(s, r == -EMFILE ? CLOSE_POLICY : CLOSE_INTERNAL_ERROR,
            r == -EMFILE ? "pings are not answered" : "out of memory");
}

/* Says what may be said by now. */
static void go_on(struct session *s)
{
    struct held *held, *next;
    uint64_t id = 0;
    for (held = SIMPLEQ_FIRST(&s->held); held && !s->closing; held = next) {
        next = SIMPLEQ_NEXT(held, link);
        if (!turns_later(&s->turns, held->mark))
            continue;
        s->opts.send(s->opts.owner, held->text, held->size);
        held_free(s, held);
    }
    update_congestion(s);
    while (!s->closing && stream_ends_next(&s->ends, &s->turns, &id))
        send_text(s, rpc_notification("$sandbox.stream.end", stream_params(id)));
    ping(s);
}

void session_pong(struct session *session, uint64_t number)
{
    if (!session->closing && turns_pong(&session->turns, number))
        go_on(session);
}

void session_stream_break(struct session *s, struct outbound *out, json_t *error)
{
    if (!out->open) {
        json_decref(error);
        return;
    }
    forget_outbound(out);
    notify_about(s, out, "$sandbox.stream.error",
                 json_pack("{s:I, s:o}", "streamId", (json_int_t)out->id, "error", error));
}

static void cancel_outbound(struct session *s, int64_t id)
{
    struct outbound *out;
    struct held *held, *next;
    for (held = SIMPLEQ_FIRST(&s->held); held; held = next) {
        next = SIMPLEQ_NEXT(held, link);
        if (held->stream_id == (uint64_t)id)
            held_free(s, held);
    }
    update_congestion(s);
    if (stream_ends_cancel(&s->ends, (uint64_t)id))
        return;
    LIST_FOREACH(out, &s->outbound, link)
    {
        if (out->id != (uint64_t)id)
            continue;
        forget_outbound(out);
        if (out->on_cancel)
            out->on_cancel(out->owner);
        return;
    }
}

/* ---- streams of the client ---- */

bool session_wants_input(const struct session *session)
{
    return session->inbound.bytes <= BG_GATEWAY_IN_MAX;
}

void session_input_taken(struct session *s)
{
    bool starved = !session_wants_input(s);
    if (starved == s->starved)
        return;
    s->starved = starved;
    s->opts.on_input(s->opts.owner);
}

void session_stream_refuse(struct session *s, struct inbound *in)
{
    if (!in)
        return;
    int64_t id = in->id;
    bool ended = in->ended;
    inbound_drop(in);
    session_input_taken(s);
    if (!ended)
        send_text(s,
                  rpc_notification("$sandbox.stream.cancel",
                                   json_pack("{s:I, s:n}", "streamId", (json_int_t)id, "reason")));
}

static void take_chunk(struct session *s, int64_t id, struct rpc_params *p)
{
    size_t size = 0;
    const char *text = rpc_bytes(p, "data", &size);
    struct stream_chunk *chunk = rpc_params_ok(p) ? stream_chunk_new(size / 4 * 3 + 3) : NULL;
    if (!rpc_params_ok(p))
        return;
    ssize_t n = chunk ? bg_base64_decode(text, size, chunk->bytes) : -ENOMEM;
    if (n < 0) {
        free(chunk);
        end(s, CLOSE_POLICY, chunk ? "a stream's data is not base64" : "out of memory");
        return;
    }
    chunk->size = (size_t)n;
    stream_table_enqueue(&s->inbound, id, chunk);
    session_input_taken(s);
}

static void take_notification(struct session *s, const struct rpc_message *message)
{
    static const char prefix[] = "$sandbox.stream.";
    struct rpc_params p = rpc_params(message->params);
    if (strncmp(message->method, prefix, sizeof prefix - 1) != 0)
        return; /* as JSON-RPC wants it: nobody is told */
    const char *verb = message->method + sizeof prefix - 1;
    int64_t id = rpc_number(&p, "streamId", 0, NUMBER_MAX);
    if (!rpc_params_ok(&p))
        return;
    if (strcmp(verb, "start") == 0) {
        int r = stream_table_start(&s->inbound, id);
        s->opts.shared->metrics->streams_in += r == 0;
        if (r == -EMFILE)
            end(s, CLOSE_POLICY, "too many streams");
    } else if (strcmp(verb, "enqueue") == 0) {
        take_chunk(s, id, &p);
    } else if (strcmp(verb, "end") == 0) {
        stream_table_end(&s->inbound, id, /* failed= */ false);
    } else if (strcmp(verb, "error") == 0) {
        stream_table_end(&s->inbound, id, /* failed= */ true);
    } else if (strcmp(verb, "cancel") == 0) {
        cancel_outbound(s, id);
    }
}

/* ---- calls ---- */

static void take_call(struct session *s, const struct rpc_message *message)
{
    struct rpc_params p = rpc_params(message->params);
    char text[256], quoted[128];
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (strcmp(methods[i].name, message->method) != 0)
            continue;
        metric_count(&s->opts.shared->metrics->calls, methods[i].name);
        methods[i].fn(s, message->id, &p);
        if (!rpc_params_ok(&p)) {
            (void)snprintf(text, sizeof text, "%s: %s", message->method, p.problem);
            session_fault(s, message->id, RPC_INVALID_PARAMS, text);
        }
        return;
    }
    metric_count(&s->opts.shared->metrics->calls, "unknown");
    bg_escape(message->method, strlen(message->method), quoted, sizeof quoted);
    (void)snprintf(text, sizeof text, "bellglass serve has no method '%s'", quoted);
    session_fault(s, message->id, RPC_METHOD_NOT_FOUND, text);
}

void method_vscode(struct session *s, const json_t *id, struct rpc_params *params)
{
    (void)params; /* the environment among them holds the client's token: it goes nowhere */
    session_throw(s, id,
                  fault_new("NotSupported", "bellglass serve has no VS Code in the browser; "
                                            "`bellglass code ID` opens one on this machine"));
}

/* Answers itself, and the call that is aborted if it is still under way. */
void method_abort(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t abort_id = rpc_number(params, "abortId", 0, INT64_MAX);
    if (!rpc_params_ok(params))
        return;
    if (!session_transfer_abort(s, abort_id))
        (void)session_fetch_abort(s, abort_id); /* or it is over by now */
    session_reply(s, id, json_null());
}

/* The domain is what the route before it gave: one name for each sandbox. */
void method_expose_http(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *domain = rpc_text(params, "domain");
    int64_t pid = rpc_number_or(params, "pid", 1, INT32_MAX, 0);
    int64_t port = pid ? session_child_port(s, pid) : rpc_number(params, "port", 1, UINT16_MAX);
    const char *name = s->opts.entry->sandbox.name;
    struct bg_err err;
    if (!rpc_params_ok(params))
        return;
    if (port == 0)
        session_throw(s, id, fault_errno(-ENOENT, "exposeHttp: a process of Deno's"));
    else if (strncmp(domain, name, strlen(name)) != 0)
        session_throw(s, id, fault_new("TypeError", "exposeHttp: the domain is another sandbox's"));
    else if (sandboxes_set_port(s->opts.entry, (uint16_t)port, &err) < 0)
        session_throw(s, id, fault_new("Error", err.text));
    else
        session_reply(s, id, json_null());
}

void session_message(struct session *session, const char *text, size_t size)
{
    struct session *s = session;
    struct rpc_message message;
    struct bg_err err;
    if (s->closing)
        return;
    if (size == 4 && memcmp(text, "ping", 4) == 0) {
        s->opts.send(s->opts.owner, "pong", 4);
        turns_message(&s->turns);
        go_on(s);
        return;
    }
    int r = rpc_parse(text, size, &message, &err);
    if (r < 0) {
        bg_log(s->opts.shared->log, BG_LOG_WARN, "sandbox %s: a client's message: %s",
               s->opts.entry->sandbox.name, err.text);
        end(s, r == -EBADMSG ? CLOSE_BAD_JSON : CLOSE_BAD_RPC, err.text);
        return;
    }
    if (message.id)
        take_call(s, &message);
    else
        take_notification(s, &message);
    rpc_message_done(&message);
    turns_message(&s->turns); /* after a cancel, which may be what came */
    go_on(s);
}

/* ---- life ---- */

static void sandbox_gone(void *owner)
{
    struct session *s = owner;
    s->gone = true;
    end(s, CLOSE_GOING_AWAY, "the sandbox has ended");
}

int session_open(const struct session_opts *opts, struct session **ret, struct bg_err *err)
{
    struct session *s = calloc(1, sizeof *s);
    if (!s)
        return bg_err_errno(err, -ENOMEM, "session");
    s->opts = *opts;
    s->turns.reads = opts->far ? BG_GATEWAY_TURN_READS_FAR : BG_GATEWAY_TURN_READS;
    stream_table_init(&s->inbound);
    LIST_INIT(&s->outbound);
    stream_ends_init(&s->ends);
    SIMPLEQ_INIT(&s->held);
    LIST_INIT(&s->children);
    LIST_INIT(&s->file_calls);
    LIST_INIT(&s->handles);
    LIST_INIT(&s->transfers);
    LIST_INIT(&s->env_queries);
    LIST_INIT(&s->fetches);
    LIST_INIT(&s->walks);
    LIST_INIT(&s->globs);
    LIST_INIT(&s->deno_calls);
    s->umask = DEFAULT_UMASK;
    s->viewer.on_gone = sandbox_gone;
    s->viewer.owner = s;
    s->viewer.looks_on = opts->looks_on;
    sandboxes_view(opts->entry, &s->viewer);
    *ret = s;
    return 0;
}

void session_congested(struct session *session, bool congested)
{
    session->unread = congested;
    update_congestion(session);
}

void session_close(struct session *session)
{
    if (!session)
        return;
    session->closing = true;
    session_deno_close(session);
    session_children_close(session);
    session_transfers_close(session);
    session_fetches_close(session);
    session_walks_close(session);
    session_globs_close(session);
    session_env_close(session);
    session_files_close(session);
    stream_table_done(&session->inbound);
    stream_ends_done(&session->ends);
    while (!SIMPLEQ_EMPTY(&session->held))
        held_free(session, SIMPLEQ_FIRST(&session->held));
    if (!session->gone)
        sandboxes_unview(session->opts.entry, &session->viewer);
    free(session);
}
