/* What the relay gives up before it serves: after these calls it can read and write the fds that it
 * has, and nothing else. In this order. */
#pragma once

#include "common/err.h"

/* Once mounted: views of its own, without network; root becomes nobody. What the machine does not
 * offer is left out, but root never stays root: who is root only in a namespace of its own, where
 * there is no nobody, gives up its capabilities. Errors: errno of setgroups, setresgid, setresuid,
 * capset. */
int fs_sandbox_leave(struct bg_err *err) BG_MUST_CHECK;

/* No new privileges, no dumps, limits; no file can be opened (Landlock, where the kernel has it),
 * and only the system calls of the loop can be made. Errors: errno of prctl, setrlimit, seccomp. */
int fs_sandbox_enter(struct bg_err *err) BG_MUST_CHECK;
