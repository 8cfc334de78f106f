#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>

#include "common/limits.h"
#include "net/http_head.h"

static bool same(struct slice s, const char *text)
{
    return s.size == strlen(text) && memcmp(s.at, text, s.size) == 0;
}

static int parse_request(const char *text, struct http_head *head, int *status)
{
    struct bg_err err = {0};
    return http_head_parse_request(text, strlen(text), head, status, &err);
}

static void takes_a_request_apart(void **state)
{
    (void)state;
    struct http_head head;
    int status;
    assert_int_equal(
        parse_request("POST /a?b=c HTTP/1.1\r\nHost: example.org\r\nX-Odd:\t a b\xff \t\r\n"
                      "empty:\r\ncontent-length: 12\r\n\r\n",
                      &head, &status),
        0);
    assert_true(same(head.method, "POST"));
    assert_true(same(head.target, "/a?b=c"));
    assert_int_equal(head.minor, 1);
    assert_int_equal(head.field_count, 4);
    assert_true(same(head.fields[1].name, "X-Odd"));
    assert_true(same(head.fields[1].value, "a b\xff"));
    assert_true(same(head.fields[2].value, ""));
    assert_int_equal(head.framing, HTTP_LENGTH);
    assert_true(head.length == 12);
    assert_true(head.keep_alive);
    size_t count;
    assert_non_null(http_head_field(&head, "host", &count));
    assert_int_equal(count, 1);
    assert_null(http_head_field(&head, "cookie", &count));
    assert_int_equal(count, 0);
    http_head_done(&head);
}

static const struct {
    const char *text; /* between "GET / HTTP/1.1\r\nHost: h\r\n" and the end, or all of it */
    int status;       /* 0: fine */
} requests[] = {
    {"", 0},
    {"A: b\r\n", 0},
    {"Content-Length: 0\r\n", 0},
    {"Content-Length: 9223372036854775807\r\n", 0},
    {"Transfer-Encoding: chunked\r\n", 0},
    {"transfer-encoding: CHUNKED\r\n", 0},
    {"Expect: 100-Continue\r\n", 0},
    {"X-!#$%&'*+-.^_`|~09: x\r\n", 0},
    {"A: tab\tinside\r\n", 0},
    {"Cookie: a=b; c=d\r\nCookie: e\r\n", 0},
    /* both, doubled, or odd lengths */
    {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400},
    {"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400},
    {"Content-Length: 5\r\nContent-Length: 6\r\n", 400},
    {"Content-Length: 5\r\nContent-Length: 5\r\n", 400},
    {"Content-Length: 5,5\r\n", 400},
    {"Content-Length: 5, 5\r\n", 400},
    {"Content-Length: +5\r\n", 400},
    {"Content-Length: -5\r\n", 400},
    {"Content-Length: 0x5\r\n", 400},
    {"Content-Length: 5 5\r\n", 400},
    {"Content-Length: 5.0\r\n", 400},
    {"Content-Length:\r\n", 400},
    {"Content-Length: 9223372036854775808\r\n", 400},
    {"Content-Length: 18446744073709551616\r\n", 400},
    {"Content-Length: 99999999999999999999999999\r\n", 400},
    /* codings */
    {"Transfer-Encoding: xchunked\r\n", 400},
    {"Transfer-Encoding: chunked, identity\r\n", 400},
    {"Transfer-Encoding: gzip, chunked\r\n", 400},
    {"Transfer-Encoding: identity\r\n", 400},
    {"Transfer-Encoding:\r\n", 400},
    {"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400},
    {"Transfer-Encoding: \x0b"
     "chunked\r\n",
     400},
    /* names and lines */
    {"Content-Length : 5\r\n", 400},
    {"A : b\r\n", 400},
    {" A: b\r\n", 400},
    {"A: b\r\n folded\r\n", 400},
    {"A: b\r\n\tfolded\r\n", 400},
    {": b\r\n", 400},
    {"no colon\r\n", 400},
    {"A\xc3\xa9: b\r\n", 400},
    {"A\x01: b\r\n", 400},
    {"A(: b\r\n", 400},
    {"A: b\x01\r\n", 400},
    {"A: b\x7f\r\n", 400},
    {"A: b\rc\r\n", 400},
    {"A: b\nB: c\r\n", 400},
    {"A: b\r\r\n", 400},
    /* one host */
    {"Host: h\r\n", 400},
    {"host: other\r\n", 400},
    {"Expect: something\r\n", 417},
    {"Expect: 100-continue\r\nExpect: 100-continue\r\n", 417},
};

static void refuses_heads_with_more_than_one_reading(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        char text[512];
        struct http_head head;
        int status = 0;
        (void)snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: h\r\n%s\r\n", requests[i].text);
        int r = parse_request(text, &head, &status);
        if (status != requests[i].status || (r == 0) != (requests[i].status == 0))
            fail_msg("%s: %d, status %d", requests[i].text, r, status);
        if (r == 0)
            http_head_done(&head);
    }
}

static const struct {
    const char *line;
    int status;
} lines[] = {
    {"GET / HTTP/1.1", 0},
    {"GET / HTTP/1.0", 0},
    {"GET http://h/ HTTP/1.1", 0},
    {"OPTIONS * HTTP/1.1", 0},
    {"CONNECT h:443 HTTP/1.1", 0},
    {"GET /%00%0d%0a HTTP/1.1", 0},
    {"TRACE / HTTP/1.1", 405},
    {"trace / HTTP/1.1", 405},
    {"GET /", 400},
    {"GET", 400},
    {"", 400},
    {" GET / HTTP/1.1", 400},
    {"GET  / HTTP/1.1", 400},
    {"GET /  HTTP/1.1", 400},
    {"GET / HTTP/1.1 ", 400},
    {"GET\t/ HTTP/1.1", 400},
    {"GET / a HTTP/1.1", 400},
    {"GET /\x7f HTTP/1.1", 400},
    {"GET /\xc3\xa9 HTTP/1.1", 400},
    {"GET /#x HTTP/1.1", 400},
    {"G(T / HTTP/1.1", 400},
    {"GET / HTTP/1.2", 400},
    {"GET / HTTP/11", 400},
    {"GET / HTTP/1", 400},
    {"GET / http/1.1", 400},
    {"GET / HTTP/01.1", 505},
    {"GET / HTTP/2.0", 505},
    {"GET / HTTP/3", 505},
    {"PRI * HTTP/2.0", 505},
};

static void refuses_odd_request_lines(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char text[512];
        struct http_head head;
        int status = 0;
        (void)snprintf(text, sizeof text, "%s\r\nHost: h\r\n\r\n", lines[i].line);
        int r = parse_request(text, &head, &status);
        if (status != lines[i].status || (r == 0) != (lines[i].status == 0))
            fail_msg("%s: %d, status %d", lines[i].line, r, status);
        if (r == 0)
            http_head_done(&head);
    }
}

static void wants_a_host_in_http11(void **state)
{
    (void)state;
    struct http_head head;
    int status;
    assert_int_equal(parse_request("GET / HTTP/1.1\r\n\r\n", &head, &status), -EPROTO);
    assert_int_equal(status, 400);
    assert_int_equal(parse_request("GET / HTTP/1.0\r\n\r\n", &head, &status), 0);
    assert_false(head.keep_alive);
    http_head_done(&head);
    assert_int_equal(
        parse_request("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", &head, &status),
        -EPROTO);
}

static void refuses_a_nul_and_bytes_after_the_head(void **state)
{
    (void)state;
    static const char nul[] = "GET / HTTP/1.1\r\nHost: h\0\r\n\r\n";
    static const char more[] = "GET / HTTP/1.1\r\nHost: h\r\n\r\nx";
    struct http_head head;
    int status;
    assert_int_equal(http_head_parse_request(nul, sizeof nul - 1, &head, &status, NULL), -EPROTO);
    assert_int_equal(http_head_parse_request(more, sizeof more - 1, &head, &status, NULL), -EPROTO);
    for (size_t cut = 0; cut < sizeof more - 2; cut++)
        assert_int_equal(http_head_parse_request(more, cut, &head, &status, NULL), -EPROTO);
}

static void understands_connection(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool keep_alive, websocket;
    } rows[] = {
        {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", true, false},
        {"GET / HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n", false, false},
        {"GET / HTTP/1.1\r\nHost: h\r\nConnection: x,close , y\r\n\r\n", false, false},
        {"GET / HTTP/1.1\r\nHost: h\r\nConnection: closed\r\n\r\n", true, false},
        {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true, false},
        {"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false, false},
        {"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n", true,
         true},
        {"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n", true, false},
        {"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", true, false},
        {"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", false, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct http_head head;
        int status;
        assert_int_equal(parse_request(rows[i].text, &head, &status), 0);
        if (head.keep_alive != rows[i].keep_alive || head.upgrade_websocket != rows[i].websocket)
            fail_msg("%s", rows[i].text);
        http_head_done(&head);
    }
}

static void has_a_limit_on_fields(void **state)
{
    (void)state;
    static char text[16 * (BG_EGRESS_FIELDS_MAX + 4)];
    for (size_t extra = 0; extra < 2; extra++) {
        struct http_head head;
        int status;
        size_t used = (size_t)snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: h\r\n");
        for (size_t i = 1; i < BG_EGRESS_FIELDS_MAX + extra; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, "a: b\r\n");
        (void)snprintf(text + used, sizeof text - used, "\r\n");
        assert_int_equal(parse_request(text, &head, &status), extra ? -EPROTO : 0);
        if (extra)
            assert_int_equal(status, 431);
        else
            http_head_done(&head);
    }
}

static const struct {
    const char *text, *method;
    int framing; /* -1: refused */
} responses[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", HTTP_LENGTH},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", HTTP_NO_BODY},
    {"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", HTTP_CHUNKED},
    {"HTTP/1.1 200 \r\n\r\n", "GET", HTTP_UNTIL_CLOSE},
    {"HTTP/1.0 200 OK\r\n\r\n", "GET", HTTP_UNTIL_CLOSE},
    {"HTTP/1.1 204 No\r\n\r\n", "GET", HTTP_NO_BODY},
    {"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", "GET", HTTP_NO_BODY},
    {"HTTP/1.1 100 Continue\r\n\r\n", "POST", HTTP_NO_BODY},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", -1},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "GET", -1},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "GET", -1},
    {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", -1},
    {"HTTP/1.1 099 OK\r\n\r\n", "GET", -1},
    {"HTTP/1.1 600 OK\r\n\r\n", "GET", -1},
    {"HTTP/1.1 20 OK\r\n\r\n", "GET", -1},
    {"HTTP/1.1 2000\r\n\r\n", "GET", -1},
    {"HTTP/1.1  200 OK\r\n\r\n", "GET", -1},
    {"HTTP/2 200 OK\r\n\r\n", "GET", -1},
    {"HTTP/1.1 200 O\x01K\r\n\r\n", "GET", -1},
    {"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "GET", -1},
    {"HTTP/1.1 200 OK\nA: b\n\n", "GET", -1},
    {"ICY 200 OK\r\n\r\n", "GET", -1},
    {"", "GET", -1},
};

static void sees_how_long_a_response_is(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof responses / sizeof *responses; i++) {
        struct http_head head;
        struct slice method = {responses[i].method, strlen(responses[i].method)};
        int r = http_head_parse_response(responses[i].text, strlen(responses[i].text), method,
                                         &head, NULL);
        if ((r == 0) != (responses[i].framing >= 0))
            fail_msg("%s: %d", responses[i].text, r);
        if (r < 0)
            continue;
        if ((int)head.framing != responses[i].framing)
            fail_msg("%s: framing %d", responses[i].text, (int)head.framing);
        assert_true(head.framing != HTTP_UNTIL_CLOSE || !head.keep_alive);
        http_head_done(&head);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_a_request_apart),
        cmocka_unit_test(refuses_heads_with_more_than_one_reading),
        cmocka_unit_test(refuses_odd_request_lines),
        cmocka_unit_test(wants_a_host_in_http11),
        cmocka_unit_test(refuses_a_nul_and_bytes_after_the_head),
        cmocka_unit_test(understands_connection),
        cmocka_unit_test(has_a_limit_on_fields),
        cmocka_unit_test(sees_how_long_a_response_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
