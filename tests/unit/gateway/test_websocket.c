#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "host/gateway/websocket.h"

#define MESSAGE_MAX 1000

struct side {
    struct websocket *ws;
    char texts[4096]; /* each with a '|' behind it */
    uint8_t out[4096];
    size_t out_size;
    bool answers;
    uint64_t pong;
};

static void on_text(void *owner, const char *text, size_t size)
{
    struct side *side = owner;
    size_t used = strlen(side->texts);
    memcpy(side->texts + used, text, size);
    memcpy(side->texts + used + size, "|", 2);
    if (side->answers)
        assert_int_equal(websocket_send(side->ws, text, size), 0);
}

static void on_pong(void *owner, uint64_t number)
{
    struct side *side = owner;
    side->pong = number;
}

static void on_output(void *owner, uint8_t *bytes, size_t size)
{
    struct side *side = owner;
    assert_true(side->out_size + size <= sizeof side->out);
    memcpy(side->out + side->out_size, bytes, size);
    side->out_size += size;
    free(bytes);
}

static void setup(struct side *side)
{
    const struct websocket_opts opts = {.message_max = MESSAGE_MAX,
                                        .on_text = on_text,
                                        .on_pong = on_pong,
                                        .on_output = on_output,
                                        .owner = side};
    struct bg_err err;
    *side = (struct side){0};
    assert_int_equal(websocket_new(&opts, &side->ws, &err), 0);
}

/* A client's frame: its first byte, its masked payload of less than 126 bytes. */
static size_t frame(uint8_t first, const char *payload, uint8_t *out)
{
    static const uint8_t mask[4] = {1, 2, 3, 4};
    size_t size = strlen(payload);
    out[0] = first;
    out[1] = (uint8_t)(0x80 | size);
    memcpy(out + 2, mask, 4);
    for (size_t i = 0; i < size; i++)
        out[6 + i] = (uint8_t)payload[i] ^ mask[i % 4];
    return 6 + size;
}

static int feed(struct side *side, const uint8_t *bytes, size_t size)
{
    struct bg_err err;
    return websocket_feed(side->ws, bytes, size, &err);
}

static void the_key_is_answered_as_in_rfc_6455(void **state)
{
    (void)state;
    char accept[WEBSOCKET_ACCEPT_SIZE];
    websocket_accept("dGhlIHNhbXBsZSBub25jZQ==", accept);
    assert_string_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

static void texts_come_in_whole_and_go_out(void **state)
{
    (void)state;
    for (size_t step = 1; step < 40; step++) {
        struct side side;
        uint8_t bytes[256];
        setup(&side);
        side.answers = true;
        size_t size = frame(0x81, "ping", bytes);
        size += frame(0x01, "in ", bytes + size);
        size += frame(0x89, "", bytes + size); /* a ping between two parts */
        size += frame(0x80, "two", bytes + size);
        for (size_t at = 0; at < size; at += step)
            assert_int_equal(feed(&side, bytes + at, size - at < step ? size - at : step), 0);
        assert_string_equal(side.texts, "ping|in two|");
        assert_int_equal(side.out_size, 6 + 2 + 8);
        assert_memory_equal(side.out, "\x81\x04ping", 6);
        assert_false(websocket_over(side.ws));
        websocket_free(side.ws);
    }
}

static void a_ping_is_answered_with_its_number(void **state)
{
    (void)state;
    struct side side;
    uint8_t bytes[64];
    setup(&side);
    assert_int_equal(websocket_ping(side.ws, 0x0807060504030201), 0);
    assert_int_equal(side.out_size, 10);
    assert_memory_equal(side.out, "\x89\x08\x01\x02\x03\x04\x05\x06\x07\x08", 10);
    /* Others are nobody's. */
    assert_int_equal(feed(&side, bytes, frame(0x8a, "", bytes)), 0);
    assert_int_equal(feed(&side, bytes, frame(0x8a, "1234567", bytes)), 0);
    assert_int_equal(feed(&side, bytes, frame(0x8a, "123456789", bytes)), 0);
    assert_int_equal(side.pong, 0);
    assert_int_equal(feed(&side, bytes, frame(0x8a, "\x01\x02\x03\x04\x05\x06\x07\x08", bytes)), 0);
    assert_int_equal(side.pong, 0x0807060504030201);
    assert_false(websocket_over(side.ws));
    websocket_free(side.ws);
}

/* What came last: the code of a close frame. */
static void assert_closed(const struct side *side, uint16_t code)
{
    assert_true(side->out_size >= 4);
    size_t at = side->out_size;
    while (at > 0 && side->out[at - 1] != 0x88)
        at--;
    assert_true(at > 0 && at + 3 <= side->out_size);
    assert_int_equal(side->out[at + 1] << 8 | side->out[at + 2], code);
}

static void what_is_wrong_ends_it(void **state)
{
    (void)state;
    struct side side;
    uint8_t bytes[256];
    static const struct {
        uint8_t first;
        const char *payload;
        uint16_t code;
    } wrong[] = {
        {0x82, "binary", 1003}, {0x81, "\xff", 1007},     {0xc1, "rsv", 1002},
        {0x80, "alone", 1002},  {0x83, "reserved", 1002},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        setup(&side);
        size_t size = frame(wrong[i].first, wrong[i].payload, bytes);
        (void)feed(&side, bytes, size);
        assert_closed(&side, wrong[i].code);
        assert_true(websocket_closing(side.ws));
        assert_string_equal(side.texts, "");
        websocket_free(side.ws);
    }
    setup(&side); /* a ping in pieces: wslay's close has no code then */
    assert_int_equal(feed(&side, bytes, frame(0x09, "", bytes)), -EPROTO);
    assert_memory_equal(side.out, "\x88\x00", 2);
    websocket_free(side.ws);
    setup(&side); /* not masked */
    (void)feed(&side, (const uint8_t *)"\x81\x02hi", 4);
    assert_closed(&side, 1002);
    websocket_free(side.ws);
    setup(&side); /* longer than may be: 1001 bytes, of which one is there */
    (void)feed(&side, (const uint8_t *)"\x81\xfe\x03\xe9\1\2\3\4a", 9);
    assert_closed(&side, 1009);
    websocket_free(side.ws);
}

static void a_close_is_answered_and_over(void **state)
{
    (void)state;
    struct side side;
    uint8_t bytes[64];
    setup(&side);
    assert_int_equal(feed(&side, bytes, frame(0x88, "\x03\xe8", bytes)), 0);
    assert_closed(&side, 1000);
    assert_true(websocket_over(side.ws));
    assert_int_equal(websocket_send(side.ws, "late", 4), 0);
    assert_closed(&side, 1000);
    websocket_free(side.ws);
    setup(&side);
    websocket_close(side.ws, 4000, "bad JSON");
    assert_closed(&side, 4000);
    assert_false(websocket_over(side.ws));
    assert_int_equal(feed(&side, bytes, frame(0x88, "\x0f\xa0", bytes)), 0);
    assert_true(websocket_over(side.ws));
    websocket_free(side.ws);
    websocket_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_key_is_answered_as_in_rfc_6455),
        cmocka_unit_test(texts_come_in_whole_and_go_out),
        cmocka_unit_test(a_ping_is_answered_with_its_number),
        cmocka_unit_test(what_is_wrong_ends_it),
        cmocka_unit_test(a_close_is_answered_and_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
