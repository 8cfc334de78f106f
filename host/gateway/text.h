/* text: between bytes of a guest and JSON. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/cleanup.h"

/* Bytes as a JSON text; what is not UTF-8 becomes U+FFFD, as TextDecoder has it: once for each
 * sequence that breaks off. NULL: out of memory. */
json_t *text_lossy(const void *bytes, size_t size);

/* A time as Date.toISOString() gives it; years outside of 0 to 9999 become the nearest. NULL: out
 * of memory. */
json_t *text_time(int64_t ns);

/* What Date.toISOString() gave, or Python's datetime.isoformat(): any number of digits of a second
 * or none, and Z or an offset such as +02:00. Errors: -EINVAL, years outside of 1678 to 2262
 * too. */
int text_parse_time(const char *text, int64_t *ret_ns) BG_MUST_CHECK;
