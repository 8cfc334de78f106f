#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "host/vsock/vsock_packet.h"

static void keeps_every_field(void **state)
{
    (void)state;
    const struct vsock_packet p = {
        .src_cid = 0x0102030405060708,
        .dst_cid = 0x1112131415161718,
        .src_port = 0x21222324,
        .dst_port = 0x31323334,
        .size = 0x41424344,
        .type = 0x5152,
        .op = 0x6162,
        .flags = 0x71727374,
        .buf_alloc = 0x81828384,
        .fwd_cnt = 0x91929394,
    };
    /* virtio 1.2 §5.10.6, byte for byte. */
    const uint8_t wire[VSOCK_HEADER_SIZE] = {
        8,    7,    6,    5,    4,    3,    2,    1,    0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12,
        0x11, 0x24, 0x23, 0x22, 0x21, 0x34, 0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41, 0x52, 0x51,
        0x62, 0x61, 0x74, 0x73, 0x72, 0x71, 0x84, 0x83, 0x82, 0x81, 0x94, 0x93, 0x92, 0x91};
    uint8_t out[VSOCK_HEADER_SIZE];
    vsock_packet_emit(&p, out);
    assert_memory_equal(out, wire, sizeof wire);
    struct vsock_packet q;
    vsock_packet_parse(wire, &q);
    assert_int_equal(q.src_cid, p.src_cid);
    assert_int_equal(q.dst_cid, p.dst_cid);
    assert_int_equal(q.src_port, p.src_port);
    assert_int_equal(q.dst_port, p.dst_port);
    assert_int_equal(q.size, p.size);
    assert_int_equal(q.type, p.type);
    assert_int_equal(q.op, p.op);
    assert_int_equal(q.flags, p.flags);
    assert_int_equal(q.buf_alloc, p.buf_alloc);
    assert_int_equal(q.fwd_cnt, p.fwd_cnt);
}

static void credit_wraps_and_never_exceeds_the_buffer(void **state)
{
    (void)state;
    const struct {
        uint32_t sent, buf_alloc, fwd_cnt, credit;
    } rows[] = {
        {0, 100, 0, 100},
        {100, 100, 0, 0},
        {100, 100, 60, 60},
        {101, 100, 0, 0},             /* the peer shrank its buffer */
        {5, 100, UINT32_MAX - 4, 90}, /* both wrap */
        {10, 100, 20, 0},             /* a lie: more consumed than sent */
        {0, UINT32_MAX, 0, UINT32_MAX},
        {0, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(vsock_credit(rows[i].sent, rows[i].buf_alloc, rows[i].fwd_cnt),
                         rows[i].credit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_every_field),
        cmocka_unit_test(credit_wraps_and_never_exceeds_the_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
