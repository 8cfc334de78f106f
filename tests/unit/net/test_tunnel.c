#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/limits.h"
#include "net/tunnel.h"

struct ends {
    struct tunnel tunnel;
    int ours, theirs;
};

static void start(struct ends *e, const char *to, const char *login)
{
    struct parent parent = {0};
    struct destination destination;
    int fds[2];
    assert_int_equal(destination_parse("proxy.corp:3128", 15, 0, &parent.at, NULL), 0);
    assert_int_equal(destination_parse(to, strlen(to), 443, &destination, NULL), 0);
    if (login)
        assert_int_equal(parent_set_login(&parent, login, strlen(login), NULL), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    e->ours = fds[0];
    e->theirs = fds[1];
    tunnel_init(&e->tunnel, &parent, &destination);
    parent_done(&parent);
}

static void end(struct ends *e)
{
    tunnel_done(&e->tunnel);
    (void)close(e->ours);
    (void)close(e->theirs);
}

static void say(const struct ends *e, const char *text, size_t size)
{
    assert_int_equal(send(e->theirs, text, size, MSG_NOSIGNAL), (ssize_t)size);
}

static void expect(int fd, const char *want)
{
    char got[1024] = {0};
    (void)recv(fd, got, sizeof got - 1, MSG_DONTWAIT);
    assert_string_equal(got, want);
}

static void asks_for_the_way(void **state)
{
    static const struct {
        const char *to, *login, *want;
    } rows[] = {
        {"a.org:8443", NULL, "CONNECT a.org:8443 HTTP/1.1\r\nHost: a.org:8443\r\n\r\n"},
        {"[2001:db8::1]", NULL,
         "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n"},
        {"a.org", "user:pass word",
         "CONNECT a.org:443 HTTP/1.1\r\nHost: a.org:443\r\n"
         "Proxy-Authorization: Basic dXNlcjpwYXNzIHdvcmQ=\r\n\r\n"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ends e;
        start(&e, rows[i].to, rows[i].login);
        assert_true(tunnel_wants_write(&e.tunnel));
        assert_int_equal(tunnel_step(&e.tunnel, e.ours, NULL), -EAGAIN);
        assert_false(tunnel_wants_write(&e.tunnel));
        expect(e.theirs, rows[i].want);
        end(&e);
    }
}

/* Whatever comes in pieces of any size: what is behind the answer is left in the socket. */
static void leaves_what_is_behind_the_answer(void **state)
{
    static const char reply[] = "HTTP/1.1 200 Connection established\r\nContent-Length: 9\r\n"
                                "Via: x\r\n\r\nSSH-2.0-x\r\n\r\n";
    size_t size = sizeof reply - 1, head = size - 13;
    (void)state;
    for (size_t piece = 1; piece <= size; piece++) {
        struct ends e;
        int r = -EAGAIN;
        size_t at = 0;
        start(&e, "a.org", NULL);
        while (r == -EAGAIN && at < size) {
            size_t part = size - at < piece ? size - at : piece;
            say(&e, reply + at, part);
            at += part;
            r = tunnel_step(&e.tunnel, e.ours, NULL);
            assert_true(r == 0 || r == -EAGAIN);
        }
        assert_int_equal(r, 0);
        assert_true(at >= head);
        say(&e, reply + at, size - at);
        expect(e.ours, "SSH-2.0-x\r\n\r\n");
        end(&e);
    }
}

static void tells_why_not(void **state)
{
    static const struct {
        const char *reply, *login, *why;
    } rows[] = {
        {"HTTP/1.1 403 No\r\n\r\n", NULL, "proxy.corp:3128 refuses to connect to a.org:443 (403)"},
        {"HTTP/1.0 502 No\r\nContent-Length: 5\r\n\r\nhello", NULL, "(502)"},
        {"HTTP/1.1 100 Continue\r\n\r\n", NULL, "(100)"},
        {"HTTP/1.1 301 Moved\r\nLocation: http://b.org/\r\n\r\n", NULL, "(301)"},
        {"HTTP/1.1 407 Auth\r\n\r\n", NULL, "wants a login; name one with parent_login"},
        {"HTTP/1.1 407 Auth\r\n\r\n", "u:p", "does not take the login"},
        {"SSH-2.0-x\r\n\r\n", NULL, "broke off"},
        {"HTTP/1.1 200 OK\n\n", NULL, "broke off"},
        {"", NULL, "it closed the connection"},
        {"HTTP/1.1 200 OK\r\n", NULL, "it closed the connection"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ends e;
        struct bg_err err = {0};
        start(&e, "a.org", rows[i].login);
        say(&e, rows[i].reply, strlen(rows[i].reply));
        assert_int_equal(shutdown(e.theirs, SHUT_WR), 0);
        int r = tunnel_step(&e.tunnel, e.ours, &err);
        if (r != -ECONNREFUSED || !strstr(err.text, rows[i].why))
            fail_msg("row %zu: %d '%s'", i, r, err.text);
        end(&e);
    }
}

static void reads_no_more_than_a_head_may_have(void **state)
{
    struct ends e;
    char filler[1000];
    int r = -EAGAIN;
    (void)state;
    memset(filler, 'x', sizeof filler);
    start(&e, "a.org", NULL);
    say(&e, "HTTP/1.1 200 OK\r\nA: ", 20);
    for (size_t sent = 0; r == -EAGAIN && sent <= BG_EGRESS_HEAD_MAX; sent += sizeof filler) {
        say(&e, filler, sizeof filler);
        r = tunnel_step(&e.tunnel, e.ours, NULL);
    }
    assert_int_equal(r, -ECONNREFUSED);
    end(&e);
}

static void takes_logins(void **state)
{
    struct parent parent = {0};
    (void)state;
    assert_int_equal(parent_set_login(&parent, "user", 4, NULL), -EINVAL);
    assert_int_equal(parent_set_login(&parent, "", 0, NULL), -EINVAL);
    assert_null(parent.authorization);
    assert_int_equal(parent_set_login(&parent, ":", 1, NULL), 0);
    assert_int_equal(parent_set_login(&parent, "a:b", 3, NULL), 0);
    assert_int_equal(parent.authorization_size, 10);
    assert_memory_equal(parent.authorization, "Basic YTpi", 10);
    parent_done(&parent);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_for_the_way), cmocka_unit_test(leaves_what_is_behind_the_answer),
        cmocka_unit_test(tells_why_not),    cmocka_unit_test(reads_no_more_than_a_head_may_have),
        cmocka_unit_test(takes_logins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
