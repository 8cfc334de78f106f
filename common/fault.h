/* Points at which a test makes this process fail: BELLGLASS_FAULT="POINT" kills it there,
 * "POINT=CHILD" kills the process of bg_fault_child(), and "POINT=ENOSPC"
 * or "POINT=EIO" makes the step at that point fail so. Only in builds for tests (meson's option
 * `faults`); in others nothing is left of it. */
#pragma once

#include <sys/types.h>

#if BG_FAULTS

/* Not reaped while a point may be met; 0: none any more. */
void bg_fault_child(pid_t pid);

/* Returns 0, or the negative errno that the step is to fail with. */
int bg_fault(const char *point);

#else

static inline void bg_fault_child(pid_t pid)
{
    (void)pid;
}

static inline int bg_fault(const char *point)
{
    (void)point;
    return 0;
}

#endif
