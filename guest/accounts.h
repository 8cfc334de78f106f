/* Users and groups, read from the text of /etc/passwd and /etc/group: libc's own look-ups load
 * plug-ins, which a static program cannot. account_find is pure: text in, a user out. The text is
 * the guest's and may be anything; lines that are malformed are passed over. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "common/err.h"
#include "common/limits.h"

struct account {
    char name[BG_NAME_MAX + 1];
    uid_t uid;
    gid_t gid;
    char home[BG_PATH_MAX];            /* absolute; "/" if the entry has none */
    char shell[BG_PATH_MAX];           /* absolute; "/bin/sh" if the entry has none */
    gid_t groups[BG_AGENT_GROUPS_MAX]; /* supplementary, without gid */
    size_t group_count;
};

/* Finds who `user` is in passwd: a name, or the digits of a uid if nobody is called so. "" is the
 * default user: `app`, else who has uid 1000, else root, which needs no entry. Fills in the groups
 * that name the user in group. passwd, group: C strings. Errors: -ESRCH no such user. */
int account_find(const char *passwd, const char *group, const char *user, struct account *ret,
                 struct bg_err *err) BG_MUST_CHECK;

/* account_find in this system's files; a missing file counts as empty. Errors: -ESRCH, -EFBIG,
 * errno of reading. */
int account_load(const char *user, struct account *ret, struct bg_err *err) BG_MUST_CHECK;

/* Makes this process, of root's, one of the account's. Errors: errno of setgroups and the like. */
int account_become(const struct account *account, struct bg_err *err) BG_MUST_CHECK;
