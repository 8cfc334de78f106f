#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/http_forward.h"
#include "net/locked.h"

#define P SECRET_PREFIX "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static const struct {
    const char *in, *to;
    const char *out; /* NULL: as in */
    bool to_scrub;
} requests[] = {
    {"GET /x HTTP/1.1\r\nHost: a.org\r\nB: c\r\n\r\n", "a.org:443", NULL},
    {"GET /x HTTP/1.1\r\nB:c\r\nHOST: A.ORG:443\r\n\r\n", "a.org:443",
     "GET /x HTTP/1.1\r\nB: c\r\nHost: a.org\r\n\r\n"},
    {"GET /x HTTP/1.0\r\nB: c\r\n\r\n", "a.org:443",
     "GET /x HTTP/1.1\r\nB: c\r\nHost: a.org\r\n\r\n"},
    {"GET https://a.org:8443/x?y HTTP/1.1\r\nHost: a.org:8443\r\n\r\n", "a.org:8443",
     "GET /x?y HTTP/1.1\r\nHost: a.org:8443\r\n\r\n"},
    {"POST / HTTP/1.1\r\nHost: a.org\r\ncontent-length: 007\r\nX: y\r\n\r\n", "a.org:443",
     "POST / HTTP/1.1\r\nHost: a.org\r\nX: y\r\nContent-Length: 7\r\n\r\n"},
    {"POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: Chunked\r\nTE: trailers\r\nTrailer: "
     "X\r\n\r\n",
     "a.org:443",
     "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n"
     "Connection: TE\r\n\r\n"},
    {"GET / HTTP/1.1\r\nHost: a.org\r\nTE: gzip, deflate;q=0.5\r\n\r\n", "a.org:443",
     "GET / HTTP/1.1\r\nHost: a.org\r\n\r\n"},
    {"GET / HTTP/1.1\r\nHost: a.org\r\nConnection: close, Authorization\r\nAuthorization: x\r\n"
     "Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\n\r\n",
     "a.org:443", "GET / HTTP/1.1\r\nHost: a.org\r\nAuthorization: x\r\n\r\n"},
    {"GET / HTTP/1.1\r\nHost: a.org\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
     "HTTP2-Settings: AAA\r\n\r\n",
     "a.org:443", "GET / HTTP/1.1\r\nHost: a.org\r\n\r\n"},
    {"GET / HTTP/1.1\r\nHost: a.org\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n"
     "Sec-WebSocket-Key: k\r\n\r\n",
     "a.org:443",
     "GET / HTTP/1.1\r\nHost: a.org\r\nSec-WebSocket-Key: k\r\nConnection: Upgrade\r\n"
     "Upgrade: websocket\r\n\r\n"},
    {"PUT / HTTP/1.1\r\nHost: a.org\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
     "a.org:443", NULL},
    {"GET / HTTP/1.1\r\nHost: a.org\r\nRange: bytes=0-3\r\nIf-Range: x\r\n"
     "Accept-Encoding: br\r\nAccept: */*\r\n\r\n",
     "a.org:443", NULL},
    {"GET / HTTP/1.1\r\nHost: a.org\r\nRange: bytes=0-3\r\nIf-Range: x\r\n"
     "Accept-Encoding: br\r\nAccept: */*\r\naccept-encoding: gzip\r\n"
     "grpc-accept-encoding: gzip\r\nConnect-Accept-Encoding: gzip\r\n\r\n",
     "a.org:443",
     "GET / HTTP/1.1\r\nHost: a.org\r\nAccept: */*\r\nAccept-Encoding: identity\r\n\r\n", true},
};

static void writes_requests_anew(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        struct http_head head;
        struct http_route route;
        struct destination to;
        struct secrets secrets = {0};
        struct secrets_use use = {0};
        struct buffer out = buffer_init(4096);
        int status;
        assert_int_equal(destination_parse(requests[i].to, strlen(requests[i].to), 0, &to, NULL),
                         0);
        assert_int_equal(
            http_head_parse_request(requests[i].in, strlen(requests[i].in), &head, &status, NULL),
            0);
        const struct http_route_opts opts = {.fixed = &to, .tls = true};
        assert_int_equal(http_route(&head, &opts, &route, &status, NULL), 0);
        const struct secrets_scope scope = {.secrets = &secrets, .to = &to, .verified = true};
        const struct http_forward_request_opts forward_opts = {.port_default = 443,
                                                               .to_scrub = requests[i].to_scrub};
        http_forward_request(&head, &route, &forward_opts, &scope, &out, &use);
        buffer_put(&out, "", 1);
        assert_true(buffer_ok(&out));
        assert_string_equal((const char *)buffer_bytes(&out),
                            requests[i].out ? requests[i].out : requests[i].in);
        buffer_reset(&out);
        http_head_done(&head);
    }
}

static struct scrub scrub; /* knows the value "s3cret-key" */

static const struct {
    const char *in, *method;
    struct http_forward_response_opts opts;
    const char *out;
    enum http_wrap wrap;
    bool keep_alive;
} responses[] = {
    {"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
     "GET",
     {.keep_alive = true},
     "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\n",
     HTTP_WRAP_PLAIN,
     true},
    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
     "GET",
     {.keep_alive = false},
     "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
     HTTP_WRAP_PLAIN,
     false},
    {"HTTP/1.0 200 OK\r\n\r\n",
     "GET",
     {.keep_alive = true},
     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
     HTTP_WRAP_CHUNKED,
     true},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n",
     "GET",
     {.keep_alive = true, .to_http10 = true},
     "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
     HTTP_WRAP_PLAIN,
     false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
     "GET",
     {.keep_alive = true, .to_http10 = true},
     "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n",
     HTTP_WRAP_PLAIN,
     true},
    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
     "HEAD",
     {.keep_alive = true},
     "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
     HTTP_WRAP_PLAIN,
     true},
    {"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\nETag: x\r\n\r\n",
     "GET",
     {.keep_alive = true},
     "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\nETag: x\r\n\r\n",
     HTTP_WRAP_PLAIN,
     true},
    {"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
     "GET",
     {.keep_alive = true},
     "HTTP/1.1 204 No Content\r\n\r\n",
     HTTP_WRAP_PLAIN,
     true},
    {"HTTP/1.1 200 OK\r\nAlt-Svc: h3=\":443\"\r\nKeep-Alive: 5\r\nContent-Length: 0\r\n\r\n",
     "GET",
     {.keep_alive = true},
     "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
     HTTP_WRAP_PLAIN,
     true},
    {"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: y\r\n\r\n",
     "GET",
     {.keep_alive = true, .switching = true},
     "HTTP/1.1 101 Switching\r\nX: y\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
     HTTP_WRAP_PLAIN,
     true},
    /* Secrets out of every part of the head, and lengths that would no longer be true. */
    {"HTTP/1.1 200 s3cret-key\r\nLocation: https://b.org/?k=s3cret%2Dkey\r\n"
     "X-S3cret-Key: czNjcmV0LWtleQ==\r\nContent-Length: 2\r\n\r\n",
     "GET",
     {.keep_alive = true, .scrub = &scrub},
     "HTTP/1.1 200 " P "\r\nLocation: https://b.org/?k=" P "\r\n"
     "X-" P ": " P "Q==\r\nTransfer-Encoding: chunked\r\n\r\n",
     HTTP_WRAP_CHUNKED,
     true},
    {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
     "GET",
     {.keep_alive = true, .scrub = &scrub},
     "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
     HTTP_WRAP_PLAIN,
     true},
    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
     "GET",
     {.keep_alive = true, .to_http10 = true, .scrub = &scrub},
     "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
     HTTP_WRAP_PLAIN,
     false},
    {"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\nETag: yek-terc3s\r\n\r\n",
     "GET",
     {.keep_alive = true, .scrub = &scrub},
     "HTTP/1.1 304 Not Modified\r\nETag: " P "\r\n\r\n",
     HTTP_WRAP_PLAIN,
     true},
};

static void writes_responses_anew(void **state)
{
    (void)state;
    static const char value[] = "s3cret-key";
    static const char *const hosts[] = {"a.org"};
    struct secrets secrets = {0};
    void *copy = locked_new(sizeof value - 1, NULL);
    assert_non_null(copy);
    memcpy(copy, value, sizeof value - 1);
    assert_int_equal(secrets_add(&secrets, "KEY", P, hosts, 1, copy, sizeof value - 1, NULL), 0);
    scrub_init(&scrub, &secrets, 1, (struct sink){0});
    for (size_t i = 0; i < sizeof responses / sizeof *responses; i++) {
        struct http_head head;
        struct buffer out = buffer_init(4096);
        struct slice method = {responses[i].method, strlen(responses[i].method)};
        enum http_wrap wrap;
        bool keep_alive;
        assert_int_equal(
            http_head_parse_response(responses[i].in, strlen(responses[i].in), method, &head, NULL),
            0);
        http_forward_response(&head, &responses[i].opts, &out, &wrap, &keep_alive);
        buffer_put(&out, "", 1);
        assert_string_equal((const char *)buffer_bytes(&out), responses[i].out);
        assert_int_equal(wrap, responses[i].wrap);
        assert_int_equal(keep_alive, responses[i].keep_alive);
        buffer_reset(&out);
        http_head_done(&head);
    }
    scrub_done(&scrub);
    secrets_done(&secrets);
}

static void wraps_bodies_in_chunks(void **state)
{
    (void)state;
    static const uint8_t bytes[26] = "abcdefghijklmnopqrstuvwxyz";
    static const char want[] = "1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
    struct buffer out = buffer_init(4096);
    http_forward_chunk(bytes, sizeof bytes, &out);
    http_forward_chunk(bytes, 0, &out); /* would end the body */
    http_forward_last_chunk(&out);
    assert_int_equal(buffer_size(&out), sizeof want - 1);
    assert_memory_equal(buffer_bytes(&out), want, sizeof want - 1);
    buffer_reset(&out);
}

static void answers_in_one_line(void **state)
{
    (void)state;
    struct buffer out = buffer_init(4096);
    http_forward_answer(403, "no", /* keep_alive= */ false, /* no_body= */ false, &out);
    buffer_put(&out, "", 1);
    assert_string_equal((const char *)buffer_bytes(&out),
                        "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\n"
                        "Content-Length: 14\r\nX-Bellglass: refused\r\nConnection: close\r\n\r\n"
                        "bellglass: no\n");
    buffer_reset(&out);
    http_forward_answer(502, "no", /* keep_alive= */ true, /* no_body= */ true, &out);
    buffer_put(&out, "", 1);
    assert_non_null(strstr((const char *)buffer_bytes(&out), "Content-Length: 14\r\n"));
    assert_null(strstr((const char *)buffer_bytes(&out), "bellglass: no"));
    assert_null(strstr((const char *)buffer_bytes(&out), "Connection"));
    buffer_reset(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_requests_anew),
        cmocka_unit_test(writes_responses_anew),
        cmocka_unit_test(wraps_bodies_in_chunks),
        cmocka_unit_test(answers_in_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
