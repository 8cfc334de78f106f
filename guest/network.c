#include "guest/network.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <uv.h>

#include "guest/agent.h"
#include "guest/egress.h"
#include "guest/interface.h"
#include "guest/redirect.h"
#include "guest/resolver.h"
#include "guest/worker.h"

/* Everything here lives as long as the process. */
static int run(const struct agent_opts *opts, struct bg_err *err)
{
    uv_loop_t loop;
    int r = uv_loop_init(&loop);
    struct names *names = names_new();
    if (r < 0 || !names)
        return bg_err_errno(err, r < 0 ? r : -ENOMEM, "network");
    const struct egress_opts egress_opts = {
        .loop = &loop, .names = names, .unix_path = opts->egress_path};
    struct resolver *resolver;
    struct egress *egress;
    r = interface_dummy_up(err);
    if (r == 0)
        r = resolver_open(&loop, names, &resolver, err);
    if (r == 0)
        r = egress_open(&egress_opts, &egress, err);
    /* Last: from here on connections come. */
    if (r == 0)
        r = redirect_install(err);
    if (r < 0)
        return r;
    bg_log(opts->log, BG_LOG_INFO, "network is up");
    return uv_run(&loop, UV_RUN_DEFAULT); /* the listeners never close: it does not end */
}

pid_t network_start(const struct agent_opts *opts)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid != 0)
        return pid < 0 ? -errno : pid;
    int shed = worker_shed("bellglass-net", /* keep= */ -1, /* killable= */ false);
    (void)shed; /* best effort: it serves with the agent's fds open too */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* cannot fail */
    if (getppid() != parent)
        _exit(1); /* it ended before the line above */
    struct bg_err err = {0};
    if (run(opts, &err) < 0)
        bg_log(opts->log, BG_LOG_ERROR, "network: %s", err.text);
    _exit(1);
}
