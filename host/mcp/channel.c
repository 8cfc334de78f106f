#include "host/mcp/channel.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"

union stream {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_pipe_t pipe;
    uv_tty_t tty;
};

struct channel {
    struct channel_opts opts;
    uv_loop_t *loop;
    struct lines lines;
    union stream in, out;
    bool in_is_file, out_is_file; /* then there is no handle */
    uv_fs_t read;                 /* of a file */
    bool reading;                 /* it is under way */
    unsigned open;                /* handles */
    bool ended, closing;
    bool paused, in_call;
    size_t unsent;
    /* What went wrong while somebody sent: who sends shall not hear of the end just then. */
    uv_timer_t late;
    int late_code;
    char buffer[64 * 1024];
};

struct write {
    uv_write_t request;
    struct channel *channel;
    size_t size;
    char *line;
};

static void free_if_all(struct channel *c)
{
    if (!c->closing || c->open > 0 || c->reading || c->in_call)
        return;
    lines_done(&c->lines);
    free(c);
}

static void end(struct channel *c, const struct bg_err *err)
{
    if (c->ended || c->closing)
        return;
    c->ended = true;
    c->opts.on_end(c->opts.owner, err);
}

static void failed(struct channel *c, int code, const char *what)
{
    struct bg_err err;
    (void)bg_err_errno(&err, code, "%s", what);
    end(c, &err);
}

/* ---- in ---- */

static void take(struct channel *c, const char *bytes, size_t size)
{
    const char *line = NULL;
    size_t line_size = 0;
    enum lines_event event;
    while (!c->closing &&
           (event = lines_next(&c->lines, &bytes, &size, &line, &line_size)) != LINES_NEED_MORE) {
        if (event == LINES_LINE)
            c->opts.on_line(c->opts.owner, line, line_size);
        else
            c->opts.on_lost_line(c->opts.owner, event);
    }
}

static void read_more(struct channel *c);

static void took(struct channel *c, ssize_t n)
{
    c->in_call = true;
    if (n == 0 || n == UV_EOF)
        end(c, NULL);
    else if (n < 0)
        failed(c, (int)n, "stdin");
    else
        take(c, c->buffer, (size_t)n);
    c->in_call = false;
    if (c->closing)
        free_if_all(c);
    else
        read_more(c);
}

static void allocate(uv_handle_t *handle, size_t size, uv_buf_t *ret)
{
    struct channel *c = handle->data;
    (void)size;
    *ret = uv_buf_init(c->buffer, sizeof c->buffer);
}

static void have_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer)
{
    (void)buffer;
    if (n != 0)
        took(stream->data, n);
}

static void have_read_file(uv_fs_t *request)
{
    struct channel *c = request->data;
    ssize_t n = request->result;
    uv_fs_req_cleanup(request);
    c->reading = false;
    took(c, n);
}

/* The next piece of a file; streams go on by themselves. */
static void read_more(struct channel *c)
{
    uv_buf_t buffer = uv_buf_init(c->buffer, sizeof c->buffer);
    if (!c->in_is_file || c->reading || c->paused || c->ended || c->closing)
        return;
    c->read.data = c;
    c->reading = true;
    (void)uv_fs_read(c->loop, &c->read, c->opts.in_fd, &buffer, 1, /* offset= */ -1,
                     have_read_file); /* fails only without a callback */
}

static void pause_reading(struct channel *c, bool paused)
{
    if (c->paused == paused || c->closing)
        return;
    c->paused = paused;
    if (c->in_is_file)
        read_more(c);
    else if (paused)
        (void)uv_read_stop(&c->in.stream); /* cannot fail */
    else if (!c->ended)
        (void)uv_read_start(&c->in.stream, allocate, have_read); /* fails only when closing */
}

/* ---- out ---- */

static void wrote(uv_write_t *request, int status)
{
    struct write *w = request->data;
    struct channel *c = w->channel;
    c->unsent -= w->size;
    free(w->line);
    free(w);
    if (status < 0 && status != UV_ECANCELED)
        failed(c, status, "stdout"); /* there are handles yet, so we are too */
    if (c->unsent <= c->opts.unsent_max)
        pause_reading(c, false);
}

static void told_late(uv_timer_t *timer)
{
    struct channel *c = timer->data;
    c->in_call = true;
    failed(c, c->late_code, "stdout");
    c->in_call = false;
    free_if_all(c);
}

static void fail_late(struct channel *c, int code)
{
    c->late_code = code;
    (void)uv_timer_start(&c->late, told_late, 0, 0); /* fails only when closing */
}

void channel_send(struct channel *channel, char *line)
{
    size_t size = strlen(line);
    if (channel->closing || channel->out_is_file) {
        int written = channel->closing ? 0 : bg_write_full(channel->opts.out_fd, line, size);
        if (written < 0)
            fail_late(channel, written);
        free(line);
        return;
    }
    struct write *w = calloc(1, sizeof *w);
    /* A line is far below 4 GiB. */
    const uv_buf_t buffer = uv_buf_init(line, (unsigned)size);
    if (w) {
        *w = (struct write){.channel = channel, .size = size, .line = line};
        w->request.data = w;
    }
    int r = w ? uv_write(&w->request, &channel->out.stream, &buffer, 1, wrote) : -ENOMEM;
    if (r < 0) {
        free(line);
        free(w);
        fail_late(channel, r);
        return;
    }
    channel->unsent += size;
    if (channel->unsent > channel->opts.unsent_max)
        pause_reading(channel, true);
}

bool channel_busy(const struct channel *channel)
{
    return channel->unsent > 0;
}

/* ---- both ---- */

static void closed(uv_handle_t *handle)
{
    struct channel *c = handle->data;
    c->open--;
    free_if_all(c);
}

void channel_close(struct channel *channel)
{
    if (!channel || channel->closing)
        return;
    channel->closing = true;
    uv_close((uv_handle_t *)&channel->late, closed);
    if (!channel->in_is_file)
        uv_close(&channel->in.handle, closed);
    if (!channel->out_is_file)
        uv_close(&channel->out.handle, closed);
}

static int open_stream(struct channel *c, union stream *stream, int fd, bool *ret_is_file)
{
    uv_handle_type type = uv_guess_handle(fd);
    int r;
    if (type != UV_TTY && type != UV_NAMED_PIPE && type != UV_TCP) {
        *ret_is_file = true;
        return 0;
    }
    r = type == UV_TTY ? uv_tty_init(c->loop, &stream->tty, fd, 0)
                       : uv_pipe_init(c->loop, &stream->pipe, /* ipc= */ 0);
    if (r < 0) {
        *ret_is_file = true; /* there is no handle to close */
        return r;
    }
    stream->handle.data = c;
    c->open++;
    return type == UV_TTY ? 0 : uv_pipe_open(&stream->pipe, fd);
}

int channel_open(uv_loop_t *loop, const struct channel_opts *opts, struct channel **ret,
                 struct bg_err *err)
{
    struct channel *c = calloc(1, sizeof *c);
    if (!c)
        return bg_err_errno(err, -ENOMEM, "stdin");
    c->opts = *opts;
    c->loop = loop;
    lines_init(&c->lines, opts->line_max);
    c->in_is_file = c->out_is_file = true; /* until there are handles */
    (void)uv_timer_init(loop, &c->late);   /* cannot fail */
    c->late.data = c;
    c->open = 1;
    bool in_is_file = false, out_is_file = false;
    int r = open_stream(c, &c->in, opts->in_fd, &in_is_file);
    c->in_is_file = in_is_file;
    if (r == 0) {
        r = open_stream(c, &c->out, opts->out_fd, &out_is_file);
        c->out_is_file = out_is_file;
    }
    if (r == 0 && !c->in_is_file)
        r = uv_read_start(&c->in.stream, allocate, have_read);
    if (r < 0) {
        channel_close(c);
        return bg_err_errno(err, r, "stdin and stdout");
    }
    read_more(c);
    *ret = c;
    return 0;
}
