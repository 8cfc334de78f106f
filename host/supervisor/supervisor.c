#include "host/supervisor/supervisor.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/state/pool.h"
#include "host/supervisor/child.h"
#include "host/supervisor/confine.h"
#include "host/supervisor/control.h"
#include "host/supervisor/disk_stream.h"
#include "host/supervisor/egress.h"
#include "host/supervisor/idle.h"
#include "host/supervisor/vm.h"
#include "host/supervisor/volume_mount.h"

#define SILENCE_MS(accel) ((accel) == ACCEL_KVM ? 15000u : 60000u)
#define DRAIN_MS          3000 /* for clients to read what is left when the guest has ended */
/* For the guest to read what opens a stream, or to resume it. */
#define PARK_MS(accel) ((accel) == ACCEL_KVM ? 10000u : 60000u)
#define FDS_MAX        8192 /* connections each way and clients, with room to spare */

struct supervisor {
    const struct supervisor_opts *opts;
    struct bg_log log;
    uv_loop_t loop;
    uv_poll_t link;
    struct vm *vm;
    struct control *control;
    struct egress *egress;
    int32_t proxy_pid;
    uint64_t started_ms;
    bool stopping;
    struct bg_err why;
    struct disk_stream *second; /* while the second disk is the agent's */
    uv_timer_t second_timer;    /* for it to be mounted, or unmounted */
    struct idle idle;
    uv_timer_t idle_timer; /* for the next look at it */
    uv_timer_t park_timer; /* for the streams to stand still before a snapshot */
    struct bg_err second_why;
    struct volume_mount *mounting; /* while the agent mounts the volumes */
    struct bg_sandbox claimed;     /* what a member has become */
    uint8_t *env;
    size_t env_size;
    struct {
        bool wanted;   /* a client waits for it */
        bool taken;    /* the VM is held */
        bool going_on; /* the guest is not there again yet */
        bool suspended;
        struct vm_snapshot_opts opts;
        bool parks;             /* the streams are about to stand still */
        unsigned unresumed;     /* of control and egress, those whose streams are not there again */
        uint64_t stop_after_ms; /* the grace of a stop that came meanwhile; 0: none */
        bool done;              /* the launcher has said what became of it */
        struct link_done word;
        int fds[LINK_FILES_MAX];
        size_t fd_count;
        uint64_t began_ms, streams_ms; /* how long the streams stood still */
        struct vm_snapshot_result result;
    } snapshot;
    struct {
        bool begins, uses, drops; /* when the guest is ready again */
        struct link_flatten said;
        int fd; /* the file that is filled; -1: none */
    } flatten;
};

static void stop_second(struct supervisor *s, uint64_t grace_ms);

/* ---- the launcher ---- */

static void tell(struct supervisor *s, char type, const void *bytes, size_t size)
{
    char message[SUPERVISOR_LINK_MAX];
    message[0] = type;
    if (size > 0)
        memcpy(message + 1, bytes, size);
    /* A launcher that is gone takes us with it; nothing else to do about a failure. */
    (void)send(s->opts->link_fd, message, size + 1, MSG_NOSIGNAL);
}

static bool has_root_volume(const struct supervisor *s)
{
    return s->opts->sandbox->root_volume[0] != '\0';
}

static void stop(void *owner, uint64_t grace_ms)
{
    struct supervisor *s = owner;
    if (!s->vm)
        return; /* it has ended already; those who wait are answered with the rest */
    if (s->second && grace_ms > 0) {
        stop_second(s, grace_ms);
        return;
    }
    /* What it has not written to its volumes yet would be lost; asked again, that is so. */
    if (s->opts->volume_count + has_root_volume(s) > 0 && !s->stopping && !s->second_why.code &&
        grace_ms < BG_VOLUME_GRACE_MS)
        grace_ms = BG_VOLUME_GRACE_MS;
    /* A guest that is asked during its snapshot would not hear it. */
    if (s->snapshot.wanted && !vm_is_ready(s->vm) && grace_ms > 0) {
        s->snapshot.stop_after_ms = grace_ms;
        return;
    }
    s->stopping = true;
    if (s->opts->second)
        vm_kill(s->vm); /* its disk is unmounted, or nobody waits for that */
    else
        vm_shutdown(s->vm, grace_ms);
}

static void reload(void *owner)
{
    tell(owner, LINK_RELOAD, NULL, 0);
}

/* ---- snapshots ---- */

static void close_files(struct supervisor *s)
{
    while (s->snapshot.fd_count > 0)
        (void)close(s->snapshot.fds[--s->snapshot.fd_count]); /* the launcher's to sync */
}

static void say_taken(struct supervisor *s, const struct bg_err *why)
{
    const struct link_taken word = {.why = *why,
                                    .dirty_bytes = s->snapshot.result.dirty_bytes,
                                    .written_bytes = s->snapshot.result.written_bytes,
                                    .next_stream = control_next_stream(s->control)};
    tell(s, LINK_TAKEN, &word, sizeof word);
}

/* Asked by a client. The launcher makes the files; LINK_FILES brings them. */
static int want_snapshot(void *owner, const char *request, size_t size, struct bg_err *err)
{
    struct supervisor *s = owner;
    if (s->opts->second)
        return bg_err_set(err, -EOPNOTSUPP, "a helper has no snapshots");
    /* The volume is another's next; memory that goes on later would believe in what it was. */
    if (s->opts->volume_count > 0 || has_root_volume(s))
        return bg_err_set(err, -EOPNOTSUPP,
                          "it has volumes, so it can neither be suspended nor forked, nor a "
                          "snapshot be taken of it; take one of a volume when it has ended: "
                          "bellglass volume snapshot");
    if (!s->vm || !vm_is_ready(s->vm) || s->stopping)
        return bg_err_set(err, -EAGAIN, "the guest is not ready, or on its way out");
    if (s->snapshot.wanted)
        return bg_err_set(err, -EBUSY, "another snapshot of it is under way");
    if (size > LINK_WANT_MAX)
        return bg_err_set(err, -E2BIG, "snapshot: request too long");
    s->snapshot.wanted = true;
    s->snapshot.taken = false;
    tell(s, LINK_WANT, request, size);
    return 0;
}

/* ---- flattening ---- */

static int want_flat(void *owner, struct bg_err *err)
{
    struct supervisor *s = owner;
    if (s->opts->second)
        return bg_err_set(err, -EOPNOTSUPP, "a helper has no disk of its own");
    if (has_root_volume(s))
        return bg_err_set(err, -EOPNOTSUPP, "its disk is a volume, which is not flattened");
    if (!s->vm || s->stopping || !(vm_is_ready(s->vm) || s->snapshot.wanted))
        return bg_err_set(err, -EAGAIN, "the guest is not ready, or on its way out");
    tell(s, LINK_SHORTEN, NULL, 0);
    return 0;
}

static void close_flat(struct supervisor *s)
{
    if (s->flatten.fd >= 0)
        (void)close(s->flatten.fd); /* the launcher's to sync */
    s->flatten.fd = -1;
}

static void flattened(void *owner, const struct bg_err *why)
{
    struct supervisor *s = owner;
    close_flat(s);
    if (why->code < 0)
        bg_log(&s->log, BG_LOG_WARN, "%s", why->text);
    tell(s, LINK_COPIED, why, sizeof *why);
}

/* What came while the guest stood for a snapshot is done when that is over. */
static void flatten_go_on(struct supervisor *s)
{
    if (!s->vm || !vm_is_ready(s->vm))
        return;
    vm_flatten_go_on(s->vm);
    if (s->flatten.uses || s->flatten.drops)
        vm_flatten_use(s->vm, s->flatten.uses);
    if (s->flatten.begins) {
        const struct vm_flatten_opts opts = {.fd = s->flatten.fd,
                                             .from = s->flatten.said.from,
                                             .count = s->flatten.said.count,
                                             .bytes_per_s = s->flatten.said.bytes_per_s};
        vm_flatten(s->vm, &opts);
    }
    s->flatten.begins = s->flatten.uses = s->flatten.drops = false;
}

static void take_flatten(struct supervisor *s, const struct link_flatten *said, int fd)
{
    if (fd < 0) {
        s->flatten.said.bytes_per_s = said->bytes_per_s;
        if (s->vm && !s->flatten.begins)
            vm_flatten_speed(s->vm, said->bytes_per_s);
        return;
    }
    close_flat(s);
    s->flatten.said = *said;
    s->flatten.fd = fd;
    s->flatten.begins = true;
    flatten_go_on(s);
}

static void take_use(struct supervisor *s, bool use)
{
    s->flatten.uses = use;
    s->flatten.drops = !use;
    flatten_go_on(s);
}

static void answer_flat(struct supervisor *s, const struct link_short *word)
{
    control_flat_done(s->control, word->why.code < 0
                                      ? json_pack("{s:b, s:i, s:s}", "ok", 0, "errno",
                                                  -word->why.code, "error", word->why.text)
                                      : json_pack("{s:b, s:i, s:i}", "ok", 1, "layers_before",
                                                  (int)word->before, "layers", (int)word->after));
}

/* ---- idleness ---- */

/* CPU time of QEMU: the kernel's clock of a process, whose number clock_getcpuclockid(3) makes of
 * its pid with a call that our filter has no place for. */
static uint64_t qemu_cpu_ms(const struct supervisor *s)
{
    struct timespec used = {0};
    clockid_t clock = (clockid_t)(~(unsigned)vm_qemu_pid(s->vm) << 3 | 2u);
    (void)clock_gettime(clock, &used); /* one that has just ended: nothing */
    return (uint64_t)used.tv_sec * 1000 + (uint64_t)used.tv_nsec / 1000000;
}

static uint64_t carried_bytes(const struct supervisor *s)
{
    return control_bytes(s->control) + egress_bytes(s->egress);
}

static void look_idle(uv_timer_t *timer)
{
    struct supervisor *s = timer->data;
    if (!s->vm || s->stopping)
        return;
    uint64_t now_ms = bg_now_ms(), bytes = carried_bytes(s), cpu_ms = qemu_cpu_ms(s);
    /* A snapshot is work, and until the guest is there it is at work. */
    if (!vm_is_ready(s->vm) || s->snapshot.wanted) {
        idle_start(&s->idle, s->idle.limit_ms, now_ms, bytes, cpu_ms);
        return;
    }
    if (!idle_look(&s->idle, now_ms, bytes, cpu_ms))
        return;
    char request[128];
    struct bg_err err;
    int n = snprintf(request, sizeof request,
                     "{\"op\":\"snapshot\",\"suspend\":true,\"note\":\"idle for %" PRIu64 " s\"}",
                     (now_ms - s->idle.since_ms) / 1000);
    bg_log(&s->log, BG_LOG_INFO, "idle for %" PRIu64 " s: it is suspended",
           (now_ms - s->idle.since_ms) / 1000);
    /* One that fails is tried again when the time is over again. */
    idle_start(&s->idle, s->idle.limit_ms, now_ms, bytes, cpu_ms);
    if (want_snapshot(s, request, (size_t)n, &err) < 0)
        bg_log(&s->log, BG_LOG_WARN, "%s", err.text);
}

static void set_idle(struct supervisor *s, uint64_t limit_ms)
{
    (void)uv_timer_stop(&s->idle_timer); /* cannot fail */
    if (!s->vm)
        return;
    idle_start(&s->idle, limit_ms, bg_now_ms(), carried_bytes(s), qemu_cpu_ms(s));
    uint64_t interval_ms = idle_interval_ms(&s->idle);
    if (limit_ms > 0)
        (void)uv_timer_start(&s->idle_timer, look_idle, interval_ms, interval_ms); /* not closing */
}

/* ---- a snapshot, step by step ---- */

/* Before anything was asked of the guest. */
static void give_up(struct supervisor *s, int code, const char *text)
{
    struct bg_err why;
    (void)bg_err_set(&why, code, "%s", text);
    close_files(s);
    control_go_on(s->control);
    egress_go_on(s->egress);
    say_taken(s, &why);
}

/* The streams stand still, so the guest may be asked to do the same. */
static void parked(void *owner)
{
    struct supervisor *s = owner;
    if (!s->snapshot.parks || !s->vm)
        return;
    s->snapshot.parks = false;
    (void)uv_timer_stop(&s->park_timer); /* cannot fail */
    if (s->stopping) {
        give_up(s, -EAGAIN, "the guest is on its way out");
        return;
    }
    vm_snapshot(s->vm, &s->snapshot.opts);
}

/* The guest does not read what opens a stream. */
static void park_late(uv_timer_t *timer)
{
    struct supervisor *s = timer->data;
    s->snapshot.parks = false;
    give_up(s, -ETIMEDOUT, "the agent does not take its streams");
}

static void take_files(struct supervisor *s, const struct link_files *files, const int *fds,
                       size_t count)
{
    struct vm_snapshot_opts opts = {.state_fd = -1, .memory_fd = -1, .overlay_fd = -1};
    size_t at = 0;
    memcpy(s->snapshot.fds, fds, count * sizeof *fds);
    s->snapshot.fd_count = count;
    if (files->state)
        opts.state_fd = fds[at++];
    if (files->memory)
        opts.memory_fd = fds[at++];
    if (files->top)
        opts.overlay_fd = fds[at++];
    for (; opts.fold_count < files->fold; opts.fold_count++)
        opts.fold[opts.fold_count] = fds[at++];
    for (; opts.previous_count < files->previous; opts.previous_count++)
        opts.previous[opts.previous_count] = fds[at++];
    if (!s->vm || !vm_is_ready(s->vm) || s->stopping) {
        give_up(s, -EAGAIN, "the guest has become busy or has ended");
        return;
    }
    s->snapshot.began_ms = bg_now_ms();
    s->snapshot.result = (struct vm_snapshot_result){0};
    s->snapshot.opts = opts;
    s->snapshot.parks = true;
    egress_park(s->egress);
    (void)uv_timer_start(&s->park_timer, park_late, PARK_MS(s->opts->accel), 0); /* not closing */
    if (control_park(s->control))
        parked(s);
}

static void held(void *owner, const struct bg_err *why, const struct vm_snapshot_result *result)
{
    struct supervisor *s = owner;
    s->snapshot.result = *result;
    s->snapshot.taken = true;
    close_files(s);
    say_taken(s, why);
}

/* Once it is known what became of it and the guest goes on. */
static void answer_snapshot(struct supervisor *s)
{
    const struct link_done *done = &s->snapshot.word;
    if (!s->snapshot.done || s->snapshot.going_on)
        return;
    s->snapshot.wanted = s->snapshot.done = false;
    json_t *answer = done->why.code < 0
                         ? json_pack("{s:b, s:i, s:s}", "ok", 0, "errno", -done->why.code, "error",
                                     done->why.text)
                         : json_pack("{s:b, s:s, s:f, s:I, s:I, s:I}", "ok", 1, "name", done->name,
                                     "pause_ms", (double)s->snapshot.result.pause_us / 1000,
                                     "stream_pause_ms", (json_int_t)s->snapshot.streams_ms,
                                     "dirty_bytes", (json_int_t)s->snapshot.result.dirty_bytes,
                                     "written_bytes", (json_int_t)s->snapshot.result.written_bytes);
    control_snapshot_done(s->control, answer);
}

static void streams_go_on(struct supervisor *s);

/* The agent does not say what it has of a stream: that one ends. */
static void resume_late(uv_timer_t *timer)
{
    struct supervisor *s = timer->data;
    if (s->snapshot.unresumed == 0 || !s->vm)
        return;
    bg_log(&s->log, BG_LOG_WARN, "the agent does not resume its streams; ending them");
    s->snapshot.unresumed = 0;
    streams_go_on(s);
}

static void runs_again(void *owner)
{
    struct supervisor *s = owner;
    s->snapshot.result = *vm_snapshot_result(s->vm);
    s->snapshot.unresumed = s->snapshot.result.unplugged ? 2 : 0;
    if (s->snapshot.unresumed > 0) {
        (void)uv_timer_start(&s->park_timer, resume_late, PARK_MS(s->opts->accel),
                             0); /* not closing */
        bool control = control_resume(s->control, vm_vsock(s->vm));
        bool egress = egress_resume(s->egress, vm_vsock(s->vm));
        s->snapshot.unresumed -= (unsigned)control + (unsigned)egress;
    }
    if (s->snapshot.unresumed == 0)
        streams_go_on(s);
}

static void resumed(void *owner)
{
    struct supervisor *s = owner;
    if (s->snapshot.unresumed > 0 && --s->snapshot.unresumed == 0 && s->vm)
        streams_go_on(s);
}

static void streams_go_on(struct supervisor *s)
{
    (void)uv_timer_stop(&s->park_timer); /* cannot fail */
    if (s->snapshot.result.unplugged)
        vm_resumed(s->vm);
    control_go_on(s->control);
    egress_go_on(s->egress);
    s->snapshot.streams_ms = bg_now_ms() - s->snapshot.began_ms;
    s->snapshot.going_on = false;
    flatten_go_on(s);
    answer_snapshot(s);
    if (s->snapshot.stop_after_ms > 0)
        stop(s, s->snapshot.stop_after_ms);
}

/* The launcher's word on the VM that is held. */
static void go(struct supervisor *s, bool end)
{
    if (!s->vm || !s->snapshot.taken)
        return; /* it has not begun, or has ended meanwhile */
    s->snapshot.taken = false;
    if (!end) {
        s->snapshot.going_on = true;
        vm_go_on(s->vm);
        return;
    }
    /* QEMU has written all when it stopped; it shall write no more. */
    s->stopping = true;
    s->snapshot.suspended = true;
    vm_kill(s->vm);
}

static void snapshot_done(struct supervisor *s, const struct link_done *done)
{
    if (!s->snapshot.wanted)
        return;
    s->snapshot.word = *done;
    s->snapshot.done = true;
    answer_snapshot(s);
}

static void loaded(void *owner)
{
    tell(owner, LINK_LOADED, NULL, 0);
}

static void held_for_claim(void *owner)
{
    tell(owner, LINK_HELD, NULL, 0);
}

static void claim(struct supervisor *s, const uint8_t *name, size_t size, int config_fd);

static void link_readable(uv_poll_t *poll, int status, int events)
{
    struct supervisor *s = poll->data;
    uint8_t message[1 + sizeof(struct link_done)];
    int fds[BG_RECV_FDS_MAX];
    size_t fd_count = 0;
    (void)events;
    ssize_t n =
        status < 0 ? 0 : bg_recv_fds(s->opts->link_fd, message, sizeof message, fds, &fd_count);
    if (n <= 0) {
        (void)uv_poll_stop(&s->link); /* cannot fail */
        stop(s, 0);
        return;
    }
    struct bg_reader in = bg_reader_init(message + 1, (size_t)n - 1);
    if (message[0] == LINK_PROXY && fd_count == 1) {
        s->proxy_pid = (int32_t)bg_reader_u32le(&in);
        egress_set_proxy(s->egress, fds[0]);
        fd_count = 0;
    } else if (message[0] == LINK_STOP) {
        stop(s, bg_reader_u64le(&in));
    } else if (message[0] == LINK_RUN && s->vm) {
        vm_run(s->vm);
    } else if (message[0] == LINK_CLAIM && fd_count == 1 && s->vm && !s->stopping) {
        claim(s, message + 1, (size_t)n - 1, fds[0]);
    } else if (message[0] == LINK_FILES && n == 1 + (ssize_t)sizeof(struct link_files)) {
        struct link_files files;
        memcpy(&files, message + 1, sizeof files);
        take_files(s, &files, fds, fd_count);
        fd_count = 0;
    } else if (message[0] == LINK_IDLE) {
        set_idle(s, bg_reader_u64le(&in));
    } else if (message[0] == LINK_FLATTEN && n == 1 + (ssize_t)sizeof(struct link_flatten)) {
        struct link_flatten said;
        memcpy(&said, message + 1, sizeof said);
        take_flatten(s, &said, fd_count > 0 ? fds[--fd_count] : -1);
    } else if (message[0] == LINK_USE && n == 2) {
        take_use(s, message[1]);
    } else if (message[0] == LINK_SHORT && n == 1 + (ssize_t)sizeof(struct link_short)) {
        struct link_short word;
        memcpy(&word, message + 1, sizeof word);
        answer_flat(s, &word);
    } else if (message[0] == LINK_GO && n == 2) {
        go(s, message[1]);
    } else if (message[0] == LINK_DONE && n == 1 + (ssize_t)sizeof(struct link_done)) {
        struct link_done done;
        memcpy(&done, message + 1, sizeof done);
        snapshot_done(s, &done);
    }
    while (fd_count > 0)
        (void)close(fds[--fd_count]); /* not asked for */
}

/* ---- the control socket ---- */

static struct vsock_device *ready_device(void *owner)
{
    struct supervisor *s = owner;
    return s->vm && vm_is_ready(s->vm) && !s->stopping ? vm_vsock(s->vm) : NULL;
}

static json_t *status(void *owner)
{
    struct supervisor *s = owner;
    bool ready = s->vm && vm_is_ready(s->vm);
    const struct vm_timings none = {0}, *t = s->vm ? vm_timings(s->vm) : &none;
    return json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:s, s:b, s:I, s:I, s:{s:I, s:I, s:I, s:I}, s:I, s:I}", "state",
        s->stopping                   ? "stopping"
        : ready || s->snapshot.wanted ? "running"
                                      : "starting",
        "launcher_pid", (int)getppid(), "supervisor_pid", (int)getpid(), "qemu_pid",
        s->vm ? (int)vm_qemu_pid(s->vm) : 0, "proxy_pid", (int)s->proxy_pid, "accel",
        accel_name(s->opts->accel), "cold", (int)s->opts->cold, "uptime_ms",
        (json_int_t)(bg_now_ms() - s->started_ms), "agent_silent_ms",
        (json_int_t)(ready ? vm_silent_ms(s->vm) : 0), "timings", "monitor_ms",
        (json_int_t)t->monitor_ms, "running_ms", (json_int_t)t->running_ms, "connected_ms",
        (json_int_t)t->connected_ms, "ready_ms", (json_int_t)t->ready_ms, "streams",
        (json_int_t)control_streams(s->control), "egress_streams",
        (json_int_t)egress_streams(s->egress));
}

/* The guest is gone, and a client does not read what it had to say. */
static void drain_late(uv_timer_t *timer)
{
    struct supervisor *s = timer->data;
    if (s->control)
        control_cut(s->control);
}

static void control_closed(void *owner)
{
    struct supervisor *s = owner;
    s->control = NULL;
    uv_close((uv_handle_t *)&s->park_timer, NULL);
    uv_close((uv_handle_t *)&s->link, NULL);
}

/* ---- a second disk ---- */

static void second_ended(void *owner, const struct bg_err *why)
{
    struct supervisor *s = owner;
    s->second = NULL;
    if (!s->vm || !vm_is_ready(s->vm) || s->second_why.code < 0)
        return; /* it goes with the VM, whose end has a reason of its own */
    s->second_why = *why;
    stop(s, 0);
}

static void second_mounted(void *owner)
{
    struct supervisor *s = owner;
    if (s->stopping)
        return;
    (void)uv_timer_stop(&s->second_timer); /* cannot fail */
    tell(s, LINK_READY, vm_timings(s->vm), sizeof(struct vm_timings));
}

static void second_late(uv_timer_t *timer)
{
    struct supervisor *s = timer->data;
    if (!s->vm)
        return;
    (void)bg_err_set(&s->second_why, -ETIME, "the disk was not %s in time",
                     s->stopping ? "unmounted" : "mounted");
    stop(s, 0);
}

static void open_second(struct supervisor *s)
{
    const struct disk_stream_opts opts = {.device = vm_vsock(s->vm),
                                          .flags = s->opts->second->flags,
                                          .serial = QEMU_SECOND_SERIAL,
                                          .on_mounted = second_mounted,
                                          .on_ended = second_ended,
                                          .owner = s};
    if (disk_stream_open(&opts, &s->second, &s->second_why) < 0)
        stop(s, 0);
    else
        (void)uv_timer_start(&s->second_timer, second_late, BG_DISK_MOUNT_MS, 0); /* not closing */
}

static void stop_second(struct supervisor *s, uint64_t grace_ms)
{
    if (!s->stopping)
        disk_stream_finish(s->second);
    s->stopping = true;
    (void)uv_timer_start(&s->second_timer, second_late, grace_ms, 0); /* not closing */
}

/* ---- volumes ---- */

static const char *volume_path(void *owner, size_t index)
{
    const struct supervisor *s = owner;
    return s->opts->volumes[index]->path;
}

static uint32_t volume_flags(void *owner, size_t index)
{
    const struct supervisor *s = owner;
    return s->opts->volumes[index]->flags;
}

static void volumes_mounted(void *owner, const struct bg_err *why)
{
    struct supervisor *s = owner;
    s->mounting = NULL;
    (void)uv_timer_stop(&s->second_timer); /* cannot fail */
    if (!s->vm || !vm_is_ready(s->vm) || s->stopping)
        return; /* it goes with the VM, whose end has a reason of its own */
    if (why->code < 0) {
        s->second_why = *why;
        stop(s, 0);
    } else {
        tell(s, LINK_READY, vm_timings(s->vm), sizeof(struct vm_timings));
    }
}

static void mount_volumes(struct supervisor *s)
{
    const struct volume_mount_opts opts = {.device = vm_vsock(s->vm),
                                           .count = s->opts->volume_count,
                                           .path = volume_path,
                                           .flags = volume_flags,
                                           .on_done = volumes_mounted,
                                           .owner = s};
    if (volume_mount_open(&opts, &s->mounting, &s->second_why) < 0)
        stop(s, 0);
    else
        (void)uv_timer_start(&s->second_timer, second_late, BG_DISK_MOUNT_MS, 0); /* not closing */
}

/* ---- the VM ---- */

static void ready(void *owner, const struct vm_timings *timings)
{
    struct supervisor *s = owner;
    free(s->env); /* the identity has been sent */
    s->env = NULL;
    if (s->opts->second)
        open_second(s);
    else if (s->opts->volume_count > 0)
        mount_volumes(s);
    else
        tell(s, LINK_READY, timings, sizeof *timings);
}

static void asked(void *owner, struct vsock_conn *conn, uint32_t host_port)
{
    struct supervisor *s = owner;
    /* What it asks for on the way to a snapshot goes on after it. */
    bool heard = s->vm && !s->stopping && (vm_is_ready(s->vm) || s->snapshot.wanted);
    if (host_port == BG_VSOCK_EGRESS_PORT && heard)
        egress_take(s->egress, conn);
    else
        vsock_reset(conn);
}

static void ended(void *owner, const struct bg_err *why)
{
    struct supervisor *s = owner;
    s->vm = NULL;
    control_go_on(s->control); /* what was to be resumed ends */
    egress_go_on(s->egress);
    s->why = s->second_why.code < 0 ? s->second_why : *why;
    uv_close((uv_handle_t *)&s->second_timer, NULL);
    uv_close((uv_handle_t *)&s->idle_timer, NULL);
    (void)uv_timer_start(&s->park_timer, drain_late, DRAIN_MS, 0); /* not closing */
    if (s->snapshot.wanted && s->snapshot.suspended)
        control_snapshot_done(s->control, json_pack("{s:b}", "ok", 1));
    else if (s->snapshot.wanted)
        control_snapshot_done(s->control,
                              json_pack("{s:b, s:i, s:s}", "ok", 0, "errno", ECONNRESET, "error",
                                        "the sandbox ended while its snapshot was taken"));
    control_flat_done(s->control,
                      json_pack("{s:b, s:i, s:s}", "ok", 0, "errno", ECONNRESET, "error",
                                "the sandbox ended while its disk was flattened"));
    close_flat(s);
    control_stopped(s->control, s->why.code == 0);
    control_close(s->control);
}

/* The environment of every exec: what the user asked for, then the placeholders. */
static int build_env(struct supervisor *s, const struct bg_sandbox *sandbox, uint32_t *ret_count,
                     struct bg_err *err)
{
    s->env = malloc(BG_IDENTITY_SIZE_MAX);
    if (!s->env)
        return bg_err_errno(err, -ENOMEM, "environment");
    struct bg_writer w = bg_writer_init(s->env, BG_IDENTITY_SIZE_MAX);
    for (size_t i = 0; i < sandbox->env_count; i++)
        bg_writer_text32le(&w, sandbox->env[i]);
    for (size_t i = 0; i < sandbox->secret_count; i++) {
        char text[BG_NAME_MAX + sizeof sandbox->secrets[0].placeholder + 2];
        int n = snprintf(text, sizeof text, "%s=%s", sandbox->secrets[i].name,
                         sandbox->secrets[i].placeholder);
        if (n < 0 || (size_t)n >= sizeof text)
            return bg_err_set(err, -ENAMETOOLONG, "secret %s", sandbox->secrets[i].name);
        bg_writer_text32le(&w, text);
    }
    if (!bg_writer_ok(&w))
        return bg_err_set(err, -E2BIG, "environment of over %d bytes", BG_IDENTITY_SIZE_MAX);
    s->env_size = w.used;
    *ret_count = (uint32_t)(sandbox->env_count + sandbox->secret_count);
    return 0;
}

/* The environment lives until READY. */
static int build_identity(struct supervisor *s, const struct bg_sandbox *sandbox,
                          struct bg_identity *ret, struct bg_err *err)
{
    struct bg_identity identity = {.ca_pem = (const uint8_t *)s->opts->ca_pem,
                                   .ca_pem_size = strlen(s->opts->ca_pem)};
    int r = build_env(s, sandbox, &identity.envc, err);
    if (r < 0)
        return r;
    identity.env = s->env;
    identity.env_size = s->env_size;
    bg_sandbox_machine_id(sandbox, identity.machine_id);
    (void)snprintf(identity.hostname, sizeof identity.hostname, "%s", sandbox->name);
    (void)snprintf(identity.sandbox_id, sizeof identity.sandbox_id, "%s", sandbox->id);
    *ret = identity;
    return 0;
}

/* size: of the name, which has no NUL. */
static int read_claim(const uint8_t *name, size_t size, int fd, struct bg_sandbox *ret,
                      struct bg_err *err)
{
    char text[BG_SANDBOX_NAME_MAX + 1];
    if (size >= sizeof text)
        return bg_err_errno(err, -ENAMETOOLONG, "claim");
    memcpy(text, name, size);
    text[size] = '\0';
    return bg_pool_read_claim(fd, text, ret, err);
}

/* The member is somebody's, and gets its first identity. */
static void claim(struct supervisor *s, const uint8_t *name, size_t size, int config_fd)
{
    struct bg_identity identity;
    int r = s->claimed.name ? bg_err_set(&s->second_why, -EALREADY, "claimed twice")
                            : read_claim(name, size, config_fd, &s->claimed, &s->second_why);
    if (r == 0)
        r = build_identity(s, &s->claimed, &identity, &s->second_why);
    if (r < 0)
        stop(s, 0);
    else
        vm_identify(s->vm, &identity);
}

static int start_vm(struct supervisor *s, struct bg_err *err)
{
    const struct supervisor_opts *o = s->opts;
    unsigned uid, gid;
    bg_runner_ids(&uid, &gid);
    struct vm_opts vm = {
        .qemu = {.path = o->qemu->path,
                 .name = o->member ? o->sandbox->id : o->sandbox->name,
                 .accel = o->accel,
                 .cpus = o->sandbox->cpus,
                 .memory_bytes = o->sandbox->memory_bytes,
                 .memory_fd = o->golden->memory_fd, /* none when cold: see below */
                 .state_fd = o->cold     ? -1
                             : o->source ? o->source->state_fd
                                         : o->golden->state_fd,
                 .kernel_fd = o->cold ? o->golden->kernel_fd : -1,
                 .initrd_fd = o->cold ? o->golden->initrd_fd : -1,
                 .cmdline = GOLDEN_CMDLINE,
                 .log_fd = o->log_fd,
                 .uid = uid,
                 .gid = gid},
        .log = &s->log,
        .console_fd = o->console_fd,
        .ready_timeout_ms = golden_ready_timeout_ms(o->accel),
        .silence_timeout_ms = SILENCE_MS(o->accel),
        .on_loaded = o->second ? NULL : loaded, /* a helper has nothing to be careful with */
        .on_ready = ready,
        .on_held = o->member ? held_for_claim : NULL,
        .on_request = asked,
        .on_snapshot = held,
        .on_again = runs_again,
        .on_flattened = flattened,
        .on_ended = ended,
        .owner = s,
    };
    int r = o->member ? 0 : build_identity(s, o->sandbox, &vm.identity, err);
    if (r < 0)
        return r;
    memcpy(vm.qemu.disk_fds, o->disk_fds, o->disk_count * sizeof *o->disk_fds);
    vm.qemu.disk_count = o->disk_count;
    vm.qemu.disk_fds[vm.qemu.disk_count++] = o->golden->disk_fd;
    vm.qemu.disk_fds[vm.qemu.disk_count++] = o->golden->base_fd;
    if (o->source) {
        vm.identity.flags |= BG_IDENTITY_AGAIN;
        vm.qemu.memory_base_none = o->source->snapshot.memory_base_none;
        if (vm.qemu.memory_base_none)
            vm.qemu.memory_fd = o->source->base_fd;
        for (size_t i = 0; i < o->source->mapped_count; i++)
            vm.qemu.memory_layer_fds[vm.qemu.memory_layer_count++] = o->source->memory[i].fd;
    }
    BG_AUTOCLOSE int fresh_memory = -1;
    if (o->cold) {
        /* vhost-user takes RAM only from a file that is shared; this one has no name. */
        fresh_memory = memfd_create("guest-ram", MFD_CLOEXEC);
        if (fresh_memory < 0 || ftruncate(fresh_memory, (off_t)o->sandbox->memory_bytes) < 0)
            return bg_err_errno(err, -errno, "guest memory");
        vm.qemu.memory_fd = fresh_memory;
        vm.qemu.memory_shared = true;
    }
    if (o->second) {
        memcpy(vm.qemu.second_fds, o->second->fds, sizeof vm.qemu.second_fds);
        vm.qemu.second_count = o->second->count;
    }
    for (size_t i = 0; i < o->volume_count; i++) {
        vm.qemu.volumes[i].fds = o->volumes[i]->fds;
        vm.qemu.volumes[i].count = o->volumes[i]->count;
    }
    vm.qemu.volume_count = o->volume_count;
    r = qemu_confine_files(&vm.qemu, err);
    if (r == 0)
        r = vm_open(&s->loop, &vm, &s->vm, err);
    /* QEMU has them now. A file that we had open would stay when nobody needs it. */
    for (size_t i = 0; i < o->disk_count; i++)
        (void)close(o->disk_fds[i]);
    if (r == 0)
        r = confine_drop_root(uid, gid, err);
    if (r == 0)
        r = confine_supervisor(vm_qemu_pid(s->vm), err);
    return r;
}

/* Ids go on where they were: the guest may know streams of before. */
static uint32_t opts_next_stream(const struct supervisor_opts *opts)
{
    return opts->source ? opts->source->snapshot.next_stream : 0;
}

static int start(struct supervisor *s, struct bg_err *err)
{
    struct control_opts control = {.listen_fd = s->opts->control_fd,
                                   .uid = s->opts->owner_uid,
                                   .log = &s->log,
                                   .vsock = ready_device,
                                   .status = status,
                                   .stop = stop,
                                   .reload = reload,
                                   .snapshot = want_snapshot,
                                   .flatten = want_flat,
                                   .next_stream = opts_next_stream(s->opts),
                                   .on_parked = parked,
                                   .on_resumed = resumed,
                                   .on_closed = control_closed,
                                   .owner = s};
    int r = uv_loop_init(&s->loop);
    if (r < 0)
        return bg_err_set(err, r, "event loop: %s", uv_strerror(r));
    r = uv_poll_init(&s->loop, &s->link, s->opts->link_fd);
    if (r < 0)
        return bg_err_set(err, r, "launcher's socket: %s", uv_strerror(r));
    s->link.data = s;
    (void)uv_timer_init(&s->loop, &s->second_timer); /* cannot fail */
    s->second_timer.data = s;
    (void)uv_timer_init(&s->loop, &s->idle_timer); /* cannot fail */
    s->idle_timer.data = s;
    (void)uv_timer_init(&s->loop, &s->park_timer); /* cannot fail */
    s->park_timer.data = s;
    r = egress_open(&s->loop, &s->log, &s->egress, err);
    if (r == 0)
        egress_on_resumed(s->egress, resumed, s);
    if (r == 0)
        r = control_open(&s->loop, &control, &s->control, err);
    if (r == 0)
        r = start_vm(s, err);
    if (r == 0)
        (void)uv_poll_start(&s->link, UV_READABLE, link_readable); /* a live handle */
    return r;
}

int supervisor_run(const struct supervisor_opts *opts)
{
    struct supervisor s = {.opts = opts,
                           .log = {.fd = opts->log_fd, .level = BG_LOG_INFO, .tag = "supervisor"},
                           .started_ms = bg_now_ms(),
                           .flatten.fd = -1};
    struct rlimit fds;
    (void)signal(SIGPIPE, SIG_IGN);         /* cannot fail */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* the launcher's socket tells the same */
    if (getrlimit(RLIMIT_NOFILE, &fds) == 0 && fds.rlim_cur < FDS_MAX) {
        fds.rlim_cur = fds.rlim_max < FDS_MAX ? fds.rlim_max : FDS_MAX;
        (void)setrlimit(RLIMIT_NOFILE, &fds); /* fewer connections, then */
    }
    if (getenv("BELLGLASS_DEBUG"))
        s.log.level = BG_LOG_DEBUG;
    int r = start(&s, &s.why);
    if (r < 0) {
        bg_log(&s.log, BG_LOG_ERROR, "%s", s.why.text);
        tell(&s, LINK_ENDED, &s.why, sizeof s.why);
        return 1; /* QEMU, if it runs, dies with us */
    }
    (void)uv_run(&s.loop, UV_RUN_DEFAULT); /* until the last handle is closed */
    (void)uv_loop_close(&s.loop);          /* a handle left open is of no matter now */
    egress_free(s.egress);
    bg_sandbox_done(&s.claimed);
    if (s.why.code < 0)
        bg_log(&s.log, BG_LOG_ERROR, "%s", s.why.text);
    tell(&s, LINK_ENDED, &s.why, sizeof s.why);
    return 0;
}
