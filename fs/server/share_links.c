#include "fs/server/share_links.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/limits.h"

/* ---- pure ---- */

bool fs_link_inside(const char *text, size_t size, size_t depth)
{
    bool begun = false; /* a name was met */
    size_t up = 0;
    if (size == 0 || text[0] == '/' || memchr(text, '\0', size))
        return false;
    for (size_t at = 0; at < size;) {
        const char *slash = memchr(text + at, '/', size - at);
        size_t part = slash ? (size_t)(slash - text) - at : size - at;
        bool parent = part == 2 && text[at] == '.' && text[at + 1] == '.';
        bool here = part == 0 || (part == 1 && text[at] == '.');
        if (parent && (begun || ++up > depth))
            return false;
        begun = begun || (!parent && !here);
        at += part + 1;
    }
    return true;
}

size_t fs_path_depth(const char *path)
{
    size_t depth = *path ? 1 : 0;
    for (; *path; path++)
        depth += *path == '/';
    return depth;
}

/* ---- walks ---- */

static int open_folder(int dir_fd, const char *name)
{
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS |
                                      RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV};
    long fd = syscall(SYS_openat2, dir_fd, name, &how, sizeof how);
    return fd < 0 ? -errno : (int)fd;
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* A walk over a tree: visit gets each entry and says if it shall be entered. */
struct walk {
    /* Returns 1: go into it; 0: go on; negative errno: the walk ends with that. */
    int (*visit)(struct walk *walk, int dir_fd, const struct dirent *entry);
    size_t depth; /* folders entered so far */
    size_t left;  /* entries that may still be met */
    size_t path_used;
    char path[BG_PATH_MAX]; /* of the entry */
};

static int walk_folder(struct walk *walk, int dir_fd, const char *name);

/* The entry's name is put behind the path for the visit, and taken away again. */
static int walk_entry(struct walk *walk, int dir_fd, const struct dirent *entry)
{
    size_t before = walk->path_used, size = strlen(entry->d_name);
    if (is_dots(entry->d_name))
        return 0;
    if (walk->left == 0 || before + 1 + size >= sizeof walk->path)
        return -E2BIG;
    walk->left--;
    if (before > 0)
        walk->path[walk->path_used++] = '/';
    memcpy(walk->path + walk->path_used, entry->d_name, size + 1);
    walk->path_used += size;
    int r = walk->visit(walk, dir_fd, entry);
    if (r > 0)
        r = walk_folder(walk, dir_fd, entry->d_name);
    walk->path_used = before;
    walk->path[before] = '\0';
    return r;
}

static int walk_folder(struct walk *walk, int dir_fd, const char *name)
{
    int fd = open_folder(dir_fd, name);
    if (fd < 0) /* gone, somebody else's, or another mount */
        return fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM ? fd : 0;
    DIR *dir = walk->depth < BG_FS_DEPTH_MAX ? fdopendir(fd) : NULL;
    if (!dir) {
        (void)close(fd); /* nothing was read */
        return walk->depth < BG_FS_DEPTH_MAX ? -ENOMEM : -E2BIG;
    }
    walk->depth++;
    int r = 0;
    const struct dirent *entry;
    while (r == 0 && (entry = readdir(dir)))
        r = walk_entry(walk, dirfd(dir), entry);
    walk->depth--;
    (void)closedir(dir); /* read only */
    return r;
}

/* ---- links that would lead out ---- */

struct link_walk {
    struct walk walk;
    size_t depth; /* that the folder will have */
};

static int check_link(struct walk *walk, int dir_fd, const struct dirent *entry)
{
    const struct link_walk *links = (const struct link_walk *)(const void *)walk;
    char text[BG_PATH_MAX];
    ssize_t n = readlinkat(dir_fd, entry->d_name, text, sizeof text);
    if (n < 0)
        return errno == EINVAL; /* no link */
    return fs_link_inside(text, (size_t)n, links->depth + walk->depth) ? 0 : -EPERM;
}

bool fs_links_lead_out(int dir_fd, const char *name, size_t depth)
{
    struct link_walk links = {.walk = {.visit = check_link, .left = BG_SHARE_MOVE_ENTRIES_MAX},
                              .depth = depth - 1};
    return walk_folder(&links.walk, dir_fd, name) < 0;
}

/* ---- files with several names ---- */

/* The upper bits of the numbers that clients see tell file systems apart, see nodes.c. Two files
 * taken for one are both hidden, which does no harm. */
#define INO_MASK ((UINT64_C(1) << 48) - 1)

struct fs_names {
    struct {
        uint64_t ino;
        unsigned verdict;
    } * entries; /* sorted by ino once complete */
    size_t count, room;
};

struct name_walk {
    struct walk walk;
    unsigned (*judge)(const void *owner, const char *path);
    const void *owner;
    unsigned mask;
    struct fs_names *names;
};

static int keep(struct fs_names *names, uint64_t ino, unsigned verdict)
{
    if (names->count == names->room) {
        size_t room = names->room ? 2 * names->room : 64;
        void *grown = reallocarray(names->entries, room, sizeof *names->entries);
        if (!grown)
            return -ENOMEM;
        names->entries = grown;
        names->room = room;
    }
    names->entries[names->count].ino = ino & INO_MASK;
    names->entries[names->count++].verdict = verdict;
    return 0;
}

static int judge_entry(struct walk *walk, int dir_fd, const struct dirent *entry)
{
    const struct name_walk *w = (const struct name_walk *)(const void *)walk;
    struct stat st;
    bool maybe_folder = entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN;
    unsigned verdict = w->judge(w->owner, walk->path) & w->mask;
    if (!verdict)
        return maybe_folder; /* what is none cannot be opened as one */
    if (fstatat(dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    if (S_ISREG(st.st_mode) && st.st_nlink > 1)
        return keep(w->names, st.st_ino, verdict);
    return S_ISDIR(st.st_mode);
}

static int by_ino(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x); /* the first member */
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

int fs_names_find(int root_fd, unsigned (*judge)(const void *owner, const char *path),
                  const void *owner, unsigned mask, struct fs_names **ret)
{
    struct fs_names *names = calloc(1, sizeof *names);
    if (!names)
        return -ENOMEM;
    struct name_walk w = {.walk = {.visit = judge_entry, .left = BG_SHARE_SCAN_ENTRIES_MAX},
                          .judge = judge,
                          .owner = owner,
                          .mask = mask,
                          .names = names};
    int r = walk_folder(&w.walk, root_fd, ".");
    if (r < 0) {
        fs_names_free(names);
        return r;
    }
    if (names->count > 0)
        qsort(names->entries, names->count, sizeof *names->entries, by_ino);
    *ret = names;
    return 0;
}

unsigned fs_names_verdict(const struct fs_names *names, uint64_t ino)
{
    unsigned verdict = 0;
    size_t low = 0, high = names->count;
    ino &= INO_MASK;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (names->entries[middle].ino < ino)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < names->count && names->entries[low].ino == ino; low++)
        verdict |= names->entries[low].verdict;
    return verdict;
}

void fs_names_free(struct fs_names *names)
{
    if (!names)
        return;
    free(names->entries);
    free(names);
}
