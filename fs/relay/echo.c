#include "fs/relay/echo.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/relay/changes.h"
#include "fs/relay/echoer.h"
#include "fs/relay/gather.h"
#include "fs/relay/guarded.h"

#define GATHER_MS    20u          /* changes to one name are one echo */
#define STAND_IN_BIT (1ull << 63) /* of ids on the server's side */
#define MERGE_LOOK   32u          /* how far back the queue is looked through */

/* A record that waits, or is being done. */
struct fs_echo_item {
    uint32_t kinds;                    /* what is still to be done */
    struct fs_rnode *folder, *folder2; /* referenced; folder2: MOVED */
    char name[BG_FS_NAME_MAX + 1], name2[BG_FS_NAME_MAX + 1];
    uint64_t server_node; /* 0: not known */
    uint64_t since_ms;
};

bool fs_echo_is_stand_in(uint64_t server_id)
{
    return server_id & STAND_IN_BIT;
}

/* ---- the queue ---- */

static struct fs_echo_item *item_at(const struct fs_echo *echo, size_t index)
{
    return &echo->items[(echo->first + index) % BG_FS_ECHOES_MAX];
}

static void item_done(struct fs_relay *relay, struct fs_echo_item *item)
{
    if (item->name[0] == '\0')
        item->folder->touching = false;
    item->folder->echoes--;
    fs_tree_unref(&relay->tree, item->folder);
    if (item->folder2) {
        item->folder2->echoes--;
        fs_tree_unref(&relay->tree, item->folder2);
    }
    item->folder = item->folder2 = NULL;
}

static void drop_first(struct fs_relay *relay)
{
    struct fs_echo *echo = &relay->echo;
    item_done(relay, item_at(echo, 0));
    echo->first = (echo->first + 1) % BG_FS_ECHOES_MAX;
    echo->count--;
    echo->begun = false;
}

/* Adds to what waits for the same name already. */
static bool merge(const struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                  uint32_t kinds, uint64_t node)
{
    const struct fs_echo *echo = &relay->echo;
    size_t first = echo->begun; /* the one that is being done is not added to */
    for (size_t i = echo->count; i > first && echo->count - i < MERGE_LOOK; i--) {
        struct fs_echo_item *item = item_at(echo, i - 1);
        if (item->kinds & FS_CHANGE_MOVED)
            return false; /* the order counts */
        if (item->folder != folder || strcmp(item->name, name) != 0)
            continue;
        /* Something that was there before is gone, or comes after it is gone: another echo. */
        if ((item->kinds & FS_CHANGE_DELETED) || (kinds & FS_CHANGE_CREATED))
            return false;
        item->kinds |= kinds;
        if (node != 0)
            item->server_node = node;
        return true;
    }
    return false;
}

static struct fs_echo_item *push(struct fs_relay *relay, struct fs_rnode *folder, uint64_t now_ms)
{
    struct fs_echo *echo = &relay->echo;
    if (echo->count == BG_FS_ECHOES_MAX)
        return NULL;
    struct fs_echo_item *item = item_at(echo, echo->count++);
    *item = (struct fs_echo_item){.folder = folder, .since_ms = now_ms};
    folder->echoes++;
    fs_tree_ref(folder);
    return item;
}

static void touch_folder(struct fs_relay *relay, struct fs_rnode *folder, uint64_t now_ms)
{
    if (folder->touching)
        return; /* one that waits is enough */
    struct fs_echo_item *item = push(relay, folder, now_ms);
    if (!item)
        return;
    /* Without a name it is the folder itself. */
    item->kinds = FS_CHANGE_ATTRIBUTES | FS_CHANGE_IS_FOLDER;
    folder->touching = true;
}

/* The folder of a record, if the kernel knows it and may see the name; guarded names are shown by
 * their own rules. */
static struct fs_rnode *folder_of(const struct fs_relay *relay, uint64_t server_id,
                                  const char *name, size_t size)
{
    struct fs_rnode *folder = name ? fs_tree_find_server(&relay->tree, server_id) : NULL;
    if (!folder || folder->stale || folder->type != S_IFDIR || folder->special ||
        (folder != relay->tree.root && folder->nlookup == 0) ||
        !fs_check_name_shown(name, size, relay->opts.raw_names) ||
        fs_guard_claims(relay, folder, name, size))
        return NULL;
    return folder;
}

static void set_name(char out[BG_FS_NAME_MAX + 1], const char *name, size_t size)
{
    memcpy(out, name, size);
    out[size] = '\0';
}

void fs_echo_add(struct fs_relay *relay, const struct fs_change *change, uint64_t now_ms)
{
    if (relay->echo.pid == 0)
        return;
    struct fs_rnode *from = folder_of(relay, change->folder, change->name, change->name_size);
    struct fs_rnode *to = folder_of(relay, change->folder2, change->name2, change->name2_size);
    uint32_t kinds = change->kinds;
    if (!from && !to) {
        struct fs_rnode *itself = fs_tree_find_server(&relay->tree, change->node);
        if (itself && itself->type == S_IFDIR && !change->name)
            touch_folder(relay, itself, now_ms); /* a folder's own attributes */
        return;
    }
    bool moves = kinds & FS_CHANGE_MOVED;
    if (moves && !(from && to)) /* out of sight, or into it */
        kinds = (kinds & FS_CHANGE_IS_FOLDER) | (from ? FS_CHANGE_DELETED : FS_CHANGE_CREATED);
    bool at_new = moves && !from;
    struct fs_rnode *folder = at_new ? to : from;
    char name[BG_FS_NAME_MAX + 1];
    set_name(name, at_new ? change->name2 : change->name,
             at_new ? change->name2_size : change->name_size);
    if (!(kinds & FS_CHANGE_MOVED) && merge(relay, folder, name, kinds, change->node))
        return;
    bool crowded = relay->echo.count >= BG_FS_ECHOES_MAX / 2;
    struct fs_echo_item *item = crowded ? NULL : push(relay, folder, now_ms);
    if (!item) {
        touch_folder(relay, folder, now_ms);
        return;
    }
    item->kinds = kinds;
    item->server_node = change->node;
    memcpy(item->name, name, sizeof item->name);
    if (kinds & FS_CHANGE_MOVED) {
        item->folder2 = to;
        to->echoes++;
        fs_tree_ref(to);
        set_name(item->name2, change->name2, change->name2_size);
    }
}

/* ---- operations ---- */

/* The path of a folder below the mount. False: it is nowhere any more, or too long. */
static bool path_of(const struct fs_relay *relay, const struct fs_rnode *folder,
                    char out[BG_PATH_MAX])
{
    size_t at = BG_PATH_MAX - 1; /* written from its end */
    out[at] = '\0';
    for (; folder != relay->tree.root; folder = folder->parent) {
        size_t size = folder->name ? strlen(folder->name) : 0;
        if (folder->stale || !folder->placed || !folder->parent || size + 1 > at)
            return false;
        at -= size;
        memcpy(out + at, folder->name, size);
        out[--at] = '/';
    }
    if (out[at] == '/')
        at++;
    memmove(out, out + at, BG_PATH_MAX - at);
    return true;
}

/* The next operation that the item needs; takes it off its kinds. 0: it is done. */
static uint8_t next_op(struct fs_echo_item *item)
{
    bool folder = item->kinds & FS_CHANGE_IS_FOLDER;
    static const struct {
        uint32_t kind;
        uint8_t file_op, folder_op; /* 0: nothing that a watcher would see */
    } ops[] = {
        {FS_CHANGE_CREATED, FS_ECHO_CREATE, FS_ECHO_MKDIR},
        {FS_CHANGE_MOVED, FS_ECHO_RENAME, FS_ECHO_RENAME},
        {FS_CHANGE_MODIFIED, FS_ECHO_WRITE, 0},
        {FS_CHANGE_ATTRIBUTES, FS_ECHO_TOUCH, FS_ECHO_TOUCH},
        {FS_CHANGE_WRITTEN, FS_ECHO_CLOSE, 0},
        {FS_CHANGE_DELETED, FS_ECHO_UNLINK, FS_ECHO_RMDIR},
    };
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (!(item->kinds & ops[i].kind))
            continue;
        item->kinds &= ~ops[i].kind;
        uint8_t op = folder ? ops[i].folder_op : ops[i].file_op;
        if (op == FS_ECHO_WRITE)
            item->kinds &= ~(uint32_t)FS_CHANGE_WRITTEN; /* its close is one */
        if (op != 0)
            return op;
    }
    return 0;
}

/* The size that the kernel believes, so that nothing is cut off if all else went wrong. */
static uint64_t size_of(const struct fs_rnode *node)
{
    return node && node->seen && node->seen_size <= INT64_MAX ? node->seen_size : 0;
}

static bool start_op(struct fs_relay *relay, const struct fs_echo_item *item, uint8_t op)
{
    struct fs_echo *echo = &relay->echo;
    struct fs_echo_command *c = echo->command;
    c->op = op;
    c->size =
        op == FS_ECHO_WRITE ? size_of(fs_tree_find_server(&relay->tree, item->server_node)) : 0;
    c->folder2[0] = c->name2[0] = '\0';
    if (!path_of(relay, item->folder, c->folder) ||
        (op == FS_ECHO_RENAME && !path_of(relay, item->folder2, c->folder2)))
        return false;
    memcpy(c->name, item->name, sizeof c->name);
    if (op == FS_ECHO_RENAME)
        memcpy(c->name2, item->name2, sizeof c->name2);
    uint8_t bytes[FS_ECHO_COMMAND_MAX];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    fs_echo_command_emit(c, &w);
    echo->op = op;
    if (bg_writer_ok(&w) && relay->opts.to_echoer(relay->opts.owner, bytes, w.used))
        return true;
    echo->op = 0;
    return false;
}

static bool within_rate(struct fs_echo *echo, uint64_t now_ms)
{
    if (now_ms - echo->second_ms >= 1000) {
        echo->second_ms = now_ms;
        echo->in_second = 0;
    }
    return echo->in_second < BG_FS_ECHOES_RATE;
}

uint64_t fs_echo_tick(struct fs_relay *relay, uint64_t now_ms)
{
    struct fs_echo *echo = &relay->echo;
    while (echo->count > 0 && echo->op == 0 && relay->state == FS_RELAY_LIVE) {
        struct fs_echo_item *item = item_at(echo, 0);
        uint64_t waited = now_ms - item->since_ms;
        if (!echo->begun && waited < GATHER_MS)
            return GATHER_MS - waited;
        if (!within_rate(echo, now_ms))
            return 1000 - (now_ms - echo->second_ms);
        echo->begun = true;
        uint8_t op = next_op(item);
        if (op != 0 && start_op(relay, item, op)) {
            echo->in_second++;
            break;
        }
        if (op == 0)
            drop_first(relay);
    }
    return UINT64_MAX;
}

void fs_relay_echoed(struct fs_relay *relay, int status, uint64_t now_ms)
{
    struct fs_echo *echo = &relay->echo;
    if (echo->op == 0)
        return;
    struct fs_echo_item *item = item_at(echo, 0);
    /* The kernel knew it before the echo did: there is no event for its making any more. */
    if (status == -EEXIST && (echo->op == FS_ECHO_CREATE || echo->op == FS_ECHO_MKDIR))
        item->kinds |= FS_CHANGE_ATTRIBUTES;
    uint8_t op = echo->op;
    echo->op = 0;
    if (status < 0 && op == FS_ECHO_RENAME) { /* it has moved on, or the kernel saw it arrive */
        touch_folder(relay, item->folder, now_ms);
        touch_folder(relay, item->folder2, now_ms);
    }
    (void)fs_echo_tick(relay, now_ms);
}

int fs_relay_echo_by(struct fs_relay *relay, pid_t pid)
{
    struct fs_echo *echo = &relay->echo;
    fs_echo_done(relay);
    if (pid == 0)
        return 0;
    echo->items = calloc(BG_FS_ECHOES_MAX, sizeof *echo->items);
    echo->command = calloc(1, sizeof *echo->command);
    if (!echo->items || !echo->command) {
        fs_echo_done(relay);
        return -ENOMEM;
    }
    echo->pid = (uint32_t)pid;
    return 0;
}

void fs_echo_done(struct fs_relay *relay)
{
    struct fs_echo *echo = &relay->echo;
    while (echo->count > 0)
        drop_first(relay);
    free(echo->items);
    free(echo->command);
    *echo = (struct fs_echo){.stand_ins = echo->stand_ins};
}

/* ---- answers ---- */

static void answer(struct fs_relay *relay, const struct fs_request *request, struct fs_reply *reply)
{
    (void)fs_relay_answer(relay, request->unique, request->opcode, reply);
}

static bool is_place(const struct fs_request *request, const struct fs_rnode *folder,
                     const char *name)
{
    return folder && request->name && request->node == folder->id &&
           strcmp(request->name, name) == 0;
}

/* The folder or link that the kernel has there, if it is one of the server's. */
static struct fs_rnode *known_at(const struct fs_relay *relay, const struct fs_rnode *folder,
                                 const char *name)
{
    struct fs_rnode *node = fs_tree_find_place(&relay->tree, folder, name);
    return node && node->nlookup > 0 && !fs_echo_is_stand_in(node->peer->id) ? node : NULL;
}

/* A node for the item's file: the one that there was, if we know it, else one that stands for it.
 * The kernel gets a reference. NULL: it cannot be, since something else is there by now, or it is
 * elsewhere. */
static struct fs_rnode *node_for(struct fs_relay *relay, const struct fs_echo_item *item,
                                 mode_t type, bool existing)
{
    struct fs_rnode *there = known_at(relay, item->folder, item->name);
    struct fs_rnode *node = existing ? fs_tree_find_server(&relay->tree, item->server_node) : NULL;
    if (node && node->type == type && !node->stale && node != relay->tree.root) {
        if (type == S_IFDIR && node != there)
            return NULL;
        node->nlookup++;
        return node;
    }
    if (there)
        return NULL; /* a stand-in would take its place */
    uint64_t id = STAND_IN_BIT | ++relay->echo.stand_ins;
    const struct fs_tree_entry entry = {.server_id = id, .ino = id, .type = type};
    return fs_tree_enter(&relay->tree, item->folder, item->name, &entry, &node) == 0 ? node : NULL;
}

static struct fs_reply entry_of(const struct fs_relay *relay, const struct fs_rnode *node)
{
    struct fs_reply reply = {.node = node->id,
                             .attr = {.ino = node->ino,
                                      /* The kernel drops what it has beyond it, of a file that is
                                       * mapped too. */
                                      .size = size_of(node),
                                      .mode = node->type | (node->type == S_IFDIR ? 0755 : 0644),
                                      .nlink = node->type == S_IFDIR ? 2 : 1,
                                      .uid = relay->owners.uid,
                                      .gid = relay->owners.gid,
                                      .blksize = 4096}};
    fs_gather_amend(node, /* unique= */ 0, &reply);
    return reply;
}

static mode_t type_of(const struct fs_relay *relay, const struct fs_echo_item *item)
{
    const struct fs_rnode *node = fs_tree_find_server(&relay->tree, item->server_node);
    if (node)
        return node->type;
    return item->kinds & FS_CHANGE_IS_FOLDER ? S_IFDIR : S_IFREG;
}

static int answer_node(struct fs_relay *relay, const struct fs_request *request,
                       struct fs_rnode *node, uint64_t fh)
{
    if (!node)
        return -EIO;
    struct fs_reply reply = entry_of(relay, node);
    reply.fh = fh;
    if (fs_relay_answer(relay, request->unique, request->opcode, &reply) < 0)
        fs_tree_forget(&relay->tree, node, 1);
    return 0;
}

/* The names of the operation are as they were before it; others are the server's affair. */
static int answer_lookup(struct fs_relay *relay, const struct fs_request *request,
                         const struct fs_echo_item *item, bool *ret_ours)
{
    uint8_t op = relay->echo.op;
    bool makes = op == FS_ECHO_CREATE || op == FS_ECHO_MKDIR;
    bool takes = op == FS_ECHO_UNLINK || op == FS_ECHO_RMDIR || op == FS_ECHO_RENAME;
    bool here = is_place(request, item->folder, item->name);
    *ret_ours = true;
    if (makes && here && known_at(relay, item->folder, item->name)) {
        *ret_ours = false; /* the kernel has it already */
        return 0;
    }
    if ((makes && here) || (op == FS_ECHO_RENAME && is_place(request, item->folder2, item->name2)))
        return -ENOENT;
    if (takes && here)
        return answer_node(relay, request,
                           node_for(relay, item, type_of(relay, item), /* existing= */ true), 0);
    *ret_ours = false;
    return 0;
}

static int answer_make(struct fs_relay *relay, const struct fs_request *request,
                       const struct fs_echo_item *item)
{
    bool file = request->opcode == FUSE_CREATE;
    if (relay->echo.op != (file ? FS_ECHO_CREATE : FS_ECHO_MKDIR) ||
        !is_place(request, item->folder, item->name))
        return -EPERM;
    struct fs_rnode *node = node_for(relay, item, file ? S_IFREG : S_IFDIR, /* existing= */ false);
    if (!node)
        return -EEXIST;
    struct fs_rhandle *handle = file ? fs_handle_new(relay, node, 0, O_WRONLY, true) : NULL;
    if (file && !handle) {
        fs_tree_forget(&relay->tree, node, 1);
        return -ENFILE;
    }
    if (handle)
        handle->echo = true;
    return answer_node(relay, request, node, handle ? handle->id : 0);
}

static int answer_take(struct fs_relay *relay, const struct fs_request *request,
                       const struct fs_echo_item *item)
{
    uint8_t op = relay->echo.op;
    if (!is_place(request, item->folder, item->name) ||
        op != (request->opcode == FUSE_UNLINK  ? FS_ECHO_UNLINK
               : request->opcode == FUSE_RMDIR ? FS_ECHO_RMDIR
                                               : FS_ECHO_RENAME))
        return -EPERM;
    if (op != FS_ECHO_RENAME) {
        fs_tree_removed(&relay->tree, item->folder, item->name);
    } else if (request->node2 == item->folder2->id && strcmp(request->name2, item->name2) == 0) {
        fs_tree_moved(&relay->tree, item->folder, item->name, item->folder2, item->name2,
                      /* exchange= */ false);
    } else {
        return -EPERM;
    }
    answer(relay, request, &(struct fs_reply){0});
    return 0;
}

static int answer_open(struct fs_relay *relay, const struct fs_request *request,
                       struct fs_rnode *node)
{
    if (node->type != S_IFREG || node->special)
        return -EACCES;
    struct fs_rhandle *handle = fs_handle_new(relay, node, 0, O_WRONLY, true);
    if (!handle)
        return -ENFILE;
    handle->echo = true;
    struct fs_reply reply = {.fh = handle->id, .open_flags = FOPEN_KEEP_CACHE};
    answer(relay, request, &reply);
    return 0;
}

/* What the file is like now is the answer to setting its size or times. */
static int answer_setattr(struct fs_relay *relay, const struct fs_request *request,
                          struct fs_rnode *node, uint64_t now_ms)
{
    /* Only a server that has not been lost since the echo began knows this id, and answers. */
    if (fs_echo_is_stand_in(node->peer->id) || relay->state != FS_RELAY_LIVE)
        return -EIO;
    struct fs_pending *pending = calloc(1, sizeof *pending);
    if (!pending)
        return -ENOMEM;
    pending->kernel_unique = request->unique;
    pending->node = node;
    fs_tree_ref(node);
    struct fs_request ask = {.opcode = FUSE_GETATTR, .node = node->peer->id};
    fs_relay_send(relay, &ask, pending, now_ms);
    return 0;
}

bool fs_echo_answers(struct fs_relay *relay, const struct fs_request *request, uint64_t now_ms)
{
    const struct fs_echo *echo = &relay->echo;
    if (echo->pid == 0 || request->caller_pid != echo->pid)
        return false;
    struct fs_rnode *node = fs_tree_find(&relay->tree, request->node);
    const struct fs_echo_item *item = echo->op != 0 ? item_at(echo, 0) : NULL;
    bool ours = true;
    int r = -EPERM;
    if (!node || node->stale || !item) {
        r = -ESTALE;
    } else {
        switch (request->opcode) {
        case FUSE_LOOKUP:
            r = answer_lookup(relay, request, item, &ours);
            break;
        case FUSE_CREATE:
        case FUSE_MKDIR:
            r = answer_make(relay, request, item);
            break;
        case FUSE_UNLINK:
        case FUSE_RMDIR:
        case FUSE_RENAME:
        case FUSE_RENAME2:
            r = answer_take(relay, request, item);
            break;
        case FUSE_OPEN:
            r = answer_open(relay, request, node);
            break;
        case FUSE_SETATTR:
            r = answer_setattr(relay, request, node, now_ms);
            break;
        case FUSE_FLUSH:
            r = 0;
            answer(relay, request, &(struct fs_reply){0});
            break;
        case FUSE_GETATTR:
            ours = fs_echo_is_stand_in(node->peer->id);
            r = 0;
            if (ours) {
                struct fs_reply reply = entry_of(relay, node);
                answer(relay, request, &reply);
            }
            break;
        default:
            break; /* nothing else belongs to an echo */
        }
    }
    if (ours && r < 0)
        fs_relay_fail(relay, request->unique, r);
    return ours;
}
