#include "common/fault.h"

#if BG_FAULTS

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static pid_t child;

void bg_fault_child(pid_t pid)
{
    child = pid;
}

int bg_fault(const char *point)
{
    const char *wanted = getenv("BELLGLASS_FAULT");
    size_t size = strlen(point);
    if (!wanted || strncmp(wanted, point, size) != 0)
        return 0;
    if (wanted[size] == '\0')
        (void)raise(SIGKILL); /* does not return; a confined process dies of tgkill(2) */
    if (strcmp(wanted + size, "=CHILD") == 0 && child > 0)
        (void)kill(child, SIGKILL); /* not reaped: nothing else runs here meanwhile */
    if (strcmp(wanted + size, "=ENOSPC") == 0)
        return -ENOSPC;
    return strcmp(wanted + size, "=EIO") == 0 ? -EIO : 0;
}

#endif
