/* The image's disk: one ext4 file system on the whole of a qcow2, filled by libguestfs, whose
 * appliance (QEMU with the cached kernel) is the only thing that ever reads or mounts a foreign
 * file system. Everything here blocks for long: call it in a job. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "images/kernel.h"

#define DISK_LABEL "bellglass"

struct disk_opts {
    const struct kernel *kernel;
    const char *appliance; /* folder where libguestfs keeps its appliance; made if missing */
    const char *tmp;
    const char *out;        /* qcow2 to make */
    uint64_t virtual_bytes; /* its size */
};

/* Makes opts->out with the contents of a tar. Errors: -EREMOTEIO libguestfs failed, with its text.
 */
int disk_from_tar(const struct disk_opts *opts, const char *tar, struct bg_err *err) BG_MUST_CHECK;

struct disk_facts {
    char user[33]; /* the default user to be */
    char os[128];  /* what the system calls itself, or ""; escaped */
};

/* Makes opts->out with a copy of the Linux root that is on another disk. in: untrusted, qcow2
 * without a backing file (the caller has checked). user: the default user, or NULL to choose:
 * "app", else the one with uid 1000, else root. Errors: -EUCLEAN no or several systems on it;
 * -ENOENT no such user; -ENOSPC; -EREMOTEIO. */
int disk_from_qcow2(const struct disk_opts *opts, const char *in, const char *user,
                    struct disk_facts *ret, struct bg_err *err) BG_MUST_CHECK;

/* How guests run here: BELLGLASS_ACCEL=kvm|tcg, else KVM if the processor has it and /dev/kvm can
 * be opened. Some machines have a /dev/kvm that opens but cannot run a guest. */
bool disk_has_kvm(void);
