/* Deno in the guest: processes of `deno`, whose HTTP server listens on a second port that is known
 * here (DENO_SERVE_ADDRESS), too, and REPLs (repl.js), each call of which is a connection. Whether
 * one listens yet can only be tried, until it does or the process has ended. */
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "common/limits.h"
#include "host/gateway/fault.h"
#include "host/gateway/repl.h"
#include "host/gateway/session_state.h"
#include "host/gateway/text.h"
#include "host/gateway/tunnel.h"

/* Ports: two for each process, above those that Linux gives by itself. */
#define PORT_MIN 61000
#define PORT_MAX 65534

#define DELAY_MIN_MS 50
#define DELAY_MAX_MS 1000

/* denoHttpWait, or a call to a REPL. */
struct deno_call {
    LIST_ENTRY(deno_call) link;
    struct session *session;
    uv_timer_t timer; /* the loop's until closed() */
    struct tunnel *tunnel;
    json_t *id;
    int64_t pid;
    char *request; /* NULL: denoHttpWait */
    bool closes;   /* denoReplClose: the end is the answer */
    char *answer;
    size_t used;
    uint64_t delay_ms;
};

static void closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void call_free(struct deno_call *c)
{
    LIST_REMOVE(c, link);
    tunnel_close(c->tunnel);
    json_decref(c->id);
    free(c->request);
    free(c->answer);
    uv_close((uv_handle_t *)&c->timer, closed);
}

/* What repl.js said. */
static void answer_call(struct deno_call *c)
{
    json_auto_t *answer = json_loadb(c->answer ? c->answer : "", c->used, JSON_ALLOW_NUL, NULL);
    json_t *ok = json_object_get(answer, "ok"), *error = json_object_get(answer, "error");
    const char *name = json_string_value(json_object_get(error, "name"));
    const char *message = json_string_value(json_object_get(error, "message"));
    if (ok)
        session_reply(c->session, c->id, json_incref(ok));
    else if (name && message)
        session_throw(c->session, c->id, fault_new(name, message));
    else if (c->closes && c->used == 0)
        session_reply(c->session, c->id, json_null());
    else
        session_throw(c->session, c->id, fault_new("Error", "the REPL has ended"));
}

static void try_it(struct deno_call *c);

static void timer_fired(uv_timer_t *timer)
{
    try_it(timer->data);
}

static void on_data(void *owner, const uint8_t *bytes, size_t size)
{
    struct deno_call *c = owner;
    char *grown = c->used + size <= BG_GATEWAY_IN_MAX ? realloc(c->answer, c->used + size) : NULL;
    if (!grown) {
        session_throw(c->session, c->id, fault_new("Error", "the REPL's answer is too large"));
        call_free(c);
        return;
    }
    memcpy(grown + c->used, bytes, size);
    c->answer = grown;
    c->used += size;
}

static void on_end(void *owner, int status)
{
    struct deno_call *c = owner;
    if (status < 0) {
        tunnel_close(BG_TAKE(c->tunnel));
        (void)uv_timer_start(&c->timer, timer_fired, c->delay_ms, 0); /* fails when closing */
        c->delay_ms = c->delay_ms * 2 < DELAY_MAX_MS ? c->delay_ms * 2 : DELAY_MAX_MS;
        return;
    }
    if (c->request)
        answer_call(c);
    else
        session_reply(c->session, c->id, json_true());
    call_free(c);
}

static void on_drain(void *owner)
{
    (void)owner; /* all was written at once */
}

static int reach(struct deno_call *c, uint16_t port)
{
    struct session *s = c->session;
    struct bg_err err;
    const struct tunnel_opts opts = {.paths = s->opts.shared->paths,
                                     .sandbox = &s->opts.entry->sandbox,
                                     .port = (uint16_t)(port + (c->request ? 1 : 0)),
                                     .on_data = on_data,
                                     .on_end = on_end,
                                     .on_drain = on_drain,
                                     .owner = c};
    int r = tunnel_open(s->opts.shared->loop, &opts, &c->tunnel, &err);
    char *copy = r == 0 && c->request ? strdup(c->request) : NULL;
    if (r == 0 && c->request)
        r = copy ? tunnel_write(c->tunnel, copy, strlen(copy)) : -ENOMEM;
    if (r == 0)
        tunnel_finish(c->tunnel);
    return r;
}

static void try_it(struct deno_call *c)
{
    struct session *s = c->session;
    uint16_t port = session_child_port(s, c->pid);
    int r = port ? reach(c, port) : -ENOENT;
    if (r == 0)
        return;
    if (r == -ENOENT && !c->request)
        session_reply(s, c->id, json_false());
    else
        session_throw(s, c->id, fault_errno(r, "a process of Deno's"));
    call_free(c);
}

/* request: taken, of which there is none for denoHttpWait. */
static void begin(struct session *s, const json_t *id, int64_t pid, char *request, bool closes)
{
    struct deno_call *c = calloc(1, sizeof *c);
    if (!c || uv_timer_init(s->opts.shared->loop, &c->timer) < 0) {
        session_throw(s, id, fault_errno(-ENOMEM, "a process of Deno's"));
        free(c);
        free(request);
        return;
    }
    c->timer.data = c;
    c->session = s;
    c->id = json_deep_copy(id);
    c->pid = pid;
    c->request = request;
    c->closes = closes;
    c->delay_ms = DELAY_MIN_MS;
    LIST_INSERT_HEAD(&s->deno_calls, c, link);
    try_it(c);
}

void method_deno_http_wait(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t pid = rpc_number(params, "pid", 1, INT32_MAX);
    if (rpc_params_ok(params))
        begin(s, id, pid, NULL, /* closes= */ false);
}

/* object: taken. */
static void ask_repl(struct session *s, const json_t *id, int64_t pid, json_t *object, bool closes)
{
    char *request = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (request)
        begin(s, id, pid, request, closes);
    else
        session_throw(s, id, fault_errno(-ENOMEM, "REPL"));
}

void method_deno_repl_eval(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t pid = rpc_number(params, "pid", 1, INT32_MAX);
    const char *code = rpc_text(params, "code");
    if (rpc_params_ok(params))
        ask_repl(s, id, pid, json_pack("{s:s}", "code", code), false);
}

void method_deno_repl_call(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t pid = rpc_number(params, "pid", 1, INT32_MAX);
    const char *fn = rpc_text(params, "fn");
    json_t *args = json_object_get(params->object, "args");
    if (!json_is_array(args))
        rpc_complain(params, "args", "an array");
    if (rpc_params_ok(params))
        ask_repl(s, id, pid, json_pack("{s:s, s:O}", "fn", fn, "args", args), false);
}

void method_deno_repl_close(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t pid = rpc_number(params, "pid", 1, INT32_MAX);
    if (rpc_params_ok(params))
        ask_repl(s, id, pid, json_pack("{s:b}", "close", 1), true);
}

/* ---- processes ---- */

static uint16_t next_port(struct sandbox_entry *entry)
{
    uint16_t any;
    if (entry->deno_port == 0) {
        bg_random(&any, sizeof any);
        entry->deno_port = (uint16_t)(PORT_MIN + any % (PORT_MAX - PORT_MIN) / 2 * 2);
    }
    uint16_t port = entry->deno_port;
    entry->deno_port = (uint16_t)(port + 2 < PORT_MAX ? port + 2 : PORT_MIN);
    return port;
}

static int push(json_t *args, const char *text)
{
    return json_array_append_new(args, json_string(text));
}

/* What `spawn` is asked for. args: taken; NULL: out of memory. */
static void spawn(struct session *s, const json_t *id, struct rpc_params *params, json_t *args,
                  bool repl)
{
    char address[64], repl_port[16];
    uint16_t port = next_port(s->opts.entry);
    const json_t *own = rpc_map(params, "env"), *rest = rpc_texts(params, "scriptArgs");
    json_auto_t *asked = json_copy((json_t *)(uintptr_t)params->object);
    json_t *env = own ? json_copy((json_t *)(uintptr_t)own) : json_object();
    (void)snprintf(address, sizeof address, "duplicate,tcp:127.0.0.1:%d", port);
    (void)snprintf(repl_port, sizeof repl_port, "%d", port + 1);
    int r = !args || (rest && json_array_extend(args, (json_t *)(uintptr_t)rest) < 0) ||
            json_object_set_new(env, "DENO_SERVE_ADDRESS", json_string(address)) < 0 ||
            json_object_set_new(env, "DENO_NO_UPDATE_CHECK", json_string("1")) < 0 ||
            (repl && json_object_set_new(env, "BELLGLASS_REPL_PORT", json_string(repl_port)) < 0);
    r |= json_object_set_new(asked, "env", env) < 0 ||
         json_object_set_new(asked, "args", args) < 0 ||
         json_object_set_new(asked, "command", json_string("deno")) < 0;
    if (!rpc_params_ok(params))
        return;
    if (r) {
        session_throw(s, id, fault_errno(-ENOMEM, "deno"));
        return;
    }
    struct rpc_params mine = rpc_params(asked);
    session_spawn(s, id, &mine, &(struct spawn_deno){.port = port, .repl = repl});
    (void)rpc_params_merge(params, &mine); /* the caller looks */
}

static json_t *run_args(struct rpc_params *params, const char *entrypoint)
{
    const json_t *watch = json_object_get(params->object, "watch");
    json_t *args = json_pack("[s, s]", "run", "--allow-all");
    int r = args ? 0 : -1;
    if (json_is_array(watch)) {
        const json_t *paths = rpc_texts(params, "watch");
        size_t i;
        json_t *path;
        json_array_foreach((json_t *)(uintptr_t)paths, i, path)
        {
            char option[BG_PATH_MAX + 16];
            (void)snprintf(option, sizeof option, "--watch=%s", json_string_value(path));
            r |= push(args, option);
        }
    } else if (rpc_flag(params, "watch", false)) {
        r |= push(args, "--watch");
    }
    if (rpc_has(params, "watch"))
        r |= push(args, "--no-clear-screen");
    r |= push(args, entrypoint);
    if (r == 0)
        return args;
    json_decref(args);
    return NULL;
}

void method_spawn_deno(struct session *s, const json_t *id, struct rpc_params *params)
{
    static const char *const known[] = {"js", "cjs", "mjs", "ts", "cts", "mts", "jsx", "tsx"};
    const char *entrypoint = rpc_text_or_null(params, "entrypoint");
    const char *code = entrypoint ? NULL : rpc_text(params, "code");
    const char *extension = rpc_text_or_null(params, "extension");
    char option[16];
    bool right = !extension;
    for (size_t i = 0; extension && i < sizeof known / sizeof known[0]; i++)
        right |= strcmp(extension, known[i]) == 0;
    if (!right)
        rpc_complain(params, "extension", "one of Deno's");
    if (!rpc_params_ok(params))
        return;
    (void)snprintf(option, sizeof option, "--ext=%s", extension ? extension : "ts");
    spawn(s, id, params,
          entrypoint ? run_args(params, entrypoint) : json_pack("[s, s, s]", "eval", option, code),
          /* repl= */ false);
}

void method_spawn_deno_repl(struct session *s, const json_t *id, struct rpc_params *params)
{
    spawn(s, id, params, json_pack("[s, s, s]", "eval", "--ext=js", repl_js),
          /* repl= */ true);
}

void session_deno_close(struct session *s)
{
    while (!LIST_EMPTY(&s->deno_calls))
        call_free(LIST_FIRST(&s->deno_calls));
}
