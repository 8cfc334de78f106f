#include "fs/relay/guard_state.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

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

struct fs_gcopy *fs_gcopy_of(struct fs_guard *guard, const struct fs_rnode *node)
{
    for (size_t i = guard->copy_count; i > 0; i--)
        if (guard->copies[i - 1].node == node)
            return &guard->copies[i - 1];
    return NULL;
}

struct fs_gcopy *fs_gcopy_at(struct fs_guard *guard, const struct fs_rnode *folder,
                             const char *name)
{
    for (size_t i = guard->copy_count; i > 0; i--)
        if (guard->copies[i - 1].folder == folder && strcmp(guard->copies[i - 1].name, name) == 0)
            return &guard->copies[i - 1];
    return NULL;
}

void fs_gcopy_forget(struct fs_relay *relay, const struct fs_gcopy *copy)
{
    if (copy)
        copy_drop(relay, (size_t)(copy - relay->guard->copies));
}

/* Makes room for size bytes. False: it is too large to be kept. The oldest go first. */
static bool copy_grow(struct fs_relay *relay, const struct fs_rnode *node, uint64_t size)
{
    struct fs_guard *guard = relay->guard;
    struct fs_gcopy *copy = fs_gcopy_of(guard, node);
    if (size > BG_GUARD_FILE_MAX)
        return false;
    if (size > copy->room) {
        size_t room = (size_t)size < 4096 ? 4096 : (size_t)size * 2;
        room = room > BG_GUARD_FILE_MAX ? BG_GUARD_FILE_MAX : room;
        while (guard->copy_bytes + room > BG_GUARD_BYTES_MAX && guard->copies[0].node != node)
            copy_drop(relay, 0);
        copy = fs_gcopy_of(guard, node);
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
    if (!guard || guard->opts.policy != GUARD_PIN || fs_gcopy_of(guard, node) ||
        !(pending->flags & (O_EXCL | O_TRUNC)))
        return; /* else it may have had bytes before */
    char *name = strdup(pending->name);
    if (!name)
        return;
    if (guard->copy_count == BG_GUARD_COPIES_MAX)
        copy_drop(relay, 0);
    fs_gcopy_forget(relay, fs_gcopy_at(guard, pending->node, name));
    struct fs_gcopy *copy = &guard->copies[guard->copy_count++];
    *copy = (struct fs_gcopy){.node = node, .folder = pending->node, .name = name};
    fs_tree_ref(copy->node);
    fs_tree_ref(copy->folder);
}

void fs_gcopy_follow(struct fs_relay *relay, const struct fs_request *request,
                     const struct fs_rnode *node)
{
    struct fs_gcopy *copy = fs_gcopy_of(relay->guard, node);
    bool good = true;
    if (!copy)
        return;
    switch (request->opcode) {
    case FUSE_WRITE:
        good = request->offset <= BG_GUARD_FILE_MAX &&
               copy_grow(relay, node, request->offset + request->data_size);
        copy = fs_gcopy_of(relay->guard, node);
        if (good && request->data_size > 0)
            memcpy(copy->bytes + request->offset, request->data, request->data_size);
        break;
    case FUSE_SETATTR:
        if (!(request->valid & FATTR_SIZE))
            break;
        good = copy_grow(relay, node, request->size);
        copy = fs_gcopy_of(relay->guard, node);
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
        fs_gcopy_forget(relay, copy);
}
