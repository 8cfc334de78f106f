#include "host/mcp/command.h"

#include <assert.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/quote.h"

#define ARGS_MAX 16
#define PREFIX   "bellglass: "
#define HOLD_FD  3

struct pipe_end {
    uv_pipe_t pipe;
    struct command *command;
    char text[BG_MCP_TEXT_MAX]; /* NUL-terminated */
    size_t used;
    char buffer[4096];
};

struct command {
    uv_process_t process;
    struct command_opts opts;
    struct pipe_end out, err;
    unsigned open; /* handles that are not closed yet; on_done when none is */
    bool started, exited;
    int status;
    char why[BG_ERR_TEXT_SIZE]; /* the last line of stderr */
};

static void finish(struct command *c)
{
    if (c->open > 0)
        return;
    if (c->started)
        c->opts.on_done(c->opts.owner, c->status, c->out.text, c->why);
    free(c);
}

static void process_closed(uv_handle_t *handle)
{
    struct command *c = handle->data;
    c->open--;
    finish(c);
}

static void pipe_closed(uv_handle_t *handle)
{
    struct pipe_end *end = handle->data;
    end->command->open--;
    finish(end->command);
}

/* Keeps what there is room for: a command of ours says little. */
static void keep(struct pipe_end *end, const char *bytes, size_t size)
{
    size_t room = sizeof end->text - 1 - end->used, part = size < room ? size : room;
    memcpy(end->text + end->used, bytes, part);
    end->used += part;
    end->text[end->used] = '\0';
}

/* A whole line of stderr, without its newline. */
static void take_note(struct command *c, char *line)
{
    size_t prefix = strlen(PREFIX);
    bool own = strncmp(line, PREFIX, prefix) == 0;
    const char *text = own ? line + prefix : line;
    if (*text == '\0')
        return;
    bg_escape(text, strlen(text), c->why, sizeof c->why);
    if (c->opts.on_note)
        c->opts.on_note(c->opts.owner, c->why);
}

static void take_notes(struct command *c)
{
    struct pipe_end *end = &c->err;
    for (char *newline; (newline = strchr(end->text, '\n'));) {
        *newline = '\0';
        take_note(c, end->text);
        end->used -= (size_t)(newline + 1 - end->text);
        memmove(end->text, newline + 1, end->used + 1);
    }
    if (end->used == sizeof end->text - 1) {
        take_note(c, end->text);
        end->used = 0;
        end->text[0] = '\0';
    }
}

static void allocate(uv_handle_t *handle, size_t size, uv_buf_t *ret)
{
    struct pipe_end *end = handle->data;
    (void)size;
    *ret = uv_buf_init(end->buffer, sizeof end->buffer);
}

static void have_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer)
{
    struct pipe_end *end = stream->data;
    struct command *c = end->command;
    (void)buffer;
    if (n > 0) {
        keep(end, end->buffer, (size_t)n);
        if (end == &c->err)
            take_notes(c);
    } else if (n < 0) {
        if (end == &c->err && end->used > 0)
            take_note(c, end->text);
        uv_close((uv_handle_t *)&end->pipe, pipe_closed);
    }
}

static void exited(uv_process_t *process, int64_t status, int signal_number)
{
    struct command *c = process->data;
    c->exited = true;
    c->status = signal_number ? 128 + signal_number : (int)status;
    uv_close((uv_handle_t *)&c->process, process_closed);
}

static void close_all(struct command *c)
{
    uv_close((uv_handle_t *)&c->process, process_closed);
    uv_close((uv_handle_t *)&c->out.pipe, pipe_closed);
    uv_close((uv_handle_t *)&c->err.pipe, pipe_closed);
}

static int open_pipe(uv_loop_t *loop, struct command *c, struct pipe_end *end)
{
    end->command = c;
    end->pipe.data = end;
    int r = uv_pipe_init(loop, &end->pipe, /* ipc= */ 0);
    if (r == 0) {
        end->pipe.data = end;
        c->open++;
    }
    return r;
}

static int spawn(uv_loop_t *loop, struct command *c, const struct command_opts *opts)
{
    char name[] = "bellglass";
    char *argv[ARGS_MAX + 2] = {name};
    for (size_t i = 0; i < ARGS_MAX && opts->argv[i]; i++)
        argv[i + 1] = (char *)(uintptr_t)opts->argv[i]; /* it is the child's copy that changes */
    uv_stdio_container_t fds[HOLD_FD + 1] = {
        {.flags = UV_IGNORE},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&c->out.pipe},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&c->err.pipe},
        {.flags = opts->hold_fd >= 0 ? UV_INHERIT_FD : UV_IGNORE, .data.fd = opts->hold_fd},
    };
    const uv_process_options_t options = {.file = opts->program,
                                          .args = argv,
                                          .exit_cb = exited,
                                          .stdio = fds,
                                          .stdio_count = opts->hold_fd >= 0 ? 4 : 3,
                                          /* A signal of a terminal is for us to pass on. */
                                          .flags = UV_PROCESS_DETACHED};
    return uv_spawn(loop, &c->process, &options);
}

int command_start(uv_loop_t *loop, const struct command_opts *opts, struct command **ret,
                  struct bg_err *err)
{
    struct command *c = calloc(1, sizeof *c);
    if (!c)
        return bg_err_errno(err, -ENOMEM, "bellglass");
    c->opts = *opts;
    c->opts.program = NULL;
    c->opts.argv = NULL;
    /* Neither can fail: they take memory that is there, and make no fd yet. */
    int r = open_pipe(loop, c, &c->out);
    if (r == 0)
        r = open_pipe(loop, c, &c->err);
    if (r < 0) {
        free(c);
        return bg_err_errno(err, r, "pipe");
    }
    c->process.data = c;
    r = spawn(loop, c, opts);
    c->open++;
    c->process.data = c;
    if (r == 0) {
        c->started = true;
        r = uv_read_start((uv_stream_t *)&c->out.pipe, allocate, have_read);
        if (r == 0)
            r = uv_read_start((uv_stream_t *)&c->err.pipe, allocate, have_read);
        assert(r == 0); /* fails only for what is no open stream */
        *ret = c;
        return 0;
    }
    (void)bg_err_errno(err, r, "%s", opts->program);
    close_all(c);
    return r;
}

void command_stop(struct command *command)
{
    if (!command->exited)
        (void)uv_process_kill(&command->process, SIGTERM); /* it may be gone this moment */
}
