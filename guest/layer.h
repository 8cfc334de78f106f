/* The layer of a copy-on-write share: what the guest's programs made of a folder of the host's.
 *
 * The share itself is mounted read-only at BASE/N/lower; overlayfs lays BASE/N/upper over it, on
 * the guest's own disk, and the sum is BASE/N/merged, bound to where the user wants it. With the
 * overlay's options (no redirects, no metadata-only copies, no index) the upper folder has whole
 * files, whiteouts and opaque folders, and nothing else that one would have to know.
 *
 * Things are taken out of the upper folder while the overlay is mounted. The kernel calls what is
 * seen then undefined, and means its caches: so that it looks again, the overlay is remounted after
 * it, which drops what it has cached and nobody uses. What is in use stays as it was: layer_settle
 * sees that and puts it back, layer_discard removes it by way of the overlay first.
 *
 * Blocking; for a worker. No libuv. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "common/changes.h"

struct layer {
    int base, upper, lower, merged; /* folders, owned */
};

struct layer_opts {
    const char *base;
    uint32_t share;
    const char *target; /* where the sum is shown; made if it is missing */
    uid_t uid;          /* whose folders are made on the way there */
    gid_t gid;
    bool empty; /* what was in the layer goes */
};

/* Mounts the overlay (its lower is there) and binds it to the target. What an earlier call mounted
 * is taken away first. Errors: errno; -ENODEV this kernel has no overlayfs. */
int layer_mount(const struct layer_opts *opts, struct bg_err *err) BG_MUST_CHECK;

/* Takes the mounts away. lazily: even in use. The layer stays. Errors: -EBUSY. */
int layer_unmount(const char *base, uint32_t share, const char *target, bool lazily,
                  struct bg_err *err) BG_MUST_CHECK;

/* Makes the overlay look again at the share, from time to time, until it is not mounted any more:
 * a name that was looked for and was not there stays away otherwise, even when the host has made
 * it. Holds nothing open, so that it is in nobody's way. Returns at once if somebody does it
 * already. */
void layer_watch(const char *base, uint32_t share);

/* Errors: -ENOENT there is no such layer. */
int layer_open(const char *base, uint32_t share, struct layer *ret,
               struct bg_err *err) BG_MUST_CHECK;
void layer_close(struct layer *layer);

/* Where results go; a negative result of a call ends the walk with it. */
struct layer_sink {
    int (*record)(void *owner, const struct bg_change *change);
    int (*bytes)(void *owner, const void *bytes, size_t size); /* of the record before */
    void *owner;
};

/* All records, a folder before what is in it. Also makes the overlay look again at the share.
 * Errors: -E2BIG too many, -ENAMETOOLONG too deep. */
int layer_list(const struct layer *layer, const struct layer_sink *sink,
               struct bg_err *err) BG_MUST_CHECK;

/* A list of items is records as bg_change_emit writes them; the caller has checked that it parses.
 */

/* Sends the items that are files, each with its contents and an enum bg_change_read. One that was
 * written to meanwhile is sent again, a few times. What is gone is left out. */
int layer_fetch(const struct layer *layer, const uint8_t *items, size_t size,
                const struct layer_sink *sink, struct bg_err *err) BG_MUST_CHECK;

/* The share has by now what the items say: takes them out of the layer, so that the share's shows.
 * An item that is not as it says any more, or that a process has open, stays, and is sent to sink
 * with BG_CHANGE_NEWER or _BUSY. Of a folder only its being opaque is taken away. */
int layer_settle(const struct layer *layer, const uint8_t *items, size_t size,
                 const struct layer_sink *sink, struct bg_err *err) BG_MUST_CHECK;

/* Takes the items out of the layer as they are by now. Sent to sink with BG_CHANGE_BUSY is what
 * could not be removed, and what is gone but still seen, because a process has it open: that ends
 * when the file is closed and the overlay looks again. */
int layer_discard(const struct layer *layer, const uint8_t *items, size_t size,
                  const struct layer_sink *sink, struct bg_err *err) BG_MUST_CHECK;
