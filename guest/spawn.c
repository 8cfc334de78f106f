#include "guest/spawn.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/quote.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* What commands may open: enough for anybody, with a soft limit for select(2)'s sake. The agent's
 * own limit is higher. */
#define FILES_SOFT 1024
#define FILES_HARD 524288

/* ---- in the child: only system calls from here, libc's state is a copy of the agent's ---- */

struct failure {
    int stage, code;
};

static int enter_user(const struct account *account)
{
    /* Not libc's wrappers: those look for other threads to change along. */
    if (syscall(SYS_setgroups, account->group_count, account->groups) < 0 ||
        syscall(SYS_setresgid, account->gid, account->gid, account->gid) < 0 ||
        syscall(SYS_setresuid, account->uid, account->uid, account->uid) < 0)
        return -errno;
    return 0;
}

/* The agent is exempt from the OOM killer; nobody else is to be. */
static void become_killable(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return; /* no /proc: nothing was inherited that matters */
    ssize_t n = write(fd, "0", 1);
    (void)n; /* refused only if it is 0 already and may not be lowered */
    (void)close(fd);
}

static int set_up(const struct spawn_opts *opts)
{
    if (setsid() < 0)
        return -errno;
    if (opts->tty && ioctl(opts->stdio[0], TIOCSCTTY, 0) < 0)
        return -errno;
    for (int i = 0; i < 3; i++)
        if (dup2(opts->stdio[i], i) < 0)
            return -errno;
    struct rlimit files = {.rlim_cur = FILES_SOFT, .rlim_max = FILES_HARD};
    (void)setrlimit(RLIMIT_NOFILE, &files); /* without the right to raise it: it stays */
    become_killable();
    const struct sched_param none = {0};
    (void)sched_setscheduler(0, SCHED_OTHER, &none); /* the agent is a batch task; a right of all */
    (void)umask(022);
    return opts->drop_rights ? enter_user(opts->account) : 0;
}

static int exec_file(char *path, char **argv, char **envp)
{
    (void)execve(path, argv + 1, envp);
    if (errno != ENOEXEC)
        return -errno;
    /* A script without "#!": as every shell does. */
    char shell[] = "sh";
    argv[0] = shell;
    argv[1] = path;
    (void)execve("/bin/sh", argv, envp);
    return -ENOEXEC;
}

/* Looks along PATH as execvpe(3) does. */
static int exec_along(const char *path_list, char **argv, char **envp)
{
    char *command = argv[1];
    if (strchr(command, '/'))
        return exec_file(command, argv, envp);
    size_t command_size = strlen(command);
    int result = -ENOENT;
    if (command_size == 0)
        return result;
    for (const char *at = path_list;;) {
        size_t size = strcspn(at, ":");
        char path[BG_PATH_MAX];
        if (size + command_size + 2 <= sizeof path) {
            memcpy(path, at, size);
            path[size] = '/';
            /* An empty entry is the current folder. */
            memcpy(path + size + (size > 0), command, command_size + 1);
            int r = exec_file(path, argv, envp);
            if (r == -EACCES)
                result = r; /* go on, but say so in the end */
            else if (r != -ENOENT && r != -ENOTDIR && r != -ESTALE && r != -ELOOP)
                return r;
        }
        if (at[size] == '\0')
            return result;
        at += size + 1;
    }
}

static void __attribute__((noreturn))
child(const struct spawn_opts *opts, const char *path_list, int status_fd)
{
    struct failure failure = {.stage = SPAWN_SETUP, .code = set_up(opts)};
    if (failure.code == 0) {
        failure.stage = SPAWN_CWD;
        if (chdir(opts->cwd) < 0 && (!opts->cwd_optional || chdir("/") < 0))
            failure.code = -errno;
    }
    if (failure.code == 0) {
        failure.stage = SPAWN_EXEC;
        /* The agent ignores SIGPIPE; whoever started it may ignore others. */
        for (int number = 1; number < NSIG; number++)
            (void)signal(number, SIG_DFL); /* fails for those that cannot be ignored */
        sigset_t none;
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        failure.code = exec_along(path_list, opts->argv, opts->env->entries);
    }
    ssize_t n = write(status_fd, &failure, sizeof failure);
    (void)n; /* a pipe with room; the agent takes a short message for a failure */
    _exit(127);
}

/* ---- in the agent ---- */

static pid_t clone_child(int cgroup_fd)
{
    /* A copy, not vfork: the folder to enter and the file to execute may be on a file system that
     * hangs, and then only the child may hang with it. */
    struct clone_args args = {.flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
    if (cgroup_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (__u64)cgroup_fd;
    }
    return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

int spawn(const struct spawn_opts *opts, pid_t *ret_pid, int *ret_status_fd, struct bg_err *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return bg_err_errno(err, -errno, "pipe");
    BG_AUTOCLOSE int read_end = ends[0];
    BG_AUTOCLOSE int write_end = ends[1];
    const char *path_list = env_get(opts->env, "PATH");
    pid_t pid = clone_child(opts->cgroup_fd);
    if (pid < 0)
        return bg_err_errno(err, -errno, "cannot start a process");
    if (pid == 0)
        child(opts, path_list ? path_list : DEFAULT_PATH, write_end);
    *ret_pid = pid;
    *ret_status_fd = bg_take_fd(&read_end);
    return 0;
}

void spawn_status_explain(const uint8_t bytes[SPAWN_STATUS_SIZE], const char *command,
                          const char *cwd, struct bg_err *err)
{
    struct failure failure;
    memcpy(&failure, bytes, sizeof failure);
    char quoted[BG_ERR_TEXT_SIZE / 2];
    if (failure.code >= 0 || failure.code < -4095)
        (void)bg_err_set(err, -EIO, "the process broke off while it was set up");
    else if (failure.stage == SPAWN_CWD)
        /* Always this code: the others are about the command. */
        (void)bg_err_set(err, -ENOTDIR, "working folder %s: %s",
                         bg_quote(cwd, quoted, sizeof quoted), strerror(-failure.code));
    else if (failure.stage != SPAWN_EXEC)
        (void)bg_err_errno(err, failure.code, "cannot set up the process");
    else if (failure.code == -ENOENT)
        (void)bg_err_set(err, failure.code, "no command %s in the sandbox",
                         bg_quote(command, quoted, sizeof quoted));
    else if (failure.code == -EACCES)
        (void)bg_err_set(err, failure.code, "%s is not executable for this user",
                         bg_quote(command, quoted, sizeof quoted));
    else
        (void)bg_err_errno(err, failure.code, "%s", bg_quote(command, quoted, sizeof quoted));
}
