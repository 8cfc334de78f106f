#include "tests/lib/vhost_front.h"

#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "common/io.h"

#define WAIT_MS      60000 /* the machine may be busy */
#define SETTLE_TURNS 8
#define RING_AREA    0x1000u /* each of desc, avail, used */

static int local_copy(struct vhost_front *front, const struct iovec *local,
                      const struct iovec *remote, size_t count, bool to_guest)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t addr = (uintptr_t)remote[i].iov_base;
        assert(local[i].iov_len == remote[i].iov_len);
        if (addr < FRONT_USER_BASE || addr - FRONT_USER_BASE > FRONT_MEMORY ||
            remote[i].iov_len > FRONT_MEMORY - (addr - FRONT_USER_BASE))
            return -EFAULT;
        uint8_t *at = front->memory + (addr - FRONT_USER_BASE);
        if (to_guest)
            memcpy(at, local[i].iov_base, local[i].iov_len);
        else
            memcpy(local[i].iov_base, at, local[i].iov_len);
    }
    return 0;
}

static int local_read(void *context, const struct iovec *local, const struct iovec *remote,
                      size_t count)
{
    return local_copy(context, local, remote, count, /* to_guest= */ false);
}

static int local_write(void *context, const struct iovec *local, const struct iovec *remote,
                       size_t count)
{
    return local_copy(context, local, remote, count, /* to_guest= */ true);
}

void front_init(struct vhost_front *front, uv_loop_t *loop, int *ret_device_fd)
{
    int pair[2];
    int r = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair);
    assert(r == 0);
    *front = (struct vhost_front){.loop = loop, .fd = pair[0]};
    front->memory = calloc(1, FRONT_MEMORY);
    assert(front->memory);
    front->access =
        (struct guest_memory_access){.read = local_read, .write = local_write, .context = front};
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        struct front_ring *ring = &front->rings[i];
        ring->desc = i * 4 * RING_AREA;
        ring->avail = ring->desc + RING_AREA;
        ring->used = ring->avail + RING_AREA;
        ring->buffers = (1 + i) * (FRONT_MEMORY / 4);
        ring->buffer_size = i == FRONT_TX ? FRONT_TX_BUFFER : 4096;
        ring->kick_fd = ring->call_fd = -1;
    }
    *ret_device_fd = pair[1];
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

void front_done(struct vhost_front *front)
{
    close_fd(&front->fd);
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        close_fd(&front->rings[i].kick_fd);
        close_fd(&front->rings[i].call_fd);
    }
    free(front->memory);
}

void front_send_message(struct vhost_front *front, uint32_t request, uint32_t flags,
                        const void *payload, uint32_t size, const int *fds, size_t fd_count)
{
    uint8_t bytes[VHOST_HEADER_SIZE + 4096];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_writer_u32le(&w, request);
    bg_writer_u32le(&w, flags);
    bg_writer_u32le(&w, size);
    bg_writer_bytes(&w, payload, size);
    assert(bg_writer_ok(&w) && fd_count <= BG_RECV_FDS_MAX);
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * BG_RECV_FDS_MAX)];
    } control = {0};
    struct iovec part = {.iov_base = bytes, .iov_len = w.used};
    struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count > 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
    }
    /* The device may have hung up over an earlier message. */
    (void)sendmsg(front->fd, &msg, MSG_NOSIGNAL);
}

void front_send_u64(struct vhost_front *front, uint32_t request, uint64_t value)
{
    uint8_t bytes[8];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_writer_u64le(&w, value);
    front_send_message(front, request, 1, bytes, sizeof bytes, NULL, 0);
}

void front_send_vring(struct vhost_front *front, uint32_t request, uint32_t index, uint32_t value)
{
    uint8_t bytes[8];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_writer_u32le(&w, index);
    bg_writer_u32le(&w, value);
    front_send_message(front, request, 1, bytes, sizeof bytes, NULL, 0);
}

int front_reply(struct vhost_front *front, uint32_t request, void *payload, size_t payload_size_max)
{
    uint8_t bytes[VHOST_HEADER_SIZE + VHOST_PAYLOAD_MAX];
    ssize_t n = -1;
    for (uint64_t until = bg_now_ms() + WAIT_MS; bg_now_ms() < until;) {
        (void)uv_run(front->loop, UV_RUN_NOWAIT);
        n = recv(front->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n >= 0 || errno != EAGAIN)
            break;
    }
    if (n <= 0)
        return -1;
    struct bg_reader in = bg_reader_init(bytes, (size_t)n);
    uint32_t got = bg_reader_u32le(&in), flags = bg_reader_u32le(&in);
    uint32_t size = bg_reader_u32le(&in);
    const uint8_t *body = bg_reader_bytes(&in, size);
    assert(bg_reader_end(&in) && got == request && flags == 5 && size <= payload_size_max);
    memcpy(payload, body, size);
    return (int)size;
}

void front_settle(struct vhost_front *front)
{
    for (int i = 0; i < SETTLE_TURNS; i++)
        (void)uv_run(front->loop, UV_RUN_NOWAIT);
}

static uint64_t ask_u64(struct vhost_front *front, uint32_t request)
{
    uint8_t bytes[8];
    front_send_message(front, request, 1, NULL, 0, NULL, 0);
    int n = front_reply(front, request, bytes, sizeof bytes);
    assert(n == 8);
    struct bg_reader in = bg_reader_init(bytes, sizeof bytes);
    return bg_reader_u64le(&in);
}

uint64_t front_handshake(struct vhost_front *front)
{
    uint64_t features = ask_u64(front, VHOST_GET_FEATURES);
    assert((features & FRONT_FEATURES) == FRONT_FEATURES);
    uint64_t protocol = ask_u64(front, VHOST_GET_PROTOCOL_FEATURES);
    front_send_u64(front, VHOST_SET_PROTOCOL_FEATURES, protocol);
    uint64_t queues = ask_u64(front, VHOST_GET_QUEUE_NUM);
    assert(queues == VHOST_RINGS);
    front_send_message(front, VHOST_SET_OWNER, 1, NULL, 0, NULL, 0);
    uint8_t config[12 + 8];
    struct bg_writer w = bg_writer_init(config, sizeof config);
    bg_writer_u32le(&w, 0);
    bg_writer_u32le(&w, 8);
    bg_writer_u32le(&w, 0);
    bg_writer_u64le(&w, 0);
    front_send_message(front, VHOST_GET_CONFIG, 1, config, sizeof config, NULL, 0);
    int n = front_reply(front, VHOST_GET_CONFIG, config, sizeof config);
    assert(n == (int)sizeof config);
    struct bg_reader in = bg_reader_init(config + 12, 8);
    return bg_reader_u64le(&in);
}

void front_set_memory(struct vhost_front *front)
{
    uint8_t table[8 + 32];
    struct bg_writer w = bg_writer_init(table, sizeof table);
    bg_writer_u32le(&w, 1);
    bg_writer_u32le(&w, 0);
    bg_writer_u64le(&w, FRONT_GUEST_BASE);
    bg_writer_u64le(&w, FRONT_MEMORY);
    bg_writer_u64le(&w, FRONT_USER_BASE);
    bg_writer_u64le(&w, 0);
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC); /* the memory file, which nobody maps */
    assert(fd >= 0);
    front_send_message(front, VHOST_SET_MEM_TABLE, 1 | 8, table, sizeof table, &fd, 1);
    close_fd(&fd);
    uint8_t ack[8];
    int n = front_reply(front, VHOST_SET_MEM_TABLE, ack, sizeof ack);
    assert(n == 8 && ack[0] == 0);
}

static void send_ring_fd(struct vhost_front *front, uint32_t request, uint32_t index, int fd)
{
    uint8_t bytes[8];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_writer_u64le(&w, index);
    front_send_message(front, request, 1, bytes, sizeof bytes, &fd, 1);
}

void front_start_ring(struct vhost_front *front, enum front_ring_index index, uint16_t base)
{
    struct front_ring *ring = &front->rings[index];
    if (ring->kick_fd < 0)
        ring->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ring->call_fd < 0)
        ring->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert(ring->kick_fd >= 0 && ring->call_fd >= 0);
    front_send_vring(front, VHOST_SET_VRING_NUM, index, FRONT_QUEUE);
    front_send_vring(front, VHOST_SET_VRING_BASE, index, base);
    uint8_t addr[40];
    struct bg_writer w = bg_writer_init(addr, sizeof addr);
    bg_writer_u32le(&w, index);
    bg_writer_u32le(&w, 0);
    bg_writer_u64le(&w, FRONT_USER_BASE + ring->desc);
    bg_writer_u64le(&w, FRONT_USER_BASE + ring->used);
    bg_writer_u64le(&w, FRONT_USER_BASE + ring->avail);
    bg_writer_u64le(&w, 0);
    front_send_message(front, VHOST_SET_VRING_ADDR, 1, addr, sizeof addr, NULL, 0);
    send_ring_fd(front, VHOST_SET_VRING_CALL, index, ring->call_fd);
    send_ring_fd(front, VHOST_SET_VRING_KICK, index, ring->kick_fd);
    if (front->features & UINT64_C(1) << 30)
        front_send_vring(front, VHOST_SET_VRING_ENABLE, index, 1);
}

void front_start(struct vhost_front *front, uint64_t features)
{
    front->features = features;
    front_send_u64(front, VHOST_SET_FEATURES, features);
    front_set_memory(front);
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        struct front_ring *ring = &front->rings[i];
        memset(front->memory + ring->desc, 0, 3 * (size_t)RING_AREA);
        ring->avail_idx = ring->used_seen = 0;
        front_start_ring(front, i == 0 ? FRONT_RX : FRONT_TX, 0);
    }
    front_settle(front);
}

uint16_t front_stop_ring(struct vhost_front *front, enum front_ring_index index)
{
    front_send_vring(front, VHOST_GET_VRING_BASE, index, 0);
    uint8_t bytes[8];
    int n = front_reply(front, VHOST_GET_VRING_BASE, bytes, sizeof bytes);
    assert(n == 8);
    struct bg_reader in = bg_reader_init(bytes, sizeof bytes);
    uint32_t got = bg_reader_u32le(&in), base = bg_reader_u32le(&in);
    assert(got == (uint32_t)index && base <= UINT16_MAX);
    return (uint16_t)base;
}

/* ---- the driver ---- */

static void put_u16(struct vhost_front *front, uint32_t at, uint16_t value)
{
    front->memory[at] = (uint8_t)value;
    front->memory[at + 1] = (uint8_t)(value >> 8);
}

static uint16_t get_u16(const struct vhost_front *front, uint32_t at)
{
    return (uint16_t)(front->memory[at] | front->memory[at + 1] << 8);
}

uint64_t front_guest_addr(uint32_t offset)
{
    return FRONT_GUEST_BASE + offset;
}

void front_write_desc(struct vhost_front *front, uint32_t table, uint16_t index, uint64_t addr,
                      uint32_t size, uint16_t flags, uint16_t next)
{
    struct bg_writer w = bg_writer_init(front->memory + table + 16u * index, 16);
    bg_writer_u64le(&w, addr);
    bg_writer_u32le(&w, size);
    bg_writer_u16le(&w, flags);
    bg_writer_u16le(&w, next);
}

void front_set_avail_idx(struct vhost_front *front, enum front_ring_index index, uint16_t value)
{
    front->rings[index].avail_idx = value;
    put_u16(front, front->rings[index].avail + 2, value);
}

void front_publish(struct vhost_front *front, enum front_ring_index index, uint16_t head)
{
    struct front_ring *ring = &front->rings[index];
    put_u16(front, ring->avail + 4 + 2u * (ring->avail_idx % FRONT_QUEUE), head);
    front_set_avail_idx(front, index, (uint16_t)(ring->avail_idx + 1));
}

uint16_t front_used_idx(const struct vhost_front *front, enum front_ring_index index)
{
    return get_u16(front, front->rings[index].used + 2);
}

void front_kick(struct vhost_front *front, enum front_ring_index index)
{
    uint64_t one = 1;
    ssize_t n = write(front->rings[index].kick_fd, &one, sizeof one);
    assert(n == 8);
}

uint64_t front_calls(struct vhost_front *front, enum front_ring_index index)
{
    uint64_t count = 0;
    ssize_t n = read(front->rings[index].call_fd, &count, sizeof count);
    return n == 8 ? count : 0;
}

/* The driver wants every interrupt: its event is the next used entry. */
static void want_interrupt(struct vhost_front *front, const struct front_ring *ring)
{
    put_u16(front, ring->avail + 4 + 2u * FRONT_QUEUE, ring->used_seen);
}

static uint32_t buffer_at(const struct front_ring *ring, uint16_t slot)
{
    return ring->buffers + slot * ring->buffer_size;
}

void front_fill_rx(struct vhost_front *front, uint32_t size)
{
    struct front_ring *ring = &front->rings[FRONT_RX];
    ring->buffer_size = size;
    assert(size * FRONT_QUEUE <= FRONT_MEMORY / 4);
    for (uint16_t i = 0; i < FRONT_QUEUE; i++) {
        front_write_desc(front, ring->desc, i, front_guest_addr(buffer_at(ring, i)), size,
                         /* write */ 2, 0);
        front_publish(front, FRONT_RX, i);
    }
    want_interrupt(front, ring);
    front_kick(front, FRONT_RX);
    front_settle(front);
}

void front_transmit(struct vhost_front *front, const struct vsock_packet *packet,
                    const uint8_t *payload)
{
    struct front_ring *ring = &front->rings[FRONT_TX];
    assert((uint16_t)(ring->avail_idx - front_used_idx(front, FRONT_TX)) < FRONT_QUEUE);
    uint16_t slot = ring->avail_idx % FRONT_QUEUE;
    uint32_t at = buffer_at(ring, slot);
    assert(packet->size <= ring->buffer_size - VSOCK_HEADER_SIZE);
    vsock_packet_emit(packet, front->memory + at);
    if (packet->size > 0)
        memcpy(front->memory + at + VSOCK_HEADER_SIZE, payload, packet->size);
    front_write_desc(front, ring->desc, slot, front_guest_addr(at),
                     VSOCK_HEADER_SIZE + packet->size, 0, 0);
    front_publish(front, FRONT_TX, slot);
    want_interrupt(front, ring);
    front_kick(front, FRONT_TX);
}

bool front_receive(struct vhost_front *front, struct vsock_packet *ret, uint8_t *payload)
{
    struct front_ring *ring = &front->rings[FRONT_RX];
    if (ring->used_seen == front_used_idx(front, FRONT_RX))
        return false;
    uint32_t entry = ring->used + 4 + 8u * (ring->used_seen % FRONT_QUEUE);
    struct bg_reader in = bg_reader_init(front->memory + entry, 8);
    uint32_t head = bg_reader_u32le(&in), written = bg_reader_u32le(&in);
    assert(head < FRONT_QUEUE && written >= VSOCK_HEADER_SIZE && written <= ring->buffer_size);
    const uint8_t *bytes = front->memory + buffer_at(ring, (uint16_t)head);
    vsock_packet_parse(bytes, ret);
    assert(ret->size == written - VSOCK_HEADER_SIZE);
    if (payload)
        memcpy(payload, bytes + VSOCK_HEADER_SIZE, ret->size);
    ring->used_seen++;
    want_interrupt(front, ring);
    front_publish(front, FRONT_RX, (uint16_t)head);
    return true;
}

bool front_await(struct vhost_front *front, struct vsock_packet *ret, uint8_t *payload)
{
    for (uint64_t until = bg_now_ms() + WAIT_MS; bg_now_ms() < until;) {
        if (front_receive(front, ret, payload))
            return true;
        (void)uv_run(front->loop, UV_RUN_NOWAIT);
    }
    return false;
}
