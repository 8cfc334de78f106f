#include "fs/server/link_text.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RETRIES_MAX 100 /* a rename raced with the walk: somebody renames without a pause */

/* Where the last ".." that stands after a name or the root ends; 0: there is none. */
static size_t last_inner_parent(const char *text)
{
    size_t found = 0;
    bool named = text[0] == '/';
    for (size_t at = 0; text[at];) {
        size_t part = strcspn(text + at, "/");
        bool dot = part == 1 && text[at] == '.';
        bool parent = part == 2 && text[at] == '.' && text[at + 1] == '.';
        if (parent && named)
            found = at + part;
        else if (part > 0 && !dot && !parent)
            named = true;
        at += part;
        while (text[at] == '/')
            at++;
    }
    return found;
}

bool fs_link_needs_cleaning(const char *text)
{
    return last_inner_parent(text) > 0;
}

static size_t count_components(const char *path)
{
    size_t count = 0;
    while (*path) {
        size_t part = strcspn(path, "/");
        count += part > 0;
        path += part;
        path += *path == '/';
    }
    return count;
}

/* Skips the components that both start with. */
static void skip_common(const char **a, const char **b)
{
    for (;;) {
        size_t part = strcspn(*a, "/");
        if (part == 0 || part != strcspn(*b, "/") || memcmp(*a, *b, part) != 0)
            return;
        *a += part;
        *b += part;
        *a += **a == '/';
        *b += **b == '/';
    }
}

int fs_link_between(const char *folder, const char *target, const char *rest, char out[BG_PATH_MAX],
                    size_t *ret_size)
{
    skip_common(&folder, &target);
    while (*rest == '/')
        rest++;
    size_t up = count_components(folder), used = 0;
    if (3 * up + strlen(target) + 1 + strlen(rest) + 1 >= BG_PATH_MAX)
        return -ENAMETOOLONG;
    for (size_t i = 0; i < up; i++, used += 3)
        memcpy(out + used, "../", 3);
    int n = snprintf(out + used, BG_PATH_MAX - used, "%s%s%s", target, *target && *rest ? "/" : "",
                     rest);
    used += (size_t)n;
    if (used == 0)
        out[used++] = '.';
    else if (*target == '\0' && *rest == '\0')
        used--; /* "../" is ".." */
    out[used] = '\0';
    *ret_size = used;
    return 0;
}

/* What the kernel calls the file that the fd is: a path from the root of our file system. */
static int path_of(int fd, char out[BG_PATH_MAX])
{
    char link[32];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, BG_PATH_MAX - 1);
    if (n < 0)
        return -errno;
    if (n == BG_PATH_MAX - 1)
        return -ENAMETOOLONG;
    out[n] = '\0';
    return 0;
}

/* The part of a path that is below root; NULL if it is not. */
static const char *below(const char *root, const char *path)
{
    size_t size = strcmp(root, "/") == 0 ? 0 : strlen(root);
    if (strncmp(path, root, size) != 0 || (path[size] != '/' && path[size] != '\0'))
        return NULL;
    return path[size] == '/' ? path + size + 1 : path + size;
}

/* Above its root a machine stays in it. Above a folder is something else, which is not served. */
static int open_folder(int root_fd, bool whole, const char *path)
{
    uint64_t inside = whole ? RESOLVE_IN_ROOT : RESOLVE_BENEATH;
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve = inside | RESOLVE_NO_MAGICLINKS};
    for (int i = 0; i < RETRIES_MAX; i++) {
        long fd = syscall(SYS_openat2, root_fd, path, &how, sizeof how);
        if (fd >= 0)
            return (int)fd;
        if (errno != EAGAIN)
            return -errno;
    }
    return -EAGAIN;
}

int fs_link_clean(const struct fs_link_place *place, const char *text, char out[BG_PATH_MAX],
                  size_t *ret_size)
{
    char root[BG_PATH_MAX] = "", folder_path[BG_PATH_MAX] = "", target_path[BG_PATH_MAX] = "";
    char path[BG_PATH_MAX];
    int r = path_of(place->root_fd, root);
    if (r == 0)
        r = path_of(place->folder_fd, folder_path);
    if (r < 0)
        return r;
    const char *folder = below(root, folder_path);
    if (!folder || (text[0] == '/' && !place->whole))
        return -EXDEV;
    size_t end = last_inner_parent(text);
    int n = snprintf(path, sizeof path, "./%s/%.*s", text[0] == '/' ? "" : folder, (int)end, text);
    if (n < 0 || n >= (int)sizeof path)
        return -ENAMETOOLONG;
    BG_AUTOCLOSE int fd = open_folder(place->root_fd, place->whole, path);
    if (fd < 0)
        return fd;
    r = path_of(fd, target_path);
    if (r < 0)
        return r;
    const char *target = below(root, target_path);
    return target ? fs_link_between(folder, target, text + end, out, ret_size) : -EXDEV;
}
