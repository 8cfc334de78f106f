#include "images/job.h"

#include <assert.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/io.h"

#define END_GRACE_MS 20000 /* mmdebstrap removes its folder in this time; then SIGKILL */

static void signal_set(sigset_t *set)
{
    (void)sigemptyset(set); /* these cannot fail on valid signals */
    (void)sigaddset(set, SIGINT);
    (void)sigaddset(set, SIGTERM);
    (void)sigaddset(set, SIGHUP);
}

int jobs_init(struct jobs *jobs, struct bg_err *err)
{
    sigset_t set;
    signal_set(&set);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return bg_err_errno(err, -errno, "signals");
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return bg_err_errno(err, -errno, "signals");
    *jobs = (struct jobs){.signal_fd = fd, .lock_fd = -1};
    return 0;
}

void jobs_done(struct jobs *jobs)
{
    (void)close(jobs->signal_fd);
    jobs->signal_fd = -1;
}

static void take_signal(struct jobs *jobs)
{
    struct signalfd_siginfo info;
    if (read(jobs->signal_fd, &info, sizeof info) == sizeof info && !jobs->signal)
        jobs->signal = (int)info.ssi_signo;
}

static int limit(__rlimit_resource_t resource, uint64_t value)
{
    struct rlimit both = {.rlim_cur = value, .rlim_max = value};
    return setrlimit(resource, &both) < 0 ? -errno : 0;
}

/* In the child, up to the work itself. */
static int child_prepare(const struct jobs *jobs, const struct job *job, pid_t parent)
{
    sigset_t set;
    signal_set(&set);
    if (setpgid(0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 ||
        sigprocmask(SIG_UNBLOCK, &set, NULL) < 0)
        return -errno;
    if (getppid() != parent)
        return -ECANCELED; /* it died before the prctl */
    int log_fd = open(job->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (log_fd < 0 || null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 ||
        dup2(job->out_fd > 0 ? job->out_fd : log_fd, STDOUT_FILENO) < 0 ||
        dup2(log_fd, STDERR_FILENO) < 0)
        return -errno;
    if (jobs->lock_fd >= 0 && fcntl(jobs->lock_fd, F_SETFD, 0) < 0)
        return -errno;
    if (job->uid != 0) {
        if (setgroups(0, NULL) < 0 || setresgid(job->gid, job->gid, job->gid) < 0 ||
            setresuid(job->uid, job->uid, job->uid) < 0)
            return -errno;
        /* A change of uid clears it. */
        if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0)
            return -errno;
    }
    for (char *const *pair = job->env; pair && *pair; pair++)
        if (putenv(*pair) != 0)
            return -ENOMEM;
    /* Last: a limit on memory is for the program, not for what is allocated up to here. */
    int r = job->memory_max ? limit(RLIMIT_AS, job->memory_max) : 0;
    if (r == 0 && job->cpu_s_max)
        r = limit(RLIMIT_CPU, job->cpu_s_max);
    return r;
}

static void child_main(const struct jobs *jobs, const struct job *job, pid_t parent, int result_fd)
{
    struct bg_err err = {0};
    int r = child_prepare(jobs, job, parent);
    if (r < 0) {
        (void)bg_err_errno(&err, r, "%s", job->name);
    } else if (job->argv) {
        (void)execvp(job->argv[0], job->argv);
        r = bg_err_errno(&err, -errno, "%s", job->argv[0]);
    } else {
        r = job->call(job->arg, &err);
        if (r < 0 && err.code == 0)
            (void)bg_err_errno(&err, r, "%s", job->name);
    }
    /* The parent is this same program, so the object goes over as it is. */
    if (r < 0)
        (void)!bg_write_full(result_fd, &err, sizeof err);
    _exit(r < 0 ? 1 : 0);
}

/* Waits until the process has ended, ending it (and its group) when a signal comes. */
static int wait_for(struct jobs *jobs, pid_t pid, int pid_fd)
{
    bool ending = false;
    uint64_t deadline_ms = 0;
    for (;;) {
        struct pollfd fds[2] = {{.fd = pid_fd, .events = POLLIN},
                                {.fd = jobs->signal_fd, .events = POLLIN}};
        int timeout_ms = -1;
        if (ending) {
            uint64_t now_ms = bg_now_ms();
            timeout_ms = now_ms < deadline_ms ? (int)(deadline_ms - now_ms) : 0;
        }
        int n = poll(fds, 2, timeout_ms);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0 && ending) {
            (void)kill(-pid, SIGKILL); /* it may be gone by now */
            ending = false;
        }
        if (n <= 0)
            continue;
        if (fds[0].revents)
            return 0;
        take_signal(jobs);
        if (jobs->signal && deadline_ms == 0) {
            (void)kill(-pid, SIGTERM);
            ending = true;
            deadline_ms = bg_now_ms() + END_GRACE_MS;
        }
    }
}

static int judge(const struct job *job, int result_fd, const siginfo_t *info, struct bg_err *err)
{
    struct bg_err told;
    if (bg_read_full(result_fd, &told, sizeof told) == 0)
        return bg_err_set(err, told.code, "%s", told.text);
    if (info->si_code == CLD_EXITED && info->si_status == 0)
        return 0;
    return bg_err_set(err, -EREMOTEIO, "%s %s %d", job->argv ? job->argv[0] : job->name,
                      info->si_code == CLD_EXITED ? "ended with status" : "was ended by signal",
                      info->si_status);
}

int job_run(struct jobs *jobs, const struct job *job, struct bg_err *err)
{
    assert(!job->argv != !job->call);
    take_signal(jobs);
    if (jobs->signal)
        return bg_err_set(err, -ECANCELED, "interrupted");
    int result[2];
    /* Not blocking, since what libguestfs forks may still hold the other end when we look. */
    if (pipe2(result, O_CLOEXEC | O_NONBLOCK) < 0)
        return bg_err_errno(err, -errno, "%s", job->name);
    BG_AUTOCLOSE int result_fd = result[0];
    BG_AUTOCLOSE int result_write_fd = result[1];
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        return bg_err_errno(err, -errno, "%s: fork", job->name);
    if (pid == 0)
        child_main(jobs, job, parent, result_write_fd);
    (void)close(bg_take_fd(&result_write_fd));
    (void)setpgid(pid, pid); /* the child does too: whoever is first */
    BG_AUTOCLOSE int pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    int r = pid_fd < 0 ? -errno : wait_for(jobs, pid, pid_fd);
    if (r < 0)
        (void)kill(-pid, SIGKILL);
    siginfo_t info = {0};
    while (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0)
        assert(errno == EINTR);
    if (jobs->signal)
        (void)kill(-pid, SIGKILL); /* whatever of the group did not heed SIGTERM */
    if (r < 0)
        return bg_err_errno(err, r, "%s", job->name);
    if (jobs->signal)
        return bg_err_set(err, -ECANCELED, "interrupted");
    return judge(job, result_fd, &info, err);
}
