#include "fs/relay/guard_state.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/relay/view.h"

#define VALID_SECONDS 1u

/* ---- nodes ---- */

struct fs_gnode *fs_gnode_find(const struct fs_guard *guard, uint64_t id)
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

void fs_gnode_drop(struct fs_relay *relay, struct fs_gnode *node)
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

void fs_gnode_detach(struct fs_guard *guard, struct fs_pin *pin)
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

void fs_guard_unpin(struct fs_guard *guard, struct fs_pin *pin)
{
    fs_gnode_detach(guard, pin);
    fs_guard_tell(guard, NULL, pin->path);
    fs_pins_remove(&guard->pins, pin);
}

struct fs_gnode *fs_gnode_of_pin(struct fs_relay *relay, struct fs_pin *pin,
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

struct fs_pin *fs_guard_pin_at(const struct fs_relay *relay, const struct fs_rnode *folder,
                               const char *name)
{
    char path[BG_PATH_MAX];
    return fs_guard_path(relay, folder, name, path) ? fs_pins_find(&relay->guard->pins, path)
                                                    : NULL;
}

int fs_guard_pin_make(const struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                      struct fs_pin **ret)
{
    char path[BG_PATH_MAX];
    if (!fs_guard_path(relay, folder, name, path))
        return -ENAMETOOLONG;
    *ret = fs_pins_find(&relay->guard->pins, path);
    return *ret ? 0 : fs_pins_add(&relay->guard->pins, path, ret);
}

int fs_guard_approve(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                     const uint8_t *bytes, size_t size, mode_t mode)
{
    struct fs_guard *guard = relay->guard;
    struct fs_pin *pin;
    int r = fs_guard_pin_make(relay, folder, name, &pin);
    if (r < 0)
        return r;
    fs_gnode_detach(guard, pin);
    r = fs_pins_set(&guard->pins, pin, bytes, size);
    if (r < 0) {
        fs_guard_unpin(guard, pin);
        return r;
    }
    pin->mode = mode & 0777;
    pin->mtime = fs_guard_now(guard);
    fs_guard_tell(guard, pin, NULL);
    return 0;
}

void fs_gnode_content(const struct fs_gnode *node, const uint8_t **ret_bytes, size_t *ret_size)
{
    *ret_bytes = node->pin ? node->pin->bytes : node->bytes;
    *ret_size = node->pin ? node->pin->size : node->size;
}

void fs_gnode_attr(const struct fs_relay *relay, const struct fs_gnode *node,
                   struct fs_reply *reply)
{
    const uint8_t *bytes;
    size_t size;
    fs_gnode_content(node, &bytes, &size);
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

int fs_gnode_answer(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode,
                    struct fs_gnode *node, struct fs_reply *reply)
{
    if (!node)
        return -ENFILE;
    reply->node = node->id;
    reply->entry_valid = VALID_SECONDS;
    fs_gnode_attr(relay, node, reply);
    node->nlookup++;
    if (fs_relay_answer(relay, kernel_unique, opcode, reply) < 0) {
        node->nlookup--;
        fs_gnode_drop(relay, node);
    }
    return 0;
}

int fs_guard_answer_empty(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode)
{
    (void)fs_relay_answer(relay, kernel_unique, opcode, &(struct fs_reply){0}); /* or it gave up */
    return 0;
}

/* ---- to the guest ---- */

void fs_gnode_stored(struct fs_relay *relay, struct fs_errand *errand, int error, uint64_t now_ms)
{
    (void)now_ms;
    const struct fs_gnode *node = fs_gnode_find(relay->guard, errand->target);
    if (error < 0)
        fs_guard_say(relay, errand->folder, errand->name,
                     "the guest did not take what was written here");
    if (errand->kernel_unique == 0)
        return;
    struct fs_reply reply = {0};
    if (error == 0 && errand->kernel_opcode == FUSE_SETATTR) {
        if (node)
            fs_gnode_attr(relay, node, &reply);
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
                               .on_done = fs_gnode_stored};
    fs_gnode_content(node, &bytes, &errand.size);
    errand.bytes = malloc(errand.size + 1);
    if (!errand.bytes)
        return -ENOMEM;
    if (errand.size > 0)
        memcpy(errand.bytes, bytes, errand.size);
    return fs_errand_start(relay, &errand, node->name, now_ms);
}

int fs_gnode_commit(struct fs_relay *relay, struct fs_gnode *node, uint64_t kernel_unique,
                    uint32_t opcode, uint64_t now_ms)
{
    node->pin->dirty = false;
    fs_guard_tell(relay->guard, node->pin, NULL);
    return store(relay, node, kernel_unique, opcode, now_ms);
}

void fs_guard_unlink_there(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
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
        .class = fs_guard_class_at(relay, errand->folder, errand->name, strlen(errand->name)),
        .depth = fs_tree_depth(errand->folder),
        .whole = relay->whole};
    uint8_t *bytes;
    size_t size, dropped;
    struct bg_err err;
    if (opts.class != GUARD_GIT && (!fs_guard_is_file(opts.class) || opts.class == GUARD_PINNED))
        return -ESTALE; /* it was moved meanwhile */
    int r = fs_view_make(&opts, errand->bytes, errand->size, &bytes, &size, &dropped, &err);
    if (r < 0) {
        char text[BG_ERR_TEXT_SIZE + 32];
        (void)snprintf(text, sizeof text, "not shown: %s", err.text);
        fs_guard_say_once(relay, errand->folder, errand->name, text);
        return r == -ENOMEM ? r : -EACCES;
    }
    if (dropped > 0)
        fs_guard_say_once(relay, errand->folder, errand->name,
                          "shown without what could make git run something");
    struct fs_reply reply = {0};
    return fs_gnode_answer(
        relay, errand->kernel_unique, FUSE_LOOKUP,
        node_of_view(relay, errand->folder, errand->name, bytes, size, &errand->attr), &reply);
}

bool fs_guard_is_as_written(const struct fs_pin *pin, const uint8_t *bytes, size_t size)
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
    struct fs_pin *pin = fs_guard_pin_at(relay, errand->folder, errand->name);
    struct fs_reply reply = {0};
    if (error == -EISDIR || error == -ELOOP) {
        fs_guard_say_once(relay, errand->folder, errand->name, "not shown: it is no regular file");
        error = -ENOENT;
    }
    if (error == -EFBIG) {
        fs_guard_say_once(relay, errand->folder, errand->name, "not shown: it is too large");
        error = -EACCES;
    }
    if (error == 0) {
        error =
            pin && fs_guard_is_as_written(pin, errand->bytes, errand->size)
                ? fs_gnode_answer(relay, errand->kernel_unique, FUSE_LOOKUP,
                                  fs_gnode_of_pin(relay, pin, errand->folder, errand->name), &reply)
                : show_view(relay, errand);
    }
    if (error < 0)
        fs_relay_fail(relay, errand->kernel_unique, error);
}

int fs_guard_fetch(struct fs_relay *relay, struct fs_rnode *folder, const char *name,
                   uint64_t kernel_unique, uint64_t now_ms)
{
    struct fs_errand errand = {.kind = FS_ERRAND_FETCH,
                               .kernel_unique = kernel_unique,
                               .kernel_opcode = FUSE_LOOKUP,
                               .folder = folder,
                               .on_done = fetched};
    return fs_errand_start(relay, &errand, name, now_ms);
}
