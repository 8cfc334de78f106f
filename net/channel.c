#include "net/channel.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "common/limits.h"

struct channel {
    union { /* libuv points here from open until handle_closed */
        uv_handle_t handle;
        uv_poll_t poll;
        uv_idle_t idle; /* of a pair: runs while on_ready is to be called */
    };
    bool paired;
    struct channel *peer;    /* of a pair; NULL: closed */
    struct buffer in;        /* of a pair: what the peer had queued when it closed */
    bool peer_finished;      /* of a pair: it did so before it closed */
    int fd;                  /* -1: of a pair */
    struct tls_session *tls; /* NULL: bare */
    struct channel_opts opts;
    struct buffer out;
    size_t encrypted;  /* TLS: of out, from its start, what has been, and may be unsent */
    int armed, wanted; /* uv_poll events: asked of the loop, asked of us */
    int failure;       /* negative errno of the first failed write */
    bool gone;         /* both directions are closed */
    bool half_closed;  /* the peer sends no more; seen by the loop before it was read */
    bool read_wants_write, write_wants_read; /* TLS, now and then */
    bool finishing, finished;
};

static void handle_closed(uv_handle_t *handle)
{
    struct channel *channel = handle->data;
    struct channel_opts opts = channel->opts;
    tls_free(channel->tls);
    buffer_reset(&channel->out);
    buffer_reset(&channel->in);
    if (channel->fd >= 0)
        (void)close(channel->fd); /* nothing can be done about it here */
    free(channel);
    opts.on_closed(opts.owner);
}

static void arm(struct channel *channel, int events);

/* The peer closed: whether one direction or both, only poll(2) tells. */
static void note_hangup(struct channel *channel)
{
    struct pollfd p = {.fd = channel->fd, .events = POLLRDHUP};
    channel->half_closed = true;
    if (poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)))
        channel->gone = true;
}

static void socket_ready(uv_poll_t *poll, int status, int events)
{
    struct channel *channel = poll->data;
    if (status < 0) { /* POLLERR; libuv has stopped watching */
        channel->gone = true;
        channel->armed = 0;
    } else if (events & UV_DISCONNECT) {
        note_hangup(channel);
        channel->wanted &= ~UV_DISCONNECT;
    }
    /* What is no longer wanted is disarmed only when it fires: most of the time it is wanted again
     * before that, and a system call is saved. */
    if (channel->armed & ~channel->wanted)
        arm(channel, channel->wanted);
    channel->opts.on_ready(channel->opts.owner); /* last: may close us */
}

static void arm(struct channel *channel, int events)
{
    if (events == channel->armed)
        return;
    channel->armed = events;
    /* Both fail only on a handle that is closing. */
    if (events == 0)
        (void)uv_poll_stop(&channel->poll);
    else
        (void)uv_poll_start(&channel->poll, events, socket_ready);
}

int channel_open(uv_loop_t *loop, int fd, const struct channel_opts *opts, struct channel **ret,
                 struct bg_err *err)
{
    struct channel *channel = calloc(1, sizeof *channel);
    if (!channel)
        return bg_err_errno(err, -ENOMEM, "channel");
    int r = uv_poll_init(loop, &channel->poll, fd);
    if (r < 0) {
        free(channel);
        return bg_err_set(err, r, "channel: %s", uv_strerror(r));
    }
    channel->poll.data = channel;
    channel->fd = fd;
    channel->opts = *opts;
    channel->out = buffer_init(BG_EGRESS_QUEUE_MAX);
    channel->out.wipe = opts->wipe;
    *ret = channel;
    return 0;
}

/* --- pairs --- */

static void pair_ready(uv_idle_t *idle)
{
    struct channel *channel = idle->data;
    (void)uv_idle_stop(idle);                    /* cannot fail */
    channel->opts.on_ready(channel->opts.owner); /* last: may close us */
}

/* Calls on_ready in the loop's next turn, if the channel waits for the event. */
static void wake(struct channel *channel, int event)
{
    if (channel && (channel->wanted & event))
        (void)uv_idle_start(&channel->idle, pair_ready); /* fails only when closing */
}

static bool pair_readable(const struct channel *channel)
{
    const struct channel *peer = channel->peer;
    return !peer || peer->finishing || buffer_size(&peer->out) > 0;
}

static ssize_t pair_read(struct channel *channel, void *buffer, size_t size)
{
    struct channel *peer = channel->peer;
    struct buffer *from = peer ? &peer->out : &channel->in;
    bool finished = peer ? peer->finishing : channel->peer_finished;
    if (buffer_size(from) == 0)
        return finished ? 0 : peer ? -EAGAIN : -ECONNRESET;
    if (size > buffer_size(from))
        size = buffer_size(from);
    memcpy(buffer, buffer_bytes(from), size);
    buffer_drop(from, size);
    wake(peer, UV_WRITABLE);
    return (ssize_t)size;
}

static int pair_flush(struct channel *channel)
{
    if (!channel->peer)
        return -EPIPE;
    channel->finished |= channel->finishing;
    if (pair_readable(channel->peer))
        wake(channel->peer, UV_READABLE);
    return 0;
}

static void pair_close(struct channel *channel)
{
    struct channel *peer = channel->peer;
    if (!peer)
        return;
    peer->in = channel->out;
    peer->peer_finished = channel->finishing;
    peer->gone = true;
    peer->peer = NULL;
    channel->peer = NULL;
    channel->out = buffer_init(0);
    buffer_reset(&peer->out); /* nobody reads it any more */
    wake(peer, UV_READABLE | UV_WRITABLE | UV_DISCONNECT);
}

int channel_open_pair(uv_loop_t *loop, const struct channel_opts opts[2], struct channel *ret[2],
                      struct bg_err *err)
{
    struct channel *ends[2] = {calloc(1, sizeof *ends[0]), calloc(1, sizeof *ends[1])};
    if (!ends[0] || !ends[1]) {
        free(ends[0]);
        free(ends[1]);
        return bg_err_errno(err, -ENOMEM, "channel");
    }
    for (size_t i = 0; i < 2; i++) {
        *ends[i] = (struct channel){.paired = true,
                                    .peer = ends[1 - i],
                                    .fd = -1,
                                    .opts = opts[i],
                                    .out = buffer_init(BG_EGRESS_QUEUE_MAX)};
        ends[i]->out.wipe = opts[i].wipe;
        (void)uv_idle_init(loop, &ends[i]->idle); /* cannot fail */
        ends[i]->idle.data = ends[i];
        ret[i] = ends[i];
    }
    return 0;
}

void channel_close(struct channel *channel)
{
    if (!channel)
        return;
    if (channel->paired)
        pair_close(channel);
    uv_close(&channel->handle, handle_closed);
}

void channel_set_owner(struct channel *channel, const struct channel_opts *opts)
{
    channel->opts = *opts;
    channel->out.wipe |= opts->wipe;
    if (channel->paired)
        (void)uv_idle_stop(&channel->idle); /* cannot fail */
    else
        arm(channel, 0);
    channel->wanted = 0;
}

int channel_fd(const struct channel *channel)
{
    assert(!channel->paired);
    return channel->fd;
}

void channel_set_tls(struct channel *channel, struct tls_session *session)
{
    assert(!channel->tls);
    channel->tls = session;
}

int channel_handshake(struct channel *channel, struct bg_err *err)
{
    int r = tls_handshake(channel->tls, err);
    channel->read_wants_write = r == -EAGAIN && tls_wants_write(channel->tls);
    return r;
}

bool channel_is_h2(const struct channel *channel)
{
    return channel->tls && tls_is_h2(channel->tls);
}

bool channel_wants_certificate(const struct channel *channel)
{
    return channel->tls && tls_wants_certificate(channel->tls);
}

ssize_t channel_read(struct channel *channel, void *buffer, size_t size)
{
    ssize_t n;
    if (channel->paired)
        return pair_read(channel, buffer, size);
    if (channel->tls) {
        n = tls_read(channel->tls, buffer, size);
        channel->read_wants_write = n == -EAGAIN && tls_wants_write(channel->tls);
        return n;
    }
    do {
        n = recv(channel->fd, buffer, size, 0);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

struct buffer *channel_out(struct channel *channel)
{
    return &channel->out;
}

/* Bytes stay in out until they have been sent, so that its size is what the peer has not got. */
static ssize_t write_tls(struct channel *channel)
{
    ssize_t n = 0;
    if (channel->encrypted == 0)
        n = tls_write(channel->tls, buffer_bytes(&channel->out), buffer_size(&channel->out));
    if (n > 0)
        channel->encrypted = (size_t)n;
    if (n >= 0)
        n = tls_flush(channel->tls);
    channel->write_wants_read = n == -EAGAIN && !tls_wants_write(channel->tls);
    if (n < 0)
        return n;
    n = (ssize_t)channel->encrypted;
    channel->encrypted = 0;
    return n;
}

static ssize_t write_some(struct channel *channel)
{
    ssize_t n;
    if (channel->tls)
        return write_tls(channel);
    do {
        n = send(channel->fd, buffer_bytes(&channel->out), buffer_size(&channel->out),
                 MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

int channel_flush(struct channel *channel)
{
    if (channel->failure == 0 && !buffer_ok(&channel->out))
        channel->failure = -ENOBUFS;
    if (channel->failure == 0 && channel->paired)
        channel->failure = pair_flush(channel);
    while (!channel->paired && channel->failure == 0 && buffer_size(&channel->out) > 0) {
        ssize_t n = write_some(channel);
        if (n == -EAGAIN)
            return 0;
        if (n < 0)
            channel->failure = (int)n;
        else
            buffer_drop(&channel->out, (size_t)n);
    }
    if (channel->failure < 0) {
        buffer_reset(&channel->out);
        return channel->failure;
    }
    if (channel->finishing && !channel->finished) { /* of a pair it has been done */
        if (channel->tls && tls_close_notify(channel->tls) == -EAGAIN)
            return 0;
        (void)shutdown(channel->fd, SHUT_WR); /* fails only if the peer is gone: no matter */
        channel->finished = true;
    }
    return 0;
}

void channel_finish(struct channel *channel)
{
    channel->finishing = true;
}

bool channel_finished(const struct channel *channel)
{
    return channel->finished;
}

bool channel_gone(const struct channel *channel)
{
    return channel->gone;
}

void channel_watch(struct channel *channel, bool want_read)
{
    bool unsent = channel->failure == 0 &&
                  (buffer_size(&channel->out) > 0 || (channel->finishing && !channel->finished));
    int events = 0;
    if (channel->paired) {
        channel->wanted =
            (want_read ? UV_READABLE : 0) | (unsent ? UV_WRITABLE : 0) | UV_DISCONNECT;
        if (want_read && pair_readable(channel))
            wake(channel, UV_READABLE);
        return;
    }
    if (want_read)
        events |= channel->read_wants_write ? UV_READABLE | UV_WRITABLE : UV_READABLE;
    if (unsent)
        events |= channel->write_wants_read ? UV_READABLE : UV_WRITABLE;
    if (!channel->half_closed)
        events |= UV_DISCONNECT;
    channel->wanted = events;
    if (events & ~channel->armed)
        arm(channel, events);
}
