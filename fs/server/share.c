#include "fs/server/share.h"

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "fs/server/share_links.h"

#define NOBODY          65534u
#define VALID_S         1u          /* what the host's programs change is seen after that */
#define VALID_LAYERED_S 3600        /* names below an overlay, which are dropped by remounting */
#define SPACE_EVERY     (16u << 20) /* bytes written between looks at what is free */
#define COPY_MAX        (64u * BG_FS_IO_MAX) /* what one COPY_FILE_RANGE copies at most */
#define PLACE_SIZE      (BG_PATH_MAX + 1)

struct fs_share {
    const struct fs_share_rules *rules;
    struct fs_nodes *nodes;
    uint32_t uid, gid;               /* ours */
    uint32_t client_uid, client_gid; /* who that is for the client */
    atomic_uint_fast64_t written, made;
    atomic_uint_fast64_t space_due; /* written at which to look again */
    atomic_bool full;
    /* Held over check and operation of what makes or moves links: whether one leads out depends on
     * where it stands. */
    pthread_mutex_t moves;
    pthread_mutex_t names_lock; /* guards the next two */
    struct fs_names *names;     /* NULL: not looked for yet */
    bool names_failed;          /* too many files: what has several names is not shown */
};

int fs_share_open(const struct fs_share_rules *rules, struct fs_nodes *nodes, struct fs_share **ret)
{
    struct fs_share *share = calloc(1, sizeof *share);
    if (!share)
        return -ENOMEM;
    share->rules = rules;
    share->nodes = nodes;
    share->uid = geteuid();
    share->gid = getegid();
    share->client_uid = share->client_gid = NOBODY;
    (void)pthread_mutex_init(&share->moves, NULL); /* neither can fail with these attributes */
    (void)pthread_mutex_init(&share->names_lock, NULL);
    *ret = share;
    return 0;
}

void fs_share_close(struct fs_share *share)
{
    if (!share)
        return;
    fs_names_free(share->names);
    (void)pthread_mutex_destroy(&share->moves);
    (void)pthread_mutex_destroy(&share->names_lock);
    free(share);
}

void fs_share_set_client(struct fs_share *share, uint32_t uid, uint32_t gid)
{
    share->client_uid = uid;
    share->client_gid = gid;
}

static bool moves_links(uint32_t opcode)
{
    return opcode == FUSE_SYMLINK || opcode == FUSE_LINK || opcode == FUSE_RENAME ||
           opcode == FUSE_RENAME2;
}

void fs_share_begin(struct fs_share *share, uint32_t opcode)
{
    if (moves_links(opcode))
        (void)pthread_mutex_lock(&share->moves);
}

void fs_share_end(struct fs_share *share, uint32_t opcode)
{
    if (moves_links(opcode))
        (void)pthread_mutex_unlock(&share->moves);
}

/* ---- where files are ---- */

static int path_of_fd(int fd, char out[PLACE_SIZE])
{
    char link[32];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PLACE_SIZE);
    if (n < 0)
        return -errno;
    if (n == PLACE_SIZE)
        return -ENAMETOOLONG;
    out[n] = '\0';
    return 0;
}

/* The path from the share's root, "" for itself. */
static int place_of(const struct fs_share *share, int fd, char out[BG_PATH_MAX])
{
    char root[PLACE_SIZE], path[PLACE_SIZE];
    for (int attempt = 0; attempt < 2; attempt++) { /* the root itself may just be moved */
        int r = path_of_fd(fs_nodes_root_fd(share->nodes), root);
        if (r == 0)
            r = path_of_fd(fd, path);
        if (r < 0)
            return r;
        size_t size = strcmp(root, "/") == 0 ? 0 : strlen(root);
        if (strncmp(path, root, size) == 0 && (path[size] == '/' || path[size] == '\0')) {
            const char *rest = path + size + (path[size] == '/');
            memcpy(out, rest, strlen(rest) + 1); /* root has at least one byte */
            return fs_path_depth(out) > BG_FS_DEPTH_MAX ? -ENAMETOOLONG : 0;
        }
    }
    return -ESTALE;
}

/* ret: folder/name. */
static int join(const char *folder, const char *name, char ret[BG_PATH_MAX])
{
    int n = snprintf(ret, BG_PATH_MAX, "%s%s%s", folder, *folder ? "/" : "", name);
    return n >= BG_PATH_MAX || fs_path_depth(ret) > BG_FS_DEPTH_MAX ? -ENAMETOOLONG : 0;
}

static unsigned judge(const struct fs_share *share, const char *path)
{
    return *path ? share->rules->judge(share->rules->owner, path) : 0;
}

/* ---- further names of hidden and fixed files ---- */

/* Found when the first file with several names is met: most trees have none. */
static unsigned verdict_by_ino(struct fs_share *share, uint64_t ino)
{
    const unsigned mask = FS_SHARE_HIDDEN | FS_SHARE_FIXED | FS_SHARE_FROZEN;
    (void)pthread_mutex_lock(&share->names_lock);
    if (!share->names && !share->names_failed &&
        fs_names_find(fs_nodes_root_fd(share->nodes), share->rules->judge, share->rules->owner,
                      mask, &share->names) < 0)
        share->names_failed = true;
    unsigned verdict = share->names_failed ? FS_SHARE_HIDDEN : fs_names_verdict(share->names, ino);
    (void)pthread_mutex_unlock(&share->names_lock);
    return verdict;
}

int fs_share_found(struct fs_share *share, uint64_t ino, uint64_t nlink, uint64_t mode)
{
    if (!S_ISREG(mode) || nlink < 2)
        return 0;
    return verdict_by_ino(share, ino) & FS_SHARE_HIDDEN ? -ENOENT : 0;
}

/* ---- what may be done ---- */

/* The file of the request itself. */
static int check_itself(struct fs_share *share, const struct fs_pin *pin, bool changes)
{
    char path[BG_PATH_MAX];
    int r = place_of(share, pin->fd, path);
    if (r < 0)
        return r;
    unsigned verdict = judge(share, path);
    if (verdict & FS_SHARE_HIDDEN)
        return -ESTALE; /* it got that name since it was found */
    if (!changes)
        return 0;
    struct statx st;
    r = fs_nodes_stat(pin, pin->fd, &st);
    if (r < 0)
        return r;
    if (pin->type == S_IFREG && st.stx_nlink > 1)
        verdict |= verdict_by_ino(share, st.stx_ino);
    bool fixed = verdict & FS_SHARE_FROZEN || (verdict & FS_SHARE_FIXED && pin->type != S_IFDIR);
    return fixed ? -EROFS : 0;
}

int fs_share_check_open(struct fs_share *share, const struct fs_pin *pin, bool for_change)
{
    return check_itself(share, pin, for_change);
}

/* A name that is to appear. */
static int check_new(const struct fs_share *share, const char *folder, const char *name,
                     char ret_path[BG_PATH_MAX])
{
    int r = join(folder, name, ret_path);
    if (r < 0)
        return r;
    unsigned verdict = judge(share, ret_path);
    if (verdict & FS_SHARE_HIDDEN)
        return -EACCES;
    return verdict & (FS_SHARE_FIXED | FS_SHARE_FROZEN) ? -EROFS : 0;
}

/* A name that is to go. */
static int check_old(const struct fs_share *share, const char *folder, const char *name)
{
    char path[BG_PATH_MAX];
    int r = join(folder, name, path);
    if (r < 0)
        return r;
    unsigned verdict = judge(share, path);
    if (verdict & FS_SHARE_HIDDEN)
        return -ENOENT;
    return verdict & (FS_SHARE_FIXED | FS_SHARE_FROZEN) ? -EROFS : 0;
}

/* Something is made: room for one more. */
static int spend_inode(struct fs_share *share)
{
    if (atomic_fetch_add(&share->made, 1) >= share->rules->inodes_max)
        return -EDQUOT;
    return atomic_load(&share->full) ? -ENOSPC : 0;
}

/* Looks now and then whether the disk still has what is left to the host's own programs. */
static int spend_bytes(struct fs_share *share, uint64_t size)
{
    uint64_t written = atomic_fetch_add(&share->written, size);
    struct statvfs fs;
    if (written > share->rules->write_max || size > share->rules->write_max - written)
        return -EDQUOT;
    /* Once full it is looked at each time: somebody may have made room. */
    if ((atomic_load(&share->full) || written + size >= atomic_load(&share->space_due)) &&
        fstatvfs(fs_nodes_root_fd(share->nodes), &fs) == 0) {
        uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize, min = share->rules->space_min;
        atomic_store(&share->full, left < min || left - min < size);
        atomic_store(&share->space_due, written + size + SPACE_EVERY);
    }
    return atomic_load(&share->full) ? -ENOSPC : 0;
}

static bool link_ok(const struct fs_share *share, const char *text, size_t size, const char *path)
{
    return share->rules->any_links || fs_link_inside(text, size, fs_path_depth(path) - 1);
}

/* A link that is to appear at path. In the place of a folder that has rules of its own it would put
 * another folder under them. */
static int check_new_link(const struct fs_share *share, const char *text, size_t size,
                          const char *path)
{
    if (judge(share, path) & FS_SHARE_ANCHORED)
        return -EACCES;
    return link_ok(share, text, size, path) ? 0 : -EPERM;
}

/* ---- moves ---- */

/* What stands at folder_fd/name must be fit to stand at path. */
static int check_move(const struct fs_share *share, int folder_fd, const char *name,
                      const char *from, const char *to)
{
    char text[BG_PATH_MAX];
    struct stat st;
    if (fstatat(folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    bool anchored = (judge(share, from) | judge(share, to)) & FS_SHARE_ANCHORED;
    if (anchored && (S_ISDIR(st.st_mode) || S_ISLNK(st.st_mode)))
        return -EACCES;
    if (S_ISLNK(st.st_mode)) {
        ssize_t n = readlinkat(folder_fd, name, text, sizeof text);
        if (n < 0)
            return -errno;
        return link_ok(share, text, (size_t)n, to) ? 0 : -EPERM;
    }
    size_t depth = fs_path_depth(to);
    if (!S_ISDIR(st.st_mode) || share->rules->any_links || depth >= fs_path_depth(from))
        return 0;
    /* EXDEV: who moves it copies it then, and each link is looked at. */
    return fs_links_lead_out(folder_fd, name, depth) ? -EXDEV : 0;
}

static int check_rename(struct fs_share *share, const struct fs_request *request,
                        const struct fs_pin *pin, const char *folder)
{
    char folder2[BG_PATH_MAX], from[BG_PATH_MAX], to[BG_PATH_MAX];
    struct fs_pin pin2;
    int r = fs_nodes_get(share->nodes, request->node2, &pin2);
    if (r < 0)
        return r;
    r = place_of(share, pin2.fd, folder2);
    if (r == 0)
        r = check_old(share, folder, request->name);
    if (r == 0)
        r = join(folder, request->name, from);
    if (r == 0)
        r = check_new(share, folder2, request->name2, to);
    if (r == 0)
        r = check_move(share, pin->fd, request->name, from, to);
    if (r == 0 && (request->flags & RENAME_EXCHANGE))
        r = check_move(share, pin2.fd, request->name2, to, from);
    fs_nodes_put(share->nodes, &pin2);
    return r;
}

static int check_link(struct fs_share *share, const struct fs_request *request, const char *folder)
{
    char path[BG_PATH_MAX], text[BG_PATH_MAX];
    struct fs_pin old;
    struct statx st;
    int r = check_new(share, folder, request->name, path);
    if (r < 0)
        return r;
    r = fs_nodes_get(share->nodes, request->node2, &old);
    if (r < 0)
        return r;
    r = check_itself(share, &old, /* changes= */ true);
    if (r == 0)
        r = fs_nodes_stat(&old, old.fd, &st);
    if (r == 0 && st.stx_uid != share->uid)
        r = -EPERM;
    if (r == 0 && old.type == S_IFLNK) {
        ssize_t n = readlinkat(old.fd, "", text, sizeof text);
        r = n < 0 ? -errno : check_new_link(share, text, (size_t)n, path);
    }
    fs_nodes_put(share->nodes, &old);
    return r == 0 ? spend_inode(share) : r;
}

/* ---- the requests ---- */

static int check_make(struct fs_share *share, const struct fs_request *request, const char *folder)
{
    char path[BG_PATH_MAX];
    int r = check_new(share, folder, request->name, path);
    if (r == 0 && request->opcode == FUSE_SYMLINK)
        r = check_new_link(share, request->name2, request->name2_size, path);
    return r == 0 ? spend_inode(share) : r;
}

static int check_setattr(struct fs_share *share, struct fs_request *request,
                         const struct fs_pin *pin)
{
    if ((request->valid & FATTR_UID && request->uid != share->client_uid) ||
        (request->valid & FATTR_GID && request->gid != share->client_gid))
        return -EPERM; /* files can be given to nobody but the user, whose they are */
    request->valid &= ~(uint64_t)(FATTR_UID | FATTR_GID);
    if (request->valid & FATTR_SIZE && request->size > BG_SHARE_FILE_MAX)
        return -EFBIG;
    return check_itself(share, pin, /* changes= */ true);
}

/* Requests with a folder and a name in it. */
static int check_named(struct fs_share *share, const struct fs_request *request,
                       const struct fs_pin *pin)
{
    char folder[BG_PATH_MAX], path[BG_PATH_MAX];
    int r = place_of(share, pin->fd, folder);
    if (r < 0)
        return r;
    switch (request->opcode) {
    case FUSE_LOOKUP:
        r = join(folder, request->name, path);
        if (r == 0 && judge(share, path) & FS_SHARE_HIDDEN)
            r = -ENOENT;
        return r;
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_CREATE:
        return check_make(share, request, folder);
    case FUSE_LINK:
        return check_link(share, request, folder);
    case FUSE_UNLINK:
    case FUSE_RMDIR:
        return check_old(share, folder, request->name);
    case FUSE_RENAME:
    case FUSE_RENAME2:
        return check_rename(share, request, pin, folder);
    default:
        assert(false);
        return -EINVAL;
    }
}

static bool opens_for_change(uint64_t flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);
}

int fs_share_check(struct fs_share *share, struct fs_request *request, const struct fs_pin *pin)
{
    switch (request->opcode) {
    case FUSE_LOOKUP:
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_CREATE:
    case FUSE_LINK:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
        return check_named(share, request, pin);
    case FUSE_SETATTR:
        return check_setattr(share, request, pin);
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
        return check_itself(share, pin, /* changes= */ true);
    case FUSE_OPEN:
        return check_itself(share, pin, opens_for_change(request->flags));
    default:
        return check_itself(share, pin, /* changes= */ false);
    }
}

int fs_share_check_open_file(struct fs_share *share, const struct fs_request *request)
{
    switch (request->opcode) {
    case FUSE_WRITE:
        return spend_bytes(share, request->data_size);
    case FUSE_COPY_FILE_RANGE:
        return spend_bytes(share, request->size < COPY_MAX ? request->size : COPY_MAX);
    case FUSE_FALLOCATE:
        if (request->size > BG_SHARE_ALLOCATE_MAX || request->offset > BG_SHARE_FILE_MAX)
            return -EFBIG;
        return spend_bytes(share, request->size);
    default:
        return 0;
    }
}

/* ---- what is shown ---- */

void fs_share_show(const struct fs_share *share, struct fs_reply *reply)
{
    struct fs_attr *attr = &reply->attr;
    attr->uid = attr->uid == share->uid ? share->client_uid : NOBODY;
    attr->gid = attr->gid == share->gid ? share->client_gid : NOBODY;
    attr->mode &= S_IFMT | 0777; /* set-id and sticky bits are the host's own */
    attr->rdev = 0;
    reply->entry_valid = share->rules->layered ? VALID_LAYERED_S : VALID_S;
    reply->attr_valid = VALID_S;
}

int fs_share_folder(const struct fs_share *share, const struct fs_pin *pin, char out[BG_PATH_MAX])
{
    int r = place_of(share, pin->fd, out);
    return r == 0 && judge(share, out) & FS_SHARE_HIDDEN ? -ESTALE : r;
}

bool fs_share_shows(const struct fs_share *share, const char *folder, const char *name)
{
    char path[BG_PATH_MAX];
    return join(folder, name, path) == 0 && !(judge(share, path) & FS_SHARE_HIDDEN);
}
