/* Which names of a shared folder the guest does not see, and which it sees but cannot change. Pure.
 *
 * A pattern is a name or several with '/' between them, with * ? [...] in each; it matches a file
 * of that name in any folder, or from the share's root if it begins with '/'. Names are compared as
 * file systems and tools that fold them would: without regard to case, to characters that HFS+
 * ignores, and to dots and blanks at the end. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

struct share_names;

struct share_names_opts {
    const char *const *hide; /* hidden beside the usual ones; borrowed for the call */
    size_t hide_count;
    const char *const *show; /* stronger than all that hides */
    size_t show_count;
    bool unguarded; /* nothing is fixed */
};

/* Errors: -EINVAL not a pattern (quoted), too many; -ENOMEM. */
int share_names_new(const struct share_names_opts *opts, struct share_names **ret,
                    struct bg_err *err) BG_MUST_CHECK;
void share_names_free(struct share_names *names);

/* FS_SHARE_* of a path, see fs/server/share.h. names: struct share_names. */
unsigned share_names_judge(const void *names, const char *path);

/* The usual patterns, NULL-terminated: hidden, and shown though they match one of those. */
extern const char *const share_names_hidden[];
extern const char *const share_names_shown[];
