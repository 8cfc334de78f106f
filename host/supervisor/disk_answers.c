#include "host/supervisor/disk_answers.h"

#include <string.h>

#include "common/quote.h"

/* A status and its text. */
static int take_status(int32_t status, const uint8_t *text, size_t size, struct bg_err *err)
{
    char escaped[BG_ERR_TEXT_SIZE];
    if (status == 0)
        return 0;
    if (status > 0 || status < -4095)
        return bg_err_set(err, -EPROTO, "agent: status %d of a disk", status);
    bg_escape((const char *)text, size, escaped, sizeof escaped);
    return bg_err_set(err, status, "%s", escaped[0] ? escaped : strerror(-status));
}

/* Takes the one whole message at the start of the buffer, if there is one; *ret_size is its size or
 * 0. */
static int take_reply(struct disk_answers *answers, size_t *ret_size, struct bg_err *err)
{
    struct bg_reply_header reply;
    *ret_size = 0;
    if (answers->used < BG_REPLY_HEADER_SIZE)
        return 0;
    int r = bg_reply_header_parse(answers->buffer, BG_REPLY_HEADER_SIZE, &reply, err);
    if (r < 0 || answers->used < BG_REPLY_HEADER_SIZE + reply.body_size)
        return r;
    *ret_size = BG_REPLY_HEADER_SIZE + reply.body_size;
    answers->mounted = reply.status == 0;
    return take_status(reply.status, answers->buffer + BG_REPLY_HEADER_SIZE, reply.body_size, err);
}

static int take_end(struct disk_answers *answers, size_t *ret_size, struct bg_err *err)
{
    struct bg_frame_header frame;
    *ret_size = 0;
    if (answers->used < BG_FRAME_HEADER_SIZE)
        return 0;
    int r = bg_frame_header_parse(answers->buffer, BG_FRAME_HEADER_SIZE, DISK_END_SIZE_MAX, &frame,
                                  err);
    if (r < 0 || answers->used < BG_FRAME_HEADER_SIZE + frame.size)
        return r;
    struct bg_reader in = bg_reader_init(answers->buffer + BG_FRAME_HEADER_SIZE, frame.size);
    int32_t status = (int32_t)bg_reader_u32le(&in);
    if (frame.type != BG_FRAME_END || !bg_reader_ok(&in))
        return bg_err_set(err, -EPROTO, "agent: frame %u of %u bytes about a disk", frame.type,
                          frame.size);
    *ret_size = BG_FRAME_HEADER_SIZE + frame.size;
    answers->ended = true;
    return take_status(status, in.at, in.left, err);
}

int disk_answers_feed(struct disk_answers *answers, const uint8_t *bytes, size_t size,
                      struct bg_err *err)
{
    while (size > 0) {
        if (answers->ended)
            return bg_err_set(err, -EPROTO, "agent: %zu bytes behind the end of a disk", size);
        size_t room = sizeof answers->buffer - answers->used;
        size_t n = size < room ? size : room;
        memcpy(answers->buffer + answers->used, bytes, n);
        answers->used += n;
        bytes += n;
        size -= n;
        for (size_t done = 1; done > 0 && !answers->ended;) {
            int r =
                answers->mounted ? take_end(answers, &done, err) : take_reply(answers, &done, err);
            if (r < 0)
                return r;
            memmove(answers->buffer, answers->buffer + done, answers->used - done);
            answers->used -= done;
        }
    }
    if (answers->ended && answers->used > 0)
        return bg_err_set(err, -EPROTO, "agent: %zu bytes behind the end of a disk", answers->used);
    return 0;
}
