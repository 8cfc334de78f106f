#include "host/supervisor/session.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

/* The largest frame that an agent has to say: a log line or an error. */
#define FRAME_SIZE_MAX 4096u

void session_init(struct session *session, const struct session_ops *ops, uint64_t now_ms)
{
    *session = (struct session){.ops = *ops, .heard_ms = now_ms};
}

static void send_frame(struct session *session, uint8_t type, const uint8_t *payload, size_t size)
{
    uint8_t header[BG_FRAME_HEADER_SIZE];
    assert(size <= BG_IDENTITY_SIZE_MAX);
    bg_frame_header_emit(type, (uint32_t)size, header);
    session->ops.send(session->ops.owner, header, sizeof header);
    if (size > 0)
        session->ops.send(session->ops.owner, payload, size);
}

void session_open(struct session *session, uint32_t stream_id)
{
    uint8_t bytes[BG_STREAM_HEADER_SIZE];
    struct bg_stream_header header = {.kind = BG_STREAM_SESSION, .id = stream_id};
    bg_stream_header_emit(&header, bytes);
    session->ops.send(session->ops.owner, bytes, sizeof bytes);
}

void session_warm(struct session *session)
{
    assert(session->state == SESSION_GREETED);
    session->warming = true;
    send_frame(session, BG_FRAME_WARM, NULL, 0);
}

void session_identify(struct session *session, const uint8_t *payload, size_t size)
{
    assert(session->state == SESSION_GREETED && !session->warming);
    session->state = SESSION_IDENTITY;
    send_frame(session, BG_FRAME_IDENTITY, payload, size);
}

void session_ping(struct session *session)
{
    uint8_t payload[8];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u64le(&w, session->pings++);
    send_frame(session, BG_FRAME_PING, payload, sizeof payload);
}

void session_shutdown(struct session *session)
{
    send_frame(session, BG_FRAME_SHUTDOWN, NULL, 0);
}

void session_prepare(struct session *session, bool of_disk)
{
    uint8_t payload = of_disk;
    session->preparing = true;
    send_frame(session, BG_FRAME_PREPARE, &payload, sizeof payload);
}

void session_go_on(struct session *session, enum bg_go_on how)
{
    uint8_t payload = (uint8_t)how;
    session->preparing = false;
    send_frame(session, BG_FRAME_GO_ON, &payload, sizeof payload);
}

static int take_hello(struct session *session, struct bg_reader *in, struct bg_err *err)
{
    char version[65];
    uint32_t protocol = bg_reader_u32le(in);
    bg_reader_text32le(in, version, sizeof version);
    if (!bg_reader_end(in) || session->state != SESSION_HELLO)
        return bg_err_set(err, -EPROTO, "agent: bad or unexpected HELLO");
    if (protocol != BG_WIRE_VERSION)
        return bg_err_set(err, -EPROTO, "agent speaks protocol %u, we speak %u", protocol,
                          BG_WIRE_VERSION);
    session->state = SESSION_GREETED;
    session->ops.on_hello(session->ops.owner, version);
    return 0;
}

static int take_ready(struct session *session, struct bg_reader *in, struct bg_err *err)
{
    int32_t status = (int32_t)bg_reader_u32le(in);
    size_t size = in->left;
    const uint8_t *text = bg_reader_bytes(in, size);
    if (!bg_reader_end(in) || session->state != SESSION_IDENTITY || status > 0)
        return bg_err_set(err, -EPROTO, "agent: bad or unexpected READY");
    if (status < 0)
        return bg_err_set(err, -EREMOTEIO, "agent cannot take its identity: %.*s", (int)size,
                          (const char *)text);
    session->state = SESSION_READY;
    session->ops.on_ready(session->ops.owner);
    return 0;
}

static int take_prepared(struct session *session, const uint8_t *payload, size_t size,
                         struct bg_err *err)
{
    struct bg_page_records records;
    int r = size > 0 ? bg_page_records_parse(payload, size, &records, err) : 0;
    if (r < 0)
        return r;
    session->preparing = false;
    session->ops.on_prepared(session->ops.owner, size > 0 ? &records : NULL);
    return 0;
}

static int take_frame(struct session *session, uint8_t type, const uint8_t *payload, size_t size,
                      struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(payload, size);
    if (type == BG_FRAME_HELLO)
        return take_hello(session, &in, err);
    if (type == BG_FRAME_READY)
        return take_ready(session, &in, err);
    if (type == BG_FRAME_WARMED && size == 0 && session->warming) {
        session->warming = false;
        session->ops.on_warmed(session->ops.owner);
        return 0;
    }
    if (session->state < SESSION_IDENTITY)
        return bg_err_set(err, -EPROTO, "agent: frame %u before HELLO", type);
    if (type == BG_FRAME_LOG) {
        session->ops.on_log(session->ops.owner, (const char *)payload, size);
        return 0;
    }
    if (type == BG_FRAME_PONG) {
        uint64_t seq = bg_reader_u64le(&in);
        if (!bg_reader_end(&in) || seq != session->pongs || seq >= session->pings)
            return bg_err_set(err, -EPROTO, "agent: PONG %" PRIu64 ": want %" PRIu64, seq,
                              session->pongs);
        session->pongs++;
        return 0;
    }
    if (type == BG_FRAME_PREPARED && session->preparing)
        return take_prepared(session, payload, size, err);
    return bg_err_set(err, -EPROTO, "agent: unexpected frame %u of %zu bytes", type, size);
}

/* Handles the one whole message at the start of the buffer, if there is one; *ret_size is its size
 * or 0. */
static int take_message(struct session *session, size_t *ret_size, struct bg_err *err)
{
    *ret_size = 0;
    if (session->state == SESSION_REPLY) {
        struct bg_reply_header reply;
        if (session->used < BG_REPLY_HEADER_SIZE)
            return 0;
        int r = bg_reply_header_parse(session->buffer, BG_REPLY_HEADER_SIZE, &reply, err);
        if (r < 0)
            return r;
        if (reply.status < 0 || reply.body_size != 0)
            return bg_err_set(err, -EPROTO, "agent refused the session (%d)", reply.status);
        session->state = SESSION_HELLO;
        *ret_size = BG_REPLY_HEADER_SIZE;
        return 0;
    }
    struct bg_frame_header frame;
    if (session->used < BG_FRAME_HEADER_SIZE)
        return 0;
    int r =
        bg_frame_header_parse(session->buffer, BG_FRAME_HEADER_SIZE, FRAME_SIZE_MAX, &frame, err);
    if (r < 0)
        return r;
    if (session->used < BG_FRAME_HEADER_SIZE + frame.size)
        return 0;
    *ret_size = BG_FRAME_HEADER_SIZE + frame.size;
    return take_frame(session, frame.type, session->buffer + BG_FRAME_HEADER_SIZE, frame.size, err);
}

int session_feed(struct session *session, const uint8_t *bytes, size_t size, uint64_t now_ms,
                 struct bg_err *err)
{
    session->heard_ms = now_ms;
    while (size > 0) {
        size_t room = sizeof session->buffer - session->used;
        size_t n = size < room ? size : room;
        memcpy(session->buffer + session->used, bytes, n);
        session->used += n;
        bytes += n;
        size -= n;
        for (size_t done = 1; done > 0;) {
            int r = take_message(session, &done, err);
            if (r < 0)
                return r;
            memmove(session->buffer, session->buffer + done, session->used - done);
            session->used -= done;
        }
    }
    return 0;
}
