#include "common/state/folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"

#define BLOCK_SIZE 512 /* what st_blocks counts, see stat(2) */

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* *ret: to be closed with closedir. */
static int open_listed(int parent_fd, const char *name, DIR **ret)
{
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *ret = fdopendir(fd);
    if (*ret)
        return 0;
    int saved = errno;
    (void)close(fd); /* nothing was read */
    return -saved;
}

int bg_folder_remove(int parent_fd, const char *name)
{
    DIR *dir;
    int r = open_listed(parent_fd, name, &dir);
    if (r == -ENOTDIR || r == -ELOOP)
        return unlinkat(parent_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    const struct dirent *entry;
    while (r == 0 && (entry = readdir(dir))) {
        if (is_dots(entry->d_name) || unlinkat(dirfd(dir), entry->d_name, 0) == 0 ||
            errno == ENOENT)
            continue;
        /* EISDIR; EPERM where unlinking a folder is what may not be done */
        r = errno == EISDIR || errno == EPERM ? bg_folder_remove(dirfd(dir), entry->d_name)
                                              : -errno;
    }
    (void)closedir(dir); /* read only */
    if (r == 0 && unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
        r = -errno;
    return r;
}

int bg_folder_sync(int dir_fd)
{
    DIR *dir;
    int r = open_listed(dir_fd, ".", &dir);
    if (r < 0)
        return r;
    const struct dirent *entry;
    while (r == 0 && (entry = readdir(dir))) {
        struct stat st;
        if (is_dots(entry->d_name) ||
            fstatat(dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
            continue;
        BG_AUTOCLOSE int fd = openat(dir_fd, entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 || fsync(fd) < 0)
            r = -errno;
    }
    (void)closedir(dir); /* read only */
    if (r == 0 && fsync(dir_fd) < 0)
        r = -errno;
    return r;
}

int bg_folder_size(int parent_fd, const char *name, uint64_t *ret_all, uint64_t *ret_frees)
{
    DIR *dir;
    int r = open_listed(parent_fd, name, &dir);
    uint64_t all = 0, frees = 0;
    if (r < 0)
        return r;
    const struct dirent *entry;
    while (r == 0 && (entry = readdir(dir))) {
        struct stat st;
        uint64_t here = 0, own = 0;
        if (is_dots(entry->d_name) ||
            fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (S_ISDIR(st.st_mode)) {
            r = bg_folder_size(dirfd(dir), entry->d_name, &here, &own);
        } else {
            here = (uint64_t)st.st_blocks * BLOCK_SIZE;
            own = st.st_nlink == 1 ? here : 0;
        }
        all += here;
        frees += own;
    }
    (void)closedir(dir); /* read only */
    if (r == 0) {
        *ret_all = all;
        *ret_frees = frees;
    }
    return r;
}

int bg_folder_names(int dir_fd, bool (*wanted)(const char *name),
                    int (*order)(const void *a, const void *b), char ***ret)
{
    DIR *dir;
    int r = open_listed(dir_fd, ".", &dir);
    if (r < 0)
        return r;
    size_t count = 0, room = 16;
    char **names = calloc(room, sizeof *names);
    const struct dirent *entry;
    while (names && (entry = readdir(dir))) {
        if (!wanted(entry->d_name) || entry->d_type == DT_REG)
            continue;
        if (count + 1 == room) {
            char **grown = reallocarray(names, room * 2, sizeof *names);
            if (!grown)
                break;
            names = grown;
            room *= 2;
        }
        names[count] = strdup(entry->d_name);
        if (!names[count])
            break;
        names[++count] = NULL;
        entry = NULL;
    }
    bool failed = !names || entry;
    (void)closedir(dir); /* read only */
    if (failed) {
        bg_folder_names_free(names);
        return -ENOMEM;
    }
    qsort(names, count, sizeof *names, order);
    *ret = names;
    return 0;
}

void bg_folder_names_free(char **names)
{
    for (size_t i = 0; names && names[i]; i++)
        free(names[i]);
    free(names);
}
