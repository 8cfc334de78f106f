#include "fs/relay/errand.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/relay/guarded.h"

void fs_errand_free(struct fs_relay *relay, struct fs_errand *errand)
{
    if (!errand)
        return;
    relay->errands--;
    fs_tree_unref(&relay->tree, errand->folder);
    fs_tree_unref(&relay->tree, errand->from);
    free(errand->name);
    free(errand->from_name);
    free(errand->bytes);
    free(errand);
}

/* Sends the errand's next request. The errand belongs to the request then. */
static int step(struct fs_relay *relay, struct fs_errand *errand, struct fs_request *request,
                uint64_t now_ms)
{
    struct fs_pending *pending = calloc(1, sizeof *pending);
    if (!pending)
        return -ENOMEM;
    pending->kernel_unique = errand->kernel_unique;
    pending->size = request->size;
    pending->errand = errand;
    fs_relay_send(relay, request, pending, now_ms);
    pending->sent_ms = errand->started_ms;
    return 0;
}

static void let_go(struct fs_relay *relay, struct fs_errand *errand, uint64_t now_ms)
{
    if (errand->open)
        fs_relay_send_release(relay, errand->server_node, errand->server_fh, /* folder= */ false,
                              now_ms);
    if (errand->server_node != 0)
        fs_relay_forget(relay, errand->server_node, 1);
    errand->open = false;
    errand->server_node = 0;
}

static void finish(struct fs_relay *relay, struct fs_errand *errand, int error, uint64_t now_ms)
{
    let_go(relay, errand, now_ms);
    errand->on_done(relay, errand, error, now_ms);
    fs_errand_free(relay, errand);
}

static struct fs_request look_up(const struct fs_errand *errand)
{
    return (struct fs_request){.opcode = FUSE_LOOKUP,
                               .node = errand->folder->peer->id,
                               .name = errand->name,
                               .name_size = strlen(errand->name)};
}

int fs_errand_start(struct fs_relay *relay, const struct fs_errand *opts, const char *name,
                    uint64_t now_ms)
{
    struct fs_errand *errand = calloc(1, sizeof *errand);
    char *copy = strdup(name);
    int r = !errand || !copy                                                          ? -ENOMEM
            : relay->state != FS_RELAY_LIVE || relay->errands >= BG_GUARD_ERRANDS_MAX ? -EIO
                                                                                      : 0;
    if (r < 0) {
        free(errand);
        free(copy);
        free(opts->from_name);
        free(opts->bytes);
        return r;
    }
    *errand = *opts;
    errand->name = copy;
    errand->started_ms = now_ms;
    fs_tree_ref(errand->folder);
    if (errand->from)
        fs_tree_ref(errand->from);
    relay->errands++;
    struct fs_request request = look_up(errand);
    r = step(relay, errand, &request, now_ms);
    if (r < 0)
        fs_errand_free(relay, errand);
    return r;
}

/* ---- the steps ---- */

static int after_lookup(struct fs_relay *relay, struct fs_errand *errand,
                        const struct fs_reply *reply, uint64_t now_ms)
{
    bool stores = errand->kind == FS_ERRAND_STORE;
    struct fs_request request;
    if (reply->error == -ENOENT && stores) {
        request = (struct fs_request){.opcode = FUSE_CREATE,
                                      .node = errand->folder->peer->id,
                                      .name = errand->name,
                                      .name_size = strlen(errand->name),
                                      .flags = O_WRONLY | O_TRUNC,
                                      .mode = S_IFREG | errand->mode};
        return step(relay, errand, &request, now_ms);
    }
    if (reply->error < 0)
        return reply->error;
    bool special;
    struct fs_attr attr = reply->attr;
    errand->server_node = reply->node;
    if (reply->node == 0)
        return -ENOENT;
    if (reply->node == FS_TREE_ROOT || fs_check_attr(&relay->owners, &attr, &special) < 0)
        return -EIO;
    errand->attr = attr;
    if ((attr.mode & S_IFMT) != S_IFREG || special)
        return (attr.mode & S_IFMT) == S_IFDIR ? -EISDIR : -ELOOP;
    request = (struct fs_request){.opcode = FUSE_OPEN,
                                  .node = errand->server_node,
                                  .flags = stores ? O_WRONLY | O_TRUNC : O_RDONLY};
    return step(relay, errand, &request, now_ms);
}

static int store_more(struct fs_relay *relay, struct fs_errand *errand, uint64_t now_ms)
{
    struct fs_request request = {
        .opcode = FUSE_FLUSH, .node = errand->server_node, .fh = errand->server_fh};
    if (errand->done < errand->size)
        request = (struct fs_request){.opcode = FUSE_WRITE,
                                      .node = errand->server_node,
                                      .fh = errand->server_fh,
                                      .offset = errand->done,
                                      .size = errand->size - errand->done,
                                      .data = errand->bytes + errand->done,
                                      .data_size = errand->size - errand->done};
    return step(relay, errand, &request, now_ms);
}

static int after_open(struct fs_relay *relay, struct fs_errand *errand,
                      const struct fs_reply *reply, uint64_t now_ms)
{
    if (reply->error < 0)
        return reply->error;
    errand->server_fh = reply->fh;
    errand->open = true;
    if (errand->kind == FS_ERRAND_STORE)
        return store_more(relay, errand, now_ms);
    struct fs_request request = {.opcode = FUSE_READ,
                                 .node = errand->server_node,
                                 .fh = errand->server_fh,
                                 .size = BG_GUARD_FILE_MAX};
    return step(relay, errand, &request, now_ms);
}

static int after_create(struct fs_relay *relay, struct fs_errand *errand,
                        const struct fs_reply *reply, uint64_t now_ms)
{
    if (reply->error < 0)
        return reply->error;
    errand->server_node = reply->node;
    return reply->node == 0 || reply->node == FS_TREE_ROOT
               ? -EIO
               : after_open(relay, errand, reply, now_ms);
}

/* All of a file that is small enough comes in one answer: its server reads until the end. */
static int after_read(struct fs_errand *errand, const struct fs_reply *reply, size_t asked)
{
    if (reply->error < 0)
        return reply->error;
    if (reply->data_size >= asked)
        return reply->data_size > asked ? -EIO : -EFBIG;
    errand->bytes = malloc(reply->data_size + 1);
    if (!errand->bytes)
        return -ENOMEM;
    if (reply->data_size > 0)
        memcpy(errand->bytes, reply->data, reply->data_size);
    errand->size = reply->data_size;
    return 1;
}

static int after_write(struct fs_relay *relay, struct fs_errand *errand,
                       const struct fs_reply *reply, uint64_t now_ms)
{
    if (reply->error < 0)
        return reply->error;
    if (reply->size == 0 || reply->size > errand->size - errand->done)
        return -EIO;
    errand->done += (size_t)reply->size;
    return store_more(relay, errand, now_ms);
}

/* What a late answer brought goes back. */
static void abandon(struct fs_relay *relay, uint32_t opcode, struct fs_errand *errand,
                    const struct fs_reply *reply, uint64_t now_ms)
{
    if (reply->error == 0 && (opcode == FUSE_LOOKUP || opcode == FUSE_CREATE))
        errand->server_node = reply->node == FS_TREE_ROOT ? 0 : reply->node;
    if (reply->error == 0 && (opcode == FUSE_OPEN || opcode == FUSE_CREATE)) {
        errand->server_fh = reply->fh;
        errand->open = true;
    }
    let_go(relay, errand, now_ms);
    fs_errand_free(relay, errand);
}

void fs_errand_reply(struct fs_relay *relay, struct fs_pending *pending,
                     const struct fs_reply *reply, uint64_t now_ms)
{
    struct fs_errand *errand = pending->errand;
    pending->errand = NULL;
    if (pending->late) {
        abandon(relay, pending->opcode, errand, reply, now_ms);
        return;
    }
    int r = reply->error; /* of FLUSH: the last step */
    bool ended = true;
    switch (pending->opcode) {
    case FUSE_LOOKUP:
        r = after_lookup(relay, errand, reply, now_ms);
        ended = r < 0;
        break;
    case FUSE_OPEN:
        r = after_open(relay, errand, reply, now_ms);
        ended = r < 0;
        break;
    case FUSE_CREATE:
        r = after_create(relay, errand, reply, now_ms);
        ended = r < 0;
        break;
    case FUSE_WRITE:
        r = after_write(relay, errand, reply, now_ms);
        ended = r < 0;
        break;
    case FUSE_READ:
        r = after_read(errand, reply, (size_t)pending->size);
        break;
    default:
        break;
    }
    if (ended)
        finish(relay, errand, r < 0 ? r : 0, now_ms);
}
