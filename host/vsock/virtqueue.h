/* virtqueue: one split ring (virtio 1.2 §2.7) in guest memory, the device's side. Pure but for the
 * copies through guest_memory. Loop thread only.
 *
 * Everything in the ring is the guest's and may change at any time. Each word is copied once into
 * private memory, checked there, and the copy is used; no walk is longer than BG_VSOCK_CHAIN_MAX
 * steps. What is wrong is -EPROTO or -EFAULT and the end of the device, never ours.
 *
 * A system call per access would dominate, so all works on batches: poll reads the available ring
 * and the descriptor table for many chains in one copy (two with indirect tables), and flush writes
 * all used entries in one, then the index in another, so that no entry is seen before it is there.
 */
#pragma once

#include "host/vsock/guest_memory.h"

struct virtqueue_opts {
    uint16_t size;              /* checked here: a power of two, 1..BG_VSOCK_QUEUE_MAX */
    uint64_t desc, avail, used; /* guest addresses; checked here */
    uint16_t base;              /* next entry of the available ring; wraps */
    bool event_idx, indirect;   /* features that the driver has accepted */
    bool device_writes;         /* every buffer must be for the device to write; else to read */
};

struct virtqueue_segment {
    uint64_t guest_addr; /* checked: all of it is RAM */
    uint32_t size;       /* > 0 */
};

struct virtqueue_chain {
    uint16_t head;
    uint16_t segment_first, segment_count; /* in the batch's segments; count > 0 */
    uint32_t size;                         /* sum of the segments */
};

#define VIRTQUEUE_SEGMENTS 1024 /* of one batch; when they are used up the rest waits */

/* Chains that the guest has made available and that are not used yet, oldest first: those from at
 * up to count. */
struct virtqueue_batch {
    size_t at, count, segment_count;
    struct virtqueue_chain chains[BG_VSOCK_QUEUE_MAX];
    struct virtqueue_segment segments[VIRTQUEUE_SEGMENTS];
};

#define VIRTQUEUE_INDIRECT_BYTES (16 * 1024)

struct virtqueue {
    struct virtqueue_opts opts;
    uint16_t next_avail, next_used; /* wrap on purpose */
    uint16_t put_count;             /* used entries that wait for flush, <= opts.size */
    bool flushed_once;
    bool listening;            /* the guest has been asked to kick */
    struct guest_copy in, out; /* callers may add their own before poll, flush */
    /* Private copies of what is in the ring. */
    uint8_t desc_bytes[BG_VSOCK_QUEUE_MAX * 16];
    uint8_t avail_bytes[BG_VSOCK_QUEUE_MAX * 2];
    uint8_t indirect_bytes[VIRTQUEUE_INDIRECT_BYTES];
    uint8_t used_bytes[BG_VSOCK_QUEUE_MAX * 8];
    uint8_t word_bytes[4];
};

/* Starts at opts->base. memory: borrowed until the queue is no longer used.
 * Errors: -EPROTO size or alignment; -EFAULT the ring is not in RAM. */
int virtqueue_start(struct virtqueue *vq, const struct guest_memory *memory,
                    const struct virtqueue_opts *opts, struct bg_err *err) BG_MUST_CHECK;

/* Adds chains to batch (dropping what is before batch->at) until it holds chains_max, it is full or
 * the guest has no more. Returns how many were added. Errors: -EPROTO, -EFAULT. */
int virtqueue_poll(struct virtqueue *vq, struct virtqueue_batch *batch, size_t chains_max,
                   struct bg_err *err) BG_MUST_CHECK;

/* Gives the last count polled chains back unused; the next poll finds them again. */
void virtqueue_return(struct virtqueue *vq, uint16_t count);

/* One polled chain is used; flush tells the guest. written: bytes, 0 for what the device reads. */
void virtqueue_put(struct virtqueue *vq, uint16_t head, uint32_t written);

/* Does the copies that wait in out, then publishes the used entries. *ret_signal: the guest wants
 * an interrupt. Errors: -EFAULT and others of the accessor. */
int virtqueue_flush(struct virtqueue *vq, bool *ret_signal, struct bg_err *err) BG_MUST_CHECK;

/* Asks for a kick at the next new chain. *ret_more: there is one already, no kick may come for it.
 * Errors: as flush. */
int virtqueue_listen(struct virtqueue *vq, bool *ret_more, struct bg_err *err) BG_MUST_CHECK;

/* Tells the guest that no kick is needed until virtqueue_listen(). Errors: as flush. */
int virtqueue_ignore(struct virtqueue *vq, struct bg_err *err) BG_MUST_CHECK;
