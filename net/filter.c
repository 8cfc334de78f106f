#include "net/filter.h"

#include <errno.h>
#include <string.h>

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

/* Messages that are coded one by one, in a body that is not: gRPC's servers may code them as the
 * client did, whatever it said that it takes. */
static int check_messages(const struct http_head *head, struct bg_err *err)
{
    static const char *const names[] = {"grpc-encoding", "connect-content-encoding"};
    for (size_t i = 0; i < head->field_count; i++)
        for (size_t j = 0; j < sizeof names / sizeof *names; j++)
            if (slice_is(head->fields[i].name, names[j]) &&
                !slice_is(head->fields[i].value, "identity"))
                return bg_err_set(err, -ENOTSUP,
                                  "the messages in the body are compressed (%s), so no secret "
                                  "could be found there; turn compression off in the client",
                                  names[j]);
    return 0;
}

static bool begins(struct slice s, const char *text_lower)
{
    size_t size = strlen(text_lower);
    return s.size >= size && slice_is((struct slice){s.at, size}, text_lower);
}

/* Types that give the sizes of what is in them: with another size a client reads on at the wrong
 * place, or waits for ever. */
static bool counts_bytes(const struct http_head *head)
{
    static const char *const types[] = {"application/grpc", "application/connect+",
                                        "application/proto", "application/x-protobuf"};
    for (size_t i = 0; i < head->field_count; i++)
        for (size_t j = 0; j < sizeof types / sizeof *types; j++)
            if (slice_is(head->fields[i].name, "content-type") &&
                begins(head->fields[i].value, types[j]))
                return true;
    return false;
}

/* Types whose bodies are messages, each behind a byte of flags and its size (gRPC over HTTP/2,
 * "Length-Prefixed-Message"; Connect's "Enveloped-Message"). */
static bool is_enveloped(const struct http_head *head)
{
    const struct http_field *type = http_head_field(head, "content-type", NULL);
    return type && !begins(type->value, "application/grpc-web-text") &&
           (begins(type->value, "application/grpc") || begins(type->value, "application/connect+"));
}

/* Follows the messages. True if one ends with the bytes. */
static bool ends_message(struct filter *filter, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        if (filter->envelope_size < sizeof filter->envelope) {
            filter->envelope[filter->envelope_size++] = *bytes++;
            size--;
            if (filter->envelope_size < sizeof filter->envelope)
                continue;
            const uint8_t *e = filter->envelope;
            filter->message_left =
                (uint32_t)e[1] << 24 | (uint32_t)e[2] << 16 | (uint32_t)e[3] << 8 | (uint32_t)e[4];
        }
        size_t part = size < filter->message_left ? size : filter->message_left;
        bytes += part;
        size -= part;
        filter->message_left -= (uint32_t)part;
        if (filter->message_left == 0)
            filter->envelope_size = 0;
    }
    return filter->envelope_size == 0;
}

static int scrub_bytes(struct filter *filter, const uint8_t *bytes, size_t size)
{
    int r = scrub_feed(&filter->scrub, bytes, size);
    if (r == 0 && filter->enveloped && size > 0 && ends_message(filter, bytes, size))
        scrub_hurry(&filter->scrub);
    return r;
}

int filter_start(struct filter *filter, const struct http_head *head, struct bg_err *err)
{
    int r = check_messages(head, err);
    if (r < 0)
        return r;
    filter->scrub.same_size = counts_bytes(head);
    filter->enveloped = is_enveloped(head);
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
    uint8_t piece[STEP_SIZE] = {0}; /* clang-tidy cannot see who fills it */
    size_t size = buffer_size(&filter->in), used, made;
    const uint8_t *bytes = size > 0 ? buffer_bytes(&filter->in) : piece;
    int r = decoder_run(filter->decoder, bytes, size, &used, piece, sizeof piece, &made, err);
    if (r == 0)
        r = scrub_bytes(filter, piece, made);
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
    int r = size > 0 ? scrub_bytes(filter, buffer_bytes(&filter->in), size) : 0;
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
