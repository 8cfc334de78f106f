/* vsock_packet: the header of every virtio-vsock packet (virtio 1.2 §5.10.6), and the arithmetic of
 * its credit. Pure.
 *
 * 0 u64 src_cid | 8 u64 dst_cid | 16 u32 src_port | 20 u32 dst_port | 24 u32 len | 28 u16 type |
 * 30 u16 op | 32 u32 flags | 36 u32 buf_alloc | 40 u32 fwd_cnt; len bytes of payload follow. */
#pragma once

#include "common/bytes.h"

#define VSOCK_HEADER_SIZE 44u
#define VSOCK_TYPE_STREAM 1u

enum vsock_op {
    VSOCK_OP_REQUEST = 1,
    VSOCK_OP_RESPONSE = 2,
    VSOCK_OP_RST = 3,
    VSOCK_OP_SHUTDOWN = 4,
    VSOCK_OP_RW = 5,
    VSOCK_OP_CREDIT_UPDATE = 6,
    VSOCK_OP_CREDIT_REQUEST = 7,
};

/* Flags of SHUTDOWN: what its sender will no longer do. */
#define VSOCK_SHUTDOWN_RECEIVE 1u
#define VSOCK_SHUTDOWN_SEND    2u
#define VSOCK_SHUTDOWN_BOTH    3u

struct vsock_packet {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t size; /* of the payload */
    uint16_t type, op;
    uint32_t flags;
    uint32_t buf_alloc; /* the sender's receive buffer, bytes */
    uint32_t fwd_cnt;   /* bytes that it has taken out of that buffer since the start; wraps */
};

/* Parses VSOCK_HEADER_SIZE untrusted bytes; nothing in it is checked. */
void vsock_packet_parse(const uint8_t bytes[VSOCK_HEADER_SIZE], struct vsock_packet *ret);
void vsock_packet_emit(const struct vsock_packet *packet, uint8_t out[VSOCK_HEADER_SIZE]);

/* What may be sent to a peer that announced buf_alloc and fwd_cnt after sent bytes (wrapping) in
 * all. A peer that shrank its buffer below what is on its way, or lies, gets nothing. */
static inline uint32_t vsock_credit(uint32_t sent, uint32_t buf_alloc, uint32_t fwd_cnt)
{
    uint32_t on_way = sent - fwd_cnt; /* wraps on purpose */
    return on_way < buf_alloc ? buf_alloc - on_way : 0;
}
