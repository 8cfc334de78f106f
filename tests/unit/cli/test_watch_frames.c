#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/wire.h"
#include "host/cli/watch_frames.h"

static uint8_t bytes[BG_FRAME_HEADER_SIZE + WATCH_FRAME_MAX + 1];

static size_t frame_of(uint32_t kinds, const char *path, const char *old_path)
{
    static struct bg_watch_change change;
    change.kinds = kinds;
    (void)snprintf(change.path, sizeof change.path, "%s", path);
    (void)snprintf(change.old_path, sizeof change.old_path, "%s", old_path);
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    (void)bg_writer_room(&w, BG_FRAME_HEADER_SIZE);
    bg_watch_change_emit(&change, &w);
    assert_true(bg_writer_ok(&w));
    bg_frame_header_emit(BG_FRAME_CHANGE, (uint32_t)(w.used - BG_FRAME_HEADER_SIZE), bytes);
    return w.used;
}

static void expect(bool json, uint32_t kinds, const char *path, const char *old_path,
                   const char *want)
{
    size_t size = frame_of(kinds, path, old_path);
    char *text = NULL;
    struct bg_err err;
    assert_int_equal(watch_frames_take(bytes, size, json, &text, &err), size);
    assert_string_equal(text, want);
    free(text);
}

static void people_get_a_line_for_each_thing(void **state)
{
    (void)state;
    expect(false, BG_WATCH_CREATED | BG_WATCH_MODIFIED | BG_WATCH_WRITTEN, "/a", "",
           "created    /a\nmodified   /a\nwritten    /a\n");
    expect(false, BG_WATCH_DELETED | BG_WATCH_IS_FOLDER, "/a b", "", "deleted    /a b/\n");
    expect(false, BG_WATCH_MOVED, "/b", "/a", "moved      /a -> /b\n");
    expect(false, BG_WATCH_MOVED, "/b", "", "moved      (elsewhere) -> /b\n");
    expect(false, BG_WATCH_MOVED, "", "/a", "moved      /a -> (elsewhere)\n");
    expect(false, BG_WATCH_LOST, "", "",
           "lost: too much happened at once; look at everything again\n");
}

static void what_a_name_has_in_it_moves_no_cursor(void **state)
{
    (void)state;
    expect(false, BG_WATCH_CREATED, "/a\x1b[2J\n\xff", "", "created    /a\\x1b[2J\\x0a\\xff\n");
    expect(true, BG_WATCH_CREATED, "/a\x1b\n\"", "",
           "{\"kind\":\"created\",\"path\":\"/a\\u001B\\n\\\"\",\"folder\":false}\n");
}

static void programs_get_objects(void **state)
{
    (void)state;
    expect(true, BG_WATCH_ATTRIBUTES | BG_WATCH_IS_FOLDER, "/a", "",
           "{\"kind\":\"attributes\",\"path\":\"/a\",\"folder\":true}\n");
    expect(true, BG_WATCH_MOVED, "/b", "/a",
           "{\"kind\":\"moved\",\"path\":\"/b\",\"old_path\":\"/a\",\"folder\":false}\n");
    expect(true, BG_WATCH_MOVED, "", "/a",
           "{\"kind\":\"moved\",\"old_path\":\"/a\",\"folder\":false}\n");
    expect(true, BG_WATCH_LOST, "", "", "{\"kind\":\"lost\"}\n");
}

static void waits_for_the_whole_frame(void **state)
{
    (void)state;
    size_t size = frame_of(BG_WATCH_MOVED, "/b", "/a");
    char *text = NULL;
    struct bg_err err;
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(watch_frames_take(bytes, cut, false, &text, &err), 0);
    assert_null(text);
}

static int take(size_t size)
{
    char *text = NULL;
    struct bg_err err;
    int r = watch_frames_take(bytes, size, false, &text, &err);
    free(text);
    return r;
}

static void refuses_what_makes_no_sense(void **state)
{
    (void)state;
    static const struct {
        uint32_t kinds;
        const char *path, *old_path;
    } bad[] = {
        {0, "/a", ""},
        {BG_WATCH_IS_FOLDER, "/a", ""},
        {256 | BG_WATCH_CREATED, "/a", ""},
        {BG_WATCH_CREATED, "", ""},
        {BG_WATCH_CREATED, "a", ""},
        {BG_WATCH_CREATED, "/a", "/b"},
        {BG_WATCH_MOVED, "", ""},
        {BG_WATCH_MOVED | BG_WATCH_CREATED, "/a", "/b"},
        {BG_WATCH_LOST, "/a", ""},
        {BG_WATCH_LOST | BG_WATCH_IS_FOLDER, "", ""},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (take(frame_of(bad[i].kinds, bad[i].path, bad[i].old_path)) != -EPROTO)
            fail_msg("frame %zu passes", i);
    size_t size = frame_of(BG_WATCH_CREATED, "/a", "");
    for (size_t cut = 0; cut < size - BG_FRAME_HEADER_SIZE; cut++) {
        bytes[4] = (uint8_t)cut; /* a frame that says it is shorter */
        assert_int_equal(take(size), -EPROTO);
    }
    (void)frame_of(BG_WATCH_CREATED, "/a", "");
    bytes[4]++;
    assert_int_equal(take(size + 1), -EPROTO);
    (void)frame_of(BG_WATCH_CREATED, "/a", "");
    bytes[0] = BG_FRAME_DATA;
    assert_int_equal(take(size), -EPROTO);
}

static void paths_have_their_length_at_most(void **state)
{
    (void)state;
    static char path[BG_PATH_MAX];
    memset(path, 'p', sizeof path - 1);
    path[0] = '/';
    size_t size = frame_of(BG_WATCH_MOVED, path, path);
    assert_int_equal(size, BG_FRAME_HEADER_SIZE + WATCH_FRAME_MAX - 2);
    assert_int_equal(take(size), size);
    bytes[BG_FRAME_HEADER_SIZE + 5]++; /* the second byte of the first path's length: 256 more */
    assert_int_equal(take(size), -EPROTO);
    bytes[6] = 1; /* 64 KiB */
    assert_int_equal(take(size), -EPROTO);
}

static void the_end_says_why(void **state)
{
    (void)state;
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_frame_header_emit(BG_FRAME_END, 8, bytes);
    w.used = BG_FRAME_HEADER_SIZE;
    bg_writer_u32le(&w, (uint32_t)-EIO);
    bg_writer_bytes(&w, "a\x1b[m", 4);
    char *text = NULL;
    struct bg_err err;
    assert_int_equal(watch_frames_take(bytes, w.used, false, &text, &err), -EIO);
    assert_string_equal(err.text, "the guest: a\\x1b[m");
    bytes[BG_FRAME_HEADER_SIZE + 3] = 0; /* a positive status */
    assert_int_equal(take(w.used), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(people_get_a_line_for_each_thing),
        cmocka_unit_test(what_a_name_has_in_it_moves_no_cursor),
        cmocka_unit_test(programs_get_objects),
        cmocka_unit_test(waits_for_the_whole_frame),
        cmocka_unit_test(refuses_what_makes_no_sense),
        cmocka_unit_test(paths_have_their_length_at_most),
        cmocka_unit_test(the_end_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
