/* client: of a supervisor's control socket (docs/protocol.md, "Control socket").
 * Blocking, with deadlines. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"
#include "common/state/sandbox.h"

/* Sends one request and waits for its answer. request: borrowed. *ret_answer: the caller's, an
 * object with "ok": true; ret_answer may be NULL. Errors: -ENOTCONN not running; -ETIME no answer;
 * -ECONNRESET the supervisor ended; -EPROTO not an answer; what the supervisor said. */
int client_request(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                   const json_t *request, uint64_t timeout_ms, json_t **ret_answer,
                   struct bg_err *err) BG_MUST_CHECK;

/* client_request, with a note on stderr if the answer takes more than a moment. note: NULL: none.
 */
int client_request_noted(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                         const json_t *request, uint64_t timeout_ms, const char *note,
                         json_t **ret_answer, struct bg_err *err) BG_MUST_CHECK;

/* Opens a stream to the guest. kind: "exec", "copy", ...; body: as the kind says. *ret_fd: the
 * stream, of which nothing was read yet. Errors: as client_request. */
int client_open(const struct bg_paths *paths, const struct bg_sandbox *sandbox, const char *kind,
                const void *body, size_t size, int *ret_fd, struct bg_err *err) BG_MUST_CHECK;

/* Reads the guest's reply to a stream other than exec, within timeout_ms. Errors: -EPROTO; -ETIME;
 * -ECONNRESET; the guest's status, its text escaped in err. */
int client_stream_reply(int fd, int timeout_ms, struct bg_err *err) BG_MUST_CHECK;

/* Reads one line of at most size - 1 bytes without reading past it; the newline is cut off. Errors:
 * -ENODATA end of file before it; -EMSGSIZE longer; -ETIME; errno of recv. */
int client_read_line(int fd, uint64_t deadline_ms, char *out, size_t size) BG_MUST_CHECK;

/* The meaning of an answer's line. Errors: -EPROTO; or the errno that it carries, its text escaped.
 */
int client_parse_answer(const char *line, size_t size, json_t **ret,
                        struct bg_err *err) BG_MUST_CHECK;
