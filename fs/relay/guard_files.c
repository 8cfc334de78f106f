#include "fs/relay/guard_state.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- requests on nodes of ours ---- */

static bool changes(uint64_t flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);
}

struct fs_ghandle *fs_ghandle_find(struct fs_guard *guard, uint64_t id)
{
    for (size_t i = 0; guard && i < guard->handle_count; i++)
        if (guard->handles[i].id == id)
            return &guard->handles[i];
    return NULL;
}

struct fs_ghandle *fs_ghandle_new(struct fs_relay *relay, struct fs_gnode *node, bool writes)
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

void fs_ghandle_free(struct fs_relay *relay, struct fs_ghandle *handle)
{
    struct fs_gnode *node = handle->node;
    if (handle->writes && node->pin)
        node->pin->writers--;
    *handle = relay->guard->handles[--relay->guard->handle_count];
    node->handles--;
    fs_gnode_drop(relay, node);
}

/* A node that shows what the guest has becomes the host's own, with the bytes that are shown. */
static int take_over(struct fs_relay *relay, struct fs_gnode *node)
{
    struct fs_guard *guard = relay->guard;
    struct fs_pin *pin;
    int r = fs_guard_pin_make(relay, node->folder, node->name, &pin);
    if (r < 0)
        return r;
    fs_gnode_detach(guard, pin);
    r = fs_pins_set(&guard->pins, pin, node->bytes, node->size);
    if (r < 0) {
        fs_guard_unpin(guard, pin);
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
        node->pin->mtime = fs_guard_now(relay->guard);
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
    struct fs_ghandle *handle = fs_ghandle_new(relay, node, writes);
    if (!handle)
        return -ENFILE;
    struct fs_reply reply = {.fh = handle->id};
    if (fs_relay_answer(relay, request->unique, request->opcode, &reply) < 0)
        fs_ghandle_free(relay, handle);
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
        node->pin->mtime =
            request->valid & FATTR_MTIME_NOW ? fs_guard_now(relay->guard) : request->mtime;
    if (resizes && !(request->valid & FATTR_FH)) /* no handle, so no close will come */
        return fs_gnode_commit(relay, node, request->unique, FUSE_SETATTR, now_ms);
    if (node->pin && (request->valid & FATTR_MODE))
        fs_guard_tell(relay->guard, node->pin, NULL);
    struct fs_reply reply = {0};
    fs_gnode_attr(relay, node, &reply);
    (void)fs_relay_answer(relay, request->unique, FUSE_SETATTR, &reply);
    return 0;
}

static int read_node(struct fs_relay *relay, const struct fs_request *request,
                     const struct fs_gnode *node)
{
    const uint8_t *bytes;
    size_t size;
    fs_gnode_content(node, &bytes, &size);
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
        fs_guard_say_once(relay, node->folder, node->name,
                          r == -EFBIG ? "a guarded file has at most 1 MiB"
                                      : "no room for guarded files");
        return r;
    }
    node->pin->dirty = true;
    node->pin->mtime = fs_guard_now(relay->guard);
    struct fs_reply reply = {.size = request->data_size};
    (void)fs_relay_answer(relay, request->unique, FUSE_WRITE, &reply);
    return 0;
}

static int seek_node(struct fs_relay *relay, const struct fs_request *request,
                     const struct fs_gnode *node)
{
    const uint8_t *bytes;
    size_t size;
    fs_gnode_content(node, &bytes, &size);
    if (request->offset >= size)
        return -ENXIO;
    struct fs_reply reply = {.offset = request->whence == SEEK_HOLE ? size : request->offset};
    (void)fs_relay_answer(relay, request->unique, FUSE_LSEEK, &reply);
    return 0;
}

int fs_gnode_request(struct fs_relay *relay, const struct fs_request *request,
                     struct fs_gnode *node, uint64_t now_ms)
{
    struct fs_reply reply = {0};
    struct fs_ghandle *handle = fs_ghandle_find(relay->guard, request->fh);
    bool ours = handle && handle->node == node;
    switch (request->opcode) {
    case FUSE_GETATTR:
        fs_gnode_attr(relay, node, &reply);
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
            return fs_gnode_commit(relay, node, request->unique, request->opcode, now_ms);
        return fs_guard_answer_empty(relay, request->unique, request->opcode);
    case FUSE_ACCESS:
        return fs_guard_answer_empty(relay, request->unique, request->opcode);
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
