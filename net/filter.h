/* A response's body on its way through the scrubber: its content codings are taken off, secrets
 * taken out, and what is left waits for room on the guest's side. It works in small steps, so that
 * what one read of the upstream can grow to is held up by whoever does not read it. Pure. */
#pragma once

#include "net/decode.h"
#include "net/scrub.h"

struct filter {
    struct scrub scrub;      /* for the head too; its set is empty where no secret can come back */
    struct decoder *decoder; /* NULL: not coded */
    struct buffer in;        /* as it came */
    struct buffer out;       /* ready */
    bool enveloped;          /* messages one by one, each behind its flags and size */
    uint8_t envelope[5];     /* what is known of the present one's */
    size_t envelope_size;
    uint32_t message_left; /* bytes; with a whole envelope */
    bool more;             /* the decoder may have more to give */
    bool ending;           /* no more comes */
    bool ended;            /* all of it is in out */
};

/* set: as for scrub_init. The object must stay where it is. */
void filter_init(struct filter *filter, const struct secrets *secrets, uint64_t set);
void filter_done(struct filter *filter); /* a zeroed one: no-op */

/* The response's head has come. Errors: -ENOTSUP its coding, or that of
 * its messages; -ENOMEM. */
int filter_start(struct filter *filter, const struct http_head *head,
                 struct bg_err *err) BG_MUST_CHECK;

/* Queues bytes of the body: at most what was read since the queue was empty. */
void filter_put(struct filter *filter, const uint8_t *bytes, size_t size);

/* The body is whole. */
void filter_end(struct filter *filter);

/* True while a step would do something. */
bool filter_ready(const struct filter *filter);

/* Works on a piece and adds to out. Errors: -EPROTO, -E2BIG, -ENOMEM; final. */
int filter_step(struct filter *filter, struct bg_err *err) BG_MUST_CHECK;
