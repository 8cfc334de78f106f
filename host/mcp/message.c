#include "host/mcp/message.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

#define META_VERSION      "io.modelcontextprotocol/protocolVersion"
#define META_CAPABILITIES "io.modelcontextprotocol/clientCapabilities"

int message_load(const char *line, size_t size, json_t **ret, struct bg_err *err)
{
    json_error_t error;
    /* Texts with NULs are read, so that there is an id to say to that they may not be there. */
    json_t *value = json_loadb(line, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!value)
        return bg_err_set(err, -EBADMSG, "not JSON, at byte %d", error.position);
    *ret = value;
    return 0;
}

/* A text or a number. */
static bool is_id(const json_t *value)
{
    return json_is_string(value) || json_is_number(value);
}

static bool is_plain(const json_t *text)
{
    return json_is_string(text) && strlen(json_string_value(text)) == json_string_length(text);
}

static int read_meta(const json_t *params, struct message *m, struct bg_err *err)
{
    const json_t *meta = json_object_get(params, "_meta");
    if (!meta)
        return 0;
    const json_t *token = json_object_get(meta, "progressToken");
    const json_t *version = json_object_get(meta, META_VERSION);
    if (!json_is_object(meta))
        return bg_err_set(err, -EPROTO, "_meta: want an object");
    if (token && !is_id(token))
        return bg_err_set(err, -EPROTO, "progressToken: want a string or a number");
    if (version && !is_plain(version))
        return bg_err_set(err, -EPROTO, "%s: want a string", META_VERSION);
    m->progress_token = token;
    m->version = json_string_value(version);
    m->has_capabilities = json_is_object(json_object_get(meta, META_CAPABILITIES));
    return 0;
}

int message_read(const json_t *value, struct message *ret, struct bg_err *err)
{
    struct message m = {.method = ""};
    const json_t *id = json_object_get(value, "id"), *params = json_object_get(value, "params");
    const json_t *method = json_object_get(value, "method");
    const char *jsonrpc = json_string_value(json_object_get(value, "jsonrpc"));
    ret->id = is_id(id) ? id : NULL;
    if (!json_is_object(value))
        return bg_err_set(err, -EPROTO, "want an object");
    if (!jsonrpc || strcmp(jsonrpc, "2.0") != 0)
        return bg_err_set(err, -EPROTO, "jsonrpc: want \"2.0\"");
    if (!method && (json_object_get(value, "result") || json_object_get(value, "error"))) {
        m.kind = MESSAGE_RESPONSE;
        *ret = m;
        return 0;
    }
    if (!is_plain(method))
        return bg_err_set(err, -EPROTO, "method: want a string");
    if (id && !is_id(id))
        return bg_err_set(err, -EPROTO, "id: want a string or a number");
    if (params && !json_is_object(params))
        return bg_err_set(err, -EPROTO, "params: want an object");
    m.kind = id ? MESSAGE_REQUEST : MESSAGE_NOTIFICATION;
    m.id = id;
    m.method = json_string_value(method);
    m.params = params;
    int r = read_meta(params, &m, err);
    if (r == 0)
        *ret = m;
    return r;
}

const char *message_negotiate(const char *asked)
{
    static const char *const known[] = {MESSAGE_VERSION_HANDSHAKE, "2025-06-18",
                                        MESSAGE_VERSION_BATCHES, "2024-11-05"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(asked, known[i]) == 0)
            return known[i];
    return MESSAGE_VERSION_HANDSHAKE;
}

json_t *message_complete(json_t *result, bool stateless)
{
    if (!stateless || json_object_set_new(result, "resultType", json_string("complete")) == 0)
        return result;
    json_decref(result);
    return NULL;
}

/* message: taken. */
static char *emit(json_t *message)
{
    json_auto_t *owned = message;
    BG_AUTOFREE char *text = owned ? json_dumps(owned, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    size_t size = text ? strlen(text) : 0; /* JSON text has no NUL */
    char *line = text ? realloc(text, size + 2) : NULL;
    if (!line)
        return NULL;
    (void)BG_TAKE(text);
    line[size] = '\n';
    line[size + 1] = '\0';
    return line;
}

/* pack takes no const values; it changes none but their count of references. */
static json_t *id_of(const json_t *id)
{
    return id ? json_incref((json_t *)(uintptr_t)id) : json_null();
}

char *message_result(const json_t *id, json_t *result)
{
    return emit(json_pack("{s:s, s:o, s:o}", "jsonrpc", "2.0", "id", id_of(id), "result", result));
}

char *message_error(const json_t *id, enum message_code code, const char *text, json_t *data)
{
    return emit(json_pack("{s:s, s:o, s:{s:i, s:s, s:o*}}", "jsonrpc", "2.0", "id", id_of(id),
                          "error", "code", (int)code, "message", text, "data", data));
}

char *message_notification(const char *method, json_t *params)
{
    return emit(json_pack("{s:s, s:s, s:o}", "jsonrpc", "2.0", "method", method, "params", params));
}
