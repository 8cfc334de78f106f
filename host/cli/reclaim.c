#include "host/cli/reclaim.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK_SIZE 512 /* what st_blocks counts, see stat(2) */

int reclaim_add_name(struct reclaim *reclaim, const struct reclaim_name *name)
{
    if (reclaim->count == reclaim->room) {
        size_t room = reclaim->room ? reclaim->room * 2 : 64;
        struct reclaim_name *grown = reallocarray(reclaim->names, room, sizeof *grown);
        if (!grown)
            return -ENOMEM;
        reclaim->names = grown;
        reclaim->room = room;
    }
    reclaim->names[reclaim->count++] = *name;
    return 0;
}

int reclaim_add(struct reclaim *reclaim, int parent_fd, const char *name)
{
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int saved = errno;
        if (fd >= 0)
            (void)close(fd); /* nothing was read */
        return saved == ENOENT ? 0 : -saved;
    }
    int r = 0;
    const struct dirent *entry;
    while (r == 0 && (entry = readdir(dir))) {
        struct stat st;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        r = S_ISDIR(st.st_mode)
                ? reclaim_add(reclaim, dirfd(dir), entry->d_name)
                : reclaim_add_name(reclaim, &(struct reclaim_name){.device = st.st_dev,
                                                                   .inode = st.st_ino,
                                                                   .links = st.st_nlink,
                                                                   .bytes = (uint64_t)st.st_blocks *
                                                                            BLOCK_SIZE});
    }
    (void)closedir(dir); /* read only */
    return r;
}

static int by_file(const void *left, const void *right)
{
    const struct reclaim_name *a = left, *b = right;
    if (a->device != b->device)
        return a->device < b->device ? -1 : 1;
    return a->inode == b->inode ? 0 : a->inode < b->inode ? -1 : 1;
}

uint64_t reclaim_bytes(struct reclaim *reclaim)
{
    uint64_t sum = 0;
    if (reclaim->count > 0)
        qsort(reclaim->names, reclaim->count, sizeof *reclaim->names, by_file);
    for (size_t i = 0; i < reclaim->count;) {
        size_t end = i + 1;
        while (end < reclaim->count && by_file(&reclaim->names[i], &reclaim->names[end]) == 0)
            end++;
        if (end - i >= reclaim->names[i].links)
            sum += reclaim->names[i].bytes;
        i = end;
    }
    return sum;
}

void reclaim_done(struct reclaim *reclaim)
{
    free(reclaim->names);
    *reclaim = (struct reclaim){0};
}
