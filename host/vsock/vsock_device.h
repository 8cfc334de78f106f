/* vsock_device: what the two halves of the device share, and nobody else includes (tests excepted).
 *
 *   vsock.c       the edge: libuv, vhost_user, both rings; runs turns
 *   vsock_conn.c  the rules: connections, their states and credit; no loop, no rings
 *
 * All work on the guest's packets is done in turns (vsock.c, turn()). A call from outside a turn
 * only sends: what it leads to in terms of callbacks waits for the next turn. */
#pragma once

#include <sys/queue.h>

#include "host/vsock/vhost_user.h"
#include "host/vsock/virtqueue.h"
#include "host/vsock/vsock.h"
#include "host/vsock/vsock_packet.h"

#define VSOCK_BOUNCE_SIZE (256 * 1024) /* packets copied in one go: what a level 2 cache holds */
#define VSOCK_RX_PUBLISH  32           /* packets to the guest that wait to be published */
#define VSOCK_BUCKETS     1024         /* power of two */

/* Control packets that a connection has to send, in the order of sending. RST replaces all. */
enum {
    CONN_SEND_REQUEST = 1,
    CONN_SEND_RESPONSE = 2,
    CONN_SEND_CREDIT_UPDATE = 4,
    CONN_SEND_CREDIT_REQUEST = 8,
    CONN_SEND_SHUTDOWN = 16,
    CONN_SEND_RST = 32,
};

struct vsock_conn {
    struct vsock_device *device;
    TAILQ_ENTRY(vsock_conn) in_all;
    TAILQ_ENTRY(vsock_conn) in_control; /* while to_send != 0 */
    TAILQ_ENTRY(vsock_conn) in_waiting; /* while is_waiting: for receive buffers */
    TAILQ_ENTRY(vsock_conn) in_due;     /* while is_due: on_end is to be called */
    LIST_ENTRY(vsock_conn) in_bucket;   /* unless CONN_OVER */
    uint32_t guest_port, host_port;
    enum {
        CONN_CONNECTING, /* our REQUEST has no answer yet */
        CONN_REQUESTED,  /* the guest's REQUEST has no answer yet */
        CONN_OPEN,
        CONN_OVER, /* not in the table; lives until its last packet and callback are out */
    } state;       /* only moves right, but that the second is passed by */
    const struct vsock_conn_ops *ops; /* NULL: the owner has not answered the request */
    void *owner;
    bool owned; /* the owner holds conn: freed only when it no longer does */
    bool is_waiting, is_due, is_dead;
    bool wants_room;   /* on_writable is owed */
    bool asked_credit; /* CREDIT_REQUEST is sent, and nothing came since */
    uint8_t to_send;
    uint32_t own_shutdown, peer_shutdown; /* VSOCK_SHUTDOWN_* */
    int end_code;
    /* All wrap. received - consumed <= buf_alloc. */
    uint32_t buf_alloc, received, consumed, told; /* told: consumed as the guest knows it */
    uint32_t sent, peer_buf_alloc, peer_fwd_cnt;
};

TAILQ_HEAD(vsock_conn_list, vsock_conn);
LIST_HEAD(vsock_bucket, vsock_conn);

/* A RST owed for a packet that belongs to no connection. */
struct vsock_stray {
    uint32_t guest_port, host_port;
    uint16_t type;
};

struct vsock_device {
    uv_loop_t *loop;
    struct vsock_device_opts opts;
    enum { DEVICE_OPEN, DEVICE_FAILED, DEVICE_CLOSING } state; /* only moves right */
    bool in_turn;
    bool failure_due; /* failed, and on_failed is to be called */
    struct bg_err failure;
    struct vhost_user vhost;
    uv_idle_t idle; /* runs while a turn is owed */
    unsigned open_handles;
    pid_t memory_pid;
    uint8_t *bounce;

    struct guest_memory memory;
    bool rx_active, tx_active;
    bool restarted; /* both rings began anew: connections are stale */
    bool ready;     /* on_ready has been called since */
    struct virtqueue rx, tx;
    struct virtqueue_batch rx_batch, tx_batch;
    size_t rx_room; /* payload that the chains in rx_batch take */
    uint8_t rx_headers[VSOCK_RX_PUBLISH][VSOCK_HEADER_SIZE];
    size_t rx_header_count; /* of packets that wait in rx.out, <= rx.put_count */

    /* vsock_conn.c's */
    struct vsock_conn_list all, control, waiting, due, dead;
    struct vsock_bucket buckets[VSOCK_BUCKETS];
    uint32_t hash_key;
    size_t conn_count;
    uint32_t next_port;
    struct vsock_stray strays[BG_VSOCK_RESETS_MAX]; /* a ring */
    size_t stray_at, stray_count;
    struct vsock_conn *offered; /* its on_writable is running */
    size_t offer_left;          /* bytes that it may write in it */
    uint64_t log_minute;
    unsigned log_lines;
};

/* vsock_device_open with another way to the guest's memory: for tests and fuzzing. */
int vsock_device_open_access(uv_loop_t *loop, const struct vsock_device_opts *opts,
                             const struct guest_memory_access *access,
                             struct vsock_device **ret_device, struct bg_err *err) BG_MUST_CHECK;

/* ---- vsock.c for vsock_conn.c ---- */

/* Payload that can be sent now; looks for new receive buffers when there are few. */
size_t device_rx_room(struct vsock_device *device);
/* True when device_rx_put() may be called once. */
bool device_rx_available(struct vsock_device *device);
/* Payload that the next packet may have; device_rx_available() must be true. */
uint32_t device_rx_packet_max(const struct vsock_device *device);
/* Puts one packet into the next receive buffer. payload: borrowed until device_rx_commit(). */
void device_rx_put(struct vsock_device *device, const struct vsock_packet *packet,
                   const uint8_t *payload);
/* Copies what was put into the guest, and shows it to the guest unless a turn will. */
void device_rx_commit(struct vsock_device *device);
/* A turn is needed. */
void device_wake(struct vsock_device *device);
/* Logs what a guest caused, at a bounded rate. */
void device_log(struct vsock_device *device, const char *format, ...) BG_PRINTF(2, 3);

/* ---- vsock_conn.c for vsock.c; all but the first two and the last are for turns, and may call
 * owners, so that afterwards the device may be closing ---- */

void conns_init(struct vsock_device *device);
/* Sends RSTs and control packets while there are receive buffers. */
void conns_send_control(struct vsock_device *device);
/* Acts on one packet of the guest; payload: packet->size bytes, borrowed for the call. */
void conns_receive(struct vsock_device *device, const struct vsock_packet *packet,
                   const uint8_t *payload);
/* Calls on_end where it is due. */
void conns_run_due(struct vsock_device *device);
/* Calls on_writable for those that wait, in turn, while there is room. */
void conns_offer_room(struct vsock_device *device);
/* Ends all connections without telling the guest. */
void conns_end_all(struct vsock_device *device, int code);
/* Frees those that are dead. */
void conns_sweep(struct vsock_device *device);
/* Frees all, in whatever state. */
void conns_done(struct vsock_device *device);
