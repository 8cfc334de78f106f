#include "fs/relay/guard_state.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/relay/changes.h"

#define LOCAL_OFFSETS (1ull << 62) /* of our own entries in a folder */

/* The folder has been seen to have this name, or will have it: for good, since whoever saw it may
 * take the folder for git's. What the host wrote there before is git's own then. */
static void note_sign(struct fs_relay *relay, struct fs_rnode *folder, const char *name,
                      size_t size)
{
    struct fs_guard *guard = relay->guard;
    bool before = guard_signs_suffice(folder->signs);
    folder->signs |= (uint8_t)guard_sign(name, size);
    if (before || !guard_signs_suffice(folder->signs))
        return;
    for (size_t i = guard->copy_count; i > 0; i--) {
        struct fs_gcopy *copy = &guard->copies[i - 1];
        if (copy->folder != folder ||
            !fs_guard_is_file(fs_guard_class_at(relay, folder, copy->name, strlen(copy->name))))
            continue;
        fs_tree_set_aside(copy->node);
        if (fs_guard_approve(relay, folder, copy->name, copy->bytes, copy->size, 0644) < 0)
            fs_guard_say_once(relay, folder, copy->name, "not kept: no room for guarded files");
    }
}

/* ---- requests on names ---- */

static int refuse_hook(struct fs_relay *relay, const struct fs_rnode *folder, const char *name)
{
    fs_guard_say_once(relay, folder, name,
                      "hooks cannot be made here: git would run them. Make it in the sandbox");
    return -EROFS;
}

static int look_up(struct fs_relay *relay, const struct fs_request *request,
                   struct fs_rnode *folder, enum guard_class class, uint64_t now_ms)
{
    struct fs_pin *pin = fs_guard_pin_at(relay, folder, request->name);
    struct fs_reply reply = {0};
    bool fetches = class == GUARD_CONFIG || class == GUARD_POINTER || class == GUARD_POINTERS;
    if (fetches && !(pin && (pin->dirty || pin->writers > 0)))
        return fs_guard_fetch(relay, folder, request->name, request->unique, now_ms);
    if (!pin || class == GUARD_FORBIDDEN)
        return -ENOENT;
    return fs_gnode_answer(relay, request->unique, FUSE_LOOKUP,
                           fs_gnode_of_pin(relay, pin, folder, request->name), &reply);
}

/* Makes the pin of a name that has none, or opens the one there is. */
static int create(struct fs_relay *relay, const struct fs_request *request, struct fs_rnode *folder,
                  uint64_t now_ms)
{
    bool opens = request->opcode == FUSE_CREATE;
    struct fs_pin *pin = fs_guard_pin_at(relay, folder, request->name);
    if (pin && (!opens || (request->flags & O_EXCL)))
        return -EEXIST;
    bool fresh = !pin;
    int r = fresh ? fs_guard_pin_make(relay, folder, request->name, &pin) : 0;
    if (r < 0)
        return r;
    struct fs_gnode *node = fs_gnode_of_pin(relay, pin, folder, request->name);
    if (node && (request->flags & O_TRUNC))
        r = fs_pins_resize(&relay->guard->pins, pin, 0); /* to nothing: cannot fail */
    struct fs_ghandle *handle =
        node && opens ? fs_ghandle_new(relay, node, (request->flags & O_ACCMODE) != O_RDONLY)
                      : NULL;
    if (r < 0 || !node || (opens && !handle)) {
        if (node)
            fs_gnode_drop(relay, node);
        if (fresh)
            fs_pins_remove(&relay->guard->pins, pin);
        return -ENFILE;
    }
    if (fresh)
        pin->mode = (mode_t)request->mode & 0777;
    pin->mtime = fs_guard_now(relay->guard);
    pin->dirty = true;
    struct fs_reply reply = {.fh = handle ? handle->id : 0};
    if (!opens) { /* no close will come */
        r = fs_gnode_commit(relay, node, 0, 0, now_ms);
        if (r < 0)
            fs_guard_say_once(relay, folder, request->name,
                              "the guest does not have what was made here");
    }
    return fs_gnode_answer(relay, request->unique, request->opcode, node, &reply);
}

static int unlink_name(struct fs_relay *relay, const struct fs_request *request,
                       const struct fs_rnode *folder, uint64_t now_ms)
{
    struct fs_pin *pin = fs_guard_pin_at(relay, folder, request->name);
    if (!pin)
        return -ENOENT;
    fs_guard_unpin(relay->guard, pin);
    fs_guard_unlink_there(relay, folder, request->name, now_ms);
    return fs_guard_answer_empty(relay, request->unique, FUSE_UNLINK);
}

/* A pinned file moves: its bytes go to the new name in the guest, whatever it has at the old. */
static int move_pin(struct fs_relay *relay, const struct fs_request *request, struct fs_rnode *from,
                    struct fs_rnode *to, bool stays_pinned, uint64_t now_ms)
{
    struct fs_guard *guard = relay->guard;
    struct fs_pin *pin = fs_guard_pin_at(relay, from, request->name);
    struct fs_pin *there = fs_guard_pin_at(relay, to, request->name2);
    char path[BG_PATH_MAX];
    if (!pin)
        return -ENOENT;
    if (pin == there)
        return fs_guard_answer_empty(relay, request->unique, request->opcode);
    if (there && (request->flags & RENAME_NOREPLACE))
        return -EEXIST;
    if (!fs_guard_path(relay, to, request->name2, path))
        return -ENAMETOOLONG;
    struct fs_errand errand = {.kind = FS_ERRAND_STORE,
                               .kernel_unique = request->unique,
                               .kernel_opcode = request->opcode,
                               .folder = to,
                               .mode = pin->mode,
                               .size = pin->size,
                               .on_done = fs_gnode_stored};
    errand.bytes = malloc(pin->size + 1);
    if (!errand.bytes)
        return -ENOMEM;
    if (pin->size > 0)
        memcpy(errand.bytes, pin->bytes, pin->size);
    int r = fs_errand_start(relay, &errand, request->name2, now_ms);
    if (r < 0)
        return r;
    if (stays_pinned) {
        r = fs_guard_approve(relay, to, request->name2, pin->bytes, pin->size, pin->mode);
        if (r < 0)
            fs_guard_say_once(relay, to, request->name2, "not kept: no room for guarded files");
        pin = fs_guard_pin_at(relay, from, request->name);
    }
    fs_guard_unpin(guard, pin);
    fs_guard_unlink_there(relay, from, request->name, now_ms);
    return 0;
}

/* Something becomes a guarded name: only a file whose bytes the host wrote. */
static int check_rename_to(struct fs_relay *relay, const struct fs_request *request,
                           const struct fs_rnode *from, const struct fs_rnode *to,
                           enum guard_class was, enum guard_class becomes)
{
    const struct fs_rnode *there = fs_tree_find_place(&relay->tree, from, request->name);
    if (becomes == GUARD_FORBIDDEN)
        return refuse_hook(relay, to, request->name2);
    if (becomes == GUARD_NONE)
        return 0;
    if (fs_guard_is_folder(becomes) && becomes == was && there && there->type == S_IFDIR)
        return 0;
    if (becomes == GUARD_GIT && there && there->type == S_IFDIR)
        return 0; /* the kernel asks anew for what is git's in it */
    if (fs_guard_is_folder(becomes) && becomes != GUARD_GIT) {
        /* The kernel may know files in it for a while, as they are in the guest. */
        fs_guard_say_once(relay, to, request->name2,
                          "not moved here: make it, and write its files");
        return -EPERM;
    }
    if (there || !fs_gcopy_at(relay->guard, from, request->name) || request->flags != 0) {
        fs_guard_say_once(
            relay, to, request->name2,
            "not moved here: its bytes are not known to be the host's. Write it here, or use "
            "bellglass trust");
        return -EPERM;
    }
    return 0;
}

static bool on_rename(struct fs_relay *relay, const struct fs_request *request,
                      struct fs_rnode *from, enum guard_class class, uint64_t now_ms,
                      int *ret_error)
{
    struct fs_rnode *to = fs_tree_find(&relay->tree, request->node2);
    if (!to || to->stale || to->type != S_IFDIR)
        return false; /* refused in its place */
    note_sign(relay, to, request->name2, request->name2_size);
    enum guard_class class2 = fs_guard_class_at(relay, to, request->name2, request->name2_size);
    bool swaps = request->flags & RENAME_EXCHANGE;
    int r = 0;
    if (swaps && (fs_guard_is_file(class) || fs_guard_is_file(class2) || class2 == GUARD_GIT ||
                  class == GUARD_GIT || class == GUARD_FORBIDDEN || class2 == GUARD_FORBIDDEN))
        r = -EINVAL;
    else if (class == GUARD_FORBIDDEN)
        r = -ENOENT;
    else if (class2 == GUARD_FORBIDDEN)
        r = refuse_hook(relay, to, request->name2);
    else if (class == GUARD_PINNED && fs_guard_is_folder(class2))
        r = -EPERM;
    else if (class == GUARD_PINNED) {
        *ret_error = move_pin(relay, request, from, to,
                              /* stays_pinned= */ fs_guard_is_file(class2), now_ms);
        return true;
    } else
        r = check_rename_to(relay, request, from, to, class, class2);
    if (r == 0 && class2 == GUARD_CONFIG) {
        *ret_error = fs_guard_write_config(relay, request, from, to, now_ms);
        return true;
    }
    *ret_error = r;
    return r < 0;
}

static bool on_name(struct fs_relay *relay, const struct fs_request *request,
                    struct fs_rnode *folder, uint64_t now_ms, int *ret_error)
{
    bool moves = request->opcode == FUSE_RENAME || request->opcode == FUSE_RENAME2;
    bool makes = !moves && request->opcode != FUSE_LOOKUP && request->opcode != FUSE_UNLINK &&
                 request->opcode != FUSE_RMDIR;
    if (makes)
        note_sign(relay, folder, request->name, request->name_size);
    enum guard_class class = fs_guard_class_at(relay, folder, request->name, request->name_size);
    bool file = fs_guard_is_file(class) || class == GUARD_FORBIDDEN;
    if (moves)
        return on_rename(relay, request, folder, class, now_ms, ret_error);
    if (class == GUARD_NONE || (!file && request->opcode == FUSE_LOOKUP))
        return false;
    if (class == GUARD_FORBIDDEN && makes) {
        *ret_error = refuse_hook(relay, folder, request->name);
        return true;
    }
    switch (request->opcode) {
    case FUSE_LOOKUP:
        *ret_error = look_up(relay, request, folder, class, now_ms);
        return true;
    case FUSE_CREATE:
    case FUSE_MKNOD:
        if (!file && class != GUARD_GIT) {
            *ret_error = -EPERM;
            return class != GUARD_WAY;
        }
        *ret_error = create(relay, request, folder, now_ms);
        return true;
    case FUSE_UNLINK:
        if (class != GUARD_PINNED && class != GUARD_FORBIDDEN)
            return false; /* the guest's own, as shown; its pin goes with it */
        *ret_error = unlink_name(relay, request, folder, now_ms);
        return true;
    case FUSE_MKDIR:
        *ret_error = -EPERM;
        return file;
    case FUSE_RMDIR:
        *ret_error = -ENOTDIR;
        return file;
    default: /* SYMLINK, LINK */
        *ret_error = -EPERM;
        return true;
    }
}

static bool names_something(const struct fs_request *request)
{
    enum fs_tail tail = fs_op_find(request->opcode)->tail;
    return tail == FS_TAIL_NAME_NAME || tail == FS_TAIL_NAME_TEXT ||
           (tail == FS_TAIL_NAME && request->opcode != FUSE_GETXATTR &&
            request->opcode != FUSE_REMOVEXATTR);
}

/* A file that was renamed to a guarded name: the kernel may know it by that name for a while yet,
 * so it cannot be opened any more; who has it open keeps it. */
static bool is_by_name(const struct fs_request *request)
{
    switch (request->opcode) {
    case FUSE_OPEN:
    case FUSE_GETXATTR:
    case FUSE_SETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_REMOVEXATTR:
        return true;
    case FUSE_GETATTR:
        return !(request->flags & FUSE_GETATTR_FH);
    case FUSE_SETATTR:
        return !(request->valid & FATTR_FH);
    default:
        return false;
    }
}

static bool is_shown(const struct fs_relay *relay, const struct fs_request *request)
{
    bool raw = relay->opts.raw_names;
    bool two = fs_op_find(request->opcode)->tail == FS_TAIL_NAME_NAME;
    return fs_check_name_shown(request->name, request->name_size, raw) &&
           (!two || fs_check_name_shown(request->name2, request->name2_size, raw));
}

static int list(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode,
                const struct fs_rnode *folder, uint64_t after, uint64_t room);

bool fs_guard_takes(struct fs_relay *relay, struct fs_request *request, uint64_t now_ms,
                    int *ret_error)
{
    struct fs_guard *guard = relay->guard;
    if (!guard || guard->opts.policy != GUARD_PIN)
        return false;
    struct fs_gnode *ours = fs_gnode_find(guard, request->node);
    if (ours) {
        *ret_error = fs_gnode_request(relay, request, ours, now_ms);
        return true;
    }
    if ((request->opcode == FUSE_LINK || request->opcode == FUSE_COPY_FILE_RANGE) &&
        fs_gnode_find(guard, request->node2)) {
        *ret_error = request->opcode == FUSE_LINK ? -EPERM : -EOPNOTSUPP;
        return true;
    }
    struct fs_rnode *node = fs_tree_find(&relay->tree, request->node);
    if (!node || node->stale)
        return false;
    if (node->unnamed && is_by_name(request)) {
        *ret_error = -ESTALE;
        return true;
    }
    const struct fs_rhandle *handle;
    switch (request->opcode) {
    case FUSE_COPY_FILE_RANGE:
        node = fs_tree_find(&relay->tree, request->node2);
        if (node) /* its bytes come from elsewhere */
            fs_gcopy_forget(relay, fs_gcopy_of(guard, node));
        return false;
    case FUSE_WRITE:
    case FUSE_SETATTR:
    case FUSE_OPEN:
    case FUSE_FALLOCATE:
        fs_gcopy_follow(relay, request, node);
        return false;
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        handle = fs_handle_find(relay, request->fh);
        if (!handle || handle->node != node || !handle->ours || request->offset < LOCAL_OFFSETS)
            return false;
        *ret_error = list(relay, request->unique, request->opcode, node,
                          request->offset - LOCAL_OFFSETS, request->size);
        return true;
    default:
        break;
    }
    if (!names_something(request) || node->type != S_IFDIR ||
        (relay->read_only && fs_op_mutates(request->opcode)) || !is_shown(relay, request))
        return false; /* or refused in its place */
    return on_name(relay, request, node, now_ms, ret_error);
}

bool fs_guard_forgets(struct fs_relay *relay, uint64_t id, uint64_t count)
{
    struct fs_gnode *node = fs_gnode_find(relay->guard, id);
    if (!node)
        return false;
    node->nlookup -= count < node->nlookup ? count : node->nlookup;
    fs_gnode_drop(relay, node);
    return true;
}

bool fs_guard_releases(struct fs_relay *relay, const struct fs_request *request, uint64_t now_ms)
{
    struct fs_ghandle *handle = fs_ghandle_find(relay->guard, request->fh);
    if (!handle || request->opcode != FUSE_RELEASE)
        return false;
    struct fs_gnode *node = handle->node;
    /* What was written by mmap after the last close. */
    if (node->pin && node->pin->dirty &&
        fs_gnode_commit(relay, node, /* kernel_unique= */ 0, FUSE_RELEASE, now_ms) < 0)
        fs_guard_say_once(relay, node->folder, node->name,
                          "the guest does not have what was written here");
    fs_ghandle_free(relay, handle);
    (void)fs_guard_answer_empty(relay, request->unique, FUSE_RELEASE);
    return true;
}

/* ---- what the server says ---- */

bool fs_guard_looks_into(struct fs_relay *relay, const struct fs_pending *pending,
                         const struct fs_reply *reply, uint64_t now_ms, int *ret_error)
{
    if (!relay->guard || relay->guard->opts.policy != GUARD_PIN || pending->opcode != FUSE_LOOKUP ||
        reply->node == 0 || (reply->attr.mode & S_IFMT) != S_IFREG)
        return false;
    size_t size = strlen(pending->name);
    note_sign(relay, pending->node, pending->name, size);
    enum guard_class class = fs_guard_class_at(relay, pending->node, pending->name, size);
    if (class != GUARD_GIT && (!fs_guard_is_file(class) || class == GUARD_PINNED))
        return false;
    fs_relay_forget(relay, reply->node, 1);
    *ret_error =
        fs_guard_fetch(relay, pending->node, pending->name, pending->kernel_unique, now_ms);
    return true;
}

int fs_guard_admits(struct fs_relay *relay, struct fs_rnode *folder, const char *name,
                    struct fs_attr *attr)
{
    struct fs_guard *guard = relay->guard;
    if (!guard)
        return 0;
    size_t size = strlen(name);
    note_sign(relay, folder, name, size);
    enum guard_class class = fs_guard_class_at(relay, folder, name, size);
    uint64_t type = attr->mode & S_IFMT;
    if (class == GUARD_NONE)
        return 0;
    if (guard->opts.policy == GUARD_OWNER) {
        if (class != GUARD_WAY)
            attr->uid = attr->gid = FS_NOBODY;
        return 0;
    }
    bool good = class == GUARD_WAY ? type != S_IFLNK : fs_guard_is_folder(class) && type == S_IFDIR;
    if (good)
        return 0;
    fs_guard_say_once(relay, folder, name, "not shown: it is not what it should be");
    return -ENOENT;
}

void fs_guard_paints(struct fs_relay *relay, const struct fs_rnode *node, struct fs_attr *attr)
{
    const struct fs_guard *guard = relay->guard;
    if (!guard || guard->opts.policy != GUARD_OWNER)
        return;
    bool guarded = node->guarded;
    if (node->parent) {
        enum guard_class class =
            fs_guard_class_at(relay, node->parent, node->name, strlen(node->name));
        guarded = class != GUARD_NONE && class != GUARD_WAY;
    }
    if (guarded)
        attr->uid = attr->gid = FS_NOBODY;
}

bool fs_guard_claims(const struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                     size_t size)
{
    return relay->guard && fs_guard_class_at(relay, folder, name, size) != GUARD_NONE;
}

/* Whether something of this type (of a mode) that is not guarded will be when a folder above turns
 * out to be git's. */
static bool may_become_gits(const struct fs_relay *relay, const struct fs_rnode *folder,
                            const char *name, uint64_t type)
{
    size_t size = strlen(name);
    enum guard_class now = fs_guard_class_at(relay, folder, name, size);
    enum guard_class then = fs_guard_class_as(relay, folder, name, size, /* all_git= */ true);
    if (now == then)
        return false;
    return then == GUARD_WAY ? type == S_IFLNK : then != GUARD_HOOKS && type != S_IFDIR;
}

bool fs_guard_is_volatile(const struct fs_relay *relay, const struct fs_rnode *folder,
                          const char *name, uint64_t mode)
{
    return relay->guard && relay->guard->opts.policy == GUARD_PIN &&
           may_become_gits(relay, folder, name, mode & S_IFMT);
}

/* For the log only: nobody waits for it, and nothing is shown because of it. */
static void compared(struct fs_relay *relay, struct fs_errand *errand, int error, uint64_t now_ms)
{
    const struct fs_pin *pin = fs_guard_pin_at(relay, errand->folder, errand->name);
    (void)now_ms;
    if (error < 0 || !pin || pin->dirty || fs_guard_is_as_written(pin, errand->bytes, errand->size))
        return;
    fs_guard_say_once(relay, errand->folder, errand->name,
                      "changed in the guest: shown as it was approved, see bellglass guard");
}

static void look_whether_changed(struct fs_relay *relay, struct fs_rnode *folder, const char *name,
                                 uint64_t now_ms)
{
    struct fs_errand errand = {.kind = FS_ERRAND_FETCH, .folder = folder, .on_done = compared};
    if (relay->errands < BG_GUARD_ERRANDS_MAX / 2 && /* the rest is for who waits */
        fs_errand_start(relay, &errand, name, now_ms) < 0)
        return; /* it is looked at the next time */
}

enum fs_guard_listing fs_guard_lists(struct fs_relay *relay, struct fs_rnode *folder,
                                     const struct fs_dirent *entry, uint64_t now_ms)
{
    const struct fs_guard *guard = relay->guard;
    if (!guard || guard->opts.policy != GUARD_PIN)
        return FS_GUARD_SHOW;
    enum guard_class class = fs_guard_class_at(relay, folder, entry->name, entry->name_size);
    char name[BG_FS_NAME_MAX + 1];
    memcpy(name, entry->name, entry->name_size);
    name[entry->name_size] = '\0';
    bool unknown = entry->type == DT_UNKNOWN;
    switch (class) {
    case GUARD_NONE:
        return fs_guard_is_volatile(relay, folder, name, (uint64_t)entry->type << 12)
                   ? FS_GUARD_NAME_ONLY
                   : FS_GUARD_SHOW;
    case GUARD_PINNED:
        if (fs_guard_pin_at(relay, folder, name))
            look_whether_changed(relay, folder, name, now_ms);
        else
            fs_guard_say_once(relay, folder, name, "not shown: not approved");
        return FS_GUARD_HIDE;
    case GUARD_FORBIDDEN:
        fs_guard_say_once(relay, folder, name, "not shown: git would run it");
        return FS_GUARD_HIDE;
    case GUARD_CONFIG:
    case GUARD_POINTER:
    case GUARD_POINTERS:
        return entry->type == DT_REG || unknown ? FS_GUARD_NAME_ONLY : FS_GUARD_HIDE;
    case GUARD_GIT:
        return entry->type == DT_REG || entry->type == DT_DIR || unknown ? FS_GUARD_NAME_ONLY
                                                                         : FS_GUARD_HIDE;
    case GUARD_FOLDER:
    case GUARD_HOOKS:
        return entry->type == DT_DIR || unknown ? FS_GUARD_NAME_ONLY : FS_GUARD_HIDE;
    case GUARD_WAY:
        return entry->type != DT_LNK ? FS_GUARD_NAME_ONLY : FS_GUARD_HIDE;
    }
    return FS_GUARD_HIDE;
}

/* The pins of a folder whose ino is larger than after, as entries. */
static int list(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode,
                const struct fs_rnode *folder, uint64_t after, uint64_t room)
{
    bool plus = opcode == FUSE_READDIRPLUS;
    struct bg_writer out = bg_writer_init(relay->scratch, BG_FS_MESSAGE_MAX);
    char path[BG_PATH_MAX];
    const char *name;
    const struct fs_pin *pin;
    bool good = fs_guard_path(relay, folder, NULL, path);
    while (good && (pin = fs_pins_next_in(&relay->guard->pins, path, after, &name))) {
        after = pin->ino;
        struct fs_dirent entry = {.ino = pin->ino,
                                  .offset = LOCAL_OFFSETS + pin->ino,
                                  .type = DT_REG,
                                  .name = name,
                                  .name_size = strlen(name)};
        if (fs_guard_class_at(relay, folder, name, entry.name_size) != GUARD_PINNED)
            continue; /* git's own: in the guest's part */
        if (out.used + fs_dirent_size(&entry, plus) > room)
            break;
        fs_dirent_emit(&entry, plus, &out);
    }
    struct fs_reply reply = {.data = out.start, .data_size = out.used};
    (void)fs_relay_answer(relay, kernel_unique, opcode, &reply);
    return 0;
}

bool fs_guard_continues(struct fs_relay *relay, const struct fs_pending *pending,
                        struct fs_rhandle *handle)
{
    if (!relay->guard || relay->guard->opts.policy != GUARD_PIN)
        return false;
    handle->ours = true;
    return list(relay, pending->kernel_unique, pending->opcode, pending->node, 0, pending->size) ==
           0;
}

/* ---- changes that the server has made ---- */

/* Pins below a folder that the host moved go with it; what was below the new name is gone. */
static void move_below(struct fs_guard *guard, const char *from, const char *to)
{
    size_t size = strlen(from);
    for (size_t i = 0; i < guard->pins.count; i++) {
        struct fs_pin *pin = guard->pins.all[i];
        char path[BG_PATH_MAX], before[BG_PATH_MAX];
        if (!fs_pins_is_below(pin->path, from) || pin->path[size] == '\0')
            continue;
        int n = snprintf(path, sizeof path, "%s%s", to, pin->path + size);
        memcpy(before, pin->path, strlen(pin->path) + 1);
        if (n < 0 || (size_t)n >= sizeof path || fs_pins_find(&guard->pins, path) ||
            fs_pins_move(pin, path) < 0)
            continue; /* it stays approved at a place that is not there any more */
        fs_guard_tell(guard, NULL, before);
        fs_guard_tell(guard, pin, NULL);
    }
}

static void removed(struct fs_relay *relay, const struct fs_pending *pending)
{
    struct fs_pin *pin = fs_guard_pin_at(relay, pending->node, pending->name);
    fs_gcopy_forget(relay, fs_gcopy_at(relay->guard, pending->node, pending->name));
    if (pin)
        fs_guard_unpin(relay->guard, pin);
}

static void renamed(struct fs_relay *relay, const struct fs_pending *pending)
{
    struct fs_guard *guard = relay->guard;
    struct fs_gcopy *copy = fs_gcopy_at(guard, pending->node, pending->name);
    char from[BG_PATH_MAX], to[BG_PATH_MAX];
    size_t size = strlen(pending->name2);
    enum guard_class class = fs_guard_class_at(relay, pending->node2, pending->name2, size);
    struct fs_pin *pin = fs_guard_pin_at(relay, pending->node, pending->name);
    if (pin) /* git's own, moved away: its bytes are the guest's */
        fs_guard_unpin(guard, pin);
    if (fs_guard_path(relay, pending->node, pending->name, from) &&
        fs_guard_path(relay, pending->node2, pending->name2, to) && strcmp(from, to) != 0)
        move_below(guard, from, to);
    if (!copy)
        return;
    if (fs_guard_is_file(class) || class == GUARD_GIT) {
        fs_tree_set_aside(copy->node);
        if (fs_guard_approve(relay, pending->node2, pending->name2, copy->bytes, copy->size, 0644) <
            0)
            fs_guard_say_once(relay, pending->node2, pending->name2,
                              "not kept: no room for guarded files");
        struct fs_pin *made = fs_guard_pin_at(relay, pending->node2, pending->name2);
        if (made && copy->has_twin) {
            made->has_twin = true;
            memcpy(made->twin, copy->twin, sizeof made->twin);
        }
        fs_gcopy_forget(relay, copy);
        return;
    }
    char *name = strdup(pending->name2);
    if (!name) {
        fs_gcopy_forget(relay, copy);
        return;
    }
    fs_gcopy_forget(relay, fs_gcopy_at(guard, pending->node2, pending->name2));
    copy = fs_gcopy_at(guard, pending->node, pending->name);
    free(copy->name);
    copy->name = name;
    fs_tree_ref(pending->node2);
    fs_tree_unref(&relay->tree, copy->folder);
    copy->folder = pending->node2;
}

void fs_guard_moved(struct fs_relay *relay, const struct fs_pending *pending)
{
    if (!relay->guard || relay->guard->opts.policy != GUARD_PIN)
        return;
    if (pending->opcode == FUSE_UNLINK)
        removed(relay, pending);
    else if (pending->opcode == FUSE_RENAME || pending->opcode == FUSE_RENAME2)
        renamed(relay, pending);
}

/* ---- approvals from outside ---- */

int fs_relay_note(struct fs_relay *relay, const struct fs_pin_note *note)
{
    struct fs_guard *guard = relay->guard;
    if (!guard || guard->opts.policy != GUARD_PIN)
        return 0;
    struct fs_pin *pin = fs_pins_find(&guard->pins, note->path);
    if (note->forget) {
        if (pin) {
            fs_gnode_detach(guard, pin);
            fs_pins_remove(&guard->pins, pin);
            if (relay->changes.agreed)
                fs_changes_all(relay);
        }
        return 0;
    }
    bool same = pin && pin->size == note->size &&
                (pin->size == 0 || memcmp(pin->bytes, note->bytes, pin->size) == 0);
    if (same)
        return 0;
    int r = pin ? 0 : fs_pins_add(&guard->pins, note->path, &pin);
    if (r < 0)
        return r;
    fs_gnode_detach(guard, pin);
    r = fs_pins_set(&guard->pins, pin, note->bytes, note->size);
    if (r < 0) {
        fs_pins_remove(&guard->pins, pin);
        return r;
    }
    pin->mode = note->mode;
    pin->mtime = note->mtime;
    if (relay->changes.agreed)
        fs_changes_all(relay); /* what the kernel remembers of folders has to go */
    return 0;
}

/* ---- life ---- */

/* The canonical form of an absolute path, without "/" at its end: "" is the root. It names the same
 * folder for whoever writes it so; what links it leads through is the guest's affair. */
static int canonical(const char *path, char out[BG_PATH_MAX])
{
    size_t used = 0;
    if (path[0] != '/' || strlen(path) >= BG_PATH_MAX)
        return -EINVAL;
    for (const char *p = path; *p != '\0';) {
        size_t size = strcspn(++p, "/");
        if (size == 2 && memcmp(p, "..", 2) == 0) {
            while (used > 0 && out[--used] != '/')
                ;
        } else if (size > 0 && !(size == 1 && p[0] == '.')) {
            out[used++] = '/';
            memcpy(out + used, p, size);
            used += size;
        }
        p += size;
    }
    out[used] = '\0';
    return 0;
}

/* Cuts the mount's own path into steps, which borrow from guard->root. */
static int set_root(struct fs_guard *guard, const char *root)
{
    char path[BG_PATH_MAX];
    int r = canonical(root ? root : "/", path);
    if (r < 0)
        return r;
    guard->root = strdup(path);
    if (!guard->root)
        return -ENOMEM;
    guard->root_steps[guard->root_count++] = (struct guard_step){.name = ""};
    for (const char *p = guard->root; *p != '\0';) {
        size_t size = strcspn(++p, "/");
        if (guard->root_count == BG_FS_DEPTH_MAX)
            return -EINVAL;
        guard->root_steps[guard->root_count++] =
            (struct guard_step){.name = p, .size = size, .git = guard_is_git(p, size)};
        p += size;
    }
    return 0;
}

int fs_guard_new(const struct fs_guard_opts *opts, struct fs_guard **ret)
{
    *ret = NULL;
    if (opts->policy == GUARD_OFF)
        return 0;
    struct fs_guard *guard = calloc(1, sizeof *guard);
    if (!guard)
        return -ENOMEM;
    guard->opts = *opts;
    fs_pins_init(&guard->pins);
    int r = set_root(guard, opts->root);
    if (r < 0) {
        fs_guard_free(guard);
        return r;
    }
    *ret = guard;
    return 0;
}

void fs_guard_free(struct fs_guard *guard)
{
    if (!guard)
        return;
    for (size_t i = 0; i < guard->node_count; i++) {
        free(guard->nodes[i]->name);
        free(guard->nodes[i]->bytes);
        free(guard->nodes[i]);
    }
    for (size_t i = 0; i < guard->copy_count; i++) {
        free(guard->copies[i].name);
        free(guard->copies[i].bytes);
    }
    fs_pins_done(&guard->pins);
    free(guard->root);
    free(guard);
}
