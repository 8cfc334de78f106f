#include "guest/network.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <uv.h>

#include "common/io.h"
#include "guest/agent.h"
#include "guest/egress.h"
#include "guest/interface.h"
#include "guest/redirect.h"
#include "guest/resolver.h"
#include "guest/worker.h"

struct control {
    uv_poll_t poll;
    int fd;
    struct egress *egress;
};

static void take_message(struct control *control, const struct network_message *message, int fd)
{
    switch (message->op) {
    case NETWORK_PARK:
        egress_park(control->egress);
        const struct network_message done = {.op = NETWORK_PARKED};
        int r = bg_send_fd(control->fd, &done, sizeof done, -1);
        (void)r; /* an agent that is gone takes us with it */
        break;
    case NETWORK_RESUME:
        egress_resume(control->egress, message->id, message->host_has, fd);
        return; /* it has the fd */
    case NETWORK_GO_ON:
        egress_go_on(control->egress, (enum bg_go_on)message->how);
        break;
    case NETWORK_RESET:
        egress_reset(control->egress);
        break;
    }
    bg_cleanup_close(&fd); /* none is to come */
}

static void agent_said(uv_poll_t *poll, int status, int events)
{
    struct control *control = poll->data;
    struct network_message message;
    int fds[BG_RECV_FDS_MAX] = {-1};
    size_t count = 0;
    (void)events;
    ssize_t n = status < 0 ? 0 : bg_recv_fds(control->fd, &message, sizeof message, fds, &count);
    if (n == -EAGAIN || n == -EINTR)
        return;
    if (n != (ssize_t)sizeof message)
        _exit(1); /* the agent is gone */
    take_message(control, &message, count > 0 ? fds[0] : -1);
}

static int open_control(struct control *control, uv_loop_t *loop, struct bg_err *err)
{
    int r = uv_poll_init(loop, &control->poll, control->fd);
    if (r < 0)
        return bg_err_errno(err, r, "the agent's socket");
    control->poll.data = control;
    (void)uv_poll_start(&control->poll, UV_READABLE, agent_said); /* not closing */
    return 0;
}

/* Everything here lives as long as the process. */
static int run(const struct agent_opts *opts, int control_fd, struct bg_err *err)
{
    struct control control = {.fd = control_fd};
    uv_loop_t loop;
    int r = uv_loop_init(&loop);
    struct names *names = names_new();
    if (r < 0 || !names)
        return bg_err_errno(err, r < 0 ? r : -ENOMEM, "network");
    const struct egress_opts egress_opts = {
        .loop = &loop, .names = names, .unix_path = opts->egress_path};
    struct resolver *resolver;
    r = interface_dummy_up(err);
    if (r == 0)
        r = resolver_open(&loop, names, &resolver, err);
    if (r == 0)
        r = egress_open(&egress_opts, &control.egress, err);
    if (r == 0)
        r = open_control(&control, &loop, err);
    /* Last: from here on connections come. */
    if (r == 0)
        r = redirect_install(err);
    if (r < 0)
        return r;
    bg_log(opts->log, BG_LOG_INFO, "network is up");
    return uv_run(&loop, UV_RUN_DEFAULT); /* the listeners never close: it does not end */
}

pid_t network_start(const struct agent_opts *opts, int *ret_fd)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid != 0) {
        int code = -errno;
        (void)close(pair[1]); /* the child's */
        if (pid > 0)
            *ret_fd = pair[0];
        else
            (void)close(pair[0]); /* nobody is at its other end */
        return pid < 0 ? code : pid;
    }
    if (worker_shed("bellglass-net", &pair[1], 1, /* killable= */ false) < 0)
        _exit(1);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* cannot fail */
    if (getppid() != parent)
        _exit(1); /* it ended before the line above */
    struct bg_err err = {0};
    if (run(opts, WORKER_FD, &err) < 0)
        bg_log(opts->log, BG_LOG_ERROR, "network: %s", err.text);
    _exit(1);
}
