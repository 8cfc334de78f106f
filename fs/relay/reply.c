/* From the server to the kernel. Nothing that the server says is passed on before it was checked
 * against what was asked; what it hands out (references, handles, locks) is either kept or given
 * back. */
#include "fs/relay/ahead.h"
#include "fs/relay/changes.h"
#include "fs/relay/echo.h"
#include "fs/relay/gather.h"
#include "fs/relay/guarded.h"
#include "fs/relay/lazy.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define OFFSET_MAX (1ull << 53)

static void give_back_reference(struct fs_relay *relay, uint64_t server_id)
{
    if (server_id != 0)
        fs_relay_forget(relay, server_id, 1);
}

/* ---- attributes and entries ---- */

int fs_relay_look_at(const struct fs_relay *relay, uint64_t server_id, struct fs_attr *attr,
                     struct fs_tree_entry *ret)
{
    bool special;
    int r = fs_check_attr(&relay->owners, attr, &special);
    if (r == 0)
        *ret = (struct fs_tree_entry){.server_id = server_id,
                                      .ino = attr->ino,
                                      .type = (mode_t)attr->mode & S_IFMT,
                                      .special = special};
    return r;
}

/* Whether this is what the request could have made or found. */
static bool type_fits(uint32_t opcode, const struct fs_tree_entry *entry)
{
    switch (opcode) {
    case FUSE_MKDIR:
        return entry->type == S_IFDIR;
    case FUSE_SYMLINK:
        return entry->type == S_IFLNK;
    case FUSE_MKNOD:
    case FUSE_CREATE:
    case FUSE_TMPFILE:
        return entry->type == S_IFREG && !entry->special;
    case FUSE_LINK:
        return entry->type != S_IFDIR;
    default:
        return true;
    }
}

/* Takes an entry for name in parent into the tree and makes reply the kernel's. In every case the
 * server's reference is kept or given back. */
static int enter(struct fs_relay *relay, const struct fs_pending *pending, uint32_t opcode,
                 const char *name, struct fs_reply *reply, struct fs_rnode **ret)
{
    struct fs_rnode *parent = pending->node;
    struct fs_tree_entry entry;
    if (reply->node == 0)
        return opcode == FUSE_LOOKUP ? -ENOENT : -EIO;
    int r = fs_relay_look_at(relay, reply->node, &reply->attr, &entry);
    if (r == 0 && (!type_fits(opcode, &entry) || fs_echo_is_stand_in(reply->node)))
        r = -EIO;
    if (r == 0)
        r = fs_guard_admits(relay, parent, name, &reply->attr);
    if (r < 0) {
        give_back_reference(relay, reply->node);
        return r;
    }
    r = fs_tree_enter(&relay->tree, parent, name, &entry, ret);
    if (r < 0)
        return r;
    reply->node = (*ret)->id;
    reply->generation = 0;
    fs_changes_date(relay, pending, *ret, parent, reply);
    if (fs_guard_is_volatile(relay, parent, name, reply->attr.mode))
        reply->entry_valid = 0;
    (*ret)->guarded = reply->attr.uid == FS_NOBODY;
    return 0;
}

static int answer_entry(struct fs_relay *relay, const struct fs_pending *pending,
                        struct fs_reply *reply, uint64_t now_ms)
{
    struct fs_rnode *node;
    int r;
    if (fs_guard_looks_into(relay, pending, reply, now_ms, &r))
        return r;
    r = enter(relay, pending, pending->opcode, pending->name, reply, &node);
    if (r < 0)
        return r;
    fs_gather_amend(node, pending->unique, reply);
    if (pending->opcode == FUSE_LINK && node->peer != pending->node2->peer) {
        fs_tree_forget(&relay->tree, node, 1);
        return -EIO; /* a new name is another file: not what was asked for */
    }
    if (fs_relay_answer(relay, pending->kernel_unique, pending->opcode, reply) < 0)
        fs_tree_forget(&relay->tree, node, 1);
    return 0;
}

/* The name is not there, which the kernel may remember for a while. */
static int answer_absent(struct fs_relay *relay, const struct fs_pending *pending)
{
    struct fs_reply reply = {.entry_valid = fs_changes_date_absence(relay, pending)};
    if (reply.entry_valid == 0)
        return -ENOENT;
    (void)fs_relay_answer(relay, pending->kernel_unique, FUSE_LOOKUP, &reply);
    return 0;
}

static void remember_root(struct fs_relay *relay, const struct fs_attr *attr)
{
    relay->root_attr = *attr;
    relay->root_known = true;
    if (relay->tree.root->ino == 0)
        relay->tree.root->ino = attr->ino;
}

static int answer_attr(struct fs_relay *relay, const struct fs_pending *pending,
                       struct fs_reply *reply)
{
    struct fs_tree_entry seen;
    int r = fs_relay_look_at(relay, pending->node->peer->id, &reply->attr, &seen);
    if (r < 0)
        return r;
    if (pending->node == relay->tree.root && seen.type == S_IFDIR && !seen.special)
        remember_root(relay, &reply->attr);
    if (!fs_tree_same(&relay->tree, pending->node, &seen))
        return -ESTALE;
    fs_changes_date(relay, pending, pending->node, NULL, reply);
    fs_guard_paints(relay, pending->node, &reply->attr);
    (void)fs_relay_answer(relay, pending->kernel_unique, pending->opcode, reply);
    return 0;
}

/* ---- handles ---- */

static int answer_open(struct fs_relay *relay, const struct fs_pending *pending,
                       struct fs_reply *reply, uint64_t now_ms)
{
    bool folder = pending->opcode == FUSE_OPENDIR;
    uint64_t server_fh = reply->fh;
    struct fs_rhandle *handle = fs_handle_new(relay, pending->node, server_fh, pending->flags,
                                              reply->open_flags & FOPEN_NOFLUSH);
    fs_ahead_check(relay, pending, reply);
    if (handle) {
        fs_ahead_keep(relay, handle, pending, reply, now_ms);
        reply->data_size = 0; /* not for the kernel */
        reply->fh = handle->id;
        reply->open_flags = fs_changes_open_flags(relay, pending, pending->node);
        if (fs_relay_answer(relay, pending->kernel_unique, pending->opcode, reply) == 0)
            return 0;
        fs_handle_free(relay, handle);
    }
    fs_relay_send_release(relay, pending->node->peer->id, server_fh, folder, now_ms);
    return handle ? 0 : -ENFILE;
}

static int answer_create(struct fs_relay *relay, const struct fs_pending *pending,
                         struct fs_reply *reply, uint64_t now_ms)
{
    uint64_t server_node = reply->node, server_fh = reply->fh;
    struct fs_rnode *node;
    int r = enter(relay, pending, pending->opcode, pending->name, reply, &node);
    if (r == 0 && pending->opcode == FUSE_TMPFILE && node->nlookup > 1) {
        fs_tree_forget(&relay->tree, node, 1);
        r = -EIO; /* a new file is none that the kernel knows already */
    }
    struct fs_rhandle *handle = r == 0 ? fs_handle_new(relay, node, server_fh, pending->flags,
                                                       reply->open_flags & FOPEN_NOFLUSH)
                                       : NULL;
    if (handle) {
        fs_gather_amend(node, pending->unique, reply);
        reply->fh = handle->id;
        reply->open_flags = 0;
        fs_guard_created(relay, pending, node);
        if (fs_relay_answer(relay, pending->kernel_unique, pending->opcode, reply) == 0)
            return 0;
        fs_handle_free(relay, handle);
    }
    fs_relay_send_release(relay, server_node, server_fh, /* folder= */ false, now_ms);
    if (r == 0) {
        fs_tree_forget(&relay->tree, node, 1);
        return handle ? 0 : -ENFILE;
    }
    return r;
}

/* ---- folders ---- */

/* The names of one reply, to find one that is there twice. */
struct seen {
    const char **names;
    size_t *sizes;
    size_t room; /* slots, a power of two, more than entries */
    uint64_t seed;
};

static bool seen_before(struct seen *seen, const struct fs_table *table, const char *name,
                        size_t size)
{
    size_t at = (size_t)fs_table_hash_bytes(table, 0, name, size) & (seen->room - 1);
    while (seen->names[at]) {
        if (seen->sizes[at] == size && memcmp(seen->names[at], name, size) == 0)
            return true;
        at = (at + 1) & (seen->room - 1);
    }
    seen->names[at] = name;
    seen->sizes[at] = size;
    return false;
}

static bool is_dots(const struct fs_dirent *entry)
{
    return (entry->name_size == 1 && entry->name[0] == '.') ||
           (entry->name_size == 2 && entry->name[0] == '.' && entry->name[1] == '.');
}

static uint32_t type_shown(uint32_t type)
{
    return type == DT_DIR || type == DT_LNK || type == DT_UNKNOWN ? type : DT_REG;
}

/* Writes one entry as the kernel may have it, or nothing when it is not to be shown. */
static void emit_entry(struct fs_relay *relay, const struct fs_pending *pending, bool plus,
                       struct fs_dirent *entry, bool shown, uint64_t now_ms, struct bg_writer *out)
{
    char name[BG_FS_NAME_MAX + 1];
    enum fs_guard_listing listing = is_dots(entry) || !shown
                                        ? FS_GUARD_SHOW
                                        : fs_guard_lists(relay, pending->node, entry, now_ms);
    shown = shown && listing != FS_GUARD_HIDE;
    if (is_dots(entry) || !shown || listing == FS_GUARD_NAME_ONLY) {
        give_back_reference(relay, entry->entry.node);
        entry->entry = (struct fs_reply){0};
    } else if (entry->entry.node != 0) {
        memcpy(name, entry->name, entry->name_size);
        name[entry->name_size] = '\0';
        struct fs_rnode *node;
        if (enter(relay, pending, FUSE_LOOKUP, name, &entry->entry, &node) == 0) {
            entry->ino = entry->entry.attr.ino;
            entry->type = (uint32_t)(entry->entry.attr.mode >> 12) & 15;
            fs_gather_amend(node, pending->unique, &entry->entry);
        } else {
            entry->entry = (struct fs_reply){0}; /* who looks it up will be told why */
        }
    } else {
        entry->entry = (struct fs_reply){0};
    }
    entry->type = type_shown(entry->type);
    if (shown)
        fs_dirent_emit(entry, plus, out);
}

/* The kernel did not take a folder's entries: their references were not given. */
static void forget_entries(struct fs_relay *relay, const uint8_t *bytes, size_t size)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct fs_dirent entry;
    while (fs_dirent_parse(&in, /* plus= */ true, &entry)) {
        struct fs_rnode *node =
            entry.entry.node == 0 ? NULL : fs_tree_find(&relay->tree, entry.entry.node);
        if (node)
            fs_tree_forget(&relay->tree, node, 1);
    }
}

/* Encodes a reply's entries anew into scratch. Errors: -EIO malformed. */
static int recode_entries(struct fs_relay *relay, const struct fs_pending *pending, bool plus,
                          const struct fs_reply *reply, uint64_t now_ms, struct bg_writer *out,
                          size_t *ret_count, uint64_t *ret_offset)
{
    struct seen seen = {.room = 64};
    while (seen.room < reply->data_size / 16) /* twice the smallest record's share */
        seen.room *= 2;
    BG_AUTOFREE const char **names = calloc(seen.room, sizeof *names);
    BG_AUTOFREE size_t *sizes = calloc(seen.room, sizeof *sizes);
    if (!names || !sizes)
        return -ENOMEM;
    seen.names = names;
    seen.sizes = sizes;
    struct bg_reader in = bg_reader_init(reply->data, reply->data_size);
    struct fs_dirent entry;
    *ret_count = 0;
    *ret_offset = pending->offset;
    bool good = true;
    while (fs_dirent_parse(&in, plus, &entry)) {
        good = good && entry.offset != 0 && entry.offset <= INT64_MAX &&
               entry.offset != pending->offset;
        bool name_ok = is_dots(&entry) || fs_name_ok(entry.name, entry.name_size);
        bool shown = good && name_ok &&
                     fs_check_name_shown(entry.name, entry.name_size, relay->opts.raw_names) &&
                     !seen_before(&seen, &relay->handles, entry.name, entry.name_size);
        if (!name_ok)
            fs_relay_complain(relay, pending->opcode, "a name that cannot be one");
        *ret_offset = entry.offset;
        (*ret_count)++;
        emit_entry(relay, pending, plus, &entry, shown, now_ms, out);
    }
    if (!good || !bg_reader_end(&in)) {
        if (plus)
            forget_entries(relay, out->start, out->used);
        return -EIO;
    }
    return 0;
}

static bool within_folder_limits(const struct fs_rhandle *handle)
{
    return handle->entries <= BG_FS_DIR_ENTRIES_MAX && handle->waited_ms <= BG_FS_DIR_WAIT_MAX_MS;
}

/* All entries of a reply were hidden: an empty answer would mean the end, so the next ones are
 * asked for. */
static int ask_for_more(struct fs_relay *relay, struct fs_pending *pending, uint64_t offset,
                        uint64_t server_fh, uint64_t now_ms)
{
    struct fs_pending *again = calloc(1, sizeof *again);
    if (!again)
        return -ENOMEM;
    again->kernel_unique = pending->kernel_unique;
    again->fh = pending->fh;
    again->size = pending->size;
    again->offset = offset;
    again->node = pending->node;
    fs_tree_ref(again->node);
    struct fs_request request = {.opcode = pending->opcode,
                                 .node = pending->node->peer->id,
                                 .fh = server_fh,
                                 .offset = offset,
                                 .size = pending->size};
    fs_relay_send(relay, &request, again, now_ms);
    return 0;
}

static int answer_entries(struct fs_relay *relay, struct fs_pending *pending,
                          struct fs_reply *reply, uint64_t now_ms)
{
    bool plus = pending->opcode == FUSE_READDIRPLUS;
    struct fs_rhandle *handle = fs_handle_find(relay, pending->fh);
    struct bg_writer out = bg_writer_init(relay->scratch, BG_FS_MESSAGE_MAX);
    size_t count;
    uint64_t offset;
    if (reply->data_size > pending->size || !handle) {
        if (plus)
            fs_relay_complain(relay, pending->opcode, "more than was asked for");
        return -EIO;
    }
    int r = recode_entries(relay, pending, plus, reply, now_ms, &out, &count, &offset);
    if (r < 0)
        return r;
    if (pending->offset == 0) {
        handle->entries = handle->waited_ms = 0;
        handle->ours = false;
    }
    handle->entries += count;
    handle->waited_ms += now_ms - pending->sent_ms;
    if (!within_folder_limits(handle)) {
        fs_relay_complain(relay, pending->opcode, "a folder without end");
        if (plus)
            forget_entries(relay, out.start, out.used);
        return -EIO;
    }
    if (count == 0 && fs_guard_continues(relay, pending, handle))
        return 0;
    if (out.used == 0 && count > 0)
        return ask_for_more(relay, pending, offset, handle->server_fh, now_ms);
    reply->data = out.start;
    reply->data_size = out.used;
    if (fs_relay_answer(relay, pending->kernel_unique, pending->opcode, reply) < 0 && plus)
        forget_entries(relay, out.start, out.used);
    fs_changes_filled(relay, pending);
    return 0;
}

/* ---- the rest ---- */

static int answer_link(struct fs_relay *relay, const struct fs_pending *pending,
                       struct fs_reply *reply, uint64_t now_ms)
{
    char text[BG_PATH_MAX];
    const struct fs_rnode *node = pending->node; /* links always have a parent */
    int r;
    if (node->stale)
        return -ESTALE; /* it was moved meanwhile */
    if (relay->opts.links == FS_LINKS_INSIDE)
        r = fs_check_link(reply->data, reply->data_size, fs_tree_depth(node->parent), relay->whole,
                          text, &reply->data_size);
    else
        r = fs_check_link_text(reply->data, reply->data_size);
    if (r < 0)
        return r;
    if (relay->opts.links == FS_LINKS_INSIDE) {
        reply->data = (const uint8_t *)text;
        r = fs_walks_link(relay, pending->kernel_unique, node, pending->thread,
                          fs_check_link_ups(text, reply->data_size), pending->since_ms, now_ms);
        if (r != 0)
            return r < 0 ? r : 0; /* it is asked again */
    }
    (void)fs_relay_answer(relay, pending->kernel_unique, pending->opcode, reply);
    return 0;
}

static int check_xattr(const struct fs_pending *pending, struct fs_reply *reply)
{
    if (pending->size == 0) { /* only the size was asked for */
        if (reply->data_size != 8 || reply->size > BG_FS_XATTR_MAX)
            return -EIO;
        reply->data = NULL;
        reply->data_size = 0;
        return 0;
    }
    if (reply->data_size > pending->size || reply->data_size > BG_FS_XATTR_MAX)
        return -EIO;
    if (pending->opcode == FUSE_LISTXATTR && !fs_check_xattr_list(reply->data, reply->data_size))
        return -EIO;
    return 0;
}

static int check_lock(struct fs_reply *reply)
{
    bool known =
        reply->lock_type == F_RDLCK || reply->lock_type == F_WRLCK || reply->lock_type == F_UNLCK;
    reply->lock_pid = 0; /* a process of another machine */
    return known && reply->lock_start <= reply->lock_end && reply->lock_end <= INT64_MAX ? 0 : -EIO;
}

static int check_count(const struct fs_pending *pending, const struct fs_reply *reply)
{
    if (reply->size > pending->size)
        return -EIO;
    /* A write that writes nothing and says so for ever would keep its caller busy for ever. */
    return pending->opcode == FUSE_WRITE && reply->size == 0 && pending->size > 0 ? -EIO : 0;
}

/* What changed for the kernel with this answer. */
static void follow_change(struct fs_relay *relay, const struct fs_pending *pending, uint64_t now_ms)
{
    fs_guard_moved(relay, pending);
    switch (pending->opcode) {
    case FUSE_FSYNC:
        pending->node->synced = pending->writes;
        break;
    case FUSE_UNLINK:
    case FUSE_RMDIR:
        fs_tree_removed(&relay->tree, pending->node, pending->name);
        break;
    case FUSE_RENAME:
    case FUSE_RENAME2:
        fs_tree_moved(&relay->tree, pending->node, pending->name, pending->node2, pending->name2,
                      pending->flags & RENAME_EXCHANGE);
        fs_rebind_renamed(relay, pending);
        fs_walks_renamed(relay, pending->kernel_unique, now_ms);
        break;
    default:
        break;
    }
}

/* Checks a successful reply and answers the kernel with it. An error is for the kernel too. */
static int pass_on(struct fs_relay *relay, struct fs_pending *pending, struct fs_reply *reply,
                   uint64_t now_ms)
{
    int r = 0;
    switch (fs_op_find(pending->opcode)->reply) {
    case FS_REPLY_ENTRY:
        return answer_entry(relay, pending, reply, now_ms);
    case FS_REPLY_ATTR:
        return answer_attr(relay, pending, reply);
    case FS_REPLY_OPEN:
        return answer_open(relay, pending, reply, now_ms);
    case FS_REPLY_ENTRY_OPEN:
        return answer_create(relay, pending, reply, now_ms);
    case FS_REPLY_TEXT:
        return answer_link(relay, pending, reply, now_ms);
    case FS_REPLY_DIRENTS:
    case FS_REPLY_DIRENTS_PLUS:
        return answer_entries(relay, pending, reply, now_ms);
    case FS_REPLY_EMPTY:
        follow_change(relay, pending, now_ms);
        break;
    case FS_REPLY_DATA:
        r = reply->data_size <= pending->size ? 0 : -EIO;
        break;
    case FS_REPLY_COUNT:
        r = check_count(pending, reply);
        (pending->node2 ? pending->node2 : pending->node)->writes++;
        break;
    case FS_REPLY_STATFS:
        fs_check_statfs(&reply->statfs);
        relay->statfs = reply->statfs;
        break;
    case FS_REPLY_LOCK:
        r = check_lock(reply);
        break;
    case FS_REPLY_XATTR:
        r = check_xattr(pending, reply);
        break;
    case FS_REPLY_OFFSET:
        r = reply->offset >= pending->offset && reply->offset <= OFFSET_MAX ? 0 : -EIO;
        break;
    case FS_REPLY_NONE:
    case FS_REPLY_OTHER:
        r = -EIO; /* never sent to the server */
        break;
    }
    if (r == 0)
        (void)fs_relay_answer(relay, pending->kernel_unique, pending->opcode, reply);
    if (r == 0 && pending->opcode == FUSE_READ)
        fs_changes_filled(relay, pending);
    if (r == 0 && pending->opcode == FUSE_WRITE)
        fs_changes_wrote(relay, pending);
    return r;
}

/* ---- answers that nobody waits for ---- */

static void unlock(struct fs_relay *relay, const struct fs_pending *pending, uint64_t now_ms)
{
    struct fs_request request = pending->request;
    request.opcode = FUSE_SETLK;
    request.lock_type = F_UNLCK;
    fs_relay_send_own(relay, &request, now_ms);
}

/* Returns what a late answer brought. pending->node is NULL for our own requests, whose answers
 * bring nothing. */
static void give_back(struct fs_relay *relay, const struct fs_pending *pending,
                      const struct fs_reply *reply, uint64_t now_ms)
{
    if (!pending->node)
        return;
    switch (fs_op_find(pending->opcode)->reply) {
    case FS_REPLY_ENTRY:
        give_back_reference(relay, reply->node);
        break;
    case FS_REPLY_OPEN:
        fs_relay_send_release(relay, pending->node->peer->id, reply->fh,
                              pending->opcode == FUSE_OPENDIR, now_ms);
        break;
    case FS_REPLY_ENTRY_OPEN:
        fs_relay_send_release(relay, reply->node, reply->fh, /* folder= */ false, now_ms);
        give_back_reference(relay, reply->node);
        break;
    case FS_REPLY_DIRENTS_PLUS: {
        struct bg_reader in = bg_reader_init(reply->data, reply->data_size);
        struct fs_dirent entry;
        while (fs_dirent_parse(&in, /* plus= */ true, &entry))
            give_back_reference(relay, entry.entry.node);
        break;
    }
    case FS_REPLY_EMPTY:
        if ((pending->opcode == FUSE_SETLK || pending->opcode == FUSE_SETLKW) &&
            pending->request.lock_type != F_UNLCK)
            unlock(relay, pending, now_ms);
        break;
    case FS_REPLY_NONE:
    case FS_REPLY_ATTR:
    case FS_REPLY_DATA:
    case FS_REPLY_TEXT:
    case FS_REPLY_DIRENTS:
    case FS_REPLY_COUNT:
    case FS_REPLY_STATFS:
    case FS_REPLY_LOCK:
    case FS_REPLY_XATTR:
    case FS_REPLY_OFFSET:
    case FS_REPLY_OTHER:
        break;
    }
}

/* The root's attributes came, unasked for by the kernel. */
static void take_probe(struct fs_relay *relay, struct fs_reply *reply)
{
    struct fs_tree_entry seen;
    relay->probing = false;
    if (reply->error == 0 && fs_relay_look_at(relay, FS_TREE_ROOT, &reply->attr, &seen) == 0 &&
        seen.type == S_IFDIR && !seen.special) {
        relay->tree.root->covered = reply->attr_valid != 0;
        remember_root(relay, &reply->attr);
        if (relay->state == FS_RELAY_NEW)
            relay->state = FS_RELAY_LIVE;
    }
}

static void heard(struct fs_relay *relay, uint64_t now_ms)
{
    relay->heard_ms = now_ms;
    relay->timeouts = 0;
    if (relay->state == FS_RELAY_STALE) {
        bg_log(relay->opts.log, BG_LOG_INFO, "the guest answers again");
        relay->state = FS_RELAY_LIVE;
    }
}

/* The server has done what no server of ours does. Some are borne, in case of a bug. */
static int odd_reply(struct fs_relay *relay, const char *what, struct bg_err *err)
{
    if (++relay->odd_replies > BG_FS_ODD_REPLIES_MAX)
        return bg_err_set(err, -EPROTO, "the guest breaks the file protocol: %s", what);
    if (relay->complaints++ == 0)
        bg_log(relay->opts.log, BG_LOG_WARN, "the guest breaks the file protocol: %s", what);
    return 0;
}

int fs_relay_reply(struct fs_relay *relay, const uint8_t *bytes, size_t size, uint64_t now_ms,
                   struct bg_err *err)
{
    if (size < FS_REPLY_HEADER_SIZE)
        return bg_err_set(err, -EPROTO, "reply of %zu bytes", size);
    struct bg_err why;
    if (fs_reply_unique(bytes) == 0) /* no request has this number */
        return fs_changes_take(relay, bytes, size, now_ms, &why) < 0
                   ? odd_reply(relay, why.text, err)
                   : 0;
    struct fs_pending *pending = fs_pending_find(relay, fs_reply_unique(bytes));
    if (!pending)
        return odd_reply(relay, "an answer to nothing", err);
    struct fs_reply reply;
    int r = fs_reply_parse(pending->opcode, bytes, size, &reply, &why), odd = 0;
    if (r < 0) {
        odd = odd_reply(relay, why.text, err);
        r = -EIO;
        reply = (struct fs_reply){.error = r};
    } else {
        heard(relay, now_ms);
    }
    if (reply.error < 0 && !fs_error_allowed(pending->opcode, reply.error))
        reply.error = -EIO;

    if (pending->rebinds) {
        fs_rebind_reply(relay, pending, &reply, now_ms);
    } else if (pending->opens && !pending->late) {
        fs_lazy_opened(relay, pending, &reply, now_ms);
    } else if (pending->errand) {
        fs_errand_reply(relay, pending, &reply, now_ms);
    } else if (pending->kernel_unique == 0 && pending->opcode == FUSE_GETATTR) {
        take_probe(relay, &reply);
    } else if (pending->gathered && !pending->late) {
        fs_gather_settled(relay, pending, reply.error, reply.size, now_ms);
    } else if (pending->late || pending->kernel_unique == 0) {
        if (reply.error == 0)
            give_back(relay, pending, &reply, now_ms);
    } else {
        uint64_t kernel_unique = pending->kernel_unique;
        r = reply.error == -ENOENT && pending->opcode == FUSE_LOOKUP ? answer_absent(relay, pending)
            : reply.error < 0                                        ? reply.error
                              : pass_on(relay, pending, &reply, now_ms);
        if (r == -EIO && reply.error == 0)
            fs_relay_complain(relay, pending->opcode, "not what was asked for");
        if (r < 0)
            fs_relay_fail(relay, kernel_unique, r);
    }
    fs_pending_free(relay, pending);
    return odd;
}
