#include "fs/relay/tree.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"

static uint64_t place_hash(const struct fs_tree *tree, const struct fs_rnode *parent,
                           const char *name)
{
    return fs_table_hash_bytes(&tree->by_place, parent->id, name, strlen(name));
}

struct fs_rnode *fs_tree_find(const struct fs_tree *tree, uint64_t id)
{
    struct fs_link *link = fs_table_first(&tree->by_id, fs_table_hash(&tree->by_id, id));
    for (; link; link = fs_table_next(link)) {
        struct fs_rnode *node = FS_LINK_OWNER(link, struct fs_rnode, by_id);
        if (node->id == id)
            return node;
    }
    return NULL;
}

struct fs_rnode *fs_tree_find_place(const struct fs_tree *tree, const struct fs_rnode *parent,
                                    const char *name)
{
    struct fs_link *link = fs_table_first(&tree->by_place, place_hash(tree, parent, name));
    for (; link; link = fs_table_next(link)) {
        struct fs_rnode *node = FS_LINK_OWNER(link, struct fs_rnode, by_place);
        if (node->parent == parent && strcmp(node->name, name) == 0)
            return node;
    }
    return NULL;
}

static struct fs_peer *find_peer(const struct fs_tree *tree, uint64_t id)
{
    struct fs_link *link = fs_table_first(&tree->peers, fs_table_hash(&tree->peers, id));
    for (; link; link = fs_table_next(link)) {
        struct fs_peer *peer = FS_LINK_OWNER(link, struct fs_peer, link);
        if (peer->id == id)
            return peer;
    }
    return NULL;
}

struct fs_rnode *fs_tree_find_server(const struct fs_tree *tree, uint64_t server_id)
{
    const struct fs_peer *peer = server_id == 0 ? NULL : find_peer(tree, server_id);
    return peer ? peer->single : NULL;
}

/* ---- places ---- */

static void unplace(struct fs_tree *tree, struct fs_rnode *node)
{
    if (node->placed)
        fs_table_remove(&tree->by_place, &node->by_place);
    node->placed = false;
}

/* node->parent and node->name are set. */
static void place(struct fs_tree *tree, struct fs_rnode *node)
{
    fs_table_insert(&tree->by_place, &node->by_place, place_hash(tree, node->parent, node->name));
    node->placed = true;
}

void fs_tree_stale(struct fs_tree *tree, struct fs_rnode *node)
{
    node->stale = true;
    unplace(tree, node);
    if (node->peer->single == node)
        node->peer->single = NULL;
}

unsigned fs_tree_depth(const struct fs_rnode *folder)
{
    unsigned depth = 0;
    for (; folder->parent; folder = folder->parent)
        depth++;
    return depth;
}

bool fs_tree_is_below(const struct fs_rnode *node, const struct fs_rnode *top)
{
    for (; node; node = node->parent)
        if (node == top)
            return true;
    return false;
}

/* ---- life ---- */

static void peer_drop(struct fs_tree *tree, struct fs_peer *peer)
{
    if (peer->nodes > 0)
        return;
    if (!peer->lost) {
        fs_table_remove(&tree->peers, &peer->link);
        if (peer->nlookup > 0)
            tree->on_forget(tree->owner, peer->id, peer->nlookup);
    }
    free(peer);
}

/* Frees the node, and then the parents that only it held, when nothing refers to them any more. */
static void drop_unused(struct fs_tree *tree, struct fs_rnode *node)
{
    while (node && node != tree->root && node->nlookup == 0 && node->refs == 0) {
        struct fs_rnode *parent = node->parent;
        unplace(tree, node);
        fs_table_remove(&tree->by_id, &node->by_id);
        if (node->peer->single == node)
            node->peer->single = NULL;
        node->peer->nodes--;
        peer_drop(tree, node->peer);
        free(node->gather);
        free(node->name);
        free(node);
        if (parent)
            parent->refs--;
        node = parent;
    }
}

void fs_tree_ref(struct fs_rnode *node)
{
    node->refs++;
}

void fs_tree_unref(struct fs_tree *tree, struct fs_rnode *node)
{
    if (!node)
        return;
    assert(node->refs > 0);
    node->refs--;
    drop_unused(tree, node);
}

void fs_tree_forget(struct fs_tree *tree, struct fs_rnode *node, uint64_t count)
{
    node->nlookup -= count < node->nlookup ? count : node->nlookup;
    drop_unused(tree, node);
}

static struct fs_peer *peer_new(struct fs_tree *tree, uint64_t id)
{
    struct fs_peer *peer = calloc(1, sizeof *peer);
    if (peer) {
        peer->id = id;
        fs_table_insert(&tree->peers, &peer->link, fs_table_hash(&tree->peers, id));
    }
    return peer;
}

/* parent and name: NULL for the root. */
static struct fs_rnode *node_new(struct fs_tree *tree, struct fs_peer *peer,
                                 struct fs_rnode *parent, const char *name,
                                 const struct fs_tree_entry *entry)
{
    struct fs_rnode *node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    if (parent) {
        node->name = strdup(name);
        if (!node->name) {
            free(node);
            return NULL;
        }
        node->parent = parent;
        parent->refs++;
        if (entry->type != S_IFREG)
            place(tree, node);
    }
    node->id = tree->next_id++;
    node->ino = entry->ino;
    node->type = entry->type;
    node->special = entry->special;
    node->peer = peer;
    peer->nodes++;
    if (node->type != S_IFLNK)
        peer->single = node;
    fs_table_insert(&tree->by_id, &node->by_id, fs_table_hash(&tree->by_id, node->id));
    return node;
}

void fs_tree_seen_at(struct fs_tree *tree, struct fs_rnode *file, struct fs_rnode *parent,
                     const char *name)
{
    if (file->placed || (file->parent == parent && strcmp(file->name, name) == 0))
        return;
    char *copy = strdup(name);
    if (!copy)
        return; /* the older place stands: it may be found there, or is another file */
    struct fs_rnode *before = file->parent;
    free(file->name);
    file->name = copy;
    file->parent = parent;
    parent->refs++;
    fs_tree_unref(tree, before);
}

static bool matches(const struct fs_rnode *node, const struct fs_tree_entry *entry)
{
    return !node->stale && node->type == entry->type && node->special == entry->special &&
           node->ino == entry->ino;
}

bool fs_tree_same(struct fs_tree *tree, struct fs_rnode *node, const struct fs_tree_entry *seen)
{
    if (matches(node, seen))
        return true;
    if (node != tree->root)
        fs_tree_stale(tree, node);
    return false;
}

/* Whether this entry may be here at all. */
static int check_entry(const struct fs_rnode *parent, const struct fs_tree_entry *entry)
{
    if (entry->server_id == 0)
        return -EIO;
    if (entry->server_id == FS_TREE_ROOT)
        return -ELOOP;
    if (entry->type != S_IFDIR)
        return 0;
    for (const struct fs_rnode *at = parent; at; at = at->parent)
        if (at->peer->id == entry->server_id)
            return -ELOOP;
    return fs_tree_depth(parent) + 1 > BG_FS_DEPTH_MAX ? -ENAMETOOLONG : 0;
}

int fs_tree_enter(struct fs_tree *tree, struct fs_rnode *parent, const char *name,
                  const struct fs_tree_entry *entry, struct fs_rnode **ret)
{
    struct fs_peer *peer = entry->server_id == 0 ? NULL : find_peer(tree, entry->server_id);
    int r = check_entry(parent, entry);
    if (r == 0 && !peer) {
        peer = peer_new(tree, entry->server_id);
        if (!peer)
            r = -ENOMEM;
    }
    if (r < 0) {
        if (peer)
            peer->nlookup++; /* given back with the rest */
        else if (entry->server_id != 0)
            tree->on_forget(tree->owner, entry->server_id, 1);
        return r;
    }
    peer->nlookup++;

    bool by_place = entry->type != S_IFREG;
    struct fs_rnode *there = fs_tree_find_place(tree, parent, name);
    struct fs_rnode *node = by_place ? there : peer->single;
    if (node && (node->peer != peer || !matches(node, entry)))
        node = NULL;
    if (!node) {
        /* Something else is here now, or this folder is not where it was. */
        if (there)
            fs_tree_stale(tree, there);
        if (entry->type != S_IFLNK && peer->single)
            fs_tree_stale(tree, peer->single);
        if (tree->by_id.count >= tree->count_max)
            r = -ENFILE;
        else
            node = node_new(tree, peer, parent, name, entry);
    } else if (there && there != node) {
        fs_tree_stale(tree, there); /* a file took the place of a folder or link */
    }
    if (node && !by_place)
        fs_tree_seen_at(tree, node, parent, name);
    if (!node) {
        peer_drop(tree, peer);
        return r < 0 ? r : -ENOMEM;
    }
    node->nlookup++;
    *ret = node;
    return 0;
}

/* ---- another server ---- */

void fs_tree_unbind(struct fs_tree *tree)
{
    size_t cursor = 0;
    struct fs_peer *root = tree->root->peer;
    for (struct fs_link *link; (link = fs_table_pop(&tree->peers, &cursor));) {
        struct fs_peer *peer = FS_LINK_OWNER(link, struct fs_peer, link);
        peer->nlookup = 0;
        peer->lost = peer != root;
    }
    fs_table_insert(&tree->peers, &root->link, fs_table_hash(&tree->peers, root->id));
}

bool fs_tree_is_bound(const struct fs_rnode *node)
{
    return !node->peer->lost;
}

int fs_tree_bind(struct fs_tree *tree, struct fs_rnode *node, const struct fs_tree_entry *entry)
{
    assert(!fs_tree_is_bound(node) && fs_tree_is_bound(node->parent));
    struct fs_peer *peer = entry->server_id == 0 ? NULL : find_peer(tree, entry->server_id);
    bool fits = !node->stale && matches(node, entry) && check_entry(node->parent, entry) == 0 &&
                (!peer || !peer->single);
    int r = fits ? 0 : -ESTALE;
    if (fits && !peer) {
        peer = peer_new(tree, entry->server_id);
        r = peer ? 0 : -ENOMEM;
    }
    if (peer)
        peer->nlookup++;
    else if (entry->server_id != 0)
        tree->on_forget(tree->owner, entry->server_id, 1);
    if (r < 0) {
        fs_tree_stale(tree, node);
        return r;
    }
    node->peer->nodes--;
    peer_drop(tree, node->peer);
    node->peer = peer;
    peer->nodes++;
    if (node->type != S_IFLNK)
        peer->single = node;
    return 0;
}

void fs_tree_set_aside(struct fs_rnode *file)
{
    file->unnamed = true;
    if (file->peer->single == file)
        file->peer->single = NULL;
}

void fs_tree_removed(struct fs_tree *tree, struct fs_rnode *parent, const char *name)
{
    struct fs_rnode *node = fs_tree_find_place(tree, parent, name);
    if (node)
        unplace(tree, node); /* processes may still be in it */
}

static void move_to(struct fs_tree *tree, struct fs_rnode *node, struct fs_rnode *parent,
                    const char *name)
{
    char *copy = strdup(name);
    /* The kernel does not move a folder into itself; if the server made it look so, or there is no
     * memory for the name, the node must be found anew. So must a link that has got deeper: who
     * found it at its old place and reads it now would be given what is right at the new one. */
    bool link_deeper = node->type == S_IFLNK && fs_tree_depth(parent) > fs_tree_depth(node->parent);
    if (!copy || link_deeper || fs_tree_is_below(parent, node)) {
        free(copy);
        fs_tree_stale(tree, node);
        return;
    }
    unplace(tree, node);
    struct fs_rnode *before = node->parent;
    free(node->name);
    node->name = copy;
    node->parent = parent;
    parent->refs++;
    place(tree, node);
    fs_tree_unref(tree, before);
}

void fs_tree_moved(struct fs_tree *tree, struct fs_rnode *from, const char *from_name,
                   struct fs_rnode *to, const char *to_name, bool exchange)
{
    struct fs_rnode *moved = fs_tree_find_place(tree, from, from_name);
    struct fs_rnode *other = fs_tree_find_place(tree, to, to_name);
    if (moved == other)
        return;
    if (other)
        unplace(tree, other);
    if (moved)
        move_to(tree, moved, to, to_name);
    if (other && exchange)
        move_to(tree, other, from, from_name);
}

int fs_tree_init(struct fs_tree *tree, size_t count_max)
{
    *tree = (struct fs_tree){.next_id = FS_TREE_ROOT, .count_max = count_max};
    int r = fs_table_init(&tree->by_id);
    if (r == 0)
        r = fs_table_init(&tree->by_place);
    if (r == 0)
        r = fs_table_init(&tree->peers);
    struct fs_peer *peer = r == 0 ? peer_new(tree, FS_TREE_ROOT) : NULL;
    struct fs_tree_entry entry = {.server_id = FS_TREE_ROOT, .type = S_IFDIR};
    if (peer)
        tree->root = node_new(tree, peer, NULL, NULL, &entry);
    if (!tree->root) {
        fs_tree_done(tree);
        return -ENOMEM;
    }
    tree->root->refs = 1;
    return 0;
}

void fs_tree_done(struct fs_tree *tree)
{
    size_t cursor = 0;
    if (tree->by_id.buckets)
        for (struct fs_link *link; (link = fs_table_pop(&tree->by_id, &cursor));) {
            struct fs_rnode *node = FS_LINK_OWNER(link, struct fs_rnode, by_id);
            if (node->peer->lost && --node->peer->nodes == 0)
                free(node->peer); /* not in the table */
            free(node->gather);
            free(node->name);
            free(node);
        }
    cursor = 0;
    if (tree->peers.buckets)
        for (struct fs_link *link; (link = fs_table_pop(&tree->peers, &cursor));)
            free(FS_LINK_OWNER(link, struct fs_peer, link));
    fs_table_done(&tree->by_id);
    fs_table_done(&tree->by_place);
    fs_table_done(&tree->peers);
}
