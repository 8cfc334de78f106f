#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/limits.h"
#include "host/gateway/audit_tail.h"
#include "host/gateway/overview.h"

static void add_lines(const char *dir, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/audit.ndjson", dir);
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* Reads from *cursor on, and moves it. The hosts of the lines, each with a comma. */
static void check(const char *dir, struct audit_cursor *cursor, bool has, const char *want)
{
    char got[256] = "";
    json_t *answer;
    struct bg_err err;
    assert_int_equal(audit_tail_read(dir, has ? cursor : NULL, &answer, &err), 0);
    json_t *lines = json_object_get(answer, "lines");
    for (size_t i = 0; i < json_array_size(lines); i++) {
        size_t used = strlen(got);
        (void)snprintf(got + used, sizeof got - used, "%s,",
                       json_string_value(json_object_get(json_array_get(lines, i), "host")));
    }
    assert_string_equal(got, want);
    const char *next = json_string_value(json_object_get(answer, "next"));
    if (next[0] != '\0')
        assert_int_equal(audit_cursor_parse(next, cursor), 0);
    json_decref(answer);
}

static void who_comes_back_gets_what_is_new(void **state)
{
    (void)state;
    char dir[] = "/tmp/bg-test-audit-XXXXXX", from[256], to[256];
    struct audit_cursor cursor;
    assert_non_null(mkdtemp(dir));
    check(dir, &cursor, false, "");
    add_lines(dir, "{\"host\":\"a\"}\n{\"host\":\"b\"}\nno json\n{\"host\":\"half");
    check(dir, &cursor, false, "a,b,");
    check(dir, &cursor, true, "");
    add_lines(dir, "\"}\n{\"host\":\"c\"}\n");
    check(dir, &cursor, true, "half,c,");
    /* The file is turned over while nobody reads. */
    add_lines(dir, "{\"host\":\"d\"}\n");
    (void)snprintf(from, sizeof from, "%s/audit.ndjson", dir);
    (void)snprintf(to, sizeof to, "%s/audit.ndjson.1", dir);
    assert_int_equal(rename(from, to), 0);
    add_lines(dir, "{\"host\":\"e\"}\n");
    check(dir, &cursor, true, "d,");
    check(dir, &cursor, true, "e,");
    check(dir, &cursor, true, "");
    /* Its file is gone: from the oldest on. */
    cursor = (struct audit_cursor){.inode = 1, .offset = 7};
    assert_int_equal(unlink(to), 0);
    check(dir, &cursor, true, "e,");
    assert_int_equal(unlink(from), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void a_long_log_comes_in_pieces(void **state)
{
    (void)state;
    char dir[] = "/tmp/bg-test-audit-XXXXXX", path[256];
    struct audit_cursor cursor = {0};
    struct bg_err err;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/audit.ndjson", dir);
    FILE *file = fopen(path, "w");
    const size_t count = 3 * BG_GATEWAY_AUDIT_MAX / 16;
    for (size_t i = 0; i < count; i++)
        (void)fprintf(file, "{\"n\":%zu}\n", i);
    assert_int_equal(fclose(file), 0);
    size_t next = 0;
    bool has = true, more = true;
    for (cursor.inode = 1; more; has = true) { /* not there: from the beginning */
        json_t *answer;
        assert_int_equal(audit_tail_read(dir, has ? &cursor : NULL, &answer, &err), 0);
        json_t *lines = json_object_get(answer, "lines");
        for (size_t i = 0; i < json_array_size(lines); i++)
            assert_int_equal(json_integer_value(json_object_get(json_array_get(lines, i), "n")),
                             next++);
        more = json_is_true(json_object_get(answer, "more"));
        assert_int_equal(
            audit_cursor_parse(json_string_value(json_object_get(answer, "next")), &cursor), 0);
        json_decref(answer);
    }
    assert_int_equal(next, count);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void other_cursors_are_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"",
                                        "-",
                                        "1-",
                                        "-1",
                                        "1",
                                        "a-1",
                                        "1-a",
                                        "1-1-1",
                                        " 1-1",
                                        "1-9999999999999999999",
                                        "99999999999999999999999999-1"};
    struct audit_cursor cursor;
    char text[AUDIT_CURSOR_SIZE];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(audit_cursor_parse(texts[i], &cursor), -EINVAL);
    assert_int_equal(audit_cursor_parse("18446744073709551615-9223372036854775807", &cursor), 0);
    audit_cursor_emit(&cursor, text);
    assert_string_equal(text, "18446744073709551615-9223372036854775807");
}

static void a_process_tells_its_time(void **state)
{
    (void)state;
    uint64_t ticks = 0;
    assert_int_equal(
        overview_parse_stat("7 (qemu (x) 1) S 1 2 3 4 5 6 7 8 9 10 250 31 0 0 20 0", &ticks), 0);
    assert_int_equal(ticks, 281);
    static const char *const texts[] = {"", "7", "7 (q)", "7 (q) S 1 2 3 4 5 6 7 8 9 10 250",
                                        "7 (q) S 1 2 3 4 5 6 7 8 9 10 x 31 0"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(overview_parse_stat(texts[i], &ticks), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_comes_back_gets_what_is_new),
        cmocka_unit_test(a_long_log_comes_in_pieces),
        cmocka_unit_test(other_cursors_are_refused),
        cmocka_unit_test(a_process_tells_its_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
