#include "host/cli/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"

static void default_signals(void)
{
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL); /* the only one that we ignore */
}

/* In the child. Gives each fd its number; those may overlap, so all go out of the way first. */
static int arrange_fds(const struct process_opts *opts)
{
    int high[PROCESS_FDS_MAX];
    for (size_t i = 0; i < opts->fd_count; i++) {
        high[i] = fcntl(opts->fds[i].from, F_DUPFD_CLOEXEC, 64);
        if (high[i] < 0)
            return -errno;
    }
    for (size_t i = 0; i < opts->fd_count; i++)
        if (dup2(high[i], opts->fds[i].to) < 0)
            return -errno;
    return 0;
}

static void child(const struct process_opts *opts, int report_fd)
{
    /* The pipe must stay clear of the numbers that are about to be taken. */
    int report = fcntl(report_fd, F_DUPFD_CLOEXEC, 96);
    int r = report < 0 ? -errno : arrange_fds(opts);
    if (r == 0) {
        default_signals();
        if (opts->new_session)
            (void)setsid(); /* fails only for a group leader, which a fresh child is not */
        (void)execvp(opts->path, opts->argv);
        r = -errno;
    }
    _exit(bg_write_full(report, &r, sizeof r) < 0 ? 126 : 127);
}

int process_start(const struct process_opts *opts, pid_t *ret_pid, struct bg_err *err)
{
    int report[2];
    if (pipe2(report, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    pid_t pid = fork();
    if (pid == 0)
        child(opts, report[1]);
    int fork_errno = errno;
    (void)close(report[1]);
    BG_AUTOCLOSE int from_child = report[0];
    if (pid < 0)
        return bg_err_errno(err, -fork_errno, "cannot start %s", opts->path);
    int failed;
    /* The end of file is the exec that worked. */
    if (bg_read_full(from_child, &failed, sizeof failed) == 0) {
        (void)waitpid(pid, NULL, 0);
        return bg_err_errno(err, failed, "cannot start %s", opts->path);
    }
    *ret_pid = pid;
    return 0;
}

int process_wait(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return 128;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

bool process_wait_for(pid_t pid, int timeout_ms)
{
    /* Not waited for yet, so the number is the child's. */
    BG_AUTOCLOSE int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t deadline_ms = bg_now_ms() + (uint64_t)timeout_ms;
    for (;;) {
        uint64_t now = bg_now_ms();
        int n = fd < 0 ? 0 : poll(&p, 1, now >= deadline_ms ? 0 : (int)(deadline_ms - now));
        if (n > 0)
            return waitpid(pid, NULL, 0) == pid;
        if (n == 0)
            return false;
    }
}

/* Reads until the end of file, keeping what fits. Errors: -ETIME. */
static int collect(int fd, char *out, size_t size, uint64_t deadline_ms)
{
    size_t used = 0;
    for (;;) {
        uint64_t now = bg_now_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        char spare[512];
        if (now >= deadline_ms)
            return -ETIME;
        if (poll(&p, 1, (int)(deadline_ms - now)) <= 0)
            continue;
        bool full = used + 1 == size;
        ssize_t n = read(fd, full ? spare : out + used, full ? sizeof spare : size - 1 - used);
        if (n <= 0)
            break;
        if (!full)
            used += (size_t)n;
    }
    out[used] = '\0';
    return 0;
}

int process_output(char *const *argv, char *out, size_t size, int timeout_ms, int *ret_status,
                   struct bg_err *err)
{
    int fds[2] = {-1, -1};
    if (pipe2(fds, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    BG_AUTOCLOSE int from = fds[0];
    BG_AUTOCLOSE int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    struct process_opts opts = {
        .path = argv[0],
        .argv = argv,
        .fds = {{.from = null, .to = 0}, {.from = fds[1], .to = 1}, {.from = fds[1], .to = 2}},
        .fd_count = 3};
    pid_t pid;
    int r = process_start(&opts, &pid, err);
    (void)close(fds[1]);
    if (r < 0)
        return r;
    r = collect(from, out, size, bg_now_ms() + (uint64_t)timeout_ms);
    if (r < 0)
        (void)kill(pid, SIGKILL); /* ours, and not yet waited for */
    *ret_status = process_wait(pid);
    return r < 0 ? bg_err_set(err, r, "%s: no end within %d s", argv[0], timeout_ms / 1000) : 0;
}

char *process_find(const char *program)
{
    const char *at = getenv("PATH");
    while (at && *at != '\0') {
        size_t size = strcspn(at, ":");
        char *path = NULL;
        if (asprintf(&path, "%.*s/%s", (int)size, at, program) < 0)
            return NULL;
        if (access(path, X_OK) == 0)
            return path;
        free(path);
        at += size + (at[size] == ':');
    }
    return NULL;
}

char *process_self(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path);
    if (n < 0 || (size_t)n == sizeof path) {
        errno = n < 0 ? errno : ENAMETOOLONG;
        return NULL;
    }
    return strndup(path, (size_t)n);
}

int process_become(const char *path, char *const *argv, struct bg_err *err)
{
    default_signals();
    (void)execv(path, argv);
    return bg_err_errno(err, -errno, "cannot start %s", path);
}
