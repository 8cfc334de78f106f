#include "host/gateway/guest_stream.h"

#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "host/cli/client.h"

#define READ_SIZE BG_GATEWAY_CHUNK_MAX

struct guest_stream {
    uv_pipe_t pipe; /* the loop's until closed() */
    struct guest_stream_opts opts;
    bool answered; /* the supervisor has said that this is a stream now */
    bool reading, closing;
    char *line; /* of the answer, until it is whole */
    size_t line_used;
    unsigned writes; /* not yet done */
    uint8_t buffer[READ_SIZE];
};

struct write {
    uv_write_t request;
    struct guest_stream *stream;
    void *bytes;
};

static void closed(uv_handle_t *handle)
{
    struct guest_stream *s = handle->data;
    free(s->line);
    free(s);
}

void guest_stream_close(struct guest_stream *stream)
{
    if (!stream || stream->closing)
        return;
    stream->closing = true;
    uv_close((uv_handle_t *)&stream->pipe, closed);
}

static void ended(struct guest_stream *s, const struct bg_err *err)
{
    (void)uv_read_stop((uv_stream_t *)&s->pipe); /* cannot fail */
    s->opts.on_end(s->opts.owner, err);
}

static void wrote(uv_write_t *request, int status)
{
    struct write *w = request->data;
    struct guest_stream *s = w->stream;
    free(w->bytes);
    free(w);
    s->writes--;
    /* A failed write is the end of the stream, which reading tells. */
    if (status == 0 && !s->closing && s->writes == 0 && s->answered && s->opts.on_drain)
        s->opts.on_drain(s->opts.owner);
}

int guest_stream_write(struct guest_stream *stream, void *bytes, size_t size)
{
    struct write *w = calloc(1, sizeof *w);
    if (!w) {
        free(bytes);
        return -ENOMEM;
    }
    *w = (struct write){.stream = stream, .bytes = bytes};
    w->request.data = w;
    /* Sizes here are far below 4 GiB. */
    const uv_buf_t buffer = uv_buf_init(bytes, (unsigned)size);
    int r = uv_write(&w->request, (uv_stream_t *)&stream->pipe, &buffer, 1, wrote);
    if (r < 0) {
        free(bytes);
        free(w);
        return r == -ENOMEM ? r : 0; /* anything else is the stream's end */
    }
    stream->writes++;
    return 0;
}

size_t guest_stream_unsent(const struct guest_stream *stream)
{
    return uv_stream_get_write_queue_size((const uv_stream_t *)&stream->pipe);
}

static void shut(uv_shutdown_t *request, int status)
{
    (void)status; /* the other side is gone: reading tells */
    free(request);
}

void guest_stream_finish(struct guest_stream *stream)
{
    uv_shutdown_t *request = calloc(1, sizeof *request);
    if (!request || uv_shutdown(request, (uv_stream_t *)&stream->pipe, shut) < 0)
        free(request); /* the other side then ends with the connection */
}

/* Takes the answer's line. *used: bytes of it. False when the stream is over. */
static bool take_answer(struct guest_stream *s, const uint8_t *bytes, size_t size, size_t *used)
{
    const uint8_t *end = memchr(bytes, '\n', size);
    size_t take = end ? (size_t)(end - bytes) : size;
    struct bg_err err;
    if (take > BG_CONTROL_LINE_MAX - s->line_used) {
        (void)bg_err_set(&err, -EPROTO, "the supervisor's answer makes no sense");
        ended(s, &err);
        return false;
    }
    memcpy(s->line + s->line_used, bytes, take);
    s->line_used += take;
    *used = end ? take + 1 : take;
    if (!end)
        return true;
    json_t *answer = NULL;
    if (client_parse_answer(s->line, s->line_used, &answer, &err) < 0) {
        ended(s, &err);
        return false;
    }
    json_decref(answer);
    free(BG_TAKE(s->line));
    s->answered = true;
    return true;
}

static void allocate(uv_handle_t *handle, size_t size, uv_buf_t *ret)
{
    struct guest_stream *s = handle->data;
    (void)size;
    *ret = uv_buf_init((char *)s->buffer, READ_SIZE);
}

static void have_read(uv_stream_t *pipe, ssize_t n, const uv_buf_t *buffer)
{
    struct guest_stream *s = pipe->data;
    struct bg_err err;
    size_t used = 0;
    (void)buffer;
    if (n == UV_EOF && s->answered) {
        ended(s, NULL);
    } else if (n < 0) {
        if (n == UV_EOF)
            (void)bg_err_set(&err, -ECONNRESET, "the sandbox ended just now");
        else
            (void)bg_err_errno(&err, (int)n, "stream to the sandbox");
        ended(s, &err);
    } else if (n > 0) {
        if (!s->answered && !take_answer(s, s->buffer, (size_t)n, &used))
            return;
        if (used < (size_t)n)
            s->opts.on_data(s->opts.owner, s->buffer + used, (size_t)n - used);
    }
}

void guest_stream_pause(struct guest_stream *stream, bool paused)
{
    if (stream->closing || stream->reading == !paused)
        return;
    stream->reading = !paused;
    if (paused)
        (void)uv_read_stop((uv_stream_t *)&stream->pipe); /* cannot fail */
    else
        /* Fails only for a handle that is closing. */
        (void)uv_read_start((uv_stream_t *)&stream->pipe, allocate, have_read);
}

static int send_request(struct guest_stream *s, const struct guest_stream_opts *opts)
{
    char *text = NULL;
    int head = asprintf(&text, "{\"op\":\"open\",\"kind\":\"%s\",\"body_size\":%zu}\n", opts->kind,
                        opts->size);
    if (head < 0)
        return -ENOMEM;
    char *grown = realloc(text, (size_t)head + opts->size + 1);
    if (!grown) {
        free(text);
        return -ENOMEM;
    }
    if (opts->size > 0)
        memcpy(grown + head, opts->body, opts->size);
    return guest_stream_write(s, grown, (size_t)head + opts->size);
}

int guest_stream_open(uv_loop_t *loop, const struct guest_stream_opts *opts,
                      struct guest_stream **ret, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = -1;
    int r = bg_sandbox_connect(opts->paths, opts->sandbox, &fd, err);
    if (r < 0)
        return r;
    BG_AUTOFREE struct guest_stream *s = calloc(1, sizeof *s);
    BG_AUTOFREE char *line = malloc(BG_CONTROL_LINE_MAX);
    if (!s || !line)
        return bg_err_errno(err, -ENOMEM, "stream");
    r = uv_pipe_init(loop, &s->pipe, /* ipc= */ 0);
    if (r < 0)
        return bg_err_errno(err, r, "stream");
    struct guest_stream *stream = BG_TAKE(s); /* from here on only uv_close() may end it */
    stream->pipe.data = stream;
    stream->opts = *opts;
    stream->opts.paths = NULL;
    stream->opts.sandbox = NULL;
    stream->opts.body = NULL;
    stream->line = BG_TAKE(line);
    r = uv_pipe_open(&stream->pipe, fd);
    if (r == 0) {
        (void)bg_take_fd(&fd);
        r = send_request(stream, opts);
    }
    if (r < 0) {
        guest_stream_close(stream);
        return bg_err_errno(err, r, "stream to the sandbox");
    }
    guest_stream_pause(stream, false);
    *ret = stream;
    return 0;
}
