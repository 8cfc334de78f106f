#include "host/cli/copy_stream.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "common/quote.h"
#include "common/wire.h"

/* What may come between the end of the tar stream and END: tar's padding, and then some. */
#define TRAILER_MAX (1024 * 1024)

struct copy_stream *copy_stream_new(int fd)
{
    struct copy_stream *stream = calloc(1, sizeof *stream);
    if (stream)
        stream->fd = fd;
    return stream;
}

static int receive(int fd, void *out, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = recv(fd, (char *)out + at, size - at, MSG_WAITALL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? -ECONNRESET : -errno;
        at += (size_t)n;
    }
    return 0;
}

static int take_end(struct copy_stream *s, uint32_t size)
{
    struct bg_reader in = bg_reader_init(s->payload, size);
    uint32_t bits = bg_reader_u32le(&in);
    const uint8_t *text = bg_reader_bytes(&in, in.left);
    if (!bg_reader_end(&in))
        return -EPROTO;
    memcpy(&s->status, &bits, sizeof s->status);
    if (s->status > 0 || s->status < -4095)
        return -EPROTO;
    bg_escape((const char *)text, size - 4, s->text, sizeof s->text);
    s->ended = true;
    return 0;
}

ssize_t copy_stream_read(void *owner, const void **ret_bytes)
{
    struct copy_stream *s = owner;
    for (;;) {
        uint8_t bytes[BG_FRAME_HEADER_SIZE];
        struct bg_frame_header header = {0};
        if (s->broken || s->ended)
            return s->broken ? s->broken : s->status < 0 ? -ECANCELED : 0;
        int r = receive(s->fd, bytes, sizeof bytes);
        if (r == 0 &&
            bg_frame_header_parse(bytes, sizeof bytes, BG_FRAME_SIZE_MAX, &header, NULL) < 0)
            r = -EPROTO;
        if (r == 0)
            r = receive(s->fd, s->payload, header.size);
        if (r == 0 && header.type == BG_FRAME_END)
            r = take_end(s, header.size);
        else if (r == 0 && header.type != BG_FRAME_DATA)
            r = -EPROTO;
        s->broken = r;
        if (r < 0)
            return r;
        if (header.type == BG_FRAME_DATA && header.size > 0) {
            *ret_bytes = s->payload;
            return (ssize_t)header.size;
        }
    }
}

/* Something came while we are sending: it can only be an early END. */
static int read_early_end(struct copy_stream *s)
{
    const void *bytes;
    ssize_t n = copy_stream_read(s, &bytes);
    if (n > 0)
        return -EPROTO;
    return n < 0 ? (int)n : -ECANCELED;
}

static int send_bytes(struct copy_stream *s, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        struct pollfd p = {.fd = s->fd, .events = POLLIN | POLLOUT};
        if (poll(&p, 1, -1) < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (p.revents & (POLLIN | POLLHUP | POLLERR))
            return read_early_end(s);
        ssize_t n = send(s->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return errno == EPIPE || errno == ECONNRESET ? read_early_end(s) : -errno;
        if (n > 0) {
            bytes += n;
            size -= (size_t)n;
        }
    }
    return 0;
}

static int send_frame(struct copy_stream *s, uint8_t type, const void *payload, uint32_t size)
{
    uint8_t header[BG_FRAME_HEADER_SIZE];
    bg_frame_header_emit(type, size, header);
    int r = send_bytes(s, header, sizeof header);
    return r < 0 ? r : send_bytes(s, payload, size);
}

int copy_stream_write(void *owner, const void *bytes, size_t size)
{
    struct copy_stream *s = owner;
    const uint8_t *at = bytes;
    while (size > 0) {
        uint32_t n = size < BG_FRAME_SIZE_MAX ? (uint32_t)size : BG_FRAME_SIZE_MAX;
        int r = send_frame(s, BG_FRAME_DATA, at, n);
        if (r < 0)
            return r;
        at += n;
        size -= n;
    }
    return 0;
}

int copy_stream_explain(const struct copy_stream *stream, int r, struct bg_err *err)
{
    if (r == -ECANCELED && stream->ended && stream->status < 0)
        return bg_err_set(err, stream->status, "in the sandbox: %s",
                          stream->text[0] ? stream->text : strerror(-stream->status));
    if (r == -ECANCELED || r == -EPROTO)
        return bg_err_set(err, -EPROTO, "the sandbox broke the copy protocol");
    if (r == -ECONNRESET)
        return bg_err_set(err, r, "the connection ended: the sandbox stopped or crashed");
    return bg_err_errno(err, r, "stream to the sandbox");
}

/* Until END; data is dropped, at most TRAILER_MAX of it. */
static int read_end(struct copy_stream *s)
{
    size_t dropped = 0;
    for (;;) {
        const void *bytes;
        ssize_t n = copy_stream_read(s, &bytes);
        if (n <= 0)
            return (int)n;
        dropped += (size_t)n;
        if (dropped > TRAILER_MAX)
            return -EPROTO;
    }
}

int copy_stream_end_write(struct copy_stream *stream)
{
    static const uint8_t good[4];
    return send_frame(stream, BG_FRAME_END, good, sizeof good);
}

int copy_stream_finish_write(struct copy_stream *stream, struct bg_err *err)
{
    int r = copy_stream_end_write(stream);
    if (r == -ECANCELED && stream->ended && stream->status == 0)
        r = 0; /* it had enough before our END: the padding of a tar file */
    if (r == 0)
        r = read_end(stream);
    return r < 0 ? copy_stream_explain(stream, r, err) : 0;
}

int copy_stream_finish_read(struct copy_stream *stream, struct bg_err *err)
{
    int r = read_end(stream);
    return r < 0 ? copy_stream_explain(stream, r, err) : 0;
}
