#include "guest/forward.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/pump.h"

struct forward {
    struct live live;
    struct agent *agent;
    uint16_t port;
    bool second_try; /* 127.0.0.1 refused, ::1 is tried */
    int stream_fd;   /* until the pump has it */
    int tcp_fd;      /* likewise */
    uv_poll_t connecting;
    uint64_t bytes_read; /* of the stream before the pump has it; nothing is written until then */
    /* Parked: what is to be done then; connecting is closed. NULL: nothing. */
    void (*held)(struct forward *forward);
    struct pump *pump; /* NULL: not connected yet */
};

static void finish(void *owner)
{
    struct forward *forward = owner;
    agent_remove_live(forward->agent, &forward->live);
    free(forward);
}

static void connecting_closed(uv_handle_t *handle)
{
    finish(handle->data);
}

static void close_fds(struct forward *forward)
{
    bg_cleanup_close(&forward->stream_fd);
    bg_cleanup_close(&forward->tcp_fd);
    forward->stream_fd = forward->tcp_fd = -1;
}

static void refuse(struct forward *forward, int code)
{
    struct bg_err err = {0};
    (void)bg_err_errno(&err, code, "port %u in the sandbox", forward->port);
    int r = stream_reply_fd(forward->stream_fd, &err);
    (void)r; /* if it cannot be said, the host sees the connection close */
    close_fds(forward);
}

static void drop(struct live *live)
{
    struct forward *forward = CONTAINER_OF(live, struct forward, live);
    if (forward->pump) {
        pump_abort(forward->pump);
        return;
    }
    if (forward->held) {
        close_fds(forward);
        finish(forward);
        return;
    }
    /* While the handle closes, its callback is to come and looks at live.dropped. */
    if (uv_is_closing((uv_handle_t *)&forward->connecting))
        return;
    uv_close((uv_handle_t *)&forward->connecting, connecting_closed);
    close_fds(forward);
}

/* Does it now, or when the stream is no longer parked. */
static void do_unparked(struct forward *forward, void (*what)(struct forward *forward))
{
    if (forward->live.parked && !forward->live.dropped)
        forward->held = what;
    else
        what(forward);
}

/* Connected: reply, then hand both over. The poll handle is closed by now. */
static void begin(struct forward *forward)
{
    if (forward->live.dropped || stream_reply_fd(forward->stream_fd, &(struct bg_err){0}) < 0) {
        close_fds(forward);
        finish(forward);
        return;
    }
    const struct pump_opts opts = {
        .loop = &forward->agent->loop,
        .fds = {bg_take_fd(&forward->stream_fd), bg_take_fd(&forward->tcp_fd)},
        .stream = 0,
        .bytes_read = forward->bytes_read,
        .bytes_written = BG_REPLY_HEADER_SIZE,
        .scratch = forward->agent->scratch,
        .scratch_size = AGENT_SCRATCH_SIZE,
        .on_done = finish,
        .owner = forward};
    if (pump_open(&opts, &forward->pump, NULL) < 0)
        finish(forward); /* out of memory; the host sees the connection close */
}

static void connected(uv_handle_t *handle)
{
    do_unparked(handle->data, begin);
}

/* Starts a nonblocking connect. Returns 0 (under way, or done) or negative errno. */
static int start_connect(struct forward *forward)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET,
                             .sin_port = htons(forward->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
                              .sin6_port = htons(forward->port),
                              .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const bool second = forward->second_try;
    const struct sockaddr *address =
        second ? (const struct sockaddr *)&v6 : (const struct sockaddr *)&v4;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* slower without, no more */
    if (connect(fd, address, second ? sizeof v6 : sizeof v4) < 0 && errno != EINPROGRESS) {
        int code = -errno;
        (void)close(fd); /* never connected */
        return code;
    }
    forward->tcp_fd = fd;
    return 0;
}

static void tried(uv_poll_t *poll, int status, int events);

static int watch_connect(struct forward *forward)
{
    int r = uv_poll_init(&forward->agent->loop, &forward->connecting, forward->tcp_fd);
    if (r < 0)
        return r;
    forward->connecting.data = forward;
    (void)uv_poll_start(&forward->connecting, UV_WRITABLE, tried); /* not closing: cannot fail */
    return 0;
}

/* Tries the address at hand, and the second if the first refuses at once. */
static int try_connect(struct forward *forward)
{
    int r = start_connect(forward);
    if (r < 0 && !forward->second_try) {
        int first = r;
        forward->second_try = true;
        r = start_connect(forward);
        if (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL)
            r = first; /* no IPv6 here */
    }
    return r < 0 ? r : watch_connect(forward);
}

/* The handle of the first try is closed; now the second address. */
static void begin_second(struct forward *forward)
{
    forward->second_try = true;
    if (forward->live.dropped) {
        close_fds(forward);
        finish(forward);
        return;
    }
    int r = try_connect(forward);
    if (r < 0) {
        refuse(forward, r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL ? -ECONNREFUSED : r);
        finish(forward);
    }
}

static void try_second(uv_handle_t *handle)
{
    do_unparked(handle->data, begin_second);
}

static void tried(uv_poll_t *poll, int status, int events)
{
    (void)status; /* the socket knows better */
    (void)events;
    struct forward *forward = poll->data;
    if (forward->live.parked) {
        (void)uv_poll_stop(poll); /* it is told again */
        return;
    }
    int code = 0;
    socklen_t size = sizeof code;
    if (getsockopt(forward->tcp_fd, SOL_SOCKET, SO_ERROR, &code, &size) < 0)
        code = errno;
    if (code == 0) {
        uv_close((uv_handle_t *)poll, connected);
        return;
    }
    if (!forward->second_try) {
        uv_close((uv_handle_t *)poll, try_second);
        (void)close(bg_take_fd(&forward->tcp_fd)); /* never connected */
        return;
    }
    uv_close((uv_handle_t *)poll, connecting_closed);
    refuse(forward, -code);
}

/* ---- parking ---- */

static bool park(struct live *live)
{
    const struct forward *forward = CONTAINER_OF(live, struct forward, live);
    return forward->pump ? pump_park(forward->pump) : forward->stream_fd >= 0; /* else refused */
}

static int counts(struct live *live, uint64_t *ret_read, uint64_t *ret_written)
{
    const struct forward *forward = CONTAINER_OF(live, struct forward, live);
    if (forward->pump)
        return pump_counts(forward->pump, ret_read, ret_written);
    if (forward->stream_fd < 0)
        return -ENOENT; /* it was refused */
    *ret_read = forward->bytes_read;
    *ret_written = 0;
    return 0;
}

static void go_on(struct live *live)
{
    struct forward *forward = CONTAINER_OF(live, struct forward, live);
    void (*held)(struct forward *) = forward->held;
    forward->held = NULL;
    if (forward->pump)
        pump_go_on(forward->pump);
    else if (held)
        held(forward); /* may free it */
    else if (!uv_is_closing((uv_handle_t *)&forward->connecting))
        (void)uv_poll_start(&forward->connecting, UV_WRITABLE, tried); /* not closing */
}

static void swap(struct live *live, int fd)
{
    struct forward *forward = CONTAINER_OF(live, struct forward, live);
    if (forward->pump) {
        pump_swap(forward->pump, fd);
    } else {
        bg_cleanup_close(&forward->stream_fd);
        forward->stream_fd = fd;
    }
    go_on(live);
}

static const struct parkable forward_parkable = {
    .park = park, .counts = counts, .swap = swap, .go_on = go_on};

static int forward_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    uint16_t port;
    int r = bg_forward_request_parse(body, size, &port, err);
    if (r < 0)
        return r;
    struct forward *forward = calloc(1, sizeof *forward);
    if (!forward)
        return bg_err_errno(err, -ENOMEM, "forward");
    forward->agent = stream->agent;
    forward->port = port;
    forward->live.drop = drop;
    forward->stream_fd = forward->tcp_fd = -1;
    if (!agent_add_live(stream->agent, &forward->live)) {
        free(forward);
        return bg_err_set(err, -EMFILE, "too many streams");
    }
    r = try_connect(forward);
    if (r < 0) {
        bg_cleanup_close(&forward->tcp_fd);
        finish(forward);
        return bg_err_errno(err, r, "port %u in the sandbox", port);
    }
    forward->live.parkable = &forward_parkable;
    forward->live.kind = stream->live.kind;
    forward->live.id = stream->id;
    forward->bytes_read = stream->channel.bytes_read;
    forward->stream_fd = stream_detach(stream);
    return 0;
}

const struct stream_kind forward_kind = {.name = "forward", .open = forward_open};
