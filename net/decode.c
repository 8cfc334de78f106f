#include "net/decode.h"

#include <errno.h>
#include <string.h>

#define ZLIB_CONST
#include <brotli/decode.h>
#include <zlib.h>
#include <zstd.h>

#include "common/cleanup.h"
#include "common/limits.h"

#define MID_SIZE        16384
#define ZSTD_WINDOW_LOG 23

enum coding { GZIP, DEFLATE, BROTLI, ZSTD };

/* How a coding's library is left after a step. */
enum layer_state {
    FRESH,  /* nothing has come; an empty body is no error */
    INSIDE, /* of a stream, or of one of several that follow each other (gzip, zstd) */
    ENDED,
};

struct layer {
    enum coding coding;
    enum layer_state state;
    bool open; /* z is to be ended */
    bool full; /* the last step filled all it was given: more may be inside */
    z_stream z;
    BrotliDecoderState *brotli;
    ZSTD_DStream *zstd;
};

struct decoder {
    struct layer layers[BG_EGRESS_CODINGS_MAX]; /* in the order they are taken off */
    size_t layer_count;
    uint8_t mid[MID_SIZE]; /* between two */
    size_t mid_at, mid_size;
    uint64_t in, out;
};

static const char *const names[] = {
    [GZIP] = "gzip", [DEFLATE] = "deflate", [BROTLI] = "br", [ZSTD] = "zstd"};

static int find_coding(struct slice token)
{
    if (slice_is(token, "x-gzip"))
        return GZIP;
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (slice_is(token, names[i]))
            return i;
    return -1;
}

static int layer_init(struct layer *layer, enum coding coding)
{
    *layer = (struct layer){.coding = coding};
    switch (coding) {
    case GZIP:
        layer->open = inflateInit2(&layer->z, 15 + 16) == Z_OK;
        return layer->open ? 0 : -ENOMEM;
    case DEFLATE:
        return 0; /* when its first byte is there */
    case BROTLI:
        layer->brotli = BrotliDecoderCreateInstance(NULL, NULL, NULL);
        return layer->brotli ? 0 : -ENOMEM;
    case ZSTD:
        layer->zstd = ZSTD_createDStream();
        if (!layer->zstd || ZSTD_isError(ZSTD_initDStream(layer->zstd)) ||
            ZSTD_isError(ZSTD_DCtx_setParameter(layer->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG)))
            return -ENOMEM;
        return 0;
    }
    return -EINVAL;
}

static void layer_done(struct layer *layer)
{
    if (layer->open)
        (void)inflateEnd(&layer->z); /* fails only for a stream that is none */
    if (layer->brotli)
        BrotliDecoderDestroyInstance(layer->brotli);
    (void)ZSTD_freeDStream(layer->zstd); /* NULL is fine; there is no other failure */
}

/* The codings of one field's value are in the order in which they were put on. */
static int read_field(struct slice value, enum coding codings[BG_EGRESS_CODINGS_MAX], size_t *count,
                      struct bg_err *err)
{
    while (value.size > 0) {
        const char *comma = memchr(value.at, ',', value.size);
        struct slice token = {value.at, comma ? (size_t)(comma - value.at) : value.size};
        size_t skip = token.size + (comma ? 1 : 0);
        value.at += skip;
        value.size -= skip;
        while (token.size > 0 && (*token.at == ' ' || *token.at == '\t')) {
            token.at++;
            token.size--;
        }
        while (token.size > 0 &&
               (token.at[token.size - 1] == ' ' || token.at[token.size - 1] == '\t'))
            token.size--;
        if (token.size == 0 || slice_is(token, "identity"))
            continue;
        int coding = find_coding(token);
        if (coding < 0 || *count == BG_EGRESS_CODINGS_MAX)
            return bg_err_set(
                err, -ENOTSUP,
                "its body has %s content coding%s, and cannot be searched for secrets",
                coding < 0 ? "an unknown" : "more than two", coding < 0 ? "" : "s");
        codings[(*count)++] = (enum coding)coding;
    }
    return 0;
}

static int read_codings(const struct http_head *head, enum coding codings[BG_EGRESS_CODINGS_MAX],
                        size_t *count, struct bg_err *err)
{
    *count = 0;
    for (size_t i = 0; i < head->field_count; i++) {
        if (!slice_is(head->fields[i].name, "content-encoding"))
            continue;
        int r = read_field(head->fields[i].value, codings, count, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int decoder_layers(const struct http_head *head)
{
    enum coding codings[BG_EGRESS_CODINGS_MAX];
    size_t count;
    int r = read_codings(head, codings, &count, NULL);
    return r < 0 ? r : (int)count;
}

int decoder_new(const struct http_head *head, struct decoder **ret, struct bg_err *err)
{
    enum coding codings[BG_EGRESS_CODINGS_MAX];
    size_t count;
    *ret = NULL;
    int r = read_codings(head, codings, &count, err);
    if (r < 0)
        return r;
    if (count == 0)
        return 0;
    struct decoder *d = calloc(1, sizeof *d);
    if (!d)
        return bg_err_errno(err, -ENOMEM, "decoding the body");
    while (d->layer_count < count) {
        size_t i = d->layer_count++;
        r = layer_init(&d->layers[i], codings[count - 1 - i]);
        if (r < 0) {
            decoder_free(d);
            return bg_err_errno(err, r, "decoding the body");
        }
    }
    *ret = d;
    return 0;
}

void decoder_free(struct decoder *decoder)
{
    for (size_t i = 0; decoder && i < decoder->layer_count; i++)
        layer_done(&decoder->layers[i]);
    if (decoder)
        explicit_bzero(decoder->mid, sizeof decoder->mid);
    free(decoder);
}

/* ---- one layer ---- */

static int damaged(const struct layer *layer, struct bg_err *err)
{
    return bg_err_set(err, -EPROTO, "the body's %s coding is damaged", names[layer->coding]);
}

static int run_zlib(struct layer *layer, const uint8_t *bytes, size_t size, size_t *ret_used,
                    uint8_t *out, size_t out_size, size_t *ret_made, struct bg_err *err)
{
    if (!layer->open) {
        /* zlib's frame begins with the method, 8, and a window of at most 2^15 (RFC 1950 §2.2). */
        bool framed = (bytes[0] & 15) == 8 && bytes[0] >> 4 <= 7;
        layer->open = inflateInit2(&layer->z, framed ? 15 : -15) == Z_OK;
        if (!layer->open)
            return bg_err_errno(err, -ENOMEM, "decoding the body");
    }
    layer->z.next_in = bytes;
    layer->z.avail_in = (uInt)size;
    layer->z.next_out = out;
    layer->z.avail_out = (uInt)out_size;
    int r = inflate(&layer->z, Z_NO_FLUSH);
    *ret_used = size - layer->z.avail_in;
    *ret_made = out_size - layer->z.avail_out;
    if (r == Z_STREAM_END)
        layer->state = ENDED;
    if (r == Z_MEM_ERROR)
        return bg_err_errno(err, -ENOMEM, "decoding the body");
    return r == Z_OK || r == Z_STREAM_END || r == Z_BUF_ERROR ? 0 : damaged(layer, err);
}

static int run_brotli(struct layer *layer, const uint8_t *bytes, size_t size, size_t *ret_used,
                      uint8_t *out, size_t out_size, size_t *ret_made, struct bg_err *err)
{
    size_t in_left = size, out_left = out_size;
    BrotliDecoderResult r =
        BrotliDecoderDecompressStream(layer->brotli, &in_left, &bytes, &out_left, &out, NULL);
    *ret_used = size - in_left;
    *ret_made = out_size - out_left;
    if (r == BROTLI_DECODER_RESULT_SUCCESS)
        layer->state = ENDED;
    return r == BROTLI_DECODER_RESULT_ERROR ? damaged(layer, err) : 0;
}

static int run_zstd(struct layer *layer, const uint8_t *bytes, size_t size, size_t *ret_used,
                    uint8_t *out, size_t out_size, size_t *ret_made, struct bg_err *err)
{
    ZSTD_inBuffer in = {.src = bytes, .size = size};
    ZSTD_outBuffer made = {.dst = out, .size = out_size};
    size_t r = ZSTD_decompressStream(layer->zstd, &made, &in);
    *ret_used = in.pos;
    *ret_made = made.pos;
    if (r == 0)
        layer->state = ENDED;
    return ZSTD_isError(r) ? damaged(layer, err) : 0;
}

/* size: 0 to get what is still inside. */
static int layer_run(struct layer *layer, const uint8_t *bytes, size_t size, size_t *ret_used,
                     uint8_t *out, size_t out_size, size_t *ret_made, struct bg_err *err)
{
    *ret_used = *ret_made = 0;
    if (layer->state == ENDED) {
        if (size == 0)
            return 0;
        /* gzip's members and zstd's frames may follow each other; nothing else may. */
        if (layer->coding == DEFLATE || layer->coding == BROTLI ||
            (layer->coding == GZIP && inflateReset(&layer->z) != Z_OK))
            return damaged(layer, err);
    }
    if (size == 0 && !layer->full)
        return 0;
    layer->state = INSIDE;
    int r = -EINVAL;
    switch (layer->coding) {
    case GZIP:
    case DEFLATE:
        r = run_zlib(layer, bytes, size, ret_used, out, out_size, ret_made, err);
        break;
    case BROTLI:
        r = run_brotli(layer, bytes, size, ret_used, out, out_size, ret_made, err);
        break;
    case ZSTD:
        r = run_zstd(layer, bytes, size, ret_used, out, out_size, ret_made, err);
        break;
    }
    layer->full = *ret_made == out_size;
    if (r == 0 && size > 0 && *ret_used == 0 && *ret_made == 0)
        return damaged(layer, err); /* it neither takes nor gives */
    return r;
}

/* ---- all of them ---- */

static int run_two(struct decoder *d, const uint8_t *bytes, size_t size, size_t *ret_used,
                   uint8_t *out, size_t out_size, size_t *ret_made, struct bg_err *err)
{
    *ret_used = 0;
    for (;;) {
        size_t used;
        int r = layer_run(&d->layers[1], d->mid + d->mid_at, d->mid_size - d->mid_at, &used, out,
                          out_size, ret_made, err);
        if (r < 0)
            return r;
        d->mid_at += used;
        if (*ret_made > 0)
            return 0;
        if (d->mid_at < d->mid_size)
            continue;
        size_t more;
        r = layer_run(&d->layers[0], bytes + *ret_used, size - *ret_used, &more, d->mid,
                      sizeof d->mid, &d->mid_size, err);
        if (r < 0)
            return r;
        d->mid_at = 0;
        *ret_used += more;
        if (d->mid_size == 0 && more == 0)
            return 0;
    }
}

int decoder_run(struct decoder *d, const uint8_t *bytes, size_t size, size_t *ret_used,
                uint8_t *out, size_t out_size, size_t *ret_made, struct bg_err *err)
{
    int r = d->layer_count == 2
                ? run_two(d, bytes, size, ret_used, out, out_size, ret_made, err)
                : layer_run(&d->layers[0], bytes, size, ret_used, out, out_size, ret_made, err);
    if (r < 0)
        return r;
    d->in += *ret_used;
    d->out += *ret_made;
    if (d->out > BG_EGRESS_UNFOLD_FREE && d->out / BG_EGRESS_UNFOLD_RATIO > d->in)
        return bg_err_set(err, -E2BIG, "the body unfolds to more than %d times its size",
                          BG_EGRESS_UNFOLD_RATIO);
    return 0;
}

int decoder_end(const struct decoder *d, struct bg_err *err)
{
    for (size_t i = 0; i < d->layer_count; i++)
        if (d->layers[i].state == INSIDE || (i > 0 && d->layers[i].state == FRESH && d->in > 0))
            return bg_err_set(err, -EPROTO, "the body's %s coding ends too early",
                              names[d->layers[i].coding]);
    return 0;
}
