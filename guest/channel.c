#include "guest/channel.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Parts of one write: a frame's header and its payload, and a spare. */
#define PARTS_MAX 4

static void polled(uv_poll_t *poll, int status, int events);

static void watch(struct channel *ch)
{
    int events = (ch->want_input ? UV_READABLE : 0) | (channel_queued(ch) > 0 ? UV_WRITABLE : 0);
    if (ch->parked)
        events = 0;
    if (events == ch->events)
        return;
    ch->events = events;
    /* Both fail only for a closing handle, which this is not. */
    if (events)
        (void)uv_poll_start(&ch->poll, events, polled);
    else
        (void)uv_poll_stop(&ch->poll);
}

static int socket_error(int fd)
{
    int code = 0;
    socklen_t size = sizeof code;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) < 0 || code == 0)
        return -EPIPE; /* a pipe, or a socket that was only hung up */
    return -code;
}

/* Writes from the queue. Returns 0 or negative errno. */
static int flush(struct channel *ch)
{
    while (channel_queued(ch) > 0) {
        ssize_t n = write(ch->fd, ch->queue + ch->queue_at, channel_queued(ch));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        ch->queue_at += (size_t)n;
        ch->bytes_written += (uint64_t)n;
    }
    free(ch->queue);
    ch->queue = NULL;
    ch->queue_at = ch->queue_end = ch->queue_room = 0;
    if (ch->finishing)
        (void)shutdown(ch->fd, SHUT_WR); /* fails if the peer is gone; the read side tells */
    return 0;
}

static void polled(uv_poll_t *poll, int status, int events)
{
    struct channel *ch = poll->data;
    if (ch->state != CHANNEL_OPEN || ch->parked)
        return;
    if (status < 0) { /* POLLERR: libuv has stopped the handle and has no code for us */
        ch->events = 0;
        ch->ops->on_broken(ch->owner, socket_error(ch->fd));
        return;
    }
    if ((events & UV_WRITABLE) && channel_queued(ch) > 0) {
        int r = flush(ch);
        if (r < 0) {
            ch->want_input = false;
            ch->queue_at = ch->queue_end = 0;
            watch(ch);
            ch->ops->on_broken(ch->owner, r);
            return;
        }
        watch(ch);
        if (ch->ops->on_room)
            ch->ops->on_room(ch->owner);
    }
    /* The owner may have closed us, or turned input off, in on_room. */
    if ((events & UV_READABLE) && ch->state == CHANNEL_OPEN && ch->want_input)
        ch->ops->on_readable(ch->owner);
}

int channel_open(struct channel *ch, uv_loop_t *loop, int fd, const struct channel_ops *ops,
                 void *owner)
{
    assert(ch->state == CHANNEL_NONE && ops->on_broken);
    int r = uv_poll_init(loop, &ch->poll, fd);
    if (r < 0)
        return r;
    ch->poll.data = ch;
    ch->ops = ops;
    ch->owner = owner;
    ch->fd = fd;
    ch->state = CHANNEL_OPEN;
    return 0;
}

void channel_want_input(struct channel *ch, bool want)
{
    assert(ch->state == CHANNEL_OPEN && (!want || ch->ops->on_readable));
    ch->want_input = want;
    watch(ch);
}

ssize_t channel_read(struct channel *ch, void *buffer, size_t size)
{
    for (;;) {
        ssize_t n = read(ch->fd, buffer, size);
        if (n >= 0) {
            ch->bytes_read += (uint64_t)n;
            return n;
        }
        if (errno == EIO)
            return 0; /* the other side of a pty is gone */
        if (errno != EINTR)
            return -errno;
    }
}

/* Appends to the queue what is left of the parts after their first `skip` bytes. */
static int enqueue(struct channel *ch, const struct iovec *parts, int count, size_t skip,
                   size_t size)
{
    if (ch->queue_at > 0 && ch->queue_room - ch->queue_end < size) {
        memmove(ch->queue, ch->queue + ch->queue_at, channel_queued(ch));
        ch->queue_end -= ch->queue_at;
        ch->queue_at = 0;
    }
    if (ch->queue_room - ch->queue_end < size) {
        size_t room = ch->queue_end + size; /* both bounded by the owner: no overflow */
        if (room < 2 * ch->queue_room)
            room = 2 * ch->queue_room;
        uint8_t *grown = realloc(ch->queue, room);
        if (!grown)
            return -ENOMEM;
        ch->queue = grown;
        ch->queue_room = room;
    }
    for (int i = 0; i < count; i++) {
        size_t over = skip < parts[i].iov_len ? skip : parts[i].iov_len;
        skip -= over;
        if (over == parts[i].iov_len)
            continue;
        memcpy(ch->queue + ch->queue_end, (const uint8_t *)parts[i].iov_base + over,
               parts[i].iov_len - over);
        ch->queue_end += parts[i].iov_len - over;
    }
    return 0;
}

int channel_write(struct channel *ch, const struct iovec *parts, int count)
{
    assert(ch->state == CHANNEL_OPEN && count <= PARTS_MAX && !ch->finishing);
    size_t size = 0, done = 0;
    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    if (size == 0)
        return 0;
    if (channel_queued(ch) == 0 && !ch->parked) {
        ssize_t n;
        do {
            n = count == 1 ? write(ch->fd, parts[0].iov_base, size) : writev(ch->fd, parts, count);
        } while (n < 0 && errno == EINTR);
        if (n < 0 && errno != EAGAIN)
            return -errno;
        done = n > 0 ? (size_t)n : 0;
        ch->bytes_written += done;
    }
    if (done == size)
        return 0;
    int r = enqueue(ch, parts, count, done, size - done);
    if (r == 0)
        watch(ch);
    return r;
}

int channel_write_later(struct channel *ch, const struct iovec *parts, int count)
{
    assert(ch->state == CHANNEL_OPEN && count <= PARTS_MAX && !ch->finishing);
    size_t size = 0;
    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    int r = enqueue(ch, parts, count, 0, size);
    if (r == 0)
        watch(ch);
    return r;
}

void channel_finish(struct channel *ch)
{
    assert(ch->state == CHANNEL_OPEN);
    ch->finishing = true;
    if (channel_queued(ch) == 0 && !ch->parked)
        (void)shutdown(ch->fd, SHUT_WR); /* fails if the peer is gone; the read side tells */
}

void channel_park(struct channel *ch)
{
    assert(ch->state == CHANNEL_OPEN);
    ch->parked = true;
    watch(ch);
}

int channel_swap(struct channel *ch, int fd)
{
    /* The loop has no part in the old one any more: its handle is stopped. */
    assert(ch->state == CHANNEL_OPEN && ch->parked && ch->events == 0);
    if (dup3(fd, ch->fd, O_CLOEXEC) < 0)
        return -errno;
    (void)close(fd); /* a duplicate */
    return 0;
}

void channel_go_on(struct channel *ch)
{
    assert(ch->state == CHANNEL_OPEN);
    ch->parked = false;
    if (ch->finishing && channel_queued(ch) == 0)
        (void)shutdown(ch->fd, SHUT_WR); /* as above */
    watch(ch);
}

static void closed(uv_handle_t *handle)
{
    struct channel *ch = handle->data;
    ch->state = CHANNEL_NONE;
    if (ch->on_closed)
        ch->on_closed(ch->owner);
}

int channel_detach(struct channel *ch, void (*on_closed)(void *owner))
{
    assert(ch->state == CHANNEL_OPEN);
    int fd = bg_take_fd(&ch->fd);
    ch->state = CHANNEL_CLOSING;
    ch->on_closed = on_closed;
    free(ch->queue);
    ch->queue = NULL;
    ch->queue_at = ch->queue_end = ch->queue_room = 0;
    uv_close((uv_handle_t *)&ch->poll, closed);
    return fd;
}

void channel_close(struct channel *ch, void (*on_closed)(void *owner))
{
    (void)close(channel_detach(ch, on_closed)); /* the peer sees the end; we have no more to say */
}
