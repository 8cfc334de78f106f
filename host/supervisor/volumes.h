/* volumes: those of a sandbox as its launcher has them: locked for as long as it runs, their layers
 * open. */
#pragma once

#include "common/log.h"
#include "common/state/sandbox.h"
#include "common/state/volume.h"
#include "host/supervisor/supervisor.h"

struct volumes {
    struct bg_volume root; /* id "": the sandbox has a disk of its own */
    struct {
        struct bg_volume volume;
        struct supervisor_volume its; /* path: the sandbox's */
    } list[BG_SANDBOX_VOLUMES_MAX];
    size_t count;
    int locks[BG_SANDBOX_VOLUMES_MAX + 1]; /* their folders; the first lock_count are open */
    size_t lock_count;
};

/* Takes all that the sandbox wants. Errors: -EBUSY one is in use; -ENOMEDIUM one was removed;
 * -EUCLEAN one is damaged; errno. Nothing is held then. */
int volumes_take(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                 struct volumes *ret, struct bg_err *err) BG_MUST_CHECK;

/* All are mounted: those that were new have their file system now. */
void volumes_note_ready(struct volumes *volumes, const struct bg_log *log);

void volumes_done(struct volumes *volumes);
