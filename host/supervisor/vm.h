/* vm: one QEMU from start to gone: monitor, vsock device, session with the agent. Loop thread only.
 *
 * Life of a fork:  QEMU up and stopped -> device state loaded -> vsock device plugged -> cont ->
 *   driver up -> session -> identity in force -> READY.
 * One with on_held stops before its identity, until vm_identify().
 * A cold boot is the same without the second step. A snapshot goes READY -> agent has synced ->
 *   device unplugged -> vCPUs stopped -> state, memory, disk -> held; then vm_go_on() or the end.
 * Whatever fails at the start, and whatever the guest or QEMU does wrong, leads to one end: QEMU is
 * killed and reaped, every handle closed, and on_ended called as the last thing. */
#pragma once

#include <stdint.h>

#include <uv.h>

#include "common/err.h"
#include "common/log.h"
#include "common/wire.h"
#include "host/supervisor/qemu.h"
#include "host/vsock/vsock.h"

struct vm;

/* Milliseconds from vm_open. */
struct vm_timings {
    uint64_t monitor_ms;   /* QEMU answers */
    uint64_t running_ms;   /* the guest runs */
    uint64_t connected_ms; /* the agent greets */
    uint64_t ready_ms;     /* the identity is in force */
};

struct vm_snapshot_opts {
    int state_fd;   /* write-only: gets the device state; -1: of the disk alone, and then the device
                       stays plugged */
    int memory_fd;  /* gets a memory layer (host/supervisor/memory_layer.h); -1: none */
    int overlay_fd; /* a qcow2 without content that becomes the disk's top, so that what was the top
                       is never written again; -1: the top stays */
    /* Files of memory layers in the roles that memory_save.h gives them. */
    int fold[BG_MEMORY_LAYERS_MAX], previous[BG_MEMORY_LAYERS_MAX];
    size_t fold_count, previous_count;
};

struct vm_snapshot_result {
    uint64_t pause_us; /* the vCPUs stood; known in on_again */
    uint64_t dirty_bytes, written_bytes;
    bool unplugged; /* the device was taken away: every connection is gone */
};

struct vm_flatten_opts {
    int fd; /* a qcow2 without content, open for reading and writing; borrowed until on_flattened */
    size_t from, count;   /* of the disk's layers, counted from its bottom; not the top */
    uint64_t bytes_per_s; /* at most; 0: as fast as it goes */
};

struct vm_opts {
    struct qemu_opts qemu; /* qmp_fd, console_fd, vsock_fd are filled in; its other fds stay the
                              caller's and may be closed after vm_open */
    struct bg_identity identity; /* clock and entropy are filled in when it is sent; what it borrows
                                    must live until on_ready */
    const struct bg_log *log;    /* borrowed; NULL: none */
    int console_fd; /* where the guest's console goes, at most VM_CONSOLE_MAX; -1: nowhere */
    uint64_t ready_timeout_ms;   /* from vm_open to READY */
    uint64_t silence_timeout_ms; /* without an answer to a ping: the guest hangs, and is logged */
    /* Everything is loaded and nothing has run: vm_run() follows, now or later. NULL: it runs at
     * once. */
    void (*on_loaded)(void *owner);
    void (*on_ready)(void *owner, const struct vm_timings *timings);
    /* The agent is there and has no identity, and the CPUs stand: vm_identify() follows, now or
     * later, and `identity` above is of no matter. NULL: it gets its identity at once. */
    void (*on_held)(void *owner);
    /* A connection that the guest asks for, to be accepted or reset by the owner. */
    void (*on_request)(void *owner, struct vsock_conn *conn, uint32_t host_port);
    /* The snapshot is over and the VM is held: why->code is 0 when all is written to the given fds
     * (not synced). vm_go_on(), vm_quit() or vm_kill() follows, now or later. Both borrowed. */
    void (*on_snapshot)(void *owner, const struct bg_err *why,
                        const struct vm_snapshot_result *result);
    /* The guest goes on after a snapshot and the agent is there again. If the device was unplugged
     * streams can be resumed now; vm_resumed() follows when they are. */
    void (*on_again)(void *owner);
    /* A step of vm_flatten() is over, as told there. NULL if that is never called. */
    void (*on_flattened)(void *owner, const struct bg_err *why);
    /* Last of all; why->code is 0 when the guest ended as asked or by itself. vm is freed after it.
     */
    void (*on_ended)(void *owner, const struct bg_err *why);
    void *owner;
};

#define VM_CONSOLE_MAX (1024 * 1024) /* bytes of console kept; what comes after is dropped */

/* Starts QEMU. Errors: as qemu_start; -ENOMEM; libuv's. */
int vm_open(uv_loop_t *loop, const struct vm_opts *opts, struct vm **ret,
            struct bg_err *err) BG_MUST_CHECK;

/* Asks the guest to power off; after grace_ms without that, QEMU is killed. Again: a shorter grace
 * counts. */
void vm_shutdown(struct vm *vm, uint64_t grace_ms);

/* Ends it now. */
void vm_kill(struct vm *vm);

/* Lets the CPUs run, after on_loaded. */
void vm_run(struct vm *vm);

/* Gives it its identity, after on_held; identity as in vm_opts, and its time until READY begins
 * now, as do its timings. */
void vm_identify(struct vm *vm, const struct bg_identity *identity);

/* Begins a snapshot; only when READY. The fds are borrowed until on_snapshot. */
void vm_snapshot(struct vm *vm, const struct vm_snapshot_opts *opts);

/* After on_snapshot: the guest goes on; on_again follows, or the end. */
void vm_go_on(struct vm *vm);

/* After on_again: the streams that were to be resumed are; the agent drops the others. */
void vm_resumed(struct vm *vm);

/* Copies what some layers of the disk hold into one; only when READY, and one after the other.
 * Snapshots may be taken meanwhile. on_flattened follows, if the VM does not end before: it is in
 * the file (not synced), or why not. */
void vm_flatten(struct vm *vm, const struct vm_flatten_opts *opts);

/* Of one that is under way. */
void vm_flatten_speed(struct vm *vm, uint64_t bytes_per_s);

/* When READY again after a snapshot, for which it rested. */
void vm_flatten_go_on(struct vm *vm);

/* After on_flattened has told of a success: QEMU reads the new layer in the place of those, and
 * on_flattened follows again. Only when READY. use false: it is forgotten, and nothing follows. */
void vm_flatten_use(struct vm *vm, bool use);

/* QEMU shall end in good order, without the guest's doing; for a VM that is held. */
void vm_quit(struct vm *vm);

const struct vm_snapshot_result *vm_snapshot_result(const struct vm *vm);

/* The device to open streams on; NULL while there is none. */
struct vsock_device *vm_vsock(struct vm *vm);
bool vm_is_ready(const struct vm *vm);
pid_t vm_qemu_pid(const struct vm *vm);
const struct vm_timings *vm_timings(const struct vm *vm);
/* Milliseconds since the agent was last heard of. */
uint64_t vm_silent_ms(const struct vm *vm);
