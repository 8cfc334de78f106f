/* confine: what is left to the process that holds the VM once everything it needs is open. */
#pragma once

#include "common/err.h"

/* Drops to uid and gid when we are root. Errors: errno of the calls. */
int confine_drop_root(unsigned uid, unsigned gid, struct bg_err *err) BG_MUST_CHECK;

/* No new rights, no core, and only the system calls that serving the VM takes (seccomp; any other
 * kills the process): no file can be opened, no program started, no process but qemu_pid touched.
 * For good. The files were taken away by qemu_confine_files(). In sanitizer builds the filter is
 * left out, since their run-time needs more. Errors: errno of the calls. */
int confine_supervisor(int qemu_pid, struct bg_err *err) BG_MUST_CHECK;
