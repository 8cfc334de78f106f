#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "common/wire.h"
#include "tests/unit/vsock/fixture.h"

#define GUEST_PORT 1000u

static void connects_and_carries_bytes_both_ways(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    assert_true(vsock_is_open(peer->conn));
    assert_int_equal(vsock_write(peer->conn, (const uint8_t *)"hello", 5), 5);
    uint8_t got[8192];
    struct vsock_packet p = guest_gets(f, VSOCK_OP_RW, got);
    assert_int_equal(p.size, 5);
    assert_int_equal(p.src_port, port);
    assert_int_equal(p.dst_port, GUEST_PORT);
    assert_memory_equal(got, "hello", 5);
    assert_true(front_calls(&f->front, FRONT_RX) > 0);
    p = guest_packet(VSOCK_OP_RW, GUEST_PORT, port);
    p.size = 6;
    guest_sends(f, &p, "answer");
    front_settle(&f->front);
    assert_int_equal(peer->size, 6);
    assert_memory_equal(peer->data, "answer", 6);
    assert_true(front_calls(&f->front, FRONT_TX) > 0);
    guest_gets_nothing(f); /* no credit update for a few bytes */
}

static void tells_a_refused_connect(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    struct bg_err err;
    assert_int_equal(vsock_connect(f->device, GUEST_PORT, &peer_ops, peer, &peer->conn, &err), 0);
    struct vsock_packet p = guest_gets(f, VSOCK_OP_REQUEST, NULL);
    guest_says(f, VSOCK_OP_RST, GUEST_PORT, p.src_port);
    assert_int_equal(peer->opens, 0);
    assert_int_equal(peer->ends, 1);
    assert_int_equal(peer->end_code, -ECONNREFUSED);
    guest_gets_nothing(f);
}

static void resets_an_answer_to_a_connect_that_is_none(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    struct bg_err err;
    assert_int_equal(vsock_connect(f->device, GUEST_PORT, &peer_ops, peer, &peer->conn, &err), 0);
    struct vsock_packet p = guest_gets(f, VSOCK_OP_REQUEST, NULL);
    guest_says(f, VSOCK_OP_RW, GUEST_PORT, p.src_port);
    assert_int_equal(peer->end_code, -ECONNRESET);
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
}

static void uses_a_new_port_for_each_connect(void **state)
{
    struct fixture *f = *state;
    uint32_t a = open_conn(f, 0, GUEST_PORT), b = open_conn(f, 1, GUEST_PORT);
    assert_int_not_equal(a, b);
}

static void takes_connects_of_the_guest(void **state)
{
    struct fixture *f = *state;
    guest_says(f, VSOCK_OP_REQUEST, 9, 701);
    assert_int_equal(f->request_count, 1);
    assert_int_equal(f->request_ports[0], 701);
    guest_gets_nothing(f); /* the owner takes its time */
    struct peer *peer = &f->peers[0];
    peer->conn = f->requests[0];
    vsock_accept(peer->conn, &peer_ops, peer);
    struct vsock_packet p = guest_gets(f, VSOCK_OP_RESPONSE, NULL);
    assert_int_equal(p.src_port, 701);
    assert_int_equal(p.dst_port, 9);
    p = guest_packet(VSOCK_OP_RW, 9, 701);
    p.size = 2;
    guest_sends(f, &p, "hi");
    front_settle(&f->front);
    assert_int_equal(peer->size, 2);
    assert_int_equal(vsock_write(peer->conn, (const uint8_t *)"yo", 2), 2);
    (void)guest_gets(f, VSOCK_OP_RW, NULL);
    /* The same pair of ports again: the guest has lost track. */
    guest_says(f, VSOCK_OP_REQUEST, 9, 701);
    assert_int_equal(peer->end_code, -ECONNRESET);
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
}

static void refuses_connects_of_the_guest(void **state)
{
    struct fixture *f = *state;
    guest_says(f, VSOCK_OP_REQUEST, 9, 22);
    vsock_reset(f->requests[0]);
    struct vsock_packet p = guest_gets(f, VSOCK_OP_RST, NULL);
    assert_int_equal(p.src_port, 22);
    assert_int_equal(p.dst_port, 9);
}

static void hears_of_a_request_given_up_only_when_it_answers(void **state)
{
    struct fixture *f = *state;
    for (uint32_t i = 0; i < 3; i++)
        guest_says(f, VSOCK_OP_REQUEST, 9 + i, 701);
    guest_says(f, VSOCK_OP_RST, 9, 701);
    guest_says(f, VSOCK_OP_RW, 10, 701); /* out of turn */
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
    guest_says(f, VSOCK_OP_RST, 11, 701);
    for (int i = 0; i < 2; i++) {
        f->peers[i].conn = f->requests[i];
        vsock_accept(f->requests[i], &peer_ops, &f->peers[i]);
        assert_int_equal(f->peers[i].ends, 0); /* never inside a call */
    }
    vsock_reset(f->requests[2]);
    front_settle(&f->front);
    for (int i = 0; i < 2; i++)
        assert_int_equal(f->peers[i].end_code, -ECONNRESET);
    guest_gets_nothing(f);
}

static void answers_strays_with_a_reset(void **state)
{
    struct fixture *f = *state;
    const uint16_t ops[] = {VSOCK_OP_RESPONSE,
                            VSOCK_OP_SHUTDOWN,
                            VSOCK_OP_RW,
                            VSOCK_OP_CREDIT_UPDATE,
                            VSOCK_OP_CREDIT_REQUEST,
                            0,
                            8,
                            0xffff};
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        guest_says(f, ops[i], 77, 88);
        struct vsock_packet p = guest_gets(f, VSOCK_OP_RST, NULL);
        assert_int_equal(p.src_port, 88);
        assert_int_equal(p.dst_port, 77);
    }
    guest_says(f, VSOCK_OP_RST, 77, 88);
    guest_gets_nothing(f); /* never a reset for a reset */
    struct vsock_packet p = guest_packet(VSOCK_OP_REQUEST, 77, 88);
    p.type = 2; /* seqpacket: not offered */
    guest_sends(f, &p, NULL);
    p = guest_gets(f, VSOCK_OP_RST, NULL);
    assert_int_equal(p.type, 2);
    p = guest_packet(VSOCK_OP_REQUEST, 77, 88);
    p.src_cid = 9; /* not this guest */
    guest_sends(f, &p, NULL);
    p = guest_packet(VSOCK_OP_REQUEST, 77, 88);
    p.dst_cid = 9; /* there is no other guest */
    guest_sends(f, &p, NULL);
    guest_gets_nothing(f);
    assert_int_equal(f->request_count, 0);
    assert_int_equal(f->failures, 0);
}

static void resets_connections_for_wrong_packets(void **state)
{
    (void)state;
    for (int i = 0; i < 7; i++) {
        void *s = NULL;
        assert_int_equal(fixture_start(&s), 0);
        struct fixture *f = s;
        uint32_t port = open_conn(f, 0, GUEST_PORT);
        struct vsock_packet p = guest_packet(VSOCK_OP_RESPONSE, GUEST_PORT, port);
        static const uint8_t bytes[64 * 1024];
        switch (i) {
        case 0:
            break; /* a second RESPONSE */
        case 1:
            p.op = 0;
            break;
        case 2:
            p.op = 0xffff;
            break;
        case 3:
            p.op = VSOCK_OP_SHUTDOWN;
            p.flags = 4;
            break;
        case 4:
            p.op = VSOCK_OP_SHUTDOWN;
            p.flags = 0;
            break;
        case 5: /* bytes after its end of file */
            p.op = VSOCK_OP_SHUTDOWN;
            p.flags = VSOCK_SHUTDOWN_SEND;
            guest_sends(f, &p, NULL);
            p.op = VSOCK_OP_RW;
            p.size = 1;
            break;
        default: /* bytes beyond its credit */
            f->peers[0].hold = true;
            p.op = VSOCK_OP_RW;
            p.size = sizeof bytes;
            for (int k = 0; k < BG_VSOCK_BUFFER_MAX / (int)sizeof bytes; k++)
                guest_sends(f, &p, bytes);
            front_settle(&f->front);
            assert_int_equal(f->peers[0].size, BG_VSOCK_BUFFER_MAX);
            assert_int_equal(f->peers[0].ends, 0);
            p.size = 1;
        }
        guest_sends(f, &p, bytes);
        front_settle(&f->front);
        assert_int_equal(f->peers[0].ends, 1);
        assert_int_equal(f->peers[0].end_code, -ECONNRESET);
        (void)guest_gets(f, VSOCK_OP_RST, NULL);
        guest_gets_nothing(f);
        assert_int_equal(f->failures, 0);
        assert_int_equal(fixture_close(&s), 0);
    }
}

static void resets_a_connection_for_a_huge_packet(void **state)
{
    struct fixture *f = *state;
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    struct front_ring *ring = &f->front.rings[FRONT_TX];
    struct vsock_packet p = guest_packet(VSOCK_OP_RW, GUEST_PORT, port);
    p.size = BG_VSOCK_PACKET_MAX + 1;
    vsock_packet_emit(&p, f->front.memory + ring->buffers);
    front_write_desc(&f->front, ring->desc, 7, front_guest_addr(ring->buffers),
                     VSOCK_HEADER_SIZE + BG_VSOCK_PACKET_MAX + 1, 0, 0);
    front_publish(&f->front, FRONT_TX, 7);
    front_kick(&f->front, FRONT_TX);
    front_settle(&f->front);
    assert_int_equal(f->peers[0].end_code, -ECONNRESET);
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
    assert_int_equal(f->failures, 0);
}

static void gives_credit_back_in_time(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    static uint8_t bytes[16 * 1024];
    struct vsock_packet p = guest_packet(VSOCK_OP_RW, GUEST_PORT, port);
    p.size = sizeof bytes;
    for (int i = 0; i < BG_VSOCK_BUFFER_MAX / 4 / (int)sizeof bytes; i++) {
        guest_gets_nothing(f);
        guest_sends(f, &p, bytes);
    }
    struct vsock_packet update = guest_gets(f, VSOCK_OP_CREDIT_UPDATE, NULL);
    assert_int_equal(update.fwd_cnt, BG_VSOCK_BUFFER_MAX / 4);
    assert_int_equal(update.buf_alloc, BG_VSOCK_BUFFER_MAX);
    /* An owner that holds gives none; later it gives all. */
    peer->hold = true;
    for (int i = 0; i < BG_VSOCK_BUFFER_MAX / (int)sizeof bytes; i++) {
        guest_sends(f, &p, bytes);
        guest_gets_nothing(f);
    }
    assert_int_equal(peer->ends, 0);
    vsock_consumed(peer->conn, BG_VSOCK_BUFFER_MAX / 4 - 1);
    guest_gets_nothing(f);
    vsock_consumed(peer->conn, 1);
    update = guest_gets(f, VSOCK_OP_CREDIT_UPDATE, NULL);
    assert_int_equal(update.fwd_cnt, BG_VSOCK_BUFFER_MAX / 2);
    /* On request at once. */
    guest_says(f, VSOCK_OP_CREDIT_REQUEST, GUEST_PORT, port);
    (void)guest_gets(f, VSOCK_OP_CREDIT_UPDATE, NULL);
}

static void sends_no_more_than_the_guest_has_room_for(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    struct vsock_packet p = guest_packet(VSOCK_OP_CREDIT_UPDATE, GUEST_PORT, port);
    p.buf_alloc = 10000;
    guest_sends(f, &p, NULL);
    front_settle(&f->front);
    static const uint8_t bytes[20000];
    assert_int_equal(vsock_write_room(peer->conn), 10000);
    assert_int_equal(vsock_write(peer->conn, bytes, sizeof bytes), 10000);
    assert_int_equal(vsock_write_room(peer->conn), 0);
    size_t got = 0;
    while (got < 10000)
        got += guest_gets(f, VSOCK_OP_RW, NULL).size;
    assert_int_equal(got, 10000);
    (void)guest_gets(f, VSOCK_OP_CREDIT_REQUEST, NULL); /* once */
    assert_int_equal(vsock_write(peer->conn, bytes, 1), 0);
    guest_gets_nothing(f);
    assert_int_equal(peer->writables, 0);
    p.fwd_cnt = 4000;
    guest_sends(f, &p, NULL);
    front_settle(&f->front);
    assert_int_equal(peer->writables, 1);
    assert_int_equal(vsock_write(peer->conn, bytes, sizeof bytes), 4000);
    while (got < 14000)
        got += guest_gets(f, VSOCK_OP_RW, NULL).size;
}

static void waits_for_receive_buffers(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    (void)open_conn(f, 0, GUEST_PORT);
    static const uint8_t bytes[128 * 1024];
    /* One buffer was given back by open_conn() but without a kick; all are found. */
    size_t all = FRONT_QUEUE * 4096;
    assert_int_equal(vsock_write(peer->conn, bytes, sizeof bytes), all);
    assert_int_equal(vsock_write(peer->conn, bytes, sizeof bytes), 0);
    front_settle(&f->front);
    assert_int_equal(peer->writables, 0);
    for (unsigned i = 0; i < FRONT_QUEUE; i++)
        assert_int_equal(guest_gets(f, VSOCK_OP_RW, NULL).size, 4096);
    front_kick(&f->front, FRONT_RX);
    front_settle(&f->front);
    assert_int_equal(peer->writables, 1);
    assert_int_equal(vsock_write(peer->conn, bytes, 5000), 5000);
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, NULL).size, 4096);
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, NULL).size, 904);
}

static void shares_receive_buffers_fairly(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < 3; i++)
        (void)open_conn(f, i, GUEST_PORT + (uint32_t)i);
    static const uint8_t bytes[256 * 1024];
    (void)vsock_write(f->peers[0].conn, bytes, sizeof bytes); /* uses the ring up */
    for (size_t i = 0; i < 3; i++) {
        f->peers[i].write_when_writable = true;
        assert_int_equal(vsock_write(f->peers[i].conn, bytes, sizeof bytes), 0);
    }
    struct vsock_packet p;
    for (int round = 0; round < 300; round++) {
        while (front_receive(&f->front, &p, NULL))
            continue;
        front_kick(&f->front, FRONT_RX);
        front_settle(&f->front);
    }
    for (size_t i = 0; i < 3; i++) {
        assert_true(f->peers[i].written >= 512 * 1024); /* all their credit allows, and more */
        assert_true(f->peers[i].written <= 1024 * 1024);
    }
}

static void splits_packets_over_the_segments_of_a_buffer(void **state)
{
    struct fixture *f = *state;
    (void)front_stop_ring(&f->front, FRONT_RX);
    (void)front_stop_ring(&f->front, FRONT_TX);
    front_start(&f->front, FRONT_FEATURES);
    /* One buffer in three descriptors, the header itself in two of them. */
    struct front_ring *ring = &f->front.rings[FRONT_RX];
    front_write_desc(&f->front, ring->desc, 4, front_guest_addr(0x300000), 20, 2 | 1, 5);
    front_write_desc(&f->front, ring->desc, 5, front_guest_addr(0x310000), 30, 2 | 1, 6);
    front_write_desc(&f->front, ring->desc, 6, front_guest_addr(0x320000), 100, 2, 0);
    front_publish(&f->front, FRONT_RX, 4);
    front_kick(&f->front, FRONT_RX);
    front_settle(&f->front);
    assert_int_equal(f->readies, 2);
    struct bg_err err;
    struct peer *peer = &f->peers[0];
    assert_int_equal(vsock_connect(f->device, GUEST_PORT, &peer_ops, peer, &peer->conn, &err), 0);
    assert_int_equal(front_used_idx(&f->front, FRONT_RX), 1);
    uint8_t header[VSOCK_HEADER_SIZE];
    memcpy(header, f->front.memory + 0x300000, 20);
    memcpy(header + 20, f->front.memory + 0x310000, 24);
    struct vsock_packet p;
    vsock_packet_parse(header, &p);
    assert_int_equal(p.op, VSOCK_OP_REQUEST);
    guest_says(f, VSOCK_OP_RESPONSE, GUEST_PORT, p.src_port);
    front_publish(&f->front, FRONT_RX, 4);
    assert_int_equal(vsock_write(peer->conn, (const uint8_t *)"0123456789", 10), 10);
    assert_memory_equal(f->front.memory + 0x310000 + 24, "012345", 6);
    assert_memory_equal(f->front.memory + 0x320000, "6789", 4);
}

static void reads_packets_spread_over_descriptors(void **state)
{
    struct fixture *f = *state;
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    struct front_ring *ring = &f->front.rings[FRONT_TX];
    struct vsock_packet p = guest_packet(VSOCK_OP_RW, GUEST_PORT, port);
    p.size = 4;
    uint8_t bytes[VSOCK_HEADER_SIZE + 4];
    vsock_packet_emit(&p, bytes);
    for (size_t i = 0; i < 4; i++)
        bytes[VSOCK_HEADER_SIZE + i] = (uint8_t)('a' + i);
    for (uint16_t i = 0; i < 16; i++) { /* three bytes a descriptor */
        memcpy(f->front.memory + 0x300000 + i * 64u, bytes + 3 * i, 3);
        front_write_desc(&f->front, ring->desc, i, front_guest_addr(0x300000 + i * 64u), 3,
                         i < 15 ? 1 : 0, (uint16_t)(i + 1));
    }
    front_publish(&f->front, FRONT_TX, 0);
    front_kick(&f->front, FRONT_TX);
    front_settle(&f->front);
    assert_int_equal(f->peers[0].size, 4);
    assert_memory_equal(f->peers[0].data, "abcd", 4);
}

static void shut_of_guest(struct fixture *f, uint32_t port, uint32_t flags)
{
    struct vsock_packet p = guest_packet(VSOCK_OP_SHUTDOWN, GUEST_PORT, port);
    p.flags = flags;
    guest_sends(f, &p, NULL);
    front_settle(&f->front);
}

static void closes_by_halves_guest_first(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    shut_of_guest(f, port, VSOCK_SHUTDOWN_SEND);
    assert_int_equal(peer->eofs, 1);
    assert_true(vsock_at_eof(peer->conn));
    shut_of_guest(f, port, VSOCK_SHUTDOWN_SEND); /* said twice, told once */
    assert_int_equal(peer->eofs, 1);
    assert_int_equal(vsock_write(peer->conn, (const uint8_t *)"late", 4), 4);
    (void)guest_gets(f, VSOCK_OP_RW, NULL);
    vsock_shutdown(peer->conn);
    assert_int_equal(peer->ends, 0); /* never inside a call */
    struct vsock_packet p = guest_gets(f, VSOCK_OP_SHUTDOWN, NULL);
    assert_int_equal(p.flags, VSOCK_SHUTDOWN_BOTH);
    front_settle(&f->front);
    assert_int_equal(peer->ends, 1);
    assert_int_equal(peer->end_code, 0);
    guest_says(f, VSOCK_OP_RST, GUEST_PORT, port);
    guest_gets_nothing(f);
}

static void closes_by_halves_host_first(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    vsock_shutdown(peer->conn);
    vsock_shutdown(peer->conn);
    struct vsock_packet p = guest_gets(f, VSOCK_OP_SHUTDOWN, NULL);
    assert_int_equal(p.flags, VSOCK_SHUTDOWN_SEND);
    guest_gets_nothing(f);
    p = guest_packet(VSOCK_OP_RW, GUEST_PORT, port);
    p.size = 4;
    guest_sends(f, &p, "more");
    front_settle(&f->front);
    assert_int_equal(peer->size, 4);
    shut_of_guest(f, port, VSOCK_SHUTDOWN_SEND);
    assert_int_equal(peer->eofs, 1);
    assert_int_equal(peer->ends, 1);
    assert_int_equal(peer->end_code, 0);
    assert_int_equal(guest_gets(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_BOTH);
}

static void answers_a_whole_close_with_a_reset(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    shut_of_guest(f, port, VSOCK_SHUTDOWN_BOTH);
    assert_int_equal(peer->eofs, 1);
    assert_int_equal(peer->end_code, 0);
    assert_int_equal(peer->ends, 1);
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
    guest_gets_nothing(f);
    /* And when the owner resets it in on_eof, nothing follows. */
    f->peers[1].reset_on_eof = true;
    port = open_conn(f, 1, GUEST_PORT);
    shut_of_guest(f, port, VSOCK_SHUTDOWN_BOTH);
    assert_int_equal(f->peers[1].eofs, 1);
    assert_int_equal(f->peers[1].ends, 0);
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
    guest_gets_nothing(f);
}

static void tells_when_the_guest_stops_reading(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    shut_of_guest(f, port, VSOCK_SHUTDOWN_RECEIVE);
    assert_int_equal(peer->writables, 1);
    assert_true(vsock_write_closed(peer->conn));
    assert_int_equal(vsock_write(peer->conn, (const uint8_t *)"void", 4), 4);
    guest_gets_nothing(f);
    shut_of_guest(f, port, VSOCK_SHUTDOWN_SEND);
    assert_int_equal(peer->end_code, 0);
    assert_int_equal(peer->ends, 1);
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
}

static void stops_reading(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    vsock_stop_reading(peer->conn);
    assert_int_equal(guest_gets(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_RECEIVE);
    struct vsock_packet p = guest_packet(VSOCK_OP_RW, GUEST_PORT, port);
    p.size = 4;
    guest_sends(f, &p, "void");
    front_settle(&f->front);
    assert_int_equal(peer->size, 0);
    vsock_shutdown(peer->conn);
    assert_int_equal(guest_gets(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_BOTH);
    front_settle(&f->front);
    assert_int_equal(peer->end_code, 0);
    assert_int_equal(peer->ends, 1);
}

static void ends_when_the_guest_resets(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    guest_says(f, VSOCK_OP_RST, GUEST_PORT, port);
    assert_int_equal(peer->ends, 1);
    assert_int_equal(peer->end_code, -ECONNRESET);
    guest_gets_nothing(f);
}

static void resets_at_the_owners_will(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    vsock_reset(peer->conn);
    peer->conn = NULL;
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
    struct vsock_packet p = guest_packet(VSOCK_OP_RW, GUEST_PORT, port);
    p.size = 1;
    guest_sends(f, &p, "x");
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
    assert_int_equal(peer->ends, 0);
    assert_int_equal(peer->size, 0);
}

static void takes_what_was_asked_before_the_guest_answers(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    struct bg_err err;
    assert_int_equal(vsock_connect(f->device, GUEST_PORT, &peer_ops, peer, &peer->conn, &err), 0);
    assert_int_equal(vsock_write(peer->conn, (const uint8_t *)"x", 1), 0);
    struct vsock_packet p = guest_gets(f, VSOCK_OP_REQUEST, NULL);
    guest_says(f, VSOCK_OP_RESPONSE, GUEST_PORT, p.src_port);
    assert_int_equal(peer->opens, 1);
    assert_int_equal(peer->writables, 1);
    /* A shutdown asked for early is sent after the answer. */
    peer = &f->peers[1];
    assert_int_equal(vsock_connect(f->device, GUEST_PORT, &peer_ops, peer, &peer->conn, &err), 0);
    vsock_shutdown(peer->conn);
    p = guest_gets(f, VSOCK_OP_REQUEST, NULL);
    guest_gets_nothing(f);
    guest_says(f, VSOCK_OP_RESPONSE, GUEST_PORT, p.src_port);
    assert_int_equal(guest_gets(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_SEND);
}

static void bounds_the_connections(void **state)
{
    struct fixture *f = *state;
    static struct peer peers[BG_VSOCK_CONNS_MAX + 1];
    struct bg_err err;
    struct vsock_packet p;
    uint64_t buffers = 0;
    for (size_t i = 0; i < BG_VSOCK_CONNS_MAX; i++) {
        assert_int_equal(vsock_connect(f->device, 1, &peer_ops, &peers[i], &peers[i].conn, &err),
                         0);
        p = guest_gets(f, VSOCK_OP_REQUEST, NULL);
        buffers += p.buf_alloc;
    }
    assert_true(buffers <= (uint64_t)64 << 20);
    assert_int_equal(vsock_connect(f->device, 1, &peer_ops, &peers[BG_VSOCK_CONNS_MAX],
                                   &peers[BG_VSOCK_CONNS_MAX].conn, &err),
                     -EMFILE);
    guest_says(f, VSOCK_OP_REQUEST, 9, 701);
    assert_int_equal(f->request_count, 0);
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
    /* When one has gone there is room again. */
    vsock_reset(peers[5].conn);
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
    guest_says(f, VSOCK_OP_REQUEST, 9, 701);
    assert_int_equal(f->request_count, 1);
    /* The rest ends with the device. */
    vsock_device_close(f->device);
    f->device = NULL;
    front_settle(&f->front);
    for (size_t i = 0; i < BG_VSOCK_CONNS_MAX; i++)
        assert_int_equal(peers[i].ends, i != 5);
}

/* Takes all receive buffers away, so that nothing can be sent. */
static void starve(struct peer *peer)
{
    static const uint8_t bytes[128 * 1024];
    assert_int_equal(vsock_write(peer->conn, bytes, sizeof bytes), FRONT_QUEUE * 4096);
}

static void stops_reading_a_flood_that_it_cannot_answer(void **state)
{
    struct fixture *f = *state;
    (void)open_conn(f, 0, GUEST_PORT);
    starve(&f->peers[0]);
    struct vsock_packet p = guest_packet(VSOCK_OP_RW, 50, 60);
    unsigned sent = 0;
    for (int idle = 0; idle < 5;) {
        uint16_t in_ring =
            (uint16_t)(f->front.rings[FRONT_TX].avail_idx - front_used_idx(&f->front, FRONT_TX));
        if (in_ring < FRONT_QUEUE) {
            p.src_port = sent++;
            guest_sends(f, &p, NULL);
            idle = 0;
        } else {
            front_settle(&f->front);
            idle++;
        }
        assert_true(sent <= BG_VSOCK_RESETS_MAX + 2 * FRONT_QUEUE);
    }
    assert_true(sent >= BG_VSOCK_RESETS_MAX);
    /* Receive buffers make it go on: every packet gets its reset, in order. */
    for (unsigned i = 0; i < FRONT_QUEUE; i++)
        (void)guest_gets(f, VSOCK_OP_RW, NULL);
    for (unsigned i = 0; i < sent; i++) {
        front_kick(&f->front, FRONT_RX);
        assert_int_equal(guest_gets(f, VSOCK_OP_RST, NULL).dst_port, i);
    }
    guest_gets_nothing(f);
    assert_int_equal(f->failures, 0);
}

static void queues_one_packet_of_a_kind_at_most(void **state)
{
    struct fixture *f = *state;
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    starve(&f->peers[0]);
    for (int i = 0; i < 1000; i++)
        guest_says(f, VSOCK_OP_CREDIT_REQUEST, GUEST_PORT, port);
    for (unsigned i = 0; i < FRONT_QUEUE; i++)
        (void)guest_gets(f, VSOCK_OP_RW, NULL);
    front_kick(&f->front, FRONT_RX);
    (void)guest_gets(f, VSOCK_OP_CREDIT_UPDATE, NULL);
    guest_gets_nothing(f);
}

static void resets_while_starved_and_sends_it_later(void **state)
{
    struct fixture *f = *state;
    (void)open_conn(f, 0, GUEST_PORT);
    (void)open_conn(f, 1, GUEST_PORT);
    starve(&f->peers[0]);
    struct bg_err err;
    assert_int_equal(vsock_connect(f->device, 7, &peer_ops, &f->peers[2], &f->peers[2].conn, &err),
                     0);
    vsock_reset(f->peers[2].conn); /* the guest never hears of it */
    vsock_reset(f->peers[1].conn);
    f->peers[1].conn = f->peers[2].conn = NULL;
    for (unsigned i = 0; i < FRONT_QUEUE; i++)
        (void)guest_gets(f, VSOCK_OP_RW, NULL);
    front_kick(&f->front, FRONT_RX);
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
    guest_gets_nothing(f);
}

static void carries_much_in_both_directions(void **state)
{
    struct fixture *f = *state;
    struct peer *peer = &f->peers[0];
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    static uint8_t pattern[FRONT_MEMORY / 2];
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)(i * 2654435761u >> 11);
    static uint8_t got[FRONT_MEMORY / 2 + 8192];
    size_t written = 0, received = 0, sent = 0;
    uint32_t device_fwd = 0;
    while (received < sizeof pattern || peer->size < sizeof pattern) {
        written += vsock_write(peer->conn, pattern + written, sizeof pattern - written);
        struct vsock_packet p;
        while (front_receive(&f->front, &p, got + received)) {
            device_fwd = p.fwd_cnt;
            received += p.size;
        }
        front_kick(&f->front, FRONT_RX);
        uint16_t in_ring =
            (uint16_t)(f->front.rings[FRONT_TX].avail_idx - front_used_idx(&f->front, FRONT_TX));
        if (in_ring < FRONT_QUEUE) {
            size_t n = sizeof pattern - sent < 60000 ? sizeof pattern - sent : 60000;
            if (n > BG_VSOCK_BUFFER_MAX - (sent - device_fwd))
                n = BG_VSOCK_BUFFER_MAX - (sent - device_fwd);
            p = guest_packet(n > 0 ? VSOCK_OP_RW : VSOCK_OP_CREDIT_UPDATE, GUEST_PORT, port);
            p.size = (uint32_t)n;
            p.fwd_cnt = (uint32_t)received;
            guest_sends(f, &p, pattern + sent);
            sent += n;
        }
        (void)uv_run(&f->loop, UV_RUN_NOWAIT);
        assert_int_equal(peer->ends, 0);
    }
    assert_int_equal(received, sizeof pattern);
    assert_memory_equal(got, pattern, sizeof pattern);
    assert_int_equal(peer->size, sizeof pattern);
    assert_memory_equal(peer->data, pattern, sizeof pattern);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_start, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(connects_and_carries_bytes_both_ways),
        TEST(tells_a_refused_connect),
        TEST(resets_an_answer_to_a_connect_that_is_none),
        TEST(uses_a_new_port_for_each_connect),
        TEST(takes_connects_of_the_guest),
        TEST(refuses_connects_of_the_guest),
        TEST(hears_of_a_request_given_up_only_when_it_answers),
        TEST(answers_strays_with_a_reset),
        cmocka_unit_test(resets_connections_for_wrong_packets),
        TEST(resets_a_connection_for_a_huge_packet),
        TEST(gives_credit_back_in_time),
        TEST(sends_no_more_than_the_guest_has_room_for),
        TEST(waits_for_receive_buffers),
        TEST(shares_receive_buffers_fairly),
        TEST(splits_packets_over_the_segments_of_a_buffer),
        TEST(reads_packets_spread_over_descriptors),
        TEST(closes_by_halves_guest_first),
        TEST(closes_by_halves_host_first),
        TEST(answers_a_whole_close_with_a_reset),
        TEST(tells_when_the_guest_stops_reading),
        TEST(stops_reading),
        TEST(ends_when_the_guest_resets),
        TEST(resets_at_the_owners_will),
        TEST(takes_what_was_asked_before_the_guest_answers),
        TEST(bounds_the_connections),
        TEST(stops_reading_a_flood_that_it_cannot_answer),
        TEST(queues_one_packet_of_a_kind_at_most),
        TEST(resets_while_starved_and_sends_it_later),
        TEST(carries_much_in_both_directions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
