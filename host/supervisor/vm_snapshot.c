/* A snapshot of a VM that runs: READY -> the agent has synced and parked the streams -> device
 * unplugged -> vCPUs stopped -> state, memory and a new top of the disk -> HELD. Memory and disk
 * are those of one instant, since nothing runs between them. Then vm_go_on(): a fresh device is
 * plugged and the session begins again.
 *
 * Whatever fails on the way, the guest goes on: only what QEMU refuses on the way back is the end.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/io.h"
#include "host/supervisor/memory_save.h"
#include "host/supervisor/vm_private.h"

uint64_t vm_now_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail with this clock */
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000;
}

/* ---- the end of it ---- */

static void hold(struct vm *vm)
{
    struct vm_snapshot_run *run = &vm->snapshot;
    vm->state = VM_HELD;
    (void)uv_timer_stop(&vm->deadline);                            /* cannot fail */
    vm->opts.on_snapshot(vm->opts.owner, &run->why, &run->result); /* may end us: last */
}

static void failed(struct vm *vm, const struct bg_err *err, const char *what)
{
    if (vm->state == VM_ENDING || vm->state == VM_HELD)
        return;
    vm->snapshot.why = *err;
    (void)bg_err_prefix(&vm->snapshot.why, "%s", what);
    hold(vm);
}

void vm_snapshot_late(struct vm *vm)
{
    struct bg_err why;
    const char *what = vm->state == VM_PREPARING    ? "the guest did not get ready for it"
                       : vm->state == VM_UNPLUGGING ? "the guest did not let go of its vsock device"
                                                    : "QEMU did not save the guest's state";
    (void)bg_err_set(&why, -ETIMEDOUT, "%s within %llu s", what,
                     (unsigned long long)(vm->opts.ready_timeout_ms / 1000));
    /* From the third there is no way back: what QEMU does next is not known. */
    if (vm->state == VM_SAVING)
        vm_end(vm, &why);
    else
        failed(vm, &why, "snapshot");
}

/* ---- the disk's new top ---- */

/* Of the state. QEMU closes nothing while the CPUs stand, so it is done when they run again. */
void vm_snapshot_forget_state(struct vm *vm)
{
    if (vm->snapshot.has_fd_set)
        qmp_send(vm->qmp, "remove-fd", json_pack("{s:I}", "fdset-id", vm->snapshot.fd_set), -1,
                 NULL, NULL); /* an fd that stays open in QEMU keeps a file, and no more */
    vm->snapshot.has_fd_set = false;
}

static void disk_switched(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (vm->state != VM_SAVING)
        return;
    if (err) {
        failed(vm, err, "cannot give the disk a new top");
        return;
    }
    (void)bg_fault("snapshot-switched");
    disk_chain_push(&vm->disk, vm->snapshot.top, vm->snapshot.top_set);
    hold(vm);
}

static void top_added(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (vm->state != VM_SAVING)
        return;
    if (err) {
        failed(vm, err, "cannot open the disk's new top");
        return;
    }
    qmp_send(vm->qmp, "blockdev-snapshot",
             json_pack("{s:s, s:s}", "node", disk_chain_below(&vm->disk, vm->disk.count), "overlay",
                       vm->snapshot.top),
             -1, disk_switched, vm);
}

static void top_known(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    struct vm_snapshot_run *run = &vm->snapshot;
    if (vm->state != VM_SAVING)
        return;
    if (err) {
        failed(vm, err, "cannot pass the disk's new top");
        return;
    }
    run->top_set = json_integer_value(json_object_get(value, "fdset-id"));
    disk_chain_name(&vm->disk, "top", run->top);
    qmp_send(vm->qmp, "blockdev-add",
             vm_disk_options(run->top, run->top_set, /* frozen= */ false, json_null()), -1,
             top_added, vm);
}

static void switch_disk(struct vm *vm)
{
    if (vm->snapshot.opts.overlay_fd < 0)
        hold(vm);
    else
        qmp_send(vm->qmp, "add-fd", NULL, vm->snapshot.opts.overlay_fd, top_known, vm);
}

/* ---- state and memory ---- */

static void close_layers(struct memory_layer *layers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        memory_layer_done(&layers[i]);
}

static int open_layers(const struct vm *vm, const int *fds, size_t count, struct memory_layer *ret,
                       size_t *ret_count, struct bg_err *err)
{
    for (*ret_count = 0; *ret_count < count; (*ret_count)++) {
        int r =
            memory_layer_open(fds[*ret_count], vm->opts.qemu.memory_bytes, &ret[*ret_count], err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int save_memory(struct vm *vm, struct bg_err *err)
{
    struct vm_snapshot_run *run = &vm->snapshot;
    struct memory_save_stats stats = {0};
    if (vm->shared_memory_fd < 0 && (vm->pagemap_fd < 0 || run->ram_address == 0))
        return bg_err_set(err, -ENOTSUP, "QEMU's pages cannot be looked at (/proc/PID/pagemap)");
    struct memory_layer fold[BG_MEMORY_LAYERS_MAX], previous[BG_MEMORY_LAYERS_MAX];
    size_t fold_count = 0, previous_count = 0;
    int r = open_layers(vm, run->opts.fold, run->opts.fold_count, fold, &fold_count, err);
    if (r == 0)
        r = open_layers(vm, run->opts.previous, run->opts.previous_count, previous, &previous_count,
                        err);
    const struct memory_save_opts opts = {.pagemap_fd = vm->pagemap_fd,
                                          .qemu_pid = vm->pid,
                                          .ram_address = run->ram_address,
                                          .ram_size = vm->opts.qemu.memory_bytes,
                                          .shared_fd = vm->shared_memory_fd,
                                          .fold = fold,
                                          .fold_count = fold_count,
                                          .previous = previous,
                                          .previous_count = previous_count,
                                          .records = run->has_records ? &run->records : NULL,
                                          .regions = run->ram_regions,
                                          .region_count = run->ram_region_count,
                                          .out_fd = run->opts.memory_fd};
    if (r == 0)
        r = memory_save(&opts, &stats, err);
    int fault = bg_fault("snapshot-memory");
    if (r == 0 && fault < 0)
        r = bg_err_errno(err, fault, "memory layer");
    close_layers(fold, fold_count);
    close_layers(previous, previous_count);
    run->result.dirty_bytes =
        (stats.dirty_pages - stats.dead_pages - stats.same_pages) * MEMORY_PAGE_SIZE;
    run->result.written_bytes = stats.written_bytes;
    return r;
}

static void state_written(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    struct bg_err why;
    (void)value;
    if (vm->state != VM_SAVING)
        return;
    if (err) {
        failed(vm, err, "cannot write the device state");
        return;
    }
    int r = bg_fault("snapshot-state");
    if (r < 0)
        (void)bg_err_errno(&why, r, "state");
    if (r == 0 && vm->snapshot.opts.memory_fd >= 0)
        r = save_memory(vm, &why);
    if (r < 0)
        failed(vm, &why, "memory");
    else
        switch_disk(vm);
}

static void state_file_known(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    char name[64];
    if (vm->state != VM_SAVING)
        return;
    if (err) {
        failed(vm, err, "cannot pass the state file");
        return;
    }
    vm->snapshot.fd_set = json_integer_value(json_object_get(value, "fdset-id"));
    vm->snapshot.has_fd_set = true;
    (void)snprintf(name, sizeof name, "/dev/fdset/%lld", (long long)vm->snapshot.fd_set);
    /* "live": false leaves the vCPUs stopped. Despite its name it works everywhere. */
    qmp_send(vm->qmp, "xen-save-devices-state",
             json_pack("{s:s, s:b}", "filename", name, "live", 0), -1, state_written, vm);
}

static void cpus_stopped(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (vm->state != VM_SAVING)
        return;
    if (err) {
        failed(vm, err, "cannot stop the guest's CPUs");
        return;
    }
    (void)bg_fault("snapshot-stopped");
    vm->snapshot.stopped = true;
    if (vm->snapshot.opts.state_fd < 0)
        switch_disk(vm);
    else
        qmp_send(vm->qmp, "add-fd", NULL, vm->snapshot.opts.state_fd, state_file_known, vm);
}

static void stop_cpus(struct vm *vm)
{
    vm->snapshot.waits = vm_flatten_holds(vm);
    if (vm->snapshot.waits)
        return;
    vm_flatten_pause(vm);
    vm->state = VM_SAVING;
    vm->snapshot.stopped_us = vm_now_us();
    qmp_send(vm->qmp, "stop", NULL, -1, cpus_stopped, vm);
}

void vm_snapshot_unhold(struct vm *vm)
{
    if (vm->snapshot.waits && (vm->state == VM_PREPARING || vm->state == VM_UNPLUGGING))
        stop_cpus(vm);
}

/* ---- the device ---- */

static void device_asked_out(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (err && vm->state == VM_UNPLUGGING)
        failed(vm, err, "cannot unplug the vsock device");
}

void vm_snapshot_prepared(struct vm *vm, const struct bg_page_records *records)
{
    if (vm->state != VM_PREPARING)
        return;
    vm->snapshot.has_records = records != NULL;
    if (records)
        vm->snapshot.records = *records;
    (void)bg_fault("snapshot-prepared");
    if (vm->snapshot.opts.state_fd < 0) {
        stop_cpus(vm);
        return;
    }
    vm->state = VM_UNPLUGGING;
    if (vm->vsock) {
        vm->snapshot.ram_address = vsock_ram_address(vm->vsock);
        vm->snapshot.ram_region_count = vsock_ram_regions(vm->vsock, vm->snapshot.ram_regions);
    }
    vm->snapshot.asked_out = true;
    qmp_send(vm->qmp, "device_del", json_pack("{s:s}", "id", QEMU_VSOCK_DEVICE), -1,
             device_asked_out, vm);
}

void vm_snapshot_unplugged(struct vm *vm)
{
    bool late = vm->state == VM_READY && vm->snapshot.asked_out; /* it had been given up */
    if (!late && vm->state != VM_UNPLUGGING)
        return;
    if (vm->vsock)
        vsock_device_close(vm->vsock);
    vm->vsock = NULL;
    (void)bg_fault("snapshot-unplugged");
    vm->snapshot.unplugged = vm->snapshot.result.unplugged = true;
    vm->snapshot.asked_out = false;
    if (!late) {
        stop_cpus(vm);
        return;
    }
    vm->state = VM_HELD;
    vm->snapshot.stopped = false;
    vm_go_on(vm);
}

/* ---- going on ---- */

static void cpus_run(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (err) {
        vm_fail_qmp(vm, err, "cannot start the guest's CPUs again");
        return;
    }
    if (vm->state != VM_HELD)
        return;
    if (vm->snapshot.stopped)
        vm->snapshot.result.pause_us = vm_now_us() - vm->snapshot.stopped_us;
    vm->state = VM_READY;
    (void)uv_timer_stop(&vm->deadline); /* cannot fail */
    session_go_on(&vm->session, BG_GO_ON_ALIVE);
    vm->opts.on_again(vm->opts.owner);
}

static void chardev_added(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (err)
        vm_fail_qmp(vm, err, "cannot add a socket for the vsock device");
    else if (vm->state == VM_HELD)
        vm_plug(vm);
}

static void socket_known(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    char name[32];
    (void)value;
    if (err) {
        vm_fail_qmp(vm, err, "cannot pass a socket for the vsock device");
        return;
    }
    if (vm->state != VM_HELD)
        return;
    vm_vsock_name(vm, name);
    qmp_send(vm->qmp, "chardev-add",
             json_pack("{s:s, s:{s:s, s:{s:{s:s, s:{s:s}}, s:b}}}", "id", name, "backend", "type",
                       "socket", "data", "addr", "type", "fd", "data", "str", name, "server", 0),
             -1, chardev_added, vm);
}

void vm_vsock_name(const struct vm *vm, char ret[32])
{
    if (vm->vsock_number == 0) /* of the command line */
        (void)snprintf(ret, 32, "vsock");
    else
        (void)snprintf(ret, 32, "vsock%u", vm->vsock_number);
}

/* A new device on a new socket: the old one's chardev has hung up for good. */
static void replug(struct vm *vm)
{
    int pair[2];
    char name[32];
    struct bg_err why = {0};
    (void)bg_fault("snapshot-replug");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        (void)bg_err_errno(&why, -errno, "socketpair");
        vm_end(vm, &why);
        return;
    }
    BG_AUTOCLOSE int theirs = pair[1];
    vm_vsock_name(vm, name);
    qmp_send(vm->qmp, "chardev-remove", json_pack("{s:s}", "id", name), -1, NULL,
             NULL); /* one that stays is never used again */
    if (vm_serve_vsock(vm, pair[0], &why) < 0) {
        (void)close(pair[0]);
        vm_end(vm, &why);
        return;
    }
    vm->vsock_number++;
    vm_vsock_name(vm, name);
    qmp_send(vm->qmp, "getfd", json_pack("{s:s}", "fdname", name), theirs, socket_known, vm);
}

void vm_go_on(struct vm *vm)
{
    if (vm->state == VM_ENDING)
        return;
    assert(vm->state == VM_HELD);
    vm_deadline(vm, vm->opts.ready_timeout_ms);
    if (vm->snapshot.unplugged)
        replug(vm);
    else if (vm->snapshot.stopped)
        qmp_send(vm->qmp, "cont", NULL, -1, cpus_run, vm);
    else
        cpus_run(vm, NULL, NULL);
}

void vm_snapshot(struct vm *vm, const struct vm_snapshot_opts *opts)
{
    assert(vm->state == VM_READY);
    vm_snapshot_forget_state(vm);
    vm->snapshot = (struct vm_snapshot_run){.opts = *opts};
    vm->state = VM_PREPARING;
    vm_deadline(vm, vm->opts.ready_timeout_ms);
    session_prepare(&vm->session, /* of_disk= */ opts->state_fd < 0);
}
