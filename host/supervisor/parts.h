/* parts: what the start of a VM needs, found before anything goes to the background. Shared by the
 * launcher of sandboxes and that of helpers. */
#pragma once

#include "common/state/image.h"
#include "common/state/paths.h"
#include "host/supervisor/golden.h"
#include "host/supervisor/report.h"

struct parts {
    struct bg_image image;
    struct qemu_program qemu;
    struct golden golden;
    enum accel accel;
    char *agent_path, *proxy_path;
    char *ca_pem;
    bool cold; /* boot the disk instead of forking a snapshot */
};

/* Everything but the golden snapshot. Errors: what is not there, with the way out. */
int parts_find(const struct bg_paths *paths, const char *image, struct parts *parts,
               struct bg_err *err) BG_MUST_CHECK;

/* The golden snapshot, which may have to be made. Errors: as golden_get. */
int parts_golden(const struct bg_paths *paths, unsigned cpus, uint64_t memory_bytes,
                 struct report *report, struct parts *parts, struct bg_err *err) BG_MUST_CHECK;

/* Writes an empty overlay on the snapshot's disk to fd, which is at its beginning. Errors: -EUCLEAN
 * the snapshot has no such; errno. */
int parts_write_overlay(const struct golden *golden, int fd, struct bg_err *err) BG_MUST_CHECK;

/* The CA's certificate as it is now. *ret: heap. */
int parts_read_ca(const char *proxy_path, const struct bg_paths *paths, char **ret,
                  struct bg_err *err) BG_MUST_CHECK;

void parts_done(struct parts *parts);
