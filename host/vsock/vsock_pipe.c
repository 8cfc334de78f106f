/* Two directions, each with its own end.
 *
 * To the guest: the fd is read only when vsock_write_room() says how much the guest takes, into a
 * buffer of the device that is written at once; nothing is kept. Only the bytes given at the start
 * are. Polling for readable stops while the guest has no room.
 *
 * From the guest: what arrives is written to the fd at once; what the fd does not take is kept
 * (never more than the connection's credit, which is given back only for what has been written) and
 * goes out when the fd is writable.
 *
 * The fd's reader may go away while nobody polls for readable: then only an error or hang-up is
 * waited for, so that the guest learns of it. epoll reports those always; polling for "urgent",
 * which no such fd has, makes libuv ask for nothing else. */
#include "host/vsock/vsock_pipe.h"

#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/limits.h"
#include "host/vsock/vsock_device.h"

#define READS_PER_TURN 8 /* then others of the loop get their turn */

struct vsock_pipe {
    uv_poll_t poll;
    enum { PIPE_OPEN, PIPE_CLOSING } state; /* only moves right */
    struct vsock_conn *conn;                /* NULL: it has ended */
    int fd;
    int events; /* what is polled for */
    bool is_socket;
    /* To the guest. */
    bool fd_eof;     /* no more will be read from fd */
    bool send_over;  /* vsock_shutdown() has been called */
    bool guest_full; /* on_writable will come */
    uint8_t *first;  /* bytes before the fd's */
    size_t first_at, first_size;
    /* From the guest. */
    bool guest_eof;     /* no more will come */
    bool fd_write_over; /* fd takes no more: it is shut, or its reader is gone */
    bool hung_up;       /* seen: polling for it again would spin */
    uint8_t *kept;      /* a ring of kept_size_max bytes; NULL until needed */
    size_t kept_at, kept_size, kept_size_max;
    size_t owed; /* kept bytes that are not on the connection's credit: from to_fd */
    uint64_t to_guest_bytes, from_guest_bytes;
    void (*on_end)(void *owner, uint64_t to_guest_bytes, uint64_t from_guest_bytes);
    void *owner;
};

static void poll_closed(uv_handle_t *handle)
{
    BG_AUTOFREE struct vsock_pipe *pipe = handle->data;
    free(pipe->first);
    free(pipe->kept);
    pipe->on_end(pipe->owner, pipe->to_guest_bytes, pipe->from_guest_bytes);
}

static void finish(struct vsock_pipe *pipe)
{
    if (pipe->state == PIPE_CLOSING)
        return;
    pipe->state = PIPE_CLOSING;
    vsock_reset(pipe->conn); /* NULL when it has ended by itself */
    pipe->conn = NULL;
    uv_close((uv_handle_t *)&pipe->poll, poll_closed);
    (void)close(pipe->fd); /* all that could be written has been */
    pipe->fd = -1;
}

static void polled(uv_poll_t *handle, int status, int events);

/* Polls for what is needed now. */
static void update_poll(struct vsock_pipe *pipe)
{
    if (pipe->state == PIPE_CLOSING)
        return;
    int events = 0;
    if (!pipe->fd_eof && !pipe->guest_full)
        events |= UV_READABLE;
    if (pipe->kept_size > 0)
        events |= UV_WRITABLE;
    if (events == 0 && !pipe->hung_up)
        events = UV_PRIORITIZED;
    if (events == pipe->events)
        return;
    pipe->events = events;
    /* Neither can fail on an open handle. */
    if (events == 0)
        (void)uv_poll_stop(&pipe->poll);
    else
        (void)uv_poll_start(&pipe->poll, events, polled);
}

/* Ends the pipe when there is nothing left to carry. */
static bool ended(struct vsock_pipe *pipe)
{
    if (pipe->conn || pipe->kept_size > 0)
        return false;
    finish(pipe);
    return true;
}

/* ---- from the guest to the fd ---- */

static void credit_back(struct vsock_pipe *pipe, size_t size)
{
    size_t of_start = size < pipe->owed ? size : pipe->owed;
    pipe->owed -= of_start;
    if (pipe->conn && size > of_start)
        vsock_consumed(pipe->conn, size - of_start);
}

/* An idle pipe costs next to nothing. */
static void drop_kept(struct vsock_pipe *pipe)
{
    free(pipe->kept);
    pipe->kept = NULL;
    pipe->kept_at = pipe->kept_size = 0;
}

/* The fd's reader is gone: the guest's writers shall learn it. */
static void reader_gone(struct vsock_pipe *pipe)
{
    if (pipe->fd_write_over)
        return;
    pipe->fd_write_over = true;
    credit_back(pipe, pipe->kept_size);
    drop_kept(pipe);
    if (pipe->conn)
        vsock_stop_reading(pipe->conn);
}

/* Writes what it can. Returns how much; 0 also when the reader is gone. */
static size_t write_parts(struct vsock_pipe *pipe, struct iovec *parts, int count)
{
    if (pipe->fd_write_over)
        return 0;
    struct msghdr msg = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    ssize_t n;
    do {
        n = pipe->is_socket ? sendmsg(pipe->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT)
                            : writev(pipe->fd, parts, count);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN) {
        reader_gone(pipe);
        return 0;
    }
    if (n <= 0)
        return 0;
    pipe->from_guest_bytes += (uint64_t)n;
    return (size_t)n;
}

static void flush_kept(struct vsock_pipe *pipe)
{
    while (pipe->kept_size > 0) {
        size_t to_end = pipe->kept_size_max - pipe->kept_at;
        size_t here = pipe->kept_size < to_end ? pipe->kept_size : to_end;
        struct iovec parts[2] = {
            {.iov_base = pipe->kept + pipe->kept_at, .iov_len = here},
            {.iov_base = pipe->kept, .iov_len = pipe->kept_size - here},
        };
        size_t n = write_parts(pipe, parts, parts[1].iov_len > 0 ? 2 : 1);
        if (n == 0)
            return;
        pipe->kept_at = (pipe->kept_at + n) % pipe->kept_size_max;
        pipe->kept_size -= n;
        credit_back(pipe, n);
    }
    drop_kept(pipe);
}

/* After the guest's last byte has been written, the fd's reader gets end of file. */
static void pass_eof(struct vsock_pipe *pipe)
{
    if (!pipe->guest_eof || pipe->kept_size > 0 || pipe->fd_write_over)
        return;
    pipe->fd_write_over = true;
    if (pipe->is_socket)
        (void)shutdown(pipe->fd, SHUT_WR); /* the peer may have gone: then it needs none */
}

static int keep(struct vsock_pipe *pipe, const uint8_t *bytes, size_t size)
{
    if (!pipe->kept) {
        /* What the start gave and the credit: no more can come. */
        pipe->kept = malloc(2 * BG_VSOCK_BUFFER_MAX);
        if (!pipe->kept)
            return -ENOMEM;
        pipe->kept_size_max = 2 * BG_VSOCK_BUFFER_MAX;
    }
    assert(size <= pipe->kept_size_max - pipe->kept_size);
    size_t at = (pipe->kept_at + pipe->kept_size) % pipe->kept_size_max;
    size_t here = size < pipe->kept_size_max - at ? size : pipe->kept_size_max - at;
    memcpy(pipe->kept + at, bytes, here);
    memcpy(pipe->kept, bytes + here, size - here);
    pipe->kept_size += size;
    return 0;
}

static void conn_data(void *owner, const uint8_t *bytes, size_t size)
{
    struct vsock_pipe *pipe = owner;
    size_t written = 0;
    if (pipe->kept_size == 0) {
        /* A write only reads. NOLINTNEXTLINE(performance-no-int-to-ptr) */
        struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
        written = write_parts(pipe, &part, 1);
    }
    if (pipe->fd_write_over) {
        vsock_consumed(pipe->conn, size); /* nobody wants them */
        return;
    }
    if (written < size && keep(pipe, bytes + written, size - written) < 0) {
        finish(pipe);
        return;
    }
    if (written > 0)
        vsock_consumed(pipe->conn, written);
    update_poll(pipe);
}

static void conn_eof(void *owner)
{
    struct vsock_pipe *pipe = owner;
    pipe->guest_eof = true;
    pass_eof(pipe);
    update_poll(pipe);
}

static void conn_end(void *owner, int code)
{
    (void)code; /* the bytes that came before it count all the same */
    struct vsock_pipe *pipe = owner;
    pipe->conn = NULL;
    pipe->guest_eof = true;
    pipe->fd_eof = true;
    pass_eof(pipe);
    if (!ended(pipe))
        update_poll(pipe);
}

/* ---- from the fd to the guest ---- */

static void flush_first(struct vsock_pipe *pipe)
{
    if (!pipe->first)
        return;
    size_t n =
        vsock_write(pipe->conn, pipe->first + pipe->first_at, pipe->first_size - pipe->first_at);
    pipe->first_at += n;
    pipe->to_guest_bytes += n;
    if (pipe->first_at < pipe->first_size) {
        pipe->guest_full = true;
        return;
    }
    free(pipe->first);
    pipe->first = NULL;
}

/* Reads once. Returns whether more may be there. */
static bool read_once(struct vsock_pipe *pipe)
{
    size_t room = vsock_write_room(pipe->conn);
    if (room == 0) {
        pipe->guest_full = true;
        return false;
    }
    if (room > VSOCK_SCRATCH_SIZE)
        room = VSOCK_SCRATCH_SIZE;
    uint8_t *scratch = vsock_scratch(pipe->conn);
    ssize_t n;
    do {
        n = read(pipe->fd, scratch, room);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n <=
        0) { /* a reset of the peer's is an end like any other: the guest sees one either way */
        pipe->fd_eof = true;
        return false;
    }
    size_t taken = vsock_write(pipe->conn, scratch, (size_t)n);
    assert(taken == (size_t)n); /* there was room */
    pipe->to_guest_bytes += taken;
    return true;
}

static void pump_to_guest(struct vsock_pipe *pipe)
{
    if (!pipe->conn || pipe->send_over)
        return;
    pipe->guest_full = false;
    if (vsock_write_closed(pipe->conn)) { /* the fd's writers shall learn it */
        pipe->fd_eof = true;
        pipe->first_at = pipe->first_size;
        if (pipe->is_socket)
            (void)shutdown(pipe->fd, SHUT_RD); /* the peer may be gone */
    }
    flush_first(pipe);
    for (int i = 0; !pipe->guest_full && !pipe->fd_eof && i < READS_PER_TURN; i++) {
        if (!read_once(pipe))
            break;
    }
    if (pipe->fd_eof && !pipe->first) {
        pipe->send_over = true;
        vsock_shutdown(pipe->conn);
    }
}

static void conn_writable(void *owner)
{
    struct vsock_pipe *pipe = owner;
    pump_to_guest(pipe);
    update_poll(pipe);
}

/* ---- the fd ---- */

/* Nobody holds the other end any more. */
static bool peer_is_gone(const struct vsock_pipe *pipe)
{
    struct pollfd p = {.fd = pipe->fd};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR | POLLNVAL));
}

static void polled(uv_poll_t *handle, int status, int events)
{
    struct vsock_pipe *pipe = handle->data;
    if (status < 0) {
        pipe->events = 0; /* libuv has stopped polling */
        int error;
        socklen_t size = sizeof error;
        if (pipe->is_socket) /* takes the error off the socket, so that polling can go on */
            (void)getsockopt(pipe->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    }
    if (events & UV_WRITABLE) {
        flush_kept(pipe);
        pass_eof(pipe);
    }
    if (status < 0 || (pipe->events == UV_PRIORITIZED && peer_is_gone(pipe))) {
        pipe->hung_up = true;
        reader_gone(pipe);
    }
    if (status < 0 || (events & UV_READABLE))
        pump_to_guest(pipe);
    /* Both our directions are over, though the guest's may not be: there is nobody to serve. */
    if (pipe->hung_up && pipe->send_over) {
        finish(pipe);
        return;
    }
    if (!ended(pipe))
        update_poll(pipe);
}

static const struct vsock_conn_ops pipe_conn_ops = {
    .on_open = NULL, /* on_writable follows, which is what counts */
    .on_data = conn_data,
    .on_writable = conn_writable,
    .on_eof = conn_eof,
    .on_end = conn_end,
};

static int fill(struct vsock_pipe *pipe, const struct vsock_pipe_opts *opts, struct bg_err *err)
{
    int flags = fcntl(opts->fd, F_GETFL);
    if (flags < 0)
        return bg_err_errno(err, -errno, "vsock: fd %d", opts->fd);
    int type;
    socklen_t size = sizeof type;
    pipe->is_socket = getsockopt(opts->fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
    pipe->fd_eof = (flags & O_ACCMODE) == O_WRONLY;
    pipe->fd_write_over = (flags & O_ACCMODE) == O_RDONLY;
    pipe->fd = opts->fd;
    pipe->on_end = opts->on_end;
    pipe->owner = opts->owner;
    if (opts->to_guest_size > 0) {
        pipe->first = malloc(opts->to_guest_size);
        if (!pipe->first)
            return bg_err_set(err, -ENOMEM, "vsock: out of memory");
        memcpy(pipe->first, opts->to_guest, opts->to_guest_size);
        pipe->first_size = opts->to_guest_size;
    }
    if (opts->to_fd_size > 0 && !pipe->fd_write_over) {
        if (keep(pipe, opts->to_fd, opts->to_fd_size) < 0)
            return bg_err_set(err, -ENOMEM, "vsock: out of memory");
        pipe->owed = opts->to_fd_size;
    }
    return 0;
}

int vsock_pipe_start(uv_loop_t *loop, const struct vsock_pipe_opts *opts,
                     struct vsock_pipe **ret_pipe, struct bg_err *err)
{
    assert(opts->on_end && opts->to_fd_size <= BG_VSOCK_BUFFER_MAX);
    struct vsock_pipe *pipe = calloc(1, sizeof *pipe);
    if (!pipe)
        return bg_err_set(err, -ENOMEM, "vsock: out of memory");
    int r = fill(pipe, opts, err);
    if (r < 0)
        goto fail;
    r = uv_poll_init(loop, &pipe->poll, opts->fd);
    if (r < 0) {
        r = bg_err_set(err, r, "vsock: fd %d: %s", opts->fd, uv_strerror(r));
        goto fail;
    }
    pipe->poll.data = pipe;
    pipe->conn = opts->conn;
    vsock_attach(pipe->conn, &pipe_conn_ops, pipe);
    if (pipe->fd_write_over)
        vsock_stop_reading(pipe->conn);
    pipe->guest_eof = vsock_at_eof(pipe->conn);
    flush_kept(pipe);
    pass_eof(pipe);
    pump_to_guest(pipe);
    update_poll(pipe);
    *ret_pipe = pipe;
    return 0;
fail:
    free(pipe->first);
    free(pipe->kept);
    free(pipe);
    return r;
}

void vsock_pipe_stop(struct vsock_pipe *pipe)
{
    finish(pipe);
}
