/* Takes the content codings off a body (RFC 9110 §8.4.1): gzip, deflate (with zlib's frame, as it
 * should be, or bare, as it often is), br and zstd, one or two on top of each other. By pull: it
 * makes no more than it is asked for, so a body that unfolds a thousandfold is held up like any
 * other. Pure.
 *
 * Limits: BG_EGRESS_CODINGS_MAX codings; what comes out at most BG_EGRESS_UNFOLD_RATIO times what
 * went in, once it is BG_EGRESS_UNFOLD_FREE bytes; windows of 16 MiB (br) and 8 MiB (zstd,
 * RFC 9659). */
#pragma once

#include "net/http_head.h"

struct decoder;

/* Makes what the head's Content-Encoding fields ask for; *ret is NULL if that is nothing. head:
 * untrusted. Errors: -ENOTSUP an unknown coding, or too many; -ENOMEM. */
int decoder_new(const struct http_head *head, struct decoder **ret,
                struct bg_err *err) BG_MUST_CHECK;

/* How many content codings the head says that there are, all of them known. Errors: -ENOTSUP. */
int decoder_layers(const struct http_head *head) BG_MUST_CHECK;

/* NULL: no-op. */
void decoder_free(struct decoder *decoder);

/* Decodes from bytes (size; untrusted) into out (out_size > 0). *ret_used and *ret_made say how
 * much of each; when both are 0 it wants more bytes. Errors: -EPROTO the coding is damaged; -E2BIG
 * the ratio; -ENOMEM. An error is final. */
int decoder_run(struct decoder *decoder, const uint8_t *bytes, size_t size, size_t *ret_used,
                uint8_t *out, size_t out_size, size_t *ret_made, struct bg_err *err) BG_MUST_CHECK;

/* No more bytes come, and decoder_run has nothing more to give. Errors: -EPROTO it is not whole. */
int decoder_end(const struct decoder *decoder, struct bg_err *err) BG_MUST_CHECK;
