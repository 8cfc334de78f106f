#include "images/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/state/image.h"

#define WORK_PREFIX    ".tmp-"
#define OUTSIDE_LINK   "outside" /* in a work folder: symlink to its tmp elsewhere */
#define OUTSIDE_PREFIX "bellglass-build-"

static int open_folder(int dir_fd, const char *path)
{
    int fd = openat(dir_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

int store_remove_tree(int dir_fd, const char *path)
{
    if (unlinkat(dir_fd, path, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM) /* unlink of a folder: EISDIR on Linux */
        return -errno;
    int fd = open_folder(dir_fd, path);
    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    DIR *folder = fdopendir(fd);
    if (!folder) {
        int saved = errno;
        (void)close(fd);
        return -saved;
    }
    int r = 0;
    const struct dirent *entry;
    while ((entry = readdir(folder))) {
        if (is_dots(entry->d_name))
            continue;
        int one = store_remove_tree(dirfd(folder), entry->d_name);
        if (r == 0)
            r = one;
    }
    (void)closedir(folder);
    if (unlinkat(dir_fd, path, AT_REMOVEDIR) < 0 && errno != ENOENT && r == 0)
        r = -errno;
    return r;
}

/* Removes a plain user's tmp folder. What an interrupted mmdebstrap has left in it belongs to the
 * user's subordinate uids, so it takes a user namespace with them. */
static int remove_outside(const char *path)
{
    if (store_remove_tree(AT_FDCWD, path) == 0)
        return 0;
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0) {
        int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
        if (null_fd >= 0)
            (void)dup2(null_fd, STDERR_FILENO);
        (void)execlp("unshare", "unshare", "--map-root-user", "--map-auto", "rm", "-rf",
                     "--one-file-system", "--", path, (char *)NULL);
        _exit(127);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    /* The folder itself is ours, not the namespace's. */
    return store_remove_tree(AT_FDCWD, path);
}

/* Ends a work folder whose lock we hold. What cannot be removed is tried again by the next command,
 * so the link to the tmp folder goes last. */
static void remove_work(int store_fd, const char *name)
{
    char link[NAME_MAX + sizeof "/" OUTSIDE_LINK], target[BG_PATH_MAX];
    (void)snprintf(link, sizeof link, "%s/%s", name, OUTSIDE_LINK);
    ssize_t n = readlinkat(store_fd, link, target, sizeof target - 1);
    if (n > 0) {
        target[n] = '\0';
        const char *slash = strrchr(target, '/');
        struct stat st;
        if (slash && strncmp(slash + 1, OUTSIDE_PREFIX, strlen(OUTSIDE_PREFIX)) == 0 &&
            lstat(target, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() &&
            remove_outside(target) < 0)
            return;
    }
    (void)!store_remove_tree(store_fd, name);
}

/* Removes work folders that nobody has locked. */
static int sweep(int store_fd, struct bg_err *err)
{
    struct dirent **entries = NULL;
    int count = scandirat(store_fd, ".", &entries, NULL, NULL);
    if (count < 0)
        return bg_err_errno(err, -errno, "images");
    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        if (strncmp(name, WORK_PREFIX, strlen(WORK_PREFIX)) == 0) {
            BG_AUTOCLOSE int fd = open_folder(store_fd, name);
            if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
                remove_work(store_fd, name);
        }
        free(entries[i]);
    }
    free(entries);
    return 0;
}

/* Held while work folders come and go, so that sweep() sees none that is not locked yet. */
static int lock_store(const struct store *store, int *ret_fd, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = openat(store->fd, ".lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s/.lock", store->dir);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return bg_err_errno(err, -errno, "%s/.lock", store->dir);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

static int make_folder(const char *path, mode_t mode, struct bg_err *err)
{
    if (mkdir(path, mode) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "cannot make %s", path);
    return 0;
}

int store_open(const struct bg_paths *paths, struct store *ret, struct bg_err *err)
{
    struct store store = {.fd = -1};
    const char *cache = getenv("BELLGLASS_CACHE_DIR");
    int n = cache && cache[0] ? asprintf(&store.cache, "%s", cache)
                              : asprintf(&store.cache, "%s/cache", paths->data);
    if (n < 0)
        store.cache = NULL;
    if (asprintf(&store.dir, "%s/images", paths->data) < 0)
        store.dir = NULL;
    int r = store.dir && store.cache ? 0 : bg_err_errno(err, -ENOMEM, "images");
    if (r == 0)
        r = make_folder(store.dir, 0755, err);
    if (r == 0)
        r = make_folder(store.cache, 0755, err);
    if (r == 0) {
        store.fd = open(store.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* may be a symlink */
        if (store.fd < 0)
            r = bg_err_errno(err, -errno, "%s", store.dir);
    }
    if (r == 0 && mkdirat(store.fd, "tags", 0755) < 0 && errno != EEXIST)
        r = bg_err_errno(err, -errno, "%s/tags", store.dir);
    BG_AUTOCLOSE int lock_fd = -1;
    if (r == 0)
        r = lock_store(&store, &lock_fd, err);
    if (r == 0)
        r = sweep(store.fd, err);
    if (r < 0) {
        store_close(&store);
        return r;
    }
    *ret = store;
    return 0;
}

void store_close(struct store *store)
{
    if (store->fd >= 0)
        (void)close(store->fd);
    free(store->dir);
    free(store->cache);
    *store = (struct store){.fd = -1};
}

/* Makes work->tmp. */
static int make_tmp(struct work *work, struct bg_err *err)
{
    if (geteuid() == 0) {
        if (asprintf(&work->tmp, "%s/tmp", work->dir) < 0) {
            work->tmp = NULL;
            return bg_err_errno(err, -ENOMEM, "images");
        }
        return make_folder(work->tmp, 0711, err);
    }
    const char *base = getenv("TMPDIR");
    if (asprintf(&work->tmp, "%s/" OUTSIDE_PREFIX "XXXXXX",
                 base && base[0] == '/' ? base : "/var/tmp") < 0) {
        work->tmp = NULL;
        return bg_err_errno(err, -ENOMEM, "images");
    }
    /* The link comes second: a kill between the two leaves an empty folder at worst. */
    if (!mkdtemp(work->tmp) || chmod(work->tmp, 0711) < 0 ||
        symlinkat(work->tmp, work->fd, OUTSIDE_LINK) < 0)
        return bg_err_errno(err, -errno, "%s", work->tmp);
    return 0;
}

int store_work_begin(const struct store *store, struct work *ret, struct bg_err *err)
{
    BG_AUTOCLOSE int lock_fd = -1;
    int r = lock_store(store, &lock_fd, err);
    if (r < 0)
        return r;
    struct work work = {.fd = -1};
    if (asprintf(&work.dir, "%s/" WORK_PREFIX "XXXXXX", store->dir) < 0)
        return bg_err_errno(err, -ENOMEM, "images");
    if (!mkdtemp(work.dir)) {
        r = bg_err_errno(err, -errno, "%s", work.dir);
        free(work.dir);
        return r;
    }
    work.name = strdup(strrchr(work.dir, '/') + 1);
    work.fd = open_folder(AT_FDCWD, work.dir);
    if (!work.name)
        r = bg_err_errno(err, -ENOMEM, "images");
    else if (work.fd < 0)
        r = bg_err_errno(err, work.fd, "%s", work.dir);
    else if (flock(work.fd, LOCK_EX | LOCK_NB) < 0 || fchmod(work.fd, 0711) < 0 ||
             mkdirat(work.fd, "image", 0755) < 0)
        r = bg_err_errno(err, -errno, "%s", work.dir);
    else
        r = make_tmp(&work, err);
    if (r < 0) {
        store_work_end(store, &work);
        return r;
    }
    *ret = work;
    return 0;
}

void store_work_end(const struct store *store, struct work *work)
{
    if (work->name)
        remove_work(store->fd, work->name);
    if (work->fd >= 0)
        (void)close(work->fd);
    free(work->name);
    free(work->dir);
    free(work->tmp);
    *work = (struct work){.fd = -1};
}

/* Everything in the folder to disk, readable by whoever QEMU runs as. */
static int settle(int fd, struct bg_err *err)
{
    static const char *const files[] = {BG_IMAGE_DISK, BG_IMAGE_KERNEL, BG_IMAGE_MODULES,
                                        BG_IMAGE_MANIFEST};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        BG_AUTOCLOSE int file_fd = openat(fd, files[i], O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (file_fd < 0 || fchmod(file_fd, 0644) < 0 || fsync(file_fd) < 0)
            return bg_err_errno(err, -errno, "%s", files[i]);
    }
    return fsync(fd) < 0 ? bg_err_errno(err, -errno, "image") : 0;
}

int store_publish(const struct store *store, const struct work *work, const char *digest,
                  bool replace, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = open_folder(work->fd, "image");
    if (fd < 0)
        return bg_err_errno(err, fd, "%s/image", work->dir);
    if (fchmod(fd, 0755) < 0)
        return bg_err_errno(err, -errno, "%s/image", work->dir);
    int r = settle(fd, err);
    if (r < 0)
        return r;
    int status = renameat2(work->fd, "image", store->fd, digest, RENAME_NOREPLACE);
    if (status < 0 && errno == EEXIST) {
        if (!replace)
            return 0;
        status = renameat2(work->fd, "image", store->fd, digest, RENAME_EXCHANGE);
    }
    if (status < 0)
        return bg_err_errno(err, -errno, "%s/%s", store->dir, digest);
    return fsync(store->fd) < 0 ? bg_err_errno(err, -errno, "%s", store->dir) : 0;
}

int store_tag(const struct store *store, const char *tag, const char *digest, struct bg_err *err)
{
    char target[128], temporary[64], path[128];
    (void)snprintf(target, sizeof target, "../%s", digest);
    (void)snprintf(temporary, sizeof temporary, "tags/.%d", getpid());
    (void)snprintf(path, sizeof path, "tags/%s", tag);
    (void)unlinkat(store->fd, temporary, 0); /* of a process that had our pid */
    if (symlinkat(target, store->fd, temporary) < 0 ||
        renameat(store->fd, temporary, store->fd, path) < 0) {
        int saved = errno;
        (void)unlinkat(store->fd, temporary, 0);
        return bg_err_errno(err, -saved, "%s/%s", store->dir, path);
    }
    BG_AUTOCLOSE int fd = open_folder(store->fd, "tags");
    if (fd < 0 || fsync(fd) < 0)
        return bg_err_errno(err, -errno, "%s/tags", store->dir);
    return 0;
}

int store_untag(const struct store *store, const char *tag, struct bg_err *err)
{
    char path[128];
    (void)snprintf(path, sizeof path, "tags/%s", tag);
    if (unlinkat(store->fd, path, 0) < 0)
        return bg_err_errno(err, -errno, "%s/%s", store->dir, path);
    return 0;
}

/* Calls for each tag that points to the digest; remove: it is removed. */
static int walk_tags(const struct store *store, const char *digest, bool remove, size_t *ret_count,
                     struct bg_err *err)
{
    int fd = open_folder(store->fd, "tags");
    if (fd < 0)
        return bg_err_errno(err, fd, "%s/tags", store->dir);
    DIR *folder = fdopendir(fd);
    if (!folder) {
        int r = bg_err_errno(err, -errno, "%s/tags", store->dir);
        (void)close(fd);
        return r;
    }
    size_t count = 0;
    int r = 0;
    const struct dirent *entry;
    while (r == 0 && (entry = readdir(folder))) {
        char target[128];
        ssize_t n = readlinkat(fd, entry->d_name, target, sizeof target - 1);
        if (n < 0)
            continue; /* not a link */
        target[n] = '\0';
        if (strncmp(target, "../", 3) != 0 || strcmp(target + 3, digest) != 0)
            continue;
        count++;
        if (remove && unlinkat(fd, entry->d_name, 0) < 0)
            r = bg_err_errno(err, -errno, "%s/tags/%s", store->dir, entry->d_name);
    }
    (void)closedir(folder);
    if (r == 0 && ret_count)
        *ret_count = count;
    return r;
}

int store_count_tags(const struct store *store, const char *digest, size_t *ret, struct bg_err *err)
{
    return walk_tags(store, digest, /* remove= */ false, ret, err);
}

int store_remove(const struct store *store, const char *digest, struct bg_err *err)
{
    int r = walk_tags(store, digest, /* remove= */ true, NULL, err);
    if (r < 0)
        return r;
    /* First out of sight in one step, then away at leisure: a kill in between leaves a work folder
     * that nobody holds. */
    char name[128];
    (void)snprintf(name, sizeof name, WORK_PREFIX "rm-%.16s", digest);
    if (renameat(store->fd, digest, store->fd, name) < 0 && errno != ENOENT)
        return bg_err_errno(err, -errno, "%s/%s", store->dir, digest);
    r = store_remove_tree(store->fd, name);
    return r < 0 ? bg_err_errno(err, r, "%s/%s", store->dir, name) : 0;
}

int store_check_space(const char *path, uint64_t bytes, struct bg_err *err)
{
    struct statvfs vfs;
    if (statvfs(path, &vfs) < 0)
        return bg_err_errno(err, -errno, "%s", path);
    uint64_t left = (uint64_t)vfs.f_bavail * vfs.f_frsize;
    if (left >= bytes)
        return 0;
    return bg_err_set(err, -ENOSPC,
                      "%s: %ju MiB free, %ju MiB needed; make room or move bellglass with "
                      "BELLGLASS_HOME=DIR",
                      path, (uintmax_t)(left >> 20), (uintmax_t)(bytes >> 20));
}
