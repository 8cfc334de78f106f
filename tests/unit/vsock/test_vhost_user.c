#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <fcntl.h>

#include "common/io.h"
#include "tests/unit/vsock/fixture.h"

static void never(void *owner)
{
    (void)owner;
    fail();
}

static void never_requested(void *owner, struct vsock_conn *conn, uint32_t host_port)
{
    (void)conn;
    (void)host_port;
    never(owner);
}

static void never_failed(void *owner, const struct bg_err *err)
{
    (void)err;
    never(owner);
}

static void refuses_what_is_no_stream_socket(void **state)
{
    (void)state;
    uv_loop_t loop;
    assert_int_equal(uv_loop_init(&loop), 0);
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    struct vsock_device *device = NULL;
    struct bg_err err;
    struct vsock_device_opts opts = {.fd = pair[0],
                                     .memory_pid = getpid(),
                                     .guest_cid = 3,
                                     .on_ready = never,
                                     .on_request = never_requested,
                                     .on_failed = never_failed,
                                     .on_closed = never};
    assert_int_equal(vsock_device_open(&loop, &opts, &device, &err), -EINVAL);
    assert_non_null(strstr(err.text, "stream"));
    assert_int_equal(close(pair[0]), 0); /* not taken */
    assert_int_equal(close(pair[1]), 0);
    opts.fd = -1;
    assert_int_equal(vsock_device_open(&loop, &opts, &device, &err), -EINVAL);
    assert_null(device);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void becomes_ready_with_the_driver(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(front_handshake(&f->front), FRONT_GUEST_CID);
    assert_int_equal(f->readies, 0);
    front_start(&f->front, FRONT_FEATURES);
    assert_int_equal(f->readies, 0); /* no receive buffers yet */
    struct vsock_conn *conn;
    struct bg_err err;
    assert_int_equal(vsock_connect(f->device, 1, &peer_ops, &f->peers[0], &conn, &err), -ENOTCONN);
    front_fill_rx(&f->front, 4096);
    assert_int_equal(f->readies, 1);
    front_kick(&f->front, FRONT_RX);
    front_settle(&f->front);
    assert_int_equal(f->readies, 1);
    assert_int_equal(f->failures, 0);
}

static void works_without_protocol_features_and_event_index(void **state)
{
    struct fixture *f = *state;
    (void)front_handshake(&f->front);
    front_start(&f->front, UINT64_C(1) << 32);
    front_fill_rx(&f->front, 4096);
    assert_int_equal(f->readies, 1);
    uint32_t port = open_conn(f, 0, 5);
    struct vsock_packet p = guest_packet(VSOCK_OP_RW, 5, port);
    p.size = 3;
    guest_sends(f, &p, "abc");
    front_settle(&f->front);
    assert_memory_equal(f->peers[0].data, "abc", 3);
}

static void survives_a_reset_of_the_driver(void **state)
{
    struct fixture *f = *state;
    for (int i = 1; i <= 3; i++) {
        struct peer *peer = &f->peers[i];
        (void)open_conn(f, (size_t)i, 5);
        (void)front_stop_ring(&f->front, FRONT_RX);
        (void)front_stop_ring(&f->front, FRONT_TX);
        assert_int_equal(peer->ends, 0);
        front_start(&f->front, FRONT_FEATURES);
        assert_int_equal(peer->ends, 1);
        assert_int_equal(peer->end_code, -ECONNRESET);
        front_fill_rx(&f->front, 4096);
        assert_int_equal(f->readies, 1 + i);
    }
}

static void goes_on_after_a_pause(void **state)
{
    struct fixture *f = *state;
    uint32_t port = open_conn(f, 0, 5);
    uint16_t rx_base = front_stop_ring(&f->front, FRONT_RX);
    uint16_t tx_base = front_stop_ring(&f->front, FRONT_TX);
    assert_int_equal(rx_base, 1); /* one packet was sent; the other buffers are unused */
    assert_int_equal(tx_base, 1);
    uint8_t bytes[100] = {1, 2, 3};
    assert_int_equal(vsock_write(f->peers[0].conn, bytes, sizeof bytes), 0);
    front_start_ring(&f->front, FRONT_RX, rx_base);
    front_start_ring(&f->front, FRONT_TX, tx_base);
    front_settle(&f->front);
    assert_int_equal(f->readies, 1);
    assert_int_equal(f->peers[0].ends, 0);
    assert_int_equal(f->peers[0].writables, 1);
    assert_int_equal(vsock_write(f->peers[0].conn, bytes, sizeof bytes), sizeof bytes);
    struct vsock_packet p = guest_gets(f, VSOCK_OP_RW, NULL);
    assert_int_equal(p.size, sizeof bytes);
    p = guest_packet(VSOCK_OP_RW, 5, port);
    p.size = 1;
    guest_sends(f, &p, "x");
    front_settle(&f->front);
    assert_int_equal(f->peers[0].size, 1);
}

static void stops_while_disabled(void **state)
{
    struct fixture *f = *state;
    uint32_t port = open_conn(f, 0, 5);
    front_send_vring(&f->front, VHOST_SET_VRING_ENABLE, FRONT_TX, 0);
    front_settle(&f->front);
    struct vsock_packet p = guest_packet(VSOCK_OP_RW, 5, port);
    p.size = 1;
    guest_sends(f, &p, "x");
    front_settle(&f->front);
    assert_int_equal(f->peers[0].size, 0);
    front_send_vring(&f->front, VHOST_SET_VRING_ENABLE, FRONT_TX, 1);
    front_settle(&f->front);
    assert_int_equal(f->peers[0].size, 1);
    assert_int_equal(f->failures, 0);
}

/* The device must fail, once, with its connections ended; fixture_close() finds leaked fds. */
static void expect_failure(struct fixture *f, const char *what)
{
    front_settle(&f->front);
    if (f->failures != 1)
        fail_msg("%s: %d failures", what, f->failures);
    for (size_t i = 0; i < FIXTURE_CONNS; i++)
        assert_null(f->peers[i].conn);
    struct vsock_conn *conn;
    struct bg_err err;
    assert_int_equal(vsock_connect(f->device, 1, &peer_ops, &f->peers[0], &conn, &err), -ENOTCONN);
}

static void fails_on_a_hang_up(void **state)
{
    struct fixture *f = *state;
    (void)open_conn(f, 0, 5);
    (void)close(f->front.fd);
    f->front.fd = -1;
    expect_failure(f, "hang-up");
    assert_int_equal(f->peers[0].ends, 1);
    assert_int_equal(f->peers[0].end_code, -ECONNRESET);
    assert_int_equal(f->failure.code, -ECONNRESET);
}

static void send_bits(struct fixture *f, uint32_t request, uint64_t bits, const int *fds,
                      size_t fd_count)
{
    uint8_t bytes[8];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_writer_u64le(&w, bits);
    front_send_message(&f->front, request, 1, bytes, sizeof bytes, fds, fd_count);
}

/* Each starts from a running device. */
static void bad_version(struct fixture *f)
{
    front_send_message(&f->front, VHOST_GET_FEATURES, 2, NULL, 0, NULL, 0);
}

static void unknown_request(struct fixture *f)
{
    front_send_message(&f->front, 99, 1, NULL, 0, NULL, 0);
}

static void long_message(struct fixture *f)
{
    uint8_t bytes[2000] = {0};
    front_send_message(&f->front, VHOST_SET_MEM_TABLE, 1, bytes, sizeof bytes, NULL, 0);
}

static void features_not_offered(struct fixture *f)
{
    front_send_u64(&f->front, VHOST_SET_FEATURES, UINT64_C(1) << 26);
}

static void features_while_running(struct fixture *f)
{
    front_send_u64(&f->front, VHOST_SET_FEATURES, FRONT_FEATURES);
}

static void protocol_features_not_offered(struct fixture *f)
{
    front_send_u64(&f->front, VHOST_SET_PROTOCOL_FEATURES, UINT64_C(1) << 5);
}

static void fds_nobody_wants(struct fixture *f)
{
    int fds[3];
    for (int i = 0; i < 3; i++)
        fds[i] = f->front.rings[0].kick_fd;
    send_bits(f, VHOST_SET_FEATURES, FRONT_FEATURES, fds, 3);
}

static void more_fds_than_there_is_room(struct fixture *f)
{
    int fds[BG_RECV_FDS_MAX];
    for (int i = 0; i < BG_RECV_FDS_MAX; i++)
        fds[i] = f->front.rings[0].kick_fd;
    send_bits(f, VHOST_SET_FEATURES, FRONT_FEATURES, fds, BG_RECV_FDS_MAX);
}

static void kick_without_fd(struct fixture *f)
{
    send_bits(f, VHOST_SET_VRING_KICK, 0x100, NULL, 0);
}

static void kick_that_is_a_file(struct fixture *f)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    send_bits(f, VHOST_SET_VRING_KICK, 0, &fd, 1);
    (void)close(fd);
}

static void call_that_is_a_pipe(struct fixture *f)
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    send_bits(f, VHOST_SET_VRING_CALL, 0, &fds[1], 1);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static void ring_changed_while_running(struct fixture *f)
{
    front_send_vring(&f->front, VHOST_SET_VRING_NUM, 0, 8);
}

static void no_such_ring(struct fixture *f)
{
    front_send_vring(&f->front, VHOST_SET_VRING_NUM, 2, 8);
}

static void wide_base(struct fixture *f)
{
    (void)front_stop_ring(&f->front, FRONT_RX);
    front_send_vring(&f->front, VHOST_SET_VRING_BASE, 0, 0x10000);
}

static void odd_queue_size(struct fixture *f)
{
    (void)front_stop_ring(&f->front, FRONT_RX);
    front_send_vring(&f->front, VHOST_SET_VRING_NUM, 0, 24);
    send_bits(f, VHOST_SET_VRING_KICK, 0, &f->front.rings[0].kick_fd, 1);
}

static void huge_queue_size(struct fixture *f)
{
    (void)front_stop_ring(&f->front, FRONT_RX);
    front_send_vring(&f->front, VHOST_SET_VRING_NUM, 0, 0x8000);
    send_bits(f, VHOST_SET_VRING_KICK, 0, &f->front.rings[0].kick_fd, 1);
}

static void ring_outside_memory(struct fixture *f)
{
    (void)front_stop_ring(&f->front, FRONT_RX);
    uint8_t addr[40] = {0};
    addr[8] = 16;
    front_send_message(&f->front, VHOST_SET_VRING_ADDR, 1, addr, sizeof addr, NULL, 0);
    send_bits(f, VHOST_SET_VRING_KICK, 0, &f->front.rings[0].kick_fd, 1);
}

static void memory_that_overlaps(struct fixture *f)
{
    uint8_t table[8 + 64];
    struct bg_writer w = bg_writer_init(table, sizeof table);
    bg_writer_u64le(&w, 2);
    for (int i = 0; i < 2; i++) {
        bg_writer_u64le(&w, 0);
        bg_writer_u64le(&w, 0x1000);
        bg_writer_u64le(&w, FRONT_USER_BASE);
        bg_writer_u64le(&w, 0);
    }
    int fds[2] = {f->front.rings[0].kick_fd, f->front.rings[0].kick_fd};
    front_send_message(&f->front, VHOST_SET_MEM_TABLE, 1, table, sizeof table, fds, 2);
}

static void memory_taken_away(struct fixture *f)
{
    const uint8_t none[8] = {0};
    front_send_message(&f->front, VHOST_SET_MEM_TABLE, 1, none, sizeof none, NULL, 0);
    front_settle(&f->front);
    front_kick(&f->front, FRONT_TX);
}

static void memory_not_mapped(struct fixture *f)
{
    uint8_t table[8 + 32];
    struct bg_writer w = bg_writer_init(table, sizeof table);
    bg_writer_u64le(&w, 1);
    bg_writer_u64le(&w, FRONT_GUEST_BASE);
    bg_writer_u64le(&w, FRONT_MEMORY);
    bg_writer_u64le(&w, 0x1000); /* nothing of QEMU's is there */
    bg_writer_u64le(&w, 0);
    front_send_message(&f->front, VHOST_SET_MEM_TABLE, 1, table, sizeof table,
                       &f->front.rings[0].kick_fd, 1);
    front_settle(&f->front);
    front_kick(&f->front, FRONT_TX);
}

static void config_beyond_its_end(struct fixture *f)
{
    uint8_t bytes[12 + 8] = {250, 0, 0, 0, 8};
    front_send_message(&f->front, VHOST_GET_CONFIG, 1, bytes, sizeof bytes, NULL, 0);
}

static void wild_available_index(struct fixture *f)
{
    front_set_avail_idx(&f->front, FRONT_TX, 0x4000);
    front_kick(&f->front, FRONT_TX);
}

static void wild_receive_index(struct fixture *f)
{
    front_set_avail_idx(&f->front, FRONT_RX, 0x4000);
    front_kick(&f->front, FRONT_RX);
    struct vsock_packet p = guest_packet(VSOCK_OP_RW, 1, 1);
    for (unsigned i = 0; i < FRONT_QUEUE; i++) {
        guest_sends(f, &p, NULL); /* each answered by a RST, until there are no buffers known */
        front_settle(&f->front);
    }
    guest_sends(f, &p, NULL);
}

static void short_packet(struct fixture *f)
{
    front_write_desc(&f->front, f->front.rings[FRONT_TX].desc, 0, FRONT_GUEST_BASE,
                     VSOCK_HEADER_SIZE - 1, 0, 0);
    front_publish(&f->front, FRONT_TX, 0);
    front_kick(&f->front, FRONT_TX);
}

static void packet_that_lies_about_its_size(struct fixture *f)
{
    struct vsock_packet p = guest_packet(VSOCK_OP_RW, 1, 1);
    p.size = 5;
    guest_sends(f, &p, "12345");
    const struct front_ring *ring = &f->front.rings[FRONT_TX];
    uint32_t slot = (ring->avail_idx - 1u) % FRONT_QUEUE;
    f->front.memory[ring->buffers + slot * ring->buffer_size + 24] = 6; /* the header's len */
}

static void small_receive_buffers(struct fixture *f)
{
    (void)front_stop_ring(&f->front, FRONT_RX);
    (void)front_stop_ring(&f->front, FRONT_TX);
    front_start(&f->front, FRONT_FEATURES);
    front_fill_rx(&f->front, VSOCK_HEADER_SIZE);
}

static void old_driver(struct fixture *f)
{
    (void)front_stop_ring(&f->front, FRONT_RX);
    (void)front_stop_ring(&f->front, FRONT_TX);
    front_start(&f->front, UINT64_C(1) << 30);
}

static const struct {
    const char *what;
    void (*act)(struct fixture *f);
} wrongs[] = {
    {"bad_version", bad_version},
    {"unknown_request", unknown_request},
    {"long_message", long_message},
    {"features_not_offered", features_not_offered},
    {"features_while_running", features_while_running},
    {"protocol_features_not_offered", protocol_features_not_offered},
    {"fds_nobody_wants", fds_nobody_wants},
    {"more_fds_than_there_is_room", more_fds_than_there_is_room},
    {"kick_without_fd", kick_without_fd},
    {"kick_that_is_a_file", kick_that_is_a_file},
    {"call_that_is_a_pipe", call_that_is_a_pipe},
    {"ring_changed_while_running", ring_changed_while_running},
    {"no_such_ring", no_such_ring},
    {"wide_base", wide_base},
    {"odd_queue_size", odd_queue_size},
    {"huge_queue_size", huge_queue_size},
    {"ring_outside_memory", ring_outside_memory},
    {"memory_that_overlaps", memory_that_overlaps},
    {"memory_taken_away", memory_taken_away},
    {"memory_not_mapped", memory_not_mapped},
    {"config_beyond_its_end", config_beyond_its_end},
    {"wild_available_index", wild_available_index},
    {"wild_receive_index", wild_receive_index},
    {"short_packet", short_packet},
    {"packet_that_lies_about_its_size", packet_that_lies_about_its_size},
    {"small_receive_buffers", small_receive_buffers},
    {"old_driver", old_driver},
};

static void ends_the_device_for_each_wrong(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrongs / sizeof wrongs[0]; i++) {
        void *s = NULL;
        assert_int_equal(fixture_start(&s), 0);
        struct fixture *f = s;
        (void)open_conn(f, 0, 5);
        wrongs[i].act(f);
        expect_failure(f, wrongs[i].what);
        assert_int_equal(f->peers[0].ends, 1);
        assert_true(strlen(f->failure.text) > 0);
        assert_int_equal(fixture_close(&s), 0);
    }
}

/* Every prefix of a good conversation, then a hang-up or a close: nothing leaks, nothing hangs. */
static void can_be_closed_at_any_point(void **state)
{
    (void)state;
    for (int point = 0; point < 12; point++) {
        void *s = NULL;
        assert_int_equal(fixture_open(&s), 0);
        struct fixture *f = s;
        if (point > 0)
            (void)front_handshake(&f->front);
        if (point > 1) {
            f->front.features = FRONT_FEATURES;
            front_send_u64(&f->front, VHOST_SET_FEATURES, FRONT_FEATURES);
        }
        if (point > 2)
            front_set_memory(&f->front);
        if (point > 3)
            front_start_ring(&f->front, FRONT_RX, 0);
        if (point == 5) /* messages wait in the socket */
            front_start_ring(&f->front, FRONT_TX, 0);
        if (point > 5) {
            front_start_ring(&f->front, FRONT_TX, 0);
            front_settle(&f->front);
            front_fill_rx(&f->front, 4096);
        }
        if (point > 6)
            (void)open_conn(f, 0, 5);
        if (point > 7) {
            guest_says(f, VSOCK_OP_REQUEST, 9, 701); /* nobody answers it */
            assert_int_equal(f->request_count, 1);
        }
        if (point > 8)
            vsock_shutdown(f->peers[0].conn);
        if (point == 10) {
            struct bg_err err;
            assert_int_equal(
                vsock_connect(f->device, 6, &peer_ops, &f->peers[1], &f->peers[1].conn, &err), 0);
            vsock_reset(f->peers[0].conn);
            f->peers[0].conn = NULL;
        }
        if (point == 11) { /* half a message */
            const uint8_t half[] = {1, 0, 0, 0, 1};
            assert_int_equal(send(f->front.fd, half, sizeof half, 0), sizeof half);
            front_settle(&f->front);
        }
        assert_int_equal(f->failures, 0);
        assert_int_equal(fixture_close(&s), 0);
    }
}

static void closes_inside_a_callback(void **state)
{
    struct fixture *f = *state;
    (void)open_conn(f, 0, 5);
    f->close_on_request = true;
    struct vsock_packet p = guest_packet(VSOCK_OP_REQUEST, 9, 701);
    guest_sends(f, &p, NULL);
    p.src_port = 10; /* not seen any more */
    guest_sends(f, &p, NULL);
    front_settle(&f->front);
    assert_int_equal(f->request_count, 1);
    assert_int_equal(f->closes, 1);
    assert_int_equal(f->peers[0].ends, 1);
}

static void takes_messages_in_pieces(void **state)
{
    struct fixture *f = *state;
    const uint8_t bytes[] = {VHOST_GET_FEATURES, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0};
    for (size_t i = 0; i < sizeof bytes; i++) {
        assert_int_equal(send(f->front.fd, bytes + i, 1, 0), 1);
        front_settle(&f->front);
    }
    uint8_t reply[8];
    assert_int_equal(front_reply(&f->front, VHOST_GET_FEATURES, reply, sizeof reply), 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_is_no_stream_socket),
        cmocka_unit_test_setup_teardown(becomes_ready_with_the_driver, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(works_without_protocol_features_and_event_index,
                                        fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(survives_a_reset_of_the_driver, fixture_start,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(goes_on_after_a_pause, fixture_start, fixture_close),
        cmocka_unit_test_setup_teardown(stops_while_disabled, fixture_start, fixture_close),
        cmocka_unit_test_setup_teardown(fails_on_a_hang_up, fixture_start, fixture_close),
        cmocka_unit_test(ends_the_device_for_each_wrong),
        cmocka_unit_test(can_be_closed_at_any_point),
        cmocka_unit_test_setup_teardown(closes_inside_a_callback, fixture_start, fixture_close),
        cmocka_unit_test_setup_teardown(takes_messages_in_pieces, fixture_open, fixture_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
