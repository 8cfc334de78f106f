/* overview: all that the dashboard shows at once: sandboxes with what they use, snapshots, and what
 * goes on from what (docs/dashboard.md, "Overview"). Blocking. */
#pragma once

#include <stdint.h>

#include <jansson.h>

#include "common/err.h"
#include "host/gateway/reach.h"

/* *ret: an object, the caller's. Errors: -ENOMEM; errno of reading the state. */
int overview_make(const struct reach *reach, json_t **ret, struct bg_err *err) BG_MUST_CHECK;

/* The time on a CPU that /proc/PID/stat tells of, in ticks. Pure. Errors: -EPROTO. */
int overview_parse_stat(const char *text, uint64_t *ret_ticks) BG_MUST_CHECK;
