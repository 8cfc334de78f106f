#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "net/locked.h"
#include "net/websocket.h"

#define P                                                                                          \
    SECRET_PREFIX "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff" /* 81 bytes   \
                                                                                      */
#define VALUE "s3cret-key"
#define P_HEX "\x51" /* its size */

static int set_up(void **state)
{
    static const char *const hosts[] = {"a.org"};
    static struct secrets secrets;
    secrets = (struct secrets){0};
    void *copy = locked_new(sizeof VALUE - 1, NULL);
    assert_non_null(copy);
    memcpy(copy, VALUE, sizeof VALUE - 1);
    assert_int_equal(secrets_add(&secrets, "KEY", P, hosts, 1, copy, sizeof VALUE - 1, NULL), 0);
    *state = &secrets;
    return 0;
}

static int tear_down(void **state)
{
    secrets_done(*state);
    return 0;
}

/* Feeds bytes in pieces; returns 0 or the error. Adds what is ready to out. */
static int feed(struct websocket *ws, const void *bytes, size_t size, size_t piece,
                struct buffer *out, struct bg_err *err)
{
    for (size_t at = 0; at < size; at += piece) {
        websocket_put(ws, (const uint8_t *)bytes + at, size - at < piece ? size - at : piece);
        while (websocket_ready(ws)) {
            int r = websocket_step(ws, err);
            if (buffer_size(&ws->out) > 0)
                buffer_put(out, buffer_bytes(&ws->out), buffer_size(&ws->out));
            buffer_reset(&ws->out);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

static int run(const struct secrets *secrets, const void *bytes, size_t size, size_t piece,
               struct buffer *out, struct bg_err *err)
{
    struct websocket ws;
    *out = buffer_init(1 << 20);
    websocket_init(&ws, secrets, 1);
    int r = feed(&ws, bytes, size, piece, out, err);
    websocket_done(&ws);
    assert_true(buffer_ok(out));
    return r;
}

#define BYTES(text) (text), sizeof(text) - 1

static const struct {
    const char *in;
    size_t in_size;
    const char *want;
    size_t want_size;
} passing[] = {
    {BYTES("\x81\x02hi"), BYTES("\x81\x02hi")},
    {BYTES("\x82\x02\x00\xff"), BYTES("\x82\x02\x00\xff")},
    {BYTES("\x81\x00"), BYTES("\x81\x00")},
    /* fragments, an empty one, and a ping between them */
    {BYTES("\x01\x02hi\x89\x01x\x00\x00\x80\x01!"), BYTES("\x01\x02hi\x89\x01x\x80\x01!")},
    {BYTES("\x01\x00\x80\x02hi"), BYTES("\x81\x02hi")},
    {BYTES("\x8a\x00\x88\x00"), BYTES("\x8a\x00\x88\x00")},
    {BYTES("\x88\x06\x03\xe8"
           "done"),
     BYTES("\x88\x06\x03\xe8"
           "done")},
    /* a secret in one frame, in fragments, with a ping inside of it, encoded */
    {BYTES("\x81\x0c<s3cret-key>"), BYTES("\x81\x53<" P ">")},
    {BYTES("\x01\x03s3c\x89\x01x\x00\x04"
           "ret-\x80\x03key"),
     BYTES("\x89\x01x\x81" P_HEX P)},
    {BYTES("\x01\x05"
           "abs3c\x80\x07ret-key"),
     BYTES("\x01\x02"
           "ab\x80" P_HEX P)},
    {BYTES("\x82\x14"
           "73336372"
           "65742d6b6579"),
     BYTES("\x82" P_HEX P)},
    /* the beginning of one only: held until the message ends, not over its end */
    {BYTES("\x81\x03s3c\x81\x07ret-key"), BYTES("\x81\x03s3c\x81\x07ret-key")},
    {BYTES("\x01\x03s3c\x80\x01x"), BYTES("\x81\x04s3cx")},
    /* control frames */
    {BYTES("\x89\x0as3cret-key"), BYTES("\x89" P_HEX P)},
    {BYTES("\x88\x0c\x03\xe8s3cret-key"), BYTES("\x88\x53\x03\xe8" P)},
    /* two bytes of UTF-8 apart */
    {BYTES("\x01\x01\xc3\x80\x01\xa4"), BYTES("\x01\x01\xc3\x80\x01\xa4")},
    {BYTES("\x81\x0d\xc3\xa4s3cret-key\xe2"), BYTES("\x81\x54\xc3\xa4" P "\xe2")},
};

static void writes_frames_without_secrets(void **state)
{
    for (size_t i = 0; i < sizeof passing / sizeof *passing; i++) {
        for (size_t piece = 1; piece <= passing[i].in_size; piece++) {
            struct buffer out;
            struct bg_err err = {0};
            int r = run(*state, passing[i].in, passing[i].in_size, piece, &out, &err);
            if (r < 0 || buffer_size(&out) != passing[i].want_size ||
                memcmp(buffer_bytes(&out), passing[i].want, passing[i].want_size) != 0)
                fail_msg("row %zu in pieces of %zu: %d %s, %zu bytes '%.*s'", i, piece, r, err.text,
                         buffer_size(&out), (int)buffer_size(&out), (char *)buffer_bytes(&out));
            buffer_reset(&out);
        }
    }
}

static const struct {
    const char *in;
    size_t in_size;
    const char *text;
} refused[] = {
    {BYTES("\xc1\x00"), "an extension"},
    {BYTES("\xa1\x00"), "an extension"},
    {BYTES("\x91\x00"), "an extension"},
    {BYTES("\x81\x80"), "masked"},
    {BYTES("\x83\x00"), "opcode 3"},
    {BYTES("\x87\x00"), "opcode 7"},
    {BYTES("\x8b\x00"), "opcode 11"},
    {BYTES("\x8f\x00"), "opcode 15"},
    {BYTES("\x09\x00"), "control frame"},
    {BYTES("\x88\x7e"), "control frame"},
    {BYTES("\x88\x01x"), "half a code"},
    {BYTES("\x88\x02\x03\xe7"), "code 999"},
    {BYTES("\x88\x02\x13\x88"), "code 5000"},
    {BYTES("\x88\x0as3cret-key"), "the code"},
    {BYTES("\x88\x0b\x04s3cret-key"), "secret in its code"},
    {BYTES("\x80\x00"), "has not begun"},
    {BYTES("\x01\x00\x81\x00"), "inside of another"},
    {BYTES("\x81\x00\x00\x00"), "has not begun"},
    {BYTES("\x88\x00\x81\x00"), "after Close"},
    {BYTES("\x81\x7e\x00\x7d"), "shortest form"},
    {BYTES("\x81\x7f\x00\x00\x00\x00\x00\x00\xff\xff"), "shortest form"},
    {BYTES("\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x00"), "shortest form"},
};

static void refuses_wrong_frames(void **state)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        for (size_t piece = 1; piece <= refused[i].in_size; piece++) {
            struct buffer out;
            struct bg_err err = {0};
            int r = run(*state, refused[i].in, refused[i].in_size, piece, &out, &err);
            if (r != -EPROTO || !strstr(err.text, refused[i].text))
                fail_msg("row %zu in pieces of %zu: %d '%s'", i, piece, r, err.text);
            buffer_reset(&out);
        }
        /* Cut short it is not an error yet. */
        struct buffer out;
        assert_int_equal(run(*state, refused[i].in, 1, 1, &out, NULL), 0);
        buffer_reset(&out);
    }
}

/* A message of a size in one frame, with a header of that form. */
static void check_size(const struct secrets *secrets, size_t size, const char *header,
                       size_t header_size)
{
    static uint8_t message[200000];
    struct buffer out;
    memcpy(message, header, header_size);
    memset(message + header_size, '.', size);
    assert_int_equal(run(secrets, message, header_size + size, 4000, &out, NULL), 0);
    if (size < BG_EGRESS_MESSAGE_PART) {
        assert_int_equal(buffer_size(&out), header_size + size);
        assert_memory_equal(buffer_bytes(&out), message, header_size + size);
    } else { /* its parts are fragments; each is read back by whoever reads it */
        assert_int_equal(buffer_bytes(&out)[0], 0x01);
        assert_true(buffer_size(&out) > size && buffer_size(&out) < size + 64);
    }
    buffer_reset(&out);
}

static void reads_each_form_of_length(void **state)
{
    check_size(*state, 125, BYTES("\x81\x7d"));
    check_size(*state, 126, BYTES("\x81\x7e\x00\x7e"));
    check_size(*state, 65535, BYTES("\x81\x7e\xff\xff"));
    check_size(*state, 65536, BYTES("\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"));
    check_size(*state, 150000, BYTES("\x81\x7f\x00\x00\x00\x00\x00\x02\x49\xf0"));
}

static void sends_a_long_message_on_before_its_end(void **state)
{
    static uint8_t message[BG_EGRESS_MESSAGE_PART + 10] = {0x82, 0x7f, 0, 0, 1};
    struct websocket ws;
    struct buffer out = buffer_init(1 << 20);
    websocket_init(&ws, *state, 1);
    assert_int_equal(feed(&ws, message, sizeof message, sizeof message, &out, NULL), 0);
    assert_int_equal(buffer_size(&out), sizeof message);
    assert_int_equal(buffer_bytes(&out)[0], 0x02);
    assert_int_equal(buffer_size(&ws.part), 0);
    websocket_done(&ws);
    buffer_reset(&out);
}

static void cuts_close_reasons_between_characters(void **state)
{
    /* The placeholder is 71 bytes longer, so that a character of two lies over the limit, at 122.
     */
    char frame[2 + 125 + 1] = "\x88\x7d\x03\xe8" VALUE;
    struct buffer out;
    memset(frame + 14, 'a', sizeof frame - 14);
    frame[4 + 122 - 71] = '\xc3';
    frame[4 + 123 - 71] = '\xa4';
    assert_int_equal(run(*state, frame, sizeof frame - 1, sizeof frame, &out, NULL), 0);
    assert_int_equal(buffer_size(&out), 2 + 2 + 122);
    assert_int_equal(buffer_bytes(&out)[1], 124);
    assert_memory_equal(buffer_bytes(&out) + 4, P, 81);
    buffer_reset(&out);
    out = buffer_init(1000);
    websocket_put_close("why", &out);
    assert_int_equal(buffer_size(&out), 7);
    assert_memory_equal(buffer_bytes(&out), "\x88\x05\x03\xf6why", 7);
    buffer_reset(&out);
}

static void parse(const char *text, bool is_response, struct http_head *ret)
{
    int status;
    int r = is_response
                ? http_head_parse_response(text, strlen(text), (struct slice){"GET", 3}, ret, NULL)
                : http_head_parse_request(text, strlen(text), ret, &status, NULL);
    assert_int_equal(r, 0);
}

#define GET     "GET / HTTP/1.1\r\nHost: a.org\r\n"
#define KEY     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" /* RFC 6455 §1.3 */
#define VERSION "Sec-WebSocket-Version: 13\r\n"

static void checks_requests(void **state)
{
    static const struct {
        const char *text, *why; /* NULL: good */
    } rows[] = {
        {GET KEY VERSION "\r\n", NULL},
        {GET VERSION "\r\n", "Sec-WebSocket-Key"},
        {GET KEY KEY VERSION "\r\n", "Sec-WebSocket-Key"},
        {GET "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ===\r\n" VERSION "\r\n", "Sec-WebSocket-Key"},
        {GET "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ!!\r\n" VERSION "\r\n", "Sec-WebSocket-Key"},
        {GET "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n" VERSION "\r\n", "Sec-WebSocket-Key"},
        {GET KEY "\r\n", "Version: 13"},
        {GET KEY "Sec-WebSocket-Version: 8\r\n\r\n", "Version: 13"},
        {"POST / HTTP/1.1\r\nHost: a.org\r\n" KEY VERSION "\r\n", "with GET"},
        {GET KEY VERSION "Content-Length: 1\r\n\r\n", "without a body"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct http_head head;
        uint8_t challenge[WEBSOCKET_CHALLENGE_SIZE];
        struct bg_err err = {0};
        parse(rows[i].text, false, &head);
        int r = websocket_check_request(&head, challenge, &err);
        if ((r == 0) != !rows[i].why || (rows[i].why && !strstr(err.text, rows[i].why)))
            fail_msg("row %zu: %d '%s'", i, r, err.text);
        if (r == 0)
            assert_memory_equal(challenge,
                                "dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11",
                                WEBSOCKET_CHALLENGE_SIZE);
        http_head_done(&head);
    }
}

static void checks_answers(void **state)
{
    static const uint8_t sha1[20] = {0xb3, 0x7a, 0x4f, 0x2c, 0xc0, 0x62, 0x4f, 0x16, 0x90, 0xf6,
                                     0x46, 0x06, 0xcf, 0x38, 0x59, 0x45, 0xb2, 0xbe, 0xc4, 0xea};
    static const struct {
        const char *fields;
        bool good;
    } rows[] = {
        {"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", true},
        {"Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", false},
        {"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo\r\n", false},
        {"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Accept: x\r\n",
         false},
        {"", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct http_head head;
        char text[512];
        (void)snprintf(text, sizeof text, "HTTP/1.1 101 Go\r\n%s\r\n", rows[i].fields);
        parse(text, true, &head);
        assert_int_equal(websocket_accepts(&head, sha1), rows[i].good);
        http_head_done(&head);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(writes_frames_without_secrets, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_wrong_frames, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reads_each_form_of_length, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sends_a_long_message_on_before_its_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cuts_close_reasons_between_characters, set_up, tear_down),
        cmocka_unit_test(checks_requests),
        cmocka_unit_test(checks_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
