/* Files are reached through O_PATH fds only: by *at() calls with one name, AT_EMPTY_PATH, or, where
 * a system call wants a path or an fd for I/O, through /proc/self/fd/N, which leads to exactly the
 * file that the fd is. Nothing but regular files and folders is ever opened for I/O. */
#include "fs/server/ops.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "fs/server/link_text.h"

#define PERMISSIONS 0777u /* set-id and sticky bits are never set from here */
#define PROC_PATH   32u

static const char *proc_path(int fd, char out[PROC_PATH])
{
    (void)snprintf(out, PROC_PATH, "/proc/self/fd/%d", fd);
    return out;
}

/* reply's attributes; its validity says only whether changes to the file will be told. */
static void attr_from(const struct statx *st, struct fs_reply *reply)
{
    reply->attr_valid = (st->stx_attributes & FS_NODES_WATCHED) != 0;
    reply->attr = (struct fs_attr){.ino = st->stx_ino,
                                   .size = st->stx_size,
                                   .blocks = st->stx_blocks,
                                   .atime = (uint64_t)st->stx_atime.tv_sec,
                                   .mtime = (uint64_t)st->stx_mtime.tv_sec,
                                   .ctime = (uint64_t)st->stx_ctime.tv_sec,
                                   .atime_ns = st->stx_atime.tv_nsec,
                                   .mtime_ns = st->stx_mtime.tv_nsec,
                                   .ctime_ns = st->stx_ctime.tv_nsec,
                                   .mode = st->stx_mode,
                                   .nlink = st->stx_nlink,
                                   .uid = st->stx_uid,
                                   .gid = st->stx_gid,
                                   .blksize = st->stx_blksize};
}

/* ---- names ---- */

static int entry_for(struct fs_ops *ops, const struct fs_pin *folder, const char *name,
                     bool keep_fd, struct fs_reply *reply)
{
    struct statx st;
    int r = fs_nodes_lookup(ops->nodes, folder, name, keep_fd, &reply->node, &st);
    if (r < 0)
        return r;
    attr_from(&st, reply);
    r = ops->share ? fs_share_found(ops->share, st.stx_ino, st.stx_nlink, st.stx_mode) : 0;
    if (r < 0)
        fs_nodes_forget(ops->nodes, reply->node, 1); /* the client does not hear of it */
    return r;
}

/* Folders that stand for pseudo file systems take no changes. */
static int check_folder(const struct fs_pin *folder)
{
    if (folder->type != S_IFDIR)
        return -ENOTDIR;
    return folder->hollow ? -EACCES : 0;
}

static int make(struct fs_ops *ops, const struct fs_request *request, const struct fs_pin *folder,
                struct fs_reply *reply)
{
    int r = check_folder(folder);
    if (r < 0)
        return r;
    mode_t mode = request->mode & PERMISSIONS;
    switch (request->opcode) {
    case FUSE_MKDIR:
        r = mkdirat(folder->fd, request->name, mode);
        break;
    case FUSE_SYMLINK:
        r = symlinkat(request->name2, folder->fd, request->name);
        break;
    case FUSE_MKNOD:
        if ((request->mode & S_IFMT) != S_IFREG && (request->mode & S_IFMT) != 0)
            return -EPERM; /* devices, pipes and sockets have no use across machines */
        r = mknodat(folder->fd, request->name, S_IFREG | mode, 0);
        break;
    default:
        assert(false);
    }
    if (r < 0)
        return -errno;
    return entry_for(ops, folder, request->name, /* keep_fd= */ true, reply);
}

static int make_link(struct fs_ops *ops, const struct fs_request *request,
                     const struct fs_pin *folder, struct fs_reply *reply)
{
    int r = check_folder(folder);
    if (r < 0)
        return r;
    struct fs_pin old;
    r = fs_nodes_get(ops->nodes, request->node2, &old);
    if (r < 0)
        return r;
    char path[PROC_PATH];
    if (old.type == S_IFDIR)
        r = -EPERM;
    else if (linkat(AT_FDCWD, proc_path(old.fd, path), folder->fd, request->name,
                    AT_SYMLINK_FOLLOW) < 0)
        r = -errno;
    else
        r = entry_for(ops, folder, request->name, /* keep_fd= */ true, reply);
    fs_nodes_put(ops->nodes, &old);
    return r;
}

static int remove_name(const struct fs_request *request, const struct fs_pin *folder)
{
    int r = check_folder(folder);
    if (r < 0)
        return r;
    int flags = request->opcode == FUSE_RMDIR ? AT_REMOVEDIR : 0;
    return unlinkat(folder->fd, request->name, flags) < 0 ? -errno : 0;
}

static int rename_name(struct fs_ops *ops, const struct fs_request *request,
                       const struct fs_pin *folder)
{
    int r = check_folder(folder);
    if (r < 0)
        return r;
    if (request->flags & ~(uint64_t)(RENAME_NOREPLACE | RENAME_EXCHANGE))
        return -EINVAL;
    struct fs_pin to;
    r = fs_nodes_get(ops->nodes, request->node2, &to);
    if (r < 0)
        return r;
    r = check_folder(&to);
    if (r == 0 &&
        renameat2(folder->fd, request->name, to.fd, request->name2, (unsigned)request->flags) < 0)
        r = -errno;
    if (r == 0)
        fs_nodes_moved(ops->nodes, &to, request->name2);
    if (r == 0 && (request->flags & RENAME_EXCHANGE))
        fs_nodes_moved(ops->nodes, folder, request->name);
    fs_nodes_put(ops->nodes, &to);
    return r;
}

/* The text that leads to the same place without ".." after a name. False: there is none, as the
 * link leads nowhere; the client gets the text as it is and decides. */
static bool clean_link(struct fs_ops *ops, const struct fs_pin *pin, const char *text, uint8_t *out,
                       size_t *ret_size)
{
    struct fs_pin root, folder;
    if (fs_nodes_get(ops->nodes, FS_NODES_ROOT, &root) < 0)
        return false;
    bool done = false;
    if (fs_nodes_folder(ops->nodes, pin, &folder) == 0) {
        const struct fs_link_place place = {
            .root_fd = root.fd, .whole = ops->whole, .folder_fd = folder.fd};
        done = fs_link_clean(&place, text, (char *)out, ret_size) == 0;
        fs_nodes_put(ops->nodes, &folder);
    }
    fs_nodes_put(ops->nodes, &root);
    return done;
}

static int read_link(struct fs_ops *ops, const struct fs_pin *pin, uint8_t *out,
                     struct fs_reply *reply)
{
    char text[BG_PATH_MAX + 1];
    ssize_t n = readlinkat(pin->fd, "", text, BG_PATH_MAX);
    if (n < 0)
        return -errno;
    if (n == BG_PATH_MAX)
        return -ENAMETOOLONG;
    text[n] = '\0';
    reply->data = out;
    if (!ops->clean_links || !fs_link_needs_cleaning(text) ||
        !clean_link(ops, pin, text, out, &reply->data_size)) {
        memcpy(out, text, (size_t)n);
        reply->data_size = (size_t)n;
    }
    return 0;
}

/* ---- attributes ---- */

/* The handle that the request names, if its flag says that it names one. */
static struct fs_handle *handle_if(struct fs_ops *ops, const struct fs_request *request, bool named)
{
    return named ? fs_handles_get(ops->handles, request->fh, request->node, /* folder= */ false)
                 : NULL;
}

static int get_attr(struct fs_ops *ops, const struct fs_request *request, const struct fs_pin *pin,
                    struct fs_reply *reply)
{
    struct fs_handle *handle = handle_if(ops, request, request->flags & FUSE_GETATTR_FH);
    struct statx st;
    int r = fs_nodes_stat(pin, handle ? handle->fd : pin->fd, &st);
    if (r == 0)
        attr_from(&st, reply);
    fs_handles_put(ops->handles, handle);
    return r;
}

static struct timespec time_from(const struct fs_request *request, uint32_t set, uint32_t set_now,
                                 uint64_t seconds, uint64_t nanoseconds)
{
    if (request->valid & set_now)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    if (request->valid & set)
        return (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)nanoseconds};
    return (struct timespec){.tv_nsec = UTIME_OMIT};
}

static int set_mode(const struct fs_pin *pin, uint64_t wanted)
{
    struct statx st;
    int r = fs_nodes_stat(pin, pin->fd, &st);
    if (r < 0)
        return r;
    if (pin->type == S_IFLNK)
        return -EOPNOTSUPP;
    /* A folder keeps the bits that the client is not shown; a program loses them. */
    mode_t kept = pin->type == S_IFDIR ? st.stx_mode & 07000u : 0;
    char path[PROC_PATH];
    mode_t mode = kept | ((mode_t)wanted & PERMISSIONS);
    return fchmodat(AT_FDCWD, proc_path(pin->fd, path), mode, 0) < 0 ? -errno : 0;
}

static int set_attr(struct fs_ops *ops, const struct fs_request *request, const struct fs_pin *pin,
                    struct fs_reply *reply)
{
    if (pin->hollow)
        return -EACCES;
    struct fs_handle *handle = handle_if(ops, request, request->valid & FATTR_FH);
    char path[PROC_PATH];
    int r = 0;
    if (request->valid & FATTR_MODE)
        r = set_mode(pin, request->mode);
    if (r == 0 && (request->valid & (FATTR_UID | FATTR_GID))) {
        uid_t uid = request->valid & FATTR_UID ? (uid_t)request->uid : (uid_t)-1;
        gid_t gid = request->valid & FATTR_GID ? (gid_t)request->gid : (gid_t)-1;
        if (fchownat(pin->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
            r = -errno;
    }
    if (r == 0 && (request->valid & FATTR_SIZE)) {
        if (request->size > INT64_MAX)
            r = -EFBIG;
        else if (pin->type != S_IFREG)
            r = pin->type == S_IFDIR ? -EISDIR : -EINVAL;
        else if (handle ? ftruncate(handle->fd, (off_t)request->size) < 0
                        : truncate(proc_path(pin->fd, path), (off_t)request->size) < 0)
            r = -errno;
    }
    if (r == 0 &&
        (request->valid & (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW))) {
        struct timespec times[2] = {
            time_from(request, FATTR_ATIME, FATTR_ATIME_NOW, request->atime, request->atime_ns),
            time_from(request, FATTR_MTIME, FATTR_MTIME_NOW, request->mtime, request->mtime_ns)};
        if (utimensat(pin->fd, "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
            r = -errno;
    }
    struct statx st;
    if (r == 0)
        r = fs_nodes_stat(pin, handle ? handle->fd : pin->fd, &st);
    if (r == 0)
        attr_from(&st, reply);
    fs_handles_put(ops->handles, handle);
    return r;
}

static int stat_fs(const struct fs_pin *pin, struct fs_reply *reply)
{
    struct statvfs fs;
    if (fstatvfs(pin->fd, &fs) < 0)
        return -errno;
    reply->statfs = (struct fs_statfs){.blocks = fs.f_blocks,
                                       .bfree = fs.f_bfree,
                                       .bavail = fs.f_bavail,
                                       .files = fs.f_files,
                                       .ffree = fs.f_ffree,
                                       .bsize = (uint32_t)fs.f_bsize,
                                       .namelen = (uint32_t)fs.f_namemax,
                                       .frsize = (uint32_t)fs.f_frsize};
    return 0;
}

static int access_check(const struct fs_request *request, const struct fs_pin *pin)
{
    long r = syscall(SYS_faccessat2, pin->fd, "", (int)request->mask & (R_OK | W_OK | X_OK),
                     AT_EMPTY_PATH | AT_EACCESS);
    return r < 0 ? -errno : 0;
}

/* ---- extended attributes ---- */

/* Only what users keep there. Security labels, capabilities and ACLs are this machine's own. */
static bool xattr_is_users(const char *name)
{
    return strncmp(name, "user.", 5) == 0 && name[5] != '\0';
}

static int xattr_value(const struct fs_request *request, ssize_t n, uint8_t *out,
                       struct fs_reply *reply)
{
    if (n < 0)
        return -errno;
    if (request->size == 0) {
        reply->size = (uint64_t)n;
        return 0;
    }
    if ((size_t)n > request->size)
        return -ERANGE;
    reply->data = out;
    reply->data_size = (size_t)n;
    return 0;
}

static int list_xattrs(const struct fs_request *request, const char *path, uint8_t *out,
                       struct fs_reply *reply)
{
    char all[BG_FS_XATTR_MAX];
    ssize_t n = listxattr(path, all, sizeof all);
    if (n < 0)
        return -errno;
    size_t used = 0;
    for (size_t at = 0, size; at < (size_t)n; at += size) {
        size = strlen(all + at) + 1; /* the kernel ends each name with a NUL */
        if (xattr_is_users(all + at)) {
            memcpy(out + used, all + at, size);
            used += size;
        }
    }
    return xattr_value(request, (ssize_t)used, out, reply);
}

static int do_xattr(const struct fs_request *request, const struct fs_pin *pin, uint8_t *out,
                    struct fs_reply *reply)
{
    char path[PROC_PATH];
    (void)proc_path(pin->fd, path);
    if (pin->hollow)
        return request->opcode == FUSE_LISTXATTR ? xattr_value(request, 0, out, reply)
                                                 : -EOPNOTSUPP;
    if (request->opcode == FUSE_LISTXATTR)
        return list_xattrs(request, path, out, reply);
    if (!xattr_is_users(request->name))
        return -EOPNOTSUPP;
    switch (request->opcode) {
    case FUSE_GETXATTR:
        /* Read whole even when only the size is asked: it must not be larger than what goes. */
        return xattr_value(request, getxattr(path, request->name, out, BG_FS_XATTR_MAX), out,
                           reply);
    case FUSE_SETXATTR:
        if (request->flags & ~(uint64_t)(XATTR_CREATE | XATTR_REPLACE))
            return -EINVAL;
        if (request->data_size > BG_FS_XATTR_MAX)
            return -E2BIG;
        return setxattr(path, request->name, request->data, request->data_size,
                        (int)request->flags) < 0
                   ? -errno
                   : 0;
    case FUSE_REMOVEXATTR:
        return removexattr(path, request->name) < 0 ? -errno : 0;
    default:
        assert(false);
        return -EINVAL;
    }
}

/* ---- open files ---- */

/* The flags of open(2) that mean something here. */
static int open_flags(uint64_t wanted)
{
    return ((int)wanted & (O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC | O_NOATIME)) |
           O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW;
}

static bool opens_for_change(uint64_t flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);
}

/* Opens a pinned regular file. */
static int open_pin(const struct fs_pin *pin, uint64_t wanted)
{
    if (pin->type != S_IFREG)
        return pin->type == S_IFDIR ? -EISDIR : pin->type == S_IFLNK ? -ELOOP : -EACCES;
    char path[PROC_PATH];
    int flags = open_flags(wanted) & ~O_NOFOLLOW; /* the path's last part is a link of /proc */
    int fd = open(proc_path(pin->fd, path), flags);
    if (fd < 0 && errno == EPERM && (flags & O_NOATIME)) /* only the file's owner may ask for it */
        fd = open(path, flags & ~O_NOATIME);
    return fd < 0 ? -errno : fd;
}

/* True when close(2) can have no error to report: writes have said all. Network file systems may
 * find out only then. */
static bool closes_quietly(int fd)
{
    static const uint32_t magics[] = {BTRFS_SUPER_MAGIC,     EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC,
                                      OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC,      XFS_SUPER_MAGIC};
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0)
        return false;
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++)
        if ((uint32_t)fs.f_type == magics[i])
            return true;
    return false;
}

/* Hands out an open file. Takes fd on success. */
static int add_handle(struct fs_ops *ops, const struct fs_request *request,
                      const struct fs_pin *pin, int fd, struct fs_reply *reply)
{
    if ((request->flags & O_ACCMODE) != O_RDONLY && closes_quietly(fd))
        reply->open_flags = FOPEN_NOFLUSH;
    return fs_handles_add(ops->handles, pin, fd, &reply->fh);
}

/* A small file's content, for the answer to its OPEN. What goes wrong here a READ will tell. */
static void read_small(int fd, uint8_t *out, struct fs_reply *reply)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0 ||
        st.st_size > BG_FS_AHEAD_MAX)
        return;
    /* Up to the end as it is by now: less than all of out says that this is the end. */
    ssize_t n = pread(fd, out, BG_FS_AHEAD_MAX, 0);
    if (n > 0) {
        reply->data = out;
        reply->data_size = (size_t)n;
    }
}

static int open_file(struct fs_ops *ops, const struct fs_request *request, const struct fs_pin *pin,
                     uint8_t *out, struct fs_reply *reply)
{
    if (ops->read_only && opens_for_change(request->flags))
        return -EROFS;
    BG_AUTOCLOSE int fd = open_pin(pin, request->flags);
    if (fd < 0)
        return fd;
    int r = add_handle(ops, request, pin, fd, reply);
    if (r == 0 && (request->flags2 & FS_OPEN_READ) && (request->flags & O_ACCMODE) == O_RDONLY)
        read_small(fd, out, reply);
    if (r == 0)
        (void)bg_take_fd(&fd);
    return r;
}

static int open_folder(struct fs_ops *ops, const struct fs_pin *pin, struct fs_reply *reply)
{
    if (pin->type != S_IFDIR)
        return -ENOTDIR;
    char path[PROC_PATH];
    /* Nothing of a hollow folder is read: its O_PATH fd will do. */
    BG_AUTOCLOSE int fd = pin->hollow
                              ? fcntl(pin->fd, F_DUPFD_CLOEXEC, 0)
                              : open(proc_path(pin->fd, path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = fs_handles_add(ops->handles, pin, fd, &reply->fh);
    if (r == 0)
        (void)bg_take_fd(&fd);
    return r;
}

static int create_file(struct fs_ops *ops, const struct fs_request *request,
                       const struct fs_pin *folder, struct fs_reply *reply)
{
    int r = check_folder(folder);
    if (r < 0)
        return r;
    /* Only a file that is made here is opened by its name: one that is there could be a pipe. */
    BG_AUTOCLOSE int fd =
        openat(folder->fd, request->name, open_flags(request->flags) | O_CREAT | O_EXCL,
               request->mode & PERMISSIONS);
    if (fd < 0 && (errno != EEXIST || (request->flags & O_EXCL)))
        return -errno;
    r = entry_for(ops, folder, request->name, /* keep_fd= */ true, reply);
    if (r < 0)
        return r;
    struct fs_pin pin;
    r = fs_nodes_get(ops->nodes, reply->node, &pin);
    if (r == 0) {
        if (fd < 0 && ops->share)
            r = fs_share_check_open(ops->share, &pin, opens_for_change(request->flags));
        if (fd < 0)
            fd = r < 0 ? r : open_pin(&pin, request->flags);
        struct statx mine;
        if (fd < 0)
            r = fd;
        else
            r = fs_nodes_stat(&pin, fd, &mine); /* O_TRUNC may just have changed it */
        if (r == 0 && mine.stx_ino != reply->attr.ino)
            r = -ESTALE; /* replaced under our hands */
        if (r == 0) {
            attr_from(&mine, reply);
            r = add_handle(ops, request, &pin, fd, reply);
        }
        if (r == 0)
            (void)bg_take_fd(&fd);
        fs_nodes_put(ops->nodes, &pin);
    }
    if (r < 0)
        fs_nodes_forget(ops->nodes, reply->node, 1); /* the client will not hear of it */
    return r;
}

/* A file that has no name yet, and goes with its last handle unless it is linked. */
static int create_nameless(struct fs_ops *ops, const struct fs_request *request,
                           const struct fs_pin *folder, struct fs_reply *reply)
{
    int r = check_folder(folder);
    if (r < 0)
        return r;
    int flags = open_flags(request->flags) & ~(O_NOFOLLOW | O_TRUNC);
    BG_AUTOCLOSE int fd =
        openat(folder->fd, ".", flags | O_TMPFILE | ((int)request->flags & O_EXCL),
               request->mode & PERMISSIONS);
    struct statx st;
    if (fd < 0)
        return -errno;
    r = fs_nodes_adopt(ops->nodes, folder, fd, &reply->node, &st);
    if (r < 0)
        return r;
    attr_from(&st, reply);
    struct fs_pin pin;
    r = fs_nodes_get(ops->nodes, reply->node, &pin);
    if (r == 0) {
        r = add_handle(ops, request, &pin, fd, reply);
        if (r == 0)
            (void)bg_take_fd(&fd);
        fs_nodes_put(ops->nodes, &pin);
    }
    if (r < 0)
        fs_nodes_forget(ops->nodes, reply->node, 1); /* the client will not hear of it */
    return r;
}

static int read_file(const struct fs_request *request, const struct fs_handle *handle, uint8_t *out,
                     struct fs_reply *reply)
{
    if (request->size > BG_FS_IO_MAX || request->offset > INT64_MAX)
        return -EINVAL;
    size_t used = 0;
    while (used < request->size) { /* a short answer would mean the end of the file */
        ssize_t n = pread(handle->fd, out + used, (size_t)request->size - used,
                          (off_t)(request->offset + used));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        used += (size_t)n;
    }
    reply->data = out;
    reply->data_size = used;
    return 0;
}

/* Writes all; *ret_used: how much was. */
static int write_bytes(int fd, const uint8_t *bytes, size_t size, uint64_t offset, size_t *ret_used)
{
    *ret_used = 0;
    if (offset > INT64_MAX - BG_FS_IO_MAX)
        return -EFBIG;
    while (*ret_used < size) {
        ssize_t n = pwrite(fd, bytes + *ret_used, size - *ret_used, (off_t)(offset + *ret_used));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        *ret_used += (size_t)n;
    }
    return 0;
}

/* The next of a request's pieces. False at the end, and when what is left is malformed. */
static bool next_piece(struct bg_reader *in, uint64_t *ret_offset, const uint8_t **ret_bytes,
                       size_t *ret_size)
{
    if (in->left == 0)
        return false;
    *ret_offset = bg_reader_u64le(in);
    *ret_size = bg_reader_u32le(in);
    if (bg_reader_u32le(in) != 0 || *ret_size == 0)
        in->failed = true;
    *ret_bytes = bg_reader_bytes(in, *ret_size);
    return bg_reader_ok(in);
}

static int write_pieces(const struct fs_request *request, const struct fs_handle *handle)
{
    uint64_t offset;
    const uint8_t *bytes;
    size_t size, used;
    struct bg_reader in = bg_reader_init(request->data, request->data_size);
    while (next_piece(&in, &offset, &bytes, &size))
        ; /* nothing is written unless all is well formed */
    if (!bg_reader_end(&in))
        return -EINVAL;
    in = bg_reader_init(request->data, request->data_size);
    int r = 0;
    while (r == 0 && next_piece(&in, &offset, &bytes, &size))
        r = write_bytes(handle->fd, bytes, size, offset, &used);
    return r;
}

static int write_file(const struct fs_request *request, const struct fs_handle *handle,
                      struct fs_reply *reply)
{
    size_t used = 0;
    int r =
        (request->flags2 & FS_WRITE_PIECES)
            ? write_pieces(request, handle)
            : write_bytes(handle->fd, request->data, request->data_size, request->offset, &used);
    reply->size = r == 0 ? request->data_size : used;
    /* What was written before an error counts, and the next WRITE meets the error again: unless
     * nobody looks at the count. */
    return used > 0 && !(request->flags2 & FS_WRITE_WHOLE) ? 0 : r;
}

static int sync_handle(const struct fs_request *request, const struct fs_handle *handle)
{
    bool data_only = request->flags & FUSE_FSYNC_FDATASYNC;
    return (data_only ? fdatasync(handle->fd) : fsync(handle->fd)) < 0 ? -errno : 0;
}

static int flush_handle(struct fs_ops *ops, const struct fs_request *request,
                        const struct fs_handle *handle)
{
    fs_locks_flush(ops->locks, request->node, request->owner);
    /* close(2) of a copy reports what the file system has to say at close, as NFS does. */
    int copy = fcntl(handle->fd, F_DUPFD_CLOEXEC, 0);
    return copy < 0 || close(copy) < 0 ? -errno : 0;
}

static int allocate(const struct fs_request *request, const struct fs_handle *handle)
{
    const uint64_t known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
    if (request->mode & ~known)
        return -EOPNOTSUPP;
    if (request->offset > INT64_MAX || request->size > INT64_MAX - request->offset)
        return -EFBIG;
    return fallocate(handle->fd, (int)request->mode, (off_t)request->offset, (off_t)request->size) <
                   0
               ? -errno
               : 0;
}

static int seek_data(const struct fs_request *request, const struct fs_handle *handle,
                     struct fs_reply *reply)
{
    if (request->whence != SEEK_DATA && request->whence != SEEK_HOLE)
        return -EINVAL; /* the client's kernel knows the rest by itself */
    if (request->offset > INT64_MAX)
        return -ENXIO;
    off_t at = lseek(handle->fd, (off_t)request->offset, (int)request->whence);
    if (at < 0)
        return -errno;
    reply->offset = (uint64_t)at;
    return 0;
}

static int copy_range(struct fs_ops *ops, const struct fs_request *request,
                      const struct fs_handle *from, struct fs_reply *reply)
{
    struct fs_handle *to =
        fs_handles_get(ops->handles, request->fh2, request->node2, /* folder= */ false);
    if (!to)
        return -EBADF;
    int r = 0;
    if (request->flags != 0 || request->offset > INT64_MAX || request->offset2 > INT64_MAX) {
        r = -EINVAL;
    } else {
        off_t in = (off_t)request->offset, out = (off_t)request->offset2;
        /* In pieces, so that one request does not take minutes; the client asks again. */
        size_t size = request->size > 64u * BG_FS_IO_MAX ? 64u * BG_FS_IO_MAX : request->size;
        ssize_t n = copy_file_range(from->fd, &in, to->fd, &out, size, 0);
        if (n < 0)
            r = -errno;
        else
            reply->size = (uint64_t)n;
    }
    fs_handles_put(ops->handles, to);
    return r;
}

/* ---- reading folders ---- */

/* The layout of struct linux_dirent64, getdents64(2). */
#define ENTRY_HEAD 19u

struct raw_entry {
    uint64_t ino;
    int64_t offset; /* where the one after it is found */
    uint16_t size;
    uint8_t type;
    const char *name;
};

static struct raw_entry raw_entry_at(const uint8_t *at)
{
    struct raw_entry entry;
    memcpy(&entry.ino, at, 8);
    memcpy(&entry.offset, at + 8, 8);
    memcpy(&entry.size, at + 16, 2);
    entry.type = at[18];
    entry.name = (const char *)at + ENTRY_HEAD;
    return entry;
}

/* Makes sure that an entry is at hand. Returns 1, 0 at the end, or negative errno. */
static int entries_fill(struct fs_handle *handle, int64_t offset)
{
    if (handle->next_offset != offset) {
        if (lseek(handle->fd, offset, SEEK_SET) < 0)
            return -errno;
        handle->entries_at = handle->entries_size = 0;
        handle->next_offset = offset;
    }
    if (handle->entries_at < handle->entries_size)
        return 1;
    handle->entries_at = handle->entries_size = 0;
    ssize_t n = getdents64(handle->fd, handle->entries, FS_DIR_BUFFER_SIZE);
    if (n < 0)
        return -errno;
    handle->entries_size = (size_t)n;
    return n > 0;
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* With READDIRPLUS a name comes with its attributes where they can be had; without, the client
 * looks it up and gets the error itself. False: it is gone. */
static bool entry_look_up(struct fs_ops *ops, const struct fs_pin *folder, struct fs_dirent *entry)
{
    if (is_dots(entry->name))
        return true;
    int r = entry_for(ops, folder, entry->name, /* keep_fd= */ false, &entry->entry);
    if (r < 0)
        entry->entry = (struct fs_reply){0};
    else if (ops->share)
        fs_share_show(ops->share, &entry->entry);
    return r != -ENOENT;
}

static int read_folder(struct fs_ops *ops, const struct fs_request *request,
                       struct fs_handle *handle, uint8_t *out, struct fs_reply *reply)
{
    bool plus = request->opcode == FUSE_READDIRPLUS;
    size_t room = request->size < BG_FS_DIR_REPLY_MAX ? (size_t)request->size : BG_FS_DIR_REPLY_MAX;
    struct bg_writer w = bg_writer_init(out, room);
    int64_t offset = (int64_t)request->offset;
    int r = handle->node.hollow ? 0 : 1;
    char place[BG_PATH_MAX];
    if (ops->share && r > 0) {
        int found = fs_share_folder(ops->share, &handle->node, place);
        if (found < 0)
            return found;
    }

    (void)pthread_mutex_lock(&handle->lock);
    while (r > 0 && (r = entries_fill(handle, offset)) > 0) {
        struct raw_entry raw = raw_entry_at(handle->entries + handle->entries_at);
        struct fs_dirent entry = {.ino = fs_nodes_ino(&handle->node, raw.ino),
                                  .offset = (uint64_t)raw.offset,
                                  .type = raw.type,
                                  .name = raw.name,
                                  .name_size = strlen(raw.name)};
        if (fs_dirent_size(&entry, plus) > w.size - w.used) {
            r = w.used > 0 ? 0 : -EINVAL; /* not even one fits */
            break;
        }
        bool there =
            !ops->share || is_dots(raw.name) || fs_share_shows(ops->share, place, raw.name);
        there = there && (!plus || entry_look_up(ops, &handle->node, &entry));
        if (there)
            fs_dirent_emit(&entry, plus, &w);
        handle->entries_at += raw.size;
        handle->next_offset = offset = raw.offset;
    }
    (void)pthread_mutex_unlock(&handle->lock);
    if (r < 0 && w.used == 0)
        return r; /* after some entries, the error comes with the next request */
    reply->data = out;
    reply->data_size = w.used;
    return 0;
}

/* ---- dispatch ---- */

static int run_on_handle(struct fs_ops *ops, const struct fs_request *request, bool folder,
                         uint8_t *out, struct fs_reply *ret)
{
    struct fs_handle *handle = fs_handles_get(ops->handles, request->fh, request->node, folder);
    if (!handle)
        return -EBADF;
    int r = 0;
    switch (request->opcode) {
    case FUSE_READ:
        r = read_file(request, handle, out, ret);
        break;
    case FUSE_WRITE:
        r = write_file(request, handle, ret);
        break;
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        r = read_folder(ops, request, handle, out, ret);
        break;
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
        r = handle->node.hollow ? 0 : sync_handle(request, handle);
        break;
    case FUSE_FLUSH:
        r = flush_handle(ops, request, handle);
        break;
    case FUSE_FALLOCATE:
        r = allocate(request, handle);
        break;
    case FUSE_LSEEK:
        r = seek_data(request, handle, ret);
        break;
    case FUSE_COPY_FILE_RANGE:
        r = copy_range(ops, request, handle, ret);
        break;
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW:
        r = fs_locks_apply(ops->locks, request, handle, ret);
        if (r == -EINPROGRESS)
            return r; /* the wait has our reference */
        break;
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        fs_handles_end(ops->handles, handle);
        fs_locks_released(ops->locks, request->node, request->fh);
        break;
    default:
        r = -EINVAL;
    }
    fs_handles_put(ops->handles, handle);
    return r;
}

static int run_on_node(struct fs_ops *ops, const struct fs_request *request, uint8_t *out,
                       struct fs_reply *ret)
{
    struct fs_pin pin;
    int r = fs_nodes_get(ops->nodes, request->node, &pin);
    if (r < 0)
        return r;
    switch (request->opcode) {
    case FUSE_LOOKUP:
        r = entry_for(ops, &pin, request->name, /* keep_fd= */ true, ret);
        break;
    case FUSE_GETATTR:
        r = get_attr(ops, request, &pin, ret);
        break;
    case FUSE_SETATTR:
        r = set_attr(ops, request, &pin, ret);
        break;
    case FUSE_READLINK:
        r = read_link(ops, &pin, out, ret);
        break;
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
        r = make(ops, request, &pin, ret);
        break;
    case FUSE_LINK:
        r = make_link(ops, request, &pin, ret);
        break;
    case FUSE_UNLINK:
    case FUSE_RMDIR:
        r = remove_name(request, &pin);
        break;
    case FUSE_RENAME:
    case FUSE_RENAME2:
        r = rename_name(ops, request, &pin);
        break;
    case FUSE_OPEN:
        r = open_file(ops, request, &pin, out, ret);
        break;
    case FUSE_CREATE:
        r = create_file(ops, request, &pin, ret);
        break;
    case FUSE_TMPFILE:
        r = create_nameless(ops, request, &pin, ret);
        break;
    case FUSE_OPENDIR:
        r = open_folder(ops, &pin, ret);
        break;
    case FUSE_STATFS:
        r = stat_fs(&pin, ret);
        break;
    case FUSE_ACCESS:
        r = access_check(request, &pin);
        break;
    case FUSE_GETXATTR:
    case FUSE_SETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_REMOVEXATTR:
        r = do_xattr(request, &pin, out, ret);
        break;
    default:
        r = -EINVAL; /* INIT, IOCTL, POLL, BMAP, SYNCFS: not spoken on streams */
    }
    fs_nodes_put(ops->nodes, &pin);
    return r;
}

static int run_request(struct fs_ops *ops, const struct fs_request *request, uint8_t *out,
                       struct fs_reply *ret)
{
    switch (request->opcode) {
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_RELEASEDIR:
    case FUSE_FSYNCDIR:
        return run_on_handle(ops, request, /* folder= */ true, out, ret);
    case FUSE_READ:
    case FUSE_WRITE:
    case FUSE_FSYNC:
    case FUSE_FLUSH:
    case FUSE_FALLOCATE:
    case FUSE_LSEEK:
    case FUSE_COPY_FILE_RANGE:
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW:
    case FUSE_RELEASE:
        return run_on_handle(ops, request, /* folder= */ false, out, ret);
    default:
        return run_on_node(ops, request, out, ret);
    }
}

/* In a share: after its checks, and shown as the client shall see it. */
static int run_shared(struct fs_ops *ops, const struct fs_request *request, uint8_t *out,
                      struct fs_reply *ret)
{
    struct fs_request checked = *request;
    struct fs_pin pin = {0};
    bool attr = request->opcode == FUSE_GETATTR || request->opcode == FUSE_SETATTR;
    int r;
    fs_share_begin(ops->share, request->opcode);
    if (fs_op_has_handle(request->opcode) && !attr) {
        r = fs_share_check_open_file(ops->share, &checked);
    } else {
        r = fs_nodes_get(ops->nodes, request->node, &pin);
        if (r == 0)
            r = fs_share_check(ops->share, &checked, &pin);
    }
    if (r == 0)
        r = run_request(ops, &checked, out, ret);
    if (r == 0)
        fs_share_show(ops->share, ret);
    fs_nodes_put(ops->nodes, &pin);
    fs_share_end(ops->share, request->opcode);
    return r;
}

int fs_ops_run(struct fs_ops *ops, const struct fs_request *request, uint8_t out[FS_OPS_OUT_SIZE],
               struct fs_reply *ret)
{
    *ret = (struct fs_reply){.unique = request->unique};
    if (ops->read_only && fs_op_mutates(request->opcode))
        return -EROFS;
    return ops->share ? run_shared(ops, request, out, ret) : run_request(ops, request, out, ret);
}

void fs_ops_run_silent(struct fs_ops *ops, const struct fs_request *request)
{
    if (request->opcode == FUSE_FORGET) {
        fs_nodes_forget(ops->nodes, request->node, request->nlookup);
    } else if (request->opcode == FUSE_BATCH_FORGET) {
        for (size_t i = 0; i < request->count; i++) {
            uint64_t node, nlookup;
            fs_forget_at(request, i, &node, &nlookup);
            fs_nodes_forget(ops->nodes, node, nlookup);
        }
    } else if (request->opcode == FUSE_INTERRUPT) {
        fs_locks_interrupt(ops->locks, request->interrupted);
    }
}
