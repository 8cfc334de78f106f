#include "guest/worker.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

/* 0, 1 and 2 stay as they are: the console. */
#define WORKER_FD 3

struct worker {
    struct live live;
    struct child child;
    struct agent *agent;
    void (*on_exit)(void *owner, int wait_status);
    void *owner;
};

int worker_shed(const char *name, int keep, bool killable)
{
    (void)prctl(PR_SET_NAME, name);
    int fd = keep;
    if (keep >= 0) {
        if (keep != WORKER_FD && dup3(keep, WORKER_FD, O_CLOEXEC) < 0)
            return -errno;
        fd = WORKER_FD;
        int flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
            return -errno;
    }
    if (close_range(fd >= 0 ? WORKER_FD + 1 : WORKER_FD, ~0u, 0) < 0)
        return -errno;
    (void)signal(SIGPIPE, SIG_IGN); /* as in the agent; writes fail with EPIPE */
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    int score = killable ? open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC) : -1;
    if (score >= 0) {
        ssize_t n = write(score, "0", 1);
        (void)n; /* refused only if it is 0 already and may not be lowered */
        (void)close(score);
    }
    return fd;
}

static void ended(struct child *child, int wait_status)
{
    struct worker *worker = CONTAINER_OF(child, struct worker, child);
    struct agent *agent = worker->agent;
    if (worker->on_exit)
        worker->on_exit(worker->owner, wait_status);
    agent_remove_live(agent, &worker->live);
    free(worker);
}

static void drop(struct live *live)
{
    struct worker *worker = CONTAINER_OF(live, struct worker, live);
    (void)kill(worker->child.pid, SIGKILL); /* our child, not reaped yet: the pid is its own */
}

int worker_start(struct agent *agent, const struct worker_opts *opts, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = opts->fd;
    BG_AUTOFREE struct worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return bg_err_errno(err, -ENOMEM, "worker");
    worker->live.drop = drop;
    if (!agent_add_live(agent, &worker->live))
        return bg_err_set(err, -EMFILE, "too many streams");
    pid_t pid = fork();
    if (pid == 0) {
        int kept = worker_shed(opts->name, fd, /* killable= */ true);
        _exit(kept < 0 && fd >= 0 ? 126 : opts->run(kept, opts->arg));
    }
    if (pid < 0) {
        int code = -errno;
        agent_remove_live(agent, &worker->live);
        return bg_err_errno(err, code, "cannot start a process");
    }
    worker->agent = agent;
    worker->on_exit = opts->on_exit;
    worker->owner = opts->owner;
    worker->child = (struct child){.pid = pid, .on_exit = ended};
    agent_watch_child(agent, &worker->child);
    (void)BG_TAKE(worker);
    return 0;
}
