#include "host/cli/mount_probe.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "host/cli/process.h"

#define PROBE_TIMEOUT_MS                                                                           \
    5000 /* a mount that works answers in milliseconds, or a busy guest's in one                   \
            or two seconds */
#define ABORT_TIMEOUT_MS 5000
#define CONNECTIONS      "/sys/fs/fuse/connections"

/* Runs step in a child. Returns what it did, or -ETIME: it is left behind then, in the middle of a
 * system call that even SIGKILL does not end. */
static int in_child(int (*step)(const struct mount_entry *entry), const struct mount_entry *entry,
                    int timeout_ms)
{
    int ends[2], result;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    BG_AUTOCLOSE int from_child = ends[0];
    pid_t pid = fork();
    if (pid == 0) {
        int r = step(entry);
        _exit(bg_write_full(ends[1], &r, sizeof r) < 0);
    }
    int fork_errno = errno;
    (void)close(ends[1]);
    if (pid < 0)
        return -fork_errno;
    if (!process_wait_for(pid, timeout_ms)) {
        (void)kill(pid, SIGKILL); /* ours, and not waited for */
        return -ETIME;
    }
    return bg_read_full(from_child, &result, sizeof result) < 0 ? -EIO : result;
}

static int ask(const struct mount_entry *entry)
{
    struct statx st;
    /* Not from the kernel's memory, which outlives the server. */
    return statx(AT_FDCWD, entry->path, AT_STATX_FORCE_SYNC | AT_SYMLINK_NOFOLLOW,
                 STATX_BASIC_STATS, &st) < 0
               ? -errno
               : 0;
}

int mount_probe(const struct mount_entry *entry)
{
    return in_child(ask, entry, PROBE_TIMEOUT_MS);
}

enum mount_condition mount_judge(int answer, enum mount_sandbox sandbox)
{
    /* Root is not let into the mounts of others, and has no business there. */
    if (answer == 0 || answer == -EACCES || answer == -EPERM)
        return MOUNT_LIVES;
    if (answer == -ENOTCONN || answer == -ECONNABORTED)
        return MOUNT_ORPHAN;
    return sandbox == MOUNT_SANDBOX_ENDED ? MOUNT_STALE : MOUNT_SILENT;
}

/* In a child with mounts of its own: nobody else sees that fusectl is mounted. */
static int abort_connection(const struct mount_entry *entry)
{
    char path[sizeof CONNECTIONS + 32];
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("fusectl", CONNECTIONS, "fusectl", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return -errno;
    (void)snprintf(path, sizeof path, CONNECTIONS "/%u/abort", entry->device);
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -errno : bg_write_full(fd, "1", 1);
}

int mount_clear(const struct mount_entry *entry, int answer, struct bg_err *err)
{
    /* Without root the kernel frees those who wait only when the server's process ends. */
    if (answer == -ETIME && geteuid() == 0) {
        int r = in_child(abort_connection, entry, ABORT_TIMEOUT_MS);
        if (r < 0)
            return bg_err_errno(err, r, "cannot abort what is mounted on %s", entry->path);
    }
    return mounts_unmount(entry->path, NULL, err);
}
