/* The connections of a device (virtio 1.2 §5.10.6): a table by the guest's and the host's port, a
 * state for each, and credit both ways.
 *
 * Sending. There is no queue of packets. Data goes straight from the caller's buffer into receive
 * buffers of the guest, as much as fits. Of control packets each connection has at most one of a
 * kind, as a bit in to_send; connections with such bits are in the control list, first come first
 * served, before all data. RSTs for packets of no connection wait in a ring (strays); while it is
 * full the guest's transmit ring is not read. So a guest that gives no receive buffers makes
 * nothing grow.
 *
 * Fairness. Who finds no receive buffers gets into the waiting list; while it is not empty, a
 * newcomer may not write either but goes to its end, and when buffers come each gets its turn of
 * OFFER_SIZE.
 *
 * Ends. A half-close is a SHUTDOWN with one flag. When each side has sent its own, a SHUTDOWN with
 * both flags says that it is over; the guest answers with a RST, which then belongs to no
 * connection and is ignored. A SHUTDOWN with both flags from the guest is answered by RST. A
 * guest that reads late does not lose bytes by either: they are in its buffer. */
#include "host/vsock/vsock_device.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "common/io.h"
#include "common/wire.h"

#define OFFER_SIZE      (128 * 1024)
#define HOST_PORT_FIRST 0x10000u /* of our connects; above all that anyone listens on */
#define HOST_PORT_LAST  0xfffffff0u

void conns_init(struct vsock_device *device)
{
    TAILQ_INIT(&device->all);
    TAILQ_INIT(&device->control);
    TAILQ_INIT(&device->waiting);
    TAILQ_INIT(&device->due);
    TAILQ_INIT(&device->dead);
    for (size_t i = 0; i < VSOCK_BUCKETS; i++)
        LIST_INIT(&device->buckets[i]);
    bg_random(&device->hash_key, sizeof device->hash_key); /* the guest chooses the ports */
    device->next_port =
        HOST_PORT_FIRST + device->opts.first_port % (HOST_PORT_LAST - HOST_PORT_FIRST);
}

static struct vsock_bucket *bucket(struct vsock_device *device, uint32_t guest_port,
                                   uint32_t host_port)
{
    uint64_t h = ((uint64_t)guest_port << 32 | host_port) ^
                 ((uint64_t)device->hash_key << 32 | device->hash_key);
    h *= 0x9e3779b97f4a7c15u; /* 2^64 / golden ratio */
    return &device->buckets[(h >> 40) & (VSOCK_BUCKETS - 1)];
}

static struct vsock_conn *find(struct vsock_device *device, uint32_t guest_port, uint32_t host_port)
{
    struct vsock_conn *c;
    LIST_FOREACH(c, bucket(device, guest_port, host_port), in_bucket)
    {
        if (c->guest_port == guest_port && c->host_port == host_port)
            return c;
    }
    return NULL;
}

/* Bounds the sum of all receive buffers: 64 of the largest, then smaller ones. */
static uint32_t buffer_size(const struct vsock_device *device)
{
    if (device->conn_count < 64)
        return BG_VSOCK_BUFFER_MAX;
    return device->conn_count < 256 ? BG_VSOCK_BUFFER_MAX / 4 : BG_VSOCK_BUFFER_MIN;
}

static struct vsock_conn *conn_new(struct vsock_device *device, uint32_t guest_port,
                                   uint32_t host_port)
{
    struct vsock_conn *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->device = device;
    c->guest_port = guest_port;
    c->host_port = host_port;
    c->buf_alloc = buffer_size(device);
    c->owned = true;
    TAILQ_INSERT_TAIL(&device->all, c, in_all);
    LIST_INSERT_HEAD(bucket(device, guest_port, host_port), c, in_bucket);
    device->conn_count++;
    return c;
}

/* Frees c in the sweep if nobody and nothing needs it any more. */
static void release(struct vsock_conn *c)
{
    if (c->state != CONN_OVER || c->owned || c->to_send != 0 || c->is_dead)
        return;
    assert(!c->is_due && !c->is_waiting);
    c->is_dead = true;
    TAILQ_REMOVE(&c->device->all, c, in_all);
    TAILQ_INSERT_TAIL(&c->device->dead, c, in_all);
}

void conns_sweep(struct vsock_device *device)
{
    struct vsock_conn *c;
    while ((c = TAILQ_FIRST(&device->dead))) {
        TAILQ_REMOVE(&device->dead, c, in_all);
        device->conn_count--;
        free(c);
    }
}

void conns_done(struct vsock_device *device)
{
    conns_sweep(device);
    struct vsock_conn *c;
    while ((c = TAILQ_FIRST(&device->all))) {
        TAILQ_REMOVE(&device->all, c, in_all);
        free(c);
    }
}

static void set_to_send(struct vsock_conn *c, uint8_t to_send)
{
    struct vsock_conn_list *control = &c->device->control;
    if (c->to_send == 0 && to_send != 0)
        TAILQ_INSERT_TAIL(control, c, in_control);
    if (c->to_send != 0 && to_send == 0)
        TAILQ_REMOVE(control, c, in_control);
    c->to_send = to_send;
}

static void want(struct vsock_conn *c, uint8_t packet)
{
    set_to_send(c, c->to_send | packet);
}

/* RST instead of all else; nothing if the guest has not heard of c yet. */
static void want_rst(struct vsock_conn *c)
{
    bool unknown = (c->to_send & CONN_SEND_REQUEST) != 0;
    set_to_send(c, unknown ? 0 : CONN_SEND_RST);
}

/* Sends now what was wanted outside a turn. */
static void send_soon(struct vsock_device *device)
{
    if (device->in_turn)
        return;
    conns_send_control(device);
    conns_sweep(device);
}

static void stop_waiting(struct vsock_conn *c)
{
    if (c->is_waiting)
        TAILQ_REMOVE(&c->device->waiting, c, in_waiting);
    c->is_waiting = false;
}

static void wait_for_room(struct vsock_conn *c)
{
    c->wants_room = true;
    if (!c->is_waiting)
        TAILQ_INSERT_TAIL(&c->device->waiting, c, in_waiting);
    c->is_waiting = true;
    device_wake(c->device);
}

/* Takes c out of the table; only its last packet and callback are left. */
static void set_over(struct vsock_conn *c)
{
    if (c->state == CONN_OVER)
        return;
    c->state = CONN_OVER;
    LIST_REMOVE(c, in_bucket);
    stop_waiting(c);
}

/* c is over: calls on_end as the last thing that is done with it. In turns only. */
static void end_now(struct vsock_conn *c, int code)
{
    set_over(c);
    if (!c->ops) { /* the owner has yet to answer the request, and will hear of it then */
        c->end_code = code;
        return;
    }
    const struct vsock_conn_ops *ops = c->ops;
    void *owner = c->owner;
    c->owned = false;
    release(c);
    ops->on_end(owner, code);
}

/* c is over, and on_end comes with the next turn. */
static void end_later(struct vsock_conn *c, int code)
{
    set_over(c);
    c->end_code = code;
    if (!c->ops || c->is_due)
        return;
    c->is_due = true;
    TAILQ_INSERT_TAIL(&c->device->due, c, in_due);
    device_wake(c->device);
}

void conns_run_due(struct vsock_device *device)
{
    struct vsock_conn *c;
    while ((c = TAILQ_FIRST(&device->due))) {
        TAILQ_REMOVE(&device->due, c, in_due);
        c->is_due = false;
        end_now(c, c->end_code);
    }
}

void conns_end_all(struct vsock_device *device, int code)
{
    struct vsock_conn *c, *next;
    for (c = TAILQ_FIRST(&device->all); c; c = next) {
        next = TAILQ_NEXT(c, in_all);
        set_to_send(c, 0); /* there is nobody to send it to */
        if (c->state != CONN_OVER)
            end_later(c, code);
        release(c);
    }
    device->stray_count = 0;
    conns_run_due(device);
}

/* ---- sending ---- */

static void put_packet(struct vsock_conn *c, uint16_t op, uint32_t flags, const uint8_t *payload,
                       uint32_t size)
{
    struct vsock_packet p = {
        .src_cid = BG_VSOCK_HOST_CID,
        .dst_cid = c->device->opts.guest_cid,
        .src_port = c->host_port,
        .dst_port = c->guest_port,
        .size = size,
        .type = VSOCK_TYPE_STREAM,
        .op = op,
        .flags = flags,
        .buf_alloc = c->buf_alloc,
        .fwd_cnt = c->consumed,
    };
    c->told = c->consumed;
    set_to_send(c, c->to_send & (uint8_t)~CONN_SEND_CREDIT_UPDATE);
    device_rx_put(c->device, &p, payload);
}

static void put_stray(struct vsock_device *device)
{
    const struct vsock_stray *s = &device->strays[device->stray_at];
    struct vsock_packet p = {
        .src_cid = BG_VSOCK_HOST_CID,
        .dst_cid = device->opts.guest_cid,
        .src_port = s->host_port,
        .dst_port = s->guest_port,
        .type = s->type,
        .op = VSOCK_OP_RST,
    };
    device_rx_put(device, &p, NULL);
    device->stray_at = (device->stray_at + 1) % BG_VSOCK_RESETS_MAX;
    device->stray_count--;
}

/* Sends the first control packet of c, which has one. */
static void put_control(struct vsock_conn *c)
{
    unsigned bit = c->to_send & -(unsigned)c->to_send;
    set_to_send(c, c->to_send & (uint8_t)~bit);
    switch (bit) {
    case CONN_SEND_REQUEST:
        put_packet(c, VSOCK_OP_REQUEST, 0, NULL, 0);
        break;
    case CONN_SEND_RESPONSE:
        put_packet(c, VSOCK_OP_RESPONSE, 0, NULL, 0);
        break;
    case CONN_SEND_CREDIT_UPDATE:
        put_packet(c, VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
        break;
    case CONN_SEND_CREDIT_REQUEST:
        put_packet(c, VSOCK_OP_CREDIT_REQUEST, 0, NULL, 0);
        break;
    case CONN_SEND_SHUTDOWN:
        put_packet(c, VSOCK_OP_SHUTDOWN,
                   c->state == CONN_OVER ? VSOCK_SHUTDOWN_BOTH : c->own_shutdown, NULL, 0);
        break;
    default:
        assert(bit == CONN_SEND_RST);
        put_packet(c, VSOCK_OP_RST, 0, NULL, 0);
    }
    release(c);
}

void conns_send_control(struct vsock_device *device)
{
    bool any = false;
    struct vsock_conn *c;
    while (device->stray_count > 0 && device_rx_available(device)) {
        put_stray(device);
        any = true;
    }
    while ((c = TAILQ_FIRST(&device->control)) && device_rx_available(device)) {
        put_control(c);
        any = true;
    }
    if (any)
        device_rx_commit(device);
    if (device->stray_count > 0 || c)
        device_wake(device); /* its turn listens for receive buffers */
}

size_t vsock_write_room(struct vsock_conn *c)
{
    struct vsock_device *device = c->device;
    assert(c->owned && c->ops);
    if (c->state == CONN_OVER || device->state != DEVICE_OPEN)
        return 0; /* on_end follows instead */
    c->wants_room = true;
    if (c->state != CONN_OPEN)
        return 0;
    uint32_t credit = vsock_credit(c->sent, c->peer_buf_alloc, c->peer_fwd_cnt);
    if (credit == 0) {
        if (!c->asked_credit) {
            c->asked_credit = true;
            want(c, CONN_SEND_CREDIT_REQUEST);
            send_soon(device);
        }
        return 0;
    }
    bool turn = device->offered == c;
    if ((c->to_send & CONN_SEND_RESPONSE) || /* must be first */
        (turn && device->offer_left == 0) || (!turn && !TAILQ_EMPTY(&device->waiting))) {
        wait_for_room(c);
        return 0;
    }
    size_t room = device_rx_room(device);
    if (room == 0) {
        wait_for_room(c);
        return 0;
    }
    c->wants_room = false;
    if (room > credit)
        room = credit;
    if (turn && room > device->offer_left)
        room = device->offer_left;
    return room;
}

size_t vsock_write(struct vsock_conn *c, const uint8_t *bytes, size_t size)
{
    struct vsock_device *device = c->device;
    assert(c->owned && c->ops && !(c->own_shutdown & VSOCK_SHUTDOWN_SEND));
    if (c->state == CONN_OVER || device->state != DEVICE_OPEN || vsock_write_closed(c))
        return size; /* nobody will read it */
    size_t taken = 0;
    while (taken < size) {
        size_t room = vsock_write_room(c);
        if (room == 0)
            break;
        size_t part = size - taken < room ? size - taken : room;
        for (size_t at = 0; at < part;) {
            uint32_t packet_max = device_rx_packet_max(device);
            uint32_t n = part - at < packet_max ? (uint32_t)(part - at) : packet_max;
            c->sent += n;
            put_packet(c, VSOCK_OP_RW, 0, bytes + taken + at, n);
            at += n;
        }
        device_rx_commit(device);
        taken += part;
        if (device->offered == c)
            device->offer_left -= part;
    }
    return device->state == DEVICE_OPEN ? taken : size; /* failed: on_end follows */
}

void conns_offer_room(struct vsock_device *device)
{
    struct vsock_conn *c;
    size_t count = 0; /* those that come back wait for the next turn */
    TAILQ_FOREACH(c, &device->waiting, in_waiting)
    count++;
    for (; count > 0 && (c = TAILQ_FIRST(&device->waiting)) && device_rx_available(device);
         count--) {
        stop_waiting(c);
        c->wants_room = false;
        if (!c->ops->on_writable)
            continue;
        device->offered = c;
        device->offer_left = TAILQ_EMPTY(&device->waiting) ? SIZE_MAX : OFFER_SIZE;
        c->ops->on_writable(c->owner);
        device->offered = NULL;
        if (device->state != DEVICE_OPEN)
            return;
    }
}

/* ---- receiving ---- */

static void stray(struct vsock_device *device, const struct vsock_packet *p)
{
    if (p->op == VSOCK_OP_RST)
        return;
    assert(device->stray_count < BG_VSOCK_RESETS_MAX); /* vsock.c reads no packet then */
    size_t at = (device->stray_at + device->stray_count++) % BG_VSOCK_RESETS_MAX;
    device->strays[at] =
        (struct vsock_stray){.guest_port = p->src_port, .host_port = p->dst_port, .type = p->type};
}

/* Resets c for what the guest did. */
static void violated(struct vsock_conn *c, const char *what)
{
    device_log(c->device,
               "vsock: guest port %" PRIu32 ", host port %" PRIu32 ": %s; connection reset",
               c->guest_port, c->host_port, what);
    want_rst(c);
    end_now(c, -ECONNRESET);
}

/* Bounds what an owner has to keep that may have to be sent again. */
static uint32_t window(uint32_t buf_alloc)
{
    return buf_alloc < BG_VSOCK_WINDOW_MAX ? buf_alloc : BG_VSOCK_WINDOW_MAX;
}

static void receive_request(struct vsock_device *device, const struct vsock_packet *p)
{
    struct vsock_conn *c = NULL;
    if (device->conn_count < BG_VSOCK_CONNS_MAX)
        c = conn_new(device, p->src_port, p->dst_port);
    if (!c) {
        device_log(device, "vsock: guest has %zu connections; one more refused",
                   device->conn_count);
        stray(device, p);
        return;
    }
    c->state = CONN_REQUESTED;
    c->peer_buf_alloc = window(p->buf_alloc);
    c->peer_fwd_cnt = p->fwd_cnt;
    device->opts.on_request(device->opts.owner, c, p->dst_port);
}

/* Both directions have ended, by whoever's will. */
static bool both_ended(const struct vsock_conn *c)
{
    bool to_guest =
        (c->own_shutdown & VSOCK_SHUTDOWN_SEND) || (c->peer_shutdown & VSOCK_SHUTDOWN_RECEIVE);
    bool from_guest =
        (c->own_shutdown & VSOCK_SHUTDOWN_RECEIVE) || (c->peer_shutdown & VSOCK_SHUTDOWN_SEND);
    return to_guest && from_guest;
}

static void receive_connecting(struct vsock_conn *c, const struct vsock_packet *p)
{
    if (c->to_send & CONN_SEND_REQUEST) { /* the guest cannot know of it */
        stray(c->device, p);
        return;
    }
    if (p->op == VSOCK_OP_RST) {
        end_now(c, -ECONNREFUSED);
        return;
    }
    if (p->op != VSOCK_OP_RESPONSE) {
        violated(c, "an answer to our connect that is none");
        return;
    }
    c->state = CONN_OPEN;
    if (c->own_shutdown)
        want(c, CONN_SEND_SHUTDOWN);
    if (both_ended(c)) {
        end_now(c, 0);
        return;
    }
    if (c->wants_room)
        wait_for_room(c);
    if (c->ops->on_open)
        c->ops->on_open(c->owner);
}

static void receive_data(struct vsock_conn *c, const struct vsock_packet *p, const uint8_t *payload)
{
    if (c->peer_shutdown & VSOCK_SHUTDOWN_SEND) {
        violated(c, "bytes after its end of file");
        return;
    }
    if (p->size > c->buf_alloc - (c->received - c->consumed)) {
        violated(c, "bytes beyond its credit");
        return;
    }
    if (p->size == 0)
        return;
    c->received += p->size;
    if ((c->own_shutdown & VSOCK_SHUTDOWN_RECEIVE) || !c->ops->on_data) {
        vsock_consumed(c, p->size);
        return;
    }
    c->ops->on_data(c->owner, payload, p->size);
}

static void receive_shutdown(struct vsock_conn *c, const struct vsock_packet *p)
{
    if (p->flags == 0 || (p->flags & ~VSOCK_SHUTDOWN_BOTH)) {
        violated(c, "a shutdown of nothing known");
        return;
    }
    uint32_t added = p->flags & ~c->peer_shutdown;
    c->peer_shutdown |= p->flags;
    bool over = both_ended(c);
    if (over) {
        if (c->peer_shutdown == VSOCK_SHUTDOWN_BOTH)
            want_rst(c);
        else
            want(c, CONN_SEND_SHUTDOWN);
        set_over(c);
    }
    if ((added & VSOCK_SHUTDOWN_SEND) && c->ops->on_eof)
        c->ops->on_eof(c->owner); /* may reset c or close the device */
    if (over) {
        if (c->owned && !c->is_due)
            end_now(c, 0);
        return;
    }
    if ((added & VSOCK_SHUTDOWN_RECEIVE) && c->owned && c->state == CONN_OPEN) {
        stop_waiting(c);
        c->wants_room = false;
        if (c->ops->on_writable)
            c->ops->on_writable(c->owner);
    }
}

static void receive_open(struct vsock_conn *c, const struct vsock_packet *p, const uint8_t *payload)
{
    switch (p->op) {
    case VSOCK_OP_RW:
        receive_data(c, p, payload);
        return;
    case VSOCK_OP_SHUTDOWN:
        receive_shutdown(c, p);
        return;
    case VSOCK_OP_CREDIT_UPDATE:
        return;
    case VSOCK_OP_CREDIT_REQUEST:
        want(c, CONN_SEND_CREDIT_UPDATE);
        return;
    case VSOCK_OP_RST:
        set_to_send(c, 0); /* it has forgotten c */
        end_now(c, -ECONNRESET);
        return;
    default:
        violated(c, "a packet that has no place there");
    }
}

void conns_receive(struct vsock_device *device, const struct vsock_packet *p,
                   const uint8_t *payload)
{
    if (p->src_cid != device->opts.guest_cid || p->dst_cid != BG_VSOCK_HOST_CID)
        return; /* not for us; there is nobody else */
    struct vsock_conn *c = NULL;
    if (p->type == VSOCK_TYPE_STREAM)
        c = find(device, p->src_port, p->dst_port);
    if (!c) {
        if (p->type == VSOCK_TYPE_STREAM && p->op == VSOCK_OP_REQUEST)
            receive_request(device, p);
        else
            stray(device, p);
        return;
    }
    c->peer_buf_alloc = window(p->buf_alloc);
    c->peer_fwd_cnt = p->fwd_cnt;
    c->asked_credit = false;
    if (c->state == CONN_CONNECTING) {
        receive_connecting(c, p);
        return;
    }
    if (c->wants_room && !c->is_waiting && c->state == CONN_OPEN &&
        vsock_credit(c->sent, c->peer_buf_alloc, c->peer_fwd_cnt) > 0)
        wait_for_room(c);
    if (c->state == CONN_OPEN) {
        receive_open(c, p, payload);
        return;
    }
    assert(c->state == CONN_REQUESTED);
    if (p->op == VSOCK_OP_RST)
        end_now(c, -ECONNRESET);
    else if (p->op != VSOCK_OP_CREDIT_UPDATE && p->op != VSOCK_OP_CREDIT_REQUEST)
        violated(c, "a packet before its connect was answered");
}

/* ---- calls of the owners ---- */

/* A port of ours that no connection to guest_port uses. There are far more than connections. */
static uint32_t free_port(struct vsock_device *device, uint32_t guest_port)
{
    for (;;) {
        uint32_t port = device->next_port;
        device->next_port = port < HOST_PORT_LAST ? port + 1 : HOST_PORT_FIRST;
        if (!find(device, guest_port, port))
            return port;
    }
}

int vsock_connect(struct vsock_device *device, uint32_t guest_port,
                  const struct vsock_conn_ops *ops, void *owner, struct vsock_conn **ret_conn,
                  struct bg_err *err)
{
    assert(ops && ops->on_end);
    if (device->state != DEVICE_OPEN || !device->ready || device->restarted)
        return bg_err_set(err, -ENOTCONN, "vsock: the guest's driver is not up");
    if (device->conn_count >= BG_VSOCK_CONNS_MAX)
        return bg_err_set(err, -EMFILE, "vsock: %zu connections are open; end some first",
                          device->conn_count);
    struct vsock_conn *c = conn_new(device, guest_port, free_port(device, guest_port));
    if (!c)
        return bg_err_set(err, -ENOMEM, "vsock: out of memory");
    c->ops = ops;
    c->owner = owner;
    want(c, CONN_SEND_REQUEST);
    send_soon(device);
    *ret_conn = c;
    return 0;
}

void vsock_accept(struct vsock_conn *c, const struct vsock_conn_ops *ops, void *owner)
{
    assert(c->owned && !c->ops && ops && ops->on_end);
    c->ops = ops;
    c->owner = owner;
    if (c->state == CONN_OVER) {
        end_later(c, c->end_code);
        return;
    }
    assert(c->state == CONN_REQUESTED);
    c->state = CONN_OPEN;
    want(c, CONN_SEND_RESPONSE);
    send_soon(c->device);
}

void vsock_attach(struct vsock_conn *c, const struct vsock_conn_ops *ops, void *owner)
{
    assert(c->owned && c->ops && ops && ops->on_end);
    c->ops = ops;
    c->owner = owner;
}

void vsock_consumed(struct vsock_conn *c, size_t size)
{
    assert(size <= c->received - c->consumed);
    c->consumed += (uint32_t)size;
    if (c->state != CONN_OPEN || (c->peer_shutdown & VSOCK_SHUTDOWN_SEND))
        return; /* no more will come */
    /* Each update costs the guest a receive buffer and an interrupt. With this rule it always has
     * three quarters of its buffer to go on with. */
    if (c->consumed - c->told < c->buf_alloc / 4)
        return;
    want(c, CONN_SEND_CREDIT_UPDATE);
    send_soon(c->device);
}

uint32_t vsock_unread(const struct vsock_conn *c)
{
    return c->sent - c->peer_fwd_cnt; /* wraps on purpose */
}

size_t vsock_owe(struct vsock_conn *c, size_t size, size_t leave)
{
    assert(c->state == CONN_CONNECTING && c->received == 0 && c->consumed == 0);
    size_t most = c->buf_alloc > leave ? c->buf_alloc - leave : 0;
    if (size > most)
        size = most;
    c->consumed = c->told = 0u - (uint32_t)size; /* both wrap; each packet of ours tells it */
    return size;
}

/* One direction has ended by the owner's will. */
static void shut(struct vsock_conn *c, uint32_t flag)
{
    assert(c->owned && c->ops);
    if (c->state == CONN_OVER || (c->own_shutdown & flag))
        return;
    c->own_shutdown |= flag;
    if (c->state == CONN_OPEN)
        want(c, CONN_SEND_SHUTDOWN); /* else when the guest has accepted */
    if (c->state == CONN_OPEN && both_ended(c))
        end_later(c, 0);
    send_soon(c->device);
}

void vsock_shutdown(struct vsock_conn *c)
{
    stop_waiting(c);
    c->wants_room = false;
    shut(c, VSOCK_SHUTDOWN_SEND);
}

void vsock_stop_reading(struct vsock_conn *c)
{
    shut(c, VSOCK_SHUTDOWN_RECEIVE);
}

void vsock_reset(struct vsock_conn *c)
{
    if (!c)
        return;
    struct vsock_device *device = c->device;
    assert(c->owned);
    if (c->state != CONN_OVER) {
        want_rst(c);
        set_over(c);
    }
    if (c->is_due)
        TAILQ_REMOVE(&device->due, c, in_due);
    c->is_due = false;
    c->owned = false;
    c->ops = NULL;
    release(c);
    send_soon(device);
}

bool vsock_is_open(const struct vsock_conn *c)
{
    return c->state == CONN_OPEN;
}

bool vsock_at_eof(const struct vsock_conn *c)
{
    return (c->peer_shutdown & VSOCK_SHUTDOWN_SEND) != 0;
}

bool vsock_write_closed(const struct vsock_conn *c)
{
    return (c->peer_shutdown & VSOCK_SHUTDOWN_RECEIVE) != 0;
}
