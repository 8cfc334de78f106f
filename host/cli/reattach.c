#include "host/cli/reattach.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "common/io.h"
#include "common/wire.h"
#include "host/cli/client.h"
#include "host/cli/signals.h"
#include "host/cli/terminal.h"

#define SETTLE_MS                                                                                  \
    60000           /* to write a large memory to a slow disk takes longer, but then it is known */
#define TRIES_MAX 5 /* in a row that bring nothing */
#define LOOK_MS   200 /* a lock that is let go is no event */

int reattach_open(const struct reattach *reattach, const struct exec_position *at, uint32_t pid,
                  uint32_t flags, int *ret_fd, struct bg_err *err)
{
    uint8_t body[64];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    struct bg_exec_attach request = {.flags = BG_EXEC_ATTACH | flags, .pid = pid};
    if (at) {
        request.out_at = at->out;
        request.err_at = at->err;
    } else {
        request.flags |= BG_EXEC_KEPT;
    }
    if (reattach->resize)
        terminal_size(isatty(STDIN_FILENO) ? STDIN_FILENO : STDOUT_FILENO, &request.rows,
                      &request.columns);
    bg_exec_attach_emit(&request, &w);
    return client_open(&reattach->app->paths, reattach->sandbox, "exec", body, w.used, ret_fd, err);
}

/* Waits for something to happen to the sandbox's folder, or a moment. Returns the number of a
 * signal that wants an end. */
static int wait_a_moment(const struct reattach *reattach, int watch_fd)
{
    struct pollfd fds[] = {{.fd = watch_fd, .events = POLLIN},
                           {.fd = reattach->signal_fd, .events = POLLIN}};
    char events[4096];
    (void)poll(fds, 2, LOOK_MS); /* EINTR: as if the moment were over */
    if (fds[0].revents && read(watch_fd, events, sizeof events) < 0)
        (void)poll(NULL, 0, LOOK_MS); /* the watch is of no use: not in a circle */
    for (int number; fds[1].revents && (number = signals_next(reattach->signal_fd)) > 0;)
        if (number == SIGINT || number == SIGTERM || number == SIGHUP || number == SIGQUIT)
            return number;
    return 0;
}

static int gone(const struct bg_sandbox *sandbox, const char *how, struct bg_err *err)
{
    return bg_err_set(err, -ECONNRESET,
                      "the connection ended before the command did: sandbox '%s' %s", sandbox->name,
                      how);
}

/* One look. Returns 1 to look again later; 0 with a stream; or a negative errno. */
static int look(const struct reattach *reattach, const struct exec_position *at, bool *noted,
                int *ret_fd, struct bg_err *err)
{
    const struct bg_sandbox *sandbox = reattach->sandbox;
    enum bg_sandbox_state state;
    int r = bg_sandbox_state(sandbox, &state, NULL, err);
    if (r == -ENOENT)
        return gone(sandbox, "is removed", err);
    if (r < 0)
        return r;
    switch (state) {
    case BG_SANDBOX_SUSPENDED:
        if (!*noted)
            app_note("sandbox '%s' is suspended; this goes on when it is resumed (Ctrl-C: not)",
                     sandbox->name);
        *noted = true;
        return 1;
    case BG_SANDBOX_RUNNING:
        r = reattach_open(reattach, at, at->pid, BG_EXEC_STEAL | (reattach->own ? BG_EXEC_OWN : 0),
                          ret_fd, err);
        return r == -ENOTCONN || r == -ECONNRESET || r == -EAGAIN ? 1 : r; /* it is just ending */
    case BG_SANDBOX_STARTING:
    case BG_SANDBOX_STOPPING:
        return 1;
    case BG_SANDBOX_STOPPED:
        return gone(sandbox, "has stopped", err);
    case BG_SANDBOX_CRASHED:
        return gone(sandbox, "has crashed", err);
    }
    return 1;
}

int reattach_lost(void *owner, const struct exec_position *at, int *ret_fd, struct bg_err *err)
{
    struct reattach *reattach = owner;
    bool noted = false;
    /* A guest that takes us back each time and says nothing would keep us for ever. */
    bool barren = reattach->tries > 0 && at->out == reattach->out_at && at->err == reattach->err_at;
    reattach->tries = barren ? reattach->tries + 1 : 1;
    if (reattach->tries > TRIES_MAX)
        return gone(reattach->sandbox, "ends its connections", err);
    reattach->out_at = at->out;
    reattach->err_at = at->err;
    uint64_t deadline_ms = bg_now_ms() + SETTLE_MS;
    BG_AUTOCLOSE int watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (watch_fd < 0 || inotify_add_watch(watch_fd, reattach->sandbox->dir,
                                          IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_DELETE_SELF) < 0)
        return errno == ENOENT ? gone(reattach->sandbox, "is removed", err)
                               : bg_err_errno(err, -errno, "%s", reattach->sandbox->dir);
    for (;;) {
        bool before = noted;
        int r = look(reattach, at, &noted, ret_fd, err);
        if (noted)
            reattach->tries = 1; /* it was another machine that ended the last one */
        if (r <= 0)
            return r;
        if (before || noted)
            deadline_ms = bg_now_ms() + SETTLE_MS;
        if (bg_now_ms() > deadline_ms)
            return gone(reattach->sandbox, "does not answer", err);
        int number = wait_a_moment(reattach, watch_fd);
        if (number > 0)
            return number;
    }
}
