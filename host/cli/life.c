#include "host/cli/life.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "host/cli/args.h"
#include "host/cli/client.h"
#include "host/cli/mounts.h"
#include "host/cli/offline.h"
#include "host/cli/output.h"
#include "host/cli/ssh_files.h"
#include "host/cli/wake.h"

#define ANSWER_MS      30000 /* beyond the guest's grace: for the supervisor to end QEMU */
#define ORPHAN_AGE_MS  60000 /* creating and starting take a few seconds at most */
#define KILL_ANSWER_MS 5000
#define SUSPEND_MS     1800000 /* for all of a large memory to a slow disk */
#define EXIT_MS        10000   /* for the launcher to clean up after its supervisor */
#define NAMELESS_MS    30000   /* for who starts it to say who it is */

/* Puts the nearest name behind "no sandbox 'x'". */
static int unknown(struct app *app, const char *name, struct bg_err *err)
{
    char **names = NULL;
    char quoted[BG_SANDBOX_NAME_MAX + 32];
    size_t count = 0;
    if (bg_sandbox_names(&app->paths, &names, NULL) < 0)
        return -ENOENT; /* err has its plain text */
    while (names[count])
        count++;
    const char *near = args_nearest(name, (const char *const *)names, count);
    if (near)
        (void)bg_err_set(err, -ENOENT, "no sandbox %s; did you mean '%s'? see bellglass ls",
                         bg_quote(name, quoted, sizeof quoted), near);
    bg_sandbox_names_free(names);
    return -ENOENT;
}

/* Notes a crash that nobody has noted yet. Best effort: the free lock says it as well, and the next
 * command tries again. */
static void note_crash(struct app *app, const struct bg_sandbox *sandbox)
{
    BG_AUTOCLOSE int lock = -1;
    enum bg_sandbox_state noted;
    enum bg_sandbox_use use;
    char reason[BG_ERR_TEXT_SIZE];
    if (bg_sandbox_use(sandbox, &use, NULL) < 0 || use != BG_SANDBOX_UNUSED)
        return; /* its mounts are of a helper, for which the crash was noted */
    if (bg_sandbox_lock(sandbox, &lock, NULL) < 0)
        return; /* somebody starts or removes it this moment */
    bg_sandbox_unlisten(&app->paths, sandbox);
    /* A launcher that saw its supervisor crash has written the reason. */
    if (!bg_sandbox_noted(sandbox, &noted, reason) || noted != BG_SANDBOX_CRASHED)
        (void)(bg_sandbox_set_state(sandbox, BG_SANDBOX_CRASHED,
                                    "its supervisor ended without cleaning up", NULL) < 0);
}

bool life_orphaned(const struct bg_sandbox *sandbox, enum bg_sandbox_state state)
{
    return sandbox->ephemeral && (state == BG_SANDBOX_STOPPED || state == BG_SANDBOX_CRASHED) &&
           output_now_ms() > sandbox->created_ms + ORPHAN_AGE_MS;
}

static int open_life(struct app *app, const char *name, bool any, struct life *ret,
                     struct bg_err *err)
{
    struct life life = {0};
    int r = app_paths(app, err);
    if (r == 0)
        r = bg_sandbox_load(&app->paths, name, &life.sandbox, err);
    if (r == -ENOENT)
        return unknown(app, name, err);
    if (r == -EUCLEAN && any) {
        life.damaged = true;
        r = bg_sandbox_locate(&app->paths, name, &life.sandbox, err);
    }
    if (r == 0)
        r = bg_sandbox_state(&life.sandbox, &life.state, &life.launcher_pid, err);
    if (r < 0) {
        life_done(&life);
        return r;
    }
    if (!life.damaged && life_orphaned(&life.sandbox, life.state) &&
        life_remove(app, &life, NULL) == 0) {
        life_done(&life);
        return bg_err_set(err, -ENOENT,
                          "no sandbox '%s': it was left by a killed command, and is "
                          "removed now",
                          name);
    }
    if (life.state == BG_SANDBOX_CRASHED && !life.damaged)
        note_crash(app, &life.sandbox);
    *ret = life;
    return 0;
}

int life_open(struct app *app, const char *name, struct life *ret, struct bg_err *err)
{
    return open_life(app, name, /* any= */ false, ret, err);
}

int life_open_any(struct app *app, const char *name, struct life *ret, struct bg_err *err)
{
    return open_life(app, name, /* any= */ true, ret, err);
}

void life_done(struct life *life)
{
    bg_sandbox_done(&life->sandbox);
}

int life_open_running(struct app *app, const char *name, struct life *ret, struct bg_err *err)
{
    struct life life = {0};
    enum bg_sandbox_state noted;
    char reason[BG_ERR_TEXT_SIZE], escaped[BG_ERR_TEXT_SIZE];
    int r = life_open(app, name, &life, err);
    if (r < 0)
        return r;
    r = wake(app, &life, err);
    if (r == 0 && life.state == BG_SANDBOX_STOPPED)
        r = bg_err_set(err, -ENOTCONN, "sandbox '%s' is not running; start it: bellglass start %s",
                       name, name);
    else if (r == 0 && life.state == BG_SANDBOX_CRASHED) {
        (void)bg_sandbox_noted(&life.sandbox, &noted, reason);
        bg_escape(reason, strlen(reason), escaped, sizeof escaped / 2);
        r = bg_err_set(err, -ENOTCONN,
                       "sandbox '%s' has crashed (%s); start it again: bellglass start %s", name,
                       escaped, name);
    }
    if (r == 0 && life.state == BG_SANDBOX_STARTING)
        r = bg_err_set(err, -ENOTCONN, "sandbox '%s' is still starting: try again in a moment",
                       name);
    if (r < 0) {
        life_done(&life);
        return r;
    }
    *ret = life;
    return 0;
}

/* --- stopping --- */

/* An fd of the launcher itself, not of a later process with its number: after the fd was opened,
 * the sandbox must still be held by that number. */
static int open_launcher(const struct life *life, int *ret_fd)
{
    enum bg_sandbox_state state;
    int pid = 0;
    if (life->launcher_pid <= 0)
        return -ESRCH;
    BG_AUTOCLOSE int fd = (int)syscall(SYS_pidfd_open, life->launcher_pid, 0);
    if (fd < 0)
        return -errno;
    if (bg_sandbox_state(&life->sandbox, &state, &pid, NULL) < 0 || pid != life->launcher_pid)
        return -ESRCH;
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

/* Who starts a sandbox has its lock a while before its number is written; so has a command that
 * has to do with one that rests. *ret_fd: -1 when it ended meanwhile. */
static int find_launcher(struct life *life, int *ret_fd, struct bg_err *err)
{
    const struct bg_sandbox *sandbox = &life->sandbox;
    uint64_t deadline = bg_now_ms() + NAMELESS_MS;
    int watch_fd = -1;
    if (open_launcher(life, ret_fd) == 0)
        return 0;
    int r = wake_watch(sandbox, &watch_fd, err);
    BG_AUTOCLOSE int watch = watch_fd;
    while (r == 0) {
        uint64_t now = bg_now_ms();
        r = bg_sandbox_state(sandbox, &life->state, &life->launcher_pid, err);
        if (r < 0 || bg_sandbox_rests(life->state) || open_launcher(life, ret_fd) == 0)
            break;
        if (now >= deadline)
            return bg_err_set(err, -EBUSY,
                              "sandbox '%s' is in use by another command: try again when that is "
                              "done",
                              sandbox->name);
        wake_await(watch, -1, (int)(deadline - now));
    }
    return r == -ENOENT ? 0 : r;
}

static bool ended_within(int pidfd, uint64_t timeout_ms)
{
    uint64_t deadline = bg_now_ms() + timeout_ms;
    for (;;) {
        uint64_t now = bg_now_ms();
        struct pollfd p = {.fd = pidfd, .events = POLLIN};
        int n = poll(&p, 1, now >= deadline ? 0 : (int)(deadline - now));
        if (n != 0 && !(n < 0 && errno == EINTR))
            return n > 0;
        if (now >= deadline)
            return false;
    }
}

/* The launcher ends its sandbox when asked by SIGTERM; killed, it takes it along. */
static bool end_launcher(int pidfd)
{
    static const int numbers[] = {SIGTERM, SIGKILL};
    for (size_t i = 0; i < 2; i++) {
        (void)syscall(SYS_pidfd_send_signal, pidfd, numbers[i], NULL, 0); /* it may be gone */
        if (ended_within(pidfd, EXIT_MS))
            return true;
    }
    return false;
}

int life_stop(struct app *app, struct life *life, uint64_t grace_ms, bool *ret_clean,
              struct bg_err *err)
{
    const struct bg_sandbox *sandbox = &life->sandbox;
    if (ret_clean)
        *ret_clean = false;
    if (bg_sandbox_rests(life->state))
        return 0;
    /* The mounts would have nothing behind them. One that cannot be unmounted gives EIO. */
    struct bg_err mount_err;
    if (mounts_unmount_sandbox(sandbox, &mount_err) < 0)
        app_note("%s", mount_err.text);
    int launcher = -1;
    int r = find_launcher(life, &launcher, err);
    BG_AUTOCLOSE int pidfd = launcher;
    if (r < 0 || pidfd < 0)
        return r;
    json_auto_t *request =
        grace_ms > 0 ? json_pack("{s:s, s:I}", "op", "stop", "grace_ms", (json_int_t)grace_ms)
                     : json_pack("{s:s}", "op", "kill");
    json_auto_t *answer = NULL;
    if (!request)
        return bg_err_errno(err, -ENOMEM, "stop");
    uint64_t answer_ms = grace_ms > 0 ? grace_ms + ANSWER_MS : KILL_ANSWER_MS;
    /* It takes that time whatever it is asked for, and asked again, takes less. */
    if (grace_ms == 0 && (sandbox->volume_count > 0 || sandbox->root_volume[0] != '\0'))
        answer_ms += BG_VOLUME_GRACE_MS;
    r = life->damaged ? -ENOTCONN
                      : client_request(&app->paths, sandbox, request, answer_ms, &answer, err);
    bool ended = r == 0 && ended_within(pidfd, EXIT_MS);
    if (!ended && !end_launcher(pidfd))
        return bg_err_set(err, -ETIME, "sandbox '%s': process %d does not end", sandbox->name,
                          life->launcher_pid);
    if (ret_clean)
        *ret_clean = json_is_true(json_object_get(answer, "clean"));
    life->state = BG_SANDBOX_STOPPED;
    life->launcher_pid = 0;
    return 0;
}

int life_suspend(struct app *app, struct life *life, const char *note, json_t **ret_answer,
                 struct bg_err *err)
{
    const struct bg_sandbox *sandbox = &life->sandbox;
    BG_AUTOCLOSE int pidfd = -1;
    int r = open_launcher(life, &pidfd);
    if (r < 0)
        return bg_err_set(err, -ENOTCONN, "sandbox '%s': it ended just now", sandbox->name);
    json_auto_t *request = json_pack("{s:s, s:b}", "op", "snapshot", "suspend", 1);
    json_auto_t *answer = NULL;
    if (!request)
        return bg_err_errno(err, -ENOMEM, "suspend");
    r = client_request_noted(&app->paths, sandbox, request, SUSPEND_MS, note, &answer, err);
    if (r < 0)
        return r;
    /* All is on disk by now; what is left of it is nobody's loss. */
    if (!ended_within(pidfd, EXIT_MS) && !end_launcher(pidfd))
        return bg_err_set(err, -ETIME, "sandbox '%s': process %d does not end", sandbox->name,
                          life->launcher_pid);
    life->state = BG_SANDBOX_SUSPENDED;
    life->launcher_pid = 0;
    *ret_answer = json_incref(answer);
    return 0;
}

int life_remove(struct app *app, struct life *life, struct bg_err *err)
{
    BG_AUTOCLOSE int lock = -1;
    int r = mounts_unmount_sandbox(&life->sandbox, err);
    if (r < 0)
        return r;
    if (!life->damaged)
        offline_kill(app, &life->sandbox);
    r = offline_await(&life->sandbox, /* write= */ true, err);
    if (r < 0 && r != -ENOENT)
        return r;
    r = bg_sandbox_lock(&life->sandbox, &lock, err);
    if (r == -EBUSY)
        (void)bg_err_prefix(err, "sandbox '%s'", life->sandbox.name);
    if (r == 0 && !life->damaged)
        bg_sandbox_unlisten(&app->paths, &life->sandbox);
    if (r == 0) {
        BG_AUTOFREE char *folder = mounts_own_folder(&app->paths, life->sandbox.name);
        if (folder)
            (void)rmdir(folder); /* fails if there is none, or somebody has put something there */
        ssh_files_forget(app, &life->sandbox);
    }
    if (r == 0)
        r = bg_sandbox_remove(&life->sandbox, err);
    return r == -ENOENT ? 0 : r;
}
