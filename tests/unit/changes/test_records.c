/* The guest's list: good ones whole and cut anywhere, wrong ones refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/changes/records.h"

struct log {
    char text[8192];
    size_t used;
};

static void add(struct log *log, const char *format, ...) BG_PRINTF(2, 3);
static void add(struct log *log, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log->used +=
        (size_t)vsnprintf(log->text + log->used, sizeof log->text - log->used, format, args);
    va_end(args);
    assert_true(log->used < sizeof log->text);
}

static int on_record(void *owner, const struct bg_change *c, struct bg_err *err)
{
    add(owner, "%u:%s%s ", c->type, c->path, c->target);
    return strcmp(c->path, "stop") == 0 ? bg_err_set(err, -ECANCELED, "stop") : 0;
}

static int on_bytes(void *owner, const uint8_t *bytes, size_t size, struct bg_err *err)
{
    (void)err;
    add(owner, "%.*s", (int)size, (const char *)bytes);
    return 0;
}

static int on_end(void *owner, enum bg_change_read how, struct bg_err *err)
{
    (void)err;
    add(owner, "=%d ", (int)how);
    return 0;
}

static struct records *new_records(struct log *log, bool with_contents)
{
    struct records *r = calloc(1, sizeof *r);
    assert_non_null(r);
    *log = (struct log){0};
    r->with_contents = with_contents;
    r->on_record = on_record;
    r->on_bytes = on_bytes;
    r->on_end = on_end;
    r->owner = log;
    return r;
}

static size_t put(uint8_t *out, uint8_t type, const char *path, const char *target, uint64_t size)
{
    struct bg_change c = {.type = type, .mode = 0644, .size = size};
    (void)snprintf(c.path, sizeof c.path, "%s", path);
    (void)snprintf(c.target, sizeof c.target, "%s", target);
    struct bg_writer w = bg_writer_init(out, 4 + BG_CHANGE_RECORD_MAX);
    bg_change_emit(&c, &w);
    assert_true(bg_writer_ok(&w));
    return w.used;
}

/* A folder, a file of five bytes, an empty one, a link. */
static size_t good(uint8_t *out)
{
    size_t used = put(out, BG_CHANGE_FOLDER, "d", "", 0);
    used += put(out + used, BG_CHANGE_FILE, "d/f", "", 5);
    memcpy(out + used, "hello\1", 6);
    used += 6;
    used += put(out + used, BG_CHANGE_FILE, "e", "", 0);
    out[used++] = 0;
    return used + put(out + used, BG_CHANGE_SYMLINK, "l", ">t", 0);
}

static void a_list_reads_the_same_however_it_is_cut(void **state)
{
    (void)state;
    static uint8_t bytes[65536];
    struct log log;
    size_t size = good(bytes);
    for (size_t step = 1; step <= size; step++) {
        struct records *r = new_records(&log, true);
        for (size_t at = 0; at < size; at += step)
            assert_int_equal(records_feed(r, bytes + at, size - at < step ? size - at : step, NULL),
                             0);
        assert_int_equal(records_finish(r, NULL), 0);
        assert_string_equal(log.text, "2:d 1:d/f hello=1 1:e =0 3:l>t ");
        free(r);
    }
}

static void a_list_that_ends_early_is_refused(void **state)
{
    (void)state;
    static uint8_t bytes[65536];
    struct log log;
    struct bg_err err;
    size_t size = good(bytes), whole = 0;
    for (size_t cut = 0; cut <= size; cut++) {
        struct records *r = new_records(&log, true);
        assert_int_equal(records_feed(r, bytes, cut, NULL), 0);
        whole += records_finish(r, &err) == 0;
        free(r);
    }
    assert_int_equal(whole, 5); /* before the first, and after each */
}

static int feed(const void *bytes, size_t size)
{
    struct log log;
    struct bg_err err;
    struct records *r = new_records(&log, true);
    int result = records_feed(r, bytes, size, &err);
    free(r);
    return result;
}

static void wrong_records_are_refused(void **state)
{
    (void)state;
    static uint8_t bytes[65536];
    static const char *const paths[] = {"",  "/",  "/a",   "a/",  "a//b",
                                        ".", "..", "a/..", "./a", "a/./b"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        size_t size = put(bytes, BG_CHANGE_FOLDER, paths[i], "", 0);
        if (feed(bytes, size) != -EPROTO)
            fail_msg("'%s' is taken", paths[i]);
    }
    /* Each field: type, flags, mode, size, target. */
    size_t size = put(bytes, BG_CHANGE_FOLDER, "a", "", 0);
    assert_int_equal(feed(bytes, size), 0);
    static const struct {
        size_t at;
        uint8_t value;
    } wrong[] = {{0, 0xff}, {1, 0xff}, {2, 0xff}, {3, 0xff},  {4, 0},  {4, 6},  {5, 8},
                 {5, 0x80}, {7, 0x10}, {8, 1},    {15, 0x80}, {40, 9}, {44, 0}, {44, '/'}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        uint8_t before = bytes[wrong[i].at];
        bytes[wrong[i].at] = wrong[i].value;
        int r = feed(bytes, size);
        bytes[wrong[i].at] = before;
        /* A longer record than what is there is only incomplete. */
        if (r != -EPROTO && !(r == 0 && wrong[i].at == 0))
            fail_msg("byte %zu as %u: %d", wrong[i].at, wrong[i].value, r);
    }
    size = put(bytes, BG_CHANGE_SYMLINK, "l", "", 0);
    assert_int_equal(feed(bytes, size), -EPROTO);
    size = put(bytes, BG_CHANGE_FILE, "f", "target", 0);
    assert_int_equal(feed(bytes, size), -EPROTO);
    memset(bytes, 0, 4);
    assert_int_equal(feed(bytes, 4), -EPROTO);
    size = put(bytes, BG_CHANGE_FILE, "f", "", 0);
    bytes[size++] = 3; /* contents end with 0, 1 or 2 */
    assert_int_equal(feed(bytes, size), -EPROTO);
    size = put(bytes, BG_CHANGE_FILE, "stop", "", 0);
    assert_int_equal(feed(bytes, size), -ECANCELED);
}

static void paths_have_a_largest_depth_and_length(void **state)
{
    (void)state;
    char path[BG_PATH_MAX];
    for (size_t depth = 1; depth <= BG_CHANGES_DEPTH_MAX + 1; depth++) {
        for (size_t i = 0; i < depth; i++)
            memcpy(path + 2 * i, "a/", 2);
        path[2 * depth - 1] = '\0';
        assert_int_equal(bg_changes_path_ok(path), depth <= BG_CHANGES_DEPTH_MAX);
    }
    memset(path, 'a', sizeof path);
    path[BG_NAME_MAX] = '\0';
    assert_true(bg_changes_path_ok(path));
    path[BG_NAME_MAX] = 'a';
    path[BG_NAME_MAX + 1] = '\0';
    assert_false(bg_changes_path_ok(path));
}

static void too_many_records_are_refused(void **state)
{
    (void)state;
    static uint8_t bytes[4 + BG_CHANGE_RECORD_MAX];
    struct log log;
    struct bg_err err;
    struct records *r = new_records(&log, false);
    size_t size = put(bytes, BG_CHANGE_REMOVED, "a", "", 0);
    for (size_t i = 0; i < BG_CHANGES_RECORDS_MAX; i++) {
        log.used = 0;
        assert_int_equal(records_feed(r, bytes, size, &err), 0);
    }
    assert_int_equal(records_feed(r, bytes, size, &err), -E2BIG);
    free(r);
}

static void too_long_a_list_is_refused(void **state)
{
    (void)state;
    static uint8_t bytes[4 + BG_CHANGE_RECORD_MAX];
    char target[BG_PATH_MAX];
    struct log log;
    struct bg_err err;
    struct records *r = new_records(&log, false);
    memset(target, 't', sizeof target - 1);
    target[sizeof target - 1] = '\0';
    size_t size = put(bytes, BG_CHANGE_SYMLINK, "a", target, 0), left = BG_CHANGES_LIST_MAX;
    for (; left >= size; left -= size) {
        log.used = 0;
        assert_int_equal(records_feed(r, bytes, size, &err), 0);
    }
    log.used = 0;
    assert_int_equal(records_feed(r, bytes, size, &err), -E2BIG);
    free(r);
}

static void requests_are_checked(void **state)
{
    (void)state;
    uint8_t bytes[256];
    struct bg_changes_request q;
    struct bg_err err;
    static const struct {
        uint8_t op;
        uint32_t share;
        const char *path;
        bool good;
    } cases[] = {
        {BG_CHANGES_LIST, 1, "", true},     {BG_CHANGES_LIST, 1, "/a", false},
        {BG_CHANGES_LIST, 0, "", false},    {BG_CHANGES_DISCARD, 7, "", true},
        {BG_CHANGES_MOUNT, 1, "/a", true},  {BG_CHANGES_MOUNT, 1, "/", false},
        {BG_CHANGES_MOUNT, 1, "a", false},  {BG_CHANGES_MOUNT, 1, "", false},
        {BG_CHANGES_DETACH, 1, "/a", true}, {BG_CHANGES_DETACH + 1, 1, "/a", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bg_changes_request sent = {.op = cases[i].op, .share = cases[i].share};
        (void)snprintf(sent.path, sizeof sent.path, "%s", cases[i].path);
        struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
        bg_changes_request_emit(&sent, &w);
        int r = bg_changes_request_parse(bytes, w.used, &q, &err);
        assert_int_equal(r, cases[i].good ? 0 : -EPROTO);
        for (size_t cut = 0; cut < w.used; cut++)
            assert_int_equal(bg_changes_request_parse(bytes, cut, &q, &err), -EPROTO);
        assert_int_equal(bg_changes_request_parse(bytes, w.used + 1, &q, &err), -EPROTO);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_reads_the_same_however_it_is_cut),
        cmocka_unit_test(a_list_that_ends_early_is_refused),
        cmocka_unit_test(wrong_records_are_refused),
        cmocka_unit_test(paths_have_a_largest_depth_and_length),
        cmocka_unit_test(too_many_records_are_refused),
        cmocka_unit_test(too_long_a_list_is_refused),
        cmocka_unit_test(requests_are_checked),
    };
    return cmocka_run_group_tests_name("records", tests, NULL, NULL);
}
