#include "host/gateway/signal_name.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#define SIGNAL_MAX 64

int signal_number(const char *name)
{
    if (strncmp(name, "SIG", 3) != 0)
        return 0;
    for (int i = 1; i <= SIGNAL_MAX; i++) {
        const char *known = sigabbrev_np(i);
        if (known && strcmp(known, name + 3) == 0)
            return i;
    }
    return 0;
}

const char *signal_name(int number, char text[16])
{
    const char *known = sigabbrev_np(number);
    if (known)
        (void)snprintf(text, 16, "SIG%s", known);
    else
        (void)snprintf(text, 16, "SIG%d", number);
    return text;
}
