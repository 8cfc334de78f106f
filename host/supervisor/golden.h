/* golden: the snapshot that the first sandbox of (image, cpus, memory) makes by a cold boot and
 * every later one is a fork of (docs/protocol.md, "Golden snapshots"). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/state/image.h"
#include "common/state/paths.h"
#include "host/supervisor/qemu.h"

/* What a golden snapshot depends on. Borrowed by whoever gets it. */
struct golden_opts {
    const struct bg_paths *paths;
    const struct bg_image *image;
    const struct qemu_program *qemu;
    enum accel accel;
    unsigned cpus;
    uint64_t memory_bytes;
    const char *agent_path;
    const char *ca_pem; /* the installation's CA; "" if there is none */
    /* Progress for the person who waits; may be NULL. */
    void (*on_progress)(void *owner, const char *text);
    void *owner;
};

struct golden {
    char *dir; /* DATA/snapshots/golden-KEY.TAG; stays as it is while a sandbox refers to it */
    /* Open files, owned by this struct. */
    int memory_fd, state_fd, disk_fd, base_fd, kernel_fd, initrd_fd;
    int child_fd; /* an empty overlay on the disk, to be copied */
};

/* Finds the snapshot, or makes it; one maker at a time, the others wait. A damaged one is logged by
 * on_progress and made anew. Errors: what failed, with a text for a person. */
int golden_get(const struct golden_opts *opts, struct golden *ret,
               struct bg_err *err) BG_MUST_CHECK;

/* Opens the one that a sandbox was made from, by its folder's name. Errors: -ENOENT gone; -EUCLEAN
 * damaged. */
int golden_open(const struct bg_paths *paths, const struct bg_image *image, const char *name,
                struct golden *ret, struct bg_err *err) BG_MUST_CHECK;

/* The same to boot the sandbox's own disk: only disks, kernel and initrd are checked and opened. */
int golden_open_disk(const struct bg_paths *paths, const struct bg_image *image, const char *name,
                     struct golden *ret, struct bg_err *err) BG_MUST_CHECK;

void golden_done(struct golden *golden);

#define GOLDEN_CPU_SIZE 33

/* What of this machine's CPU a guest's state depends on, in hex; "" where it does not. */
void golden_cpu(enum accel accel, char ret[GOLDEN_CPU_SIZE]);

/* The kernel's command line for every cold boot. */
#define GOLDEN_CMDLINE "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t rdinit=/init"

/* How long a guest may take until it is ready, in ms: by accelerator, since cold boots under TCG on
 * a busy machine are slow, or $BELLGLASS_READY_TIMEOUT_MS. */
uint64_t golden_ready_timeout_ms(enum accel accel);
