#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "host/vsock/vsock_pipe.h"
#include "tests/unit/vsock/fixture.h"

#define GUEST_PORT 1000u

struct end {
    int count;
    uint64_t to_guest, from_guest;
};

static void pipe_ended(void *owner, uint64_t to_guest, uint64_t from_guest)
{
    struct end *end = owner;
    end->count++;
    end->to_guest = to_guest;
    end->from_guest = from_guest;
}

/* Opens peers[0]'s connection and pipes it to fd. Returns the host's port. */
static uint32_t start(struct fixture *f, int fd, struct end *end, struct vsock_pipe **ret)
{
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    const struct vsock_pipe_opts opts = {
        .conn = f->peers[0].conn, .fd = fd, .on_end = pipe_ended, .owner = end};
    struct bg_err err;
    assert_int_equal(vsock_pipe_start(&f->loop, &opts, ret, &err), 0);
    f->peers[0].conn = NULL;
    return port;
}

static void pair_of_sockets(int pair[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
}

static void guest_writes(struct fixture *f, uint32_t port, const void *bytes, uint32_t size)
{
    struct vsock_packet p = guest_packet(VSOCK_OP_RW, GUEST_PORT, port);
    p.size = size;
    guest_sends(f, &p, bytes);
    front_settle(&f->front);
}

static void guest_shuts(struct fixture *f, uint32_t port, uint32_t flags)
{
    struct vsock_packet p = guest_packet(VSOCK_OP_SHUTDOWN, GUEST_PORT, port);
    p.flags = flags;
    guest_sends(f, &p, NULL);
    front_settle(&f->front);
}

static void expect_fd(int fd, const char *bytes)
{
    char got[64] = {0};
    assert_int_equal(read(fd, got, sizeof got), strlen(bytes));
    assert_memory_equal(got, bytes, strlen(bytes));
}

static void carries_both_ways_and_closes_by_halves(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    uint32_t port = start(f, pair[1], &end, &pipe);
    assert_int_equal(write(pair[0], "to guest", 8), 8);
    uint8_t got[8192];
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, got).size, 8);
    assert_memory_equal(got, "to guest", 8);
    guest_writes(f, port, "to host", 7);
    expect_fd(pair[0], "to host");
    /* The guest's end of file does not end the other way. */
    guest_shuts(f, port, VSOCK_SHUTDOWN_SEND);
    assert_int_equal(read(pair[0], got, 1), 0);
    assert_int_equal(write(pair[0], "more", 4), 4);
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, got).size, 4);
    assert_int_equal(end.count, 0);
    assert_int_equal(shutdown(pair[0], SHUT_WR), 0);
    assert_int_equal(guest_gets(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_BOTH);
    front_settle(&f->front);
    assert_int_equal(end.count, 1);
    assert_int_equal(end.to_guest, 12);
    assert_int_equal(end.from_guest, 7);
    assert_int_equal(close(pair[0]), 0);
}

static void host_may_end_first(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    uint32_t port = start(f, pair[1], &end, &pipe);
    assert_int_equal(shutdown(pair[0], SHUT_WR), 0);
    assert_int_equal(guest_gets(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_SEND);
    guest_writes(f, port, "answer", 6);
    expect_fd(pair[0], "answer");
    guest_shuts(f, port, VSOCK_SHUTDOWN_BOTH);
    char c;
    assert_int_equal(read(pair[0], &c, 1), 0);
    assert_int_equal(end.count, 1);
    assert_int_equal(close(pair[0]), 0);
}

static void sends_what_came_before_first(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    struct peer *peer = &f->peers[0];
    struct bg_err err;
    /* Not even open yet. */
    assert_int_equal(vsock_connect(f->device, GUEST_PORT, &peer_ops, peer, &peer->conn, &err), 0);
    struct vsock_packet p = guest_gets(f, VSOCK_OP_REQUEST, NULL);
    const struct vsock_pipe_opts opts = {.conn = peer->conn,
                                         .fd = pair[1],
                                         .to_guest = (const uint8_t *)"head",
                                         .to_guest_size = 4,
                                         .to_fd = (const uint8_t *)"early",
                                         .to_fd_size = 5,
                                         .on_end = pipe_ended,
                                         .owner = &end};
    assert_int_equal(vsock_pipe_start(&f->loop, &opts, &pipe, &err), 0);
    peer->conn = NULL;
    expect_fd(pair[0], "early");
    assert_int_equal(write(pair[0], "tail", 4), 4);
    guest_gets_nothing(f);
    guest_says(f, VSOCK_OP_RESPONSE, GUEST_PORT, p.src_port);
    uint8_t got[8192];
    size_t size = 0;
    while (size < 8)
        size += guest_gets(f, VSOCK_OP_RW, got + size).size;
    assert_memory_equal(got, "headtail", 8);
    vsock_pipe_stop(pipe);
    vsock_pipe_stop(pipe);
    assert_int_equal(end.count, 0); /* later */
    front_settle(&f->front);
    assert_int_equal(end.count, 1);
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
    assert_int_equal(close(pair[0]), 0);
}

static void holds_the_guest_when_nobody_reads_the_fd(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    uint32_t port = start(f, pair[1], &end, &pipe);
    static uint8_t bytes[32 * 1024], got[sizeof bytes];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7919 >> 3);
    /* A guest that keeps to its credit can send only so much. */
    uint32_t sent = 0, fwd = 0;
    struct vsock_packet p;
    for (int idle = 0; idle < 3;) {
        while (front_receive(&f->front, &p, NULL))
            fwd = p.fwd_cnt;
        if (BG_VSOCK_BUFFER_MAX - (sent - fwd) >= sizeof bytes) {
            guest_writes(f, port, bytes, sizeof bytes);
            sent += (uint32_t)sizeof bytes;
            idle = 0;
        } else {
            front_settle(&f->front);
            idle++;
        }
        assert_true(sent < 4 << 20);
    }
    assert_true(sent >= BG_VSOCK_BUFFER_MAX);
    guest_shuts(f, port, VSOCK_SHUTDOWN_BOTH); /* its process exits; the bytes still count */
    (void)guest_gets(f, VSOCK_OP_RST, NULL);
    assert_int_equal(end.count, 0);
    /* The reader comes back: all is there, in order. */
    uint32_t read_size = 0;
    for (;;) {
        ssize_t n = read(pair[0], got, sizeof got);
        if (n == 0)
            break;
        if (n < 0) {
            assert_int_equal(errno, EAGAIN);
            front_settle(&f->front);
            continue;
        }
        for (ssize_t i = 0; i < n; i++)
            assert_int_equal(got[i], bytes[(read_size + (uint32_t)i) % sizeof bytes]);
        read_size += (uint32_t)n;
    }
    assert_int_equal(read_size, sent);
    front_settle(&f->front);
    assert_int_equal(end.count, 1);
    assert_int_equal(end.from_guest, sent);
    assert_int_equal(close(pair[0]), 0);
}

static void holds_the_fd_when_the_guest_does_not_read(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    uint32_t port = start(f, pair[1], &end, &pipe);
    static const uint8_t bytes[64 * 1024];
    size_t written = 0;
    uint32_t received = 0;
    struct vsock_packet p;
    for (int idle = 0; idle < 3; idle++) {
        ssize_t n;
        while ((n = write(pair[0], bytes, sizeof bytes)) > 0) {
            written += (size_t)n;
            idle = 0;
        }
        while (front_receive(&f->front, &p, NULL)) { /* buffers, but never credit */
            received += p.size;
            idle = 0;
        }
        front_kick(&f->front, FRONT_RX);
        front_settle(&f->front);
        assert_true(written < 8 << 20);
    }
    assert_int_equal(received, 1 << 20); /* what guest_packet() announces */
    /* The guest has read; then all comes, and the end. */
    assert_int_equal(shutdown(pair[0], SHUT_WR), 0);
    p = guest_packet(VSOCK_OP_CREDIT_UPDATE, GUEST_PORT, port);
    p.fwd_cnt = received;
    guest_sends(f, &p, NULL);
    do {
        front_kick(&f->front, FRONT_RX);
        assert_true(front_await(&f->front, &p, NULL));
        received += p.size;
    } while (p.op != VSOCK_OP_SHUTDOWN);
    assert_int_equal(received, written);
    guest_shuts(f, port, VSOCK_SHUTDOWN_BOTH);
    assert_int_equal(end.count, 1);
    assert_int_equal(end.to_guest, written);
    assert_int_equal(close(pair[0]), 0);
}

static void tells_the_guest_that_the_reader_is_gone(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    uint32_t port = start(f, pair[1], &end, &pipe);
    assert_int_equal(shutdown(pair[0], SHUT_RD), 0);
    guest_writes(f, port, "x", 1);
    assert_int_equal(guest_gets(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_RECEIVE);
    assert_int_equal(write(pair[0], "still", 5), 5); /* the other way is untouched */
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, NULL).size, 5);
    assert_int_equal(close(pair[0]), 0);
    (void)guest_gets(f, VSOCK_OP_SHUTDOWN, NULL);
    front_settle(&f->front);
    assert_int_equal(end.count, 1);
}

static void sees_that_the_fd_is_closed_as_a_whole(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    (void)start(f, pair[1], &end, &pipe);
    assert_int_equal(shutdown(pair[0], SHUT_WR), 0);
    (void)guest_gets(f, VSOCK_OP_SHUTDOWN, NULL);
    guest_gets_nothing(f);
    assert_int_equal(close(pair[0]), 0); /* seen though nothing is being read */
    assert_int_equal(guest_gets(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_BOTH);
    front_settle(&f->front);
    assert_int_equal(end.count, 1);
}

static void delivers_what_was_written_before_the_close(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    /* Unread bytes in the peer make its close an error on our side. */
    assert_int_equal(write(pair[1], "unread", 6), 6);
    assert_int_equal(write(pair[0], "last words", 10), 10);
    assert_int_equal(close(pair[0]), 0);
    const struct vsock_pipe_opts opts = {
        .conn = f->peers[0].conn, .fd = pair[1], .on_end = pipe_ended, .owner = &end};
    struct bg_err err;
    assert_int_equal(vsock_pipe_start(&f->loop, &opts, &pipe, &err), 0);
    f->peers[0].conn = NULL;
    uint8_t got[8192];
    struct vsock_packet p = guest_gets(f, VSOCK_OP_RW, got);
    assert_int_equal(p.size, 10);
    assert_int_equal(p.src_port, port);
    (void)guest_gets(f, VSOCK_OP_SHUTDOWN, NULL);
    front_settle(&f->front);
    assert_int_equal(end.count, 1);
}

static void tells_the_writer_that_the_guest_stopped_reading(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    uint32_t port = start(f, pair[1], &end, &pipe);
    guest_shuts(f, port, VSOCK_SHUTDOWN_RECEIVE);
    assert_int_equal(send(pair[0], "x", 1, MSG_NOSIGNAL), -1);
    assert_int_equal(errno, EPIPE);
    guest_writes(f, port, "but I talk", 10);
    expect_fd(pair[0], "but I talk");
    guest_shuts(f, port, VSOCK_SHUTDOWN_SEND);
    assert_int_equal(end.count, 1);
    assert_int_equal(close(pair[0]), 0);
}

static void pipes_have_one_direction(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    uint32_t port = start(f, fds[1], &end, &pipe); /* for what the guest writes */
    assert_int_equal(guest_gets(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_SEND);
    guest_writes(f, port, "out", 3);
    expect_fd(fds[0], "out");
    guest_shuts(f, port, VSOCK_SHUTDOWN_SEND);
    char c;
    assert_int_equal(read(fds[0], &c, 1), 0);
    assert_int_equal(end.count, 1);
    assert_int_equal(close(fds[0]), 0);
}

static void pipes_have_the_other_direction(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    (void)start(f, fds[0], &end, &pipe);
    assert_int_equal(guest_gets(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_RECEIVE);
    assert_int_equal(write(fds[1], "in", 2), 2);
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, NULL).size, 2);
    assert_int_equal(close(fds[1]), 0);
    assert_int_equal(guest_gets(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_BOTH);
    front_settle(&f->front);
    assert_int_equal(end.count, 1);
    assert_int_equal(end.to_guest, 2);
}

static void survives_the_loss_of_a_pipes_reader(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    (void)start(f, fds[1], &end, &pipe);
    (void)guest_gets(f, VSOCK_OP_SHUTDOWN, NULL);
    assert_int_equal(close(fds[0]), 0);
    (void)guest_gets(f, VSOCK_OP_SHUTDOWN, NULL);
    front_settle(&f->front);
    assert_int_equal(end.count, 1);
}

static void outlives_the_device_until_the_fd_has_it_all(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    uint32_t port = start(f, pair[1], &end, &pipe);
    static uint8_t bytes[60000], got[sizeof bytes];
    for (int i = 0; i < 7; i++) /* more than the socket's own buffer */
        guest_writes(f, port, bytes, i < 4 ? sizeof bytes : 2000);
    vsock_device_close(f->device);
    f->device = NULL;
    front_settle(&f->front);
    assert_int_equal(f->closes, 1);
    size_t size = 0;
    for (ssize_t n; (n = read(pair[0], got, sizeof got)) != 0; size += n > 0 ? (size_t)n : 0)
        front_settle(&f->front);
    assert_int_equal(size, 4 * sizeof bytes + 3 * 2000);
    assert_int_equal(end.count, 1);
    assert_int_equal(close(pair[0]), 0);
}

static void refuses_a_file(void **state)
{
    struct fixture *f = *state;
    (void)open_conn(f, 0, GUEST_PORT);
    FILE *file = tmpfile();
    assert_non_null(file);
    struct end end = {0};
    const struct vsock_pipe_opts opts = {
        .conn = f->peers[0].conn, .fd = fileno(file), .on_end = pipe_ended, .owner = &end};
    struct bg_err err;
    struct vsock_pipe *pipe;
    assert_int_equal(vsock_pipe_start(&f->loop, &opts, &pipe, &err), -EPERM);
    assert_int_equal(fclose(file), 0);
    assert_true(vsock_is_open(f->peers[0].conn)); /* not taken */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_start, fixture_close)

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN); /* as every program with a vsock_pipe on a pipe must */
    const struct CMUnitTest tests[] = {
        TEST(carries_both_ways_and_closes_by_halves),
        TEST(host_may_end_first),
        TEST(sends_what_came_before_first),
        TEST(holds_the_guest_when_nobody_reads_the_fd),
        TEST(holds_the_fd_when_the_guest_does_not_read),
        TEST(tells_the_guest_that_the_reader_is_gone),
        TEST(sees_that_the_fd_is_closed_as_a_whole),
        TEST(delivers_what_was_written_before_the_close),
        TEST(tells_the_writer_that_the_guest_stopped_reading),
        TEST(pipes_have_one_direction),
        TEST(pipes_have_the_other_direction),
        TEST(survives_the_loss_of_a_pipes_reader),
        TEST(outlives_the_device_until_the_fd_has_it_all),
        TEST(refuses_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
