/* helper: the launcher of a VM that serves the files of a disk that does not run: a stopped
 * sandbox's, a snapshot's or an image's. The VM is a fork of the image's golden snapshot with that
 * disk plugged; it has no proxy, so it reaches nothing. It leaves no file behind but its log,
 * however it ends: its overlays have no name, and its control socket is replaced or removed by the
 * next one.
 *
 * Read-only: the disk is below an overlay that goes away, so its journal can be replayed without
 * changing it; others may read it at the same time, but its sandbox does not start. For writing:
 * nobody else has it. */
#pragma once

#include "common/err.h"
#include "common/state/sandbox.h"
#include "host/supervisor/report.h"

struct helper_opts {
    const struct bg_paths *paths;
    const char *sandbox;  /* its name, or NULL */
    const char *snapshot; /* "NAME@TAG"; if sandbox is NULL: read-only */
    const char *image;    /* if both are NULL: read-only */
    bool write;
    bool repair;  /* errors of the file system too, after the disk was copied; with write */
    int owner_fd; /* a pipe whose other end the user of the files holds; its end is the helper's */
    struct report *report;
};

/* Prepares everything that can fail with a message, goes to the background, and serves until the
 * owner's end. Returns in the foreground process only, as launcher_run. Errors: -EBUSY the sandbox
 * runs, or its files are used otherwise; what could not be prepared. */
int helper_run(const struct helper_opts *opts, struct bg_err *err) BG_MUST_CHECK;
