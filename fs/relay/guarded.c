#include "fs/relay/guarded.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/quote.h"
#include "common/sha256.h"
#include "fs/guard/gitconfig.h"
#include "fs/relay/view.h"

#define STEPS_MAX     (2 * BG_FS_DEPTH_MAX + 2) /* the mount's own path, the folders, the name */
#define LOCAL_OFFSETS (1ull << 62)              /* of our own entries in a folder */
#define VALID_SECONDS 1u
#define LINES_MAX     200u /* in the log, for what the guest has */
#define SEEN_MAX      256u /* names that the log has had */

/* A node of ours. */
struct fs_gnode {
    uint64_t id, nlookup;
    unsigned handles;
    struct fs_pin *pin; /* its bytes; NULL: those below */
    uint8_t *bytes;
    size_t size;
    uint64_t ino, mtime;
    mode_t mode;
    bool old;                /* its place has another node now, or none: cannot be opened */
    struct fs_rnode *folder; /* referenced */
    char *name;
};

struct fs_ghandle {
    uint64_t id;
    struct fs_gnode *node;
    bool writes;
};

/* A file that the host has made, as it wrote it. */
struct fs_gcopy {
    struct fs_rnode *node, *folder; /* referenced */
    char *name;
    uint8_t *bytes;
    size_t size, room;
    bool has_twin; /* the guest's file is another one: see fs_pin */
    uint8_t twin[BG_SHA256_SIZE];
};

struct fs_guard {
    struct fs_guard_opts opts;
    char *root; /* opts.root without "/" at its end: "" is the root */
    struct guard_step root_steps[BG_FS_DEPTH_MAX];
    size_t root_count;
    struct fs_pins pins;
    struct fs_gnode *nodes[BG_GUARD_NODES_MAX];
    struct fs_ghandle handles[BG_GUARD_HANDLES_MAX];
    struct fs_gcopy copies[BG_GUARD_COPIES_MAX]; /* the oldest first */
    size_t node_count, handle_count, copy_count, copy_bytes;
    uint64_t seen[SEEN_MAX]; /* hashes of paths in the log */
    size_t seen_count;
    unsigned lines;
};

/* ---- places ---- */

static bool is_git(const struct fs_rnode *folder)
{
    return guard_signs_suffice(folder->signs) ||
           (folder->name && guard_is_git(folder->name, strlen(folder->name)));
}

/* all_git: as if every folder on the way were a git folder. */
static enum guard_class classify_as(const struct fs_relay *relay, const struct fs_rnode *folder,
                                    const char *name, size_t size, bool all_git)
{
    const struct fs_guard *guard = relay->guard;
    struct guard_step steps[STEPS_MAX];
    size_t at = STEPS_MAX;
    steps[--at] = (struct guard_step){.name = name, .size = size};
    for (; folder->parent && at > BG_FS_DEPTH_MAX; folder = folder->parent)
        steps[--at] = (struct guard_step){
            .name = folder->name, .size = strlen(folder->name), .git = all_git || is_git(folder)};
    at -= guard->root_count;
    memcpy(steps + at, guard->root_steps, guard->root_count * sizeof *steps);
    steps[at + guard->root_count - 1].git = all_git || is_git(folder); /* the mount's root */
    return guard_classify(steps + at, STEPS_MAX - at);
}

static enum guard_class classify(const struct fs_relay *relay, const struct fs_rnode *folder,
                                 const char *name, size_t size)
{
    return classify_as(relay, folder, name, size, /* all_git= */ false);
}

/* Classes of files that are ours to serve. */
static bool is_file_class(enum guard_class class)
{
    return class == GUARD_PINNED || class == GUARD_CONFIG || class == GUARD_POINTER ||
           class == GUARD_POINTERS;
}

/* Classes of what must be a folder. */
static bool is_folder_class(enum guard_class class)
{
    return class == GUARD_GIT || class == GUARD_FOLDER || class == GUARD_HOOKS ||
           class == GUARD_WAY;
}

static bool put_before(char *out, size_t *at, const char *name, size_t size)
{
    if (*at < size + 1)
        return false;
    *at -= size;
    memcpy(out + *at, name, size);
    out[--*at] = '/';
    return true;
}

/* The path in the sandbox of name in folder; name NULL: of folder, without a "/" at its end. False:
 * longer than any that can be kept. */
static bool path_of(const struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                    char out[BG_PATH_MAX])
{
    char path[BG_PATH_MAX];
    size_t at = sizeof path - 1, root_size = strlen(relay->guard->root);
    path[at] = '\0';
    bool good = !name || put_before(path, &at, name, strlen(name));
    for (; good && folder->parent; folder = folder->parent)
        good = put_before(path, &at, folder->name, strlen(folder->name));
    if (!good || at < root_size)
        return false;
    at -= root_size;
    memcpy(path + at, relay->guard->root, root_size);
    memcpy(out, path + at, sizeof path - at);
    return true;
}

/* ---- telling ---- */

static void say(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                const char *what)
{
    char path[BG_PATH_MAX], quoted[512];
    if (relay->guard->lines++ >= LINES_MAX)
        return;
    const char *at = path_of(relay, folder, name, path) ? path : name;
    bg_log(relay->opts.log, BG_LOG_WARN, "%s: %s", bg_quote(at, quoted, sizeof quoted), what);
}

/* As say, once for each path. */
static void say_once(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                     const char *what)
{
    struct fs_guard *guard = relay->guard;
    char path[BG_PATH_MAX];
    if (!path_of(relay, folder, name, path))
        return;
    uint64_t hash = fs_table_hash_bytes(&relay->handles, 0, path, strlen(path));
    for (size_t i = 0; i < guard->seen_count; i++)
        if (guard->seen[i] == hash)
            return;
    if (guard->seen_count == SEEN_MAX)
        return;
    guard->seen[guard->seen_count++] = hash;
    say(relay, folder, name, what);
}

static void tell(const struct fs_guard *guard, const struct fs_pin *pin, const char *forgotten)
{
    struct fs_pin_note note = {.forget = forgotten != NULL};
    const char *path = forgotten ? forgotten : pin->path;
    if (!guard->opts.on_note)
        return;
    memcpy(note.path, path, strlen(path) + 1); /* made by path_of */
    if (!forgotten) {
        note.mode = pin->mode;
        note.mtime = pin->mtime;
        note.bytes = pin->bytes;
        note.size = pin->size;
    }
    guard->opts.on_note(guard->opts.owner, &note);
}

static uint64_t now_s(const struct fs_guard *guard)
{
    return guard->opts.now_s ? guard->opts.now_s(guard->opts.owner) : 0;
}

/* ---- nodes ---- */

static struct fs_gnode *node_find(const struct fs_guard *guard, uint64_t id)
{
    for (size_t i = 0; guard && i < guard->node_count; i++)
        if (guard->nodes[i]->id == id)
            return guard->nodes[i];
    return NULL;
}

static void node_free(struct fs_relay *relay, struct fs_gnode *node)
{
    fs_tree_unref(&relay->tree, node->folder);
    free(node->name);
    free(node->bytes);
    free(node);
}

static void drop_unused(struct fs_relay *relay, struct fs_gnode *node)
{
    struct fs_guard *guard = relay->guard;
    size_t at = 0;
    if (node->nlookup > 0 || node->handles > 0)
        return;
    while (guard->nodes[at] != node)
        at++;
    guard->nodes[at] = guard->nodes[--guard->node_count];
    node_free(relay, node);
}

static struct fs_gnode *node_new(struct fs_relay *relay, struct fs_rnode *folder, const char *name)
{
    struct fs_guard *guard = relay->guard;
    struct fs_gnode *node = calloc(1, sizeof *node);
    char *copy = strdup(name);
    if (!node || !copy || guard->node_count == BG_GUARD_NODES_MAX) {
        free(node);
        free(copy);
        return NULL;
    }
    node->id = relay->tree.next_id++;
    node->name = copy;
    node->folder = folder;
    fs_tree_ref(folder);
    guard->nodes[guard->node_count++] = node;
    return node;
}

/* Whoever has the node open keeps the pin's bytes as they are; the pin has none then. */
static void detach(struct fs_guard *guard, struct fs_pin *pin)
{
    bool taken = false;
    for (size_t i = 0; i < guard->node_count; i++) {
        struct fs_gnode *node = guard->nodes[i];
        if (node->pin != pin)
            continue;
        assert(!taken); /* a pin has one node */
        node->pin = NULL;
        node->old = true;
        node->bytes = pin->bytes;
        node->size = pin->size;
        node->mode = pin->mode;
        node->mtime = pin->mtime;
        guard->pins.bytes -= pin->size;
        pin->bytes = NULL;
        pin->size = 0;
        taken = true;
    }
    for (size_t i = 0; i < guard->handle_count; i++)
        if (guard->handles[i].node->old)
            guard->handles[i].writes = false; /* what it writes is nobody's */
    pin->writers = 0;
    pin->dirty = pin->has_twin = false;
    pin->ino = guard->pins.next_ino++;
}

static void remove_pin(struct fs_guard *guard, struct fs_pin *pin)
{
    detach(guard, pin);
    tell(guard, NULL, pin->path);
    fs_pins_remove(&guard->pins, pin);
}

static struct fs_gnode *node_of_pin(struct fs_relay *relay, struct fs_pin *pin,
                                    struct fs_rnode *folder, const char *name)
{
    struct fs_guard *guard = relay->guard;
    for (size_t i = 0; i < guard->node_count; i++) {
        struct fs_gnode *node = guard->nodes[i];
        if (node->pin != pin)
            continue;
        if (node->folder != folder) { /* the folder was looked up anew */
            fs_tree_ref(folder);
            fs_tree_unref(&relay->tree, node->folder);
            node->folder = folder;
        }
        return node;
    }
    struct fs_gnode *node = node_new(relay, folder, name);
    if (node) {
        node->pin = pin;
        node->ino = pin->ino;
    }
    return node;
}

/* The pin of a place, if it has one. */
static struct fs_pin *pin_at(const struct fs_relay *relay, const struct fs_rnode *folder,
                             const char *name)
{
    char path[BG_PATH_MAX];
    return path_of(relay, folder, name, path) ? fs_pins_find(&relay->guard->pins, path) : NULL;
}

/* The pin of a place, with no bytes if it is new. Errors: -ENAMETOOLONG, -ENOSPC, -ENOMEM. */
static int pin_make(const struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                    struct fs_pin **ret)
{
    char path[BG_PATH_MAX];
    if (!path_of(relay, folder, name, path))
        return -ENAMETOOLONG;
    *ret = fs_pins_find(&relay->guard->pins, path);
    return *ret ? 0 : fs_pins_add(&relay->guard->pins, path, ret);
}

/* Makes bytes the pin of a place, with a new node. Errors change nothing but drop the old pin. */
static int approve(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                   const uint8_t *bytes, size_t size, mode_t mode)
{
    struct fs_guard *guard = relay->guard;
    struct fs_pin *pin;
    int r = pin_make(relay, folder, name, &pin);
    if (r < 0)
        return r;
    detach(guard, pin);
    r = fs_pins_set(&guard->pins, pin, bytes, size);
    if (r < 0) {
        remove_pin(guard, pin);
        return r;
    }
    pin->mode = mode & 0777;
    pin->mtime = now_s(guard);
    tell(guard, pin, NULL);
    return 0;
}

static void content(const struct fs_gnode *node, const uint8_t **ret_bytes, size_t *ret_size)
{
    *ret_bytes = node->pin ? node->pin->bytes : node->bytes;
    *ret_size = node->pin ? node->pin->size : node->size;
}

static void fill_attr(const struct fs_relay *relay, const struct fs_gnode *node,
                      struct fs_reply *reply)
{
    const uint8_t *bytes;
    size_t size;
    content(node, &bytes, &size);
    uint64_t time = node->pin ? node->pin->mtime : node->mtime;
    reply->attr_valid = VALID_SECONDS;
    reply->attr = (struct fs_attr){.ino = node->ino,
                                   .size = size,
                                   .blocks = (size + 511) / 512,
                                   .atime = time,
                                   .mtime = time,
                                   .ctime = time,
                                   .mode = S_IFREG | (node->pin ? node->pin->mode : node->mode),
                                   .nlink = 1,
                                   .uid = relay->owners.uid,
                                   .gid = relay->owners.gid,
                                   .blksize = 4096};
}

/* Answers with the node, and with a handle of it if reply has one. NULL: no memory. */
static int answer_node(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode,
                       struct fs_gnode *node, struct fs_reply *reply)
{
    if (!node)
        return -ENFILE;
    reply->node = node->id;
    reply->entry_valid = VALID_SECONDS;
    fill_attr(relay, node, reply);
    node->nlookup++;
    if (fs_relay_answer(relay, kernel_unique, opcode, reply) < 0) {
        node->nlookup--;
        drop_unused(relay, node);
    }
    return 0;
}

static int answer_empty(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode)
{
    (void)fs_relay_answer(relay, kernel_unique, opcode, &(struct fs_reply){0}); /* or it gave up */
    return 0;
}

/* ---- to the guest ---- */

static void stored(struct fs_relay *relay, struct fs_errand *errand, int error, uint64_t now_ms)
{
    (void)now_ms;
    const struct fs_gnode *node = node_find(relay->guard, errand->target);
    if (error < 0)
        say(relay, errand->folder, errand->name, "the guest did not take what was written here");
    if (errand->kernel_unique == 0)
        return;
    struct fs_reply reply = {0};
    if (error == 0 && errand->kernel_opcode == FUSE_SETATTR) {
        if (node)
            fill_attr(relay, node, &reply);
        else
            error = -ESTALE;
    }
    if (error < 0)
        fs_relay_fail(relay, errand->kernel_unique, error);
    else
        (void)fs_relay_answer(relay, errand->kernel_unique, errand->kernel_opcode, &reply);
}

/* Gives bytes to the guest as a file; the kernel's request is answered when it has them. */
static int store(struct fs_relay *relay, const struct fs_gnode *node, uint64_t kernel_unique,
                 uint32_t opcode, uint64_t now_ms)
{
    const uint8_t *bytes;
    struct fs_errand errand = {.kind = FS_ERRAND_STORE,
                               .kernel_unique = kernel_unique,
                               .kernel_opcode = opcode,
                               .folder = node->folder,
                               .target = node->id,
                               .mode = node->pin ? node->pin->mode : node->mode,
                               .on_done = stored};
    content(node, &bytes, &errand.size);
    errand.bytes = malloc(errand.size + 1);
    if (!errand.bytes)
        return -ENOMEM;
    if (errand.size > 0)
        memcpy(errand.bytes, bytes, errand.size);
    return fs_errand_start(relay, &errand, node->name, now_ms);
}

/* What the host wrote is approved, and goes to the guest. */
static int commit(struct fs_relay *relay, struct fs_gnode *node, uint64_t kernel_unique,
                  uint32_t opcode, uint64_t now_ms)
{
    node->pin->dirty = false;
    tell(relay->guard, node->pin, NULL);
    return store(relay, node, kernel_unique, opcode, now_ms);
}

/* Removes a name in the guest; whether it was there matters to nobody. */
static void unlink_there(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                         uint64_t now_ms)
{
    struct fs_request request = {
        .opcode = FUSE_UNLINK, .node = folder->peer->id, .name = name, .name_size = strlen(name)};
    fs_relay_send_own(relay, &request, now_ms);
}

/* ---- git's files ---- */

/* The node with these bytes at a place. bytes: taken. */
static struct fs_gnode *node_of_view(struct fs_relay *relay, struct fs_rnode *folder,
                                     const char *name, uint8_t *bytes, size_t size,
                                     const struct fs_attr *attr)
{
    struct fs_guard *guard = relay->guard;
    for (size_t i = 0; i < guard->node_count; i++) {
        struct fs_gnode *node = guard->nodes[i];
        if (node->old || node->pin || node->folder != folder || strcmp(node->name, name) != 0)
            continue;
        if (node->size == size && (size == 0 || memcmp(node->bytes, bytes, size) == 0)) {
            free(bytes);
            return node;
        }
        node->old = true;
    }
    struct fs_gnode *node = node_new(relay, folder, name);
    if (!node) {
        free(bytes);
        return NULL;
    }
    node->bytes = bytes;
    node->size = size;
    node->mode = (mode_t)attr->mode & 0777;
    node->mtime = attr->mtime;
    node->ino = guard->pins.next_ino++;
    return node;
}

/* What the host sees of a file that the guest has. */
static int show_view(struct fs_relay *relay, const struct fs_errand *errand)
{
    struct fs_view_opts opts = {
        .class = classify(relay, errand->folder, errand->name, strlen(errand->name)),
        .depth = fs_tree_depth(errand->folder),
        .whole = relay->whole};
    uint8_t *bytes;
    size_t size, dropped;
    struct bg_err err;
    if (opts.class != GUARD_GIT && (!is_file_class(opts.class) || opts.class == GUARD_PINNED))
        return -ESTALE; /* it was moved meanwhile */
    int r = fs_view_make(&opts, errand->bytes, errand->size, &bytes, &size, &dropped, &err);
    if (r < 0) {
        char text[BG_ERR_TEXT_SIZE + 32];
        (void)snprintf(text, sizeof text, "not shown: %s", err.text);
        say_once(relay, errand->folder, errand->name, text);
        return r == -ENOMEM ? r : -EACCES;
    }
    if (dropped > 0)
        say_once(relay, errand->folder, errand->name,
                 "shown without what could make git run something");
    struct fs_reply reply = {0};
    return answer_node(
        relay, errand->kernel_unique, FUSE_LOOKUP,
        node_of_view(relay, errand->folder, errand->name, bytes, size, &errand->attr), &reply);
}

/* Whether the guest's file is what it was made when the host wrote this. */
static bool is_as_written(const struct fs_pin *pin, const uint8_t *bytes, size_t size)
{
    uint8_t digest[BG_SHA256_SIZE];
    struct bg_sha256 hash;
    if (pin->size == size && (size == 0 || memcmp(pin->bytes, bytes, size) == 0))
        return true;
    if (!pin->has_twin)
        return false;
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, bytes, size);
    bg_sha256_final(&hash, digest);
    return memcmp(digest, pin->twin, sizeof digest) == 0;
}

static void fetched(struct fs_relay *relay, struct fs_errand *errand, int error, uint64_t now_ms)
{
    (void)now_ms;
    struct fs_pin *pin = pin_at(relay, errand->folder, errand->name);
    struct fs_reply reply = {0};
    if (error == -EISDIR || error == -ELOOP) {
        say_once(relay, errand->folder, errand->name, "not shown: it is no regular file");
        error = -ENOENT;
    }
    if (error == -EFBIG) {
        say_once(relay, errand->folder, errand->name, "not shown: it is too large");
        error = -EACCES;
    }
    if (error == 0) {
        error = pin && is_as_written(pin, errand->bytes, errand->size)
                    ? answer_node(relay, errand->kernel_unique, FUSE_LOOKUP,
                                  node_of_pin(relay, pin, errand->folder, errand->name), &reply)
                    : show_view(relay, errand);
    }
    if (error < 0)
        fs_relay_fail(relay, errand->kernel_unique, error);
}

static int fetch(struct fs_relay *relay, struct fs_rnode *folder, const char *name,
                 uint64_t kernel_unique, uint64_t now_ms)
{
    struct fs_errand errand = {.kind = FS_ERRAND_FETCH,
                               .kernel_unique = kernel_unique,
                               .kernel_opcode = FUSE_LOOKUP,
                               .folder = folder,
                               .on_done = fetched};
    return fs_errand_start(relay, &errand, name, now_ms);
}

/* ---- copies of what the host writes ---- */

static void copy_drop(struct fs_relay *relay, size_t at)
{
    struct fs_guard *guard = relay->guard;
    struct fs_gcopy *copy = &guard->copies[at];
    guard->copy_bytes -= copy->room;
    fs_tree_unref(&relay->tree, copy->node);
    fs_tree_unref(&relay->tree, copy->folder);
    free(copy->name);
    free(copy->bytes);
    guard->copy_count--;
    memmove(copy, copy + 1, (guard->copy_count - at) * sizeof *copy);
}

static struct fs_gcopy *copy_of(struct fs_guard *guard, const struct fs_rnode *node)
{
    for (size_t i = guard->copy_count; i > 0; i--)
        if (guard->copies[i - 1].node == node)
            return &guard->copies[i - 1];
    return NULL;
}

static struct fs_gcopy *copy_at(struct fs_guard *guard, const struct fs_rnode *folder,
                                const char *name)
{
    for (size_t i = guard->copy_count; i > 0; i--)
        if (guard->copies[i - 1].folder == folder && strcmp(guard->copies[i - 1].name, name) == 0)
            return &guard->copies[i - 1];
    return NULL;
}

static void copy_forget(struct fs_relay *relay, const struct fs_gcopy *copy)
{
    if (copy)
        copy_drop(relay, (size_t)(copy - relay->guard->copies));
}

/* Makes room for size bytes. False: it is too large to be kept. The oldest go first. */
static bool copy_grow(struct fs_relay *relay, const struct fs_rnode *node, uint64_t size)
{
    struct fs_guard *guard = relay->guard;
    struct fs_gcopy *copy = copy_of(guard, node);
    if (size > BG_GUARD_FILE_MAX)
        return false;
    if (size > copy->room) {
        size_t room = (size_t)size < 4096 ? 4096 : (size_t)size * 2;
        room = room > BG_GUARD_FILE_MAX ? BG_GUARD_FILE_MAX : room;
        while (guard->copy_bytes + room > BG_GUARD_BYTES_MAX && guard->copies[0].node != node)
            copy_drop(relay, 0);
        copy = copy_of(guard, node);
        uint8_t *grown = realloc(copy->bytes, room);
        if (!grown)
            return false;
        guard->copy_bytes += room - copy->room;
        copy->bytes = grown;
        copy->room = room;
    }
    if (size > copy->size)
        memset(copy->bytes + copy->size, 0, (size_t)size - copy->size);
    copy->size = (size_t)size > copy->size ? (size_t)size : copy->size;
    return true;
}

void fs_guard_created(struct fs_relay *relay, const struct fs_pending *pending,
                      struct fs_rnode *node)
{
    struct fs_guard *guard = relay->guard;
    if (!guard || guard->opts.policy != GUARD_PIN || copy_of(guard, node) ||
        !(pending->flags & (O_EXCL | O_TRUNC)))
        return; /* else it may have had bytes before */
    char *name = strdup(pending->name);
    if (!name)
        return;
    if (guard->copy_count == BG_GUARD_COPIES_MAX)
        copy_drop(relay, 0);
    copy_forget(relay, copy_at(guard, pending->node, name));
    struct fs_gcopy *copy = &guard->copies[guard->copy_count++];
    *copy = (struct fs_gcopy){.node = node, .folder = pending->node, .name = name};
    fs_tree_ref(copy->node);
    fs_tree_ref(copy->folder);
}

/* Follows what a request does to a file of the host's. */
static void copy_follow(struct fs_relay *relay, const struct fs_request *request,
                        const struct fs_rnode *node)
{
    struct fs_gcopy *copy = copy_of(relay->guard, node);
    bool good = true;
    if (!copy)
        return;
    switch (request->opcode) {
    case FUSE_WRITE:
        good = request->offset <= BG_GUARD_FILE_MAX &&
               copy_grow(relay, node, request->offset + request->data_size);
        copy = copy_of(relay->guard, node);
        if (good && request->data_size > 0)
            memcpy(copy->bytes + request->offset, request->data, request->data_size);
        break;
    case FUSE_SETATTR:
        if (!(request->valid & FATTR_SIZE))
            break;
        good = copy_grow(relay, node, request->size);
        copy = copy_of(relay->guard, node);
        if (good)
            copy->size = (size_t)request->size;
        break;
    case FUSE_OPEN:
        if (request->flags & O_TRUNC)
            copy->size = 0;
        break;
    case FUSE_FALLOCATE:
        good = false;
        break;
    default:
        break;
    }
    if (!good)
        copy_forget(relay, copy);
}

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
            !is_file_class(classify(relay, folder, copy->name, strlen(copy->name))))
            continue;
        copy->node->unnamed = true;
        if (approve(relay, folder, copy->name, copy->bytes, copy->size, 0644) < 0)
            say_once(relay, folder, copy->name, "not kept: no room for guarded files");
    }
}

/* ---- requests on nodes of ours ---- */

static bool changes(uint64_t flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);
}

static struct fs_ghandle *handle_find(struct fs_guard *guard, uint64_t id)
{
    for (size_t i = 0; guard && i < guard->handle_count; i++)
        if (guard->handles[i].id == id)
            return &guard->handles[i];
    return NULL;
}

static struct fs_ghandle *handle_new(struct fs_relay *relay, struct fs_gnode *node, bool writes)
{
    struct fs_guard *guard = relay->guard;
    if (guard->handle_count == BG_GUARD_HANDLES_MAX)
        return NULL;
    struct fs_ghandle *handle = &guard->handles[guard->handle_count++];
    *handle = (struct fs_ghandle){.id = relay->next_handle++, .node = node, .writes = writes};
    node->handles++;
    if (writes)
        node->pin->writers++;
    return handle;
}

static void handle_free(struct fs_relay *relay, struct fs_ghandle *handle)
{
    struct fs_gnode *node = handle->node;
    if (handle->writes && node->pin)
        node->pin->writers--;
    *handle = relay->guard->handles[--relay->guard->handle_count];
    node->handles--;
    drop_unused(relay, node);
}

/* A node that shows what the guest has becomes the host's own, with the bytes that are shown. */
static int take_over(struct fs_relay *relay, struct fs_gnode *node)
{
    struct fs_guard *guard = relay->guard;
    struct fs_pin *pin;
    int r = pin_make(relay, node->folder, node->name, &pin);
    if (r < 0)
        return r;
    detach(guard, pin);
    r = fs_pins_set(&guard->pins, pin, node->bytes, node->size);
    if (r < 0) {
        remove_pin(guard, pin);
        return r;
    }
    pin->mode = node->mode & 0777;
    pin->mtime = node->mtime;
    free(node->bytes);
    node->bytes = NULL;
    node->size = 0;
    node->pin = pin;
    return 0;
}

static int truncate_to(struct fs_relay *relay, struct fs_gnode *node, uint64_t size)
{
    int r = node->old ? -ESTALE : node->pin ? 0 : take_over(relay, node);
    if (r == 0)
        r = fs_pins_resize(&relay->guard->pins, node->pin, size);
    if (r == 0) {
        node->pin->dirty = true;
        node->pin->mtime = now_s(relay->guard);
    }
    return r;
}

static int open_node(struct fs_relay *relay, const struct fs_request *request,
                     struct fs_gnode *node)
{
    bool writes = (request->flags & O_ACCMODE) != O_RDONLY;
    int r = 0;
    if (node->old)
        return -ESTALE; /* the kernel looks the name up anew */
    if (changes(request->flags) && relay->read_only)
        return -EROFS;
    if (changes(request->flags) && !node->pin)
        r = take_over(relay, node);
    if (r == 0 && (request->flags & O_TRUNC))
        r = truncate_to(relay, node, 0);
    if (r < 0)
        return r;
    struct fs_ghandle *handle = handle_new(relay, node, writes);
    if (!handle)
        return -ENFILE;
    struct fs_reply reply = {.fh = handle->id};
    if (fs_relay_answer(relay, request->unique, request->opcode, &reply) < 0)
        handle_free(relay, handle);
    return 0;
}

static int set_attr(struct fs_relay *relay, const struct fs_request *request, struct fs_gnode *node,
                    uint64_t now_ms)
{
    bool resizes = request->valid & FATTR_SIZE;
    int r = 0;
    if (relay->read_only)
        return -EROFS;
    if (((request->valid & FATTR_UID) && request->uid != relay->owners.uid) ||
        ((request->valid & FATTR_GID) && request->gid != relay->owners.gid))
        return -EPERM;
    if (resizes)
        r = truncate_to(relay, node, request->size);
    if (r < 0)
        return r;
    if (node->pin && (request->valid & FATTR_MODE))
        node->pin->mode = (mode_t)request->mode & 0777;
    if (node->pin && (request->valid & FATTR_MTIME))
        node->pin->mtime = request->valid & FATTR_MTIME_NOW ? now_s(relay->guard) : request->mtime;
    if (resizes && !(request->valid & FATTR_FH)) /* no handle, so no close will come */
        return commit(relay, node, request->unique, FUSE_SETATTR, now_ms);
    if (node->pin && (request->valid & FATTR_MODE))
        tell(relay->guard, node->pin, NULL);
    struct fs_reply reply = {0};
    fill_attr(relay, node, &reply);
    (void)fs_relay_answer(relay, request->unique, FUSE_SETATTR, &reply);
    return 0;
}

static int read_node(struct fs_relay *relay, const struct fs_request *request,
                     const struct fs_gnode *node)
{
    const uint8_t *bytes;
    size_t size;
    content(node, &bytes, &size);
    struct fs_reply reply = {0};
    if (request->offset < size) {
        uint64_t left = size - request->offset;
        reply.data = bytes + request->offset;
        reply.data_size = (size_t)(left < request->size ? left : request->size);
    }
    (void)fs_relay_answer(relay, request->unique, FUSE_READ, &reply);
    return 0;
}

static int write_node(struct fs_relay *relay, const struct fs_request *request,
                      const struct fs_gnode *node, const struct fs_ghandle *handle)
{
    if (!handle->writes || !node->pin)
        return node->old ? -ESTALE : -EBADF;
    int r = fs_pins_write(&relay->guard->pins, node->pin, request->offset, request->data,
                          request->data_size);
    if (r < 0) {
        say_once(relay, node->folder, node->name,
                 r == -EFBIG ? "a guarded file has at most 1 MiB" : "no room for guarded files");
        return r;
    }
    node->pin->dirty = true;
    node->pin->mtime = now_s(relay->guard);
    struct fs_reply reply = {.size = request->data_size};
    (void)fs_relay_answer(relay, request->unique, FUSE_WRITE, &reply);
    return 0;
}

static int seek_node(struct fs_relay *relay, const struct fs_request *request,
                     const struct fs_gnode *node)
{
    const uint8_t *bytes;
    size_t size;
    content(node, &bytes, &size);
    if (request->offset >= size)
        return -ENXIO;
    struct fs_reply reply = {.offset = request->whence == SEEK_HOLE ? size : request->offset};
    (void)fs_relay_answer(relay, request->unique, FUSE_LSEEK, &reply);
    return 0;
}

static int on_node(struct fs_relay *relay, const struct fs_request *request, struct fs_gnode *node,
                   uint64_t now_ms)
{
    struct fs_reply reply = {0};
    struct fs_ghandle *handle = handle_find(relay->guard, request->fh);
    bool ours = handle && handle->node == node;
    switch (request->opcode) {
    case FUSE_GETATTR:
        fill_attr(relay, node, &reply);
        (void)fs_relay_answer(relay, request->unique, FUSE_GETATTR, &reply);
        return 0;
    case FUSE_SETATTR:
        return set_attr(relay, request, node, now_ms);
    case FUSE_OPEN:
        return open_node(relay, request, node);
    case FUSE_READ:
        return ours ? read_node(relay, request, node) : -EBADF;
    case FUSE_WRITE:
        return ours ? write_node(relay, request, node, handle) : -EBADF;
    case FUSE_LSEEK:
        return ours ? seek_node(relay, request, node) : -EBADF;
    case FUSE_FLUSH:
    case FUSE_FSYNC:
        if (node->pin && node->pin->dirty)
            return commit(relay, node, request->unique, request->opcode, now_ms);
        return answer_empty(relay, request->unique, request->opcode);
    case FUSE_ACCESS:
        return answer_empty(relay, request->unique, request->opcode);
    case FUSE_STATFS:
        return fs_relay_answer_from_memory(relay, request->unique, FUSE_STATFS, relay->tree.root)
                   ? 0
                   : -EIO;
    case FUSE_GETXATTR:
    case FUSE_REMOVEXATTR:
        return -ENODATA;
    case FUSE_LISTXATTR:
        (void)fs_relay_answer(relay, request->unique, FUSE_LISTXATTR, &reply);
        return 0;
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW:
        return -ENOLCK;
    case FUSE_READLINK:
        return -EINVAL;
    default:
        return -EOPNOTSUPP;
    }
}

/* ---- requests on names ---- */

static int refuse_hook(struct fs_relay *relay, const struct fs_rnode *folder, const char *name)
{
    say_once(relay, folder, name,
             "hooks cannot be made here: git would run them. Make it in the sandbox");
    return -EROFS;
}

static int look_up(struct fs_relay *relay, const struct fs_request *request,
                   struct fs_rnode *folder, enum guard_class class, uint64_t now_ms)
{
    struct fs_pin *pin = pin_at(relay, folder, request->name);
    struct fs_reply reply = {0};
    bool fetches = class == GUARD_CONFIG || class == GUARD_POINTER || class == GUARD_POINTERS;
    if (fetches && !(pin && (pin->dirty || pin->writers > 0)))
        return fetch(relay, folder, request->name, request->unique, now_ms);
    if (!pin || class == GUARD_FORBIDDEN)
        return -ENOENT;
    return answer_node(relay, request->unique, FUSE_LOOKUP,
                       node_of_pin(relay, pin, folder, request->name), &reply);
}

/* Makes the pin of a name that has none, or opens the one there is. */
static int create(struct fs_relay *relay, const struct fs_request *request, struct fs_rnode *folder,
                  uint64_t now_ms)
{
    bool opens = request->opcode == FUSE_CREATE;
    struct fs_pin *pin = pin_at(relay, folder, request->name);
    if (pin && (!opens || (request->flags & O_EXCL)))
        return -EEXIST;
    bool fresh = !pin;
    int r = fresh ? pin_make(relay, folder, request->name, &pin) : 0;
    if (r < 0)
        return r;
    struct fs_gnode *node = node_of_pin(relay, pin, folder, request->name);
    if (node && (request->flags & O_TRUNC))
        r = fs_pins_resize(&relay->guard->pins, pin, 0); /* to nothing: cannot fail */
    struct fs_ghandle *handle =
        node && opens ? handle_new(relay, node, (request->flags & O_ACCMODE) != O_RDONLY) : NULL;
    if (r < 0 || !node || (opens && !handle)) {
        if (node)
            drop_unused(relay, node);
        if (fresh)
            fs_pins_remove(&relay->guard->pins, pin);
        return -ENFILE;
    }
    if (fresh)
        pin->mode = (mode_t)request->mode & 0777;
    pin->mtime = now_s(relay->guard);
    pin->dirty = true;
    struct fs_reply reply = {.fh = handle ? handle->id : 0};
    if (!opens) { /* no close will come */
        r = commit(relay, node, 0, 0, now_ms);
        if (r < 0)
            say_once(relay, folder, request->name, "the guest does not have what was made here");
    }
    return answer_node(relay, request->unique, request->opcode, node, &reply);
}

static int unlink_name(struct fs_relay *relay, const struct fs_request *request,
                       const struct fs_rnode *folder, uint64_t now_ms)
{
    struct fs_pin *pin = pin_at(relay, folder, request->name);
    if (!pin)
        return -ENOENT;
    remove_pin(relay->guard, pin);
    unlink_there(relay, folder, request->name, now_ms);
    return answer_empty(relay, request->unique, FUSE_UNLINK);
}

/* A pinned file moves: its bytes go to the new name in the guest, whatever it has at the old. */
static int move_pin(struct fs_relay *relay, const struct fs_request *request, struct fs_rnode *from,
                    struct fs_rnode *to, bool stays_pinned, uint64_t now_ms)
{
    struct fs_guard *guard = relay->guard;
    struct fs_pin *pin = pin_at(relay, from, request->name);
    struct fs_pin *there = pin_at(relay, to, request->name2);
    char path[BG_PATH_MAX];
    if (!pin)
        return -ENOENT;
    if (pin == there)
        return answer_empty(relay, request->unique, request->opcode);
    if (there && (request->flags & RENAME_NOREPLACE))
        return -EEXIST;
    if (!path_of(relay, to, request->name2, path))
        return -ENAMETOOLONG;
    struct fs_errand errand = {.kind = FS_ERRAND_STORE,
                               .kernel_unique = request->unique,
                               .kernel_opcode = request->opcode,
                               .folder = to,
                               .mode = pin->mode,
                               .size = pin->size,
                               .on_done = stored};
    errand.bytes = malloc(pin->size + 1);
    if (!errand.bytes)
        return -ENOMEM;
    if (pin->size > 0)
        memcpy(errand.bytes, pin->bytes, pin->size);
    int r = fs_errand_start(relay, &errand, request->name2, now_ms);
    if (r < 0)
        return r;
    if (stays_pinned) {
        r = approve(relay, to, request->name2, pin->bytes, pin->size, pin->mode);
        if (r < 0)
            say_once(relay, to, request->name2, "not kept: no room for guarded files");
        pin = pin_at(relay, from, request->name);
    }
    remove_pin(guard, pin);
    unlink_there(relay, from, request->name, now_ms);
    return 0;
}

/* Something becomes a guarded name: only a file whose bytes the host wrote. */
static int check_rename_to(struct fs_relay *relay, const struct fs_request *request,
                           const struct fs_rnode *from, const struct fs_rnode *to,
                           enum guard_class from_class, enum guard_class class)
{
    const struct fs_rnode *there = fs_tree_at(&relay->tree, from, request->name);
    if (class == GUARD_FORBIDDEN)
        return refuse_hook(relay, to, request->name2);
    if (class == GUARD_NONE)
        return 0;
    if (is_folder_class(class) && class == from_class && there && there->type == S_IFDIR)
        return 0;
    if (class == GUARD_GIT && there && there->type == S_IFDIR)
        return 0; /* the kernel asks anew for what is git's in it */
    if (is_folder_class(class) && class != GUARD_GIT) {
        /* The kernel may know files in it for a while, as they are in the guest. */
        say_once(relay, to, request->name2, "not moved here: make it, and write its files");
        return -EPERM;
    }
    if (there || !copy_at(relay->guard, from, request->name) || request->flags != 0) {
        say_once(relay, to, request->name2,
                 "not moved here: its bytes are not known to be the host's. Write it here, or use "
                 "bellglass trust");
        return -EPERM;
    }
    return 0;
}

/* ---- the host writes git's configuration ---- */

/* The host made its new file from what it was shown. What it was not shown is added before that
 * takes the place of the guest's, or the guest would lose it: read the guest's, write the sum to
 * the temporary file, let the rename go on. */

static void rename_on(struct fs_relay *relay, const struct fs_errand *errand, uint64_t now_ms)
{
    struct fs_pending *pending = calloc(1, sizeof *pending);
    bool good = pending && (pending->name = strdup(errand->from_name)) &&
                (pending->name2 = strdup(errand->name));
    if (!good) {
        if (pending)
            free(pending->name);
        free(pending);
        fs_relay_fail(relay, errand->kernel_unique, -ENOMEM);
        return;
    }
    pending->kernel_unique = errand->kernel_unique;
    pending->flags = errand->flags;
    pending->node = errand->from;
    pending->node2 = errand->folder;
    fs_tree_ref(pending->node);
    fs_tree_ref(pending->node2);
    struct fs_request request = {.opcode = errand->kernel_opcode,
                                 .node = pending->node->peer->id,
                                 .node2 = pending->node2->peer->id,
                                 .flags = errand->flags,
                                 .name = pending->name,
                                 .name_size = strlen(pending->name),
                                 .name2 = pending->name2,
                                 .name2_size = strlen(pending->name2)};
    fs_relay_send(relay, &request, pending, now_ms);
}

static void sum_stored(struct fs_relay *relay, struct fs_errand *errand, int error, uint64_t now_ms)
{
    struct fs_errand rename = {.kernel_unique = errand->kernel_unique,
                               .kernel_opcode = errand->kernel_opcode,
                               .folder = errand->from,
                               .name = errand->from_name,
                               .from = errand->folder,
                               .from_name = errand->name,
                               .flags = errand->flags};
    struct fs_gcopy *copy = copy_at(relay->guard, errand->folder, errand->name);
    if (error == 0 && copy) {
        struct bg_sha256 hash;
        bg_sha256_init(&hash);
        bg_sha256_update(&hash, errand->bytes, errand->size);
        bg_sha256_final(&hash, copy->twin);
        copy->has_twin = true;
    }
    if (error < 0)
        fs_relay_fail(relay, errand->kernel_unique, error);
    else
        rename_on(relay, &rename, now_ms);
}

/* The sum of a new configuration and what the old one has hidden. *ret NULL: nothing to add. */
static int add_hidden(const struct fs_relay *relay, const struct fs_errand *errand,
                      const struct fs_gcopy *copy, uint8_t **ret, size_t *ret_size)
{
    struct guard_config_opts opts = {.depth = fs_tree_depth(errand->folder)};
    BG_AUTOFREE char *hidden = NULL;
    size_t size;
    struct bg_err err;
    (void)relay;
    *ret = NULL;
    int r = guard_config_hidden(errand->bytes, errand->size, copy->bytes, copy->size, &opts,
                                &hidden, &size, &err);
    if (r < 0 || size == 0 || copy->size + 1 + size > BG_GUARD_FILE_MAX)
        return r == -ENOMEM ? r : 0; /* one that git could not read has nothing to lose */
    uint8_t *sum = malloc(copy->size + 1 + size);
    if (!sum)
        return -ENOMEM;
    if (copy->size > 0)
        memcpy(sum, copy->bytes, copy->size);
    sum[copy->size] = '\n';
    memcpy(sum + copy->size + 1, hidden, size);
    *ret = sum;
    *ret_size = copy->size + 1 + size;
    return 0;
}

static void old_fetched(struct fs_relay *relay, struct fs_errand *errand, int error,
                        uint64_t now_ms)
{
    const struct fs_gcopy *copy = copy_at(relay->guard, errand->from, errand->from_name);
    struct fs_errand sum = {.kind = FS_ERRAND_STORE,
                            .kernel_unique = errand->kernel_unique,
                            .kernel_opcode = errand->kernel_opcode,
                            .folder = errand->from,
                            .from = errand->folder,
                            .flags = errand->flags,
                            .mode = 0644,
                            .on_done = sum_stored};
    int r = error == 0 && copy ? add_hidden(relay, errand, copy, &sum.bytes, &sum.size) : 0;
    if (r == 0 && !sum.bytes) { /* also when there is none, or none that is a file */
        rename_on(relay, errand, now_ms);
        return;
    }
    if (r == 0) {
        sum.from_name = strdup(errand->name);
        if (sum.from_name)
            r = fs_errand_start(relay, &sum, errand->from_name, now_ms);
        else {
            free(sum.bytes);
            r = -ENOMEM;
        }
    }
    if (r < 0)
        fs_relay_fail(relay, errand->kernel_unique, r);
}

static int write_config(struct fs_relay *relay, const struct fs_request *request,
                        struct fs_rnode *from, struct fs_rnode *to, uint64_t now_ms)
{
    struct fs_errand errand = {.kind = FS_ERRAND_FETCH,
                               .kernel_unique = request->unique,
                               .kernel_opcode = request->opcode,
                               .folder = to,
                               .from = from,
                               .from_name = strdup(request->name),
                               .flags = request->flags,
                               .on_done = old_fetched};
    return errand.from_name ? fs_errand_start(relay, &errand, request->name2, now_ms) : -ENOMEM;
}

static bool on_rename(struct fs_relay *relay, const struct fs_request *request,
                      struct fs_rnode *from, enum guard_class class, uint64_t now_ms,
                      int *ret_error)
{
    struct fs_rnode *to = fs_tree_find(&relay->tree, request->node2);
    if (!to || to->stale || to->type != S_IFDIR)
        return false; /* refused in its place */
    note_sign(relay, to, request->name2, request->name2_size);
    enum guard_class class2 = classify(relay, to, request->name2, request->name2_size);
    bool swaps = request->flags & RENAME_EXCHANGE;
    int r = 0;
    if (swaps && (is_file_class(class) || is_file_class(class2) || class2 == GUARD_GIT ||
                  class == GUARD_GIT || class == GUARD_FORBIDDEN || class2 == GUARD_FORBIDDEN))
        r = -EINVAL;
    else if (class == GUARD_FORBIDDEN)
        r = -ENOENT;
    else if (class2 == GUARD_FORBIDDEN)
        r = refuse_hook(relay, to, request->name2);
    else if (class == GUARD_PINNED && is_folder_class(class2))
        r = -EPERM;
    else if (class == GUARD_PINNED) {
        *ret_error =
            move_pin(relay, request, from, to, /* stays_pinned= */ is_file_class(class2), now_ms);
        return true;
    } else
        r = check_rename_to(relay, request, from, to, class, class2);
    if (r == 0 && class2 == GUARD_CONFIG) {
        *ret_error = write_config(relay, request, from, to, now_ms);
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
    enum guard_class class = classify(relay, folder, request->name, request->name_size);
    bool file = is_file_class(class) || class == GUARD_FORBIDDEN;
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

static int list(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode,
                const struct fs_rnode *folder, uint64_t after, uint64_t room);

bool fs_guard_takes(struct fs_relay *relay, struct fs_request *request, uint64_t now_ms,
                    int *ret_error)
{
    struct fs_guard *guard = relay->guard;
    if (!guard || guard->opts.policy != GUARD_PIN)
        return false;
    struct fs_gnode *ours = node_find(guard, request->node);
    if (ours) {
        *ret_error = on_node(relay, request, ours, now_ms);
        return true;
    }
    if ((request->opcode == FUSE_LINK || request->opcode == FUSE_COPY_FILE_RANGE) &&
        node_find(guard, request->node2)) {
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
            copy_forget(relay, copy_of(guard, node));
        return false;
    case FUSE_WRITE:
    case FUSE_SETATTR:
    case FUSE_OPEN:
    case FUSE_FALLOCATE:
        copy_follow(relay, request, node);
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
        (relay->read_only && fs_op_mutates(request->opcode)))
        return false;
    return on_name(relay, request, node, now_ms, ret_error);
}

bool fs_guard_forgets(struct fs_relay *relay, uint64_t id, uint64_t count)
{
    struct fs_gnode *node = node_find(relay->guard, id);
    if (!node)
        return false;
    node->nlookup -= count < node->nlookup ? count : node->nlookup;
    drop_unused(relay, node);
    return true;
}

bool fs_guard_releases(struct fs_relay *relay, const struct fs_request *request, uint64_t now_ms)
{
    struct fs_ghandle *handle = handle_find(relay->guard, request->fh);
    if (!handle || request->opcode != FUSE_RELEASE)
        return false;
    struct fs_gnode *node = handle->node;
    /* What was written by mmap after the last close. */
    if (node->pin && node->pin->dirty &&
        commit(relay, node, /* kernel_unique= */ 0, FUSE_RELEASE, now_ms) < 0)
        say_once(relay, node->folder, node->name, "the guest does not have what was written here");
    handle_free(relay, handle);
    (void)answer_empty(relay, request->unique, FUSE_RELEASE);
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
    enum guard_class class = classify(relay, pending->node, pending->name, size);
    if (class != GUARD_GIT && (!is_file_class(class) || class == GUARD_PINNED))
        return false;
    fs_relay_forget(relay, reply->node, 1);
    *ret_error = fetch(relay, pending->node, pending->name, pending->kernel_unique, now_ms);
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
    enum guard_class class = classify(relay, folder, name, size);
    uint64_t type = attr->mode & S_IFMT;
    if (class == GUARD_NONE)
        return 0;
    if (guard->opts.policy == GUARD_OWNER) {
        if (class != GUARD_WAY)
            attr->uid = attr->gid = FS_NOBODY;
        return 0;
    }
    bool good = class == GUARD_WAY ? type != S_IFLNK : is_folder_class(class) && type == S_IFDIR;
    if (good)
        return 0;
    say_once(relay, folder, name, "not shown: it is not what it should be");
    return -ENOENT;
}

void fs_guard_paints(struct fs_relay *relay, const struct fs_rnode *node, struct fs_attr *attr)
{
    const struct fs_guard *guard = relay->guard;
    if (!guard || guard->opts.policy != GUARD_OWNER)
        return;
    bool guarded = node->guarded;
    if (node->parent) {
        enum guard_class class = classify(relay, node->parent, node->name, strlen(node->name));
        guarded = class != GUARD_NONE && class != GUARD_WAY;
    }
    if (guarded)
        attr->uid = attr->gid = FS_NOBODY;
}

/* Whether something of this type (of a mode) that is not guarded will be when a folder above turns
 * out to be git's. */
static bool may_become_gits(const struct fs_relay *relay, const struct fs_rnode *folder,
                            const char *name, uint64_t type)
{
    size_t size = strlen(name);
    enum guard_class now = classify(relay, folder, name, size);
    enum guard_class then = classify_as(relay, folder, name, size, /* all_git= */ true);
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
    const struct fs_pin *pin = pin_at(relay, errand->folder, errand->name);
    (void)now_ms;
    if (error < 0 || !pin || pin->dirty || is_as_written(pin, errand->bytes, errand->size))
        return;
    say_once(relay, errand->folder, errand->name,
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
    enum guard_class class = classify(relay, folder, entry->name, entry->name_size);
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
        if (pin_at(relay, folder, name))
            look_whether_changed(relay, folder, name, now_ms);
        else
            say_once(relay, folder, name, "not shown: not approved");
        return FS_GUARD_HIDE;
    case GUARD_FORBIDDEN:
        say_once(relay, folder, name, "not shown: git would run it");
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
    bool good = path_of(relay, folder, NULL, path);
    while (good && (pin = fs_pins_next_in(&relay->guard->pins, path, after, &name))) {
        after = pin->ino;
        struct fs_dirent entry = {.ino = pin->ino,
                                  .offset = LOCAL_OFFSETS + pin->ino,
                                  .type = DT_REG,
                                  .name = name,
                                  .name_size = strlen(name)};
        if (classify(relay, folder, name, entry.name_size) != GUARD_PINNED)
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
        tell(guard, NULL, before);
        tell(guard, pin, NULL);
    }
}

static void removed(struct fs_relay *relay, const struct fs_pending *pending)
{
    struct fs_pin *pin = pin_at(relay, pending->node, pending->name);
    copy_forget(relay, copy_at(relay->guard, pending->node, pending->name));
    if (pin)
        remove_pin(relay->guard, pin);
}

static void renamed(struct fs_relay *relay, const struct fs_pending *pending)
{
    struct fs_guard *guard = relay->guard;
    struct fs_gcopy *copy = copy_at(guard, pending->node, pending->name);
    char from[BG_PATH_MAX], to[BG_PATH_MAX];
    size_t size = strlen(pending->name2);
    enum guard_class class = classify(relay, pending->node2, pending->name2, size);
    struct fs_pin *pin = pin_at(relay, pending->node, pending->name);
    if (pin) /* git's own, moved away: its bytes are the guest's */
        remove_pin(guard, pin);
    if (path_of(relay, pending->node, pending->name, from) &&
        path_of(relay, pending->node2, pending->name2, to) && strcmp(from, to) != 0)
        move_below(guard, from, to);
    if (!copy)
        return;
    if (is_file_class(class) || class == GUARD_GIT) {
        copy->node->unnamed = true;
        if (approve(relay, pending->node2, pending->name2, copy->bytes, copy->size, 0644) < 0)
            say_once(relay, pending->node2, pending->name2, "not kept: no room for guarded files");
        struct fs_pin *made = pin_at(relay, pending->node2, pending->name2);
        if (made && copy->has_twin) {
            made->has_twin = true;
            memcpy(made->twin, copy->twin, sizeof made->twin);
        }
        copy_forget(relay, copy);
        return;
    }
    char *name = strdup(pending->name2);
    if (!name) {
        copy_forget(relay, copy);
        return;
    }
    copy_forget(relay, copy_at(guard, pending->node2, pending->name2));
    copy = copy_at(guard, pending->node, pending->name);
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
            detach(guard, pin);
            fs_pins_remove(&guard->pins, pin);
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
    detach(guard, pin);
    r = fs_pins_set(&guard->pins, pin, note->bytes, note->size);
    if (r < 0) {
        fs_pins_remove(&guard->pins, pin);
        return r;
    }
    pin->mode = note->mode;
    pin->mtime = note->mtime;
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
