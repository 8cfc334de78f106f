#include "common/fault.h"

#if BG_FAULTS

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

int bg_fault(const char *point)
{
    const char *wanted = getenv("BELLGLASS_FAULT");
    size_t size = strlen(point);
    if (!wanted || strncmp(wanted, point, size) != 0)
        return 0;
    if (wanted[size] == '\0')
        (void)raise(SIGKILL); /* does not return */
    if (strcmp(wanted + size, "=ENOSPC") == 0)
        return -ENOSPC;
    return strcmp(wanted + size, "=EIO") == 0 ? -EIO : 0;
}

#endif
