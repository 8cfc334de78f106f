/* rpc: JSON-RPC 2.0 as the Deno Sandbox protocol uses it (docs/deno-protocol.md, "Messages"). Pure:
 * text in, values out, and back. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"

/* Codes of faults of the protocol itself. */
enum rpc_code {
    RPC_PARSE_ERROR = -32700,
    RPC_INVALID_REQUEST = -32600,
    RPC_METHOD_NOT_FOUND = -32601,
    RPC_INVALID_PARAMS = -32602,
    RPC_INTERNAL_ERROR = -32603,
    RPC_SERVER_ERROR = -32000,
};

struct rpc_message {
    json_t *root;       /* owns the rest */
    const json_t *id;   /* a number or a text; NULL: a notification */
    const char *method; /* without a NUL in it */
    json_t *params;     /* an object, or NULL */
};

/* Reads one message; end it with rpc_message_done. Errors: -EBADMSG not JSON; -EPROTO not a call or
 * a notification. */
int rpc_parse(const char *text, size_t size, struct rpc_message *ret,
              struct bg_err *err) BG_MUST_CHECK;
void rpc_message_done(struct rpc_message *message);

/* The answers and notifications as text: heap, the caller's; NULL: out of memory. value and error
 * are taken, and may be NULL when memory is out. */
char *rpc_result(const json_t *id, json_t *value);
/* The same for bytes, as base64. */
char *rpc_result_bytes(const json_t *id, const void *bytes, size_t size);
char *rpc_thrown(const json_t *id, json_t *error);
char *rpc_fault(const json_t *id, enum rpc_code code, const char *text);
char *rpc_notification(const char *method, json_t *params);

/* `$sandbox.stream.enqueue` with these bytes; size: 1 to BG_GATEWAY_CHUNK_MAX. */
char *rpc_chunk(uint64_t stream_id, const void *bytes, size_t size, size_t *ret_size);

/* Parameters of a call. What is missing or of another type is noted once, in `problem`; a reader
 * reads all and then looks there. Optional ones may be absent or null. */
struct rpc_params {
    const json_t *object;
    char problem[192]; /* "": none */
};

struct rpc_params rpc_params(const json_t *object);
bool rpc_params_ok(const struct rpc_params *params);
/* Notes that `name` should have been something else, unless there is a problem already. */
void rpc_complain(struct rpc_params *params, const char *name, const char *want);
/* Takes over what is wrong with the options among them. Returns rpc_params_ok. */
bool rpc_params_merge(struct rpc_params *params, const struct rpc_params *options);
bool rpc_has(const struct rpc_params *params, const char *name);
/* Texts have no NUL. Borrowed; "" if required and missing, NULL if optional and missing. */
const char *rpc_text(struct rpc_params *params, const char *name);
const char *rpc_text_or_null(struct rpc_params *params, const char *name);
/* Any text, with its size. */
const char *rpc_bytes(struct rpc_params *params, const char *name, size_t *ret_size);
/* A whole number; some clients send it as 3.0. */
int64_t rpc_number(struct rpc_params *params, const char *name, int64_t min, int64_t max);
int64_t rpc_number_or(struct rpc_params *params, const char *name, int64_t min, int64_t max,
                      int64_t fallback);
/* A finite number, with a fraction or without; false: none, and nothing is complained of. */
bool rpc_real(const struct rpc_params *params, const char *name, double *ret);
bool rpc_flag(struct rpc_params *params, const char *name, bool fallback);
/* An array of texts without NUL; NULL if it is not there. */
const json_t *rpc_texts(struct rpc_params *params, const char *name);
/* An object whose values are texts without NUL; NULL if it is not there. */
const json_t *rpc_map(struct rpc_params *params, const char *name);
/* An object, or an empty one. */
struct rpc_params rpc_options(struct rpc_params *params, const char *name);
