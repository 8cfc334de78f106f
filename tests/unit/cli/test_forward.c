/* What `bellglass forward` is told, and how it carries bytes. */
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "host/cli/forward.h"
#include "host/cli/forward_spec.h"

static void reads_ports(void **state)
{
    static const struct {
        const char *text;
        int host, guest; /* host < 0: refused */
    } cases[] = {{"80", 80, 80},          {"8080:80", 8080, 80}, {"0:80", 0, 80},
                 {"65535", 65535, 65535}, {"", -1, 0},           {"0", -1, 0},
                 {"65536", -1, 0},        {"80:0", -1, 0},       {"80:", -1, 0},
                 {":80", -1, 0},          {"a", -1, 0},          {"-1", -1, 0},
                 {"80:80:80", -1, 0},     {"1.2.3.4:80", -1, 0}, {"+80", -1, 0},
                 {" 80", -1, 0},          {"000000080", -1, 0},  {"65536:80", -1, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct forward_spec spec;
        struct bg_err err;
        int r = forward_spec_parse(cases[i].text, &spec, &err);
        if (cases[i].host < 0) {
            if (r != -EINVAL)
                fail_msg("'%s' is taken", cases[i].text);
            continue;
        }
        if (r < 0 || spec.host_port != cases[i].host || spec.guest_port != cases[i].guest)
            fail_msg("'%s' is read as %u to %u", cases[i].text, spec.host_port, spec.guest_port);
    }
}

static void reads_addresses(void **state)
{
    static const struct {
        const char *text;
        int family; /* 0: refused */
        bool loopback;
    } cases[] = {{"127.0.0.1", AF_INET, true},
                 {"127.9.9.9", AF_INET, true},
                 {"0.0.0.0", AF_INET, false},
                 {"::1", AF_INET6, true},
                 {"[::1]", AF_INET6, true},
                 {"::", AF_INET6, false},
                 {"", 0, false},
                 {"[127.0.0.1]", 0, false},
                 {"localhost", 0, false},
                 {"[::1", 0, false},
                 {"1.2.3", 0, false},
                 {"0000:0000:0000:0000:0000:0000:0000:0000:0000:0000", 0, false}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sockaddr_storage address;
        socklen_t size;
        bool loopback = false;
        struct bg_err err;
        int r = forward_spec_address(cases[i].text, &address, &size, &loopback, &err);
        if (cases[i].family == 0
                ? r != -EINVAL
                : r < 0 || address.ss_family != cases[i].family || loopback != cases[i].loopback)
            fail_msg("'%s': %d", cases[i].text, r);
    }
}

/* ---- carrying ---- */

struct carried {
    int client, guest; /* our ends */
    int client_fd;     /* its */
    pid_t pid;
};

static bool lost;

static bool is_lost(void *owner)
{
    (void)owner;
    return lost;
}

/* A TCP connection to ourselves: [0] the client's end. */
static void connect_tcp(int fds[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(listener >= 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &size), 0);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fds[0], (struct sockaddr *)&at, sizeof at), 0);
    fds[1] = accept(listener, NULL, NULL);
    assert_true(fds[1] >= 0);
    (void)close(listener);
}

static void start(struct carried *c)
{
    int tcp[2], stream[2];
    connect_tcp(tcp);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, stream), 0);
    c->pid = fork();
    if (c->pid == 0) {
        (void)close(tcp[0]);
        (void)close(stream[0]);
        const struct forward_opts opts = {
            .client_fd = tcp[1], .stream_fd = stream[1], .is_lost = is_lost};
        int r = forward_carry(&opts);
        if (r < 0)
            forward_reset(tcp[1]);
        _exit(r == 0 ? 0 : r == -ECONNRESET ? 1 : 2);
    }
    assert_true(c->pid > 0);
    (void)close(tcp[1]);
    (void)close(stream[1]);
    c->client = tcp[0];
    c->guest = stream[0];
}

/* The carrier's exit status. */
static int finish(struct carried *c)
{
    int status;
    if (c->client >= 0)
        (void)close(c->client);
    if (c->guest >= 0)
        (void)close(c->guest);
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect(int fd, const char *text)
{
    char got[64] = "";
    size_t used = 0;
    while (used < strlen(text)) {
        ssize_t n = read(fd, got + used, strlen(text) - used);
        assert_true(n > 0);
        used += (size_t)n;
    }
    assert_string_equal(got, text);
}

static void expect_end(int fd)
{
    char byte;
    assert_int_equal(read(fd, &byte, 1), 0);
}

static void each_way_ends_by_itself(void **state)
{
    struct carried c;
    (void)state;
    lost = false;
    start(&c);
    assert_int_equal(write(c.client, "ask", 3), 3);
    assert_int_equal(shutdown(c.client, SHUT_WR), 0);
    expect(c.guest, "ask");
    expect_end(c.guest);
    assert_int_equal(write(c.guest, "answer", 6), 6);
    expect(c.client, "answer");
    assert_int_equal(write(c.guest, "more", 4), 4);
    assert_int_equal(shutdown(c.guest, SHUT_WR), 0);
    expect(c.client, "more");
    expect_end(c.client);
    assert_int_equal(finish(&c), 0);
    /* The other way round. */
    start(&c);
    assert_int_equal(shutdown(c.guest, SHUT_WR), 0);
    expect_end(c.client);
    assert_int_equal(write(c.client, "late", 4), 4);
    assert_int_equal(shutdown(c.client, SHUT_WR), 0);
    expect(c.guest, "late");
    expect_end(c.guest);
    assert_int_equal(finish(&c), 0);
}

static void all_bytes_arrive_at_a_slow_reader(void **state)
{
    enum { SIZE = 4 << 20 };
    static uint32_t words[SIZE / sizeof(uint32_t)];
    struct carried c;
    (void)state;
    lost = false;
    start(&c);
    pid_t writer = fork();
    if (writer == 0) {
        (void)close(c.client);
        for (uint32_t i = 0; i < SIZE / sizeof i; i++)
            words[i] = i;
        _exit(bg_write_full(c.guest, words, sizeof words) < 0);
    }
    (void)close(c.guest);
    c.guest = -1;
    assert_int_equal(bg_read_full(c.client, words, sizeof words), 0);
    for (uint32_t i = 0; i < SIZE / sizeof i; i++)
        assert_int_equal(words[i], i);
    expect_end(c.client);
    int status;
    assert_int_equal(waitpid(writer, &status, 0), writer);
    assert_int_equal(status, 0);
    assert_int_equal(finish(&c), 0);
}

static void a_sandbox_that_is_gone_resets_the_client(void **state)
{
    struct carried c;
    char byte;
    (void)state;
    lost = true;
    start(&c);
    assert_int_equal(write(c.guest, "part", 4), 4);
    expect(c.client, "part");
    (void)close(c.guest);
    c.guest = -1;
    assert_int_equal(read(c.client, &byte, 1), -1);
    assert_int_equal(errno, ECONNRESET);
    assert_int_equal(finish(&c), 1);
}

static void a_client_that_is_gone_ends_the_stream(void **state)
{
    struct carried c;
    char byte;
    (void)state;
    lost = false;
    start(&c);
    assert_int_equal(write(c.client, "x", 1), 1);
    expect(c.guest, "x");
    forward_reset(c.client);
    (void)close(c.client);
    c.client = -1;
    assert_true(read(c.guest, &byte, 1) <= 0);
    assert_int_equal(finish(&c), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_ports),
        cmocka_unit_test(reads_addresses),
        cmocka_unit_test(each_way_ends_by_itself),
        cmocka_unit_test(all_bytes_arrive_at_a_slow_reader),
        cmocka_unit_test(a_sandbox_that_is_gone_resets_the_client),
        cmocka_unit_test(a_client_that_is_gone_ends_the_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
