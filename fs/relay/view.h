/* What the host sees of git's own files, made from what the guest has. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "fs/guard/rules.h"

struct fs_view_opts {
    enum guard_class class; /* GUARD_GIT, GUARD_CONFIG, GUARD_POINTER, GUARD_POINTERS */
    unsigned depth;         /* of the folder that the file is in, below the mount's root */
    bool whole;             /* the mount's root is the guest's: absolute paths can be shown */
};

/* text: untrusted. *ret: heap. *ret_dropped: settings or lines left out. Errors: -EPROTO, -EPERM,
 * -E2BIG cannot be shown; -ENOMEM. */
int fs_view_make(const struct fs_view_opts *opts, const uint8_t *text, size_t size, uint8_t **ret,
                 size_t *ret_size, size_t *ret_dropped, struct bg_err *err) BG_MUST_CHECK;
