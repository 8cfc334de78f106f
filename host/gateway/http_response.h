/* http_response: the head of an answer as `curl --include` writes it before the body, which it has
 * unpacked already. Heads before the one that counts are passed over: those of interim answers, and
 * of redirects that curl follows. Pure; every byte is the guest's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"

struct http_response {
    bool follows; /* redirects are followed */
    bool done;    /* the rest is below */
    int status;
    json_t *status_text, *fields; /* [[name, value], ...] */
    char *head;                   /* as far as it has come */
    size_t used;
};

/* follows: as curl was told. */
struct http_response http_response(bool follows);
void http_response_done(struct http_response *response);

/* Takes bytes up to the end of the head. Errors: -EPROTO no head of HTTP; -EMSGSIZE larger than
 * BG_GATEWAY_HEAD_MAX; -ENOMEM. */
int http_response_feed(struct http_response *response, const uint8_t *bytes, size_t size,
                       size_t *ret_used, struct bg_err *err) BG_MUST_CHECK;
