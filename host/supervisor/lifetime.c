#include "host/supervisor/lifetime.h"

#include <string.h>
#include <sys/inotify.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"

#define CONFIG_FILE "sandbox.json"

/* The clock on the wall: a machine that slept was no longer alive for it. */
static int arm(const struct lifetime *l)
{
    struct itimerspec at = {
        .it_value = {.tv_sec = (time_t)(l->expires_ms / 1000),
                     .tv_nsec = (long)(l->expires_ms % 1000) * 1000000}}; /* 0: never */
    return timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &at, NULL) < 0
               ? -errno
               : 0;
}

static void take(struct lifetime *l, const struct bg_sandbox *sandbox)
{
    l->ttl_s = sandbox->ttl_s;
    l->expires_ms = sandbox->expires_ms;
    l->idle_suspend_s = sandbox->idle_suspend_s;
}

int lifetime_open(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                  struct lifetime *ret, struct bg_err *err)
{
    *ret = (struct lifetime){.paths = paths, .sandbox = sandbox, .timer_fd = -1, .watch_fd = -1};
    take(ret, sandbox);
    ret->timer_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (ret->timer_fd < 0 || arm(ret) < 0)
        return bg_err_errno(err, -errno, "timer");
    ret->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (ret->watch_fd < 0 ||
        inotify_add_watch(ret->watch_fd, sandbox->dir, IN_MOVED_TO | IN_ONLYDIR) < 0)
        return bg_err_errno(err, -errno, "%s", sandbox->dir);
    return 0;
}

void lifetime_close(struct lifetime *l)
{
    if (l->timer_fd >= 0)
        (void)close(l->timer_fd); /* read from only */
    if (l->watch_fd >= 0)
        (void)close(l->watch_fd); /* likewise */
    l->timer_fd = l->watch_fd = -1;
}

/* True if the settings are among what was moved to its place. */
static bool touched(int fd)
{
    _Alignas(struct inotify_event) char buffer[4096];
    bool found = false;
    for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;)
        for (const char *at = buffer; at < buffer + n;) {
            struct inotify_event event;
            memcpy(&event, at, sizeof event);
            found = found || (event.mask & IN_Q_OVERFLOW) ||
                    (event.len > 0 && strcmp(at + sizeof event, CONFIG_FILE) == 0);
            at += sizeof event + event.len;
        }
    return found;
}

bool lifetime_changed(struct lifetime *l)
{
    struct bg_sandbox now;
    struct lifetime before = *l;
    if (!touched(l->watch_fd) || bg_sandbox_load(l->paths, l->sandbox->name, &now, NULL) < 0)
        return false;
    if (strcmp(now.id, l->sandbox->id) == 0)
        take(l, &now);
    bg_sandbox_done(&now);
    (void)arm(l); /* with a time that is none it stays as it was */
    return before.expires_ms != l->expires_ms || before.idle_suspend_s != l->idle_suspend_s;
}

bool lifetime_is_over(struct lifetime *l)
{
    struct timespec now;
    uint64_t times;
    if (read(l->timer_fd, &times, sizeof times) < 0 && errno == ECANCELED)
        (void)arm(l);                          /* the clock was set; see above */
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    return l->expires_ms > 0 &&
           (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 >= l->expires_ms;
}
