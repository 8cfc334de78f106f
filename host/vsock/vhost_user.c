#include "host/vsock/vhost_user.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <fcntl.h>

#include "common/cleanup.h"
#include "common/io.h"

#define PROTOCOL_F_MQ        (UINT64_C(1) << 0)
#define PROTOCOL_F_REPLY_ACK (UINT64_C(1) << 3)
#define PROTOCOL_F_CONFIG    (UINT64_C(1) << 9)

#define FEATURES                                                                                   \
    (VHOST_F_RING_INDIRECT | VHOST_F_RING_EVENT_IDX | VHOST_F_PROTOCOL_FEATURES | VHOST_F_VERSION_1)
/* MQ only says that GET_QUEUE_NUM works; CONFIG is what QEMU demands; REPLY_ACK makes QEMU wait
 * until a new memory table is in force. */
#define PROTOCOL_FEATURES (PROTOCOL_F_MQ | PROTOCOL_F_REPLY_ACK | PROTOCOL_F_CONFIG)

#define MESSAGES_PER_TURN 32 /* then other handles get their turn */

/* One kick fd. It has a life of its own since QEMU may replace it while the old handle closes. */
struct kick {
    uv_poll_t poll;
    struct vhost_user *vhost;
    unsigned index;
    int fd;
};

static void handle_gone(struct vhost_user *vhost)
{
    if (--vhost->open_handles == 0)
        vhost->ops->on_closed(vhost->owner);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd); /* an fd of QEMU's: nothing is lost */
    *fd = -1;
}

static void kick_closed(uv_handle_t *handle)
{
    BG_AUTOFREE struct kick *kick = handle->data;
    handle_gone(kick->vhost);
}

static void drop_kick(struct vhost_ring *ring)
{
    if (!ring->kick)
        return;
    uv_close((uv_handle_t *)&ring->kick->poll, kick_closed);
    close_fd(&ring->kick->fd); /* the handle no longer polls it */
    ring->kick = NULL;
}

static uint16_t stop_ring(struct vhost_user *vhost, unsigned index)
{
    struct vhost_ring *ring = &vhost->rings[index];
    if (ring->active) {
        ring->active = false;
        (void)uv_poll_stop(&ring->kick->poll); /* cannot fail on an open handle */
        ring->base = vhost->ops->on_stop(vhost->owner, index);
    }
    return ring->base;
}

static void drop_fds(struct vhost_user *vhost)
{
    while (vhost->fd_count > 0)
        close_fd(&vhost->fds[--vhost->fd_count]);
}

/* Stops everything; the handles stay for vhost_user_close(). */
static void quiesce(struct vhost_user *vhost)
{
    for (unsigned i = 0; i < VHOST_RINGS; i++)
        (void)stop_ring(vhost, i);
    (void)uv_poll_stop(&vhost->socket);
    drop_fds(vhost);
}

static void fail(struct vhost_user *vhost, const struct bg_err *err)
{
    vhost->state = VHOST_FAILED;
    quiesce(vhost);
    vhost->ops->on_failed(vhost->owner, err); /* last: may close us */
}

static void kicked(uv_poll_t *handle, int status, int events)
{
    (void)events;
    struct kick *kick = handle->data;
    struct vhost_user *vhost = kick->vhost;
    uint64_t count;
    ssize_t n = status < 0 ? -1 : read(kick->fd, &count, sizeof count);
    if (n < 0 && status == 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n != (ssize_t)sizeof count) {
        struct bg_err err;
        (void)bg_err_set(&err, -EPROTO, "ring %u: its kick fd is broken", kick->index);
        fail(vhost, &err);
        return;
    }
    vhost->ops->on_kick(vhost->owner, kick->index);
}

/* Starts or stops the ring after a change of its settings. */
static int update_ring(struct vhost_user *vhost, unsigned index, struct bg_err *err)
{
    struct vhost_ring *ring = &vhost->rings[index];
    bool wanted = ring->enabled && ring->kick && ring->size > 0 && ring->desc != 0;
    if (!wanted) {
        (void)stop_ring(vhost, index);
        return 0;
    }
    if (ring->active)
        return 0;
    if (!vhost->has_memory)
        return bg_err_set(err, -EPROTO, "ring %u starts before there is a memory table", index);
    if (!(vhost->features & VHOST_F_VERSION_1))
        return bg_err_set(err, -EPROTO, "the guest's driver is not a virtio 1 driver");
    int r = uv_poll_start(&ring->kick->poll, UV_READABLE, kicked);
    if (r < 0)
        return bg_err_set(err, r, "ring %u: kick fd: %s", index, uv_strerror(r));
    ring->active = true;
    r = vhost->ops->on_start(vhost->owner, index, err);
    return r < 0 ? bg_err_prefix(err, "ring %u", index) : 0;
}

/* Only an eventfd or the like can come from QEMU: a write to it never blocks for long and never
 * raises SIGPIPE. Those have no file type. */
static int check_event_fd(int fd, struct bg_err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return bg_err_errno(err, -errno, "event fd");
    if ((st.st_mode & S_IFMT) != 0)
        return bg_err_set(err, -EPROTO, "QEMU passed an fd of another kind for an event fd");
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return bg_err_errno(err, -errno, "event fd");
    return 0;
}

static int set_kick(struct vhost_user *vhost, unsigned index, int fd, struct bg_err *err)
{
    struct vhost_ring *ring = &vhost->rings[index];
    (void)stop_ring(vhost, index);
    drop_kick(ring);
    BG_AUTOFREE struct kick *kick = calloc(1, sizeof *kick);
    if (!kick) {
        close_fd(&fd);
        return bg_err_set(err, -ENOMEM, "ring %u: out of memory", index);
    }
    int r = uv_poll_init(vhost->loop, &kick->poll, fd);
    if (r < 0) {
        close_fd(&fd);
        return bg_err_set(err, r, "ring %u: kick fd: %s", index, uv_strerror(r));
    }
    kick->poll.data = kick; /* from here on only uv_close() may end kick */
    kick->vhost = vhost;
    kick->index = index;
    kick->fd = fd;
    vhost->open_handles++;
    ring->kick = BG_TAKE(kick);
    return update_ring(vhost, index, err);
}

/* Takes the message's only fd, or -1. */
static int take_message_fd(struct vhost_user *vhost)
{
    if (vhost->fd_count == 0)
        return -1;
    vhost->fd_count = 0;
    return vhost->fds[0];
}

static int set_vring_fd(struct vhost_user *vhost, const struct vhost_message *m, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = take_message_fd(vhost);
    if (fd >= 0) {
        int r = check_event_fd(fd, err);
        if (r < 0)
            return r;
    }
    struct vhost_ring *ring = &vhost->rings[m->index];
    if (m->request == VHOST_SET_VRING_KICK) {
        if (fd < 0)
            return bg_err_set(err, -EPROTO, "ring %u without a kick fd: polling is not offered",
                              m->index);
        return set_kick(vhost, m->index, bg_take_fd(&fd), err);
    }
    int *slot = m->request == VHOST_SET_VRING_CALL ? &ring->call_fd : &ring->err_fd;
    close_fd(slot);
    *slot = bg_take_fd(&fd);
    return 0;
}

static int send_reply(struct vhost_user *vhost, const struct bg_writer *w, struct bg_err *err)
{
    assert(bg_writer_ok(w));
    /* QEMU waits for each reply, so the socket's buffer is empty: a short send is its fault. */
    ssize_t n = send(vhost->fd, w->start, w->used, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n != (ssize_t)w->used)
        return bg_err_set(err, -EPROTO, "QEMU does not take a reply");
    return 0;
}

static int reply_u64(struct vhost_user *vhost, enum vhost_request request, uint64_t value,
                     struct bg_err *err)
{
    uint8_t bytes[VHOST_HEADER_SIZE + 8];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    vhost_reply_u64(request, value, &w);
    return send_reply(vhost, &w, err);
}

static int get_config(struct vhost_user *vhost, const struct vhost_message *m, struct bg_err *err)
{
    uint8_t config[VHOST_CONFIG_MAX] = {0};
    struct bg_writer space = bg_writer_init(config, sizeof config);
    bg_writer_u64le(&space, vhost->guest_cid); /* virtio 1.2 §5.10.4: all there is */
    if (m->config_offset > sizeof config || m->config_size > sizeof config - m->config_offset)
        return bg_err_set(err, -EPROTO, "config space read at %" PRIu32, m->config_offset);
    uint8_t bytes[VHOST_HEADER_SIZE + VHOST_PAYLOAD_MAX];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    vhost_reply_config(m->config_offset, config + m->config_offset, m->config_size, &w);
    return send_reply(vhost, &w, err);
}

static int set_features(struct vhost_user *vhost, uint64_t bits, struct bg_err *err)
{
    if (bits & ~FEATURES)
        return bg_err_set(err, -EPROTO, "features 0x%" PRIx64 ": 0x%" PRIx64 " was not offered",
                          bits, bits & ~FEATURES);
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        if (vhost->rings[i].active)
            return bg_err_set(err, -EPROTO, "features changed while ring %u runs", i);
    }
    vhost->features = bits;
    if (!(bits & VHOST_F_PROTOCOL_FEATURES)) { /* then there is no SET_VRING_ENABLE */
        for (unsigned i = 0; i < VHOST_RINGS; i++)
            vhost->rings[i].enabled = true;
    }
    return 0;
}

static int set_memory(struct vhost_user *vhost, const struct vhost_message *m, struct bg_err *err)
{
    int r = vhost->ops->on_memory(vhost->owner, m->regions, m->region_count, err);
    if (r == 0)
        vhost->has_memory = true;
    return r;
}

/* A setting of a ring that is not running. */
static int set_ring(struct vhost_user *vhost, const struct vhost_message *m, struct bg_err *err)
{
    struct vhost_ring *ring = &vhost->rings[m->index];
    if (ring->active)
        return bg_err_set(err, -EPROTO, "ring %" PRIu32 " changed while it runs", m->index);
    if (m->request == VHOST_SET_VRING_ADDR) {
        ring->desc = m->desc;
        ring->avail = m->avail;
        ring->used = m->used;
        return update_ring(vhost, m->index, err);
    }
    if (m->value > UINT16_MAX)
        return bg_err_set(err, -EPROTO, "ring %" PRIu32 ": size or base of %" PRIu32, m->index,
                          m->value);
    if (m->request == VHOST_SET_VRING_NUM)
        ring->size = m->value;
    else
        ring->base = (uint16_t)m->value;
    return update_ring(vhost, m->index, err);
}

static int get_vring_base(struct vhost_user *vhost, const struct vhost_message *m,
                          struct bg_err *err)
{
    struct vhost_ring *ring = &vhost->rings[m->index];
    uint16_t base = stop_ring(vhost, m->index);
    drop_kick(ring); /* a new one starts the ring again */
    uint8_t bytes[VHOST_HEADER_SIZE + 8];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    vhost_reply_vring(m->request, m->index, base, &w);
    return send_reply(vhost, &w, err);
}

/* Acts on a message. *ret_replied: an answer has been sent. */
static int act(struct vhost_user *vhost, const struct vhost_message *m, bool *ret_replied,
               struct bg_err *err)
{
    *ret_replied = false;
    switch (m->request) {
    case VHOST_GET_FEATURES:
        *ret_replied = true;
        return reply_u64(vhost, m->request, FEATURES, err);
    case VHOST_GET_PROTOCOL_FEATURES:
        *ret_replied = true;
        return reply_u64(vhost, m->request, PROTOCOL_FEATURES, err);
    case VHOST_GET_QUEUE_NUM:
        *ret_replied = true;
        return reply_u64(vhost, m->request, VHOST_RINGS, err);
    case VHOST_GET_CONFIG:
        *ret_replied = true;
        return get_config(vhost, m, err);
    case VHOST_GET_VRING_BASE:
        *ret_replied = true;
        return get_vring_base(vhost, m, err);
    case VHOST_SET_OWNER:
        return 0;
    case VHOST_SET_FEATURES:
        return set_features(vhost, m->bits, err);
    case VHOST_SET_PROTOCOL_FEATURES:
        if (m->bits & ~PROTOCOL_FEATURES)
            return bg_err_set(err, -EPROTO, "protocol features 0x%" PRIx64 " were not offered",
                              m->bits & ~PROTOCOL_FEATURES);
        vhost->protocol_features = m->bits;
        return 0;
    case VHOST_SET_MEM_TABLE:
        return set_memory(vhost, m, err);
    case VHOST_SET_VRING_NUM:
    case VHOST_SET_VRING_ADDR:
    case VHOST_SET_VRING_BASE:
        return set_ring(vhost, m, err);
    case VHOST_SET_VRING_KICK:
    case VHOST_SET_VRING_CALL:
    case VHOST_SET_VRING_ERR:
        return set_vring_fd(vhost, m, err);
    case VHOST_SET_VRING_ENABLE:
        vhost->rings[m->index].enabled = m->value == 1;
        return update_ring(vhost, m->index, err);
    }
    return bg_err_set(err, -EPROTO, "vhost-user message %d", (int)m->request);
}

/* A whole message is in vhost->in. */
static int message(struct vhost_user *vhost, struct bg_err *err)
{
    struct vhost_message m;
    int r = vhost_message_parse(&vhost->header, vhost->in + VHOST_HEADER_SIZE, vhost->fd_count, &m,
                                err);
    if (r < 0)
        return r;
    bool replied;
    r = act(vhost, &m, &replied, err);
    drop_fds(vhost); /* those of a memory table: we do not map it */
    if (r < 0)
        return r;
    vhost->in_size = 0;
    if (m.need_reply && !replied && (vhost->protocol_features & PROTOCOL_F_REPLY_ACK))
        return reply_u64(vhost, m.request, 0, err);
    return 0;
}

static int keep_fds(struct vhost_user *vhost, const int *fds, size_t count, struct bg_err *err)
{
    bool fit = count <= BG_VSOCK_REGIONS_MAX - vhost->fd_count;
    for (size_t i = 0; i < count; i++) {
        int fd = fds[i];
        if (fit)
            vhost->fds[vhost->fd_count++] = fd;
        else
            close_fd(&fd);
    }
    return fit ? 0 : bg_err_set(err, -EPROTO, "vhost-user message with too many fds");
}

/* Reads towards one message, never past its end, so that fds stay with their message. Returns 1
 * when something was done, 0 when there is nothing to read. */
static int read_some(struct vhost_user *vhost, struct bg_err *err)
{
    size_t want = VHOST_HEADER_SIZE;
    if (vhost->in_size >= VHOST_HEADER_SIZE)
        want += vhost->header.payload_size;
    int fds[BG_RECV_FDS_MAX];
    size_t fd_count = 0;
    ssize_t n =
        bg_recv_fds(vhost->fd, vhost->in + vhost->in_size, want - vhost->in_size, fds, &fd_count);
    if (n == -EAGAIN)
        return 0;
    if (n < 0)
        return bg_err_errno(err, (int)n, "vhost-user socket");
    int r = keep_fds(vhost, fds, fd_count, err);
    if (r < 0)
        return r;
    if (n == 0)
        return bg_err_set(err, -ECONNRESET, "QEMU hung up");
    vhost->in_size += (size_t)n;
    if (vhost->in_size == VHOST_HEADER_SIZE && want == VHOST_HEADER_SIZE) {
        r = vhost_header_parse(vhost->in, VHOST_HEADER_SIZE, &vhost->header, err);
        if (r < 0)
            return r;
        want += vhost->header.payload_size;
    }
    if (vhost->in_size == want) {
        r = message(vhost, err);
        if (r < 0)
            return r;
    }
    return 1;
}

static void socket_readable(uv_poll_t *handle, int status, int events)
{
    (void)events;
    struct vhost_user *vhost = handle->data;
    struct bg_err err = {0};
    int r = status < 0 ? bg_err_set(&err, status, "vhost-user socket: %s", uv_strerror(status)) : 1;
    for (int i = 0; r > 0 && i < MESSAGES_PER_TURN; i++)
        r = read_some(vhost, &err);
    if (r < 0)
        fail(vhost, &err);
}

int vhost_user_open(struct vhost_user *vhost, uv_loop_t *loop, int fd, uint64_t guest_cid,
                    const struct vhost_user_ops *ops, void *owner, struct bg_err *err)
{
    memset(vhost, 0, sizeof *vhost);
    int r = uv_poll_init(loop, &vhost->socket, fd);
    if (r < 0)
        return bg_err_set(err, r, "vhost-user socket: %s", uv_strerror(r));
    vhost->socket.data = vhost;
    vhost->open_handles = 1;
    vhost->loop = loop;
    vhost->fd = fd;
    vhost->guest_cid = guest_cid;
    vhost->ops = ops;
    vhost->owner = owner;
    for (unsigned i = 0; i < VHOST_RINGS; i++)
        vhost->rings[i].call_fd = vhost->rings[i].err_fd = -1;
    /* Cannot fail: it refuses only a closing handle. */
    (void)uv_poll_start(&vhost->socket, UV_READABLE, socket_readable);
    return 0;
}

static void socket_closed(uv_handle_t *handle)
{
    handle_gone(handle->data);
}

void vhost_user_close(struct vhost_user *vhost)
{
    assert(vhost->state != VHOST_CLOSING);
    if (vhost->state == VHOST_OPEN)
        quiesce(vhost);
    vhost->state = VHOST_CLOSING;
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        drop_kick(&vhost->rings[i]);
        close_fd(&vhost->rings[i].call_fd);
        close_fd(&vhost->rings[i].err_fd);
    }
    uv_close((uv_handle_t *)&vhost->socket, socket_closed);
    close_fd(&vhost->fd);
}

int vhost_user_call(struct vhost_user *vhost, unsigned index)
{
    int fd = vhost->rings[index].call_fd;
    if (fd < 0)
        return 0; /* the driver polls */
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof one);
    /* EAGAIN: the counter is full, so the guest is being interrupted anyway. */
    return n == (ssize_t)sizeof one || (n < 0 && errno == EAGAIN) ? 0 : -EIO;
}
