/* Requests from inside of the sandbox: curl there makes them, so that they go the way of everything
 * else in it: its own loopback, or the egress proxy with its policy and secrets. */
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "host/gateway/fault.h"
#include "host/gateway/guest_process.h"
#include "host/gateway/http_response.h"
#include "host/gateway/session_state.h"
#include "host/gateway/text.h"

#define FIELDS_MAX  128
#define COMPLAINT   1024 /* of what curl says on stderr */
#define ARGS_OF_OWN 32

struct fetch {
    LIST_ENTRY(fetch) link;
    struct session *session;
    struct guest_process *process;
    json_t *id; /* NULL: answered */
    json_t *params;
    int64_t abort_id; /* -1: none */
    uint16_t port;    /* of a process of Deno's, which all goes to; 0: where the URL says */
    char connect_to[32];
    char *url; /* for that */
    struct http_response response;
    struct outbound body;
    struct inbound *input;
    bool streams; /* the answer has a body that is a stream */
    char complaint[COMPLAINT];
    size_t complaint_size;
};

static void fetch_free(struct fetch *f)
{
    struct session *s = f->session;
    session_stream_refuse(s, BG_TAKE(f->input));
    session_env_forget(s, f);
    guest_process_close(f->process);
    LIST_REMOVE(f, link);
    http_response_done(&f->response);
    json_decref(f->id);
    json_decref(f->params);
    free(f->url);
    free(f);
}

/* Before the answer it is thrown, after it the body's stream breaks off. */
static void fail(struct fetch *f, json_t *error)
{
    if (f->id)
        session_throw(f->session, f->id, error);
    else
        session_stream_break(f->session, &f->body, error);
    fetch_free(f);
}

static void fail_text(struct fetch *f, const char *text)
{
    fail(f, fault_new("TypeError", text));
}

/* ---- the answer ---- */

/* fetch's "null body status", to which a client gives no body. */
static bool has_no_body(int status)
{
    return status == 204 || status == 205 || status == 304;
}

static void answer(struct fetch *f)
{
    struct session *s = f->session;
    f->streams = !has_no_body(f->response.status);
    f->body.on_cancel = NULL; /* curl ends by itself, or with the connection */
    if (f->streams)
        session_stream_start(s, &f->body);
    json_t *id = BG_TAKE(f->id);
    session_reply(s, id,
                  json_pack("{s:i, s:O, s:O, s:o}", "status", f->response.status, "statusText",
                            f->response.status_text, "headers", f->response.fields, "bodyStreamId",
                            f->streams ? json_integer((json_int_t)f->body.id) : json_null()));
    json_decref(id);
}

static void on_output(void *owner, bool is_stderr, const uint8_t *bytes, size_t size)
{
    struct fetch *f = owner;
    struct bg_err err;
    size_t used = 0;
    if (is_stderr) {
        size_t room = COMPLAINT - 1 - f->complaint_size;
        size_t take = size < room ? size : room;
        memcpy(f->complaint + f->complaint_size, bytes, take);
        f->complaint_size += take;
        return;
    }
    if (!f->response.done) {
        if (http_response_feed(&f->response, bytes, size, &used, &err) < 0) {
            fail_text(f, err.text);
            return;
        }
        if (f->response.done)
            answer(f);
    }
    if (f->streams)
        session_stream_send(f->session, &f->body, bytes + used, size - used);
}

static void on_ended(void *owner, const struct guest_exit *how, const struct bg_err *err)
{
    struct fetch *f = owner;
    char text[COMPLAINT + 64];
    f->complaint[strcspn(f->complaint, "\n")] = '\0';
    if (err) {
        fail_text(f, err->text);
    } else if (how->status != 0 || f->id) {
        (void)snprintf(text, sizeof text, "fetch failed: %s",
                       f->complaint[0] ? f->complaint : "the connection ended");
        fail_text(f, text);
    } else {
        session_stream_end(f->session, &f->body);
        fetch_free(f);
    }
}

static void on_refused(void *owner, int status, const char *text)
{
    struct fetch *f = owner;
    fail(f, status == -ENOENT ? fault_new("NotSupported", "fetch: the sandbox's image has no curl")
                              : fault_errno(status, text));
}

static void on_started(void *owner, uint32_t pid)
{
    (void)owner;
    (void)pid;
}

/* ---- the request ---- */

static void pump_input(void *owner)
{
    struct fetch *f = owner;
    if (!f->input || !f->process)
        return;
    int r = guest_process_feed(f->process, f->input);
    session_input_taken(f->session);
    if (r == 0 && inbound_over(f->input)) {
        bool failed = f->input->failed;
        inbound_drop(BG_TAKE(f->input));
        if (failed) {
            fail_text(f, "fetch: the request's body broke off");
            return;
        }
        r = guest_process_end_input(f->process);
    }
    if (r < 0)
        fail(f, fault_errno(r, "fetch"));
}

/* curl's `-H`: a field with an empty value has a semicolon in place of the colon. */
static char *field_arg(const json_t *field)
{
    char *text = NULL;
    const char *name = json_string_value(json_array_get(field, 0));
    const char *value = json_string_value(json_array_get(field, 1));
    int n = *value ? asprintf(&text, "%s: %s", name, value) : asprintf(&text, "%s;", name);
    return n < 0 ? NULL : text;
}

struct command {
    char *argv[ARGS_OF_OWN + 2 * FIELDS_MAX];
    size_t count;
    char *fields[FIELDS_MAX]; /* ours to free */
    size_t field_count;
};

static void add(struct command *c, const char *text)
{
    c->argv[c->count++] = (char *)(uintptr_t)text; /* nothing writes to it; exec has no const */
}

static int make_command(const struct fetch *f, struct command *c)
{
    static const char *const always[] = {"curl",
                                         "-q",
                                         "--silent",
                                         "--show-error",
                                         "--include",
                                         "--globoff",
                                         "--suppress-connect-headers",
                                         "--no-buffer",
                                         "--http1.1",
                                         "--proto",
                                         "=http,https",
                                         "--header",
                                         "Expect:"};
    const char *method = json_string_value(json_object_get(f->params, "method"));
    const json_t *fields = json_object_get(f->params, "headers");
    for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
        add(c, always[i]);
    if (f->response.follows) {
        add(c, "--location");
        add(c, "--max-redirs");
        add(c, "20"); /* as fetch's standard has it */
    }
    if (strcmp(method, "HEAD") == 0) {
        add(c, "--head");
    } else if (f->input) {
        add(c, "--data-binary");
        add(c, "@-");
        add(c, "--header"); /* before the client's own, which then counts */
        add(c, "Content-Type:");
    }
    /* Told only where it is not the usual one: a redirect may change that, as fetch does. */
    if (strcmp(method, "HEAD") != 0 && strcmp(method, f->input ? "POST" : "GET") != 0) {
        add(c, "--request");
        add(c, method);
    }
    for (size_t i = 0; i < json_array_size(fields); i++) {
        c->fields[i] = field_arg(json_array_get(fields, i));
        if (!c->fields[i])
            return -ENOMEM;
        c->field_count++;
        add(c, "--header");
        add(c, c->fields[i]);
    }
    if (f->port) {
        add(c, "--noproxy");
        add(c, "*");
        add(c, "--connect-to");
        add(c, f->connect_to);
    }
    add(c, "--url");
    add(c, f->url ? f->url : json_string_value(json_object_get(f->params, "url")));
    return 0;
}

static int start(struct fetch *f, const struct env_list *env, struct bg_err *err)
{
    struct session *s = f->session;
    BG_AUTOFREE struct command *command = calloc(1, sizeof *command);
    int r = command ? make_command(f, command) : -ENOMEM;
    if (r == 0) {
        const struct exec_request request = {.user = "",
                                             .cwd = "",
                                             .argv = command->argv,
                                             .argc = command->count,
                                             .clear_env = env->clear,
                                             .env = env->list,
                                             .envc = env->count};
        const struct guest_process_opts opts = {.paths = s->opts.shared->paths,
                                                .sandbox = &s->opts.entry->sandbox,
                                                .request = &request,
                                                .on_started = on_started,
                                                .on_refused = on_refused,
                                                .on_output = on_output,
                                                .on_room = pump_input,
                                                .on_ended = on_ended,
                                                .owner = f};
        r = guest_process_start(s->opts.shared->loop, &opts, &f->process, err);
    } else {
        (void)bg_err_errno(err, r, "fetch");
    }
    if (r == 0 && !f->input) {
        r = guest_process_end_input(f->process);
        if (r < 0)
            (void)bg_err_errno(err, r, "fetch");
    }
    for (size_t i = 0; command && i < command->field_count; i++)
        free(command->fields[i]);
    return r;
}

static void env_ready(void *owner, const struct env_list *env, const struct bg_err *why)
{
    struct fetch *f = owner;
    struct bg_err err;
    int r = why ? why->code : start(f, env, &err);
    if (r < 0)
        fail(f, fault_errno(r, why ? why->text : err.text));
    else if (f->session->congested)
        guest_process_pause(f->process, true);
}

/* No line break in what becomes a line of the request; curl would pass it on. */
static bool line_ok(const json_t *text)
{
    return json_is_string(text) && json_string_length(text) == strlen(json_string_value(text)) &&
           !strpbrk(json_string_value(text), "\r\n");
}

static bool fields_ok(const json_t *fields)
{
    size_t i;
    json_t *field;
    if (!json_is_array(fields) || json_array_size(fields) > FIELDS_MAX)
        return false;
    json_array_foreach(fields, i, field)
    {
        const json_t *name = json_array_get(field, 0);
        if (json_array_size(field) != 2 || !line_ok(name) || !line_ok(json_array_get(field, 1)) ||
            json_string_length(name) == 0 || strpbrk(json_string_value(name), "@:; "))
            return false;
    }
    return true;
}

void method_fetch(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *url = rpc_text(params, "url");
    const char *method = rpc_text(params, "method"), *redirect = rpc_text(params, "redirect");
    int64_t abort_id = rpc_number_or(params, "abortId", 0, INT64_MAX, -1);
    int64_t body = rpc_number_or(params, "bodyStreamId", 0, INT64_MAX, -1);
    if (!fields_ok(json_object_get(params->object, "headers")))
        rpc_complain(params, "headers", "at most 128 pairs of a name and a value");
    if (*method == '\0' || method[strspn(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-")] != '\0')
        rpc_complain(params, "method", "a method in capital letters");
    if (!rpc_params_ok(params))
        return;
    int64_t pid = rpc_number_or(params, "pid", 1, INT32_MAX, 0);
    uint16_t port = pid ? session_child_port(s, pid) : 0;
    if (!rpc_params_ok(params))
        return;
    if (pid && !port) {
        session_throw(s, id, fault_errno(-ENOENT, "fetch: a process of Deno's"));
        return;
    }
    struct fetch *f = calloc(1, sizeof *f);
    if (!f) {
        session_throw(s, id, fault_errno(-ENOMEM, "fetch"));
        return;
    }
    *f = (struct fetch){.session = s,
                        .id = json_deep_copy(id),
                        .params = json_deep_copy(params->object),
                        .abort_id = abort_id,
                        .response = http_response(strcmp(redirect, "follow") == 0)};
    if (port) {
        f->port = port;
        (void)snprintf(f->connect_to, sizeof f->connect_to, "::127.0.0.1:%d", port);
        /* It speaks no TLS, whatever the URL says. */
        if (strncmp(url, "https:", 6) == 0 && asprintf(&f->url, "http:%s", url + 6) < 0)
            f->url = NULL;
    }
    LIST_INSERT_HEAD(&s->fetches, f, link);
    if (body >= 0)
        f->input = stream_table_claim(&s->inbound, body, pump_input, f);
    if (!f->id || !f->params || (body >= 0 && !f->input)) {
        session_throw(s, id, fault_new("Error", "fetch: no such stream, or out of memory"));
        fetch_free(f);
        return;
    }
    session_env_make(s, NULL, /* clear= */ false, env_ready, f);
}

/* ---- all of them ---- */

bool session_fetch_abort(struct session *s, int64_t abort_id)
{
    struct fetch *f;
    LIST_FOREACH(f, &s->fetches, link)
    {
        if (f->abort_id == abort_id) {
            fail(f, fault_dom("AbortError", "The signal has been aborted"));
            return true;
        }
    }
    return false;
}

void session_fetches_congested(struct session *s, bool congested)
{
    struct fetch *f;
    LIST_FOREACH(f, &s->fetches, link)
    {
        if (f->process)
            guest_process_pause(f->process, congested);
    }
}

void session_fetches_close(struct session *s)
{
    while (!LIST_EMPTY(&s->fetches))
        fetch_free(LIST_FIRST(&s->fetches));
}
