/* A stream of the host's (docs/protocol.md, "Streams"): takes the header and body of an accepted
 * connection, finds its kind, sends the reply, and for the framed kinds (session, exec) cuts the
 * input into frames and queues the output. The raw kinds take the connection away at once.
 *
 * States move right only: HEADER -> BODY -> OPEN -> LINGERING (we have said our last; the host's
 * rest is read and dropped) -> CLOSING. A malformed stream costs itself only. */
#pragma once

#include "guest/agent.h"
#include "guest/channel.h"

struct stream;

struct stream_kind {
    const char *name;
    uint32_t frame_size_max; /* payload; 0: this kind has no frames and takes the connection */
    bool lasts;              /* with frames: it may outlive its connection */
    /* Acts on the body (borrowed for the call), and replies now or later. On an error the stream
     * sends the reply itself and ends; the kind keeps nothing then. */
    int (*open)(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err);
    /* One frame, borrowed for the call (it may be in agent.scratch). An error ends the stream. */
    int (*on_frame)(void *context, uint8_t type, const uint8_t *payload, size_t size,
                    struct bg_err *err);
    void (*on_room)(void *context); /* stream_room() has grown; may be NULL */
    void (*on_gone)(void *context); /* the stream is closing; let go of it */
};

struct stream {
    struct live live;
    struct agent *agent;
    struct channel channel;
    enum { STREAM_HEADER, STREAM_BODY, STREAM_OPEN, STREAM_LINGERING, STREAM_CLOSING } state;
    uint32_t id;
    const struct stream_kind *kind;
    void *context; /* the kind's, set by its open */
    bool replied;
    uint8_t *input; /* header, body or an incomplete frame: input_used of input_want bytes */
    size_t input_used, input_want;
    uint8_t header[BG_STREAM_HEADER_SIZE];
};

/* Takes the accepted connection; on an error it is not taken. Errors: -ENOMEM, -EMFILE. */
int stream_accept(struct agent *agent, int fd) BG_MUST_CHECK;

/* Sends the reply: status 0 and size bytes of what the kind defines. Once. A stream that cannot
 * take it (or later frames) closes, and says so by on_gone. */
void stream_reply(struct stream *stream, const void *bytes, size_t size);

/* Sends a reply that says why not, and ends the stream as stream_finish does. */
void stream_refuse(struct stream *stream, const struct bg_err *err);

/* Sends one frame. The caller looks at stream_room() before it makes frames that nobody asked for.
 */
void stream_send(struct stream *stream, uint8_t type, const void *payload, size_t size);

/* The same with the payload at agent.scratch + BG_FRAME_HEADER_SIZE, which saves a copy. */
void stream_send_scratch(struct stream *stream, uint8_t type, size_t size);

/* Bytes of output that the stream takes before its queue is full. */
size_t stream_room(const struct stream *stream);

/* We have sent our last frame: ends our side once all is out, then waits for the host's end. The
 * context is let go without on_gone. */
void stream_finish(struct stream *stream);

/* Closes at once; on_gone is called in a later turn. In state CLOSING: no-op. */
void stream_abort(struct stream *stream);

/* For raw kinds, from inside open: takes the connection away (nonblocking fd, nothing read past the
 * body). The stream goes away by itself; its id and counts are those of what takes it. */
int stream_detach(struct stream *stream);

/* The largest reply that stream_emit_reply() makes. */
#define STREAM_REPLY_MAX (BG_REPLY_HEADER_SIZE + BG_ERR_TEXT_SIZE)

/* A reply without a body, or with the text of why not (err->code < 0). Returns its size. */
size_t stream_emit_reply(const struct bg_err *err, uint8_t out[STREAM_REPLY_MAX]);

/* Reads what has come of the streams that have no complete opening yet. */
void stream_read_openings(struct agent *agent);

/* Writes a reply to a fd of a detached stream; blocking or with room in its buffer. Errors: -EIO or
 * errno of write. */
int stream_reply_fd(int fd, const struct bg_err *err) BG_MUST_CHECK;
