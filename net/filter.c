#include "net/filter.h"

#include <errno.h>

#include "common/limits.h"

#define STEP_SIZE ((size_t)16 * 1024) /* a TLS record's, so that one becomes one */
#define IN_MAX    ((size_t)1024 * 1024)
#define OUT_MAX   ((size_t)8 * 1024 * 1024) /* a step's, with all that the scrubber may have held */

static void put_out(void *owner, const uint8_t *bytes, size_t size)
{
    struct filter *filter = owner;
    buffer_put(&filter->out, bytes, size);
}

void filter_init(struct filter *filter, const struct secrets *secrets, uint64_t set)
{
    *filter = (struct filter){.in = buffer_init(IN_MAX), .out = buffer_init(OUT_MAX)};
    filter->in.wipe = true;
    scrub_init(&filter->scrub, secrets, set, (struct sink){put_out, filter});
}

void filter_done(struct filter *filter)
{
    scrub_done(&filter->scrub);
    decoder_free(BG_TAKE(filter->decoder));
    buffer_reset(&filter->in);
    buffer_reset(&filter->out);
}

int filter_start(struct filter *filter, const struct http_head *head, struct bg_err *err)
{
    return decoder_new(head, &filter->decoder, err);
}

void filter_put(struct filter *filter, const uint8_t *bytes, size_t size)
{
    buffer_put(&filter->in, bytes, size);
}

void filter_end(struct filter *filter)
{
    filter->ending = true;
}

bool filter_ready(const struct filter *filter)
{
    return !filter->ended && (buffer_size(&filter->in) > 0 || filter->more || filter->ending);
}

/* Returns how many bytes it made of what is queued, scrubbed and in out; 0: it wants more. */
static ssize_t decode_piece(struct filter *filter, struct bg_err *err)
{
    uint8_t piece[STEP_SIZE];
    size_t size = buffer_size(&filter->in), used, made;
    const uint8_t *bytes = size > 0 ? buffer_bytes(&filter->in) : piece;
    int r = decoder_run(filter->decoder, bytes, size, &used, piece, sizeof piece, &made, err);
    if (r == 0)
        r = scrub_feed(&filter->scrub, piece, made);
    if (r == 0)
        buffer_drop(&filter->in, used);
    filter->more = r == 0 && used + made > 0;
    explicit_bzero(piece, sizeof piece);
    return r < 0 ? r : (ssize_t)(used + made);
}

static ssize_t scrub_piece(struct filter *filter)
{
    size_t size = buffer_size(&filter->in);
    if (size > STEP_SIZE)
        size = STEP_SIZE;
    int r = size > 0 ? scrub_feed(&filter->scrub, buffer_bytes(&filter->in), size) : 0;
    if (r == 0)
        buffer_drop(&filter->in, size);
    return r < 0 ? r : (ssize_t)size;
}

int filter_step(struct filter *filter, struct bg_err *err)
{
    if (!buffer_ok(&filter->in))
        return bg_err_errno(err, -ENOMEM, "looking for secrets in the body");
    ssize_t n = filter->decoder ? decode_piece(filter, err) : scrub_piece(filter);
    if (n == -ENOMEM)
        (void)bg_err_errno(err, -ENOMEM, "looking for secrets in the body");
    if (n < 0)
        return (int)n;
    if (n == 0 && filter->ending) {
        int r = filter->decoder ? decoder_end(filter->decoder, err) : 0;
        if (r < 0)
            return r;
        scrub_end(&filter->scrub);
        filter->ended = true;
    }
    return buffer_ok(&filter->out) ? 0
                                   : bg_err_errno(err, -ENOMEM, "looking for secrets in the body");
}
