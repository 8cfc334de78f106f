#include "host/cli/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "common/io.h"
#include "common/quote.h"
#include "common/state/pool.h"
#include "host/cli/app.h"
#include "host/cli/process.h"
#include "host/cli/signals.h"

#define LINE_MAX_SIZE     8192  /* a line of status; longer is damage */
#define PROGRESS_AFTER_MS 1000  /* what is quick needs no words */
#define CANCEL_TIMEOUT_MS 15000 /* for a supervisor that was told to end */
#define STATUS_FD         3
#define OWNER_FD          4

struct start {
    const struct bg_sandbox *sandbox; /* NULL: of something else */
    const char *what;                 /* that; NULL: of a sandbox */
    const struct launch_opts *opts;
    pid_t pid; /* the child we started; it may have detached from us since */
    int status_fd;
    char line[LINE_MAX_SIZE];
    size_t line_used;
    char progress[BG_ERR_TEXT_SIZE]; /* not shown yet */
    uint64_t begin_ms, cancel_by_ms; /* cancel_by_ms: 0, or when to stop waiting */
    int signal;
    bool over;
    json_t *timings;
};

int launch_parse_line(const char *line, size_t size, enum launch_line_kind *ret,
                      char text[BG_ERR_TEXT_SIZE], json_t **ret_timings, struct bg_err *err)
{
    json_auto_t *json = json_loadb(line, size, JSON_REJECT_DUPLICATES, NULL);
    const char *progress = json_string_value(json_object_get(json, "progress"));
    const char *error = json_string_value(json_object_get(json, "error"));
    json_t *ready = json_object_get(json, "ready");
    if (progress && !error && !ready) {
        bg_escape(progress, strlen(progress), text, BG_ERR_TEXT_SIZE);
        *ret = LAUNCH_PROGRESS;
        return 0;
    }
    if (json_is_true(ready) && !error && !progress) {
        *ret_timings = json_incref(json_object_get(json, "timings"));
        *ret = LAUNCH_READY;
        return 0;
    }
    if (!error || ready || progress)
        return bg_err_set(err, -EPROTO, "the supervisor's status makes no sense");
    json_int_t number = json_integer_value(json_object_get(json, "errno"));
    char escaped[BG_ERR_TEXT_SIZE];
    bg_escape(error, strlen(error), escaped, sizeof escaped);
    *ret = LAUNCH_ERROR;
    return bg_err_set(err, number > 0 && number < 4096 ? -(int)number : -EREMOTEIO, "%s", escaped);
}

static void show_progress(struct start *s)
{
    if (s->progress[0] == '\0' || s->opts->quiet || bg_now_ms() - s->begin_ms < PROGRESS_AFTER_MS)
        return;
    app_note("%s", s->progress);
    s->progress[0] = '\0';
}

static int take_line(struct start *s, size_t size, struct bg_err *err)
{
    enum launch_line_kind kind = LAUNCH_ERROR;
    int r = launch_parse_line(s->line, size, &kind, s->progress, &s->timings, err);
    if (r < 0)
        return r;
    s->over = kind == LAUNCH_READY;
    show_progress(s);
    return 0;
}

/* The end of file without a last line. */
static int ended_silently(struct start *s, struct bg_err *err)
{
    int status = s->pid > 0 ? process_wait(s->pid) : 0;
    if (!s->sandbox)
        return bg_err_set(err, -ECHILD, "%s ended without a word (exit status %d)", s->what,
                          status);
    return bg_err_set(err, -ECHILD,
                      "sandbox '%s': its supervisor ended without a word (exit status %d); see "
                      "bellglass logs %s",
                      s->sandbox->name, status, s->sandbox->name);
}

static int read_status(struct start *s, struct bg_err *err)
{
    ssize_t n = read(s->status_fd, s->line + s->line_used, sizeof s->line - s->line_used);
    if (n < 0)
        return errno == EINTR ? 0 : bg_err_errno(err, -errno, "supervisor's status");
    if (n == 0)
        return ended_silently(s, err);
    s->line_used += (size_t)n;
    for (char *end; !s->over && (end = memchr(s->line, '\n', s->line_used));) {
        size_t size = (size_t)(end - s->line);
        int r = take_line(s, size, err);
        if (r < 0)
            return r;
        s->line_used -= size + 1;
        memmove(s->line, end + 1, s->line_used);
    }
    return s->line_used < sizeof s->line
               ? 0
               : bg_err_set(err, -EPROTO, "the supervisor's status makes no sense");
}

/* Tells the supervisor to end: the child itself, and the process that it became if it detached. */
static void cancel(struct start *s, int number)
{
    int launcher = 0;
    enum bg_sandbox_state state;
    s->signal = number;
    s->cancel_by_ms = bg_now_ms() + CANCEL_TIMEOUT_MS;
    if (s->pid > 0 && waitpid(s->pid, NULL, WNOHANG) == 0)
        (void)kill(s->pid, SIGTERM); /* our child, not waited for: the number is still its own */
    if (s->sandbox && bg_sandbox_state(s->sandbox, &state, &launcher, NULL) == 0 && launcher > 0)
        (void)kill(launcher, SIGTERM);
}

static void take_signals(struct start *s)
{
    for (int number; (number = signals_next(s->opts->signal_fd)) > 0;)
        if (!s->signal &&
            (number == SIGINT || number == SIGTERM || number == SIGHUP || number == SIGQUIT))
            cancel(s, number);
}

static int wait_ms(const struct start *s)
{
    uint64_t now = bg_now_ms();
    if (s->cancel_by_ms)
        return now >= s->cancel_by_ms ? 0 : (int)(s->cancel_by_ms - now);
    uint64_t shown_at = s->begin_ms + PROGRESS_AFTER_MS;
    return s->progress[0] == '\0' || s->opts->quiet ? -1
           : now >= shown_at                        ? 0
                                                    : (int)(shown_at - now);
}

static int watch(struct start *s, struct bg_err *err)
{
    while (!s->over) {
        struct pollfd fds[] = {{.fd = s->status_fd, .events = POLLIN},
                               {.fd = s->opts->signal_fd, .events = POLLIN}};
        int n = poll(fds, 2, wait_ms(s));
        if (n < 0 && errno != EINTR)
            return bg_err_errno(err, -errno, "poll");
        show_progress(s);
        if (s->cancel_by_ms && bg_now_ms() >= s->cancel_by_ms)
            return s->sandbox ? bg_err_set(err, -ETIME, "sandbox '%s': its supervisor does not end",
                                           s->sandbox->name)
                              : bg_err_set(err, -ETIME, "%s does not end", s->what);
        if (n > 0 && fds[1].revents)
            take_signals(s);
        if (n > 0 && fds[0].revents) {
            int r = read_status(s, err);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* The sandbox was a pool's member: it needs no more than the word. */
static int start_claimed(const struct launch_opts *opts, int status_fd, struct bg_err *err)
{
    const uint8_t word = BG_POOL_GO;
    const int fds[] = {status_fd, opts->owner_fd};
    int r = bg_send_fds(opts->claim_fd, &word, 1, fds, opts->owner_fd >= 0 ? 2 : 1);
    return r < 0 ? bg_err_errno(err, r, "its supervisor") : 0;
}

static int start_process(struct start *s, int status_fd, struct bg_err *err)
{
    const struct launch_opts *opts = s->opts;
    BG_AUTOFREE char *path = NULL;
    int r = bg_helper_path("bellglass-supervisor", &path, err);
    if (r < 0)
        return r;
    char program[] = "bellglass-supervisor", verb[] = "run", status_option[] = "--status-fd",
         status_number[] = "3", cold[] = "--cold", owner_option[] = "--owner-fd",
         owner_number[] = "4";
    char *argv[9] = {program, verb, s->sandbox->name, status_option, status_number};
    size_t argc = 5;
    if (opts->cold)
        argv[argc++] = cold;
    if (opts->owner_fd >= 0) {
        argv[argc++] = owner_option;
        argv[argc++] = owner_number;
    }
    const struct process_opts start = {
        .path = path,
        .argv = argv,
        .fds = {{.from = status_fd, .to = STATUS_FD}, {.from = opts->owner_fd, .to = OWNER_FD}},
        .fd_count = opts->owner_fd >= 0 ? 2 : 1};
    return process_start(&start, &s->pid, err);
}

int launch_start(const struct bg_sandbox *sandbox, const struct launch_opts *opts,
                 json_t **ret_timings, int *ret_signal, struct bg_err *err)
{
    int fds[2];
    *ret_signal = 0;
    if (pipe2(fds, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    BG_AUTOCLOSE int status = fds[0];
    struct start s = {
        .sandbox = sandbox, .opts = opts, .status_fd = status, .begin_ms = bg_now_ms()};
    int r = opts->claim_fd > 0 ? start_claimed(opts, fds[1], err) : start_process(&s, fds[1], err);
    (void)close(fds[1]); /* the supervisor's */
    if (r < 0)
        return r;
    r = watch(&s, err);
    /* What failed still holds the sandbox until it is gone; what runs has detached from us. */
    if (s.pid > 0)
        (void)process_wait_for(s.pid, r < 0 ? CANCEL_TIMEOUT_MS : 0);
    if (s.signal) {
        json_decref(s.timings);
        *ret_signal = s.signal;
        return bg_err_set(err, -ECANCELED, "sandbox '%s': its start was stopped by a signal",
                          sandbox->name);
    }
    if (r == 0 && ret_timings)
        *ret_timings = s.timings;
    else
        json_decref(s.timings);
    return r;
}

int launch_follow(const char *what, pid_t pid, int status_fd, const struct launch_opts *opts,
                  int *ret_signal, struct bg_err *err)
{
    struct start s = {
        .what = what, .opts = opts, .pid = pid, .status_fd = status_fd, .begin_ms = bg_now_ms()};
    *ret_signal = 0;
    int r = watch(&s, err);
    json_decref(s.timings);
    if (r < 0)
        (void)process_wait_for(pid, CANCEL_TIMEOUT_MS);
    *ret_signal = s.signal;
    return s.signal ? bg_err_set(err, -ECANCELED, "%s was stopped by a signal", what) : r;
}
