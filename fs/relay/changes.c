#include "fs/relay/changes.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/proto/change.h"
#include "fs/relay/echo.h"

#define VALID_SECONDS        1u /* without a feed */
#define VALID_LONG_SECONDS   60u
#define VALID_ABSENT_SECONDS 5u
#define WALK_INTERVAL_MS     1000u /* a server that loses changes all the time costs one walk in it */

/* ---- what the kernel must forget ---- */

static void notify(struct fs_relay *relay, const struct fs_notice *notice)
{
    if (!relay->opts.notify(relay->opts.owner, notice))
        fs_changes_all(relay);
}

static void forget_attributes(struct fs_relay *relay, const struct fs_rnode *node)
{
    const struct fs_notice notice = {.node = node->id};
    notify(relay, &notice);
}

static void forget_contents(struct fs_relay *relay, const struct fs_rnode *node)
{
    const struct fs_notice notice = {.node = node->id, .contents = true};
    notify(relay, &notice);
}

static void forget_name(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                        size_t size)
{
    const struct fs_notice notice = {.node = folder->id, .name = name, .name_size = size};
    notify(relay, &notice);
}

/* Contents: of a file, or the names in a folder. */
static void contents_changed(struct fs_relay *relay, struct fs_rnode *node)
{
    node->changed = node->touched = ++relay->changes.number;
    forget_contents(relay, node);
}

/* ---- what has changed ---- */

static void name_changed(struct fs_relay *relay, uint64_t server_folder, const char *name,
                         size_t size)
{
    struct fs_rnode *folder = fs_tree_find_server(&relay->tree, server_folder);
    if (!folder)
        return;
    contents_changed(relay, folder);
    forget_name(relay, folder, name, size);
}

/* The node that a record is about; NULL when it is none of ours. */
static struct fs_rnode *target_of(struct fs_relay *relay, const struct fs_change *change)
{
    struct fs_rnode *node = fs_tree_find_server(&relay->tree, change->node);
    if (node || !change->name)
        return node;
    /* A symbolic link has a node for each of its places. */
    const struct fs_rnode *folder = fs_tree_find_server(&relay->tree, change->folder);
    char name[BG_FS_NAME_MAX + 1];
    memcpy(name, change->name, change->name_size);
    name[change->name_size] = '\0';
    return folder ? fs_tree_find_place(&relay->tree, folder, name) : NULL;
}

static void apply(struct fs_relay *relay, const struct fs_change *change)
{
    if (change->kinds == FS_CHANGE_EVERYTHING || change->kinds == FS_CHANGE_ENDED) {
        if (change->kinds == FS_CHANGE_ENDED)
            relay->changes.told = false;
        fs_changes_all(relay);
        return;
    }
    const uint32_t names = FS_CHANGE_CREATED | FS_CHANGE_MOVED | FS_CHANGE_DELETED;
    const uint32_t contents = FS_CHANGE_MODIFIED | FS_CHANGE_WRITTEN;
    if (change->kinds & names) {
        if (change->folder != 0)
            name_changed(relay, change->folder, change->name, change->name_size);
        if (change->folder2 != 0)
            name_changed(relay, change->folder2, change->name2, change->name2_size);
    }
    struct fs_rnode *node = target_of(relay, change);
    if (node && (change->kinds & contents) && node->type == S_IFREG) {
        contents_changed(relay, node);
    } else if (node) {
        node->touched = ++relay->changes.number;
        forget_attributes(relay, node); /* links and times change with names too */
    } else if (change->node != 0) {
        /* Known there and not here: an answer on its way will bring it. */
        relay->changes.unknown = ++relay->changes.number;
    } else if (change->folder != 0) {
        struct fs_rnode *folder = fs_tree_find_server(&relay->tree, change->folder);
        if (folder)
            folder->touched = ++relay->changes.number; /* for look-ups that are under way */
    }
}

/* Whether this many more records may be looked at. */
static bool within_rate(struct fs_relay *relay, uint64_t now_ms)
{
    struct fs_changes *changes = &relay->changes;
    if (now_ms - changes->second_ms >= 1000) {
        changes->second_ms = now_ms;
        changes->in_second = 0;
    }
    return ++changes->in_second <= BG_FS_CHANGES_RATE;
}

int fs_changes_take(struct fs_relay *relay, const uint8_t *bytes, size_t size, uint64_t now_ms,
                    struct bg_err *err)
{
    struct bg_reader records;
    if (!relay->changes.agreed)
        return bg_err_set(err, -EPROTO, "changes that nobody asked for");
    int r = fs_changes_open(bytes, size, &records, err);
    struct fs_change change;
    while (r == 0 && (r = fs_changes_next(&records, &change, err)) > 0) {
        if (!within_rate(relay, now_ms)) {
            fs_changes_all(relay);
            return 0;
        }
        apply(relay, &change);
        fs_echo_add(relay, &change, now_ms);
        r = 0;
    }
    return r;
}

/* ---- how long ---- */

static bool is_fresh(const struct fs_relay *relay, const struct fs_pending *pending,
                     const struct fs_rnode *node)
{
    uint64_t sent = pending->change_number;
    return node->touched <= sent && relay->changes.all <= sent;
}

/* Seconds for what is known of node, if nothing else speaks against it. */
static uint64_t seconds_for(const struct fs_relay *relay, const struct fs_rnode *node,
                            uint64_t covered)
{
    bool fed = relay->changes.told && relay->changes.walk == FS_WALK_NONE && node->covered;
    return fed ? covered : VALID_SECONDS;
}

/* Sees by size and time that somebody has changed the file without an event, as one does through a
 * mapping. Our own writes, which change them too, are told apart by their time. */
static void look_for_change(struct fs_relay *relay, const struct fs_pending *pending,
                            struct fs_rnode *node, const struct fs_attr *attr)
{
    if (node->type != S_IFREG)
        return;
    bool differs =
        node->seen && (node->seen_size != attr->size || node->seen_mtime != attr->mtime ||
                       node->seen_mtime_ns != attr->mtime_ns);
    bool settled = node->writing == 0 && pending->unique >= node->wrote_before;
    if (differs && !node->wrote && relay->changes.agreed)
        contents_changed(relay, node);
    node->seen = true;
    node->seen_size = attr->size;
    node->seen_mtime = attr->mtime;
    node->seen_mtime_ns = attr->mtime_ns;
    if (settled)
        node->wrote = false;
}

void fs_changes_date(struct fs_relay *relay, const struct fs_pending *pending,
                     struct fs_rnode *node, const struct fs_rnode *folder, struct fs_reply *reply)
{
    node->covered = reply->attr_valid != 0; /* the server says so by any number */
    uint64_t seconds = seconds_for(relay, node, VALID_LONG_SECONDS);
    bool fresh = is_fresh(relay, pending, node);
    look_for_change(relay, pending, node, &reply->attr);
    if (folder)
        fresh = fresh && is_fresh(relay, pending, folder) &&
                relay->changes.unknown <= pending->change_number;
    reply->attr_valid = fresh ? seconds : 0;
    /* While an echo waits there, the kernel must not be sure of names that it will make or take. */
    reply->entry_valid = folder && fresh && folder->echoes == 0 ? seconds : 0;
    /* Older kernels cannot be told to forget all names at once; those of files right below the top
     * are the ones that the walk does not reach. */
    if (reply->entry_valid > VALID_SECONDS && folder == relay->tree.root && node->type == S_IFREG &&
        !relay->changes.epochs)
        reply->entry_valid = VALID_SECONDS;
    reply->attr_valid_ns = reply->entry_valid_ns = 0;
}

uint64_t fs_changes_date_absence(const struct fs_relay *relay, const struct fs_pending *pending)
{
    const struct fs_rnode *folder = pending->node;
    bool fed = seconds_for(relay, folder, VALID_LONG_SECONDS) == VALID_LONG_SECONDS;
    return fed && is_fresh(relay, pending, folder) && folder->echoes == 0 ? VALID_ABSENT_SECONDS
                                                                          : 0;
}

/* Whether the kernel's cache of its contents may stay; seconds_for says for how long one is good.
 */
static bool is_filled(const struct fs_relay *relay, const struct fs_rnode *node)
{
    return node->opened && node->changed <= node->filled && relay->changes.all <= node->filled;
}

bool fs_changes_is_known(const struct fs_relay *relay, const struct fs_rnode *node)
{
    return seconds_for(relay, node, VALID_LONG_SECONDS) == VALID_LONG_SECONDS &&
           is_filled(relay, node) && node->touched < node->readable;
}

uint64_t fs_changes_open_flags(struct fs_relay *relay, const struct fs_pending *pending,
                               struct fs_rnode *node)
{
    uint64_t flags = node->type == S_IFDIR ? FOPEN_CACHE_DIR : 0;
    if (seconds_for(relay, node, VALID_LONG_SECONDS) != VALID_LONG_SECONDS)
        return 0;
    if ((pending->flags & O_ACCMODE) != O_WRONLY)
        node->readable = pending->change_number + 1;
    if (is_fresh(relay, pending, node) && is_filled(relay, node))
        return flags | FOPEN_KEEP_CACHE;
    /* The kernel drops what it has; what it reads from here on is as new as this number. */
    node->opened = true;
    node->filled = pending->change_number;
    return flags;
}

void fs_changes_filled(struct fs_relay *relay, const struct fs_pending *pending)
{
    if (relay->changes.told && !is_fresh(relay, pending, pending->node))
        contents_changed(relay, pending->node);
}

void fs_changes_wrote(struct fs_relay *relay, const struct fs_pending *pending)
{
    /* The kernel keeps what it appends where it thinks that the end was. When others write there
     * too, the server may have put it elsewhere. */
    if (relay->changes.agreed && (pending->flags & O_APPEND) && pending->node->changed != 0)
        contents_changed(relay, pending->node);
}

void fs_changes_write_begins(struct fs_pending *pending)
{
    bool changes = false;
    switch (pending->opcode) {
    case FUSE_WRITE:
    case FUSE_FALLOCATE:
    case FUSE_COPY_FILE_RANGE:
    case FUSE_SETATTR:
        changes = true;
        break;
    case FUSE_OPEN:
        changes = pending->flags & O_TRUNC;
        break;
    default:
        break;
    }
    pending->written = !changes                                  ? NULL
                       : pending->opcode == FUSE_COPY_FILE_RANGE ? pending->node2
                                                                 : pending->node;
    if (pending->written) {
        pending->written->writing++;
        pending->written->wrote = true;
    }
}

void fs_changes_write_ended(const struct fs_relay *relay, const struct fs_pending *pending)
{
    if (!pending->written)
        return;
    pending->written->writing--;
    pending->written->wrote_before = relay->next_unique;
}

/* ---- everything ---- */

void fs_changes_all(struct fs_relay *relay)
{
    struct fs_changes *changes = &relay->changes;
    changes->all = ++changes->number;
    changes->walk = FS_WALK_WAITS;
}

/* Returns false when there is no room for another notice. */
static bool walk_node(struct fs_relay *relay, struct fs_rnode *node)
{
    if (node->walked == relay->changes.all)
        return true; /* on the way here before there was no room */
    const struct fs_notice itself = {.node = node->id, .contents = true};
    if (!relay->opts.notify(relay->opts.owner, &itself))
        return false;
    /* Takes the names below it out of the kernel's cache too. */
    if (!relay->changes.epochs && node->placed) {
        const struct fs_notice name = {
            .node = node->parent->id, .name = node->name, .name_size = strlen(node->name)};
        if (!relay->opts.notify(relay->opts.owner, &name))
            return false;
    }
    node->walked = relay->changes.all;
    return true;
}

bool fs_changes_walk(struct fs_relay *relay, uint64_t now_ms)
{
    struct fs_changes *changes = &relay->changes;
    const struct fs_table *nodes = &relay->tree.by_id;
    if (changes->walk == FS_WALK_NONE)
        return false;
    if (changes->walk == FS_WALK_WAITS) {
        const struct fs_notice names = {.all_names = true};
        if (now_ms - changes->walked_ms < WALK_INTERVAL_MS ||
            !relay->opts.notify(relay->opts.owner, &names))
            return true;
        changes->walk = FS_WALK_RUNS;
        changes->walked_ms = now_ms;
        changes->walk_at = 0;
        changes->walk_size = nodes->size;
    }
    if (changes->walk_size != nodes->size) { /* it has grown, so nodes have other places in it */
        changes->walk_at = 0;
        changes->walk_size = nodes->size;
    }
    for (; changes->walk_at < nodes->size; changes->walk_at++)
        for (struct fs_link *l = nodes->buckets[changes->walk_at]; l; l = l->next)
            if (!walk_node(relay, FS_LINK_OWNER(l, struct fs_rnode, by_id)))
                return true; /* from this bucket on, later */
    changes->walk = FS_WALK_NONE;
    return false;
}
