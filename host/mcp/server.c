/* Two kinds of clients come (docs/mcp.md, "The protocol"). Those of the revisions up to 2025-11-25
 * begin with `initialize`, which settles the revision. Those of 2026-07-28 say it in each request,
 * and so need no beginning. Each request is taken for what it says it is. */
#include "host/mcp/server.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <uv.h>

#include "common/limits.h"
#include "common/quote.h"
#include "host/mcp/call.h"
#include "host/mcp/channel.h"

#define LIST_TTL_MS 3600000 /* our tools change with our program only */

struct server {
    const struct server_opts *opts;
    uv_loop_t loop;
    uv_signal_t signals[3];
    struct channel *channel;
    struct calls calls;
    const char *version; /* of `initialize`; NULL: there was none */
    bool stopping;
};

/* ---- the end ---- */

static void all_idle(void *owner)
{
    struct server *server = owner;
    channel_close(BG_TAKE(server->channel));
}

static void stop(struct server *server)
{
    if (server->stopping)
        return;
    server->stopping = true;
    for (size_t i = 0; i < sizeof server->signals / sizeof *server->signals; i++)
        uv_close((uv_handle_t *)&server->signals[i], NULL);
    calls_cancel_all(&server->calls);
}

static void signalled(uv_signal_t *handle, int number)
{
    struct server *server = handle->data;
    bg_log(server->opts->log, BG_LOG_INFO, "ending, by signal %d", number);
    stop(server);
}

static void on_end(void *owner, const struct bg_err *err)
{
    struct server *server = owner;
    bg_log(server->opts->log, BG_LOG_INFO, "ending: %s", err ? err->text : "the client is done");
    stop(server);
}

/* ---- sending ---- */

static void send_line(void *owner, char *line)
{
    struct server *server = owner;
    if (!line) {
        bg_log(server->opts->log, BG_LOG_ERROR, "out of memory: the client misses an answer");
        return;
    }
    if (server->channel)
        channel_send(server->channel, line);
    else
        free(line);
}

static bool ask_busy(void *owner)
{
    const struct server *server = owner;
    return !server->channel || channel_busy(server->channel);
}

static void refuse(struct server *server, const json_t *id, enum message_code code,
                   const char *text)
{
    bg_log(server->opts->log, BG_LOG_WARN, "refused: %s", text);
    send_line(server, message_error(id, code, text, NULL));
}

static void reply(struct server *server, const struct message *m, json_t *result)
{
    send_line(server, message_result(m->id, message_complete(result, m->version != NULL)));
}

/* ---- who we are ---- */

static json_t *server_info(const struct server *server)
{
    return json_pack("{s:s, s:s, s:s}", "name", "bellglass", "title", "bellglass sandboxes",
                     "version", server->opts->app->version);
}

/* What a model should know that no single tool's description says. */
static json_t *instructions(const struct server *server)
{
    json_auto_t *limits = boxes_describe_limits(server->opts->boxes, server->opts->timeout_s_max);
    BG_AUTOFREE char *text = json_dumps(limits, JSON_COMPACT | JSON_PRESERVE_ORDER);
    return text ? json_sprintf(
                      "Sandboxes are virtual machines with Linux, for code that should not run on "
                      "the user's machine. Make one with create_sandbox and use it for all of a "
                      "task; fork or snapshot it before something risky, and remove it when it is "
                      "not needed any more. It reaches only the hosts in hosts_allowed%s; other "
                      "connections are refused, and no tool can change that. For a secret in "
                      "secrets the variable holds a placeholder: send it as it is, and it is "
                      "replaced on its way to the secret's hosts. Limits: %s",
                      json_is_true(json_object_get(limits, "has_network_policy"))
                          ? " and what the user's network policy says"
                          : "",
                      text)
                : NULL;
}

static void initialize(struct server *server, const struct message *m)
{
    const char *asked = json_string_value(json_object_get(m->params, "protocolVersion"));
    if (!asked) {
        refuse(server, m->id, MESSAGE_INVALID_PARAMS, "protocolVersion: want a string");
        return;
    }
    server->version = message_negotiate(asked);
    reply(server, m,
          json_pack("{s:s, s:{s:{}}, s:o, s:o}", "protocolVersion", server->version, "capabilities",
                    "tools", "serverInfo", server_info(server), "instructions",
                    instructions(server)));
}

static void discover(struct server *server, const struct message *m)
{
    reply(server, m,
          json_pack("{s:[s], s:{s:{}}, s:o, s:I, s:s, s:{s:o}}", "supportedVersions",
                    MESSAGE_VERSION_STATELESS, "capabilities", "tools", "instructions",
                    instructions(server), "ttlMs", (json_int_t)LIST_TTL_MS, "cacheScope", "private",
                    "_meta", "io.modelcontextprotocol/serverInfo", server_info(server)));
}

static void list_tools(struct server *server, const struct message *m)
{
    json_t *result = json_pack("{s:o}", "tools", tools_list());
    if (m->version && result &&
        (json_object_set_new(result, "ttlMs", json_integer(LIST_TTL_MS)) < 0 ||
         json_object_set_new(result, "cacheScope", json_string("private")) < 0)) {
        json_decref(result);
        result = NULL;
    }
    reply(server, m, result);
}

/* ---- calls ---- */

static void call_tool(struct server *server, const struct message *m)
{
    const json_t *args = json_object_get(m->params, "arguments");
    const char *name = json_string_value(json_object_get(m->params, "name"));
    const struct tool *tool = name ? tool_find(name) : NULL;
    char quoted[128], text[BG_ERR_TEXT_SIZE];
    struct bg_err err;
    if (!tool) {
        (void)snprintf(text, sizeof text, "no tool %s",
                       name ? bg_quote(name, quoted, sizeof quoted) : "is named");
        refuse(server, m->id, MESSAGE_INVALID_PARAMS, text);
        return;
    }
    if (json_is_null(args))
        args = NULL;
    /* An answer, for the model to do it better; an error would stop at its client. */
    if (tool_check(tool, args, &err) < 0) {
        bg_log(server->opts->log, BG_LOG_WARN, "%s: %s", tool->name, err.text);
        reply(server, m,
              json_pack("{s:[{s:s, s:s}], s:b}", "content", "type", "text", "text", err.text,
                        "isError", 1));
        return;
    }
    calls_begin(&server->calls, tool, m, args);
}

static void request(struct server *server, const struct message *m)
{
    char quoted[128], text[BG_ERR_TEXT_SIZE];
    bool stateless = m->version != NULL;
    if (calls_know(&server->calls, m->id)) {
        refuse(server, NULL, MESSAGE_INVALID_REQUEST, "id: is that of a request under way");
    } else if (strcmp(m->method, "initialize") == 0) {
        initialize(server, m);
    } else if (strcmp(m->method, "ping") == 0 && !stateless) {
        reply(server, m, json_object());
    } else if (stateless && strcmp(m->version, MESSAGE_VERSION_STATELESS) != 0) {
        send_line(server,
                  message_error(m->id, MESSAGE_VERSION_UNSUPPORTED, "no such protocol version here",
                                json_pack("{s:[s], s:s}", "supported", MESSAGE_VERSION_STATELESS,
                                          "requested", m->version)));
    } else if (stateless && !m->has_capabilities) {
        refuse(server, m->id, MESSAGE_INVALID_PARAMS,
               "_meta: io.modelcontextprotocol/clientCapabilities is missing");
    } else if (!stateless && !server->version) {
        refuse(server, m->id, MESSAGE_INVALID_REQUEST,
               "begin with initialize, or say in _meta which protocol version this is");
    } else if (stateless && strcmp(m->method, "server/discover") == 0) {
        discover(server, m);
    } else if (strcmp(m->method, "tools/list") == 0) {
        list_tools(server, m);
    } else if (strcmp(m->method, "tools/call") == 0) {
        call_tool(server, m);
    } else {
        (void)snprintf(text, sizeof text, "no method %s",
                       bg_quote(m->method, quoted, sizeof quoted));
        refuse(server, m->id, MESSAGE_METHOD_NOT_FOUND, text);
    }
}

static void take_message(struct server *server, const json_t *value)
{
    struct message m = {.id = NULL};
    struct bg_err err;
    if (message_read(value, &m, &err) < 0) {
        refuse(server, m.id, MESSAGE_INVALID_REQUEST, err.text);
        return;
    }
    switch (m.kind) {
    case MESSAGE_REQUEST:
        request(server, &m);
        break;
    case MESSAGE_NOTIFICATION:
        /* Others, such as that it is initialized, need nothing. */
        if (strcmp(m.method, "notifications/cancelled") == 0)
            calls_cancel(&server->calls, json_object_get(m.params, "requestId"));
        break;
    case MESSAGE_RESPONSE: /* we ask for nothing */
        break;
    }
}

static void on_line(void *owner, const char *line, size_t size)
{
    struct server *server = owner;
    struct bg_err err;
    json_auto_t *value = NULL;
    size_t i;
    json_t *one;
    if (server->stopping || size == 0 || (size == 1 && line[0] == '\r'))
        return;
    if (message_load(line, size, &value, &err) < 0) {
        refuse(server, NULL, MESSAGE_PARSE_ERROR, err.text);
        return;
    }
    bool several = json_array_size(value) > 0 && server->version &&
                   strcmp(server->version, MESSAGE_VERSION_BATCHES) == 0;
    if (!several)
        take_message(server, value);
    else
        json_array_foreach(value, i, one) take_message(server, one);
}

static void on_lost_line(void *owner, enum lines_event why)
{
    struct server *server = owner;
    char text[96];
    (void)snprintf(text, sizeof text, "a message of more than %u bytes", BG_MCP_LINE_MAX);
    if (why == LINES_TOO_LONG)
        refuse(server, NULL, MESSAGE_INVALID_REQUEST, text);
    else
        refuse(server, NULL, MESSAGE_INTERNAL_ERROR, "out of memory");
}

/* ---- all of it ---- */

static int open_all(struct server *server, struct bg_err *err)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    const struct channel_opts channel = {.in_fd = STDIN_FILENO,
                                         .out_fd = STDOUT_FILENO,
                                         .line_max = BG_MCP_LINE_MAX,
                                         .unsent_max = BG_MCP_UNSENT_MAX,
                                         .on_line = on_line,
                                         .on_lost_line = on_lost_line,
                                         .on_end = on_end,
                                         .owner = server};
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof numbers / sizeof *numbers; i++)
        r = uv_signal_start(&server->signals[i], signalled, numbers[i]);
    return r < 0 ? bg_err_errno(err, r, "signals")
                 : channel_open(&server->loop, &channel, &server->channel, err);
}

int server_run(const struct server_opts *opts, struct bg_err *err)
{
    struct server *server = calloc(1, sizeof *server);
    if (!server)
        return bg_err_errno(err, -ENOMEM, "mcp");
    server->opts = opts;
    int r = uv_loop_init(&server->loop);
    if (r < 0) {
        free(server);
        return bg_err_errno(err, r, "loop");
    }
    for (size_t i = 0; i < sizeof server->signals / sizeof *server->signals; i++) {
        /* The first one may fail for want of fds; then start says so. */
        (void)uv_signal_init(&server->loop, &server->signals[i]);
        server->signals[i].data = server;
    }
    server->calls = (struct calls){.loop = &server->loop,
                                   .app = opts->app,
                                   .log = opts->log,
                                   .boxes = opts->boxes,
                                   .program = opts->program,
                                   .hold_fd = opts->hold_fd,
                                   .timeout_s_max = opts->timeout_s_max,
                                   .on_send = send_line,
                                   .on_ask_busy = ask_busy,
                                   .on_idle = all_idle,
                                   .owner = server};
    calls_init(&server->calls);
    r = open_all(server, err);
    if (r < 0)
        stop(server);
    (void)uv_run(&server->loop, UV_RUN_DEFAULT); /* 0: it ends when all is closed */
    int busy = uv_loop_close(&server->loop);
    assert(busy == 0); /* a handle was left open: our bug */
    free(server);
    return r;
}
