#include "guest/bench.h"

#include <errno.h>
#include <string.h>

/* Bytes of one write of the source. */
#define CHUNK (64 * 1024)

/* Queued output at which echo stops reading and source waits. */
#define QUEUE_MAX BG_AGENT_OUT_MAX

struct bench {
    struct live live;
    struct agent *agent;
    struct channel channel;
    struct bg_bench_request request;
    uint64_t left; /* sink: to read; source: to write */
    bool ended;    /* the host's end was read, or our last byte is queued */
};

static void closed(void *owner)
{
    struct bench *bench = owner;
    agent_remove_live(bench->agent, &bench->live);
    free(bench);
}

static void end(struct bench *bench)
{
    if (bench->channel.state == CHANNEL_OPEN)
        channel_close(&bench->channel, closed);
}

static void drop(struct live *live)
{
    end(CONTAINER_OF(live, struct bench, live));
}

/* Our last byte: the channel closes when it is out and the host has closed. */
static void finish(struct bench *bench)
{
    bench->ended = true;
    channel_finish(&bench->channel);
}

static void fill(struct bench *bench)
{
    memset(bench->agent->scratch, 0, CHUNK);
    while (bench->left > 0 && channel_queued(&bench->channel) == 0) {
        size_t size = bench->left < CHUNK ? (size_t)bench->left : CHUNK;
        struct iovec part = {.iov_base = bench->agent->scratch, .iov_len = size};
        if (channel_write(&bench->channel, &part, 1) < 0) {
            end(bench);
            return;
        }
        bench->left -= size;
    }
    if (bench->left == 0 && !bench->ended)
        finish(bench);
}

/* size bytes of the host's are in the scratch buffer. */
static void take(struct bench *bench, size_t size)
{
    struct iovec part = {.iov_base = bench->agent->scratch, .iov_len = size};
    if (bench->request.mode == BG_BENCH_SINK) {
        bench->left -= size < bench->left ? size : bench->left;
        if (bench->left > 0)
            return;
        part.iov_len = 1;
    }
    if (channel_write(&bench->channel, &part, 1) < 0) {
        end(bench);
        return;
    }
    if (bench->request.mode == BG_BENCH_SINK)
        finish(bench);
    else if (channel_queued(&bench->channel) >= QUEUE_MAX)
        channel_want_input(&bench->channel, false);
}

static void readable(void *owner)
{
    struct bench *bench = owner;
    ssize_t n = channel_read(&bench->channel, bench->agent->scratch, AGENT_SCRATCH_SIZE);
    if (n == -EAGAIN)
        return;
    if (n < 0 || (n == 0 && (bench->ended || bench->request.mode != BG_BENCH_ECHO))) {
        end(bench);
        return;
    }
    if (n == 0) { /* echo: the rest of it goes out, then our end */
        bench->ended = true;
        channel_want_input(&bench->channel, false);
        if (channel_queued(&bench->channel) == 0)
            end(bench);
        return;
    }
    if (!bench->ended && bench->request.mode != BG_BENCH_SOURCE)
        take(bench, (size_t)n);
}

static void has_room(void *owner)
{
    struct bench *bench = owner;
    if (bench->request.mode == BG_BENCH_SOURCE)
        fill(bench);
    else if (bench->request.mode == BG_BENCH_ECHO && bench->ended) {
        if (channel_queued(&bench->channel) == 0)
            end(bench);
    } else if (channel_queued(&bench->channel) < QUEUE_MAX / 2)
        channel_want_input(&bench->channel, true);
}

static void broken(void *owner, int status)
{
    (void)status; /* the host has what it measured */
    end(owner);
}

static const struct channel_ops ops = {
    .on_readable = readable, .on_room = has_room, .on_broken = broken};

static int bench_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    struct bg_bench_request request;
    int r = bg_bench_request_parse(body, size, &request, err);
    if (r < 0)
        return r;
    struct bench *bench = calloc(1, sizeof *bench);
    if (!bench)
        return bg_err_errno(err, -ENOMEM, "bench");
    bench->agent = stream->agent;
    bench->live.drop = drop;
    bench->request = request;
    bench->left = request.bytes;
    if (!agent_add_live(stream->agent, &bench->live)) {
        free(bench);
        return bg_err_set(err, -EMFILE, "too many streams");
    }
    int fd = stream_detach(stream);
    r = channel_open(&bench->channel, &stream->agent->loop, fd, &ops, bench);
    if (r < 0 || stream_reply_fd(fd, &(struct bg_err){0}) < 0) {
        /* Detached: the host sees the connection close. */
        if (r < 0) {
            (void)close(fd); /* not taken */
            closed(bench);
        } else {
            end(bench);
        }
        return 0;
    }
    channel_want_input(&bench->channel, true);
    if (request.mode == BG_BENCH_SOURCE)
        fill(bench);
    else if (request.mode == BG_BENCH_SINK && request.bytes == 0)
        take(bench, 0);
    return 0;
}

const struct stream_kind bench_kind = {.name = "bench", .open = bench_open};
