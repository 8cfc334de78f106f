#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/base64.h"
#include "net/locked.h"
#include "net/scrub.h"

#define HEX_A "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define A     SECRET_PREFIX HEX_A
#define VALUE "s3cret/Key+<Of>\"A\"&%20=z"

static void add(struct secrets *secrets, const char *value)
{
    static const char *const hosts[] = {"a.org"};
    char name[16], placeholder[SECRET_PLACEHOLDER_SIZE + 1];
    void *copy = NULL;
    (void)snprintf(name, sizeof name, "KEY%zu", secrets->count);
    (void)snprintf(placeholder, sizeof placeholder, "%s", A);
    placeholder[SECRET_PLACEHOLDER_SIZE - 1] = (char)('a' + secrets->count);
    if (value) {
        copy = locked_new(strlen(value), NULL);
        assert_non_null(copy);
        memcpy(copy, value, strlen(value));
    }
    struct bg_err err = {0};
    if (secrets_add(secrets, name, placeholder, hosts, 1, copy, value ? strlen(value) : 0, &err) <
        0)
        fail_msg("%s", err.text);
}

static void put(void *owner, const uint8_t *bytes, size_t size)
{
    buffer_put(owner, bytes, size);
}

/* The text, fed in pieces of some size, as it comes out; in static memory. */
static const char *scrubbed(const struct secrets *secrets, const char *text, size_t size,
                            size_t piece, uint64_t *ret_found)
{
    static char shown[1 << 16];
    struct buffer out = buffer_init(sizeof shown - 1);
    struct scrub scrub;
    scrub_init(&scrub, secrets, ~UINT64_C(0), (struct sink){put, &out});
    for (size_t at = 0; at < size; at += piece)
        assert_int_equal(
            scrub_feed(&scrub, (const uint8_t *)text + at, size - at < piece ? size - at : piece),
            0);
    scrub_end(&scrub);
    *ret_found = scrub.found;
    scrub_done(&scrub);
    assert_true(buffer_ok(&out));
    size_t n = buffer_size(&out);
    if (n > 0)
        memcpy(shown, buffer_bytes(&out), n);
    shown[n] = '\0';
    buffer_reset(&out);
    return shown;
}

/* However it is cut, the text becomes what is wanted. */
static void check(const struct secrets *secrets, const char *text, const char *want, uint64_t found)
{
    size_t size = strlen(text);
    for (size_t piece = 1; piece <= size + 1; piece++) {
        uint64_t bits;
        const char *got = scrubbed(secrets, text, size, piece, &bits);
        if (strcmp(got, want) != 0 || bits != found)
            fail_msg("'%s' in pieces of %zu: '%s' (%llx)", text, piece, got,
                     (unsigned long long)bits);
    }
    struct buffer out = buffer_init(1 << 16);
    struct scrub scrub;
    scrub_init(&scrub, secrets, ~UINT64_C(0), (struct sink){0});
    scrub_text(&scrub, text, size, &out);
    assert_int_equal(buffer_size(&out), strlen(want));
    assert_memory_equal(buffer_bytes(&out) ? (const char *)buffer_bytes(&out) : "", want,
                        strlen(want));
    assert_int_equal(scrub.found, found);
    scrub_done(&scrub);
    buffer_reset(&out);
}

static int set_up(void **state)
{
    static struct secrets secrets;
    secrets = (struct secrets){0};
    *state = &secrets;
    return 0;
}

static int tear_down(void **state)
{
    secrets_done(*state);
    return 0;
}

/* ---- what a service may answer with ---- */

typedef void encoder(const char *value, struct buffer *out);

static void plain(const char *value, struct buffer *out)
{
    buffer_put_text(out, value);
}

static void upper(const char *value, struct buffer *out)
{
    for (; *value; value++)
        buffer_printf(out, "%c", *value >= 'a' && *value <= 'z' ? *value - 32 : *value);
}

static void reversed(const char *value, struct buffer *out)
{
    for (size_t i = strlen(value); i-- > 0;)
        buffer_put(out, value + i, 1);
}

static void rot13(const char *value, struct buffer *out)
{
    for (; *value; value++) {
        char l = (char)(*value | 32);
        buffer_printf(out, "%c", l < 'a' || l > 'z' ? *value : l < 'n' ? *value + 13 : *value - 13);
    }
}

#define EACH(name, format)                                                                         \
    static void name(const char *value, struct buffer *out)                                        \
    {                                                                                              \
        for (; *value; value++)                                                                    \
            buffer_printf(out, format, (unsigned char)*value);                                     \
    }

EACH(hex_lower, "%02x")
EACH(hex_upper, "%02X")
EACH(percent, "%%%02x")
EACH(percent_u, "%%u00%02X")
EACH(quoted_printable, "=%02X")
EACH(json, "\\u00%02x")
EACH(python, "\\x%02x")
EACH(python_long, "\\U000000%02x")
EACH(javascript, "\\u{%x}")
EACH(octal, "\\%03o")
EACH(entity, "&#%u;")
EACH(entity_hex, "&#x%X;")
EACH(entity_padded, "&#x%07x;")

/* With something between: "aa:bb". */
#define EACH_APART(name, format, between)                                                          \
    static void name(const char *value, struct buffer *out)                                        \
    {                                                                                              \
        for (const char *c = value; *c; c++)                                                       \
            buffer_printf(out, "%s" format, c == value ? "" : between, (unsigned char)*c);         \
    }

EACH_APART(hex_colons, "%02x", ":")
EACH_APART(hex_dashes, "%02X", "-")
EACH_APART(hex_spaces, "%02x", " ")
EACH_APART(hex_array, "%02x", ", 0x")
EACH_APART(hex_lines, "%02x", "\n")
EACH_APART(a_line_each, "%c", "\r\n")

/* As those write it who escape only what they must. */
static void html(const char *value, struct buffer *out)
{
    static const char *const names[][2] = {
        {"<", "&lt;"}, {">", "&gt;"}, {"&", "&amp;"}, {"\"", "&quot;"}};
    for (; *value; value++) {
        size_t i = 0;
        while (i < 4 && names[i][0][0] != *value)
            i++;
        if (i < 4)
            buffer_put_text(out, names[i][1]);
        else
            buffer_put(out, value, 1);
    }
}

static void json_text(const char *value, struct buffer *out)
{
    for (; *value; value++)
        buffer_printf(out, "%s%c", strchr("\"\\/", *value) ? "\\" : "", *value);
}

static void url(const char *value, struct buffer *out)
{
    for (; *value; value++)
        if (strchr("/+<>\"&%=", *value))
            buffer_printf(out, "%%%02X", (unsigned char)*value);
        else
            buffer_put(out, value, 1);
}

/* In static memory. */
static const char *encoded_by(encoder *encode)
{
    static char text[1024];
    struct buffer out = buffer_init(sizeof text - 1);
    encode(VALUE, &out);
    assert_true(buffer_ok(&out));
    size_t size = buffer_size(&out);
    memcpy(text, buffer_bytes(&out), size);
    text[size] = '\0';
    buffer_reset(&out);
    return text;
}

static void folds(void **state)
{
    static const struct {
        const char *name;
        encoder *encode;
    } rows[] = {
        {"plain", plain},
        {"upper case", upper},
        {"reversed", reversed},
        {"rot13", rot13},
        {"hex", hex_lower},
        {"HEX", hex_upper},
        {"hex with colons", hex_colons},
        {"hex with dashes", hex_dashes},
        {"hex with spaces", hex_spaces},
        {"hex as an array", hex_array},
        {"hex in lines", hex_lines},
        {"percent", percent},
        {"%u", percent_u},
        {"quoted-printable", quoted_printable},
        {"JSON \\u", json},
        {"\\x", python},
        {"\\U", python_long},
        {"\\u{}", javascript},
        {"octal", octal},
        {"entities", entity},
        {"hex entities", entity_hex},
        {"padded entities", entity_padded},
        {"HTML", html},
        {"JSON", json_text},
        {"URL", url},
        {"a line a character", a_line_each},
    };
    struct secrets *secrets = *state;
    add(secrets, VALUE);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[2048], want[2048];
        const char *encoded = encoded_by(rows[i].encode);
        (void)snprintf(text, sizeof text, "{\"k\": [%s]}", encoded);
        (void)snprintf(want, sizeof want, "{\"k\": [%s]}", secrets->items[0].placeholder);
        print_message("%s\n", rows[i].name);
        check(secrets, text, want, 1);
        (void)snprintf(text, sizeof text, "%s%s", encoded, encoded);
        (void)snprintf(want, sizeof want, "%s%s", secrets->items[0].placeholder,
                       secrets->items[0].placeholder);
        check(secrets, text, want, 1);
    }
}

/* How base64 comes: as RFC 4648 §4 or §5 has it, in lines, in a URL. */
static void put_base64(const char *whole, unsigned how, struct buffer *out)
{
    char encoded[256];
    size_t size = strlen(whole);
    bg_base64_encode((const uint8_t *)whole, size, encoded);
    for (size_t i = 0; i < BG_BASE64_SIZE(size); i++) {
        char c = encoded[i];
        if (how == 1)
            c = (char)(c == '+' ? '-' : c == '/' ? '_' : c);
        if (how == 2 && i > 0 && i % 8 == 0)
            buffer_put_text(out, "\r\n");
        if (how == 3 && strchr("+/=", c))
            buffer_printf(out, "%%%02X", (unsigned char)c);
        else
            buffer_put(out, &c, 1);
    }
}

static void folds_base64(void **state)
{
    struct secrets *secrets = *state;
    add(secrets, VALUE);
    for (size_t before = 0; before < 7; before++)
        for (size_t after = 0; after < 4; after++)
            for (unsigned how = 0; how < 4; how++) {
                char whole[128];
                struct buffer text = buffer_init(4096);
                (void)snprintf(whole, sizeof whole, "%.*s%s%.*s", (int)before,
                               "\xff\xfe user:", VALUE, (int)after, "\xfd\xfc.");
                put_base64(whole, how, &text);
                for (size_t piece = 1; piece <= buffer_size(&text); piece++) {
                    uint64_t found;
                    const char *got = scrubbed(secrets, (const char *)buffer_bytes(&text),
                                               buffer_size(&text), piece, &found);
                    /* What stays is what the characters beside the secret share with it. */
                    size_t room = (before + 2) / 3 * 4 + (after + 3) / 3 * 4 + 14;
                    if (found != 1 || !strstr(got, secrets->items[0].placeholder) ||
                        strlen(got) > SECRET_PLACEHOLDER_SIZE + room)
                        fail_msg("%s: %s", whole, got);
                }
                buffer_reset(&text);
            }
}

/* ---- what stays ---- */

static void leaves_the_rest(void **state)
{
    struct secrets *secrets = *state;
    add(secrets, "s3cret-key");
    static const char *const texts[] = {
        "",
        "s3cret-ke",
        "s3cret-keY s3cret-kez",
        "3cret-key",
        "s3cret_key",
        "s3cret-ke\n\ny",
        "%",
        "%7",
        "\\",
        "&#",
        "&#115;3cret-kez",
        "=73",
        "=\r\n",
        "7333637265742d6b6578", /* hex of s3cret-kex */
        "data: {\"a\": \"\\\\ \\n &lt; &#x41; %41 =3D\"}\r\n\r\n",
        SECRET_PREFIX,
        A,
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (i != 2)
            check(secrets, texts[i], texts[i], 0);
    char want[256];
    (void)snprintf(want, sizeof want, "%s s3cret-kez", secrets->items[0].placeholder);
    check(secrets, texts[2], want, 1);
}

static void knows_the_set(void **state)
{
    struct secrets *secrets = *state;
    add(secrets, "first-secret");
    add(secrets, "other-secret");
    add(secrets, NULL);
    struct buffer out = buffer_init(4096);
    struct scrub scrub;
    static const char text[] = "first-secret other-secret";
    scrub_init(&scrub, secrets, 2 | 4 | 8, (struct sink){0});
    assert_int_equal(scrub.set, 2); /* of the third, nothing could be found */
    scrub_text(&scrub, text, strlen(text), &out);
    buffer_put(&out, "", 1);
    char want[256];
    (void)snprintf(want, sizeof want, "first-secret %s", secrets->items[1].placeholder);
    assert_string_equal((const char *)buffer_bytes(&out), want);
    assert_int_equal(scrub.found, 2);
    scrub_done(&scrub);
    buffer_reset(&out);
}

static void takes_the_longest(void **state)
{
    struct secrets *secrets = *state;
    add(secrets, "key-0123");
    add(secrets, "key-0123-and-more");
    char want[512];
    (void)snprintf(want, sizeof want, "%s, %s-and-less, %s", secrets->items[0].placeholder,
                   secrets->items[0].placeholder, secrets->items[1].placeholder);
    check(secrets, "key-0123, key-0123-and-less, key-0123-and-more", want, 3);
}

static void looks_less_for_short_ones(void **state)
{
    struct secrets *secrets = *state;
    add(secrets, "abc");
    add(secrets, "wxyz123");
    char want[256];
    (void)snprintf(want, sizeof want, "abc cba WXYZ123 321zyxw %s d3h4eXoxMjM",
                   secrets->items[1].placeholder);
    check(secrets, "abc cba WXYZ123 321zyxw wxyz123 d3h4eXoxMjM", want, 2);
}

static void reads_what_escapes_begin_with(void **state)
{
    struct secrets *secrets = *state;
    add(secrets, "\\\\\\\\%%%%&&&&====");
    const char *placeholder = secrets->items[0].placeholder;
    check(secrets, "\\\\\\\\%%%%&&&&====", placeholder, 1);
    check(secrets, "\\\\\\\\\\\\\\\\%25%%25%&amp;&&amp;&=3D===", placeholder, 1);
    check(secrets, "\\\\\\\\%%%%&&&&===", "\\\\\\\\%%%%&&&&===", 0);
}

/* Lets every place of a text have a closer look. */
static void open_hints(struct secrets *secrets)
{
    struct scrub scrub;
    scrub_init(&scrub, secrets, ~UINT64_C(0), (struct sink){0});
    scrub_done(&scrub);
    for (size_t i = 0; i < secrets->hints->count; i++) {
        memset(secrets->hints->items[i].may, 0xff, sizeof secrets->hints->items[i].may);
        memset(secrets->hints->items[i].nibbles, 0xff, sizeof secrets->hints->items[i].nibbles);
    }
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Texts of whole and broken forms, escapes and what lies between them. */
static void random_text(uint32_t *random, struct buffer *out)
{
    static const char *const pieces[] = {
        "s3cret-Key+<9>",
        "S3CRET",
        "s3",
        "yeK-",
        "f3peg",
        "=73",
        "%73",
        "&#115;",
        "\\x73",
        "\\u0073",
        "73",
        "33",
        ":",
        "0x",
        " ",
        "\r\n",
        "=\r\n",
        "\n ",
        "cret",
        "&lt;",
        "%",
        "\\",
        "=",
        "&",
        "czNjcmV0LUtleSs8OT4",
        "MzY3",
        "z",
        ".",
        "-Key+",
        "%3C9%3E",
        "\\n",
        "c3Nj",
    };
    size_t count = next_random(random) % 40;
    for (size_t i = 0; i < count; i++)
        buffer_put_text(out, pieces[next_random(random) % (sizeof pieces / sizeof *pieces)]);
}

static void finds_the_same_without_hints(void **state)
{
    struct secrets *secrets = *state;
    struct secrets open = {0};
    static const char *const values[] = {"s3cret-Key+<9>", "other/secret", "sh0rt", "73s3cr%="};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        add(secrets, values[i]);
        add(&open, values[i]);
    }
    open_hints(&open);
    uint32_t random = 1;
    for (int n = 0; n < 3000; n++) {
        struct buffer text = buffer_init(1 << 14);
        random_text(&random, &text);
        buffer_put(&text, "", 1);
        static char want[1 << 16];
        uint64_t found, found_open;
        const char *at = (const char *)buffer_bytes(&text);
        size_t size = buffer_size(&text) - 1, piece = 1 + next_random(&random) % (size + 1);
        (void)snprintf(want, sizeof want, "%s", scrubbed(&open, at, size, piece, &found_open));
        if (strcmp(want, scrubbed(secrets, at, size, piece, &found)) != 0 || found != found_open)
            fail_msg("'%s' in pieces of %zu", at, piece);
        buffer_reset(&text);
    }
    secrets_done(&open);
}

/* Sets have hints of their own, and those that come too late that of all. */
static void has_hints_for_any_set(void **state)
{
    struct secrets *secrets = *state;
    static const char text[] = "<Asecret-1><Bsecret-2><Csecret-3><Dsecret-4>";
    static const char *const values[] = {"Asecret-1", "Bsecret-2", "Csecret-3", "Dsecret-4"};
    for (size_t i = 0; i < 4; i++)
        add(secrets, values[i]);
    for (uint64_t set = 1; set < 16; set++) {
        struct buffer out = buffer_init(4096);
        struct scrub scrub;
        scrub_init(&scrub, secrets, set, (struct sink){0});
        scrub_text(&scrub, text, strlen(text), &out);
        assert_int_equal(scrub.found, set);
        scrub_done(&scrub);
        buffer_reset(&out);
    }
    add(secrets, "one-more");
    check(secrets, "one-more", secrets->items[4].placeholder, 1 << 4);
}

/* What is decided goes on at once. */
static void holds_no_more_than_it_must(void **state)
{
    struct secrets *secrets = *state;
    add(secrets, "s3cret-key");
    struct buffer out = buffer_init(4096);
    struct scrub scrub;
    scrub_init(&scrub, secrets, 1, (struct sink){put, &out});
    static const struct {
        const char *in;
        size_t out; /* bytes so far */
    } steps[] = {
        {"data: 1\n\n", 9}, {"data: s3cr", 15},    {"et", 15},
        {"-kez\n\n", 27},   {"data: s3cret-", 33}, {"key", 33 + SECRET_PLACEHOLDER_SIZE},
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        assert_int_equal(scrub_feed(&scrub, (const uint8_t *)steps[i].in, strlen(steps[i].in)), 0);
        assert_int_equal(buffer_size(&out), steps[i].out);
    }
    scrub_end(&scrub);
    scrub_done(&scrub);
    buffer_reset(&out);
}

/* A text that could always become the secret is held up to a limit that it cannot reach. */
static void bounds_what_it_holds(void **state)
{
    struct secrets *secrets = *state;
    char value[2001];
    memset(value, 'k', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    add(secrets, value);
    struct buffer text = buffer_init(1 << 16);
    for (size_t i = 0; i < 1999; i++)
        buffer_put_text(&text, "&#x00006b;\r\n ");
    uint64_t found;
    (void)scrubbed(secrets, (const char *)buffer_bytes(&text), buffer_size(&text), 4000, &found);
    assert_int_equal(found, 0);
    buffer_put_text(&text, "&#x00006b;");
    assert_string_equal(
        scrubbed(secrets, (const char *)buffer_bytes(&text), buffer_size(&text), 4000, &found),
        secrets->items[0].placeholder);
    buffer_reset(&text);
}

/* A message that ends wherever: what had to go on is little, and the rest is the placeholder's. */
static void hurries_with_little_of_a_secret(void **state)
{
    struct secrets *secrets = *state;
    static const size_t most = (sizeof VALUE - 1) / 8; /* below SCRUB_AHEAD_MAX */
    add(secrets, VALUE);
    for (size_t cut = 0; cut <= strlen(VALUE); cut++) {
        for (size_t again = cut; again <= strlen(VALUE); again++) {
            struct buffer out = buffer_init(1024);
            struct scrub scrub;
            scrub_init(&scrub, secrets, 1, (struct sink){put, &out});
            scrub.same_size = true;
            const uint8_t *value = (const uint8_t *)VALUE;
            const size_t ends[] = {cut, again, strlen(VALUE)};
            for (size_t i = 0, at = 0; i < 3; at = ends[i++]) {
                assert_int_equal(scrub_feed(&scrub, value + at, ends[i] - at), 0);
                scrub_hurry(&scrub);
                if (ends[i] <= most)
                    assert_int_equal(buffer_size(&out), ends[i]);
            }
            scrub_end(&scrub);
            assert_int_equal(buffer_size(&out), strlen(VALUE));
            const char *got = (const char *)buffer_bytes(&out);
            size_t told = again <= most ? again : cut <= most ? cut : 0;
            assert_memory_equal(got, VALUE, told);
            assert_memory_equal(got + told, &A[told], strlen(VALUE) - told);
            scrub_done(&scrub);
            buffer_reset(&out);
        }
    }
}

static void hurries_with_what_is_no_secret(void **state)
{
    static const char *const pieces[] = {"ab", "s", "3cs", "3c", "", "x", "s3cret"};
    static const char text[] = "abs3cs3cxs3cret";
    struct buffer out = buffer_init(1024);
    struct scrub scrub;
    add(*state, VALUE);
    scrub_init(&scrub, *state, 1, (struct sink){put, &out});
    scrub.same_size = true;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        assert_int_equal(scrub_feed(&scrub, (const uint8_t *)pieces[i], strlen(pieces[i])), 0);
        scrub_hurry(&scrub);
    }
    scrub_end(&scrub);
    assert_int_equal(buffer_size(&out), strlen(text));
    assert_memory_equal(buffer_bytes(&out), text, strlen(text));
    scrub_done(&scrub);
    buffer_reset(&out);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(folds),
        TEST(folds_base64),
        TEST(leaves_the_rest),
        TEST(knows_the_set),
        TEST(takes_the_longest),
        TEST(looks_less_for_short_ones),
        TEST(reads_what_escapes_begin_with),
        TEST(finds_the_same_without_hints),
        TEST(has_hints_for_any_set),
        TEST(holds_no_more_than_it_must),
        TEST(bounds_what_it_holds),
        TEST(hurries_with_little_of_a_secret),
        TEST(hurries_with_what_is_no_secret),
    };
    return cmocka_run_group_tests_name("net-scrub", tests, NULL, NULL);
}
