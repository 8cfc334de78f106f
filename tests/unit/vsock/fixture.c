#include "tests/unit/vsock/fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static void opened(void *owner)
{
    ((struct peer *)owner)->opens++;
}

static void got_data(void *owner, const uint8_t *bytes, size_t size)
{
    struct peer *p = owner;
    assert_true(size <= FRONT_MEMORY - p->size);
    memcpy(p->data + p->size, bytes, size);
    p->size += size;
    if (!p->hold)
        vsock_consumed(p->conn, size);
}

static void writable(void *owner)
{
    static const uint8_t zeros[64 * 1024];
    struct peer *p = owner;
    p->writables++;
    for (size_t n = sizeof zeros; p->write_when_writable && n == sizeof zeros; p->written += n)
        n = vsock_write(p->conn, zeros, sizeof zeros);
}

static void got_eof(void *owner)
{
    struct peer *p = owner;
    p->eofs++;
    if (p->reset_on_eof) {
        vsock_reset(p->conn);
        p->conn = NULL;
    }
}

static void ended(void *owner, int code)
{
    struct peer *p = owner;
    p->ends++;
    p->end_code = code;
    p->conn = NULL;
}

const struct vsock_conn_ops peer_ops = {.on_open = opened,
                                        .on_data = got_data,
                                        .on_writable = writable,
                                        .on_eof = got_eof,
                                        .on_end = ended};

static void ready(void *owner)
{
    ((struct fixture *)owner)->readies++;
}

static void requested(void *owner, struct vsock_conn *conn, uint32_t host_port)
{
    struct fixture *f = owner;
    assert_true(f->request_count < FIXTURE_CONNS);
    int i = f->request_count++;
    f->requests[i] = conn;
    f->request_ports[i] = host_port;
    if (f->accept) {
        f->peers[i].conn = conn;
        vsock_accept(conn, &peer_ops, &f->peers[i]);
    }
    if (f->close_on_request) {
        vsock_device_close(f->device);
        f->device = NULL;
    }
}

static void failed(void *owner, const struct bg_err *err)
{
    struct fixture *f = owner;
    f->failures++;
    f->failure = *err;
}

static void closed(void *owner)
{
    ((struct fixture *)owner)->closes++;
}

static int count_fds(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;
    assert_non_null(folder);
    while (readdir(folder))
        count++;
    (void)closedir(folder);
    return count;
}

static int fds_before; /* cmocka runs one test after the other */

int fixture_open(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    /* The first loop of a process opens fds that stay. */
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    fds_before = count_fds();
    assert_int_equal(uv_loop_init(&f->loop), 0);
    for (size_t i = 0; i < FIXTURE_CONNS; i++) {
        f->peers[i].fixture = f;
        f->peers[i].data = malloc(FRONT_MEMORY);
        assert_non_null(f->peers[i].data);
    }
    int fd;
    front_init(&f->front, &f->loop, &fd);
    const struct vsock_device_opts opts = {.fd = fd,
                                           .memory_pid = getpid(),
                                           .guest_cid = FRONT_GUEST_CID,
                                           .on_ready = ready,
                                           .on_request = requested,
                                           .on_failed = failed,
                                           .on_closed = closed,
                                           .owner = f};
    struct bg_err err;
    assert_int_equal(vsock_device_open_access(&f->loop, &opts, &f->front.access, &f->device, &err),
                     0);
    *state = f;
    return 0;
}

int fixture_start(void **state)
{
    int r = fixture_open(state);
    struct fixture *f = *state;
    assert_int_equal(front_handshake(&f->front), FRONT_GUEST_CID);
    front_start(&f->front, FRONT_FEATURES);
    front_fill_rx(&f->front, 4096 + VSOCK_HEADER_SIZE);
    assert_int_equal(f->readies, 1);
    return r;
}

int fixture_close(void **state)
{
    struct fixture *f = *state;
    vsock_device_close(f->device);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT); /* ends only when every handle is closed */
    assert_int_equal(f->closes, 1);
    front_done(&f->front);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    assert_int_equal(count_fds(), fds_before);
    for (size_t i = 0; i < FIXTURE_CONNS; i++)
        free(f->peers[i].data);
    free(f);
    return 0;
}

struct vsock_packet guest_packet(uint16_t op, uint32_t guest_port, uint32_t host_port)
{
    return (struct vsock_packet){.src_cid = FRONT_GUEST_CID,
                                 .dst_cid = 2,
                                 .src_port = guest_port,
                                 .dst_port = host_port,
                                 .type = VSOCK_TYPE_STREAM,
                                 .op = op,
                                 .buf_alloc = 1 << 20};
}

void guest_sends(struct fixture *f, const struct vsock_packet *p, const void *payload)
{
    front_transmit(&f->front, p, payload);
}

void guest_says(struct fixture *f, uint16_t op, uint32_t guest_port, uint32_t host_port)
{
    struct vsock_packet p = guest_packet(op, guest_port, host_port);
    guest_sends(f, &p, NULL);
    front_settle(&f->front);
}

struct vsock_packet guest_gets(struct fixture *f, uint16_t op, uint8_t *payload)
{
    struct vsock_packet p = {0};
    uint8_t bytes[FRONT_TX_BUFFER];
    assert_true(front_await(&f->front, &p, payload ? payload : bytes));
    assert_int_equal(p.op, op);
    assert_int_equal(p.src_cid, 2);
    assert_int_equal(p.dst_cid, FRONT_GUEST_CID);
    return p;
}

void guest_gets_nothing(struct fixture *f)
{
    struct vsock_packet p;
    front_settle(&f->front);
    if (front_receive(&f->front, &p, NULL))
        fail_msg("a packet with op %u", p.op);
}

uint32_t open_conn(struct fixture *f, size_t index, uint32_t guest_port)
{
    struct peer *peer = &f->peers[index];
    struct bg_err err;
    assert_int_equal(vsock_connect(f->device, guest_port, &peer_ops, peer, &peer->conn, &err), 0);
    struct vsock_packet p = guest_gets(f, VSOCK_OP_REQUEST, NULL);
    assert_int_equal(p.dst_port, guest_port);
    assert_true(p.buf_alloc > 0);
    guest_says(f, VSOCK_OP_RESPONSE, guest_port, p.src_port);
    assert_int_equal(peer->opens, 1);
    return p.src_port;
}
