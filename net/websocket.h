/* WebSockets (RFC 6455): the handshake's fields, and a server's frames on their way to the guest.
 * The frames are read, checked and written anew, with secrets taken out of each message's payload,
 * over all of its fragments, and of the control frames. An extension would code the payload: where
 * frames are read here, none may be agreed on. It works in small steps, so that what one read of
 * the upstream can grow to is held up by whoever does not read it. Pure.
 *
 * A message of up to BG_EGRESS_MESSAGE_PART that came in one frame goes on in one; else it goes on
 * in fragments, cut elsewhere than they came. Text stays UTF-8: what is put in is ASCII. */
#pragma once

#include "net/http_head.h"
#include "net/scrub.h"

/* ---- handshake ---- */

/* What is hashed with SHA-1 for Sec-WebSocket-Accept (§4.2.2): the key and a constant. */
#define WEBSOCKET_CHALLENGE_SIZE 60

/* A request that wants to switch: a GET without a body, version 13, one key of the right form. Puts
 * what its answer must be the hash of. Errors: -EPROTO. */
int websocket_check_request(const struct http_head *head,
                            uint8_t challenge[WEBSOCKET_CHALLENGE_SIZE],
                            struct bg_err *err) BG_MUST_CHECK;

/* Whether the answer accepts the request whose challenge has that SHA-1. */
bool websocket_accepts(const struct http_head *head, const uint8_t sha1[20]);

/* ---- frames ---- */

struct websocket {
    struct buffer in;    /* as it came */
    struct buffer out;   /* ready */
    uint8_t header[10];  /* of the frame that is being read */
    size_t header_count; /* bytes of it that are there */
    bool in_payload;
    uint64_t left;           /* of its payload */
    struct buffer control;   /* the payload, of a control frame */
    bool in_message, closed; /* closed: a Close frame was the last one */
    uint8_t opcode;          /* of the message's next frame to be written: its own, then 0 */
    struct buffer part;      /* of the message, scrubbed and not yet in a frame */
    struct scrub scrub;      /* the message's payload */
};

/* set: as for scrub_init. The object must stay where it is. */
void websocket_init(struct websocket *ws, const struct secrets *secrets, uint64_t set);
void websocket_done(struct websocket *ws);

/* Queues bytes of the server: at most what was read since the queue was empty. bytes: untrusted. */
void websocket_put(struct websocket *ws, const uint8_t *bytes, size_t size);

/* True while a step would do something. */
bool websocket_ready(const struct websocket *ws);

/* Works on a piece and adds to out, only whole frames. Errors: -EPROTO, -ENOMEM; final. */
int websocket_step(struct websocket *ws, struct bg_err *err) BG_MUST_CHECK;

/* Puts a Close frame that says that the server is to blame (code 1014) and why. */
void websocket_put_close(const char *text, struct buffer *out);
