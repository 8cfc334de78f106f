#include "host/cli/exec_frames.h"

#include <assert.h>
#include <string.h>

#include "common/quote.h"
#include "common/wire.h"

void exec_frames_init(struct exec_frames *frames, bool tty)
{
    *frames = (struct exec_frames){.state = EXEC_READ_REPLY, .tty = tty};
}

void exec_frames_init_attach(struct exec_frames *frames)
{
    *frames = (struct exec_frames){.state = EXEC_READ_REPLY, .attach = true};
}

void exec_frames_sent(struct exec_frames *frames, uint32_t size)
{
    frames->stdin_owed += size;
    assert(frames->stdin_owed <= BG_EXEC_STDIN_WINDOW);
}

/* Collects until want bytes are kept. True when they are. */
static bool collect(struct exec_frames *f, size_t want, const uint8_t *bytes, size_t size,
                    size_t *used)
{
    assert(want <= sizeof f->kept);
    size_t take = want - f->kept_size;
    if (take > size - *used)
        take = size - *used;
    if (take > 0)
        memcpy(f->kept + f->kept_size, bytes + *used, take);
    f->kept_size += take;
    *used += take;
    if (f->kept_size < want)
        return false;
    f->kept_size = 0;
    return true;
}

static int reply_body(struct exec_frames *f, struct exec_event *ret, struct bg_err *err)
{
    if (f->reply_status < 0) {
        bg_escape((const char *)f->kept, f->left, f->text, sizeof f->text);
        *ret =
            (struct exec_event){.kind = EXEC_REFUSED, .status = f->reply_status, .text = f->text};
        f->state = EXEC_READ_NOTHING;
        return 0;
    }
    f->state = EXEC_READ_HEADER;
    if (f->attach) {
        struct bg_exec_attached attached;
        int r = bg_exec_attached_parse(f->kept, f->left, &attached, err);
        if (r < 0)
            return r;
        f->tty = attached.flags & BG_EXEC_IS_TTY;
        f->stdin_owed = attached.stdin_owed;
        *ret =
            (struct exec_event){.kind = EXEC_ATTACHED, .pid = attached.pid, .attached = attached};
        return 0;
    }
    if (f->left != 4)
        return bg_err_set(err, -EPROTO, "exec reply of %u bytes: want 4", f->left);
    struct bg_reader in = bg_reader_init(f->kept, 4);
    *ret = (struct exec_event){.kind = EXEC_STARTED, .pid = bg_reader_u32le(&in)};
    return 0;
}

static int frame_header(struct exec_frames *f, struct bg_err *err)
{
    struct bg_frame_header header;
    int r = bg_frame_header_parse(f->kept, BG_FRAME_HEADER_SIZE, BG_FRAME_SIZE_MAX, &header, err);
    if (r < 0)
        return r;
    f->type = header.type;
    f->left = header.size;
    if (header.type == BG_FRAME_STDOUT || (header.type == BG_FRAME_STDERR && !f->tty))
        f->state = header.size > 0 ? EXEC_READ_OUTPUT : EXEC_READ_HEADER;
    else if ((header.type == BG_FRAME_WINDOW && header.size == 4) ||
             (header.type == BG_FRAME_TAKEN && header.size == 0) ||
             (header.type == BG_FRAME_EXIT && header.size == 8))
        f->state = EXEC_READ_SMALL;
    else
        return bg_err_set(err, -EPROTO, "exec frame type %u of %u bytes", header.type, header.size);
    return 0;
}

static int small_frame(struct exec_frames *f, struct exec_event *ret, struct bg_err *err)
{
    if (f->type == BG_FRAME_TAKEN) {
        *ret = (struct exec_event){.kind = EXEC_TAKEN};
        f->state = EXEC_READ_NOTHING;
        return 0;
    }
    struct bg_reader in = bg_reader_init(f->kept, f->left);
    uint32_t first = bg_reader_u32le(&in);
    if (f->type == BG_FRAME_WINDOW) {
        if (first == 0 || first > f->stdin_owed)
            return bg_err_set(err, -EPROTO, "window of %u bytes: %u are out", first, f->stdin_owed);
        f->stdin_owed -= first;
        *ret = (struct exec_event){.kind = EXEC_WINDOW, .window = first};
        f->state = EXEC_READ_HEADER;
        return 0;
    }
    uint32_t value = bg_reader_u32le(&in);
    if (first == BG_EXIT_STATUS && value <= 255)
        *ret = (struct exec_event){.kind = EXEC_ENDED, .exit_status = (int)value};
    else if (first == BG_EXIT_SIGNAL && value >= 1 && value <= 64)
        *ret = (struct exec_event){
            .kind = EXEC_ENDED, .exit_status = 128 + (int)value, .signal = (int)value};
    else
        return bg_err_set(err, -EPROTO, "exit frame: how %u, value %u", first, value);
    f->state = EXEC_READ_NOTHING;
    return 0;
}

/* Does what the collected bytes ask for. *ret_done: *ret is an event for the caller. */
static int collected(struct exec_frames *f, bool *ret_done, struct exec_event *ret,
                     struct bg_err *err)
{
    struct bg_reply_header reply;
    int r;
    *ret_done = false;
    switch (f->state) {
    case EXEC_READ_REPLY:
        r = bg_reply_header_parse(f->kept, BG_REPLY_HEADER_SIZE, &reply, err);
        if (r < 0)
            return r;
        f->reply_status = reply.status;
        f->left = reply.body_size;
        f->state = EXEC_READ_REPLY_BODY;
        return 0;
    case EXEC_READ_REPLY_BODY:
        *ret_done = true;
        return reply_body(f, ret, err);
    case EXEC_READ_HEADER:
        return frame_header(f, err);
    case EXEC_READ_SMALL:
        *ret_done = true;
        return small_frame(f, ret, err);
    case EXEC_READ_OUTPUT:
    case EXEC_READ_NOTHING:
        break;
    }
    return 0;
}

static size_t wanted(const struct exec_frames *f)
{
    switch (f->state) {
    case EXEC_READ_REPLY:
        return BG_REPLY_HEADER_SIZE;
    case EXEC_READ_HEADER:
        return BG_FRAME_HEADER_SIZE;
    case EXEC_READ_REPLY_BODY:
    case EXEC_READ_SMALL:
        return f->left;
    case EXEC_READ_OUTPUT:
    case EXEC_READ_NOTHING:
        break;
    }
    return 0;
}

int exec_frames_next(struct exec_frames *frames, const uint8_t *bytes, size_t size,
                     size_t *ret_used, struct exec_event *ret, struct bg_err *err)
{
    struct exec_frames *f = frames;
    size_t used = 0;
    bool done = false;
    *ret = (struct exec_event){.kind = EXEC_NEED_MORE};
    while (!done && f->state != EXEC_READ_NOTHING) {
        if (f->state == EXEC_READ_OUTPUT) {
            size_t here = size - used < f->left ? size - used : f->left;
            if (here == 0)
                break;
            *ret = (struct exec_event){.kind = EXEC_OUTPUT,
                                       .is_stderr = f->type == BG_FRAME_STDERR,
                                       .bytes = bytes + used,
                                       .size = here};
            f->left -= (uint32_t)here;
            used += here;
            if (f->left == 0)
                f->state = EXEC_READ_HEADER;
            break;
        }
        if (!collect(f, wanted(f), bytes, size, &used))
            break;
        int r = collected(f, &done, ret, err);
        if (r < 0) {
            f->state = EXEC_READ_NOTHING;
            *ret_used = used;
            return r;
        }
    }
    *ret_used = f->state == EXEC_READ_NOTHING ? size : used;
    return 0;
}
