/* exec_list: the commands that run in a sandbox, as its agent tells them. */
#pragma once

#include <stddef.h>

#include "common/err.h"
#include "common/wire.h"

/* Reads an execs stream behind its reply. *ret: heap, the caller's, the oldest first; at most
 * BG_AGENT_EXECS_MAX. Errors: -EPROTO; -ETIME nothing came for half a minute; -ECONNRESET. */
int exec_list_read(int fd, struct bg_exec_info **ret, size_t *ret_count,
                   struct bg_err *err) BG_MUST_CHECK;
