#include "guest/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/quote.h"
#include "common/tree/tree_tar.h"
#include "guest/accounts.h"
#include "guest/disk.h"
#include "guest/worker.h"

/* ---- in the worker ---- */

struct copier {
    struct link *link;
    struct bg_copy_request request;
    struct account account;
    bool drop_rights;
    uint8_t frame[BG_FRAME_HEADER_SIZE + BG_FRAME_SIZE_MAX];
    bool input_ended; /* the host's END was read */
    uint64_t skipped;
    char skipped_name[BG_NAME_MAX];
    struct bg_err stream_err; /* what was wrong with the stream, if it was that */
};

static int send_frame(struct copier *c, uint8_t type, const void *payload, size_t size)
{
    bg_frame_header_emit(type, (uint32_t)size, c->frame);
    memcpy(c->frame + BG_FRAME_HEADER_SIZE, payload, size);
    return link_write(c->link, c->frame, BG_FRAME_HEADER_SIZE + size);
}

static int send_data(void *owner, const void *bytes, size_t size)
{
    struct copier *c = owner;
    const uint8_t *at = bytes;
    while (size > 0) {
        size_t n = size < BG_FRAME_SIZE_MAX ? size : BG_FRAME_SIZE_MAX;
        int r = send_frame(c, BG_FRAME_DATA, at, n);
        if (r < 0)
            return r;
        at += n;
        size -= n;
    }
    return 0;
}

static int send_end(struct copier *c, const struct bg_err *err)
{
    uint8_t payload[4 + BG_ERR_TEXT_SIZE];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, (uint32_t)err->code);
    bg_writer_bytes(&w, err->text, strnlen(err->text, BG_ERR_TEXT_SIZE));
    return send_frame(c, BG_FRAME_END, payload, w.used);
}

/* The host's END: 0 when all of the tar has come. */
static int take_end(struct copier *c, const uint8_t *payload, size_t size)
{
    struct bg_reader in = bg_reader_init(payload, size);
    int32_t status = (int32_t)bg_reader_u32le(&in);
    if (!bg_reader_ok(&in) || status > 0)
        return bg_err_set(&c->stream_err, -EPROTO, "END frame of %zu bytes", size);
    c->input_ended = true;
    if (status < 0)
        return bg_err_set(&c->stream_err, -ECANCELED, "the host's side gave up");
    return 0;
}

static ssize_t read_data(void *owner, const void **ret_bytes)
{
    struct copier *c = owner;
    struct bg_frame_header frame = {0};
    do {
        if (c->input_ended)
            return 0;
        int r = link_read_full(c->link, c->frame, BG_FRAME_HEADER_SIZE);
        if (r == 0)
            r = bg_frame_header_parse(c->frame, BG_FRAME_HEADER_SIZE, BG_FRAME_SIZE_MAX, &frame,
                                      &c->stream_err);
        if (r == 0)
            r = link_read_full(c->link, c->frame + BG_FRAME_HEADER_SIZE, frame.size);
        if (r < 0)
            return r;
        if (frame.type == BG_FRAME_END)
            return take_end(c, c->frame + BG_FRAME_HEADER_SIZE, frame.size);
        if (frame.type != BG_FRAME_DATA)
            return bg_err_set(&c->stream_err, -EPROTO, "frame type %u in a copy", frame.type);
    } while (frame.size == 0);
    *ret_bytes = c->frame + BG_FRAME_HEADER_SIZE;
    return (ssize_t)frame.size;
}

static void count_skip(void *owner, const char *name, const char *why)
{
    struct copier *c = owner;
    (void)why; /* the count and the first name are enough */
    if (c->skipped++ == 0)
        (void)bg_quote(name, c->skipped_name, sizeof c->skipped_name);
}

static int copy_out(struct copier *c, struct bg_err *err)
{
    const struct tree_tar_pack_opts opts = {.dir_fd = AT_FDCWD,
                                            .path = c->request.path,
                                            .root = c->request.root,
                                            .write = send_data,
                                            .on_skip = count_skip,
                                            .owner = c};
    return tree_tar_pack(&opts, NULL, err);
}

static int copy_in(struct copier *c, struct bg_err *err)
{
    bool unpack = c->request.flags & BG_COPY_UNPACK;
    const struct tree_tar_unpack_opts opts = {.dir_fd = AT_FDCWD,
                                              .path = c->request.path,
                                              .root = unpack ? NULL : c->request.root,
                                              .read = read_data,
                                              .on_skip = count_skip,
                                              .owner = c};
    int r = tree_tar_unpack(&opts, NULL, err);
    if (r < 0 && c->stream_err.code < 0)
        *err = c->stream_err;
    if (r == 0)
        sync(); /* "when all is on disk"; it has no errors to tell */
    return r;
}

/* After our END the host may still be writing: read it all, so that it gets to read ours. */
static void drain(struct copier *c)
{
    link_finish(c->link);
    while (link_read(c->link, c->frame, sizeof c->frame) > 0)
        ;
}

static int run(struct link *link, void *arg)
{
    struct copier *c = arg;
    c->link = link;
    struct bg_err err = {0};
    int r = 0;
    if (c->request.flags & BG_COPY_DISK) { /* the user is one of the disk's */
        r = disk_enter(&err);
        if (r == 0)
            r = account_load(c->request.user, &c->account, &err);
    }
    if (link_reply(link, &err) < 0 || r < 0)
        return 1;
    (void)umask(022);
    r = c->drop_rights ? account_become(&c->account, &err) : 0;
    if (r == 0 && c->request.path[0] != '/' && chdir(c->account.home) < 0)
        r = bg_err_errno(&err, -errno, "%s", c->account.home);
    if (r == 0)
        r = c->request.direction == BG_COPY_OUT_OF_GUEST ? copy_out(c, &err) : copy_in(c, &err);
    if (r == 0 && c->skipped > 0)
        (void)bg_err_set(&err, 0, "%llu special files left out, the first is %s",
                         (unsigned long long)c->skipped, c->skipped_name);
    if (send_end(c, &err) < 0)
        return 1;
    drain(c);
    return 0;
}

/* ---- in the agent ---- */

static int copy_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    BG_AUTOFREE struct copier *c = calloc(1, sizeof *c);
    if (!c)
        return bg_err_errno(err, -ENOMEM, "copy");
    int r = bg_copy_request_parse(body, size, &c->request, err);
    if (r == 0 && !(c->request.flags & BG_COPY_DISK))
        r = account_load(c->request.user, &c->account, err);
    if (r < 0)
        return r;
    c->drop_rights = geteuid() == 0;
    const struct worker_opts opts = {
        .name = "bellglass-copy", .stream = stream, .lasts = true, .run = run, .arg = c};
    /* Detached: if there is no worker, the host sees the connection close. */
    if (worker_start(stream->agent, &opts, err) < 0)
        bg_log(stream->agent->log, BG_LOG_ERROR, "copy: %s", err->text);
    return 0;
}

const struct stream_kind copy_kind = {.name = "copy", .open = copy_open};
