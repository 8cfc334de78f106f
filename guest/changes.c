#include "guest/changes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/changes.h"
#include "common/io.h"
#include "guest/accounts.h"
#include "guest/layer.h"
#include "guest/worker.h"

struct changer {
    struct link *link;
    struct bg_changes_request request;
    struct account account;                                  /* the guest's user */
    uint8_t frame[BG_FRAME_HEADER_SIZE + BG_FRAME_SIZE_MAX]; /* `used` bytes of payload in it */
    size_t used;
    uint8_t *items; /* what the host named: records, checked */
    size_t items_size;
};

/* ---- to the host ---- */

static int flush(struct changer *c)
{
    if (c->used == 0)
        return 0;
    bg_frame_header_emit(BG_FRAME_DATA, (uint32_t)c->used, c->frame);
    int r = link_write(c->link, c->frame, BG_FRAME_HEADER_SIZE + c->used);
    c->used = 0;
    return r;
}

static int put_bytes(void *owner, const void *bytes, size_t size)
{
    struct changer *c = owner;
    const uint8_t *at = bytes;
    while (size > 0) {
        size_t room = BG_FRAME_SIZE_MAX - c->used, n = size < room ? size : room;
        memcpy(c->frame + BG_FRAME_HEADER_SIZE + c->used, at, n);
        c->used += n;
        at += n;
        size -= n;
        int r = c->used == BG_FRAME_SIZE_MAX ? flush(c) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

static int put_record(void *owner, const struct bg_change *change)
{
    uint8_t bytes[4 + BG_CHANGE_RECORD_MAX];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_change_emit(change, &w);
    return bg_writer_ok(&w) ? put_bytes(owner, bytes, w.used) : -EOVERFLOW;
}

static int send_end(struct changer *c, const struct bg_err *err)
{
    uint8_t payload[4 + BG_ERR_TEXT_SIZE], header[BG_FRAME_HEADER_SIZE];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, (uint32_t)err->code);
    bg_writer_bytes(&w, err->text, strnlen(err->text, BG_ERR_TEXT_SIZE));
    bg_frame_header_emit(BG_FRAME_END, (uint32_t)w.used, header);
    int r = flush(c);
    if (r == 0)
        r = link_write(c->link, header, sizeof header);
    return r < 0 ? r : link_write(c->link, payload, w.used);
}

/* ---- from the host ---- */

static int check_items(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    BG_AUTOFREE struct bg_change *item = malloc(sizeof *item);
    struct bg_reader in = bg_reader_init(bytes, size);
    size_t count = 0;
    if (!item)
        return bg_err_errno(err, -ENOMEM, "list");
    while (in.left > 0) {
        size_t record_size;
        const uint8_t *record = bg_reader_blob32le(&in, BG_CHANGE_RECORD_MAX, &record_size);
        if (!record || ++count > BG_CHANGES_RECORDS_MAX)
            return bg_err_set(err, -EPROTO, "list of %zu bytes: malformed", size);
        int r = bg_change_parse(record, record_size, item, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* DATA frames up to END. */
static int read_items(struct changer *c, struct bg_err *err)
{
    size_t room = 0;
    for (;;) {
        struct bg_frame_header frame;
        int r = link_read_full(c->link, c->frame, BG_FRAME_HEADER_SIZE);
        if (r < 0)
            return bg_err_errno(err, r, "the host's list");
        r = bg_frame_header_parse(c->frame, BG_FRAME_HEADER_SIZE, BG_FRAME_SIZE_MAX, &frame, err);
        if (r < 0)
            return r;
        r = link_read_full(c->link, c->frame + BG_FRAME_HEADER_SIZE, frame.size);
        if (r < 0)
            return bg_err_errno(err, r, "the host's list");
        if (frame.type == BG_FRAME_END)
            return check_items(c->items, c->items_size, err);
        if (frame.type != BG_FRAME_DATA || frame.size > BG_CHANGES_LIST_MAX - c->items_size)
            return bg_err_set(err, -EPROTO, "frame type %u of %u bytes in a list", frame.type,
                              frame.size);
        if (c->items_size + frame.size > room) {
            room = 2 * room + frame.size;
            uint8_t *grown = realloc(c->items, room);
            if (!grown)
                return bg_err_errno(err, -ENOMEM, "list");
            c->items = grown;
        }
        memcpy(c->items + c->items_size, c->frame + BG_FRAME_HEADER_SIZE, frame.size);
        c->items_size += frame.size;
    }
}

/* ---- the worker ---- */

static int work(struct changer *c, struct bg_err *err)
{
    struct layer layer;
    const struct layer_sink sink = {.record = put_record, .bytes = put_bytes, .owner = c};
    const struct bg_changes_request *q = &c->request;
    int r = layer_open(BG_CHANGES_FOLDER, q->share, &layer, err);
    if (r == 0 && q->op != BG_CHANGES_LIST)
        r = read_items(c, err);
    if (r < 0)
        return r;
    switch ((enum bg_changes_op)q->op) {
    case BG_CHANGES_LIST:
        r = layer_list(&layer, &sink, err);
        break;
    case BG_CHANGES_FETCH:
        r = layer_fetch(&layer, c->items, c->items_size, &sink, err);
        break;
    case BG_CHANGES_SETTLE:
        r = layer_settle(&layer, c->items, c->items_size, &sink, err);
        break;
    case BG_CHANGES_DISCARD:
        r = layer_discard(&layer, c->items, c->items_size, &sink, err);
        break;
    case BG_CHANGES_MOUNT: /* these have no stream */
    case BG_CHANGES_NEW:
    case BG_CHANGES_UNMOUNT:
    case BG_CHANGES_DETACH:
        break;
    }
    return r;
}

/* After our END the host may still be writing: read it all, so that it gets to read ours. */
static void drain(struct changer *c)
{
    link_finish(c->link);
    while (link_read(c->link, c->frame, sizeof c->frame) > 0)
        ;
}

static int change_mount(const struct changer *c, struct bg_err *err)
{
    const struct bg_changes_request *q = &c->request;
    if (q->op == BG_CHANGES_UNMOUNT || q->op == BG_CHANGES_DETACH)
        return layer_unmount(BG_CHANGES_FOLDER, q->share, q->path, q->op == BG_CHANGES_DETACH, err);
    const struct layer_opts opts = {.base = BG_CHANGES_FOLDER,
                                    .share = q->share,
                                    .target = q->path,
                                    .uid = c->account.uid,
                                    .gid = c->account.gid,
                                    .empty = q->op == BG_CHANGES_NEW};
    return layer_mount(&opts, err);
}

static int run(struct link *link, void *arg)
{
    struct changer *c = arg;
    struct bg_err err = {0};
    c->link = link;
    if (c->request.op >= BG_CHANGES_MOUNT) {
        int r = change_mount(c, &err);
        bool stays = r == 0 && c->request.op <= BG_CHANGES_NEW;
        r = link_reply(link, &err) < 0 || r < 0;
        link_close(link); /* the reply was all */
        if (stays)
            layer_watch(BG_CHANGES_FOLDER, c->request.share);
        return r;
    }
    if (link_reply(link, &err) < 0)
        return 1;
    int r = work(c, &err);
    if (r == 0)
        err = (struct bg_err){0};
    if (send_end(c, &err) < 0)
        return 1;
    drain(c);
    return 0;
}

/* ---- in the agent ---- */

static int changes_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    BG_AUTOFREE struct changer *c = calloc(1, sizeof *c);
    if (!c)
        return bg_err_errno(err, -ENOMEM, "changes");
    int r = bg_changes_request_parse(body, size, &c->request, err);
    if (r == 0)
        r = account_load("", &c->account, err);
    if (r < 0)
        return r;
    const struct worker_opts opts = {
        .name = "bellglass-cow", .stream = stream, .lasts = true, .run = run, .arg = c};
    /* Detached: if there is no worker, the host sees the connection close. */
    if (worker_start(stream->agent, &opts, err) < 0)
        bg_log(stream->agent->log, BG_LOG_ERROR, "changes: %s", err->text);
    return 0;
}

const struct stream_kind changes_kind = {.name = "changes", .open = changes_open};
