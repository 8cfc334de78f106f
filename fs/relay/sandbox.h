/* What the relay gives up before it serves: after these calls it can read and write the fds that it
 * has, and nothing else. In this order. */
#pragma once

#include "common/err.h"

/* Once mounted: views of its own, without network; root becomes nobody. What the machine does not
 * offer is left out, but root never stays root: who is root only in a namespace of its own, where
 * there is no nobody, gives up its capabilities. Errors: errno of setgroups, setresgid, setresuid,
 * capset. */
int fs_sandbox_leave(struct bg_err *err) BG_MUST_CHECK;

/* No new privileges, no dumps, limits; no file can be opened (Landlock, where the kernel has it).
 * Threads that are started from here on are confined by it too. Errors: errno of prctl, setrlimit.
 */
int fs_sandbox_enter(struct bg_err *err) BG_MUST_CHECK;

/* No more threads or processes, and all threads may make the system calls of the loop and of the
 * notifier only. Errors: errno of setrlimit, seccomp. */
int fs_sandbox_filter(struct bg_err *err) BG_MUST_CHECK;
