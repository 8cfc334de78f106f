#include "host/changes/scan.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int scan_open(int root, const char *path, int flags)
{
    const struct open_how how = {.flags = (uint32_t)(flags | O_CLOEXEC),
                                 .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
                                            RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV};
    int fd = (int)syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof how);
    return fd < 0 ? -errno : fd;
}

int scan_open_parent(int root, const char *path, const char **ret_name)
{
    const char *slash = strrchr(path, '/');
    *ret_name = slash ? slash + 1 : path;
    BG_AUTOFREE char *folder = strndup(path, slash ? (size_t)(slash - path) : 0);
    return folder ? scan_open(root, folder, O_RDONLY | O_DIRECTORY) : -ENOMEM;
}

static uint64_t nanoseconds(struct timespec t)
{
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void scan_identify(const struct stat *st, struct entry *entry)
{
    entry->type = S_ISREG(st->st_mode)   ? BG_CHANGE_FILE
                  : S_ISDIR(st->st_mode) ? BG_CHANGE_FOLDER
                  : S_ISLNK(st->st_mode) ? BG_CHANGE_SYMLINK
                                         : BG_CHANGE_SPECIAL;
    entry->mode = (uint16_t)(st->st_mode & 07777);
    entry->size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0;
    entry->mtime_ns = nanoseconds(st->st_mtim);
    entry->ctime_ns = nanoseconds(st->st_ctim);
    entry->inode = st->st_ino;
}

struct scan {
    struct entries entries;
    struct bg_err *err;
    dev_t device;
    struct bg_change change; /* its path grows and shrinks */
};

static int scan_below(struct scan *s, int fd, size_t path_size, unsigned depth);

static int scan_entry(struct scan *s, int folder, const char *name, size_t path_size,
                      unsigned depth)
{
    struct stat st;
    struct bg_change *c = &s->change;
    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT || errno == EACCES ? 0 : bg_err_errno(s->err, -errno, "%s", name);
    c->target[0] = '\0';
    if (S_ISLNK(st.st_mode)) {
        ssize_t n = readlinkat(folder, name, c->target, sizeof c->target - 1);
        if (n <= 0)
            return 0; /* it went this moment */
        c->target[n] = '\0';
    }
    if (s->entries.count >= BG_CHANGES_INDEX_MAX)
        return bg_err_set(s->err, -E2BIG, "more than %d files: share a smaller folder",
                          BG_CHANGES_INDEX_MAX);
    struct entry *entry = entries_add(&s->entries, c);
    if (!entry)
        return bg_err_errno(s->err, -ENOMEM, "list of files");
    scan_identify(&st, entry);
    if (!S_ISDIR(st.st_mode) || st.st_dev != s->device || depth >= BG_CHANGES_DEPTH_MAX)
        return 0;
    int below = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (below < 0)
        return errno == ENOENT || errno == EACCES || errno == ENOTDIR
                   ? 0
                   : bg_err_errno(s->err, -errno, "%s", name);
    return scan_below(s, below, path_size, depth + 1);
}

/* fd is taken; the first path_size bytes of the path are the folder's. */
static int scan_below(struct scan *s, int fd, size_t path_size, unsigned depth)
{
    DIR *folder = fdopendir(fd);
    if (!folder) {
        (void)close(fd); /* a folder */
        return bg_err_errno(s->err, -ENOMEM, "list of files");
    }
    char *path = s->change.path;
    int r = 0;
    for (const struct dirent *d; r == 0 && (d = readdir(folder));) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 ||
            strncmp(d->d_name, SCAN_TEMPORARY, sizeof SCAN_TEMPORARY - 1) == 0)
            continue;
        int size = snprintf(path + path_size, sizeof s->change.path - path_size, "%s%s",
                            path_size > 0 ? "/" : "", d->d_name);
        if (path_size + (size_t)size < sizeof s->change.path) /* else out of the guest's reach */
            r = scan_entry(s, dirfd(folder), d->d_name, path_size + (size_t)size, depth);
        path[path_size] = '\0';
    }
    (void)closedir(folder); /* only read from */
    return r;
}

int scan_folder(int root, struct entries *ret, struct bg_err *err)
{
    BG_AUTOFREE struct scan *s = calloc(1, sizeof *s);
    struct stat st;
    int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!s || fd < 0 || fstat(fd, &st) < 0) {
        bg_cleanup_close(&fd);
        return bg_err_errno(err, s ? -errno : -ENOMEM, "the shared folder");
    }
    s->err = err;
    s->device = st.st_dev;
    int r = scan_below(s, fd, 0, 1);
    if (r < 0) {
        entries_done(&s->entries);
        return r;
    }
    entries_sort(&s->entries);
    *ret = s->entries;
    return 0;
}
