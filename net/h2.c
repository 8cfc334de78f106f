#include "net/h2.h"

#include <assert.h>
#include <errno.h>
#include <malloc.h>
#include <string.h>

#include <nghttp2/nghttp2.h>

#include "common/limits.h"
#include "net/conn.h"
#include "net/engine.h"
#include "net/h2_head.h"

/* What is read in one turn of the loop. */
#define TURN_BYTES_MAX (1024u * 1024)
/* Frames are sent together up to this. */
#define SEND_SIZE 32768u
/* Between streams and connection, in one turn. */
#define ROUNDS_MAX 16u

enum h2_state { H2_OPEN, H2_DRAINING, H2_LINGER, H2_CLOSED };

struct h2_stream {
    struct h2 *h2;
    struct h2_stream *prev, *next;
    int32_t id;            /* 0: not known to nghttp2, yet or any more */
    struct channel *inner; /* our end; NULL: closed */
    bool inner_open;       /* its handle is not closed yet */
    /* from the peer into the pair */
    struct h2_fields fields;
    enum http_wrap wrap;
    bool head_in, in_ended;
    uint64_t linger_until_ms; /* it was answered whole; what comes is dropped. 0: it was not */
    size_t unconsumed;        /* bytes that came, for which the window was not opened again */
    /* from the pair to the peer */
    struct http_reader reader;
    char method[8]; /* of the request, as far as it is HEAD */
    struct buffer body;
    bool out_ended;
    bool streaming; /* nghttp2 takes body as it comes */
    bool broken;    /* no more comes, and that was not all */
    bool dirty;     /* the pair is to be looked at */
};

struct h2 {
    struct engine *engine;
    struct h2 **list; /* that it is on */
    struct h2 *prev, *next;
    bool is_server;
    enum h2_state state;
    struct channel *link;
    nghttp2_session *session;
    uv_timer_t timer;
    uv_idle_t idle; /* runs when bytes may be left that no event will tell of */
    unsigned open_handles;
    struct h2_stream *streams;
    unsigned stream_count;
    bool link_eof;
    bool dirty;    /* one of its streams is */
    bool more;     /* reading stopped before all was read */
    bool progress; /* bytes went one way or the other */
    size_t unsent; /* seen last */
    /* server */
    uint32_t stream_number;
    struct destination to;
    bool complained; /* the audit has a line about how it breaks the protocol */
    /* client */
    struct upstream_key key;
    char address[ADDRESS_TEXT_SIZE];
};

/* --- memory: a client's blocks and frames hold secrets --- */

static void *wiping_malloc(size_t size, void *owner)
{
    (void)owner;
    return malloc(size);
}

static void wiping_free(void *memory, void *owner)
{
    (void)owner;
    if (memory)
        explicit_bzero(memory, malloc_usable_size(memory));
    free(memory);
}

static void *wiping_calloc(size_t count, size_t size, void *owner)
{
    (void)owner;
    return calloc(count, size);
}

static void *wiping_realloc(void *memory, size_t size, void *owner)
{
    size_t had = memory ? malloc_usable_size(memory) : 0;
    if (memory && size <= had && size > 0)
        return memory;
    void *grown = malloc(size);
    if (grown && had > 0)
        memcpy(grown, memory, had < size ? had : size);
    if (grown)
        wiping_free(memory, owner);
    return grown;
}

/* --- lifetime --- */

static void free_if_closed(struct h2 *h2)
{
    if (--h2->open_handles > 0)
        return;
    struct engine *engine = h2->engine;
    engine->h2_guest_count -= h2->is_server;
    free(h2);
    engine_released(engine);
}

static void handle_closed(uv_handle_t *handle)
{
    free_if_closed(handle->data);
}

static void link_closed(void *owner)
{
    free_if_closed(owner);
}

static void free_stream(struct h2_stream *stream)
{
    struct h2 *h2 = stream->h2;
    if (stream->inner_open || stream->id != 0)
        return;
    h2_fields_done(&stream->fields);
    http_reader_done(&stream->reader);
    buffer_reset(&stream->body);
    free(stream);
    free_if_closed(h2);
}

static void unlist_stream(struct h2_stream *stream)
{
    struct h2 *h2 = stream->h2;
    if (stream->prev)
        stream->prev->next = stream->next;
    else
        h2->streams = stream->next;
    if (stream->next)
        stream->next->prev = stream->prev;
    h2->stream_count--;
}

static void inner_closed(void *owner)
{
    struct h2_stream *stream = owner;
    stream->inner_open = false;
    free_stream(stream);
}

/* clean: what was put into the pair is whole. */
static void drop_inner(struct h2_stream *stream, bool clean)
{
    if (!stream->inner)
        return;
    if (clean)
        channel_finish(stream->inner);
    channel_close(BG_TAKE(stream->inner));
}

/* nghttp2 does not know it any more, or never did. */
static void end_stream(struct h2_stream *stream, bool clean)
{
    unlist_stream(stream);
    stream->id = 0;
    drop_inner(stream, clean);
    free_stream(stream);
}

void h2_close(struct h2 *h2)
{
    assert(h2->state != H2_CLOSED);
    h2->state = H2_CLOSED;
    if (h2->prev)
        h2->prev->next = h2->next;
    else
        *h2->list = h2->next;
    if (h2->next)
        h2->next->prev = h2->prev;
    while (h2->streams)
        end_stream(h2->streams, /* clean= */ false);
    nghttp2_session_del(h2->session);
    h2->session = NULL;
    channel_close(BG_TAKE(h2->link));
    uv_close((uv_handle_t *)&h2->timer, handle_closed);
    uv_close((uv_handle_t *)&h2->idle, handle_closed);
}

static struct h2_stream *new_stream(struct h2 *h2, int32_t id)
{
    struct h2_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return NULL;
    stream->h2 = h2;
    stream->id = id;
    stream->body = buffer_init(BG_EGRESS_QUEUE_MAX);
    stream->body.wipe = !h2->is_server;
    h2_fields_init(&stream->fields);
    stream->next = h2->streams;
    if (stream->next)
        stream->next->prev = stream;
    h2->streams = stream;
    h2->stream_count++;
    h2->open_handles++;
    return stream;
}

/* --- audit --- */

/* Once a connection: who breaks the protocol does it often. */
static void complain(struct h2 *h2, const char *reason, const char *detail)
{
    if (!h2->is_server || h2->complained)
        return;
    h2->complained = true;
    struct audit_event event = {.stream = h2->stream_number,
                                .host = h2->to.host,
                                .port = h2->to.port,
                                .scheme = "https",
                                .decision = AUDIT_DENY,
                                .reason = reason,
                                .detail = detail};
    engine_audit(h2->engine, &event);
}

/* Its pair is to be looked at before the turn is over. */
static void mark(struct h2_stream *stream)
{
    stream->dirty = stream->h2->dirty = true;
}

/* --- from the pair to the peer --- */

static void take_body(void *owner, const uint8_t *bytes, size_t size)
{
    struct h2_stream *stream = owner;
    buffer_put(&stream->body, bytes, size);
}

static nghttp2_nv make_nv(struct slice name, struct slice value)
{
    /* Copied by nghttp2, and the name put into lower case. */
    return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name.at,
                        .namelen = name.size,
                        .value = (uint8_t *)(uintptr_t)value.at,
                        .valuelen = value.size};
}

static size_t add_nvs(const struct http_head *head, nghttp2_nv *nvs)
{
    size_t count = 0;
    for (size_t i = 0; i < head->field_count; i++)
        if (h2_field_passes(&head->fields[i]))
            nvs[count++] = make_nv(head->fields[i].name, head->fields[i].value);
    return count;
}

static struct slice slice_of_text(const char *text)
{
    return (struct slice){text, strlen(text)};
}

static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *out, size_t size,
                         uint32_t *flags, nghttp2_data_source *source, void *owner)
{
    struct h2_stream *stream = source->ptr;
    (void)owner;
    size_t have = buffer_size(&stream->body);
    if (have == 0 && stream->broken)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* resets the stream */
    if (have == 0 && !stream->out_ended)
        return NGHTTP2_ERR_DEFERRED;
    if (size > have)
        size = have;
    if (size > 0) {
        memcpy(out, buffer_bytes(&stream->body), size);
        buffer_drop(&stream->body, size);
        mark(stream); /* there is room again */
    }
    if (size < have || !stream->out_ended)
        return (ssize_t)size;
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    const struct http_head *trailers = &stream->reader.trailers;
    if (trailers->field_count > 0) {
        nghttp2_nv nvs[BG_EGRESS_FIELDS_MAX];
        size_t count = add_nvs(trailers, nvs);
        if (count > 0 && nghttp2_submit_trailer(session, id, nvs, count) == 0)
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    }
    return (ssize_t)size;
}

/* A request's head has come out of the pair. */
static int submit_request(struct h2_stream *stream)
{
    struct h2 *h2 = stream->h2;
    const struct http_head *head = &stream->reader.head;
    const struct http_field *host = http_head_field(head, "host", NULL);
    nghttp2_nv nvs[BG_EGRESS_FIELDS_MAX + 4];
    if (!host || h2->state != H2_OPEN)
        return -EPROTO;
    nvs[0] = make_nv(slice_of_text(":method"), head->method);
    nvs[1] = make_nv(slice_of_text(":scheme"), slice_of_text("https"));
    nvs[2] = make_nv(slice_of_text(":authority"), host->value);
    nvs[3] = make_nv(slice_of_text(":path"), head->target);
    size_t count = 4 + add_nvs(head, nvs + 4);
    bool has_body = head->framing == HTTP_CHUNKED || head->length > 0;
    const nghttp2_data_provider provider = {.source.ptr = stream, .read_callback = read_body};
    (void)snprintf(stream->method, sizeof stream->method, "%s",
                   slice_is(head->method, "head") ? "head" : "");
    int32_t id =
        nghttp2_submit_request(h2->session, NULL, nvs, count, has_body ? &provider : NULL, stream);
    if (id < 0)
        return id == NGHTTP2_ERR_NOMEM ? -ENOMEM : -ECONNRESET;
    stream->id = id;
    stream->streaming = has_body;
    return 0;
}

/* A response's head has come out of the pair. */
static int submit_response(struct h2_stream *stream)
{
    const struct http_head *head = &stream->reader.head;
    nghttp2_nv nvs[BG_EGRESS_FIELDS_MAX + 1];
    char status[4];
    (void)snprintf(status, sizeof status, "%u", head->status % 1000);
    nvs[0] = make_nv(slice_of_text(":status"), slice_of_text(status));
    size_t count = 1 + add_nvs(head, nvs + 1);
    nghttp2_session *session = stream->h2->session;
    bool has_body =
        head->framing != HTTP_NO_BODY && !(head->framing == HTTP_LENGTH && head->length == 0);
    const nghttp2_data_provider provider = {.source.ptr = stream, .read_callback = read_body};
    int r =
        head->status < 200
            ? nghttp2_submit_headers(session, NGHTTP2_FLAG_NONE, stream->id, NULL, nvs, count, NULL)
            : nghttp2_submit_response(session, stream->id, nvs, count, has_body ? &provider : NULL);
    stream->streaming = r == 0 && head->status >= 200 && has_body;
    return r == 0 ? 0 : -ECONNRESET;
}

/* The reader has a head. Errors: the stream cannot go on. */
static int take_head(struct h2_stream *stream)
{
    int r = stream->h2->is_server ? submit_response(stream) : submit_request(stream);
    return r < 0 ? r : http_reader_go_on(&stream->reader, NULL);
}

static int feed_reader(struct h2_stream *stream, const uint8_t *bytes, size_t size)
{
    struct http_reader *reader = &stream->reader;
    while (size > 0 && reader->state != HTTP_READER_DONE) {
        ssize_t used = http_reader_feed(reader, bytes, size, NULL);
        if (used < 0)
            return (int)used;
        bytes += used;
        size -= (size_t)used;
        int r = reader->state == HTTP_READER_HAVE_HEAD ? take_head(stream) : 0;
        if (r < 0)
            return r;
        if (reader->state == HTTP_READER_DONE && reader->is_response && reader->head.status < 200) {
            http_reader_next(reader); /* it was an interim one */
            reader->request_method = slice_of_text(stream->method);
        }
    }
    return buffer_ok(&stream->body) ? 0 : -ENOMEM;
}

/* Reads what comes out of the pair. Errors: it broke. */
static int pull(struct h2_stream *stream)
{
    struct http_reader *reader = &stream->reader;
    uint8_t *scratch = stream->h2->engine->scratch;
    size_t had = buffer_size(&stream->body);
    int r = 0;
    while (r == 0 && !stream->out_ended && buffer_size(&stream->body) < BG_EGRESS_QUEUE_PAUSE) {
        ssize_t n = channel_read(stream->inner, scratch, sizeof stream->h2->engine->scratch);
        if (n == -EAGAIN)
            break;
        if (n > 0)
            r = feed_reader(stream, scratch, (size_t)n);
        else
            r = n < 0 || http_reader_fresh(reader) ? -ECONNRESET : http_reader_eof(reader, NULL);
        stream->out_ended = r == 0 && reader->state == HTTP_READER_DONE;
    }
    if (stream->id != 0 && (stream->out_ended || buffer_size(&stream->body) > had))
        (void)nghttp2_session_resume_data(stream->h2->session, stream->id); /* it may be at work */
    return r;
}

static void reset_stream(struct h2_stream *stream, uint32_t code)
{
    drop_inner(stream, /* clean= */ false);
    if (stream->id != 0)
        (void)nghttp2_submit_rst_stream(stream->h2->session, NGHTTP2_FLAG_NONE, stream->id,
                                        code); /* fails only without memory: the timer ends it */
    else
        end_stream(stream, /* clean= */ false);
}

/* The pair broke: what came out of it still goes on, then a reset. */
static void break_stream(struct h2_stream *stream)
{
    const struct h2 *h2 = stream->h2;
    if (!h2->is_server || !stream->streaming) {
        reset_stream(stream, h2->is_server ? NGHTTP2_INTERNAL_ERROR : NGHTTP2_CANCEL);
        return;
    }
    stream->broken = true;
    drop_inner(stream, /* clean= */ false);
    (void)nghttp2_session_resume_data(h2->session, stream->id); /* it may be at work */
}

/* One turn of a stream's pair. May free it. */
static void run_stream(struct h2_stream *stream)
{
    struct h2 *h2 = stream->h2;
    stream->dirty = false;
    if (!stream->inner)
        return;
    bool deaf = channel_flush(stream->inner) < 0;
    if (stream->unconsumed > 0 && stream->id != 0 && (deaf || conn_room(stream->inner))) {
        (void)nghttp2_session_consume_stream(h2->session, stream->id,
                                             stream->unconsumed); /* fails only without memory */
        stream->unconsumed = 0;
    }
    if (pull(stream) < 0) {
        break_stream(stream);
        return;
    }
    if (h2->is_server && stream->out_ended) { /* that was what the pair is for */
        drop_inner(stream, /* clean= */ true);
        return;
    }
    if (!h2->is_server && channel_gone(stream->inner)) {
        reset_stream(stream, NGHTTP2_CANCEL);
        return;
    }
    channel_watch(stream->inner,
                  !stream->out_ended && buffer_size(&stream->body) < BG_EGRESS_QUEUE_PAUSE);
}

/* --- from the peer into the pair --- */

static void run(struct h2 *h2);

static void inner_ready(void *owner)
{
    struct h2_stream *stream = owner;
    struct h2 *h2 = stream->h2;
    mark(stream);
    run(h2);
}

/* Answers in the place of the pair, which there is none. */
static void answer(struct h2_stream *stream, int status, const char *text)
{
    struct buffer out = buffer_init(4096);
    http_forward_answer(status, text, /* keep_alive= */ false, stream->method[0] != '\0', &out);
    if (feed_reader(stream, buffer_bytes(&out), buffer_size(&out)) < 0 ||
        stream->reader.state != HTTP_READER_DONE)
        reset_stream(stream, NGHTTP2_INTERNAL_ERROR);
    stream->out_ended = true;
    buffer_reset(&out);
}

/* A request's head is whole: from here on a conn has it. */
static void start_request(struct h2_stream *stream, bool no_body)
{
    struct h2 *h2 = stream->h2;
    struct buffer head = buffer_init(2 * BG_EGRESS_HEAD_MAX);
    struct slice method = {(const char *)buffer_bytes(&stream->fields.method),
                           buffer_size(&stream->fields.method)};
    (void)snprintf(stream->method, sizeof stream->method, "%s",
                   slice_is(method, "head") ? "head" : "");
    http_reader_init(&stream->reader, /* is_response= */ true, take_body, stream);
    stream->reader.request_method = slice_of_text(stream->method);
    stream->head_in = true;
    if (h2_fields_put_request(&stream->fields, no_body, &head, &stream->wrap) < 0 ||
        !buffer_ok(&head)) {
        complain(h2, "bad-request", "a request of HTTP/2 that none of HTTP/1.1 could be");
        answer(stream, 400, "the request's head is malformed");
        buffer_reset(&head);
        return;
    }
    h2_fields_done(&stream->fields);
    const struct channel_opts opts = {
        .on_ready = inner_ready, .on_closed = inner_closed, .owner = stream};
    if (conn_open_stream(h2->engine, h2->stream_number, &h2->to, &opts, &stream->inner) < 0) {
        reset_stream(stream, NGHTTP2_REFUSED_STREAM);
    } else {
        stream->inner_open = true;
        buffer_put(channel_out(stream->inner), buffer_bytes(&head), buffer_size(&head));
    }
    buffer_reset(&head);
}

static void start_response(struct h2_stream *stream, bool ends)
{
    unsigned status;
    if (!stream->inner)
        return;
    enum h2_body body = stream->method[0] ? H2_OF_HEAD : ends ? H2_NO_BODY : H2_BODY;
    if (h2_fields_put_response(&stream->fields, body, channel_out(stream->inner), &stream->wrap,
                               &status) < 0)
        reset_stream(stream, NGHTTP2_PROTOCOL_ERROR);
    else
        stream->head_in = status >= 200;
    h2_fields_done(&stream->fields);
}

static void end_input(struct h2_stream *stream)
{
    if (stream->in_ended)
        return;
    stream->in_ended = true;
    if (stream->inner && stream->wrap == HTTP_WRAP_CHUNKED) {
        if (stream->h2->is_server) /* a request's trailers end here */
            http_forward_last_chunk(channel_out(stream->inner));
        else
            h2_fields_put_trailers(&stream->fields, channel_out(stream->inner));
    }
    h2_fields_done(&stream->fields);
}

static struct h2_stream *stream_of(nghttp2_session *session, int32_t id)
{
    return nghttp2_session_get_stream_user_data(session, id);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *owner)
{
    struct h2 *h2 = owner;
    if (frame->hd.type != NGHTTP2_HEADERS || !h2->is_server ||
        frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct h2_stream *stream = new_stream(h2, frame->hd.stream_id);
    if (!stream)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    (void)nghttp2_session_set_stream_user_data(session, stream->id, stream); /* it is there */
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags,
                     void *owner)
{
    struct h2_stream *stream = stream_of(session, frame->hd.stream_id);
    (void)flags;
    if (!stream)
        return 0;
    int r = h2_fields_add(&stream->fields, (struct slice){(const char *)name, name_size},
                          (struct slice){(const char *)value, value_size});
    if (r == 0)
        return 0;
    complain(owner, r == -E2BIG ? "head-too-large" : "bad-request",
             r == -E2BIG ? "a head larger than a request may have"
                         : "a field that HTTP/1.1 could not carry");
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* resets the stream */
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *owner)
{
    const struct h2 *h2 = owner;
    struct h2_stream *stream = stream_of(session, frame->hd.stream_id);
    if (!stream || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
        return 0;
    bool ends = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    if (frame->hd.type == NGHTTP2_HEADERS && !stream->head_in) {
        if (h2->is_server)
            start_request(stream, ends);
        else
            start_response(stream, ends);
    }
    if (ends)
        end_input(stream);
    mark(stream);
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                   size_t size, void *owner)
{
    struct h2_stream *stream = stream_of(session, id);
    const struct h2 *h2 = owner;
    (void)flags;
    /* One stream that is held up must not hold up the others. */
    (void)nghttp2_session_consume_connection(session, size); /* fails only without memory */
    if (!stream || !stream->inner) {
        (void)nghttp2_session_consume_stream(session, id, size); /* nobody waits for it */
        if (stream && stream->linger_until_ms > 0 &&
            uv_now(h2->engine->loop) > stream->linger_until_ms)
            (void)nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id,
                                            NGHTTP2_NO_ERROR); /* fails only without memory */
        return 0;
    }
    stream->unconsumed += size;
    if (stream->wrap == HTTP_WRAP_CHUNKED)
        http_forward_chunk(bytes, size, channel_out(stream->inner));
    else if (stream->method[0] == '\0' || stream->h2->is_server)
        buffer_put(channel_out(stream->inner), bytes, size);
    mark(stream);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *owner)
{
    struct h2_stream *stream = stream_of(session, id);
    (void)owner;
    (void)code;
    if (stream)
        end_stream(stream, /* clean= */ stream->in_ended && stream->head_in);
    return 0;
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *owner)
{
    struct h2 *h2 = owner;
    /* By nghttp2 itself: not all that it refuses has a callback. */
    if (frame->hd.type == NGHTTP2_RST_STREAM &&
        frame->rst_stream.error_code == NGHTTP2_PROTOCOL_ERROR)
        complain(h2, "h2-protocol", "a stream that breaks the protocol");
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR)
        complain(h2, "h2-protocol", nghttp2_http2_strerror(frame->goaway.error_code));
    struct h2_stream *stream = stream_of(session, frame->hd.stream_id);
    bool ends = (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
                (frame->hd.flags & NGHTTP2_FLAG_END_STREAM);
    /* The answer is whole, and what is still to come of the request is not wanted. To say so at
     * once would be taken for a failure by clients that are still sending. */
    if (h2->is_server && stream && ends && !stream->in_ended)
        stream->linger_until_ms = uv_now(h2->engine->loop) + h2->engine->opts.timeouts.linger_ms;
    return 0;
}

/* A head that does not fit into a block. */
static int on_frame_not_send(nghttp2_session *session, const nghttp2_frame *frame, int code,
                             void *owner)
{
    (void)owner;
    (void)code;
    if (frame->hd.type == NGHTTP2_HEADERS)
        (void)nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                        NGHTTP2_INTERNAL_ERROR); /* fails only without memory */
    return 0;
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int code,
                            void *owner)
{
    (void)session;
    (void)frame;
    complain(owner, "h2-protocol", nghttp2_strerror(code));
    return 0;
}

/* --- the connection --- */

/* Reads what has come. Returns false when there is no going on. */
static bool receive(struct h2 *h2)
{
    uint8_t *scratch = h2->engine->scratch;
    size_t budget = TURN_BYTES_MAX;
    h2->more = true;
    while (!h2->link_eof && conn_room(h2->link) && budget > 0) {
        ssize_t n = channel_read(h2->link, scratch, sizeof h2->engine->scratch);
        if (n == -EAGAIN) {
            h2->more = false;
            return true;
        }
        if (n <= 0) {
            h2->link_eof = true;
            return n == 0;
        }
        budget -= (size_t)n < budget ? (size_t)n : budget;
        if (h2->state == H2_LINGER)
            continue;
        h2->progress = true;
        ssize_t used = nghttp2_session_mem_recv(h2->session, scratch, (size_t)n);
        if (used < 0) {
            complain(h2, used == NGHTTP2_ERR_FLOODED ? "h2-flood" : "h2-protocol",
                     nghttp2_strerror((int)used));
            (void)nghttp2_session_terminate_session(
                h2->session, used == NGHTTP2_ERR_FLOODED ? NGHTTP2_ENHANCE_YOUR_CALM
                                                         : NGHTTP2_PROTOCOL_ERROR); /* a wish */
            h2->link_eof = true;
            return true;
        }
    }
    return true;
}

/* Sends as much as there is room for. */
static bool transmit(struct h2 *h2)
{
    while (conn_room(h2->link)) {
        const uint8_t *bytes;
        ssize_t n = nghttp2_session_mem_send(h2->session, &bytes);
        if (n < 0)
            return false;
        if (n == 0)
            break;
        h2->progress = true;
        buffer_put(channel_out(h2->link), bytes, (size_t)n);
        if (buffer_size(channel_out(h2->link)) >= SEND_SIZE && channel_flush(h2->link) < 0)
            return false;
    }
    return channel_flush(h2->link) == 0;
}

static void run_streams(struct h2 *h2)
{
    struct h2_stream *next;
    h2->dirty = false;
    for (struct h2_stream *stream = h2->streams; stream; stream = next) {
        next = stream->next;
        if (stream->dirty)
            run_stream(stream);
    }
}

static void timer_fired(uv_timer_t *timer);

static void start_timer(struct h2 *h2, uint64_t ms)
{
    (void)uv_timer_start(&h2->timer, timer_fired, ms, 0); /* fails only when closing */
}

static void set_deadline(struct h2 *h2)
{
    const struct engine_timeouts *t = &h2->engine->opts.timeouts;
    bool waits = false; /* for something that has a deadline of its own */
    for (const struct h2_stream *s = h2->streams; s; s = s->next)
        waits |= s->inner != NULL;
    size_t unsent = buffer_size(channel_out(h2->link));
    if (unsent > 0 && (h2->unsent == 0 || unsent < h2->unsent || h2->progress))
        start_timer(h2, t->stall_ms);
    else if (unsent == 0 && h2->streams)
        start_timer(h2, waits ? t->tcp_idle_ms : t->stall_ms);
    else if (unsent == 0 &&
             (h2->progress || h2->unsent > 0 || !uv_is_active((uv_handle_t *)&h2->timer)))
        start_timer(h2, h2->is_server ? t->idle_ms : t->upstream_idle_ms);
    h2->unsent = unsent;
    h2->progress = false;
}

static void linger(struct h2 *h2)
{
    h2->state = H2_LINGER;
    while (h2->streams)
        end_stream(h2->streams, /* clean= */ false);
    channel_finish(h2->link);
    start_timer(h2, h2->engine->opts.timeouts.linger_ms);
    channel_watch(h2->link, !h2->link_eof);
}

static bool all_said(const struct h2 *h2)
{
    bool wants = nghttp2_session_want_read(h2->session) || nghttp2_session_want_write(h2->session);
    bool drained =
        h2->state == H2_DRAINING && !h2->streams && !nghttp2_session_want_write(h2->session);
    bool gone = h2->link_eof && (!h2->streams || channel_gone(h2->link)) &&
                !nghttp2_session_want_write(h2->session);
    return (!wants || drained || gone) && buffer_size(channel_out(h2->link)) == 0;
}

static void idle_fired(uv_idle_t *idle)
{
    struct h2 *h2 = idle->data;
    (void)uv_idle_stop(idle); /* cannot fail */
    run(h2);
}

/* Goes on with whatever can go on. May close it. */
static void run(struct h2 *h2)
{
    if (h2->state == H2_CLOSED)
        return;
    bool ok = receive(h2);
    if (h2->state == H2_LINGER) {
        if (!ok || h2->link_eof || channel_flush(h2->link) < 0)
            h2_close(h2);
        else
            channel_watch(h2->link, true);
        return;
    }
    /* What is sent makes room in streams, and these have more to send. */
    for (unsigned i = 0; ok && i < ROUNDS_MAX && (i == 0 || h2->dirty); i++) {
        run_streams(h2);
        ok = transmit(h2);
    }
    if (!ok || (h2->link_eof && !h2->is_server)) {
        h2_close(h2);
        return;
    }
    if (all_said(h2)) {
        linger(h2);
        return;
    }
    if (h2->dirty || (h2->more && !h2->link_eof && conn_room(h2->link)))
        (void)uv_idle_start(&h2->idle, idle_fired); /* fails only when closing */
    set_deadline(h2);
    channel_watch(h2->link, !h2->link_eof && conn_room(h2->link));
}

static void link_ready(void *owner)
{
    run(owner);
}

static void timer_fired(uv_timer_t *timer)
{
    struct h2 *h2 = timer->data;
    if (h2->state != H2_OPEN || h2->streams || buffer_size(channel_out(h2->link)) > 0) {
        h2_close(h2);
        return;
    }
    (void)nghttp2_session_terminate_session(h2->session, NGHTTP2_NO_ERROR); /* a wish */
    run(h2);
}

static void drain(struct h2 *h2)
{
    if (h2->state != H2_OPEN)
        return;
    h2->state = H2_DRAINING;
    if (h2->is_server) /* a wish */
        (void)nghttp2_submit_goaway(h2->session, NGHTTP2_FLAG_NONE,
                                    nghttp2_session_get_last_proc_stream_id(h2->session),
                                    NGHTTP2_NO_ERROR, NULL, 0);
    run(h2);
}

void h2_drain_all(struct h2 *first)
{
    struct h2 *next;
    for (struct h2 *h2 = first; h2; h2 = next) {
        next = h2->next;
        drain(h2);
    }
}

/* --- opening --- */

static void set_options(nghttp2_option *option)
{
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_max_settings(option, 32);
    nghttp2_option_set_max_outbound_ack(option, BG_EGRESS_H2_ACKS_MAX);
    nghttp2_option_set_stream_reset_rate_limit(option, BG_EGRESS_H2_RESETS_MAX,
                                               BG_EGRESS_H2_RESETS_RATE);
    nghttp2_option_set_no_closed_streams(option, 1);
    /* What was sent once is not kept to be referred to: it could be a secret. */
    nghttp2_option_set_max_deflate_dynamic_table_size(option, 0);
}

static int new_session(struct h2 *h2)
{
    nghttp2_mem memory = {.malloc = wiping_malloc,
                          .free = wiping_free,
                          .calloc = wiping_calloc,
                          .realloc = wiping_realloc};
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    int r = nghttp2_session_callbacks_new(&callbacks);
    if (r == 0)
        r = nghttp2_option_new(&option);
    if (r == 0) {
        set_options(option);
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
        nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
        nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
        nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_send);
        nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
        r = h2->is_server
                ? nghttp2_session_server_new3(&h2->session, callbacks, h2, option, &memory)
                : nghttp2_session_client_new3(&h2->session, callbacks, h2, option, &memory);
    }
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    return r;
}

static int greet(struct h2 *h2)
{
    const nghttp2_settings_entry server[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, BG_EGRESS_H2_STREAMS_MAX},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, BG_EGRESS_H2_WINDOW_GUEST},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, BG_EGRESS_HEAD_MAX},
    };
    const nghttp2_settings_entry client[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, BG_EGRESS_H2_WINDOW_UPSTREAM},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, BG_EGRESS_HEAD_MAX},
    };
    int r = h2->is_server ? nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE, server,
                                                    sizeof server / sizeof *server)
                          : nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE, client,
                                                    sizeof client / sizeof *client);
    if (r == 0)
        r = nghttp2_session_set_local_window_size(h2->session, NGHTTP2_FLAG_NONE, 0,
                                                  BG_EGRESS_H2_WINDOW_CONNECTION);
    return r;
}

static struct h2 *new_h2(struct engine *engine, bool is_server, struct h2 **list)
{
    struct h2 *h2 = calloc(1, sizeof *h2);
    if (!h2)
        return NULL;
    h2->engine = engine;
    h2->is_server = is_server;
    if (new_session(h2) != 0 || greet(h2) != 0) {
        nghttp2_session_del(h2->session);
        free(h2);
        return NULL;
    }
    h2->list = list;
    h2->next = *list;
    if (h2->next)
        h2->next->prev = h2;
    *list = h2;
    return h2;
}

static void take_link(struct h2 *h2, struct channel *connection)
{
    const struct channel_opts opts = {
        .on_ready = link_ready, .on_closed = link_closed, .owner = h2, .wipe = !h2->is_server};
    h2->link = connection;
    h2->open_handles = 3;
    engine_hold(h2->engine);
    channel_set_owner(connection, &opts);
    (void)uv_timer_init(h2->engine->loop, &h2->timer); /* cannot fail */
    (void)uv_idle_init(h2->engine->loop, &h2->idle);   /* cannot fail */
    h2->timer.data = h2->idle.data = h2;
    h2->progress = true;
    (void)uv_idle_start(&h2->idle, idle_fired); /* cannot fail here */
}

int h2_open_server(struct engine *engine, const struct h2_server_opts *opts,
                   struct channel *connection, struct bg_err *err)
{
    struct h2 *h2 = new_h2(engine, /* is_server= */ true, &engine->h2_guests);
    if (!h2)
        return bg_err_errno(err, -ENOMEM, "HTTP/2");
    engine->h2_guest_count++;
    h2->stream_number = opts->stream;
    h2->to = *opts->to;
    take_link(h2, connection);
    return 0;
}

int h2_open_client(struct engine *engine, const struct h2_client_opts *opts,
                   struct channel *connection, struct h2 **ret, struct bg_err *err)
{
    struct h2 *h2 = new_h2(engine, /* is_server= */ false, &engine->upstreams.sessions);
    if (!h2)
        return bg_err_errno(err, -ENOMEM, "HTTP/2");
    h2->key = *opts->key;
    (void)snprintf(h2->address, sizeof h2->address, "%s", opts->address);
    take_link(h2, connection);
    *ret = h2;
    return 0;
}

int h2_open_stream(struct h2 *h2, const struct channel_opts *opts, struct channel **ret,
                   struct bg_err *err)
{
    assert(!h2->is_server);
    struct h2_stream *stream = new_stream(h2, 0);
    if (!stream)
        return bg_err_errno(err, -ENOMEM, "HTTP/2");
    http_reader_init(&stream->reader, /* is_response= */ false, take_body, stream);
    stream->reader.raw.wipe = true;
    const struct channel_opts both[2] = {
        {.on_ready = inner_ready, .on_closed = inner_closed, .owner = stream}, *opts};
    struct channel *ends[2];
    int r = channel_open_pair(h2->engine->loop, both, ends, err);
    if (r < 0) {
        end_stream(stream, /* clean= */ false);
        return r;
    }
    stream->inner = ends[0];
    stream->inner_open = true;
    channel_watch(stream->inner, /* want_read= */ true);
    *ret = ends[1];
    return 0;
}

bool h2_has_room(const struct h2 *h2)
{
    uint32_t limit =
        nghttp2_session_get_remote_settings(h2->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
    if (limit > BG_EGRESS_H2_STREAMS_MAX)
        limit = BG_EGRESS_H2_STREAMS_MAX;
    return h2->state == H2_OPEN && !h2->link_eof && !channel_gone(h2->link) &&
           h2->stream_count < limit && nghttp2_session_check_request_allowed(h2->session);
}

const struct upstream_key *h2_key(const struct h2 *h2)
{
    return &h2->key;
}

const char *h2_address(const struct h2 *h2)
{
    return h2->address;
}

struct h2 *h2_next(const struct h2 *h2)
{
    return h2->next;
}
