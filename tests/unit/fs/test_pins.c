/* Approved files in memory, and notes of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "fs/guard/pins.h"

static void bytes_are_as_they_were_written(void **state)
{
    (void)state;
    struct fs_pins pins;
    struct fs_pin *pin;
    fs_pins_init(&pins);
    assert_int_equal(fs_pins_add(&pins, "/a", &pin), 0);
    assert_int_equal(fs_pins_write(&pins, pin, 2, (const uint8_t *)"xy", 2), 0);
    assert_int_equal(pin->size, 4);
    assert_memory_equal(pin->bytes, "\0\0xy", 4);
    assert_int_equal(fs_pins_resize(&pins, pin, 3), 0);
    assert_int_equal(fs_pins_resize(&pins, pin, 5), 0);
    assert_memory_equal(pin->bytes, "\0\0x\0\0", 5);
    assert_int_equal(fs_pins_set(&pins, pin, (const uint8_t *)"new", 3), 0);
    assert_int_equal(pins.bytes, 3);
    assert_ptr_equal(fs_pins_find(&pins, "/a"), pin);
    assert_null(fs_pins_find(&pins, "/b"));
    assert_int_equal(fs_pins_resize(&pins, pin, 0), 0);
    assert_null(pin->bytes);
    fs_pins_remove(&pins, pin);
    assert_int_equal(pins.count, 0);
    fs_pins_done(&pins);
}

static void each_maximum_holds(void **state)
{
    (void)state;
    struct fs_pins pins;
    struct fs_pin *pin;
    fs_pins_init(&pins);
    assert_int_equal(fs_pins_add(&pins, "/a", &pin), 0);
    assert_int_equal(fs_pins_resize(&pins, pin, BG_GUARD_FILE_MAX), 0);
    assert_int_equal(fs_pins_resize(&pins, pin, BG_GUARD_FILE_MAX + 1), -EFBIG);
    assert_int_equal(fs_pins_write(&pins, pin, BG_GUARD_FILE_MAX, (const uint8_t *)"x", 1), -EFBIG);
    assert_int_equal(fs_pins_write(&pins, pin, UINT64_MAX, (const uint8_t *)"x", 1), -EFBIG);
    for (size_t i = 1; i < BG_GUARD_BYTES_MAX / BG_GUARD_FILE_MAX; i++) {
        char path[32];
        (void)snprintf(path, sizeof path, "/%zu", i);
        assert_int_equal(fs_pins_add(&pins, path, &pin), 0);
        assert_int_equal(fs_pins_resize(&pins, pin, BG_GUARD_FILE_MAX), 0);
    }
    assert_int_equal(fs_pins_add(&pins, "/more", &pin), 0);
    assert_int_equal(fs_pins_set(&pins, pin, (const uint8_t *)"x", 1), -ENOSPC);
    while (pins.count < BG_GUARD_FILES_MAX) {
        char path[32];
        (void)snprintf(path, sizeof path, "/n%zu", pins.count);
        assert_int_equal(fs_pins_add(&pins, path, &pin), 0);
    }
    assert_int_equal(fs_pins_add(&pins, "/last", &pin), -ENOSPC);
    fs_pins_done(&pins);
}

static void paths_are_canonical(void **state)
{
    (void)state;
    static const char *const good[] = {"/a", "/a/b", "/...", "/.git", "/a b"};
    static const char *const bad[] = {"",      "/",  "a",   "/a/",     "//a",
                                      "/a//b", "/.", "/..", "/a/../b", "/a/./b"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(fs_pin_path_ok(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(fs_pin_path_ok(bad[i]));
    char name[BG_FS_NAME_MAX + 3] = "/";
    memset(name + 1, 'a', BG_FS_NAME_MAX);
    assert_true(fs_pin_path_ok(name));
    name[BG_FS_NAME_MAX + 1] = 'a';
    assert_false(fs_pin_path_ok(name));
    assert_true(fs_pins_is_below("/a/b", "/a"));
    assert_true(fs_pins_is_below("/a", "/a"));
    assert_false(fs_pins_is_below("/ab", "/a"));
}

static size_t emit(const struct fs_pin_note *note, uint8_t *out)
{
    size_t size = fs_pin_note_emit(note, out);
    if (note->size > 0)
        memcpy(out + size, note->bytes, note->size);
    return size + note->size;
}

static void notes_are_read_back(void **state)
{
    (void)state;
    struct fs_pin_note note = {
        .path = "/a/b", .mode = 0600, .mtime = 12345, .bytes = (const uint8_t *)"hello", .size = 5};
    uint8_t bytes[BG_PATH_MAX + 64];
    struct fs_pin_note got;
    size_t size = emit(&note, bytes);
    assert_int_equal(fs_pin_note_parse(bytes, size, &got, NULL), 0);
    assert_string_equal(got.path, "/a/b");
    assert_true(got.mode == 0600 && got.mtime == 12345 && got.size == 5 && !got.forget);
    assert_memory_equal(got.bytes, "hello", 5);
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(fs_pin_note_parse(bytes, cut, &got, NULL), -EPROTO);
    assert_int_equal(fs_pin_note_parse(bytes, size + 1, &got, NULL), -EPROTO);
    note = (struct fs_pin_note){.path = "/a", .forget = true};
    size = emit(&note, bytes);
    assert_int_equal(fs_pin_note_parse(bytes, size, &got, NULL), 0);
    assert_true(got.forget);
}

static void each_field_of_a_note_is_checked(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint8_t value;
    } rows[] = {{0, 0},
                {0, 3},
                {0, 2} /* forgotten, with bytes */,
                {5, 2} /* mode 01000 */,
                {20, 'x'},
                {21, '/'},
                {21, 0},
                {16, 200},
                {19, 1}};
    struct fs_pin_note note = {.path = "/a",
                               .mode = 0,
                               .bytes = (const uint8_t *)"hello",
                               .size = 5},
                       got;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t bytes[BG_PATH_MAX + 64];
        size_t size = emit(&note, bytes);
        bytes[rows[i].at] = rows[i].value;
        assert_int_equal(fs_pin_note_parse(bytes, size, &got, NULL), -EPROTO);
    }
    /* The content's size, at its maximum and above. */
    size_t room = BG_GUARD_FILE_MAX + 128;
    uint8_t *big = calloc(1, room);
    assert_non_null(big);
    note.bytes = NULL;
    for (size_t extra = 0; extra < 2; extra++) {
        note.size = BG_GUARD_FILE_MAX + extra;
        size_t head = fs_pin_note_emit(&note, big);
        assert_int_equal(fs_pin_note_parse(big, head + note.size, &got, NULL),
                         extra == 0 ? 0 : -EPROTO);
    }
    free(big);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_as_they_were_written),
        cmocka_unit_test(each_maximum_holds),
        cmocka_unit_test(paths_are_canonical),
        cmocka_unit_test(notes_are_read_back),
        cmocka_unit_test(each_field_of_a_note_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
