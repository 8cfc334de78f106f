/* A request's body: the first byte chooses its kind, of the others 0x10 to 0x15 stand for
 * placeholders. What comes out is compared with what another reader of that kind sees in what went
 * in, with the secrets put where they may be and nowhere else. */
#include <assert.h>
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/io.h"
#include "common/limits.h"
#include "net/body.h"
#include "net/json_scan.h"
#include "net/locked.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define HEX           "00112233445566778899aabbccddeeff00112233445566778899aabbccddeef"
#define SIZE_MAX_BODY ((size_t)1 << 20)

enum { COUNT = 3 };

static const char *const placeholders[] = {SECRET_PREFIX HEX "0", SECRET_PREFIX HEX "1",
                                           SECRET_PREFIX HEX "2"};
/* Bytes that every kind escapes; what would be a boundary, or the end of one. */
static const char *const values[COUNT] = {"\x01S\"\x02", "--b1", "1x"};

static const char *const types[] = {"application/json", "application/x-www-form-urlencoded",
                                    "multipart/form-data; boundary=b1", "text/plain"};

static void add_secrets(struct secrets *secrets)
{
    static const char *const names[COUNT] = {"A", "B", "C"};
    for (size_t i = 0; i < COUNT; i++) {
        size_t size = strlen(values[i]);
        void *copy = locked_new(size, NULL);
        struct secret_rule rule = {.in = SECRET_IN_BODY, .body = {15, SIZE_MAX_BODY, false}};
        if (!copy)
            abort();
        memcpy(copy, values[i], size);
        if (secrets_add(secrets, names[i], placeholders[i], NULL, 0, copy, size, NULL) < 0 ||
            host_pattern_parse("a.org", 5, &rule.host, NULL) < 0 ||
            secrets_add_rule(secrets, names[i], &rule, NULL) < 0)
            abort();
    }
}

/* Returns false if the body is not to be read. */
static bool run(const struct secrets *secrets, const char *host, bool verified, const char *type,
                const struct buffer *in, struct body *body, struct secrets_use *use)
{
    struct destination to;
    struct http_field field = {{"content-type", 12}, {type, strlen(type)}};
    const struct http_head head = {.fields = &field, .field_count = 1, .framing = HTTP_CHUNKED};
    assert(destination_parse(host, strlen(host), 443, &to, NULL) == 0);
    const struct secrets_scope scope = {.secrets = secrets, .to = &to, .verified = verified};
    if (!body_start(body, &scope, &head))
        return false;
    body_put(body, buffer_bytes(in), buffer_size(in));
    assert(buffer_ok(&body->in));
    assert(body_finish(body, &scope, &head, use, NULL) == 0);
    return true;
}

static struct buffer expand(const uint8_t *bytes, size_t size)
{
    static const char *const texts[] = {
        SECRET_PREFIX HEX "0",         "\\u0042ELLGLASS_SECRET_" HEX "0",
        "%42ELLGLASS_SECRET_" HEX "0", SECRET_PREFIX HEX "f",
        SECRET_PREFIX HEX "1",         SECRET_PREFIX HEX "2"};
    struct buffer out = buffer_init(SIZE_MAX_BODY);
    for (size_t i = 0; i < size; i++)
        if (bytes[i] >= 0x10 && bytes[i] <= 0x15)
            buffer_put_text(&out, texts[bytes[i] - 0x10]);
        else
            buffer_put(&out, &bytes[i], 1);
    return out;
}

/* The text with its placeholders exchanged, as they stand there. */
static struct buffer exchanged(const char *text, size_t size)
{
    struct buffer out = buffer_init(SIZE_MAX);
    while (size > 0) {
        size_t take = 1, i = COUNT;
        if (size >= SECRET_PLACEHOLDER_SIZE)
            for (i = 0; i < COUNT && memcmp(text, placeholders[i], SECRET_PLACEHOLDER_SIZE) != 0;)
                i++;
        if (i < COUNT) {
            take = SECRET_PLACEHOLDER_SIZE;
            buffer_put_text(&out, values[i]);
        } else {
            buffer_put(&out, text, 1);
        }
        text += take;
        size -= take;
    }
    return out;
}

static bool same(const void *a, size_t a_size, const void *b, size_t b_size)
{
    return a_size == b_size && (a_size == 0 || (a && b && memcmp(a, b, a_size) == 0));
}

static void check_text(const char *in, size_t in_size, const char *out, size_t out_size)
{
    struct buffer want = exchanged(in, in_size);
    assert(same(buffer_bytes(&want), buffer_size(&want), out, out_size));
    buffer_reset(&want);
}

/* ---- JSON, by jansson ---- */

/* Depth: jansson's own limit. */
static void check_value(json_t *in, json_t *out)
{
    assert(json_typeof(in) == json_typeof(out));
    if (json_is_string(in)) {
        check_text(json_string_value(in), json_string_length(in), json_string_value(out),
                   json_string_length(out));
    } else if (json_is_array(in)) {
        assert(json_array_size(in) == json_array_size(out));
        for (size_t i = 0; i < json_array_size(in); i++)
            check_value(json_array_get(in, i), json_array_get(out, i));
    } else if (json_is_object(in)) {
        const char *key;
        json_t *value;
        assert(json_object_size(in) == json_object_size(out));
        json_object_foreach(in, key, value) check_value(value, json_object_get(out, key));
    } else {
        assert(json_equal(in, out));
    }
}

static void check_json(const struct buffer *in, const struct buffer *out)
{
    const size_t flags = JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES;
    size_t depth = 0;
    for (size_t i = 0; i < buffer_size(in); i++)
        depth += buffer_bytes(in)[i] == '[' || buffer_bytes(in)[i] == '{';
    if (depth > JSON_SCAN_DEPTH_MAX || buffer_size(in) == 0)
        return;
    /* jansson passes over a NUL after a number; to us that is no JSON, and taken as it stands. */
    if (memchr(buffer_bytes(in), '\0', buffer_size(in)))
        return;
    json_t *before = json_loadb((const char *)buffer_bytes(in), buffer_size(in), flags, NULL);
    if (!before)
        return;
    json_t *after = json_loadb((const char *)buffer_bytes(out), buffer_size(out), flags, NULL);
    assert(after);
    check_value(before, after);
    json_decref(before);
    json_decref(after);
}

/* ---- forms ---- */

static struct buffer decoded(const char *text, size_t size)
{
    struct buffer out = buffer_init(SIZE_MAX);
    for (size_t i = 0; i < size; i++) {
        int high = size - i > 2 ? bg_hex_digit(text[i + 1]) : -1;
        int low = size - i > 2 ? bg_hex_digit(text[i + 2]) : -1;
        char c = text[i];
        if (c == '%' && high >= 0 && low >= 0) {
            c = (char)(high << 4 | low);
            i += 2;
        }
        buffer_put(&out, &c, 1);
    }
    return out;
}

static struct slice next(struct slice *left, char c)
{
    const char *end = left->size > 0 ? memchr(left->at, c, left->size) : NULL;
    struct slice found = {left->at, end ? (size_t)(end - left->at) : left->size};
    size_t skip = found.size + (end ? 1 : 0);
    left->at += skip;
    left->size -= skip;
    return found;
}

static void check_form(struct slice in, struct slice out)
{
    while (in.size > 0) {
        struct slice value_in = next(&in, '&'), value_out = next(&out, '&');
        bool has_value = value_in.size > 0 && memchr(value_in.at, '=', value_in.size);
        struct slice name_in = next(&value_in, '='), name_out = next(&value_out, '=');
        assert(same(name_in.at, name_in.size, name_out.at, name_out.size));
        if (!has_value)
            continue;
        struct buffer a = decoded(value_in.at, value_in.size);
        struct buffer b = decoded(value_out.at, value_out.size);
        check_text((const char *)buffer_bytes(&a), buffer_size(&a), (const char *)buffer_bytes(&b),
                   buffer_size(&b));
        buffer_reset(&a);
        buffer_reset(&b);
    }
    assert(out.size == 0);
}

/* ---- multipart ---- */

/* Where the next line is that begins as a boundary, for the most generous of readers. */
static size_t boundary_from(const struct buffer *b, size_t at)
{
    const char *text = (const char *)buffer_bytes(b);
    for (; at + 4 <= buffer_size(b); at++)
        if (memcmp(text + at, "--b1", 4) == 0 &&
            (at == 0 || text[at - 1] == '\n' || text[at - 1] == '\r'))
            return at;
    return SIZE_MAX;
}

static bool holds_secret(const char *text, size_t size)
{
    static const char *const forms[] = {"\x01S", "\\u0001S", "%01S"};
    for (size_t i = 0; size > 0 && i < sizeof forms / sizeof *forms; i++)
        if (memmem(text, size, forms[i], strlen(forms[i])))
            return true;
    return false;
}

static void check_multipart(const struct buffer *in, const struct buffer *out)
{
    const char *text = (const char *)buffer_bytes(out);
    if (holds_secret((const char *)buffer_bytes(in), buffer_size(in)))
        return;
    size_t a = boundary_from(in, 0), b = boundary_from(out, 0), before = 0;
    assert(a == b); /* nothing stands before the first */
    while (a != SIZE_MAX) {
        assert(b != SIZE_MAX);
        before = b;
        const char *end = memmem(text + b, buffer_size(out) - b, "\r\n\r\n", 4);
        size_t head = end ? (size_t)(end - text) - b : buffer_size(out) - b;
        assert(!holds_secret(text + b, head));
        a = boundary_from(in, a + 1);
        b = boundary_from(out, b + 1);
    }
    assert(b == SIZE_MAX);
    assert(!holds_secret(text + before, buffer_size(out) - before));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct secrets secrets = {0};
    struct secrets_use use = {0};
    struct body body;
    if (size == 0 || size > 4096)
        return 0;
    unsigned kind = bytes[0] % 4u;
    struct buffer in = expand(bytes + 1, size - 1);
    add_secrets(&secrets);
    assert(!run(&secrets, "b.org", true, types[kind], &in, &body, &use));
    assert(!run(&secrets, "a.org", false, types[kind], &in, &body, &use));
    assert(run(&secrets, "a.org", true, types[kind], &in, &body, &use));
    assert(body.changed == (use.used != 0));
    const struct buffer *out = &body.out;
    struct slice in_text = {(const char *)buffer_bytes(&in), buffer_size(&in)};
    struct slice out_text = {(const char *)buffer_bytes(out), buffer_size(out)};
    if (!use.used)
        assert(same(in_text.at, in_text.size, out_text.at, out_text.size));
    if (kind == 0)
        check_json(&in, out);
    else if (kind == 1)
        check_form(in_text, out_text);
    else if (kind == 2)
        check_multipart(&in, out);
    else
        check_text(in_text.at, in_text.size, out_text.at, out_text.size);
    body_done(&body);
    buffer_reset(&in);
    secrets_done(&secrets);
    return 0;
}
