#include "fs/relay/lazy.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "fs/relay/ahead.h"
#include "fs/relay/changes.h"
#include "fs/relay/gather.h"

bool fs_lazy_opens(struct fs_relay *relay, const struct fs_request *request, struct fs_rnode *node)
{
    bool folder = request->opcode == FUSE_OPENDIR;
    bool reads =
        folder || (request->opcode == FUSE_OPEN && (request->flags & O_ACCMODE) == O_RDONLY &&
                   !(request->flags & O_TRUNC));
    if (!reads || fs_gather_is_busy(node) || !fs_changes_is_known(relay, node))
        return false;
    struct fs_rhandle *handle =
        fs_handle_new(relay, node, /* server_fh= */ 0, request->flags, /* quiet= */ true);
    if (!handle)
        return false;
    handle->lazy = true;
    handle->bound = false;
    struct fs_reply reply = {.fh = handle->id,
                             .open_flags = FOPEN_KEEP_CACHE | (folder ? FOPEN_CACHE_DIR : 0)};
    if (fs_relay_answer(relay, request->unique, request->opcode, &reply) < 0)
        fs_handle_free(relay, handle); /* nobody has it */
    return true;
}

int fs_lazy_waits(struct fs_relay *relay, const struct fs_request *request, const uint8_t *bytes,
                  size_t size, uint64_t now_ms)
{
    struct fs_rhandle *handle =
        fs_request_has_handle(request) ? fs_handle_find(relay, request->fh) : NULL;
    if (!handle || !handle->lazy || handle->node->id != request->node)
        return 0;
    struct fs_pending *pending = calloc(1, sizeof *pending);
    uint8_t *again = malloc(size);
    if (!pending || !again) {
        free(pending);
        free(again);
        return -ENOMEM;
    }
    memcpy(again, bytes, size);
    *pending = (struct fs_pending){.kernel_unique = request->unique,
                                   .opens = true,
                                   .again = again,
                                   .again_size = size,
                                   .node = handle->node,
                                   .fh = handle->id,
                                   .flags = handle->flags};
    fs_tree_ref(handle->node);
    struct fs_request open = {.opcode = handle->node->type == S_IFDIR ? FUSE_OPENDIR : FUSE_OPEN,
                              .node = handle->node->peer->id,
                              .flags = handle->flags};
    fs_ahead_ask(relay, &open, pending);
    fs_relay_send(relay, &open, pending, now_ms);
    return 1;
}

/* Another request on the same handle may have come first. */
static void bind_handle(struct fs_relay *relay, const struct fs_pending *pending,
                        const struct fs_reply *reply, uint64_t now_ms)
{
    struct fs_rhandle *handle = fs_handle_find(relay, pending->fh);
    if (!handle || !handle->lazy) {
        fs_relay_send_release(relay, pending->node->peer->id, reply->fh,
                              pending->opcode == FUSE_OPENDIR, now_ms);
        return;
    }
    handle->server_fh = reply->fh;
    handle->quiet = reply->open_flags & FOPEN_NOFLUSH;
    handle->lazy = false;
    handle->bound = true;
    fs_ahead_keep(relay, handle, pending, reply, now_ms);
}

void fs_lazy_opened(struct fs_relay *relay, struct fs_pending *pending, struct fs_reply *reply,
                    uint64_t now_ms)
{
    if (reply->error < 0) {
        fs_relay_fail(relay, pending->kernel_unique, reply->error);
        return;
    }
    fs_ahead_check(relay, pending, reply);
    bind_handle(relay, pending, reply, now_ms);
    BG_AUTOFREE uint8_t *bytes = BG_TAKE(pending->again);
    fs_pending_disown(relay, pending); /* the kernel's number is the next one's */
    fs_relay_request(relay, bytes, pending->again_size, now_ms);
}
