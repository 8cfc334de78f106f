#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "host/supervisor/disk_answers.h"

static void put_reply(struct bg_writer *w, int32_t status, const char *text)
{
    uint8_t header[BG_REPLY_HEADER_SIZE];
    bg_reply_header_emit(
        &(struct bg_reply_header){.status = status, .body_size = (uint32_t)strlen(text)}, header);
    bg_writer_bytes(w, header, sizeof header);
    bg_writer_bytes(w, text, strlen(text));
}

static void put_end(struct bg_writer *w, uint8_t type, int32_t status, const char *text)
{
    uint8_t header[BG_FRAME_HEADER_SIZE];
    bg_frame_header_emit(type, (uint32_t)(4 + strlen(text)), header);
    bg_writer_bytes(w, header, sizeof header);
    bg_writer_u32le(w, (uint32_t)status);
    bg_writer_bytes(w, text, strlen(text));
}

/* Feeds in pieces of size piece. */
static int feed(struct disk_answers *answers, const uint8_t *bytes, size_t size, size_t piece,
                struct bg_err *err)
{
    int r = 0;
    *answers = (struct disk_answers){0};
    for (size_t at = 0; at < size && r == 0; at += piece)
        r = disk_answers_feed(answers, bytes + at, piece < size - at ? piece : size - at, err);
    return r;
}

static void takes_a_mount_and_its_end(void **state)
{
    (void)state;
    uint8_t bytes[256];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    put_reply(&w, 0, "");
    size_t reply_size = w.used;
    put_end(&w, BG_FRAME_END, 0, "");
    for (size_t piece = 1; piece <= w.used; piece++) {
        struct disk_answers answers;
        struct bg_err err;
        assert_int_equal(feed(&answers, bytes, reply_size - 1, piece, &err), 0);
        assert_false(answers.mounted);
        assert_int_equal(feed(&answers, bytes, w.used - 1, piece, &err), 0);
        assert_true(answers.mounted && !answers.ended);
        assert_int_equal(feed(&answers, bytes, w.used, piece, &err), 0);
        assert_true(answers.mounted && answers.ended);
    }
}

static void tells_what_the_agent_says_escaped(void **state)
{
    (void)state;
    uint8_t bytes[256];
    struct disk_answers answers;
    struct bg_err err;
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    put_reply(&w, -EUCLEAN, "no \x1b[31m disk");
    assert_int_equal(feed(&answers, bytes, w.used, w.used, &err), -EUCLEAN);
    assert_false(answers.mounted);
    assert_null(strchr(err.text, '\x1b'));
    assert_non_null(strstr(err.text, "no "));
    w = bg_writer_init(bytes, sizeof bytes);
    put_reply(&w, 0, "");
    put_end(&w, BG_FRAME_END, -EBUSY, "in use");
    assert_int_equal(feed(&answers, bytes, w.used, 1, &err), -EBUSY);
    assert_string_equal(err.text, "in use");
    w = bg_writer_init(bytes, sizeof bytes);
    put_reply(&w, -EIO, "");
    assert_int_equal(feed(&answers, bytes, w.used, 1, &err), -EIO);
    assert_true(err.text[0] != '\0');
}

static void refuses_what_makes_no_sense(void **state)
{
    (void)state;
    struct {
        int32_t status;
        uint8_t type;
        int32_t end;
        uint8_t more;
    } rows[] = {{1, 0, 0, 0},
                {-4096, 0, 0, 0},
                {0, BG_FRAME_DATA, 0, 0},
                {0, BG_FRAME_END, 1, 0},
                {0, BG_FRAME_END, INT32_MIN, 0},
                {0, BG_FRAME_END, 0, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t piece = 1; piece < 40; piece++) {
            uint8_t bytes[256];
            struct disk_answers answers;
            struct bg_err err;
            struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
            put_reply(&w, rows[i].status, "");
            put_end(&w, rows[i].type, rows[i].end, "");
            bg_writer_bytes(&w, "x", rows[i].more);
            assert_int_equal(feed(&answers, bytes, w.used, piece, &err), -EPROTO);
        }
    /* A status that is not there, and texts above the maximum. */
    uint8_t bytes[64];
    struct disk_answers answers;
    struct bg_err err;
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    put_reply(&w, 0, "");
    assert_int_equal(w.used, BG_REPLY_HEADER_SIZE);
    bg_frame_header_emit(BG_FRAME_END, 3, bytes + BG_REPLY_HEADER_SIZE);
    memset(bytes + BG_REPLY_HEADER_SIZE + BG_FRAME_HEADER_SIZE, 0, 3);
    assert_int_equal(
        feed(&answers, bytes, BG_REPLY_HEADER_SIZE + BG_FRAME_HEADER_SIZE + 3, 1, &err), -EPROTO);
    bg_frame_header_emit(BG_FRAME_END, DISK_END_SIZE_MAX + 1, bytes + BG_REPLY_HEADER_SIZE);
    assert_int_equal(feed(&answers, bytes, BG_REPLY_HEADER_SIZE + BG_FRAME_HEADER_SIZE, 1, &err),
                     -EPROTO);
    bg_frame_header_emit(BG_FRAME_END, DISK_END_SIZE_MAX, bytes + BG_REPLY_HEADER_SIZE);
    assert_int_equal(feed(&answers, bytes, BG_REPLY_HEADER_SIZE + BG_FRAME_HEADER_SIZE, 1, &err),
                     0);
}

static void takes_the_longest_texts(void **state)
{
    (void)state;
    uint8_t bytes[BG_REPLY_HEADER_SIZE + BG_REPLY_TEXT_MAX];
    struct disk_answers answers;
    struct bg_err err;
    memset(bytes, 'x', sizeof bytes);
    bg_reply_header_emit(&(struct bg_reply_header){.status = -EIO, .body_size = BG_REPLY_TEXT_MAX},
                         bytes);
    assert_int_equal(feed(&answers, bytes, sizeof bytes, sizeof bytes, &err), -EIO);
    assert_int_equal(feed(&answers, bytes, sizeof bytes - 1, 7, &err), 0);
    assert_false(answers.mounted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_a_mount_and_its_end),
        cmocka_unit_test(tells_what_the_agent_says_escaped),
        cmocka_unit_test(refuses_what_makes_no_sense),
        cmocka_unit_test(takes_the_longest_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
