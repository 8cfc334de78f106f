#include "guest/agent.h"

#include <assert.h>
#include <linux/close_range.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "guest/cgroup.h"
#include "guest/exec.h"
#include "guest/parking.h"
#include "guest/power.h"
#include "guest/stream.h"

/* Accepted in one turn of the loop, so that a flood of connections does not stop the rest. */
#define ACCEPTS_PER_TURN 32

/* Between looks for empty cgroups, while processes outlive their exec. */
#define SWEEP_MS 1000

/* A network process that ended sooner is started again only after this. */
#define NETWORK_PAUSE_MS 1000

/* ---- registry ---- */

bool agent_add_live(struct agent *agent, struct live *live)
{
    if (agent->live_count >= BG_AGENT_STREAMS_MAX)
        return false;
    agent->live_count++;
    LIST_INSERT_HEAD(&agent->live, live, link);
    return true;
}

/* An agent that was told to end does so when nothing of it is left. */
static void end_if_idle(struct agent *agent)
{
    if (agent->stopping && agent->live_count == 0 && LIST_EMPTY(&agent->children) &&
        !uv_is_closing((uv_handle_t *)&agent->signals))
        uv_close((uv_handle_t *)&agent->signals, NULL);
}

void agent_remove_live(struct agent *agent, struct live *live)
{
    assert(agent->live_count > 0);
    agent->live_count--;
    LIST_REMOVE(live, link);
    end_if_idle(agent);
}

void agent_drop_streams(struct agent *agent, const struct live *except)
{
    /* drop() may unlink its own entry at once, or later; it touches no other. */
    struct live *next;
    for (struct live *live = LIST_FIRST(&agent->live); live; live = next) {
        next = LIST_NEXT(live, link);
        if (live == except || live->dropped)
            continue;
        live->dropped = true;
        live->drop(live);
    }
}

void agent_drop_all(struct agent *agent, const struct live *except)
{
    agent_drop_streams(agent, except);
    exec_forget_all(agent);
    if (agent->cgroup_fd >= 0 && !cgroup_kill_all(agent->cgroup_fd))
        bg_log(agent->log, BG_LOG_WARN, "cannot end what earlier commands left running");
    agent_sweep_later(agent);
}

void agent_freeze(struct agent *agent)
{
    if (agent->cgroup_fd < 0)
        return;
    agent->frozen = true;
    if (!cgroup_freeze(agent->cgroup_fd, true))
        bg_log(agent->log, BG_LOG_WARN, "cannot freeze the commands; going on");
}

void agent_thaw(struct agent *agent)
{
    if (!agent->frozen)
        return;
    if (!cgroup_freeze(agent->cgroup_fd, false))
        bg_log(agent->log, BG_LOG_ERROR, "cannot let the commands go on");
    agent->frozen = false;
}

void agent_watch_child(struct agent *agent, struct child *child)
{
    LIST_INSERT_HEAD(&agent->children, child, link);
}

void agent_forget_child(struct child *child)
{
    LIST_REMOVE(child, link);
}

/* ---- cgroups that stayed ---- */

static void sweep(uv_timer_t *timer)
{
    struct agent *agent = timer->data;
    agent->cgroups_left = agent->cgroup_fd >= 0 && cgroup_sweep(agent->cgroup_fd);
}

void agent_sweep_later(struct agent *agent)
{
    agent->cgroups_left = true;
    if (!uv_is_active((uv_handle_t *)&agent->sweep_timer) && !agent->stopping)
        (void)uv_timer_start(&agent->sweep_timer, sweep, SWEEP_MS,
                             0); /* not closing: cannot fail */
}

/* ---- network ---- */

static void network_ended(struct child *child, int wait_status);

static void start_network(struct agent *agent)
{
    int fd = -1;
    pid_t pid = agent->opts.start_network(&agent->opts, &fd);
    if (pid < 0) {
        bg_log(agent->log, BG_LOG_ERROR, "cannot start the network: %s", strerror((int)-pid));
        return;
    }
    agent->network = (struct child){.pid = pid, .on_exit = network_ended};
    agent->network_started_ms = bg_now_ms();
    agent_watch_child(agent, &agent->network);
    parking_network_started(agent, fd);
}

static void network_paused(uv_timer_t *timer)
{
    struct agent *agent = timer->data;
    if (!agent->power && !agent->stopping)
        start_network(agent);
}

static void network_ended(struct child *child, int wait_status)
{
    struct agent *agent = CONTAINER_OF(child, struct agent, network);
    child->pid = 0;
    parking_network_ended(agent);
    if (agent->power || agent->stopping)
        return;
    bg_log(agent->log, BG_LOG_ERROR, "the network process ended (status 0x%x), starting it again",
           (unsigned)wait_status);
    uint64_t ran_ms = bg_now_ms() - agent->network_started_ms;
    (void)uv_timer_start(&agent->network_timer, network_paused,
                         ran_ms < NETWORK_PAUSE_MS ? NETWORK_PAUSE_MS : 0, 0); /* cannot fail */
}

/* ---- processes ---- */

static void reap(struct agent *agent)
{
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid < 0 && errno == EINTR)
            continue;
        if (pid <= 0) {
            if (pid < 0 && agent->power)
                power_all_ended(agent->power); /* ECHILD: we are the last one */
            return;
        }
        struct child *child;
        LIST_FOREACH(child, &agent->children, link)
        {
            if (child->pid == pid)
                break;
        }
        if (child) {
            LIST_REMOVE(child, link);
            child->on_exit(child, status); /* may free it */
        } else if (agent->cgroups_left) {
            agent_sweep_later(agent); /* an orphan: maybe the last one of its cgroup */
        }
    }
}

static void signalled(uv_poll_t *poll, int status, int events)
{
    (void)status; /* a signalfd has no errors */
    (void)events;
    struct agent *agent = poll->data;
    struct signalfd_siginfo info;
    while (read(agent->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            reap(agent);
        else if (!agent->opts.pid1)
            agent_stop(agent);
    }
    end_if_idle(agent);
}

/* ---- listener ---- */

static bool is_host(int fd)
{
    struct sockaddr_vm peer = {0};
    socklen_t size = sizeof peer;
    return getpeername(fd, (struct sockaddr *)&peer, &size) == 0 && peer.svm_family == AF_VSOCK &&
           peer.svm_cid == BG_VSOCK_HOST_CID;
}

/* Returns false when there was none. */
static bool accept_one(struct agent *agent)
{
    BG_AUTOCLOSE int fd = accept4(agent->opts.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return false; /* -EAGAIN; anything else is about a connection that is gone */
    if (agent->opts.vsock && !is_host(fd))
        return true;
    if (stream_accept(agent, fd) == 0)
        (void)bg_take_fd(&fd);
    return true;
}

static void connected(uv_poll_t *poll, int status, int events)
{
    (void)events;
    if (status < 0)
        return; /* the socket's own error is accept's to tell */
    for (int i = 0; i < ACCEPTS_PER_TURN && accept_one(poll->data); i++)
        ;
}

void agent_accept_all(struct agent *agent)
{
    /* More than that at once nobody may have. */
    for (int i = 0; i < BG_AGENT_STREAMS_MAX && accept_one(agent); i++)
        ;
}

/* ---- life ---- */

void agent_stop(struct agent *agent)
{
    if (agent->stopping)
        return;
    agent->stopping = true;
    agent_thaw(agent);
    agent_drop_all(agent, NULL);
    uv_close((uv_handle_t *)&agent->listener, NULL);
    uv_close((uv_handle_t *)&agent->sweep_timer, NULL);
    uv_close((uv_handle_t *)&agent->network_timer, NULL);
    parking_network_ended(agent); /* so that it is not waited for */
    parking_close(agent);
    if (agent->network.pid > 0)
        (void)kill(agent->network.pid, SIGTERM); /* our child, unreaped: the pid is its own */
}

static int open_signals(struct agent *agent, struct bg_err *err)
{
    /* No signal ever runs a handler in here: SIGCHLD and the rest come through a fd. */
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGCHLD);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return bg_err_errno(err, -errno, "signals");
    agent->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return agent->signal_fd < 0 ? bg_err_errno(err, -errno, "signals") : 0;
}

static int open_handles(struct agent *agent, struct bg_err *err)
{
    int r = uv_poll_init(&agent->loop, &agent->listener, agent->opts.listen_fd);
    if (r < 0)
        return bg_err_errno(err, r, "listening socket");
    agent->listener.data = agent;
    r = parking_open(agent, err);
    if (r < 0)
        return r;
    r = uv_poll_init(&agent->loop, &agent->signals, agent->signal_fd);
    if (r < 0)
        return bg_err_errno(err, r, "signals");
    agent->signals.data = agent;
    /* Timers cannot fail; polls only when closing. */
    (void)uv_timer_init(&agent->loop, &agent->sweep_timer);
    agent->sweep_timer.data = agent;
    (void)uv_timer_init(&agent->loop, &agent->network_timer);
    agent->network_timer.data = agent;
    (void)uv_poll_start(&agent->signals, UV_READABLE, signalled);
    (void)uv_poll_start(&agent->listener, UV_READABLE, connected);
    return 0;
}

static void open_cgroups(struct agent *agent)
{
    struct bg_err why = {0};
    if (agent->opts.cgroup_path &&
        cgroup_tree_open(agent->opts.cgroup_path, &agent->cgroup_fd, &why) < 0)
        bg_log(agent->log, BG_LOG_WARN, "%s; going on with process groups only", why.text);
}

int agent_run(const struct agent_opts *opts, struct bg_err *err)
{
    struct agent *agent = calloc(1, sizeof *agent);
    if (!agent) {
        (void)close(opts->listen_fd); /* taken */
        return bg_err_errno(err, -ENOMEM, "agent");
    }
    agent->opts = *opts;
    agent->log = opts->log;
    /* What our parent left open is nothing for the guest's processes. */
    (void)close_range(3, ~0u, CLOSE_RANGE_CLOEXEC); /* cannot fail with these arguments */
    agent->signal_fd = agent->cgroup_fd = agent->parking.event_fd = agent->parking.network_fd = -1;
    LIST_INIT(&agent->live);
    LIST_INIT(&agent->children);
    LIST_INIT(&agent->execs);
    agent->scratch = malloc(AGENT_SCRATCH_SIZE);
    int r = agent->scratch ? 0 : bg_err_errno(err, -ENOMEM, "agent");
    if (r == 0)
        r = open_signals(agent, err);
    if (r == 0) {
        open_cgroups(agent);
        r = uv_loop_init(&agent->loop);
        if (r < 0)
            (void)bg_err_errno(err, r, "loop");
    }
    if (r == 0) {
        r = open_handles(agent, err);
        if (r == 0) {
            if (opts->start_network)
                start_network(agent);
            bg_log(agent->log, BG_LOG_INFO, "listening");
            (void)uv_run(&agent->loop, UV_RUN_DEFAULT); /* 0: it ends when all is closed */
            r = uv_loop_close(&agent->loop);
            assert(r == 0); /* a handle was left open: our bug */
        }
    }
    env_done(&agent->env);
    free(agent->scratch);
    free(agent->pages);
    (void)close(opts->listen_fd);
    if (agent->signal_fd >= 0)
        (void)close(agent->signal_fd);
    if (agent->cgroup_fd >= 0)
        (void)close(agent->cgroup_fd);
    if (agent->parking.event_fd >= 0)
        (void)close(agent->parking.event_fd);
    free(agent);
    return r;
}
