/* The agent's other streams (session, copy, forward, bench), and what it makes of malformed ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/files.h"
#include "common/io.h"
#include "common/tree/tree_tar.h"
#include "tests/unit/guest/client.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

static int start(void **state)
{
    struct test_agent *agent = calloc(1, sizeof *agent);
    assert_non_null(agent);
    test_agent_start(agent, NULL);
    *state = agent;
    return 0;
}

static int stop(void **state)
{
    test_agent_stop(*state);
    free(*state);
    return 0;
}

static void expect_alive(const struct test_agent *agent)
{
    struct exec_result r;
    client_exec(agent, &(struct exec_args){.argv = ARGV("echo", "alive")}, NULL, &r);
    assert_string_equal(r.out, "alive\n");
    exec_result_done(&r);
}

/* ---- session ---- */

static int open_session(const struct test_agent *agent)
{
    int fd = client_connect(agent);
    char reply[BG_REPLY_TEXT_MAX + 1];
    client_open(fd, BG_STREAM_SESSION, NULL, 0);
    assert_int_equal(client_reply(fd, reply), 0);
    uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t size;
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_HELLO);
    struct bg_reader in = bg_reader_init(payload, size);
    char version[64];
    assert_int_equal(bg_reader_u32le(&in), 1);
    bg_reader_text32le(&in, version, sizeof version);
    assert_true(bg_reader_end(&in));
    assert_true(strlen(version) > 0);
    return fd;
}

static void send_identity(int fd, uint32_t flags, const char *variable)
{
    uint8_t env[256], payload[1024];
    struct bg_writer w = bg_writer_init(env, sizeof env);
    bg_writer_text32le(&w, variable);
    struct bg_identity identity = {.flags = flags,
                                   .hostname = "test",
                                   .sandbox_id = "sbx_test",
                                   .ca_pem = (const uint8_t *)"PEM",
                                   .ca_pem_size = 3,
                                   .envc = 1,
                                   .env = env,
                                   .env_size = w.used};
    w = bg_writer_init(payload, sizeof payload);
    bg_identity_emit(&identity, &w);
    client_frame(fd, BG_FRAME_IDENTITY, payload, w.used);
    size_t size;
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_READY);
    struct bg_reader in = bg_reader_init(payload, size);
    assert_int_equal(bg_reader_u32le(&in), 0);
}

static void session_sets_the_environment_and_beats(void **state)
{
    int fd = open_session(*state);
    send_identity(fd, 0, "TOKEN=placeholder");
    struct exec_result r;
    client_exec(*state,
                &(struct exec_args){.argv = ARGV("sh", "-c",
                                                 "echo $TOKEN $BELLGLASS_SANDBOX"
                                                 " $SSL_CERT_FILE")},
                NULL, &r);
    assert_string_equal(r.out, "placeholder sbx_test /etc/ssl/certs/ca-certificates.crt\n");
    exec_result_done(&r);
    uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t size;
    client_frame(fd, BG_FRAME_PING, "12345678", 8);
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_PONG);
    assert_int_equal(size, 8);
    assert_memory_equal(payload, "12345678", 8);
    client_frame(fd, BG_FRAME_PREPARE, "", 1);
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_PREPARED);
    (void)close(fd);
}

static void golden_identity_warms_up(void **state)
{
    int fd = open_session(*state);
    send_identity(fd, BG_IDENTITY_GOLDEN, "A=B");
    (void)close(fd);
}

static void one_that_waits_for_its_identity_warms_up(void **state)
{
    int fd = open_session(*state);
    uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t size;
    client_frame(fd, BG_FRAME_WARM, NULL, 0);
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_WARMED);
    assert_int_equal(size, 0);
    send_identity(fd, 0, "A=B");
    client_frame(fd, BG_FRAME_WARM, NULL, 0); /* too late */
    assert_true(client_at_end(fd));
    (void)close(fd);
    fd = open_session(*state);
    client_frame(fd, BG_FRAME_WARM, "x", 1);
    assert_true(client_at_end(fd));
    (void)close(fd);
}

static void an_identity_ends_what_was_before(void **state)
{
    struct exec_result r;
    int exec = client_exec_start(*state, &(struct exec_args){.argv = ARGV("sleep", "1000")}, &r);
    int first = open_session(*state);
    int second = open_session(*state);
    assert_true(client_at_end(first)); /* one session at a time */
    send_identity(second, 0, "A=B");
    assert_true(client_at_end(exec));
    (void)close(first);
    (void)close(second);
    (void)close(exec);
}

static void shutdown_ends_a_development_agent(void **state)
{
    struct test_agent *agent = *state;
    int fd = open_session(agent);
    client_frame(fd, BG_FRAME_SHUTDOWN, NULL, 0);
    assert_true(client_at_end(fd));
    (void)close(fd);
    /* stop() finds it gone by itself: it reaps the same status. */
}

/* ---- copy ---- */

static int enter_temp(void **state)
{
    char path[] = "/tmp/bg-copy-XXXXXX";
    if (start(state) < 0 || !mkdtemp(path) || chdir(path) < 0)
        return -1;
    return chmod(".", 0777);
}

static int leave_temp(void **state)
{
    char path[256];
    if (!getcwd(path, sizeof path) || chdir("/") < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        (void)execl("/bin/rm", "rm", "-rf", "--", path, NULL);
        _exit(127);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || status != 0)
        return -1;
    return stop(state);
}

static int open_copy(const struct test_agent *agent, uint8_t direction, const char *path,
                     const char *root, uint32_t flags)
{
    struct bg_copy_request request = {.direction = direction, .flags = flags};
    (void)snprintf(request.user, sizeof request.user, "%s", geteuid() == 0 ? "root" : "");
    (void)snprintf(request.path, sizeof request.path, "%s", path);
    (void)snprintf(request.root, sizeof request.root, "%s", root);
    uint8_t body[2 * BG_PATH_MAX];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_copy_request_emit(&request, &w);
    int fd = client_connect(agent);
    client_open(fd, BG_STREAM_COPY, body, w.used);
    char reply[BG_REPLY_TEXT_MAX + 1];
    assert_int_equal(client_reply(fd, reply), 0);
    return fd;
}

/* Reads until END. Returns its status; text: BG_FRAME_SIZE_MAX bytes. */
static int read_end(int fd, uint8_t *text)
{
    for (;;) {
        size_t size;
        uint8_t payload[BG_FRAME_SIZE_MAX];
        uint8_t type = client_next(fd, payload, &size);
        if (type == BG_FRAME_DATA)
            continue;
        assert_int_equal(type, BG_FRAME_END);
        assert_true(size >= 4);
        struct bg_reader in = bg_reader_init(payload, size);
        int status = (int)bg_reader_u32le(&in);
        memcpy(text, in.at, in.left);
        text[in.left] = '\0';
        return status;
    }
}

struct tar {
    int fd;
    uint8_t payload[BG_FRAME_SIZE_MAX];
};

static ssize_t tar_read(void *owner, const void **ret_bytes)
{
    struct tar *tar = owner;
    size_t size;
    uint8_t type = client_next(tar->fd, tar->payload, &size);
    if (type == BG_FRAME_END) {
        assert_int_equal(bg_reader_u32le(&(struct bg_reader){tar->payload, size, false}), 0);
        return 0;
    }
    assert_int_equal(type, BG_FRAME_DATA);
    *ret_bytes = tar->payload;
    return (ssize_t)size;
}

static int tar_write(void *owner, const void *bytes, size_t size)
{
    struct tar *tar = owner;
    client_frame(tar->fd, BG_FRAME_DATA, bytes, size);
    return 0;
}

static void make_file(const char *path, const char *text)
{
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    assert_true(fd >= 0);
    assert_int_equal(bg_write_full(fd, text, strlen(text)), 0);
}

static void copies_a_tree_in_and_out(void **state)
{
    char here[128], path[160];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(mkdir("src", 0755), 0);
    make_file("src/a", "text of a");
    make_file("src/\xff", "");
    assert_int_equal(symlink("a", "src/link"), 0);
    struct bg_err err = {0};
    /* In: the tree becomes `inside`. */
    (void)snprintf(path, sizeof path, "%s/inside", here);
    struct tar *tar = calloc(1, sizeof *tar);
    assert_non_null(tar);
    tar->fd = open_copy(*state, BG_COPY_INTO_GUEST, path, "src", 0);
    assert_int_equal(
        tree_tar_pack(
            &(struct tree_tar_pack_opts){
                .dir_fd = AT_FDCWD, .path = "src", .root = "src", .write = tar_write, .owner = tar},
            NULL, &err),
        0);
    client_frame(tar->fd, BG_FRAME_END, "\0\0\0\0", 4);
    uint8_t text[BG_FRAME_SIZE_MAX];
    assert_int_equal(read_end(tar->fd, text), 0);
    assert_string_equal(text, "");
    (void)close(tar->fd);
    assert_int_equal(access("inside/a", F_OK), 0);
    /* Out again. */
    tar->fd = open_copy(*state, BG_COPY_OUT_OF_GUEST, path, "out", 0);
    assert_int_equal(
        tree_tar_unpack(
            &(struct tree_tar_unpack_opts){
                .dir_fd = AT_FDCWD, .path = ".", .root = "out", .read = tar_read, .owner = tar},
            NULL, &err),
        0);
    (void)close(tar->fd);
    free(tar);
    BG_AUTOFREE char *bytes = NULL;
    assert_int_equal(bg_read_file(AT_FDCWD, "out/a", 100, &bytes, NULL, &err), 0);
    assert_string_equal(bytes, "text of a");
    assert_int_equal(access("out/\xff", F_OK), 0);
    char target[8] = "";
    assert_int_equal(readlink("out/link", target, sizeof target), 1);
}

static void a_copy_that_fails_says_where(void **state)
{
    uint8_t text[BG_FRAME_SIZE_MAX];
    int fd = open_copy(*state, BG_COPY_OUT_OF_GUEST, "/no/such/file", "x", 0);
    assert_int_equal(read_end(fd, text), -ENOENT);
    assert_non_null(strstr((char *)text, "/no/such/file"));
    (void)close(fd);
    /* Into a folder that is not there, while the sender goes on sending. */
    fd = open_copy(*state, BG_COPY_INTO_GUEST, "/no/such/folder/x", "x", 0);
    assert_int_equal(read_end(fd, text), -ENOENT);
    static const uint8_t zeros[BG_FRAME_SIZE_MAX];
    for (int i = 0; i < 64; i++)
        client_frame(fd, BG_FRAME_DATA, zeros, sizeof zeros);
    (void)close(fd);
    /* A stream that is no tar; one that breaks off; one that the sender gave up. */
    fd = open_copy(*state, BG_COPY_INTO_GUEST, "x", "x", BG_COPY_UNPACK);
    client_frame(fd, BG_FRAME_DATA, "this is no tar at all", 21);
    client_frame(fd, BG_FRAME_END, "\0\0\0\0", 4);
    assert_int_equal(read_end(fd, text), -EPROTO);
    (void)close(fd);
    fd = open_copy(*state, BG_COPY_INTO_GUEST, "/tmp/x", "x", 0);
    client_frame(fd, BG_FRAME_END, "\xff\xff\xff\xff", 4);
    assert_int_equal(read_end(fd, text), -ECANCELED);
    (void)close(fd);
    fd = open_copy(*state, BG_COPY_INTO_GUEST, "/tmp/x", "x", 0);
    client_frame(fd, BG_FRAME_STDIN, "x", 1);
    assert_int_equal(read_end(fd, text), -EPROTO);
    (void)close(fd);
    expect_alive(*state);
}

/* ---- forward and bench ---- */

static int listen_loopback(uint16_t *ret_port)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&here, sizeof here), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&here, &size), 0);
    *ret_port = ntohs(here.sin_port);
    return fd;
}

static int open_forward(const struct test_agent *agent, uint16_t port, int *ret_status)
{
    int fd = client_connect(agent);
    uint8_t body[2] = {(uint8_t)port, (uint8_t)(port >> 8)};
    char reply[BG_REPLY_TEXT_MAX + 1];
    client_open(fd, BG_STREAM_FORWARD, body, sizeof body);
    *ret_status = client_reply(fd, reply);
    return fd;
}

static void forwards_to_a_port_with_half_closes(void **state)
{
    uint16_t port;
    int status, listener = listen_loopback(&port);
    int fd = open_forward(*state, port, &status);
    assert_int_equal(status, 0);
    int peer = accept(listener, NULL, NULL);
    assert_true(peer >= 0);
    char text[16] = "";
    client_write(fd, "question", 8);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    client_read(peer, text, 8);
    assert_string_equal(text, "question");
    assert_int_equal(read(peer, text, 1), 0); /* the half-close came through */
    client_write(peer, "answer", 6);
    (void)close(peer);
    memset(text, 0, sizeof text);
    client_read(fd, text, 6);
    assert_string_equal(text, "answer");
    assert_true(client_at_end(fd));
    (void)close(fd);
    (void)close(listener);
    fd = open_forward(*state, port, &status);
    assert_int_equal(status, -ECONNREFUSED);
    (void)close(fd);
}

static void a_forward_waits_for_a_slow_reader(void **state)
{
    uint16_t port;
    int status, listener = listen_loopback(&port);
    int fd = open_forward(*state, port, &status);
    int peer = accept(listener, NULL, NULL);
    assert_true(peer >= 0);
    /* Nobody reads at the other end: what is sent has to stop somewhere. */
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    static uint8_t chunk[BG_FRAME_SIZE_MAX];
    size_t sent = 0;
    const size_t much = 256u << 20;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    while (sent < much && poll(&p, 1, 500) > 0) {
        ssize_t n = send(fd, chunk, sizeof chunk, MSG_NOSIGNAL);
        assert_true(n > 0 || errno == EAGAIN);
        sent += n > 0 ? (size_t)n : 0;
    }
    assert_true(sent < much);
    size_t got = 0;
    while (got < sent) {
        ssize_t n = read(peer, chunk, sizeof chunk);
        assert_true(n > 0);
        got += (size_t)n;
    }
    assert_int_equal(got, sent);
    (void)close(fd);
    (void)close(peer);
    (void)close(listener);
}

static int open_bench(const struct test_agent *agent, uint8_t mode, uint64_t bytes)
{
    uint8_t body[16];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_bench_request_emit(&(struct bg_bench_request){.mode = mode, .bytes = bytes}, &w);
    int fd = client_connect(agent);
    char reply[BG_REPLY_TEXT_MAX + 1];
    client_open(fd, BG_STREAM_BENCH, body, w.used);
    assert_int_equal(client_reply(fd, reply), 0);
    return fd;
}

static void bench_echoes_sinks_and_sources(void **state)
{
    static uint8_t chunk[BG_FRAME_SIZE_MAX];
    int fd = open_bench(*state, BG_BENCH_ECHO, 0);
    for (int i = 0; i < 100; i++) {
        char text[8];
        (void)snprintf(text, sizeof text, "%07d", i);
        client_write(fd, text, 8);
        char back[8];
        client_read(fd, back, 8);
        assert_memory_equal(text, back, 8);
    }
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    assert_true(client_at_end(fd));
    (void)close(fd);

    fd = open_bench(*state, BG_BENCH_SINK, 100 * sizeof chunk);
    for (int i = 0; i < 100; i++)
        client_write(fd, chunk, sizeof chunk);
    client_read(fd, chunk, 1);
    assert_true(client_at_end(fd));
    (void)close(fd);

    fd = open_bench(*state, BG_BENCH_SOURCE, 100 * sizeof chunk + 1);
    for (int i = 0; i < 100; i++)
        client_read(fd, chunk, sizeof chunk);
    client_read(fd, chunk, 1);
    assert_true(client_at_end(fd));
    (void)close(fd);
}

static void refuses_a_folder_that_is_not_there(void **state)
{
    uint8_t body[BG_PATH_MAX + 16];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_fuse_request_emit(&(struct bg_fuse_request){.path = "/no/such/folder"}, &w);
    int fd = client_connect(*state);
    client_open(fd, BG_STREAM_FUSE, body, w.used);
    char reply[BG_REPLY_TEXT_MAX + 1];
    assert_int_equal(client_reply(fd, reply), -ENOENT);
    assert_non_null(strstr(reply, "/no/such/folder"));
    assert_true(client_at_end(fd));
    (void)close(fd);
}

static void refuses_files_of_a_disk_that_is_not_mounted(void **state)
{
    uint8_t body[BG_PATH_MAX + 64];
    char reply[BG_REPLY_TEXT_MAX + 1];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_fuse_request_emit(&(struct bg_fuse_request){.path = "/", .flags = BG_FUSE_DISK}, &w);
    int fd = client_connect(*state);
    client_open(fd, BG_STREAM_FUSE, body, w.used);
    assert_int_equal(client_reply(fd, reply), -ENOTCONN);
    assert_true(client_at_end(fd));
    (void)close(fd);
    w = bg_writer_init(body, sizeof body);
    bg_copy_request_emit(&(struct bg_copy_request){.direction = BG_COPY_OUT_OF_GUEST,
                                                   .flags = BG_COPY_DISK,
                                                   .path = "/etc",
                                                   .root = "etc"},
                         &w);
    fd = client_connect(*state);
    client_open(fd, BG_STREAM_COPY, body, w.used);
    assert_int_equal(client_reply(fd, reply), -ENOTCONN);
    assert_true(client_at_end(fd));
    (void)close(fd);
    /* Only the guest's init mounts one. */
    w = bg_writer_init(body, sizeof body);
    bg_disk_request_emit(&(struct bg_disk_request){.serial = "second"}, &w);
    fd = client_connect(*state);
    client_open(fd, BG_STREAM_DISK, body, w.used);
    assert_int_equal(client_reply(fd, reply), -EOPNOTSUPP);
    assert_true(client_at_end(fd));
    (void)close(fd);
    w = bg_writer_init(body, sizeof body);
    bg_volume_request_emit(&(struct bg_volume_request){.serial = "vol", .path = "/data"}, &w);
    fd = client_connect(*state);
    client_open(fd, BG_STREAM_VOLUME, body, w.used);
    assert_int_equal(client_reply(fd, reply), -EOPNOTSUPP);
    assert_true(client_at_end(fd));
    (void)close(fd);
    expect_alive(*state);
}

/* ---- malformed ---- */

static void closes_malformed_openings(void **state)
{
    const struct bg_stream_header good = {.kind = BG_STREAM_BENCH, .id = 1};
    /* Every byte of the header wrong in turn; where that is another valid header, a reply comes. */
    for (size_t i = 0; i < BG_STREAM_HEADER_SIZE; i++) {
        uint8_t header[BG_STREAM_HEADER_SIZE];
        bg_stream_header_emit(&good, header);
        header[i] ^= 0x80;
        int fd = client_connect(*state);
        client_write(fd, header, sizeof header);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        uint8_t rest[256];
        while (read(fd, rest, sizeof rest) > 0)
            ;
        (void)close(fd);
    }
    /* Every truncation. */
    for (size_t size = 0; size < BG_STREAM_HEADER_SIZE; size++) {
        uint8_t header[BG_STREAM_HEADER_SIZE];
        bg_stream_header_emit(&good, header);
        int fd = client_connect(*state);
        client_write(fd, header, size);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        assert_true(client_at_end(fd));
        (void)close(fd);
    }
    expect_alive(*state);
}

/* One call after the other on one stream; a malformed one ends it. */
static void answers_calls_about_files(void **state)
{
    uint8_t bytes[256], answer[BG_FRAME_SIZE_MAX];
    char reply[BG_REPLY_TEXT_MAX + 1];
    size_t size;
    struct bg_files_answer head;
    int fd = client_connect(*state);
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    struct bg_files_request request = {.umask = 027};
    (void)snprintf(request.user, sizeof request.user, "%u", geteuid());
    bg_files_request_emit(&request, &w);
    client_open(fd, BG_STREAM_FILES, bytes, w.used);
    assert_int_equal(client_reply(fd, reply), 0);
    for (unsigned i = 0; i < 2; i++) {
        w = bg_writer_init(bytes, sizeof bytes);
        bg_writer_u8(&w, BG_FILES_STAT);
        bg_writer_u8(&w, 1);
        bg_writer_text32le(&w, i == 0 ? "/" : "/none of the kind");
        client_frame(fd, BG_FRAME_CALL, bytes, w.used);
        assert_int_equal(client_next(fd, answer, &size), BG_FRAME_ANSWER);
        struct bg_reader in = bg_reader_init(answer, size);
        assert_int_equal(bg_files_answer_parse(&in, &head, NULL), 0);
        assert_int_equal(head.status, i == 0 ? 0 : -ENOENT);
        if (i == 0)
            assert_int_equal(bg_files_attributes_parse(&in).mode & S_IFMT, S_IFDIR);
    }
    client_frame(fd, BG_FRAME_CALL, "\xff", 1);
    assert_true(client_at_end(fd));
    (void)close(fd);
}

static void refuses_malformed_bodies(void **state)
{
    static const uint16_t kinds[] = {
        BG_STREAM_SESSION, BG_STREAM_EXEC,  BG_STREAM_COPY, BG_STREAM_FUSE,  BG_STREAM_BENCH,
        BG_STREAM_FORWARD, BG_STREAM_SHARE, BG_STREAM_DISK, BG_STREAM_FILES, BG_STREAM_VOLUME};
    static const uint8_t junk[64] = {0xff, 0xff, 0xff, 0xff, 1, 2, 3};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int fd = client_connect(*state);
        client_open(fd, kinds[i], junk, sizeof junk);
        char reply[BG_REPLY_TEXT_MAX + 1];
        assert_true(client_reply(fd, reply) < 0);
        assert_true(client_at_end(fd));
        (void)close(fd);
    }
    /* Kinds and resume tokens that this agent does not take. */
    uint8_t header[BG_STREAM_HEADER_SIZE];
    static const struct bg_stream_header odd[] = {
        {.kind = BG_STREAM_CONNECT, .id = 1},
        {.kind = BG_STREAM_SESSION, .id = 1, .resume = {1}},
    };
    for (size_t i = 0; i < 2; i++) {
        int fd = client_connect(*state);
        bg_stream_header_emit(&odd[i], header);
        client_write(fd, header, sizeof header);
        char reply[BG_REPLY_TEXT_MAX + 1];
        assert_int_equal(client_reply(fd, reply), -EOPNOTSUPP);
        assert_true(client_at_end(fd));
        (void)close(fd);
    }
    expect_alive(*state);
}

static void closes_on_malformed_frames(void **state)
{
    static const uint8_t frames[][12] = {
        {99, 0, 0, 0, 0, 0, 0, 0},                  /* unknown type */
        {BG_FRAME_PING, 0, 0, 0, 4, 0, 0, 0},       /* a session's */
        {BG_FRAME_STDIN, 1, 0, 0, 0, 0, 0, 0},      /* padding */
        {BG_FRAME_STDIN, 0, 0, 0, 1, 0, 1, 0},      /* too large */
        {BG_FRAME_SIGNAL, 0, 0, 0, 4, 0, 0, 0, 65}, /* no signal */
        {BG_FRAME_SIGNAL, 0, 0, 0, 4, 0, 0, 0, 0},  /* likewise */
        {BG_FRAME_STDIN_EOF, 0, 0, 0, 1, 0, 0, 0},  /* not empty */
        {BG_FRAME_RESIZE, 0, 0, 0, 3, 0, 0, 0},     /* half a size */
    };
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        struct exec_result r;
        int fd = client_exec_start(*state, &(struct exec_args){.argv = ARGV("sleep", "1000")}, &r);
        assert_int_equal(r.status, 0);
        client_write(fd, frames[i], sizeof frames[i]);
        assert_true(client_at_end(fd));
        (void)close(fd);
        exec_result_done(&r);
    }
    static const uint8_t session_frames[][12] = {
        {BG_FRAME_PING, 0, 0, 0, 3, 0, 0, 0},        {BG_FRAME_STDIN, 0, 0, 0, 0, 0, 0, 0},
        {BG_FRAME_IDENTITY, 0, 0, 0, 4, 0, 0, 0},    {BG_FRAME_SHUTDOWN, 0, 0, 0, 1, 0, 0, 0},
        {BG_FRAME_IDENTITY, 0, 0, 0, 0, 0, 0x20, 0},
    };
    for (size_t i = 0; i < sizeof session_frames / sizeof *session_frames; i++) {
        int fd = open_session(*state);
        client_write(fd, session_frames[i], sizeof session_frames[i]);
        assert_true(client_at_end(fd));
        (void)close(fd);
    }
    expect_alive(*state);
}

static void frames_may_come_byte_by_byte(void **state)
{
    struct exec_result r;
    int fd = client_exec_start(*state, &(struct exec_args){.argv = ARGV("cat")}, &r);
    static const uint8_t bytes[] = {
        BG_FRAME_STDIN,     0, 0, 0, 3, 0, 0, 0, 'a', 'b', 'c', BG_FRAME_STDIN, 0, 0, 0, 0, 0, 0, 0,
        BG_FRAME_STDIN_EOF, 0, 0, 0, 0, 0, 0, 0};
    for (size_t i = 0; i < sizeof bytes; i++)
        client_write(fd, bytes + i, 1);
    client_exec_finish(fd, &r);
    assert_string_equal(r.out, "abc");
    exec_result_done(&r);
}

static void many_streams_come_and_go(void **state)
{
    for (int round = 0; round < 20; round++) {
        int fds[100];
        for (size_t i = 0; i < 100; i++) {
            fds[i] = client_connect(*state);
            uint8_t header[BG_STREAM_HEADER_SIZE];
            bg_stream_header_emit(
                &(struct bg_stream_header){.kind = BG_STREAM_EXEC, .id = 1, .body_size = 1000},
                header);
            client_write(fds[i], header, i % BG_STREAM_HEADER_SIZE + 1);
        }
        for (size_t i = 0; i < 100; i++)
            (void)close(fds[i]);
    }
    expect_alive(*state);
}

int main(void)
{
#define WITH_AGENT(f) cmocka_unit_test_setup_teardown(f, start, stop)
#define IN_TEMP(f)    cmocka_unit_test_setup_teardown(f, enter_temp, leave_temp)
    const struct CMUnitTest tests[] = {
        WITH_AGENT(session_sets_the_environment_and_beats),
        WITH_AGENT(golden_identity_warms_up),
        WITH_AGENT(one_that_waits_for_its_identity_warms_up),
        WITH_AGENT(an_identity_ends_what_was_before),
        WITH_AGENT(shutdown_ends_a_development_agent),
        IN_TEMP(copies_a_tree_in_and_out),
        IN_TEMP(a_copy_that_fails_says_where),
        WITH_AGENT(forwards_to_a_port_with_half_closes),
        WITH_AGENT(a_forward_waits_for_a_slow_reader),
        WITH_AGENT(bench_echoes_sinks_and_sources),
        WITH_AGENT(refuses_files_of_a_disk_that_is_not_mounted),
        WITH_AGENT(refuses_a_folder_that_is_not_there),
        WITH_AGENT(closes_malformed_openings),
        WITH_AGENT(answers_calls_about_files),
        WITH_AGENT(refuses_malformed_bodies),
        WITH_AGENT(closes_on_malformed_frames),
        WITH_AGENT(frames_may_come_byte_by_byte),
        WITH_AGENT(many_streams_come_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
