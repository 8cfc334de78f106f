#include "host/supervisor/launcher.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "common/fault.h"
#include "common/io.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/state/audit_files.h"
#include "host/supervisor/background.h"
#include "host/supervisor/child.h"
#include "host/supervisor/flatten.h"
#include "host/supervisor/flatten_plan.h"
#include "host/supervisor/lifetime.h"
#include "host/supervisor/member.h"
#include "host/supervisor/parts.h"
#include "host/supervisor/snapshots.h"
#include "host/supervisor/volumes.h"

#define PROXY_BACKOFF_MIN_MS 100
#define PROXY_BACKOFF_MAX_MS 5000
#define PROXY_STEADY_MS      10000 /* after running so long, its next death is a first one again */
#define OLD_PROXIES_MAX      16
#define PROXY_EXIT_MS        2000  /* to write its last audit lines */
#define STOP_GRACE_MS        10000 /* for a guest whose owner is gone, or when we get SIGTERM */
#define ORPHANS_EXIT_MS      30000 /* for a QEMU to let its memory go */

struct launcher {
    const struct launcher_opts *opts;
    struct parts *parts;
    struct source *source;
    struct volumes *volumes;
    struct snapshots_opts snapshots_opts;
    struct snapshots snapshots;
    struct flatten_opts flatten_opts;
    struct flatten flatten;
    struct {
        bool wanted; /* somebody waits for it */
        bool all;    /* what is under way is what they asked for */
        size_t before;
    } shorten;
    bool suspended; /* the supervisor ends for that */
    struct lifetime lifetime;
    struct member member;
    int owner_fd;
    char reason[BG_ERR_TEXT_SIZE]; /* why it ends or is suspended, if that was not asked for */
    struct bg_log log;
    int log_fd, proxy_log_fd;
    struct supervisor_child child;
    int audit_fd; /* of the proxy, which asks for a new audit file; -1: it has gone */
    int signal_fd;
    pid_t proxy_pid;                    /* 0: not running */
    pid_t old_proxies[OLD_PROXIES_MAX]; /* which end when their connections have; 0: none */
    uint64_t proxy_started_ms, proxy_due_ms, proxy_backoff_ms;
};

/* ---- preparation ---- */

/* The sandbox's folder has the certificate that its guest gets, since the proxy, whenever it is
 * started, has to take that CA and no later one; and from there `bellglass ca rotate` knows that it
 * is in use. It looks after the new one is in its place: so what is there after ours was noted
 * stays. */
static int note_ca(const struct launcher_opts *opts, struct parts *parts, struct bg_err *err)
{
    const char *dir = opts->sandbox->dir;
    BG_AUTOCLOSE int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return bg_err_errno(err, -errno, "%s", dir);
    for (;;) {
        BG_AUTOFREE char *noted = NULL;
        char *now = NULL;
        size_t size;
        int r = 0;
        if (bg_read_file(dir_fd, "ca.pem", BG_MANIFEST_MAX, &noted, &size, NULL) < 0 ||
            strcmp(noted, parts->ca_pem) != 0) {
            /* Not synced: after a power failure no guest has it. */
            BG_AUTOCLOSE int fd =
                openat(dir_fd, "ca.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
            r = fd < 0 ? -errno : bg_write_full(fd, parts->ca_pem, strlen(parts->ca_pem));
            if (r == 0 && renameat(dir_fd, "ca.new", dir_fd, "ca.pem") < 0)
                r = -errno;
        }
        if (r < 0)
            return bg_err_errno(err, r, "%s/ca.pem", dir);
        r = parts_read_ca(parts->proxy_path, opts->paths, &now, err);
        if (r < 0)
            return r;
        bool same = strcmp(now, parts->ca_pem) == 0;
        free(parts->ca_pem);
        parts->ca_pem = now;
        if (same)
            return 0;
    }
}

/* A sandbox that is new is a fork of the golden snapshot, unless $BELLGLASS_START says "cold": that
 * is how the benchmarks measure what a fork saves. One that has run has its disk booted, above the
 * golden snapshot that it was forked from; or it goes on from what is in its folder. */
static int choose_start(const struct launcher_opts *opts, const struct volumes *volumes,
                        struct parts *parts, struct source *source, struct bg_err *err)
{
    const struct bg_sandbox *sandbox = opts->sandbox;
    const char *forced = getenv("BELLGLASS_START");
    if (forced && strcmp(forced, "cold") != 0 && strcmp(forced, "fork") != 0)
        return bg_err_set(err, -EINVAL, "BELLGLASS_START='%s': give fork or cold", forced);
    bool cold = opts->cold || (forced && strcmp(forced, "cold") == 0);
    int r = source_find(sandbox, volumes->root.dir, &parts->qemu, parts->accel, cold, source, err);
    if (r < 0)
        return r;
    parts->cold = cold || (source->has_disk && !source->resumes);
    if (source->resumes && !source->snapshot.memory_base_none)
        return golden_open(opts->paths, &parts->image, source->disk.golden, &parts->golden, err);
    if (source->has_disk)
        return golden_open_disk(opts->paths, &parts->image, source->disk.golden, &parts->golden,
                                err);
    return parts_golden(opts->paths, sandbox->cpus, sandbox->memory_bytes, opts->report, parts,
                        err);
}

/* What an earlier run stood on, and a memory that is not wanted, are in the way. */
static int clear_memory(const struct launcher_opts *opts, const struct source *source,
                        struct bg_err *err)
{
    source_forget_memory(opts->sandbox);
    if (source->resumes || !source->has_disk)
        return 0;
    int r = source_consume(opts->sandbox, err);
    if (r == 0)
        source_forget_memory(opts->sandbox);
    return r;
}

/* ---- in the background ---- */

static int open_folder(const struct launcher *l, int *ret_fd, struct bg_err *err)
{
    const char *dir = l->opts->sandbox->dir;
    *ret_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 ? bg_err_errno(err, -errno, "%s", dir) : 0;
}

static void close_audit(struct launcher *l)
{
    if (l->audit_fd >= 0)
        (void)close(l->audit_fd);
    l->audit_fd = -1;
}

/* A proxy begins with a file that has room; what it does not get before it has given its rights up
 * it gets from us (answer_audit). A proxy that was replaced is not answered any more. */
static int open_audit(struct launcher *l, int *ret_theirs, struct bg_err *err)
{
    int pair[2], dir_number, file;
    int r = open_folder(l, &dir_number, err);
    BG_AUTOCLOSE int dir_fd = dir_number;
    if (r < 0)
        return r;
    r = bg_audit_open(dir_fd, BG_AUDIT_FILE_SIZE, &file, err);
    if (r == 0)
        (void)close(file); /* it opens it itself */
    else
        bg_log(&l->log, BG_LOG_ERROR, "%s", err->text); /* it says what follows from that */
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return bg_err_errno(err, -errno, "socketpair");
    (void)fcntl(pair[0], F_SETFL, O_NONBLOCK); /* one that reads no answers must not stop us */
    close_audit(l);
    l->audit_fd = pair[0];
    *ret_theirs = pair[1];
    return 0;
}

static void answer_audit(struct launcher *l)
{
    struct bg_err err;
    int dir_number;
    int r = open_folder(l, &dir_number, &err);
    BG_AUTOCLOSE int dir_fd = dir_number;
    if (r == 0)
        r = bg_audit_answer(l->audit_fd, dir_fd, BG_AUDIT_FILE_SIZE, &err);
    if (r < 0 && r != -ENOTCONN)
        bg_log(&l->log, BG_LOG_ERROR, "%s", err.text);
    /* Whoever asks without reading has broken into it: no more for that one. */
    if (r == -ENOTCONN || r == -EAGAIN || dir_fd < 0)
        close_audit(l);
}

static int start_proxy(struct launcher *l, struct bg_err *err)
{
    int pair[2], audit_theirs = -1;
    int r = open_audit(l, &audit_theirs, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int audit_fd = audit_theirs;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return bg_err_errno(err, -errno, "socketpair");
    BG_AUTOCLOSE int ours = pair[0];
    BG_AUTOCLOSE int theirs = pair[1];
    pid_t pid = fork();
    if (pid == 0) {
        char socket_text[16], log_text[16], audit_text[16];
        sigset_t none;
        (void)sigemptyset(&none); /* cannot fail */
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* its socket's end tells the same */
        (void)snprintf(socket_text, sizeof socket_text, "%d", theirs);
        (void)snprintf(log_text, sizeof log_text, "%d", l->proxy_log_fd);
        (void)snprintf(audit_text, sizeof audit_text, "%d", audit_fd);
        if (fcntl(theirs, F_SETFD, 0) == 0 && fcntl(l->proxy_log_fd, F_SETFD, 0) == 0 &&
            fcntl(audit_fd, F_SETFD, 0) == 0)
            (void)execl(l->parts->proxy_path, l->parts->proxy_path, "sandbox",
                        l->opts->sandbox->name, "--socket-fd", socket_text, "--log-fd", log_text,
                        "--audit-fd", audit_text, (char *)NULL);
        _exit(127);
    }
    if (pid < 0)
        return bg_err_errno(err, -errno, "fork");
    l->proxy_pid = pid;
    l->proxy_started_ms = bg_now_ms();
    uint8_t message[5];
    struct bg_writer w = bg_writer_init(message, sizeof message);
    bg_writer_u8(&w, LINK_PROXY);
    bg_writer_u32le(&w, (uint32_t)pid);
    r = bg_send_fd(l->child.link_fd, message, w.used, ours);
    return r < 0 ? bg_err_errno(err, r, "supervisor's socket") : 0;
}

static void proxy_died(struct launcher *l, int status)
{
    uint64_t now = bg_now_ms();
    l->proxy_pid = 0;
    if (now - l->proxy_started_ms > PROXY_STEADY_MS || l->proxy_backoff_ms == 0)
        l->proxy_backoff_ms = PROXY_BACKOFF_MIN_MS;
    else if (l->proxy_backoff_ms < PROXY_BACKOFF_MAX_MS)
        l->proxy_backoff_ms *= 2;
    l->proxy_due_ms = now + l->proxy_backoff_ms;
    /* It ends by itself when the supervisor has ended, whose own end may not have come to us yet.
     */
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        bg_log(&l->log, BG_LOG_ERROR,
               "proxy ended (status 0x%x): no egress until it is started again in %llu ms", status,
               (unsigned long long)l->proxy_backoff_ms);
}

/* Its socket's other end is closed when the supervisor gets the next one's. */
static void replace_proxy(struct launcher *l)
{
    if (l->proxy_pid == 0)
        return; /* one is to be started anyway */
    if (l->old_proxies[OLD_PROXIES_MAX - 1] != 0)
        (void)kill(l->old_proxies[OLD_PROXIES_MAX - 1], SIGTERM); /* our child, not reaped */
    memmove(l->old_proxies + 1, l->old_proxies, sizeof l->old_proxies - sizeof l->old_proxies[0]);
    l->old_proxies[0] = l->proxy_pid;
    l->proxy_pid = 0;
    l->proxy_due_ms = 0;
    l->proxy_backoff_ms = 0;
}

static bool has_old_proxies(const struct launcher *l)
{
    for (size_t i = 0; i < OLD_PROXIES_MAX; i++)
        if (l->old_proxies[i] != 0)
            return true;
    return false;
}

static void kill_proxies(struct launcher *l)
{
    /* Our children, not reaped. */
    if (l->proxy_pid != 0)
        (void)kill(l->proxy_pid, SIGKILL);
    for (size_t i = 0; i < OLD_PROXIES_MAX; i++)
        if (l->old_proxies[i] != 0)
            (void)kill(l->old_proxies[i], SIGKILL);
}

static void reap(struct launcher *l)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        for (size_t i = 0; i < OLD_PROXIES_MAX; i++)
            if (l->old_proxies[i] == pid)
                l->old_proxies[i] = 0;
        if (pid == l->proxy_pid)
            proxy_died(l, status);
        if (pid == l->child.pid)
            supervisor_child_died(&l->child, status, "the supervisor");
    }
}

static void say(struct launcher *l, char type, const void *bytes, size_t size, const int *fds,
                size_t fd_count)
{
    uint8_t message[1 + sizeof(struct link_done)]; /* the largest */
    assert(size < sizeof message);
    message[0] = (uint8_t)type;
    if (size > 0)
        memcpy(message + 1, bytes, size);
    if (bg_send_fds(l->child.link_fd, message, size + 1, fds, fd_count) < 0 && l->child.pid != 0)
        (void)kill(l->child.pid, SIGKILL); /* our child, not reaped; it waits for this word */
}

/* Nothing has run yet, and from now on it may. */
static void let_run(struct launcher *l)
{
    struct bg_err err;
    int r = 0;
    if (l->source->resumes)
        r = source_consume(l->opts->sandbox, &err);
    (void)bg_fault("resume-consumed");
    if (r == 0) {
        say(l, LINK_RUN, NULL, 0, NULL, 0);
        return;
    }
    l->child.why = err;
    l->child.ended = true; /* a reason that is better than what it will say */
    supervisor_child_stop(&l->child, 0);
}

/* ---- snapshots ---- */

static void snapshot_over(struct launcher *l, const struct bg_err *why, const char *name)
{
    struct link_done word = {.why = *why};
    (void)snprintf(word.name, sizeof word.name, "%s", name);
    if (why->code < 0)
        bg_log(&l->log, BG_LOG_ERROR, "snapshot: %s", why->text);
    say(l, LINK_DONE, &word, sizeof word, NULL, 0);
}

static void begin_snapshot(struct launcher *l, const char *request, size_t size)
{
    struct snapshots_files files = {.count = 0};
    struct bg_err err = {0};
    if (snapshots_begin(&l->snapshots, request, size, &files, &err) < 0) {
        snapshot_over(l, &err, "");
        return;
    }
    say(l, LINK_FILES, &files.said, sizeof files.said, files.fds, files.count);
    while (files.count > 0)
        (void)close(files.fds[--files.count]); /* the supervisor's copies are written */
}

static void take_snapshot(struct launcher *l, const struct link_taken *taken)
{
    struct bg_err err = {0};
    const uint8_t go_on = 0, end = 1;
    int r = snapshots_taken(&l->snapshots, taken, &err);
    if (r == 0 && l->snapshots.suspend) {
        l->suspended = true;
        (void)snprintf(l->reason, sizeof l->reason, "%s", l->snapshots.note);
        say(l, LINK_GO, &end, 1, NULL, 0);
        return;
    }
    if (r < 0 && taken->why.code == 0 && l->snapshots.active && !l->snapshots.suspend) {
        /* QEMU writes to a top that no file tells of: whatever it wrote would be lost. */
        bg_log(&l->log, BG_LOG_ERROR, "%s", err.text);
        l->child.why = err;
        l->child.ended = true;
        say(l, LINK_GO, &end, 1, NULL, 0);
        return;
    }
    say(l, LINK_GO, &go_on, 1, NULL, 0);
    if (r == 0)
        r = snapshots_finish(&l->snapshots, &err);
    if (r < 0) {
        snapshots_drop(&l->snapshots);
        snapshot_over(l, &err, "");
    }
}

/* ---- flattening ---- */

static void say_short(struct launcher *l, const struct bg_err *why)
{
    const struct link_short word = {.why = *why,
                                    .before = (uint32_t)l->shorten.before,
                                    .after = (uint32_t)l->source->disk.count};
    l->shorten.wanted = false;
    say(l, LINK_SHORT, &word, sizeof word, NULL, 0);
}

/* Errors: as flatten_begin. */
static int begin_flatten(struct launcher *l, struct bg_err *err)
{
    struct link_flatten said;
    int file;
    l->shorten.all = l->shorten.wanted;
    int r = flatten_begin(&l->flatten, l->shorten.all, &said, &file, err);
    if (r < 0)
        return r;
    said.bytes_per_s = flatten_plan_speed(l->source->disk.count, l->shorten.wanted);
    say(l, LINK_FLATTEN, &said, sizeof said, &file, 1);
    (void)close(file); /* QEMU fills its copy */
    return 0;
}

static void hurry_flatten(struct launcher *l)
{
    const struct link_flatten said = {
        .bytes_per_s = flatten_plan_speed(l->source->disk.count, l->shorten.wanted)};
    if (l->flatten.step == FLATTEN_COPYING && said.bytes_per_s == 0)
        say(l, LINK_FLATTEN, &said, sizeof said, NULL, 0);
}

/* It has come to an end, good or bad. */
static void flatten_over(struct launcher *l, const struct bg_err *why)
{
    struct bg_err err = {0};
    if (why->code < 0 && why->code != -ENODATA)
        bg_log(&l->log, BG_LOG_WARN, "the disk is not flattened: %s", why->text);
    if (!l->shorten.wanted)
        return;
    /* Who came while a smaller one was under way gets what was asked for. */
    if (why->code == 0 && !l->shorten.all) {
        if (begin_flatten(l, &err) == 0)
            return;
        why = &err;
    }
    const struct bg_err none = {0};
    say_short(l, why->code == -ENODATA ? &none : why);
}

/* Somebody asks for it and waits. */
static void shorten(struct launcher *l)
{
    struct bg_err err = {0};
    if (!l->shorten.wanted)
        l->shorten.before = l->source->disk.count;
    l->shorten.wanted = true;
    if (l->flatten.step != FLATTEN_NONE) {
        hurry_flatten(l);
        return;
    }
    int r = begin_flatten(l, &err);
    if (r < 0)
        flatten_over(l, &err);
}

/* A snapshot has made the disk longer. */
static void flatten_if_due(struct launcher *l)
{
    struct bg_err err = {0};
    if (l->flatten.step != FLATTEN_NONE) {
        hurry_flatten(l);
        return;
    }
    if (!flatten_plan_due(l->source->disk.count))
        return;
    int r = begin_flatten(l, &err);
    if (r < 0 && r != -ENODATA)
        bg_log(&l->log, BG_LOG_WARN, "%s", err.text);
}

/* QEMU has copied what is not going to be used. */
static void forget_flat(struct launcher *l, const struct bg_err *why)
{
    const uint8_t forget = 0;
    say(l, LINK_USE, &forget, 1, NULL, 0);
    flatten_over(l, why);
}

static void flatten_spoke(struct launcher *l, const struct bg_err *why)
{
    struct bg_err err = {0};
    if (l->flatten.step == FLATTEN_COPYING) {
        if (flatten_copied(&l->flatten, why, &err) == 0)
            return;
        if (why->code == 0)
            forget_flat(l, &err);
        else
            flatten_over(l, &err);
    } else if (l->flatten.step == FLATTEN_USING) {
        flatten_used(&l->flatten, why);
        flatten_over(l, why);
    }
}

static void flatten_is_synced(struct launcher *l)
{
    struct bg_err err = {0};
    if (flatten_synced(&l->flatten, &err) < 0)
        forget_flat(l, &err);
}

/* A snapshot that is under way knows the disk's layers by their places. */
static void put_flat(struct launcher *l)
{
    struct bg_err err = {0};
    const uint8_t use = 1;
    if (l->flatten.step != FLATTEN_READY || l->snapshots.active || l->child.ended)
        return;
    if (flatten_put(&l->flatten, &err) < 0)
        forget_flat(l, &err);
    else
        say(l, LINK_USE, &use, 1, NULL, 0);
}

static void snapshot_finished(struct launcher *l)
{
    struct link_done word = {.why.code = 0};
    snapshots_finished(&l->snapshots, &word);
    snapshot_over(l, &word.why, word.name);
    flatten_if_due(l);
}

static void say_idle(struct launcher *l)
{
    uint8_t message[8];
    struct bg_writer w = bg_writer_init(message, sizeof message);
    bg_writer_u64le(&w, l->lifetime.idle_suspend_s * 1000);
    say(l, LINK_IDLE, message, sizeof message, NULL, 0);
}

/* Its time is over. It is not suspended: nobody is to find it again. */
static void expire(struct launcher *l)
{
    if (!lifetime_is_over(&l->lifetime) || l->reason[0] != '\0')
        return;
    (void)snprintf(l->reason, sizeof l->reason, "its lifetime of %llu s is over",
                   (unsigned long long)l->lifetime.ttl_s);
    bg_log(&l->log, BG_LOG_INFO, "%s: it is stopped", l->reason);
    supervisor_child_stop(&l->child, STOP_GRACE_MS);
}

/* ---- a pool's member ---- */

static void end_member(struct launcher *l, const struct bg_err *why)
{
    member_end(&l->member);
    l->child.why = *why;
    l->child.ended = true; /* a reason that is better than what it will say */
    supervisor_child_stop(&l->child, 0);
}

static void wait_for_claim(struct launcher *l)
{
    struct bg_err err;
    if (l->member.state != MEMBER_STARTS)
        return; /* it has been told to end */
    if (member_wait(&l->member, l->opts->sandbox, &err) < 0)
        end_member(l, &err);
    else
        report_ready(l->opts->report, &(struct vm_timings){0});
}

/* Its proxy first: what the guest asks for from now on waits there. */
static void give_identity(struct launcher *l)
{
    const char *name = l->opts->sandbox->name;
    uint8_t message[1 + BG_SANDBOX_NAME_MAX];
    struct bg_err err = {0};
    int r = lifetime_open(l->opts->paths, l->opts->sandbox, &l->lifetime, &err);
    if (r == 0)
        r = start_proxy(l, &err);
    if (r < 0) {
        end_member(l, &err);
        return;
    }
    message[0] = LINK_CLAIM;
    memcpy(message + 1, name, strlen(name));
    if (bg_send_fd(l->child.link_fd, message, 1 + strlen(name), l->member.config_fd) < 0 &&
        l->child.pid != 0)
        (void)kill(l->child.pid, SIGKILL); /* our child, not reaped; it waits for this word */
    member_done(&l->member);
}

static void claimer_spoke(struct launcher *l)
{
    struct bg_err err = {0};
    int status_fd = -1, owner_fd = -1;
    switch (
        member_spoke(&l->member, l->opts->paths, l->opts->sandbox, &status_fd, &owner_fd, &err)) {
    case MEMBER_NOTHING:
        break;
    case MEMBER_IS_NAMED:
        if (l->owner_fd >= 0)
            (void)close(l->owner_fd); /* of the pool, which sees by that that it has it no more */
        l->owner_fd = -1;
        break;
    case MEMBER_GOES:
        l->owner_fd = owner_fd;
        *l->opts->report = (struct report){.fd = status_fd};
        give_identity(l);
        break;
    case MEMBER_ENDS:
        end_member(l, &err);
        break;
    }
}

/* Who claims it now would have something old. */
static void look_at_age(struct launcher *l)
{
    struct bg_err err;
    if (l->member.state != MEMBER_WAITS || l->member.claimer_fd >= 0 ||
        !member_is_stale(&l->member))
        return;
    (void)bg_err_set(&err, -ESTALE, "what it was made with has changed");
    end_member(l, &err);
}

static void supervisor_spoke(struct launcher *l)
{
    char message[SUPERVISOR_LINK_MAX];
    ssize_t n = supervisor_child_spoke(&l->child, message);
    struct bg_err err = {0};
    if (n == 1 + sizeof(struct vm_timings) && message[0] == LINK_READY) {
        struct vm_timings timings;
        memcpy(&timings, message + 1, sizeof timings);
        if (bg_sandbox_set_state(l->opts->sandbox, BG_SANDBOX_RUNNING, "", &err) < 0)
            bg_log(&l->log, BG_LOG_WARN, "%s", err.text);
        volumes_note_ready(l->volumes, &l->log);
        report_ready(l->opts->report, &timings);
        say_idle(l);
        /* Not every fork of a long disk shall have a copy of it, but one that could hardly have
         * snapshots any more shall. */
        if (l->source->disk.count > BG_FLATTEN_HURRY)
            flatten_if_due(l);
    } else if (n == 1 && message[0] == LINK_LOADED) {
        let_run(l);
    } else if (n == 1 && message[0] == LINK_HELD) {
        wait_for_claim(l);
    } else if (n == 1 && message[0] == LINK_RELOAD) {
        replace_proxy(l);
    } else if (n > 1 && message[0] == LINK_WANT) {
        begin_snapshot(l, message + 1, (size_t)n - 1);
    } else if (n == 1 + sizeof(struct link_taken) && message[0] == LINK_TAKEN) {
        struct link_taken taken;
        memcpy(&taken, message + 1, sizeof taken);
        take_snapshot(l, &taken);
    } else if (n == 1 && message[0] == LINK_SHORTEN) {
        shorten(l);
    } else if (n == 1 + sizeof(struct bg_err) && message[0] == LINK_COPIED) {
        struct bg_err why;
        memcpy(&why, message + 1, sizeof why);
        why.text[sizeof why.text - 1] = '\0';
        flatten_spoke(l, &why);
    }
}

static void signal_came(struct launcher *l)
{
    struct signalfd_siginfo info;
    if (read(l->signal_fd, &info, sizeof info) != sizeof info)
        return;
    if (info.ssi_signo == SIGCHLD) {
        reap(l);
        return;
    }
    member_end(&l->member);
    supervisor_child_stop(&l->child, STOP_GRACE_MS);
}

/* Until the supervisor is gone. */
static void watch(struct launcher *l)
{
    while (l->child.pid != 0) {
        struct pollfd fds[] = {{.fd = l->signal_fd, .events = POLLIN},
                               {.fd = l->child.link_fd, .events = POLLIN},
                               {.fd = l->owner_fd, .events = POLLIN},
                               {.fd = l->audit_fd, .events = POLLIN},
                               {.fd = l->snapshots.finisher_fd, .events = POLLIN},
                               {.fd = l->lifetime.timer_fd, .events = POLLIN},
                               {.fd = l->lifetime.watch_fd, .events = POLLIN},
                               {.fd = l->flatten.finisher_fd, .events = POLLIN},
                               {.fd = member_listen_fd(&l->member), .events = POLLIN},
                               {.fd = member_claimer_fd(&l->member), .events = POLLIN}};
        struct bg_err err;
        uint64_t now = bg_now_ms();
        bool member = l->member.state != MEMBER_NONE; /* nothing in it asks for anything */
        bool proxy_wanted =
            !member && l->proxy_pid == 0 && l->child.link_fd >= 0 && !l->child.ended;
        int timeout = member                  ? MEMBER_LOOK_MS
                      : !proxy_wanted         ? -1
                      : l->proxy_due_ms > now ? (int)(l->proxy_due_ms - now)
                                              : 0;
        if (timeout == 0) {
            if (start_proxy(l, &err) < 0) {
                bg_log(&l->log, BG_LOG_ERROR, "proxy: %s", err.text);
                l->proxy_due_ms = now + PROXY_BACKOFF_MAX_MS;
            }
            continue;
        }
        int n = poll(fds, sizeof fds / sizeof fds[0], timeout);
        if (n == 0)
            look_at_age(l);
        if (n <= 0)
            continue; /* EINTR; nothing else can be */
        if (fds[1].revents)
            supervisor_spoke(l);
        if (fds[7].revents)
            flatten_is_synced(l);
        if (fds[4].revents)
            snapshot_finished(l);
        put_flat(l);
        if (fds[2].revents) {
            /* The owner holds the other end and writes nothing: any event is its end. */
            l->owner_fd = -1;
            member_end(&l->member);
            supervisor_child_stop(&l->child, 0);
        }
        if (fds[9].revents && member_claimer_fd(&l->member) >= 0)
            claimer_spoke(l);
        if (fds[8].revents && member_listen_fd(&l->member) >= 0)
            member_accept(&l->member);
        if (fds[3].revents)
            answer_audit(l);
        if (fds[6].revents && lifetime_changed(&l->lifetime))
            say_idle(l);
        if (fds[5].revents)
            expire(l);
        if (fds[0].revents)
            signal_came(l);
    }
    while (l->child.link_fd >= 0 && !l->child.ended) { /* what it said before it died */
        struct pollfd fd = {.fd = l->child.link_fd, .events = POLLIN};
        if (poll(&fd, 1, 0) <= 0)
            break;
        supervisor_spoke(l);
    }
}

static void end_proxy(struct launcher *l)
{
    if (l->child.link_fd >= 0)
        (void)close(l->child.link_fd);
    l->child.link_fd = -1;
    close_audit(l); /* the last lines go where the others are */
    uint64_t deadline = bg_now_ms() + PROXY_EXIT_MS;
    while (l->proxy_pid != 0 || has_old_proxies(l)) {
        /* Its socket's other end died with the supervisor, so it is ending. */
        uint64_t now = bg_now_ms();
        struct pollfd fd = {.fd = l->signal_fd, .events = POLLIN};
        if (now >= deadline) {
            kill_proxies(l);
            deadline = now + PROXY_EXIT_MS;
        }
        if (poll(&fd, 1, (int)(deadline - now)) > 0)
            signal_came(l);
        reap(l);
    }
}

/* A supervisor that was killed leaves a QEMU that is being killed too, and is our child then. Until
 * it is gone it holds the disk: whoever finds the sandbox ended shall find nobody at its files. */
static void await_orphans(struct launcher *l)
{
    uint64_t deadline = bg_now_ms() + ORPHANS_EXIT_MS;
    for (;;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid > 0 || (pid < 0 && errno == EINTR))
            continue;
        if (pid < 0)
            return; /* no child is left */
        uint64_t now = bg_now_ms();
        struct pollfd fd = {.fd = l->signal_fd, .events = POLLIN};
        if (now >= deadline)
            break;
        struct signalfd_siginfo info;
        if (poll(&fd, 1, (int)(deadline - now)) > 0)
            (void)!read(l->signal_fd, &info, sizeof info); /* SIGCHLD; the others have been heard */
    }
    bg_log(&l->log, BG_LOG_ERROR, "a process of the supervisor's does not end");
}

static int open_log(const struct bg_sandbox *sandbox, const char *name, int *ret_fd,
                    struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/%s", sandbox->dir, name) < 0)
        return bg_err_errno(err, -ENOMEM, "%s", name);
    *ret_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    return *ret_fd < 0 ? bg_err_errno(err, -errno, "%s", path) : 0;
}

/* Starts the supervisor. As root every file is opened here: it could not. */
static int start_supervisor(struct launcher *l, struct bg_err *err)
{
    const struct bg_sandbox *sandbox = l->opts->sandbox;
    int console_fd = -1, control_fd = -1;
    int r = open_log(sandbox, "console.log", &console_fd, err);
    BG_AUTOCLOSE int console = console_fd;
    if (r == 0)
        r = bg_sandbox_listen(l->opts->paths, sandbox, &control_fd, err);
    BG_AUTOCLOSE int control = control_fd;
    if (r < 0)
        return r;
    struct supervisor_opts opts = {.sandbox = sandbox,
                                   .golden = &l->parts->golden,
                                   .qemu = &l->parts->qemu,
                                   .accel = l->parts->accel,
                                   .ca_pem = l->parts->ca_pem,
                                   .member = l->opts->member,
                                   .cold = l->parts->cold,
                                   .disk_fds = l->source->disk_fds,
                                   .disk_count = l->source->disk_count,
                                   .source = l->source->resumes ? l->source : NULL,
                                   .control_fd = control,
                                   .log_fd = l->log_fd,
                                   .console_fd = console,
                                   .owner_uid = geteuid()};
    int not_its[5 + sizeof l->volumes->locks / sizeof(int)] = {
        l->signal_fd, l->proxy_log_fd, l->opts->lock_fd, l->opts->owner_fd, l->opts->report->fd};
    memcpy(not_its + 5, l->volumes->locks, l->volumes->lock_count * sizeof(int));
    for (; opts.volume_count < l->volumes->count; opts.volume_count++)
        opts.volumes[opts.volume_count] = &l->volumes->list[opts.volume_count].its;
    r = supervisor_child_start(&l->child, &opts, not_its, 5 + l->volumes->lock_count, err);
    /* A file that we had open would stay when nobody needs it. */
    while (l->source->disk_count > 0)
        (void)close(l->source->disk_fds[--l->source->disk_count]);
    return r;
}

static void clean_up(struct launcher *l)
{
    const struct bg_sandbox *sandbox = l->opts->sandbox;
    BG_AUTOFREE char *socket_path = NULL;
    struct bg_err err = {0};
    if (asprintf(&socket_path, "%s/%s.sock", l->opts->paths->runtime, sandbox->id) >= 0)
        (void)unlink(socket_path); /* a dead socket only misleads; the next start replaces it */
    if (l->child.why.code < 0)
        bg_log(&l->log, BG_LOG_ERROR, "%s", l->child.why.text);
    if (l->child.why.code < 0)
        report_error(l->opts->report, &l->child.why);
    snapshots_drop(&l->snapshots);
    flatten_drop(&l->flatten);
    await_orphans(l);
    source_forget_memory(sandbox);
    enum bg_sandbox_state state = l->suspended ? BG_SANDBOX_SUSPENDED
                                  : l->child.why.code < 0 && l->child.why.code != -ETIME
                                      ? BG_SANDBOX_CRASHED
                                      : BG_SANDBOX_STOPPED;
    const char *reason =
        l->reason[0] != '\0' && state != BG_SANDBOX_CRASHED ? l->reason : l->child.why.text;
    int r = sandbox->ephemeral && !l->suspended
                ? bg_sandbox_remove(sandbox, &err)
                : bg_sandbox_set_state(sandbox, state, reason, &err);
    if (r < 0)
        bg_log(&l->log, BG_LOG_ERROR, "%s", err.text);
}

/* The background process. */
static void run(struct launcher *l)
{
    struct bg_err err = {0};
    int r = background_begin(&l->signal_fd, &err);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1); /* cannot fail: await_orphans() */
    if (r == 0)
        r = bg_sandbox_set_state(l->opts->sandbox, BG_SANDBOX_STARTING, "", &err);
    if (r == 0 && l->opts->member) /* before it can be claimed */
        r = member_begin(&l->member, l->opts->paths, l->parts, &err);
    else if (r == 0)
        r = lifetime_open(l->opts->paths, l->opts->sandbox, &l->lifetime, &err);
    if (r == 0)
        r = start_supervisor(l, &err);
    if (r < 0)
        l->child.why = err;
    else
        watch(l);
    end_proxy(l);
    lifetime_close(&l->lifetime);
    clean_up(l);
    member_done(&l->member); /* who claimed it hears of the end only now: its name is free */
}

static int check_lifetime(const struct bg_sandbox *sandbox, struct bg_err *err)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    if (sandbox->expires_ms == 0 || (uint64_t)now.tv_sec * 1000 < sandbox->expires_ms)
        return 0;
    return bg_err_set(err, -ETIME,
                      "its lifetime of %llu s is over; give it more: bellglass start --ttl 1h %s",
                      (unsigned long long)sandbox->ttl_s, sandbox->name);
}

int launcher_run(const struct launcher_opts *opts, struct bg_err *err)
{
    struct parts parts = {0};
    struct source source = {.state_fd = -1, .base_fd = -1};
    struct volumes volumes = {0};
    struct launcher l = {.opts = opts,
                         .parts = &parts,
                         .source = &source,
                         .volumes = &volumes,
                         .log = {.fd = -1, .level = BG_LOG_INFO, .tag = "launcher"},
                         .log_fd = -1,
                         .proxy_log_fd = -1,
                         .child.link_fd = -1,
                         .audit_fd = -1,
                         .lifetime = {.timer_fd = -1, .watch_fd = -1},
                         .member = {.listen_fd = -1, .claimer_fd = -1, .config_fd = -1},
                         .owner_fd = opts->owner_fd,
                         .signal_fd = -1};
    int r = check_lifetime(opts->sandbox, err);
    if (r == 0)
        r = parts_find(opts->paths, opts->sandbox->image_digest, &parts, err);
    if (r == 0)
        r = note_ca(opts, &parts, err);
    if (r == 0)
        r = volumes_take(opts->paths, opts->sandbox, &volumes, err);
    if (r == 0)
        r = choose_start(opts, &volumes, &parts, &source, err);
    if (r == 0)
        r = clear_memory(opts, &source, err);
    if (r == 0)
        r = source_open_disk(opts->sandbox, &parts.golden, &source, err);
    if (r == 0)
        r = open_log(opts->sandbox, "supervisor.log", &l.log_fd, err);
    if (r == 0)
        r = open_log(opts->sandbox, "proxy.log", &l.proxy_log_fd, err);
    l.log.fd = l.log_fd;
    l.snapshots_opts = (struct snapshots_opts){.paths = opts->paths,
                                               .sandbox = opts->sandbox,
                                               .golden = &parts.golden,
                                               .qemu = &parts.qemu,
                                               .accel = parts.accel,
                                               .cold = parts.cold,
                                               .source = &source};
    snapshots_init(&l.snapshots, &l.snapshots_opts);
    l.flatten_opts =
        (struct flatten_opts){.sandbox = opts->sandbox, .golden = &parts.golden, .source = &source};
    flatten_init(&l.flatten, &l.flatten_opts);
    pid_t pid = r < 0 ? -1 : fork();
    if (r == 0 && pid < 0)
        r = bg_err_errno(err, -errno, "fork");
    if (pid == 0) {
        run(&l);
        _exit(l.child.why.code < 0);
    }
    source_done(&source);
    volumes_done(&volumes);
    parts_done(&parts);
    const int fds[] = {l.log_fd, l.proxy_log_fd};
    for (size_t i = 0; i < 2; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]); /* the background process has its own */
    return r;
}

int launcher_golden(const struct bg_paths *paths, const char *image_name, unsigned cpus,
                    uint64_t memory_bytes, struct report *report, struct bg_err *err)
{
    struct parts parts = {0};
    int r = parts_find(paths, image_name, &parts, err);
    if (r == 0)
        r = parts_golden(paths, cpus, memory_bytes, report, &parts, err);
    parts_done(&parts);
    return r;
}
