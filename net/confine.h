/* confine: how the proxy gives up what it does not need, in stages:
 *   1. confine_start: no new rights, no core dump, not to be traced, no fds but the named ones
 *   2. (main reads policy, secrets and CA, opens the audit log)
 *   3. confine_finish: root's rights go; files only for reading and only those of the system that
 *      DNS and TLS use (Landlock); the system calls of serving (seccomp)
 * From then on what breaks into the process has the secrets of this sandbox and the network, but
 * not the disk, nor other processes. In sanitizer builds Landlock, the filter and the ban on
 * tracing are left out, since their run-time needs what those forbid. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

/* keep: fds above 2 to keep open; negative ones are skipped. Errors: errno of the calls. */
int confine_start(const int *keep, size_t count, struct bg_err *err) BG_MUST_CHECK;

/* uid, gid: to run as if we are root. *ret_landlock: false if the kernel has none. */
int confine_finish(unsigned uid, unsigned gid, bool *ret_landlock,
                   struct bg_err *err) BG_MUST_CHECK;
