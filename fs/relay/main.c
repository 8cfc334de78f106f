/* bellglass-mount: one mount. Two processes run:
 *
 *   keeper   has no privileges to lose and reads nothing from the guest. It starts the relay, tells
 * the caller when the mount is ready, waits for a signal or the relay's end, and unmounts. relay
 * makes the mount, has the only fd of /dev/fuse, confines itself, serves. When it dies in whatever
 * way, the kernel fails every access to the mount, so nobody hangs on it.
 *
 * The relay cannot unmount: it has given up the right to run fusermount3. Nor can it open files:
 * what it has to keep about guarded files it tells the keeper, who checks it and writes it to the
 * store (store.h); and the keeper tells the relay what others have put there. */
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
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/quote.h"
#include "fs/relay/echoer.h"
#include "fs/relay/loop.h"
#include "fs/relay/mountpoint.h"
#include "fs/relay/notes.h"
#include "fs/relay/reopen.h"
#include "fs/relay/sandbox.h"
#include "fs/relay/store.h"

#define GREET_TIMEOUT_MS    30000u /* an emulated guest that is busy takes its time */
#define DEADLINE_DEFAULT_MS 15000u
/* For the relay to end when asked to; then it is killed. */
#define END_TIMEOUT_MS   (FS_LOOP_FINISH_MS + 2000u)
#define NOTES_TIMEOUT_MS 30000u /* for that while it says what is to be kept: disks are slow */
/* What the guest's user may not enter stays so. */
#define LOOKS_MAX     10
#define LOOK_AGAIN_MS 10

struct args {
    int stream_fd, ready_fd, log_fd;
    int hold_fd; /* the keeper's until its end, which so tells others that the mount is no more */
    const char *mountpoint, *name;
    bool read_only, exec, foreground, raw_names;
    enum fs_links links;
    bool echoes; /* changes of the guest make file events here */
    uint64_t deadline_ms;
    enum fs_reopen_kind reopen_kind;
    char **reopen; /* the command that gets another stream; NULL: none does */
    enum guard_policy guard;
    const char *guard_root, *guard_store; /* may be NULL */
};

/* What the relay tells the keeper, in one write. */
enum report_kind {
    REPORT_MOUNTED = 1,
    REPORT_READY = 2,
    REPORT_FAILED = 3,
    REPORT_LOST = 4,
    REPORT_NEEDED = 5
};

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

static void relay_lost(void *owner)
{
    send_report(*(const int *)owner, REPORT_LOST, NULL);
}

static void relay_needed(void *owner)
{
    send_report(*(const int *)owner, REPORT_NEEDED, NULL);
}

static uint64_t wall_clock(void *owner)
{
    struct timespec now;
    (void)owner;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    return (uint64_t)now.tv_sec;
}

/* What the relay gets from the keeper besides args. */
struct relay_start {
    int report_fd;
    int return_fd; /* -1: no other stream comes */
    int notes_fd;  /* -1: nothing is kept */
};

static int seed(void *owner, const struct fs_pin_note *note)
{
    struct fs_loop *loop = owner;
    return fs_loop_note(loop, note);
}

/* Reads the store, while files can still be opened. */
static int load_store(struct fs_loop *loop, const struct bg_log *log, const char *dir,
                      struct bg_err *err)
{
    struct fs_store *store;
    size_t damaged = 0;
    int r = fs_store_open(dir, &store, err);
    if (r < 0)
        return r;
    r = fs_store_load(store, seed, loop, &damaged, err);
    if (damaged > 0)
        bg_log(log, BG_LOG_WARN, "%zu damaged files in the store of approvals, ignoring them",
               damaged);
    fs_store_close(store);
    return r;
}

static int serve(const struct args *args, const char *path, const struct bg_log *log,
                 const struct relay_start *start, struct bg_err *err)
{
    int report_fd = start->report_fd;
    struct fs_loop_opts opts = {
        .in_fd = args->stream_fd,
        .out_fd = args->stream_fd,
        .return_fd = start->return_fd,
        .on_lost = relay_lost,
        .on_needed = relay_needed,
        .notes_fd = start->notes_fd,
        .relay = {.uid = getuid(),
                  .gid = getgid(),
                  .read_only = args->read_only,
                  .raw_names = args->raw_names,
                  .links = args->links,
                  .deadline_ms = args->deadline_ms,
                  .log = log,
                  .guard = {.policy = args->guard, .root = args->guard_root, .now_s = wall_clock}},
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
    if (start->notes_fd >= 0)
        r = load_store(loop, log, args->guard_store, err);
    if (r == 0)
        r = fs_loop_greet(loop, GREET_TIMEOUT_MS, err);
    int fuse_fd = -1;
    if (r == 0) {
        struct fs_mount_opts mount_opts = {.path = path,
                                           .name = args->name,
                                           .read_only = args->read_only,
                                           .exec = args->exec,
                                           .nosymfollow = args->links == FS_LINKS_NONE};
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
                      const struct relay_start *start)
{
    struct bg_err err = {0};
    (void)signal(SIGINT, SIG_IGN); /* the keeper's affair */
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    drop_stdio(log->fd);
    int keep[] = {
        0, 1, 2, args->stream_fd, log->fd, start->report_fd, start->return_fd, start->notes_fd};
    qsort(keep, sizeof keep / sizeof *keep, sizeof *keep, by_number);
    close_others(keep, sizeof keep / sizeof *keep);
    tzset(); /* the log's clock reads a file; later there are none */
    int r = serve(args, path, log, start, &err);
    if (r < 0) {
        bg_log(log, BG_LOG_ERROR, "%s", err.text);
        send_report(start->report_fd, REPORT_FAILED, &err);
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
    struct fs_reopen reopen;
    bool closed; /* the relay has closed its report pipe: it ends */
    int signal_fd;
    struct fs_store *store; /* NULL: nothing is kept */
    struct fs_notes notes;  /* to and from the relay; fd -1: no more */
    uint64_t noted_ms;      /* when the relay last had something to keep */
    bool complained;        /* about the store: once is enough */
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

static void complain(struct keeper *keeper, const char *text)
{
    if (!keeper->complained)
        bg_log(keeper->log, BG_LOG_ERROR, "guarded files: %s", text);
    keeper->complained = true;
}

/* From the relay: the host wrote or removed a guarded file. */
static int keep_note(void *owner, const struct fs_pin_note *note)
{
    struct keeper *keeper = owner;
    struct bg_err err;
    if (fs_store_keep(keeper->store, note, &err) < 0)
        complain(keeper, err.text);
    keeper->noted_ms = bg_now_ms();
    return 0;
}

/* From the store: somebody else changed it. */
static int pass_note(void *owner, const struct fs_pin_note *note)
{
    struct keeper *keeper = owner;
    return keeper->notes.fd < 0 ? 0 : fs_notes_send(&keeper->notes, note);
}

static void carry_notes(struct keeper *keeper, short relay_events, short store_events)
{
    struct bg_err err;
    int r = 0;
    if (relay_events & POLLOUT)
        r = fs_notes_flush(&keeper->notes);
    if (r == 0 && (relay_events & ~POLLOUT))
        r = fs_notes_read(&keeper->notes, keep_note, keeper, &err);
    if (r < 0) {
        if (r == -EPROTO)
            complain(keeper, err.text);
        (void)close(keeper->notes.fd); /* its end, or its fault */
        fs_notes_done(&keeper->notes);
    }
    if (store_events && fs_store_changes(keeper->store, pass_note, keeper, &err) < 0)
        complain(keeper, err.text);
}

/* The relay says something, or has closed its report pipe. */
static void take_report(struct keeper *keeper)
{
    struct report report; /* in one piece, as it was written */
    keeper->closed = read(keeper->report_fd, &report, sizeof report) != (ssize_t)sizeof report;
    if (!keeper->closed && report.kind == REPORT_LOST)
        fs_reopen_want(&keeper->reopen, bg_now_ms());
    if (!keeper->closed && report.kind == REPORT_NEEDED)
        fs_reopen_wake(&keeper->reopen);
}

/* The shorter of two times, of which -1 is for ever. */
static int sooner(int a, int b)
{
    return a < 0 || (b >= 0 && b < a) ? b : a;
}

/* Waits for a signal, and returns its number; 0 after timeout_ms, or when the relay has closed its
 * report pipe. Meanwhile approvals are kept, and a lost stream is looked for. */
static int wait_for_signal(struct keeper *keeper, int timeout_ms)
{
    uint64_t until_ms = bg_now_ms() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms);
    bool was_closed = keeper->closed;
    while (keeper->closed == was_closed) {
        short notes = fs_notes_waits(&keeper->notes) ? POLLIN | POLLOUT : POLLIN;
        struct pollfd fds[5] = {
            {.fd = keeper->signal_fd, .events = POLLIN},
            {.fd = keeper->notes.fd, .events = notes},
            {.fd = keeper->store ? fs_store_watch_fd(keeper->store) : -1, .events = POLLIN},
            {.fd = keeper->closed ? -1 : keeper->report_fd, .events = POLLIN},
            fs_reopen_poll(&keeper->reopen)};
        uint64_t now_ms = bg_now_ms();
        if (timeout_ms >= 0 && now_ms >= until_ms)
            return 0;
        int left_ms = timeout_ms < 0 ? -1 : (int)(until_ms - now_ms);
        if (poll(fds, 5, sooner(left_ms, fs_reopen_timeout(&keeper->reopen, now_ms))) < 0)
            continue; /* EINTR; no other error can be */
        carry_notes(keeper, fds[1].revents, fds[2].revents);
        if (fds[3].revents)
            take_report(keeper);
        fs_reopen_turn(&keeper->reopen, fds[4].revents != 0, bg_now_ms());
        struct signalfd_siginfo info;
        if (fds[0].revents && read(keeper->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
            return (int)info.ssi_signo;
    }
    return 0;
}

/* Until a signal asks for the end, or the relay has ended. Its end closes its report pipe at once;
 * not so quickly does it end itself if a thread of it waits in the kernel, perhaps for somebody who
 * waits for the relay. */
static void watch_relay(struct keeper *keeper)
{
    int number = 0;
    while (!keeper->closed && !relay_ended(keeper) && (number == 0 || number == SIGCHLD))
        number = wait_for_signal(keeper, -1);
    fs_reopen_end(&keeper->reopen);
    if (keeper->closed && !relay_ended(keeper))
        fs_mount_abort(keeper->path, &keeper->mount);
}

/* Waits for the relay's end: END_TIMEOUT_MS, or that after it last had something to keep. */
static void wait_for_relay(struct keeper *keeper)
{
    uint64_t started_ms = bg_now_ms();
    while (!relay_ended(keeper)) {
        uint64_t from_ms = keeper->noted_ms > started_ms ? keeper->noted_ms : started_ms;
        uint64_t now_ms = bg_now_ms(), until_ms = from_ms + END_TIMEOUT_MS;
        if (now_ms >= until_ms || now_ms - started_ms >= NOTES_TIMEOUT_MS)
            return;
        (void)wait_for_signal(keeper, (int)(until_ms - now_ms));
    }
}

/* Unmounts and ends the relay, in the order that frees everybody who waits. */
static void take_down(struct keeper *keeper)
{
    struct bg_err err;
    if (keeper->mounted &&
        fs_mount_end(keeper->path, &keeper->mount, /* lazily= */ false, &err) < 0 &&
        fs_mount_end(keeper->path, &keeper->mount, /* lazily= */ true, &err) < 0)
        bg_log(keeper->log, BG_LOG_ERROR, "%s", err.text);
    if (!relay_ended(keeper)) {
        (void)kill(keeper->relay, SIGTERM); /* fails only if it ended just now */
        wait_for_relay(keeper);
    }
    if (!relay_ended(keeper)) {
        (void)kill(keeper->relay, SIGKILL);
        wait_for_relay(keeper);
        if (!relay_ended(keeper) && keeper->mounted)
            fs_mount_abort(keeper->path, &keeper->mount); /* a thread of it waits in the kernel */
        while (!relay_ended(keeper))
            (void)wait_for_signal(keeper, -1);
    }
    if (keeper->notes.fd >= 0) /* what it said last */
        carry_notes(keeper, POLLIN, 0);
    fs_notes_done(&keeper->notes);
    fs_store_close(keeper->store);
}

/* Makes the kernel see whose the mount's root is, and with what mode: until then it is nobody's,
 * with mode 0. The kernel drops what it is told when something changes there just then (Linux,
 * fuse_change_attributes: an older attr_version), and its user would be refused. */
static void look_at_root(const char *path)
{
    for (int i = 0; i < LOOKS_MAX && access(path, X_OK) < 0 && errno == EACCES; i++)
        (void)poll(NULL, 0, LOOK_AGAIN_MS);
}

/* From the relay's start until the mount is ready. Errors are told. */
static int await_ready(struct keeper *keeper)
{
    struct report report;
    struct bg_err err;
    while (next_report(keeper, &report)) {
        if (report.kind == REPORT_READY) {
            look_at_root(keeper->path);
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

static int take_nothing(void *owner, const struct fs_pin_note *note)
{
    (void)owner;
    (void)note;
    return 0;
}

/* Opens the store, before the relay is forked: nothing that is put there later is missed. */
static int open_store(struct keeper *keeper, int notes[2], struct bg_err *err)
{
    size_t damaged;
    int r = fs_store_open(keeper->args->guard_store, &keeper->store, err);
    if (r == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, notes) < 0)
        r = bg_err_errno(err, -errno, "socketpair");
    if (r == 0 && (r = fs_notes_init(&keeper->notes, notes[0])) < 0)
        (void)bg_err_errno(err, r, "guarded files");
    /* What is there already counts, but is none of the keeper's business. */
    return r < 0 ? r : fs_store_load(keeper->store, take_nothing, NULL, &damaged, err);
}

static int run_keeper(const struct args *args, const char *path, const struct bg_log *log,
                      int started_fd)
{
    struct keeper keeper = {.args = args,
                            .log = log,
                            .path = path,
                            .started_fd = started_fd,
                            .relay = -1,
                            .notes = {.fd = -1}};
    sigset_t signals;
    (void)sigemptyset(&signals); /* these cannot fail with such arguments */
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGINT);
    (void)sigaddset(&signals, SIGHUP);
    (void)sigaddset(&signals, SIGCHLD);
    (void)sigprocmask(SIG_BLOCK, &signals, NULL);
    (void)signal(SIGPIPE, SIG_IGN);

    int reports[2], returns[2] = {-1, -1}, notes[2] = {-1, -1};
    struct bg_err err;
    keeper.signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (keeper.signal_fd < 0 || pipe2(reports, O_CLOEXEC) < 0 ||
        (args->reopen && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, returns) < 0)) {
        (void)bg_err_errno(&err, -errno, "pipe");
        tell_error(&keeper, &err);
        return 1;
    }
    if (args->guard_store && args->guard == GUARD_PIN && open_store(&keeper, notes, &err) < 0) {
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
        struct relay_start start = {
            .report_fd = reports[1], .return_fd = returns[1], .notes_fd = notes[1]};
        run_relay(args, path, log, &start);
    }
    (void)close(reports[1]);
    if (returns[1] >= 0)
        (void)close(returns[1]);
    if (notes[1] >= 0)
        (void)close(notes[1]); /* the relay's end is seen by it */
    keeper.reopen = (struct fs_reopen){.kind = args->reopen_kind,
                                       .argv = args->reopen,
                                       .relay_fd = returns[0],
                                       .log = log,
                                       .fd = -1};
    (void)close(args->stream_fd); /* its end must be the relay's end */

    int r = await_ready(&keeper);
    if (r == 0) {
        if (args->ready_fd >= 0)
            (void)close(args->ready_fd);
        if (started_fd >= 0)
            detach(&keeper);
        watch_relay(&keeper);
    }
    take_down(&keeper);
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
                  "  [--read-only] [--exec] [--raw-names] [--symlinks inside|none|raw]\n"
                  "  [--guard pin|owner|off] [--guard-root PATH] [--guard-store DIR]\n"
                  "  [--watch seen|none]\n"
                  "  [--deadline-ms N] [--ready-fd N] [--log-fd N] [--hold-fd N]\n"
                  "  [--foreground]\n"
                  "  [--reopen serves|passes -- COMMAND...]\n"
                  "Mounts the files that a bellglass file server offers on the open stream N.\n");
}

static int parse_links(const char *text, enum fs_links *ret)
{
    static const char *const modes[] = {
        [FS_LINKS_INSIDE] = "inside", [FS_LINKS_NONE] = "none", [FS_LINKS_RAW] = "raw"};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(text, modes[i]) == 0) {
            *ret = (enum fs_links)i;
            return 0;
        }
    return -EINVAL;
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
                                            {"guard", required_argument, NULL, 'g'},
                                            {"guard-root", required_argument, NULL, 'o'},
                                            {"guard-store", required_argument, NULL, 't'},
                                            {"watch", required_argument, NULL, 'e'},
                                            {"ready-fd", required_argument, NULL, 'y'},
                                            {"hold-fd", required_argument, NULL, 'q'},
                                            {"log-fd", required_argument, NULL, 'l'},
                                            {"foreground", no_argument, NULL, 'f'},
                                            {"reopen", required_argument, NULL, 'p'},
                                            {"symlinks", required_argument, NULL, 'k'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    *ret = (struct args){.stream_fd = -1,
                         .ready_fd = -1,
                         .log_fd = -1,
                         .hold_fd = -1,
                         .deadline_ms = DEADLINE_DEFAULT_MS,
                         .guard = GUARD_PIN,
                         .echoes = true};
    bool reopens = false;
    int c, r = 0;
    while (r == 0 && (c = getopt_long(argc, argv, "+", options, NULL)) != -1) {
        switch (c) {
        case 's':
            r = bg_parse_fd(optarg, &ret->stream_fd);
            break;
        case 'y':
            r = bg_parse_fd(optarg, &ret->ready_fd);
            break;
        case 'q':
            r = bg_parse_fd(optarg, &ret->hold_fd);
            break;
        case 'l':
            r = bg_parse_fd(optarg, &ret->log_fd);
            break;
        case 'd':
            r = bg_parse_u64(optarg, 100, 600000, &ret->deadline_ms);
            break;
        case 'k':
            r = parse_links(optarg, &ret->links);
            break;
        case 'g':
            r = guard_policy_parse(optarg, &ret->guard);
            break;
        case 'o':
            ret->guard_root = optarg;
            break;
        case 't':
            ret->guard_store = optarg;
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
        case 'p':
            reopens = true;
            if (strcmp(optarg, "serves") == 0)
                ret->reopen_kind = FS_REOPEN_SERVES;
            else if (strcmp(optarg, "passes") == 0)
                ret->reopen_kind = FS_REOPEN_PASSES;
            else
                r = -EINVAL;
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
    if (reopens && optind < argc)
        ret->reopen = argv + optind;
    if (r < 0 || reopens != (optind < argc) || ret->stream_fd < 0 || !ret->mountpoint ||
        !ret->name) {
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
