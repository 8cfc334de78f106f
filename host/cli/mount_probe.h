/* mount_probe: whether something is still behind a mount, without being caught by one that does
 * not answer: the question is asked by a child process. */
#pragma once

#include "host/cli/mounts.h"

/* What is known of the sandbox that a mount names. */
enum mount_sandbox {
    MOUNT_SANDBOX_UNKNOWN, /* none of this installation's */
    MOUNT_SANDBOX_RUNS,
    MOUNT_SANDBOX_ENDED,
};

enum mount_condition {
    MOUNT_LIVES,  /* or is somebody else's */
    MOUNT_ORPHAN, /* the process that served it is gone: every access fails */
    MOUNT_STALE,  /* its sandbox has ended, and accesses fail or hang */
    MOUNT_SILENT, /* does not answer, but its sandbox runs, or is not known here */
};

/* Asks for the attributes of the mount's root, from whoever serves it. Returns 0, the errno of
 * that, or -ETIME. */
int mount_probe(const struct mount_entry *entry);

/* Pure. answer: of mount_probe. */
enum mount_condition mount_judge(int answer, enum mount_sandbox sandbox);

/* Ends one that is dead: if accesses hang, root aborts its connection first, which frees them; then
 * it is unmounted. Errors: as mounts_unmount; errno of aborting. */
int mount_clear(const struct mount_entry *entry, int answer, struct bg_err *err) BG_MUST_CHECK;
