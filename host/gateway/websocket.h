/* websocket: the server's side of RFC 6455 on bytes; wslay does the framing. Pure: what comes in is
 * fed, what goes out is given to a callback. Texts only. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct websocket;

struct websocket_opts {
    size_t message_max; /* a larger message ends it with 1009 */
    /* A whole message, borrowed for the call. */
    void (*on_text)(void *owner, const char *text, size_t size);
    /* The answer to websocket_ping with this number, and to those before it. */
    void (*on_pong)(void *owner, uint64_t number);
    /* Bytes for the network: heap, taken. */
    void (*on_output)(void *owner, uint8_t *bytes, size_t size);
    void *owner;
};

#define WEBSOCKET_ACCEPT_SIZE 29

/* The answer to the client's key (RFC 6455 §4.2.2), with a NUL. key: 24 characters. */
void websocket_accept(const char *key, char out[WEBSOCKET_ACCEPT_SIZE]);

int websocket_new(const struct websocket_opts *opts, struct websocket **ret,
                  struct bg_err *err) BG_MUST_CHECK;
void websocket_free(struct websocket *ws); /* NULL: no-op */

/* Takes what came; calls back. Errors: -EPROTO the stream is damaged beyond answering; -ENOMEM. */
int websocket_feed(struct websocket *ws, const uint8_t *bytes, size_t size,
                   struct bg_err *err) BG_MUST_CHECK;

/* Sends one text. After a close it is dropped. Errors: -ENOMEM. */
int websocket_send(struct websocket *ws, const char *text, size_t size) BG_MUST_CHECK;

/* Asks for an on_pong. Errors: -ENOMEM. */
int websocket_ping(struct websocket *ws, uint64_t number) BG_MUST_CHECK;

/* Begins the closing handshake; reason: at most 123 bytes. Once. */
void websocket_close(struct websocket *ws, uint16_t code, const char *reason);

/* Our last was said, whoever began; nothing more is sent. */
bool websocket_closing(const struct websocket *ws);

/* Both have said their last: the connection is to be ended. */
bool websocket_over(const struct websocket *ws);
