#include "host/supervisor/disk_stream.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/wire.h"
#include "host/supervisor/disk_answers.h"

/* The session has 1, those of the control socket count from 2. */
#define STREAM_ID UINT32_MAX

struct disk_stream {
    struct disk_stream_opts opts;
    struct vsock_conn *conn; /* NULL: gone */
    struct disk_answers answers;
    bool open, finishing;
};

/* The last thing that is done with it. */
static void end(struct disk_stream *stream, const struct bg_err *why)
{
    const struct disk_stream_opts opts = stream->opts;
    vsock_reset(stream->conn);
    free(stream);
    opts.on_ended(opts.owner, why);
}

static void opened(void *owner)
{
    struct disk_stream *stream = owner;
    struct bg_disk_request request = {.flags = stream->opts.flags};
    uint8_t bytes[BG_STREAM_HEADER_SIZE + 64];
    assert(strlen(stream->opts.serial) < sizeof request.serial);
    memcpy(request.serial, stream->opts.serial, strlen(stream->opts.serial) + 1);
    struct bg_writer w =
        bg_writer_init(bytes + BG_STREAM_HEADER_SIZE, sizeof bytes - BG_STREAM_HEADER_SIZE);
    bg_disk_request_emit(&request, &w);
    assert(bg_writer_ok(&w));
    const struct bg_stream_header header = {
        .kind = BG_STREAM_DISK, .id = STREAM_ID, .body_size = (uint32_t)w.used};
    bg_stream_header_emit(&header, bytes);
    size_t size = BG_STREAM_HEADER_SIZE + w.used;
    if (vsock_write(stream->conn, bytes, size) < size) {
        /* A fresh connection has room for that, if the guest is no other than ours. */
        struct bg_err why;
        (void)bg_err_set(&why, -EPROTO, "the agent does not take the request for the disk");
        end(stream, &why);
        return;
    }
    stream->open = true;
    if (stream->finishing)
        vsock_shutdown(stream->conn);
}

static void answered(void *owner, const uint8_t *bytes, size_t size)
{
    struct disk_stream *stream = owner;
    struct bg_err why = {0};
    bool was_mounted = stream->answers.mounted;
    int r = disk_answers_feed(&stream->answers, bytes, size, &why);
    if (r == 0 && stream->answers.ended && !stream->finishing)
        r = bg_err_set(&why, -EPROTO, "the agent unmounted the disk by itself");
    if (r < 0 || stream->answers.ended) {
        end(stream, &why);
        return;
    }
    vsock_consumed(stream->conn, size);
    if (!was_mounted && stream->answers.mounted)
        stream->opts.on_mounted(stream->opts.owner);
}

static void lost(void *owner, int code)
{
    struct disk_stream *stream = owner;
    struct bg_err why;
    stream->conn = NULL;
    (void)bg_err_set(&why, code < 0 ? code : -ECONNRESET, "the agent let go of the disk (%s)",
                     code < 0 ? strerror(-code) : "closed");
    end(stream, &why);
}

int disk_stream_open(const struct disk_stream_opts *opts, struct disk_stream **ret,
                     struct bg_err *err)
{
    static const struct vsock_conn_ops ops = {
        .on_open = opened, .on_data = answered, .on_end = lost};
    struct disk_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return bg_err_errno(err, -ENOMEM, "disk stream");
    stream->opts = *opts;
    int r = vsock_connect(opts->device, BG_VSOCK_AGENT_PORT, &ops, stream, &stream->conn, err);
    if (r < 0) {
        free(stream);
        return r;
    }
    *ret = stream;
    return 0;
}

void disk_stream_finish(struct disk_stream *stream)
{
    assert(!stream->finishing);
    stream->finishing = true;
    if (stream->open)
        vsock_shutdown(stream->conn);
}
