#include "fs/server/nodes.h"

#include <assert.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "fs/table.h"

#define MOUNTS_MAX      64u   /* file systems opened by handle; further ones go by name */
#define DEVICES_MAX     256u  /* told apart in inode numbers; further ones share */
#define DEVICE_SHIFT    48    /* above what file systems use */
#define REOPEN_DEPTH    4096u /* folders above a node that is opened by name */
#define HANDLE_SIZE_MAX 128   /* MAX_HANDLE_SZ: what the kernel may give */

struct fs_handle_bytes {
    unsigned size; /* 0: no handle, the node is opened by name */
    int type;
    unsigned char bytes[]; /* as many as size */
};

/* A mounted file system whose files are opened by handle; that needs any open fd on it. */
struct mount {
    uint64_t id;
    int fd; /* -1: no handles here */
    bool watched;
};

struct node_key {
    uint64_t device, ino, mount;
    int64_t born_s;
    uint32_t born_ns;
    mode_t type;
};

struct fs_node {
    struct fs_link by_id, by_key, by_handle; /* the last one if it has a handle */
    uint64_t id;
    struct node_key key;
    uint64_t device_bits; /* of the inode number that is shown */
    bool hollow, watched;
    uint64_t nlookup;
    unsigned pins;                  /* users of fd */
    unsigned children;              /* nodes whose parent this is */
    int fd;                         /* O_PATH or -1 */
    struct fs_node *newer, *older;  /* among the unpinned nodes with an fd */
    struct fs_handle_bytes *handle; /* NULL: opened by parent and name */
    struct fs_node *parent;
    char *name;
};

struct fs_nodes {
    pthread_mutex_t lock; /* guards everything below */
    struct fs_table by_id, by_key, by_handle;
    uint64_t next_id;
    struct fs_node *root;
    struct fs_node *newest, *oldest;
    size_t idle_fds, fds_max;
    struct mount mounts[MOUNTS_MAX];
    size_t mount_count;
    uint64_t devices[DEVICES_MAX]; /* seen so far; the root's is the first */
    size_t device_count;
    const struct fs_identity *identity;
    bool handles; /* we may open by handle at all */
    bool (*watch)(void *watch_owner, int fd);
    void *watch_owner;
    dev_t device_files; /* file system of /dev, when it has one of its own */
};

static int open_step(int dir_fd, const char *name)
{
    struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                           .resolve =
                               RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS};
    for (;;) {
        long fd = syscall(SYS_openat2, dir_fd, name, &how, sizeof how);
        if (fd >= 0)
            return (int)fd;
        if (errno != EAGAIN) /* EAGAIN: a rename raced with the check that we stay beneath */
            return -errno;
    }
}

static int stat_fd(int fd, struct statx *ret)
{
    if (statx(fd, "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW,
              STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, ret) < 0)
        return -errno;
    return 0;
}

static uint64_t device_of(const struct statx *st)
{
    return (uint64_t)st->stx_dev_major << 32 | st->stx_dev_minor;
}

static struct node_key key_of(const struct statx *st)
{
    struct node_key key = {
        .device = device_of(st), .ino = st->stx_ino, .type = st->stx_mode & S_IFMT};
    if (st->stx_mask & STATX_MNT_ID)
        key.mount = st->stx_mnt_id;
    if (st->stx_mask & STATX_BTIME) {
        key.born_s = st->stx_btime.tv_sec;
        key.born_ns = st->stx_btime.tv_nsec;
    }
    return key;
}

static bool key_equal(const struct node_key *a, const struct node_key *b)
{
    return a->device == b->device && a->ino == b->ino && a->mount == b->mount &&
           a->born_s == b->born_s && a->born_ns == b->born_ns && a->type == b->type;
}

static bool handle_equal(const struct fs_handle_bytes *a, const struct fs_handle_bytes *b)
{
    if (!a || !b)
        return a == b;
    return a->size == b->size && a->type == b->type && memcmp(a->bytes, b->bytes, a->size) == 0;
}

static uint64_t key_hash(const struct fs_nodes *nodes, const struct node_key *key)
{
    return fs_table_hash(&nodes->by_key, key->ino ^ key->device << 40);
}

/* File systems that are windows into the kernel, not storage. */
static bool pseudo(const struct fs_nodes *nodes, int fd, const struct statx *st)
{
    static const uint32_t magics[] = {
        PROC_SUPER_MAGIC,
        SYSFS_MAGIC,
        DEBUGFS_MAGIC,
        TRACEFS_MAGIC,
        SECURITYFS_MAGIC,
        SELINUX_MAGIC,
        SMACK_MAGIC,
        CGROUP_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC,
        BPF_FS_MAGIC,
        PSTOREFS_MAGIC,
        EFIVARFS_MAGIC,
        DEVPTS_SUPER_MAGIC,
        BINFMTFS_MAGIC,
        NSFS_MAGIC,
        AUTOFS_SUPER_MAGIC,
        RDTGROUP_SUPER_MAGIC,
        0x62656570 /* configfs */,
        0x65735543 /* fusectl */,
        0x19800202 /* mqueue */,
    };
    struct statfs fs;
    if (nodes->device_files != 0 &&
        makedev(st->stx_dev_major, st->stx_dev_minor) == nodes->device_files)
        return true;
    if (fstatfs(fd, &fs) < 0)
        return true; /* of unknown kind: stay out */
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++)
        if ((uint32_t)fs.f_type == magics[i])
            return true;
    return false;
}

/* ---- idle fds ---- */

static void idle_remove(struct fs_nodes *nodes, struct fs_node *node)
{
    *(node->newer ? &node->newer->older : &nodes->newest) = node->older;
    *(node->older ? &node->older->newer : &nodes->oldest) = node->newer;
    node->newer = node->older = NULL;
    nodes->idle_fds--;
}

static bool is_idle(const struct fs_nodes *nodes, const struct fs_node *node)
{
    return node->pins == 0 && node->fd >= 0 && node != nodes->root;
}

/* Puts the node's fd among the idle ones; returns an fd to close, or -1. */
static int idle_add(struct fs_nodes *nodes, struct fs_node *node)
{
    node->older = nodes->newest;
    *(nodes->newest ? &nodes->newest->newer : &nodes->oldest) = node;
    nodes->newest = node;
    nodes->idle_fds++;
    if (nodes->idle_fds <= nodes->fds_max)
        return -1;
    struct fs_node *oldest = nodes->oldest;
    idle_remove(nodes, oldest);
    int fd = oldest->fd;
    oldest->fd = -1;
    return fd;
}

/* ---- life of a node ---- */

static void node_free(struct fs_node *node)
{
    if (node->fd >= 0)
        (void)close(node->fd); /* O_PATH: nothing to lose */
    free(node->handle);
    free(node->name);
    free(node);
}

/* Frees the node and the parents that only it held, when nothing uses them any more. */
static void drop_unused(struct fs_nodes *nodes, struct fs_node *node)
{
    while (node && node != nodes->root && node->nlookup == 0 && node->pins == 0 &&
           node->children == 0) {
        struct fs_node *parent = node->parent;
        if (is_idle(nodes, node))
            idle_remove(nodes, node);
        fs_table_remove(&nodes->by_id, &node->by_id);
        fs_table_remove(&nodes->by_key, &node->by_key);
        if (node->handle)
            fs_table_remove(&nodes->by_handle, &node->by_handle);
        node_free(node);
        if (parent)
            parent->children--;
        node = parent;
    }
}

static struct fs_node *find_id(const struct fs_nodes *nodes, uint64_t id)
{
    struct fs_link *link = fs_table_first(&nodes->by_id, fs_table_hash(&nodes->by_id, id));
    for (; link; link = fs_table_next(link)) {
        struct fs_node *node = FS_LINK_OWNER(link, struct fs_node, by_id);
        if (node->id == id)
            return node;
    }
    return NULL;
}

static struct fs_node *find_key(const struct fs_nodes *nodes, const struct node_key *key,
                                const struct fs_handle_bytes *handle)
{
    struct fs_link *link = fs_table_first(&nodes->by_key, key_hash(nodes, key));
    for (; link; link = fs_table_next(link)) {
        struct fs_node *node = FS_LINK_OWNER(link, struct fs_node, by_key);
        if (key_equal(&node->key, key) && handle_equal(node->handle, handle))
            return node;
    }
    return NULL;
}

static uint64_t device_bits(struct fs_nodes *nodes, uint64_t device)
{
    size_t i = 0;
    while (i < nodes->device_count && nodes->devices[i] != device)
        i++;
    if (i == nodes->device_count && i < DEVICES_MAX)
        nodes->devices[nodes->device_count++] = device;
    return (uint64_t)i << DEVICE_SHIFT;
}

static struct fs_node *node_new(struct fs_nodes *nodes, const struct node_key *key)
{
    struct fs_node *node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    node->id = nodes->next_id++;
    node->key = *key;
    node->device_bits = device_bits(nodes, key->device);
    node->fd = -1;
    fs_table_insert(&nodes->by_id, &node->by_id, fs_table_hash(&nodes->by_id, node->id));
    fs_table_insert(&nodes->by_key, &node->by_key, key_hash(nodes, key));
    return node;
}

/* Remembers where the node is. Not below itself: then a folder was moved behind our back and the
 * older place stands until it is looked up again. */
static void set_place(struct fs_nodes *nodes, struct fs_node *node, struct fs_node *parent,
                      const char *name)
{
    if (node == nodes->root || (node->parent == parent && strcmp(node->name, name) == 0))
        return;
    size_t depth = 0;
    for (const struct fs_node *at = parent; at; at = at->parent)
        if (at == node || ++depth > REOPEN_DEPTH)
            return;
    char *copy = strdup(name);
    if (!copy)
        return;
    struct fs_node *before = node->parent;
    free(node->name);
    node->name = copy;
    node->parent = parent;
    parent->children++;
    if (before) {
        before->children--;
        drop_unused(nodes, before);
    }
}

/* ---- file handles ---- */

/* The fd by which files of this mount are opened by handle, -1 if they cannot be. fd is a file on
 * it. Only a folder is opened to find out: opening anything else could have effects. */
static int mount_fd(struct fs_nodes *nodes, uint64_t id, int fd, mode_t type)
{
    for (size_t i = 0; i < nodes->mount_count; i++)
        if (nodes->mounts[i].id == id)
            return nodes->mounts[i].fd;
    if (nodes->mount_count == MOUNTS_MAX || type != S_IFDIR)
        return -1;
    char path[32];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    fs_identity_raise(nodes->identity);
    int opened = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened >= 0) {
        /* Only some file systems give out handles, and opening them takes a privilege. */
        struct {
            struct file_handle head;
            unsigned char bytes[HANDLE_SIZE_MAX];
        } h = {.head.handle_bytes = HANDLE_SIZE_MAX};
        int mount, again = -1;
        if (name_to_handle_at(opened, "", &h.head, &mount, AT_EMPTY_PATH) == 0)
            again = open_by_handle_at(opened, &h.head, O_PATH | O_CLOEXEC);
        if (again >= 0) {
            (void)close(again);
        } else {
            (void)close(opened);
            opened = -1;
        }
    }
    bool watched = opened >= 0 && nodes->watch && nodes->watch(nodes->watch_owner, opened);
    fs_identity_lower(nodes->identity);
    nodes->mounts[nodes->mount_count++] =
        (struct mount){.id = id, .fd = opened, .watched = watched};
    return opened;
}

static uint64_t handle_hash(const struct fs_nodes *nodes, uint64_t device, const void *bytes,
                            size_t size)
{
    return fs_table_hash_bytes(&nodes->by_handle, device, bytes, size);
}

/* A new node gets its handle, taken; NULL: none. */
static void set_handle(struct fs_nodes *nodes, struct fs_node *node, struct fs_handle_bytes *handle)
{
    node->handle = handle;
    if (!handle)
        return;
    fs_table_insert(&nodes->by_handle, &node->by_handle,
                    handle_hash(nodes, node->key.device, handle->bytes, handle->size));
    for (size_t i = 0; i < nodes->mount_count; i++)
        if (nodes->mounts[i].id == node->key.mount)
            node->watched = nodes->mounts[i].watched;
}

/* The file's handle, or NULL when it must be opened by name. */
static struct fs_handle_bytes *handle_of(struct fs_nodes *nodes, int fd, const struct node_key *key)
{
    if (!nodes->handles)
        return NULL;
    (void)pthread_mutex_lock(&nodes->lock);
    int mount = mount_fd(nodes, key->mount, fd, key->type);
    (void)pthread_mutex_unlock(&nodes->lock);
    if (mount < 0)
        return NULL;
    struct {
        struct file_handle head;
        unsigned char bytes[HANDLE_SIZE_MAX];
    } h = {.head.handle_bytes = HANDLE_SIZE_MAX};
    int mount_id;
    if (name_to_handle_at(fd, "", &h.head, &mount_id, AT_EMPTY_PATH) < 0 ||
        h.head.handle_bytes > HANDLE_SIZE_MAX)
        return NULL;
    struct fs_handle_bytes *handle = malloc(sizeof *handle + h.head.handle_bytes);
    if (!handle)
        return NULL;
    handle->size = h.head.handle_bytes;
    handle->type = h.head.handle_type;
    memcpy(handle->bytes, h.bytes, handle->size);
    return handle;
}

static int open_handle(const struct fs_nodes *nodes, int mount,
                       const struct fs_handle_bytes *handle)
{
    struct {
        struct file_handle head;
        unsigned char bytes[HANDLE_SIZE_MAX];
    } h = {.head = {.handle_bytes = handle->size, .handle_type = handle->type}};
    memcpy(h.bytes, handle->bytes, handle->size);
    fs_identity_raise(nodes->identity);
    int fd = open_by_handle_at(mount, &h.head, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    int r = fd < 0 ? -errno : fd;
    fs_identity_lower(nodes->identity);
    return r;
}

/* ---- pins ---- */

/* Opens one node whose folder has an fd. It must still be the same file. */
static int open_node(struct fs_nodes *nodes, struct fs_node *node)
{
    int fd = node->handle
                 ? open_handle(nodes, mount_fd(nodes, node->key.mount, -1, 0), node->handle)
                 : open_step(node->parent->fd, node->name);
    if (fd < 0)
        return fd == -ENOENT ? -ESTALE : fd;
    struct statx st;
    int r = stat_fd(fd, &st);
    struct node_key key = r < 0 ? (struct node_key){0} : key_of(&st);
    if (r == 0 && !key_equal(&key, &node->key))
        r = -ESTALE;
    if (r < 0) {
        (void)close(fd);
        return r;
    }
    node->fd = fd;
    int surplus = node->pins == 0 ? idle_add(nodes, node) : -1;
    if (surplus >= 0) /* not the one just added: fds_max is larger than that */
        (void)close(surplus);
    return 0;
}

/* Opens a pinned node by its place: from the nearest folder above that has an fd or a handle, step
 * by step. Called with the lock held. */
static int open_by_place(struct fs_nodes *nodes, struct fs_node *node)
{
    size_t depth = 0;
    struct fs_node *at = node;
    for (; at->fd < 0 && !at->handle; at = at->parent)
        if (!at->parent || ++depth > REOPEN_DEPTH)
            return -ESTALE;
    BG_AUTOFREE struct fs_node **chain = calloc(depth + 1, sizeof *chain);
    if (!chain)
        return -ENOMEM;
    at = node;
    for (size_t i = 0; i <= depth; i++, at = at->parent)
        chain[i] = at;
    for (size_t i = depth + 1; i > 0; i--) {
        int r = chain[i - 1]->fd < 0 ? open_node(nodes, chain[i - 1]) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

int fs_nodes_get(struct fs_nodes *nodes, uint64_t id, struct fs_pin *ret)
{
    (void)pthread_mutex_lock(&nodes->lock);
    struct fs_node *node = find_id(nodes, id);
    if (!node) {
        (void)pthread_mutex_unlock(&nodes->lock);
        return -ESTALE;
    }
    if (is_idle(nodes, node))
        idle_remove(nodes, node);
    node->pins++;
    int r = 0;
    if (node->fd < 0 && node->handle) {
        int mount = mount_fd(nodes, node->key.mount, -1, 0);
        (void)pthread_mutex_unlock(&nodes->lock); /* may read the disk; the pin keeps the node */
        r = open_handle(nodes, mount, node->handle);
        (void)pthread_mutex_lock(&nodes->lock);
        if (r >= 0 && node->fd < 0)
            node->fd = r;
        else if (r >= 0)
            (void)close(r);
    } else if (node->fd < 0) {
        r = open_by_place(nodes, node);
    }
    if (r >= 0)
        *ret = (struct fs_pin){
            .node = node, .id = id, .fd = node->fd, .type = node->key.type, .hollow = node->hollow};
    (void)pthread_mutex_unlock(&nodes->lock);
    if (r < 0) {
        struct fs_pin pin = {.node = node};
        fs_nodes_put(nodes, &pin);
        return r;
    }
    return 0;
}

struct fs_pin fs_nodes_pin_again(struct fs_nodes *nodes, const struct fs_pin *pin)
{
    (void)pthread_mutex_lock(&nodes->lock);
    pin->node->pins++;
    (void)pthread_mutex_unlock(&nodes->lock);
    return *pin;
}

int fs_nodes_folder(struct fs_nodes *nodes, const struct fs_pin *pin, struct fs_pin *ret)
{
    (void)pthread_mutex_lock(&nodes->lock);
    uint64_t id = pin->node->parent ? pin->node->parent->id : 0; /* 0 is no node */
    (void)pthread_mutex_unlock(&nodes->lock);
    return fs_nodes_get(nodes, id, ret);
}

void fs_nodes_put(struct fs_nodes *nodes, struct fs_pin *pin)
{
    if (!pin->node)
        return;
    (void)pthread_mutex_lock(&nodes->lock);
    struct fs_node *node = pin->node;
    assert(node->pins > 0);
    int surplus = -1;
    if (--node->pins == 0 && is_idle(nodes, node))
        surplus = idle_add(nodes, node);
    drop_unused(nodes, node);
    (void)pthread_mutex_unlock(&nodes->lock);
    if (surplus >= 0)
        (void)close(surplus);
    *pin = (struct fs_pin){.fd = -1};
}

/* ---- operations ---- */

static void hollow_out(struct statx *st)
{
    st->stx_mode = S_IFDIR | 0555;
    st->stx_size = 0;
    st->stx_nlink = 2;
}

uint64_t fs_nodes_ino(const struct fs_pin *pin, uint64_t ino)
{
    return ino ^ pin->node->device_bits;
}

static void show_watched(const struct fs_node *node, struct statx *st)
{
    st->stx_attributes &= ~(uint64_t)FS_NODES_WATCHED;
    if (node->watched)
        st->stx_attributes |= FS_NODES_WATCHED;
}

int fs_nodes_stat(const struct fs_pin *pin, int fd, struct statx *ret)
{
    int r = stat_fd(fd, ret);
    if (r < 0)
        return r;
    ret->stx_ino = fs_nodes_ino(pin, ret->stx_ino);
    show_watched(pin->node, ret);
    if (pin->hollow)
        hollow_out(ret);
    return 0;
}

/* Counts one look-up on what opened (O_PATH) is. name: in folder; NULL: it has none. */
static int enter(struct fs_nodes *nodes, const struct fs_pin *folder, const char *name, int opened,
                 bool keep_fd, uint64_t *ret_id, struct statx *ret_stat)
{
    BG_AUTOCLOSE int fd = opened;
    int r = stat_fd(fd, ret_stat);
    if (r < 0)
        return r;
    struct node_key key = key_of(ret_stat);
    bool crossed = key.mount != folder->node->key.mount || key.device != folder->node->key.device;
    bool hollow = crossed && pseudo(nodes, fd, ret_stat);
    if (hollow && key.type != S_IFDIR)
        return -EACCES;
    BG_AUTOFREE struct fs_handle_bytes *handle = hollow ? NULL : handle_of(nodes, fd, &key);

    int surplus = -1;
    (void)pthread_mutex_lock(&nodes->lock);
    struct fs_node *node = find_key(nodes, &key, handle);
    if (!node) {
        node = node_new(nodes, &key);
        if (node) {
            node->hollow = hollow;
            set_handle(nodes, node, BG_TAKE(handle));
        }
    }
    if (node) {
        node->nlookup++;
        if (name &&
            (!node->handle || key.type == S_IFLNK)) /* where a link is decides where it leads */
            set_place(nodes, node, folder->node, name);
        bool reopens = node->handle || node->parent;
        if (node->fd < 0 && (keep_fd || !reopens)) {
            node->fd = bg_take_fd(&fd);
            if (node->pins == 0)
                surplus = idle_add(nodes, node);
        }
        *ret_id = node->id;
        ret_stat->stx_ino ^= node->device_bits;
        show_watched(node, ret_stat);
    }
    (void)pthread_mutex_unlock(&nodes->lock);
    if (surplus >= 0)
        (void)close(surplus);
    if (!node)
        return -ENOMEM;
    if (hollow)
        hollow_out(ret_stat);
    return 0;
}

int fs_nodes_lookup(struct fs_nodes *nodes, const struct fs_pin *folder, const char *name,
                    bool keep_fd, uint64_t *ret_id, struct statx *ret_stat)
{
    if (folder->hollow)
        return -ENOENT;
    if (folder->type != S_IFDIR)
        return -ENOTDIR;
    int fd = open_step(folder->fd, name);
    return fd < 0 ? fd : enter(nodes, folder, name, fd, keep_fd, ret_id, ret_stat);
}

int fs_nodes_adopt(struct fs_nodes *nodes, const struct fs_pin *folder, int fd, uint64_t *ret_id,
                   struct statx *ret_stat)
{
    char path[32];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int opened = open(path, O_PATH | O_CLOEXEC);
    return opened < 0 ? -errno
                      : enter(nodes, folder, NULL, opened, /* keep_fd= */ true, ret_id, ret_stat);
}

void fs_nodes_forget(struct fs_nodes *nodes, uint64_t id, uint64_t count)
{
    (void)pthread_mutex_lock(&nodes->lock);
    struct fs_node *node = find_id(nodes, id);
    if (node && node != nodes->root) {
        node->nlookup -= count < node->nlookup ? count : node->nlookup;
        drop_unused(nodes, node);
    }
    (void)pthread_mutex_unlock(&nodes->lock);
}

void fs_nodes_moved(struct fs_nodes *nodes, const struct fs_pin *folder, const char *name)
{
    BG_AUTOCLOSE int fd = open_step(folder->fd, name);
    struct statx st;
    if (fd < 0 || stat_fd(fd, &st) < 0)
        return; /* moved on already */
    struct node_key key = key_of(&st);
    BG_AUTOFREE struct fs_handle_bytes *handle = handle_of(nodes, fd, &key);
    if (handle && key.type != S_IFLNK)
        return; /* opened by handle: its place does not matter */
    (void)pthread_mutex_lock(&nodes->lock);
    struct fs_node *node = find_key(nodes, &key, handle);
    if (node)
        set_place(nodes, node, folder->node, name);
    (void)pthread_mutex_unlock(&nodes->lock);
}

uint64_t fs_nodes_find_handle(struct fs_nodes *nodes, uint64_t device, int handle_type,
                              const uint8_t *handle, size_t handle_size)
{
    uint64_t found = 0;
    (void)pthread_mutex_lock(&nodes->lock);
    struct fs_link *link =
        fs_table_first(&nodes->by_handle, handle_hash(nodes, device, handle, handle_size));
    for (; link && found == 0; link = fs_table_next(link)) {
        const struct fs_node *node = FS_LINK_OWNER(link, struct fs_node, by_handle);
        if (node->key.device == device && node->handle->size == handle_size &&
            node->handle->type == handle_type &&
            memcmp(node->handle->bytes, handle, handle_size) == 0)
            found = node->id;
    }
    (void)pthread_mutex_unlock(&nodes->lock);
    return found;
}

int fs_nodes_device(int fd, uint64_t *ret)
{
    struct statx st;
    int r = stat_fd(fd, &st);
    if (r == 0)
        *ret = device_of(&st);
    return r;
}

void fs_nodes_unwatch(struct fs_nodes *nodes)
{
    nodes->watch = NULL;
    nodes->root->watched = false;
    for (size_t i = 0; i < nodes->mount_count; i++)
        nodes->mounts[i].watched = false;
}

int fs_nodes_open(const struct fs_nodes_opts *opts, struct fs_nodes **ret, struct bg_err *err)
{
    assert(opts->fds_max > 2);
    struct fs_nodes *nodes = calloc(1, sizeof *nodes);
    if (!nodes)
        return bg_err_set(err, -ENOMEM, "file server: out of memory");
    (void)pthread_mutex_init(&nodes->lock, NULL); /* cannot fail with these attributes on Linux */
    nodes->fds_max = opts->fds_max;
    static const struct fs_identity as_is = {0};
    nodes->identity = &as_is; /* the caller's thread keeps its own rights */
    nodes->handles = opts->handles;
    nodes->watch = opts->watch;
    nodes->watch_owner = opts->watch_owner;
    nodes->next_id = FS_NODES_ROOT;
    struct stat top, dev;
    if (stat("/", &top) == 0 && stat("/dev", &dev) == 0 && top.st_dev != dev.st_dev)
        nodes->device_files = dev.st_dev;

    int r = fs_table_init(&nodes->by_id);
    if (r == 0)
        r = fs_table_init(&nodes->by_key);
    if (r == 0)
        r = fs_table_init(&nodes->by_handle);
    BG_AUTOCLOSE int fd = r < 0 ? -1 : open(opts->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (r == 0 && fd < 0)
        r = -errno;
    struct statx st;
    if (r == 0)
        r = stat_fd(fd, &st);
    if (r == 0 && pseudo(nodes, fd, &st)) {
        fs_nodes_close(nodes);
        return bg_err_set(err, -EINVAL, "%s: a view into the kernel, not files", opts->root);
    }
    if (r == 0) {
        struct node_key key = key_of(&st);
        nodes->root = node_new(nodes, &key);
        if (!nodes->root)
            r = -ENOMEM;
        else
            nodes->root->fd = bg_take_fd(&fd); /* for good: everything starts here */
        if (r == 0)                            /* none is an answer too */
            set_handle(nodes, nodes->root, handle_of(nodes, nodes->root->fd, &key));
    }
    nodes->identity = opts->identity;
    if (r < 0) {
        fs_nodes_close(nodes);
        return bg_err_errno(err, r, "%s", opts->root);
    }
    *ret = nodes;
    return 0;
}

void fs_nodes_close(struct fs_nodes *nodes)
{
    if (!nodes)
        return;
    size_t cursor = 0;
    if (nodes->by_id.buckets)
        for (struct fs_link *link; (link = fs_table_pop(&nodes->by_id, &cursor));)
            node_free(FS_LINK_OWNER(link, struct fs_node, by_id));
    fs_table_done(&nodes->by_id);
    fs_table_done(&nodes->by_key);
    fs_table_done(&nodes->by_handle);
    for (size_t i = 0; i < nodes->mount_count; i++)
        if (nodes->mounts[i].fd >= 0)
            (void)close(nodes->mounts[i].fd);
    (void)pthread_mutex_destroy(&nodes->lock);
    free(nodes);
}
