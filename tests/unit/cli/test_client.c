/* client, launch's lines and copy_stream, against the other end of a socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "common/wire.h"
#include "host/cli/client.h"
#include "host/cli/copy_stream.h"
#include "host/cli/launch.h"

static void read_the_meaning_of_answers(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        int r;
        const char *says;
    } cases[] = {
        {"{\"ok\":true}", 0, ""},
        {"{\"ok\":true,\"clean\":false}", 0, ""},
        {"{\"ok\":false,\"errno\":2,\"error\":\"no \\u001b[2J\"}", -ENOENT, "no \\x1b[2J"},
        {"{\"ok\":false,\"errno\":0,\"error\":\"x\"}", -EREMOTEIO, "x"},
        {"{\"ok\":false,\"errno\":-5,\"error\":\"x\"}", -EREMOTEIO, "x"},
        {"{\"ok\":false,\"errno\":4096,\"error\":\"x\"}", -EREMOTEIO, "x"},
        {"{\"ok\":false,\"error\":\"x\"}", -EREMOTEIO, "x"},
        {"{\"ok\":false}", -EPROTO, "no sense"},
        {"{\"ok\":1}", -EPROTO, "no sense"},
        {"{\"ok\":true,\"ok\":true}", -EPROTO, "no sense"},
        {"[]", -EPROTO, "no sense"},
        {"", -EPROTO, "no sense"},
        {"{\"ok\":true}x", -EPROTO, "no sense"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *json = NULL;
        struct bg_err err = {0};
        int r = client_parse_answer(cases[i].line, strlen(cases[i].line), &json, &err);
        if (r != cases[i].r || !strstr(err.text, cases[i].says))
            fail_msg("%s: %d %s", cases[i].line, r, err.text);
        json_decref(json);
    }
}

static void reads_the_supervisors_status(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        int r;
        enum launch_line_kind kind;
        const char *says;
    } cases[] = {
        {"{\"progress\":\"making\\n\"}", 0, LAUNCH_PROGRESS, "making\\x0a"},
        {"{\"ready\":true,\"timings\":{\"ready_ms\":5}}", 0, LAUNCH_READY, ""},
        {"{\"ready\":true}", 0, LAUNCH_READY, ""},
        {"{\"error\":\"no disk\",\"errno\":28}", -ENOSPC, LAUNCH_ERROR, "no disk"},
        {"{\"error\":\"odd\"}", -EREMOTEIO, LAUNCH_ERROR, "odd"},
        {"{\"error\":\"odd\",\"ready\":true}", -EPROTO, LAUNCH_ERROR, "no sense"},
        {"{\"ready\":false}", -EPROTO, LAUNCH_ERROR, "no sense"},
        {"{\"progress\":1}", -EPROTO, LAUNCH_ERROR, "no sense"},
        {"ready", -EPROTO, LAUNCH_ERROR, "no sense"},
        {"", -EPROTO, LAUNCH_ERROR, "no sense"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[BG_ERR_TEXT_SIZE] = "";
        json_t *timings = NULL;
        enum launch_line_kind kind = LAUNCH_ERROR;
        struct bg_err err = {0};
        int r =
            launch_parse_line(cases[i].line, strlen(cases[i].line), &kind, text, &timings, &err);
        assert_int_equal(r, cases[i].r);
        if (r == 0)
            assert_int_equal(kind, cases[i].kind);
        assert_non_null(strstr(r < 0 ? err.text : text, cases[i].says));
        json_decref(timings);
    }
}

static void pair(int ends[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
}

static void takes_one_line_and_leaves_the_rest(void **state)
{
    (void)state;
    int ends[2];
    char line[64], rest[8] = {0};
    pair(ends);
    assert_int_equal(bg_write_full(ends[1], "one\nBGLR", 8), 0);
    assert_int_equal(client_read_line(ends[0], bg_now_ms() + 10000, line, sizeof line), 0);
    assert_string_equal(line, "one");
    assert_int_equal(bg_read_full(ends[0], rest, 4), 0);
    assert_string_equal(rest, "BGLR");
    char small[4];
    assert_int_equal(bg_write_full(ends[1], "12345\n", 6), 0);
    assert_int_equal(client_read_line(ends[0], bg_now_ms() + 10000, small, sizeof small),
                     -EMSGSIZE);
    assert_int_equal(client_read_line(ends[0], 0, line, sizeof line), -ETIME);
    assert_int_equal(client_read_line(ends[0], bg_now_ms() + 10000, line, sizeof line), 0);
    (void)close(ends[1]);
    assert_int_equal(client_read_line(ends[0], bg_now_ms() + 10000, line, sizeof line), -ENODATA);
    (void)close(ends[0]);
}

static void reads_replies_of_streams(void **state)
{
    (void)state;
    static const struct {
        int32_t status;
        const char *text;
        int r;
        const char *says;
    } cases[] = {
        {0, "", 0, ""},
        {0, "more", -EPROTO, "4 bytes"},
        {-2, "/no/such\x1b", -ENOENT, "/no/such\\x1b"},
        {-2, "", -ENOENT, "No such file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int ends[2];
        uint8_t header[BG_REPLY_HEADER_SIZE];
        struct bg_err err = {0};
        pair(ends);
        bg_reply_header_emit(
            &(struct bg_reply_header){.status = cases[i].status,
                                      .body_size = (uint32_t)strlen(cases[i].text)},
            header);
        assert_int_equal(bg_write_full(ends[1], header, sizeof header), 0);
        assert_int_equal(bg_write_full(ends[1], cases[i].text, strlen(cases[i].text)), 0);
        assert_int_equal(client_stream_reply(ends[0], 10000, &err), cases[i].r);
        assert_non_null(strstr(err.text, cases[i].says));
        (void)close(ends[0]);
        (void)close(ends[1]);
    }
    int ends[2];
    struct bg_err err;
    pair(ends);
    assert_int_equal(client_stream_reply(ends[0], 0, &err), -ETIME);
    assert_int_equal(bg_write_full(ends[1], "BGLR\0\0", 6), 0);
    (void)close(ends[1]);
    assert_int_equal(client_stream_reply(ends[0], 10000, &err), -ECONNRESET);
    (void)close(ends[0]);
}

/* --- copy_stream --- */

static void put_frame(int fd, uint8_t type, const void *payload, uint32_t size)
{
    uint8_t header[BG_FRAME_HEADER_SIZE];
    bg_frame_header_emit(type, size, header);
    assert_int_equal(bg_write_full(fd, header, sizeof header), 0);
    assert_int_equal(bg_write_full(fd, payload, size), 0);
}

static void reads_a_copy_to_its_end(void **state)
{
    (void)state;
    int ends[2];
    const void *bytes;
    struct bg_err err;
    pair(ends);
    struct copy_stream *s = copy_stream_new(ends[0]);
    put_frame(ends[1], BG_FRAME_DATA, "", 0);
    put_frame(ends[1], BG_FRAME_DATA, "abc", 3);
    put_frame(ends[1], BG_FRAME_END, "\0\0\0\0", 4);
    assert_int_equal(copy_stream_read(s, &bytes), 3);
    assert_memory_equal(bytes, "abc", 3);
    assert_int_equal(copy_stream_read(s, &bytes), 0);
    assert_int_equal(copy_stream_read(s, &bytes), 0); /* and stays there */
    assert_int_equal(copy_stream_finish_read(s, &err), 0);
    free(s);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void tells_the_guests_reason(void **state)
{
    (void)state;
    int ends[2];
    const void *bytes;
    struct bg_err err;
    pair(ends);
    struct copy_stream *s = copy_stream_new(ends[0]);
    put_frame(ends[1], BG_FRAME_END,
              "\xe4\xff\xff\xff"
              "no \x1b space",
              4 + 10); /* -28 */
    assert_int_equal(copy_stream_read(s, &bytes), -ECANCELED);
    assert_int_equal(copy_stream_finish_read(s, &err), -ENOSPC);
    assert_string_equal(err.text, "in the sandbox: no \\x1b space");
    free(s);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void refuses_broken_copies(void **state)
{
    (void)state;
    static const struct {
        uint8_t type;
        const char *payload;
        uint32_t size;
    } cases[] = {
        {BG_FRAME_END, "\0\0\0", 3},
        {BG_FRAME_END, "\1\0\0\0", 4},
        {BG_FRAME_END, "\0\xf0\xff\xff", 4}, /* -4096 */
        {BG_FRAME_END, "\0\0\0\x80", 4},
        {BG_FRAME_STDOUT, "x", 1},
        {0, "", 0},
        {BG_FRAME_EXIT, "\0\0\0\0\0\0\0\0", 8},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int ends[2];
        const void *bytes;
        pair(ends);
        struct copy_stream *s = copy_stream_new(ends[0]);
        put_frame(ends[1], cases[i].type, cases[i].payload, cases[i].size);
        put_frame(ends[1], BG_FRAME_END, "\0\0\0\0", 4); /* which mends nothing */
        assert_int_equal(copy_stream_read(s, &bytes), -EPROTO);
        assert_int_equal(copy_stream_read(s, &bytes), -EPROTO);
        free(s);
        (void)close(ends[0]);
        (void)close(ends[1]);
    }
}

static void a_cut_copy_is_an_error(void **state)
{
    (void)state;
    uint8_t whole[64];
    size_t size = 0;
    bg_frame_header_emit(BG_FRAME_DATA, 3, whole);
    memcpy(whole + 8, "abc", 3);
    bg_frame_header_emit(BG_FRAME_END, 4, whole + 11);
    memset(whole + 19, 0, 4);
    for (size = 0; size < 23; size++) {
        int ends[2];
        const void *bytes;
        ssize_t n;
        pair(ends);
        struct copy_stream *s = copy_stream_new(ends[0]);
        assert_int_equal(bg_write_full(ends[1], whole, size), 0);
        (void)close(ends[1]);
        while ((n = copy_stream_read(s, &bytes)) > 0)
            ;
        assert_int_equal(n, -ECONNRESET);
        free(s);
        (void)close(ends[0]);
    }
}

static void endless_data_behind_the_tar_is_refused(void **state)
{
    (void)state;
    int ends[2];
    struct bg_err err;
    pair(ends);
    pid_t guest = fork();
    assert_true(guest >= 0);
    if (guest == 0) {
        static uint8_t frame[BG_FRAME_HEADER_SIZE + BG_FRAME_SIZE_MAX];
        (void)signal(SIGPIPE, SIG_IGN);
        (void)close(ends[0]);
        bg_frame_header_emit(BG_FRAME_DATA, BG_FRAME_SIZE_MAX, frame);
        while (bg_write_full(ends[1], frame, sizeof frame) == 0)
            ;
        _exit(0);
    }
    (void)close(ends[1]);
    struct copy_stream *s = copy_stream_new(ends[0]);
    assert_int_equal(copy_stream_finish_read(s, &err), -EPROTO);
    free(s);
    (void)close(ends[0]);
    int status;
    assert_int_equal(waitpid(guest, &status, 0), guest);
}

static void stops_sending_when_the_guest_has_ended_it(void **state)
{
    (void)state;
    int ends[2];
    static const uint8_t much[1 << 20];
    struct bg_err err;
    pair(ends);
    struct copy_stream *s = copy_stream_new(ends[0]);
    put_frame(ends[1], BG_FRAME_END, "\xe4\xff\xff\xff", 4);
    int r = 0;
    for (int i = 0; i < 100 && r == 0; i++)
        r = copy_stream_write(s, much, sizeof much);
    assert_int_equal(r, -ECANCELED);
    assert_int_equal(copy_stream_explain(s, r, &err), -ENOSPC);
    free(s);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void ends_its_own_copy(void **state)
{
    (void)state;
    int ends[2];
    struct bg_err err;
    uint8_t got[8 + 5 + 8 + 4];
    pair(ends);
    struct copy_stream *s = copy_stream_new(ends[0]);
    assert_int_equal(copy_stream_write(s, "hello", 5), 0);
    put_frame(ends[1], BG_FRAME_END, "\0\0\0\0", 4);
    /* The guest's END is there already: it had all it wanted. */
    assert_int_equal(copy_stream_finish_write(s, &err), 0);
    (void)close(ends[0]);
    assert_int_equal(bg_read_full(ends[1], got, 13), 0);
    assert_memory_equal(got + 8, "hello", 5);
    free(s);
    (void)close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read_the_meaning_of_answers),
        cmocka_unit_test(reads_the_supervisors_status),
        cmocka_unit_test(takes_one_line_and_leaves_the_rest),
        cmocka_unit_test(reads_replies_of_streams),
        cmocka_unit_test(reads_a_copy_to_its_end),
        cmocka_unit_test(tells_the_guests_reason),
        cmocka_unit_test(refuses_broken_copies),
        cmocka_unit_test(a_cut_copy_is_an_error),
        cmocka_unit_test(endless_data_behind_the_tar_is_refused),
        cmocka_unit_test(stops_sending_when_the_guest_has_ended_it),
        cmocka_unit_test(ends_its_own_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
