#include "guest/stream.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "guest/bench.h"
#include "guest/changes.h"
#include "guest/copy.h"
#include "guest/disk.h"
#include "guest/exec.h"
#include "guest/files.h"
#include "guest/forward.h"
#include "guest/fuse.h"
#include "guest/parking.h"
#include "guest/session.h"
#include "guest/share.h"
#include "guest/volume.h"
#include "guest/watch.h"

static const struct stream_kind *find_kind(uint16_t kind)
{
    switch ((enum bg_stream_kind)kind) {
    case BG_STREAM_SESSION:
        return &session_kind;
    case BG_STREAM_EXEC:
        return &exec_kind;
    case BG_STREAM_COPY:
        return &copy_kind;
    case BG_STREAM_FUSE:
        return &fuse_kind;
    case BG_STREAM_SHARE:
        return &share_kind;
    case BG_STREAM_FORWARD:
        return &forward_kind;
    case BG_STREAM_BENCH:
        return &bench_kind;
    case BG_STREAM_WATCH:
        return &watch_kind;
    case BG_STREAM_DISK:
        return &disk_kind;
    case BG_STREAM_VOLUME:
        return &volume_kind;
    case BG_STREAM_CHANGES:
        return &changes_kind;
    case BG_STREAM_EXECS:
        return &execs_kind;
    case BG_STREAM_FILES:
        return &files_kind;
    case BG_STREAM_CONNECT: /* ours to open, not the host's */
        break;
    }
    return NULL;
}

/* ---- closing ---- */

static void channel_closed(void *owner)
{
    struct stream *stream = owner;
    void *context = stream->context;
    const struct stream_kind *kind = stream->kind;
    struct agent *agent = stream->agent;
    if (stream->input != stream->header)
        free(stream->input);
    /* First let go, then tell: the agent may end when its last stream is unlinked. */
    if (context)
        kind->on_gone(context);
    agent_remove_live(agent, &stream->live);
    free(stream);
}

void stream_abort(struct stream *stream)
{
    if (stream->state == STREAM_CLOSING)
        return;
    stream->state = STREAM_CLOSING;
    stream->live.parkable = NULL;
    channel_close(&stream->channel, channel_closed);
}

int stream_detach(struct stream *stream)
{
    assert(stream->state == STREAM_OPEN && !stream->context);
    stream->state = STREAM_CLOSING;
    stream->live.parkable = NULL;
    return channel_detach(&stream->channel, channel_closed);
}

static void drop(struct live *live)
{
    stream_abort(CONTAINER_OF(live, struct stream, live));
}

/* ---- output ---- */

static void send_parts(struct stream *stream, const struct iovec *parts, int count)
{
    if (stream->state != STREAM_OPEN)
        return;
    if (channel_write(&stream->channel, parts, count) < 0)
        stream_abort(stream); /* the peer is gone, or memory is out */
}

static struct iovec part(const void *bytes, size_t size)
{
    struct iovec iov = {.iov_len = size};
    memcpy(&iov.iov_base, &bytes, sizeof bytes); /* only read from; iovec has no const */
    return iov;
}

void stream_reply(struct stream *stream, const void *bytes, size_t size)
{
    assert(!stream->replied && size <= BG_REPLY_TEXT_MAX);
    stream->replied = true;
    uint8_t header[BG_REPLY_HEADER_SIZE];
    bg_reply_header_emit(&(struct bg_reply_header){.body_size = (uint32_t)size}, header);
    send_parts(stream, (struct iovec[]){part(header, sizeof header), part(bytes, size)}, 2);
}

/* At most BG_ERR_TEXT_SIZE of text follows the header. */
static size_t emit_refusal(const struct bg_err *err, uint8_t out[BG_REPLY_HEADER_SIZE])
{
    size_t size = strnlen(err->text, BG_ERR_TEXT_SIZE);
    bg_reply_header_emit(&(struct bg_reply_header){.status = err->code < 0 ? err->code : -EIO,
                                                   .body_size = (uint32_t)size},
                         out);
    return size;
}

void stream_refuse(struct stream *stream, const struct bg_err *err)
{
    stream->context = NULL;
    if (stream->state != STREAM_OPEN)
        return;
    assert(!stream->replied);
    stream->replied = true;
    uint8_t header[BG_REPLY_HEADER_SIZE];
    size_t size = emit_refusal(err, header);
    send_parts(stream, (struct iovec[]){part(header, sizeof header), part(err->text, size)}, 2);
    stream_finish(stream);
}

size_t stream_emit_reply(const struct bg_err *err, uint8_t out[STREAM_REPLY_MAX])
{
    size_t size = 0;
    if (err->code < 0) {
        size = emit_refusal(err, out);
        memcpy(out + BG_REPLY_HEADER_SIZE, err->text, size);
    } else {
        bg_reply_header_emit(&(struct bg_reply_header){0}, out);
    }
    return BG_REPLY_HEADER_SIZE + size;
}

int stream_reply_fd(int fd, const struct bg_err *err)
{
    uint8_t bytes[STREAM_REPLY_MAX];
    size_t size = stream_emit_reply(err, bytes);
    /* A fresh connection has room for it; a short write is a broken one. */
    ssize_t n;
    do {
        n = write(fd, bytes, size);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    return (size_t)n == size ? 0 : -EIO;
}

void stream_send(struct stream *stream, uint8_t type, const void *payload, size_t size)
{
    assert(size <= BG_FRAME_SIZE_MAX);
    uint8_t header[BG_FRAME_HEADER_SIZE];
    bg_frame_header_emit(type, (uint32_t)size, header);
    send_parts(stream, (struct iovec[]){part(header, sizeof header), part(payload, size)}, 2);
}

void stream_send_scratch(struct stream *stream, uint8_t type, size_t size)
{
    assert(size <= BG_FRAME_SIZE_MAX && !stream->agent->scratch_busy);
    uint8_t *scratch = stream->agent->scratch;
    bg_frame_header_emit(type, (uint32_t)size, scratch);
    send_parts(stream, (struct iovec[]){part(scratch, BG_FRAME_HEADER_SIZE + size)}, 1);
}

size_t stream_room(const struct stream *stream)
{
    size_t queued = channel_queued(&stream->channel);
    return queued < BG_AGENT_OUT_MAX ? BG_AGENT_OUT_MAX - queued : 0;
}

void stream_finish(struct stream *stream)
{
    stream->context = NULL;
    if (stream->state != STREAM_OPEN)
        return;
    stream->state = STREAM_LINGERING;
    channel_finish(&stream->channel);
}

static void has_room(void *owner)
{
    struct stream *stream = owner;
    if (stream->state == STREAM_OPEN && stream->context && stream->kind->on_room)
        stream->kind->on_room(stream->context);
}

/* ---- input ---- */

static void fail(struct stream *stream, const struct bg_err *err)
{
    bg_log(stream->agent->log, BG_LOG_WARN, "stream %u (%s): %s; closing it", stream->id,
           stream->kind ? stream->kind->name : "new", err->text);
    stream_abort(stream);
}

/* ---- parking: for the kinds with frames ---- */

static bool park(struct live *live)
{
    channel_park(&CONTAINER_OF(live, struct stream, live)->channel);
    return true;
}

static int counts(struct live *live, uint64_t *ret_read, uint64_t *ret_written)
{
    const struct stream *stream = CONTAINER_OF(live, struct stream, live);
    *ret_read = stream->channel.bytes_read;
    *ret_written = stream->channel.bytes_written;
    return 0;
}

static void swap(struct live *live, int fd)
{
    struct stream *stream = CONTAINER_OF(live, struct stream, live);
    if (channel_swap(&stream->channel, fd) == 0) {
        channel_go_on(&stream->channel);
        return;
    }
    (void)close(fd); /* not taken */
    stream_abort(stream);
}

static void go_on(struct live *live)
{
    struct stream *stream = CONTAINER_OF(live, struct stream, live);
    if (stream->state != STREAM_CLOSING)
        channel_go_on(&stream->channel);
}

static const struct parkable stream_parkable = {
    .park = park, .counts = counts, .swap = swap, .go_on = go_on};

/* ---- openings ---- */

/* What is to be done about a header: the kind, or one that goes on with an older stream. */
static const struct stream_kind *choose_kind(struct stream *stream,
                                             const struct bg_stream_header *header)
{
    static const uint8_t no_token[sizeof header->resume];
    if (memcmp(header->resume, no_token, sizeof no_token) != 0)
        return NULL;
    stream->live.kind = header->kind;
    stream->live.id = stream->id = header->id;
    return header->flags & BG_STREAM_RESUME ? &resume_kind : find_kind(header->kind);
}

/* The input is complete for the state: header or body. */
static void take_opening(struct stream *stream)
{
    struct bg_err err = {0};
    if (stream->state == STREAM_HEADER) {
        struct bg_stream_header header;
        if (bg_stream_header_parse(stream->header, sizeof stream->header, &header, &err) < 0) {
            fail(stream, &err);
            return;
        }
        stream->kind = choose_kind(stream, &header);
        stream->state = STREAM_BODY;
        if (!stream->kind) {
            stream->state = STREAM_OPEN;
            (void)bg_err_set(&err, -EOPNOTSUPP, "this agent does not take such a stream");
            stream_refuse(stream, &err);
            return;
        }
        stream->input_used = 0;
        stream->input_want = header.body_size;
        stream->input = header.body_size > 0 ? malloc(header.body_size) : NULL;
        if (header.body_size > 0 && !stream->input) {
            stream->state = STREAM_OPEN;
            (void)bg_err_errno(&err, -ENOMEM, "stream");
            stream_refuse(stream, &err);
            return;
        }
        if (header.body_size > 0)
            return;
    }
    stream->state = STREAM_OPEN;
    BG_AUTOFREE uint8_t *body = BG_TAKE(stream->input);
    size_t body_size = stream->input_want;
    stream->input_used = stream->input_want = 0;
    if (stream->kind->lasts)
        stream->live.parkable = &stream_parkable;
    if (stream->kind->open(stream, body, body_size, &err) < 0)
        stream_refuse(stream, &err);
}

/* Reads exactly what the opening needs, so that a raw kind finds its first byte still unread. */
static void read_opening(struct stream *stream)
{
    while (stream->state == STREAM_HEADER || stream->state == STREAM_BODY) {
        ssize_t n = channel_read(&stream->channel, stream->input + stream->input_used,
                                 stream->input_want - stream->input_used);
        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            stream_abort(stream); /* it ended before it began */
            return;
        }
        stream->input_used += (size_t)n;
        if (stream->input_used == stream->input_want)
            take_opening(stream);
    }
}

void stream_read_openings(struct agent *agent)
{
    struct live *next; /* an opening may add to the list, at its head */
    for (struct live *live = LIST_FIRST(&agent->live); live; live = next) {
        next = LIST_NEXT(live, link);
        if (live->drop == drop)
            read_opening(CONTAINER_OF(live, struct stream, live));
    }
}

static void free_input(struct stream *stream)
{
    free(stream->input);
    stream->input = NULL;
    stream->input_used = stream->input_want = 0;
}

/* Hands over the complete frames at bytes. Returns how many bytes they were, or negative errno; on
 * success *ret_want is the size of the frame that is still incomplete (0: no part of one). */
static ssize_t take_frames(struct stream *stream, const uint8_t *bytes, size_t size,
                           size_t *ret_want, struct bg_err *err)
{
    size_t at = 0;
    *ret_want = 0;
    while (stream->state == STREAM_OPEN && at < size) {
        *ret_want = BG_FRAME_HEADER_SIZE;
        if (size - at < BG_FRAME_HEADER_SIZE)
            break;
        struct bg_frame_header frame;
        int r = bg_frame_header_parse(bytes + at, BG_FRAME_HEADER_SIZE,
                                      stream->kind->frame_size_max, &frame, err);
        if (r < 0)
            return r;
        *ret_want = BG_FRAME_HEADER_SIZE + frame.size;
        if (size - at < *ret_want)
            break;
        r = stream->kind->on_frame(stream->context, frame.type, bytes + at + BG_FRAME_HEADER_SIZE,
                                   frame.size, err);
        if (r < 0)
            return r;
        at += *ret_want;
        *ret_want = 0;
    }
    return (ssize_t)at;
}

/* Keeps the beginning of a frame of want bytes. */
static int keep_partial(struct stream *stream, const uint8_t *bytes, size_t size, size_t want)
{
    stream->input = malloc(want);
    if (!stream->input)
        return -ENOMEM;
    if (size > 0)
        memcpy(stream->input, bytes, size);
    stream->input_used = size;
    stream->input_want = want;
    return 0;
}

/* The kept frame has input_want bytes: a header whose payload follows, or all of it. */
static int take_kept(struct stream *stream, struct bg_err *err)
{
    size_t want;
    ssize_t n = take_frames(stream, stream->input, stream->input_used, &want, err);
    if (n < 0)
        return (int)n;
    if (n > 0 || stream->state != STREAM_OPEN) {
        free_input(stream);
        return 0;
    }
    assert(want > stream->input_used); /* nothing was taken: there is a frame, and it is larger */
    uint8_t *grown = realloc(stream->input, want);
    if (!grown)
        return bg_err_errno(err, -ENOMEM, "frame of %zu bytes", want);
    stream->input = grown;
    stream->input_want = want;
    return 0;
}

/* One read, and the frames in it. Most reads end at a frame's end, so nothing is kept or copied. */
static void read_frames(struct stream *stream)
{
    struct bg_err err = {0};
    uint8_t *scratch = stream->agent->scratch;
    bool kept = stream->input_want > 0;
    uint8_t *buffer = kept ? stream->input + stream->input_used : scratch;
    size_t room = kept ? stream->input_want - stream->input_used : AGENT_SCRATCH_SIZE;
    ssize_t n = channel_read(&stream->channel, buffer, room);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        stream_abort(stream); /* the host's end before ours: it does not want the rest */
        return;
    }
    int r = 0;
    if (kept) {
        stream->input_used += (size_t)n;
        if (stream->input_used == stream->input_want)
            r = take_kept(stream, &err);
    } else {
        size_t want;
        stream->agent->scratch_busy = true;
        ssize_t used = take_frames(stream, scratch, (size_t)n, &want, &err);
        stream->agent->scratch_busy = false;
        r = used < 0 ? (int)used : 0;
        if (used >= 0 && want > 0 && stream->state == STREAM_OPEN) {
            r = keep_partial(stream, scratch + used, (size_t)(n - used), want);
            if (r < 0)
                (void)bg_err_errno(&err, r, "frame");
        }
    }
    if (r < 0 && stream->state == STREAM_OPEN)
        fail(stream, &err);
}

static void readable(void *owner)
{
    struct stream *stream = owner;
    switch (stream->state) {
    case STREAM_HEADER:
    case STREAM_BODY:
        read_opening(stream);
        break;
    case STREAM_OPEN:
        read_frames(stream);
        break;
    case STREAM_LINGERING: {
        ssize_t n = channel_read(&stream->channel, stream->agent->scratch, AGENT_SCRATCH_SIZE);
        if (n <= 0 && n != -EAGAIN)
            stream_abort(stream);
        break;
    }
    case STREAM_CLOSING:
        break;
    }
}

static void broken(void *owner, int status)
{
    (void)status; /* which way the host went away makes no difference */
    stream_abort(owner);
}

static const struct channel_ops ops = {
    .on_readable = readable, .on_room = has_room, .on_broken = broken};

int stream_accept(struct agent *agent, int fd)
{
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return -ENOMEM;
    stream->agent = agent;
    stream->live.drop = drop;
    stream->input = stream->header;
    stream->input_want = sizeof stream->header;
    int r = -EMFILE;
    if (!agent_add_live(agent, &stream->live)) {
        free(stream);
        return r;
    }
    r = channel_open(&stream->channel, &agent->loop, fd, &ops, stream);
    if (r < 0) {
        agent_remove_live(agent, &stream->live);
        free(stream);
        return r;
    }
    channel_want_input(&stream->channel, true);
    /* The header usually comes with the connection. */
    readable(stream);
    return 0;
}
