/* bellglass-mount: one mount. Two processes run:
 *
 *   keeper   has no privileges to lose and reads nothing from the guest. It starts the relay, tells
 * the caller when the mount is ready, waits for a signal or the relay's end, and unmounts. relay
 * makes the mount, has the only fd of /dev/fuse, confines itself, serves. When it dies in whatever
 * way, the kernel fails every access to the mount, so nobody hangs on it.
 *
 * The relay cannot unmount: it has given up the right to run fusermount3. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/quote.h"
#include "fs/relay/echoer.h"
#include "fs/relay/loop.h"
#include "fs/relay/mountpoint.h"
#include "fs/relay/sandbox.h"

#define GREET_TIMEOUT_MS    30000u /* an emulated guest that is busy takes its time */
#define DEADLINE_DEFAULT_MS 15000u
#define END_TIMEOUT_MS      2000u /* for the relay to end when asked to; then it is killed */

struct args {
    int stream_fd, ready_fd, log_fd;
    const char *mountpoint, *name;
    bool read_only, exec, foreground, raw_names;
    bool echoes; /* changes of the guest make file events here */
    uint64_t deadline_ms;
};

/* What the relay tells the keeper, in one write. */
enum report_kind { REPORT_MOUNTED = 1, REPORT_READY = 2, REPORT_FAILED = 3 };

struct report {
    int kind; /* enum report_kind */
    struct bg_err err;
};

/* Writes to somebody who may have gone, which is no loss then. */
static void write_if_there(int fd, const void *bytes, size_t size)
{
    int r = bg_write_full(fd, bytes, size);
    (void)r;
}

/* ---- the relay ---- */

static void send_report(int fd, enum report_kind kind, const struct bg_err *err)
{
    struct report report = {.kind = (int)kind};
    if (err)
        report.err = *err;
    write_if_there(fd, &report, sizeof report);
}

static void relay_ready(void *owner)
{
    send_report(*(const int *)owner, REPORT_READY, NULL);
}

static int start_echoes(struct fs_loop *loop, const char *path, struct bg_err *err)
{
    int fd;
    pid_t pid;
    int r = fs_echoer_start(path, &fd, &pid, err);
    return r < 0 ? r : fs_loop_echo_by(loop, fd, pid, err);
}

static int serve(const struct args *args, const char *path, const struct bg_log *log, int report_fd,
                 struct bg_err *err)
{
    struct fs_loop_opts opts = {.in_fd = args->stream_fd,
                                .out_fd = args->stream_fd,
                                .relay = {.uid = getuid(),
                                          .gid = getgid(),
                                          .read_only = args->read_only,
                                          .raw_names = args->raw_names,
                                          .deadline_ms = args->deadline_ms,
                                          .log = log},
                                .on_ready = relay_ready,
                                .owner = &report_fd};
    sigset_t term;
    (void)sigemptyset(&term); /* these two cannot fail with such arguments */
    (void)sigaddset(&term, SIGTERM);
    int signal_fd = signalfd(-1, &term, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signal_fd < 0)
        return bg_err_errno(err, -errno, "signalfd");
    struct fs_loop *loop;
    int r = fs_loop_new(&opts, &loop, err);
    if (r < 0)
        return r;
    r = fs_loop_greet(loop, GREET_TIMEOUT_MS, err);
    int fuse_fd = -1;
    if (r == 0) {
        struct fs_mount_opts mount_opts = {
            .path = path, .name = args->name, .read_only = args->read_only, .exec = args->exec};
        r = fs_mount_make(&mount_opts, &fuse_fd, err);
    }
    if (r == 0) {
        send_report(report_fd, REPORT_MOUNTED, NULL);
        /* Nothing can be made again on a file system that is read-only. */
        if (args->echoes && !args->read_only && fs_loop_is_told(loop))
            r = start_echoes(loop, path, err);
    }
    if (r == 0)
        r = fs_sandbox_leave(err);
    if (r == 0)
        r = fs_sandbox_enter(err);
    if (r == 0)
        r = fs_loop_start(loop, fuse_fd, err);
    if (r == 0)
        r = fs_sandbox_filter(err);
    if (r == 0)
        r = fs_loop_run(loop, fuse_fd, signal_fd, err);
    return r; /* all ends with the process, even a thread that waits for something */
}

/* Lets go of every fd that is not needed: the caller may wait for the end of its pipes, and what
 * the relay does not have cannot be taken from it. keep: sorted. */
static void close_others(const int *keep, size_t count)
{
    unsigned from = 0;
    for (size_t i = 0; i < count; i++) {
        if (keep[i] < 0 || (unsigned)keep[i] < from)
            continue; /* none, or the same as the one before */
        if ((unsigned)keep[i] > from)
            (void)close_range(from, (unsigned)keep[i] - 1,
                              0); /* Linux 5.9, as openat2 and others */
        from = (unsigned)keep[i] + 1;
    }
    (void)close_range(from, ~0u, 0);
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* Puts /dev/null in the place of the caller's stdin, stdout and stderr. */
static void drop_stdio(int log_fd)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2 && null >= 0; fd++)
        if (fd != log_fd)
            (void)dup2(null, fd); /* fds 0 to 2 can always be replaced */
    if (null > 2)
        (void)close(null);
}

/* Does not return. */
static void run_relay(const struct args *args, const char *path, const struct bg_log *log,
                      int report_fd)
{
    struct bg_err err = {0};
    (void)signal(SIGINT, SIG_IGN); /* the keeper's affair */
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    drop_stdio(log->fd);
    int keep[] = {0, 1, 2, args->stream_fd, log->fd, report_fd};
    qsort(keep, sizeof keep / sizeof *keep, sizeof *keep, by_number);
    close_others(keep, sizeof keep / sizeof *keep);
    tzset(); /* the log's clock reads a file; later there are none */
    int r = serve(args, path, log, report_fd, &err);
    if (r < 0) {
        bg_log(log, BG_LOG_ERROR, "%s", err.text);
        send_report(report_fd, REPORT_FAILED, &err);
    }
    _exit(r < 0 ? 1 : 0);
}

/* ---- the keeper ---- */

struct keeper {
    const struct args *args;
    const struct bg_log *log;
    const char *path;
    int report_fd;  /* from the relay */
    int started_fd; /* to the process that the user started; -1 in the foreground */
    pid_t relay;
    bool mounted, relay_ended;
    struct fs_mount mount;
};

/* One line of JSON for the caller. text is printable already. */
static void tell(const struct keeper *keeper, json_t *line)
{
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
    if (text && keeper->args->ready_fd >= 0) {
        write_if_there(keeper->args->ready_fd, text, strlen(text));
        write_if_there(keeper->args->ready_fd, "\n", 1);
    }
    free(text);
    json_decref(line);
}

static void tell_error(const struct keeper *keeper, const struct bg_err *err)
{
    /* The text came from the relay, which talks to the guest. */
    char text[BG_ERR_TEXT_SIZE * 4];
    bg_escape(err->text, strnlen(err->text, sizeof err->text), text, sizeof text);
    tell(keeper, json_pack("{s:s, s:i}", "error", text, "errno", -err->code));
    if (keeper->args->foreground)
        (void)fprintf(stderr, "bellglass-mount: %s\n", text);
    else if (keeper->started_fd >= 0)
        write_if_there(keeper->started_fd, text, strlen(text));
}

/* Waits for the relay's next report. False when it ended without one. */
static bool next_report(const struct keeper *keeper, struct report *ret)
{
    if (bg_read_full(keeper->report_fd, ret, sizeof *ret) < 0)
        return false;
    ret->err.text[sizeof ret->err.text - 1] = '\0'; /* it may have been taken over by now */
    return true;
}

/* Takes a pending end of the relay into account. Returns true when it has ended. */
static bool relay_ended(struct keeper *keeper)
{
    int status;
    if (!keeper->relay_ended && waitpid(keeper->relay, &status, WNOHANG) == keeper->relay) {
        keeper->relay_ended = true;
        if (WIFSIGNALED(status))
            bg_log(keeper->log, BG_LOG_ERROR, "the relay was ended by signal %d", WTERMSIG(status));
    }
    return keeper->relay_ended;
}

static void wait_for_relay(struct keeper *keeper, const sigset_t *signals, uint64_t timeout_ms)
{
    uint64_t until_ms = bg_now_ms() + timeout_ms;
    while (!relay_ended(keeper)) {
        uint64_t now_ms = bg_now_ms();
        if (now_ms >= until_ms)
            return;
        uint64_t left_ms = until_ms - now_ms;
        struct timespec left = {.tv_sec = (time_t)(left_ms / 1000),
                                .tv_nsec = (long)(left_ms % 1000) * 1000000};
        (void)sigtimedwait(signals, NULL, &left);
    }
}

/* The relay's end closes its report pipe, which makes a SIGIO. Not so quickly does it end itself if
 * a thread of it waits in the kernel, perhaps for somebody who waits for the relay. */
static void watch_report(const struct keeper *keeper)
{
    /* These fail on no pipe; without the signal only that rare case is missed. */
    (void)fcntl(keeper->report_fd, F_SETOWN, getpid());
    (void)fcntl(keeper->report_fd, F_SETFL, O_ASYNC);
}

static bool report_closed(const struct keeper *keeper)
{
    struct pollfd fd = {.fd = keeper->report_fd};
    return poll(&fd, 1, 0) > 0 && (fd.revents & POLLHUP);
}

/* Until the relay has ended or somebody wants an end. */
static void wait_for_end(struct keeper *keeper, const sigset_t *signals)
{
    watch_report(keeper);
    while (!report_closed(keeper) && !relay_ended(keeper)) {
        int number = sigwaitinfo(signals, NULL);
        if (number == SIGTERM || number == SIGINT || number == SIGHUP)
            return;
    }
    if (!relay_ended(keeper))
        fs_mount_abort(keeper->path, &keeper->mount);
}

/* Unmounts and ends the relay, in the order that frees everybody who waits. */
static void take_down(struct keeper *keeper, const sigset_t *signals)
{
    struct bg_err err;
    if (keeper->mounted &&
        fs_mount_end(keeper->path, &keeper->mount, /* lazily= */ false, &err) < 0 &&
        fs_mount_end(keeper->path, &keeper->mount, /* lazily= */ true, &err) < 0)
        bg_log(keeper->log, BG_LOG_ERROR, "%s", err.text);
    if (!relay_ended(keeper)) {
        (void)kill(keeper->relay, SIGTERM); /* fails only if it ended just now */
        wait_for_relay(keeper, signals, END_TIMEOUT_MS);
    }
    if (!relay_ended(keeper)) {
        (void)kill(keeper->relay, SIGKILL);
        wait_for_relay(keeper, signals, END_TIMEOUT_MS);
        if (!relay_ended(keeper) && keeper->mounted)
            fs_mount_abort(keeper->path, &keeper->mount); /* a thread of it waits in the kernel */
        while (!relay_ended(keeper))
            (void)sigwaitinfo(signals, NULL);
    }
}

/* From the relay's start until the mount is ready. Errors are told. */
static int await_ready(struct keeper *keeper)
{
    struct report report;
    struct bg_err err;
    while (next_report(keeper, &report)) {
        if (report.kind == REPORT_READY) {
            tell(keeper, json_pack("{s:b, s:i}", "ready", 1, "pid", (int)getpid()));
            return 0;
        }
        if (report.kind == REPORT_FAILED) {
            tell_error(keeper, &report.err);
            return -EIO;
        }
        if (report.kind == REPORT_MOUNTED && fs_mount_find(keeper->path, &keeper->mount, &err) == 0)
            keeper->mounted = true;
    }
    (void)bg_err_set(&err, -EIO, "the relay ended at its start");
    tell_error(keeper, &err);
    return -EIO;
}

/* Lets go of the caller's terminal and folder. */
static void detach(struct keeper *keeper)
{
    drop_stdio(keeper->args->log_fd);
    if (chdir("/") < 0)
        bg_log(keeper->log, BG_LOG_WARN, "chdir /: %s", strerror(errno));
    write_if_there(keeper->started_fd, "", 1); /* an empty text: ready */
    (void)close(keeper->started_fd);
    keeper->started_fd = -1;
}

static int run_keeper(const struct args *args, const char *path, const struct bg_log *log,
                      int started_fd)
{
    struct keeper keeper = {
        .args = args, .log = log, .path = path, .started_fd = started_fd, .relay = -1};
    sigset_t signals;
    (void)sigemptyset(&signals); /* these cannot fail with such arguments */
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGINT);
    (void)sigaddset(&signals, SIGHUP);
    (void)sigaddset(&signals, SIGCHLD);
    (void)sigaddset(&signals, SIGIO);
    (void)sigprocmask(SIG_BLOCK, &signals, NULL);
    (void)signal(SIGPIPE, SIG_IGN);

    int reports[2];
    struct bg_err err;
    if (pipe2(reports, O_CLOEXEC) < 0) {
        (void)bg_err_errno(&err, -errno, "pipe");
        tell_error(&keeper, &err);
        return 1;
    }
    keeper.report_fd = reports[0];
    keeper.relay = fork();
    if (keeper.relay < 0) {
        (void)bg_err_errno(&err, -errno, "fork");
        tell_error(&keeper, &err);
        return 1;
    }
    if (keeper.relay == 0) {
        run_relay(args, path, log, reports[1]);
    }
    (void)close(reports[1]);
    (void)close(args->stream_fd); /* its end must be the relay's end */

    int r = await_ready(&keeper);
    if (r == 0) {
        if (args->ready_fd >= 0)
            (void)close(args->ready_fd);
        if (started_fd >= 0)
            detach(&keeper);
        wait_for_end(&keeper, &signals);
    }
    take_down(&keeper, &signals);
    return r < 0 ? 1 : 0;
}

/* ---- start ---- */

/* Waits for what the keeper has to say: an empty text or an error's. */
static int await_keeper(int fd)
{
    char text[BG_ERR_TEXT_SIZE * 4 + 1];
    size_t used = 0;
    ssize_t n;
    while (used < sizeof text - 1 && (n = read(fd, text + used, sizeof text - 1 - used)) != 0) {
        if (n < 0 && errno != EINTR)
            break;
        used += n > 0 ? (size_t)n : 0;
    }
    if (used == 1 && text[0] == '\0')
        return 0;
    text[used] = '\0';
    (void)fprintf(stderr, "bellglass-mount: %s\n", used > 0 ? text : "ended at its start");
    return 1;
}

static void usage(FILE *out)
{
    (void)fprintf(out,
                  "usage: bellglass-mount --stream-fd N --mountpoint DIR --name NAME\n"
                  "  [--read-only] [--exec] [--raw-names] [--watch seen|none] [--deadline-ms N]\n"
                  "  [--ready-fd N] [--log-fd N] [--foreground]\n"
                  "Mounts the files that a bellglass file server offers on the open stream N.\n");
}

static int parse_fd(const char *text, int *ret)
{
    uint64_t fd;
    if (bg_parse_u64(text, 0, 1 << 20, &fd) < 0 || fcntl((int)fd, F_GETFD) < 0)
        return -EBADF;
    *ret = (int)fd;
    /* Only this process and its fork shall have it, not fusermount3. */
    return fcntl(*ret, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
}

/* Returns -1 when the command line is good, else the exit status. */
static int parse_args(int argc, char **argv, struct args *ret)
{
    static const struct option options[] = {{"stream-fd", required_argument, NULL, 's'},
                                            {"mountpoint", required_argument, NULL, 'm'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"read-only", no_argument, NULL, 'r'},
                                            {"exec", no_argument, NULL, 'x'},
                                            {"raw-names", no_argument, NULL, 'w'},
                                            {"deadline-ms", required_argument, NULL, 'd'},
                                            {"watch", required_argument, NULL, 'e'},
                                            {"ready-fd", required_argument, NULL, 'y'},
                                            {"log-fd", required_argument, NULL, 'l'},
                                            {"foreground", no_argument, NULL, 'f'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    *ret = (struct args){.stream_fd = -1,
                         .ready_fd = -1,
                         .log_fd = -1,
                         .deadline_ms = DEADLINE_DEFAULT_MS,
                         .echoes = true};
    int c, r = 0;
    while (r == 0 && (c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 's':
            r = parse_fd(optarg, &ret->stream_fd);
            break;
        case 'y':
            r = parse_fd(optarg, &ret->ready_fd);
            break;
        case 'l':
            r = parse_fd(optarg, &ret->log_fd);
            break;
        case 'd':
            r = bg_parse_u64(optarg, 100, 600000, &ret->deadline_ms);
            break;
        case 'e':
            ret->echoes = strcmp(optarg, "seen") == 0;
            r = ret->echoes || strcmp(optarg, "none") == 0 ? 0 : -EINVAL;
            break;
        case 'm':
            ret->mountpoint = optarg;
            break;
        case 'n':
            ret->name = optarg;
            break;
        case 'r':
            ret->read_only = true;
            break;
        case 'x':
            ret->exec = true;
            break;
        case 'w':
            ret->raw_names = true;
            break;
        case 'f':
            ret->foreground = true;
            break;
        case 'h':
            usage(stdout);
            return 0;
        default:
            return 2;
        }
        if (r < 0)
            (void)fprintf(stderr, "bellglass-mount: %s: %s\n", optarg, strerror(-r));
    }
    if (r < 0 || optind != argc || ret->stream_fd < 0 || !ret->mountpoint || !ret->name) {
        usage(stderr);
        return 2;
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct args args;
    int status = parse_args(argc, argv, &args);
    if (status >= 0)
        return status;
    struct bg_log log = {.fd = args.log_fd, .level = BG_LOG_INFO, .tag = "mount"};
    if (args.foreground && args.log_fd < 0)
        log.fd = STDERR_FILENO;
    BG_AUTOFREE char *path = NULL;
    struct bg_err err;
    if (fs_mount_check(args.mountpoint, &path, &err) < 0) {
        const struct keeper nobody = {.args = &args, .started_fd = -1};
        tell_error(&nobody, &err);
        if (!args.foreground)
            (void)fprintf(stderr, "bellglass-mount: %s\n", err.text);
        return 1;
    }
    if (args.foreground)
        return run_keeper(&args, path, &log, -1);

    int started[2];
    pid_t pid = pipe2(started, O_CLOEXEC) < 0 ? -1 : fork();
    if (pid < 0) {
        (void)fprintf(stderr, "bellglass-mount: %s\n", strerror(errno));
        return 1;
    }
    if (pid == 0) {
        (void)close(started[0]);
        (void)setsid(); /* a fresh child is never a group leader */
        return run_keeper(&args, path, &log, started[1]);
    }
    (void)close(started[1]);
    return await_keeper(started[0]);
}
