#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>

#include "common/limits.h"
#include "net/http_reader.h"

struct sink {
    struct buffer body;
    size_t messages;
};

static void body_came(void *owner, const uint8_t *bytes, size_t size)
{
    struct sink *sink = owner;
    buffer_put(&sink->body, bytes, size);
}

/* Reads all of text in pieces of step bytes; body and message count go to sink. Returns 0 or the
 * error. */
static int read_all(bool is_response, const char *text, size_t size, size_t step, struct sink *sink,
                    int *ret_status)
{
    struct http_reader reader;
    struct bg_err err = {0};
    int r = 0;
    *sink = (struct sink){.body = buffer_init(1 << 20)};
    http_reader_init(&reader, is_response, body_came, sink);
    for (size_t at = 0; at < size && r == 0;) {
        size_t take = size - at < step ? size - at : step;
        ssize_t used = http_reader_feed(&reader, (const uint8_t *)text + at, take, &err);
        if (used < 0) {
            r = (int)used;
            break;
        }
        at += (size_t)used;
        if (reader.state == HTTP_READER_HAVE_HEAD)
            r = http_reader_go_on(&reader, &err);
        if (reader.state == HTTP_READER_DONE) {
            sink->messages++;
            buffer_put_text(&sink->body, ";");
            http_reader_next(&reader);
        }
    }
    if (r == 0) {
        r = http_reader_eof(&reader, &err);
        if (reader.state == HTTP_READER_DONE) {
            sink->messages++;
            buffer_put_text(&sink->body, ";");
        }
    }
    *ret_status = reader.status;
    http_reader_done(&reader);
    return r;
}

#define REQUEST "POST / HTTP/1.1\r\nHost: h\r\n"

static const struct {
    bool is_response;
    const char *text;
    const char *bodies; /* each with ";" behind; NULL: refused */
    int status;
} rows[] = {
    {false, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", ";", 0},
    {false, "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", ";", 0},
    {false, "GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", ";;", 0},
    {false, REQUEST "Content-Length: 5\r\n\r\nhello", "hello;", 0},
    {false, REQUEST "Content-Length: 0\r\n\r\n", ";", 0},
    {false, REQUEST "Content-Length: 5\r\n\r\nhello" REQUEST "Content-Length: 2\r\n\r\nhi",
     "hello;hi;", 0},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
     "hello!;", 0},
    {false,
     REQUEST "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0;x\r\nTrailer: x\r\n\r\n"
             "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
     "hello;;", 0},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\n000005\r\nhello\r\n00\r\n\r\n", "hello;", 0},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", "0123456789;",
     0},
    {false, REQUEST "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", ";", 0},
    {false, REQUEST "Connection: upgrade\r\nUpgrade: h2c\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
     ";;", 0},
    {false, REQUEST "Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi", "hi;", 0},
    {false, "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", ";", 0},
    {false, "GET / HTTP/1.1\r\nHost: h\r\nX: \xe9\r\n\r\n", ";", 0},
    {false, "GET /~!$&'()*+,;=:@%20?/?\"<>[]^`{|}\\ HTTP/1.1\r\nHost: h\r\n\r\n", ";", 0},
    /* refused */
    {false, "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", NULL, 400},
    {false, "\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", NULL, 400},
    {false, "GET / HTTP/1.1\nHost: h\n\n", NULL, 400},
    {false, "GET / HTTP/1.1\r\nHost: h\r\n\n", NULL, 400},
    {false, "\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", NULL, 400},
    {false, "GET / HTTP/1.1\r\nHost: h\r\n", NULL, 400}, /* ends early */
    {false, "GET /\r\n", NULL, 400},
    {false, "SSH-2.0-client\r\nmore", NULL, 400},
    {false, "GET / HTTP/2\r\n", NULL, 505},
    {false, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", NULL, 505},
    {false, "BREW / HTTP/1.1\r\nHost: h\r\n\r\n", NULL, 501},
    {false, "get / HTTP/1.1\r\nHost: h\r\n\r\n", NULL, 501},
    {false, REQUEST "Content-Length: 5\r\n\r\nhell", NULL, 400},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", NULL, 400},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", NULL, 400},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", NULL, 400},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", NULL, 400},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", NULL, 400},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\ng\r\nhello\r\n0\r\n\r\n", NULL, 400},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n", NULL, 400},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n", NULL, 400},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nhello\r\n0\r\n\r\n",
     NULL, 400},
    {false, REQUEST "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nhello\r\n0\r\n\r\n",
     NULL, 400},
    {false, REQUEST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", NULL, 400},
    /* responses */
    {true, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi;", 0},
    {true, "HTTP/1.1 200 OK\r\n\r\nuntil the end", "until the end;", 0},
    {true, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n",
     "hi;", 0},
    {true, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", ";;", 0},
    {true, "HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", ";", 0},
    {true, "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", ";", 0},
    {true, "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", ";", 0},
    {true, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", NULL, 0},
    {true, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", NULL, 0},
    {true, "\r\nHTTP/1.1 200 OK\r\n\r\n", NULL, 0},
};

static void reads_messages_however_they_are_split(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static const size_t steps[] = {1, 2, 3, 7, 4096};
        for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
            struct sink sink;
            int status;
            int r = read_all(rows[i].is_response, rows[i].text, strlen(rows[i].text), steps[s],
                             &sink, &status);
            if ((r == 0) != (rows[i].bodies != NULL))
                fail_msg("row %zu by %zu: %d\n%s", i, steps[s], r, rows[i].text);
            if (r == 0 &&
                (buffer_size(&sink.body) != strlen(rows[i].bodies) ||
                 memcmp(buffer_bytes(&sink.body), rows[i].bodies, strlen(rows[i].bodies)) != 0))
                fail_msg("row %zu by %zu: body '%.*s'", i, steps[s], (int)buffer_size(&sink.body),
                         (const char *)buffer_bytes(&sink.body));
            if (r < 0 && rows[i].status != 0 && status != rows[i].status)
                fail_msg("row %zu by %zu: status %d", i, steps[s], status);
            buffer_reset(&sink.body);
        }
    }
}

static void answers_to_head_have_no_body(void **state)
{
    (void)state;
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 ";
    struct http_reader reader;
    struct sink sink = {.body = buffer_init(100)};
    http_reader_init(&reader, /* is_response= */ true, body_came, &sink);
    reader.request_method = (struct slice){"HEAD", 4};
    assert_int_equal(http_reader_feed(&reader, (const uint8_t *)text, sizeof text - 1, NULL), 38);
    assert_int_equal(http_reader_go_on(&reader, NULL), 0);
    assert_int_equal(reader.state, HTTP_READER_DONE);
    http_reader_done(&reader);
}

static const struct {
    const char *lines;
    const char *fields; /* "name=value;" each; NULL: refused */
} trailers[] = {
    {"", ""},
    {"A: b\r\n", "A=b;"},
    {"A: b\r\ngrpc-status:0\r\nEmpty:\r\n", "A=b;grpc-status=0;Empty=;"},
    {"A:  b c \r\n", "A=b c;"},
    {"A : b\r\n", NULL},
    {"A\r\n", NULL},
    {": b\r\n", NULL},
    {"A: b\001\r\n", NULL},
    {"A: b\rc\r\n", NULL},
};

static void has_the_trailers_of_responses(void **state)
{
    (void)state;
    static const size_t steps[] = {1, 2, 5, 4096};
    for (size_t i = 0; i < 4 * (sizeof trailers / sizeof *trailers); i++) {
        const size_t row = i / 4, step = steps[i % 4];
        struct buffer text = buffer_init(4096), seen = buffer_init(4096);
        struct sink sink = {.body = buffer_init(100)};
        struct http_reader reader;
        buffer_printf(&text,
                      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n%s\r\n",
                      trailers[row].lines);
        http_reader_init(&reader, /* is_response= */ true, body_came, &sink);
        ssize_t r = 0;
        for (size_t at = 0; r >= 0 && at < buffer_size(&text);) {
            size_t left = buffer_size(&text) - at;
            r = http_reader_feed(&reader, buffer_bytes(&text) + at, left < step ? left : step,
                                 NULL);
            at += r > 0 ? (size_t)r : 0;
            if (r >= 0 && reader.state == HTTP_READER_HAVE_HEAD)
                assert_int_equal(http_reader_go_on(&reader, NULL), 0);
        }
        assert_int_equal(r >= 0, trailers[row].fields != NULL);
        for (size_t k = 0; r >= 0 && k < reader.trailers.field_count; k++) {
            const struct http_field *f = &reader.trailers.fields[k];
            buffer_put(&seen, f->name.at, f->name.size);
            buffer_put_text(&seen, "=");
            buffer_put(&seen, f->value.at, f->value.size);
            buffer_put_text(&seen, ";");
        }
        buffer_put(&seen, "", 1);
        if (r >= 0)
            assert_string_equal((const char *)buffer_bytes(&seen), trailers[row].fields);
        http_reader_done(&reader);
        buffer_reset(&text);
        buffer_reset(&seen);
        buffer_reset(&sink.body);
    }
}

/* A head of exactly size bytes, in memory of the test's own. */
static char *make_head(size_t size)
{
    static char text[2 * BG_EGRESS_HEAD_MAX];
    static const char start[] = "GET / HTTP/1.1\r\nHost: h\r\nX: ";
    memset(text, 'x', sizeof text);
    memcpy(text, start, sizeof start - 1);
    memcpy(text + size - 4, "\r\n\r\n", 4);
    return text;
}

static void has_a_limit_on_heads(void **state)
{
    (void)state;
    struct sink sink;
    int status;
    for (size_t step = 1000; step <= 200000; step += 199000) {
        assert_int_equal(read_all(false, make_head(BG_EGRESS_HEAD_MAX), BG_EGRESS_HEAD_MAX, step,
                                  &sink, &status),
                         0);
        buffer_reset(&sink.body);
        assert_int_equal(read_all(false, make_head(BG_EGRESS_HEAD_MAX + 1), BG_EGRESS_HEAD_MAX + 1,
                                  step, &sink, &status),
                         -EPROTO);
        assert_int_equal(status, 431);
        buffer_reset(&sink.body);
    }
}

static void has_a_limit_on_what_is_not_body(void **state)
{
    (void)state;
    static const char *const starts[] = {
        REQUEST "Transfer-Encoding: chunked\r\n\r\n5;",                 /* an extension */
        REQUEST "Transfer-Encoding: chunked\r\n\r\n0\r\nTrailer: ",     /* a trailer */
        REQUEST "Transfer-Encoding: chunked\r\n\r\n000000000000000000", /* a size */
    };
    static char text[4 * BG_EGRESS_HEAD_MAX];
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        struct sink sink;
        int status;
        memset(text, i == 2 ? '0' : 'x', sizeof text);
        memcpy(text, starts[i], strlen(starts[i]));
        assert_int_equal(read_all(false, text, sizeof text, 4096, &sink, &status), -EPROTO);
        assert_int_equal(status, 400);
        buffer_reset(&sink.body);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_messages_however_they_are_split),
        cmocka_unit_test(answers_to_head_have_no_body),
        cmocka_unit_test(has_the_trailers_of_responses),
        cmocka_unit_test(has_a_limit_on_heads),
        cmocka_unit_test(has_a_limit_on_what_is_not_body),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
