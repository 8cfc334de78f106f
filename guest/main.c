/* bellglass-agent: PID 1 of the guest. As an ordinary process (--listen-unix) it serves the same
 * streams on a Unix socket, for development and tests; as PID 1 it takes no arguments. */
#include <errno.h>
#include <getopt.h>
#include <linux/vm_sockets.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest/agent.h"
#include "guest/boot.h"
#include "guest/network.h"
#include "guest/power.h"
#include "guest/version.h"

#define BACKLOG 128

/* Of each stream, against the kernel's default of 256 KiB: more packets per wake-up. */
#define VSOCK_BUFFER_SIZE (1024 * 1024)

static int listen_vsock(int *ret_fd, struct bg_err *err)
{
    const uint64_t buffer_size = VSOCK_BUFFER_SIZE;
    const struct sockaddr_vm here = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = BG_VSOCK_AGENT_PORT};
    BG_AUTOCLOSE int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&here, sizeof here) < 0 ||
        setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &buffer_size, sizeof buffer_size) <
            0 ||
        setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &buffer_size, sizeof buffer_size) < 0 ||
        listen(fd, BACKLOG) < 0)
        return bg_err_errno(err, -errno, "vsock port %u", BG_VSOCK_AGENT_PORT);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

static int listen_unix(const char *path, int *ret_fd, struct bg_err *err)
{
    struct sockaddr_un here = {.sun_family = AF_UNIX};
    if ((size_t)snprintf(here.sun_path, sizeof here.sun_path, "%s", path) >= sizeof here.sun_path)
        return bg_err_errno(err, -ENAMETOOLONG, "%s", path);
    BG_AUTOCLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&here, sizeof here) < 0 ||
        listen(fd, BACKLOG) < 0)
        return bg_err_errno(err, -errno, "%s", path);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

/* The kernel's vsock worker hands its 4 KiB packets over one by one, and each wakes us. A batch
 * task does not preempt the worker by waking: we run once for all that has arrived, with a
 * twentieth of the context switches and half the time per byte. Latency does not suffer: when the
 * worker is done it sleeps, and we are next, before any busy command. */
static void run_in_batches(void)
{
    const struct sched_param none = {0};
    (void)sched_setscheduler(0, SCHED_BATCH, &none); /* without it we are only slower */
}

static int run_init(void)
{
    boot_console();
    run_in_batches();
    const struct bg_log log = {.fd = 2, .level = BG_LOG_INFO, .tag = "bellglass-agent"};
    bg_log(&log, BG_LOG_INFO, "%s", AGENT_VERSION);
    struct bg_err err = {0};
    struct agent_opts opts = {.vsock = true,
                              .pid1 = true,
                              .cgroup_path = BOOT_CGROUPS,
                              .log = &log,
                              .start_network = network_start};
    int r = boot(&log, &err);
    if (r == 0)
        r = listen_vsock(&opts.listen_fd, &err);
    if (r == 0)
        r = agent_run(&opts, &err); /* returns only if it could not begin */
    bg_log(&log, BG_LOG_ERROR, "%s; powering off", r < 0 ? err.text : "the loop ended");
    power_cut();
}

static int usage(FILE *to)
{
    (void)fputs("usage: bellglass-agent --listen-unix PATH [--cgroup FOLDER]\n"
                "                       [--network EGRESS_PATH]\n"
                "       bellglass-agent --version\n"
                "\n"
                "Without --listen-unix it is the init of a bellglass sandbox and runs only as\n"
                "PID 1. --cgroup: make the cgroups of commands there (cgroup2). --network: turn\n"
                "the network namespace that it runs in into a sandbox's, with egress to the Unix\n"
                "socket EGRESS_PATH.\n",
                to); /* nowhere to report a broken stdout */
    return to == stdout ? 0 : 2;
}

static int run_process(int argc, char **argv)
{
    static const struct option options[] = {
        {"listen-unix", required_argument, NULL, 'l'},
        {"cgroup", required_argument, NULL, 'c'},
        {"network", required_argument, NULL, 'n'},
        {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    const struct bg_log log = {.fd = 2, .level = BG_LOG_INFO, .tag = "bellglass-agent"};
    const char *path = NULL;
    struct agent_opts opts = {.log = &log};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'l':
            path = optarg;
            break;
        case 'c':
            opts.cgroup_path = optarg;
            break;
        case 'n':
            opts.egress_path = optarg;
            opts.start_network = network_start;
            break;
        case 'v':
            (void)puts("bellglass-agent " AGENT_VERSION); /* as above */
            return 0;
        case 'h':
            return usage(stdout);
        default:
            return usage(stderr);
        }
    }
    if (!path || optind != argc)
        return usage(stderr);
    struct bg_err err = {0};
    int r = listen_unix(path, &opts.listen_fd, &err);
    if (r == 0)
        r = agent_run(&opts, &err);
    if (r < 0)
        (void)fprintf(stderr, "bellglass-agent: %s\n", err.text); /* as above */
    return r < 0;
}

int main(int argc, char **argv)
{
    return getpid() == 1 ? run_init() : run_process(argc, argv);
}
