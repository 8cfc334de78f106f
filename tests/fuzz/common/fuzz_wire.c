/* Every message of common/wire.h. The first byte chooses the parser. What is accepted must stay in
 * its bounds and, where there is an emitter, come out as the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "common/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void must_equal(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size)
{
    must(a_size == b_size && memcmp(a, b, a_size) == 0);
}

/* Walks count blobs that the parser has checked: none may fail or hold a NUL. */
static void walk_strings(const uint8_t *strings, size_t size, uint32_t count)
{
    struct bg_reader in = bg_reader_init(strings, size);
    for (uint32_t i = 0; i < count; i++) {
        size_t length;
        const uint8_t *p = bg_reader_blob32le(&in, BG_STREAM_BODY_MAX, &length);
        must(p && !memchr(p, 0, length));
    }
    must(bg_reader_end(&in));
}

static void header(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_stream_header h;
    uint8_t out[BG_STREAM_HEADER_SIZE];
    if (bg_stream_header_parse(bytes, size, &h, err) < 0)
        return;
    must(h.id != 0 && h.body_size <= BG_STREAM_BODY_MAX);
    bg_stream_header_emit(&h, out);
    must_equal(bytes, size, out, sizeof out);
}

static void reply(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_reply_header h;
    uint8_t out[BG_REPLY_HEADER_SIZE];
    if (bg_reply_header_parse(bytes, size, &h, err) < 0)
        return;
    must(h.status <= 0 && h.body_size <= BG_REPLY_TEXT_MAX);
    bg_reply_header_emit(&h, out);
    must_equal(bytes, size, out, sizeof out);
}

static void frame(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_frame_header h;
    uint8_t out[BG_FRAME_HEADER_SIZE];
    if (bg_frame_header_parse(bytes, size, BG_FRAME_SIZE_MAX, &h, err) < 0)
        return;
    must(h.size <= BG_FRAME_SIZE_MAX);
    bg_frame_header_emit(h.type, h.size, out);
    must_equal(bytes, size, out, sizeof out);
}

static void exec(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_exec_request q;
    if (bg_exec_request_parse(bytes, size, &q, err) < 0)
        return;
    must(q.argc >= 1 && q.argc <= BG_EXEC_STRINGS_MAX && q.envc <= BG_EXEC_STRINGS_MAX);
    walk_strings(q.strings, q.strings_size, q.argc + q.envc);
}

static void copy(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_copy_request q;
    if (bg_copy_request_parse(bytes, size, &q, err) < 0)
        return;
    must(!strchr(q.root, '/') && strcmp(q.root, "..") != 0 && q.root[0] && q.path[0]);
    uint8_t out[sizeof q + 64];
    struct bg_writer w = bg_writer_init(out, sizeof out);
    bg_copy_request_emit(&q, &w);
    must(bg_writer_ok(&w));
    must_equal(bytes, size, out, w.used);
}

static void identity(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_identity q;
    if (bg_identity_parse(bytes, size, &q, err) < 0)
        return;
    walk_strings(q.env, q.env_size, q.envc);
    uint8_t *out = malloc(size);
    must(out != NULL);
    struct bg_writer w = bg_writer_init(out, size);
    bg_identity_emit(&q, &w);
    must(bg_writer_ok(&w));
    must_equal(bytes, size, out, w.used);
    free(out);
}

static void connect(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_connect_request q;
    if (bg_connect_request_parse(bytes, size, &q, err) < 0)
        return;
    must(q.port != 0 && q.host[0] && strlen(q.host) <= BG_NAME_MAX);
    uint8_t out[BG_NAME_MAX + 64];
    struct bg_writer w = bg_writer_init(out, sizeof out);
    bg_connect_request_emit(&q, &w);
    must(bg_writer_ok(&w));
    must_equal(bytes, size, out, w.used);
}

static void bench(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_bench_request q;
    if (bg_bench_request_parse(bytes, size, &q, err) < 0)
        return;
    must(q.mode <= BG_BENCH_SOURCE);
    uint8_t out[16];
    struct bg_writer w = bg_writer_init(out, sizeof out);
    bg_bench_request_emit(&q, &w);
    must_equal(bytes, size, out, w.used);
}

static void forward(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    uint16_t port = 0;
    if (bg_forward_request_parse(bytes, size, &port, err) == 0)
        must(port != 0);
}

static void fuse(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_fuse_request q;
    if (bg_fuse_request_parse(bytes, size, &q, err) < 0)
        return;
    must(q.path[0] == '/');
    uint8_t out[BG_PATH_MAX + 64];
    struct bg_writer w = bg_writer_init(out, sizeof out);
    bg_fuse_request_emit(&q, &w);
    must_equal(bytes, size, out, w.used);
}

static void share(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_share_request q;
    if (bg_share_request_parse(bytes, size, &q, err) < 0)
        return;
    must(q.path[0] == '/' && q.path[1] != '\0');
    uint8_t out[BG_PATH_MAX + 64];
    struct bg_writer w = bg_writer_init(out, sizeof out);
    bg_share_request_emit(&q, &w);
    must_equal(bytes, size, out, w.used);
}

static void disk(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_disk_request q;
    if (bg_disk_request_parse(bytes, size, &q, err) < 0)
        return;
    must(q.serial[0] && strlen(q.serial) <= BG_DISK_SERIAL_MAX);
    uint8_t out[64];
    struct bg_writer w = bg_writer_init(out, sizeof out);
    bg_disk_request_emit(&q, &w);
    must_equal(bytes, size, out, w.used);
}

static void volume(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_volume_request q;
    if (bg_volume_request_parse(bytes, size, &q, err) < 0)
        return;
    must(q.serial[0] && q.path[0] == '/' && strlen(q.path) <= BG_VOLUME_PATH_MAX);
    uint8_t out[BG_VOLUME_PATH_MAX + 64];
    struct bg_writer w = bg_writer_init(out, sizeof out);
    bg_volume_request_emit(&q, &w);
    must_equal(bytes, size, out, w.used);
}

static void attach(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_exec_attach q;
    if (bg_exec_attach_parse(bytes, size, &q, err) < 0)
        return;
    must(bg_exec_is_attach(bytes, size));
    uint8_t out[64];
    struct bg_writer w = bg_writer_init(out, sizeof out);
    bg_exec_attach_emit(&q, &w);
    must_equal(bytes, size, out, w.used);
}

static void attached(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_exec_attached q;
    if (bg_exec_attached_parse(bytes, size, &q, err) < 0)
        return;
    must(q.pid != 0 && q.stdin_owed <= BG_EXEC_STDIN_WINDOW && q.stdin_owed <= q.stdin_taken);
    uint8_t out[BG_EXEC_ATTACHED_SIZE];
    struct bg_writer w = bg_writer_init(out, sizeof out);
    bg_exec_attached_emit(&q, &w);
    must_equal(bytes, size, out, w.used);
}

static void info(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_exec_info q;
    if (bg_exec_info_parse(bytes, size, &q, err) < 0)
        return;
    must(q.pid != 0 && strlen(q.command) < sizeof q.command);
    uint8_t out[sizeof q + 64];
    struct bg_writer w = bg_writer_init(out, sizeof out);
    bg_exec_info_emit(&q, &w);
    must_equal(bytes, size, out, w.used);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static void (*const parsers[])(const uint8_t *, size_t, struct bg_err *) = {
        header,  reply, frame, exec,  copy,   identity, connect, bench,
        forward, fuse,  disk,  share, attach, attached, info,    volume};
    struct bg_err err = {0};
    if (size == 0)
        return 0;
    parsers[bytes[0] % (sizeof parsers / sizeof *parsers)](bytes + 1, size - 1, &err);
    must(strlen(err.text) < sizeof err.text);
    return 0;
}
