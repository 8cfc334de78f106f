/* Each message has a row that parses it and says whether the result is right; the tests then cut,
 * lengthen and damage the good bytes of every row in the same way. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/wire.h"

#define GOOD_SIZE_MAX 512

struct message {
    const char *name;
    size_t (*make)(uint8_t *out); /* good bytes; out holds GOOD_SIZE_MAX */
    int (*parse)(const uint8_t *bytes, size_t size, struct bg_err *err);
    void (*check)(const uint8_t *bytes,
                  size_t size); /* parses good bytes and looks at each field */
};

/* ---- header ---- */

static const struct bg_stream_header good_header = {
    .kind = BG_STREAM_COPY, .id = 0x01020304, .resume = {[0] = 9, [15] = 7}, .body_size = 4097};

static size_t make_header(uint8_t *out)
{
    bg_stream_header_emit(&good_header, out);
    return BG_STREAM_HEADER_SIZE;
}

static int parse_header(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_stream_header out;
    return bg_stream_header_parse(bytes, size, &out, err);
}

static void check_header(const uint8_t *bytes, size_t size)
{
    struct bg_stream_header out;
    assert_int_equal(bg_stream_header_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.kind, good_header.kind);
    assert_int_equal(out.id, good_header.id);
    assert_memory_equal(out.resume, good_header.resume, sizeof out.resume);
    assert_int_equal(out.body_size, good_header.body_size);
    assert_memory_equal(bytes, "BGLS", 4);
}

/* ---- reply ---- */

static size_t make_reply(uint8_t *out)
{
    const struct bg_reply_header reply = {.status = -ENOENT, .body_size = 12};
    bg_reply_header_emit(&reply, out);
    return BG_REPLY_HEADER_SIZE;
}

static int parse_reply(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_reply_header out;
    return bg_reply_header_parse(bytes, size, &out, err);
}

static void check_reply(const uint8_t *bytes, size_t size)
{
    struct bg_reply_header out;
    assert_int_equal(bg_reply_header_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.status, -ENOENT);
    assert_int_equal(out.body_size, 12);
    assert_memory_equal(bytes, "BGLR", 4);
}

/* ---- frame ---- */

static size_t make_frame(uint8_t *out)
{
    bg_frame_header_emit(BG_FRAME_STDOUT, 65536, out);
    return BG_FRAME_HEADER_SIZE;
}

static int parse_frame(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_frame_header out;
    return bg_frame_header_parse(bytes, size, BG_FRAME_SIZE_MAX, &out, err);
}

static void check_frame(const uint8_t *bytes, size_t size)
{
    struct bg_frame_header out;
    assert_int_equal(bg_frame_header_parse(bytes, size, BG_FRAME_SIZE_MAX, &out, NULL), 0);
    assert_int_equal(out.type, BG_FRAME_STDOUT);
    assert_int_equal(out.size, 65536);
}

/* ---- exec ---- */

static void put_exec(struct bg_writer *w, uint32_t flags, uint32_t argc, uint32_t envc)
{
    bg_writer_u32le(w, flags);
    bg_writer_u16le(w, 24);
    bg_writer_u16le(w, 80);
    bg_writer_text32le(w, "app");
    bg_writer_text32le(w, "/tmp");
    bg_writer_u32le(w, argc);
    bg_writer_u32le(w, envc);
}

static size_t make_exec(uint8_t *out)
{
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    put_exec(&w, BG_EXEC_TTY | BG_EXEC_CLEAR_ENV | BG_EXEC_DETACH, 3, 1);
    bg_writer_text32le(&w, "printf");
    bg_writer_text32le(&w, ""); /* an empty argument is an argument */
    bg_writer_text32le(&w, "\xff\xfe not UTF-8");
    bg_writer_text32le(&w, "K=V");
    assert_true(bg_writer_ok(&w));
    return w.used;
}

static int parse_exec(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_exec_request out;
    return bg_exec_request_parse(bytes, size, &out, err);
}

static void check_exec(const uint8_t *bytes, size_t size)
{
    static const char *const want[] = {"printf", "", "\xff\xfe not UTF-8", "K=V"};
    struct bg_exec_request out;
    assert_int_equal(bg_exec_request_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.flags, BG_EXEC_TTY | BG_EXEC_CLEAR_ENV | BG_EXEC_DETACH);
    assert_int_equal(out.rows, 24);
    assert_int_equal(out.columns, 80);
    assert_string_equal(out.user, "app");
    assert_string_equal(out.cwd, "/tmp");
    assert_int_equal(out.argc, 3);
    assert_int_equal(out.envc, 1);
    struct bg_reader in = bg_reader_init(out.strings, out.strings_size);
    for (size_t i = 0; i < 4; i++) {
        size_t length;
        const uint8_t *p = bg_reader_blob32le(&in, BG_STREAM_BODY_MAX, &length);
        assert_int_equal(length, strlen(want[i]));
        assert_memory_equal(p, want[i], length);
    }
    assert_true(bg_reader_end(&in));
}

/* ---- copy ---- */

static const struct bg_copy_request good_copy = {.direction = BG_COPY_OUT_OF_GUEST,
                                                 .flags = BG_COPY_UNPACK,
                                                 .user = "root",
                                                 .path = "/etc/hosts",
                                                 .root = "hosts"};

static size_t make_copy(uint8_t *out)
{
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    bg_copy_request_emit(&good_copy, &w);
    assert_true(bg_writer_ok(&w));
    return w.used;
}

static int parse_copy(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_copy_request out;
    return bg_copy_request_parse(bytes, size, &out, err);
}

static void check_copy(const uint8_t *bytes, size_t size)
{
    struct bg_copy_request out;
    assert_int_equal(bg_copy_request_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.direction, good_copy.direction);
    assert_int_equal(out.flags, good_copy.flags);
    assert_string_equal(out.user, good_copy.user);
    assert_string_equal(out.path, good_copy.path);
    assert_string_equal(out.root, good_copy.root);
}

/* ---- identity ---- */

static const uint8_t identity_env[] = {3, 0, 0, 0, 'A', '=', '1', 2, 0, 0, 0, 'B', '='};

static size_t make_identity(uint8_t *out)
{
    const struct bg_identity identity = {.flags = BG_IDENTITY_GOLDEN,
                                         .realtime_ns = UINT64_C(1700000000123456789),
                                         .entropy = {[0] = 1, [63] = 2},
                                         .machine_id = {[0] = 3, [15] = 4},
                                         .hostname = "web",
                                         .sandbox_id = "sbx_0123456789",
                                         .ca_pem = (const uint8_t *)"PEM",
                                         .ca_pem_size = 3,
                                         .envc = 2,
                                         .env = identity_env,
                                         .env_size = sizeof identity_env};
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    bg_identity_emit(&identity, &w);
    assert_true(bg_writer_ok(&w));
    return w.used;
}

static int parse_identity(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_identity out;
    return bg_identity_parse(bytes, size, &out, err);
}

static void check_identity(const uint8_t *bytes, size_t size)
{
    struct bg_identity out;
    assert_int_equal(bg_identity_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.flags, BG_IDENTITY_GOLDEN);
    assert_true(out.realtime_ns == UINT64_C(1700000000123456789));
    assert_int_equal(out.entropy[0], 1);
    assert_int_equal(out.entropy[63], 2);
    assert_int_equal(out.machine_id[15], 4);
    assert_string_equal(out.hostname, "web");
    assert_string_equal(out.sandbox_id, "sbx_0123456789");
    assert_int_equal(out.ca_pem_size, 3);
    assert_memory_equal(out.ca_pem, "PEM", 3);
    assert_int_equal(out.envc, 2);
    assert_int_equal(out.env_size, sizeof identity_env);
    assert_memory_equal(out.env, identity_env, sizeof identity_env);
}

/* ---- connect ---- */

static size_t make_connect(uint8_t *out)
{
    const struct bg_connect_request request = {
        .form = BG_CONNECT_NAME, .port = 443, .host = "api.example.com"};
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    bg_connect_request_emit(&request, &w);
    assert_true(bg_writer_ok(&w));
    return w.used;
}

static int parse_connect(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_connect_request out;
    return bg_connect_request_parse(bytes, size, &out, err);
}

static void check_connect(const uint8_t *bytes, size_t size)
{
    struct bg_connect_request out;
    assert_int_equal(bg_connect_request_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.form, BG_CONNECT_NAME);
    assert_int_equal(out.port, 443);
    assert_string_equal(out.host, "api.example.com");
}

/* ---- bench, forward, fuse ---- */

static size_t make_bench(uint8_t *out)
{
    const struct bg_bench_request request = {.mode = BG_BENCH_SOURCE, .bytes = UINT64_C(1) << 40};
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    bg_bench_request_emit(&request, &w);
    return w.used;
}

static int parse_bench(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_bench_request out;
    return bg_bench_request_parse(bytes, size, &out, err);
}

static void check_bench(const uint8_t *bytes, size_t size)
{
    struct bg_bench_request out;
    assert_int_equal(bg_bench_request_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.mode, BG_BENCH_SOURCE);
    assert_true(out.bytes == UINT64_C(1) << 40);
}

static size_t make_forward(uint8_t *out)
{
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    bg_writer_u16le(&w, 8080);
    return w.used;
}

static int parse_forward(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    uint16_t port;
    return bg_forward_request_parse(bytes, size, &port, err);
}

static void check_forward(const uint8_t *bytes, size_t size)
{
    uint16_t port = 0;
    assert_int_equal(bg_forward_request_parse(bytes, size, &port, NULL), 0);
    assert_int_equal(port, 8080);
}

static size_t make_fuse(uint8_t *out)
{
    const struct bg_fuse_request request = {.flags = BG_FUSE_READ_ONLY, .path = "/home/app"};
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    bg_fuse_request_emit(&request, &w);
    return w.used;
}

static int parse_fuse(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_fuse_request out;
    return bg_fuse_request_parse(bytes, size, &out, err);
}

static void check_fuse(const uint8_t *bytes, size_t size)
{
    struct bg_fuse_request out;
    assert_int_equal(bg_fuse_request_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.flags, BG_FUSE_READ_ONLY);
    assert_string_equal(out.path, "/home/app");
}

static size_t make_share(uint8_t *out)
{
    const struct bg_share_request request = {.flags = BG_SHARE_READ_ONLY, .path = "/home/app/x"};
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    bg_share_request_emit(&request, &w);
    return w.used;
}

static int parse_share(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_share_request out;
    return bg_share_request_parse(bytes, size, &out, err);
}

static void check_share(const uint8_t *bytes, size_t size)
{
    struct bg_share_request out;
    assert_int_equal(bg_share_request_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.flags, BG_SHARE_READ_ONLY);
    assert_string_equal(out.path, "/home/app/x");
}

static size_t make_disk(uint8_t *out)
{
    const struct bg_disk_request request = {.flags = BG_DISK_REPAIR, .serial = "second"};
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    bg_disk_request_emit(&request, &w);
    return w.used;
}

static int parse_disk(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_disk_request out;
    return bg_disk_request_parse(bytes, size, &out, err);
}

static void check_disk(const uint8_t *bytes, size_t size)
{
    struct bg_disk_request out;
    assert_int_equal(bg_disk_request_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.flags, BG_DISK_REPAIR);
    assert_string_equal(out.serial, "second");
}

static size_t make_volume(uint8_t *out)
{
    const struct bg_volume_request request = {
        .flags = BG_VOLUME_NEW, .serial = "vol", .path = "/data"};
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    bg_volume_request_emit(&request, &w);
    return w.used;
}

static int parse_volume(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_volume_request out;
    return bg_volume_request_parse(bytes, size, &out, err);
}

static void check_volume(const uint8_t *bytes, size_t size)
{
    struct bg_volume_request out;
    assert_int_equal(bg_volume_request_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.flags, BG_VOLUME_NEW);
    assert_string_equal(out.serial, "vol");
    assert_string_equal(out.path, "/data");
}

static void refuses_volumes_without_a_place(void **state)
{
    (void)state;
    static const struct bg_volume_request wrong[] = {{.serial = "vol", .path = "data"},
                                                     {.serial = "vol"},
                                                     {.path = "/data"},
                                                     {.flags = 2, .serial = "v", .path = "/d"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        uint8_t bytes[64];
        struct bg_volume_request out;
        struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
        bg_volume_request_emit(&wrong[i], &w);
        assert_int_equal(bg_volume_request_parse(bytes, w.used, &out, NULL), -EPROTO);
    }
}

static const struct bg_exec_attach good_attach = {.flags = BG_EXEC_ATTACH | BG_EXEC_STEAL,
                                                  .rows = 24,
                                                  .columns = 80,
                                                  .pid = 1234,
                                                  .out_at = UINT64_C(1) << 40,
                                                  .err_at = 7};

static size_t make_attach(uint8_t *out)
{
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    bg_exec_attach_emit(&good_attach, &w);
    return w.used;
}

static int parse_attach(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_exec_attach out;
    return bg_exec_attach_parse(bytes, size, &out, err);
}

static void check_attach(const uint8_t *bytes, size_t size)
{
    struct bg_exec_attach out;
    assert_true(bg_exec_is_attach(bytes, size));
    assert_int_equal(bg_exec_attach_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.flags, good_attach.flags);
    assert_int_equal(out.rows, 24);
    assert_int_equal(out.columns, 80);
    assert_int_equal(out.pid, 1234);
    assert_true(out.out_at == good_attach.out_at && out.err_at == 7);
    /* The other form is none. */
    uint8_t exec[GOOD_SIZE_MAX];
    assert_false(bg_exec_is_attach(exec, make_exec(exec)));
    assert_false(bg_exec_is_attach(bytes, 3));
}

static const struct bg_exec_attached good_attached = {.pid = 1234,
                                                      .flags = BG_EXEC_IS_TTY,
                                                      .out_at = 5,
                                                      .err_at = 6,
                                                      .stdin_taken = BG_EXEC_STDIN_WINDOW + 1,
                                                      .stdin_owed = BG_EXEC_STDIN_WINDOW};

static size_t make_attached(uint8_t *out)
{
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    bg_exec_attached_emit(&good_attached, &w);
    assert_int_equal(w.used, BG_EXEC_ATTACHED_SIZE);
    return w.used;
}

static int parse_attached(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_exec_attached out;
    return bg_exec_attached_parse(bytes, size, &out, err);
}

static void check_attached(const uint8_t *bytes, size_t size)
{
    struct bg_exec_attached out;
    assert_int_equal(bg_exec_attached_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.pid, 1234);
    assert_int_equal(out.flags, BG_EXEC_IS_TTY);
    assert_true(out.out_at == 5 && out.err_at == 6);
    assert_true(out.stdin_taken == good_attached.stdin_taken);
    assert_int_equal(out.stdin_owed, BG_EXEC_STDIN_WINDOW);
}

static size_t make_info(uint8_t *out)
{
    const struct bg_exec_info info = {.pid = 9,
                                      .flags = BG_EXEC_INFO_TTY | BG_EXEC_INFO_ENDED,
                                      .age_ms = 1000,
                                      .waiting = 3,
                                      .command = "sh -c \xff"};
    struct bg_writer w = bg_writer_init(out, GOOD_SIZE_MAX);
    bg_exec_info_emit(&info, &w);
    return w.used;
}

static int parse_info(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_exec_info out;
    return bg_exec_info_parse(bytes, size, &out, err);
}

static void check_info(const uint8_t *bytes, size_t size)
{
    struct bg_exec_info out;
    assert_int_equal(bg_exec_info_parse(bytes, size, &out, NULL), 0);
    assert_int_equal(out.pid, 9);
    assert_int_equal(out.flags, BG_EXEC_INFO_TTY | BG_EXEC_INFO_ENDED);
    assert_true(out.age_ms == 1000 && out.waiting == 3);
    assert_string_equal(out.command, "sh -c \xff");
}

static const struct message messages[] = {
    {"header", make_header, parse_header, check_header},
    {"reply", make_reply, parse_reply, check_reply},
    {"frame", make_frame, parse_frame, check_frame},
    {"exec", make_exec, parse_exec, check_exec},
    {"copy", make_copy, parse_copy, check_copy},
    {"identity", make_identity, parse_identity, check_identity},
    {"connect", make_connect, parse_connect, check_connect},
    {"bench", make_bench, parse_bench, check_bench},
    {"forward", make_forward, parse_forward, check_forward},
    {"fuse", make_fuse, parse_fuse, check_fuse},
    {"share", make_share, parse_share, check_share},
    {"disk", make_disk, parse_disk, check_disk},
    {"attach", make_attach, parse_attach, check_attach},
    {"attached", make_attached, parse_attached, check_attached},
    {"exec info", make_info, parse_info, check_info},
    {"volume", make_volume, parse_volume, check_volume},
};

static void parses_what_it_emits(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++) {
        uint8_t good[GOOD_SIZE_MAX];
        size_t size = messages[i].make(good);
        messages[i].check(good, size);
    }
}

static void refuses_every_truncation_and_one_byte_more(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++) {
        const struct message *m = &messages[i];
        uint8_t good[GOOD_SIZE_MAX + 1];
        size_t size = m->make(good);
        for (size_t cut = 0; cut < size; cut++) {
            struct bg_err err = {0};
            if (m->parse(good, cut, &err) != -EPROTO)
                fail_msg("%s: cut to %zu of %zu bytes was accepted", m->name, cut, size);
            assert_true(err.text[0] != '\0');
        }
        good[size] = 0;
        if (m->parse(good, size + 1, NULL) != -EPROTO)
            fail_msg("%s: a trailing byte was accepted", m->name);
    }
}

/* One byte or field of a good message changed to a value that must be refused. */
struct damage {
    const char *name;
    size_t offset, size;
    uint64_t value;
    int want;
};

static void apply(const struct message *m, const struct damage *damages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct damage *d = &damages[i];
        uint8_t bytes[GOOD_SIZE_MAX];
        size_t size = m->make(bytes);
        for (size_t b = 0; b < d->size; b++)
            bytes[d->offset + b] = (uint8_t)(d->value >> (8 * b));
        struct bg_err err = {0};
        int r = m->parse(bytes, size, &err);
        if (r != d->want)
            fail_msg("%s, %s: %d instead of %d", m->name, d->name, r, d->want);
    }
}

#define APPLY(index, table) apply(&messages[index], table, sizeof table / sizeof *table)

static void refuses_headers_with_a_wrong_field(void **state)
{
    (void)state;
    static const struct damage header[] = {
        {"magic", 0, 4, BG_WIRE_REPLY_MAGIC, -EPROTO},
        {"version 0", 4, 2, 0, -EPROTO},
        {"version 2", 4, 2, 2, -EPROTO},
        {"kind 0", 6, 2, 0, -EPROTO},
        {"kind 15", 6, 2, 15, -EPROTO},
        {"kind 17", 6, 2, 17, -EPROTO},
        {"id 0", 8, 4, 0, -EPROTO},
        {"flags", 12, 4, 2, -EPROTO},
        {"a resumption with another body", 12, 4, BG_STREAM_RESUME, -EPROTO},
        {"flags high", 12, 4, UINT64_C(0x80000000), -EPROTO},
        {"body at max", 32, 4, BG_STREAM_BODY_MAX, 0},
        {"body above max", 32, 4, BG_STREAM_BODY_MAX + 1, -EPROTO},
        {"body huge", 32, 4, UINT32_MAX, -EPROTO},
    };
    APPLY(0, header);
    static const struct damage reply[] = {
        {"magic", 0, 4, BG_WIRE_MAGIC, -EPROTO},
        {"status 1", 4, 4, 1, -EPROTO},
        {"status -4095", 4, 4, (uint32_t)-4095, 0},
        {"status -4096", 4, 4, (uint32_t)-4096, -EPROTO},
        {"status INT_MIN", 4, 4, UINT64_C(0x80000000), -EPROTO},
        {"body at max", 8, 4, BG_REPLY_TEXT_MAX, 0},
        {"body above max", 8, 4, BG_REPLY_TEXT_MAX + 1, -EPROTO},
    };
    APPLY(1, reply);
    static const struct damage frame[] = {
        {"padding 1", 1, 1, 1, -EPROTO},          {"padding 2", 2, 1, 1, -EPROTO},
        {"padding 3", 3, 1, 0x80, -EPROTO},       {"size above max", 4, 4, 65537, -EPROTO},
        {"size huge", 4, 4, UINT32_MAX, -EPROTO}, {"type unknown", 0, 1, 0xee, 0},
    };
    APPLY(2, frame);
}

static void refuses_bodies_with_a_wrong_field(void **state)
{
    (void)state;
    /* exec: flags 0, rows 4, columns 6, "app" 8, "/tmp" 15, argc 23, envc 27, first argument 31 */
    static const struct damage exec[] = {
        {"unknown flag", 0, 4, 8, -EPROTO},
        {"user longer than the body", 8, 4, UINT32_MAX, -EPROTO},
        {"NUL in user", 13, 1, 0, -EPROTO},
        {"NUL in cwd", 20, 1, 0, -EPROTO},
        {"argc 0", 23, 4, 0, -EPROTO},
        {"argc one less", 23, 4, 2, -EPROTO},
        {"argc one more", 23, 4, 4, -EPROTO},
        {"argc at max", 23, 4, BG_EXEC_STRINGS_MAX, -EPROTO}, /* not that many are there */
        {"argc above max", 23, 4, BG_EXEC_STRINGS_MAX + 1, -E2BIG},
        {"argc huge", 23, 4, UINT32_MAX, -E2BIG},
        {"envc above max", 27, 4, BG_EXEC_STRINGS_MAX + 1, -E2BIG},
        {"argument longer than the body", 31, 4, 1000, -EPROTO},
        {"NUL in an argument", 35, 1, 0, -EPROTO},
    };
    APPLY(3, exec);
    /* copy: direction 0, flags 1, "root" 5, "/etc/hosts" 13, "hosts" 27 */
    static const struct damage copy[] = {
        {"direction 2", 0, 1, 2, -EPROTO},          {"unknown flag", 1, 4, 4, -EPROTO},
        {"NUL in path", 17, 1, 0, -EPROTO},         {"slash in the top name", 33, 1, '/', -EPROTO},
        {"NUL in the top name", 33, 1, 0, -EPROTO},
    };
    APPLY(4, copy);
    /* identity: flags 0, time 4, entropy 12, machine-id 76, "web" 92, id 99, CA 117, envc 124 */
    static const struct damage identity[] = {
        {"unknown flag", 0, 4, 8, -EPROTO},
        {"two flags", 0, 4, BG_IDENTITY_GOLDEN | BG_IDENTITY_AGAIN, -EPROTO},
        {"again", 0, 4, BG_IDENTITY_AGAIN, 0},
        {"hostname too long", 92, 4, 65, -EPROTO},
        {"NUL in the hostname", 97, 1, 0, -EPROTO},
        {"CA longer than the frame", 117, 4, 4096, -EPROTO},
        {"envc one more", 124, 4, 3, -EPROTO},
        {"envc one less", 124, 4, 1, -EPROTO},
        {"envc above max", 124, 4, BG_EXEC_STRINGS_MAX + 1, -EPROTO},
        {"NUL in a variable", 133, 1, 0, -EPROTO},
    };
    APPLY(5, identity);
    /* connect: form 0, port 1, host 3 */
    static const struct damage connect[] = {
        {"form 0", 0, 1, 0, -EPROTO},          {"form 3", 0, 1, 3, -EPROTO},
        {"port 0", 1, 2, 0, -EPROTO},          {"host longer than the body", 3, 4, 255, -EPROTO},
        {"NUL in the host", 9, 1, 0, -EPROTO}, {"host above max", 3, 4, 256, -EPROTO},
        {"form address", 0, 1, 2, 0},
    };
    APPLY(6, connect);
    static const struct damage attach[] = {
        {"not this form", 0, 4, BG_EXEC_TTY, -EPROTO},
        {"unknown flag", 0, 4, BG_EXEC_ATTACH | 128, -EPROTO},
        {"no process", 8, 4, 0, 0},
    };
    APPLY(12, attach);
    static const struct damage attached[] = {
        {"no process", 0, 4, 0, -EPROTO},
        {"unknown flag", 4, 4, 4, -EPROTO},
        {"owed more than the window", 32, 4, BG_EXEC_STDIN_WINDOW + 1, -EPROTO},
        {"owed more than taken", 24, 8, BG_EXEC_STDIN_WINDOW - 1, -EPROTO},
    };
    APPLY(13, attached);
    static const struct damage info[] = {
        {"no process", 0, 4, 0, -EPROTO},
        {"unknown flag", 4, 4, 8, -EPROTO},
        {"NUL in the command", 28, 1, 0, -EPROTO},
    };
    APPLY(14, info);
    static const struct damage bench[] = {{"mode 3", 0, 1, 3, -EPROTO}};
    APPLY(7, bench);
    static const struct damage forward[] = {{"port 0", 0, 2, 0, -EPROTO}};
    APPLY(8, forward);
    static const struct damage fuse[] = {
        {"unknown flag", 0, 4, 8, -EPROTO},
        {"all flags", 0, 4, 7, 0},
        {"relative path", 8, 1, 'h', -EPROTO},
        {"NUL in the path", 9, 1, 0, -EPROTO},
    };
    APPLY(9, fuse);
    static const struct damage share[] = {
        {"unknown flag", 0, 4, 8, -EPROTO},
        {"end", 0, 4, BG_SHARE_END, 0},
        {"lazily without end", 0, 4, BG_SHARE_LAZY, -EPROTO},
        {"lazily", 0, 4, BG_SHARE_LAZY | BG_SHARE_END, 0},
        {"relative path", 8, 1, 'h', -EPROTO},
        {"NUL in the path", 9, 1, 0, -EPROTO},
    };
    APPLY(10, share);
    /* disk: flags 0, serial 4 */
    static const struct damage disk[] = {
        {"unknown flag", 0, 4, 4, -EPROTO},
        {"both flags", 0, 4, 3, 0},
        {"serial above max", 4, 4, BG_DISK_SERIAL_MAX + 1, -EPROTO},
        {"NUL in the serial", 9, 1, 0, -EPROTO},
    };
    APPLY(11, disk);
}

static void a_resumption_has_one_count(void **state)
{
    (void)state;
    uint8_t bytes[BG_STREAM_HEADER_SIZE];
    struct bg_stream_header out, header = {.kind = BG_STREAM_CONNECT,
                                           .id = 7,
                                           .flags = BG_STREAM_RESUME,
                                           .body_size = BG_RESUME_SIZE};
    bg_stream_header_emit(&header, bytes);
    assert_int_equal(bg_stream_header_parse(bytes, sizeof bytes, &out, NULL), 0);
    assert_int_equal(out.flags, BG_STREAM_RESUME);
    for (uint32_t size = 0; size < 20; size++) {
        header.body_size = size;
        bg_stream_header_emit(&header, bytes);
        assert_int_equal(bg_stream_header_parse(bytes, sizeof bytes, &out, NULL),
                         size == BG_RESUME_SIZE ? 0 : -EPROTO);
    }
}

static void copy_top_name_is_one_component(void **state)
{
    (void)state;
    static const struct {
        const char *path, *root;
        int want;
    } rows[] = {
        {"/a", "a", 0},   {"/a", "..", -EPROTO}, {"/a", "", -EPROTO}, {"/a", "a/b", -EPROTO},
        {"/a", "...", 0}, {"/a", ".", 0},        {"", "a", -EPROTO},  {"a", "\xff", 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t bytes[GOOD_SIZE_MAX];
        struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
        bg_writer_u8(&w, 0);
        bg_writer_u32le(&w, 0);
        bg_writer_text32le(&w, "");
        bg_writer_text32le(&w, rows[i].path);
        bg_writer_text32le(&w, rows[i].root);
        assert_int_equal(parse_copy(bytes, w.used, NULL), rows[i].want);
    }
}

static void lengths_at_their_maximum_and_one_above(void **state)
{
    (void)state;
    static uint8_t bytes[2 * BG_PATH_MAX];
    static char name[BG_PATH_MAX + 2];
    for (size_t over = 0; over < 2; over++) {
        int want = over ? -EPROTO : 0;
        memset(name, 'x', sizeof name - 1);

        name[BG_NAME_MAX + over] = '\0';
        struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
        bg_writer_u8(&w, BG_CONNECT_NAME);
        bg_writer_u16le(&w, 80);
        bg_writer_text32le(&w, name);
        assert_int_equal(parse_connect(bytes, w.used, NULL), want);

        memset(name, '/', sizeof name - 1);
        name[BG_PATH_MAX - 1 + over] = '\0';
        w = bg_writer_init(bytes, sizeof bytes);
        bg_writer_u32le(&w, 0);
        bg_writer_text32le(&w, name);
        assert_int_equal(parse_fuse(bytes, w.used, NULL), want);
    }
}

static void an_exec_may_have_the_maximum_of_strings(void **state)
{
    (void)state;
    static uint8_t bytes[4 * 2 * BG_EXEC_STRINGS_MAX + 64];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    put_exec(&w, 0, BG_EXEC_STRINGS_MAX, BG_EXEC_STRINGS_MAX);
    for (size_t i = 0; i < 2 * BG_EXEC_STRINGS_MAX; i++)
        bg_writer_text32le(&w, "");
    assert_true(bg_writer_ok(&w));
    assert_int_equal(parse_exec(bytes, w.used, NULL), 0);
}

static void failed_parse_leaves_the_result_alone(void **state)
{
    (void)state;
    uint8_t bytes[GOOD_SIZE_MAX];
    size_t size = make_connect(bytes);
    struct bg_connect_request out = {.port = 7};
    bytes[0] = 9;
    assert_int_equal(bg_connect_request_parse(bytes, size, &out, NULL), -EPROTO);
    assert_int_equal(out.port, 7);
}

static void emitters_say_when_it_does_not_fit(void **state)
{
    (void)state;
    uint8_t bytes[GOOD_SIZE_MAX];
    size_t size = make_copy(bytes);
    for (size_t room = 0; room < size; room++) {
        struct bg_writer w = bg_writer_init(bytes, room);
        bg_copy_request_emit(&good_copy, &w);
        assert_false(bg_writer_ok(&w));
        assert_true(w.used <= room);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_volumes_without_a_place),
        cmocka_unit_test(parses_what_it_emits),
        cmocka_unit_test(refuses_every_truncation_and_one_byte_more),
        cmocka_unit_test(refuses_headers_with_a_wrong_field),
        cmocka_unit_test(a_resumption_has_one_count),
        cmocka_unit_test(refuses_bodies_with_a_wrong_field),
        cmocka_unit_test(copy_top_name_is_one_component),
        cmocka_unit_test(lengths_at_their_maximum_and_one_above),
        cmocka_unit_test(an_exec_may_have_the_maximum_of_strings),
        cmocka_unit_test(failed_parse_leaves_the_result_alone),
        cmocka_unit_test(emitters_say_when_it_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
