/* audit_tail: a sandbox's audit log (docs/protocol.md, "Audit") piece by piece, for who comes back
 * for what has been added. Blocking but for the cursor, which is pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"

/* Where a reader has come to: a file and an offset in it. */
struct audit_cursor {
    uint64_t inode, offset;
};

#define AUDIT_CURSOR_SIZE 48

/* "INODE-OFFSET". Errors: -EINVAL. */
int audit_cursor_parse(const char *text, struct audit_cursor *ret) BG_MUST_CHECK;
void audit_cursor_emit(const struct audit_cursor *cursor, char out[AUDIT_CURSOR_SIZE]);

/* {"lines": [...], "next": TEXT, "more": bool} of the log below dir: the whole lines after the
 * cursor, at most BG_GATEWAY_AUDIT_MAX bytes of them; without one (NULL) the last ones. One whose
 * file is gone goes on with the oldest. What is no JSON is passed over. Errors: -ENOMEM; errno. */
int audit_tail_read(const char *dir, const struct audit_cursor *cursor, json_t **ret,
                    struct bg_err *err) BG_MUST_CHECK;
