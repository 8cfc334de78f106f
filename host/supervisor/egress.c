#include "host/supervisor/egress.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/wire.h"
#include "host/vsock/vsock_pipe.h"

/* Form, port, and a name with its length. */
#define BODY_MAX (1u + 2u + 4u + BG_NAME_MAX)

/* A connection that is with the proxy. */
struct stream {
    LIST_ENTRY(stream) link;
    struct egress *egress;
    struct vsock_pipe *pipe;
    bool unresumed; /* it is to be resumed and is not yet */
};

struct egress {
    uv_loop_t *loop;
    const struct bg_log *log;
    int proxy_fd;
    size_t waiting, stream_count;
    uint64_t ended_bytes; /* of streams that are no more */
    LIST_HEAD(, stream) streams;
    bool parked;
    bool resuming; /* on_resumed is owed */
    void (*on_resumed)(void *owner);
    void *owner;
};

/* A connection whose header is being read. What the guest sends eagerly behind the body stays
 * within the buffer, or the connection is reset: a guest has to wait for the reply. */
struct request {
    struct egress *egress;
    struct vsock_conn *conn;
    uint8_t bytes[BG_STREAM_HEADER_SIZE + BODY_MAX];
    size_t used;
};

static void request_free(struct request *request)
{
    request->egress->waiting--;
    free(request);
}

static void refuse(struct request *request)
{
    vsock_reset(request->conn);
    request_free(request);
}

static bool all_resumed(const struct egress *egress)
{
    const struct stream *stream;
    LIST_FOREACH(stream, &egress->streams, link)
    {
        if (stream->unresumed)
            return false;
    }
    return true;
}

static void tell_owner(struct egress *egress)
{
    if (!egress->resuming || !all_resumed(egress))
        return;
    egress->resuming = false;
    egress->on_resumed(egress->owner);
}

static void pipe_ended(void *owner, uint64_t to_guest, uint64_t from_guest)
{
    struct stream *stream = owner;
    struct egress *egress = stream->egress;
    egress->ended_bytes += to_guest + from_guest + 1; /* one more: that it ended */
    LIST_REMOVE(stream, link);
    free(stream);
    egress->stream_count--;
    tell_owner(egress);
}

static void pipe_resumed(void *owner)
{
    struct stream *stream = owner;
    stream->unresumed = false;
    tell_owner(stream->egress);
}

/* Sends the request and one end of a socketpair to the proxy, and joins the other end. */
static int hand_over(struct request *request, const struct bg_stream_header *header,
                     struct bg_err *err)
{
    struct egress *egress = request->egress;
    uint8_t message[4 + BODY_MAX];
    struct bg_writer w = bg_writer_init(message, sizeof message);
    bg_writer_u32le(&w, header->id);
    bg_writer_bytes(&w, request->bytes + BG_STREAM_HEADER_SIZE, header->body_size);
    int pair[2];
    if (egress->proxy_fd < 0)
        return bg_err_set(err, -ENOTCONN, "no proxy");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return bg_err_errno(err, -errno, "socketpair");
    BG_AUTOCLOSE int ours = pair[0];
    BG_AUTOCLOSE int theirs = pair[1];
    int r = bg_send_fd(egress->proxy_fd, message, w.used, theirs);
    if (r < 0)
        return bg_err_errno(err, r, "proxy");
    BG_AUTOFREE struct stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return bg_err_errno(err, -ENOMEM, "connection");
    const struct vsock_pipe_opts opts = {.conn = request->conn,
                                         .fd = ours,
                                         .kind = BG_STREAM_CONNECT,
                                         .id = header->id,
                                         .guest_size = request->used,
                                         .on_end = pipe_ended,
                                         .on_resumed = pipe_resumed,
                                         .owner = stream};
    r = vsock_pipe_start(egress->loop, &opts, &stream->pipe, err);
    if (r < 0)
        return r;
    (void)bg_take_fd(&ours); /* the pipe's now */
    stream->egress = egress;
    LIST_INSERT_HEAD(&egress->streams, stream, link);
    egress->stream_count++;
    if (egress->parked) /* it has no opening: at once */
        (void)vsock_pipe_park(stream->pipe);
    (void)BG_TAKE(stream); /* pipe_ended's */
    return 0;
}

static void request_data(void *owner, const uint8_t *bytes, size_t size)
{
    struct request *request = owner;
    struct bg_stream_header header;
    struct bg_err err;
    if (size > sizeof request->bytes - request->used) {
        refuse(request);
        return;
    }
    memcpy(request->bytes + request->used, bytes, size);
    request->used += size;
    vsock_consumed(request->conn, size);
    if (request->used < BG_STREAM_HEADER_SIZE)
        return;
    int r = bg_stream_header_parse(request->bytes, BG_STREAM_HEADER_SIZE, &header, &err);
    if (r == 0 &&
        (header.kind != BG_STREAM_CONNECT || header.flags != 0 || header.body_size > BODY_MAX))
        r = bg_err_set(&err, -EPROTO, "kind %u, body of %u bytes", header.kind, header.body_size);
    if (r == 0 && request->used < BG_STREAM_HEADER_SIZE + header.body_size)
        return;
    if (r == 0 && request->used > BG_STREAM_HEADER_SIZE + header.body_size)
        r = bg_err_set(&err, -EPROTO, "bytes before the reply");
    if (r == 0)
        r = hand_over(request, &header, &err);
    if (r < 0) {
        bg_log(request->egress->log, BG_LOG_DEBUG, "egress refused: %s", err.text);
        refuse(request);
        return;
    }
    request_free(request);
}

static void request_ended(void *owner, int code)
{
    (void)code;
    request_free(owner);
}

int egress_open(uv_loop_t *loop, const struct bg_log *log, struct egress **ret, struct bg_err *err)
{
    struct egress *egress = calloc(1, sizeof *egress);
    if (!egress)
        return bg_err_errno(err, -ENOMEM, "egress");
    *egress = (struct egress){.loop = loop, .log = log, .proxy_fd = -1};
    *ret = egress;
    return 0;
}

void egress_set_proxy(struct egress *egress, int fd)
{
    if (egress->proxy_fd >= 0)
        (void)close(egress->proxy_fd); /* of a proxy that is gone */
    egress->proxy_fd = fd;
    if (fd >= 0)
        (void)fcntl(fd, F_SETFL, O_NONBLOCK); /* a stuck proxy must not stop us: then it refuses */
}

void egress_take(struct egress *egress, struct vsock_conn *conn)
{
    static const struct vsock_conn_ops ops = {.on_data = request_data, .on_end = request_ended};
    struct request *request = egress->proxy_fd < 0 ? NULL : calloc(1, sizeof *request);
    if (!request) {
        vsock_reset(conn);
        return;
    }
    request->egress = egress;
    request->conn = conn;
    egress->waiting++;
    vsock_accept(conn, &ops, request);
}

void egress_on_resumed(struct egress *egress, void (*on_resumed)(void *owner), void *owner)
{
    egress->on_resumed = on_resumed;
    egress->owner = owner;
}

void egress_park(struct egress *egress)
{
    egress->parked = true;
    struct stream *stream;
    LIST_FOREACH(stream, &egress->streams, link)
    (void)vsock_pipe_park(stream->pipe); /* none has an opening: at once */
}

bool egress_resume(struct egress *egress, struct vsock_device *device)
{
    struct stream *stream;
    LIST_FOREACH(stream, &egress->streams, link)
    {
        stream->unresumed = vsock_pipe_resume(stream->pipe, device);
    }
    egress->resuming = !all_resumed(egress);
    return !egress->resuming;
}

void egress_go_on(struct egress *egress)
{
    egress->parked = egress->resuming = false;
    struct stream *stream;
    LIST_FOREACH(stream, &egress->streams, link)
    {
        stream->unresumed = false;
        vsock_pipe_go_on(stream->pipe);
    }
}

uint64_t egress_bytes(const struct egress *egress)
{
    uint64_t bytes = egress->ended_bytes;
    const struct stream *stream;
    LIST_FOREACH(stream, &egress->streams, link)
    bytes += vsock_pipe_bytes(stream->pipe);
    return bytes;
}

size_t egress_streams(const struct egress *egress)
{
    return egress->stream_count;
}

void egress_free(struct egress *egress)
{
    if (!egress)
        return;
    assert(egress->waiting == 0 && egress->stream_count == 0);
    egress_set_proxy(egress, -1);
    free(egress);
}
