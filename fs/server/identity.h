/* Whose rights a thread of the server uses. Linux keeps them per thread; libc's wrappers would
 * change all threads, so these are raw system calls. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/err.h"

struct fs_identity {
    bool switched; /* false: the process's own rights, nothing is changed */
    uid_t uid;
    gid_t gid;
    const gid_t *groups; /* borrowed */
    size_t group_count;
};

/* Makes the calling thread act on files as identity says, and with umask 0 of its own (the client's
 * kernel has applied the caller's). Errors: errno of setgroups, unshare; -EPERM. */
int fs_identity_assume(const struct fs_identity *identity, struct bg_err *err) BG_MUST_CHECK;

/* Gives the calling thread root's file capabilities for one system call, and takes them back. */
void fs_identity_raise(const struct fs_identity *identity);
void fs_identity_lower(const struct fs_identity *identity);
