#include "guest/parking.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/io.h"
#include "guest/network.h"
#include "guest/stream.h"

/* A resumption's connection, while the stream that it is for does not know its counts. */
struct resumption {
    LIST_ENTRY(resumption) link;
    struct stream *stream;
    uint64_t host_has;
};

/* ---- all is quiet ---- */

static bool is_quiet(const struct agent *agent)
{
    struct live *live;
    if (agent->parking.network_busy)
        return false;
    LIST_FOREACH(live, &agent->live, link)
    {
        if (live->parked && live->parkable && live->parkable->is_quiet &&
            !live->parkable->is_quiet(live))
            return false;
    }
    return true;
}

static void tell_quiet(struct agent *agent)
{
    struct parking *p = &agent->parking;
    void (*on_quiet)(void *) = p->on_quiet;
    if (!on_quiet || !is_quiet(agent))
        return;
    p->on_quiet = NULL;
    on_quiet(p->owner);
}

/* ---- resuming ---- */

static struct live *find_parked(const struct agent *agent, uint16_t kind, uint32_t id)
{
    struct live *live;
    LIST_FOREACH(live, &agent->live, link)
    {
        if (live->parked && live->parkable && live->kind == kind && live->id == id)
            return live;
    }
    return NULL;
}

/* Returns 0, -EAGAIN (later), or why not. */
static int resume(struct stream *stream, uint64_t host_has, struct bg_err *err)
{
    uint64_t read, written;
    struct live *live = find_parked(stream->agent, stream->live.kind, stream->id);
    int r = live ? live->parkable->counts(live, &read, &written) : -ENOENT;
    if (r == -ENOENT)
        return bg_err_set(err, r, "no stream %u of kind %u waits to go on", stream->id,
                          stream->live.kind);
    if (r < 0)
        return r;
    if (host_has != BG_RESUME_ANY && host_has != written)
        return bg_err_set(err, -EPROTO, "stream %u: the host has other bytes than were sent",
                          stream->id);
    uint8_t body[BG_RESUME_SIZE];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_writer_u64le(&w, read);
    stream_reply(stream, body, sizeof body);
    if (stream->state != STREAM_OPEN || channel_queued(&stream->channel) > 0) {
        stream_abort(stream); /* a fresh connection has room for it: this one is broken */
        return 0;
    }
    stream->context = NULL;
    live->parked = false;
    live->parkable->swap(live, stream_detach(stream));
    return 0;
}

static void forget(struct resumption *resumption)
{
    LIST_REMOVE(resumption, link);
    free(resumption);
}

static void try_resumptions(struct agent *agent)
{
    struct resumption *next;
    for (struct resumption *one = LIST_FIRST(&agent->parking.resumptions); one; one = next) {
        next = LIST_NEXT(one, link);
        struct bg_err err = {0};
        int r = resume(one->stream, one->host_has, &err);
        if (r == -EAGAIN)
            continue;
        if (r < 0)
            stream_refuse(one->stream, &err);
        else
            one->stream->context = NULL;
        forget(one);
    }
}

void parking_changed(struct agent *agent)
{
    try_resumptions(agent);
    tell_quiet(agent);
}

static int resume_network(struct stream *stream, uint64_t host_has, struct bg_err *err)
{
    const struct network_message message = {
        .op = NETWORK_RESUME, .id = stream->id, .host_has = host_has};
    int network_fd = stream->agent->parking.network_fd;
    if (network_fd < 0)
        return bg_err_set(err, -ENOENT, "there is no network");
    int fd = stream_detach(stream);
    int r = bg_send_fd(network_fd, &message, sizeof message, fd);
    (void)r;         /* if it is ending, the host sees the connection close */
    (void)close(fd); /* it has its own */
    return 0;
}

static int resume_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(body, size);
    uint64_t host_has = bg_reader_u64le(&in);
    if (!bg_reader_end(&in))
        return bg_err_set(err, -EPROTO, "a resumption of %zu bytes", size);
    if (stream->live.kind == BG_STREAM_CONNECT)
        return resume_network(stream, host_has, err);
    int r = resume(stream, host_has, err);
    if (r != -EAGAIN)
        return r;
    struct resumption *resumption = calloc(1, sizeof *resumption);
    if (!resumption)
        return bg_err_errno(err, -ENOMEM, "resumption");
    *resumption = (struct resumption){.stream = stream, .host_has = host_has};
    stream->context = resumption;
    LIST_INSERT_HEAD(&stream->agent->parking.resumptions, resumption, link);
    return 0;
}

static int resume_frame(void *context, uint8_t type, const uint8_t *payload, size_t size,
                        struct bg_err *err)
{
    (void)context;
    (void)payload;
    (void)size;
    return bg_err_set(err, -EPROTO, "frame type %u before the reply", type);
}

static void resume_gone(void *context)
{
    forget(context);
}

const struct stream_kind resume_kind = {.name = "resumption",
                                        .frame_size_max = BG_FRAME_SIZE_MAX,
                                        .open = resume_open,
                                        .on_frame = resume_frame,
                                        .on_gone = resume_gone};

/* ---- the network ---- */

static void tell_network(struct agent *agent, uint32_t op, enum bg_go_on how)
{
    const struct network_message message = {.op = op, .how = how};
    if (agent->parking.network_fd < 0)
        return;
    int r = bg_send_fd(agent->parking.network_fd, &message, sizeof message, -1);
    if (r == 0 && op == NETWORK_PARK)
        agent->parking.network_busy = true;
}

static void network_readable(uv_poll_t *poll, int status, int events)
{
    struct agent *agent = poll->data;
    struct network_message message;
    (void)events;
    ssize_t n =
        status < 0 ? 0 : recv(agent->parking.network_fd, &message, sizeof message, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        (void)uv_poll_stop(poll); /* its end is told by SIGCHLD */
        return;
    }
    agent->parking.network_busy = false;
    tell_quiet(agent);
}

void parking_network_started(struct agent *agent, int fd)
{
    struct parking *p = &agent->parking;
    if (uv_poll_init(&agent->loop, &p->network, fd) < 0) {
        bg_log(agent->log, BG_LOG_ERROR, "the network process cannot be heard");
        (void)close(fd); /* so it is not parked: its connections end with the device */
        return;
    }
    p->network.data = agent;
    p->network_fd = fd;
    (void)uv_poll_start(&p->network, UV_READABLE, network_readable); /* not closing */
}

void parking_network_ended(struct agent *agent)
{
    struct parking *p = &agent->parking;
    if (p->network_fd >= 0) {
        uv_close((uv_handle_t *)&p->network, NULL);
        (void)close(p->network_fd); /* nobody is at its other end */
    }
    p->network_fd = -1;
    p->network_busy = false;
    tell_quiet(agent);
}

/* ---- begin and end ---- */

bool parking_begin(struct agent *agent, void (*on_quiet)(void *owner), void *owner)
{
    struct live *live;
    agent_accept_all(agent);
    stream_read_openings(agent);
    LIST_FOREACH(live, &agent->live, link)
    {
        if (live->parkable && !live->dropped)
            live->parked = live->parkable->park(live);
    }
    tell_network(agent, NETWORK_PARK, 0);
    if (is_quiet(agent))
        return true;
    agent->parking.on_quiet = on_quiet;
    agent->parking.owner = owner;
    return false;
}

void parking_forget(struct agent *agent, const void *owner)
{
    if (agent->parking.owner == owner)
        agent->parking.on_quiet = NULL;
}

static void end_parked(struct agent *agent, enum bg_go_on how)
{
    struct live *next;
    for (struct live *live = LIST_FIRST(&agent->live); live; live = next) {
        next = LIST_NEXT(live, link); /* drop() may unlink its own entry */
        if (!live->parked)
            continue;
        live->parked = false;
        if (!live->parkable || live->dropped)
            continue;
        if (how == BG_GO_ON_ALIVE) {
            live->parkable->go_on(live);
        } else {
            live->dropped = true;
            live->drop(live);
        }
    }
    try_resumptions(agent); /* they are not going to find theirs */
}

void parking_end(struct agent *agent, enum bg_go_on how)
{
    end_parked(agent, how);
    tell_network(agent, NETWORK_GO_ON, how);
}

void parking_drop(struct agent *agent)
{
    end_parked(agent, BG_GO_ON_RESUMED);
    tell_network(agent, NETWORK_RESET, 0);
}

/* ---- life ---- */

static void gate_changed(uv_poll_t *poll, int status, int events)
{
    struct agent *agent = poll->data;
    uint64_t count;
    (void)status; /* it has no errors */
    (void)events;
    ssize_t n = read(agent->parking.event_fd, &count, sizeof count);
    (void)n; /* however often it was told */
    parking_changed(agent);
}

int parking_open(struct agent *agent, struct bg_err *err)
{
    struct parking *p = &agent->parking;
    LIST_INIT(&p->resumptions);
    p->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = p->event_fd < 0 ? -errno : uv_poll_init(&agent->loop, &p->event, p->event_fd);
    if (r < 0)
        return bg_err_errno(err, r, "parking");
    p->event.data = agent;
    (void)uv_poll_start(&p->event, UV_READABLE, gate_changed); /* not closing */
    return 0;
}

void parking_close(struct agent *agent)
{
    uv_close((uv_handle_t *)&agent->parking.event, NULL);
}
