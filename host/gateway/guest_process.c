#include "host/gateway/guest_process.h"

#include <string.h>

#include "common/limits.h"
#include "common/wire.h"
#include "host/cli/exec_frames.h"
#include "host/gateway/guest_stream.h"

struct guest_process {
    struct guest_process_opts opts;
    struct guest_stream *stream; /* NULL: closed */
    struct exec_frames frames;
    bool started, input_ended;
    bool in_call; /* of on_data: freed there when it is over */
};

static int send_frame(struct guest_process *p, uint8_t type, const void *payload, size_t size)
{
    uint8_t *frame = malloc(BG_FRAME_HEADER_SIZE + size);
    if (!frame)
        return -ENOMEM;
    bg_frame_header_emit(type, (uint32_t)size, frame);
    if (size > 0)
        memcpy(frame + BG_FRAME_HEADER_SIZE, payload, size);
    return guest_stream_write(p->stream, frame, BG_FRAME_HEADER_SIZE + size);
}

/* Bytes of input that it takes now; 0 before it has started. */
static size_t input_room(const struct guest_process *process)
{
    return process->started && !process->input_ended
               ? BG_EXEC_STDIN_WINDOW - process->frames.stdin_owed
               : 0;
}

static int send_input(struct guest_process *process, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    while (size > 0) {
        size_t take = size < BG_FRAME_SIZE_MAX ? size : BG_FRAME_SIZE_MAX;
        int r = send_frame(process, BG_FRAME_STDIN, at, take);
        if (r < 0)
            return r;
        exec_frames_sent(&process->frames, (uint32_t)take);
        at += take;
        size -= take;
    }
    return 0;
}

int guest_process_feed(struct guest_process *process, struct inbound *in)
{
    const uint8_t *bytes;
    size_t size, room;
    int r = 0;
    while (r == 0 && (room = input_room(process)) > 0 && (size = inbound_next(in, &bytes)) > 0) {
        size_t take = size < room ? size : room;
        r = send_input(process, bytes, take);
        inbound_take(in, take);
    }
    return r;
}

int guest_process_end_input(struct guest_process *process)
{
    if (process->input_ended)
        return 0;
    process->input_ended = true;
    return send_frame(process, BG_FRAME_STDIN_EOF, NULL, 0);
}

int guest_process_signal(struct guest_process *process, int number)
{
    uint8_t payload[4];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, (uint32_t)number);
    return send_frame(process, BG_FRAME_SIGNAL, payload, sizeof payload);
}

int guest_process_resize(struct guest_process *process, uint16_t rows, uint16_t columns)
{
    uint8_t payload[4];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u16le(&w, rows);
    bg_writer_u16le(&w, columns);
    return send_frame(process, BG_FRAME_RESIZE, payload, sizeof payload);
}

void guest_process_pause(struct guest_process *process, bool paused)
{
    if (process->stream)
        guest_stream_pause(process->stream, paused);
}

void guest_process_close(struct guest_process *process)
{
    if (!process)
        return;
    guest_stream_close(BG_TAKE(process->stream));
    if (!process->in_call)
        free(process);
}

/* Calls back about one event. */
static void tell(struct guest_process *p, const struct exec_event *event)
{
    const struct guest_exit how = {.status = event->exit_status, .signal = event->signal};
    void *owner = p->opts.owner;
    switch (event->kind) {
    case EXEC_NEED_MORE:
        break;
    case EXEC_STARTED:
        p->started = true;
        p->opts.on_started(owner, event->pid);
        if (p->stream && p->opts.on_room)
            p->opts.on_room(owner);
        break;
    case EXEC_ATTACHED: /* we attach to none, and nobody in our place */
    case EXEC_TAKEN:
        break;
    case EXEC_REFUSED:
        p->opts.on_refused(owner, event->status, event->text);
        break;
    case EXEC_OUTPUT:
        p->opts.on_output(owner, event->is_stderr, event->bytes, event->size);
        break;
    case EXEC_WINDOW:
        if (p->opts.on_room)
            p->opts.on_room(owner);
        break;
    case EXEC_ENDED:
        p->opts.on_ended(owner, &how, NULL);
        break;
    }
}

static void have_data(void *owner, const uint8_t *bytes, size_t size)
{
    struct guest_process *p = owner;
    struct exec_event event = {.kind = EXEC_STARTED};
    struct bg_err err;
    p->in_call = true;
    while (p->stream && event.kind != EXEC_NEED_MORE) {
        size_t used = 0;
        int r = exec_frames_next(&p->frames, bytes, size, &used, &event, &err);
        bytes += used;
        size -= used;
        if (r < 0) {
            p->opts.on_ended(p->opts.owner, NULL, &err);
            break;
        }
        tell(p, &event);
        if (event.kind == EXEC_ENDED || event.kind == EXEC_REFUSED)
            break;
    }
    p->in_call = false;
    if (!p->stream)
        free(p); /* closed in a callback */
}

static void stream_ended(void *owner, const struct bg_err *err)
{
    struct guest_process *p = owner;
    struct bg_err gone;
    if (p->frames.state == EXEC_READ_NOTHING)
        return; /* its last word was said */
    (void)bg_err_set(&gone, -ECONNRESET, "the sandbox ended, or its guest");
    p->in_call = true;
    p->opts.on_ended(p->opts.owner, NULL, err ? err : &gone);
    p->in_call = false;
    if (!p->stream)
        free(p);
}

int guest_process_start(uv_loop_t *loop, const struct guest_process_opts *opts,
                        struct guest_process **ret, struct bg_err *err)
{
    BG_AUTOFREE uint8_t *body = NULL;
    size_t size = 0;
    int r = exec_request_emit(opts->request, &body, &size, err);
    if (r < 0)
        return r;
    BG_AUTOFREE struct guest_process *p = calloc(1, sizeof *p);
    if (!p)
        return bg_err_errno(err, -ENOMEM, "process");
    p->opts = *opts;
    p->opts.paths = NULL;
    p->opts.sandbox = NULL;
    p->opts.request = NULL;
    exec_frames_init(&p->frames, opts->request->tty);
    const struct guest_stream_opts stream = {.paths = opts->paths,
                                             .sandbox = opts->sandbox,
                                             .kind = "exec",
                                             .body = body,
                                             .size = size,
                                             .on_data = have_data,
                                             .on_end = stream_ended,
                                             .owner = p};
    r = guest_stream_open(loop, &stream, &p->stream, err);
    if (r < 0)
        return r;
    *ret = BG_TAKE(p);
    return 0;
}
