/* message: JSON-RPC 2.0 as the Model Context Protocol uses it (docs/mcp.md, "The protocol"). Pure:
 * text in, values out, and back. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "common/err.h"

enum message_code {
    MESSAGE_PARSE_ERROR = -32700,
    MESSAGE_INVALID_REQUEST = -32600,
    MESSAGE_METHOD_NOT_FOUND = -32601,
    MESSAGE_INVALID_PARAMS = -32602,
    MESSAGE_INTERNAL_ERROR = -32603,
    MESSAGE_VERSION_UNSUPPORTED = -32022,
};

/* The revision whose requests each say what they are of; those before it begin with a handshake. */
#define MESSAGE_VERSION_STATELESS "2026-07-28"
/* The last one with a handshake. */
#define MESSAGE_VERSION_HANDSHAKE "2025-11-25"
/* The only one with several messages in a line. */
#define MESSAGE_VERSION_BATCHES "2025-03-26"

struct message {
    enum { MESSAGE_REQUEST, MESSAGE_NOTIFICATION, MESSAGE_RESPONSE } kind;
    /* All are borrowed from the value that was read. */
    const json_t *id;             /* of a request: a text or a number */
    const char *method;           /* "" of a response */
    const json_t *params;         /* an object, or NULL */
    const json_t *progress_token; /* a text or a number, or NULL */
    const char *version;          /* of a request that says it, else NULL */
    bool has_capabilities;        /* it says those of its client too */
};

/* The JSON of a line: *ret, a new reference. Errors: -EBADMSG. */
int message_load(const char *line, size_t size, json_t **ret, struct bg_err *err) BG_MUST_CHECK;

/* Reads one message. Errors: -EPROTO; ret->id is then what may be answered to, or NULL. */
int message_read(const json_t *value, struct message *ret, struct bg_err *err) BG_MUST_CHECK;

/* The version that an `initialize` asking for this one is answered with: the same if it is known,
 * else the latest with a handshake. */
const char *message_negotiate(const char *asked);

/* What a result has beside its own: in the stateless revision its kind. result: taken and returned;
 * may be NULL. */
json_t *message_complete(json_t *result, bool stateless);

/* Lines, with their newline: heap, the caller's; NULL: out of memory. What is taken may be NULL
 * when memory is out. */
char *message_result(const json_t *id, json_t *result); /* result: taken */
/* id NULL: it could not be read. data: taken, may be NULL. */
char *message_error(const json_t *id, enum message_code code, const char *text, json_t *data);
char *message_notification(const char *method, json_t *params); /* params: taken */
