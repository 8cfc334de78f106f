/* A split ring in hostile memory. Input: u8 options (1 event index, 2 indirect, 4 device writes),
 * u8 log2 of the size, then the start of the guest's memory: descriptors at 0, available ring at
 * 0x800, used ring at 0xc00. After each poll the available index moves on by itself. */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "host/vsock/virtqueue.h"

#define MEMORY (64u << 10)
#define AVAIL  0x800u
#define USED   0xc00u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static int copy(uint8_t *memory, const struct iovec *local, const struct iovec *remote,
                size_t count, bool to_guest)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t at = (uintptr_t)remote[i].iov_base;
        if (at > MEMORY || remote[i].iov_len > MEMORY - at)
            abort(); /* the table was checked before */
        if (to_guest)
            memcpy(memory + at, local[i].iov_base, local[i].iov_len);
        else
            memcpy(local[i].iov_base, memory + at, local[i].iov_len);
    }
    return 0;
}

static int memory_read(void *context, const struct iovec *local, const struct iovec *remote,
                       size_t count)
{
    return copy(context, local, remote, count, /* to_guest= */ false);
}

static int memory_write(void *context, const struct iovec *local, const struct iovec *remote,
                        size_t count)
{
    return copy(context, local, remote, count, /* to_guest= */ true);
}

static void check_chain(const struct guest_memory *memory, const struct virtqueue_batch *batch,
                        const struct virtqueue_chain *c)
{
    uint64_t total = 0;
    if (c->segment_count == 0 || c->segment_count > BG_VSOCK_CHAIN_MAX ||
        (size_t)c->segment_first + c->segment_count > VIRTQUEUE_SEGMENTS)
        abort();
    for (size_t i = 0; i < c->segment_count; i++) {
        const struct virtqueue_segment *s = &batch->segments[c->segment_first + i];
        if (s->size == 0 || !guest_memory_contains(memory, s->guest_addr, s->size))
            abort();
        total += s->size;
    }
    if (total != c->size)
        abort();
}

static void drive(struct virtqueue *vq, struct virtqueue_batch *batch, uint8_t *ram,
                  const struct guest_memory *memory)
{
    for (int round = 0; round < 8; round++) {
        int n = virtqueue_poll(vq, batch, 1 + (size_t)round * 37, NULL);
        if (n < 0)
            return;
        /* Some are left for the next round. */
        for (; batch->at < batch->count && (round % 3 != 1 || batch->at < 1); batch->at++) {
            const struct virtqueue_chain *c = &batch->chains[batch->at];
            check_chain(memory, batch, c);
            virtqueue_put(vq, c->head, c->size);
        }
        bool flag;
        if (virtqueue_flush(vq, &flag, NULL) < 0 || virtqueue_listen(vq, &flag, NULL) < 0 ||
            virtqueue_ignore(vq, NULL) < 0)
            return;
        uint16_t idx = (uint16_t)(ram[AVAIL + 2] | ram[AVAIL + 3] << 8);
        idx = (uint16_t)(idx + round);
        ram[AVAIL + 2] = (uint8_t)idx;
        ram[AVAIL + 3] = (uint8_t)(idx >> 8);
    }
    virtqueue_return(vq, (uint16_t)(batch->count - batch->at));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size < 2 || size - 2 > MEMORY)
        return 0;
    uint8_t *ram = calloc(1, MEMORY);
    struct virtqueue *vq = calloc(1, sizeof *vq);
    struct virtqueue_batch *batch = calloc(1, sizeof *batch);
    if (!ram || !vq || !batch)
        abort();
    memcpy(ram, bytes + 2, size - 2);
    struct guest_memory memory = {
        .access = {.read = memory_read, .write = memory_write, .context = ram}};
    /* Two regions that touch, so that buffers may span them. */
    const struct guest_region regions[] = {
        {.guest_addr = 0, .size = MEMORY / 2, .user_addr = 0},
        {.guest_addr = MEMORY / 2, .size = MEMORY / 2, .user_addr = MEMORY / 2},
    };
    if (guest_memory_set(&memory, regions, 2, NULL) < 0)
        abort();
    const struct virtqueue_opts opts = {
        .size = (uint16_t)(1u << (bytes[1] % 8)),
        .desc = 0,
        .avail = AVAIL,
        .used = USED,
        .base = (uint16_t)(size > 2 + USED + 3 ? ram[USED + 2] | ram[USED + 3] << 8 : 0),
        .event_idx = (bytes[0] & 1) != 0,
        .indirect = (bytes[0] & 2) != 0,
        .device_writes = (bytes[0] & 4) != 0,
    };
    if (virtqueue_start(vq, &memory, &opts, NULL) == 0)
        drive(vq, batch, ram, &memory);
    free(ram);
    free(vq);
    free(batch);
    return 0;
}
