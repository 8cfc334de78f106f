/* vm: one QEMU from start to gone: monitor, vsock device, session with the agent. Loop thread only.
 *
 * Life of a fork:  QEMU up and stopped -> device state loaded -> vsock device plugged -> cont ->
 *   driver up -> session -> identity in force -> READY.
 * A cold boot is the same without the second step. A snapshot (vm_save) goes READY -> agent has
 *   synced -> device unplugged -> vCPUs stopped -> state written -> SAVED; there is no way back
 * from it but the end. Whatever fails, and whatever the guest or QEMU does wrong, leads to one end:
 * QEMU is killed and reaped, every handle closed, and on_ended called as the last thing. */
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

struct vm_opts {
    struct qemu_opts qemu; /* qmp_fd, console_fd, vsock_fd are filled in; its other fds stay the
                              caller's and may be closed after vm_open */
    struct bg_identity identity; /* clock and entropy are filled in when it is sent; what it borrows
                                    must live until on_ready */
    const struct bg_log *log;    /* borrowed; NULL: none */
    int console_fd; /* where the guest's console goes, at most VM_CONSOLE_MAX; -1: nowhere */
    uint64_t ready_timeout_ms;   /* from vm_open to READY */
    uint64_t silence_timeout_ms; /* without an answer to a ping: the guest hangs, and is logged */
    void (*on_ready)(void *owner, const struct vm_timings *timings);
    /* A connection that the guest asks for, to be accepted or reset by the owner. */
    void (*on_request)(void *owner, struct vsock_conn *conn, uint32_t host_port);
    void (*on_saved)(void *owner);
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

/* Begins a snapshot of the device state into state_fd (borrowed until on_saved). Only when READY.
 * The guest's RAM and disk are complete in their files once on_ended has come. */
void vm_save(struct vm *vm, int state_fd);

/* The device to open streams on; NULL while there is none. */
struct vsock_device *vm_vsock(struct vm *vm);
bool vm_is_ready(const struct vm *vm);
pid_t vm_qemu_pid(const struct vm *vm);
const struct vm_timings *vm_timings(const struct vm *vm);
/* Milliseconds since the agent was last heard of. */
uint64_t vm_silent_ms(const struct vm *vm);
