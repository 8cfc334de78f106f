/* Where bellglass keeps things (docs/protocol.md, "State files"). Host programs only. */
#pragma once

#include "common/err.h"

struct bg_paths {
    char *data;    /* images, snapshots, secrets, CA */
    char *state;   /* sandboxes */
    char *runtime; /* control sockets */
};

/* Works the folders out of the environment and makes them (0700; as root 0711, so that the
 * unprivileged helpers can pass through). BELLGLASS_HOME=DIR puts all three below DIR; else
 * XDG_DATA_HOME, XDG_STATE_HOME, XDG_RUNTIME_DIR and their defaults; as root without them
 * /var/lib/bellglass and /run/bellglass. Errors: -EINVAL no HOME; errno of mkdir. */
int bg_paths_init(struct bg_paths *paths, struct bg_err *err) BG_MUST_CHECK;
void bg_paths_done(struct bg_paths *paths);

/* The path of one of our helper programs ("bellglass-proxy"): $BELLGLASS_HELPER_DIR, else beside
 * the running program, else ../libexec/bellglass from it. Heap, the caller's. Errors: -ENOENT. */
int bg_helper_path(const char *program, char **ret_path, struct bg_err *err) BG_MUST_CHECK;

/* The path of `bellglass` itself, for a helper that runs it: beside the helper, else in ../../bin
 * from it. Heap, the caller's. Errors: -ENOENT. */
int bg_program_path(char **ret_path, struct bg_err *err) BG_MUST_CHECK;

/* The path of one of our data files: beside the program, else in ../../share/bellglass from it.
 * Heap, the caller's. Errors: -ENOENT. */
int bg_data_path(const char *file, char **ret_path, struct bg_err *err) BG_MUST_CHECK;

/* The uid and gid that QEMU, the supervisor and the proxy run as: our own, or as root the user
 * "_bellglass" if there is one, else 65534. */
void bg_runner_ids(unsigned *ret_uid, unsigned *ret_gid);
