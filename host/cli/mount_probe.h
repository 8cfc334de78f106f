/* mount_probe: whether something is still behind a mount, without being caught by one that does
 * not answer: the questions are asked by child processes. */
#pragma once

#include "host/cli/mounts.h"

/* What is known of the sandbox that a mount names. */
enum mount_sandbox {
    MOUNT_SANDBOX_UNKNOWN, /* none of this installation's */
    MOUNT_SANDBOX_RUNS,
    MOUNT_SANDBOX_CRASHED, /* or suspended: its mounts wait for its next start */
    MOUNT_SANDBOX_STOPPED, /* which ends its mounts; and no helper has its disk */
};

enum mount_condition {
    MOUNT_LIVES,  /* or waits for its sandbox to be started again, or is somebody else's */
    MOUNT_ORPHAN, /* what served it is gone for good: every access fails */
    MOUNT_STALE,  /* accesses hang, and its sandbox has ended */
    MOUNT_SILENT, /* accesses fail or hang, but its sandbox runs, or is not known here */
};

/* Asks all mounts of the list at once for the attributes of their roots, which the relay knows even
 * while it has no server.
 * answers: list->count; each 0, the errno of that, or -ETIME: nothing for longer than the relay's
 * deadline, at which it would have given an error if it were alive. */
void mount_probe(const struct mount_list *list, int *answers);

/* Pure. answer: of mount_probe. */
enum mount_condition mount_judge(int answer, enum mount_sandbox sandbox);

/* Ends one that is dead: if accesses hang, root aborts its connection first, which frees them; then
 * it is unmounted. Errors: as mounts_unmount. */
int mount_clear(const struct mount_entry *entry, int answer, struct bg_err *err) BG_MUST_CHECK;
