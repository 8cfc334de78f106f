#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <linux/fanotify.h>
#include <string.h>

#include <cmocka.h>

#include "fs/server/events.h"

#define HEAD 24u

static uint8_t bytes[1024];

/* name NULL: none in it. Padded to 4 bytes as the kernel does. */
static void add_file(struct bg_writer *w, uint8_t type, const char *handle, const char *name)
{
    size_t handle_size = strlen(handle), name_size = name ? strlen(name) + 1 : 0;
    size_t size = 4 + 8 + 8 + handle_size + name_size, padded = (size + 3) & ~(size_t)3;
    bg_writer_u8(w, type);
    bg_writer_u8(w, 0);
    bg_writer_u16le(w, (uint16_t)padded);
    bg_writer_u64le(w, 0x1122334455667788u);
    bg_writer_u32le(w, (uint32_t)handle_size);
    bg_writer_u32le(w, 1);
    bg_writer_bytes(w, handle, handle_size);
    bg_writer_bytes(w, name, name_size);
    for (; size < padded; size++)
        bg_writer_u8(w, 0);
}

static void event_begin(struct bg_writer *w, uint64_t mask, int pid)
{
    bg_writer_u32le(w, 0); /* by event_end */
    bg_writer_u8(w, FANOTIFY_METADATA_VERSION);
    bg_writer_u8(w, 0);
    bg_writer_u16le(w, HEAD);
    bg_writer_u64le(w, mask);
    bg_writer_u32le(w, (uint32_t)FAN_NOFD);
    bg_writer_u32le(w, (uint32_t)pid);
}

static void event_end(struct bg_writer *w, size_t start)
{
    struct bg_writer head = bg_writer_init(w->start + start, 4);
    bg_writer_u32le(&head, (uint32_t)(w->used - start));
    assert_true(bg_writer_ok(w));
}

static size_t rename_and_overflow(void)
{
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    event_begin(&w, FAN_RENAME | FAN_ONDIR, 42);
    add_file(&w, FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, "from", "old");
    add_file(&w, FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, "to", "a new name");
    add_file(&w, FAN_EVENT_INFO_TYPE_FID, "it", NULL);
    event_end(&w, 0);
    size_t second = w.used;
    event_begin(&w, FAN_Q_OVERFLOW, 0);
    event_end(&w, second);
    return w.used;
}

static void reads_what_the_kernel_says(void **state)
{
    (void)state;
    struct bg_reader in = bg_reader_init(bytes, rename_and_overflow());
    struct fs_event event;
    assert_int_equal(fs_event_next(&in, &event, NULL), 1);
    assert_true(event.mask == (FAN_RENAME | FAN_ONDIR));
    assert_int_equal(event.pid, 42);
    assert_true(event.file.fsid == 0x1122334455667788u);
    assert_int_equal(event.file.handle_size, 2);
    assert_memory_equal(event.file.handle, "it", 2);
    assert_null(event.file.name);
    assert_memory_equal(event.folder.handle, "from", 4);
    assert_string_equal(event.folder.name, "old");
    assert_memory_equal(event.folder_to.handle, "to", 2);
    assert_string_equal(event.folder_to.name, "a new name");
    assert_int_equal(fs_event_next(&in, &event, NULL), 1);
    assert_true(event.mask == FAN_Q_OVERFLOW);
    assert_null(event.file.handle);
    assert_int_equal(fs_event_next(&in, &event, NULL), 0);
}

static void a_dot_is_the_folder_itself(void **state)
{
    (void)state;
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    event_begin(&w, FAN_ATTRIB | FAN_ONDIR, 1);
    add_file(&w, FAN_EVENT_INFO_TYPE_DFID_NAME, "dir", ".");
    event_end(&w, 0);
    struct bg_reader in = bg_reader_init(bytes, w.used);
    struct fs_event event;
    assert_int_equal(fs_event_next(&in, &event, NULL), 1);
    assert_non_null(event.folder.handle);
    assert_null(event.folder.name);
    assert_null(event.file.handle);
}

static void passes_over_what_it_does_not_know(void **state)
{
    (void)state;
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    event_begin(&w, FAN_MODIFY, 1);
    add_file(&w, 99, "x", NULL);
    add_file(&w, FAN_EVENT_INFO_TYPE_FID, "it", NULL);
    event_end(&w, 0);
    struct bg_reader in = bg_reader_init(bytes, w.used);
    struct fs_event event;
    assert_int_equal(fs_event_next(&in, &event, NULL), 1);
    assert_int_equal(event.file.handle_size, 2);
}

static void refuses_every_truncation(void **state)
{
    (void)state;
    size_t size = rename_and_overflow();
    for (size_t cut = 1; cut < size; cut++) {
        struct bg_reader in = bg_reader_init(bytes, cut);
        struct fs_event event;
        int r;
        do {
            r = fs_event_next(&in, &event, NULL);
        } while (r > 0);
        assert_int_equal(r, cut == size - HEAD ? 0 : -EPROTO);
    }
}

static void refuses_wrong_sizes_and_versions(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint8_t value;
    } faults[] = {{0, 0},  {0, HEAD - 1}, {0, HEAD + 2}, {4, 2},
                  {6, 23}, {6, 255},      {HEAD + 2, 3}, {HEAD + 12, 255}};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        (void)rename_and_overflow();
        bytes[faults[i].at] = faults[i].value;
        struct bg_reader in = bg_reader_init(bytes, 256);
        struct fs_event event;
        if (fs_event_next(&in, &event, NULL) != -EPROTO)
            fail_msg("fault %zu passes", i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_the_kernel_says),
        cmocka_unit_test(a_dot_is_the_folder_itself),
        cmocka_unit_test(passes_over_what_it_does_not_know),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(refuses_wrong_sizes_and_versions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
