#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/limits.h"
#include "net/client_hello.h"

#define ROOM (4 * BG_EGRESS_HELLO_MAX)

/* What to put into a ClientHello; zero: a plain one. */
struct recipe {
    const char *server_name;
    size_t server_name_size; /* 0: strlen */
    const char *alpn;        /* encoded list */
    size_t padding;          /* bytes of one more extension */
    uint16_t padding_type;   /* 0: padding */
    size_t record_size;      /* fragment size; 0: one record */
    bool twice;              /* the server name extension, two times */
    uint8_t name_type;
};

static void put_server_name(struct bg_writer *w, const struct recipe *recipe)
{
    size_t size = recipe->server_name_size ? recipe->server_name_size : strlen(recipe->server_name);
    bg_writer_u16be(w, 0);
    bg_writer_u16be(w, (uint16_t)(size + 5));
    bg_writer_u16be(w, (uint16_t)(size + 3));
    bg_writer_u8(w, recipe->name_type);
    bg_writer_u16be(w, (uint16_t)size);
    bg_writer_bytes(w, recipe->server_name, size);
}

static size_t make_body(const struct recipe *recipe, uint8_t *out)
{
    static const uint8_t zeros[2 * BG_EGRESS_HELLO_MAX];
    uint8_t extensions[2 * BG_EGRESS_HELLO_MAX];
    struct bg_writer e = bg_writer_init(extensions, sizeof extensions);
    if (recipe->server_name)
        put_server_name(&e, recipe);
    if (recipe->twice)
        put_server_name(&e, recipe);
    if (recipe->alpn) {
        bg_writer_u16be(&e, 16);
        bg_writer_u16be(&e, (uint16_t)(strlen(recipe->alpn) + 2));
        bg_writer_u16be(&e, (uint16_t)strlen(recipe->alpn));
        bg_writer_bytes(&e, recipe->alpn, strlen(recipe->alpn));
    }
    if (recipe->padding) {
        bg_writer_u16be(&e, recipe->padding_type ? recipe->padding_type : 21);
        bg_writer_u16be(&e, (uint16_t)recipe->padding);
        bg_writer_bytes(&e, zeros, recipe->padding);
    }
    assert_true(bg_writer_ok(&e));
    struct bg_writer w = bg_writer_init(out, ROOM);
    bg_writer_u16be(&w, 0x0303);
    bg_writer_bytes(&w, zeros, 32);
    bg_writer_u8(&w, 0);
    bg_writer_u16be(&w, 2);
    bg_writer_u16be(&w, 0x1301);
    bg_writer_u8(&w, 1);
    bg_writer_u8(&w, 0);
    bg_writer_u16be(&w, (uint16_t)e.used);
    bg_writer_bytes(&w, extensions, e.used);
    assert_true(bg_writer_ok(&w));
    return w.used;
}

static size_t make_hello(const struct recipe *recipe, uint8_t *out)
{
    static uint8_t message[ROOM];
    size_t body = make_body(recipe, message + 4);
    message[0] = 1;
    message[1] = (uint8_t)(body >> 16);
    message[2] = (uint8_t)(body >> 8);
    message[3] = (uint8_t)body;
    size_t size = body + 4, step = recipe->record_size ? recipe->record_size : 16384;
    struct bg_writer w = bg_writer_init(out, ROOM);
    for (size_t at = 0; at < size; at += step) {
        size_t take = size - at < step ? size - at : step;
        bg_writer_u8(&w, 22);
        bg_writer_u16be(&w, 0x0301);
        bg_writer_u16be(&w, (uint16_t)take);
        bg_writer_bytes(&w, message + at, take);
    }
    assert_true(bg_writer_ok(&w));
    return w.used;
}

static int parse(const struct recipe *recipe, struct client_hello *hello)
{
    static uint8_t bytes[ROOM];
    size_t size = make_hello(recipe, bytes);
    return client_hello_parse(bytes, size, hello, NULL);
}

static void finds_name_and_protocols(void **state)
{
    (void)state;
    struct client_hello hello;
    const struct recipe full = {.server_name = "Example.ORG", .alpn = "\x02h2\x08http/1.1"};
    assert_int_equal(parse(&full, &hello), 0);
    assert_true(hello.has_server_name && hello.has_alpn && hello.alpn_ours);
    assert_string_equal(hello.server_name.host, "example.org");

    const struct recipe only_h2 = {.server_name = "a.org", .alpn = "\x02h2"};
    assert_int_equal(parse(&only_h2, &hello), 0);
    assert_true(hello.has_alpn && hello.alpn_ours);
    const struct recipe others = {.server_name = "a.org", .alpn = "\x02h3\x03h2c\x08http/1.0"};
    assert_int_equal(parse(&others, &hello), 0);
    assert_true(hello.has_alpn && !hello.alpn_ours);

    const struct recipe bare = {0};
    assert_int_equal(parse(&bare, &hello), 0);
    assert_false(hello.has_server_name || hello.has_alpn);
}

static void sees_that_a_name_may_be_hidden(void **state)
{
    (void)state;
    static const uint16_t types[] = {0xfe0d, 0xffce, 0xfe0c};
    for (size_t i = 0; i < 3; i++) {
        struct client_hello hello;
        const struct recipe recipe = {
            .server_name = "a.org", .padding = 200, .padding_type = types[i]};
        assert_int_equal(parse(&recipe, &hello), 0);
        assert_true(hello.has_server_name && hello.has_ech == (i < 2));
    }
}

static void joins_fragments_of_any_size(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 3, 4, 5, 7, 64};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct client_hello hello;
        const struct recipe recipe = {
            .server_name = "a.example.org", .padding = 1500, .record_size = sizes[i]};
        assert_int_equal(parse(&recipe, &hello), 0);
        assert_string_equal(hello.server_name.host, "a.example.org");
    }
}

static void asks_for_more_at_every_truncation(void **state)
{
    (void)state;
    static uint8_t bytes[ROOM];
    static const size_t sizes[] = {0, 1, 9};
    for (size_t i = 0; i < 3; i++) {
        const struct recipe recipe = {
            .server_name = "a.org", .alpn = "\x08http/1.1", .record_size = sizes[i]};
        size_t size = make_hello(&recipe, bytes);
        struct client_hello hello;
        for (size_t cut = 0; cut < size; cut++)
            if (client_hello_parse(bytes, cut, &hello, NULL) != -EAGAIN)
                fail_msg("cut at %zu", cut);
        assert_int_equal(client_hello_parse(bytes, size, &hello, NULL), 0);
        bytes[size] = 'x'; /* early data, or garbage: not looked at */
        assert_int_equal(client_hello_parse(bytes, size + 1, &hello, NULL), 0);
    }
}

static void refuses_odd_names(void **state)
{
    (void)state;
    static char long_name[301];
    memset(long_name, 'a', 300);
    const struct recipe bad[] = {
        {.server_name = "a.org\0evil.org", .server_name_size = 14},
        {.server_name = "\0", .server_name_size = 1},
        {.server_name = ""},
        {.server_name = "127.0.0.1"},
        {.server_name = "[::1]"},
        {.server_name = "a b.org"},
        {.server_name = "a..org"},
        {.server_name = long_name},
        {.server_name = "a.org", .twice = true},
        {.server_name = "a.org", .name_type = 1},
        {.alpn = "\x09http/1.1"},
        {.alpn = "\x08http/1.1\x01"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct client_hello hello;
        int r = parse(&bad[i], &hello);
        if (r != -EPROTO)
            fail_msg("%zu: %d", i, r);
    }
}

static void has_a_limit(void **state)
{
    (void)state;
    struct client_hello hello;
    const struct recipe empty = {0};
    static uint8_t bytes[ROOM];
    size_t overhead = make_body(&empty, bytes) + 4 + 4; /* with headers of message and extension */
    struct recipe recipe = {.padding = BG_EGRESS_HELLO_MAX - overhead};
    assert_int_equal(parse(&recipe, &hello), 0);
    recipe.padding++;
    assert_int_equal(parse(&recipe, &hello), -EMSGSIZE);
    /* Many small records of a message that would fit. */
    static uint8_t many[8 * BG_EGRESS_HELLO_MAX];
    memset(many, 0, sizeof many);
    size_t used = 0;
    static const uint8_t start[] = {1, 0, 0x3f, 0}; /* 16128 bytes follow */
    for (size_t i = 0; used + 6 < 2 * BG_EGRESS_HELLO_MAX; i++) {
        const uint8_t record[6] = {22, 3, 1, 0, 1, i < 4 ? start[i] : 0};
        memcpy(many + used, record, 6);
        used += 6;
    }
    assert_int_equal(client_hello_parse(many, used, &hello, NULL), -EAGAIN);
    many[used] = 22;
    many[used + 1] = 3;
    assert_int_equal(client_hello_parse(many, 2 * BG_EGRESS_HELLO_MAX, &hello, NULL), -EMSGSIZE);
}

static void refuses_garbage_at_once(void **state)
{
    (void)state;
    static const struct {
        uint8_t bytes[16];
        size_t size;
        int want;
    } rows[] = {
        {{0x16}, 1, -EAGAIN},
        {{0x17}, 1, -EPROTO},
        {{0x16, 2}, 2, -EPROTO},
        {{0x16, 3, 1, 0, 0}, 5, -EPROTO},             /* an empty record */
        {{0x16, 3, 1, 0x40, 1}, 5, -EPROTO},          /* longer than records are */
        {{0x16, 3, 1, 0, 4, 2, 0, 0, 0}, 9, -EPROTO}, /* a ServerHello */
        {{0x16, 3, 1, 0, 4, 1, 0, 0, 0}, 9, -EPROTO}, /* empty */
        {{0x16, 3, 1, 0, 4, 1, 0xff, 0, 0}, 9, -EMSGSIZE},
        {{0x16, 3, 1, 0, 1, 1, 0x15}, 7, -EPROTO}, /* an alert in between */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct client_hello hello;
        int r = client_hello_parse(rows[i].bytes, rows[i].size, &hello, NULL);
        if (r != rows[i].want)
            fail_msg("%zu: %d", i, r);
    }
}

static void survives_each_byte_changed(void **state)
{
    (void)state;
    static uint8_t bytes[ROOM];
    const struct recipe recipe = {.server_name = "a.org", .alpn = "\x02h2\x08http/1.1"};
    size_t size = make_hello(&recipe, bytes);
    for (size_t i = 0; i < size; i++) {
        for (unsigned flip = 1; flip < 256; flip++) {
            struct client_hello hello;
            bytes[i] ^= (uint8_t)flip;
            int r = client_hello_parse(bytes, size, &hello, NULL);
            assert_true(r == 0 || r == -EAGAIN || r == -EPROTO || r == -EMSGSIZE);
            bytes[i] ^= (uint8_t)flip;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_name_and_protocols),
        cmocka_unit_test(sees_that_a_name_may_be_hidden),
        cmocka_unit_test(joins_fragments_of_any_size),
        cmocka_unit_test(asks_for_more_at_every_truncation),
        cmocka_unit_test(refuses_odd_names),
        cmocka_unit_test(has_a_limit),
        cmocka_unit_test(refuses_garbage_at_once),
        cmocka_unit_test(survives_each_byte_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
