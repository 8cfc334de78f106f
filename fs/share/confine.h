/* What a share's server gives up before it serves: everything but the folder. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "common/err.h"

/* In namespaces of its own with nothing but the folder (as CONFINE_ROOT) in them, read-only if so
 * asked, where the kernel lets us. Then *ret_inside. As root also becomes the folder's owner and
 * gives up every capability. One thread only. Errors: errno of what must not fail. */
#define CONFINE_NAME "share"
#define CONFINE_ROOT "/" CONFINE_NAME
int confine_enter(const char *folder, bool read_only, bool *ret_inside,
                  struct bg_err *err) BG_MUST_CHECK;

/* For good: no new rights, limits, Landlock for root alone, and only the system calls that the
 * server makes. Errors: -EOPNOTSUPP neither of the two walls can be had, or no openat2. */
int confine_lock(const char *root, bool read_only, bool inside, struct bg_err *err) BG_MUST_CHECK;
