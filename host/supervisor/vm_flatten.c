/* Flattening: several layers of the disk become one, while the guest runs. What is copied is
 * frozen, so nothing that the guest does matters to the copy, and snapshots may be taken meanwhile:
 *
 *   base <- L1 <- L2 <- L3 <- top      a node "flat" is opened on L3, and QEMU's stream job copies
 *                        `-- flat      into it what L1 to L3 hold
 *   base <- flat                       the job is over: flat stands on the base and is flushed
 *   base <- flat <- top                vm_flatten_use(): what stood on L3 stands on it
 *
 * QEMU changes what stands on what when the job is told to finish and when the new layer is used.
 * It must not have to do so while it freezes the disk's top for a snapshot (QEMU 7.2 dies of that):
 * the job rests meanwhile, and neither of the two begins before the other is over.
 *
 * Until the last step QEMU's disk is as it was, and whatever fails before costs the copy alone. At
 * the last step both are the same disk, so it does not matter when the owner notes which is in use.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/fault.h"
#include "common/quote.h"
#include "host/supervisor/vm_private.h"

#define JOB "flatten"

/* QEMU notes where the layer below is. Nobody follows that; and a text of its own choice gets
 * longer with the chain, until it is refused. */
#define NOTED_BELOW "below"

json_t *vm_disk_options(const char *node, int64_t fd_set, bool frozen, json_t *backing)
{
    char file[64];
    (void)snprintf(file, sizeof file, "/dev/fdset/%lld", (long long)fd_set);
    return json_pack("{s:s, s:s, s:b, s:s, s:{s:s, s:s, s:b, s:s}, s:o}", "driver", "qcow2",
                     "node-name", node, "read-only", frozen, "discard", "unmap", "file", "driver",
                     "file", "filename", file, "read-only", 0, "discard", "unmap", "backing",
                     backing);
}

/* The new layer's. A sync of it would hold up the guest, and is the owner's: QEMU only has to write
 * what it has of it in memory. */
static json_t *flat_options(const struct vm_flatten_run *run, bool frozen, const char *backing)
{
    json_t *options = vm_disk_options(run->node, run->fd_set, frozen, json_string(backing));
    (void)json_object_set_new(options, "cache",
                              json_pack("{s:b}", "no-flush", 1)); /* only slower */
    return options;
}

/* The file goes when nobody has it open, QEMU neither; and QEMU closes nothing while the CPUs
 * stand. */
static void remove_set(struct vm *vm, int64_t fd_set)
{
    if (fd_set < 0)
        return;
    if (vm->state != VM_READY)
        vm->stale_set = fd_set; /* of a copy that failed: there is one at most until then */
    else
        qmp_send(vm->qmp, "remove-fd", json_pack("{s:I}", "fdset-id", (json_int_t)fd_set), -1, NULL,
                 NULL);
}

static void forget(struct vm *vm, const char *node, int64_t fd_set)
{
    /* Nodes of the command line go by themselves, and QEMU says so: no matter. */
    qmp_send(vm->qmp, "blockdev-del", json_pack("{s:s}", "node-name", node), -1, NULL, NULL);
    remove_set(vm, fd_set);
}

/* The last thing that is done with a step: the owner may go on with the next one. */
static void over(struct vm *vm, enum vm_flatten_step step, const struct bg_err *why)
{
    vm->flatten.step = step;
    vm_snapshot_unhold(vm);
    vm->opts.on_flattened(vm->opts.owner, why);
}

static void failed(struct vm *vm, const struct bg_err *err, const char *what)
{
    struct bg_err why = *err;
    (void)bg_err_prefix(&why, "%s", what);
    forget(vm, vm->flatten.node, vm->flatten.fd_set);
    over(vm, VM_FLATTEN_NONE, &why);
}

static bool is_at(const struct vm *vm, enum vm_flatten_step step)
{
    return vm->state != VM_ENDING && vm->flatten.step == step;
}

/* ---- copying ---- */

static void flushed(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    struct bg_err why = {0};
    (void)value;
    if (!is_at(vm, VM_FLATTEN_FLUSHING))
        return;
    int r = bg_fault("flatten-copied");
    if (!err && r < 0)
        (void)bg_err_errno(&why, r, "layer");
    if (err || r < 0)
        failed(vm, err ? err : &why, "cannot write the disk's flat layer");
    else
        over(vm, VM_FLATTEN_COPIED, &why);
}

static void finalizing(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (err && is_at(vm, VM_FLATTEN_FINALIZING))
        failed(vm, err, "cannot finish the copy of the disk's layers");
}

/* All is copied. */
void vm_flatten_job_pending(struct vm *vm, const char *job)
{
    if (strcmp(job, JOB) != 0 || !is_at(vm, VM_FLATTEN_COPYING))
        return;
    vm->flatten.pending = true;
    vm_flatten_go_on(vm);
}

bool vm_flatten_holds(const struct vm *vm)
{
    return is_at(vm, VM_FLATTEN_FINALIZING) || is_at(vm, VM_FLATTEN_FLUSHING) ||
           is_at(vm, VM_FLATTEN_USING);
}

void vm_flatten_pause(struct vm *vm)
{
    if (!is_at(vm, VM_FLATTEN_COPYING) || vm->flatten.pending)
        return;
    vm->flatten.paused = true;
    /* One that is not there yet, or has just copied all, does nothing that would matter. */
    qmp_send(vm->qmp, "block-job-pause", json_pack("{s:s}", "device", JOB), -1, NULL, NULL);
}

void vm_flatten_go_on(struct vm *vm)
{
    if (vm->state != VM_READY)
        return;
    if (vm->stale_set >= 0)
        remove_set(vm, vm->stale_set);
    vm->stale_set = -1;
    if (!is_at(vm, VM_FLATTEN_COPYING))
        return;
    if (vm->flatten.paused)
        qmp_send(vm->qmp, "block-job-resume", json_pack("{s:s}", "device", JOB), -1, NULL, NULL);
    vm->flatten.paused = false;
    if (!vm->flatten.pending)
        return;
    vm->flatten.step = VM_FLATTEN_FINALIZING;
    qmp_send(vm->qmp, "job-finalize", json_pack("{s:s}", "id", JOB), -1, finalizing, vm);
}

void vm_flatten_job_ended(struct vm *vm, const char *job, const char *error)
{
    const struct vm_flatten_run *run = &vm->flatten;
    struct bg_err why;
    char quoted[256];
    bool expected = is_at(vm, VM_FLATTEN_FINALIZING) || (error && is_at(vm, VM_FLATTEN_COPYING));
    if (strcmp(job, JOB) != 0 || !expected)
        return;
    if (error) {
        (void)bg_err_set(&why, -EREMOTEIO, "QEMU: %s", bg_quote(error, quoted, sizeof quoted));
        failed(vm, &why, "cannot copy the disk's layers");
        return;
    }
    vm->flatten.step = VM_FLATTEN_FLUSHING;
    /* So it writes what it has of it in memory, says whether that went well, and gives up the lock
     * that would keep others from reading it. */
    json_t *options = flat_options(run, /* frozen= */ true, disk_chain_below(&vm->disk, run->from));
    qmp_send(vm->qmp, "blockdev-reopen", json_pack("{s:[o]}", "options", options), -1, flushed, vm);
}

static void job_begun(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    (void)value;
    if (!is_at(vm, VM_FLATTEN_COPYING))
        return;
    (void)bg_fault("flatten-copying");
    if (err)
        failed(vm, err, "cannot copy the disk's layers");
}

static void node_added(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    const struct vm_flatten_run *run = &vm->flatten;
    (void)value;
    if (!is_at(vm, VM_FLATTEN_COPYING))
        return;
    if (err) {
        failed(vm, err, "cannot open the disk's flat layer");
        return;
    }
    qmp_send(vm->qmp, "block-stream",
             json_pack("{s:s, s:s, s:s, s:s, s:I, s:b}", "job-id", JOB, "device", run->node,
                       "base-node", disk_chain_below(&vm->disk, run->from), "backing-file",
                       NOTED_BELOW, "speed", (json_int_t)run->speed, "auto-finalize", 0),
             -1, job_begun, vm);
}

static void file_known(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    struct vm_flatten_run *run = &vm->flatten;
    if (!is_at(vm, VM_FLATTEN_COPYING))
        return;
    if (err) {
        failed(vm, err, "cannot pass the disk's flat layer");
        return;
    }
    run->fd_set = json_integer_value(json_object_get(value, "fdset-id"));
    const char *below = disk_chain_below(&vm->disk, run->from + run->count);
    qmp_send(vm->qmp, "blockdev-add", flat_options(run, /* frozen= */ false, below), -1, node_added,
             vm);
}

void vm_flatten(struct vm *vm, const struct vm_flatten_opts *opts)
{
    assert(vm->state == VM_READY && vm->flatten.step == VM_FLATTEN_NONE);
    /* What is above was the top when they were frozen, so QEMU may write there; see use(). */
    assert(opts->count > 0 && opts->from + opts->count < vm->disk.count);
    vm->flatten = (struct vm_flatten_run){.step = VM_FLATTEN_COPYING,
                                          .from = opts->from,
                                          .count = opts->count,
                                          .speed = opts->bytes_per_s,
                                          .fd_set = -1};
    disk_chain_name(&vm->disk, "flat", vm->flatten.node);
    qmp_send(vm->qmp, "add-fd", NULL, opts->fd, file_known, vm);
}

void vm_flatten_speed(struct vm *vm, uint64_t bytes_per_s)
{
    if (!is_at(vm, VM_FLATTEN_COPYING))
        return;
    vm->flatten.speed = bytes_per_s;
    /* A job that is not there yet begins with the speed; one that is gone needs none. */
    qmp_send(vm->qmp, "block-job-set-speed",
             json_pack("{s:s, s:I}", "device", JOB, "speed", (json_int_t)bytes_per_s), -1, NULL,
             NULL);
}

/* ---- using it ---- */

static void used(void *arg, const struct bg_err *err, const json_t *value)
{
    struct vm *vm = arg;
    const struct vm_flatten_run *run = &vm->flatten;
    const struct bg_err none = {0};
    struct disk_chain before = vm->disk;
    (void)value;
    if (!is_at(vm, VM_FLATTEN_USING))
        return;
    if (err) {
        failed(vm, err, "cannot put the flat layer below the disk's top");
        return;
    }
    disk_chain_replace(&vm->disk, run->from, run->count, run->node, run->fd_set);
    for (size_t i = run->from + run->count; i-- > run->from;)
        forget(vm, before.layers[i].name, before.layers[i].fd_set);
    (void)bg_fault("flatten-used");
    over(vm, VM_FLATTEN_NONE, &none);
}

void vm_flatten_use(struct vm *vm, bool use)
{
    struct vm_flatten_run *run = &vm->flatten;
    if (!is_at(vm, VM_FLATTEN_COPIED))
        return;
    if (!use) {
        forget(vm, run->node, run->fd_set);
        run->step = VM_FLATTEN_NONE;
        return;
    }
    run->step = VM_FLATTEN_USING;
    const struct disk_node *above = &vm->disk.layers[run->from + run->count];
    bool frozen = run->from + run->count + 1 < vm->disk.count; /* by a snapshot meanwhile */
    json_t *options = vm_disk_options(above->name, above->fd_set, frozen, json_string(run->node));
    qmp_send(vm->qmp, "blockdev-reopen", json_pack("{s:[o]}", "options", options), -1, used, vm);
}
