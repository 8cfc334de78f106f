#include "host/supervisor/background.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/io.h"

int background_begin(int *ret_signal_fd, struct bg_err *err)
{
    (void)setsid(); /* a fresh child is no group leader */
    BG_AUTOCLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; null >= 0 && i < 3; i++)
        (void)dup2(null, i); /* whoever waits for our terminal or pipe must not wait for us */
    sigset_t set;
    static const int caught[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP};
    (void)sigemptyset(&set); /* cannot fail, nor sigaddset with these */
    for (size_t i = 0; i < sizeof caught / sizeof caught[0]; i++)
        (void)sigaddset(&set, caught[i]);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return bg_err_errno(err, -errno, "signals");
    (void)signal(SIGPIPE, SIG_IGN); /* cannot fail */
    if (chdir("/") < 0)             /* no folder is kept busy */
        return bg_err_errno(err, -errno, "/");
    *ret_signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    return *ret_signal_fd < 0 ? bg_err_errno(err, -errno, "signalfd") : 0;
}
