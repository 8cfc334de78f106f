/* Reads one HTTP/1.x message after another out of a byte stream: heads by http_head, bodies by
 * llhttp. It stops by itself after each head and after each message, so that its owner decides
 * before more is read. Pure.
 *
 *   HTTP_READER_HEAD -> HTTP_READER_HAVE_HEAD -> (http_reader_go_on) HTTP_READER_BODY ->
 *   HTTP_READER_DONE -> (http_reader_next) HTTP_READER_HEAD
 * A message without a body goes from HAVE_HEAD to DONE. An error is final. */
#pragma once

#include <llhttp.h>

#include "net/buffer.h"
#include "net/http_head.h"

enum http_reader_state {
    HTTP_READER_HEAD,
    HTTP_READER_HAVE_HEAD,
    HTTP_READER_BODY,
    HTTP_READER_DONE,
    HTTP_READER_FAILED,
};

struct http_reader {
    enum http_reader_state state;
    bool is_response;
    struct slice
        request_method; /* responses: of the request; borrowed until the response is done */
    struct buffer raw;  /* the head's bytes; head points into it until http_reader_next */
    size_t line_start;  /* in raw: where the line begins that is not whole yet */
    bool line_checked;  /* requests: the first line is there and good */
    size_t skipped;     /* of an empty line before a request: 0, 1 (CR) or 2 */
    struct http_head head;
    llhttp_t parser;
    bool in_body;    /* llhttp has seen all of the head */
    size_t overhead; /* bytes since the last one of the body: chunk lines, trailers */
    struct buffer trailer_text;
    enum { TRAILER_NONE, TRAILER_NAME, TRAILER_VALUE } trailer_part; /* last put there */
    struct http_head trailers; /* responses, in DONE: the fields after a chunked body */
    int status;                /* requests: HTTP status for an error */
    void (*on_body)(void *owner, const uint8_t *bytes, size_t size); /* in feed; must not call us */
    void *owner;
};

void http_reader_init(struct http_reader *reader, bool is_response,
                      void (*on_body)(void *owner, const uint8_t *bytes, size_t size), void *owner);
void http_reader_done(struct http_reader *reader);

/* Takes bytes in the states HEAD and BODY and returns how many of them it used: all, or less when
 * it stopped in HAVE_HEAD or DONE. bytes: untrusted. Errors: -EPROTO, -ENOMEM; then
 * reader->status says how to answer a request. */
ssize_t http_reader_feed(struct http_reader *reader, const uint8_t *bytes, size_t size,
                         struct bg_err *err) BG_MUST_CHECK;

/* From HAVE_HEAD on to the body, or to DONE when there is none. Errors: -EPROTO. */
int http_reader_go_on(struct http_reader *reader, struct bg_err *err) BG_MUST_CHECK;

/* The stream has ended. Errors: -EPROTO in the middle of a message. */
int http_reader_eof(struct http_reader *reader, struct bg_err *err) BG_MUST_CHECK;

/* From DONE to the next message; frees what the last one held. */
void http_reader_next(struct http_reader *reader);

/* True while nothing of a message has come. */
static inline bool http_reader_fresh(const struct http_reader *reader)
{
    return reader->state == HTTP_READER_HEAD && buffer_size(&reader->raw) == 0;
}
