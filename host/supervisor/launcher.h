/* launcher: the small process that stands over one running sandbox. It holds the sandbox's lock,
 * writes its state, starts the supervisor and the proxy, starts the proxy again when it dies, and
 * cleans up when the supervisor ends, however that comes. It reads no byte of the guest. */
#pragma once

#include <stdbool.h>

#include "common/err.h"
#include "common/state/sandbox.h"
#include "host/supervisor/report.h"

struct launcher_opts {
    const struct bg_paths *paths;
    struct bg_sandbox *sandbox; /* of a member: replaced by what it becomes */
    bool member;                /* of a pool: it is started, and waits for who claims it */
    int lock_fd;                /* the sandbox's lock, held until we exit */
    int owner_fd; /* a pipe whose other end the owner holds: at its end the sandbox stops; -1: none
                   */
    bool cold;    /* boot its disk, and forget the memory that it could go on from */
    struct report *report;
};

/* Prepares everything that can fail with a message (image, QEMU, snapshot), goes to the background,
 * and runs the sandbox to its end. Returns in the foreground process only: 0 when the background
 * one has taken over. Errors: what could not be prepared. */
int launcher_run(const struct launcher_opts *opts, struct bg_err *err) BG_MUST_CHECK;

/* Makes the golden snapshot without starting anything. */
int launcher_golden(const struct bg_paths *paths, const char *image_name, unsigned cpus,
                    uint64_t memory_bytes, struct report *report, struct bg_err *err) BG_MUST_CHECK;
