#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "host/gateway/http_request.h"

#define UPGRADE                                                                                    \
    "GET /a?b HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\n"                  \
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"                                          \
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Empty:\r\nX-Last: z\r\n\r\n"

/* Feeds in pieces of step bytes, until it is complete or refused. *ret_used: of all. */
static int feed(struct http_request *q, const char *text, size_t step, size_t *ret_used)
{
    size_t size = strlen(text), at = 0;
    struct bg_err err;
    int r = 0;
    while (r == 0 && !q->complete && at < size) {
        size_t used = 0, take = size - at < step ? size - at : step;
        r = http_request_feed(q, (const uint8_t *)text + at, take, &used, &err);
        if (r == 0)
            assert_true(used == take || q->complete);
        at += used;
    }
    *ret_used = at;
    return r;
}

static void a_request_for_a_websocket_is_read_in_any_pieces(void **state)
{
    (void)state;
    for (size_t step = 1; step <= sizeof UPGRADE + 4; step++) {
        struct http_request q;
        size_t used;
        const char *key;
        http_request_init(&q);
        assert_int_equal(feed(&q, UPGRADE "rest", step, &used), 0);
        assert_true(q.complete);
        assert_int_equal(used, sizeof UPGRADE - 1);
        assert_string_equal(http_request_method(&q), "GET");
        assert_string_equal(http_request_target(&q), "/a?b");
        assert_string_equal(http_request_field(&q, "host"), "localhost");
        assert_string_equal(http_request_field(&q, "x-empty"), "");
        assert_string_equal(http_request_field(&q, "X-LAST"), "z");
        assert_null(http_request_field(&q, "x-none"));
        assert_true(http_request_is_websocket(&q, &key));
        assert_string_equal(key, "dGhlIHNhbXBsZSBub25jZQ==");
        http_request_done(&q);
    }
}

static void a_body_is_read_up_to_its_end(void **state)
{
    (void)state;
    static const char text[] =
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n";
    for (size_t step = 1; step <= sizeof text; step++) {
        struct http_request q;
        size_t used;
        const char *key;
        http_request_init(&q);
        assert_int_equal(feed(&q, text, step, &used), 0);
        assert_true(q.complete && q.keep_alive);
        assert_int_equal(q.body_size, 5);
        assert_memory_equal(q.body, "hello", 5);
        assert_string_equal(text + used, "GET / HTTP/1.1\r\n");
        assert_false(http_request_is_websocket(&q, &key));
        http_request_done(&q);
    }
}

static void a_large_body_is_seen_in_the_head_and_not_kept(void **state)
{
    (void)state;
    static const char head[] = "POST / HTTP/1.1\r\nContent-Length: 262145\r\n\r\n";
    char *body = calloc(1, BG_GATEWAY_BODY_MAX + 2);
    assert_non_null(body);
    memset(body, 'x', BG_GATEWAY_BODY_MAX + 1);
    for (unsigned pass = 0; pass < 2; pass++) {
        struct http_request q;
        size_t used;
        http_request_init(&q);
        assert_int_equal(feed(&q, head, 999, &used), 0);
        assert_true(q.head_complete && !q.complete && q.body_large);
        q.pass_body = pass;
        int r = feed(&q, body, 4096, &used);
        assert_int_equal(r, pass ? 0 : -EPROTO);
        assert_int_equal(q.complete, pass);
        assert_int_equal(q.status, pass ? 0 : 413);
        assert_true(q.body_size <= BG_GATEWAY_BODY_MAX && (!pass || q.body_size == 0));
        http_request_done(&q);
    }
    free(body);
}

static void a_field_that_is_there_twice_is_none(void **state)
{
    (void)state;
    struct http_request q;
    size_t used;
    http_request_init(&q);
    assert_int_equal(
        feed(&q, "GET / HTTP/1.1\r\nAuthorization: a\r\nauthorization: b\r\n\r\n", 999, &used), 0);
    assert_string_equal(http_request_field(&q, "authorization"), "");
    http_request_done(&q);
}

static void what_is_wrong_or_too_large_is_refused(void **state)
{
    (void)state;
    char *large = malloc(BG_GATEWAY_HEAD_MAX + 100);
    assert_non_null(large);
    memset(large, 'a', BG_GATEWAY_HEAD_MAX + 99);
    large[BG_GATEWAY_HEAD_MAX + 99] = '\0';
    memcpy(large, "GET /", 5);
    char many[8192] = "GET / HTTP/1.1\r\n";
    for (size_t i = 0; i <= HTTP_FIELDS_MAX; i++)
        memcpy(many + strlen(many), "A: b\r\n", 7);
    const struct {
        const char *text;
        int status;
    } wrong[] = {
        {"hello\r\n\r\n", 400},
        {"GET / HTTP/9.9\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nA b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405},
        {large, 431},
        {many, 431},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct http_request q;
        size_t used;
        http_request_init(&q);
        assert_int_equal(feed(&q, wrong[i].text, 4096, &used), -EPROTO);
        assert_int_equal(q.status, wrong[i].status);
        http_request_done(&q);
    }
    free(large);
}

static void a_websocket_needs_all_its_fields(void **state)
{
    (void)state;
    static const char *const fields[] = {"Upgrade: websocket\r\n", "Sec-WebSocket-Version: 13\r\n",
                                         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"};
    for (size_t i = 0; i < 3; i++) {
        char text[] = UPGRADE;
        char *at = strstr(text, fields[i]);
        memmove(at, at + strlen(fields[i]), strlen(at + strlen(fields[i])) + 1);
        struct http_request q;
        size_t used;
        const char *key;
        http_request_init(&q);
        assert_int_equal(feed(&q, text, 999, &used), 0);
        assert_false(http_request_is_websocket(&q, &key));
        http_request_done(&q);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_for_a_websocket_is_read_in_any_pieces),
        cmocka_unit_test(a_body_is_read_up_to_its_end),
        cmocka_unit_test(a_large_body_is_seen_in_the_head_and_not_kept),
        cmocka_unit_test(a_field_that_is_there_twice_is_none),
        cmocka_unit_test(what_is_wrong_or_too_large_is_refused),
        cmocka_unit_test(a_websocket_needs_all_its_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
