#include "fs/relay/ahead.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fs/relay/gather.h"

#define READS_AHEAD_MS 200u

void fs_ahead_ask(struct fs_relay *relay, struct fs_request *request, struct fs_pending *pending)
{
    bool reads = request->opcode == FUSE_OPEN && (request->flags & O_ACCMODE) == O_RDONLY &&
                 !(request->flags & O_TRUNC);
    if (!reads || relay->ahead + BG_FS_AHEAD_MAX > BG_FS_AHEAD_ALL_MAX ||
        fs_gather_is_busy(pending->node))
        return;
    request->flags2 |= FS_OPEN_READ;
    pending->reads_ahead = true;
    pending->changes = pending->node->changes;
}

void fs_ahead_check(struct fs_relay *relay, const struct fs_pending *pending,
                    struct fs_reply *reply)
{
    if (reply->data_size == 0 || pending->reads_ahead)
        return;
    fs_relay_complain(relay, pending->opcode, "data that was not asked for");
    reply->data_size = 0;
}

void fs_ahead_keep(struct fs_relay *relay, struct fs_rhandle *handle,
                   const struct fs_pending *pending, const struct fs_reply *reply, uint64_t now_ms)
{
    if (reply->data_size == 0 || pending->changes != handle->node->changes)
        return;
    handle->ahead = malloc(reply->data_size);
    if (!handle->ahead)
        return;
    memcpy(handle->ahead, reply->data, reply->data_size);
    handle->ahead_size = reply->data_size;
    handle->ahead_changes = pending->changes;
    handle->ahead_ms = now_ms;
    handle->ahead_number = pending->change_number;
    relay->ahead += reply->data_size;
}

bool fs_ahead_answer(struct fs_relay *relay, const struct fs_request *request, uint64_t now_ms)
{
    struct fs_rhandle *handle =
        request->opcode == FUSE_READ ? fs_handle_find(relay, request->fh) : NULL;
    if (!handle || !handle->ahead || handle->node->id != request->node)
        return false;
    const struct fs_rnode *node = handle->node;
    bool good = handle->ahead_changes == node->changes && node->changed <= handle->ahead_number &&
                relay->changes.all <= handle->ahead_number &&
                now_ms - handle->ahead_ms < READS_AHEAD_MS;
    bool whole = handle->ahead_size < BG_FS_AHEAD_MAX; /* the server had room for more */
    bool inside = request->offset <= handle->ahead_size &&
                  (whole || request->size <= handle->ahead_size - request->offset);
    if (!good || !inside) {
        fs_ahead_drop(relay, handle);
        return false;
    }
    size_t left = handle->ahead_size - (size_t)request->offset;
    struct fs_reply reply = {.data = handle->ahead + request->offset,
                             .data_size = request->size < left ? (size_t)request->size : left};
    (void)fs_relay_answer(relay, request->unique, FUSE_READ, &reply);
    if (reply.data_size == left)
        fs_ahead_drop(relay, handle);
    return true;
}

void fs_ahead_changed(const struct fs_request *request, struct fs_pending *pending)
{
    switch (request->opcode) {
    case FUSE_WRITE:
    case FUSE_SETATTR:
    case FUSE_FALLOCATE:
        pending->node->changes++;
        break;
    case FUSE_COPY_FILE_RANGE:
        pending->node2->changes++;
        break;
    case FUSE_OPEN:
        pending->node->changes += (request->flags & O_TRUNC) != 0;
        break;
    default:
        break;
    }
}

void fs_ahead_drop(struct fs_relay *relay, struct fs_rhandle *handle)
{
    relay->ahead -= handle->ahead_size;
    free(handle->ahead);
    handle->ahead = NULL;
    handle->ahead_size = 0;
}
