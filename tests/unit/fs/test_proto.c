#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fs/proto/proto.h"

static uint8_t buffer[BG_FS_MESSAGE_MAX + 64];

/* A request with a different value in every member that the opcode has. */
static struct fs_request sample_request(uint32_t opcode)
{
    static const uint8_t data[3 * FS_FORGET_SIZE] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    const struct fs_op *op = fs_op_find(opcode);
    struct fs_request request = {.opcode = opcode,
                                 .unique = 0x1122334455667788,
                                 .node = 0x99aabbccddeeff00,
                                 .caller_uid = 1,
                                 .caller_gid = 2,
                                 .caller_pid = 3};
    for (size_t i = 0; i < FS_ITEMS_MAX && op->request[i].width > 0; i++) {
        uint64_t value = op->request[i].width == 8 ? 0x0102030405060700 + i : 0xa0b0c000 + i;
        if (op->request[i].member != FS_PAD)
            memcpy((uint8_t *)&request + op->request[i].member, &value, sizeof value);
    }
    switch (op->tail) {
    case FS_TAIL_NAME_NAME:
        request.name2 = "other name";
        break;
    case FS_TAIL_NAME_TEXT:
        request.name2 = "../a/text";
        break;
    case FS_TAIL_DATA:
    case FS_TAIL_NAME_DATA:
        request.data = data;
        request.size = request.data_size = sizeof data;
        break;
    case FS_TAIL_FORGETS:
        request.data = data;
        request.count = 3;
        request.data_size = sizeof data;
        break;
    case FS_TAIL_NONE:
    case FS_TAIL_NAME:
        break;
    }
    if (op->tail == FS_TAIL_NAME || op->tail == FS_TAIL_NAME_NAME ||
        op->tail == FS_TAIL_NAME_TEXT || op->tail == FS_TAIL_NAME_DATA)
        request.name = "a name";
    request.name_size = request.name ? strlen(request.name) : 0;
    request.name2_size = request.name2 ? strlen(request.name2) : 0;
    return request;
}

static size_t emit(const struct fs_request *request)
{
    struct bg_writer w = bg_writer_init(buffer, sizeof buffer);
    fs_request_emit(request, &w);
    if (request->data_size > 0)
        bg_writer_bytes(&w, request->data, request->data_size);
    assert_true(bg_writer_ok(&w));
    return w.used;
}

static void assert_same_request(const struct fs_request *a, const struct fs_request *b)
{
    struct fs_request x = *a, y = *b;
    assert_int_equal(x.name_size, y.name_size);
    assert_int_equal(x.name2_size, y.name2_size);
    assert_int_equal(x.data_size, y.data_size);
    if (x.name)
        assert_string_equal(x.name, y.name);
    if (x.name2)
        assert_string_equal(x.name2, y.name2);
    if (x.data)
        assert_memory_equal(x.data, y.data, x.data_size);
    x.name = y.name = x.name2 = y.name2 = NULL;
    x.data = y.data = NULL;
    assert_memory_equal(&x, &y, sizeof x);
}

static void every_request_comes_back_as_it_was(void **state)
{
    (void)state;
    size_t opcodes = 0;
    for (uint32_t opcode = 0; opcode < FS_OPCODE_MAX; opcode++) {
        if (!fs_op_find(opcode) || opcode == FUSE_INIT)
            continue;
        opcodes++;
        struct fs_request sent = sample_request(opcode), got;
        size_t size = emit(&sent);
        assert_int_equal(fs_request_parse(buffer, size, &got, NULL), 0);
        assert_same_request(&sent, &got);
    }
    assert_int_equal(opcodes, 45); /* protocol 7.38 without INIT, NOTIFY_REPLY, CUSE and DAX */
}

/* The stated length always fits, so that only the payload's own checks can see the cut. */
static void no_cut_or_longer_request_passes(void **state)
{
    (void)state;
    for (uint32_t opcode = 0; opcode < FS_OPCODE_MAX; opcode++) {
        if (!fs_op_find(opcode) || opcode == FUSE_INIT)
            continue;
        struct fs_request sent = sample_request(opcode), got;
        size_t size = emit(&sent);
        for (size_t cut = 0; cut <= size + 1; cut++) {
            if (cut == size)
                continue;
            uint32_t stated = (uint32_t)cut;
            memcpy(buffer, &stated, sizeof stated);
            buffer[size] = 0;
            assert_int_equal(fs_request_parse(buffer, cut, &got, NULL), -EPROTO);
        }
    }
}

static void a_length_that_lies_is_refused(void **state)
{
    (void)state;
    struct fs_request sent = sample_request(FUSE_LOOKUP), got;
    size_t size = emit(&sent), ret;
    for (uint32_t stated = 0; stated < 2 * size; stated++) {
        memcpy(buffer, &stated, sizeof stated);
        assert_int_equal(fs_request_parse(buffer, size, &got, NULL), stated == size ? 0 : -EPROTO);
    }
    static const struct {
        uint8_t bytes[4];
        int want;
    } table[] = {
        {{0, 0, 0, 0}, -EPROTO},    {{39, 0, 0, 0}, -EPROTO},      {{40, 0, 0, 0}, 0},
        {{0, 0x10, 0x10, 0}, 0},    {{1, 0x10, 0x10, 0}, -EPROTO}, {{255, 255, 255, 255}, -EPROTO},
        {{0, 0, 0, 0x80}, -EPROTO},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_int_equal(fs_message_size(table[i].bytes, FS_REQUEST_HEADER_SIZE, &ret, NULL),
                         table[i].want);
}

static void names_are_one_component(void **state)
{
    (void)state;
    char longest[BG_FS_NAME_MAX + 2];
    memset(longest, 'x', sizeof longest);
    static const char *const bad[] = {"", ".", "..", "a/b", "/", "/etc"};
    static const char *const good[] = {"a", "...", ".a", "a b", "\x01", "\xff\xfe"};
    struct fs_request sent = sample_request(FUSE_LOOKUP), got;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sent.name = bad[i];
        sent.name_size = strlen(bad[i]);
        assert_false(fs_name_ok(sent.name, sent.name_size));
        size_t size = emit(&sent);
        assert_int_equal(fs_request_parse(buffer, size, &got, NULL), -EPROTO);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        sent.name = good[i];
        sent.name_size = strlen(good[i]);
        assert_true(fs_name_ok(sent.name, sent.name_size));
        size_t size = emit(&sent);
        assert_int_equal(fs_request_parse(buffer, size, &got, NULL), 0);
    }
    assert_false(fs_name_ok("a\0b", 3));
    for (size_t n = BG_FS_NAME_MAX; n <= BG_FS_NAME_MAX + 1; n++) {
        longest[n] = '\0';
        sent.name = longest;
        sent.name_size = n;
        size_t size = emit(&sent);
        assert_int_equal(fs_request_parse(buffer, size, &got, NULL),
                         n > BG_FS_NAME_MAX ? -ENAMETOOLONG : 0);
        assert_int_equal(got.unique, sent.unique); /* so that it can be answered */
        longest[n] = 'x';
    }
}

static void link_texts_have_a_maximum(void **state)
{
    (void)state;
    static char text[BG_PATH_MAX + 1];
    struct fs_request sent = sample_request(FUSE_SYMLINK), got;
    for (size_t n = 0; n <= BG_PATH_MAX; n++) {
        memset(text, 'x', n);
        text[n] = '\0';
        if (n > 3 && n < BG_PATH_MAX - 2)
            continue;
        sent.name2 = text;
        sent.name2_size = n;
        size_t size = emit(&sent);
        assert_int_equal(fs_request_parse(buffer, size, &got, NULL), n == 0 ? -EPROTO
                                                                     : n < BG_PATH_MAX
                                                                         ? 0
                                                                         : -ENAMETOOLONG);
    }
}

static void data_has_the_size_that_is_stated(void **state)
{
    (void)state;
    struct fs_request sent = sample_request(FUSE_WRITE), got;
    size_t size = emit(&sent);
    const size_t size_at = FS_REQUEST_HEADER_SIZE + 16; /* after handle and offset */
    for (uint32_t stated = 0; stated < 100; stated++) {
        memcpy(buffer + size_at, &stated, sizeof stated);
        assert_int_equal(fs_request_parse(buffer, size, &got, NULL),
                         stated == sent.size ? 0 : -EPROTO);
    }
    sent = sample_request(FUSE_BATCH_FORGET);
    size = emit(&sent);
    for (uint32_t count = 0; count < 10; count++) {
        memcpy(buffer + FS_REQUEST_HEADER_SIZE, &count, sizeof count);
        assert_int_equal(fs_request_parse(buffer, size, &got, NULL), count == 3 ? 0 : -EPROTO);
    }
    uint32_t huge = 0x10000000; /* times 16 is 0 in 32 bits */
    memcpy(buffer + FS_REQUEST_HEADER_SIZE, &huge, sizeof huge);
    assert_int_equal(fs_request_parse(buffer, size, &got, NULL), -EPROTO);
}

static void unknown_opcodes_can_be_answered(void **state)
{
    (void)state;
    struct fs_request sent = sample_request(FUSE_STATFS), got;
    static const uint32_t opcodes[] = {0, 7, 19, 48, 49, 52, 4096, 436207616, UINT32_MAX};
    for (size_t i = 0; i < sizeof opcodes / sizeof *opcodes; i++) {
        size_t size = emit(&sent);
        memcpy(buffer + 4, &opcodes[i], 4);
        assert_int_equal(fs_request_parse(buffer, size, &got, NULL), -ENOSYS);
        assert_int_equal(got.unique, sent.unique);
    }
}

static struct fs_reply sample_reply(uint32_t opcode)
{
    static const uint8_t data[] = "some data";
    struct fs_reply reply = {.unique = 77};
    switch (fs_op_find(opcode)->reply) {
    case FS_REPLY_ENTRY:
    case FS_REPLY_ENTRY_OPEN:
        reply.node = 5;
        reply.generation = 6;
        reply.entry_valid = 7;
        reply.entry_valid_ns = 8;
        break;
    case FS_REPLY_DATA:
    case FS_REPLY_TEXT:
    case FS_REPLY_XATTR:
    case FS_REPLY_DIRENTS:
    case FS_REPLY_DIRENTS_PLUS:
        reply.data = data;
        reply.data_size = sizeof data;
        break;
    case FS_REPLY_COUNT:
        reply.size = 9;
        break;
    case FS_REPLY_STATFS:
        reply.statfs = (struct fs_statfs){1, 2, 3, 4, 5, 6, 7, 8};
        break;
    case FS_REPLY_LOCK:
        reply.lock_start = 1;
        reply.lock_end = 2;
        reply.lock_type = 3;
        reply.lock_pid = 4;
        break;
    case FS_REPLY_OFFSET:
        reply.offset = 0x1234567890;
        break;
    case FS_REPLY_ATTR:
    case FS_REPLY_OPEN:
    case FS_REPLY_NONE:
    case FS_REPLY_EMPTY:
    case FS_REPLY_OTHER:
        break;
    }
    enum fs_reply_kind kind = fs_op_find(opcode)->reply;
    if (kind == FS_REPLY_ATTR || kind == FS_REPLY_ENTRY || kind == FS_REPLY_ENTRY_OPEN) {
        reply.attr_valid = 9;
        reply.attr_valid_ns = 10;
        reply.attr =
            (struct fs_attr){11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26};
    }
    if (kind == FS_REPLY_OPEN || kind == FS_REPLY_ENTRY_OPEN) {
        reply.fh = 27;
        reply.open_flags = 28;
    }
    return reply;
}

static size_t emit_reply(uint32_t opcode, const struct fs_reply *reply)
{
    struct bg_writer w = bg_writer_init(buffer, sizeof buffer);
    fs_reply_emit(opcode, reply, &w);
    if (reply->data_size > 0)
        bg_writer_bytes(&w, reply->data, reply->data_size);
    assert_true(bg_writer_ok(&w));
    return w.used;
}

static void every_reply_comes_back_as_it_was(void **state)
{
    (void)state;
    for (uint32_t opcode = 0; opcode < FS_OPCODE_MAX; opcode++) {
        const struct fs_op *op = fs_op_find(opcode);
        if (!op || op->reply == FS_REPLY_OTHER || op->reply == FS_REPLY_NONE)
            continue;
        struct fs_reply sent = sample_reply(opcode), got;
        size_t size = emit_reply(opcode, &sent);
        assert_int_equal(fs_reply_unique(buffer), sent.unique);
        assert_int_equal(fs_reply_parse(opcode, buffer, size, &got, NULL), 0);
        assert_int_equal(got.data_size, sent.data_size);
        if (sent.data)
            assert_memory_equal(got.data, sent.data, sent.data_size);
        got.data = sent.data = NULL;
        assert_memory_equal(&got, &sent, sizeof got);
    }
}

static void no_cut_or_longer_reply_passes(void **state)
{
    (void)state;
    for (uint32_t opcode = 0; opcode < FS_OPCODE_MAX; opcode++) {
        const struct fs_op *op = fs_op_find(opcode);
        if (!op || op->reply == FS_REPLY_OTHER || op->reply == FS_REPLY_NONE)
            continue;
        struct fs_reply sent = sample_reply(opcode), got;
        size_t size = emit_reply(opcode, &sent);
        for (size_t cut = 0; cut <= size + 1; cut++) {
            if (cut == size)
                continue;
            uint32_t stated = (uint32_t)cut;
            memcpy(buffer, &stated, sizeof stated);
            /* Data may have any length; everything else has its own. */
            bool any = (sent.data_size > 0 && cut >= FS_REPLY_HEADER_SIZE) ||
                       (opcode == FUSE_OPEN && cut > size);
            assert_int_equal(fs_reply_parse(opcode, buffer, cut, &got, NULL), any ? 0 : -EPROTO);
        }
    }
}

static void only_a_small_file_follows_an_open(void **state)
{
    (void)state;
    static uint8_t bytes[FS_REPLY_HEADER_SIZE + 16 + BG_FS_AHEAD_MAX + 1];
    struct fs_reply sent = {.unique = 1, .fh = 2, .data_size = BG_FS_AHEAD_MAX}, got;
    for (unsigned more = 0; more < 2; more++, sent.data_size++) {
        struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
        fs_reply_emit(FUSE_OPEN, &sent, &w);
        size_t size = w.used + sent.data_size;
        assert_int_equal(fs_reply_parse(FUSE_OPEN, bytes, size, &got, NULL), more ? -EPROTO : 0);
    }
    assert_int_equal(got.data_size, BG_FS_AHEAD_MAX);
}

static void errors_stand_alone_and_in_range(void **state)
{
    (void)state;
    struct fs_reply got;
    for (int32_t error = -5000; error < 5000; error++) {
        struct fs_reply sent = {.unique = 1, .error = error};
        struct bg_writer w = bg_writer_init(buffer, sizeof buffer);
        fs_reply_emit(FUSE_FLUSH, &sent, &w);
        int want = error <= 0 && error >= -4095 ? 0 : -EPROTO;
        assert_int_equal(fs_reply_parse(FUSE_FLUSH, buffer, w.used, &got, NULL), want);
    }
    struct fs_reply attr = sample_reply(FUSE_GETATTR);
    size_t size = emit_reply(FUSE_GETATTR, &attr);
    int32_t error = -EIO;
    memcpy(buffer + 4, &error, sizeof error);
    assert_int_equal(fs_reply_parse(FUSE_GETATTR, buffer, size, &got, NULL), -EPROTO);
}

static void errors_that_would_harm_the_kernel_are_not_allowed(void **state)
{
    (void)state;
    static const int never[] = {ENOSYS, 512, 513, 514, 516, EINTR + 4000, ECONNABORTED, ENOTCONN};
    for (uint32_t opcode = 0; opcode < FS_OPCODE_MAX; opcode++)
        for (size_t i = 0; i < sizeof never / sizeof *never; i++)
            assert_false(fs_error_allowed(opcode, -never[i]));
    assert_true(fs_error_allowed(FUSE_LOOKUP, -ENOENT));
    assert_true(fs_error_allowed(FUSE_WRITE, -ENOSPC));
    assert_false(fs_error_allowed(FUSE_LOOKUP, -ENOSPC));
    assert_true(fs_error_allowed(FUSE_SETLKW, -EINTR));
    assert_false(fs_error_allowed(FUSE_READ, -EINTR));
    assert_false(fs_error_allowed(FUSE_READ, -EAGAIN));
    assert_false(fs_error_allowed(7, -EIO));
}

static void folder_entries_come_back_as_they_were(void **state)
{
    (void)state;
    char name[BG_FS_NAME_MAX];
    memset(name, 'n', sizeof name);
    for (int plus = 0; plus < 2; plus++)
        for (size_t n = 1; n <= sizeof name; n++) {
            struct fs_dirent sent = {
                .ino = 1, .offset = 2, .type = 8, .name = name, .name_size = n};
            if (plus)
                sent.entry = sample_reply(FUSE_LOOKUP);
            sent.entry.unique = 0;
            struct bg_writer w = bg_writer_init(buffer, 1024);
            fs_dirent_emit(&sent, plus, &w);
            assert_true(bg_writer_ok(&w));
            assert_int_equal(w.used, fs_dirent_size(&sent, plus));
            assert_int_equal(w.used % 8, 0);
            struct bg_reader in = bg_reader_init(buffer, w.used);
            struct fs_dirent got;
            assert_true(fs_dirent_parse(&in, plus, &got));
            assert_true(bg_reader_end(&in));
            assert_int_equal(got.name_size, n);
            assert_memory_equal(got.name, name, n);
            assert_int_equal(got.offset, 2);
            assert_memory_equal(&got.entry, &sent.entry, sizeof got.entry);
            for (size_t cut = 1; cut < w.used; cut++) {
                in = bg_reader_init(buffer, cut);
                assert_false(fs_dirent_parse(&in, plus, &got));
                assert_false(bg_reader_ok(&in));
            }
        }
}

static void folder_entries_with_impossible_names_end_the_reading(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {0, BG_FS_NAME_MAX + 1, 4095, UINT32_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct fs_dirent entry = {.ino = 1, .offset = 2, .name = "x", .name_size = 1};
        struct bg_writer w = bg_writer_init(buffer, sizeof buffer);
        fs_dirent_emit(&entry, false, &w);
        memcpy(buffer + 16, &sizes[i], 4);
        struct bg_reader in = bg_reader_init(buffer, 8192);
        assert_false(fs_dirent_parse(&in, false, &entry));
        assert_false(bg_reader_ok(&in));
    }
}

static void hellos_come_back_and_nothing_else_is_one(void **state)
{
    (void)state;
    for (int server = 0; server < 2; server++) {
        struct fs_hello sent = {.server = server,
                                .flags = FS_HELLO_READ_ONLY,
                                .uid = 7,
                                .gid = 8,
                                .boot = server ? 0x0123456789abcdef : 0};
        struct fs_hello got;
        uint8_t bytes[FS_HELLO_SIZE + 1] = {0};
        fs_hello_emit(&sent, bytes);
        assert_int_equal(fs_hello_parse(bytes, FS_HELLO_SIZE, server, &got, NULL), 0);
        assert_int_equal(got.server, sent.server);
        assert_int_equal(got.flags, sent.flags);
        assert_int_equal(got.uid, sent.uid);
        assert_int_equal(got.gid, sent.gid);
        assert_true(got.boot == sent.boot);
        assert_int_equal(fs_hello_parse(bytes, FS_HELLO_SIZE, !server, &got, NULL), -EPROTO);
        for (size_t n = 0; n <= sizeof bytes; n++)
            if (n != FS_HELLO_SIZE)
                assert_int_equal(fs_hello_parse(bytes, n, server, &got, NULL), -EPROTO);
        for (size_t at = 0; at < FS_HELLO_SIZE; at++)
            for (int bit = 4; bit < 8; bit++) { /* the lower flag bits have a meaning */
                bytes[at] ^= (uint8_t)(1 << bit);
                bool free = at >= 12 && at < (server ? 28 : 20); /* uid, gid and boot may be any */
                free = free || (!server && at == 8 && 1 << bit == FS_HELLO_CLEAN_LINKS);
                free = free || (server && at == 8 && 1 << bit == FS_HELLO_PIECES);
                assert_int_equal(fs_hello_parse(bytes, FS_HELLO_SIZE, server, &got, NULL),
                                 free ? 0 : -EPROTO);
                bytes[at] ^= (uint8_t)(1 << bit);
            }
    }
}

static void init_is_read_in_both_lengths(void **state)
{
    (void)state;
    struct bg_writer w = bg_writer_init(buffer, sizeof buffer);
    bg_writer_u32le(&w, 7);
    bg_writer_u32le(&w, 38);
    bg_writer_u32le(&w, 131072);
    bg_writer_u32le(&w, FUSE_INIT_EXT | 1);
    bg_writer_u32le(&w, 2);
    struct fs_init init;
    assert_int_equal(fs_init_parse(buffer, 16, &init, NULL), 0);
    assert_int_equal(init.flags, FUSE_INIT_EXT | 1);
    assert_int_equal(fs_init_parse(buffer, 20, &init, NULL), 0);
    assert_true(init.flags == (FUSE_INIT_EXT | 1 | 2ull << 32));
    for (size_t n = 0; n < 16; n++)
        assert_int_equal(fs_init_parse(buffer, n, &init, NULL), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_request_comes_back_as_it_was),
        cmocka_unit_test(no_cut_or_longer_request_passes),
        cmocka_unit_test(a_length_that_lies_is_refused),
        cmocka_unit_test(names_are_one_component),
        cmocka_unit_test(link_texts_have_a_maximum),
        cmocka_unit_test(data_has_the_size_that_is_stated),
        cmocka_unit_test(unknown_opcodes_can_be_answered),
        cmocka_unit_test(every_reply_comes_back_as_it_was),
        cmocka_unit_test(no_cut_or_longer_reply_passes),
        cmocka_unit_test(only_a_small_file_follows_an_open),
        cmocka_unit_test(errors_stand_alone_and_in_range),
        cmocka_unit_test(errors_that_would_harm_the_kernel_are_not_allowed),
        cmocka_unit_test(folder_entries_come_back_as_they_were),
        cmocka_unit_test(folder_entries_with_impossible_names_end_the_reading),
        cmocka_unit_test(hellos_come_back_and_nothing_else_is_one),
        cmocka_unit_test(init_is_read_in_both_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
