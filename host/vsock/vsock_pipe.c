/* Two directions, each with its own end.
 *
 * To the guest: the fd is read only when vsock_write_room() says how much the guest takes, into a
 * ring from which it is written at once. It stays there until the guest says that it has read it,
 * since it may have to be sent again: at most BG_VSOCK_WINDOW_MAX bytes, beside those given at the
 * start. Polling for readable stops while the guest has no room.
 *
 * From the guest: what arrives is written to the fd at once; what the fd does not take is kept
 * (never more than the connection's credit, which is given back only for what has been written) and
 * goes out when the fd is writable.
 *
 * The fd's reader may go away while nobody polls for readable: then only an error or hang-up is
 * waited for, so that the guest learns of it. epoll reports those always; polling for "urgent",
 * which no such fd has, makes libuv ask for nothing else.
 *
 * Parking. When the device is to be taken away the guest stops writing first and says so, so all
 * that it wrote is here by then: only our bytes can be lost. On the next connection we say how many
 * bytes we have (the guest checks that it agrees), it says how many it has read, and we send again
 * from there. Bytes that the fd has not taken yet count against the new connection's credit, so
 * that a client which never reads does not make us hold more each time. */
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

#define READS_PER_TURN 8   /* then others of the loop get their turn */
#define OUT_MIN        512 /* of the ring to the guest; it doubles */
#define READ_MAX       (256u * 1024)

/* Of a reply to RESUME: what is needed from it. A refusal's text is not. */
#define REPLY_SIZE (BG_REPLY_HEADER_SIZE + BG_RESUME_SIZE)

struct vsock_pipe {
    uv_poll_t poll;
    enum { PIPE_OPEN, PIPE_CLOSING } state; /* only moves right */
    struct vsock_conn *conn;                /* NULL: it has ended, or is lost */
    int fd;
    int events; /* what is polled for */
    bool is_socket;
    /* To the guest. */
    bool fd_eof;     /* no more will be read from fd */
    bool send_over;  /* vsock_shutdown() has been called */
    bool guest_full; /* on_writable will come */
    bool guest_deaf; /* the guest reads no more */
    /* A ring of out_room bytes (a power of two): from out_at on, out_sent bytes that were sent and
     * may have to be sent again, of out_size in all. NULL while there are none. */
    uint8_t *out;
    size_t out_at, out_sent, out_size, out_room;
    uint64_t out_base; /* bytes of the stream before out_at */
    /* From the guest. */
    bool guest_eof;     /* no more will come */
    bool fd_write_over; /* fd takes no more: it is shut, or its reader is gone */
    bool hung_up;       /* seen: polling for it again would spin */
    uint8_t *kept;      /* a ring of kept_size_max bytes; NULL until needed */
    size_t kept_at, kept_size, kept_size_max;
    size_t owed;               /* kept bytes that are not on the connection's credit: from to_fd */
    bool fd_deaf;              /* bytes of the guest's were dropped, as nobody reads them */
    uint64_t guest_size;       /* bytes that the guest has sent, kept or not */
    uint64_t from_guest_bytes; /* of these, the fd's */
    /* Parking. */
    enum { PIPE_RUNNING, PIPE_PARKING, PIPE_PARKED, PIPE_RESUMING } parking;
    bool lost; /* parked, and the connection is gone: another one is to come */
    enum bg_stream_kind kind;
    uint32_t id;
    size_t opening_size;
    uint8_t resume[BG_STREAM_HEADER_SIZE + BG_RESUME_SIZE]; /* RESUMING: what we say first */
    size_t resume_sent;
    uint8_t reply[REPLY_SIZE];
    size_t reply_size;
    void (*on_end)(void *owner, uint64_t to_guest_bytes, uint64_t from_guest_bytes);
    void (*on_parked)(void *owner);
    void (*on_resumed)(void *owner);
    void *owner;
};

static void poll_closed(uv_handle_t *handle)
{
    BG_AUTOFREE struct vsock_pipe *pipe = handle->data;
    free(pipe->out);
    free(pipe->kept);
    pipe->on_end(pipe->owner, pipe->out_base + pipe->out_sent, pipe->from_guest_bytes);
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
    if (!pipe->fd_eof && !pipe->guest_full && pipe->parking == PIPE_RUNNING)
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
    if (pipe->conn || pipe->lost || pipe->kept_size > 0)
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
    pipe->fd_deaf = true;
    credit_back(pipe, pipe->kept_size);
    drop_kept(pipe);
    if (pipe->conn && pipe->parking != PIPE_RESUMING) /* its reply is to come first */
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
    /* A few bytes more come with each connection that is resumed while the fd takes none. */
    if (size > pipe->kept_size_max - pipe->kept_size)
        return -ENOBUFS;
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
    pipe->guest_size += size;
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

/* Nothing comes after the bytes that have come. */
static void end_stream(struct vsock_pipe *pipe)
{
    pipe->lost = false;
    pipe->guest_eof = true;
    pipe->fd_eof = true;
    pass_eof(pipe);
    if (!ended(pipe))
        update_poll(pipe);
}

static void conn_end(void *owner, int code)
{
    struct vsock_pipe *pipe = owner;
    pipe->conn = NULL;
    bool over = pipe->guest_eof && pipe->send_over;
    if (pipe->parking == PIPE_PARKED && code == -ECONNRESET && !over) {
        /* The device was taken away, or the guest has ended the stream: it will say so. */
        pipe->lost = true;
        pipe->owed = pipe->kept_size;
        update_poll(pipe);
        return;
    }
    end_stream(pipe);
}

/* ---- from the fd to the guest ---- */

/* Makes place for `more` bytes. Errors: -ENOMEM. */
static int grow_out(struct vsock_pipe *pipe, size_t more)
{
    size_t room = pipe->out_room ? pipe->out_room : OUT_MIN;
    while (room - pipe->out_size < more)
        room *= 2;
    if (room == pipe->out_room)
        return 0;
    uint8_t *grown = malloc(room);
    if (!grown)
        return -ENOMEM;
    size_t to_end = pipe->out_room - pipe->out_at;
    size_t here = pipe->out_size < to_end ? pipe->out_size : to_end;
    if (pipe->out_size > 0) {
        memcpy(grown, pipe->out + pipe->out_at, here);
        memcpy(grown + here, pipe->out, pipe->out_size - here);
    }
    free(pipe->out);
    pipe->out = grown;
    pipe->out_at = 0;
    pipe->out_room = room;
    return 0;
}

static void forget(struct vsock_pipe *pipe, size_t size)
{
    pipe->out_base += size;
    pipe->out_sent -= size;
    pipe->out_size -= size;
    if (pipe->out_size > 0) {
        pipe->out_at = (pipe->out_at + size) & (pipe->out_room - 1);
        return;
    }
    /* An idle pipe costs next to nothing. */
    free(pipe->out);
    pipe->out = NULL;
    pipe->out_at = pipe->out_room = 0;
}

/* Forgets what the guest has read. One that says wrong things harms its own stream only. */
static void forget_read(struct vsock_pipe *pipe)
{
    size_t unread = vsock_unread(pipe->conn);
    if (unread < pipe->out_sent)
        forget(pipe, pipe->out_sent - unread);
}

/* Two parts of the ring, size bytes from offset on. Returns how many there are. */
static int ring_parts(const struct vsock_pipe *pipe, size_t offset, size_t size,
                      struct iovec parts[2])
{
    size_t at = (pipe->out_at + offset) & (pipe->out_room - 1);
    size_t here = size < pipe->out_room - at ? size : pipe->out_room - at;
    parts[0] = (struct iovec){.iov_base = pipe->out + at, .iov_len = here};
    parts[1] = (struct iovec){.iov_base = pipe->out, .iov_len = size - here};
    return here < size ? 2 : 1;
}

/* Sends what was not sent yet, or has to be sent again. */
static void flush_out(struct vsock_pipe *pipe)
{
    while (pipe->out_sent < pipe->out_size) {
        struct iovec parts[2];
        (void)ring_parts(pipe, pipe->out_sent, pipe->out_size - pipe->out_sent, parts);
        size_t n = vsock_write(pipe->conn, parts[0].iov_base, parts[0].iov_len);
        pipe->out_sent += n;
        if (n < parts[0].iov_len) {
            pipe->guest_full = true;
            return;
        }
    }
}

/* Reads once. Returns whether more may be there. */
static bool read_once(struct vsock_pipe *pipe)
{
    size_t room = vsock_write_room(pipe->conn);
    if (room == 0) {
        pipe->guest_full = true;
        return false;
    }
    if (room > READ_MAX)
        room = READ_MAX;
    /* Most pipes carry little: the ring doubles when it is more than half full. */
    size_t place = pipe->out_room - pipe->out_size;
    if (place < room && (place <= pipe->out_room / 2 || pipe->out_room == 0)) {
        size_t more = pipe->out_room < BG_VSOCK_WINDOW_MAX ? place + 1 : room;
        if (grow_out(pipe, more) < 0) {
            finish(pipe);
            return false;
        }
        place = pipe->out_room - pipe->out_size;
    }
    if (room > place)
        room = place;
    struct iovec parts[2];
    int count = ring_parts(pipe, pipe->out_size, room, parts);
    ssize_t n;
    do {
        n = readv(pipe->fd, parts, count);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n <=
        0) { /* a reset of the peer's is an end like any other: the guest sees one either way */
        pipe->fd_eof = true;
        return false;
    }
    pipe->out_size += (size_t)n;
    flush_out(pipe);
    return true;
}

static bool opening_is_out(const struct vsock_pipe *pipe)
{
    return pipe->out_base + pipe->out_sent >= pipe->opening_size;
}

static void pump_to_guest(struct vsock_pipe *pipe)
{
    if (!pipe->conn || pipe->send_over || pipe->parking >= PIPE_PARKED)
        return;
    pipe->guest_full = false;
    if (vsock_write_closed(pipe->conn)) { /* the fd's writers shall learn it */
        pipe->fd_eof = true;
        pipe->guest_deaf = true;
        pipe->out_sent = pipe->out_size;
        forget(pipe, pipe->out_size);
        if (pipe->is_socket)
            (void)shutdown(pipe->fd, SHUT_RD); /* the peer may be gone */
    }
    forget_read(pipe);
    flush_out(pipe);
    if (pipe->parking == PIPE_PARKING)
        return;
    for (int i = 0; !pipe->guest_full && !pipe->fd_eof && i < READS_PER_TURN; i++) {
        if (!read_once(pipe))
            break;
    }
    if (pipe->state == PIPE_OPEN && pipe->fd_eof && pipe->out_sent == pipe->out_size) {
        pipe->send_over = true;
        vsock_shutdown(pipe->conn);
    }
}

/* The opening of one that was to be parked is out. Calls the owner: last thing to do. */
static void settle_parking(struct vsock_pipe *pipe)
{
    if (pipe->parking != PIPE_PARKING || pipe->state != PIPE_OPEN || !opening_is_out(pipe))
        return;
    pipe->parking = PIPE_PARKED;
    update_poll(pipe);
    if (pipe->on_parked)
        pipe->on_parked(pipe->owner);
}

static void conn_writable(void *owner)
{
    struct vsock_pipe *pipe = owner;
    pump_to_guest(pipe);
    update_poll(pipe);
    settle_parking(pipe);
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
    settle_parking(pipe);
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
    pipe->on_parked = opts->on_parked;
    pipe->on_resumed = opts->on_resumed;
    pipe->kind = opts->kind;
    pipe->id = opts->id;
    pipe->opening_size = opts->opening_size;
    pipe->guest_size = opts->guest_size;
    pipe->fd_deaf = pipe->fd_write_over;
    if (opts->to_guest_size > 0) {
        if (grow_out(pipe, opts->to_guest_size) < 0)
            return bg_err_set(err, -ENOMEM, "vsock: out of memory");
        memcpy(pipe->out, opts->to_guest, opts->to_guest_size);
        pipe->out_size = opts->to_guest_size;
    }
    if (opts->to_fd_size > 0 && !pipe->fd_write_over) {
        if (keep(pipe, opts->to_fd, opts->to_fd_size) < 0)
            return bg_err_set(err, -ENOMEM, "vsock: out of memory");
        pipe->owed = opts->to_fd_size;
    }
    return 0;
}

/* ---- parking ---- */

bool vsock_pipe_park(struct vsock_pipe *pipe)
{
    if (pipe->parking == PIPE_RUNNING)
        pipe->parking = opening_is_out(pipe) ? PIPE_PARKED : PIPE_PARKING;
    update_poll(pipe);
    return pipe->parking != PIPE_PARKING || pipe->state == PIPE_CLOSING;
}

static void give_up_resuming(struct vsock_pipe *pipe)
{
    vsock_reset(pipe->conn);
    pipe->conn = NULL;
    pipe->parking = PIPE_RUNNING;
    end_stream(pipe);
}

/* In callbacks; last thing to do. */
static void resuming_failed(struct vsock_pipe *pipe)
{
    give_up_resuming(pipe);
    if (pipe->on_resumed)
        pipe->on_resumed(pipe->owner);
}

void vsock_pipe_go_on(struct vsock_pipe *pipe)
{
    if (pipe->state == PIPE_CLOSING)
        return;
    if (pipe->parking == PIPE_RESUMING) {
        give_up_resuming(pipe);
        return;
    }
    pipe->parking = PIPE_RUNNING;
    if (pipe->lost) {
        end_stream(pipe);
        return;
    }
    pump_to_guest(pipe);
    update_poll(pipe);
}

/* The guest has read so many bytes. Returns whether that can be. */
static bool rewind_to(struct vsock_pipe *pipe, uint64_t guest_has)
{
    if (pipe->guest_deaf)
        return true;
    if (guest_has < pipe->out_base || guest_has - pipe->out_base > pipe->out_sent)
        return false;
    forget(pipe, (size_t)(guest_has - pipe->out_base));
    pipe->out_sent = 0;
    return true;
}

/* The reply is complete. */
static bool take_reply(struct vsock_pipe *pipe)
{
    struct bg_reply_header reply;
    if (bg_reply_header_parse(pipe->reply, BG_REPLY_HEADER_SIZE, &reply, NULL) < 0 ||
        reply.status < 0 || reply.body_size != BG_RESUME_SIZE)
        return false;
    struct bg_reader in = bg_reader_init(pipe->reply + BG_REPLY_HEADER_SIZE, BG_RESUME_SIZE);
    return rewind_to(pipe, bg_reader_u64le(&in));
}

static const struct vsock_conn_ops pipe_conn_ops;

static void resume_data(void *owner, const uint8_t *bytes, size_t size)
{
    struct vsock_pipe *pipe = owner;
    /* A refusal is known by its header. */
    size_t want = REPLY_SIZE - pipe->reply_size;
    size_t n = size < want ? size : want;
    memcpy(pipe->reply + pipe->reply_size, bytes, n);
    pipe->reply_size += n;
    vsock_consumed(pipe->conn, n);
    struct bg_reply_header reply;
    bool header = pipe->reply_size >= BG_REPLY_HEADER_SIZE;
    bool refused =
        header && (bg_reply_header_parse(pipe->reply, BG_REPLY_HEADER_SIZE, &reply, NULL) < 0 ||
                   reply.status < 0);
    if (pipe->reply_size < REPLY_SIZE && !refused)
        return;
    if (refused || pipe->resume_sent < sizeof pipe->resume || !take_reply(pipe)) {
        resuming_failed(pipe);
        return;
    }
    pipe->parking = PIPE_RUNNING;
    pipe->send_over = false; /* to be said again on this connection */
    vsock_attach(pipe->conn, &pipe_conn_ops, pipe);
    if (pipe->fd_deaf && !pipe->guest_eof)
        vsock_stop_reading(pipe->conn);
    if (size > n)
        conn_data(pipe, bytes + n, size - n); /* may finish it */
    if (pipe->state == PIPE_OPEN) {
        pump_to_guest(pipe);
        update_poll(pipe);
    }
    if (pipe->on_resumed)
        pipe->on_resumed(pipe->owner);
}

static void resume_writable(void *owner)
{
    struct vsock_pipe *pipe = owner;
    pipe->resume_sent += vsock_write(pipe->conn, pipe->resume + pipe->resume_sent,
                                     sizeof pipe->resume - pipe->resume_sent);
}

static void resume_eof(void *owner)
{
    resuming_failed(owner); /* no reply */
}

static void resume_end(void *owner, int code)
{
    struct vsock_pipe *pipe = owner;
    (void)code;
    pipe->conn = NULL;
    resuming_failed(pipe);
}

static const struct vsock_conn_ops resume_ops = {.on_open = resume_writable,
                                                 .on_data = resume_data,
                                                 .on_writable = resume_writable,
                                                 .on_eof = resume_eof,
                                                 .on_end = resume_end};

bool vsock_pipe_resume(struct vsock_pipe *pipe, struct vsock_device *device)
{
    if (pipe->state == PIPE_CLOSING)
        return false; /* on_end follows */
    bool parked = pipe->parking == PIPE_PARKED;
    if (pipe->conn)
        pipe->owed = pipe->kept_size;
    vsock_reset(pipe->conn);
    pipe->conn = NULL;
    pipe->lost = false;
    if (!parked || pipe->kind == 0 ||
        vsock_connect(device, BG_VSOCK_AGENT_PORT, &resume_ops, pipe, &pipe->conn, NULL) < 0) {
        give_up_resuming(pipe);
        return false;
    }
    pipe->parking = PIPE_RESUMING;
    pipe->resume_sent = pipe->reply_size = 0;
    /* What the guest may always send is the reply. */
    pipe->owed -= vsock_owe(pipe->conn, pipe->owed, REPLY_SIZE);
    const struct bg_stream_header header = {.kind = (uint16_t)pipe->kind,
                                            .id = pipe->id,
                                            .flags = BG_STREAM_RESUME,
                                            .body_size = BG_RESUME_SIZE};
    bg_stream_header_emit(&header, pipe->resume);
    struct bg_writer w = bg_writer_init(pipe->resume + BG_STREAM_HEADER_SIZE, BG_RESUME_SIZE);
    bg_writer_u64le(&w, pipe->fd_deaf ? BG_RESUME_ANY : pipe->guest_size);
    update_poll(pipe);
    return true;
}

/* ---- life ---- */

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
    free(pipe->out);
    free(pipe->kept);
    free(pipe);
    return r;
}

void vsock_pipe_stop(struct vsock_pipe *pipe)
{
    finish(pipe);
}

uint64_t vsock_pipe_bytes(const struct vsock_pipe *pipe)
{
    return pipe->out_base + pipe->out_sent + pipe->guest_size;
}
