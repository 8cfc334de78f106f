#include "host/vsock/virtqueue.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "common/bytes.h"

/* virtio 1.2 §2.7.5, §2.7.6, §2.7.8 */
#define DESC_SIZE          16u
#define DESC_NEXT          1u
#define DESC_WRITE         2u
#define DESC_INDIRECT      4u
#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY     1u
#define RING_HEADER_SIZE   4u /* flags, idx; of both rings */
#define AVAIL_ENTRY_SIZE   2u
#define USED_ENTRY_SIZE    8u
#define EVENT_SIZE         2u /* after the entries of both rings */

static uint64_t used_event_addr(const struct virtqueue *vq)
{
    return vq->opts.avail + RING_HEADER_SIZE + (uint64_t)vq->opts.size * AVAIL_ENTRY_SIZE;
}

static uint64_t avail_event_addr(const struct virtqueue *vq)
{
    return vq->opts.used + RING_HEADER_SIZE + (uint64_t)vq->opts.size * USED_ENTRY_SIZE;
}

static int read_u16(struct virtqueue *vq, uint64_t addr, uint16_t *ret)
{
    int r = guest_copy_add(&vq->in, addr, vq->word_bytes, 2);
    if (r == 0)
        r = guest_copy_run(&vq->in);
    if (r == 0)
        *ret = (uint16_t)(vq->word_bytes[0] | vq->word_bytes[1] << 8);
    return r;
}

/* Writes after everything that waits in vq->out, in a copy of its own. */
static int write_u16(struct virtqueue *vq, uint64_t addr, uint16_t value)
{
    vq->word_bytes[0] = (uint8_t)value;
    vq->word_bytes[1] = (uint8_t)(value >> 8);
    int r = guest_copy_run(&vq->out);
    /* What was written before must be seen before. */
    atomic_thread_fence(memory_order_seq_cst);
    if (r == 0)
        r = guest_copy_add(&vq->out, addr, vq->word_bytes, 2);
    if (r == 0)
        r = guest_copy_run(&vq->out);
    return r;
}

static int ring_fault(struct bg_err *err, int code)
{
    return bg_err_errno(err, code, "access to the ring");
}

int virtqueue_start(struct virtqueue *vq, const struct guest_memory *memory,
                    const struct virtqueue_opts *opts, struct bg_err *err)
{
    uint64_t size = opts->size;
    if (size == 0 || size > BG_VSOCK_QUEUE_MAX || (size & (size - 1)) != 0)
        return bg_err_set(err, -EPROTO, "queue of %" PRIu64 " entries: want a power of two <= %d",
                          size, BG_VSOCK_QUEUE_MAX);
    if (opts->desc % 16 != 0 || opts->avail % 2 != 0 || opts->used % 4 != 0)
        return bg_err_set(err, -EPROTO, "a ring is not aligned");
    if (!guest_memory_contains(memory, opts->desc, size * DESC_SIZE) ||
        !guest_memory_contains(memory, opts->avail,
                               RING_HEADER_SIZE + size * AVAIL_ENTRY_SIZE + EVENT_SIZE) ||
        !guest_memory_contains(memory, opts->used,
                               RING_HEADER_SIZE + size * USED_ENTRY_SIZE + EVENT_SIZE))
        return bg_err_set(err, -EFAULT, "a ring is outside the guest's memory");
    vq->opts = *opts;
    vq->next_avail = opts->base;
    vq->put_count = 0;
    vq->flushed_once = false;
    vq->listening = true; /* as the ring is when the driver has zeroed it */
    guest_copy_init(&vq->in, memory, /* to_guest= */ false);
    guest_copy_init(&vq->out, memory, /* to_guest= */ true);
    /* A queue that was stopped and goes on has used entries already. */
    int r = read_u16(vq, opts->used + 2, &vq->next_used);
    if (r < 0)
        return ring_fault(err, r);
    if (vq->next_used != opts->base) /* we use in order, and stop with nothing in hand */
        return bg_err_set(err, -EPROTO, "ring starts at %u with %u used", opts->base,
                          vq->next_used);
    return 0;
}

/* Moves what is left to the front, so that chains can be appended. */
static void compact(struct virtqueue_batch *batch)
{
    if (batch->at == 0)
        return;
    size_t left = batch->count - batch->at;
    size_t first = left > 0 ? batch->chains[batch->at].segment_first : batch->segment_count;
    memmove(batch->chains, batch->chains + batch->at, left * sizeof batch->chains[0]);
    memmove(batch->segments, batch->segments + first,
            (batch->segment_count - first) * sizeof batch->segments[0]);
    for (size_t i = 0; i < left; i++)
        batch->chains[i].segment_first = (uint16_t)(batch->chains[i].segment_first - first);
    batch->at = 0;
    batch->count = left;
    batch->segment_count -= first;
}

struct descriptor {
    uint64_t addr;
    uint32_t size;
    uint16_t flags, next;
};

static struct descriptor descriptor_at(const uint8_t *table, uint32_t index)
{
    struct bg_reader in = bg_reader_init(table + (size_t)index * DESC_SIZE, DESC_SIZE);
    struct descriptor d;
    d.addr = bg_reader_u64le(&in);
    d.size = bg_reader_u32le(&in);
    d.flags = bg_reader_u16le(&in);
    d.next = bg_reader_u16le(&in);
    return d;
}

/* An indirect table that a chain ends in and that has yet to be read. */
struct indirect {
    size_t chain;  /* in the batch */
    size_t offset; /* in indirect_bytes */
    uint16_t count;
};

static int add_segment(const struct virtqueue *vq, struct virtqueue_batch *batch,
                       struct virtqueue_chain *chain, const struct descriptor *d,
                       struct bg_err *err)
{
    bool writable = (d->flags & DESC_WRITE) != 0;
    if (writable != vq->opts.device_writes)
        return bg_err_set(err, -EPROTO, "chain %u: a descriptor of the wrong direction",
                          chain->head);
    if (d->size == 0 || d->size > UINT32_MAX - chain->size)
        return bg_err_set(err, -EPROTO, "chain %u: descriptor of %" PRIu32 " bytes", chain->head,
                          d->size);
    if (!guest_memory_contains(vq->in.memory, d->addr, d->size))
        return bg_err_set(err, -EFAULT, "chain %u: 0x%" PRIx64 " is outside the guest's memory",
                          chain->head, d->addr);
    batch->segments[chain->segment_first + chain->segment_count] =
        (struct virtqueue_segment){.guest_addr = d->addr, .size = d->size};
    chain->segment_count++;
    chain->size += d->size;
    return 0;
}

/* Walks a table from index first; *ret_indirect is the descriptor that refers to an indirect table
 * and ends the chain, if there is one (flags 0: none). table_size: entries. */
static int walk(const struct virtqueue *vq, struct virtqueue_batch *batch,
                struct virtqueue_chain *chain, const uint8_t *table, uint32_t table_size,
                uint16_t first, struct descriptor *ret_indirect, struct bg_err *err)
{
    uint16_t index = first;
    for (unsigned steps = 0;; steps++) {
        if (index >= table_size)
            return bg_err_set(err, -EPROTO, "chain %u: descriptor %u of %" PRIu32, chain->head,
                              index, table_size);
        /* A table's chain visits none of its descriptors twice. */
        if (steps == table_size || chain->segment_count == BG_VSOCK_CHAIN_MAX)
            return bg_err_set(err, -EPROTO, "chain %u: endless, or more than %d descriptors",
                              chain->head, BG_VSOCK_CHAIN_MAX);
        struct descriptor d = descriptor_at(table, index);
        if (d.flags & ~(DESC_NEXT | DESC_WRITE | DESC_INDIRECT))
            return bg_err_set(err, -EPROTO, "chain %u: descriptor flags 0x%x", chain->head,
                              d.flags);
        if (d.flags & DESC_INDIRECT) {
            if (!ret_indirect || !vq->opts.indirect || (d.flags & DESC_NEXT))
                return bg_err_set(err, -EPROTO, "chain %u: indirect table not allowed here",
                                  chain->head);
            *ret_indirect = d;
            return 0;
        }
        int r = add_segment(vq, batch, chain, &d, err);
        if (r < 0)
            return r;
        if (!(d.flags & DESC_NEXT))
            return 0;
        index = d.next;
    }
}

static int check_indirect(const struct virtqueue *vq, const struct virtqueue_chain *chain,
                          const struct descriptor *d, struct bg_err *err)
{
    uint32_t count = d->size / DESC_SIZE;
    if (d->size % DESC_SIZE != 0 || count == 0 ||
        count > (uint32_t)BG_VSOCK_CHAIN_MAX - chain->segment_count)
        return bg_err_set(err, -EPROTO, "chain %u: indirect table of %" PRIu32 " bytes",
                          chain->head, d->size);
    if (!guest_memory_contains(vq->in.memory, d->addr, d->size))
        return bg_err_set(err, -EFAULT,
                          "chain %u: indirect table 0x%" PRIx64 " is outside the guest's memory",
                          chain->head, d->addr);
    return 0;
}

/* Reads the next count slots of the available ring and the descriptor table. */
static int read_rings(struct virtqueue *vq, size_t count)
{
    size_t first = vq->next_avail & (vq->opts.size - 1u);
    size_t before_wrap = vq->opts.size - first < count ? vq->opts.size - first : count;
    uint64_t slots = vq->opts.avail + RING_HEADER_SIZE;
    int r = guest_copy_add(&vq->in, slots + first * AVAIL_ENTRY_SIZE, vq->avail_bytes,
                           before_wrap * AVAIL_ENTRY_SIZE);
    if (r == 0)
        r = guest_copy_add(&vq->in, slots, vq->avail_bytes + before_wrap * AVAIL_ENTRY_SIZE,
                           (count - before_wrap) * AVAIL_ENTRY_SIZE);
    if (r == 0)
        r = guest_copy_add(&vq->in, vq->opts.desc, vq->desc_bytes,
                           (size_t)vq->opts.size * DESC_SIZE);
    return r == 0 ? guest_copy_run(&vq->in) : r;
}

static int read_indirect(struct virtqueue *vq, struct virtqueue_batch *batch,
                         const struct indirect *tables, size_t count, struct bg_err *err)
{
    int r = guest_copy_run(&vq->in);
    if (r < 0)
        return ring_fault(err, r);
    for (size_t i = 0; i < count; i++) {
        struct virtqueue_chain *chain = &batch->chains[tables[i].chain];
        r = walk(vq, batch, chain, vq->indirect_bytes + tables[i].offset, tables[i].count,
                 /* first= */ 0, /* ret_indirect= */ NULL, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int virtqueue_poll(struct virtqueue *vq, struct virtqueue_batch *batch, size_t chains_max,
                   struct bg_err *err)
{
    compact(batch);
    uint16_t avail_idx = 0;
    int r = read_u16(vq, vq->opts.avail + 2, &avail_idx);
    if (r < 0)
        return ring_fault(err, r);
    /* The guest cannot offer more than it has, nor again what it has not got back: so what is
     * polled and not flushed always fits in used_bytes. */
    size_t count = (uint16_t)(avail_idx - vq->next_avail);
    if (count > vq->opts.size || (uint16_t)(avail_idx - vq->next_used) > vq->opts.size)
        return bg_err_set(err, -EPROTO, "available index jumped by %zu in a queue of %u", count,
                          vq->opts.size);
    size_t room = chains_max > BG_VSOCK_QUEUE_MAX ? BG_VSOCK_QUEUE_MAX : chains_max;
    room = room > batch->count ? room - batch->count : 0;
    if (count > room)
        count = room;
    if (count == 0)
        return 0;
    atomic_thread_fence(memory_order_seq_cst); /* the slots after the index */
    r = read_rings(vq, count);
    if (r < 0)
        return ring_fault(err, r);

    struct indirect tables[BG_VSOCK_QUEUE_MAX];
    size_t table_count = 0, indirect_used = 0, added = 0;
    while (added < count && VIRTQUEUE_SEGMENTS - batch->segment_count >= BG_VSOCK_CHAIN_MAX &&
           VIRTQUEUE_INDIRECT_BYTES - indirect_used >= BG_VSOCK_CHAIN_MAX * DESC_SIZE) {
        const uint8_t *slot = vq->avail_bytes + added * AVAIL_ENTRY_SIZE;
        size_t index = batch->count + added;
        struct virtqueue_chain *chain = &batch->chains[index];
        *chain = (struct virtqueue_chain){.head = (uint16_t)(slot[0] | slot[1] << 8),
                                          .segment_first = (uint16_t)batch->segment_count};
        struct descriptor table = {0};
        r = walk(vq, batch, chain, vq->desc_bytes, vq->opts.size, chain->head, &table, err);
        size_t reserved = chain->segment_count;
        if (r == 0 && (table.flags & DESC_INDIRECT)) {
            r = check_indirect(vq, chain, &table, err);
            if (r < 0)
                return r;
            tables[table_count++] = (struct indirect){.chain = index,
                                                      .offset = indirect_used,
                                                      .count = (uint16_t)(table.size / DESC_SIZE)};
            r = guest_copy_add(&vq->in, table.addr, vq->indirect_bytes + indirect_used, table.size);
            if (r < 0)
                return ring_fault(err, r);
            indirect_used += table.size;
            reserved += table.size / DESC_SIZE; /* its segments go right behind the chain's own */
        }
        if (r < 0) {
            vq->in.count = 0; /* tables that were to be read */
            return r;
        }
        batch->segment_count += reserved;
        added++;
    }
    r = read_indirect(vq, batch, tables, table_count, err);
    if (r < 0)
        return r;
    batch->count += added;
    vq->next_avail = (uint16_t)(vq->next_avail + added);
    return (int)added;
}

void virtqueue_return(struct virtqueue *vq, uint16_t count)
{
    vq->next_avail = (uint16_t)(vq->next_avail - count);
}

void virtqueue_put(struct virtqueue *vq, uint16_t head, uint32_t written)
{
    assert(vq->put_count < vq->opts.size);
    struct bg_writer out =
        bg_writer_init(vq->used_bytes + (size_t)vq->put_count * USED_ENTRY_SIZE, USED_ENTRY_SIZE);
    bg_writer_u32le(&out, head);
    bg_writer_u32le(&out, written);
    vq->put_count++;
}

/* Whether the guest wants an interrupt for used entries [from, vq->next_used). §2.7.7, §2.7.10 */
static int wants_signal(struct virtqueue *vq, uint16_t from, bool *ret)
{
    atomic_thread_fence(memory_order_seq_cst); /* the index is out before this is read */
    uint16_t word = 0;
    int r = read_u16(vq, vq->opts.event_idx ? used_event_addr(vq) : vq->opts.avail, &word);
    if (r < 0)
        return r;
    if (!vq->opts.event_idx)
        *ret = (word & AVAIL_NO_INTERRUPT) == 0;
    else
        *ret = !vq->flushed_once ||
               (uint16_t)(vq->next_used - word - 1) < (uint16_t)(vq->next_used - from);
    vq->flushed_once = true;
    return 0;
}

int virtqueue_flush(struct virtqueue *vq, bool *ret_signal, struct bg_err *err)
{
    if (vq->put_count == 0) {
        int r = guest_copy_run(&vq->out);
        if (r < 0)
            return ring_fault(err, r);
        *ret_signal = false;
        return 0;
    }
    size_t count = vq->put_count;
    size_t first = vq->next_used & (vq->opts.size - 1u);
    size_t before_wrap = vq->opts.size - first < count ? vq->opts.size - first : count;
    uint64_t entries = vq->opts.used + RING_HEADER_SIZE;
    int r = guest_copy_add(&vq->out, entries + first * USED_ENTRY_SIZE, vq->used_bytes,
                           before_wrap * USED_ENTRY_SIZE);
    if (r == 0)
        r = guest_copy_add(&vq->out, entries, vq->used_bytes + before_wrap * USED_ENTRY_SIZE,
                           (count - before_wrap) * USED_ENTRY_SIZE);
    uint16_t from = vq->next_used;
    vq->next_used = (uint16_t)(from + count);
    vq->put_count = 0;
    if (r == 0)
        r = write_u16(vq, vq->opts.used + 2, vq->next_used);
    if (r == 0)
        r = wants_signal(vq, from, ret_signal);
    return r < 0 ? ring_fault(err, r) : 0;
}

int virtqueue_listen(struct virtqueue *vq, bool *ret_more, struct bg_err *err)
{
    int r = 0;
    if (vq->opts.event_idx)
        r = write_u16(vq, avail_event_addr(vq), vq->next_avail);
    else if (!vq->listening)
        r = write_u16(vq, vq->opts.used, 0);
    if (r < 0)
        return ring_fault(err, r);
    vq->listening = true;
    atomic_thread_fence(memory_order_seq_cst); /* asked before looking again */
    uint16_t avail_idx = 0;
    r = read_u16(vq, vq->opts.avail + 2, &avail_idx);
    if (r < 0)
        return ring_fault(err, r);
    *ret_more = avail_idx != vq->next_avail;
    return 0;
}

int virtqueue_ignore(struct virtqueue *vq, struct bg_err *err)
{
    if (!vq->listening)
        return 0;
    vq->listening = false;
    /* With the event index, an old event is passed by and asks for nothing. */
    int r = vq->opts.event_idx ? 0 : write_u16(vq, vq->opts.used, USED_NO_NOTIFY);
    return r < 0 ? ring_fault(err, r) : 0;
}
