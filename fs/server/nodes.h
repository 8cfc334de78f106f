/* The server's inodes: what node ids mean.
 *
 * A node is a file that the client knows: found by LOOKUP, kept until it is forgotten as often as
 * it was found. Its id comes from a counter and is never used twice. Its key is (device, inode,
 * mount, birth time) and, where the file system has them, the file handle with its generation, so
 * an inode number that the file system uses again is another node.
 *
 * A node has no fd of its own for long: a tree has more files than a process may have fds. O_PATH
 * fds are opened on use and at most fds_max of those not in use are kept, the oldest is closed. A
 * node is opened again by its file handle (root) or else by its name in the folder where it was
 * last seen; a file that is another one by then is ESTALE.
 *
 * Pseudo file systems (/proc, /sys, /dev ...) are hollow: an empty folder stands for them.
 * Thread-safe. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/err.h"
#include "fs/server/identity.h"

#define FS_NODES_ROOT 1u /* id of the folder that is served */

struct fs_nodes;
struct fs_node;

/* A node in use: fd stays open and node valid until fs_nodes_put. */
struct fs_pin {
    struct fs_node *node;
    uint64_t id;
    int fd;      /* O_PATH */
    mode_t type; /* S_IFMT bits */
    bool hollow;
};

struct fs_nodes_opts {
    const char *root;
    size_t fds_max; /* not in use; > 2 */
    bool handles;   /* we have the right to open by file handle (CAP_DAC_READ_SEARCH) */
    /* Begins to watch the file system that fd is on; false: it cannot be. NULL: none are. */
    bool (*watch)(void *watch_owner, int fd);
    void *watch_owner;
    const struct fs_identity *identity; /* borrowed until close */
};

/* Errors: errno of opening root; -ENOTDIR; -EINVAL root is in a pseudo file system; -ENOMEM. */
int fs_nodes_open(const struct fs_nodes_opts *opts, struct fs_nodes **ret,
                  struct bg_err *err) BG_MUST_CHECK;
void fs_nodes_close(struct fs_nodes *nodes);

/* Watching is not wanted after all. Before the first request. */
void fs_nodes_unwatch(struct fs_nodes *nodes);

/* Among the attributes of a file (stx_attributes, no bit of the kernel's): whoever changes it, the
 * change is told, to the file's node and to its folder's. */
#define FS_NODES_WATCHED (1ull << 63)

/* The node that the client has of the file with this handle, on that device (fs_nodes_device); 0:
 * none. */
uint64_t fs_nodes_find_handle(struct fs_nodes *nodes, uint64_t device, int handle_type,
                              const uint8_t *handle, size_t handle_size);
int fs_nodes_device(int fd, uint64_t *ret) BG_MUST_CHECK;

/* Pins a node. Errors: -ESTALE unknown, or the file is no longer there; errno of opening. */
int fs_nodes_get(struct fs_nodes *nodes, uint64_t id, struct fs_pin *ret) BG_MUST_CHECK;
/* Pins the folder where the node, a symbolic link, was last seen. Errors: as fs_nodes_get. */
int fs_nodes_folder(struct fs_nodes *nodes, const struct fs_pin *pin,
                    struct fs_pin *ret) BG_MUST_CHECK;
/* One more pin on a pinned node. */
struct fs_pin fs_nodes_pin_again(struct fs_nodes *nodes, const struct fs_pin *pin);
void fs_nodes_put(struct fs_nodes *nodes, struct fs_pin *pin);

/* Finds name (checked to be one component) in the folder and counts one look-up on it. keep_fd: it
 * will be used soon. *ret_stat is as fs_nodes_stat gives. Errors: errno of openat2, statx. */
int fs_nodes_lookup(struct fs_nodes *nodes, const struct fs_pin *folder, const char *name,
                    bool keep_fd, uint64_t *ret_id, struct statx *ret_stat) BG_MUST_CHECK;

/* As fs_nodes_lookup for a file without a name, made in folder and open as fd. Where files have no
 * handles the node lives while it is pinned, or until its fd is closed as an idle one. */
int fs_nodes_adopt(struct fs_nodes *nodes, const struct fs_pin *folder, int fd, uint64_t *ret_id,
                   struct statx *ret_stat) BG_MUST_CHECK;

/* Attributes as the client shall see them. fd: of pin, or of an open file of it. */
int fs_nodes_stat(const struct fs_pin *pin, int fd, struct statx *ret) BG_MUST_CHECK;

/* The inode number that the client shall see for one that is on the file system of pin. Those of
 * the root's file system are unchanged; others are told apart by their upper bits, since the client
 * sees one file system only. */
uint64_t fs_nodes_ino(const struct fs_pin *pin, uint64_t ino);

/* Takes back count look-ups. Unknown ids and too large counts: as much as there is. */
void fs_nodes_forget(struct fs_nodes *nodes, uint64_t id, uint64_t count);

/* The client has moved something to this name. */
void fs_nodes_moved(struct fs_nodes *nodes, const struct fs_pin *folder, const char *name);
