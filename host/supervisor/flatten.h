/* flatten: the launcher's part in making the disk of its running sandbox short again: several
 * frozen layers become one. It chooses them, makes the file that QEMU fills (vm_flatten.c), brings
 * it to the disk and replaces disk.json; the layers go from the sandbox's folder, and from the disk
 * when no snapshot and no other sandbox has a link of them. A crash at any instant leaves the disk
 * with its old layers or with the new one, which are the same disk; a file that belongs to neither
 * goes at the next start.
 *
 * NONE -> COPYING (QEMU) -> SYNCING (a process of low priority) -> READY (no snapshot may be under
 * way: it has a layer's place of its own in mind) -> USING (QEMU) -> NONE. */
#pragma once

#include <sys/types.h>

#include "common/state/sandbox.h"
#include "host/supervisor/source.h"
#include "host/supervisor/supervisor.h"

struct flatten_opts {
    const struct bg_sandbox *sandbox;
    const struct golden *golden;
    struct source *source; /* its disk changes */
};

struct flatten {
    const struct flatten_opts *opts;
    enum flatten_step {
        FLATTEN_NONE,
        FLATTEN_COPYING,
        FLATTEN_SYNCING,
        FLATTEN_READY,
        FLATTEN_USING
    } step;
    bool off;           /* QEMU did not take one, and no longer has the disk's layers */
    size_t from, count; /* the layers that are copied */
    char id[BG_LAYER_ID_SIZE];
    int finisher_fd; /* readable when the file is on the disk, or is not; -1: none */
};

void flatten_init(struct flatten *flatten, const struct flatten_opts *opts);

/* Makes the file. all: of all layers but the top; else of those that flatten_plan.h chooses. *ret
 * and *ret_fd (the caller's) are for the supervisor, whose word is then awaited; the speed is the
 * caller's to fill in. Errors: -ENODATA there are no two; -EBUSY one is under way; -ENOSPC little
 * room is left; -EOPNOTSUPP not before the next start; errno. */
int flatten_begin(struct flatten *flatten, bool all, struct link_flatten *ret, int *ret_fd,
                  struct bg_err *err) BG_MUST_CHECK;

/* QEMU has filled the file, or not. Starts the process that syncs it. Errors: why not; all is as
 * before then. */
int flatten_copied(struct flatten *flatten, const struct bg_err *why,
                   struct bg_err *err) BG_MUST_CHECK;

/* Takes that process's word. Errors: likewise. */
int flatten_synced(struct flatten *flatten, struct bg_err *err) BG_MUST_CHECK;

/* Makes it the disk's. Only when READY, and while no snapshot is under way. QEMU shall use it then;
 * on an error it shall not, and all is as before. */
int flatten_put(struct flatten *flatten, struct bg_err *err) BG_MUST_CHECK;

/* QEMU uses it, or not, which ends it too: the disk is the same. */
void flatten_used(struct flatten *flatten, const struct bg_err *why);

/* Drops what is under way. */
void flatten_drop(struct flatten *flatten);
