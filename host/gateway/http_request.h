/* http_request: one HTTP/1.1 request, read piece by piece into bounded memory. Pure; llhttp does
 * the syntax. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <llhttp.h>

#include "common/err.h"

#define HTTP_FIELDS_MAX 100

struct http_request {
    llhttp_t parser;
    char *text; /* target, then each field's name and value, each with a NUL */
    size_t text_used, text_size;
    size_t at[1 + 2 * HTTP_FIELDS_MAX]; /* where each begins */
    size_t count;                       /* of those that are begun */
    uint8_t *body;
    size_t body_size;
    int status; /* after an error: what to answer it with */
    bool head_complete, complete, upgrade, keep_alive;
    bool body_large; /* its head says that the body has more than BG_GATEWAY_BODY_MAX */
    bool pass_body;  /* set by the caller: the body is not kept, and may be of any size */
};

void http_request_init(struct http_request *request);
void http_request_done(struct http_request *request);

/* Takes bytes up to the end of the request. *ret_used: how many. After an upgrade's head nothing
 * more is taken. Errors: -EPROTO, with request->status to answer: 400, 413, 431; -ENOMEM: 503. */
int http_request_feed(struct http_request *request, const uint8_t *bytes, size_t size,
                      size_t *ret_used, struct bg_err *err) BG_MUST_CHECK;

const char *http_request_method(const struct http_request *request);
const char *http_request_target(const struct http_request *request);
/* The value of a field; NULL if it is not there; "" if it is there twice. */
const char *http_request_field(const struct http_request *request, const char *name);
/* The request asks for a WebSocket as RFC 6455 §4.2.1 wants it. *ret_key: its key. */
bool http_request_is_websocket(const struct http_request *request, const char **ret_key);
