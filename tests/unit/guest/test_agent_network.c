/* The guest's network, in a network namespace of the test's own: DNS, redirection, egress. The test
 * plays the host on a Unix socket. Skipped where namespaces or `ip` are not to be had. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "common/limits.h"
#include "guest/interface.h"
#include "tests/unit/guest/client.h"

struct world {
    struct test_agent agent;
    char host_path[64];
    int host_fd; /* where the agent's egress connects */
};

static int bind_host(struct world *world)
{
    struct sockaddr_un here = {.sun_family = AF_UNIX};
    (void)snprintf(world->host_path, sizeof world->host_path, "/tmp/bg-egress-%d", (int)getpid());
    (void)unlink(world->host_path);
    (void)snprintf(here.sun_path, sizeof here.sun_path, "%s", world->host_path);
    world->host_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval deadline = {.tv_sec = 60};
    if (world->host_fd < 0 || bind(world->host_fd, (struct sockaddr *)&here, sizeof here) < 0 ||
        setsockopt(world->host_fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline) < 0)
        return -1;
    return listen(world->host_fd, 64);
}

/* Negative while there is no route. */
static int udp_socket(const char *address, uint16_t port)
{
    const bool v6 = strchr(address, ':') != NULL;
    struct sockaddr_in to4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 to6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    assert_int_equal(inet_pton(v6 ? AF_INET6 : AF_INET, address,
                               v6 ? (void *)&to6.sin6_addr : (void *)&to4.sin_addr),
                     1);
    int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if ((v6 ? connect(fd, (struct sockaddr *)&to6, sizeof to6)
            : connect(fd, (struct sockaddr *)&to4, sizeof to4)) == 0)
        return fd;
    (void)close(fd);
    return -1;
}

/* An A or AAAA query for NAME.test. */
static size_t make_query(const char *name, uint16_t type, uint8_t *out, size_t out_size)
{
    struct bg_writer w = bg_writer_init(out, out_size);
    bg_writer_bytes(&w, "\x12\x34\1\0\0\1\0\0\0\0\0\0", 12);
    bg_writer_u8(&w, (uint8_t)strlen(name));
    bg_writer_bytes(&w, name, strlen(name));
    bg_writer_bytes(&w, "\4test\0", 6);
    bg_writer_u16be(&w, type);
    bg_writer_u16be(&w, 1);
    assert_true(bg_writer_ok(&w));
    return w.used;
}

/* Asks by UDP. Returns the size of the address, 0 for no answer. */
static size_t ask(const char *server, const char *name, uint16_t type, int wait_ms,
                  uint8_t address[16])
{
    uint8_t query[128], answer[512];
    size_t size = make_query(name, type, query, sizeof query);
    BG_AUTOCLOSE int fd = udp_socket(server, 53);
    if (fd < 0 || send(fd, query, size, 0) != (ssize_t)size)
        return 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, wait_ms) <= 0)
        return 0;
    ssize_t n = recv(fd, answer, sizeof answer, 0);
    if (n < (ssize_t)size + 12)
        return 0;
    size_t address_size = type == 1 ? 4 : 16;
    assert_int_equal(n, size + 12 + address_size);
    memcpy(address, answer + n - address_size, address_size);
    return address_size;
}

/* The network process opens its sockets a while after the agent's start. */
static void wait_for_network(void)
{
    uint64_t deadline_ms = bg_now_ms() + 60000;
    uint8_t address[16];
    /* Through the redirection, which comes last. */
    while (ask("8.8.8.8", "ready", 1, 100, address) == 0) {
        assert_true(bg_now_ms() < deadline_ms);
        (void)poll(NULL, 0, 10); /* a refused datagram returns at once */
    }
}

static int start(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    if (!world || bind_host(world) < 0)
        return -1;
    test_agent_start(&world->agent, world->host_path);
    wait_for_network();
    *state = world;
    return 0;
}

static int stop(void **state)
{
    struct world *world = *state;
    test_agent_stop(&world->agent);
    (void)close(world->host_fd);
    (void)unlink(world->host_path);
    free(world);
    return 0;
}

static int tcp_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    struct timeval deadline = {.tv_sec = 60};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline), 0);
    return fd;
}

static int dial4(const uint8_t address[4], uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    memcpy(&to.sin_addr, address, 4);
    int fd = tcp_socket(AF_INET);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static int dial6(const uint8_t address[16], uint16_t port)
{
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    memcpy(&to.sin6_addr, address, 16);
    int fd = tcp_socket(AF_INET6);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* The host's side of the next connection, with what was asked for. */
static int take_connect(const struct world *world, struct bg_connect_request *ret)
{
    int fd = accept4(world->host_fd, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    uint8_t bytes[BG_STREAM_HEADER_SIZE], body[512];
    client_read(fd, bytes, sizeof bytes);
    struct bg_stream_header header;
    assert_int_equal(bg_stream_header_parse(bytes, sizeof bytes, &header, NULL), 0);
    assert_int_equal(header.kind, BG_STREAM_CONNECT);
    assert_true(header.body_size <= sizeof body);
    client_read(fd, body, header.body_size);
    assert_int_equal(bg_connect_request_parse(body, header.body_size, ret, NULL), 0);
    return fd;
}

static void reply(int fd, int status, const char *text)
{
    uint8_t header[BG_REPLY_HEADER_SIZE];
    bg_reply_header_emit(
        &(struct bg_reply_header){.status = status, .body_size = (uint32_t)strlen(text)}, header);
    client_write(fd, header, sizeof header);
    client_write(fd, text, strlen(text));
}

static void answers_by_every_way(void **state)
{
    (void)state;
    static const char *const servers[] = {"127.0.0.53", "8.8.8.8", "2001:4860:4860::8888"};
    uint8_t first[16], address[16];
    assert_int_equal(ask("127.0.0.53", "name", 1, 60000, first), 4);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(ask(servers[i], "NAME", 1, 60000, address), 4);
        assert_memory_equal(first, address, 4);
        assert_int_equal(ask(servers[i], "name", 28, 60000, address), 16);
        assert_memory_equal(first, address + 12, 4);
    }
    /* By TCP: two questions in one write, byte counts before each. */
    const uint8_t server[] = {127, 0, 0, 53};
    int fd = dial4(server, 53);
    uint8_t query[128], both[256], answer[512], prefix[2];
    size_t size = make_query("name", 1, query, sizeof query);
    struct bg_writer w = bg_writer_init(both, sizeof both);
    for (int i = 0; i < 2; i++) {
        bg_writer_u16be(&w, (uint16_t)size);
        bg_writer_bytes(&w, query, size);
    }
    client_write(fd, both, w.used);
    for (int i = 0; i < 2; i++) {
        client_read(fd, prefix, 2);
        size_t answer_size = (size_t)prefix[0] << 8 | prefix[1];
        assert_int_equal(answer_size, size + 16);
        client_read(fd, answer, answer_size);
        assert_memory_equal(answer + answer_size - 4, first, 4);
    }
    client_write(fd, "\xff\xff", 2); /* longer than any query */
    assert_true(client_at_end(fd));
    (void)close(fd);
}

static void connects_by_name_with_half_closes(void **state)
{
    uint8_t address[16];
    for (int family = 0; family < 2; family++) {
        assert_true(ask("127.0.0.53", "service", family ? 28 : 1, 60000, address) > 0);
        int fd = family ? dial6(address, 443) : dial4(address, 443);
        struct bg_connect_request request;
        int host = take_connect(*state, &request);
        assert_int_equal(request.form, BG_CONNECT_NAME);
        assert_string_equal(request.host, "service.test");
        assert_int_equal(request.port, 443);
        client_write(fd, "early", 5); /* before the reply: it waits */
        reply(host, 0, "");
        char text[16] = "";
        client_read(host, text, 5);
        assert_string_equal(text, "early");
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        assert_true(client_at_end(host));
        client_write(host, "late", 4);
        (void)close(host);
        memset(text, 0, sizeof text);
        client_read(fd, text, 4);
        assert_string_equal(text, "late");
        assert_true(client_at_end(fd));
        (void)close(fd);
    }
}

static void connects_to_literal_addresses(void **state)
{
    struct bg_connect_request request;
    const uint8_t v4[4] = {10, 1, 2, 3}, v6[16] = {0x20, 1, 0x0d, 0xb8, [15] = 7};
    int fd = dial4(v4, 8080), host = take_connect(*state, &request);
    assert_int_equal(request.form, BG_CONNECT_ADDRESS);
    assert_string_equal(request.host, "10.1.2.3");
    assert_int_equal(request.port, 8080);
    (void)close(host);
    (void)close(fd);
    fd = dial6(v6, 1);
    host = take_connect(*state, &request);
    assert_int_equal(request.form, BG_CONNECT_ADDRESS);
    assert_string_equal(request.host, "2001:db8::7");
    (void)close(host);
    (void)close(fd);
}

static void a_refused_connection_is_reset(void **state)
{
    static const int codes[] = {-EACCES, -EHOSTUNREACH, -ETIMEDOUT};
    const uint8_t address[4] = {10, 0, 0, 1};
    for (size_t i = 0; i < 3; i++) {
        struct bg_connect_request request;
        int fd = dial4(address, 80), host = take_connect(*state, &request);
        reply(host, codes[i], "not allowed");
        char byte;
        assert_int_equal(read(fd, &byte, 1), -1);
        assert_int_equal(errno, ECONNRESET);
        (void)close(host);
        (void)close(fd);
    }
    /* The host goes away without a word, or with nonsense; a synthetic address that nobody has. */
    struct bg_connect_request request;
    int fd = dial4(address, 80), host = take_connect(*state, &request);
    (void)close(host);
    assert_true(client_at_end(fd));
    (void)close(fd);
    fd = dial4(address, 80);
    host = take_connect(*state, &request);
    client_write(host, "this is no reply", 16);
    assert_true(client_at_end(fd));
    (void)close(host);
    (void)close(fd);
    const uint8_t nobody[4] = {198, 19, 100, 100};
    fd = dial4(nobody, 80);
    assert_true(client_at_end(fd));
    (void)close(fd);
}

static void much_data_waits_for_a_slow_host(void **state)
{
    const uint8_t address[4] = {10, 0, 0, 1};
    struct bg_connect_request request;
    int fd = dial4(address, 80), host = take_connect(*state, &request);
    reply(host, 0, "");
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    static uint8_t chunk[64 * 1024];
    size_t sent = 0, got = 0;
    const size_t much = 256u << 20;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    while (sent < much && poll(&p, 1, 500) > 0) {
        ssize_t n = send(fd, chunk, sizeof chunk, MSG_NOSIGNAL);
        assert_true(n > 0 || errno == EAGAIN);
        sent += n > 0 ? (size_t)n : 0;
    }
    assert_true(sent < much);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    for (ssize_t n; (n = read(host, chunk, sizeof chunk)) > 0;)
        got += (size_t)n;
    assert_int_equal(got, sent);
    (void)close(host);
    (void)close(fd);
}

/* ---- a snapshot ---- */

static int open_session(const struct world *world, uint32_t flags)
{
    char text[BG_REPLY_TEXT_MAX + 1];
    uint8_t payload[1024];
    size_t size;
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    const struct bg_identity identity = {.flags = flags, .sandbox_id = "sbx_test"};
    bg_identity_emit(&identity, &w);
    int fd = client_connect(&world->agent);
    client_open(fd, BG_STREAM_SESSION, NULL, 0);
    assert_int_equal(client_reply(fd, text), 0);
    assert_int_equal(client_next(fd, payload + w.used, &size), BG_FRAME_HELLO);
    client_frame(fd, BG_FRAME_IDENTITY, payload, w.used);
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_READY);
    return fd;
}

static void prepare(int session)
{
    uint8_t payload[64];
    size_t size;
    client_frame(session, BG_FRAME_PREPARE, "", 1);
    assert_int_equal(client_next(session, payload, &size), BG_FRAME_PREPARED);
}

static void go_on(int session, enum bg_go_on how)
{
    uint8_t payload = (uint8_t)how;
    client_frame(session, BG_FRAME_GO_ON, &payload, 1);
}

/* The host's side of a connection, every byte that it says and has. */
struct host_side {
    int fd;
    uint32_t id;
    size_t out_at; /* of its bytes, with the reply's first */
    size_t in_size;
};

static void resume(const struct world *world, struct host_side *side)
{
    uint8_t header[BG_STREAM_HEADER_SIZE], count[BG_RESUME_SIZE];
    char text[BG_REPLY_TEXT_MAX + 1];
    const struct bg_stream_header h = {.kind = BG_STREAM_CONNECT,
                                       .id = side->id,
                                       .flags = BG_STREAM_RESUME,
                                       .body_size = BG_RESUME_SIZE};
    bg_stream_header_emit(&h, header);
    struct bg_writer w = bg_writer_init(count, sizeof count);
    bg_writer_u64le(&w, side->in_size);
    side->fd = client_connect(&world->agent);
    client_write(side->fd, header, sizeof header);
    client_write(side->fd, count, sizeof count);
    assert_int_equal(client_reply(side->fd, text), 0);
    struct bg_reader in = bg_reader_init((const uint8_t *)text, BG_RESUME_SIZE);
    uint64_t has = bg_reader_u64le(&in);
    assert_true(has <= side->out_at);
    side->out_at = (size_t)has;
}

static size_t take_opening(const struct world *world, struct host_side *side)
{
    uint8_t bytes[BG_STREAM_HEADER_SIZE], body[512];
    struct bg_stream_header header;
    side->fd = accept4(world->host_fd, NULL, NULL, SOCK_CLOEXEC);
    assert_true(side->fd >= 0);
    client_read(side->fd, bytes, sizeof bytes);
    assert_int_equal(bg_stream_header_parse(bytes, sizeof bytes, &header, NULL), 0);
    client_read(side->fd, body, header.body_size);
    side->id = header.id;
    side->in_size = sizeof bytes + header.body_size;
    side->out_at = 0;
    return side->in_size;
}

static uint8_t pattern(size_t at)
{
    return (uint8_t)(at * 2654435761u >> 11);
}

/* Both ends of one connection at random, with cuts of the host's: up and down at once. */
static void a_connection_goes_on_whenever_it_is_cut(void **state)
{
    const struct world *world = *state;
    const uint8_t address[4] = {10, 0, 0, 1};
    const size_t much = 3000000;
    const char *given = getenv("BG_TEST_SEED");
    uint32_t random = given ? (uint32_t)strtoul(given, NULL, 10) | 1 : (uint32_t)bg_now_ms() | 1;
    print_message("seed %u\n", random);
    int session = open_session(world, 0);
    int fd = dial4(address, 80), cuts = 0;
    struct host_side side;
    size_t opening = take_opening(world, &side), sent = 0, got = 0;
    static uint8_t bytes[1 << 17];
    uint8_t *out = malloc(BG_REPLY_HEADER_SIZE + much);
    assert_non_null(out);
    bg_reply_header_emit(&(struct bg_reply_header){0}, out);
    for (size_t i = 0; i < much; i++)
        out[BG_REPLY_HEADER_SIZE + i] = pattern(i);
    while (got < much || side.in_size - opening < much) {
        random = random * 1664525u + 1013904223u;
        size_t size = (random >> 4) % (1u << ((random >> 25) % 17 + 1)) + 1;
        ssize_t n;
        switch ((random >> 13) % 4) {
        case 0: /* the guest's program writes */
            if (size > much - sent)
                size = much - sent;
            for (size_t i = 0; i < size; i++)
                bytes[i] = pattern(sent + i);
            n = size == 0 ? 0 : send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
            sent += n > 0 ? (size_t)n : 0;
            break;
        case 1: /* and reads */
            n = recv(fd, bytes, size, MSG_DONTWAIT);
            assert_true(n > 0 || (n < 0 && errno == EAGAIN));
            for (ssize_t i = 0; i < n; i++)
                assert_int_equal(bytes[i], pattern(got + (size_t)i));
            got += n > 0 ? (size_t)n : 0;
            break;
        case 2:
            if (size > BG_REPLY_HEADER_SIZE + much - side.out_at)
                size = BG_REPLY_HEADER_SIZE + much - side.out_at;
            n = size == 0 ? 0 : send(side.fd, out + side.out_at, size, MSG_DONTWAIT | MSG_NOSIGNAL);
            side.out_at += n > 0 ? (size_t)n : 0;
            break;
        case 3: {
            bool snapshot = (random >> 7) % 16 == 0 && cuts < 50;
            if (snapshot)
                prepare(session);
            do {
                n = recv(side.fd, bytes, size, MSG_DONTWAIT);
                assert_true(n > 0 || (n < 0 && errno == EAGAIN));
                for (ssize_t i = 0; i < n; i++)
                    assert_int_equal(bytes[i], pattern(side.in_size - opening + (size_t)i));
                side.in_size += n > 0 ? (size_t)n : 0;
            } while (snapshot && n > 0);
            if (!snapshot)
                break;
            (void)close(side.fd);
            (void)close(session);
            session = open_session(world, BG_IDENTITY_CONTINUE);
            resume(world, &side);
            go_on(session, BG_GO_ON_RESUMED);
            cuts++;
        }
        }
    }
    print_message("%d cuts\n", cuts);
    assert_true(cuts > 0);
    free(out);
    (void)close(side.fd);
    (void)close(session);
    (void)close(fd);
}

static void connections_made_meanwhile_wait(void **state)
{
    const struct world *world = *state;
    const uint8_t address[4] = {10, 0, 0, 1};
    struct bg_connect_request request;
    for (int how = BG_GO_ON_ALIVE; how <= BG_GO_ON_RESUMED; how++) {
        int session = open_session(world, 0);
        struct host_side side;
        int before = dial4(address, 80);
        (void)take_opening(world, &side);
        prepare(session);
        int fd = dial4(address, 81);
        struct pollfd p = {.fd = world->host_fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, 200), 0);
        go_on(session, (enum bg_go_on)how);
        int host = take_connect(world, &request);
        assert_int_equal(request.port, 81);
        reply(host, 0, "");
        client_write(host, "hello", 5);
        char text[8] = "";
        client_read(fd, text, 5);
        assert_string_equal(text, "hello");
        if (how == BG_GO_ON_ALIVE) {
            reply(side.fd, 0, "");
            client_write(side.fd, "world", 5);
            client_read(before, text, 5);
            assert_string_equal(text, "world");
        } else {
            assert_true(client_at_end(before)); /* it was not resumed */
        }
        (void)close(before);
        (void)close(side.fd);
        (void)close(fd);
        (void)close(host);
        (void)close(session);
    }
}

static void another_identity_resets_connections(void **state)
{
    const struct world *world = *state;
    const uint8_t address[4] = {10, 0, 0, 1};
    struct bg_connect_request request;
    int session = open_session(world, 0);
    int fd = dial4(address, 80), host = take_connect(world, &request);
    reply(host, 0, "");
    prepare(session);
    int meanwhile = dial4(address, 81);
    (void)close(session);
    session = open_session(world, 0);
    assert_true(client_at_end(fd));
    assert_true(client_at_end(meanwhile));
    (void)close(fd);
    (void)close(meanwhile);
    (void)close(host);
    fd = dial4(address, 80); /* it works on */
    host = take_connect(world, &request);
    (void)close(fd);
    (void)close(host);
    (void)close(session);
}

/* The host's side of the next connection; nobody reads on it what is asked for. */
static int take_any(const struct world *world)
{
    int fd = accept4(world->host_fd, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void further_connections_wait_for_one_to_end(void **state)
{
    enum { OVER = 5, COUNT = BG_AGENT_EGRESS_MAX + OVER };
    static int guests[COUNT], hosts[COUNT];
    const struct world *world = *state;
    const uint8_t address[4] = {10, 0, 0, 1};
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    struct rlimit raised = {limit.rlim_max, limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &raised), 0);
    for (int i = 0; i < COUNT; i++) {
        guests[i] = dial4(address, 80);
        if (i < BG_AGENT_EGRESS_MAX)
            hosts[i] = take_any(world);
    }
    /* The others are not taken up meanwhile: the agent has answered this since they were there. */
    uint8_t ignored[16];
    assert_int_equal(ask("127.0.0.53", "busy", 1, 60000, ignored), 4);
    struct pollfd p = {.fd = world->host_fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 0), 0);
    for (int i = 0; i < OVER; i++) {
        (void)close(hosts[i]);
        assert_true(client_at_end(guests[i]));
        (void)close(guests[i]);
        hosts[BG_AGENT_EGRESS_MAX + i] = take_any(world);
    }
    for (int i = OVER; i < COUNT; i++) {
        (void)close(hosts[i]);
        (void)close(guests[i]);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void other_traffic_is_refused_at_once(void **state)
{
    (void)state;
    static const char *const addresses[] = {"8.8.8.8", "2001:db8::1"};
    for (size_t i = 0; i < 2; i++) {
        BG_AUTOCLOSE int fd = udp_socket(addresses[i], 443);
        assert_true(fd >= 0);
        char byte;
        /* The first send may already fail (EPERM), or the ICMP error comes back. */
        ssize_t n = send(fd, "x", 1, 0);
        if (n > 0)
            n = recv(fd, &byte, 1, 0);
        assert_int_equal(n, -1);
        assert_true(errno == EPERM || errno == ECONNREFUSED);
    }
}

/* Whoever is root in the guest makes packets of any protocol. */
static void raw_packets_are_refused_at_once(void **state)
{
    (void)state;
    static const uint8_t echo4[] = {8, 0, 0xf7, 0xfe, 0, 1, 0, 0};
    static const uint8_t echo6[] = {128, 0, 0, 0, 0, 1, 0, 0};
    /* INIT from port 1 to 2 (RFC 9260 §3.3.2); nobody looks at the checksum before it is sent. */
    static const uint8_t sctp[] = {0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20,
                                   0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1};
    static const uint8_t udp[] = {0, 1, 1, 187, 0, 9, 0, 0, 'x'};
    static const uint8_t gre[] = {0, 0, 8, 0, 'x'};
    static const struct {
        int protocol;
        const uint8_t *bytes;
        size_t size;
    } cases[] = {
        {IPPROTO_ICMP, echo4, sizeof echo4}, {IPPROTO_ICMPV6, echo6, sizeof echo6},
        {IPPROTO_SCTP, sctp, sizeof sctp},   {IPPROTO_UDP, udp, sizeof udp},
        {IPPROTO_GRE, gre, sizeof gre},      {253, gre, sizeof gre}, /* RFC 3692: for trying */
    };
    const struct sockaddr_in to4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x08080808)};
    struct sockaddr_in6 to6 = {.sin6_family = AF_INET6};
    assert_int_equal(inet_pton(AF_INET6, "2001:db8::1", &to6.sin6_addr), 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int v6 = 0; v6 < 2; v6++) {
            if (cases[i].protocol == (v6 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
                continue;
            BG_AUTOCLOSE int fd =
                socket(v6 ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, cases[i].protocol);
            assert_true(fd >= 0);
            ssize_t n =
                sendto(fd, cases[i].bytes, cases[i].size, 0,
                       v6 ? (const void *)&to6 : (const void *)&to4, v6 ? sizeof to6 : sizeof to4);
            if (n != -1 || errno != EPERM)
                fail_msg("protocol %d, v6 %d: %zd, %s", cases[i].protocol, v6, n, strerror(errno));
        }
    }
}

static void the_loopback_is_left_alone(void **state)
{
    (void)state;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    BG_AUTOCLOSE int listener = tcp_socket(AF_INET);
    assert_int_equal(bind(listener, (struct sockaddr *)&here, sizeof here), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&here, &size), 0);
    BG_AUTOCLOSE int fd = tcp_socket(AF_INET);
    assert_int_equal(connect(fd, (struct sockaddr *)&here, sizeof here), 0);
    BG_AUTOCLOSE int peer = accept(listener, NULL, NULL);
    assert_true(peer >= 0);
}

static pid_t network_pid(const struct test_agent *agent)
{
    char path[96];
    BG_AUTOFREE char *text = NULL;
    (void)snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)agent->pid,
                   (int)agent->pid);
    if (bg_read_file(AT_FDCWD, path, 4096, &text, NULL, NULL) < 0)
        return -1;
    return (pid_t)strtol(text, NULL, 10);
}

static void the_network_is_started_again(void **state)
{
    struct world *world = *state;
    pid_t pid = network_pid(&world->agent);
    if (pid <= 0)
        skip(); /* a kernel without CONFIG_PROC_CHILDREN */
    assert_int_equal(kill(pid, SIGKILL), 0);
    wait_for_network();
    connects_by_name_with_half_closes(state);
}

static int run(const char *script)
{
    pid_t pid = fork();
    if (pid == 0) {
        (void)execl("/bin/sh", "sh", "-c", script, NULL);
        _exit(127);
    }
    int status;
    return waitpid(pid, &status, 0) == pid && status == 0 ? 0 : -1;
}

/* Not every kernel has the dummy driver; a pair of veths does as well. False: nothing does. */
static bool enter_namespace(void)
{
    if (unshare(geteuid() == 0 ? CLONE_NEWNET : CLONE_NEWUSER | CLONE_NEWNET) < 0)
        return false;
    if (run("ip link add dummy0 type veth peer name peer0 && ip link set peer0 up") < 0)
        return false;
    return interface_loopback_up(NULL) == 0;
}

int main(void)
{
    if (!enter_namespace()) {
        (void)fputs("no network namespace to be had: skipped\n", stderr);
        return 77;
    }
#define TEST(f) cmocka_unit_test_setup_teardown(f, start, stop)
    const struct CMUnitTest tests[] = {
        TEST(answers_by_every_way),
        TEST(connects_by_name_with_half_closes),
        TEST(connects_to_literal_addresses),
        TEST(a_refused_connection_is_reset),
        TEST(much_data_waits_for_a_slow_host),
        TEST(further_connections_wait_for_one_to_end),
        TEST(other_traffic_is_refused_at_once),
        TEST(raw_packets_are_refused_at_once),
        TEST(the_loopback_is_left_alone),
        TEST(the_network_is_started_again),
        TEST(a_connection_goes_on_whenever_it_is_cut),
        TEST(connections_made_meanwhile_wait),
        TEST(another_identity_resets_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
