/* supervisor: the process that holds one sandbox's VM: it parses what the guest sends, and has no
 * secrets, no files and no network. The launcher starts it, watches it, and starts the proxy. */
#pragma once

#include "common/state/sandbox.h"
#include "host/supervisor/golden.h"
#include "host/supervisor/source.h"

/* Between launcher and supervisor: datagrams of a SOCK_SEQPACKET pair, a type and what follows. */
enum link_message {
    /* supervisor -> launcher */
    LINK_LOADED = 'U',  /* all is there and nothing has run: may it? Answered by LINK_RUN */
    LINK_HELD = 'B',    /* of a pool's member: it waits for LINK_CLAIM */
    LINK_READY = 'R',   /* struct vm_timings */
    LINK_ENDED = 'E',   /* struct bg_err; last */
    LINK_RELOAD = 'L',  /* another proxy is wanted, for files have changed */
    LINK_WANT = 'W',    /* a snapshot is wanted: the client's request, JSON */
    LINK_TAKEN = 'T',   /* struct link_taken: the VM is held; answered by LINK_GO */
    LINK_SHORTEN = 'H', /* the disk is to be flattened; answered by LINK_SHORT */
    LINK_COPIED = 'C',  /* struct bg_err: what LINK_FLATTEN or LINK_USE has asked for is done */
    /* launcher -> supervisor */
    LINK_RUN = 'V',
    LINK_CLAIM = 'K', /* the name; carries the sandbox.json that the member is from now on */
    LINK_PROXY = 'P', /* i32 the proxy's pid; carries its socket */
    LINK_STOP = 'S',  /* u64 grace in ms */
    LINK_FILES = 'F', /* struct link_files; carries the files of a snapshot */
    LINK_GO = 'G',    /* u8: 0 the guest goes on, 1 it is suspended and the VM ends */
    LINK_IDLE = 'I',  /* u64 ms: after so long without work it asks for its suspension; 0: never */
    LINK_DONE = 'D',  /* struct link_done: the snapshot is in the store, or is not */
    LINK_FLATTEN = 'M', /* struct link_flatten; carries the file; without one: a new speed */
    LINK_USE = 'N',     /* u8: 1 QEMU uses the file of LINK_FLATTEN, answered; 0 it is forgotten */
    LINK_SHORT = 'O',   /* struct link_short: the disk has been flattened, or has not */
};

#define LINK_WANT_MAX  4096 /* bytes of a request */
#define LINK_FILES_MAX (3 + BG_MEMORY_LAYERS_MAX)

/* Which fds come with it, in this order. */
struct link_files {
    bool state, memory, top;
    uint8_t fold, previous; /* so many memory layers, bottom to top, in the roles of memory_save */
};

struct link_taken {
    struct bg_err why; /* code 0: taken */
    uint64_t dirty_bytes, written_bytes;
    uint32_t next_stream;
};

struct link_done {
    struct bg_err why;
    char name[2 * (BG_SANDBOX_NAME_MAX + 1)];
};

/* Layers of the disk, counted from its bottom, that are copied into one. */
struct link_flatten {
    uint32_t from, count;
    uint64_t bytes_per_s; /* 0: as fast as it goes */
};

struct link_short {
    struct bg_err why;
    uint32_t before, after; /* layers */
};

/* A second disk, for the agent to mount: the VM is a helper's, which serves the files of it. */
struct supervisor_disk {
    int fds[QEMU_DISKS_MAX]; /* as those of struct qemu_opts */
    size_t count;
    uint32_t flags; /* BG_DISK_... */
};

/* A volume, for the agent to mount. */
struct supervisor_volume {
    int fds[BG_VOLUME_LAYERS_MAX]; /* its layers, top first; the first is written */
    size_t count;
    uint32_t flags;   /* BG_VOLUME_... */
    const char *path; /* in the guest; borrowed */
};

struct supervisor_opts {
    const struct bg_sandbox *sandbox;
    const struct golden *golden;
    const struct qemu_program *qemu;
    enum accel accel;
    const char *ca_pem;
    bool member;         /* of a pool: it has no identity before LINK_CLAIM */
    bool cold;           /* boot the disk instead of forking the snapshot */
    const int *disk_fds; /* the sandbox's layers, top first, or as good as that */
    size_t disk_count;
    /* What it goes on from instead of the golden snapshot's state; NULL: nothing. */
    const struct source *source;
    const struct supervisor_disk *second; /* NULL: none. READY is when it is mounted */
    const struct supervisor_volume *volumes[BG_SANDBOX_VOLUMES_MAX]; /* READY: they are mounted */
    size_t volume_count;
    int control_fd; /* listening */
    int link_fd;
    int log_fd, console_fd;
    unsigned owner_uid; /* who may use the control socket */
};

/* Runs to the VM's end; the process exits with the result. */
int supervisor_run(const struct supervisor_opts *opts);
