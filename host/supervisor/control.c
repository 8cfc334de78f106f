#include "host/supervisor/control.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/wire.h"
#include "host/vsock/vsock_pipe.h"

#define IN_MAX       (BG_CONTROL_LINE_MAX + BG_STREAM_BODY_MAX)
#define GRACE_MAX_MS 600000 /* the longest that a client may ask us to wait for the guest */

struct client {
    struct client *next, **link; /* in control->clients */
    struct control *control;
    uv_poll_t poll;
    int fd; /* -1: handed to the pipe */
    enum {
        CLIENT_LINE,       /* the request is being read */
        CLIENT_BODY,       /* the body of an open */
        CLIENT_HELD,       /* complete, but we are parked */
        CLIENT_CONNECTING, /* the agent is being dialled */
        CLIENT_PIPING,     /* the poll handle is closing; then the pipe begins */
        CLIENT_WAITING,    /* for the guest's end */
        CLIENT_SNAPSHOT,   /* for the snapshot that it wants */
        CLIENT_FLAT,       /* for the disk to be flat */
        CLIENT_CLOSING
    } state; /* only moves right, but that one who is dialled when we are parked is held again */
    uint8_t *in;
    size_t used, room;
    size_t body_at; /* where the body begins in `in` */
    uint32_t body_size;
    uint16_t kind;
    struct vsock_conn *conn;
};

/* A pipe. */
struct stream {
    LIST_ENTRY(stream) link;
    struct control *control;
    struct vsock_pipe *pipe;
    bool unparked;  /* it is to be parked and is not yet */
    bool unresumed; /* likewise */
};

struct control {
    uv_loop_t *loop;
    struct control_opts opts;
    uv_poll_t listener;
    struct client *clients;
    size_t client_count; /* with their handles not yet closed */
    LIST_HEAD(, stream) streams;
    uint64_t ended_bytes; /* of streams that are no more */
    size_t stream_count;
    bool parked;
    bool parking, resuming; /* on_parked, on_resumed is owed */
    uint32_t next_stream;
    bool closing, listener_closed, paused;
};

static const struct {
    const char *name;
    uint16_t kind;
} kinds[] = {{"exec", BG_STREAM_EXEC},       {"copy", BG_STREAM_COPY},
             {"fuse", BG_STREAM_FUSE},       {"forward", BG_STREAM_FORWARD},
             {"bench", BG_STREAM_BENCH},     {"watch", BG_STREAM_WATCH},
             {"share", BG_STREAM_SHARE},     {"execs", BG_STREAM_EXECS},
             {"changes", BG_STREAM_CHANGES}, {"files", BG_STREAM_FILES}};

static void client_readable(uv_poll_t *poll, int status, int events);
static void listener_readable(uv_poll_t *poll, int status, int events);

static void finish_if_done(struct control *control)
{
    if (!control->closing || !control->listener_closed || control->client_count > 0 ||
        control->stream_count > 0)
        return;
    void (*on_closed)(void *) = control->opts.on_closed;
    void *owner = control->opts.owner;
    (void)close(control->opts.listen_fd); /* a listening socket holds no data */
    free(control);
    on_closed(owner);
}

static bool all_parked(const struct control *control)
{
    const struct stream *stream;
    LIST_FOREACH(stream, &control->streams, link)
    {
        if (stream->unparked)
            return false;
    }
    for (const struct client *client = control->clients; client; client = client->next)
        if (client->state == CLIENT_PIPING)
            return false;
    return true;
}

static bool all_resumed(const struct control *control)
{
    const struct stream *stream;
    LIST_FOREACH(stream, &control->streams, link)
    {
        if (stream->unresumed)
            return false;
    }
    return true;
}

/* Calls the owner when it waits for what has come. */
static void tell_owner(struct control *control)
{
    if (control->closing)
        return;
    if (control->parking && all_parked(control)) {
        control->parking = false;
        control->opts.on_parked(control->opts.owner);
    } else if (control->resuming && all_resumed(control)) {
        control->resuming = false;
        control->opts.on_resumed(control->opts.owner);
    }
}

static void client_gone(struct client *client)
{
    struct control *control = client->control;
    if (client->fd >= 0)
        (void)close(client->fd); /* what was to be said is sent */
    free(client->in);
    free(client);
    control->client_count--;
    if (control->paused && !control->closing) {
        control->paused = false;
        (void)uv_poll_start(&control->listener, UV_READABLE, listener_readable); /* was running */
    }
    tell_owner(control);
    finish_if_done(control);
}

static void client_closed(uv_handle_t *handle)
{
    client_gone(handle->data);
}

static void client_unlink(struct client *client)
{
    *client->link = client->next;
    if (client->next)
        client->next->link = client->link;
}

static void client_close(struct client *client)
{
    if (client->state == CLIENT_CLOSING)
        return;
    if (client->conn) {
        vsock_reset(client->conn);
        client->conn = NULL;
    }
    bool handle_open = client->state != CLIENT_PIPING;
    client->state = CLIENT_CLOSING;
    client_unlink(client);
    if (handle_open)
        uv_close((uv_handle_t *)&client->poll, client_closed);
    /* else its close callback is on the way and sees the state */
}

/* Sends one line. It fits the socket's buffer, or the client is not worth waiting for. */
static void answer(struct client *client, json_t *object)
{
    BG_AUTOFREE char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text)
        return;
    size_t size = strlen(text);
    text[size] = '\n'; /* in place of the NUL: size + 1 bytes go out */
    (void)send(client->fd, text, size + 1, MSG_NOSIGNAL | MSG_DONTWAIT); /* see above */
}

static void refuse(struct client *client, int code, const char *text)
{
    answer(client, json_pack("{s:b, s:i, s:s}", "ok", 0, "errno", -code, "error", text));
    client_close(client);
}

/* ---- open ---- */

static void pipe_ended(void *owner, uint64_t to_guest, uint64_t from_guest)
{
    struct stream *stream = owner;
    struct control *control = stream->control;
    control->ended_bytes += to_guest + from_guest + 1; /* one more: that it ended */
    LIST_REMOVE(stream, link);
    free(stream);
    control->stream_count--;
    tell_owner(control);
    finish_if_done(control);
}

static void pipe_parked(void *owner)
{
    struct stream *stream = owner;
    stream->unparked = false;
    tell_owner(stream->control);
}

static void pipe_resumed(void *owner)
{
    struct stream *stream = owner;
    stream->unresumed = false;
    tell_owner(stream->control);
}

static void start_pipe(struct client *client, const uint8_t *first, size_t first_size,
                       size_t opening_size, uint32_t id)
{
    struct control *control = client->control;
    struct bg_err err = {0};
    /* Measurements, and disks that are to be unmounted, end with their connection. */
    bool lasts = client->kind != BG_STREAM_BENCH && client->kind != BG_STREAM_DISK;
    struct stream *stream = calloc(1, sizeof *stream);
    const struct vsock_pipe_opts opts = {.conn = client->conn,
                                         .fd = client->fd,
                                         .to_guest = first,
                                         .to_guest_size = first_size,
                                         .opening_size = opening_size,
                                         .kind = lasts ? (enum bg_stream_kind)client->kind : 0,
                                         .id = id,
                                         .on_end = pipe_ended,
                                         .on_parked = pipe_parked,
                                         .on_resumed = pipe_resumed,
                                         .owner = stream};
    int r = stream ? vsock_pipe_start(control->loop, &opts, &stream->pipe, &err)
                   : bg_err_errno(&err, -ENOMEM, "stream");
    if (r < 0) {
        bg_log(control->opts.log, BG_LOG_ERROR, "stream: %s", err.text);
        vsock_reset(client->conn);
        free(stream);
        return;
    }
    client->fd = -1;
    stream->control = control;
    LIST_INSERT_HEAD(&control->streams, stream, link);
    control->stream_count++;
    if (control->parked)
        stream->unparked = !vsock_pipe_park(stream->pipe);
}

static void poll_closed_for_pipe(uv_handle_t *handle)
{
    struct client *client = handle->data;
    struct control *control = client->control;
    if (client->state == CLIENT_CLOSING) {
        client_gone(client);
        return;
    }
    uint8_t header_bytes[BG_STREAM_HEADER_SIZE];
    struct bg_stream_header header = {
        .kind = client->kind, .id = control->next_stream++, .body_size = client->body_size};
    bg_stream_header_emit(&header, header_bytes);
    /* What the client sent behind its body are the stream's first bytes. */
    size_t rest = client->used - client->body_at;
    BG_AUTOFREE uint8_t *first = malloc(sizeof header_bytes + rest);
    if (!first) {
        vsock_reset(client->conn);
    } else {
        memcpy(first, header_bytes, sizeof header_bytes);
        memcpy(first + sizeof header_bytes, client->in + client->body_at, rest);
        start_pipe(client, first, sizeof header_bytes + rest,
                   sizeof header_bytes + client->body_size, header.id);
    }
    client->conn = NULL; /* the pipe's, or reset */
    client_unlink(client);
    client_gone(client);
}

static void agent_opened(void *owner)
{
    struct client *client = owner;
    answer(client, json_pack("{s:b}", "ok", 1));
    client->state = CLIENT_PIPING;
    uv_close((uv_handle_t *)&client->poll, poll_closed_for_pipe);
}

static void agent_ended(void *owner, int code)
{
    struct client *client = owner;
    client->conn = NULL;
    if (client->state == CLIENT_CONNECTING)
        refuse(client, code < 0 ? code : -ECONNRESET, "the agent in the guest refused the stream");
    else if (client->state == CLIENT_PIPING)
        client_close(client);
}

static void agent_data(void *owner, const uint8_t *bytes, size_t size)
{
    /* The agent speaks only after our header, which the pipe sends: a guest that does otherwise
     * loses the stream. */
    struct client *client = owner;
    (void)bytes;
    (void)size;
    client_close(client);
}

static void open_stream(struct client *client)
{
    static const struct vsock_conn_ops ops = {
        .on_open = agent_opened, .on_data = agent_data, .on_end = agent_ended};
    struct control *control = client->control;
    struct vsock_device *device = control->opts.vsock(control->opts.owner);
    struct bg_err err;
    (void)uv_poll_stop(&client->poll); /* cannot fail; a hang-up is seen by the pipe */
    client->state = control->parked ? CLIENT_HELD : CLIENT_CONNECTING;
    if (control->parked)
        return;
    if (!device) {
        refuse(client, -EAGAIN, "the guest is not ready, or on its way out");
        return;
    }
    int r = vsock_connect(device, BG_VSOCK_AGENT_PORT, &ops, client, &client->conn, &err);
    if (r < 0)
        refuse(client, r, err.text);
}

/* ---- requests ---- */

static void take_open(struct client *client, const json_t *request)
{
    const char *name = json_string_value(json_object_get(request, "kind"));
    json_int_t size = json_integer_value(json_object_get(request, "body_size"));
    for (size_t i = 0; name && i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].name, name) == 0)
            client->kind = kinds[i].kind;
    if (client->kind == 0) {
        refuse(client, -EINVAL, "open: unknown kind of stream");
    } else if (size < 0 || size > BG_STREAM_BODY_MAX) {
        refuse(client, -E2BIG, "open: body too large");
    } else {
        client->body_size = (uint32_t)size;
        client->state = CLIENT_BODY;
    }
}

static void take_request(struct client *client, const json_t *request)
{
    struct control *control = client->control;
    const char *op = json_string_value(json_object_get(request, "op"));
    if (!op) {
        refuse(client, -EINVAL, "not a request: want {\"op\": ...}");
    } else if (strcmp(op, "status") == 0) {
        json_t *status = control->opts.status(control->opts.owner);
        (void)json_object_set_new(status, "ok", json_true()); /* without it the client complains */
        answer(client, status);
        client_close(client);
    } else if (strcmp(op, "stop") == 0 || strcmp(op, "kill") == 0) {
        json_int_t grace = json_integer_value(json_object_get(request, "grace_ms"));
        if (grace < 0 || grace > GRACE_MAX_MS || strcmp(op, "kill") == 0)
            grace = strcmp(op, "kill") == 0 ? 0 : GRACE_MAX_MS;
        client->state = CLIENT_WAITING;
        (void)uv_poll_stop(&client->poll); /* cannot fail */
        control->opts.stop(control->opts.owner, (uint64_t)grace);
    } else if (strcmp(op, "policy-reload") == 0) {
        control->opts.reload(control->opts.owner);
        answer(client, json_pack("{s:b}", "ok", 1));
        client_close(client);
    } else if (strcmp(op, "snapshot") == 0) {
        struct bg_err err;
        int r = control->opts.snapshot(control->opts.owner, (const char *)client->in,
                                       client->body_at - 1, &err);
        if (r < 0) {
            refuse(client, r, err.text);
        } else {
            client->state = CLIENT_SNAPSHOT;
            (void)uv_poll_stop(&client->poll); /* cannot fail; its going away changes nothing */
        }
    } else if (strcmp(op, "flatten") == 0) {
        struct bg_err err;
        int r = control->opts.flatten(control->opts.owner, &err);
        if (r < 0) {
            refuse(client, r, err.text);
        } else {
            client->state = CLIENT_FLAT;
            (void)uv_poll_stop(&client->poll); /* as above */
        }
    } else if (strcmp(op, "open") == 0) {
        take_open(client, request);
    } else {
        refuse(client, -EOPNOTSUPP, "unknown request");
    }
}

static void take_line(struct client *client)
{
    const uint8_t *end = memchr(client->in, '\n', client->used);
    if (!end) {
        if (client->used > BG_CONTROL_LINE_MAX)
            refuse(client, -E2BIG, "request too long");
        return;
    }
    json_error_t where;
    size_t size = (size_t)(end - client->in);
    client->body_at = size + 1;
    json_t *request = json_loadb((const char *)client->in, size, 0, &where);
    if (!json_is_object(request))
        refuse(client, -EINVAL, "request is not JSON");
    else
        take_request(client, request);
    json_decref(request);
}

static void client_readable(uv_poll_t *poll, int status, int events)
{
    struct client *client = poll->data;
    (void)events;
    if (client->used == client->room) {
        size_t room = client->room ? client->room * 2 : 4096;
        uint8_t *grown = room > 2 * IN_MAX ? NULL : realloc(client->in, room);
        if (!grown) {
            client_close(client);
            return;
        }
        client->in = grown;
        client->room = room;
    }
    ssize_t n = status < 0 ? 0
                           : recv(client->fd, client->in + client->used,
                                  client->room - client->used, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        client_close(client);
        return;
    }
    client->used += (size_t)n;
    if (client->state == CLIENT_LINE)
        take_line(client);
    if (client->state == CLIENT_BODY && client->used - client->body_at >= client->body_size)
        open_stream(client);
}

/* ---- clients ---- */

static bool allowed(const struct control *control, int fd)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           (peer.uid == 0 || peer.uid == control->opts.uid);
}

static void listener_readable(uv_poll_t *poll, int status, int events)
{
    struct control *control = poll->data;
    (void)events;
    if (status < 0 || control->closing)
        return;
    if (control->client_count >= BG_CONTROL_CLIENTS_MAX) {
        control->paused = true;
        (void)uv_poll_stop(&control->listener); /* goes on when a client has left */
        return;
    }
    BG_AUTOCLOSE int fd =
        accept4(control->opts.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 || !allowed(control, fd))
        return;
    struct client *client = calloc(1, sizeof *client);
    if (!client)
        return;
    *client = (struct client){.control = control, .fd = bg_take_fd(&fd)};
    if (uv_poll_init(control->loop, &client->poll, client->fd) < 0) {
        (void)close(client->fd);
        free(client);
        return;
    }
    client->poll.data = client;
    client->next = control->clients;
    client->link = &control->clients;
    if (client->next)
        client->next->link = &client->next;
    control->clients = client;
    control->client_count++;
    (void)uv_poll_start(&client->poll, UV_READABLE, client_readable); /* a live handle */
}

int control_open(uv_loop_t *loop, const struct control_opts *opts, struct control **ret,
                 struct bg_err *err)
{
    struct control *control = calloc(1, sizeof *control);
    if (!control)
        return bg_err_errno(err, -ENOMEM, "control socket");
    /* 1 is the session's. */
    *control = (struct control){
        .loop = loop, .opts = *opts, .next_stream = opts->next_stream > 2 ? opts->next_stream : 2};
    int r = uv_poll_init(loop, &control->listener, opts->listen_fd);
    if (r < 0) {
        free(control);
        return bg_err_set(err, r, "control socket: %s", uv_strerror(r));
    }
    control->listener.data = control;
    (void)uv_poll_start(&control->listener, UV_READABLE, listener_readable); /* a live handle */
    *ret = control;
    return 0;
}

void control_stopped(struct control *control, bool clean)
{
    struct client *next;
    for (struct client *client = control->clients; client; client = next) {
        next = client->next;
        if (client->state != CLIENT_WAITING)
            continue;
        answer(client, json_pack("{s:b, s:b}", "ok", 1, "clean", clean));
        client_close(client);
    }
}

/* Those who wait for the same. answer_json: taken. */
static void answer_all(struct control *control, int state, json_t *answer_json)
{
    struct client *next;
    for (struct client *client = control->clients; client; client = next) {
        next = client->next;
        if ((int)client->state != state)
            continue;
        answer(client, json_incref(answer_json));
        client_close(client);
    }
    json_decref(answer_json);
}

void control_snapshot_done(struct control *control, json_t *answer_json)
{
    answer_all(control, CLIENT_SNAPSHOT, answer_json);
}

void control_flat_done(struct control *control, json_t *answer_json)
{
    answer_all(control, CLIENT_FLAT, answer_json);
}

uint32_t control_next_stream(const struct control *control)
{
    return control->next_stream;
}

bool control_park(struct control *control)
{
    control->parked = true;
    for (struct client *client = control->clients; client; client = client->next) {
        if (client->state != CLIENT_CONNECTING)
            continue;
        vsock_reset(client->conn); /* it is dialled again */
        client->conn = NULL;
        client->state = CLIENT_HELD;
    }
    struct stream *stream;
    LIST_FOREACH(stream, &control->streams, link)
    stream->unparked = !vsock_pipe_park(stream->pipe);
    control->parking = !all_parked(control);
    return !control->parking;
}

bool control_resume(struct control *control, struct vsock_device *device)
{
    struct stream *stream;
    LIST_FOREACH(stream, &control->streams, link)
    {
        stream->unresumed = vsock_pipe_resume(stream->pipe, device);
    }
    control->resuming = !all_resumed(control);
    return !control->resuming;
}

void control_go_on(struct control *control)
{
    control->parked = control->parking = control->resuming = false;
    struct stream *stream;
    LIST_FOREACH(stream, &control->streams, link)
    {
        stream->unparked = stream->unresumed = false;
        vsock_pipe_go_on(stream->pipe);
    }
    struct client *next;
    for (struct client *client = control->clients; client; client = next) {
        next = client->next; /* one that is refused is unlinked */
        if (client->state == CLIENT_HELD)
            open_stream(client);
    }
}

uint64_t control_bytes(const struct control *control)
{
    uint64_t bytes = control->ended_bytes;
    const struct stream *stream;
    LIST_FOREACH(stream, &control->streams, link)
    bytes += vsock_pipe_bytes(stream->pipe);
    return bytes;
}

size_t control_streams(const struct control *control)
{
    return control->stream_count;
}

static void listener_closed(uv_handle_t *handle)
{
    struct control *control = handle->data;
    control->listener_closed = true;
    finish_if_done(control);
}

void control_cut(struct control *control)
{
    struct stream *stream;
    LIST_FOREACH(stream, &control->streams, link)
    vsock_pipe_stop(stream->pipe); /* its end comes later */
}

void control_close(struct control *control)
{
    if (!control)
        return;
    assert(!control->closing);
    control->closing = true;
    struct client *next;
    for (struct client *client = control->clients; client; client = next) {
        next = client->next;
        client_close(client);
    }
    uv_close((uv_handle_t *)&control->listener, listener_closed);
}
