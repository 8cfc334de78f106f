#include "host/cli/app.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A command started without one of these would give its number to some file it opens. */
static bool open_standard_fds(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR); /* helpers shall have them too */
    } while (fd >= 0 && fd <= STDERR_FILENO);
    return fd >= 0 && close(fd) == 0;
}

bool app_start(void)
{
    if (!open_standard_fds())
        return false;
    /* Nothing that we were started with by accident goes on to a helper. Linux 5.11; older ones
     * pass it on, which is no error. */
    (void)close_range(STDERR_FILENO + 1, UINT_MAX, CLOSE_RANGE_CLOEXEC);
    (void)signal(SIGPIPE, SIG_IGN); /* cannot fail */
    return true;
}

int app_paths(struct app *app, struct bg_err *err)
{
    if (app->has_paths)
        return 0;
    int r = bg_paths_init(&app->paths, err);
    app->has_paths = r == 0;
    return r;
}

void app_done(struct app *app)
{
    if (app->has_paths)
        bg_paths_done(&app->paths);
    app->has_paths = false;
}

int app_fail(const struct bg_err *err)
{
    (void)fflush(stdout);
    (void)fprintf(stderr, "bellglass: %s\n", err->text);
    return APP_FAILED;
}

void app_hint_space(struct bg_err *err)
{
    size_t used = strlen(err->text);
    if ((err->code == -ENOSPC || err->code == -EDQUOT) && !strstr(err->text, "free space"))
        (void)snprintf(err->text + used, sizeof err->text - used,
                       "; free some: bellglass rm NAME, bellglass image rm IMAGE");
}

void app_note(const char *format, ...)
{
    char text[BG_ERR_TEXT_SIZE];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args); /* cut is fine */
    va_end(args);
    (void)fprintf(stderr, "bellglass: %s\n", text);
}

int app_printed(int status)
{
    struct bg_err err;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    if (errno == EPIPE)
        return 128 + 13; /* SIGPIPE: who read it has gone */
    (void)bg_err_errno(&err, -errno, "cannot write to standard output");
    return app_fail(&err);
}
