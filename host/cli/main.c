/* bellglass: the command. See commands.c for what there is. */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include "host/cli/commands.h"

/* A command started without one of these would give its number to some file it opens. */
static bool open_standard_fds(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR); /* helpers shall have them too */
    } while (fd >= 0 && fd <= STDERR_FILENO);
    return fd >= 0 && close(fd) == 0;
}

int main(int argc, char **argv)
{
    struct app app = {.version = BELLGLASS_VERSION};
    if (!open_standard_fds())
        return APP_FAILED;
    /* Nothing that we were started with by accident goes on to a helper. */
    (void)close_range(STDERR_FILENO + 1, UINT_MAX, CLOSE_RANGE_CLOEXEC); /* Linux 5.11 */
    (void)signal(SIGPIPE, SIG_IGN); /* an output that is gone is an error like others */
    int status = commands_run(&app, argc - 1, argv + 1);
    app_done(&app);
    return status;
}
