/* audit_line: one line of audit.ndjson (docs/protocol.md, "Audit") as a line for people. Pure. The
 * file is the proxy's, but hosts, methods and paths in it were the guest's choice. */
#pragma once

#include <stddef.h>

#include "common/err.h"

#define AUDIT_LINE_SIZE 2048

/* line: without its newline. Unknown fields are passed over, missing ones left blank. Errors:
 * -EPROTO not a JSON object. */
int audit_line_format(const char *line, size_t size, char out[AUDIT_LINE_SIZE],
                      struct bg_err *err) BG_MUST_CHECK;

/* The same line as ASCII JSON, heap, the caller's. Errors: -EPROTO; -ENOMEM. */
int audit_line_json(const char *line, size_t size, char **ret, struct bg_err *err) BG_MUST_CHECK;
