/* audit_har: the HTTP requests of the audit as a HAR 1.2 file, which browsers' tools read. It holds
 * what the audit does: no bodies, header fields or queries, and secrets by name only. Pure. */
#pragma once

#include <jansson.h>

#include "common/err.h"

/* What comes before the entries, which commas separate, and behind them. */
#define AUDIT_HAR_END "]}}\n"
/* Heap, the caller's; NULL: out of memory. */
char *audit_har_begin(const char *version);

/* One entry as ASCII JSON, heap, the caller's; *ret NULL: the line is of no HTTP request. Errors:
 * -ENOMEM. */
int audit_har_entry(const json_t *line, char **ret) BG_MUST_CHECK;
