/* audit_line: one line of audit.ndjson (docs/protocol.md, "Audit") as a line for people. Pure. The
 * file is the proxy's, but hosts, methods and paths in it were the guest's choice. */
#pragma once

#include <stddef.h>

#include <jansson.h>

#include "common/err.h"

#define AUDIT_LINE_SIZE 2048

/* line: without its newline. NULL: it is no JSON object, or memory is out. */
json_t *audit_line_load(const char *line, size_t size);

/* Unknown fields are passed over, missing ones left blank. */
void audit_line_format(const json_t *json, char out[AUDIT_LINE_SIZE]);
