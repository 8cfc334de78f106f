#include "guest/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"

/* "ID" and what may follow it. */
#define NAME_SIZE 32

int cgroup_tree_open(const char *path, int *ret_fd, struct bg_err *err)
{
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "cgroup folder %s", path);
    BG_AUTOCLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "cgroup folder %s", path);
    if (faccessat(fd, "cgroup.kill", W_OK, 0) < 0)
        return bg_err_set(err, -EOPNOTSUPP, "%s: no cgroup.kill there (cgroup2, Linux 5.14)", path);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

int cgroup_make(int tree_fd, uint32_t id)
{
    char name[NAME_SIZE];
    (void)snprintf(name, sizeof name, "%u", id);
    if (mkdirat(tree_fd, name, 0755) < 0)
        return -errno;
    int fd = openat(tree_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        int code = -errno;
        (void)unlinkat(tree_fd, name, AT_REMOVEDIR); /* nothing is in it yet */
        return code;
    }
    return fd;
}

static bool write_to(int tree_fd, const char *path, const char *digit)
{
    BG_AUTOCLOSE int fd = openat(tree_fd, path, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, digit, 1) == 1;
}

bool cgroup_kill(int tree_fd, uint32_t id)
{
    char path[NAME_SIZE];
    (void)snprintf(path, sizeof path, "%u/cgroup.kill", id);
    return write_to(tree_fd, path, "1");
}

bool cgroup_kill_all(int tree_fd)
{
    return write_to(tree_fd, "cgroup.kill", "1");
}

bool cgroup_freeze(int tree_fd, bool frozen)
{
    return write_to(tree_fd, "cgroup.freeze", frozen ? "1" : "0");
}

int cgroup_wait_frozen(int tree_fd, int timeout_ms)
{
    const uint64_t deadline_ms = bg_now_ms() + (uint64_t)timeout_ms;
    BG_AUTOCLOSE int fd = openat(tree_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    for (;;) {
        char text[256];
        ssize_t n = pread(fd, text, sizeof text - 1, 0);
        if (n < 0)
            return -errno;
        text[n] = '\0';
        if (strstr(text, "frozen 1"))
            return 0;
        uint64_t now_ms = bg_now_ms();
        if (now_ms >= deadline_ms)
            return -ETIME;
        struct pollfd changed = {.fd = fd, .events = POLLPRI};
        if (poll(&changed, 1, (int)(deadline_ms - now_ms)) < 0 && errno != EINTR)
            return -errno;
    }
}

bool cgroup_remove(int tree_fd, uint32_t id)
{
    char name[NAME_SIZE];
    (void)snprintf(name, sizeof name, "%u", id);
    return unlinkat(tree_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT;
}

bool cgroup_sweep(int tree_fd)
{
    int fd = openat(tree_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *tree = fd < 0 ? NULL : fdopendir(fd);
    if (!tree) {
        if (fd >= 0)
            (void)close(fd); /* only read from */
        return true;
    }
    bool left = false;
    for (const struct dirent *d; (d = readdir(tree));)
        if (d->d_type == DT_DIR && d->d_name[0] != '.')
            left |= unlinkat(tree_fd, d->d_name, AT_REMOVEDIR) < 0;
    (void)closedir(tree); /* only read from */
    return left;
}
