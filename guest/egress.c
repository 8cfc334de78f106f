#include "guest/egress.h"

#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/wire.h"
#include "guest/channel.h"
#include "guest/pump.h"
#include "guest/redirect.h"
#include "guest/sockets.h"
#include "guest/stream.h"

/* linux/netfilter_ipv4.h and _ipv6.h clash with libc's headers. */
#define ORIGINAL_DST 80

#define ACCEPTS_PER_TURN 32
#define SCRATCH_SIZE     (128 * 1024)

/* Header, form, port, and a host of at most BG_NAME_MAX bytes. */
#define OPENING_MAX (BG_STREAM_HEADER_SIZE + 1 + 2 + 4 + BG_NAME_MAX)

enum { LISTENERS = 2 };

struct listener {
    struct egress *egress;
    uv_poll_t poll;
    int fd;
};

struct egress {
    struct egress_opts opts;
    struct listener listeners[LISTENERS];
    LIST_HEAD(, connection) connections;
    unsigned count; /* of them */
    bool parked;
    uint32_t stream_id; /* of the last stream */
    uint8_t scratch[SCRATCH_SIZE];
};

/* Waiting for the host's reply (the channel is the stream), then a pump. One that came while we
 * were parked has no channel yet. */
struct connection {
    LIST_ENTRY(connection) link;
    struct egress *egress;
    struct bg_connect_request request;
    uint32_t id; /* of the stream, 0: not opened */
    struct channel stream;
    struct pump *pump; /* NULL: not yet */
    bool parked;
    int tcp_fd;            /* -1: the pump has it, or it is closed */
    unsigned open_handles; /* the channel, the pump */
    uint8_t reply[BG_REPLY_HEADER_SIZE];
    size_t reply_used;
    uint32_t text_left; /* of the reply's body, which nobody here reads */
    bool replied;       /* reply is complete */
    int32_t status;
};

static void watch_listeners(struct egress *egress);

static void connection_free(struct connection *connection)
{
    struct egress *egress = connection->egress;
    LIST_REMOVE(connection, link);
    free(connection);
    if (egress->count-- == BG_AGENT_EGRESS_MAX)
        watch_listeners(egress);
}

static void handle_closed(void *owner)
{
    struct connection *connection = owner;
    if (--connection->open_handles == 0)
        connection_free(connection);
}

/* The guest's side gets a reset: "connection refused" or "reset", never an orderly end. */
static void refuse(struct connection *connection)
{
    if (connection->tcp_fd >= 0)
        pump_reset_fd(bg_take_fd(&connection->tcp_fd));
    if (connection->stream.state == CHANNEL_OPEN)
        channel_close(&connection->stream, handle_closed);
    else if (connection->open_handles == 0)
        connection_free(connection);
}

static void pump_done(void *owner)
{
    ((struct connection *)owner)->pump = NULL;
    handle_closed(owner);
}

static void accepted(struct connection *connection)
{
    struct egress *egress = connection->egress;
    const struct pump_opts opts = {.loop = egress->opts.loop,
                                   .fds = {bg_take_fd(&connection->tcp_fd),
                                           channel_detach(&connection->stream, handle_closed)},
                                   .stream = 1,
                                   .bytes_read = connection->stream.bytes_read,
                                   .bytes_written = connection->stream.bytes_written,
                                   .scratch = egress->scratch,
                                   .scratch_size = sizeof egress->scratch,
                                   .on_done = pump_done,
                                   .owner = connection};
    if (pump_open(&opts, &connection->pump, NULL) == 0)
        connection->open_handles++;
}

static int take_reply(struct connection *connection)
{
    struct bg_reply_header reply;
    int r = bg_reply_header_parse(connection->reply, sizeof connection->reply, &reply, NULL);
    if (r < 0)
        return r;
    connection->replied = true;
    connection->status = reply.status;
    connection->text_left = reply.body_size;
    return 0;
}

/* Reads no further than the reply: what follows is the connection's. */
static void readable(void *owner)
{
    struct connection *connection = owner;
    while (!connection->replied || connection->text_left > 0) {
        uint8_t text[512];
        bool header = !connection->replied;
        size_t want =
            header ? sizeof connection->reply - connection->reply_used : connection->text_left;
        if (!header && want > sizeof text)
            want = sizeof text;
        ssize_t n = channel_read(&connection->stream,
                                 header ? connection->reply + connection->reply_used : text, want);
        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            refuse(connection);
            return;
        }
        if (!header) {
            connection->text_left -= (uint32_t)n;
            continue;
        }
        connection->reply_used += (size_t)n;
        if (connection->reply_used == sizeof connection->reply && take_reply(connection) < 0) {
            refuse(connection);
            return;
        }
    }
    if (connection->status < 0)
        refuse(connection);
    else
        accepted(connection);
}

static void broken(void *owner, int status)
{
    (void)status; /* the host is away, or closed it: a reset in any case */
    refuse(owner);
}

static const struct channel_ops ops = {.on_readable = readable, .on_broken = broken};

/* ---- opening ---- */

/* Where the guest's connection was going. Errors: errno of getsockopt; -ECONNREFUSED it was going
 * to us, or to a synthetic address that has no name (any more). */
static int find_destination(struct egress *egress, int tcp_fd, struct bg_connect_request *ret)
{
    union {
        struct sockaddr sa;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } to = {0};
    socklen_t size = sizeof to;
    if (getsockname(tcp_fd, &to.sa, &size) < 0)
        return -errno;
    const bool is_v6 = to.sa.sa_family == AF_INET6;
    size = sizeof to;
    if (getsockopt(tcp_fd, is_v6 ? IPPROTO_IPV6 : IPPROTO_IP, ORIGINAL_DST, &to, &size) < 0)
        return -errno;
    ret->port = ntohs(is_v6 ? to.v6.sin6_port : to.v4.sin_port);
    uint32_t address = 0;
    bool synthetic;
    if (is_v6) {
        if (IN6_IS_ADDR_LOOPBACK(&to.v6.sin6_addr))
            return -ECONNREFUSED;
        synthetic = names_from_v6(to.v6.sin6_addr.s6_addr, &address);
    } else {
        address = ntohl(to.v4.sin_addr.s_addr);
        if (address >> 24 == 127)
            return -ECONNREFUSED;
        synthetic = names_is_synthetic(address);
    }
    if (synthetic) {
        const char *name = names_find(egress->opts.names, address);
        if (!name)
            return -ECONNREFUSED;
        ret->form = BG_CONNECT_NAME;
        (void)snprintf(ret->host, sizeof ret->host, "%s", name); /* at most NAMES_NAME_MAX */
        return 0;
    }
    ret->form = BG_CONNECT_ADDRESS;
    const void *raw = is_v6 ? (const void *)&to.v6.sin6_addr : (const void *)&to.v4.sin_addr;
    return inet_ntop(to.sa.sa_family, raw, ret->host, sizeof ret->host) ? 0 : -errno;
}

/* Begins to connect to the host. Returns the fd or negative errno. */
static int dial(const struct egress_opts *opts)
{
    struct sockaddr_vm vm = {
        .svm_family = AF_VSOCK, .svm_cid = BG_VSOCK_HOST_CID, .svm_port = BG_VSOCK_EGRESS_PORT};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    const bool by_vsock = !opts->unix_path;
    if (!by_vsock)
        (void)snprintf(un.sun_path, sizeof un.sun_path, "%s", opts->unix_path);
    BG_AUTOCLOSE int fd = socket(by_vsock ? AF_VSOCK : AF_UNIX,
                                 SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, /* protocol= */ 0);
    if (fd < 0)
        return -errno;
    /* The kernel's own limit of 2 s is short where the host has much to do. */
    const struct timeval patience = {.tv_sec = BG_AGENT_CONNECT_S};
    if (by_vsock &&
        setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience, sizeof patience) < 0)
        return -errno;
    const struct sockaddr *to =
        by_vsock ? (const struct sockaddr *)&vm : (const struct sockaddr *)&un;
    if (connect(fd, to, by_vsock ? sizeof vm : sizeof un) < 0 && errno != EINPROGRESS)
        return -errno;
    return bg_take_fd(&fd);
}

static int send_opening(struct connection *connection)
{
    struct egress *egress = connection->egress;
    if (++egress->stream_id == 0)
        egress->stream_id = 1; /* 0 is not an id */
    connection->id = egress->stream_id;
    uint8_t opening[OPENING_MAX];
    struct bg_writer body =
        bg_writer_init(opening + BG_STREAM_HEADER_SIZE, sizeof opening - BG_STREAM_HEADER_SIZE);
    bg_connect_request_emit(&connection->request, &body);
    const struct bg_stream_header header = {
        .kind = BG_STREAM_CONNECT, .id = egress->stream_id, .body_size = (uint32_t)body.used};
    bg_stream_header_emit(&header, opening);
    struct iovec part = {.iov_base = opening, .iov_len = BG_STREAM_HEADER_SIZE + body.used};
    return channel_write_later(&connection->stream, &part, 1);
}

/* Dials the host for a connection; one that fails is refused. */
static void open_stream(struct connection *connection)
{
    struct egress *egress = connection->egress;
    int fd = dial(&egress->opts);
    if (fd < 0 || channel_open(&connection->stream, egress->opts.loop, fd, &ops, connection) < 0) {
        bg_cleanup_close(&fd);
        refuse(connection);
        return;
    }
    connection->open_handles++;
    if (send_opening(connection) < 0)
        refuse(connection);
    else
        channel_want_input(&connection->stream, true);
}

/* Takes tcp_fd on success. */
static int open_connection(struct egress *egress, int tcp_fd)
{
    struct bg_connect_request request = {0};
    int r = find_destination(egress, tcp_fd, &request);
    if (r < 0)
        return r;
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        return -ENOMEM;
    connection->egress = egress;
    connection->request = request;
    connection->tcp_fd = tcp_fd;
    LIST_INSERT_HEAD(&egress->connections, connection, link);
    egress->count++;
    int on = 1;
    (void)setsockopt(tcp_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* slower without */
    if (!egress->parked)
        open_stream(connection);
    return 0;
}

/* ---- parking ---- */

/* Whether the host may have heard of it. */
static bool is_opened(const struct connection *connection)
{
    return connection->pump || connection->stream.bytes_written > 0;
}

void egress_park(struct egress *egress)
{
    struct connection *connection;
    egress->parked = true;
    LIST_FOREACH(connection, &egress->connections, link)
    {
        if (connection->pump)
            connection->parked = pump_park(connection->pump);
        else if (connection->stream.state == CHANNEL_OPEN)
            channel_park(&connection->stream);
        connection->parked =
            connection->parked || (!connection->pump && connection->stream.state == CHANNEL_OPEN);
    }
}

static int counts(const struct connection *connection, uint64_t *ret_read, uint64_t *ret_written)
{
    if (connection->pump)
        return pump_counts(connection->pump, ret_read, ret_written);
    if (connection->stream.state != CHANNEL_OPEN)
        return -ENOENT;
    *ret_read = connection->stream.bytes_read;
    *ret_written = connection->stream.bytes_written;
    return 0;
}

static void set_going(struct connection *connection)
{
    connection->parked = false;
    if (connection->pump)
        pump_go_on(connection->pump);
    else if (connection->stream.state == CHANNEL_OPEN)
        channel_go_on(&connection->stream);
}

/* fd is taken. */
static void swap(struct connection *connection, int fd)
{
    if (connection->pump) {
        pump_swap(connection->pump, fd);
    } else if (channel_swap(&connection->stream, fd) < 0) {
        (void)close(fd); /* not taken */
        refuse(connection);
        return;
    }
    set_going(connection);
}

static void drop(struct connection *connection)
{
    connection->parked = false;
    if (connection->pump)
        pump_abort(connection->pump);
    else
        refuse(connection);
}

static struct connection *find_parked(struct egress *egress, uint32_t id)
{
    struct connection *connection;
    LIST_FOREACH(connection, &egress->connections, link)
    {
        if (connection->parked && connection->id == id && is_opened(connection))
            return connection;
    }
    return NULL;
}

void egress_resume(struct egress *egress, uint32_t id, uint64_t host_has, int fd)
{
    BG_AUTOCLOSE int taken = fd;
    struct bg_err err = {0};
    uint64_t read, written;
    struct connection *connection = find_parked(egress, id);
    int r = connection ? counts(connection, &read, &written) : -ENOENT;
    if (r < 0)
        (void)bg_err_set(&err, -ENOENT, "no connection %u waits to go on", id);
    else if (host_has != BG_RESUME_ANY && host_has != written)
        (void)bg_err_set(&err, -EPROTO, "connection %u: the host has other bytes than were sent",
                         id);
    if (err.code < 0) {
        r = stream_reply_fd(fd, &err);
        (void)r; /* if it cannot be said, the host sees the connection close */
        return;
    }
    uint8_t reply[BG_REPLY_HEADER_SIZE + BG_RESUME_SIZE];
    struct bg_writer w = bg_writer_init(reply + BG_REPLY_HEADER_SIZE, BG_RESUME_SIZE);
    bg_reply_header_emit(&(struct bg_reply_header){.body_size = BG_RESUME_SIZE}, reply);
    bg_writer_u64le(&w, read);
    /* A fresh connection has room for it. */
    if (write(fd, reply, sizeof reply) == (ssize_t)sizeof reply)
        swap(connection, bg_take_fd(&taken));
}

/* One of which the host does not know, or that was waiting. */
static void open_again(struct connection *connection, enum bg_go_on how)
{
    if (connection->stream.state == CHANNEL_NONE && connection->open_handles == 0) {
        open_stream(connection);
        return;
    }
    if (!connection->parked)
        return; /* it is closing */
    if (how == BG_GO_ON_ALIVE) {
        set_going(connection);
        return;
    }
    int fd = dial(&connection->egress->opts); /* its queue has all of the opening */
    if (fd < 0)
        drop(connection);
    else
        swap(connection, fd);
}

void egress_go_on(struct egress *egress, enum bg_go_on how)
{
    struct connection *next;
    egress->parked = false;
    for (struct connection *c = LIST_FIRST(&egress->connections); c; c = next) {
        next = LIST_NEXT(c, link);
        if (!is_opened(c))
            open_again(c, how);
        else if (c->parked && how == BG_GO_ON_ALIVE)
            set_going(c);
        else if (c->parked)
            drop(c);
    }
}

void egress_reset(struct egress *egress)
{
    struct connection *next;
    egress->parked = false;
    for (struct connection *c = LIST_FIRST(&egress->connections); c; c = next) {
        next = LIST_NEXT(c, link);
        drop(c);
    }
}

/* ---- listening ---- */

static void connected(uv_poll_t *poll, int status, int events)
{
    (void)events;
    struct listener *listener = poll->data;
    struct egress *egress = listener->egress;
    if (status < 0)
        return;
    for (int i = 0; i < ACCEPTS_PER_TURN && egress->count < BG_AGENT_EGRESS_MAX; i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        if (open_connection(egress, fd) < 0)
            pump_reset_fd(fd);
    }
    if (egress->count >= BG_AGENT_EGRESS_MAX)
        for (int i = 0; i < LISTENERS; i++)
            (void)uv_poll_stop(&egress->listeners[i].poll); /* until one ends */
}

static void watch_listeners(struct egress *egress)
{
    for (int i = 0; i < LISTENERS; i++) /* not closing: cannot fail */
        (void)uv_poll_start(&egress->listeners[i].poll, UV_READABLE, connected);
}

static int open_listener(struct egress *egress, struct listener *listener,
                         const struct sockaddr *address, socklen_t size, struct bg_err *err)
{
    listener->egress = egress;
    int r = sockets_bind(address, size, SOCK_STREAM, &listener->fd, err);
    if (r < 0)
        return r;
    r = uv_poll_init(egress->opts.loop, &listener->poll, listener->fd);
    if (r < 0)
        return bg_err_errno(err, r, "egress");
    listener->poll.data = listener;
    return 0;
}

int egress_open(const struct egress_opts *opts, struct egress **ret_egress, struct bg_err *err)
{
    struct egress *egress = calloc(1, sizeof *egress);
    if (!egress)
        return bg_err_errno(err, -ENOMEM, "egress");
    egress->opts = *opts;
    struct sockaddr_in v4 = {.sin_family = AF_INET,
                             .sin_port = htons(REDIRECT_TCP_PORT),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
                              .sin6_port = htons(REDIRECT_TCP_PORT),
                              .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int r = open_listener(egress, &egress->listeners[0], (struct sockaddr *)&v4, sizeof v4, err);
    if (r == 0)
        r = open_listener(egress, &egress->listeners[1], (struct sockaddr *)&v6, sizeof v6, err);
    if (r < 0)
        return r; /* the process ends with that; so do the sockets */
    watch_listeners(egress);
    *ret_egress = egress;
    return 0;
}
