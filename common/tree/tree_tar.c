#include "common/tree/tree_tar.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <archive.h>
#include <archive_entry.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"

#define BLOCK_SIZE (64 * 1024)

/* "disk full on 'x'" says more than the errno's own words. */
static int fail_at(struct bg_err *err, int code, const char *path)
{
    char quoted[BG_ERR_TEXT_SIZE / 2];
    bg_quote(path, quoted, sizeof quoted);
    if (code == -ENOSPC)
        return bg_err_set(err, code, "disk full on %s", quoted);
    if (code == -EDQUOT)
        return bg_err_set(err, code, "disk quota used up on %s", quoted);
    return bg_err_errno(err, code, "%s", quoted);
}

/* ---- packing ---- */

struct packer {
    const struct tree_tar_pack_opts *opts;
    struct archive *out;
    struct archive_entry_linkresolver *links; /* finds later names of one inode */
    size_t link_count;                        /* entries that links has seen */
    int stream_error;                         /* what opts->write returned, kept for the caller */
    bool abandoned;                           /* nothing more is given to opts->write */
    struct tree_tar_counts counts;
    char *buffer;             /* BLOCK_SIZE, for file contents */
    char where[BG_PATH_MAX];  /* name in the archive of the entry at hand */
    char source[BG_PATH_MAX]; /* the same on disk, for messages */
    struct bg_err *err;
};

/* libarchive leaks its buffer once a write has failed, so to it no write fails: what comes after an
 * error is dropped here, and the packing ends by itself. */
static la_ssize_t stream_write(struct archive *a, void *owner, const void *bytes, size_t size)
{
    (void)a;
    struct packer *p = owner;
    if (!p->abandoned) {
        int r = p->opts->write(p->opts->owner, bytes, size);
        if (r < 0) {
            p->stream_error = r;
            p->abandoned = true;
        }
    }
    return (la_ssize_t)size;
}

/* What the stream or the writer has against going on; 0: nothing. */
static int check_writer(struct packer *p, bool written)
{
    if (p->stream_error < 0)
        return bg_err_set(p->err, p->stream_error, "stream");
    if (written)
        return 0;
    int code = archive_errno(p->out);
    const char *text = archive_error_string(p->out);
    int r = bg_err_set(p->err, code > 0 ? -code : -EIO, "%s", text ? text : "cannot be packed");
    char quoted[BG_ERR_TEXT_SIZE / 2];
    (void)bg_err_prefix(p->err, "%s", bg_quote(p->source, quoted, sizeof quoted));
    return r;
}

static void skip(struct packer *p, const char *why)
{
    p->counts.skipped++;
    if (p->opts->on_skip)
        p->opts->on_skip(p->opts->owner, p->source, why);
}

/* Exactly size bytes of fd, whatever the file does meanwhile: tar has its size in the header. */
static int pack_contents(struct packer *p, int fd, uint64_t size)
{
    while (size > 0) {
        size_t want = size < BLOCK_SIZE ? (size_t)size : BLOCK_SIZE;
        ssize_t n = read(fd, p->buffer, want);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_at(p->err, -errno, p->source);
        if (n == 0) { /* it shrank */
            memset(p->buffer, 0, want);
            n = (ssize_t)want;
        }
        int r = check_writer(p, archive_write_data(p->out, p->buffer, (size_t)n) == n);
        if (r < 0)
            return r;
        size -= (uint64_t)n;
        p->counts.bytes += (uint64_t)n;
    }
    return 0;
}

static void entry_from_stat(struct archive_entry *entry, const char *name, const struct stat *st)
{
    archive_entry_copy_pathname(entry, name);
    archive_entry_set_filetype(entry, st->st_mode & S_IFMT);
    archive_entry_set_perm(entry, st->st_mode & (S_ISDIR(st->st_mode) ? 01777 : 0777));
    archive_entry_set_mtime(entry, st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
    archive_entry_set_size(entry, S_ISREG(st->st_mode) ? st->st_size : 0);
    archive_entry_set_dev(entry, st->st_dev);
    archive_entry_set_ino64(entry, (la_int64_t)st->st_ino);
    archive_entry_set_nlink(entry, (unsigned)st->st_nlink);
}

/* Turns the entry into a hard link if an earlier one was the same file. Past the maximum further
 * names of a file are packed as files: the tree grows, nothing is lost. */
static void find_link(struct packer *p, struct archive_entry **entry)
{
    if (archive_entry_nlink(*entry) < 2 || p->link_count >= BG_TREE_LINKS_MAX)
        return;
    p->link_count++;
    struct archive_entry *spare = NULL;
    archive_entry_linkify(p->links, entry, &spare);
    /* Our strategy never holds entries back. */
    archive_entry_free(spare);
}

static int pack_entry(struct packer *p, int parent_fd, const char *name, unsigned depth);

static int pack_folder(struct packer *p, int parent_fd, const char *name, unsigned depth)
{
    if (depth >= BG_TREE_DEPTH_MAX)
        return fail_at(p->err, -ENAMETOOLONG, p->source);
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return fail_at(p->err, -errno, p->source);
    DIR *folder = fdopendir(fd);
    if (!folder) {
        int code = -errno;
        (void)close(fd); /* only read from */
        return fail_at(p->err, code, p->source);
    }
    size_t where_size = strlen(p->where), source_size = strlen(p->source);
    int r = 0;
    while (r == 0) {
        errno = 0;
        const struct dirent *d = readdir(folder);
        if (!d) {
            if (errno != 0)
                r = fail_at(p->err, -errno, p->source);
            break;
        }
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        int a = snprintf(p->where + where_size, sizeof p->where - where_size, "/%s", d->d_name);
        int b = snprintf(p->source + source_size, sizeof p->source - source_size, "/%s", d->d_name);
        if ((size_t)a >= sizeof p->where - where_size ||
            (size_t)b >= sizeof p->source - source_size)
            r = fail_at(p->err, -ENAMETOOLONG, p->source);
        else
            r = pack_entry(p, fd, d->d_name, depth + 1);
        p->where[where_size] = '\0';
        p->source[source_size] = '\0';
    }
    (void)closedir(folder); /* only read from */
    return r;
}

static int pack_header(struct packer *p, struct archive_entry *entry)
{
    /* A warning (ARCHIVE_WARN) is about attributes that we do not set. */
    p->counts.entries++;
    return check_writer(p, archive_write_header(p->out, entry) >= ARCHIVE_WARN);
}

static int pack_regular(struct packer *p, int parent_fd, const char *name,
                        struct archive_entry **entry)
{
    /* O_NONBLOCK: should it have become a FIFO since, the open must not hang. */
    BG_AUTOCLOSE int fd =
        openat(parent_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return fail_at(p->err, -errno, p->source);
    if (!S_ISREG(st.st_mode)) {
        skip(p, "changed its type meanwhile");
        return 0;
    }
    entry_from_stat(*entry, p->where, &st);
    find_link(p, entry);
    int r = pack_header(p, *entry);
    if (r < 0 || archive_entry_hardlink(*entry))
        return r;
    return pack_contents(p, fd, (uint64_t)st.st_size);
}

static int pack_symlink(struct packer *p, int parent_fd, const char *name,
                        struct archive_entry *entry)
{
    char target[BG_PATH_MAX];
    ssize_t n = readlinkat(parent_fd, name, target, sizeof target - 1);
    if (n < 0)
        return fail_at(p->err, -errno, p->source);
    target[n] = '\0';
    archive_entry_copy_symlink(entry, target);
    return pack_header(p, entry);
}

static int pack_entry(struct packer *p, int parent_fd, const char *name, unsigned depth)
{
    struct stat st;
    if (fstatat(parent_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno == ENOENT && depth > 0)
            return 0; /* removed since readdir */
        return fail_at(p->err, -errno, p->source);
    }
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !S_ISLNK(st.st_mode)) {
        if (depth == 0)
            return bg_err_set(p->err, -EINVAL, "%s: not a file, folder or symlink", p->source);
        skip(p, S_ISSOCK(st.st_mode)   ? "is a socket"
                : S_ISFIFO(st.st_mode) ? "is a FIFO"
                                       : "is a device");
        return 0;
    }
    struct archive_entry *entry = archive_entry_new();
    if (!entry)
        return bg_err_errno(p->err, -ENOMEM, "%s", p->source);
    entry_from_stat(entry, p->where, &st);
    int r;
    if (S_ISREG(st.st_mode))
        r = pack_regular(p, parent_fd, name, &entry);
    else if (S_ISLNK(st.st_mode))
        r = pack_symlink(p, parent_fd, name, entry);
    else
        r = pack_header(p, entry);
    archive_entry_free(entry);
    if (r == 0 && S_ISDIR(st.st_mode))
        r = pack_folder(p, parent_fd, name, depth);
    return r;
}

int tree_tar_pack(const struct tree_tar_pack_opts *opts, struct tree_tar_counts *ret_counts,
                  struct bg_err *err)
{
    if (opts->root[0] == '\0' || strchr(opts->root, '/') || strcmp(opts->root, "..") == 0)
        return bg_err_set(err, -EINVAL, "'%s' cannot name the top of a tree", opts->root);
    BG_AUTOFREE struct packer *p = calloc(1, sizeof *p);
    BG_AUTOFREE char *buffer = malloc(BLOCK_SIZE);
    if (!p || !buffer)
        return bg_err_errno(err, -ENOMEM, "%s", opts->path);
    p->opts = opts;
    p->buffer = buffer;
    p->err = err;
    if ((size_t)snprintf(p->source, sizeof p->source, "%s", opts->path) >= sizeof p->source ||
        (size_t)snprintf(p->where, sizeof p->where, "%s", opts->root) >= sizeof p->where)
        return bg_err_errno(err, -ENAMETOOLONG, "%.64s...", opts->path);
    p->out = archive_write_new();
    p->links = archive_entry_linkresolver_new();
    int r = 0;
    if (!p->out || !p->links)
        r = bg_err_errno(err, -ENOMEM, "%s", opts->path);
    if (r == 0) {
        archive_entry_linkresolver_set_strategy(p->links, ARCHIVE_FORMAT_TAR);
        if (archive_write_set_format_pax(p->out) != ARCHIVE_OK ||
            archive_write_set_bytes_per_block(p->out, BLOCK_SIZE) != ARCHIVE_OK ||
            archive_write_set_bytes_in_last_block(p->out, 1) != ARCHIVE_OK ||
            archive_write_open2(p->out, p, NULL, stream_write, NULL, NULL) != ARCHIVE_OK)
            r = check_writer(p, false);
    }
    if (r == 0)
        r = pack_entry(p, opts->dir_fd, opts->path, 0);
    if (r == 0)
        r = check_writer(p, archive_write_close(p->out) == ARCHIVE_OK);
    p->abandoned = true; /* freeing it ends the archive, which after an error is not to be seen */
    archive_entry_linkresolver_free(p->links);
    if (p->out)
        (void)archive_write_free(p->out); /* everything was flushed by the close */
    if (r == 0 && ret_counts)
        *ret_counts = p->counts;
    return r;
}

/* ---- unpacking ---- */

/* A folder that the stream made: its permissions and times are set when the stream leaves it, so
 * that it can be filled even if it is to be read-only. */
struct made_folder {
    char *rel; /* below base_fd, heap */
    mode_t mode;
    struct timespec mtime;
};

struct unpacker {
    const struct tree_tar_unpack_opts *opts;
    struct archive *in;
    int base_fd;                  /* everything is made below it */
    char top[BG_NAME_MAX + 1];    /* what replaces the stream's root; "" with root NULL or "." */
    char shown[BG_PATH_MAX];      /* base's path, for messages */
    int parent_fd;                /* folder of the last entry, -1: none */
    char parent_rel[BG_PATH_MAX]; /* its name below base_fd */
    struct made_folder *made;     /* the folders the stream is in now, outermost first */
    size_t made_count, made_room;
    int stream_error;
    struct tree_tar_counts counts;
    struct bg_err *err;
};

static la_ssize_t stream_read(struct archive *a, void *owner, const void **ret_bytes)
{
    struct unpacker *u = owner;
    ssize_t n = u->opts->read(u->opts->owner, ret_bytes);
    if (n < 0) {
        u->stream_error = (int)n;
        archive_set_error(a, (int)-n, "stream");
        return -1;
    }
    return n;
}

static int fail_rel(struct unpacker *u, int code, const char *rel)
{
    char path[2 * BG_PATH_MAX];
    (void)snprintf(path, sizeof path, "%s%s%s", u->shown, rel[0] ? "/" : "", rel);
    return fail_at(u->err, code, path);
}

static int refuse(struct unpacker *u, int code, const char *name, const char *why)
{
    char quoted[BG_ERR_TEXT_SIZE / 2];
    return bg_err_set(u->err, code, "%s %s", bg_quote(name, quoted, sizeof quoted), why);
}

static int fail_reader(struct unpacker *u)
{
    if (u->stream_error < 0)
        return bg_err_set(u->err, u->stream_error, "stream");
    char quoted[BG_ERR_TEXT_SIZE / 2];
    const char *text = archive_error_string(u->in);
    if (archive_errno(u->in) == ENOMEM)
        return bg_err_errno(u->err, -ENOMEM, "tar stream");
    return bg_err_set(u->err, -EPROTO, "tar stream damaged: %s",
                      bg_quote(text ? text : "cannot be read", quoted, sizeof quoted));
}

/* Turns a name of the stream into one below base_fd: no empty or "." components, the root replaced.
 * out: BG_PATH_MAX bytes; "" is base_fd itself. */
static int place(struct unpacker *u, const char *name, char *out)
{
    if (!name)
        return bg_err_set(u->err, -EPROTO, "tar stream: an entry without a name");
    if (name[0] == '/')
        return refuse(u, -EPROTO, name, "is an absolute name; not taken");
    size_t used = 0;
    bool first = true;
    const char *root = u->opts->root;
    if (root && strcmp(root, ".") == 0)
        root = NULL; /* the "." is dropped as any other */
    out[0] = '\0';
    for (const char *at = name; *at;) {
        size_t size = strcspn(at, "/");
        const char *part = at;
        at += size + (at[size] == '/');
        if (size == 0 || (size == 1 && part[0] == '.'))
            continue;
        if (size == 2 && part[0] == '.' && part[1] == '.')
            return refuse(u, -EPROTO, name, "contains '..'; not taken");
        if (first && root) {
            if (size != strlen(root) || memcmp(part, root, size) != 0)
                return refuse(u, -EPROTO, name, "is not below the stream's top entry");
            part = u->top;
            size = strlen(u->top);
        }
        first = false;
        if (size > BG_NAME_MAX || used + size + 2 > BG_PATH_MAX)
            return refuse(u, -ENAMETOOLONG, name, "is too long a name");
        if (used > 0)
            out[used++] = '/';
        memcpy(out + used, part, size);
        used += size;
        out[used] = '\0';
    }
    if (first && root)
        return refuse(u, -EPROTO, name, "is not below the stream's top entry");
    return 0;
}

/* A folder below base_fd, no symlink on the way. */
static int open_folder(const struct unpacker *u, const char *rel)
{
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    long fd;
    do {
        fd = syscall(SYS_openat2, u->base_fd, rel[0] ? rel : ".", &how, sizeof how);
    } while (fd < 0 && (errno == EINTR || errno == EAGAIN));
    return fd < 0 ? -errno : (int)fd;
}

/* Makes the folders of rel that are missing: a stream need not name the parents of its entries. */
static int make_parents(struct unpacker *u, const char *rel)
{
    char part[BG_PATH_MAX];
    (void)snprintf(part, sizeof part, "%s", rel);
    BG_AUTOCLOSE int fd = open_folder(u, "");
    if (fd < 0)
        return fd;
    for (char *at = part; at;) {
        char *slash = strchr(at, '/');
        if (slash)
            *slash = '\0';
        if (mkdirat(fd, at, 0777) < 0 && errno != EEXIST)
            return -errno;
        int next = openat(fd, at, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (next < 0)
            return -errno;
        (void)close(fd); /* a folder */
        fd = next;
        at = slash ? slash + 1 : NULL;
    }
    return 0;
}

/* Splits rel and leaves its folder open in u->parent_fd. *ret_leaf points into rel. */
static int enter_parent(struct unpacker *u, char *rel, const char **ret_leaf)
{
    char *slash = strrchr(rel, '/');
    char parent[BG_PATH_MAX] = "";
    if (slash)
        (void)snprintf(parent, sizeof parent, "%.*s", (int)(slash - rel), rel);
    *ret_leaf = slash ? slash + 1 : rel;
    if (u->parent_fd >= 0 && strcmp(parent, u->parent_rel) == 0)
        return 0;
    int fd = open_folder(u, parent);
    if (fd == -ENOENT) {
        int r = make_parents(u, parent);
        fd = r < 0 ? r : open_folder(u, parent);
    }
    if (fd == -ELOOP)
        return refuse(u, fd, rel, "is below a symbolic link; links are not followed");
    if (fd < 0)
        return fail_rel(u, fd, parent);
    if (u->parent_fd >= 0)
        (void)close(u->parent_fd); /* a folder */
    u->parent_fd = fd;
    (void)snprintf(u->parent_rel, sizeof u->parent_rel, "%s", parent);
    return 0;
}

static int finish_folder(struct unpacker *u)
{
    struct made_folder *made = &u->made[--u->made_count];
    BG_AUTOFREE char *rel = made->rel;
    BG_AUTOCLOSE int fd = open_folder(u, rel);
    if (fd < 0)
        return fail_rel(u, fd, rel);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, made->mtime};
    if (futimens(fd, times) < 0 || fchmod(fd, made->mode) < 0)
        return fail_rel(u, -errno, rel);
    return 0;
}

/* Finishes the folders that rel is not in. */
static int leave_folders(struct unpacker *u, const char *rel)
{
    while (u->made_count > 0) {
        const char *open = u->made[u->made_count - 1].rel;
        size_t size = strlen(open);
        if (strncmp(rel, open, size) == 0 && (rel[size] == '/' || rel[size] == '\0'))
            break;
        int r = finish_folder(u);
        if (r < 0)
            return r;
    }
    return 0;
}

static struct timespec entry_mtime(struct archive_entry *entry)
{
    if (!archive_entry_mtime_is_set(entry))
        return (struct timespec){.tv_nsec = UTIME_OMIT};
    long ns = archive_entry_mtime_nsec(entry);
    return (struct timespec){.tv_sec = archive_entry_mtime(entry),
                             .tv_nsec = ns >= 0 && ns < 1000000000 ? ns : 0};
}

static int unpack_folder(struct unpacker *u, struct archive_entry *entry, const char *rel,
                         const char *leaf)
{
    if (mkdirat(u->parent_fd, leaf, 0700) < 0) {
        struct stat st;
        int code = -errno;
        if (code != -EEXIST || fstatat(u->parent_fd, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return fail_rel(u, code, rel);
        if (!S_ISDIR(st.st_mode))
            return refuse(u, -ENOTDIR, rel, "is there already and is not a folder");
        return 0;
    }
    if (u->made_count == u->made_room) {
        size_t room = u->made_room ? 2 * u->made_room : 16;
        struct made_folder *grown = reallocarray(u->made, room, sizeof *grown);
        if (!grown)
            return fail_rel(u, -ENOMEM, rel);
        u->made = grown;
        u->made_room = room;
    }
    /* One entry a path component at most: leave_folders() has dropped what rel is not in. */
    char *copy = strdup(rel);
    if (!copy)
        return fail_rel(u, -ENOMEM, rel);
    u->made[u->made_count++] = (struct made_folder){
        .rel = copy, .mode = archive_entry_perm(entry) & 01777, .mtime = entry_mtime(entry)};
    return 0;
}

/* A name for what will replace leaf; hidden, random. */
static void temp_name(char out[48])
{
    uint8_t tag[12];
    bg_random(tag, sizeof tag);
    char hex[2 * sizeof tag + 1];
    bg_hex(tag, sizeof tag, hex);
    (void)snprintf(out, 48, ".bellglass.%s.tmp", hex);
}

static int write_contents(struct unpacker *u, int fd, const char *rel, int64_t want)
{
    int64_t at = 0;
    for (;;) {
        const void *bytes;
        size_t size;
        la_int64_t offset;
        int r = archive_read_data_block(u->in, &bytes, &size, &offset);
        if (r == ARCHIVE_EOF)
            break;
        if (r < ARCHIVE_WARN)
            return fail_reader(u);
        if (offset != at)
            return refuse(u, -EPROTO, rel, "is a sparse file; not taken");
        int w = bg_write_full(fd, bytes, size);
        if (w < 0)
            return fail_rel(u, w, rel);
        at += (int64_t)size;
        u->counts.bytes += size;
    }
    if (at != want)
        return refuse(u, -EPROTO, rel, "is a sparse file; not taken");
    return 0;
}

static bool is_folder(int parent_fd, const char *leaf)
{
    struct stat st;
    return fstatat(parent_fd, leaf, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

static int unpack_regular(struct unpacker *u, struct archive_entry *entry, const char *rel,
                          const char *leaf)
{
    char temp[48] = "";
    const char *name = leaf;
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    BG_AUTOCLOSE int fd = openat(u->parent_fd, leaf, flags, 0600);
    if (fd < 0 && errno == EEXIST) {
        if (is_folder(u->parent_fd, leaf))
            return fail_rel(u, -EISDIR, rel);
        temp_name(temp);
        name = temp;
        fd = openat(u->parent_fd, temp, flags, 0600);
    }
    if (fd < 0)
        return fail_rel(u, -errno, rel);
    int r = write_contents(u, fd, rel, archive_entry_size(entry));
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, entry_mtime(entry)};
    if (r == 0 && (fchmod(fd, archive_entry_perm(entry) & 0777) < 0 || futimens(fd, times) < 0))
        r = fail_rel(u, -errno, rel);
    /* Some file systems say only now that there was no room. */
    if (close(bg_take_fd(&fd)) < 0 && r == 0)
        r = fail_rel(u, -errno, rel);
    if (r == 0 && name == temp && renameat(u->parent_fd, temp, u->parent_fd, leaf) < 0)
        r = fail_rel(u, -errno, rel);
    if (r < 0)
        (void)unlinkat(u->parent_fd, name, 0); /* ours and unfinished; best effort */
    return r;
}

static int unpack_symlink(struct unpacker *u, struct archive_entry *entry, const char *rel,
                          const char *leaf)
{
    const char *target = archive_entry_symlink(entry);
    if (!target || target[0] == '\0')
        return refuse(u, -EPROTO, rel, "is a symbolic link to nothing");
    char temp[48];
    const char *name = leaf;
    int r = symlinkat(target, u->parent_fd, leaf);
    if (r < 0 && errno == EEXIST) {
        if (is_folder(u->parent_fd, leaf))
            return fail_rel(u, -EISDIR, rel);
        temp_name(temp);
        name = temp;
        r = symlinkat(target, u->parent_fd, temp);
    }
    if (r < 0)
        return fail_rel(u, -errno, rel);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, entry_mtime(entry)};
    if (utimensat(u->parent_fd, name, times, AT_SYMLINK_NOFOLLOW) < 0 ||
        (name == temp && renameat(u->parent_fd, temp, u->parent_fd, leaf) < 0)) {
        r = fail_rel(u, -errno, rel);
        (void)unlinkat(u->parent_fd, name, 0); /* ours and unfinished; best effort */
        return r;
    }
    return 0;
}

static int unpack_hardlink(struct unpacker *u, struct archive_entry *entry, const char *rel,
                           const char *leaf)
{
    char target[BG_PATH_MAX] = "";
    int r = place(u, archive_entry_hardlink(entry), target);
    if (r < 0)
        return r;
    char *slash = strrchr(target, '/');
    const char *target_leaf = slash ? slash + 1 : target;
    if (slash)
        *slash = '\0';
    BG_AUTOCLOSE int folder = open_folder(u, slash ? target : "");
    struct stat from, to;
    if (folder < 0)
        return fail_rel(u, folder, target);
    if (fstatat(folder, target_leaf, &from, AT_SYMLINK_NOFOLLOW) < 0)
        return fail_rel(u, -errno, rel);
    if (fstatat(u->parent_fd, leaf, &to, AT_SYMLINK_NOFOLLOW) == 0) {
        if (S_ISDIR(to.st_mode))
            return fail_rel(u, -EISDIR, rel);
        if (from.st_dev == to.st_dev && from.st_ino == to.st_ino)
            return 0;
        if (unlinkat(u->parent_fd, leaf, 0) < 0)
            return fail_rel(u, -errno, rel);
    }
    if (linkat(folder, target_leaf, u->parent_fd, leaf, 0) < 0)
        return fail_rel(u, -errno, rel);
    return 0;
}

static int unpack_entry(struct unpacker *u, struct archive_entry *entry)
{
    char rel[BG_PATH_MAX] = "";
    int r = place(u, archive_entry_pathname(entry), rel);
    if (r < 0)
        return r;
    r = leave_folders(u, rel);
    if (r < 0)
        return r;
    mode_t type = archive_entry_filetype(entry);
    bool link = archive_entry_hardlink(entry) != NULL;
    if (rel[0] == '\0') {
        if (link || type != S_IFDIR)
            return bg_err_set(u->err, -EPROTO, "tar stream: '.' is not a folder");
        return 0;
    }
    if (!link && type != S_IFREG && type != S_IFDIR && type != S_IFLNK) {
        u->counts.skipped++;
        if (u->opts->on_skip)
            u->opts->on_skip(u->opts->owner, rel, "is a device, FIFO or socket");
        return 0;
    }
    const char *leaf;
    r = enter_parent(u, rel, &leaf);
    if (r < 0)
        return r;
    u->counts.entries++;
    if (link)
        return unpack_hardlink(u, entry, rel, leaf);
    if (type == S_IFDIR)
        return unpack_folder(u, entry, rel, leaf);
    if (type == S_IFLNK)
        return unpack_symlink(u, entry, rel, leaf);
    return unpack_regular(u, entry, rel, leaf);
}

static int unpack_entries(struct unpacker *u)
{
    for (;;) {
        struct archive_entry *entry; /* the reader's own */
        int a = archive_read_next_header(u->in, &entry);
        if (a == ARCHIVE_EOF)
            break;
        if (a < ARCHIVE_WARN)
            return fail_reader(u);
        int r = unpack_entry(u, entry);
        if (r < 0)
            return r;
    }
    int r = leave_folders(u, "");
    /* Writers pad the end; the caller's stream is to be at its own end when we return. */
    const void *bytes;
    ssize_t n = 1;
    while (r == 0 && n > 0) {
        n = u->opts->read(u->opts->owner, &bytes);
        if (n < 0)
            r = bg_err_set(u->err, (int)n, "stream");
    }
    return r;
}

static int open_destination(struct unpacker *u)
{
    const struct tree_tar_unpack_opts *o = u->opts;
    if ((size_t)snprintf(u->shown, sizeof u->shown, "%s", o->path) >= sizeof u->shown ||
        o->path[0] == '\0')
        return bg_err_errno(u->err, o->path[0] ? -ENAMETOOLONG : -EINVAL, "'%.64s'", o->path);
    if (!o->root && mkdirat(o->dir_fd, o->path, 0777) < 0 && errno != EEXIST)
        return fail_rel(u, -errno, "");
    u->base_fd = openat(o->dir_fd, o->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (u->base_fd >= 0) {
        /* It lands in the folder, under its own name. */
        (void)snprintf(u->top, sizeof u->top, "%s", o->root ? o->root : "");
        return 0;
    }
    if (!o->root || (errno != ENOENT && errno != ENOTDIR))
        return fail_rel(u, -errno, "");
    /* It becomes path. */
    char *slash = strrchr(u->shown, '/');
    const char *name = slash ? slash + 1 : u->shown;
    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return refuse(u, -ENOENT, o->path, "is not a folder");
    if (strcmp(o->root, ".") == 0)
        return refuse(u, -ENOTDIR, o->path, "is not a folder");
    if ((size_t)snprintf(u->top, sizeof u->top, "%s", name) >= sizeof u->top)
        return fail_rel(u, -ENAMETOOLONG, "");
    if (slash == u->shown)
        (void)snprintf(u->shown, sizeof u->shown, "/");
    else if (slash)
        *slash = '\0';
    else
        (void)snprintf(u->shown, sizeof u->shown, ".");
    u->base_fd = openat(o->dir_fd, u->shown, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (u->base_fd < 0)
        return fail_rel(u, -errno, "");
    return 0;
}

int tree_tar_unpack(const struct tree_tar_unpack_opts *opts, struct tree_tar_counts *ret_counts,
                    struct bg_err *err)
{
    if (opts->root && (opts->root[0] == '\0' || strchr(opts->root, '/') ||
                       strcmp(opts->root, "..") == 0 || strlen(opts->root) > BG_NAME_MAX))
        return bg_err_set(err, -EINVAL, "'%.64s' cannot name the top of a tree", opts->root);
    BG_AUTOFREE struct unpacker *u = calloc(1, sizeof *u);
    if (!u)
        return bg_err_errno(err, -ENOMEM, "%s", opts->path);
    u->opts = opts;
    u->err = err;
    u->base_fd = u->parent_fd = -1;
    int r = open_destination(u);
    if (r == 0) {
        u->in = archive_read_new();
        if (!u->in)
            r = bg_err_errno(err, -ENOMEM, "%s", opts->path);
    }
    /* tar only, no compression: the less code sees hostile bytes, the better. */
    if (r == 0 && (archive_read_support_format_tar(u->in) != ARCHIVE_OK ||
                   archive_read_open(u->in, u, NULL, stream_read, NULL) != ARCHIVE_OK))
        r = fail_reader(u);
    if (r == 0)
        r = unpack_entries(u);
    while (u->made_count > 0)
        free(u->made[--u->made_count].rel);
    free(u->made);
    if (u->in)
        (void)archive_read_free(u->in); /* nothing is written there */
    if (u->parent_fd >= 0)
        (void)close(u->parent_fd); /* folders */
    if (u->base_fd >= 0)
        (void)close(u->base_fd);
    if (r == 0 && ret_counts)
        *ret_counts = u->counts;
    return r;
}
