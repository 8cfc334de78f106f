/* Points at which a test makes this process fail: BELLGLASS_FAULT="POINT" kills it there, and
 * "POINT=ENOSPC" or "POINT=EIO" makes the step at that point fail so. Only in builds for tests
 * (meson's option `faults`); in others nothing is left of it. */
#pragma once

#if BG_FAULTS

/* Returns 0, or the negative errno that the step is to fail with. */
int bg_fault(const char *point);

#else

static inline int bg_fault(const char *point)
{
    (void)point;
    return 0;
}

#endif
