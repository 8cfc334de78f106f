#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <brotli/encode.h>
#include <zlib.h>
#include <zstd.h>

#include "net/buffer.h"
#include "common/limits.h"
#include "net/decode.h"

static const char text[] = "A text, a text, a text that is told again and again and again.\n";

/* ---- the other side ---- */

static struct buffer copy(const void *bytes, size_t size)
{
    struct buffer b = buffer_init(1 << 20);
    buffer_put(&b, bytes, size);
    assert_true(buffer_ok(&b));
    return b;
}

/* window_bits: of zlib; +16 gzip, negative bare. */
static struct buffer deflated(const void *bytes, size_t size, int window_bits)
{
    static uint8_t out[1 << 16];
    z_stream z = {0};
    uint8_t *in = malloc(size + 1);
    assert_non_null(in);
    memcpy(in, bytes, size);
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = in;
    z.avail_in = (uInt)size;
    z.next_out = out;
    z.avail_out = sizeof out;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t used = sizeof out - z.avail_out;
    assert_int_equal(deflateEnd(&z), Z_OK);
    free(in);
    return copy(out, used);
}

static struct buffer brotlied(const void *bytes, size_t size)
{
    static uint8_t out[1 << 16];
    size_t used = sizeof out;
    assert_true(BrotliEncoderCompress(5, 18, BROTLI_MODE_TEXT, size, bytes, &used, out));
    return copy(out, used);
}

static struct buffer zstded(const void *bytes, size_t size)
{
    static uint8_t out[1 << 16];
    size_t used = ZSTD_compress(out, sizeof out, bytes, size, 3);
    assert_false(ZSTD_isError(used));
    return copy(out, used);
}

/* ---- decoding ---- */

static int make(const char *coding, const char *coding_2, struct decoder **ret)
{
    struct http_field fields[] = {{{"Content-Encoding", 16}, {coding, strlen(coding)}},
                                  {{"X", 1}, {"gzip", 4}},
                                  {{"content-encoding", 16}, {coding_2, strlen(coding_2)}}};
    const struct http_head head = {.fields = fields, .field_count = 3};
    struct bg_err err;
    return decoder_new(&head, ret, &err);
}

/* Decodes in pieces; at most text_max bytes. Returns what failed, or 0. */
static int decode(struct decoder *d, const struct buffer *coded, size_t in_piece, size_t out_piece,
                  struct buffer *out)
{
    const uint8_t *bytes = buffer_bytes(coded);
    size_t size = buffer_size(coded), used, made;
    uint8_t piece[256];
    struct bg_err err;
    for (size_t at = 0; at < size;) {
        size_t in = size - at < in_piece ? size - at : in_piece;
        do {
            int r = decoder_run(d, bytes + at, in, &used, piece, out_piece, &made, &err);
            if (r < 0)
                return r;
            assert_true(used <= in && made <= out_piece);
            buffer_put(out, piece, made);
            at += used;
            in -= used;
        } while (used > 0 || made > 0);
        assert_int_equal(in, 0);
    }
    assert_true(buffer_ok(out));
    return decoder_end(d, &err);
}

/* However it is cut, the coded bytes become the text twice or once, or the error. */
static void check(const char *coding, const char *coding_2, struct buffer coded, const char *want,
                  int error)
{
    static const size_t pieces[][2] = {{1, 1}, {1, 200}, {3, 7}, {100000, 1}, {100000, 256}};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct buffer out = buffer_init(1 << 16);
        struct decoder *d;
        assert_int_equal(make(coding, coding_2, &d), 0);
        assert_non_null(d);
        int r = decode(d, &coded, pieces[i][0], pieces[i][1], &out);
        if (r != error)
            fail_msg("%s %s in pieces of %zu and %zu: %d", coding, coding_2, pieces[i][0],
                     pieces[i][1], r);
        if (want) {
            assert_int_equal(buffer_size(&out), strlen(want));
            assert_memory_equal(buffer_size(&out) ? (char *)buffer_bytes(&out) : "", want,
                                strlen(want));
        }
        decoder_free(d);
        buffer_reset(&out);
    }
    buffer_reset(&coded);
}

static void takes_codings_off(void **state)
{
    (void)state;
    size_t size = sizeof text - 1;
    check("gzip", "", deflated(text, size, 15 + 16), text, 0);
    check("X-GZip", "identity", deflated(text, size, 15 + 16), text, 0);
    check("deflate", "", deflated(text, size, 15), text, 0);
    check("deflate", "", deflated(text, size, -15), text, 0);
    check("deflate", "", deflated(text, size, 9), text, 0);
    check("br", "", brotlied(text, size), text, 0);
    check(" zstd ,", "", zstded(text, size), text, 0);
    check("gzip", "", deflated("", 0, 15 + 16), "", 0);
    check("br", "", copy("", 0), "", 0);
}

static void takes_two_off(void **state)
{
    (void)state;
    size_t size = sizeof text - 1;
    struct buffer inner = brotlied(text, size);
    check("br", "gzip", deflated(buffer_bytes(&inner), buffer_size(&inner), 15 + 16), text, 0);
    check("br, gzip", "", deflated(buffer_bytes(&inner), buffer_size(&inner), 15 + 16), text, 0);
    check("br", "zstd", zstded(buffer_bytes(&inner), buffer_size(&inner)), text, 0);
    check("br", "zstd", zstded(buffer_bytes(&inner), buffer_size(&inner) - 1), NULL, -EPROTO);
    buffer_reset(&inner);
    inner = zstded(text, size);
    check("zstd", "deflate", deflated(buffer_bytes(&inner), buffer_size(&inner), -15), text, 0);
    buffer_reset(&inner);
}

static void reads_streams_that_follow_each_other(void **state)
{
    (void)state;
    size_t size = sizeof text - 1;
    char twice[2 * sizeof text];
    (void)snprintf(twice, sizeof twice, "%s%s", text, text);
    struct buffer coded = deflated(text, size, 15 + 16), again = deflated(text, size, 15 + 16);
    buffer_put(&coded, buffer_bytes(&again), buffer_size(&again));
    buffer_reset(&again);
    check("gzip", "", coded, twice, 0);
    coded = zstded(text, size);
    again = zstded(text, size);
    buffer_put(&coded, buffer_bytes(&again), buffer_size(&again));
    buffer_reset(&again);
    check("zstd", "", coded, twice, 0);
}

static void refuses_what_is_damaged(void **state)
{
    (void)state;
    size_t size = sizeof text - 1;
    static const char *const names[] = {"gzip", "deflate", "br", "zstd"};
    for (size_t i = 0; i < 4; i++)
        for (unsigned how = 0; how < 2; how++) {
            struct buffer coded = i == 0   ? deflated(text, size, 15 + 16)
                                  : i == 1 ? deflated(text, size, 15)
                                  : i == 2 ? brotlied(text, size)
                                           : zstded(text, size);
            if (how == 0) /* too short */
                buffer_cut(&coded, buffer_size(&coded) - 1);
            else /* something behind it */
                buffer_put(&coded, "x", 1);
            check(names[i], "", coded, NULL, -EPROTO);
        }
    check("gzip", "", copy("plain", 5), NULL, -EPROTO);
    check("br", "", copy("\xff\xff\xff\xff\xff", 5), NULL, -EPROTO);
    check("zstd", "", copy("plain", 5), NULL, -EPROTO);
    struct decoder *d;
    assert_int_equal(make("gzip, br", "zstd", &d), -ENOTSUP);
    assert_int_equal(make("compress", "", &d), -ENOTSUP);
    assert_int_equal(make("*", "", &d), -ENOTSUP);
    assert_int_equal(make("identity", " , ", &d), 0);
    assert_null(d);
}

/* A window that would take more memory than a browser gives. */
static void refuses_large_windows(void **state)
{
    (void)state;
    /* Magic, descriptor without a size, window of 2^(10 + 17) bytes (RFC 8878 §3.1.1.1.2). */
    check("zstd", "", copy("\x28\xb5\x2f\xfd\x00\x88\x01\x00\x00", 9), NULL, -EPROTO);
}

static void bounds_the_ratio(void **state)
{
    (void)state;
    static uint8_t zeros[1 << 20];
    struct decoder *d;
    struct bg_err err;
    struct buffer coded = zstded(zeros, sizeof zeros);
    uint8_t piece[4096];
    size_t used, made;
    uint64_t total = 0;
    int r = 0;
    assert_int_equal(make("zstd", "", &d), 0);
    while (r == 0 && total < 2 * BG_EGRESS_UNFOLD_FREE) {
        const uint8_t *bytes = buffer_bytes(&coded);
        size_t left = buffer_size(&coded);
        do {
            r = decoder_run(d, bytes, left, &used, piece, sizeof piece, &made, &err);
            bytes += used;
            left -= used;
            total += made;
        } while (r == 0 && (used > 0 || made > 0));
    }
    assert_int_equal(r, -E2BIG);
    assert_true(total <= BG_EGRESS_UNFOLD_FREE + sizeof piece);
    decoder_free(d);
    buffer_reset(&coded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_codings_off),
        cmocka_unit_test(takes_two_off),
        cmocka_unit_test(reads_streams_that_follow_each_other),
        cmocka_unit_test(refuses_what_is_damaged),
        cmocka_unit_test(refuses_large_windows),
        cmocka_unit_test(bounds_the_ratio),
    };
    return cmocka_run_group_tests_name("net-decode", tests, NULL, NULL);
}
