/* qemu: finds QEMU, writes its command line, and starts it with nothing but what it needs: the fds
 * of its own files, no network, no way to gain rights or to start programs. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "common/limits.h"
#include "host/supervisor/accel.h"
#include "host/supervisor/memory_layer.h"

/* The oldest QEMU that the fork machinery was written for. */
#define QEMU_MAJOR_MIN 7
#define QEMU_MINOR_MIN 2

struct qemu_program {
    char *path;       /* $BELLGLASS_QEMU, else qemu-system-x86_64 on PATH */
    char version[64]; /* "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)": part of a snapshot's key */
};

/* note: a file in which its version is kept, so that it is not asked each time; NULL: none. Errors:
 * -ENOENT not installed (the text says how to); -ENOTSUP too old. */
int qemu_find(const char *note, struct qemu_program *ret, struct bg_err *err) BG_MUST_CHECK;
void qemu_program_done(struct qemu_program *program);

/* A sandbox's layers, the golden snapshot's and the image's, and one that goes away. */
#define QEMU_DISKS_MAX (BG_DISK_LAYERS_MAX + 3)

struct qemu_opts {
    const char *path, *name;
    enum accel accel;
    unsigned cpus;
    uint64_t memory_bytes;
    /* Guest RAM. shared: the file itself is written (a cold boot); else it is mapped private (a
     * fork), and an fd opened read-only will do. */
    int memory_fd;
    bool memory_shared;
    /* Of a fork of a snapshot: its memory layers, from the bottom to the top, open for reading. */
    int memory_layer_fds[BG_MEMORY_LAYERS_MAX];
    size_t memory_layer_count;
    /* They stand on zeros, and of the memory file only its size is used. */
    bool memory_base_none;
    int state_fd;             /* device state to begin from (a fork); -1: cold boot */
    int kernel_fd, initrd_fd; /* cold boot only */
    const char *cmdline;
    /* The disk and its backing files, top first; all but the top are read only. */
    int disk_fds[QEMU_DISKS_MAX];
    size_t disk_count;
    /* Likewise of a second disk, which the VM plugs once the state is loaded; none: 0. */
    int second_fds[QEMU_DISKS_MAX];
    size_t second_count;
    /* And of volumes: layers of each, top first, borrowed for the start. */
    struct {
        const int *fds;
        size_t count;
    } volumes[BG_SANDBOX_VOLUMES_MAX];
    size_t volume_count;
    int qmp_fd, console_fd, vsock_fd; /* sockets; QEMU's ends */
    int log_fd;                       /* its stdout and stderr */
    unsigned uid, gid;                /* what it runs as; changed to only when we are root */
};

/* Leaves the calling process, for good, only the files that QEMU needs: its program and data, /proc
 * and what opts names (Landlock; where the kernel has none, file modes and seccomp are what is
 * left). QEMU must be started by a process in the same Landlock domain, or that could not reach the
 * guest's memory; so the supervisor confines itself with this and QEMU inherits it. Also sets
 * no_new_privs. Errors: errno of the calls. */
int qemu_confine_files(const struct qemu_opts *opts, struct bg_err *err) BG_MUST_CHECK;

/* Starts QEMU, stopped before the first instruction. All fds stay the caller's. The child dies with
 * the thread that called this. Errors: errno of fork, pipe or exec. */
int qemu_start(const struct qemu_opts *opts, pid_t *ret_pid, struct bg_err *err) BG_MUST_CHECK;

/* Names of the parts that the VM handles over QMP. */
#define QEMU_DISK_NODE     "disk" /* with the layer's number behind it, 0 the top */
#define QEMU_VSOCK_DEVICE  "vsock0"
#define QEMU_VSOCK_ADDR    "0x10"
#define QEMU_SECOND_NODE   "second0"
#define QEMU_SECOND_DEVICE "second"
#define QEMU_SECOND_ADDR   "0x11"
#define QEMU_SECOND_SERIAL "bellglass-second" /* how the agent finds it */
#define QEMU_VOLUME_NODE   "volume%zu-"       /* with the layer's number behind it, 0 the top */
#define QEMU_VOLUME_DEVICE "volume%zu"
#define QEMU_VOLUME_ADDR   0x12u /* of the first one, a slot */

/* How the agent finds a volume. */
#define QEMU_SERIAL_SIZE 21
void qemu_volume_serial(size_t index, char out[QEMU_SERIAL_SIZE]);
