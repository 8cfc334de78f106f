#include "host/cli/forking.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>

#include "common/io.h"
#include "host/cli/signals.h"
#include "host/cli/start.h"

#define AT_ONCE_MAX 16 /* starts; more of them only wait for each other */

struct worker {
    pid_t pid; /* 0: free */
    int fd;    /* it writes a struct bg_err and ends */
    size_t child;
};

struct forking {
    struct app *app;
    struct forking_child *children;
    size_t count, next;
    struct worker workers[AT_ONCE_MAX];
    size_t at_once;
    int signal_fd, signal;
    bool quiet;
};

static size_t cpus(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > AT_ONCE_MAX ? AT_ONCE_MAX : (size_t)n;
}

/* The worker: starts one and tells how that went. */
static void work(const struct forking *f, const struct bg_sandbox *sandbox, int out)
{
    struct life life = {.sandbox = *sandbox};
    struct bg_err why = {.code = 0};
    int number;
    const struct launch_opts opts = {.signal_fd = f->signal_fd, .owner_fd = -1, .quiet = f->quiet};
    int r = start_with_shares(f->app, &life, &opts, &number, &why);
    why.code = r;
    r = bg_write_full(out, &why, sizeof why);
    _exit(r < 0);
}

static int begin(struct forking *f, struct worker *worker, struct bg_err *err)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    BG_AUTOCLOSE int in = fds[0];
    BG_AUTOCLOSE int out = fds[1];
    pid_t pid = fork();
    if (pid == 0)
        work(f, &f->children[f->next].sandbox, out);
    if (pid < 0)
        return bg_err_errno(err, -errno, "fork");
    *worker = (struct worker){.pid = pid, .fd = bg_take_fd(&in), .child = f->next};
    return 0;
}

static void finish(struct forking *f, struct worker *worker)
{
    struct forking_child *child = &f->children[worker->child];
    struct bg_err why;
    int status;
    int r = bg_read_full(worker->fd, &why, sizeof why);
    (void)close(worker->fd); /* read only */
    while (waitpid(worker->pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (r < 0)
        (void)bg_err_set(&child->why, -ECHILD,
                         "sandbox '%s': the process that started it died (status 0x%x)",
                         child->sandbox.name, (unsigned)status);
    else
        child->why = why;
    child->why.text[sizeof child->why.text - 1] = '\0';
    child->started = r == 0 && why.code == 0;
    worker->pid = 0;
}

static bool busy(const struct forking *f)
{
    for (size_t i = 0; i < f->at_once; i++)
        if (f->workers[i].pid != 0)
            return true;
    return false;
}

static void fill(struct forking *f)
{
    for (size_t i = 0; i < f->at_once && !f->signal; i++) {
        while (f->next < f->count && !f->children[f->next].made)
            f->next++;
        if (f->workers[i].pid != 0 || f->next == f->count)
            continue;
        struct forking_child *child = &f->children[f->next];
        (void)(begin(f, &f->workers[i], &child->why) < 0); /* it says why, and was not started */
        f->next++;
    }
}

/* A terminal has told the workers too; one more does no harm. */
static void cancel(struct forking *f, int number)
{
    if (f->signal ||
        (number != SIGINT && number != SIGTERM && number != SIGHUP && number != SIGQUIT))
        return;
    f->signal = number;
    for (size_t i = 0; i < f->at_once; i++)
        if (f->workers[i].pid != 0)
            (void)kill(f->workers[i].pid, SIGTERM); /* our child, not reaped */
}

static void wait_for_one(struct forking *f)
{
    struct pollfd fds[AT_ONCE_MAX + 1];
    for (size_t i = 0; i < f->at_once; i++)
        fds[i] = (struct pollfd){.fd = f->workers[i].pid ? f->workers[i].fd : -1, .events = POLLIN};
    fds[f->at_once] = (struct pollfd){.fd = f->signal_fd, .events = POLLIN};
    if (poll(fds, (nfds_t)f->at_once + 1, -1) < 0)
        return; /* EINTR; nothing else can be */
    for (int number; fds[f->at_once].revents && (number = signals_next(f->signal_fd)) > 0;)
        cancel(f, number);
    for (size_t i = 0; i < f->at_once; i++)
        if (fds[i].revents)
            finish(f, &f->workers[i]);
}

int forking_start(struct app *app, struct forking_child *children, size_t count, int signal_fd,
                  bool quiet)
{
    struct forking f = {.app = app,
                        .children = children,
                        .count = count,
                        .at_once = cpus(),
                        .signal_fd = signal_fd,
                        .quiet = quiet};
    for (fill(&f); busy(&f); fill(&f))
        wait_for_one(&f);
    return f.signal;
}
