#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/wire.h"
#include "host/cli/exec_frames.h"
#include "host/cli/exec_request.h"

struct bytes {
    uint8_t bytes[256 * 1024];
    size_t size;
};

static struct bytes stream; /* too large for a stack; each test begins with it empty */

static void put(const void *bytes, size_t size)
{
    assert_true(stream.size + size <= sizeof stream.bytes);
    if (size > 0)
        memcpy(stream.bytes + stream.size, bytes, size);
    stream.size += size;
}

static void put_reply(int32_t status, const void *body, uint32_t size)
{
    uint8_t header[BG_REPLY_HEADER_SIZE];
    bg_reply_header_emit(&(struct bg_reply_header){.status = status, .body_size = size}, header);
    put(header, sizeof header);
    put(body, size);
}

static void put_frame(uint8_t type, const void *payload, uint32_t size)
{
    uint8_t header[BG_FRAME_HEADER_SIZE];
    bg_frame_header_emit(type, size, header);
    put(header, sizeof header);
    put(payload, size);
}

static void put_u32s(uint8_t type, uint32_t first, uint32_t second, uint32_t count)
{
    uint8_t payload[8];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, first);
    bg_writer_u32le(&w, second);
    put_frame(type, payload, 4 * count);
}

static void begin(void)
{
    stream.size = 0;
    put_reply(0, "\x2a\0\0\0", 4);
}

static int digest_of(struct exec_frames *frames, size_t piece, char *out, size_t out_size,
                     struct bg_err *err)
{
    size_t used = 0;
    int last_stream = -1; /* joins pieces of output */
    out[0] = '\0';
    for (size_t at = 0; at < stream.size;) {
        size_t size = stream.size - at < piece ? stream.size - at : piece, done = 0;
        while (done < size) {
            struct exec_event event;
            size_t n;
            int r =
                exec_frames_next(frames, stream.bytes + at + done, size - done, &n, &event, err);
            if (r < 0)
                return r;
            done += n;
            char text[128] = "";
            switch (event.kind) {
            case EXEC_NEED_MORE:
                break;
            case EXEC_STARTED:
                (void)snprintf(text, sizeof text, "started");
                assert_true(event.pid != 0);
                break;
            case EXEC_ATTACHED:
                (void)snprintf(text, sizeof text, "attached(%u,%u,%u)", event.pid,
                               (unsigned)event.attached.out_at, event.attached.stdin_owed);
                break;
            case EXEC_TAKEN:
                (void)snprintf(text, sizeof text, "taken");
                break;
            case EXEC_REFUSED:
                (void)snprintf(text, sizeof text, "refused(%d,%s)", event.status, event.text);
                break;
            case EXEC_OUTPUT:
                (void)snprintf(text, sizeof text, "%s%.*s",
                               last_stream == event.is_stderr ? ""
                               : event.is_stderr              ? "err:"
                                                              : "out:",
                               (int)event.size, (const char *)event.bytes);
                break;
            case EXEC_WINDOW:
                (void)snprintf(text, sizeof text, "window(%u)", event.window);
                break;
            case EXEC_ENDED:
                (void)snprintf(text, sizeof text, "exit(%d)", event.exit_status);
                break;
            }
            if (event.kind != EXEC_NEED_MORE)
                last_stream = event.kind == EXEC_OUTPUT ? event.is_stderr : -1;
            used += (size_t)snprintf(out + used, out_size - used, "%s", text);
        }
        at += size;
    }
    return 0;
}

/* Everything that came, as text: "started out(..) err(..) window(n) exit(n)". Feeds pieces of at
 * most `piece` bytes. */
static int digest(bool tty, uint32_t owed, size_t piece, char *out, size_t out_size,
                  struct bg_err *err)
{
    static struct exec_frames frames;
    exec_frames_init(&frames, tty);
    if (owed > 0)
        exec_frames_sent(&frames, owed);
    return digest_of(&frames, piece, out, out_size, err);
}

static void reads_what_an_attach_tells(void **state)
{
    (void)state;
    uint8_t body[BG_EXEC_ATTACHED_SIZE];
    for (unsigned tty = 0; tty < 2; tty++) {
        struct bg_writer w = bg_writer_init(body, sizeof body);
        bg_exec_attached_emit(&(struct bg_exec_attached){.pid = 7,
                                                         .flags = tty ? BG_EXEC_IS_TTY : 0,
                                                         .out_at = 99,
                                                         .stdin_taken = 20,
                                                         .stdin_owed = 10},
                              &w);
        stream.size = 0;
        put_reply(0, body, sizeof body);
        put_u32s(BG_FRAME_WINDOW, 10, 0, 1); /* what is owed may be given back, and no more */
        put_frame(BG_FRAME_STDERR, "two", 3);
        put_frame(BG_FRAME_TAKEN, NULL, 0);
        put("more", 4);
        for (size_t piece = 1; piece <= stream.size; piece++) {
            char text[256];
            struct bg_err err;
            struct exec_frames frames;
            exec_frames_init_attach(&frames);
            assert_int_equal(digest_of(&frames, piece, text, sizeof text, &err), tty ? -EPROTO : 0);
            assert_string_equal(text, tty ? "attached(7,99,10)window(10)"
                                          : "attached(7,99,10)window(10)err:twotaken");
        }
    }
    /* Not that reply; and more given back than is owed. */
    struct exec_frames frames;
    char text[256];
    struct bg_err err;
    begin();
    exec_frames_init_attach(&frames);
    assert_int_equal(digest_of(&frames, 1000, text, sizeof text, &err), -EPROTO);
    stream.size = 0;
    put_reply(0, body, sizeof body);
    put_u32s(BG_FRAME_WINDOW, 11, 0, 1);
    exec_frames_init_attach(&frames);
    assert_int_equal(digest_of(&frames, 1000, text, sizeof text, &err), -EPROTO);
}

static void reads_a_stream_however_it_is_cut(void **state)
{
    (void)state;
    begin();
    put_frame(BG_FRAME_STDOUT, "one", 3);
    put_frame(BG_FRAME_STDERR, "two", 3);
    put_frame(BG_FRAME_STDOUT, "", 0);
    put_u32s(BG_FRAME_WINDOW, 7, 0, 1);
    put_frame(BG_FRAME_STDOUT, "three", 5);
    put_u32s(BG_FRAME_EXIT, BG_EXIT_STATUS, 3, 2);
    for (size_t piece = 1; piece <= stream.size; piece++) {
        char text[256];
        struct bg_err err;
        assert_int_equal(digest(false, 10, piece, text, sizeof text, &err), 0);
        assert_string_equal(text, "startedout:oneerr:twowindow(7)out:threeexit(3)");
    }
}

static void tells_signals(void **state)
{
    (void)state;
    for (uint32_t number = 1; number <= 64; number++) {
        char text[64], want[64];
        struct bg_err err;
        begin();
        put_u32s(BG_FRAME_EXIT, BG_EXIT_SIGNAL, number, 2);
        (void)snprintf(want, sizeof want, "startedexit(%u)", 128 + number);
        assert_int_equal(digest(false, 0, 1000, text, sizeof text, &err), 0);
        assert_string_equal(text, want);
    }
}

static void reads_nothing_behind_the_end(void **state)
{
    (void)state;
    char text[64];
    struct bg_err err;
    begin();
    put_u32s(BG_FRAME_EXIT, BG_EXIT_STATUS, 0, 2);
    put_frame(BG_FRAME_STDOUT, "more", 4);
    put("garbage", 7);
    assert_int_equal(digest(false, 0, 1000, text, sizeof text, &err), 0);
    assert_string_equal(text, "startedexit(0)");
}

static void tells_why_a_command_was_refused(void **state)
{
    (void)state;
    char text[BG_REPLY_TEXT_MAX * 4 + 64];
    struct bg_err err;
    stream.size = 0;
    put_reply(-2, "no \x1b[2Jsuch", 11);
    assert_int_equal(digest(false, 0, 5, text, sizeof text, &err), 0);
    assert_string_equal(text, "refused(-2,no \\x1b[2Jsuch)");
    stream.size = 0;
    put_reply(-13, NULL, 0);
    assert_int_equal(digest(false, 0, 5, text, sizeof text, &err), 0);
    assert_string_equal(text, "refused(-13,)");
    char long_text[BG_REPLY_TEXT_MAX];
    memset(long_text, 'x', sizeof long_text);
    stream.size = 0;
    put_reply(-22, long_text, sizeof long_text);
    assert_int_equal(digest(false, 0, 1000, text, sizeof text, &err), 0);
    assert_non_null(strstr(text, "refused(-22,xxx"));
}

static void refuses_broken_streams(void **state)
{
    (void)state;
    static const struct {
        uint8_t type;
        uint32_t size; /* of the payload, all of it bytes 1 */
        bool tty;
    } cases[] = {
        {0, 0, false},
        {BG_FRAME_STDIN, 1, false},
        {BG_FRAME_STDIN_EOF, 0, false},
        {BG_FRAME_RESIZE, 4, false},
        {BG_FRAME_SIGNAL, 4, false},
        {BG_FRAME_STDERR, 1, true},
        {BG_FRAME_WINDOW, 0, false},
        {BG_FRAME_WINDOW, 3, false},
        {BG_FRAME_WINDOW, 5, false},
        {BG_FRAME_WINDOW, 4, false}, /* more than was sent */
        {BG_FRAME_EXIT, 0, false},
        {BG_FRAME_EXIT, 7, false},
        {BG_FRAME_EXIT, 8, false}, /* how = 0x01010101 */
        {BG_FRAME_EXIT, 9, false},
        {BG_FRAME_DATA, 1, false},
        {BG_FRAME_END, 4, false},
        {BG_FRAME_HELLO, 8, false},
        {255, 0, false},
    };
    char text[64];
    struct bg_err err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t payload[16];
        memset(payload, 1, sizeof payload);
        begin();
        put_frame(cases[i].type, payload, cases[i].size);
        if (digest(cases[i].tty, 100, 1000, text, sizeof text, &err) != -EPROTO)
            fail_msg("accepted: frame %u of %u bytes", cases[i].type, cases[i].size);
    }
}

static void refuses_values_out_of_range(void **state)
{
    (void)state;
    static const uint32_t exits[][2] = {{0, 256}, {0, UINT32_MAX}, {1, 0}, {1, 65}, {2, 1}};
    char text[64];
    struct bg_err err;
    for (size_t i = 0; i < sizeof exits / sizeof *exits; i++) {
        begin();
        put_u32s(BG_FRAME_EXIT, exits[i][0], exits[i][1], 2);
        assert_int_equal(digest(false, 0, 1000, text, sizeof text, &err), -EPROTO);
    }
    static const uint32_t windows[][2] = {{0, 10}, {11, 10}, {UINT32_MAX, 10}, {1, 0}};
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        begin();
        put_u32s(BG_FRAME_WINDOW, windows[i][0], 0, 1);
        assert_int_equal(digest(false, windows[i][1], 1000, text, sizeof text, &err), -EPROTO);
    }
    begin();
    put_u32s(BG_FRAME_WINDOW, 6, 0, 1); /* the same bytes given back twice */
    put_u32s(BG_FRAME_WINDOW, 6, 0, 1);
    assert_int_equal(digest(false, 10, 1000, text, sizeof text, &err), -EPROTO);
}

static void refuses_broken_headers(void **state)
{
    (void)state;
    char text[64];
    struct bg_err err;
    for (uint32_t size = 0; size <= 8; size++) { /* a pid is 4 bytes */
        stream.size = 0;
        put_reply(0, "12345678", size);
        assert_int_equal(digest(false, 0, 3, text, sizeof text, &err), size == 4 ? 0 : -EPROTO);
    }
    stream.size = 0;
    put("BGLX\0\0\0\0\0\0\0\0", 12); /* magic */
    assert_int_equal(digest(false, 0, 3, text, sizeof text, &err), -EPROTO);
    stream.size = 0;
    put("BGLR\0\0\0\0\x01\x10\0\0", 12); /* 4097 bytes */
    assert_int_equal(digest(false, 0, 3, text, sizeof text, &err), -EPROTO);
    static const uint8_t frames[][8] = {
        {BG_FRAME_STDOUT, 1, 0, 0, 1, 0, 0, 0}, /* padding */
        {BG_FRAME_STDOUT, 0, 0, 0, 1, 0, 1, 0}, /* 64 KiB + 1 */
        {BG_FRAME_STDOUT, 0, 0, 0, 255, 255, 255, 255},
    };
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        begin();
        put(frames[i], 8);
        assert_int_equal(digest(false, 0, 1000, text, sizeof text, &err), -EPROTO);
    }
}

static void passes_the_largest_frame(void **state)
{
    (void)state;
    static uint8_t payload[BG_FRAME_SIZE_MAX];
    static char text[2 * BG_FRAME_SIZE_MAX];
    struct bg_err err;
    memset(payload, 'y', sizeof payload);
    begin();
    put_frame(BG_FRAME_STDOUT, payload, sizeof payload);
    assert_int_equal(digest(false, 0, 100, text, sizeof text, &err), 0);
    assert_int_equal(strlen(text), strlen("startedout:") + sizeof payload);
}

static void a_cut_stream_is_no_end(void **state)
{
    (void)state;
    begin();
    put_frame(BG_FRAME_STDOUT, "one", 3);
    put_u32s(BG_FRAME_EXIT, BG_EXIT_STATUS, 0, 2);
    size_t whole = stream.size;
    for (stream.size = 0; stream.size < whole; stream.size++) {
        char text[64];
        struct bg_err err;
        assert_int_equal(digest(false, 0, 1000, text, sizeof text, &err), 0);
        assert_null(strstr(text, "exit"));
    }
}

static void emits_what_the_guest_reads(void **state)
{
    (void)state;
    char sh[] = "sh", option[] = "-c", script[] = "echo \xff \n", empty[] = "", env[] = "A=\xfe";
    char *argv[] = {sh, option, script, empty}, *envs[] = {env};
    const struct exec_request request = {.tty = true,
                                         .rows = 24,
                                         .columns = 80,
                                         .user = "root",
                                         .cwd = "/tmp",
                                         .argv = argv,
                                         .argc = 4,
                                         .env = envs,
                                         .envc = 1};
    uint8_t *bytes;
    size_t size;
    struct bg_err err;
    struct bg_exec_request parsed;
    assert_int_equal(exec_request_emit(&request, &bytes, &size, &err), 0);
    assert_int_equal(bg_exec_request_parse(bytes, size, &parsed, &err), 0);
    assert_int_equal(parsed.flags, BG_EXEC_TTY);
    assert_int_equal(parsed.rows, 24);
    assert_int_equal(parsed.columns, 80);
    assert_string_equal(parsed.user, "root");
    assert_string_equal(parsed.cwd, "/tmp");
    assert_int_equal(parsed.argc, 4);
    assert_int_equal(parsed.envc, 1);
    struct bg_reader in = bg_reader_init(parsed.strings, parsed.strings_size);
    char *const want[] = {sh, option, script, empty, env};
    for (size_t i = 0; i < 5; i++) {
        size_t n;
        const uint8_t *text = bg_reader_blob32le(&in, 1000, &n);
        assert_int_equal(n, strlen(want[i]));
        assert_memory_equal(text, want[i], n);
    }
    free(bytes);
}

static void refuses_too_many_arguments(void **state)
{
    (void)state;
    static char *argv[BG_EXEC_STRINGS_MAX + 1];
    static char large[BG_STREAM_BODY_MAX + 1];
    char word[] = "x";
    uint8_t *bytes;
    size_t size;
    struct bg_err err;
    for (size_t i = 0; i < sizeof argv / sizeof *argv; i++)
        argv[i] = word;
    struct exec_request request = {
        .user = "", .cwd = "", .argv = argv, .argc = BG_EXEC_STRINGS_MAX};
    assert_int_equal(exec_request_emit(&request, &bytes, &size, &err), 0);
    free(bytes);
    request.argc++;
    assert_int_equal(exec_request_emit(&request, &bytes, &size, &err), -E2BIG);
    memset(large, 'x', sizeof large - 1);
    argv[0] = large;
    request.argc = 1;
    assert_int_equal(exec_request_emit(&request, &bytes, &size, &err), -E2BIG);
    request.user = large;
    assert_int_equal(exec_request_emit(&request, &bytes, &size, &err), -E2BIG);
}

/* What the gateway's clients are told, beside what a shell would say. */
static void the_pid_and_the_signal_are_told(void **state)
{
    (void)state;
    static const struct {
        uint8_t how, value;
        int status, signal;
    } ends[] = {{BG_EXIT_STATUS, 137, 137, 0}, {BG_EXIT_SIGNAL, 9, 137, 9}};
    for (size_t i = 0; i < 2; i++) {
        static struct exec_frames frames;
        uint8_t bytes[BG_REPLY_HEADER_SIZE + 4 + BG_FRAME_HEADER_SIZE + 8] = {0};
        struct exec_event event;
        size_t used = 0;
        bg_reply_header_emit(&(struct bg_reply_header){.body_size = 4}, bytes);
        bytes[BG_REPLY_HEADER_SIZE] = 77;
        bg_frame_header_emit(BG_FRAME_EXIT, 8, bytes + BG_REPLY_HEADER_SIZE + 4);
        bytes[sizeof bytes - 8] = ends[i].how;
        bytes[sizeof bytes - 4] = ends[i].value;
        exec_frames_init(&frames, false);
        assert_int_equal(exec_frames_next(&frames, bytes, sizeof bytes, &used, &event, NULL), 0);
        assert_int_equal(event.kind, EXEC_STARTED);
        assert_int_equal(event.pid, 77);
        assert_int_equal(
            exec_frames_next(&frames, bytes + used, sizeof bytes - used, &used, &event, NULL), 0);
        assert_int_equal(event.kind, EXEC_ENDED);
        assert_int_equal(event.exit_status, ends[i].status);
        assert_int_equal(event.signal, ends[i].signal);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_pid_and_the_signal_are_told),
        cmocka_unit_test(reads_a_stream_however_it_is_cut),
        cmocka_unit_test(reads_what_an_attach_tells),
        cmocka_unit_test(tells_signals),
        cmocka_unit_test(reads_nothing_behind_the_end),
        cmocka_unit_test(tells_why_a_command_was_refused),
        cmocka_unit_test(refuses_broken_streams),
        cmocka_unit_test(refuses_values_out_of_range),
        cmocka_unit_test(refuses_broken_headers),
        cmocka_unit_test(passes_the_largest_frame),
        cmocka_unit_test(a_cut_stream_is_no_end),
        cmocka_unit_test(emits_what_the_guest_reads),
        cmocka_unit_test(refuses_too_many_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
