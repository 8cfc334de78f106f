#include "host/cli/mount_probe.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "host/cli/process.h"

#define PROBE_TIMEOUT_MS                                                                           \
    20000 /* the relay answers within its deadline, 15 s, whatever the guest does */

struct question {
    pid_t pid;
    int fd; /* the answer comes here; -1: it could not be asked, and result says why */
    int result;
};

/* Starts step in a child. */
static struct question begin(int (*step)(const struct mount_entry *entry),
                             const struct mount_entry *entry)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return (struct question){.fd = -1, .result = -errno};
    pid_t pid = fork();
    if (pid == 0) {
        int r = step(entry);
        _exit(bg_write_full(ends[1], &r, sizeof r) < 0);
    }
    struct question q = {.pid = pid, .fd = ends[0], .result = -errno};
    (void)close(ends[1]);
    if (pid < 0) {
        (void)close(q.fd);
        q.fd = -1;
    }
    return q;
}

/* What step returned, or -ETIME: the child is left behind then, in the middle of a system call that
 * even SIGKILL may not end. */
static int end(struct question *q, int timeout_ms)
{
    int result;
    if (q->fd < 0)
        return q->result;
    BG_AUTOCLOSE int fd = q->fd;
    if (!process_wait_for(q->pid, timeout_ms)) {
        (void)kill(q->pid, SIGKILL); /* ours, and not waited for */
        return -ETIME;
    }
    return bg_read_full(fd, &result, sizeof result) < 0 ? -EIO : result;
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

void mount_probe(const struct mount_list *list, int *answers)
{
    BG_AUTOFREE struct question *questions = calloc(list->count, sizeof *questions);
    uint64_t deadline_ms = bg_now_ms() + PROBE_TIMEOUT_MS;
    for (size_t i = 0; i < list->count; i++) {
        if (questions)
            questions[i] = begin(ask, &list->entries[i]);
        else
            answers[i] = -ENOMEM;
    }
    for (size_t i = 0; questions && i < list->count; i++) {
        uint64_t now_ms = bg_now_ms();
        answers[i] = end(&questions[i], now_ms < deadline_ms ? (int)(deadline_ms - now_ms) : 0);
    }
}

enum mount_condition mount_judge(int answer, enum mount_sandbox sandbox)
{
    /* Root is not let into the mounts of others, and has no business there. */
    if (answer == -EACCES || answer == -EPERM)
        return MOUNT_LIVES;
    if (answer == -ENOTCONN || answer == -ECONNABORTED)
        return MOUNT_ORPHAN;
    if (answer == 0) /* of a relay that may have lost its helper */
        return sandbox == MOUNT_SANDBOX_STOPPED ? MOUNT_ORPHAN : MOUNT_LIVES;
    bool ended = sandbox == MOUNT_SANDBOX_STOPPED || sandbox == MOUNT_SANDBOX_CRASHED;
    return answer == -ETIME && ended ? MOUNT_STALE : MOUNT_SILENT;
}

int mount_clear(const struct mount_entry *entry, int answer, struct bg_err *err)
{
    /* Aborts the connection, whether or not it can then be unmounted; nobody waits any more.
     * Without root they do until the server's process ends. */
    if (answer == -ETIME && geteuid() == 0 &&
        umount2(entry->path, UMOUNT_NOFOLLOW | MNT_FORCE) == 0)
        return 0;
    return mounts_unmount(entry->path, NULL, err);
}
