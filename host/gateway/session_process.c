/* Processes of a session. They belong to the sandbox: one whose client is gone goes on without its
 * pipes. What was started is remembered until somebody has waited for it, or too many have ended.
 */
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "common/quote.h"
#include "host/gateway/fault.h"
#include "host/gateway/guest_process.h"
#include "host/gateway/session_state.h"
#include "host/gateway/signal_name.h"

#define PID_MAX  INT32_MAX
#define SIDE_MAX UINT16_MAX   /* of a terminal */
#define HOME     "/home/app/" /* where relative folders begin */

struct child {
    LIST_ENTRY(child) link;
    struct session *session;
    struct guest_process *process; /* NULL: it has ended */
    char *command;
    json_t *params; /* of spawn, until it has started */
    bool no_input;
    json_t *spawn_id; /* NULL: answered */
    json_t *wait_id;  /* NULL: nobody waits */
    uint32_t pid;     /* 0: not yet known */
    struct outbound out[2];
    bool piped[2];
    struct spawn_deno deno; /* port 0: it is none of Deno's */
    uint16_t rows, columns; /* of its terminal; 0: it has none */
    struct inbound *input;  /* NULL: there is none (any more) */
    struct guest_exit how;  /* once it has ended */
    bool lost;              /* nobody knows how it ended */
};

static void child_free(struct child *c)
{
    struct session *s = c->session;
    session_env_forget(s, c);
    guest_process_close(c->process);
    LIST_REMOVE(c, link);
    s->child_count--;
    json_decref(c->spawn_id);
    json_decref(c->wait_id);
    json_decref(c->params);
    free(c->command);
    free(c);
}

static struct child *find_child(const struct session *s, int64_t pid)
{
    struct child *c;
    LIST_FOREACH(c, &s->children, link)
    {
        if (c->pid == (uint64_t)pid && pid > 0)
            return c;
    }
    return NULL;
}

static void throw_spawn(struct child *c, int status, const char *text)
{
    char doing[1024];
    if (c->deno.port && status == -ENOENT) {
        session_throw(c->session, c->spawn_id,
                      fault_new("NotSupported",
                                "the sandbox's image has no deno; make one that has with "
                                "`bellglass image build deno`, and give it to bellglass serve with "
                                "--image deno"));
        return;
    }
    (void)snprintf(doing, sizeof doing, "Failed to spawn '%.256s': %.512s", c->command, text);
    session_throw(c->session, c->spawn_id, fault_errno(status, doing));
}

/* ---- how it ends ---- */

static json_t *status_of(const struct child *c)
{
    char text[16];
    return json_pack("{s:b, s:i, s:s?, s:n}", "success", c->how.status == 0, "code", c->how.status,
                     "signal", c->how.signal ? signal_name(c->how.signal, text) : NULL, "oom");
}

static void answer_wait(struct child *c)
{
    json_t *id = BG_TAKE(c->wait_id);
    if (c->lost)
        session_throw(c->session, id, fault_new("Error", "the sandbox has lost this process"));
    else
        session_reply(c->session, id, status_of(c));
    json_decref(id);
}

static void child_over(struct child *c)
{
    struct session *s = c->session;
    guest_process_close(BG_TAKE(c->process));
    for (size_t i = 0; i < 2; i++)
        session_stream_end(s, &c->out[i]);
    session_stream_refuse(s, BG_TAKE(c->input));
    if (c->wait_id) {
        answer_wait(c);
        child_free(c);
    }
}

static void on_ended(void *owner, const struct guest_exit *how, const struct bg_err *err)
{
    struct child *c = owner;
    if (how)
        c->how = *how;
    else
        c->lost = true;
    if (!c->spawn_id) {
        child_over(c);
        return;
    }
    throw_spawn(c, err ? err->code : -EPROTO, err ? err->text : "it ended before it began");
    session_stream_refuse(c->session, BG_TAKE(c->input));
    child_free(c);
}

static void on_refused(void *owner, int status, const char *text)
{
    struct child *c = owner;
    throw_spawn(c, status, text);
    session_stream_refuse(c->session, BG_TAKE(c->input));
    child_free(c);
}

/* ---- what it reads and writes ---- */

/* Out of memory towards the guest: the process is of no use. */
static void lose(struct child *c)
{
    struct bg_err err;
    (void)bg_err_errno(&err, -ENOMEM, "process");
    on_ended(c, NULL, &err);
}

static void pump_input(void *owner)
{
    struct child *c = owner;
    if (!c->input || !c->process)
        return;
    int r = guest_process_feed(c->process, c->input);
    session_input_taken(c->session);
    if (r == 0 && inbound_over(c->input)) {
        inbound_drop(BG_TAKE(c->input));
        r = guest_process_end_input(c->process);
    }
    if (r < 0)
        lose(c);
}

static void on_output(void *owner, bool is_stderr, const uint8_t *bytes, size_t size)
{
    struct child *c = owner;
    session_stream_send(c->session, &c->out[is_stderr], bytes, size);
}

static void on_started(void *owner, uint32_t pid)
{
    struct child *c = owner;
    struct session *s = c->session;
    json_t *ids[2];
    struct child *before = find_child(s, pid);
    if (before && !before->process)
        child_free(before); /* the guest gives a number again: the older one is gone for good */
    c->pid = pid;
    for (size_t i = 0; i < 2; i++) {
        if (c->piped[i])
            session_stream_start(s, &c->out[i]);
        ids[i] = c->piped[i] ? json_integer((json_int_t)c->out[i].id) : json_null();
    }
    json_t *id = BG_TAKE(c->spawn_id);
    json_decref(BG_TAKE(c->params));
    json_t *value = json_pack("{s:I, s:o, s:o}", "pid", (json_int_t)pid, "stdoutStreamId", ids[0],
                              "stderrStreamId", ids[1]);
    if (value && c->deno.port && !c->deno.repl)
        (void)json_object_set_new(value, "watcherId",
                                  json_null()); /* missing only without memory */
    session_reply(s, id, value);
    json_decref(id);
}

/* ---- methods ---- */

/* argv as a heap array of borrowed texts. */
static char **make_argv(const char *command, const json_t *args, size_t *ret_count)
{
    size_t count = json_array_size(args);
    char **argv = calloc(count + 2, sizeof *argv);
    if (!argv)
        return NULL;
    /* Nothing writes to them; exec's argv has no const. */
    argv[0] = (char *)(uintptr_t)command;
    for (size_t i = 0; i < count; i++)
        argv[i + 1] = (char *)(uintptr_t)json_string_value(json_array_get(args, i));
    *ret_count = count + 1;
    return argv;
}

static bool read_mode(struct rpc_params *p, const char *name)
{
    const char *mode = rpc_text(p, name);
    bool piped = strcmp(mode, "piped") == 0;
    if (!piped && strcmp(mode, "null") != 0 && rpc_params_ok(p))
        (void)snprintf(p->problem, sizeof p->problem, "%s: want \"piped\" or \"null\"", name);
    return piped;
}

/* One that has not begun yet has no process either. */
static bool has_ended(const struct child *c)
{
    return !c->process && !c->spawn_id;
}

/* Makes room by what has ended and nobody waited for, the oldest. */
static bool make_room(struct session *s)
{
    struct child *c, *oldest = NULL;
    if (s->child_count < BG_GATEWAY_PROCESSES_MAX)
        return true;
    LIST_FOREACH(c, &s->children, link)
    {
        if (has_ended(c))
            oldest = c; /* new ones are put in front */
    }
    if (oldest)
        child_free(oldest);
    return oldest != NULL;
}

static int start(struct child *c, const struct env_list *env, struct bg_err *err)
{
    struct session *s = c->session;
    size_t argc = 0;
    const char *cwd = json_string_value(json_object_get(c->params, "cwd"));
    BG_AUTOFREE char **argv = make_argv(c->command, json_object_get(c->params, "args"), &argc);
    BG_AUTOFREE char *folder = NULL;
    if (asprintf(&folder, "%s%s", cwd && cwd[0] != '/' ? HOME : "", cwd ? cwd : "") < 0)
        folder = NULL;
    if (!argv || !folder)
        return bg_err_errno(err, -ENOMEM, "spawn");
    const struct exec_request request = {.user = "",
                                         .cwd = folder,
                                         .tty = c->rows > 0,
                                         .rows = c->rows,
                                         .columns = c->columns,
                                         .argv = argv,
                                         .argc = argc,
                                         .clear_env = env->clear,
                                         .env = env->list,
                                         .envc = env->count,
                                         .detach = c->rows == 0}; /* a terminal is hung up */
    const struct guest_process_opts opts = {.paths = s->opts.shared->paths,
                                            .sandbox = &s->opts.entry->sandbox,
                                            .request = &request,
                                            .on_started = on_started,
                                            .on_refused = on_refused,
                                            .on_output = on_output,
                                            .on_room = pump_input,
                                            .on_ended = on_ended,
                                            .owner = c};
    int r = guest_process_start(s->opts.shared->loop, &opts, &c->process, err);
    if (r == 0 && c->no_input)
        r = guest_process_end_input(c->process);
    return r;
}

static void env_ready(void *owner, const struct env_list *env, const struct bg_err *why)
{
    struct child *c = owner;
    struct bg_err err;
    int r = why ? why->code : start(c, env, &err);
    if (r < 0) {
        throw_spawn(c, r, why ? why->text : err.text);
        session_stream_refuse(c->session, BG_TAKE(c->input));
        child_free(c);
    } else if (c->session->congested) {
        guest_process_pause(c->process, true);
    }
}

uint16_t session_child_port(const struct session *s, int64_t pid)
{
    const struct child *c = find_child(s, pid);
    return c && c->process ? c->deno.port : 0;
}

void method_spawn(struct session *s, const json_t *id, struct rpc_params *params)
{
    session_spawn(s, id, params, NULL);
}

void session_spawn(struct session *s, const json_t *id, struct rpc_params *params,
                   const struct spawn_deno *deno)
{
    const char *command = rpc_text(params, "command");
    const json_t *env = rpc_map(params, "env");
    bool clear = rpc_flag(params, "clearEnv", false);
    (void)rpc_texts(params, "args"); /* looked at here, used when it starts */
    (void)rpc_text_or_null(params, "cwd");
    bool piped[2] = {read_mode(params, "stdout"), read_mode(params, "stderr")};
    int64_t input = rpc_number_or(params, "stdinStreamId", 0, INT64_MAX, -1);
    int64_t rows = rpc_number_or(params, "ttyRows", 1, SIDE_MAX, 0);
    int64_t columns = rpc_number_or(params, "ttyColumns", 1, SIDE_MAX, rows > 0 ? 80 : 0);
    if (!rpc_params_ok(params) || !session_env_allowed(s, id, env))
        return;
    struct child *c = make_room(s) ? calloc(1, sizeof *c) : NULL;
    if (!c) {
        session_throw(s, id, fault_new("Error", "too many processes"));
        return;
    }
    *c = (struct child){.session = s,
                        .command = strdup(command),
                        .params = json_deep_copy(params->object),
                        .spawn_id = json_deep_copy(id),
                        .no_input = input < 0,
                        .rows = (uint16_t)rows,
                        .columns = (uint16_t)columns,
                        .piped = {piped[0], piped[1] && rows == 0}};
    if (deno)
        c->deno = *deno;
    LIST_INSERT_HEAD(&s->children, c, link);
    s->child_count++;
    if (input >= 0)
        c->input = stream_table_claim(&s->inbound, input, pump_input, c);
    if (!c->command || !c->spawn_id || !c->params || (input >= 0 && !c->input)) {
        session_throw(s, id, fault_new("Error", "spawn: no such stream, or out of memory"));
        session_stream_refuse(s, BG_TAKE(c->input));
        child_free(c);
        return;
    }
    session_env_make(s, env, clear, env_ready, c);
}

void method_process_wait(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t pid = rpc_number(params, "pid", 1, PID_MAX);
    if (!rpc_params_ok(params))
        return;
    struct child *c = find_child(s, pid);
    if (!c || c->wait_id) {
        session_throw(s, id, fault_errno(-ESRCH, c ? "it is waited for already" : "processWait"));
        return;
    }
    c->wait_id = json_deep_copy(id);
    if (!c->process) {
        answer_wait(c);
        child_free(c);
    }
}

void method_process_kill(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t pid = rpc_number(params, "pid", 1, PID_MAX);
    const char *name = rpc_text_or_null(params, "signal");
    int number = signal_number(name ? name : "SIGTERM");
    char quoted[64], text[128];
    if (!rpc_params_ok(params))
        return;
    const struct child *c = find_child(s, pid);
    if (number == 0) {
        bg_escape(name, strlen(name), quoted, sizeof quoted);
        (void)snprintf(text, sizeof text, "Unknown signal: %s", quoted);
        session_throw(s, id, fault_new("TypeError", text));
    } else if (!c || !c->process) {
        session_throw(s, id, fault_errno(-ENOENT, "processKill"));
    } else if (guest_process_signal(c->process, number) < 0) {
        session_throw(s, id, fault_errno(-ENOMEM, "processKill"));
    } else {
        session_reply(s, id, json_null());
    }
}

/* Not of the SDK's: its terminal has another size now. */
void method_process_resize(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t pid = rpc_number(params, "pid", 1, PID_MAX);
    int64_t rows = rpc_number(params, "rows", 1, SIDE_MAX);
    int64_t columns = rpc_number(params, "columns", 1, SIDE_MAX);
    if (!rpc_params_ok(params))
        return;
    const struct child *c = find_child(s, pid);
    if (!c || !c->process || c->rows == 0)
        session_throw(s, id, fault_errno(-ENOENT, "processResize"));
    else if (guest_process_resize(c->process, (uint16_t)rows, (uint16_t)columns) < 0)
        session_throw(s, id, fault_errno(-ENOMEM, "processResize"));
    else
        session_reply(s, id, json_null());
}

/* ---- all of them ---- */

void session_children_congested(struct session *s, bool congested)
{
    struct child *c;
    LIST_FOREACH(c, &s->children, link)
    {
        if (c->process)
            guest_process_pause(c->process, congested);
    }
}

void session_children_close(struct session *s)
{
    while (!LIST_EMPTY(&s->children))
        child_free(LIST_FIRST(&s->children));
}
