#include "guest/egress.h"

#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/wire.h"
#include "guest/channel.h"
#include "guest/pump.h"
#include "guest/redirect.h"
#include "guest/sockets.h"

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
    unsigned count;     /* connections */
    uint32_t stream_id; /* of the last stream */
    uint8_t scratch[SCRATCH_SIZE];
};

/* Waiting for the host's reply (the channel is the stream), then a pump. */
struct connection {
    struct egress *egress;
    struct channel stream;
    int tcp_fd;            /* -1: the pump has it, or it is closed */
    unsigned open_handles; /* the channel, the pump */
    uint8_t reply[BG_REPLY_HEADER_SIZE];
    size_t reply_used;
    uint32_t text_left; /* of the reply's body, which nobody here reads */
    bool replied;       /* reply is complete */
    int32_t status;
};

static void watch_listeners(struct egress *egress);

static void handle_closed(void *owner)
{
    struct connection *connection = owner;
    if (--connection->open_handles > 0)
        return;
    struct egress *egress = connection->egress;
    free(connection);
    if (egress->count-- == BG_AGENT_EGRESS_MAX)
        watch_listeners(egress);
}

/* The guest's side gets a reset: "connection refused" or "reset", never an orderly end. */
static void refuse(struct connection *connection)
{
    if (connection->tcp_fd >= 0)
        pump_reset_fd(bg_take_fd(&connection->tcp_fd));
    if (connection->stream.state == CHANNEL_OPEN)
        channel_close(&connection->stream, handle_closed);
}

static void accepted(struct connection *connection)
{
    struct egress *egress = connection->egress;
    const struct pump_opts opts = {.loop = egress->opts.loop,
                                   .fds = {bg_take_fd(&connection->tcp_fd),
                                           channel_detach(&connection->stream, handle_closed)},
                                   .scratch = egress->scratch,
                                   .scratch_size = sizeof egress->scratch,
                                   .on_done = handle_closed,
                                   .owner = connection};
    struct pump *pump; /* it ends by itself */
    if (pump_open(&opts, &pump, NULL) == 0)
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

static int send_opening(struct connection *connection, const struct bg_connect_request *request)
{
    struct egress *egress = connection->egress;
    if (++egress->stream_id == 0)
        egress->stream_id = 1; /* 0 is not an id */
    uint8_t opening[OPENING_MAX];
    struct bg_writer body =
        bg_writer_init(opening + BG_STREAM_HEADER_SIZE, sizeof opening - BG_STREAM_HEADER_SIZE);
    bg_connect_request_emit(request, &body);
    const struct bg_stream_header header = {
        .kind = BG_STREAM_CONNECT, .id = egress->stream_id, .body_size = (uint32_t)body.used};
    bg_stream_header_emit(&header, opening);
    struct iovec part = {.iov_base = opening, .iov_len = BG_STREAM_HEADER_SIZE + body.used};
    return channel_write_later(&connection->stream, &part, 1);
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
    connection->tcp_fd = -1;
    int fd = dial(&egress->opts);
    r = fd < 0 ? fd : channel_open(&connection->stream, egress->opts.loop, fd, &ops, connection);
    if (r < 0) {
        bg_cleanup_close(&fd);
        free(connection);
        return r;
    }
    connection->open_handles = 1;
    connection->tcp_fd = tcp_fd;
    egress->count++;
    int on = 1;
    (void)setsockopt(tcp_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* slower without */
    if (send_opening(connection, &request) < 0)
        refuse(connection);
    else
        channel_want_input(&connection->stream, true);
    return 0;
}

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
