#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>

#include <cmocka.h>

#include "fs/proto/change.h"
#include "fs/proto/proto.h"

static uint8_t bytes[BG_FS_CHANGES_SIZE];

static size_t message_of(const struct fs_change *changes, size_t count)
{
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    fs_changes_begin(&w);
    for (size_t i = 0; i < count; i++)
        assert_true(fs_changes_add(&w, &changes[i]));
    fs_changes_end(&w);
    return w.used;
}

/* How many records it has; negative errno if it cannot be read. */
static int read_all(const uint8_t *message, size_t size)
{
    struct bg_reader records;
    struct fs_change change;
    struct bg_err err;
    int count = 0, r = fs_changes_open(message, size, &records, &err);
    while (r == 0 && (r = fs_changes_next(&records, &change, &err)) > 0) {
        count++;
        r = 0;
    }
    return r < 0 ? r : count;
}

static const struct fs_change created = {
    .kinds = FS_CHANGE_CREATED | FS_CHANGE_MODIFIED, .folder = 1, .name = "new", .name_size = 3};
static const struct fs_change moved = {.kinds = FS_CHANGE_MOVED | FS_CHANGE_IS_FOLDER,
                                       .node = 7,
                                       .folder = 8,
                                       .folder2 = 9,
                                       .name = "old",
                                       .name_size = 3,
                                       .name2 = "new!",
                                       .name2_size = 4};

static void comes_back_as_it_was(void **state)
{
    (void)state;
    const struct fs_change changes[] = {created, moved, {.kinds = FS_CHANGE_EVERYTHING}};
    size_t size = message_of(changes, 3), stated;
    assert_int_equal(fs_message_size(bytes, FS_REPLY_HEADER_SIZE, &stated, NULL), 0);
    assert_int_equal(stated, size);
    assert_true(fs_reply_unique(bytes) == 0);
    struct bg_reader records;
    struct fs_change got;
    assert_int_equal(fs_changes_open(bytes, size, &records, NULL), 0);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(fs_changes_next(&records, &got, NULL), 1);
        assert_int_equal(got.kinds, changes[i].kinds);
        assert_true(got.node == changes[i].node && got.folder == changes[i].folder &&
                    got.folder2 == changes[i].folder2);
        assert_int_equal(got.name_size, changes[i].name_size);
        assert_int_equal(got.name2_size, changes[i].name2_size);
        if (got.name)
            assert_memory_equal(got.name, changes[i].name, got.name_size);
        if (got.name2)
            assert_memory_equal(got.name2, changes[i].name2, got.name2_size);
    }
    assert_int_equal(fs_changes_next(&records, &got, NULL), 0);
}

static void refuses_every_truncation(void **state)
{
    (void)state;
    size_t size = message_of(&moved, 1);
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(read_all(bytes, cut), -EPROTO);
    for (size_t cut = FS_REPLY_HEADER_SIZE + 1; cut < size; cut++) {
        bytes[0] = (uint8_t)cut; /* and it says so */
        assert_int_equal(read_all(bytes, cut), -EPROTO);
    }
    (void)message_of(&moved, 1);
    bytes[0]++;
    assert_int_equal(read_all(bytes, size + 1), -EPROTO);
}

static void refuses_a_header_of_something_else(void **state)
{
    (void)state;
    size_t size = message_of(&created, 1);
    for (size_t at = 0; at < FS_REPLY_HEADER_SIZE; at++) {
        bytes[at] ^= 1;
        assert_int_equal(read_all(bytes, size), -EPROTO);
        bytes[at] ^= 1;
    }
    assert_int_equal(read_all(bytes, size), 1);
}

static void refuses_records_that_make_no_sense(void **state)
{
    (void)state;
    const struct fs_change bad[] = {
        {.kinds = 0, .node = 1},
        {.kinds = FS_CHANGE_IS_FOLDER, .node = 1},
        {.kinds = 512 | FS_CHANGE_MODIFIED, .node = 1},
        {.kinds = FS_CHANGE_MODIFIED},
        {.kinds = FS_CHANGE_EVERYTHING, .node = 1},
        {.kinds = FS_CHANGE_EVERYTHING | FS_CHANGE_MODIFIED, .node = 1},
        {.kinds = FS_CHANGE_ENDED, .folder = 1, .name = "x", .name_size = 1},
        {.kinds = FS_CHANGE_CREATED, .folder = 1},
        {.kinds = FS_CHANGE_CREATED, .node = 1, .name = "x", .name_size = 1},
        {.kinds = FS_CHANGE_CREATED, .folder = 1, .name = "..", .name_size = 2},
        {.kinds = FS_CHANGE_CREATED, .folder = 1, .name = "a/b", .name_size = 3},
        {.kinds = FS_CHANGE_CREATED, .folder = 1, .name = "a\0b", .name_size = 3},
        {.kinds = FS_CHANGE_MOVED | FS_CHANGE_MODIFIED, .node = 1},
        {.kinds = FS_CHANGE_MODIFIED, .node = 1, .folder2 = 2, .name2 = "x", .name2_size = 1},
        {.kinds = FS_CHANGE_MOVED, .folder2 = 2},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t size = message_of(&bad[i], 1);
        if (read_all(bytes, size) != -EPROTO)
            fail_msg("record %zu passes", i);
    }
}

static void names_have_their_length_at_most(void **state)
{
    (void)state;
    char name[BG_FS_NAME_MAX];
    memset(name, 'n', sizeof name);
    const struct fs_change longest = {
        .kinds = FS_CHANGE_DELETED, .folder = 1, .name = name, .name_size = sizeof name};
    size_t size = message_of(&longest, 1);
    assert_int_equal(read_all(bytes, size), 1);
    /* One more, told and there. */
    bytes[size] = 'n';
    bytes[0]++;
    bytes[FS_REPLY_HEADER_SIZE + 2]++;
    bytes[FS_REPLY_HEADER_SIZE + 3] = 1;
    assert_int_equal(read_all(bytes, size + 1), -EPROTO);
}

static void a_full_message_takes_no_more(void **state)
{
    (void)state;
    struct bg_writer w = bg_writer_init(bytes, 128);
    fs_changes_begin(&w);
    int count = 0;
    while (fs_changes_add(&w, &created))
        count++;
    fs_changes_end(&w);
    assert_int_equal(count, 3);
    assert_int_equal(read_all(bytes, w.used), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back_as_it_was),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(refuses_a_header_of_something_else),
        cmocka_unit_test(refuses_records_that_make_no_sense),
        cmocka_unit_test(names_have_their_length_at_most),
        cmocka_unit_test(a_full_message_takes_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
