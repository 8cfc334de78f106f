/* Any bytes as a tar stream: whatever becomes of it, nothing beside the destination is touched. The
 * first byte chooses how it is unpacked and in which steps it comes. */
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/tree/tree_tar.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

struct stream {
    const uint8_t *at;
    size_t left, step;
};

static ssize_t stream_read(void *owner, const void **ret_bytes)
{
    struct stream *s = owner;
    size_t n = s->left < s->step ? s->left : s->step;
    *ret_bytes = s->at;
    s->at += n;
    s->left -= n;
    return (ssize_t)n;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    if (remove(path) < 0)
        abort();
    return 0;
}

/* root keeps what is below a folder that nobody may read; so does everybody after a chmod. */
static int open_up(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)ftw;
    if ((type == FTW_D || type == FTW_DNR) && chmod(path, 0700) < 0)
        abort();
    return 0;
}

static size_t count_entries(const char *path)
{
    DIR *folder = opendir(path);
    size_t count = 0;
    if (!folder)
        abort();
    while (readdir(folder))
        count++;
    (void)closedir(folder);
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char top[] = "/dev/shm/bg-fuzz-tree-XXXXXX", path[64];
    if (size == 0)
        return 0;
    if (!mkdtemp(top))
        abort();
    (void)snprintf(path, sizeof path, "%s/victim", top);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0 || bg_write_full(fd, "safe", 4) < 0)
        abort();
    (void)close(fd);
    (void)snprintf(path, sizeof path, "%s/dest", top);
    if (mkdir(path, 0700) < 0)
        abort();
    struct stream s = {.at = bytes + 1, .left = size - 1, .step = bytes[0] & 1 ? 100 : 1 << 20};
    const struct tree_tar_unpack_opts opts = {.dir_fd = AT_FDCWD,
                                              .path = path,
                                              .root = bytes[0] & 2   ? NULL
                                                      : bytes[0] & 4 ? "."
                                                                     : "r",
                                              .read = stream_read,
                                              .owner = &s};
    int r = tree_tar_unpack(&opts, NULL, NULL);
    (void)r; /* any result is fine */

    char *victim;
    (void)snprintf(path, sizeof path, "%s/victim", top);
    if (count_entries(top) != 4 || /* ".", "..", "dest", "victim" */
        bg_read_file(AT_FDCWD, path, 100, &victim, NULL, NULL) < 0 || strcmp(victim, "safe") != 0)
        abort();
    free(victim);
    if (nftw(top, open_up, 16, FTW_PHYS) < 0 || nftw(top, remove_one, 16, FTW_PHYS | FTW_DEPTH) < 0)
        abort();
    return 0;
}
