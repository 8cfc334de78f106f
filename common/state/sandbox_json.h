/* sandbox.json as text (docs/protocol.md, "Sandboxes"). Pure; for sandbox.c. The file is ours, yet
 * read with care: what is not exactly as we write it is refused. */
#pragma once

#include <stddef.h>

#include "common/err.h"
#include "common/state/sandbox.h"

#define SANDBOX_PLACEHOLDER_PREFIX "BELLGLASS_SECRET_"                    /* 64 hex digits follow */
#define SANDBOX_ID_CHARS           "0123456789abcdefghijklmnopqrstuvwxyz" /* 20 of them after "sbx_" */

/* Fills *ret but its dir; end it with bg_sandbox_done. name: of the folder, which the file must
 * repeat. Errors: -EINVAL with what is wrong; -ENOMEM. */
int sandbox_json_parse(const char *text, size_t size, const char *name, struct bg_sandbox *ret,
                       struct bg_err *err) BG_MUST_CHECK;

/* Heap text, the caller's; NULL when memory is out or a name is not UTF-8. */
char *sandbox_json_emit(const struct bg_sandbox *sandbox);
