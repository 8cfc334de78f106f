#include "host/cli/pool_keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <jansson.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/state/image.h"
#include "host/cli/launch.h"
#include "host/cli/process.h"

#define LINE_SIZE      8192 /* of a status line */
#define REFILL_MS      500  /* after a claim: whoever made it has the machine first */
#define BACKOFF_MIN_MS 1000 /* after a start that failed */
#define BACKOFF_MAX_MS 60000
#define LOOK_MS        60000 /* between looks whether the image's name means another one */
#define EXIT_MS        15000 /* for a start that has said its last word */

struct keeper {
    struct app *app;
    const struct pool_keeper_opts *opts;
    struct pool_info info;
    char digest[65]; /* of the image that the members are of */
    int status_fd, owner_fd, signal_fd;
    int members[BG_POOL_MEMBERS_MAX]; /* pipes to them */
    /* The one that is being started, if pid is not 0. */
    pid_t pid;
    int pipe_fd, line_fd;
    char line[LINE_SIZE];
    size_t line_used;
    uint64_t due_ms, backoff_ms; /* when the next one may be started */
    bool ending;
    struct bg_err why;
};

/* ---- who waits ---- */

static void tell(struct keeper *k, json_t *json, bool last)
{
    BG_AUTOFREE char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (k->status_fd < 0 || !text)
        return;
    size_t size = strlen(text);
    text[size] = '\n';
    if (bg_write_full(k->status_fd, text, size + 1) < 0 || last) {
        (void)close(k->status_fd); /* it is gone, or knows all */
        k->status_fd = -1;
    }
}

/* The first start that fails ends a keeper for which somebody waits; later ones are tried again. */
static void failed(struct keeper *k, const struct bg_err *err)
{
    if (k->status_fd >= 0) {
        tell(k, json_pack("{s:s, s:i}", "error", err->text, "errno", -err->code), true);
        k->ending = true;
        k->why = *err;
        return;
    }
    app_note("pool: %s", err->text);
    k->backoff_ms = k->backoff_ms == 0                   ? BACKOFF_MIN_MS
                    : k->backoff_ms < BACKOFF_MAX_MS / 2 ? 2 * k->backoff_ms
                                                         : BACKOFF_MAX_MS;
    k->due_ms = bg_now_ms() + k->backoff_ms;
}

/* ---- members ---- */

static void note(struct keeper *k)
{
    pools_note(&k->app->paths, &k->info);
}

static void forget_member(struct keeper *k, size_t at)
{
    (void)close(k->members[at]); /* nothing was written */
    k->members[at] = k->members[--k->info.ready];
}

/* A name that means another image by now: what is ready is of no use to anybody. */
static int check_image(struct keeper *k, struct bg_err *err)
{
    char digest[65];
    bool tagged;
    int r = bg_image_resolve(&k->app->paths, k->info.image, digest, &tagged, err);
    if (r < 0 || strcmp(digest, k->digest) == 0)
        return r;
    memcpy(k->digest, digest, sizeof digest);
    while (k->info.ready > 0)
        forget_member(k, k->info.ready - 1);
    note(k);
    return 0;
}

static int start_process(struct keeper *k, int status_fd, int owner_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    char program[] = "bellglass-supervisor", verb[] = "member", status_option[] = "--status-fd",
         status_number[] = "3", owner_option[] = "--owner-fd", owner_number[] = "4", cpus[16],
         memory[32];
    (void)snprintf(cpus, sizeof cpus, "%u", k->info.cpus);
    (void)snprintf(memory, sizeof memory, "%llu", (unsigned long long)k->info.memory_bytes);
    char *argv[] = {program,       verb,          k->digest,    cpus,         memory,
                    status_option, status_number, owner_option, owner_number, NULL};
    const struct process_opts opts = {
        .path = path,
        .argv = argv,
        .fds = {{.from = status_fd, .to = 3}, {.from = owner_fd, .to = 4}},
        .fd_count = 2};
    int r = bg_helper_path("bellglass-supervisor", &path, err);
    if (r < 0)
        return r;
    struct process_opts start = opts;
    start.path = path;
    return process_start(&start, &k->pid, err);
}

static int start_member(struct keeper *k, struct bg_err *err)
{
    int lines[2], owner[2];
    int r = check_image(k, err);
    if (r < 0)
        return r;
    if (pipe2(lines, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    BG_AUTOCLOSE int line_read = lines[0];
    BG_AUTOCLOSE int line_write = lines[1];
    if (pipe2(owner, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    BG_AUTOCLOSE int owner_read = owner[0];
    BG_AUTOCLOSE int owner_write = owner[1];
    r = start_process(k, line_write, owner_read, err);
    if (r < 0)
        return r;
    k->line_fd = bg_take_fd(&line_read);
    k->pipe_fd = bg_take_fd(&owner_write);
    k->line_used = 0;
    return 0;
}

/* The start is over: its process has gone to the background, or ends. */
static void end_start(struct keeper *k, bool ready)
{
    (void)close(k->line_fd); /* read from only */
    if (ready)
        k->members[k->info.ready++] = k->pipe_fd;
    else
        (void)close(k->pipe_fd); /* and with it goes what there may be of it */
    (void)process_wait_for(k->pid, EXIT_MS);
    k->pid = 0;
    k->line_fd = k->pipe_fd = -1;
    if (ready)
        note(k);
}

static void start_failed(struct keeper *k, const struct bg_err *err)
{
    end_start(k, false);
    failed(k, err);
}

static void take_line(struct keeper *k, size_t size)
{
    enum launch_line_kind kind = LAUNCH_ERROR;
    char text[BG_ERR_TEXT_SIZE];
    json_t *timings = NULL;
    struct bg_err err;
    int r = launch_parse_line(k->line, size, &kind, text, &timings, &err);
    json_decref(timings);
    if (r < 0) {
        start_failed(k, &err);
    } else if (kind == LAUNCH_PROGRESS) {
        tell(k, json_pack("{s:s}", "progress", text), false);
    } else {
        end_start(k, true);
        k->backoff_ms = 0;
        if (k->info.ready == k->info.wanted)
            tell(k, json_pack("{s:b, s:{}}", "ready", 1, "timings"), true);
    }
}

static void read_lines(struct keeper *k)
{
    struct bg_err err;
    ssize_t n = read(k->line_fd, k->line + k->line_used, sizeof k->line - k->line_used);
    if (n < 0 && errno == EINTR)
        return;
    if (n <= 0) {
        (void)bg_err_set(&err, -ECHILD, "the supervisor of a member ended without a word");
        start_failed(k, &err);
        return;
    }
    k->line_used += (size_t)n;
    for (char *end; k->pid != 0 && (end = memchr(k->line, '\n', k->line_used));) {
        size_t size = (size_t)(end - k->line);
        take_line(k, size);
        k->line_used -= size + 1;
        memmove(k->line, end + 1, k->line_used);
    }
}

/* Those that are claimed, or have ended. */
static void look_at_members(struct keeper *k, const struct pollfd *fds)
{
    size_t before = k->info.ready;
    for (size_t i = before; i-- > 0;)
        if (fds[i].revents)
            forget_member(k, i);
    if (k->info.ready == before)
        return;
    uint64_t due_ms = bg_now_ms() + REFILL_MS;
    if (k->due_ms < due_ms)
        k->due_ms = due_ms;
    note(k);
}

/* ---- the loop ---- */

static int wait_ms(const struct keeper *k, bool wanted)
{
    uint64_t now = bg_now_ms();
    return !wanted ? LOOK_MS : k->due_ms <= now ? 0 : (int)(k->due_ms - now);
}

static void turn(struct keeper *k)
{
    struct pollfd fds[3 + BG_POOL_MEMBERS_MAX] = {{.fd = k->signal_fd, .events = POLLIN},
                                                  {.fd = k->owner_fd, .events = POLLIN},
                                                  {.fd = k->line_fd, .events = POLLIN}};
    const size_t members = k->info.ready;
    struct bg_err err;
    bool wanted = k->pid == 0 && members < k->info.wanted;
    for (size_t i = 0; i < members; i++)
        fds[3 + i].fd = k->members[i]; /* POLLERR: nobody holds its other end */
    int n = poll(fds, 3 + members, wait_ms(k, wanted));
    if (n < 0)
        return; /* EINTR; nothing else can be */
    if (fds[0].revents || fds[1].revents) {
        k->ending = true; /* signals, and the owner, say no more than that */
        return;
    }
    look_at_members(k, fds + 3);
    if (fds[2].revents)
        read_lines(k);
    if (n > 0)
        return;
    int r = wanted ? start_member(k, &err) : check_image(k, &err);
    if (r < 0)
        failed(k, &err);
}

static int open_signals(int *ret_fd, struct bg_err *err)
{
    sigset_t set;
    (void)sigemptyset(&set); /* cannot fail, nor sigaddset with these */
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return bg_err_errno(err, -errno, "signals");
    *ret_fd = signalfd(-1, &set, SFD_CLOEXEC);
    return *ret_fd < 0 ? bg_err_errno(err, -errno, "signalfd") : 0;
}

int pool_keeper_run(struct app *app, const struct pool_keeper_opts *opts, struct bg_err *err)
{
    struct keeper k = {.app = app,
                       .opts = opts,
                       .info = opts->info,
                       .status_fd = opts->status_fd,
                       .owner_fd = opts->owner_fd,
                       .signal_fd = -1,
                       .pipe_fd = -1,
                       .line_fd = -1};
    int lock_fd = -1;
    k.info.ready = 0;
    k.info.keeper_pid = (int)getpid();
    pool_info_key(&k.info);
    int r = open_signals(&k.signal_fd, err);
    if (r == 0)
        r = pools_lock(&app->paths, &k.info, &lock_fd, err);
    if (r < 0) {
        tell(&k, json_pack("{s:s, s:i}", "error", err->text, "errno", -err->code), true);
        return r;
    }
    note(&k);
    while (!k.ending)
        turn(&k);
    if (k.pid != 0) {
        (void)kill(k.pid, SIGTERM); /* our child, not waited for; it may be making a snapshot */
        end_start(&k, false);
    }
    while (k.info.ready > 0)
        forget_member(&k, k.info.ready - 1);
    pools_forget(&app->paths, &k.info);
    (void)close(lock_fd);     /* the folder is gone */
    (void)close(k.signal_fd); /* read from only */
    if (k.why.code < 0 && err)
        *err = k.why;
    return k.why.code;
}
