/* vhost_message: the messages of vhost-user (QEMU docs/interop/vhost-user) that a vsock device
 * needs, from bytes to values and back. Pure. QEMU is untrusted: the guest may own it.
 *
 * Header, little endian here: 0 u32 request | 4 u32 flags: version 1 in bits 0-1, 4 reply, 8 answer
 * wanted | 8 u32 payload size. Fds come along as SCM_RIGHTS. */
#pragma once

#include "common/bytes.h"
#include "host/vsock/guest_memory.h"

#define VHOST_HEADER_SIZE 12u
#define VHOST_PAYLOAD_MAX 268u /* of a config message: 12 + 256; the memory table has 264 */
#define VHOST_CONFIG_MAX  256u
#define VHOST_RINGS       2u /* rx, tx; the event queue is QEMU's own (it resets the transport) */

enum vhost_request {
    VHOST_GET_FEATURES = 1,
    VHOST_SET_FEATURES = 2,
    VHOST_SET_OWNER = 3,
    VHOST_SET_MEM_TABLE = 5,
    VHOST_SET_VRING_NUM = 8,
    VHOST_SET_VRING_ADDR = 9,
    VHOST_SET_VRING_BASE = 10,
    VHOST_GET_VRING_BASE = 11,
    VHOST_SET_VRING_KICK = 12,
    VHOST_SET_VRING_CALL = 13,
    VHOST_SET_VRING_ERR = 14,
    VHOST_GET_PROTOCOL_FEATURES = 15,
    VHOST_SET_PROTOCOL_FEATURES = 16,
    VHOST_GET_QUEUE_NUM = 17,
    VHOST_SET_VRING_ENABLE = 18,
    VHOST_GET_CONFIG = 24,
};

struct vhost_header {
    uint32_t request; /* not checked against the enum */
    bool need_reply;
    uint32_t payload_size; /* <= VHOST_PAYLOAD_MAX */
};

struct vhost_message {
    enum vhost_request request;
    bool need_reply;
    bool has_fd;                         /* KICK, CALL, ERR: one came along */
    uint32_t index;                      /* of the ring, < VHOST_RINGS; all VRING requests */
    uint32_t value;                      /* NUM, BASE, ENABLE (0 or 1) */
    uint64_t bits;                       /* SET_FEATURES, SET_PROTOCOL_FEATURES; unchecked */
    uint64_t desc, avail, used;          /* ADDR: QEMU's user addresses, unchecked */
    uint32_t config_offset, config_size; /* GET_CONFIG: size 1..VHOST_CONFIG_MAX */
    struct guest_region regions[BG_VSOCK_REGIONS_MAX]; /* SET_MEM_TABLE; unchecked */
    size_t region_count;
};

/* Parses exactly VHOST_HEADER_SIZE bytes. Errors: -EPROTO version, flags or payload size. */
int vhost_header_parse(const uint8_t *bytes, size_t size, struct vhost_header *ret,
                       struct bg_err *err) BG_MUST_CHECK;

/* Parses the payload, exactly header->payload_size bytes, that came with fd_count fds.
 * Errors: -EPROTO unknown request, wrong size, index, value or number of fds. */
int vhost_message_parse(const struct vhost_header *header, const uint8_t *payload, size_t fd_count,
                        struct vhost_message *ret, struct bg_err *err) BG_MUST_CHECK;

/* Replies to request: header and payload. w fails if it is too small. */
void vhost_reply_u64(enum vhost_request request, uint64_t value, struct bg_writer *w);
void vhost_reply_vring(enum vhost_request request, uint32_t index, uint32_t value,
                       struct bg_writer *w);
/* bytes: the config space's, size of them from offset on. */
void vhost_reply_config(uint32_t offset, const uint8_t *bytes, uint32_t size, struct bg_writer *w);
