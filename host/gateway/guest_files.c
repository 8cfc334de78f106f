#include "host/gateway/guest_files.h"

#include <string.h>
#include <sys/queue.h>

#include "common/wire.h"
#include "host/gateway/guest_stream.h"

struct pending {
    SIMPLEQ_ENTRY(pending) link;
    guest_files_answer *on_answer;
    void *owner;
};

struct guest_files {
    struct guest_stream *stream; /* NULL: closed, or lost */
    enum { READ_REPLY, READ_REPLY_BODY, READ_HEADER, READ_ANSWER } state;
    SIMPLEQ_HEAD(, pending) pending;
    bool in_call; /* of a callback: freed when that is over */
    bool closed;
    size_t used, want; /* of what is gathered for the state */
    uint8_t bytes[BG_FRAME_SIZE_MAX];
};

static void free_pending(struct guest_files *f)
{
    struct pending *p;
    while ((p = SIMPLEQ_FIRST(&f->pending))) {
        SIMPLEQ_REMOVE_HEAD(&f->pending, link);
        free(p);
    }
}

void guest_files_close(struct guest_files *files)
{
    if (!files)
        return;
    files->closed = true;
    guest_stream_close(BG_TAKE(files->stream));
    free_pending(files);
    if (!files->in_call)
        free(files);
}

bool guest_files_lost(const struct guest_files *files)
{
    return !files->stream;
}

/* All that wait hear of it. */
static void lose(struct guest_files *f)
{
    struct pending *p;
    guest_stream_close(BG_TAKE(f->stream));
    while (!f->closed && (p = SIMPLEQ_FIRST(&f->pending))) {
        struct bg_reader nothing = bg_reader_init(NULL, 0);
        SIMPLEQ_REMOVE_HEAD(&f->pending, link);
        p->on_answer(p->owner, -ECONNRESET, false, &nothing);
        free(p);
    }
}

/* False: the guest has broken the protocol. */
static bool take_answer(struct guest_files *f)
{
    struct bg_reader in = bg_reader_init(f->bytes, f->used);
    struct bg_files_answer answer;
    struct pending *p = SIMPLEQ_FIRST(&f->pending);
    if (!p || bg_files_answer_parse(&in, &answer, NULL) < 0)
        return false;
    guest_files_answer *on_answer = p->on_answer;
    void *owner = p->owner;
    if (!answer.more) {
        SIMPLEQ_REMOVE_HEAD(&f->pending, link);
        free(p);
    }
    on_answer(owner, answer.status, answer.more, &in);
    return true;
}

static void next_answer(struct guest_files *f)
{
    f->state = READ_HEADER;
    f->want = BG_FRAME_HEADER_SIZE;
}

/* What was gathered is whole. */
static bool take(struct guest_files *f)
{
    struct bg_reply_header reply;
    struct bg_frame_header frame;
    switch (f->state) {
    case READ_REPLY:
        if (bg_reply_header_parse(f->bytes, f->used, &reply, NULL) < 0 || reply.status < 0)
            return false;
        f->state = READ_REPLY_BODY;
        f->want = reply.body_size;
        break;
    case READ_HEADER:
        if (bg_frame_header_parse(f->bytes, f->used, BG_FRAME_SIZE_MAX, &frame, NULL) < 0 ||
            frame.type != BG_FRAME_ANSWER)
            return false;
        f->state = READ_ANSWER;
        f->want = frame.size;
        break;
    case READ_ANSWER:
        if (!take_answer(f))
            return false;
        next_answer(f);
        break;
    case READ_REPLY_BODY:
        next_answer(f);
        break;
    }
    f->used = 0;
    return true;
}

static void have_data(void *owner, const uint8_t *bytes, size_t size)
{
    struct guest_files *f = owner;
    f->in_call = true;
    while (f->stream && (size > 0 || f->want == 0)) {
        size_t n = f->want - f->used < size ? f->want - f->used : size;
        if (n > 0)
            memcpy(f->bytes + f->used, bytes, n);
        f->used += n;
        bytes += n;
        size -= n;
        if (f->used == f->want && !take(f))
            lose(f);
    }
    f->in_call = false;
    if (f->closed)
        free(f);
}

static void stream_ended(void *owner, const struct bg_err *err)
{
    struct guest_files *f = owner;
    (void)err; /* its calls are told that it is gone */
    f->in_call = true;
    lose(f);
    f->in_call = false;
    if (f->closed)
        free(f);
}

int guest_files_open(uv_loop_t *loop, const struct bg_paths *paths,
                     const struct bg_sandbox *sandbox, uint32_t umask, struct guest_files **ret,
                     struct bg_err *err)
{
    uint8_t body[64];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_files_request_emit(&(struct bg_files_request){.umask = umask}, &w);
    BG_AUTOFREE struct guest_files *f = calloc(1, sizeof *f);
    if (!f)
        return bg_err_errno(err, -ENOMEM, "files");
    SIMPLEQ_INIT(&f->pending);
    f->want = BG_REPLY_HEADER_SIZE;
    const struct guest_stream_opts opts = {.paths = paths,
                                           .sandbox = sandbox,
                                           .kind = "files",
                                           .body = body,
                                           .size = w.used,
                                           .on_data = have_data,
                                           .on_end = stream_ended,
                                           .owner = f};
    int r = guest_stream_open(loop, &opts, &f->stream, err);
    if (r == 0)
        *ret = BG_TAKE(f);
    return r;
}

int guest_files_call(struct guest_files *files, const struct bg_writer *call,
                     guest_files_answer *on_answer, void *owner)
{
    if (!files->stream)
        return -ECONNRESET;
    struct pending *p = malloc(sizeof *p);
    uint8_t *frame = malloc(BG_FRAME_HEADER_SIZE + call->used);
    if (!p || !frame || !bg_writer_ok(call)) {
        free(p);
        free(frame);
        return -ENOMEM;
    }
    bg_frame_header_emit(BG_FRAME_CALL, (uint32_t)call->used, frame);
    memcpy(frame + BG_FRAME_HEADER_SIZE, call->start, call->used);
    int r = guest_stream_write(files->stream, frame, BG_FRAME_HEADER_SIZE + call->used);
    if (r < 0) {
        free(p);
        return r;
    }
    *p = (struct pending){.on_answer = on_answer, .owner = owner};
    SIMPLEQ_INSERT_TAIL(&files->pending, p, link);
    return 0;
}
