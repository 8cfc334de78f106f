/* Who wakes a sandbox is a process of its own, which no signal of a terminal reaches: a start that
 * is broken off half-way would cost the sandbox its memory, or leave it without its shares. It has
 * SANDBOX/wake.lock while it works. Others wait for that lock and then find the sandbox running.
 *
 * Who starts, resumes or stops it in another way is waited for by inotify on its folder: state.json
 * is replaced at each step, and the end of a launcher closes the file of the lock. */
#include "host/cli/wake.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "host/cli/client.h"
#include "host/cli/offline.h"
#include "host/cli/start.h"

#define NOTE_AFTER_MS  1000   /* what is quick needs no words */
#define CHANGE_MS      600000 /* for a start or a stop of others, which have their own deadlines */
#define BUSY_MS        60000  /* for a snapshot that is being taken to let streams through again */
#define BUSY_LOOK_MS   100
#define ENDING_MS      2000 /* from a supervisor's last word to its launcher's */
#define WAKE_LOCK_FILE "wake.lock"

bool wake_allowed(void)
{
    const char *text = getenv("BELLGLASS_WAKE");
    return !text || strcmp(text, "0") != 0;
}

/* ---- waiting ---- */

int wake_watch(const struct bg_sandbox *sandbox, int *ret_fd, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fd < 0 || inotify_add_watch(fd, sandbox->dir,
                                    IN_MOVED_TO | IN_CLOSE_WRITE | IN_MOVE_SELF | IN_ONLYDIR) < 0)
        return errno == ENOENT
                   ? bg_err_set(err, -ENOENT, "no sandbox '%s': it was removed just now",
                                sandbox->name)
                   : bg_err_errno(err, -errno, "%s", sandbox->dir);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

void wake_await(int watch_fd, int other_fd, int timeout_ms)
{
    char events[4096];
    struct pollfd fds[] = {{.fd = watch_fd, .events = POLLIN}, {.fd = other_fd, .events = POLLIN}};
    if (poll(fds, 2, timeout_ms) > 0 && fds[0].revents)
        while (read(watch_fd, events, sizeof events) > 0)
            ;
}

/* ---- the process that wakes ---- */

/* Waits until no other one wakes it. */
static int take_turn(const struct bg_sandbox *sandbox, int *ret_fd, struct bg_err *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/" WAKE_LOCK_FILE, sandbox->dir) < 0)
        return bg_err_errno(err, -ENOMEM, WAKE_LOCK_FILE);
    BG_AUTOCLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return errno == ENOENT
                   ? bg_err_set(err, -ENOENT, "no sandbox '%s': it was removed just now",
                                sandbox->name)
                   : bg_err_errno(err, -errno, "%s", path);
    while (fcntl(fd, F_OFD_SETLKW, &lock) < 0)
        if (errno != EINTR)
            return bg_err_errno(err, -errno, "%s", path);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

/* True while somebody wakes it, from before its start until its shares are there. */
static bool being_woken(const struct bg_sandbox *sandbox)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/" WAKE_LOCK_FILE, sandbox->dir) < 0)
        return false;
    BG_AUTOCLOSE int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static bool in_use(const struct bg_sandbox *sandbox)
{
    enum bg_sandbox_use use;
    return bg_sandbox_use(sandbox, &use, NULL) == 0 && use != BG_SANDBOX_UNUSED;
}

static int start(struct app *app, struct life *life, struct bg_err *err)
{
    const struct launch_opts opts = {.signal_fd = -1, .owner_fd = -1, .quiet = true};
    int signal_number;
    int r = offline_await(&life->sandbox, /* write= */ true, err);
    offline_sweep(app, life->sandbox.id);
    return r < 0 ? r : start_with_shares(app, life, &opts, &signal_number, err);
}

int wake_here(struct app *app, struct life *life, struct bg_err *err)
{
    uint64_t until_ms = bg_now_ms() + CHANGE_MS;
    int fd = -1;
    int r = take_turn(&life->sandbox, &fd, err);
    BG_AUTOCLOSE int turn = fd;
    (void)turn; /* held to the end of this function */
    if (r == 0)
        r = wake_watch(&life->sandbox, &fd, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int watch = fd;
    for (;;) {
        uint64_t now_ms = bg_now_ms();
        r = bg_sandbox_state(&life->sandbox, &life->state, &life->launcher_pid, err);
        if (r == 0 && life->state == BG_SANDBOX_SUSPENDED) {
            r = start(app, life, err);
            if (r != -EBUSY || !in_use(&life->sandbox)) /* else somebody was faster */
                return r;
            r = bg_sandbox_state(&life->sandbox, &life->state, &life->launcher_pid, err);
        }
        if (r < 0 || life->state == BG_SANDBOX_RUNNING || life->state == BG_SANDBOX_STOPPED ||
            life->state == BG_SANDBOX_CRASHED)
            return r;
        if (now_ms >= until_ms)
            return bg_err_set(err, -ETIME, "sandbox '%s' is %s and does not get on",
                              life->sandbox.name, bg_sandbox_state_name(life->state));
        wake_await(watch, -1, (int)(until_ms - now_ms));
    }
}

/* ---- those who wait for it ---- */

/* The worker's word. Tells on stderr what takes long, and at once where somebody looks. */
static int await_worker(const struct life *life, int fd, pid_t pid, struct bg_err *err)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct bg_err word;
    if (poll(&p, 1, isatty(STDERR_FILENO) ? 0 : NOTE_AFTER_MS) == 0)
        app_note(life->state == BG_SANDBOX_SUSPENDED ? "resuming sandbox '%s'"
                                                     : "waiting for sandbox '%s'",
                 life->sandbox.name);
    int r = bg_read_full(fd, &word, sizeof word);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    if (r < 0)
        return bg_err_set(err, -ECHILD, "sandbox '%s': who was to wake it ended without a word",
                          life->sandbox.name);
    if (word.code < 0 && err)
        *err = word;
    return word.code;
}

int wake(struct app *app, struct life *life, struct bg_err *err)
{
    int fds[2];
    bool half = life->state == BG_SANDBOX_RUNNING && life->sandbox.share_count > 0 &&
                being_woken(&life->sandbox);
    if (!half && life->state != BG_SANDBOX_SUSPENDED && life->state != BG_SANDBOX_STARTING &&
        life->state != BG_SANDBOX_STOPPING)
        return 0;
    if (!wake_allowed())
        return life->state == BG_SANDBOX_SUSPENDED
                   ? bg_err_set(err, -ENOTCONN,
                                "sandbox '%s' is suspended, and $BELLGLASS_WAKE is 0; go on with "
                                "it: bellglass resume %s",
                                life->sandbox.name, life->sandbox.name)
                   : 0;
    if (pipe2(fds, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    BG_AUTOCLOSE int ours = fds[0];
    pid_t pid = fork();
    if (pid == 0) {
        struct bg_err word = {0};
        (void)setsid(); /* a fresh child is no group leader */
        /* What it opens itself wakes nobody: it would wait for itself. */
        (void)setenv("BELLGLASS_WAKE", "0", 1); /* no memory: it waits for nobody's turn then */
        if (wake_here(app, life, &word) < 0)
            app_hint_space(&word);
        else
            word = (struct bg_err){0};
        int r = bg_write_full(fds[1], &word, sizeof word);
        _exit(r < 0); /* nobody waits any more */
    }
    int r = pid < 0 ? bg_err_errno(err, -errno, "fork") : 0;
    (void)close(fds[1]); /* the child's */
    if (r == 0)
        r = await_worker(life, ours, pid, err);
    return r < 0 ? r : bg_sandbox_state(&life->sandbox, &life->state, &life->launcher_pid, err);
}

/* After a stream was refused: whether it is worth asking again. It may have been suspended, or be
 * about to; or a snapshot is being taken of it. */
static bool may_come(struct app *app, struct life *life, int watch_fd, int refusal,
                     uint64_t *deadline_ms, struct bg_err *err)
{
    uint64_t now_ms = bg_now_ms();
    struct bg_err why;
    if (*deadline_ms == 0)
        *deadline_ms = now_ms + (refusal == -EAGAIN ? BUSY_MS : ENDING_MS);
    for (;;) {
        if (bg_sandbox_state(&life->sandbox, &life->state, &life->launcher_pid, NULL) < 0 ||
            life->state == BG_SANDBOX_STOPPED || life->state == BG_SANDBOX_CRASHED)
            return false;
        if (life->state != BG_SANDBOX_RUNNING) {
            if (wake(app, life, &why) < 0) {
                *err = why;
                return false;
            }
            return life->state == BG_SANDBOX_RUNNING;
        }
        now_ms = bg_now_ms();
        if (now_ms >= *deadline_ms)
            return false;
        bool busy = refusal == -EAGAIN && *deadline_ms - now_ms > BUSY_LOOK_MS;
        wake_await(watch_fd, -1, busy ? BUSY_LOOK_MS : (int)(*deadline_ms - now_ms));
        if (busy)
            return true;
    }
}

int wake_open(struct app *app, const struct bg_sandbox *sandbox, const char *kind, const void *body,
              size_t size, int *ret_fd, struct bg_err *err)
{
    struct life life = {.sandbox = *sandbox}; /* borrowed */
    struct bg_err none;
    int fd = -1;
    uint64_t deadline_ms = 0;
    /* A helper that serves a disk has no folder, and is never suspended. */
    if (!wake_allowed() || !sandbox->dir || wake_watch(sandbox, &fd, NULL) < 0)
        return client_open(&app->paths, sandbox, kind, body, size, ret_fd, err);
    BG_AUTOCLOSE int watch = fd;
    for (;;) {
        int r = client_open(&app->paths, sandbox, kind, body, size, ret_fd, err);
        bool asleep = r == -EAGAIN || r == -ECONNRESET || r == -ENOTCONN;
        if (!asleep || !may_come(app, &life, watch, r, &deadline_ms, err ? err : &none))
            return r;
    }
}
