/* What vm.c, vm_snapshot.c and vm_flatten.c share. For those only. */
#pragma once

#include "host/supervisor/disk_chain.h"
#include "host/supervisor/qmp.h"
#include "host/supervisor/session.h"
#include "host/supervisor/vm.h"

/* Of a VM that runs, from left to right; a snapshot goes from READY to HELD, and back by way of
 * PLUGGING and CONNECTING if the device was unplugged. ENDING is final. */
enum vm_state {
    VM_MONITOR,    /* QEMU's monitor is awaited */
    VM_RESTORING,  /* the device state is being loaded */
    VM_PLUGGING,   /* the vsock device is being added */
    VM_WAITING,    /* all is there; the owner says when the CPUs may run */
    VM_CONNECTING, /* the guest runs; the agent is awaited */
    VM_READY,
    VM_PREPARING,  /* snapshot: the agent syncs */
    VM_UNPLUGGING, /* snapshot: the device is being taken away */
    VM_SAVING,     /* snapshot: the vCPUs are being stopped, or are and the state is written */
    VM_HELD,       /* snapshot: over, however it went; vm_go_on() or the end follows */
    VM_ENDING
};

/* How far the latest snapshot got, which is what vm_go_on() has to undo. */
struct vm_snapshot_run {
    struct vm_snapshot_opts opts;
    struct vm_snapshot_result result;
    struct bg_err why;
    bool asked_out; /* the guest has been asked to let go of the device, and has not yet */
    bool unplugged, stopped;
    bool waits; /* for vm_flatten_holds() */
    uint64_t stopped_us;
    uint64_t ram_address; /* QEMU's address of the RAM's first byte; 0: not known */
    struct guest_region ram_regions[BG_VSOCK_REGIONS_MAX];
    size_t ram_region_count;
    struct bg_page_records records; /* of the guest's kernel */
    bool has_records;
    json_int_t fd_set; /* QEMU's set with the file of its state */
    bool has_fd_set;
    char top[DISK_NODE_SIZE]; /* the disk's new one */
    json_int_t top_set;
};

enum vm_flatten_step {
    VM_FLATTEN_NONE,
    VM_FLATTEN_COPYING,
    VM_FLATTEN_FINALIZING,
    VM_FLATTEN_FLUSHING,
    VM_FLATTEN_COPIED, /* vm_flatten_use() follows */
    VM_FLATTEN_USING
};

struct vm_flatten_run {
    enum vm_flatten_step step;
    size_t from, count; /* of the disk's layers */
    uint64_t speed;     /* bytes a second; 0: no limit */
    char node[DISK_NODE_SIZE];
    json_int_t fd_set; /* -1: none yet */
    bool pending;      /* all is copied, and the job waits for our word */
    bool paused;       /* for a snapshot */
};

struct vm {
    struct vm_opts opts;
    uv_loop_t *loop;
    enum vm_state state;
    uint64_t started_ms;
    struct vm_timings timings;

    pid_t pid; /* 0: reaped */
    struct qmp *qmp;
    struct vsock_device *vsock;
    struct vsock_conn *agent; /* the session's connection, from connect to on_end */
    bool agent_open;
    unsigned connects; /* requests for it that were not answered, one after the other */
    struct session session;
    uint8_t *out; /* bytes that the connection did not take yet */
    size_t out_size;

    uv_signal_t child;
    uv_timer_t deadline; /* READY, a snapshot, or the end of a shutdown */
    uv_timer_t retry;
    uv_timer_t ping;
    uv_poll_t console;
    int console_in;
    uint64_t console_bytes;
    int pagemap_fd, shared_memory_fd; /* -1: none */
    unsigned open_handles;            /* until 0 the memory stays */
    size_t volumes_plugged;           /* or about to be */
    bool held;                        /* on_held has been called, and vm_identify() has not */
    bool was_ready;                   /* on_ready has been called */
    bool shutting_down;               /* the end is wanted: it is no failure */
    bool guest_reset;                 /* the guest's kernel restarted: with -no-reboot QEMU's end */
    bool ends;                        /* QEMU has said so */
    bool silence_logged;
    unsigned pings_without_driver; /* in a row */
    uint64_t log_minute;           /* the minute in which the agent has logged log_lines */
    unsigned log_lines;
    struct vm_snapshot_run snapshot;
    unsigned disk_errors;  /* that have been logged, and further ones */
    unsigned vsock_number; /* of the device that is or was plugged: names its chardev */
    struct disk_chain disk;
    struct vm_flatten_run flatten;
    int64_t stale_set; /* of fds that QEMU is to close when the CPUs run; -1: none */
    struct bg_err why;
};

/* ---- vm.c for vm_snapshot.c ---- */

/* Goes to the end; the first reason stays. why NULL: as wanted. */
void vm_end(struct vm *vm, const struct bg_err *why);
/* Ends it because of a monitor command that failed, unless that has a better reason. */
void vm_fail_qmp(struct vm *vm, const struct bg_err *err, const char *what);
/* Serves a new vsock device over fd (taken on success). */
int vm_serve_vsock(struct vm *vm, int fd, struct bg_err *err) BG_MUST_CHECK;
/* Plugs the device that is served, and lets the CPUs run when that is done. */
void vm_plug(struct vm *vm);
/* What is going on must be over by then. */
void vm_deadline(struct vm *vm, uint64_t ms);
uint64_t vm_now_us(void);

/* ---- vm_flatten.c for the others ---- */

/* How a layer is opened that QEMU writes, or has written, as arguments of blockdev-add. frozen: it
 * is not written any more, as QEMU has it of each top below another one; else it holds a lock, and
 * nobody may read it. backing: taken. NULL: memory is out, and the command fails. */
json_t *vm_disk_options(const char *node, int64_t fd_set, bool frozen, json_t *backing);
/* True while QEMU changes what stands on what: a snapshot has to wait (vm_snapshot_unhold). */
bool vm_flatten_holds(const struct vm *vm);
/* Nothing is copied while a snapshot is under way, until vm_flatten_go_on(). */
void vm_flatten_pause(struct vm *vm);
/* A job of QEMU's waits to be finalized. */
void vm_flatten_job_pending(struct vm *vm, const char *job);
/* A job of QEMU's is over. error: its text, hostile; NULL: it went well. */
void vm_flatten_job_ended(struct vm *vm, const char *job, const char *error);

/* ---- vm_snapshot.c for vm.c ---- */

/* The name of the chardev of the device that is or was plugged last. */
void vm_vsock_name(const struct vm *vm, char ret[32]);
/* The agent has answered; records: as session_ops.on_prepared has them. */
void vm_snapshot_prepared(struct vm *vm, const struct bg_page_records *records);
void vm_snapshot_unplugged(struct vm *vm); /* the device is gone, expected or late */
void vm_snapshot_forget_state(struct vm *vm);
void vm_snapshot_unhold(struct vm *vm); /* what vm_flatten_holds() has said may be over */
void vm_snapshot_late(struct vm *vm);   /* the deadline has passed while it was in progress */
