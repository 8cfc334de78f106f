#include "host/gateway/tunnel.h"

#include <string.h>

#include "common/wire.h"
#include "host/gateway/guest_stream.h"

struct tunnel {
    struct tunnel_opts opts;
    struct guest_stream *stream; /* NULL: closed */
    uint8_t reply[BG_REPLY_HEADER_SIZE];
    size_t reply_used;
    bool opened;  /* the reply said so */
    bool in_call; /* of a callback: freed when that is over */
};

void tunnel_close(struct tunnel *tunnel)
{
    if (!tunnel)
        return;
    guest_stream_close(BG_TAKE(tunnel->stream));
    if (!tunnel->in_call)
        free(tunnel);
}

static void end(struct tunnel *t, int status)
{
    t->opts.on_end(t->opts.owner, status);
}

/* The reply's header. False: it is the end. */
static bool take_reply(struct tunnel *t)
{
    struct bg_reply_header reply;
    int r = bg_reply_header_parse(t->reply, sizeof t->reply, &reply, NULL);
    if (r == 0 && reply.status == 0 && reply.body_size == 0) {
        t->opened = true;
        return true;
    }
    end(t, r < 0 || reply.status == 0 ? -EPROTO : reply.status);
    return false;
}

static void have_data(void *owner, const uint8_t *bytes, size_t size)
{
    struct tunnel *t = owner;
    bool goes_on = true;
    t->in_call = true;
    if (!t->opened) {
        size_t want = sizeof t->reply - t->reply_used, take = size < want ? size : want;
        memcpy(t->reply + t->reply_used, bytes, take);
        t->reply_used += take;
        bytes += take;
        size -= take;
        goes_on = t->reply_used == sizeof t->reply && take_reply(t);
    }
    if (goes_on && size > 0)
        t->opts.on_data(t->opts.owner, bytes, size);
    t->in_call = false;
    if (!t->stream)
        free(t);
}

static void stream_ended(void *owner, const struct bg_err *err)
{
    struct tunnel *t = owner;
    t->in_call = true;
    end(t, t->opened ? 0 : err ? err->code : -ECONNRESET);
    t->in_call = false;
    if (!t->stream)
        free(t);
}

static void drained(void *owner)
{
    struct tunnel *t = owner;
    t->opts.on_drain(t->opts.owner); /* last: it may close us */
}

int tunnel_open(uv_loop_t *loop, const struct tunnel_opts *opts, struct tunnel **ret,
                struct bg_err *err)
{
    uint8_t body[2];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_writer_u16le(&w, opts->port);
    BG_AUTOFREE struct tunnel *t = calloc(1, sizeof *t);
    if (!t)
        return bg_err_errno(err, -ENOMEM, "tunnel");
    t->opts = *opts;
    t->opts.paths = NULL;
    t->opts.sandbox = NULL;
    const struct guest_stream_opts stream = {.paths = opts->paths,
                                             .sandbox = opts->sandbox,
                                             .kind = "forward",
                                             .body = body,
                                             .size = sizeof body,
                                             .on_data = have_data,
                                             .on_end = stream_ended,
                                             .on_drain = drained,
                                             .owner = t};
    int r = guest_stream_open(loop, &stream, &t->stream, err);
    if (r == 0)
        *ret = BG_TAKE(t);
    return r;
}

int tunnel_write(struct tunnel *tunnel, void *bytes, size_t size)
{
    return guest_stream_write(tunnel->stream, bytes, size);
}

size_t tunnel_unsent(const struct tunnel *tunnel)
{
    return guest_stream_unsent(tunnel->stream);
}

void tunnel_finish(struct tunnel *tunnel)
{
    guest_stream_finish(tunnel->stream);
}

void tunnel_pause(struct tunnel *tunnel, bool paused)
{
    guest_stream_pause(tunnel->stream, paused);
}
