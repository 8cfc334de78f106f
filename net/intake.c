#include "net/intake.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/wire.h"
#include "net/conn.h"

/* Where a guest finds its sandbox's proxy as one to talk to. */
#define PROXY_NAME "proxy.bellglass.internal"
#define PROXY_PORT 3128
/* A stream id and a connect request with the longest host. */
#define MESSAGE_MAX (4u + 1u + 2u + 4u + BG_NAME_MAX)
/* Connections taken before those that are open get their turn. */
#define TURN_MAX 16

struct intake {
    uv_poll_t poll;
    struct intake_opts opts;
    uint32_t next_stream; /* listening: ids are counted here; wraps */
};

/* A message that the supervisor passed on; all but its size is the guest's. */
static void take_message(struct engine *engine, const uint8_t *bytes, size_t size, int fd)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    uint32_t stream = bg_reader_u32le(&in);
    struct bg_connect_request request;
    struct destination to;
    struct bg_err err;
    int r = bg_connect_request_parse(in.at, in.left, &request, &err);
    if (!bg_reader_ok(&in) || r < 0) {
        conn_refuse(fd, -EPROTO, "malformed connect request");
        return;
    }
    r = destination_parse_host(request.host, strlen(request.host), &to, &err);
    if (r == 0 && request.form == BG_CONNECT_ADDRESS && !to.is_address)
        r = bg_err_set(&err, -EINVAL, "'%s' is no address", to.host);
    if (r < 0) {
        struct audit_event event = {.stream = stream,
                                    .host = request.host,
                                    .port = request.port,
                                    .scheme = "",
                                    .decision = AUDIT_DENY,
                                    .reason = "bad-destination",
                                    .detail = err.text};
        engine_audit(engine, &event);
        conn_refuse(fd, -EINVAL, err.text);
        return;
    }
    to.port = request.port;
    /* For clients that want a proxy to talk to: each of their requests says whom it is for. */
    bool is_proxy = request.form == BG_CONNECT_NAME && to.port == PROXY_PORT &&
                    strcmp(to.host, PROXY_NAME) == 0;
    conn_open(engine, fd, stream, is_proxy ? NULL : &to, /* reply= */ true);
}

/* Returns false when there is nothing more for now. */
static bool take_from_supervisor(struct intake *intake, bool *ret_end)
{
    uint8_t message[MESSAGE_MAX];
    int fds[BG_RECV_FDS_MAX];
    size_t fd_count = 0;
    ssize_t n = bg_recv_fds(intake->opts.fd, message, sizeof message, fds, &fd_count);
    if (n == -EAGAIN)
        return false;
    if (n == -EMSGSIZE)
        return true; /* its fds were closed, so the supervisor sees the stream end */
    if (n <= 0) {
        *ret_end = true;
        return false;
    }
    for (size_t i = 1; i < fd_count; i++)
        (void)close(fds[i]); /* nobody sends more than one */
    if (fd_count > 0)
        take_message(intake->opts.engine, message, (size_t)n, fds[0]);
    return true;
}

static bool client_may(const struct intake_clients *clients, const struct address *client)
{
    for (size_t i = 0; i < clients->network_count; i++)
        if (address_network_has(&clients->networks[i], client))
            return true;
    return clients->network_count == 0;
}

static void refuse_client(struct intake *intake, uint32_t stream, const struct address *client)
{
    char text[ADDRESS_TEXT_SIZE], detail[ADDRESS_TEXT_SIZE + 64];
    address_format(client, text);
    (void)snprintf(detail, sizeof detail, "the client %s is in no --client-network", text);
    struct audit_event event = {.stream = stream,
                                .host = "",
                                .scheme = "",
                                .decision = AUDIT_DENY,
                                .reason = "client-not-allowed",
                                .detail = detail};
    engine_audit(intake->opts.engine, &event);
}

static bool take_from_listener(struct intake *intake)
{
    int on = 1;
    struct sockaddr_storage sa = {0};
    socklen_t size = sizeof sa;
    const struct intake_clients *clients = &intake->opts.clients;
    struct address client = {0};
    int fd = accept4(intake->opts.fd, (struct sockaddr *)&sa, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return errno == EINTR || errno == ECONNABORTED;
    uint32_t stream = clients->next_stream ? atomic_fetch_add(clients->next_stream, 1) + 1
                                           : ++intake->next_stream;
    /* Of a listener's families both are known; of another the address is in no range. */
    if (address_from_sockaddr((const struct sockaddr *)&sa, &client) < 0 ||
        !client_may(clients, &client)) {
        refuse_client(intake, stream, &client);
        (void)close(fd); /* nothing was promised */
        return true;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* a wish */
    conn_open(intake->opts.engine, fd, stream, NULL, /* reply= */ false);
    return true;
}

static void ready(uv_poll_t *poll, int status, int events)
{
    struct intake *intake = poll->data;
    bool end = false;
    (void)status; /* an error shows when it is read */
    (void)events;
    for (int i = 0; i < TURN_MAX; i++)
        if (intake->opts.listening ? !take_from_listener(intake)
                                   : !take_from_supervisor(intake, &end))
            break;
    if (end) {
        (void)uv_poll_stop(&intake->poll); /* fails only when closing */
        intake->opts.on_end(intake->opts.owner);
    }
}

int intake_open(uv_loop_t *loop, const struct intake_opts *opts, struct intake **ret,
                struct bg_err *err)
{
    BG_AUTOFREE struct intake *intake = calloc(1, sizeof *intake);
    if (!intake)
        return bg_err_errno(err, -ENOMEM, "intake");
    int r = fcntl(opts->fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
    if (r == 0)
        r = uv_poll_init(loop, &intake->poll, opts->fd);
    if (r < 0)
        return bg_err_set(err, r, "fd %d: %s", opts->fd, uv_strerror(r));
    intake->poll.data = intake;
    intake->opts = *opts;
    (void)uv_poll_start(&intake->poll, UV_READABLE, ready); /* fails only when closing */
    *ret = BG_TAKE(intake);
    return 0;
}

void intake_stop(struct intake *intake)
{
    (void)uv_poll_stop(&intake->poll); /* fails only when closing */
}

static void poll_closed(uv_handle_t *handle)
{
    BG_AUTOFREE struct intake *intake = handle->data;
    intake->opts.on_closed(intake->opts.owner);
}

void intake_close(struct intake *intake)
{
    uv_close((uv_handle_t *)&intake->poll, poll_closed);
}
