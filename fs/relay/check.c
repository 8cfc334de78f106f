#include "fs/relay/check.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define SIZE_MAX_SHOWN (1ull << 53)    /* what a double holds exactly; tools multiply sizes */
#define YEAR_9999      253402300799ll  /* last second that four-digit years can print */
#define YEAR_1901      (-2147483648ll) /* first second of 32-bit time */

static uint64_t at_most(uint64_t value, uint64_t max)
{
    return value < max ? value : max;
}

static uint64_t time_shown(uint64_t seconds)
{
    int64_t s = (int64_t)seconds;
    return (uint64_t)(s < YEAR_1901 ? YEAR_1901 : s > YEAR_9999 ? YEAR_9999 : s);
}

static uint64_t block_size_shown(uint64_t size)
{
    bool power_of_two = size != 0 && (size & (size - 1)) == 0;
    return power_of_two && size >= 4096 && size <= BG_FS_IO_MAX ? size : 4096;
}

int fs_check_attr(const struct fs_check_owners *owners, struct fs_attr *attr, bool *ret_special)
{
    uint64_t type = attr->mode & S_IFMT;
    bool special = type == S_IFIFO || type == S_IFSOCK || type == S_IFCHR || type == S_IFBLK;
    if (!special && type != S_IFREG && type != S_IFDIR && type != S_IFLNK)
        return -EIO;
    attr->mode = special ? S_IFREG : type | (attr->mode & 0777);
    attr->size = special ? 0 : at_most(attr->size, SIZE_MAX_SHOWN);
    attr->blocks = special ? 0 : at_most(attr->blocks, SIZE_MAX_SHOWN / 512);
    attr->atime = time_shown(attr->atime);
    attr->mtime = time_shown(attr->mtime);
    attr->ctime = time_shown(attr->ctime);
    attr->atime_ns = at_most(attr->atime_ns, 999999999);
    attr->mtime_ns = at_most(attr->mtime_ns, 999999999);
    attr->ctime_ns = at_most(attr->ctime_ns, 999999999);
    attr->nlink = at_most(attr->nlink, INT32_MAX);
    attr->uid = owners->all || attr->uid == owners->server_uid ? owners->uid : FS_NOBODY;
    attr->gid = owners->all || attr->gid == owners->server_gid ? owners->gid : FS_NOBODY;
    attr->rdev = 0;
    attr->blksize = block_size_shown(attr->blksize);
    attr->flags = 0;
    *ret_special = special;
    return 0;
}

bool fs_check_name_shown(const char *name, size_t size, bool raw)
{
    for (size_t i = 0; i < size && !raw; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return false;
    return true;
}

/* Walks over the components of a path: how many ".." it starts with, and whether one comes later.
 */
static void count_parents(const char *path, size_t size, size_t *ret_leading, bool *ret_later)
{
    size_t leading = 0;
    bool named = false;
    *ret_later = false;
    for (size_t at = 0; at < size;) {
        const char *slash = memchr(path + at, '/', size - at);
        size_t part = slash ? (size_t)(slash - path) - at : size - at;
        bool dot = part == 1 && path[at] == '.';
        bool parent = part == 2 && path[at] == '.' && path[at + 1] == '.';
        if (parent && named)
            *ret_later = true;
        else if (parent)
            leading++;
        else if (part > 0 && !dot)
            named = true;
        at += part + 1;
    }
    *ret_leading = leading;
}

unsigned fs_check_link_ups(const char *text, size_t size)
{
    size_t leading;
    bool later;
    count_parents(text, size, &leading, &later);
    return (unsigned)leading;
}

int fs_check_link_text(const uint8_t *text, size_t size)
{
    return size == 0 || size >= BG_PATH_MAX || memchr(text, 0, size) ? -EIO : 0;
}

int fs_check_link(const uint8_t *text, size_t size, unsigned depth, bool whole,
                  char out[BG_PATH_MAX], size_t *ret_size)
{
    int r = fs_check_link_text(text, size);
    if (r < 0)
        return r;
    const char *path = (const char *)text;
    bool absolute = path[0] == '/';
    size_t leading;
    bool later;
    count_parents(path, size, &leading, &later);
    if (later || leading > (absolute ? 0 : depth) || (absolute && !whole))
        return -EPERM;
    if (!absolute) {
        memcpy(out, path, size);
        *ret_size = size;
        return 0;
    }
    while (size > 0 && path[0] == '/') {
        path++;
        size--;
    }
    if (3 * (size_t)depth + 1 + size >= BG_PATH_MAX)
        return -ENAMETOOLONG;
    size_t used = 0;
    for (unsigned i = 0; i < depth; i++, used += 3)
        memcpy(out + used, "../", 3);
    if (used == 0 && size == 0)
        out[used++] = '.'; /* the root itself, from a link in it */
    memcpy(out + used, path, size);
    *ret_size = used + size;
    return 0;
}

bool fs_check_xattr_name(const char *name)
{
    return strncmp(name, "user.", 5) == 0 && name[5] != '\0';
}

bool fs_check_xattr_list(const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        const uint8_t *nul = memchr(bytes, 0, size);
        if (!nul || nul - bytes > BG_FS_NAME_MAX || !fs_check_xattr_name((const char *)bytes))
            return false;
        size -= (size_t)(nul - bytes) + 1;
        bytes = nul + 1;
    }
    return true;
}

void fs_check_statfs(struct fs_statfs *statfs)
{
    const uint64_t most = SIZE_MAX_SHOWN;
    statfs->blocks = at_most(statfs->blocks, most);
    statfs->bfree = at_most(statfs->bfree, statfs->blocks);
    statfs->bavail = at_most(statfs->bavail, statfs->bfree);
    statfs->files = at_most(statfs->files, most);
    statfs->ffree = at_most(statfs->ffree, statfs->files);
    statfs->bsize = block_size_shown(statfs->bsize);
    statfs->frsize = block_size_shown(statfs->frsize);
    statfs->namelen = BG_FS_NAME_MAX;
}
