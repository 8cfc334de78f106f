/* What an export may contain, and the sums of its files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "host/cli/archive_format.h"
#include "host/cli/archive_sum.h"

static void only_files_of_an_export_have_names(void **state)
{
    (void)state;
    static const char *const good[] = {"format",
                                       "sums",
                                       "snapshot/manifest.json",
                                       "snapshot/manifest.sha256",
                                       "snapshot/state",
                                       "snapshot/memory-0123456789abcdef.mem",
                                       "snapshot/disk-0123456789abcdef.qcow2",
                                       "golden/manifest.json",
                                       "golden/memory",
                                       "golden/child.qcow2"};
    static const char *const bad[] = {
        "",
        "/format",
        "./format",
        "../format",
        "snapshot",
        "snapshot/",
        "snapshot/../x",
        "snapshot/format",
        "snapshot/disk.qcow2",
        "snapshot/disk-0123456789abcdef.qcow2x",
        "snapshot/disk-0123456789ABCDEF.qcow2",
        "snapshot/disk-../0123456789abc.qcow2",
        "snapshot/memory-0123456789abcde.mem",
        "golden/state/x",
        "golden/boot.log",
        "golden/",
        "other/state",
        "snapshot/memory-0123456789abcdef.memxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"};
    enum archive_part part;
    const char *file;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(archive_split(good[i], &part, &file));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (archive_split(bad[i], &part, &file))
            fail_msg("%s", bad[i]);
}

static void sizes_are_the_manifests(void **state)
{
    (void)state;
    static const char layer[] = "disk-0123456789abcdef.qcow2";
    struct bg_snapshot s = {.kind = BG_SNAPSHOT_FULL,
                            .memory_bytes = 1000,
                            .state_size = 7,
                            .disk = {{.id = "0123456789abcdef", .size = 12}},
                            .disk_count = 1};
    assert_int_equal(archive_size_max(ARCHIVE_SNAPSHOT, layer, &s), 12);
    assert_int_equal(archive_size_max(ARCHIVE_SNAPSHOT, layer, NULL), 0);
    assert_int_equal(archive_size_max(ARCHIVE_SNAPSHOT, BG_SNAPSHOT_STATE, &s), 7);
    assert_int_equal(archive_size_max(ARCHIVE_SNAPSHOT, "memory-0123456789abcdef.mem", &s), 0);
    assert_int_equal(archive_size_max(ARCHIVE_GOLDEN, "memory", &s), 1000);
    assert_int_equal(archive_size_max(ARCHIVE_GOLDEN, "memory", NULL), 0);
    assert_true(archive_has_file(&s, layer));
    assert_false(archive_has_file(&s, "disk-1123456789abcdef.qcow2"));
    s.kind = BG_SNAPSHOT_DISK;
    assert_false(archive_has_file(&s, BG_SNAPSHOT_STATE));
}

#define HEX "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void sums_are_lines(void **state)
{
    (void)state;
    const char *at = HEX "  format\n" HEX "  snapshot/state\n";
    char hex[65], name[ARCHIVE_NAME_SIZE];
    bool bad;
    assert_true(archive_next_sum(&at, hex, name, &bad));
    assert_string_equal(name, "format");
    assert_true(archive_next_sum(&at, hex, name, &bad));
    assert_string_equal(hex, HEX);
    assert_string_equal(name, "snapshot/state");
    assert_false(archive_next_sum(&at, hex, name, &bad));
    assert_false(bad);
    static const char *const wrong[] = {
        "\n",
        HEX,
        HEX "\n",
        HEX "  \n",
        HEX "  x",
        HEX " x\n",
        HEX "\tx \n",
        "0" HEX "  x\n",
        "x" HEX "  x\n",
        HEX "  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        at = wrong[i];
        assert_false(archive_next_sum(&at, hex, name, &bad));
        assert_true(bad);
    }
}

/* The sum of a file of that size, with bytes at offset, given in parts. */
static void sum_of(uint64_t size, uint64_t offset, const char *bytes, size_t part, char out[65])
{
    static struct archive_sum sum;
    archive_sum_init(&sum);
    for (size_t at = 0; at < strlen(bytes); at += part)
        assert_int_equal(archive_sum_add(&sum, offset + at, bytes + at,
                                         strlen(bytes) - at < part ? strlen(bytes) - at : part),
                         0);
    assert_int_equal(archive_sum_final(&sum, size, out), 0);
}

static void a_sum_is_of_content_and_not_of_how_it_came(void **state)
{
    (void)state;
    static struct archive_sum sum;
    static const uint8_t zeros[3 * ARCHIVE_CHUNK_SIZE];
    char whole[65], parts[65], filled[65], other[65];
    sum_of(1 << 20, ARCHIVE_CHUNK_SIZE - 3, "over the edge", 100, whole);
    sum_of(1 << 20, ARCHIVE_CHUNK_SIZE - 3, "over the edge", 1, parts);
    assert_string_equal(whole, parts);
    /* Holes that came as zeros. */
    archive_sum_init(&sum);
    assert_int_equal(archive_sum_add(&sum, 0, zeros, ARCHIVE_CHUNK_SIZE - 3), 0);
    assert_int_equal(archive_sum_add(&sum, ARCHIVE_CHUNK_SIZE - 3, "over the edge", 13), 0);
    assert_int_equal(archive_sum_add(&sum, ARCHIVE_CHUNK_SIZE + 10, zeros, sizeof zeros), 0);
    assert_int_equal(archive_sum_final(&sum, 1 << 20, filled), 0);
    assert_string_equal(whole, filled);
    sum_of(1 << 20, ARCHIVE_CHUNK_SIZE - 2, "over the edge", 100, other);
    assert_string_not_equal(whole, other); /* elsewhere */
    sum_of((1 << 20) + 1, ARCHIVE_CHUNK_SIZE - 3, "over the edge", 100, other);
    assert_string_not_equal(whole, other); /* another size */
    archive_sum_init(&sum);
    assert_int_equal(archive_sum_add(&sum, 10, "x", 1), 0);
    assert_int_equal(archive_sum_add(&sum, 10, "x", 1), -EINVAL);
    assert_int_equal(archive_sum_add(&sum, UINT64_MAX, "xx", 2), -EINVAL);
    assert_int_equal(archive_sum_final(&sum, 10, other), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_files_of_an_export_have_names),
        cmocka_unit_test(sizes_are_the_manifests),
        cmocka_unit_test(sums_are_lines),
        cmocka_unit_test(a_sum_is_of_content_and_not_of_how_it_came),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
