#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/io.h"
#include "common/quote.h"
#include "host/supervisor/vm_private.h"

#define POLL_MS         2    /* between looks at a condition that sends no event */
#define RECONNECT_MS    10   /* between tries to reach an agent that does not listen yet */
#define CONNECT_MS      1000 /* for an answer to the first request; then more, for slow guests */
#define CONNECT_MS_MAX  60000
#define PING_MS         2000
#define LAST_WORD_MS    1000  /* for QEMU to end after the session did: its exit tells why */
#define EXIT_MS         30000 /* likewise, when it has said that it ends */
#define DISK_ERRORS_MAX 20
#define DRIVER_PINGS    3 /* that may find no driver: a guest that powers off ends in that time */
#define OUT_MAX         (BG_IDENTITY_SIZE_MAX + 64 * 1024) /* bytes to the agent not yet taken */

static void connect_agent(struct vm *vm);

/* ---- the end ---- */

static void finish_if_done(struct vm *vm)
{
    if (vm->state != VM_ENDING || vm->pid != 0 || vm->open_handles > 0)
        return;
    void (*on_ended)(void *, const struct bg_err *) = vm->opts.on_ended;
    void *owner = vm->opts.owner;
    struct bg_err why = vm->why;
    free(vm->out);
    if (vm->pagemap_fd >= 0)
        (void)close(vm->pagemap_fd); /* only read from */
    if (vm->shared_memory_fd >= 0)
        (void)close(vm->shared_memory_fd); /* a copy; RAM without a disk below it */
    free(vm);
    on_ended(owner, &why);
}

static void handle_closed(uv_handle_t *handle)
{
    struct vm *vm = handle->data;
    vm->open_handles--;
    finish_if_done(vm);
}

static void part_closed(void *owner)
{
    struct vm *vm = owner;
    vm->open_handles--;
    finish_if_done(vm);
}

static void console_closed(uv_handle_t *handle)
{
    struct vm *vm = handle->data;
    (void)close(vm->console_in); /* only read from */
    handle_closed(handle);
}

void vm_end(struct vm *vm, const struct bg_err *why)
{
    if (vm->state == VM_ENDING)
        return;
    vm->state = VM_ENDING;
    if (why)
        vm->why = *why;
    if (vm->pid != 0)
        (void)kill(vm->pid, SIGKILL); /* our child, not reaped: the pid is its own */
    else
        uv_close((uv_handle_t *)&vm->child, handle_closed);
    if (vm->vsock)
        vsock_device_close(vm->vsock);
    vm->vsock = NULL;
    if (vm->qmp)
        qmp_close(vm->qmp);
    vm->qmp = NULL;
    uv_close((uv_handle_t *)&vm->deadline, handle_closed);
    uv_close((uv_handle_t *)&vm->retry, handle_closed);
    uv_close((uv_handle_t *)&vm->ping, handle_closed);
    uv_close((uv_handle_t *)&vm->console, console_closed);
}

static void child_changed(uv_signal_t *handle, int signal_number)
{
    struct vm *vm = handle->data;
    int status;
    (void)signal_number;
    if (vm->pid == 0 || waitpid(vm->pid, &status, WNOHANG) != vm->pid)
        return;
    vm->pid = 0;
    bg_fault_child(0);
    if (vm->state == VM_ENDING) {
        uv_close((uv_handle_t *)&vm->child, handle_closed);
        return;
    }
    struct bg_err why = {0}; /* vm_end() closes the device before the pid can be another's */
    bool clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (WIFSIGNALED(status))
        (void)bg_err_set(&why, -EIO, "QEMU was killed by signal %d (%s)", WTERMSIG(status),
                         strsignal(WTERMSIG(status)));
    else if (!clean)
        (void)bg_err_set(&why, -EIO, "QEMU ended with status %d; see the sandbox's supervisor.log",
                         WEXITSTATUS(status));
    else if (vm->guest_reset)
        (void)bg_err_set(&why, -EIO,
                         "the guest's kernel panicked or rebooted; see its console.log");
    else if (vm->state < VM_READY)
        (void)bg_err_set(&why, -EIO, "the guest ended before it was ready; see its console.log");
    vm_end(vm, why.code < 0 ? &why : NULL);
}

/* ---- console ---- */

static void console_readable(uv_poll_t *poll, int status, int events)
{
    struct vm *vm = poll->data;
    char bytes[4096];
    (void)events;
    ssize_t n = status < 0 ? 0 : recv(vm->console_in, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        (void)uv_poll_stop(&vm->console); /* cannot fail */
        return;
    }
    size_t keep = vm->console_bytes < VM_CONSOLE_MAX ? VM_CONSOLE_MAX - vm->console_bytes : 0;
    if (keep > (size_t)n)
        keep = (size_t)n;
    vm->console_bytes += keep;
    if (vm->opts.console_fd >= 0 && keep > 0 && bg_write_full(vm->opts.console_fd, bytes, keep) < 0)
        vm->opts.console_fd = -1; /* a full disk must not stop the guest */
    if (vm->console_bytes == VM_CONSOLE_MAX && keep > 0)
        bg_log(vm->opts.log, BG_LOG_WARN, "console: over %d bytes, dropping the rest",
               VM_CONSOLE_MAX);
}

/* ---- session ---- */

static void flush_out(struct vm *vm)
{
    if (!vm->agent || !vm->agent_open || vm->out_size == 0)
        return;
    size_t n = vsock_write(vm->agent, vm->out, vm->out_size);
    memmove(vm->out, vm->out + n, vm->out_size - n);
    vm->out_size -= n;
}

static void session_send(void *owner, const uint8_t *bytes, size_t size)
{
    struct vm *vm = owner;
    uint8_t *grown = size > OUT_MAX - vm->out_size ? NULL : realloc(vm->out, vm->out_size + size);
    if (!grown) {
        struct bg_err why;
        (void)bg_err_set(&why, -ENOBUFS, "the agent does not read its session");
        vm_end(vm, &why);
        return;
    }
    vm->out = grown;
    memcpy(vm->out + vm->out_size, bytes, size);
    vm->out_size += size;
    flush_out(vm);
}

static void identify(struct vm *vm)
{
    struct bg_identity identity = vm->opts.identity;
    if (vm->was_ready) /* it has the rest, and what was borrowed for it may be gone */
        identity = (struct bg_identity){.flags = BG_IDENTITY_CONTINUE};
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    identity.realtime_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    bg_random(identity.entropy, sizeof identity.entropy);
    BG_AUTOFREE uint8_t *payload = malloc(BG_IDENTITY_SIZE_MAX);
    struct bg_writer w = bg_writer_init(payload, payload ? BG_IDENTITY_SIZE_MAX : 0);
    bg_identity_emit(&identity, &w);
    if (!bg_writer_ok(&w)) {
        struct bg_err why;
        (void)bg_err_set(&why, -E2BIG, "environment and CA of the sandbox: over %d bytes",
                         BG_IDENTITY_SIZE_MAX);
        vm_end(vm, &why);
        return;
    }
    session_identify(&vm->session, payload, w.used);
    explicit_bzero(payload, w.used); /* entropy */
}

static void held_cpus_stopped(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (err)
        vm_fail_qmp(vm, err, "cannot stop the guest's CPUs");
    else if (vm->state == VM_CONNECTING && vm->held)
        vm->opts.on_held(vm->opts.owner);
}

/* What waits shall cost nothing, and nothing shall happen in it. */
static void agent_warmed(void *owner)
{
    struct vm *vm = owner;
    vm->held = true;
    (void)uv_timer_stop(&vm->deadline); /* cannot fail */
    qmp_send(vm->qmp, "stop", NULL, -1, held_cpus_stopped, vm);
}

static void agent_greeted(void *owner, const char *agent_version)
{
    struct vm *vm = owner;
    char quoted[128];
    if (!vm->was_ready)
        vm->timings.connected_ms = bg_now_ms() - vm->started_ms;
    bg_log(vm->opts.log, BG_LOG_DEBUG, "agent %s", bg_quote(agent_version, quoted, sizeof quoted));
    if (vm->opts.on_held && !vm->was_ready)
        session_warm(&vm->session);
    else
        identify(vm);
}

static void agent_ready(void *owner)
{
    struct vm *vm = owner;
    if (vm->state != VM_CONNECTING)
        return;
    bool again = vm->was_ready;
    vm->state = VM_READY;
    vm->was_ready = true;
    if (!vm->shutting_down)
        (void)uv_timer_stop(&vm->deadline); /* cannot fail */
    if (again) {
        vm->opts.on_again(vm->opts.owner);
        return;
    }
    vm->timings.ready_ms = bg_now_ms() - vm->started_ms;
    vm->opts.on_ready(vm->opts.owner, &vm->timings);
}

static void agent_logged(void *owner, const char *text, size_t size)
{
    struct vm *vm = owner;
    uint64_t minute = bg_now_ms() / 60000;
    if (minute != vm->log_minute)
        vm->log_lines = 0;
    vm->log_minute = minute;
    if (vm->log_lines++ >= BG_AGENT_LOG_LINES)
        return; /* the guest shall not fill the host's disk */
    int shown = size < 512 ? (int)size : 512;
    bg_log(vm->opts.log, BG_LOG_INFO, "guest: %.*s", shown, text);
}

static void agent_prepared(void *owner, const struct bg_page_records *records);

static void agent_opened(void *owner)
{
    struct vm *vm = owner;
    const struct session_ops ops = {.send = session_send,
                                    .on_hello = agent_greeted,
                                    .on_warmed = agent_warmed,
                                    .on_ready = agent_ready,
                                    .on_prepared = agent_prepared,
                                    .on_log = agent_logged,
                                    .owner = vm};
    vm->agent_open = true;
    vm->connects = 0;
    (void)uv_timer_stop(&vm->retry); /* cannot fail */
    session_init(&vm->session, &ops, bg_now_ms());
    session_open(&vm->session, 1);
}

static void agent_data(void *owner, const uint8_t *bytes, size_t size)
{
    struct vm *vm = owner;
    struct bg_err err = {0};
    if (vm->state == VM_ENDING)
        return;
    if (session_feed(&vm->session, bytes, size, bg_now_ms(), &err) < 0) {
        vm_end(vm, &err);
        return;
    }
    vm->silence_logged = false;
    if (vm->agent)
        vsock_consumed(vm->agent, size);
}

static void agent_writable(void *owner)
{
    flush_out(owner);
}

static void retry_connect(uv_timer_t *timer)
{
    struct vm *vm = timer->data;
    if (vm->agent && !vm->agent_open) {
        vsock_reset(vm->agent);
        vm->agent = NULL;
        vm->connects++;
    }
    connect_agent(vm);
}

static void agent_left(struct vm *vm, int code)
{
    struct bg_err why;
    (void)bg_err_set(&why, -EIO, "the agent left its session (%s)",
                     code < 0 ? strerror(-code) : "closed");
    vm_end(vm, &why);
}

static void agent_reset(uv_timer_t *timer)
{
    struct vm *vm = timer->data;
    if (vm->ends) {
        vm->ends = false;                                          /* once */
        (void)uv_timer_start(&vm->retry, agent_reset, EXIT_MS, 0); /* cannot fail */
        return;
    }
    agent_left(vm, -ECONNRESET);
}

static void agent_ended(void *owner, int code)
{
    struct vm *vm = owner;
    bool was_open = vm->agent_open;
    vm->agent = NULL;
    vm->agent_open = false;
    vm->out_size = 0;
    if (vm->state == VM_CONNECTING && !was_open) {
        /* Nobody listens yet, or the driver is still busy. */
        (void)uv_timer_start(&vm->retry, retry_connect, RECONNECT_MS, 0); /* cannot fail */
        return;
    }
    if (vm->state != VM_CONNECTING && (vm->state != VM_READY || vm->shutting_down))
        return;
    if (code == -ECONNRESET) /* perhaps because QEMU is ending */
        (void)uv_timer_start(&vm->retry, agent_reset, LAST_WORD_MS, 0); /* cannot fail */
    else
        agent_left(vm, code);
}

static void connect_agent(struct vm *vm)
{
    static const struct vsock_conn_ops ops = {.on_open = agent_opened,
                                              .on_data = agent_data,
                                              .on_writable = agent_writable,
                                              .on_end = agent_ended};
    struct bg_err err;
    if (vm->state != VM_CONNECTING || vm->agent || !vm->vsock)
        return;
    /* Linux before 6.8 drops its answer to a request that comes while the driver starts
     * (virtio_vsock_probe): whoever waited for it would wait for ever. */
    uint64_t wait_ms = (uint64_t)CONNECT_MS << (vm->connects < 6 ? vm->connects : 6);
    if (wait_ms > CONNECT_MS_MAX)
        wait_ms = CONNECT_MS_MAX;
    if (vm->connects == 0 && bg_fault("connect-answer") < 0)
        vm->connects++; /* as if it had been lost */
    else if (vsock_connect(vm->vsock, BG_VSOCK_AGENT_PORT, &ops, vm, &vm->agent, &err) < 0)
        wait_ms = RECONNECT_MS;
    (void)uv_timer_start(&vm->retry, retry_connect, wait_ms, 0); /* cannot fail */
}

/* ---- device ---- */

static void driver_up(void *owner)
{
    connect_agent(owner);
}

static void guest_asks(void *owner, struct vsock_conn *conn, uint32_t host_port)
{
    struct vm *vm = owner;
    vm->opts.on_request(vm->opts.owner, conn, host_port);
}

static void device_failed(void *owner, const struct bg_err *err)
{
    struct vm *vm = owner;
    /* QEMU hangs up when it ends by itself: its exit status tells more, and is on its way. */
    if (vm->state == VM_UNPLUGGING || vm->shutting_down || err->code == -EPIPE ||
        err->code == -ECONNRESET) {
        if (vm->vsock && vm->state != VM_ENDING) {
            vsock_device_close(vm->vsock);
            vm->vsock = NULL;
        }
        return;
    }
    struct bg_err why = *err;
    (void)bg_err_prefix(&why, "vsock device");
    vm_end(vm, &why);
}

/* ---- monitor ---- */

void vm_fail_qmp(struct vm *vm, const struct bg_err *err, const char *what)
{
    struct bg_err why = *err;
    if (vm->state == VM_ENDING || err->code == -ECANCELED)
        return; /* the lost monitor is told by its own callback, or QEMU's exit */
    (void)bg_err_prefix(&why, "%s", what);
    vm_end(vm, &why);
}

static void guest_runs(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (err) {
        vm_fail_qmp(vm, err, "cannot start the guest's CPUs");
        return;
    }
    if (!vm->was_ready)
        vm->timings.running_ms = bg_now_ms() - vm->started_ms;
    else if (vm->snapshot.stopped)
        vm->snapshot.result.pause_us = vm_now_us() - vm->snapshot.stopped_us;
}

static void let_run(struct vm *vm)
{
    vm->state = VM_CONNECTING;
    qmp_send(vm->qmp, "cont", NULL, -1, guest_runs, vm);
}

static void plugged(struct vm *vm)
{
    if (vm->was_ready || !vm->opts.on_loaded) {
        let_run(vm);
        return;
    }
    vm->state = VM_WAITING;
    vm->opts.on_loaded(vm->opts.owner);
}

void vm_run(struct vm *vm)
{
    if (vm->state == VM_WAITING)
        let_run(vm);
}

static void plug_volumes(struct vm *vm);

static void disk_plugged(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (err)
        vm_fail_qmp(vm, err, "cannot plug the second disk");
    else if (vm->state == VM_PLUGGING)
        plug_volumes(vm);
}

static void volume_plugged(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (err)
        vm_fail_qmp(vm, err, "cannot plug a volume");
    else if (vm->state == VM_PLUGGING)
        plug_volumes(vm);
}

/* The next one; the last is answered by plugged(). */
static void plug_volumes(struct vm *vm)
{
    char device[32], node[32], serial[QEMU_SERIAL_SIZE];
    size_t at = vm->volumes_plugged;
    if (at == vm->opts.qemu.volume_count || vm->was_ready) {
        plugged(vm);
        return;
    }
    vm->volumes_plugged++;
    (void)snprintf(device, sizeof device, QEMU_VOLUME_DEVICE, at);
    (void)snprintf(node, sizeof node, QEMU_VOLUME_NODE "0", at);
    qemu_volume_serial(at, serial);
    qmp_send(vm->qmp, "device_add",
             json_pack("{s:s, s:s, s:s, s:o, s:s}", "driver", "virtio-blk-pci", "id", device,
                       "drive", node, "addr", json_sprintf("0x%x", QEMU_VOLUME_ADDR + (unsigned)at),
                       "serial", serial),
             -1, volume_plugged, vm);
}

static void device_plugged(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (err) {
        vm_fail_qmp(vm, err, "cannot plug the vsock device");
        return;
    }
    if (vm->state != VM_PLUGGING)
        return;
    if (vm->opts.qemu.second_count == 0 || vm->was_ready)
        plug_volumes(vm);
    else
        qmp_send(vm->qmp, "device_add",
                 json_pack("{s:s, s:s, s:s, s:s, s:s}", "driver", "virtio-blk-pci", "id",
                           QEMU_SECOND_DEVICE, "drive", QEMU_SECOND_NODE, "addr", QEMU_SECOND_ADDR,
                           "serial", QEMU_SECOND_SERIAL),
                 -1, disk_plugged, vm);
}

void vm_plug(struct vm *vm)
{
    char chardev[32];
    vm_vsock_name(vm, chardev);
    vm->state = VM_PLUGGING;
    qmp_send(vm->qmp, "device_add",
             json_pack("{s:s, s:s, s:s, s:s}", "driver", "vhost-user-vsock-pci", "id",
                       QEMU_VSOCK_DEVICE, "chardev", chardev, "addr", QEMU_VSOCK_ADDR),
             -1, device_plugged, vm);
}

static void ask_status(uv_timer_t *timer);

static void status_answered(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    if (err) {
        vm_fail_qmp(vm, err, "cannot load the snapshot's device state");
        return;
    }
    if (vm->state != VM_RESTORING)
        return;
    const char *status = json_string_value(json_object_get(value, "status"));
    if (status && strcmp(status, "inmigrate") == 0)
        (void)uv_timer_start(&vm->retry, ask_status, POLL_MS, 0); /* cannot fail */
    else
        vm_plug(vm);
}

static void ask_status(uv_timer_t *timer)
{
    struct vm *vm = timer->data;
    if (vm->state == VM_RESTORING)
        qmp_send(vm->qmp, "query-status", NULL, -1, status_answered, vm);
}

static void monitor_ready(void *owner)
{
    struct vm *vm = owner;
    vm->timings.monitor_ms = bg_now_ms() - vm->started_ms;
    if (vm->opts.qemu.state_fd >= 0) {
        vm->state = VM_RESTORING;
        ask_status(&vm->retry);
    } else {
        vm_plug(vm);
    }
}

static void agent_prepared(void *owner, const struct bg_page_records *records)
{
    vm_snapshot_prepared(owner, records);
}

/* The guest has been told, but why only we know. A guest can cause many. */
static void disk_error(struct vm *vm, const char *reason, const char *node, const char *operation)
{
    char quoted[3][128];
    if (vm->disk_errors++ >= DISK_ERRORS_MAX)
        return;
    bg_log(vm->opts.log, BG_LOG_ERROR, "disk: %s of %s failed: %s",
           bg_quote(operation ? operation : "?", quoted[0], sizeof quoted[0]),
           bg_quote(node ? node : "?", quoted[1], sizeof quoted[1]),
           bg_quote(reason ? reason : "?", quoted[2], sizeof quoted[2]));
}

static void monitor_event(void *owner, const char *name, const json_t *data)
{
    struct vm *vm = owner;
    const char *device = json_string_value(json_object_get(data, "device"));
    const char *reason = json_string_value(json_object_get(data, "reason"));
    if (strcmp(name, "SHUTDOWN") == 0) {
        vm->ends = true;
        vm->guest_reset |= reason && strcmp(reason, "guest-reset") == 0;
    }
    if (strcmp(name, "BLOCK_IO_ERROR") == 0)
        disk_error(vm, reason, json_string_value(json_object_get(data, "node-name")),
                   json_string_value(json_object_get(data, "operation")));
    if (strcmp(name, "DEVICE_DELETED") == 0 && device && strcmp(device, QEMU_VSOCK_DEVICE) == 0)
        vm_snapshot_unplugged(vm);
    const char *job = json_string_value(json_object_get(data, "id"));
    if (strcmp(name, "BLOCK_JOB_PENDING") == 0 && job)
        vm_flatten_job_pending(vm, job);
    if (strcmp(name, "BLOCK_JOB_COMPLETED") == 0 && device)
        vm_flatten_job_ended(vm, device, json_string_value(json_object_get(data, "error")));
    if (strcmp(name, "BLOCK_JOB_CANCELLED") == 0 && device)
        vm_flatten_job_ended(vm, device, "cancelled");
}

static void monitor_lost(void *owner, const struct bg_err *err)
{
    struct vm *vm = owner;
    if (err->code == -EPIPE || vm->state == VM_ENDING)
        return; /* QEMU ends; its exit status is on its way */
    vm_end(vm, err);
}

/* ---- timers ---- */

static void deadline_passed(uv_timer_t *timer)
{
    struct vm *vm = timer->data;
    struct bg_err why;
    if (vm->state >= VM_PREPARING && vm->state <= VM_SAVING && !vm->shutting_down) {
        vm_snapshot_late(vm);
        return;
    }
    if (vm->shutting_down) {
        (void)bg_err_set(&why, -ETIME, "the guest did not power off in time and was killed");
    } else {
        static const char *const steps[] = {
            "QEMU's monitor did not answer", "the snapshot's device state was not loaded",
            "the vsock device could not be plugged", "the launcher did not let the guest run",
            "the agent in the guest did not connect"};
        (void)bg_err_set(&why, -ETIMEDOUT, "%s within %llu s; see its console.log",
                         vm->state <= VM_CONNECTING ? steps[vm->state] : "no answer",
                         (unsigned long long)(vm->opts.ready_timeout_ms / 1000));
    }
    vm_end(vm, &why);
}

static void ping_due(uv_timer_t *timer)
{
    struct vm *vm = timer->data;
    if (vm->state != VM_READY || !vm->agent_open)
        return;
    bool up = vm->vsock && vsock_driver_is_up(vm->vsock);
    vm->pings_without_driver = up ? 0 : vm->pings_without_driver + 1;
    if (vm->pings_without_driver == DRIVER_PINGS && !vm->shutting_down) {
        struct bg_err why;
        (void)bg_err_set(&why, -ENOTCONN, "the guest took its vsock device away");
        vm_end(vm, &why);
        return;
    }
    if (vm_silent_ms(vm) > vm->opts.silence_timeout_ms && !vm->silence_logged) {
        bg_log(vm->opts.log, BG_LOG_WARN, "the guest has not answered for %llu s",
               (unsigned long long)(vm_silent_ms(vm) / 1000));
        vm->silence_logged = true;
    }
    if (vm->session.pings - vm->session.pongs < 2)
        session_ping(&vm->session);
}

void vm_deadline(struct vm *vm, uint64_t ms)
{
    (void)uv_timer_start(&vm->deadline, deadline_passed, ms, 0); /* not closing: cannot fail */
}

/* ---- api ---- */

/* What a snapshot of the memory is taken from. Opened while we may: a VM without is one that no
 * snapshot can be taken of. */
static void open_memory(struct vm *vm)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/pagemap", (int)vm->pid);
    vm->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (vm->opts.qemu.memory_shared)
        vm->shared_memory_fd = fcntl(vm->opts.qemu.memory_fd, F_DUPFD_CLOEXEC, 3);
}

int vm_serve_vsock(struct vm *vm, int fd, struct bg_err *err)
{
    struct vsock_device_opts opts = {.fd = fd,
                                     .memory_pid = vm->pid,
                                     .guest_cid = BG_VSOCK_GUEST_CID,
                                     .log = vm->opts.log,
                                     .on_ready = driver_up,
                                     .on_request = guest_asks,
                                     .on_failed = device_failed,
                                     .on_closed = part_closed,
                                     .owner = vm};
    bg_random(&opts.first_port, sizeof opts.first_port);
    int r = vsock_device_open(vm->loop, &opts, &vm->vsock, err);
    if (r == 0)
        vm->open_handles++;
    return r;
}

int vm_open(uv_loop_t *loop, const struct vm_opts *opts, struct vm **ret, struct bg_err *err)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return bg_err_errno(err, -ENOMEM, "VM");
    *vm = (struct vm){.opts = *opts,
                      .loop = loop,
                      .started_ms = bg_now_ms(),
                      .pagemap_fd = -1,
                      .shared_memory_fd = -1,
                      .stale_set = -1};
    /* The last two of a sandbox's files are the golden snapshot's and the image's. */
    disk_chain_init(&vm->disk, opts->qemu.disk_count > 2 ? opts->qemu.disk_count - 2 : 0);

    int pairs[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};
    int r = 0;
    for (size_t i = 0; i < 3 && r == 0; i++)
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pairs[i]) < 0)
            r = bg_err_errno(err, -errno, "socketpair");
    struct qemu_opts qemu = opts->qemu;
    qemu.qmp_fd = pairs[0][1];
    qemu.console_fd = pairs[1][1];
    qemu.vsock_fd = pairs[2][1];
    if (r == 0)
        r = qemu_start(&qemu, &vm->pid, err);
    if (r == 0)
        bg_fault_child(vm->pid);
    for (size_t i = 0; i < 3; i++)
        if (pairs[i][1] >= 0)
            (void)close(pairs[i][1]); /* QEMU's ends; it has its own copies */
    if (r < 0) {
        for (size_t i = 0; i < 3; i++)
            if (pairs[i][0] >= 0)
                (void)close(pairs[i][0]);
        free(vm);
        return r;
    }

    open_memory(vm);
    /* From here on every failure goes through vm_end(), which needs the handles. None of these
     * calls fails with a live loop but for lack of an fd, which the owner then hears as the end. */
    vm->console_in = pairs[1][0];
    (void)uv_signal_init(loop, &vm->child);
    (void)uv_timer_init(loop, &vm->deadline);
    (void)uv_timer_init(loop, &vm->retry);
    (void)uv_timer_init(loop, &vm->ping);
    (void)uv_poll_init(loop, &vm->console, vm->console_in);
    vm->child.data = vm->deadline.data = vm->retry.data = vm->ping.data = vm->console.data = vm;
    vm->open_handles = 5;
    (void)uv_signal_start(&vm->child, child_changed, SIGCHLD);
    (void)uv_timer_start(&vm->deadline, deadline_passed, opts->ready_timeout_ms, 0);
    (void)uv_timer_start(&vm->ping, ping_due, PING_MS, PING_MS);
    (void)uv_poll_start(&vm->console, UV_READABLE, console_readable);

    struct bg_err why = {0};
    struct qmp_opts qmp = {.fd = pairs[0][0],
                           .on_ready = monitor_ready,
                           .on_event = monitor_event,
                           .on_lost = monitor_lost,
                           .on_closed = part_closed,
                           .owner = vm};
    if (qmp_open(loop, &qmp, &vm->qmp, &why) < 0)
        (void)close(pairs[0][0]);
    else
        vm->open_handles++;
    if (why.code < 0 || vm_serve_vsock(vm, pairs[2][0], &why) < 0)
        (void)close(pairs[2][0]);
    if (why.code < 0)
        vm_end(vm, &why);
    else
        child_changed(&vm->child, SIGCHLD); /* it may have ended before we watched */
    *ret = vm;
    return 0;
}

void vm_identify(struct vm *vm, const struct bg_identity *identity)
{
    if (vm->state != VM_CONNECTING || !vm->held)
        return; /* it is ending */
    vm->held = false;
    vm->opts.identity = *identity;
    vm->started_ms = bg_now_ms();
    vm->timings = (struct vm_timings){0};
    vm_deadline(vm, vm->opts.ready_timeout_ms);
    qmp_send(vm->qmp, "cont", NULL, -1, guest_runs, vm);
    identify(vm);
}

void vm_shutdown(struct vm *vm, uint64_t grace_ms)
{
    if (vm->state == VM_ENDING)
        return;
    bool possible = vm->state == VM_READY && vm->agent_open;
    if (!possible || grace_ms == 0) {
        vm_kill(vm);
        return;
    }
    if (vm->shutting_down && uv_timer_get_due_in(&vm->deadline) <= grace_ms)
        return;
    if (!vm->shutting_down)
        session_shutdown(&vm->session);
    vm->shutting_down = true;
    (void)uv_timer_start(&vm->deadline, deadline_passed, grace_ms, 0); /* cannot fail */
}

void vm_kill(struct vm *vm)
{
    vm->shutting_down = true;
    vm_end(vm, NULL);
}

void vm_quit(struct vm *vm)
{
    if (vm->state == VM_ENDING)
        return;
    vm->shutting_down = true;
    vm_deadline(vm, vm->opts.ready_timeout_ms);
    qmp_send(vm->qmp, "quit", NULL, -1, NULL, NULL);
}

void vm_resumed(struct vm *vm)
{
    if (vm->state == VM_READY)
        vm_snapshot_forget_state(vm);
    if (vm->state == VM_READY && vm->agent_open)
        session_go_on(&vm->session, BG_GO_ON_RESUMED);
}

const struct vm_snapshot_result *vm_snapshot_result(const struct vm *vm)
{
    return &vm->snapshot.result;
}

struct vsock_device *vm_vsock(struct vm *vm)
{
    return vm->vsock;
}

bool vm_is_ready(const struct vm *vm)
{
    return vm->state == VM_READY;
}

pid_t vm_qemu_pid(const struct vm *vm)
{
    return vm->pid;
}

const struct vm_timings *vm_timings(const struct vm *vm)
{
    return &vm->timings;
}

uint64_t vm_silent_ms(const struct vm *vm)
{
    return bg_now_ms() - vm->session.heard_ms;
}
