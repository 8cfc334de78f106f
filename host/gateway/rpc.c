#include "host/gateway/rpc.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base64.h"
#include "common/limits.h"

/* Beyond it a double, which is what clients have, is not exact. */
#define NUMBER_MAX 9007199254740991.0

int rpc_parse(const char *text, size_t size, struct rpc_message *ret, struct bg_err *err)
{
    json_error_t where;
    json_auto_t *root = json_loadb(text, size, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &where);
    if (!root)
        return bg_err_set(err, -EBADMSG, "not JSON: at byte %d", where.position);
    const json_t *id = json_object_get(root, "id");
    const json_t *method = json_object_get(root, "method");
    const char *version = json_string_value(json_object_get(root, "jsonrpc"));
    json_t *params = json_object_get(root, "params");
    if (!version || strcmp(version, "2.0") != 0)
        return bg_err_set(err, -EPROTO, "not JSON-RPC 2.0");
    if (id && !json_is_number(id) && !json_is_string(id))
        return bg_err_set(err, -EPROTO, "an id that is neither a number nor a text");
    if (!json_is_string(method) || strlen(json_string_value(method)) != json_string_length(method))
        return bg_err_set(err, -EPROTO, "no method");
    if (params && !json_is_object(params) && !json_is_null(params))
        return bg_err_set(err, -EPROTO, "params that are not an object");
    *ret = (struct rpc_message){.id = id,
                                .method = json_string_value(method),
                                .params = json_is_object(params) ? params : NULL};
    ret->root = BG_TAKE(root);
    return 0;
}

void rpc_message_done(struct rpc_message *message)
{
    json_decref(message->root);
    *message = (struct rpc_message){0};
}

/* Takes all; any of them NULL: out of memory. */
static char *dump(json_t *message)
{
    char *text =
        message ? json_dumps(message, JSON_COMPACT | JSON_ENCODE_ANY | JSON_PRESERVE_ORDER) : NULL;
    json_decref(message);
    return text;
}

static char *answer(const json_t *id, const char *key, json_t *value)
{
    json_t *copy = json_deep_copy(id);
    return dump(
        json_pack("{s:s, s:o, s:{s:o}}", "jsonrpc", "2.0", "id", copy, "result", key, value));
}

char *rpc_result(const json_t *id, json_t *value)
{
    return answer(id, "ok", value);
}

char *rpc_result_bytes(const json_t *id, const void *bytes, size_t size)
{
    static const char middle[] = ",\"result\":{\"ok\":\"", tail[] = "\"}}";
    BG_AUTOFREE char *id_text = json_dumps(id, JSON_ENCODE_ANY);
    char *head = NULL;
    int head_size =
        id_text ? asprintf(&head, "{\"jsonrpc\":\"2.0\",\"id\":%s%s", id_text, middle) : -1;
    if (head_size < 0)
        return NULL;
    size_t data_size = BG_BASE64_SIZE(size);
    char *text = realloc(head, (size_t)head_size + data_size + sizeof tail);
    if (!text) {
        free(head);
        return NULL;
    }
    bg_base64_encode(bytes, size, text + head_size);
    memcpy(text + (size_t)head_size + data_size, tail, sizeof tail);
    return text;
}

char *rpc_thrown(const json_t *id, json_t *error)
{
    return answer(id, "error", error);
}

char *rpc_fault(const json_t *id, enum rpc_code code, const char *text)
{
    return dump(json_pack("{s:s, s:o, s:{s:i, s:s}}", "jsonrpc", "2.0", "id", json_deep_copy(id),
                          "error", "code", (int)code, "message", text));
}

char *rpc_notification(const char *method, json_t *params)
{
    return dump(json_pack("{s:s, s:s, s:o}", "jsonrpc", "2.0", "method", method, "params", params));
}

char *rpc_chunk(uint64_t stream_id, const void *bytes, size_t size, size_t *ret_size)
{
    static const char tail[] = "\"}}";
    char head[128];
    int head_size = snprintf(head, sizeof head,
                             "{\"jsonrpc\":\"2.0\",\"method\":\"$sandbox.stream.enqueue\","
                             "\"params\":{\"streamId\":%" PRIu64 ",\"data\":\"",
                             stream_id);
    size_t data_size = BG_BASE64_SIZE(size);
    char *text = malloc((size_t)head_size + data_size + sizeof tail);
    if (!text)
        return NULL;
    memcpy(text, head, (size_t)head_size);
    bg_base64_encode(bytes, size, text + head_size);
    memcpy(text + head_size + data_size, tail, sizeof tail);
    *ret_size = (size_t)head_size + data_size + sizeof tail - 1;
    return text;
}

/* ---- parameters ---- */

struct rpc_params rpc_params(const json_t *object)
{
    return (struct rpc_params){.object = object};
}

bool rpc_params_ok(const struct rpc_params *params)
{
    return params->problem[0] == '\0';
}

void rpc_complain(struct rpc_params *params, const char *name, const char *want)
{
    if (rpc_params_ok(params))
        (void)snprintf(params->problem, sizeof params->problem, "%.64s: want %s", name, want);
}

bool rpc_params_merge(struct rpc_params *params, const struct rpc_params *options)
{
    if (rpc_params_ok(params))
        memcpy(params->problem, options->problem, sizeof params->problem);
    return rpc_params_ok(params);
}

/* NULL if it is absent or null. */
static const json_t *find(const struct rpc_params *params, const char *name)
{
    const json_t *value = json_object_get(params->object, name);
    return json_is_null(value) ? NULL : value;
}

bool rpc_has(const struct rpc_params *params, const char *name)
{
    return find(params, name) != NULL;
}

static bool is_plain(const json_t *value)
{
    return json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value);
}

const char *rpc_text_or_null(struct rpc_params *params, const char *name)
{
    const json_t *value = find(params, name);
    if (value && !is_plain(value)) {
        rpc_complain(params, name, "a text without a NUL");
        return NULL;
    }
    return json_string_value(value);
}

const char *rpc_text(struct rpc_params *params, const char *name)
{
    const char *text = rpc_text_or_null(params, name);
    if (!text)
        rpc_complain(params, name, "a text");
    return text ? text : "";
}

const char *rpc_bytes(struct rpc_params *params, const char *name, size_t *ret_size)
{
    const json_t *value = find(params, name);
    if (!json_is_string(value))
        rpc_complain(params, name, "a text");
    *ret_size = json_string_length(value);
    return value && json_is_string(value) ? json_string_value(value) : "";
}

static bool to_number(const json_t *value, int64_t min, int64_t max, int64_t *ret)
{
    double real = json_real_value(value);
    if (json_is_integer(value))
        *ret = json_integer_value(value);
    else if (json_is_real(value) && real == floor(real) && fabs(real) <= NUMBER_MAX)
        *ret = (int64_t)real;
    else
        return false;
    return *ret >= min && *ret <= max;
}

int64_t rpc_number_or(struct rpc_params *params, const char *name, int64_t min, int64_t max,
                      int64_t fallback)
{
    const json_t *value = find(params, name);
    int64_t number = fallback;
    if (value && !to_number(value, min, max, &number)) {
        char want[80];
        (void)snprintf(want, sizeof want, "a whole number from %" PRId64 " to %" PRId64, min, max);
        rpc_complain(params, name, want);
        return fallback;
    }
    return number;
}

int64_t rpc_number(struct rpc_params *params, const char *name, int64_t min, int64_t max)
{
    if (!find(params, name))
        rpc_complain(params, name, "a number");
    return rpc_number_or(params, name, min, max, min);
}

bool rpc_real(const struct rpc_params *params, const char *name, double *ret)
{
    const json_t *value = find(params, name);
    *ret = json_number_value(value);
    return json_is_number(value) && isfinite(*ret);
}

bool rpc_flag(struct rpc_params *params, const char *name, bool fallback)
{
    const json_t *value = find(params, name);
    if (value && !json_is_boolean(value))
        rpc_complain(params, name, "true or false");
    return value ? json_is_true(value) : fallback;
}

const json_t *rpc_texts(struct rpc_params *params, const char *name)
{
    const json_t *value = find(params, name);
    bool ok = !value || json_is_array(value);
    for (size_t i = 0; ok && i < json_array_size(value); i++)
        ok = is_plain(json_array_get(value, i));
    if (!ok)
        rpc_complain(params, name, "a list of texts without NULs");
    return ok ? value : NULL;
}

const json_t *rpc_map(struct rpc_params *params, const char *name)
{
    const json_t *value = find(params, name);
    bool ok = !value || json_is_object(value);
    /* The iterator takes no const object, and changes none. */
    for (void *at = ok ? json_object_iter((json_t *)(uintptr_t)value) : NULL; at && ok;
         at = json_object_iter_next((json_t *)(uintptr_t)value, at))
        ok = is_plain(json_object_iter_value(at));
    if (!ok)
        rpc_complain(params, name, "an object of texts without NULs");
    return ok ? value : NULL;
}

struct rpc_params rpc_options(struct rpc_params *params, const char *name)
{
    const json_t *value = find(params, name);
    if (value && !json_is_object(value))
        rpc_complain(params, name, "an object");
    return rpc_params(json_is_object(value) ? value : NULL);
}
