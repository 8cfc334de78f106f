#include "guest/file_ops.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/io.h"
#include "common/wire.h"

#define NS            1000000000
#define COPY_STEP     (1u << 20)
#define WALK_FDS      32   /* of nftw; deeper folders are opened anew */
#define TEMP_ATTEMPTS 1000 /* each with 32 random bits: it is not for want of names then */

/* The parameters of one call. */
struct call {
    struct bg_reader in;
    char path[BG_PATH_MAX], other[BG_PATH_MAX];
};

static void read_path(struct call *c)
{
    bg_reader_text32le(&c->in, c->path, sizeof c->path);
}

static void read_paths(struct call *c)
{
    read_path(c);
    bg_reader_text32le(&c->in, c->other, sizeof c->other);
}

static struct timespec read_time(struct call *c)
{
    int64_t ns = (int64_t)bg_reader_u64le(&c->in);
    int64_t rest = ns % NS, seconds = ns / NS;
    if (rest < 0) { /* before 1970: rounded down, as timespec has it */
        rest += NS;
        seconds--;
    }
    return (struct timespec){.tv_sec = seconds, .tv_nsec = rest};
}

static int done(int result)
{
    return result < 0 ? -errno : 0;
}

/* ---- attributes and folders ---- */

static int64_t ns_of(const struct statx_timestamp *t)
{
    return t->tv_sec * NS + t->tv_nsec;
}

static int put_attributes(int fd, const char *path, int flags, struct bg_writer *w)
{
    struct statx x;
    if (statx(fd, path, flags, STATX_BASIC_STATS | STATX_BTIME, &x) < 0)
        return -errno;
    const struct bg_files_attributes a = {
        .mode = x.stx_mode,
        .nlink = x.stx_nlink,
        .uid = x.stx_uid,
        .gid = x.stx_gid,
        .block_size = x.stx_blksize,
        .size = x.stx_size,
        .blocks = x.stx_blocks,
        .inode = x.stx_ino,
        .device = makedev(x.stx_dev_major, x.stx_dev_minor),
        .special_device = makedev(x.stx_rdev_major, x.stx_rdev_minor),
        .atime_ns = ns_of(&x.stx_atime),
        .mtime_ns = ns_of(&x.stx_mtime),
        .ctime_ns = ns_of(&x.stx_ctime),
        /* Not every file system has one; the change of the inode is the next best. */
        .birth_ns = ns_of(x.stx_mask & STATX_BTIME ? &x.stx_btime : &x.stx_ctime)};
    bg_files_attributes_emit(&a, w);
    return 0;
}

static uint8_t type_of(DIR *folder, const struct dirent *entry)
{
    struct stat st;
    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type; /* S_IFMT >> 12, by definition */
    return fstatat(dirfd(folder), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0
               ? 0
               : (uint8_t)((st.st_mode & S_IFMT) >> 12);
}

static int send_more(struct file_ops *ops, struct bg_writer *w)
{
    int r = ops->answer(ops->owner, ops->buffer, w->used);
    *w = bg_writer_init(ops->buffer, sizeof ops->buffer);
    bg_files_answer_emit(&(struct bg_files_answer){.more = true}, w);
    return r;
}

/* *ret_status: how the call went; the result: whether the stream lives. */
static int list(struct file_ops *ops, const char *path, int *ret_status)
{
    DIR *folder = opendir(path);
    const struct dirent *entry;
    int r = 0;
    *ret_status = folder ? 0 : -errno;
    if (!folder)
        return 0;
    struct bg_writer w = bg_writer_init(ops->buffer, sizeof ops->buffer);
    bg_files_answer_emit(&(struct bg_files_answer){.more = true}, &w);
    while (r == 0 && (errno = 0, entry = readdir(folder))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (w.size - w.used < 5 + sizeof entry->d_name)
            r = send_more(ops, &w);
        bg_files_entry_emit(type_of(folder, entry), entry->d_name, &w);
    }
    *ret_status = -errno;
    (void)closedir(folder);
    return r < 0 || *ret_status < 0 ? r : send_more(ops, &w);
}

/* ---- names ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path) < 0 ? -errno : 0;
}

static int remove_path(const char *path, bool recursive)
{
    struct stat st;
    if (!recursive)
        return done(remove(path));
    if (lstat(path, &st) < 0)
        return -errno;
    if (!S_ISDIR(st.st_mode))
        return done(unlink(path));
    int r = nftw(path, remove_one, WALK_FDS, FTW_DEPTH | FTW_PHYS);
    return r == -1 ? -errno : r; /* nftw's own failure, or what remove_one gave */
}

static int make_folders(char *path, mode_t mode)
{
    for (char *at = path + 1; *path && (at = strchr(at, '/')); at++) {
        *at = '\0';
        int r = mkdir(path, mode) < 0 && errno != EEXIST ? -errno : 0;
        *at = '/';
        if (r < 0)
            return r;
    }
    struct stat st;
    if (mkdir(path, mode) == 0)
        return 0;
    if (errno != EEXIST)
        return -errno;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? 0 : -EEXIST;
}

static int copy_bytes(int from, int to)
{
    char buffer[32768];
    for (;;) {
        ssize_t n = copy_file_range(from, NULL, to, NULL, COPY_STEP, 0);
        if (n == 0)
            break; /* the end, or a file of /proc, which only read() shows */
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break; /* another file system, or one that cannot */
    }
    for (;;) {
        ssize_t n = read(from, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : 0;
        int r = bg_write_full(to, buffer, (size_t)n);
        if (r < 0)
            return r;
    }
}

static int copy_file(const char *from_path, const char *to_path)
{
    struct stat from_st, to_st;
    BG_AUTOCLOSE int from = open(from_path, O_RDONLY | O_CLOEXEC);
    if (from < 0 || fstat(from, &from_st) < 0)
        return -errno;
    if (S_ISDIR(from_st.st_mode))
        return -EISDIR;
    mode_t mode = from_st.st_mode & 0777;
    BG_AUTOCLOSE int to = open(to_path, O_WRONLY | O_CREAT | O_CLOEXEC, mode);
    if (to < 0 || fstat(to, &to_st) < 0)
        return -errno;
    if (from_st.st_dev == to_st.st_dev && from_st.st_ino == to_st.st_ino)
        return 0;
    if (S_ISREG(to_st.st_mode) && ftruncate(to, 0) < 0)
        return -errno;
    int r = copy_bytes(from, to);
    if (r == 0 && S_ISREG(to_st.st_mode) && fchmod(to, mode) < 0)
        r = -errno;
    return r;
}

static int make_temp(const char *folder, const char *prefix, const char *suffix, bool is_folder,
                     char path[BG_PATH_MAX])
{
    if (!folder[0])
        folder = "/tmp";
    for (size_t i = 0; i < TEMP_ATTEMPTS; i++) {
        uint8_t bytes[4];
        char hex[2 * sizeof bytes + 1];
        bg_random(bytes, sizeof bytes);
        bg_hex(bytes, sizeof bytes, hex);
        int n = snprintf(path, BG_PATH_MAX, "%s/%s%s%s", folder, prefix, hex, suffix);
        if (n < 0 || n >= BG_PATH_MAX)
            return -ENAMETOOLONG;
        int fd = is_folder ? mkdir(path, 0700)
                           : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd >= 0) {
            if (!is_folder)
                (void)close(fd); /* nothing was written */
            return 0;
        }
        if (errno != EEXIST)
            return -errno;
    }
    return -EEXIST;
}

static int put_readlink(const char *path, struct bg_writer *w)
{
    char target[BG_PATH_MAX];
    ssize_t n = readlink(path, target, sizeof target);
    if (n < 0)
        return -errno;
    bg_writer_blob32le(w, target, (size_t)n);
    return 0;
}

static int put_realpath(const char *path, struct bg_writer *w)
{
    char resolved[PATH_MAX];
    if (!realpath(path, resolved))
        return -errno;
    bg_writer_blob32le(w, resolved, strlen(resolved));
    return 0;
}

/* ---- the open file ---- */

static int open_file(struct file_ops *ops, const char *path, uint32_t flags, mode_t mode)
{
    bool reads = flags & BG_FILES_OPEN_READ;
    bool writes = flags & (BG_FILES_OPEN_WRITE | BG_FILES_OPEN_APPEND);
    int how = O_CLOEXEC | O_NOCTTY | (reads && writes ? O_RDWR : writes ? O_WRONLY : O_RDONLY);
    how |= flags & BG_FILES_OPEN_APPEND ? O_APPEND : 0;
    how |= flags & BG_FILES_OPEN_TRUNCATE ? O_TRUNC : 0;
    how |= flags & BG_FILES_OPEN_CREATE ? O_CREAT : 0;
    how |= flags & BG_FILES_OPEN_EXCLUSIVE ? O_CREAT | O_EXCL : 0;
    if (ops->fd >= 0)
        return -EMFILE; /* a stream has one */
    int fd = open(path, how, mode);
    if (fd < 0)
        return -errno;
    if ((flags & BG_FILES_OPEN_SET_MODE) && fchmod(fd, mode) < 0) {
        int r = -errno;
        (void)close(fd);
        return r;
    }
    ops->fd = fd;
    return 0;
}

static int put_read(struct file_ops *ops, size_t size, struct bg_writer *w)
{
    ssize_t n;
    if (size > BG_FILES_DATA_MAX)
        size = BG_FILES_DATA_MAX;
    bg_writer_u32le(w, 0); /* the size, when it is known */
    uint8_t *data = w->start + w->used;
    do
        n = read(ops->fd, data, size);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    struct bg_writer head = bg_writer_init(data - 4, 4);
    bg_writer_u32le(&head, (uint32_t)n);
    (void)bg_writer_room(w, (size_t)n); /* it fits: BG_FILES_DATA_MAX */
    return 0;
}

static int put_write(struct file_ops *ops, struct call *c, struct bg_writer *w)
{
    size_t size;
    ssize_t n;
    const uint8_t *bytes = bg_reader_blob32le(&c->in, BG_FILES_DATA_MAX, &size);
    if (!bg_reader_end(&c->in))
        return -EPROTO;
    do
        n = write(ops->fd, bytes, size);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    bg_writer_u32le(w, (uint32_t)n);
    return 0;
}

static int lock(int fd, uint8_t how)
{
    static const int operations[] = {LOCK_UN, LOCK_SH, LOCK_EX};
    int r;
    do
        r = flock(fd, operations[how]);
    while (r < 0 && errno == EINTR);
    return done(r);
}

/* ---- one call ---- */

/* What was read for a call must be all, and well-formed: else nothing is done. */
#define WHOLE(c)                                                                                   \
    do {                                                                                           \
        if (!bg_reader_end(&(c)->in))                                                              \
            return -EPROTO;                                                                        \
    } while (0)

/* Ops on the open file. Errors: -EPROTO malformed; else as the call went. */
static int file_call(struct file_ops *ops, enum bg_files_op op, struct call *c, struct bg_writer *w)
{
    if (ops->fd < 0)
        return -EBADF;
    if (op == BG_FILES_READ) {
        uint32_t size = bg_reader_u32le(&c->in);
        WHOLE(c);
        return put_read(ops, size, w);
    }
    if (op == BG_FILES_WRITE)
        return put_write(ops, c, w);
    if (op == BG_FILES_SEEK) {
        static const int whences[] = {SEEK_SET, SEEK_CUR, SEEK_END};
        int64_t offset = (int64_t)bg_reader_u64le(&c->in);
        uint8_t whence = bg_reader_u8(&c->in);
        WHOLE(c);
        off_t at = whence > 2 ? (errno = EINVAL, -1) : lseek(ops->fd, offset, whences[whence]);
        bg_writer_u64le(w, (uint64_t)at);
        return at < 0 ? -errno : 0;
    }
    if (op == BG_FILES_FSTAT) {
        WHOLE(c);
        return put_attributes(ops->fd, "", AT_EMPTY_PATH, w);
    }
    if (op == BG_FILES_RESIZE) {
        uint64_t size = bg_reader_u64le(&c->in);
        WHOLE(c);
        return size > INT64_MAX ? -EFBIG : done(ftruncate(ops->fd, (off_t)size));
    }
    if (op == BG_FILES_SYNC) {
        uint8_t data_only = bg_reader_u8(&c->in);
        WHOLE(c);
        return done(data_only ? fdatasync(ops->fd) : fsync(ops->fd));
    }
    if (op == BG_FILES_LOCK) {
        uint8_t how = bg_reader_u8(&c->in);
        WHOLE(c);
        return how > 2 ? -EINVAL : lock(ops->fd, how);
    }
    if (op == BG_FILES_SET_TIME) {
        struct timespec times[2] = {read_time(c), read_time(c)};
        WHOLE(c);
        return done(futimens(ops->fd, times));
    }
    return -EPROTO;
}

/* Ops on two names. */
static int names_call(enum bg_files_op op, struct call *c)
{
    read_paths(c);
    WHOLE(c);
    if (op == BG_FILES_RENAME)
        return done(rename(c->path, c->other));
    if (op == BG_FILES_COPY)
        return copy_file(c->path, c->other);
    if (op == BG_FILES_LINK)
        return done(link(c->path, c->other));
    return done(symlink(c->path, c->other));
}

/* The rest but LIST. */
static int path_call(struct file_ops *ops, enum bg_files_op op, struct call *c, struct bg_writer *w)
{
    uint8_t flag = 0;
    uint32_t numbers[2] = {0};
    uint64_t size = 0;
    struct timespec times[2] = {0};
    if (op == BG_FILES_STAT || op == BG_FILES_REMOVE || op == BG_FILES_MKDIR || op == BG_FILES_TEMP)
        flag = bg_reader_u8(&c->in);
    if (op == BG_FILES_MKDIR || op == BG_FILES_CHMOD || op == BG_FILES_CHOWN ||
        op == BG_FILES_OPEN || op == BG_FILES_UMASK)
        numbers[0] = bg_reader_u32le(&c->in);
    if (op == BG_FILES_CHOWN || op == BG_FILES_OPEN)
        numbers[1] = bg_reader_u32le(&c->in);
    if (op == BG_FILES_TRUNCATE)
        size = bg_reader_u64le(&c->in);
    if (op == BG_FILES_UTIME) {
        times[0] = read_time(c);
        times[1] = read_time(c);
    }
    if (op != BG_FILES_UMASK)
        read_path(c);
    if (op == BG_FILES_TEMP) {
        char suffix[BG_NAME_MAX + 1], made[BG_PATH_MAX];
        bg_reader_text32le(&c->in, c->other, sizeof c->other);
        bg_reader_text32le(&c->in, suffix, sizeof suffix);
        WHOLE(c);
        int r = make_temp(c->path, c->other, suffix, flag, made);
        if (r == 0)
            bg_writer_blob32le(w, made, strlen(made));
        return r;
    }
    WHOLE(c);
    if (op == BG_FILES_STAT)
        return put_attributes(AT_FDCWD, c->path, flag ? 0 : AT_SYMLINK_NOFOLLOW, w);
    if (op == BG_FILES_REMOVE)
        return remove_path(c->path, flag);
    if (op == BG_FILES_MKDIR)
        return flag ? make_folders(c->path, numbers[0]) : done(mkdir(c->path, numbers[0]));
    if (op == BG_FILES_READLINK)
        return put_readlink(c->path, w);
    if (op == BG_FILES_REALPATH)
        return put_realpath(c->path, w);
    if (op == BG_FILES_CHMOD)
        return done(chmod(c->path, numbers[0]));
    if (op == BG_FILES_CHOWN)
        return done(chown(c->path, numbers[0], numbers[1]));
    if (op == BG_FILES_TRUNCATE)
        return size > INT64_MAX ? -EFBIG : done(truncate(c->path, (off_t)size));
    if (op == BG_FILES_UTIME)
        return done(utimensat(AT_FDCWD, c->path, times, 0));
    if (op == BG_FILES_OPEN)
        return open_file(ops, c->path, numbers[0], numbers[1]);
    (void)umask(numbers[0] & 0777);
    return 0;
}

int file_ops_call(struct file_ops *ops, const uint8_t *call, size_t size, struct bg_err *err)
{
    struct call c = {.in = bg_reader_init(call, size)};
    uint8_t op = bg_reader_u8(&c.in);
    struct bg_writer w = bg_writer_init(ops->buffer, sizeof ops->buffer);
    int status = -EPROTO, r = 0;
    bg_files_answer_emit(&(struct bg_files_answer){0}, &w);
    if (op == BG_FILES_LIST) {
        read_path(&c);
        if (bg_reader_end(&c.in))
            r = list(ops, c.path, &status);
        w = bg_writer_init(ops->buffer, sizeof ops->buffer);
        bg_files_answer_emit(&(struct bg_files_answer){0}, &w);
    } else if (op >= BG_FILES_RENAME && op <= BG_FILES_SYMLINK) {
        status = names_call(op, &c);
    } else if (op >= BG_FILES_STAT && op <= BG_FILES_OPEN) {
        status = path_call(ops, op, &c, &w);
    } else if (op <= BG_FILES_SET_TIME && op > BG_FILES_OPEN) {
        status = file_call(ops, op, &c, &w);
    }
    if (r < 0)
        return bg_err_errno(err, r, "files stream");
    if (status == -EPROTO || !bg_writer_ok(&w))
        return bg_err_set(err, -EPROTO, "files call %u of %zu bytes", op, size);
    if (status < 0) {
        w = bg_writer_init(ops->buffer, sizeof ops->buffer);
        bg_files_answer_emit(&(struct bg_files_answer){.status = status}, &w);
    }
    r = ops->answer(ops->owner, ops->buffer, w.used);
    return r < 0 ? bg_err_errno(err, r, "files stream") : 0;
}
