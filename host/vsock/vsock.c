/* The device: one loop, two rings, turns.
 *
 * A turn is one pass over all that may have to be done: control packets out, packets of the guest
 * in, callbacks that are due, room for those that wait, then one publication of all used buffers
 * and at most one interrupt per ring. It is run by a kick, by a start of the rings, and by an idle
 * handle when something is owed (more packets than one turn takes; callbacks that may not be made
 * from inside a call). Kicks are asked for only when nothing is left to do, so that under load the
 * guest does not kick at all.
 *
 * Guest to host: headers and payloads of many packets are copied with one system call into the
 * bounce buffer, the buffers go back to the guest, and only then the packets are looked at.
 * Host to guest: the callers' bytes are written straight into many receive buffers (4 KiB each in
 * Linux) with one system call.
 *
 * What the guest does wrong with the rings, and everything that QEMU does wrong, fails the device:
 * the rings stop, all connections end, on_failed is called. */
#include "host/vsock/vsock.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "common/wire.h"
#include "host/vsock/vsock_device.h"

enum { RX, TX }; /* indices of the rings, from the guest's view */

#define TX_PACKETS 64 /* of one copy */
#define TX_TURN_SIZE                                                                               \
    (1024 * 1024)               /* read in one turn; then other handles of the loop get theirs     \
                                 */
#define RX_ROOM_LOW (64 * 1024) /* below it, new receive buffers are looked for */

struct tx_packet {
    size_t offset;         /* in the bounce buffer */
    uint32_t copied;       /* header and payload */
    uint32_t payload_size; /* of the buffer: what the header may claim */
};

static void device_fail(struct vsock_device *device, const struct bg_err *err)
{
    if (device->state != DEVICE_OPEN)
        return;
    device->state = DEVICE_FAILED;
    device->failure = *err;
    device->failure_due = true;
    device->rx_active = device->tx_active = false;
    device_wake(device);
}

void device_log(struct vsock_device *device, const char *format, ...)
{
    uint64_t minute = uv_now(device->loop) / 60000;
    if (minute != device->log_minute)
        device->log_lines = 0;
    device->log_minute = minute;
    if (device->log_lines++ >= BG_VSOCK_LOG_LINES)
        return;
    char text[256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args); /* a long line may be cut */
    va_end(args);
    bg_log(device->opts.log, BG_LOG_WARN, "%s", text);
}

/* ---- the receive ring: host to guest ---- */

static bool rx_usable(const struct vsock_device *device)
{
    return device->rx_active && device->state == DEVICE_OPEN && !device->restarted;
}

/* Fetches new receive buffers. */
static void rx_poll(struct vsock_device *device)
{
    struct bg_err err;
    size_t before = device->rx_batch.count - device->rx_batch.at;
    int n = virtqueue_poll(&device->rx, &device->rx_batch, BG_VSOCK_QUEUE_MAX, &err);
    for (size_t i = before; n > 0 && i < device->rx_batch.count; i++) {
        uint32_t size = device->rx_batch.chains[i].size;
        if (size <= VSOCK_HEADER_SIZE)
            n = bg_err_set(&err, -EPROTO, "a buffer of %" PRIu32 " bytes", size);
        else
            device->rx_room += size - VSOCK_HEADER_SIZE;
    }
    if (n < 0) {
        (void)bg_err_prefix(&err, "vsock receive ring");
        device_fail(device, &err);
    }
}

bool device_rx_available(struct vsock_device *device)
{
    if (!rx_usable(device))
        return false;
    if (device->rx_batch.at == device->rx_batch.count)
        rx_poll(device);
    return rx_usable(device) && device->rx_batch.at < device->rx_batch.count;
}

size_t device_rx_room(struct vsock_device *device)
{
    if (!rx_usable(device))
        return 0;
    if (device->rx_room < RX_ROOM_LOW)
        rx_poll(device);
    return rx_usable(device) ? device->rx_room : 0;
}

uint32_t device_rx_packet_max(const struct vsock_device *device)
{
    uint32_t size = device->rx_batch.chains[device->rx_batch.at].size - VSOCK_HEADER_SIZE;
    return size < BG_VSOCK_PACKET_MAX ? size : BG_VSOCK_PACKET_MAX;
}

static void rx_copy(struct vsock_device *device)
{
    struct bg_err err;
    int r = guest_copy_run(&device->rx.out);
    device->rx_header_count = 0;
    if (r < 0) {
        (void)bg_err_errno(&err, r, "vsock receive ring: write to the guest");
        device_fail(device, &err);
    }
}

/* Spreads bytes over the segments of a chain from *offset on. */
static int scatter(struct vsock_device *device, const struct virtqueue_chain *chain, size_t *offset,
                   const uint8_t *bytes, size_t size)
{
    size_t skip = *offset;
    *offset += size;
    for (size_t i = 0; size > 0 && i < chain->segment_count; i++) {
        const struct virtqueue_segment *s = &device->rx_batch.segments[chain->segment_first + i];
        if (skip >= s->size) {
            skip -= s->size;
            continue;
        }
        size_t part = s->size - skip < size ? s->size - skip : size;
        /* A copy towards the guest only reads. NOLINTNEXTLINE(performance-no-int-to-ptr) */
        void *from = (void *)(uintptr_t)bytes;
        int r = guest_copy_add(&device->rx.out, s->guest_addr + skip, from, part);
        if (r < 0)
            return r;
        bytes += part;
        size -= part;
        skip = 0;
    }
    return 0;
}

/* Publishes what has been used, and interrupts the guest if it wants that. */
static void ring_flush(struct vsock_device *device, struct virtqueue *vq, unsigned index)
{
    if (device->state != DEVICE_OPEN)
        return;
    struct bg_err err;
    bool signal = false;
    int r = virtqueue_flush(vq, &signal, &err);
    if (r == 0 && signal) {
        r = vhost_user_call(&device->vhost, index);
        if (r < 0)
            (void)bg_err_errno(&err, r, "interrupt");
    }
    if (r < 0) {
        (void)bg_err_prefix(&err, "vsock %s ring", index == RX ? "receive" : "transmit");
        device_fail(device, &err);
    }
}

static void rx_flush(struct vsock_device *device)
{
    if (!device->rx_active)
        return;
    ring_flush(device, &device->rx, RX);
    device->rx_header_count = 0;
}

void device_rx_put(struct vsock_device *device, const struct vsock_packet *packet,
                   const uint8_t *payload)
{
    if (device->state != DEVICE_OPEN)
        return;
    struct virtqueue_batch *batch = &device->rx_batch;
    assert(batch->at < batch->count);
    const struct virtqueue_chain *chain = &batch->chains[batch->at++];
    assert(packet->size <= chain->size - VSOCK_HEADER_SIZE);
    device->rx_room -= chain->size - VSOCK_HEADER_SIZE;
    uint8_t *header = device->rx_headers[device->rx_header_count++];
    vsock_packet_emit(packet, header);
    size_t offset = 0;
    int r = scatter(device, chain, &offset, header, VSOCK_HEADER_SIZE);
    if (r == 0)
        r = scatter(device, chain, &offset, payload, packet->size);
    if (r < 0) {
        struct bg_err err;
        (void)bg_err_errno(&err, r, "vsock receive ring: write to the guest");
        device_fail(device, &err);
        return;
    }
    virtqueue_put(&device->rx, chain->head, VSOCK_HEADER_SIZE + packet->size);
    if (device->rx.put_count == VSOCK_RX_PUBLISH) /* the guest works on them while we go on */
        rx_flush(device);
}

void device_rx_commit(struct vsock_device *device)
{
    if (device->state != DEVICE_OPEN)
        return;
    if (device->in_turn)
        rx_copy(device); /* its end publishes */
    else
        rx_flush(device);
}

/* ---- the transmit ring: guest to host ---- */

static bool tx_usable(const struct vsock_device *device)
{
    return device->tx_active && device->state == DEVICE_OPEN && !device->restarted;
}

/* Adds what is to be read of one chain. */
static int gather(struct vsock_device *device, const struct virtqueue_chain *chain,
                  const struct tx_packet *packet)
{
    uint8_t *to = device->bounce + packet->offset;
    size_t left = packet->copied;
    for (size_t i = 0; left > 0 && i < chain->segment_count; i++) {
        const struct virtqueue_segment *s = &device->tx_batch.segments[chain->segment_first + i];
        size_t part = s->size < left ? s->size : left;
        int r = guest_copy_add(&device->tx.in, s->guest_addr, to, part);
        if (r < 0)
            return r;
        to += part;
        left -= part;
    }
    return 0;
}

/* Copies packets into the bounce buffer and gives their buffers back. Returns how many. */
static int tx_read(struct vsock_device *device, struct tx_packet packets[TX_PACKETS],
                   struct bg_err *err)
{
    struct virtqueue_batch *batch = &device->tx_batch;
    if (batch->at == batch->count) {
        int r = virtqueue_poll(&device->tx, batch, TX_PACKETS, err);
        if (r < 0)
            return r;
    }
    /* Each packet may call for a RST, which must have a place. */
    size_t count_max = BG_VSOCK_RESETS_MAX - device->stray_count;
    if (count_max > TX_PACKETS)
        count_max = TX_PACKETS;
    size_t count = 0, used = 0;
    size_t first = batch->at;
    for (; count < count_max && batch->at < batch->count; batch->at++, count++) {
        const struct virtqueue_chain *chain = &batch->chains[batch->at];
        if (chain->size < VSOCK_HEADER_SIZE)
            return bg_err_set(err, -EPROTO, "a packet of %" PRIu32 " bytes", chain->size);
        uint32_t packet_max = VSOCK_HEADER_SIZE + BG_VSOCK_PACKET_MAX;
        packets[count] = (struct tx_packet){
            .offset = used,
            .copied = chain->size < packet_max ? chain->size : packet_max,
            .payload_size = chain->size - VSOCK_HEADER_SIZE,
        };
        if (packets[count].copied > VSOCK_BOUNCE_SIZE - used)
            break;
        used += packets[count].copied;
        int r = gather(device, chain, &packets[count]);
        if (r < 0)
            return bg_err_errno(err, r, "read of a packet");
    }
    int r = guest_copy_run(&device->tx.in);
    if (r < 0)
        return bg_err_errno(err, r, "read of a packet");
    for (size_t i = 0; i < count; i++)
        virtqueue_put(&device->tx, batch->chains[first + i].head, /* written= */ 0);
    return (int)count;
}

/* Acts on one packet in the bounce buffer. */
static int tx_receive(struct vsock_device *device, const struct tx_packet *t, struct bg_err *err)
{
    struct vsock_packet p;
    vsock_packet_parse(device->bounce + t->offset, &p);
    if (p.size > t->payload_size)
        return bg_err_set(err, -EPROTO, "a packet of %" PRIu32 " bytes says it has %" PRIu32,
                          t->payload_size, p.size);
    if (p.size > BG_VSOCK_PACKET_MAX) {
        /* Not copied whole. Linux sends no such packet; let it look like what has no place. */
        p.op = 0;
        p.size = 0;
    }
    conns_receive(device, &p, device->bounce + t->offset + VSOCK_HEADER_SIZE);
    return 0;
}

/* Reads packets until there are no more or the turn's share is used up. Returns whether something
 * is left that can be read now. */
static bool tx_run(struct vsock_device *device)
{
    struct tx_packet packets[TX_PACKETS] = {0};
    size_t size = 0;
    while (tx_usable(device) && device->stray_count < BG_VSOCK_RESETS_MAX) {
        struct bg_err err;
        if (size >= TX_TURN_SIZE)
            return true;
        int n = tx_read(device, packets, &err);
        if (n == 0)
            return false;
        if (n > 0)
            ring_flush(device, &device->tx, TX);
        for (int i = 0, r = 0; i < n && r == 0 && tx_usable(device); i++) {
            size += packets[i].copied;
            r = tx_receive(device, &packets[i], &err);
            if (r < 0)
                n = r;
        }
        if (n < 0) {
            (void)bg_err_prefix(&err, "vsock transmit ring");
            device_fail(device, &err);
        }
    }
    return false;
}

/* ---- turns ---- */

/* Asks for kicks where they are needed. Returns whether there is something to do already. */
static bool listen_for_kicks(struct vsock_device *device)
{
    struct bg_err err;
    bool rx_more = false, tx_more = false;
    int r = 0;
    if (rx_usable(device)) {
        bool starved = device->rx_batch.at == device->rx_batch.count &&
                       (!device->ready || device->stray_count > 0 ||
                        !TAILQ_EMPTY(&device->control) || !TAILQ_EMPTY(&device->waiting));
        r = starved ? virtqueue_listen(&device->rx, &rx_more, &err)
                    : virtqueue_ignore(&device->rx, &err);
    }
    if (r == 0 && tx_usable(device)) {
        bool stalled = device->stray_count == BG_VSOCK_RESETS_MAX;
        r = stalled ? virtqueue_ignore(&device->tx, &err)
                    : virtqueue_listen(&device->tx, &tx_more, &err);
    }
    if (r < 0) {
        (void)bg_err_prefix(&err, "vsock");
        device_fail(device, &err);
    }
    return rx_more || tx_more;
}

/* All connections have ended with the old driver; the new one may be told of. */
static void handle_restart(struct vsock_device *device)
{
    if (device->restarted) {
        conns_end_all(device, -ECONNRESET); /* still restarted: nobody can connect in it */
        device->restarted = false;
    }
    if (device->state != DEVICE_OPEN || device->ready || !device->tx_active ||
        !device_rx_available(device))
        return;
    device->ready = true;
    device->opts.on_ready(device->opts.owner);
}

/* Ends everything after a failure. The last statement of whoever calls it. */
static void report_failure(struct vsock_device *device)
{
    device->failure_due = false;
    device->in_turn = true;
    conns_end_all(device, -ECONNRESET);
    device->in_turn = false;
    conns_sweep(device);
    if (device->state == DEVICE_FAILED)
        device->opts.on_failed(device->opts.owner, &device->failure);
}

static void turn(struct vsock_device *device)
{
    (void)uv_idle_stop(&device->idle); /* cannot fail */
    device->in_turn = true;
    bool more = false;
    if (device->state == DEVICE_OPEN)
        handle_restart(device);
    if (device->state == DEVICE_OPEN) {
        conns_send_control(device);
        more = tx_run(device);
    }
    if (device->state == DEVICE_OPEN)
        conns_run_due(device);
    if (device->state == DEVICE_OPEN) {
        conns_send_control(device);
        conns_offer_room(device);
    }
    if (device->state == DEVICE_OPEN) {
        conns_send_control(device);
        rx_flush(device);
        ring_flush(device, &device->tx, TX);
    }
    if (device->state == DEVICE_OPEN) {
        bool waiting = !TAILQ_EMPTY(&device->waiting) && device_rx_available(device);
        (void)uv_idle_stop(&device->idle); /* what this turn asked for is done by it */
        if (more || waiting || !TAILQ_EMPTY(&device->due) || listen_for_kicks(device))
            device_wake(device);
    }
    device->in_turn = false;
    conns_sweep(device);
    if (device->failure_due && device->state == DEVICE_FAILED)
        report_failure(device);
}

static void idle_fired(uv_idle_t *idle)
{
    turn(idle->data);
}

void device_wake(struct vsock_device *device)
{
    if (device->state == DEVICE_CLOSING)
        return;
    /* Cannot fail: it refuses only a NULL callback. */
    (void)uv_idle_start(&device->idle, idle_fired);
}

/* ---- vhost_user's callbacks ---- */

static int on_memory(void *owner, const struct guest_region *regions, size_t count,
                     struct bg_err *err)
{
    struct vsock_device *device = owner;
    return guest_memory_set(&device->memory, regions, count, err);
}

static int ring_opts(struct vsock_device *device, unsigned index, struct virtqueue_opts *ret,
                     struct bg_err *err)
{
    const struct vhost_ring *ring = &device->vhost.rings[index];
    if (ring->size > BG_VSOCK_QUEUE_MAX)
        return bg_err_set(err, -EPROTO, "%" PRIu32 " entries: at most %d", ring->size,
                          BG_VSOCK_QUEUE_MAX);
    *ret = (struct virtqueue_opts){
        .size = (uint16_t)ring->size,
        .base = ring->base,
        .event_idx = (device->vhost.features & VHOST_F_RING_EVENT_IDX) != 0,
        .indirect = (device->vhost.features & VHOST_F_RING_INDIRECT) != 0,
        .device_writes = index == RX,
    };
    /* The first byte of each: virtqueue_start() checks that all of it is RAM. */
    if (guest_memory_from_user(&device->memory, ring->desc, 1, &ret->desc) < 0 ||
        guest_memory_from_user(&device->memory, ring->avail, 1, &ret->avail) < 0 ||
        guest_memory_from_user(&device->memory, ring->used, 1, &ret->used) < 0)
        return bg_err_set(err, -EFAULT, "it is outside the memory table");
    return 0;
}

static int on_start(void *owner, unsigned index, struct bg_err *err)
{
    struct vsock_device *device = owner;
    struct virtqueue_opts opts;
    int r = ring_opts(device, index, &opts, err);
    if (r == 0)
        r = virtqueue_start(index == RX ? &device->rx : &device->tx, &device->memory, &opts, err);
    if (r < 0)
        return r;
    if (index == RX) {
        device->rx_active = true;
        device->rx_batch.at = device->rx_batch.count = device->rx_batch.segment_count = 0;
        device->rx_room = device->rx_header_count = 0;
    } else {
        device->tx_active = true;
        device->tx_batch.at = device->tx_batch.count = device->tx_batch.segment_count = 0;
    }
    /* A driver that has been reset begins both rings at 0; after a pause they go on. (If they go on
     * at 0 by chance, that only looks like a reset.) */
    if (device->rx_active && device->tx_active && device->rx.opts.base == 0 &&
        device->tx.opts.base == 0) {
        device->restarted = true;
        device->ready = false;
    }
    device_wake(device);
    return 0;
}

static uint16_t on_stop(void *owner, unsigned index)
{
    struct vsock_device *device = owner;
    struct virtqueue *vq = index == RX ? &device->rx : &device->tx;
    struct virtqueue_batch *batch = index == RX ? &device->rx_batch : &device->tx_batch;
    if (index == RX)
        device->rx_active = false;
    else
        device->tx_active = false;
    virtqueue_return(vq, (uint16_t)(batch->count - batch->at));
    batch->at = batch->count = batch->segment_count = 0;
    device->rx_room = index == RX ? 0 : device->rx_room;
    return vq->next_avail;
}

static void on_kick(void *owner, unsigned index)
{
    (void)index;
    turn(owner);
}

static void on_vhost_failed(void *owner, const struct bg_err *err)
{
    struct vsock_device *device = owner;
    if (device->state == DEVICE_OPEN)
        device_fail(device, err);
    if (device->failure_due)
        report_failure(device);
}

static void handle_gone(struct vsock_device *device)
{
    if (--device->open_handles > 0)
        return;
    device->in_turn = true;
    conns_end_all(device, -ECONNRESET);
    device->in_turn = false;
    conns_done(device);
    free(device->bounce);
    void (*on_closed)(void *) = device->opts.on_closed;
    void *owner = device->opts.owner;
    free(device);
    on_closed(owner);
}

static void on_vhost_closed(void *owner)
{
    handle_gone(owner);
}

static const struct vhost_user_ops vhost_ops = {
    .on_memory = on_memory,
    .on_start = on_start,
    .on_stop = on_stop,
    .on_kick = on_kick,
    .on_failed = on_vhost_failed,
    .on_closed = on_vhost_closed,
};

/* ---- life ---- */

static int check_socket(int fd, struct bg_err *err)
{
    int type;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0)
        return bg_err_set(err, -EINVAL, "vsock: fd %d is no socket", fd);
    if (type != SOCK_STREAM)
        return bg_err_set(err, -EINVAL, "vsock: fd %d is no stream socket", fd);
    return 0;
}

int vsock_device_open_access(uv_loop_t *loop, const struct vsock_device_opts *opts,
                             const struct guest_memory_access *access,
                             struct vsock_device **ret_device, struct bg_err *err)
{
    assert(opts->on_ready && opts->on_request && opts->on_failed && opts->on_closed);
    assert(opts->guest_cid > BG_VSOCK_HOST_CID);
    int r = check_socket(opts->fd, err);
    if (r < 0)
        return r;
    BG_AUTOFREE struct vsock_device *device = calloc(1, sizeof *device);
    BG_AUTOFREE uint8_t *bounce = malloc(VSOCK_BOUNCE_SIZE);
    if (!device || !bounce)
        return bg_err_set(err, -ENOMEM, "vsock: out of memory");
    device->loop = loop;
    device->opts = *opts;
    device->memory_pid = opts->memory_pid;
    device->memory.access = access ? *access : guest_memory_process(&device->memory_pid);
    conns_init(device);
    r = vhost_user_open(&device->vhost, loop, opts->fd, opts->guest_cid, &vhost_ops, device, err);
    if (r < 0)
        return bg_err_prefix(err, "vsock");
    /* Cannot fail: it only fills the handle in. */
    (void)uv_idle_init(loop, &device->idle);
    device->idle.data = device;
    device->open_handles = 2;
    device->bounce = BG_TAKE(bounce);
    *ret_device = BG_TAKE(device);
    return 0;
}

int vsock_device_open(uv_loop_t *loop, const struct vsock_device_opts *opts,
                      struct vsock_device **ret_device, struct bg_err *err)
{
    return vsock_device_open_access(loop, opts, NULL, ret_device, err);
}

static void idle_closed(uv_handle_t *handle)
{
    handle_gone(handle->data);
}

bool vsock_driver_is_up(const struct vsock_device *device)
{
    return device->rx_active && device->tx_active;
}

void vsock_device_close(struct vsock_device *device)
{
    if (!device)
        return;
    assert(device->state != DEVICE_CLOSING);
    device->state = DEVICE_CLOSING;
    vhost_user_close(&device->vhost);
    device->rx_active = device->tx_active = false;
    uv_close((uv_handle_t *)&device->idle, idle_closed);
}

uint64_t vsock_ram_address(const struct vsock_device *device)
{
    for (size_t i = 0; i < device->memory.region_count; i++)
        if (device->memory.regions[i].guest_addr == 0)
            return device->memory.regions[i].user_addr;
    return 0;
}

size_t vsock_ram_regions(const struct vsock_device *device,
                         struct guest_region ret[BG_VSOCK_REGIONS_MAX])
{
    memcpy(ret, device->memory.regions, device->memory.region_count * sizeof *ret);
    return device->memory.region_count;
}
