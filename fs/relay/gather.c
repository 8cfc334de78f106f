#include "fs/relay/gather.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define AGE_MS         5u            /* how long a write waits for others to join it */
#define RIPE_SIZE      (256u * 1024) /* from here on it does not wait */
#define ROOM_FIRST     (16u * 1024)  /* of a write's buffer; doubled when more join */
#define SIZE_SHOWN_MAX (1ull << 53)  /* as fs_check_attr has it */
#define OVERHEAD       sizeof(struct fs_pending)

static bool is_busy(const struct fs_gather *gather)
{
    return gather && (gather->first || gather->sent);
}

bool fs_gather_is_busy(const struct fs_rnode *node)
{
    return is_busy(node->gather);
}

/* Keeps the list of those that have something to do. */
static void list(struct fs_relay *relay, struct fs_gather *gather)
{
    if (is_busy(gather) == gather->listed)
        return;
    if (!gather->listed) {
        gather->previous = NULL;
        gather->next = relay->gathers;
        if (relay->gathers)
            relay->gathers->previous = gather;
        relay->gathers = gather;
    } else {
        *(gather->previous ? &gather->previous->next : &relay->gathers) = gather->next;
        if (gather->next)
            gather->next->previous = gather->previous;
    }
    gather->listed = !gather->listed;
}

static struct fs_gather *gather_of(struct fs_rnode *node)
{
    if (!node->gather) {
        node->gather = calloc(1, sizeof *node->gather);
        if (node->gather)
            node->gather->node = node;
    }
    return node->gather;
}

/* ---- the queue ---- */

/* Puts a request at the end; it is among the relay's, so that its deadline counts. */
static void enqueue(struct fs_relay *relay, struct fs_gather *gather, struct fs_pending *pending,
                    uint64_t now_ms)
{
    pending->queue = gather;
    pending->queue_next = NULL;
    pending->queue_previous = gather->last;
    *(gather->last ? &gather->last->queue_next : &gather->first) = pending;
    gather->last = pending;
    if (!pending->listed)
        fs_pending_list(relay, pending, pending->request.opcode, now_ms);
    list(relay, gather);
}

static void dequeue(struct fs_relay *relay, struct fs_gather *gather, struct fs_pending *pending)
{
    *(pending->queue_previous ? &pending->queue_previous->queue_next : &gather->first) =
        pending->queue_next;
    *(pending->queue_next ? &pending->queue_next->queue_previous : &gather->last) =
        pending->queue_previous;
    pending->queue = NULL;
    list(relay, gather);
}

static bool has_room(const struct fs_relay *relay, const struct fs_gather *gather, uint64_t size)
{
    return gather->bytes + size + OVERHEAD <= BG_FS_GATHER_FILE_MAX &&
           relay->gathered + size + OVERHEAD <= BG_FS_GATHER_MAX;
}

static void charge(struct fs_relay *relay, struct fs_gather *gather, struct fs_pending *pending,
                   size_t size)
{
    pending->charged += size;
    gather->bytes += size;
    relay->gathered += size;
}

static void discharge(struct fs_relay *relay, struct fs_gather *gather, struct fs_pending *pending)
{
    gather->bytes -= pending->charged;
    relay->gathered -= pending->charged;
    pending->charged = 0;
}

static void acknowledge(struct fs_relay *relay, uint64_t kernel_unique, uint64_t size)
{
    struct fs_reply reply = {.size = size};
    (void)fs_relay_answer(relay, kernel_unique, FUSE_WRITE, &reply); /* it waits for no error */
}

/* Tells the kernel that a write is done that is to be done yet. */
static void acknowledge_pending(struct fs_relay *relay, struct fs_gather *gather,
                                struct fs_pending *pending)
{
    uint64_t kernel_unique = pending->kernel_unique;
    fs_pending_disown(relay, pending);
    charge(relay, gather, pending, (size_t)pending->request.size + OVERHEAD);
    acknowledge(relay, kernel_unique, pending->request.size);
}

/* ---- errors ---- */

static void lose(struct fs_relay *relay, struct fs_gather *gather, struct fs_pending *pending,
                 int error)
{
    if (pending->charged == 0)
        return; /* the kernel is told by the answer itself */
    discharge(relay, gather, pending);
    gather->error = error;
    gather->errors++;
}

/* The error that a handle has not been told of, or 0. once: it is told now. */
static int error_for(struct fs_rhandle *handle, bool once)
{
    const struct fs_gather *gather = handle ? handle->node->gather : NULL;
    if (!gather || handle->errors_seen == gather->errors)
        return 0;
    if (once)
        handle->errors_seen = gather->errors;
    return gather->error;
}

static void fail_pending(struct fs_relay *relay, struct fs_pending *pending, int error)
{
    uint64_t kernel_unique = pending->kernel_unique;
    fs_pending_free(relay, pending);
    fs_relay_fail(relay, kernel_unique, error); /* error 0: an empty answer */
}

/* ---- sending ---- */

static void send_write(struct fs_relay *relay, struct fs_gather *gather, struct fs_pending *pending,
                       struct fs_request *request, uint64_t now_ms)
{
    request->flags2 |= pending->pieces ? FS_WRITE_WHOLE | FS_WRITE_PIECES : FS_WRITE_WHOLE;
    gather->sent = pending;
    list(relay, gather);
    pending->sent_ms = now_ms;
    fs_relay_send(relay, request, pending, now_ms);
    free(pending->data); /* the stream has it */
    pending->data = NULL;
}

static void wait_behind(struct fs_relay *relay, struct fs_gather *gather,
                        const struct fs_request *request, struct fs_pending *pending,
                        uint64_t now_ms);

static void pump(struct fs_relay *relay, struct fs_gather *gather, uint64_t now_ms);

/* It is a request's turn, all writes before it are done. Takes pending. */
static void go(struct fs_relay *relay, struct fs_request *request, struct fs_pending *pending,
               uint64_t now_ms)
{
    bool syncs = request->opcode == FUSE_FSYNC, closes = request->opcode == FUSE_FLUSH;
    if (syncs || closes) {
        struct fs_rhandle *handle = fs_handle_find(relay, pending->fh);
        int error = error_for(handle, /* once= */ syncs);
        /* Of what it wrote the server has said how it went, and there is nothing else to close. */
        if (error < 0 || (closes && handle && handle->quiet && !pending->node->locked)) {
            fail_pending(relay, pending, error);
            return;
        }
    }
    if (pending->node2 && pending->node2 != pending->node && !pending->second &&
        is_busy(pending->node2->gather)) {
        struct fs_gather *other = pending->node2->gather;
        pending->second = true; /* once: what is written while it waits need not come before it */
        wait_behind(relay, other, request, pending, now_ms);
        pump(relay, other, now_ms);
        return;
    }
    fs_relay_send(relay, request, pending, now_ms);
}

static bool is_ripe(const struct fs_relay *relay, const struct fs_gather *gather,
                    const struct fs_pending *write, uint64_t now_ms)
{
    return write != gather->last || write->charged == 0 || write->request.size >= RIPE_SIZE ||
           now_ms - write->sent_ms >= AGE_MS || relay->finishing;
}

/* Sends as much of the queue as may be sent. */
static void pump(struct fs_relay *relay, struct fs_gather *gather, uint64_t now_ms)
{
    struct fs_rnode *node = gather->node;
    fs_tree_ref(node); /* what is answered may have been the last to know the file */
    while (!gather->sent && gather->first) {
        struct fs_pending *pending = gather->first;
        if (pending->gathered && !is_ripe(relay, gather, pending, now_ms))
            break;
        dequeue(relay, gather, pending);
        pending->request.data = pending->data;
        if (pending->gathered) {
            send_write(relay, gather, pending, &pending->request, now_ms);
        } else {
            struct fs_request request = pending->request; /* go may free it */
            go(relay, &request, pending, now_ms);
        }
    }
    fs_tree_unref(&relay->tree, node);
}

/* Lets writers go on that had to wait for room. */
static void acknowledge_waiting(struct fs_relay *relay, struct fs_gather *gather)
{
    for (struct fs_pending *p = gather->first; p; p = p->queue_next) {
        if (!p->gathered || p->charged > 0)
            continue;
        if (!has_room(relay, gather, p->request.size))
            return;
        acknowledge_pending(relay, gather, p);
    }
}

/* ---- from the kernel ---- */

/* Copies the data of a request that has to wait. Errors: -ENOMEM. */
static int keep_data(struct fs_pending *pending, const struct fs_request *request)
{
    pending->request = *request;
    if (request->data_size == 0)
        return 0;
    size_t room = request->data_size < ROOM_FIRST ? ROOM_FIRST : request->data_size;
    pending->data = malloc(room);
    if (!pending->data)
        return -ENOMEM;
    memcpy(pending->data, request->data, request->data_size);
    pending->data_room = room;
    return 0;
}

static void wait_behind(struct fs_relay *relay, struct fs_gather *gather,
                        const struct fs_request *request, struct fs_pending *pending,
                        uint64_t now_ms)
{
    if (!pending->data && keep_data(pending, request) < 0)
        fail_pending(relay, pending, -ENOMEM);
    else
        enqueue(relay, gather, pending, now_ms);
}

/* Makes room for so many bytes in all. */
static bool grow(struct fs_pending *pending, size_t need)
{
    if (need <= pending->data_room)
        return true;
    size_t room = pending->data_room * 2 < BG_FS_IO_MAX ? pending->data_room * 2 : BG_FS_IO_MAX;
    if (room < need)
        room = need;
    uint8_t *grown = realloc(pending->data, room);
    if (!grown)
        return false;
    pending->data = grown;
    pending->data_room = room;
    return true;
}

static void put_piece_head(struct fs_pending *pending, uint64_t offset, size_t size)
{
    struct bg_writer w = bg_writer_init(pending->data + pending->piece_at, FS_PIECE_SIZE);
    bg_writer_u64le(&w, offset);
    bg_writer_u32le(&w, (uint32_t)size);
    bg_writer_u32le(&w, 0);
    pending->piece_offset = offset;
    pending->piece_size = size;
}

/* Adds a write to the last one that waits: to its end if it goes on there, else as another piece.
 */
static bool join(struct fs_relay *relay, struct fs_gather *gather, const struct fs_request *request)
{
    struct fs_pending *last = gather->last;
    if (!last || !last->gathered || last->charged == 0)
        return false;
    struct fs_request *before = &last->request;
    if (before->fh != request->fh || before->flags != request->flags ||
        before->flags2 != request->flags2 || before->owner != request->owner)
        return false;
    uint64_t end =
        last->pieces ? last->piece_offset + last->piece_size : before->offset + before->size;
    bool goes_on = end == request->offset;
    size_t heads = goes_on ? 0 : last->pieces ? 1 : 2;
    size_t more = request->data_size + heads * FS_PIECE_SIZE;
    if ((!goes_on && !relay->takes_pieces) || before->data_size + more > BG_FS_IO_MAX ||
        !grow(last, before->data_size + more))
        return false;
    if (heads == 2) { /* what there is becomes the first piece */
        memmove(last->data + FS_PIECE_SIZE, last->data, before->data_size);
        put_piece_head(last, before->offset, before->data_size);
        before->data_size += FS_PIECE_SIZE;
        last->pieces = true;
    }
    if (heads > 0) {
        last->piece_at = before->data_size;
        put_piece_head(last, request->offset, request->data_size);
        before->data_size += FS_PIECE_SIZE;
    } else if (last->pieces) {
        put_piece_head(last, last->piece_offset, last->piece_size + request->data_size);
    }
    memcpy(last->data + before->data_size, request->data, request->data_size);
    before->data_size += request->data_size;
    before->size = before->data_size;
    charge(relay, gather, last, more);
    return true;
}

/* How far acknowledged writes reach. It is forgotten when no request can be under way any more
 * that was sent before they were done. */
static void reach(const struct fs_relay *relay, struct fs_gather *gather,
                  const struct fs_request *request)
{
    uint64_t oldest = relay->first ? relay->first->unique : UINT64_MAX; /* 0: not sent */
    if (!is_busy(gather) && oldest >= gather->settled)
        gather->end = 0;
    if (request->offset + request->size > gather->end)
        gather->end = request->offset + request->size;
}

static void write_behind(struct fs_relay *relay, struct fs_gather *gather,
                         struct fs_request *request, struct fs_pending *pending, uint64_t now_ms)
{
    int error = error_for(fs_handle_find(relay, pending->fh), /* once= */ true);
    if (error < 0) {
        fail_pending(relay, pending, error);
        return;
    }
    uint64_t kernel_unique = pending->kernel_unique;
    bool room = has_room(relay, gather, request->size);
    reach(relay, gather, request);
    if (room && join(relay, gather, request)) {
        acknowledge(relay, kernel_unique, request->size);
        fs_pending_free(relay, pending);
        pump(relay, gather, now_ms);
        return;
    }
    bool at_once = !is_busy(gather) && request->size >= RIPE_SIZE;
    if (!at_once && keep_data(pending, request) < 0) {
        fail_pending(relay, pending, -ENOMEM);
        return;
    }
    pending->request = *request;
    pending->gathered = true;
    if (room)
        acknowledge_pending(relay, gather, pending);
    if (at_once) {
        send_write(relay, gather, pending, request, now_ms);
    } else {
        enqueue(relay, gather, pending, now_ms);
        pump(relay, gather, now_ms);
    }
}

/* O_APPEND: such files are often written from both sides, where what was done first shall be first.
 */
static const uint64_t not_behind = O_APPEND | O_SYNC | O_DSYNC | O_DIRECT;

static bool depends_on_writes(const struct fs_request *request)
{
    switch (request->opcode) {
    case FUSE_GETATTR:
    case FUSE_SETATTR:
    case FUSE_READ:
    case FUSE_WRITE:
    case FUSE_FSYNC:
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_FALLOCATE:
    case FUSE_LSEEK:
    case FUSE_COPY_FILE_RANGE:
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW:
        return true;
    case FUSE_OPEN:
        return request->flags & O_TRUNC;
    default:
        return false; /* names; LOOKUP and READDIRPLUS have their attributes amended */
    }
}

void fs_gather_forward(struct fs_relay *relay, struct fs_request *request,
                       struct fs_pending *pending, uint64_t now_ms)
{
    struct fs_rnode *node = pending->node;
    bool behind = request->opcode == FUSE_WRITE && request->size > 0 &&
                  !(request->flags & not_behind) && gather_of(node);
    if (behind)
        write_behind(relay, node->gather, request, pending, now_ms);
    else if (!depends_on_writes(request))
        fs_relay_send(relay, request, pending, now_ms);
    else if (!is_busy(node->gather))
        go(relay, request, pending, now_ms);
    else {
        wait_behind(relay, node->gather, request, pending, now_ms);
        pump(relay, node->gather, now_ms);
    }
}

/* ---- from the server ---- */

void fs_gather_settled(struct fs_relay *relay, struct fs_pending *pending, int error, uint64_t size,
                       uint64_t now_ms)
{
    struct fs_gather *gather = pending->node->gather;
    assert(gather->sent == pending);
    gather->sent = NULL;
    gather->settled = relay->next_unique;
    if (error == 0 && size != pending->request.size)
        error = -EIO;
    if (error == 0)
        pending->node->writes++;
    if (pending->charged == 0 && error < 0)
        fs_relay_fail(relay, pending->kernel_unique, error);
    else if (pending->charged == 0)
        acknowledge(relay, pending->kernel_unique, size);
    else if (error < 0)
        lose(relay, gather, pending, error);
    else
        discharge(relay, gather, pending);
    acknowledge_waiting(relay, gather);
    pump(relay, gather, now_ms);
    list(relay, gather);
}

void fs_gather_lost(struct fs_relay *relay, struct fs_pending *pending, int error)
{
    struct fs_gather *gather = pending->queue;
    if (!gather && pending->gathered)
        gather = pending->node->gather;
    if (!gather)
        return;
    if (pending->queue) {
        dequeue(relay, gather, pending);
    } else if (gather->sent == pending) {
        gather->sent = NULL;
        gather->settled = relay->next_unique;
        list(relay, gather);
    } else {
        return;
    }
    if (pending->gathered)
        lose(relay, gather, pending, error);
}

uint64_t fs_gather_tick(struct fs_relay *relay, uint64_t now_ms)
{
    uint64_t next_ms = UINT64_MAX;
    for (struct fs_gather *gather = relay->gathers, *next; gather; gather = next) {
        struct fs_rnode *node = gather->node;
        next = gather->next;
        fs_tree_ref(node);
        pump(relay, gather, now_ms);
        if (gather->listed && !gather->sent) /* the last one waits for more */
            next_ms = AGE_MS;
        fs_tree_unref(&relay->tree, node);
    }
    return next_ms;
}

void fs_gather_amend(const struct fs_rnode *node, uint64_t unique, struct fs_reply *reply)
{
    const struct fs_gather *gather = node->gather;
    if (!gather || (!is_busy(gather) && unique >= gather->settled))
        return;
    if (reply->attr.size < gather->end && gather->end <= SIZE_SHOWN_MAX)
        reply->attr.size = gather->end;
    reply->attr_valid = reply->attr_valid_ns = 0; /* what it is will be asked when it matters */
}
