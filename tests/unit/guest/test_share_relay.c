/* Between /dev/fuse (here a socket that keeps messages apart) and a server (here the test). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "fs/proto/proto.h"
#include "guest/share_relay.h"

#define DEADLINE_S 30

struct fixture {
    int kernel, server; /* the test's ends */
    struct share_relay_opts opts;
    struct link link;
    int control, event; /* the agent's end of link's */
    pthread_t thread;
    int result;
    struct bg_err err;
    bool joined;
};

static atomic_bool is_needed;

static bool needed(void)
{
    return atomic_load(&is_needed);
}

static void *run(void *arg)
{
    struct fixture *f = arg;
    f->result = share_relay_greet(&f->opts, &f->err);
    if (f->result == 0)
        f->result = share_relay_run(&f->opts, &f->err);
    /* As in the guest, where the worker ends: both sides see that. */
    (void)shutdown(f->link.fd, SHUT_RDWR);
    (void)shutdown(f->opts.fuse_fd, SHUT_RDWR);
    return NULL;
}

static void pair(int type, int *ret_ours, int *ret_theirs)
{
    int fds[2];
    const struct timeval limit = {.tv_sec = DEADLINE_S};
    assert_int_equal(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    *ret_ours = fds[0];
    *ret_theirs = fds[1];
}

static int start(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->opts =
        (struct share_relay_opts){.needed = needed, .read_only = true, .uid = 1000, .gid = 1001};
    atomic_store(&is_needed, true);
    pair(SOCK_SEQPACKET, &f->kernel, &f->opts.fuse_fd);
    int stream, control;
    pair(SOCK_STREAM, &f->server, &stream);
    pair(SOCK_SEQPACKET, &f->control, &control);
    f->event = eventfd(0, EFD_CLOEXEC);
    assert_true(f->event >= 0);
    struct gate *gate = gate_new(0);
    assert_non_null(gate);
    link_init(&f->link, stream, control, f->event, gate);
    f->opts.link = &f->link;
    assert_int_equal(fcntl(f->opts.fuse_fd, F_SETFL, O_NONBLOCK), 0);
    f->opts.signal_fd = eventfd(0, EFD_CLOEXEC);
    assert_true(f->opts.signal_fd >= 0);
    assert_int_equal(pthread_create(&f->thread, NULL, run, f), 0);
    *state = f;
    return 0;
}

static int end(struct fixture *f)
{
    assert_int_equal(pthread_join(f->thread, NULL), 0);
    f->joined = true;
    return f->result;
}

static int stop(void **state)
{
    struct fixture *f = *state;
    (void)close(f->server);
    (void)close(f->kernel);
    if (!f->joined)
        (void)end(f);
    (void)close(f->opts.fuse_fd);
    (void)close(f->link.fd);
    (void)close(f->link.control_fd);
    (void)close(f->control);
    (void)close(f->event);
    gate_free(f->link.gate);
    (void)close(f->opts.signal_fd);
    free(f);
    return 0;
}

static void greet(struct fixture *f)
{
    uint8_t bytes[FS_HELLO_SIZE];
    struct fs_hello theirs, ours = {.server = true};
    fs_hello_emit(&ours, bytes);
    assert_int_equal(bg_write_full(f->server, bytes, sizeof bytes), 0);
    assert_int_equal(bg_read_full(f->server, bytes, sizeof bytes), 0);
    assert_int_equal(fs_hello_parse(bytes, sizeof bytes, false, &theirs, NULL), 0);
    assert_int_equal(theirs.uid, 1000);
    assert_int_equal(theirs.gid, 1001);
    assert_int_equal(theirs.flags, FS_HELLO_READ_ONLY);
}

/* Sends as the kernel would: one message a write. */
static void ask(struct fixture *f, const struct fs_request *request, const uint8_t *data)
{
    uint8_t bytes[4096];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    fs_request_emit(request, &w);
    bg_writer_bytes(&w, data, request->data_size);
    assert_true(bg_writer_ok(&w));
    assert_int_equal(send(f->kernel, bytes, w.used, 0), w.used);
}

/* The next request at the server. */
static void asked(struct fixture *f, uint8_t *out, struct fs_request *ret)
{
    size_t size;
    assert_int_equal(bg_read_full(f->server, out, 4), 0);
    assert_int_equal(fs_message_size(out, FS_REQUEST_HEADER_SIZE, &size, NULL), 0);
    assert_int_equal(bg_read_full(f->server, out + 4, size - 4), 0);
    assert_int_equal(fs_request_parse(out, size, ret, NULL), 0);
}

/* The error of the next reply at the kernel. */
static int answered(struct fixture *f, uint64_t unique)
{
    uint8_t bytes[4096];
    ssize_t n = recv(f->kernel, bytes, sizeof bytes, 0);
    assert_true(n >= (ssize_t)FS_REPLY_HEADER_SIZE);
    struct bg_reader in = bg_reader_init(bytes, (size_t)n);
    assert_int_equal(bg_reader_u32le(&in), n);
    int error = (int)bg_reader_u32le(&in);
    assert_int_equal(bg_reader_u64le(&in), unique);
    return error;
}

static void send_init(struct fixture *f, uint32_t minor)
{
    uint8_t bytes[FS_REQUEST_HEADER_SIZE + 64] = {0};
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_writer_u32le(&w, sizeof bytes);
    bg_writer_u32le(&w, FUSE_INIT);
    bg_writer_u64le(&w, 1);
    w.used = FS_REQUEST_HEADER_SIZE;
    bg_writer_u32le(&w, FUSE_KERNEL_VERSION);
    bg_writer_u32le(&w, minor);
    bg_writer_u32le(&w, 1u << 20);
    bg_writer_u32le(&w, FUSE_WRITEBACK_CACHE | FUSE_MAX_PAGES | FUSE_DO_READDIRPLUS);
    assert_int_equal(send(f->kernel, bytes, sizeof bytes, 0), sizeof bytes);
}

static void answers_init_by_itself(void **state)
{
    struct fixture *f = *state;
    greet(f);
    send_init(f, 38);
    uint8_t bytes[256];
    assert_int_equal(recv(f->kernel, bytes, sizeof bytes, 0), FS_REPLY_HEADER_SIZE + 64);
    struct bg_reader in = bg_reader_init(bytes + FS_REPLY_HEADER_SIZE, 64);
    assert_int_equal(bg_reader_u32le(&in), FUSE_KERNEL_VERSION);
    assert_int_equal(bg_reader_u32le(&in), 38);
    (void)bg_reader_u32le(&in);
    assert_int_equal(bg_reader_u32le(&in), FUSE_MAX_PAGES | FUSE_DO_READDIRPLUS);
}

static void refuses_an_old_kernel(void **state)
{
    struct fixture *f = *state;
    greet(f);
    send_init(f, 30);
    assert_int_equal(end(f), -EPROTO);
}

static void passes_requests_and_replies(void **state)
{
    struct fixture *f = *state;
    uint8_t bytes[4096];
    struct fs_request request;
    greet(f);
    for (uint64_t i = 2; i < 20; i++)
        ask(f,
            &(struct fs_request){
                .opcode = FUSE_LOOKUP, .unique = i, .node = 1, .name = "name", .name_size = 4},
            NULL);
    for (uint64_t i = 2; i < 20; i++) {
        asked(f, bytes, &request);
        assert_int_equal(request.unique, i);
        assert_string_equal(request.name, "name");
    }
    /* Three replies, cut where it hurts most. */
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    for (uint64_t i = 2; i < 5; i++) {
        struct fs_reply reply = {.unique = i, .error = -ENOENT};
        fs_reply_emit(FUSE_LOOKUP, &reply, &w);
    }
    for (size_t at = 0; at < w.used; at += 3)
        assert_int_equal(bg_write_full(f->server, bytes + at, w.used - at < 3 ? w.used - at : 3),
                         0);
    for (uint64_t i = 2; i < 5; i++)
        assert_int_equal(answered(f, i), -ENOENT);
}

static void wait_for_gate(const struct fixture *f, bool (*condition)(struct gate *gate))
{
    while (!condition(f->link.gate)) {
        uint64_t count;
        struct pollfd p = {.fd = f->event, .events = POLLIN};
        assert_int_equal(poll(&p, 1, DEADLINE_S * 1000), 1);
        assert_int_equal(read(f->event, &count, sizeof count), sizeof count);
    }
}

static bool is_quiet(struct gate *gate)
{
    return gate_is_quiet(gate);
}

/* As the agent and the host do at a snapshot. What the kernel asks meanwhile comes afterwards. */
static void goes_on_with_another_connection(void **state)
{
    struct fixture *f = *state;
    struct gate *gate = f->link.gate;
    uint8_t bytes[4096];
    struct fs_request got;
    greet(f);
    for (uint64_t unique = 1; unique < 40; unique += 2) {
        const struct fs_request request = {.opcode = FUSE_GETATTR, .unique = unique, .node = 1};
        ask(f, &request, NULL);
        asked(f, bytes, &got);
        assert_int_equal(got.unique, unique);
        gate_close(gate);
        wait_for_gate(f, is_quiet);
        const struct fs_request late = {.opcode = FUSE_GETATTR, .unique = unique + 1, .node = 1};
        ask(f, &late, NULL);
        uint64_t written = atomic_load(&gate->written);
        struct pollfd p = {.fd = f->server, .events = POLLIN};
        assert_int_equal(poll(&p, 1, 10), 0);
        (void)close(f->server);
        wait_for_gate(f, gate_hold);
        assert_int_equal(atomic_load(&gate->written), written);
        int stream;
        pair(SOCK_STREAM, &f->server, &stream);
        assert_int_equal(bg_send_fd(f->control, "", 1, stream), 0);
        (void)close(stream);
        gate_open(gate, /* renewed= */ true);
        asked(f, bytes, &got);
        assert_int_equal(got.unique, unique + 1);
        uint8_t reply[FS_REPLY_HEADER_SIZE];
        struct bg_writer w = bg_writer_init(reply, sizeof reply);
        bg_writer_u32le(&w, sizeof reply);
        bg_writer_u32le(&w, (uint32_t)-ENOENT);
        bg_writer_u64le(&w, unique);
        assert_int_equal(bg_write_full(f->server, reply, sizeof reply), 0);
        assert_int_equal(answered(f, unique), -ENOENT);
    }
}

static void refuses_what_is_not_spoken_on_streams(void **state)
{
    struct fixture *f = *state;
    greet(f);
    ask(f, &(struct fs_request){.opcode = FUSE_POLL, .unique = 7}, NULL);
    assert_int_equal(answered(f, 7), -ENOSYS);
    ask(f, &(struct fs_request){.opcode = FUSE_SYNCFS, .unique = 8}, NULL);
    assert_int_equal(answered(f, 8), -ENOSYS);
    const uint8_t data[4] = {0};
    ask(f, &(struct fs_request){.opcode = FUSE_IOCTL, .unique = 9, .data_size = 4, .size = 4},
        data);
    assert_int_equal(answered(f, 9), -ENOTTY);
}

static void ends_with_the_server(void **state)
{
    struct fixture *f = *state;
    greet(f);
    assert_int_equal(shutdown(f->server, SHUT_RDWR), 0);
    assert_int_equal(end(f), -ENODATA);
}

static void ends_on_a_reply_that_cannot_be(void **state)
{
    struct fixture *f = *state;
    greet(f);
    const uint8_t bytes[16] = {15};
    assert_int_equal(bg_write_full(f->server, bytes, sizeof bytes), 0);
    assert_int_equal(end(f), -EPROTO);
}

static void refuses_what_is_no_file_server(void **state)
{
    struct fixture *f = *state;
    const uint8_t bytes[FS_HELLO_SIZE] = {0};
    assert_int_equal(bg_write_full(f->server, bytes, sizeof bytes), 0);
    assert_int_equal(end(f), -EPROTO);
}

static void serves_as_long_as_it_is_needed_after_the_signal(void **state)
{
    struct fixture *f = *state;
    const uint64_t one = 1;
    uint8_t bytes[4096];
    struct fs_request request;
    greet(f);
    ask(f, &(struct fs_request){.opcode = FUSE_STATFS, .unique = 2, .node = 1}, NULL);
    asked(f, bytes, &request);
    assert_int_equal(write(f->opts.signal_fd, &one, sizeof one), sizeof one);
    ask(f, &(struct fs_request){.opcode = FUSE_STATFS, .unique = 3, .node = 1}, NULL);
    asked(f, bytes, &request);
    assert_int_equal(request.unique, 3);
    atomic_store(&is_needed, false);
    assert_int_equal(end(f), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)
    const struct CMUnitTest tests[] = {
        TEST(answers_init_by_itself),
        TEST(refuses_an_old_kernel),
        TEST(passes_requests_and_replies),
        TEST(goes_on_with_another_connection),
        TEST(refuses_what_is_not_spoken_on_streams),
        TEST(ends_with_the_server),
        TEST(ends_on_a_reply_that_cannot_be),
        TEST(refuses_what_is_no_file_server),
        TEST(serves_as_long_as_it_is_needed_after_the_signal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
