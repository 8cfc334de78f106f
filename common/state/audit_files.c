#include "common/state/audit_files.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"

#define NEW_FILE BG_AUDIT_FILE ".new"

void bg_audit_name(unsigned index, char out[BG_AUDIT_NAME_SIZE])
{
    if (index == 0)
        (void)snprintf(out, BG_AUDIT_NAME_SIZE, "%s", BG_AUDIT_FILE);
    else
        (void)snprintf(out, BG_AUDIT_NAME_SIZE, "%s.%u", BG_AUDIT_FILE, index);
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev;
}

/* Each old one takes the name of the next older. */
static int shift(int dir_fd)
{
    for (unsigned i = BG_AUDIT_FILES_MAX - 1; i > 1; i--) {
        char from[BG_AUDIT_NAME_SIZE], to[BG_AUDIT_NAME_SIZE];
        bg_audit_name(i - 1, from);
        bg_audit_name(i, to);
        if (renameat(dir_fd, from, dir_fd, to) < 0 && errno != ENOENT)
            return -errno;
    }
    return 0;
}

static int open_new(int dir_fd, const char *name, int flags, int *ret_fd)
{
    int fd =
        openat(dir_fd, name,
               O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | flags, 0600);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

/* The full one gets a second name before another takes its first: who looks always finds one. */
static int turn_over(int dir_fd, const struct stat *full, int *ret_fd)
{
    struct stat latest;
    char name[BG_AUDIT_NAME_SIZE];
    bg_audit_name(1, name);
    int r = 0;
    /* It may have both names since a launcher died in the middle of this. */
    if (fstatat(dir_fd, name, &latest, AT_SYMLINK_NOFOLLOW) < 0 || !same_file(&latest, full)) {
        r = shift(dir_fd);
        if (r == 0 && linkat(dir_fd, BG_AUDIT_FILE, dir_fd, name, 0) < 0)
            r = -errno;
    }
    BG_AUTOCLOSE int fd = -1;
    if (r == 0)
        r = open_new(dir_fd, NEW_FILE, O_TRUNC, &fd);
    if (r == 0 && renameat(dir_fd, NEW_FILE, dir_fd, BG_AUDIT_FILE) < 0)
        r = -errno;
    if (r == 0)
        *ret_fd = bg_take_fd(&fd);
    return r;
}

int bg_audit_open(int dir_fd, uint64_t size_max, int *ret_fd, struct bg_err *err)
{
    struct stat st;
    BG_AUTOCLOSE int fd = -1;
    int r = open_new(dir_fd, BG_AUDIT_FILE, 0, &fd);
    if (r == 0 && fstat(fd, &st) < 0)
        r = -errno;
    if (r == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size >= size_max) {
        (void)close(fd); /* nothing was written */
        fd = -1;
        r = turn_over(dir_fd, &st, &fd);
    }
    if (r < 0)
        return bg_err_errno(err, r, "audit log %s", BG_AUDIT_FILE);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

int bg_audit_open_all(int dir_fd, int fds[BG_AUDIT_FILES_MAX], size_t *ret_count,
                      struct bg_err *err)
{
    /* From the newest on: one that is turned over meanwhile is met again under its next name. */
    struct stat seen[BG_AUDIT_FILES_MAX];
    size_t count = 0;
    int r = 0;
    for (unsigned i = 0; r == 0 && i < BG_AUDIT_FILES_MAX; i++) {
        char name[BG_AUDIT_NAME_SIZE];
        bg_audit_name(i, name);
        BG_AUTOCLOSE int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0 || fstat(fd, &seen[count]) < 0) {
            r = bg_err_errno(err, -errno, "%s", name);
            break;
        }
        bool again = false;
        for (size_t k = 0; k < count; k++)
            again |= same_file(&seen[k], &seen[count]);
        if (!again)
            fds[count++] = bg_take_fd(&fd);
    }
    for (size_t i = 0; r < 0 && i < count; i++)
        (void)close(fds[i]); /* read only */
    if (r < 0)
        return r;
    for (size_t i = 0; i < count / 2; i++) {
        int newer = fds[i];
        fds[i] = fds[count - 1 - i];
        fds[count - 1 - i] = newer;
    }
    *ret_count = count;
    return 0;
}

int bg_audit_answer(int socket, int dir_fd, uint64_t size_max, struct bg_err *err)
{
    uint8_t request;
    BG_AUTOCLOSE int fd = -1;
    ssize_t n = recv(socket, &request, sizeof request, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return bg_err_set(err, -ENOTCONN, "the proxy has gone");
    int r = bg_audit_open(dir_fd, size_max, &fd, err);
    int sent = bg_send_fd(socket, "a", 1, fd);
    if (r == 0 && sent < 0)
        r = bg_err_errno(err, sent, "the proxy's socket");
    return r;
}
