/* Which kernel modules the agent needs, and in what order they load. Pure: the texts of depmod's
 * files go in, paths come out. */
#pragma once

#include <stddef.h>

#include "common/err.h"

#define MODULES_MAX 512 /* modules in one initramfs; the list is ours, so more is a mistake */

struct modules {
    char **paths; /* relative to /lib/modules/RELEASE; each after all that it needs */
    size_t count;
};

/* Resolves the names in list (one a line, '#' begins a comment) by dep, the text of modules.dep,
 * and builtin, that of modules.builtin. A name that is built in needs no file and is left out.
 * Underscores and dashes in names are one. Texts end in NUL. Errors: -ENOENT the kernel has no
 * such module; -EUCLEAN modules.dep names what it does not list; -E2BIG too many. */
int modules_resolve(const char *list, const char *dep, const char *builtin, struct modules *ret,
                    struct bg_err *err) BG_MUST_CHECK;
void modules_done(struct modules *modules);
