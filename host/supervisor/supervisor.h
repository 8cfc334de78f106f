/* supervisor: the process that holds one sandbox's VM: it parses what the guest sends, and has no
 * secrets, no files and no network. The launcher starts it, watches it, and starts the proxy. */
#pragma once

#include "common/state/sandbox.h"
#include "host/supervisor/golden.h"

/* Between launcher and supervisor: datagrams of a SOCK_SEQPACKET pair, a type and what follows. */
enum link_message {
    LINK_READY = 'R',  /* supervisor -> launcher: struct vm_timings */
    LINK_ENDED = 'E',  /* supervisor -> launcher: struct bg_err; last */
    LINK_PROXY = 'P',  /* launcher -> supervisor: i32 the proxy's pid; carries its socket */
    LINK_RELOAD = 'L', /* supervisor -> launcher: another proxy is wanted, for files have changed */
    LINK_STOP = 'S',   /* launcher -> supervisor: u64 grace in ms */
};

/* A second disk, for the agent to mount: the VM is a helper's, which serves the files of it. */
struct supervisor_disk {
    int fds[QEMU_DISKS_MAX]; /* as those of struct qemu_opts */
    size_t count;
    uint32_t flags; /* BG_DISK_... */
};

struct supervisor_opts {
    const struct bg_sandbox *sandbox;
    const struct golden *golden;
    const struct qemu_program *qemu;
    enum accel accel;
    const char *ca_pem;
    bool cold;                            /* boot the disk instead of forking the snapshot */
    int disk_fd;                          /* the sandbox's overlay, or as good as that */
    const struct supervisor_disk *second; /* NULL: none. READY is when it is mounted */
    int control_fd;                       /* listening */
    int link_fd;
    int log_fd, console_fd;
    unsigned owner_uid; /* who may use the control socket */
};

/* Runs to the VM's end; the process exits with the result. */
int supervisor_run(const struct supervisor_opts *opts);
