#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "net/h2_head.h"

#define FIELDS_MAX 12

struct field {
    const char *name, *value;
};

static struct slice slice_of(const char *text)
{
    return (struct slice){text, strlen(text)};
}

static int add_all(struct h2_fields *fields, const struct field *list)
{
    h2_fields_init(fields);
    int r = 0;
    for (size_t i = 0; r == 0 && i < FIELDS_MAX && list[i].name; i++)
        r = h2_fields_add(fields, slice_of(list[i].name), slice_of(list[i].value));
    return r;
}

#define GET                                                                                        \
    {":method", "GET"}, {":scheme", "https"}, {":authority", "a.org"},                             \
    {                                                                                              \
        ":path", "/x?y"                                                                            \
    }
#define POST                                                                                       \
    {":method", "POST"}, {":scheme", "https"}, {":authority", "a.org"},                            \
    {                                                                                              \
        ":path", "/"                                                                               \
    }
#define FIRST "GET /x?y HTTP/1.1\r\nHost: a.org\r\n"

static const struct {
    struct field fields[FIELDS_MAX];
    bool no_body;
    const char *head; /* NULL: refused */
    enum http_wrap wrap;
} requests[] = {
    {{GET}, true, FIRST "\r\n", HTTP_WRAP_PLAIN},
    {{GET, {"x", ""}, {"te", "trailers"}},
     true,
     FIRST "x: \r\nte: trailers\r\n\r\n",
     HTTP_WRAP_PLAIN},
    {{GET, {"cookie", "a=1"}, {"x", "y"}, {"cookie", "b=2"}},
     true,
     FIRST "x: y\r\ncookie: a=1; b=2\r\n\r\n",
     HTTP_WRAP_PLAIN},
    {{POST},
     false,
     "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n",
     HTTP_WRAP_CHUNKED},
    {{POST}, true, "POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 0\r\n\r\n", HTTP_WRAP_PLAIN},
    {{POST, {"content-length", "5"}},
     false,
     "POST / HTTP/1.1\r\nHost: a.org\r\ncontent-length: 5\r\n\r\n",
     HTTP_WRAP_PLAIN},
    /* Host: for :authority, beside the same one, beside another one (which http_head refuses) */
    {{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {"host", "b.org"}},
     true,
     "GET / HTTP/1.1\r\nHost: b.org\r\n\r\n",
     HTTP_WRAP_PLAIN},
    {{GET, {"host", "A.org"}}, true, FIRST "\r\n", HTTP_WRAP_PLAIN},
    {{GET, {"host", "b.org"}}, true, FIRST "Host: b.org\r\n\r\n", HTTP_WRAP_PLAIN},
    /* refused */
    {{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}}, true, NULL, 0},
    {{{":method", "GET"}, {":scheme", "https"}, {":authority", "a.org"}}, true, NULL, 0},
    {{{":scheme", "https"}, {":authority", "a.org"}, {":path", "/"}}, true, NULL, 0},
    {{{":method", "GET"}, {":authority", "a.org"}, {":path", "/"}}, true, NULL, 0},
    {{{":method", "GET"}, {":scheme", "http"}, {":authority", "a.org"}, {":path", "/"}},
     true,
     NULL,
     0},
    {{GET, {":status", "200"}}, true, NULL, 0},
    {{GET, {":path", "/2"}}, true, NULL, 0},
    {{GET, {":x", "y"}}, true, NULL, 0},
    {{GET, {":protocol", "websocket"}}, true, NULL, 0},
    {{{":method", "GET /"}, {":scheme", "https"}, {":authority", "a"}, {":path", "/"}},
     true,
     NULL,
     0},
    {{{":method", "GET"}, {":scheme", "https"}, {":authority", "a"}, {":path", "/ HTTP/1.1"}},
     true,
     NULL,
     0},
    {{{":method", "GET"}, {":scheme", "https"}, {":authority", "a\r\nx: y"}, {":path", "/"}},
     true,
     NULL,
     0},
    {{GET, {"x", "y\r\nz: a"}}, true, NULL, 0},
    {{GET, {"x", "y\n"}}, true, NULL, 0},
    {{GET, {"x\r\nz", "a"}}, true, NULL, 0},
    {{GET, {"x:", "a"}}, true, NULL, 0},
    {{GET, {"x ", "a"}}, true, NULL, 0},
    {{GET, {"", "a"}}, true, NULL, 0},
    {{GET, {"host", "b"}, {"host", "b"}}, true, NULL, 0},
    {{GET, {"connection", "x"}}, true, NULL, 0},
    {{GET, {"transfer-encoding", "chunked"}}, true, NULL, 0},
    {{GET, {"upgrade", "h2c"}}, true, NULL, 0},
    {{GET, {"keep-alive", "5"}}, true, NULL, 0},
    {{POST, {"content-length", "5"}, {"content-length", "5"}}, false, NULL, 0},
};

static void makes_requests_of_fields(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        struct h2_fields fields;
        struct buffer out = buffer_init(4096);
        enum http_wrap wrap = HTTP_WRAP_PLAIN;
        int r = add_all(&fields, requests[i].fields);
        if (r == 0)
            r = h2_fields_put_request(&fields, requests[i].no_body, &out, &wrap);
        if (!requests[i].head) {
            assert_int_equal(r, -EPROTO);
        } else {
            assert_int_equal(r, 0);
            buffer_put(&out, "", 1);
            assert_string_equal((const char *)buffer_bytes(&out), requests[i].head);
            assert_int_equal(wrap, requests[i].wrap);
        }
        h2_fields_done(&fields);
        buffer_reset(&out);
    }
}

static const struct {
    struct field fields[FIELDS_MAX];
    enum h2_body body;
    const char *head; /* NULL: refused */
    enum http_wrap wrap;
} responses[] = {
    {{{":status", "200"}, {"x", "y"}},
     H2_BODY,
     "HTTP/1.1 200 \r\nx: y\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
     HTTP_WRAP_CHUNKED},
    {{{":status", "200"}, {"content-length", "5"}},
     H2_BODY,
     "HTTP/1.1 200 \r\ncontent-length: 5\r\nConnection: close\r\n\r\n",
     HTTP_WRAP_PLAIN},
    {{{":status", "404"}},
     H2_NO_BODY,
     "HTTP/1.1 404 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
     HTTP_WRAP_PLAIN},
    {{{":status", "200"}, {"content-length", "5"}},
     H2_OF_HEAD,
     "HTTP/1.1 200 \r\ncontent-length: 5\r\nConnection: close\r\n\r\n",
     HTTP_WRAP_PLAIN},
    {{{":status", "200"}},
     H2_OF_HEAD,
     "HTTP/1.1 200 \r\nConnection: close\r\n\r\n",
     HTTP_WRAP_PLAIN},
    {{{":status", "204"}}, H2_BODY, "HTTP/1.1 204 \r\nConnection: close\r\n\r\n", HTTP_WRAP_PLAIN},
    {{{":status", "304"}},
     H2_NO_BODY,
     "HTTP/1.1 304 \r\nConnection: close\r\n\r\n",
     HTTP_WRAP_PLAIN},
    {{{":status", "103"}, {"link", "x"}},
     H2_BODY,
     "HTTP/1.1 103 \r\nlink: x\r\n\r\n",
     HTTP_WRAP_PLAIN},
    {{{"x", "y"}}, H2_BODY, NULL, 0},
    {{{":status", "101"}}, H2_BODY, NULL, 0},
    {{{":status", "99"}}, H2_BODY, NULL, 0},
    {{{":status", "600"}}, H2_BODY, NULL, 0},
    {{{":status", "2000"}}, H2_BODY, NULL, 0},
    {{{":status", "2x0"}}, H2_BODY, NULL, 0},
    {{{":status", "+20"}}, H2_BODY, NULL, 0},
};

static void makes_responses_of_fields(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof responses / sizeof *responses; i++) {
        struct h2_fields fields;
        struct buffer out = buffer_init(4096);
        enum http_wrap wrap = HTTP_WRAP_PLAIN;
        unsigned status;
        assert_int_equal(add_all(&fields, responses[i].fields), 0);
        int r = h2_fields_put_response(&fields, responses[i].body, &out, &wrap, &status);
        if (!responses[i].head) {
            assert_int_equal(r, -EPROTO);
        } else {
            assert_int_equal(r, 0);
            buffer_put(&out, "", 1);
            assert_string_equal((const char *)buffer_bytes(&out), responses[i].head);
            assert_int_equal(wrap, responses[i].wrap);
        }
        h2_fields_done(&fields);
        buffer_reset(&out);
    }
}

static void makes_trailers_of_fields(void **state)
{
    (void)state;
    static const struct field list[FIELDS_MAX] = {{"grpc-status", "0"}, {"x", ""}};
    struct h2_fields fields;
    struct buffer out = buffer_init(4096);
    assert_int_equal(add_all(&fields, list), 0);
    h2_fields_put_trailers(&fields, &out);
    buffer_put(&out, "", 1);
    assert_string_equal((const char *)buffer_bytes(&out), "0\r\ngrpc-status: 0\r\nx: \r\n\r\n");
    h2_fields_done(&fields);
    buffer_reset(&out);
}

static void has_limits(void **state)
{
    (void)state;
    struct h2_fields fields;
    static char value[BG_EGRESS_HEAD_MAX];
    memset(value, 'x', sizeof value);
    /* Each field counts 32 bytes more than it has (RFC 9113, 6.5.2). */
    h2_fields_init(&fields);
    struct slice name = slice_of("x");
    assert_int_equal(h2_fields_add(&fields, name, (struct slice){value, sizeof value - 33}), 0);
    assert_int_equal(h2_fields_add(&fields, name, (struct slice){value, 0}), -E2BIG);
    h2_fields_done(&fields);
    assert_int_equal(h2_fields_add(&fields, name, (struct slice){value, sizeof value - 32}),
                     -E2BIG);
    h2_fields_done(&fields);
    for (int i = 0; i < BG_EGRESS_FIELDS_MAX; i++)
        assert_int_equal(h2_fields_add(&fields, name, (struct slice){value, 0}), 0);
    assert_int_equal(h2_fields_add(&fields, name, (struct slice){value, 0}), -E2BIG);
    h2_fields_done(&fields);
}

static void keeps_fields_of_one_connection(void **state)
{
    (void)state;
    static const struct {
        struct field field;
        bool passes;
    } list[] = {
        {{"X", "y"}, true},
        {{"TE", "trailers"}, true},
        {{"te", "gzip"}, false},
        {{"te", "trailers, gzip"}, false},
        {{"Connection", "TE"}, false},
        {{"Host", "a"}, false},
        {{"Transfer-Encoding", "chunked"}, false},
        {{"Upgrade", "x"}, false},
        {{"Keep-Alive", "x"}, false},
        {{"HTTP2-Settings", "x"}, false},
        {{"content-length", "1"}, true},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        const struct http_field field = {.name = slice_of(list[i].field.name),
                                         .value = slice_of(list[i].field.value)};
        assert_int_equal(h2_field_passes(&field), list[i].passes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(makes_requests_of_fields),
        cmocka_unit_test(makes_responses_of_fields),
        cmocka_unit_test(makes_trailers_of_fields),
        cmocka_unit_test(has_limits),
        cmocka_unit_test(keeps_fields_of_one_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
