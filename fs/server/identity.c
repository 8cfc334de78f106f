#include "fs/server/identity.h"

#include <assert.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int fs_identity_assume(const struct fs_identity *identity, struct bg_err *err)
{
    /* umask is shared with the other threads until the file-system state is not. */
    if (unshare(CLONE_FS) < 0)
        return bg_err_errno(err, -errno, "file server: unshare");
    (void)umask(0); /* always succeeds */
    if (!identity->switched)
        return 0;
    if (syscall(SYS_setgroups, identity->group_count, identity->groups) < 0)
        return bg_err_errno(err, -errno, "file server: setgroups");
    /* These two report no error: asking again tells. */
    (void)syscall(SYS_setfsgid, identity->gid);
    (void)syscall(SYS_setfsuid, identity->uid);
    if ((gid_t)syscall(SYS_setfsgid, -1) != identity->gid ||
        (uid_t)syscall(SYS_setfsuid, -1) != identity->uid)
        return bg_err_set(err, -EPERM, "file server: cannot act as uid %u, gid %u", identity->uid,
                          identity->gid);
    return 0;
}

void fs_identity_raise(const struct fs_identity *identity)
{
    if (identity->switched)
        (void)syscall(SYS_setfsuid, 0); /* back to our own uid: cannot fail */
}

void fs_identity_lower(const struct fs_identity *identity)
{
    if (!identity->switched)
        return;
    (void)syscall(SYS_setfsuid, identity->uid);
    assert((uid_t)syscall(SYS_setfsuid, -1) == identity->uid); /* never go on as root */
}
