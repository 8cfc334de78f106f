#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "host/vsock/virtqueue.h"
#include "tests/lib/vhost_front.h"

#define NEXT     1u
#define WRITE    2u
#define INDIRECT 4u
#define TABLE    0x200000u /* offset of indirect tables in memory */

struct fixture {
    uv_loop_t loop;
    struct vhost_front front;
    struct guest_memory memory;
    struct virtqueue vq;
    struct virtqueue_batch batch;
    struct bg_err err;
};

static struct virtqueue_opts opts_for(const struct fixture *f, bool device_writes)
{
    const struct front_ring *ring = &f->front.rings[FRONT_TX];
    return (struct virtqueue_opts){
        .size = FRONT_QUEUE,
        .desc = front_guest_addr(ring->desc),
        .avail = front_guest_addr(ring->avail),
        .used = front_guest_addr(ring->used),
        .event_idx = true,
        .indirect = true,
        .device_writes = device_writes,
    };
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    int fd;
    front_init(&f->front, &f->loop, &fd);
    (void)close(fd);
    f->memory.access = f->front.access;
    const struct guest_region region = {
        .guest_addr = FRONT_GUEST_BASE, .size = FRONT_MEMORY, .user_addr = FRONT_USER_BASE};
    assert_int_equal(guest_memory_set(&f->memory, &region, 1, NULL), 0);
    struct virtqueue_opts opts = opts_for(f, false);
    assert_int_equal(virtqueue_start(&f->vq, &f->memory, &opts, &f->err), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    front_done(&f->front);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    free(f);
    return 0;
}

static void desc(struct fixture *f, uint16_t index, uint32_t offset, uint32_t size, uint16_t flags,
                 uint16_t next)
{
    front_write_desc(&f->front, f->front.rings[FRONT_TX].desc, index, front_guest_addr(offset),
                     size, flags, next);
}

static void publish(struct fixture *f, uint16_t head)
{
    front_publish(&f->front, FRONT_TX, head);
}

static int poll(struct fixture *f)
{
    return virtqueue_poll(&f->vq, &f->batch, BG_VSOCK_QUEUE_MAX, &f->err);
}

static void refuses_bad_rings(void **state)
{
    struct fixture *f = *state;
    struct virtqueue_opts good = opts_for(f, false);
    const uint16_t sizes[] = {0, 3, 12, BG_VSOCK_QUEUE_MAX + 1, BG_VSOCK_QUEUE_MAX * 2, 0x8000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct virtqueue_opts opts = good;
        opts.size = sizes[i];
        assert_int_equal(virtqueue_start(&f->vq, &f->memory, &opts, &f->err), -EPROTO);
    }
    for (int i = 0; i < 3; i++) {
        struct virtqueue_opts opts = good;
        uint64_t *addr = i == 0 ? &opts.desc : i == 1 ? &opts.avail : &opts.used;
        *addr += 1;
        assert_int_equal(virtqueue_start(&f->vq, &f->memory, &opts, &f->err), -EPROTO);
        *addr = FRONT_GUEST_BASE + FRONT_MEMORY - 16; /* its end sticks out */
        assert_int_equal(virtqueue_start(&f->vq, &f->memory, &opts, &f->err), -EFAULT);
        *addr = 0;
        assert_int_equal(virtqueue_start(&f->vq, &f->memory, &opts, &f->err), -EFAULT);
        *addr = UINT64_MAX - 15;
        assert_int_equal(virtqueue_start(&f->vq, &f->memory, &opts, &f->err), -EFAULT);
    }
    struct virtqueue_opts opts = good;
    opts.base = 5; /* nothing is used yet */
    assert_int_equal(virtqueue_start(&f->vq, &f->memory, &opts, &f->err), -EPROTO);
}

static void walks_direct_chains(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(poll(f), 0);
    desc(f, 3, 0x1000, 44, NEXT, 9);
    desc(f, 9, 0x2000, 100, NEXT, 0);
    desc(f, 0, 0x3000, 1, 0, 77); /* next without its flag means nothing */
    desc(f, 5, 0x4000, 8, 0, 0);
    publish(f, 3);
    publish(f, 5);
    assert_int_equal(poll(f), 2);
    assert_int_equal(f->batch.count, 2);
    const struct virtqueue_chain *c = f->batch.chains;
    assert_int_equal(c[0].head, 3);
    assert_int_equal(c[0].segment_count, 3);
    assert_int_equal(c[0].size, 145);
    assert_int_equal(f->batch.segments[c[0].segment_first + 1].guest_addr,
                     front_guest_addr(0x2000));
    assert_int_equal(f->batch.segments[c[0].segment_first + 1].size, 100);
    assert_int_equal(c[1].head, 5);
    assert_int_equal(c[1].size, 8);
    assert_int_equal(poll(f), 0); /* each once */
}

static void walks_indirect_tables(void **state)
{
    struct fixture *f = *state;
    for (uint16_t i = 0; i < 4; i++) {
        uint32_t table = TABLE + i * 0x100u;
        front_write_desc(&f->front, table, 0, front_guest_addr(0x1000), 44, NEXT, 2);
        front_write_desc(&f->front, table, 2, front_guest_addr(0x2000), 10u + i, 0, 0);
        desc(f, i, table, 3 * 16, INDIRECT, 0);
        publish(f, i);
    }
    /* A direct part before it. */
    desc(f, 10, 0x5000, 6, NEXT, 11);
    desc(f, 11, TABLE, 3 * 16, INDIRECT, 0);
    publish(f, 10);
    assert_int_equal(poll(f), 5);
    for (uint16_t i = 0; i < 4; i++) {
        assert_int_equal(f->batch.chains[i].segment_count, 2);
        assert_int_equal(f->batch.chains[i].size, 54 + i);
    }
    assert_int_equal(f->batch.chains[4].segment_count, 3);
    assert_int_equal(f->batch.chains[4].size, 6 + 54);
    const struct virtqueue_segment *s = &f->batch.segments[f->batch.chains[4].segment_first];
    assert_int_equal(s[0].size, 6);
    assert_int_equal(s[1].size, 44);
    assert_int_equal(s[2].size, 10);
}

static void refuses_bad_chains(void **state)
{
    struct fixture *f = *state;
    const struct {
        const char *what;
        struct {
            uint64_t addr;
            uint32_t size;
            uint16_t flags, next;
        } d[2], table[2];
        uint16_t head;
        int code;
    } rows[] = {
        {.what = "head beyond the table", .head = FRONT_QUEUE, .code = -EPROTO},
        {.what = "head far beyond", .head = 0xffff, .code = -EPROTO},
        {.what = "next beyond the table",
         .d = {{FRONT_GUEST_BASE, 8, NEXT, FRONT_QUEUE}},
         .code = -EPROTO},
        {.what = "loop of one", .d = {{FRONT_GUEST_BASE, 8, NEXT, 0}}, .code = -EPROTO},
        {.what = "loop of two",
         .d = {{FRONT_GUEST_BASE, 8, NEXT, 1}, {FRONT_GUEST_BASE, 8, NEXT, 0}},
         .code = -EPROTO},
        {.what = "empty descriptor", .d = {{FRONT_GUEST_BASE, 0, 0, 0}}, .code = -EPROTO},
        {.what = "wrong direction", .d = {{FRONT_GUEST_BASE, 8, WRITE, 0}}, .code = -EPROTO},
        {.what = "unknown flag", .d = {{FRONT_GUEST_BASE, 8, 8, 0}}, .code = -EPROTO},
        {.what = "below RAM", .d = {{FRONT_GUEST_BASE - 1, 8, 0, 0}}, .code = -EFAULT},
        {.what = "beyond RAM",
         .d = {{FRONT_GUEST_BASE + FRONT_MEMORY - 7, 8, 0, 0}},
         .code = -EFAULT},
        {.what = "address wraps", .d = {{UINT64_MAX - 3, 8, 0, 0}}, .code = -EFAULT},
        {.what = "size beyond RAM", .d = {{FRONT_GUEST_BASE, UINT32_MAX, 0, 0}}, .code = -EFAULT},
        {.what = "indirect with next",
         .d = {{FRONT_GUEST_BASE + TABLE, 16, INDIRECT | NEXT, 1}},
         .code = -EPROTO},
        {.what = "indirect size not of entries",
         .d = {{FRONT_GUEST_BASE + TABLE, 17, INDIRECT, 0}},
         .code = -EPROTO},
        {.what = "indirect empty",
         .d = {{FRONT_GUEST_BASE + TABLE, 0, INDIRECT, 0}},
         .code = -EPROTO},
        {.what = "indirect too long",
         .d = {{FRONT_GUEST_BASE + TABLE, 16 * (BG_VSOCK_CHAIN_MAX + 1), INDIRECT, 0}},
         .code = -EPROTO},
        {.what = "indirect table outside",
         .d = {{FRONT_GUEST_BASE + FRONT_MEMORY - 8, 16, INDIRECT, 0}},
         .code = -EFAULT},
        {.what = "nested indirect",
         .d = {{FRONT_GUEST_BASE + TABLE, 32, INDIRECT, 0}},
         .table = {{FRONT_GUEST_BASE + TABLE, 16, INDIRECT, 0}},
         .code = -EPROTO},
        {.what = "loop in an indirect table",
         .d = {{FRONT_GUEST_BASE + TABLE, 32, INDIRECT, 0}},
         .table = {{FRONT_GUEST_BASE, 8, NEXT, 1}, {FRONT_GUEST_BASE, 8, NEXT, 0}},
         .code = -EPROTO},
        {.what = "next beyond an indirect table",
         .d = {{FRONT_GUEST_BASE + TABLE, 32, INDIRECT, 0}},
         .table = {{FRONT_GUEST_BASE, 8, NEXT, 2}},
         .code = -EPROTO},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct virtqueue_opts opts = opts_for(f, false);
        f->batch = (struct virtqueue_batch){0};
        front_set_avail_idx(&f->front, FRONT_TX, 0);
        assert_int_equal(virtqueue_start(&f->vq, &f->memory, &opts, &f->err), 0);
        for (uint16_t k = 0; k < 2; k++) {
            front_write_desc(&f->front, f->front.rings[FRONT_TX].desc, k, rows[i].d[k].addr,
                             rows[i].d[k].size, rows[i].d[k].flags, rows[i].d[k].next);
            front_write_desc(&f->front, TABLE, k, rows[i].table[k].addr, rows[i].table[k].size,
                             rows[i].table[k].flags, rows[i].table[k].next);
        }
        publish(f, rows[i].head);
        int r = poll(f);
        if (r != rows[i].code)
            fail_msg("%s: %d", rows[i].what, r);
        assert_int_equal(f->batch.count, 0);
    }
}

static void refuses_features_not_negotiated(void **state)
{
    struct fixture *f = *state;
    struct virtqueue_opts opts = opts_for(f, false);
    opts.indirect = false;
    assert_int_equal(virtqueue_start(&f->vq, &f->memory, &opts, &f->err), 0);
    front_write_desc(&f->front, TABLE, 0, FRONT_GUEST_BASE, 8, 0, 0);
    desc(f, 0, TABLE, 16, INDIRECT, 0);
    publish(f, 0);
    assert_int_equal(poll(f), -EPROTO);
}

static void bounds_long_chains(void **state)
{
    struct fixture *f = *state;
    for (uint16_t i = 0; i <= BG_VSOCK_CHAIN_MAX; i++)
        front_write_desc(&f->front, TABLE, i, FRONT_GUEST_BASE, 1, NEXT, (uint16_t)(i + 1));
    front_write_desc(&f->front, TABLE, BG_VSOCK_CHAIN_MAX - 1, FRONT_GUEST_BASE, 1, 0, 0);
    desc(f, 0, TABLE, 16 * BG_VSOCK_CHAIN_MAX, INDIRECT, 0);
    publish(f, 0);
    assert_int_equal(poll(f), 1);
    assert_int_equal(f->batch.chains[0].size, BG_VSOCK_CHAIN_MAX);
    /* One more in front of it. */
    desc(f, 1, 0, 1, NEXT, 0);
    publish(f, 1);
    assert_int_equal(poll(f), -EPROTO);
}

static void spreads_many_long_chains_over_polls(void **state)
{
    struct fixture *f = *state;
    for (uint16_t i = 0; i < BG_VSOCK_CHAIN_MAX; i++)
        front_write_desc(&f->front, TABLE, i, FRONT_GUEST_BASE, 1,
                         i + 1 < BG_VSOCK_CHAIN_MAX ? NEXT : 0, (uint16_t)(i + 1));
    for (uint16_t i = 0; i < FRONT_QUEUE; i++) {
        desc(f, i, TABLE, 16 * BG_VSOCK_CHAIN_MAX, INDIRECT, 0);
        publish(f, i);
    }
    uint16_t seen = 0;
    while (seen < FRONT_QUEUE) {
        int n = poll(f);
        assert_true(n > 0);
        for (; f->batch.at < f->batch.count; f->batch.at++) {
            const struct virtqueue_chain *c = &f->batch.chains[f->batch.at];
            assert_int_equal(c->head, seen++);
            assert_int_equal(c->size, BG_VSOCK_CHAIN_MAX);
        }
    }
}

static void refuses_jumping_indices(void **state)
{
    struct fixture *f = *state;
    front_set_avail_idx(&f->front, FRONT_TX, FRONT_QUEUE + 1);
    assert_int_equal(poll(f), -EPROTO);
    front_set_avail_idx(&f->front, FRONT_TX, 0xffff); /* backwards */
    assert_int_equal(poll(f), -EPROTO);
    /* What has not been given back cannot be offered again. */
    desc(f, 0, 0, 1, 0, 0);
    front_set_avail_idx(&f->front, FRONT_TX, FRONT_QUEUE);
    assert_int_equal(poll(f), (int)FRONT_QUEUE);
    for (unsigned i = 0; i < FRONT_QUEUE; i++)
        virtqueue_put(&f->vq, 0, 0);
    front_set_avail_idx(&f->front, FRONT_TX, FRONT_QUEUE + 1);
    assert_int_equal(poll(f), -EPROTO);
}

static void keeps_unused_chains_over_polls_and_returns_them(void **state)
{
    struct fixture *f = *state;
    for (uint16_t i = 0; i < 4; i++) {
        desc(f, i, 0x1000u * i, 10u + i, 0, 0);
        publish(f, i);
    }
    assert_int_equal(virtqueue_poll(&f->vq, &f->batch, 2, &f->err), 2);
    f->batch.at = 1; /* one is used */
    assert_int_equal(poll(f), 2);
    assert_int_equal(f->batch.count, 3);
    for (uint16_t i = 0; i < 3; i++) {
        assert_int_equal(f->batch.chains[i].head, i + 1);
        assert_int_equal(f->batch.segments[f->batch.chains[i].segment_first].size, 11 + i);
    }
    virtqueue_return(&f->vq, 3);
    f->batch = (struct virtqueue_batch){0};
    assert_int_equal(poll(f), 3);
    assert_int_equal(f->batch.chains[0].head, 1);
}

static uint32_t used_word(const struct fixture *f, uint32_t slot, uint32_t word)
{
    struct bg_reader in = bg_reader_init(
        f->front.memory + f->front.rings[FRONT_TX].used + 4 + 8 * slot + 4 * word, 4);
    return bg_reader_u32le(&in);
}

/* Uses count chains and flushes; returns whether a signal is wanted. */
static bool use(struct fixture *f, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        publish(f, 0);
        f->batch.at = f->batch.count;
        assert_int_equal(poll(f), 1);
        virtqueue_put(&f->vq, 0, i);
    }
    bool signal = false;
    assert_int_equal(virtqueue_flush(&f->vq, &signal, &f->err), 0);
    return signal;
}

static void set_u16(struct fixture *f, uint32_t at, uint16_t value)
{
    f->front.memory[at] = (uint8_t)value;
    f->front.memory[at + 1] = (uint8_t)(value >> 8);
}

static void signals_by_event_index(void **state)
{
    struct fixture *f = *state;
    uint32_t event = f->front.rings[FRONT_TX].avail + 4 + 2 * FRONT_QUEUE;
    desc(f, 0, 0, 1, 0, 0);
    assert_true(use(f, 1)); /* the first flush always */
    set_u16(f, event, 1);
    assert_true(use(f, 1));
    assert_false(use(f, 3)); /* the event has passed */
    set_u16(f, event, 9);
    assert_false(use(f, 4)); /* 9 used: not yet beyond the event */
    assert_true(use(f, 1));
    set_u16(f, event, 20);
    assert_true(use(f, FRONT_QUEUE)); /* passes it, and wraps around the ring */
    assert_int_equal(front_used_idx(&f->front, FRONT_TX), 10 + FRONT_QUEUE);
    assert_int_equal(used_word(f, 10, 1), 0);
    assert_int_equal(used_word(f, 9, 1), FRONT_QUEUE - 1);
    for (unsigned i = 0; i < 5000; i++) /* the indices wrap */
        (void)use(f, FRONT_QUEUE);
    uint16_t idx = front_used_idx(&f->front, FRONT_TX);
    set_u16(f, event, idx);
    assert_true(use(f, 1));
    assert_false(use(f, 1));
}

static void signals_by_flag_without_event_index(void **state)
{
    struct fixture *f = *state;
    struct virtqueue_opts opts = opts_for(f, false);
    opts.event_idx = false;
    assert_int_equal(virtqueue_start(&f->vq, &f->memory, &opts, &f->err), 0);
    desc(f, 0, 0, 1, 0, 0);
    assert_true(use(f, 1));
    assert_true(use(f, 1));
    set_u16(f, f->front.rings[FRONT_TX].avail, 1);
    assert_false(use(f, 1));
    /* And kicks are asked for by a flag, too. */
    uint32_t flags = f->front.rings[FRONT_TX].used;
    assert_int_equal(virtqueue_ignore(&f->vq, &f->err), 0);
    assert_int_equal(f->front.memory[flags], 1);
    bool more = true;
    assert_int_equal(virtqueue_listen(&f->vq, &more, &f->err), 0);
    assert_int_equal(f->front.memory[flags], 0);
    assert_false(more);
}

static void sees_what_came_before_it_listened(void **state)
{
    struct fixture *f = *state;
    bool more = true;
    assert_int_equal(virtqueue_listen(&f->vq, &more, &f->err), 0);
    assert_false(more);
    desc(f, 0, 0, 1, 0, 0);
    publish(f, 0);
    assert_int_equal(virtqueue_listen(&f->vq, &more, &f->err), 0);
    assert_true(more);
    assert_int_equal(poll(f), 1);
    assert_int_equal(virtqueue_listen(&f->vq, &more, &f->err), 0);
    assert_false(more);
    uint32_t event = f->front.rings[FRONT_TX].used + 4 + 8 * FRONT_QUEUE;
    assert_int_equal(f->front.memory[event], 1);
}

static void writes_entries_with_the_copies_before_the_index(void **state)
{
    struct fixture *f = *state;
    struct virtqueue_opts opts = opts_for(f, true);
    assert_int_equal(virtqueue_start(&f->vq, &f->memory, &opts, &f->err), 0);
    desc(f, 2, 0x8000, 16, WRITE, 0);
    publish(f, 2);
    assert_int_equal(poll(f), 1);
    uint8_t bytes[] = "hello";
    assert_int_equal(guest_copy_add(&f->vq.out, f->batch.segments[0].guest_addr, bytes, 5), 0);
    virtqueue_put(&f->vq, 2, 5);
    assert_int_equal(front_used_idx(&f->front, FRONT_TX), 0);
    bool signal;
    assert_int_equal(virtqueue_flush(&f->vq, &signal, &f->err), 0);
    assert_true(signal);
    assert_int_equal(front_used_idx(&f->front, FRONT_TX), 1);
    assert_int_equal(used_word(f, 0, 0), 2);
    assert_int_equal(used_word(f, 0, 1), 5);
    assert_memory_equal(f->front.memory + 0x8000, "hello", 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(refuses_bad_rings, setup, teardown),
        cmocka_unit_test_setup_teardown(walks_direct_chains, setup, teardown),
        cmocka_unit_test_setup_teardown(walks_indirect_tables, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_bad_chains, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_features_not_negotiated, setup, teardown),
        cmocka_unit_test_setup_teardown(bounds_long_chains, setup, teardown),
        cmocka_unit_test_setup_teardown(spreads_many_long_chains_over_polls, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_jumping_indices, setup, teardown),
        cmocka_unit_test_setup_teardown(keeps_unused_chains_over_polls_and_returns_them, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(signals_by_event_index, setup, teardown),
        cmocka_unit_test_setup_teardown(signals_by_flag_without_event_index, setup, teardown),
        cmocka_unit_test_setup_teardown(sees_what_came_before_it_listened, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_entries_with_the_copies_before_the_index, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
