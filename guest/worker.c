#include "guest/worker.h"

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/io.h"
#include "guest/parking.h"
#include "guest/stream.h"

struct worker {
    struct live live;
    struct child child;
    struct agent *agent;
    struct gate *gate; /* NULL: it has no stream */
    int control_fd;    /* new connections go there; -1 likewise */
    void (*on_exit)(void *owner, int wait_status);
    void *owner;
};

/* Out of the way of the numbers that they are to have. */
static int keep_fds(const int *keep, int count)
{
    int high[WORKER_KEEP_MAX];
    assert(count <= WORKER_KEEP_MAX);
    for (int i = 0; i < count; i++) {
        high[i] = fcntl(keep[i], F_DUPFD_CLOEXEC, WORKER_FD + count);
        if (high[i] < 0)
            return -errno;
    }
    for (int i = 0; i < count; i++)
        if (dup3(high[i], WORKER_FD + i, O_CLOEXEC) < 0)
            return -errno;
    return 0;
}

int worker_shed(const char *name, const int *keep, int count, bool killable)
{
    (void)prctl(PR_SET_NAME, name);
    int r = keep_fds(keep, count);
    if (r < 0)
        return r;
    if (close_range((unsigned)(WORKER_FD + count), ~0u, 0) < 0)
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
    return 0;
}

static void worker_free(struct worker *worker)
{
    gate_free(worker->gate);
    bg_cleanup_close(&worker->control_fd);
    free(worker);
}

static void ended(struct child *child, int wait_status)
{
    struct worker *worker = CONTAINER_OF(child, struct worker, child);
    struct agent *agent = worker->agent;
    if (worker->on_exit)
        worker->on_exit(worker->owner, wait_status);
    worker->live.parkable = NULL;
    parking_changed(agent);
    agent_remove_live(agent, &worker->live);
    worker_free(worker);
}

static void drop(struct live *live)
{
    struct worker *worker = CONTAINER_OF(live, struct worker, live);
    (void)kill(worker->child.pid, SIGKILL); /* our child, not reaped yet: the pid is its own */
}

/* ---- parking ---- */

static bool park(struct live *live)
{
    struct gate *gate = CONTAINER_OF(live, struct worker, live)->gate;
    if (atomic_load(&gate->ended))
        return false;
    gate_close(gate);
    return true;
}

static bool is_quiet(struct live *live)
{
    return gate_is_quiet(CONTAINER_OF(live, struct worker, live)->gate);
}

static int counts(struct live *live, uint64_t *ret_read, uint64_t *ret_written)
{
    struct gate *gate = CONTAINER_OF(live, struct worker, live)->gate;
    if (atomic_load(&gate->ended))
        return -ENOENT;
    if (!gate_hold(gate))
        return -EAGAIN;
    *ret_read = atomic_load(&gate->read);
    *ret_written = atomic_load(&gate->written);
    return 0;
}

static int make_blocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ? -errno : 0;
}

static void swap(struct live *live, int fd)
{
    struct worker *worker = CONTAINER_OF(live, struct worker, live);
    if (atomic_load(&worker->gate->shut))
        (void)shutdown(fd, SHUT_WR); /* fails if the host is gone; reading tells */
    bool handed = make_blocking(fd) == 0 && bg_send_fd(worker->control_fd, "", 1, fd) == 0;
    (void)close(fd); /* the worker has its own */
    if (handed)
        gate_open(worker->gate, /* renewed= */ true);
    else
        drop(live);
}

static void go_on(struct live *live)
{
    gate_open(CONTAINER_OF(live, struct worker, live)->gate, /* renewed= */ false);
}

static const struct parkable worker_parkable = {
    .park = park, .is_quiet = is_quiet, .counts = counts, .swap = swap, .go_on = go_on};

/* ---- start ---- */

/* The child. fds: the stream's connection, the control socket, the event; none without a stream. */
static int run(const struct worker *worker, const struct worker_opts *opts, const int *fds)
{
    struct link link;
    int count = worker->gate ? 3 : 0;
    if (worker_shed(opts->name, fds, count, /* killable= */ true) < 0)
        return 126;
    if (count == 0)
        return opts->run(NULL, opts->arg);
    if (make_blocking(WORKER_FD) < 0)
        return 126;
    link_init(&link, WORKER_FD, WORKER_FD + 1, WORKER_FD + 2, worker->gate);
    return opts->run(&link, opts->arg);
}

static int open_link(struct worker *worker, const struct worker_opts *opts, int fds[3],
                     struct bg_err *err)
{
    int pair[2];
    worker->gate = gate_new(opts->stream->channel.bytes_read);
    if (!worker->gate)
        return bg_err_errno(err, -ENOMEM, "worker");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return bg_err_errno(err, -errno, "worker");
    worker->control_fd = pair[0];
    fds[1] = pair[1];
    fds[2] = worker->agent->parking.event_fd;
    if (opts->lasts)
        worker->live.parkable = &worker_parkable;
    worker->live.kind = opts->stream->live.kind;
    worker->live.id = opts->stream->live.id;
    return 0;
}

static int start(struct worker *worker, const struct worker_opts *opts, int fds[3],
                 struct bg_err *err)
{
    struct agent *agent = worker->agent;
    int r = opts->stream ? open_link(worker, opts, fds, err) : 0;
    if (r < 0)
        return r;
    if (!agent_add_live(agent, &worker->live))
        return bg_err_set(err, -EMFILE, "too many streams");
    pid_t pid = fork();
    if (pid == 0)
        _exit(run(worker, opts, fds));
    if (pid < 0) {
        int code = -errno;
        agent_remove_live(agent, &worker->live);
        return bg_err_errno(err, code, "cannot start a process");
    }
    worker->child = (struct child){.pid = pid, .on_exit = ended};
    agent_watch_child(agent, &worker->child);
    return 0;
}

int worker_start(struct agent *agent, const struct worker_opts *opts, struct bg_err *err)
{
    int fds[3] = {opts->stream ? stream_detach(opts->stream) : -1, -1, -1};
    struct worker *worker = calloc(1, sizeof *worker);
    int r = worker ? 0 : bg_err_errno(err, -ENOMEM, "worker");
    if (r == 0) {
        *worker = (struct worker){.live.drop = drop,
                                  .agent = agent,
                                  .control_fd = -1,
                                  .on_exit = opts->on_exit,
                                  .owner = opts->owner};
        r = start(worker, opts, fds, err);
        if (r < 0)
            worker_free(worker);
    }
    bg_cleanup_close(&fds[0]);
    bg_cleanup_close(&fds[1]);
    return r;
}
