/* vhost_front: plays QEMU and the guest's driver against a vsock device in the same process, over a
 * real socketpair and with its own "guest memory". Can behave, and offers what misbehaving takes:
 * raw messages, raw descriptors, raw indices. Nothing here blocks: whoever waits runs the loop. */
#pragma once

#include <uv.h>

#include "host/vsock/guest_memory.h"
#include "host/vsock/vhost_message.h"
#include "host/vsock/vsock_packet.h"

#define FRONT_GUEST_BASE UINT64_C(0x100000)       /* of the RAM, in guest addresses */
#define FRONT_USER_BASE  UINT64_C(0x7f0000000000) /* of the RAM, as "QEMU" has it mapped */
#define FRONT_MEMORY     (4u << 20)
#define FRONT_QUEUE      16u /* entries of each ring */
#define FRONT_TX_BUFFER  (VSOCK_HEADER_SIZE + (64u << 10))
#define FRONT_GUEST_CID  3u

#define FRONT_FEATURES                                                                             \
    (UINT64_C(1) << 32 | UINT64_C(1) << 30 | UINT64_C(1) << 29 | UINT64_C(1) << 28)

enum front_ring_index { FRONT_RX, FRONT_TX };

struct front_ring {
    uint32_t desc, avail, used, buffers; /* offsets in memory */
    uint32_t buffer_size;
    uint16_t avail_idx, used_seen;
    int kick_fd, call_fd;
};

struct vhost_front {
    uv_loop_t *loop;
    int fd;          /* our end; -1 when closed */
    uint8_t *memory; /* FRONT_MEMORY bytes */
    struct guest_memory_access access;
    struct front_ring rings[VHOST_RINGS];
    uint64_t features;
    bool reply_ack;
};

/* Makes the socketpair and the memory. *ret_device_fd: the device's end, owned by the caller.
 * front->access is the accessor for the device; it checks every access. */
void front_init(struct vhost_front *front, uv_loop_t *loop, int *ret_device_fd);
void front_done(struct vhost_front *front);

/* One message with fds; asserts that it can be sent. */
void front_send_message(struct vhost_front *front, uint32_t request, uint32_t flags,
                        const void *payload, uint32_t size, const int *fds, size_t fd_count);
void front_send_u64(struct vhost_front *front, uint32_t request, uint64_t value);
void front_send_vring(struct vhost_front *front, uint32_t request, uint32_t index, uint32_t value);

/* Runs the loop until a reply to request is there, at most 5 s. payload: of payload_size_max.
 * Returns its size, or -1 when the device hung up. */
int front_reply(struct vhost_front *front, uint32_t request, void *payload,
                size_t payload_size_max);

/* Runs the loop until it is idle for some turns. */
void front_settle(struct vhost_front *front);

/* The handshake of QEMU 7.2 up to the config space; returns the guest CID found there. */
uint64_t front_handshake(struct vhost_front *front);

/* As QEMU at DRIVER_OK: features, memory table, both rings from base 0, zeroed. */
void front_start(struct vhost_front *front, uint64_t features);
void front_set_memory(struct vhost_front *front);
void front_start_ring(struct vhost_front *front, enum front_ring_index index, uint16_t base);
/* GET_VRING_BASE. */
uint16_t front_stop_ring(struct vhost_front *front, enum front_ring_index index);

/* ---- the driver ---- */

void front_write_desc(struct vhost_front *front, uint32_t table, uint16_t index, uint64_t addr,
                      uint32_t size, uint16_t flags, uint16_t next);
/* Appends head to the available ring, without a kick. */
void front_publish(struct vhost_front *front, enum front_ring_index index, uint16_t head);
void front_set_avail_idx(struct vhost_front *front, enum front_ring_index index, uint16_t value);
uint16_t front_used_idx(const struct vhost_front *front, enum front_ring_index index);
void front_kick(struct vhost_front *front, enum front_ring_index index);
uint64_t front_calls(struct vhost_front *front, enum front_ring_index index); /* since the last */
uint64_t front_guest_addr(uint32_t offset);

/* Gives one receive buffer per entry, of size bytes each. */
void front_fill_rx(struct vhost_front *front, uint32_t size);

/* Puts one packet into the transmit ring and kicks; the ring must have a free entry. */
void front_transmit(struct vhost_front *front, const struct vsock_packet *packet,
                    const uint8_t *payload);

/* The next packet that the device sent, if there is one; gives the buffer back without a kick.
 * payload: room for the buffer. */
bool front_receive(struct vhost_front *front, struct vsock_packet *ret, uint8_t *payload);
/* Runs the loop until front_receive() has something, at most 5 s. */
bool front_await(struct vhost_front *front, struct vsock_packet *ret, uint8_t *payload);
