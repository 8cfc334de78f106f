#include "guest/layer.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "common/io.h"
#include "guest/share_mount.h"

#define OPAQUE "trusted.overlay.opaque"

/* A file that is written to all the time is given up after so many readings. */
#define READ_ATTEMPTS 3

#define CHUNK_SIZE (256 * 1024)

/* How long a name may mean what it meant, or be missing, after the host has changed that. The
 * overlay is never told. Nor can it bear a name below it that means another file when it asks
 * (ESTALE), so names in such a share are valid for long, and are dropped together with its own. */
#define WATCH_MS 2000

/* ---- mounting ---- */

#define MOUNT_FLAGS (MS_NOSUID | MS_NODEV)

enum { LOWER, UPPER, WORK, MERGED, PARTS };

static int part_path(const char *base, uint32_t share, const char *part, char out[BG_PATH_MAX],
                     struct bg_err *err)
{
    if ((size_t)snprintf(out, BG_PATH_MAX, "%s/%u/%s", base, share, part) >= BG_PATH_MAX)
        return bg_err_set(err, -ENAMETOOLONG, "%s", base);
    return 0;
}

/* Makes path and what is missing above it. */
static int make_folders(const char *path, mode_t mode, struct bg_err *err)
{
    BG_AUTOFREE char *copy = strdup(path);
    if (!copy)
        return bg_err_errno(err, -ENOMEM, "%s", path);
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, mode) < 0 && errno != EEXIST)
            return bg_err_errno(err, -errno, "%s", copy);
        *slash = '/';
    }
    if (mkdir(copy, mode) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "%s", copy);
    return 0;
}

/* The root of the sum has the attributes of the upper's root, so that gets the share's. */
static int copy_root(const char *lower, const char *upper, struct bg_err *err)
{
    struct stat st;
    if (stat(lower, &st) < 0)
        return bg_err_errno(err, -errno, "the shared folder");
    if (chown(upper, st.st_uid, st.st_gid) < 0 || chmod(upper, st.st_mode & 0777) < 0)
        return bg_err_errno(err, -errno, "%s", upper);
    return 0;
}

int layer_unmount(const char *base, uint32_t share, const char *target, bool lazily,
                  struct bg_err *err)
{
    char merged[BG_PATH_MAX];
    int r = part_path(base, share, "merged", merged, err);
    if (r < 0)
        return r;
    int flags = UMOUNT_NOFOLLOW | (lazily ? MNT_DETACH : 0);
    struct stat a, b;
    /* Only what is ours at target. */
    if (stat(target, &a) == 0 && stat(merged, &b) == 0 && a.st_dev == b.st_dev &&
        a.st_ino == b.st_ino && umount2(target, flags) < 0)
        return bg_err_errno(err, -errno, "%s", target);
    if (umount2(merged, flags) < 0 && errno != EINVAL && errno != ENOENT)
        return bg_err_errno(err, -errno, "%s", merged);
    return 0;
}

/* Ours alone, whoever made the folders on the way. */
static int own_folder(const char *path, struct bg_err *err)
{
    if (chown(path, geteuid(), getegid()) < 0 || chmod(path, 0700) < 0)
        return bg_err_errno(err, -errno, "%s", path);
    return 0;
}

static int remove_below(int fd, unsigned depth);

static int empty_folder(const char *path, struct bg_err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int r = fd < 0 ? -errno : remove_below(fd, 1);
    return r < 0 && r != -ENOENT ? bg_err_errno(err, r, "emptying %s", path) : 0;
}

static int mount_overlay(char (*path)[BG_PATH_MAX], struct bg_err *err)
{
    BG_AUTOFREE char *options = NULL;
    if (asprintf(&options,
                 "lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=off,metacopy=off,index=off,"
                 "xino=off",
                 path[LOWER], path[UPPER], path[WORK]) < 0)
        return bg_err_errno(err, -ENOMEM, "overlay");
    if (mount("overlay", path[MERGED], "overlay", MOUNT_FLAGS, options) < 0)
        return errno == ENODEV
                   ? bg_err_set(err, -ENODEV,
                                "the image's kernel modules lack overlayfs: build or import the "
                                "image again with this bellglass")
                   : bg_err_errno(err, -errno, "mounting the copy-on-write layer");
    return 0;
}

int layer_mount(const struct layer_opts *opts, struct bg_err *err)
{
    static const char *const parts[] = {
        [LOWER] = "lower", [UPPER] = "upper", [WORK] = "work", [MERGED] = "merged"};
    char path[PARTS][BG_PATH_MAX];
    int r = layer_unmount(opts->base, opts->share, opts->target, /* lazily= */ true, err);
    for (size_t i = 0; r == 0 && i < PARTS; i++) {
        r = part_path(opts->base, opts->share, parts[i], path[i], err);
        if (r == 0 && opts->empty && (i == UPPER || i == WORK))
            r = empty_folder(path[i], err);
        if (r == 0)
            r = make_folders(path[i], 0755, err);
    }
    if (r == 0)
        r = own_folder(opts->base, err);
    if (r == 0)
        r = copy_root(path[LOWER], path[UPPER], err);
    if (r == 0)
        r = mount_overlay(path, err);
    if (r < 0)
        return r;
    r = share_folder_make(opts->target, opts->uid, opts->gid, err);
    if (r == 0 && mount(path[MERGED], opts->target, NULL, MS_BIND, NULL) < 0)
        r = bg_err_errno(err, -errno, "mounting the share at '%s'", opts->target);
    if (r < 0)
        (void)umount2(path[MERGED], MNT_DETACH | UMOUNT_NOFOLLOW); /* it was mounted above */
    return r;
}

void layer_watch(const char *base, uint32_t share)
{
    char merged[BG_PATH_MAX], lower[BG_PATH_MAX], lock[BG_PATH_MAX];
    if (part_path(base, share, "merged", merged, NULL) < 0 ||
        part_path(base, share, "lower", lower, NULL) < 0 ||
        part_path(base, share, "watched", lock, NULL) < 0)
        return;
    BG_AUTOCLOSE int fd = open(lock, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return;
    do {
        /* The overlay holds on to what the share knows, so that comes second; it may be gone. */
        (void)mount(NULL, lower, NULL, MS_REMOUNT | MS_RDONLY | MOUNT_FLAGS, NULL);
        (void)poll(NULL, 0, WATCH_MS); /* nothing tells what happens on the host */
    } while (mount(NULL, merged, NULL, MS_REMOUNT | MOUNT_FLAGS, NULL) == 0);
}

int layer_open(const char *base, uint32_t share, struct layer *ret, struct bg_err *err)
{
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    char path[BG_PATH_MAX];
    int r = part_path(base, share, ".", path, err);
    if (r < 0)
        return r;
    struct layer layer = {.base = open(path, flags), .upper = -1, .lower = -1, .merged = -1};
    if (layer.base >= 0) {
        layer.upper = openat(layer.base, "upper", flags);
        layer.lower = openat(layer.base, "lower", flags);
        layer.merged = openat(layer.base, "merged", flags);
    }
    if (layer.upper < 0 || layer.lower < 0 || layer.merged < 0) {
        r = -errno;
        layer_close(&layer);
        return bg_err_errno(err, r, "copy-on-write share %u in the sandbox", share);
    }
    *ret = layer;
    return 0;
}

void layer_close(struct layer *layer)
{
    bg_cleanup_close(&layer->base);
    bg_cleanup_close(&layer->upper);
    bg_cleanup_close(&layer->lower);
    bg_cleanup_close(&layer->merged);
}

/* Drops what overlay and share have cached and nobody uses: names that were looked for before they
 * were there too, of which the overlay is never told. */
static int look_again(const struct layer *layer, struct bg_err *err)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", layer->merged);
    if (mount(NULL, path, NULL, MS_REMOUNT | MOUNT_FLAGS, NULL) < 0)
        return bg_err_errno(err, -errno, "remounting the copy-on-write layer");
    /* The overlay holds on to what it knows of the share, so that comes second. In a test the lower
     * is no mount. */
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", layer->lower);
    if (mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY | MOUNT_FLAGS, NULL) < 0 && errno != EINVAL)
        return bg_err_errno(err, -errno, "remounting the share");
    return 0;
}

/* ---- records ---- */

static uint64_t nanoseconds(struct timespec t)
{
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Fills all but path, target and flags. */
static void describe(const struct stat *st, struct bg_change *c)
{
    c->type = S_ISREG(st->st_mode)                       ? BG_CHANGE_FILE
              : S_ISDIR(st->st_mode)                     ? BG_CHANGE_FOLDER
              : S_ISLNK(st->st_mode)                     ? BG_CHANGE_SYMLINK
              : S_ISCHR(st->st_mode) && st->st_rdev == 0 ? BG_CHANGE_REMOVED
                                                         : BG_CHANGE_SPECIAL;
    c->mode = 0;
    c->size = c->mtime_ns = c->ctime_ns = c->inode = 0;
    if (c->type == BG_CHANGE_REMOVED)
        return; /* whiteouts are links of one inode, so these say nothing of this one */
    c->mode = (uint16_t)(st->st_mode & 07777);
    c->size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0;
    c->mtime_ns = nanoseconds(st->st_mtim);
    c->ctime_ns = nanoseconds(st->st_ctim);
    c->inode = st->st_ino;
}

static bool is_opaque(int folder)
{
    char value[1];
    return fgetxattr(folder, OPAQUE, value, sizeof value) == 1 && value[0] == 'y';
}

/* The target is what size bytes allow; a link that is longer or gone reads as "?", which differs
 * from any other. */
static void read_target(int folder, const char *name, char out[BG_PATH_MAX])
{
    ssize_t n = readlinkat(folder, name, out, BG_PATH_MAX - 1);
    if (n <= 0)
        out[(n = 1) - 1] = '?';
    out[n] = '\0';
}

struct walk {
    const struct layer_sink *sink;
    struct bg_err *err;
    size_t count;
    struct bg_change change; /* its path grows and shrinks */
};

static int walk_folder(struct walk *w, int fd, size_t path_size, unsigned depth);

static int walk_entry(struct walk *w, int folder, const char *name, size_t path_size,
                      unsigned depth)
{
    struct stat st;
    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : bg_err_errno(w->err, -errno, "%s", w->change.path);
    struct bg_change *c = &w->change;
    BG_AUTOCLOSE int below = -1;
    describe(&st, c);
    c->flags = 0;
    c->target[0] = '\0';
    if (c->type == BG_CHANGE_SYMLINK)
        read_target(folder, name, c->target);
    if (c->type == BG_CHANGE_FOLDER) {
        below = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (below < 0)
            return errno == ENOENT ? 0 : bg_err_errno(w->err, -errno, "%s", c->path);
        if (is_opaque(below))
            c->flags = BG_CHANGE_OPAQUE;
    }
    if (++w->count > BG_CHANGES_RECORDS_MAX)
        return bg_err_set(w->err, -E2BIG, "more than %d changed files and folders",
                          BG_CHANGES_RECORDS_MAX);
    int r = w->sink->record(w->sink->owner, c);
    if (r < 0)
        return bg_err_errno(w->err, r, "cannot send");
    return below >= 0 ? walk_folder(w, bg_take_fd(&below), path_size, depth + 1) : 0;
}

/* fd is taken; the first path_size bytes of the path are the folder's. */
static int walk_folder(struct walk *w, int fd, size_t path_size, unsigned depth)
{
    DIR *folder = fdopendir(fd);
    if (!folder) {
        int code = -errno;
        (void)close(fd); /* a folder */
        return bg_err_errno(w->err, code, "%s", w->change.path);
    }
    char *path = w->change.path;
    int r = 0;
    for (const struct dirent *d; r == 0 && (d = readdir(folder));) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        int size = snprintf(path + path_size, sizeof w->change.path - path_size, "%s%s",
                            path_size > 0 ? "/" : "", d->d_name);
        if (path_size + (size_t)size >= sizeof w->change.path || depth > BG_CHANGES_DEPTH_MAX)
            r = bg_err_set(w->err, -ENAMETOOLONG, "folders in folders, too deep: %.64s...", path);
        else
            r = walk_entry(w, dirfd(folder), d->d_name, path_size + (size_t)size, depth);
        path[path_size] = '\0';
    }
    (void)closedir(folder); /* only read from */
    return r;
}

int layer_list(const struct layer *layer, const struct layer_sink *sink, struct bg_err *err)
{
    int r = look_again(layer, err);
    if (r < 0)
        return r;
    BG_AUTOFREE struct walk *w = calloc(1, sizeof *w);
    int fd = openat(layer->upper, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!w || fd < 0) {
        bg_cleanup_close(&fd);
        return bg_err_errno(err, w ? -errno : -ENOMEM, "the layer");
    }
    w->sink = sink;
    w->err = err;
    return walk_folder(w, fd, 0, 1);
}

/* ---- items ---- */

struct items {
    struct bg_reader in;
    struct bg_change item;
};

/* The next item, in items->item. */
static bool next_item(struct items *items)
{
    size_t size;
    if (items->in.left == 0)
        return false;
    const uint8_t *record = bg_reader_blob32le(&items->in, BG_CHANGE_RECORD_MAX, &size);
    return record && bg_change_parse(record, size, &items->item, NULL) == 0;
}

static struct items *items_new(const uint8_t *bytes, size_t size)
{
    struct items *items = calloc(1, sizeof *items);
    if (items)
        items->in = bg_reader_init(bytes, size);
    return items;
}

static int open_beneath(int root, const char *path, int flags)
{
    const struct open_how how = {.flags = (uint32_t)(flags | O_CLOEXEC),
                                 .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
                                            RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV};
    int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
    return fd < 0 ? -errno : fd;
}

/* The folder that path is in, an fd, and its name there. */
static int open_parent(int root, const char *path, const char **ret_name)
{
    char folder[BG_PATH_MAX];
    const char *slash = strrchr(path, '/');
    *ret_name = slash ? slash + 1 : path;
    size_t size = slash ? (size_t)(slash - path) : 0;
    memcpy(folder, size > 0 ? path : ".", size > 0 ? size : 1);
    folder[size > 0 ? size : 1] = '\0';
    return open_beneath(root, folder, O_RDONLY | O_DIRECTORY);
}

static int stat_beneath(int root, const char *path, struct stat *ret)
{
    const char *name;
    BG_AUTOCLOSE int folder = open_parent(root, path, &name);
    if (folder < 0)
        return folder;
    return fstatat(folder, name, ret, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* ---- fetch ---- */

/* All of the file, then how that went. */
static int send_contents(const struct layer_sink *sink, int fd, const struct bg_change *c,
                         uint8_t *chunk, enum bg_change_read *ret)
{
    enum bg_change_read state = BG_CHANGE_READ_WHOLE;
    for (uint64_t at = 0; at < c->size;) {
        size_t want = c->size - at < CHUNK_SIZE ? (size_t)(c->size - at) : CHUNK_SIZE;
        ssize_t n = state == BG_CHANGE_READ_GONE ? 0 : pread(fd, chunk, want, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            state = BG_CHANGE_READ_GONE;
            memset(chunk, 0, want);
            n = (ssize_t)want;
        }
        int r = sink->bytes(sink->owner, chunk, (size_t)n);
        if (r < 0)
            return r;
        at += (size_t)n;
    }
    struct stat st;
    struct bg_change now = {0};
    if (fstat(fd, &st) < 0)
        return -errno;
    describe(&st, &now);
    if (now.size != c->size || now.mtime_ns != c->mtime_ns || now.ctime_ns != c->ctime_ns)
        state = BG_CHANGE_READ_TORN;
    uint8_t byte = (uint8_t)state;
    *ret = state;
    return sink->bytes(sink->owner, &byte, 1);
}

static int fetch_item(const struct layer *layer, struct bg_change *c, uint8_t *chunk,
                      const struct layer_sink *sink)
{
    BG_AUTOCLOSE int fd = open_beneath(layer->upper, c->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    enum bg_change_read state = BG_CHANGE_READ_TORN;
    for (int i = 0; fd >= 0 && i < READ_ATTEMPTS && state != BG_CHANGE_READ_WHOLE; i++) {
        struct stat st;
        if (fstat(fd, &st) < 0)
            return -errno;
        if (!S_ISREG(st.st_mode))
            return 0;
        describe(&st, c);
        int r = sink->record(sink->owner, c);
        if (r == 0)
            r = send_contents(sink, fd, c, chunk, &state);
        if (r < 0)
            return r;
    }
    return 0;
}

int layer_fetch(const struct layer *layer, const uint8_t *items, size_t size,
                const struct layer_sink *sink, struct bg_err *err)
{
    BG_AUTOFREE struct items *list = items_new(items, size);
    BG_AUTOFREE uint8_t *chunk = malloc(CHUNK_SIZE);
    if (!list || !chunk)
        return bg_err_errno(err, -ENOMEM, "the layer");
    while (next_item(list)) {
        struct bg_change *c = &list->item;
        if (c->type != BG_CHANGE_FILE)
            continue;
        c->flags = 0;
        int r = fetch_item(layer, c, chunk, sink);
        if (r < 0)
            return bg_err_errno(err, r, "%s", c->path);
    }
    return 0;
}

/* ---- taking out ---- */

static bool is_as_told(const struct bg_change *item, const struct stat *st)
{
    struct bg_change now = {0};
    describe(st, &now);
    return now.type == item->type && now.mode == item->mode && now.size == item->size &&
           now.mtime_ns == item->mtime_ns && now.ctime_ns == item->ctime_ns &&
           now.inode == item->inode;
}

/* The sum shows what the share has under the name, which may be nothing. */
static bool shows_lower(const struct layer *layer, const char *path, bool nothing_ok)
{
    struct stat seen, below;
    int a = stat_beneath(layer->merged, path, &seen), b = stat_beneath(layer->lower, path, &below);
    if (a < 0 || b < 0)
        return a < 0 && b < 0 && nothing_ok;
    return seen.st_mode == below.st_mode && seen.st_size == below.st_size &&
           nanoseconds(seen.st_mtim) == nanoseconds(below.st_mtim) &&
           nanoseconds(seen.st_ctim) == nanoseconds(below.st_ctim);
}

#define DROPPED "dropped" /* where things are until it is certain that they may go */

static void dropped_name(size_t index, char out[32])
{
    (void)snprintf(out, 32, "%zu", index);
}

/* Moves the item out of the upper folder. Returns 0, or the flag to tell why not. */
static uint8_t put_aside(const struct layer *layer, int aside, size_t index,
                         const struct bg_change *item)
{
    char to[32];
    const char *name;
    struct stat st;
    BG_AUTOCLOSE int folder = open_parent(layer->upper, item->path, &name);
    if (folder < 0 || fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return BG_CHANGE_NEWER;
    if (item->type == BG_CHANGE_FOLDER) {
        BG_AUTOCLOSE int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            return BG_CHANGE_NEWER;
        (void)fremovexattr(fd, OPAQUE); /* it may have none */
        return 0;
    }
    if (!is_as_told(item, &st))
        return BG_CHANGE_NEWER;
    dropped_name(index, to);
    return renameat(folder, name, aside, to) < 0 ? BG_CHANGE_BUSY : 0;
}

static void put_back(const struct layer *layer, int aside, size_t index,
                     const struct bg_change *item)
{
    char from[32];
    const char *name;
    BG_AUTOCLOSE int folder = open_parent(layer->upper, item->path, &name);
    dropped_name(index, from);
    /* If something else is there by now, that is the newer one. */
    if (folder >= 0)
        (void)syscall(SYS_renameat2, aside, from, folder, name, 1u /* RENAME_NOREPLACE */);
}

static int tell_kept(const struct layer_sink *sink, struct bg_change *item, uint8_t why)
{
    item->flags = why;
    return sink->record(sink->owner, item);
}

/* One pass over the items: the first puts them aside, the second looks at what shows instead. */
static int settle_pass(const struct layer *layer, int aside, bool first, uint8_t *state,
                       struct items *list, const struct layer_sink *sink)
{
    for (size_t i = 0; i < BG_CHANGES_RECORDS_MAX && next_item(list); i++) {
        struct bg_change *item = &list->item;
        if (first) {
            state[i] = put_aside(layer, aside, i, item);
        } else if (state[i] == 0 && item->type != BG_CHANGE_FOLDER &&
                   !shows_lower(layer, item->path, item->type == BG_CHANGE_REMOVED)) {
            put_back(layer, aside, i, item);
            state[i] = BG_CHANGE_BUSY;
        } else if (state[i] == 0 && item->type != BG_CHANGE_FOLDER) {
            char name[32];
            dropped_name(i, name);
            (void)unlinkat(aside, name, 0); /* what is left goes with the next call */
        }
        int r = !first && state[i] != 0 ? tell_kept(sink, item, state[i]) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

int layer_settle(const struct layer *layer, const uint8_t *items, size_t size,
                 const struct layer_sink *sink, struct bg_err *err)
{
    BG_AUTOFREE struct items *list = items_new(items, size);
    BG_AUTOFREE uint8_t *state = calloc(BG_CHANGES_RECORDS_MAX, 1);
    if (!list || !state)
        return bg_err_errno(err, -ENOMEM, "the layer");
    if (mkdirat(layer->base, DROPPED, 0700) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "the layer");
    BG_AUTOCLOSE int aside = open_beneath(layer->base, DROPPED, O_RDONLY | O_DIRECTORY);
    if (aside < 0)
        return bg_err_errno(err, aside, "the layer");
    int r = settle_pass(layer, aside, true, state, list, sink);
    if (r == 0)
        r = look_again(layer, err);
    if (r < 0)
        return r;
    list->in = bg_reader_init(items, size);
    r = settle_pass(layer, aside, false, state, list, sink);
    if (r < 0)
        return bg_err_errno(err, r, "cannot send");
    return look_again(layer, err); /* what was looked for while it was aside was not there */
}

/* ---- discard ---- */

/* Removes everything in the folder fd, which is taken, by way of the overlay. */
static int remove_below(int fd, unsigned depth)
{
    DIR *folder = fdopendir(fd);
    if (!folder) {
        (void)close(fd); /* a folder */
        return -ENOMEM;
    }
    int r = 0;
    for (const struct dirent *d; r == 0 && (d = readdir(folder));) {
        struct stat st;
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 ||
            fstatat(fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        bool is_folder = S_ISDIR(st.st_mode);
        int below = !is_folder
                        ? -1
                        : openat(fd, d->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (below >= 0 && depth >= BG_CHANGES_DEPTH_MAX) {
            (void)close(below); /* a folder */
            r = -ENAMETOOLONG;
        } else if (below >= 0) {
            r = remove_below(below, depth + 1);
        }
        if (r == 0 && unlinkat(fd, d->d_name, is_folder ? AT_REMOVEDIR : 0) < 0 && errno != ENOENT)
            r = -errno;
    }
    (void)closedir(folder); /* only read from */
    return r;
}

/* What the guest's programs see under the name goes, by way of the overlay. */
static int remove_seen(const struct layer *layer, const char *path)
{
    const char *name;
    struct stat st;
    BG_AUTOCLOSE int folder = open_parent(layer->merged, path, &name);
    if (folder < 0 || fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return folder < 0 && folder != -ENOENT ? folder : 0;
    if (!S_ISDIR(st.st_mode))
        return unlinkat(folder, name, 0) < 0 ? -errno : 0;
    int below = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int r = below < 0 ? -errno : remove_below(below, 1);
    return r < 0 ? r : unlinkat(folder, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

/* A folder that the share has too gets the share's attributes again. */
static int restore_folder(const struct layer *layer, const char *path, const struct stat *lower)
{
    BG_AUTOCLOSE int fd = open_beneath(layer->merged, path, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return fd;
    const struct timespec times[2] = {lower->st_atim, lower->st_mtim};
    if (fchown(fd, lower->st_uid, lower->st_gid) < 0 || fchmod(fd, lower->st_mode & 07777) < 0 ||
        futimens(fd, times) < 0)
        return -errno;
    return 0;
}

static int discard_item(const struct layer *layer, const char *path)
{
    const char *name;
    struct stat st, lower;
    BG_AUTOCLOSE int folder = open_parent(layer->upper, path, &name);
    if (folder < 0 || fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0; /* it is not in the layer any more */
    struct bg_change now = {0};
    describe(&st, &now);
    if (now.type == BG_CHANGE_FOLDER) {
        BG_AUTOCLOSE int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 && !is_opaque(fd) && stat_beneath(layer->lower, path, &lower) == 0 &&
            S_ISDIR(lower.st_mode))
            return restore_folder(layer, path, &lower);
    }
    int r = now.type == BG_CHANGE_REMOVED ? 0 : remove_seen(layer, path);
    if (r < 0)
        return r;
    /* Where the share has something, the overlay left a whiteout. */
    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    describe(&st, &now);
    if (now.type != BG_CHANGE_REMOVED)
        return -EBUSY;
    return unlinkat(folder, name, 0) < 0 ? -errno : 0;
}

int layer_discard(const struct layer *layer, const uint8_t *items, size_t size,
                  const struct layer_sink *sink, struct bg_err *err)
{
    BG_AUTOFREE struct items *list = items_new(items, size);
    BG_AUTOFREE bool *failed = calloc(BG_CHANGES_RECORDS_MAX, sizeof *failed);
    if (!list || !failed)
        return bg_err_errno(err, -ENOMEM, "the layer");
    for (size_t i = 0; i < BG_CHANGES_RECORDS_MAX && next_item(list); i++)
        failed[i] = discard_item(layer, list->item.path) < 0;
    int r = look_again(layer, err);
    if (r < 0)
        return r;
    list->in = bg_reader_init(items, size);
    for (size_t i = 0; r == 0 && i < BG_CHANGES_RECORDS_MAX && next_item(list); i++) {
        bool folder = list->item.type == BG_CHANGE_FOLDER;
        /* As long as a file is open, the overlay shows it even to those who open it anew. */
        if (failed[i] || (!folder && !shows_lower(layer, list->item.path, /* nothing_ok= */ true)))
            r = tell_kept(sink, &list->item, BG_CHANGE_BUSY);
    }
    return r < 0 ? bg_err_errno(err, r, "cannot send") : 0;
}
