/* The relay's own nodes: what the kernel's node ids mean. Ids count up and are never used twice;
 * the server's ids are only ever on the other side of this table.
 *
 * A folder or a link is one node for each place (folder and name): if the server shows one at
 * another place, that is a new node, and the old one of a folder is stale. So the kernel moves a
 * folder only when the host renames it, no folder is ever at two places or inside itself, and where
 * a link stands is known. A regular file is one node for each server id, since its names share the
 * page cache. Whatever changes its type or inode number under one id is stale.
 *
 * When the server has gone, its ids mean nothing any more: all nodes but the root are unbound,
 * until another server of the same folder has shown the same file at the same place.
 * Single-threaded. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "fs/table.h"

#define FS_TREE_ROOT 1u /* the root's id on both sides */

/* One of the server's ids, and how often it was handed out to us. */
struct fs_peer {
    struct fs_link link;
    uint64_t id;
    uint64_t nlookup;
    unsigned nodes;
    struct fs_rnode *single; /* the live regular file or folder that it is; NULL for links */
    bool lost;               /* of a server that has gone: not in the table */
};

struct fs_rnode {
    struct fs_link by_id, by_place;
    uint64_t id;
    uint64_t ino;
    mode_t type;      /* S_IFREG, S_IFDIR, S_IFLNK; for good */
    bool special;     /* shown as an empty file that cannot be opened */
    bool stale;       /* every request on it fails */
    bool unnamed;     /* was renamed to a guarded name: not to be opened by it */
    bool guarded;     /* a file that was found at a guarded place */
    uint8_t signs;    /* enum guard_sign: of a folder, what has been seen in it */
    bool locked;      /* somebody on the host has had a POSIX lock on it */
    bool placed;      /* in by_place: folders and links where they were last seen */
    bool covered;     /* changes that others make to it are told */
    bool opened;      /* filled has a value */
    bool touching;    /* an echo of its own attributes waits */
    bool seen, wrote; /* the three seen_* have values; the kernel's own writes have changed them */
    uint32_t writes, synced;   /* done so far; how many of them by the last good FSYNC */
    unsigned changes;          /* made through this mount; wraps */
    uint64_t nlookup;          /* the kernel's references */
    unsigned refs;             /* ours: children, handles, requests in flight */
    unsigned echoes;           /* that wait in this folder */
    unsigned writing;          /* requests in flight that change its contents */
    uint64_t wrote_before;     /* requests from this number on were sent after the last of those */
    uint64_t changed, touched; /* numbers of the last changes: contents or names; anything */
    uint64_t walked;           /* by changes.c, when everything might have changed: that number */
    uint64_t filled;           /* the kernel's cache of its contents is no older than this */
    uint64_t readable; /* 1 + the last change when the server was asked to open it for reading, and
                          did; 0: never */
    uint64_t seen_size, seen_mtime, seen_mtime_ns;
    struct fs_gather *gather; /* gather.h; NULL until it is written to; freed with the node */
    struct fs_peer *peer;
    struct fs_rnode *parent; /* where it was last seen; referenced. NULL: the root */
    char *name;
};

struct fs_tree {
    struct fs_table by_id, by_place, peers;
    struct fs_rnode *root;
    uint64_t next_id;
    size_t count_max;
    /* The server's references are given back here. Called from any function below. */
    void (*on_forget)(void *owner, uint64_t server_id, uint64_t count);
    void *owner;
};

/* Errors: -ENOMEM. */
int fs_tree_init(struct fs_tree *tree, size_t count_max) BG_MUST_CHECK;
void fs_tree_done(struct fs_tree *tree); /* gives nothing back: the stream is gone */

/* NULL: no such node. */
struct fs_rnode *fs_tree_find(const struct fs_tree *tree, uint64_t id);
/* The regular file or folder with this id of the server's; NULL: none, also for links. */
struct fs_rnode *fs_tree_find_server(const struct fs_tree *tree, uint64_t server_id);
/* The folder or link that was last seen there; NULL: none. */
struct fs_rnode *fs_tree_find_place(const struct fs_tree *tree, const struct fs_rnode *parent,
                                    const char *name);

/* What the server said that it is. */
struct fs_tree_entry {
    uint64_t server_id, ino;
    mode_t type; /* S_IFREG, S_IFDIR, S_IFLNK */
    bool special;
};

/* The server has answered with an entry for name in parent, which is one reference to server_id: it
 * is kept or given back here in every case. On success the kernel gets one reference to *ret.
 * Errors: -EIO id 0; -ELOOP the root, or a folder inside itself; -ENAMETOOLONG too deep; -ENFILE
 * too many nodes; -ENOMEM. */
int fs_tree_enter(struct fs_tree *tree, struct fs_rnode *parent, const char *name,
                  const struct fs_tree_entry *entry, struct fs_rnode **ret) BG_MUST_CHECK;

/* Attributes of a node came: marks it stale and returns false when they are another file's. */
bool fs_tree_same(struct fs_tree *tree, struct fs_rnode *node, const struct fs_tree_entry *seen);

/* Takes back count of the kernel's references. */
void fs_tree_forget(struct fs_tree *tree, struct fs_rnode *node, uint64_t count);

/* The server has gone: nothing is given back to it, every node but the root is unbound. */
void fs_tree_unbind(struct fs_tree *tree);
bool fs_tree_is_bound(const struct fs_rnode *node);

/* The new server has answered with an entry for the unbound node's name in its parent, which is
 * bound. Binds the node, or marks it stale when that is another file. The server's reference is
 * kept or given back. Errors: -ESTALE; -ENOMEM. */
int fs_tree_bind(struct fs_tree *tree, struct fs_rnode *node,
                 const struct fs_tree_entry *entry) BG_MUST_CHECK;

/* Nothing is known of the node any more. Not the root. */
void fs_tree_stale(struct fs_tree *tree, struct fs_rnode *node);

/* Notes where a file was moved to. Folders and links are moved by fs_tree_moved. */
void fs_tree_seen_at(struct fs_tree *tree, struct fs_rnode *file, struct fs_rnode *parent,
                     const char *name);

/* Our own references. */
void fs_tree_ref(struct fs_rnode *node);
void fs_tree_unref(struct fs_tree *tree, struct fs_rnode *node); /* NULL: no-op */

/* The host has removed the name, or moved it; exchange: what was at the new place is at the old
 * one. */
void fs_tree_removed(struct fs_tree *tree, struct fs_rnode *parent, const char *name);
void fs_tree_moved(struct fs_tree *tree, struct fs_rnode *from, const char *from_name,
                   struct fs_rnode *to, const char *to_name, bool exchange);

/* The host has renamed a file to a guarded name: the kernel's node stands for it no more, and when
 * the server shows the file somewhere else, that is another node. */
void fs_tree_set_aside(struct fs_rnode *file);

/* How many folders a folder is below the root. */
unsigned fs_tree_depth(const struct fs_rnode *folder);

/* True when a part of the tree is at or above node. */
bool fs_tree_is_below(const struct fs_rnode *node, const struct fs_rnode *top);
