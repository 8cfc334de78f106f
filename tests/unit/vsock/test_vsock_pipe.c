#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include "host/vsock/vsock_pipe.h"
#include "tests/unit/vsock/fixture.h"

#define GUEST_PORT 1000u

struct end {
    int count, parked, resumed;
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

/* ---- parking ---- */

#define STREAM_ID 77u

static void pipe_parked(void *owner)
{
    ((struct end *)owner)->parked++;
}

static void pipe_resumed(void *owner)
{
    ((struct end *)owner)->resumed++;
}

/* As start(), of a stream that can be resumed; its opening is "HEAD". */
static uint32_t start_stream(struct fixture *f, int fd, struct end *end, struct vsock_pipe **ret)
{
    uint32_t port = open_conn(f, 0, GUEST_PORT);
    const struct vsock_pipe_opts opts = {.conn = f->peers[0].conn,
                                         .fd = fd,
                                         .to_guest = (const uint8_t *)"HEADrest",
                                         .to_guest_size = 8,
                                         .opening_size = 4,
                                         .kind = BG_STREAM_EXEC,
                                         .id = STREAM_ID,
                                         .on_end = pipe_ended,
                                         .on_parked = pipe_parked,
                                         .on_resumed = pipe_resumed,
                                         .owner = end};
    struct bg_err err;
    assert_int_equal(vsock_pipe_start(&f->loop, &opts, ret, &err), 0);
    f->peers[0].conn = NULL;
    return port;
}

/* The device goes away with all connections, and another driver comes up. */
static void replug(struct fixture *f)
{
    (void)front_stop_ring(&f->front, FRONT_RX);
    (void)front_stop_ring(&f->front, FRONT_TX);
    front_start(&f->front, FRONT_FEATURES);
    front_fill_rx(&f->front, 4096 + VSOCK_HEADER_SIZE);
    front_settle(&f->front);
}

/* Answers the connect of a resumption. Returns the host's port; *ret_has: what the host says. */
static uint32_t expect_resume(struct fixture *f, uint64_t *ret_has)
{
    uint8_t got[8192];
    struct vsock_packet p = guest_gets(f, VSOCK_OP_REQUEST, NULL);
    assert_int_equal(p.dst_port, BG_VSOCK_AGENT_PORT);
    guest_says(f, VSOCK_OP_RESPONSE, BG_VSOCK_AGENT_PORT, p.src_port);
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, got).size, BG_STREAM_HEADER_SIZE + BG_RESUME_SIZE);
    struct bg_stream_header header;
    assert_int_equal(bg_stream_header_parse(got, BG_STREAM_HEADER_SIZE, &header, NULL), 0);
    assert_int_equal(header.flags, BG_STREAM_RESUME);
    assert_int_equal(header.kind, BG_STREAM_EXEC);
    assert_int_equal(header.id, STREAM_ID);
    struct bg_reader in = bg_reader_init(got + BG_STREAM_HEADER_SIZE, BG_RESUME_SIZE);
    *ret_has = bg_reader_u64le(&in);
    return p.src_port;
}

static void agent_writes(struct fixture *f, uint32_t port, const void *bytes, uint32_t size)
{
    struct vsock_packet p = guest_packet(VSOCK_OP_RW, BG_VSOCK_AGENT_PORT, port);
    p.size = size;
    guest_sends(f, &p, bytes);
    front_settle(&f->front);
}

static void answer_resume(struct fixture *f, uint32_t port, int status, uint64_t has,
                          const char *more)
{
    uint8_t bytes[256];
    bg_reply_header_emit(&(struct bg_reply_header){.status = status, .body_size = BG_RESUME_SIZE},
                         bytes);
    struct bg_writer w =
        bg_writer_init(bytes + BG_REPLY_HEADER_SIZE, sizeof bytes - BG_REPLY_HEADER_SIZE);
    bg_writer_u64le(&w, has);
    bg_writer_bytes(&w, more, strlen(more));
    agent_writes(f, port, bytes, (uint32_t)(BG_REPLY_HEADER_SIZE + w.used));
}

static void goes_on_where_the_guest_is(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    uint32_t port = start_stream(f, pair[1], &end, &pipe);
    uint8_t got[8192];
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, got).size, 8);
    assert_int_equal(write(pair[0], "0123456789", 10), 10);
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, got).size, 10);
    assert_true(vsock_pipe_park(pipe));
    assert_int_equal(write(pair[0], "later", 5), 5);
    guest_gets_nothing(f);
    guest_writes(f, port, "all of it", 9); /* the guest may still write until it has parked */
    replug(f);
    assert_int_equal(end.count, 0);
    assert_true(vsock_pipe_resume(pipe, f->device));
    uint64_t has;
    port = expect_resume(f, &has);
    assert_int_equal(has, 9);
    guest_gets_nothing(f); /* before the reply */
    answer_resume(f, port, 0, 8 + 6, "more");
    assert_int_equal(end.resumed, 1);
    expect_fd(pair[0], "all of itmore");
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, got).size, 4);
    assert_memory_equal(got, "6789", 4);
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, got).size, 5);
    assert_memory_equal(got, "later", 5);
    assert_int_equal(end.parked, 0); /* it was at once */
    assert_int_equal(close(pair[0]), 0);
    (void)guest_gets(f, VSOCK_OP_SHUTDOWN, NULL);
    front_settle(&f->front); /* nobody is left to serve */
    assert_int_equal(end.count, 1);
    assert_int_equal(end.to_guest, 8 + 15);
    assert_int_equal(end.from_guest, 13);
}

static void repeats_half_closes(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    uint32_t port = start_stream(f, pair[1], &end, &pipe);
    (void)guest_gets(f, VSOCK_OP_RW, NULL);
    assert_int_equal(shutdown(pair[0], SHUT_WR), 0);
    (void)guest_gets(f, VSOCK_OP_SHUTDOWN, NULL);
    assert_true(vsock_pipe_park(pipe));
    replug(f);
    assert_true(vsock_pipe_resume(pipe, f->device));
    uint64_t has;
    port = expect_resume(f, &has);
    answer_resume(f, port, 0, 3, "");
    uint8_t got[8192];
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, got).size, 5);
    assert_memory_equal(got, "Drest", 5);
    assert_int_equal(guest_gets(f, VSOCK_OP_SHUTDOWN, NULL).flags, VSOCK_SHUTDOWN_SEND);
    agent_writes(f, port, "bye", 3);
    expect_fd(pair[0], "bye");
    struct vsock_packet p = guest_packet(VSOCK_OP_SHUTDOWN, BG_VSOCK_AGENT_PORT, port);
    p.flags = VSOCK_SHUTDOWN_BOTH;
    guest_sends(f, &p, NULL);
    front_settle(&f->front);
    assert_int_equal(end.count, 1);
    assert_int_equal(close(pair[0]), 0);
}

static void parks_when_its_opening_is_out(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    struct peer *peer = &f->peers[0];
    struct bg_err err;
    assert_int_equal(vsock_connect(f->device, GUEST_PORT, &peer_ops, peer, &peer->conn, &err), 0);
    struct vsock_packet p = guest_gets(f, VSOCK_OP_REQUEST, NULL);
    const struct vsock_pipe_opts opts = {.conn = peer->conn,
                                         .fd = pair[1],
                                         .to_guest = (const uint8_t *)"HEAD",
                                         .to_guest_size = 4,
                                         .opening_size = 4,
                                         .kind = BG_STREAM_EXEC,
                                         .id = STREAM_ID,
                                         .on_end = pipe_ended,
                                         .on_parked = pipe_parked,
                                         .on_resumed = pipe_resumed,
                                         .owner = &end};
    assert_int_equal(vsock_pipe_start(&f->loop, &opts, &pipe, &err), 0);
    peer->conn = NULL;
    assert_false(vsock_pipe_park(pipe));
    assert_int_equal(write(pair[0], "rest", 4), 4);
    front_settle(&f->front);
    assert_int_equal(end.parked, 0);
    guest_says(f, VSOCK_OP_RESPONSE, GUEST_PORT, p.src_port);
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, NULL).size, 4);
    assert_int_equal(end.parked, 1);
    guest_gets_nothing(f);
    vsock_pipe_go_on(pipe); /* the snapshot was given up */
    assert_int_equal(guest_gets(f, VSOCK_OP_RW, NULL).size, 4);
    vsock_pipe_stop(pipe);
    front_settle(&f->front);
    assert_int_equal(end.count, 1);
    assert_int_equal(close(pair[0]), 0);
}

/* What the agent may answer, and the pipe ends at. */
static void ends_when_the_guest_does_not_go_on(void **state)
{
    struct fixture *f = *state;
    enum { UNKNOWN, TOO_MUCH, TOO_LITTLE, HANGS_UP, REFUSES, UNRESUMED, GIVEN_UP, CASES };
    for (int i = 0; i < CASES; i++) {
        struct end end = {0};
        struct vsock_pipe *pipe;
        int pair[2];
        pair_of_sockets(pair);
        f->peers[0].opens = 0;
        uint32_t port = start_stream(f, pair[1], &end, &pipe);
        struct vsock_packet p = guest_gets(f, VSOCK_OP_RW, NULL);
        p = guest_packet(VSOCK_OP_CREDIT_UPDATE, GUEST_PORT, port);
        p.fwd_cnt = 6; /* so much is forgotten at the next look */
        guest_sends(f, &p, NULL);
        front_settle(&f->front);
        assert_int_equal(write(pair[0], "1", 1), 1);
        (void)guest_gets(f, VSOCK_OP_RW, NULL);
        guest_writes(f, port, "last words", 10);
        assert_true(vsock_pipe_park(pipe));
        replug(f);
        uint64_t has;
        if (i == UNRESUMED) {
            vsock_pipe_go_on(pipe);
        } else {
            assert_true(vsock_pipe_resume(pipe, f->device));
            if (i == REFUSES) {
                p = guest_gets(f, VSOCK_OP_REQUEST, NULL);
                guest_says(f, VSOCK_OP_RST, BG_VSOCK_AGENT_PORT, p.src_port);
            } else {
                port = expect_resume(f, &has);
            }
        }
        if (i == UNKNOWN)
            answer_resume(f, port, -ENOENT, 0, "no such stream");
        else if (i == TOO_MUCH || i == TOO_LITTLE)
            answer_resume(f, port, 0, i == TOO_MUCH ? 10 : 5, "");
        else if (i == HANGS_UP)
            guest_says(f, VSOCK_OP_RST, BG_VSOCK_AGENT_PORT, port);
        else if (i == GIVEN_UP)
            vsock_pipe_go_on(pipe);
        front_settle(&f->front);
        expect_fd(pair[0], "last words");
        char c;
        assert_int_equal(read(pair[0], &c, 1), 0);
        assert_int_equal(end.resumed, i != UNRESUMED && i != GIVEN_UP);
        assert_int_equal(end.count, 1);
        assert_int_equal(close(pair[0]), 0);
        for (struct vsock_packet rest; front_receive(&f->front, &rest, NULL);)
            ;
    }
}

/* A client that never reads does not make us hold more with each snapshot. */
static void keeps_the_credit_across_connections(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    uint32_t port = start_stream(f, pair[1], &end, &pipe), guest_port = GUEST_PORT, before = 0;
    static uint8_t bytes[16 * 1024], got[1 << 20];
    uint32_t written = 0;
    int in_fd;
    uint32_t reply = BG_REPLY_HEADER_SIZE + BG_RESUME_SIZE;
    for (int round = 0; round < 6; round++) {
        /* What a guest may send that keeps to its credit. */
        struct vsock_packet p = {.buf_alloc = BG_VSOCK_BUFFER_MAX, .fwd_cnt = before};
        uint32_t tx = round == 0 ? 0 : reply;
        for (int idle = 0; idle < 3;) {
            struct vsock_packet next;
            while (front_receive(&f->front, &next, NULL))
                p = next;
            uint32_t on_way = tx - p.fwd_cnt;
            uint32_t room = on_way < p.buf_alloc ? p.buf_alloc - on_way : 0;
            uint32_t n = room < sizeof bytes ? room : (uint32_t)sizeof bytes;
            if (n == 0) {
                front_settle(&f->front);
                idle++;
                continue;
            }
            for (uint32_t i = 0; i < n; i++)
                bytes[i] = (uint8_t)((written + i) * 7919 >> 4);
            struct vsock_packet data = guest_packet(VSOCK_OP_RW, guest_port, port);
            data.size = n;
            guest_sends(f, &data, bytes);
            front_settle(&f->front);
            tx += n;
            written += n;
            idle = 0;
        }
        assert_int_equal(ioctl(pair[0], FIONREAD, &in_fd), 0);
        assert_true(written <= (uint32_t)in_fd + BG_VSOCK_BUFFER_MAX + (uint32_t)round * reply);
        assert_true(vsock_pipe_park(pipe));
        replug(f);
        assert_true(vsock_pipe_resume(pipe, f->device));
        p = guest_gets(f, VSOCK_OP_REQUEST, NULL);
        guest_says(f, VSOCK_OP_RESPONSE, BG_VSOCK_AGENT_PORT, p.src_port);
        p = guest_gets(f, VSOCK_OP_RW, NULL);
        before = p.fwd_cnt;
        port = p.src_port;
        guest_port = BG_VSOCK_AGENT_PORT;
        answer_resume(f, port, 0, 8, "");
        assert_int_equal(end.resumed, round + 1);
    }
    size_t at = 0;
    for (ssize_t n; (n = read(pair[0], got, sizeof got)) > 0 || at < written;) {
        for (ssize_t i = 0; i < n; i++)
            assert_int_equal(got[i], (uint8_t)((at + (size_t)i) * 7919 >> 4));
        at += n > 0 ? (size_t)n : 0;
        front_settle(&f->front);
    }
    assert_int_equal(at, written);
    vsock_pipe_stop(pipe);
    front_settle(&f->front);
    assert_int_equal(close(pair[0]), 0);
}

/* A guest that reads, acknowledges, writes and loses its device at random: no byte is lost or
 * doubled. */
static void loses_nothing_whenever_it_is_cut(void **state)
{
    struct fixture *f = *state;
    struct end end = {0};
    struct vsock_pipe *pipe;
    int pair[2];
    pair_of_sockets(pair);
    const char *given = getenv("BG_TEST_SEED");
    uint32_t seed = given ? (uint32_t)strtoul(given, NULL, 10) : (uint32_t)time(NULL);
    uint32_t random = seed | 1;
    print_message("seed %u\n", seed);
    uint32_t port = start_stream(f, pair[1], &end, &pipe), guest_port = GUEST_PORT;
    static uint8_t buffer[300000], inbox[1 << 20];
    uint64_t to_guest = 0, read_by_guest = 0, to_host = 0, read_by_host = 0;
    size_t inbox_size = 0; /* arrived in the guest and not read yet, from read_by_guest on */
    uint32_t conn_read = 0, credit_used = 0, fwd = 0, buf_alloc = BG_VSOCK_BUFFER_MAX;
    const uint64_t most = 3u << 20;
    int cuts = 0;
    bool head = false;
    while (read_by_guest < most || read_by_host < most) {
        random = random * 1664525u + 1013904223u;
        uint32_t size = (random >> 4) % (1u << ((random >> 24) % 18 + 1)) + 1;
        struct vsock_packet p;
        switch ((random >> 29) % 8) {
        case 0:
        case 1: /* the client writes */
            for (uint32_t i = 0; i < size; i++)
                buffer[i] = (uint8_t)((to_guest + i) * 31 >> 3);
            ssize_t n = to_guest < most ? write(pair[0], buffer, size) : 0;
            to_guest += n > 0 ? (uint64_t)n : 0;
            break;
        case 2: /* it reads */
            n = read(pair[0], buffer, size);
            for (ssize_t i = 0; i < n; i++)
                assert_int_equal(buffer[i], (uint8_t)((read_by_host + (uint64_t)i) * 17 >> 2));
            read_by_host += n > 0 ? (uint64_t)n : 0;
            break;
        case 3: /* the guest writes */
            if (size > 60000)
                size = 60000;
            uint32_t on_way = credit_used - fwd;
            if (on_way >= buf_alloc || to_host >= most)
                break;
            if (size > buf_alloc - on_way)
                size = buf_alloc - on_way;
            for (uint32_t i = 0; i < size; i++)
                buffer[i] = (uint8_t)((to_host + i) * 17 >> 2);
            p = guest_packet(VSOCK_OP_RW, guest_port, port);
            p.size = size;
            p.fwd_cnt = conn_read;
            guest_sends(f, &p, buffer);
            to_host += size;
            credit_used += size;
            break;
        case 4: /* it reads, and may tell */
            if (size > inbox_size)
                size = (uint32_t)inbox_size;
            for (uint32_t i = 0; i < size; i++) {
                uint64_t at = read_by_guest + i;
                uint8_t want = at < 8 ? (uint8_t) "HEADrest"[at] : (uint8_t)((at - 8) * 31 >> 3);
                assert_int_equal(inbox[i], want);
            }
            memmove(inbox, inbox + size, inbox_size - size);
            inbox_size -= size;
            read_by_guest += size;
            conn_read += size;
            if (random & 64) {
                p = guest_packet(VSOCK_OP_CREDIT_UPDATE, guest_port, port);
                p.fwd_cnt = conn_read;
                guest_sends(f, &p, NULL);
            }
            break;
        case 5:
            if ((random >> 8) % 8 != 0 || !head)
                break;
            assert_true(vsock_pipe_park(pipe));
            front_settle(&f->front);
            while (front_receive(&f->front, &p, NULL))
                ; /* arrived or not: it was not read */
            replug(f);
            assert_true(vsock_pipe_resume(pipe, f->device));
            uint64_t has;
            (void)has;
            p = guest_gets(f, VSOCK_OP_REQUEST, NULL);
            guest_port = BG_VSOCK_AGENT_PORT;
            port = p.src_port;
            guest_says(f, VSOCK_OP_RESPONSE, guest_port, port);
            uint8_t opening[8192];
            p = guest_gets(f, VSOCK_OP_RW, opening);
            struct bg_reader in = bg_reader_init(opening + BG_STREAM_HEADER_SIZE, BG_RESUME_SIZE);
            assert_int_equal(bg_reader_u64le(&in), to_host);
            conn_read = BG_STREAM_HEADER_SIZE + BG_RESUME_SIZE;
            credit_used = BG_REPLY_HEADER_SIZE + BG_RESUME_SIZE;
            fwd = p.fwd_cnt;
            buf_alloc = p.buf_alloc;
            inbox_size = 0;
            answer_resume(f, port, 0, read_by_guest, "");
            cuts++;
            break;
        default:
            front_settle(&f->front);
        }
        front_kick(&f->front, FRONT_RX);
        front_settle(&f->front);
        while (front_receive(&f->front, &p, buffer)) {
            fwd = p.fwd_cnt;
            if (p.op == VSOCK_OP_CREDIT_REQUEST) {
                struct vsock_packet update = guest_packet(VSOCK_OP_CREDIT_UPDATE, guest_port, port);
                update.fwd_cnt = conn_read;
                guest_sends(f, &update, NULL);
            }
            if (p.op != VSOCK_OP_RW)
                continue;
            head = true;
            assert_true(p.size <= sizeof inbox - inbox_size);
            memcpy(inbox + inbox_size, buffer, p.size);
            inbox_size += p.size;
        }
    }
    print_message("%d cuts\n", cuts);
    assert_true(cuts > 0);
    assert_int_equal(end.resumed, cuts);
    vsock_pipe_stop(pipe);
    front_settle(&f->front);
    assert_int_equal(end.count, 1);
    assert_int_equal(close(pair[0]), 0);
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
        TEST(goes_on_where_the_guest_is),
        TEST(repeats_half_closes),
        TEST(parks_when_its_opening_is_out),
        TEST(ends_when_the_guest_does_not_go_on),
        TEST(keeps_the_credit_across_connections),
        TEST(loses_nothing_whenever_it_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
