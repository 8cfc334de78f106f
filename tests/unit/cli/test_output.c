#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "host/cli/audit_line.h"
#include "host/cli/output.h"

/* What table_print prints; heap. */
static char *printed(const struct table *table)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    assert_int_equal(table_print(table, out), 0);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void columns_are_as_wide_as_their_cells(void **state)
{
    (void)state;
    static const char *const cells[] = {
        "NAME", "S", "LAST", "a", "running", "", "\xc3\xa4\xc3\xb6", "x", "end"};
    struct table table;
    table_init(&table, 3);
    for (size_t i = 0; i < 9; i++)
        table_add(&table, cells[i]);
    char *text = printed(&table);
    assert_string_equal(text, "NAME  S        LAST\n"
                              "a     running  \n"
                              "\xc3\xa4\xc3\xb6    x        end\n");
    free(text);
    table_done(&table);
}

static void an_empty_table_prints_nothing(void **state)
{
    (void)state;
    struct table table;
    table_init(&table, 2);
    table_add(&table, "A");
    table_add(&table, "B");
    char *text = printed(&table);
    assert_string_equal(text, "");
    free(text);
    table_done(&table);
}

static void cells_cannot_move_the_cursor(void **state)
{
    (void)state;
    struct table table;
    table_init(&table, 1);
    table_add(&table, "HEAD");
    table_add(&table, "\x1b[2J\nx\r\xff\xc2\x9b");
    char *text = printed(&table);
    assert_string_equal(text, "HEAD\n\\x1b[2J\\x0ax\\x0d\\xff\\xc2\\x9b\n");
    free(text);
    table_done(&table);
}

static void tells_ages_and_sizes(void **state)
{
    (void)state;
    static const struct {
        uint64_t then_s, now_s;
        const char *want;
    } ages[] = {{0, 0, "0s"},       {5, 0, "0s"},      {0, 119, "119s"},
                {0, 120, "2m"},     {0, 7199, "119m"}, {0, 7200, "2h"},
                {0, 172799, "47h"}, {0, 172800, "2d"}, {0, 864000000, "10000d"}};
    char text[OUTPUT_AGE_SIZE];
    for (size_t i = 0; i < sizeof ages / sizeof *ages; i++) {
        output_age(ages[i].then_s * 1000, ages[i].now_s * 1000, text);
        assert_string_equal(text, ages[i].want);
    }
    static const struct {
        uint64_t bytes;
        const char *want;
    } sizes[] = {{0, "0B"},           {1023, "1023B"},      {1024, "1K"},
                 {1536, "1.5K"},      {512u << 20, "512M"}, {3ull << 29, "1.5G"},
                 {UINT64_MAX, "1.5E"}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        output_size(sizes[i].bytes, text);
        assert_string_equal(text, sizes[i].want);
    }
}

static void any_text_becomes_json(void **state)
{
    (void)state;
    json_t *json = output_text("\xff x");
    assert_string_equal(json_string_value(json), "\\xff x");
    json_decref(json);
    json = output_text("\xc3\xa4");
    assert_string_equal(json_string_value(json), "\xc3\xa4");
    json_decref(json);
}

static void formats_audit_lines(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"ts\":\"2026-11-23T23:40:42.123Z\",\"decision\":\"allow\",\"reason\":\"allowed\","
         "\"host\":"
         "\"api.x.org\",\"port\":443,\"scheme\":\"https\",\"method\":\"GET\",\"path\":\"/v1\","
         "\"rule\":\"api.x.org\",\"status\":200,\"bytes_up\":1,\"bytes_down\":22,\"secrets\":["
         "\"A\","
         "\"B\"]}",
         "2026-11-23 23:40:42  allow  GET   api.x.org:443/v1  200  rule api.x.org  secret A,B  1B "
         "up, 22B down"},
        {"{\"ts\":\"2026-11-23T23:40:42.123Z\",\"decision\":\"deny\",\"reason\":\"no-rule\","
         "\"host\":\"10.0.0.1\",\"port\":22,\"scheme\":\"tcp\",\"rule\":null,\"bytes_up\":0,"
         "\"bytes_down\":0,\"secrets\":[]}",
         "2026-11-23 23:40:42  deny   tcp   10.0.0.1:22  (no-rule)  0B up, 0B down"},
        {"{}", "                                 0B up, 0B down"},
        {"{\"ts\":1,\"host\":[],\"secrets\":[1,null],\"port\":\"x\"}",
         "                                 secret ?,?  0B up, 0B down"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[AUDIT_LINE_SIZE];
        json_t *json = audit_line_load(cases[i][0], strlen(cases[i][0]));
        audit_line_format(json, text);
        json_decref(json);
        if (i < 2)
            assert_string_equal(text, cases[i][1]);
        else
            assert_non_null(strstr(text, "0B up, 0B down"));
    }
}

static void audit_lines_cannot_move_the_cursor(void **state)
{
    (void)state;
    static const char line[] =
        "{\"host\":\"\\u001b[2J\\n\\u202e\\u0000x\",\"path\":\"\\u009b\x7f\"}";
    char text[AUDIT_LINE_SIZE];
    json_t *json = audit_line_load(line, sizeof line - 1);
    audit_line_format(json, text);
    json_decref(json);
    for (const char *p = text; *p != '\0'; p++)
        assert_true(*p >= 0x20 && *p < 0x7f);
    assert_non_null(strstr(text, "\\x1b[2J\\x0a"));
}

static void damaged_audit_lines_are_told(void **state)
{
    (void)state;
    static const char *const lines[] = {"", "{", "[]", "1", "{}{}", "{\"a\":1,\"a\":2}", "\xff"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_null(audit_line_load(lines[i], strlen(lines[i])));
}

static void long_audit_lines_are_cut(void **state)
{
    (void)state;
    static char line[60000], text[AUDIT_LINE_SIZE];
    size_t used = (size_t)snprintf(line, sizeof line, "{\"secrets\":[");
    for (int i = 0; i < 5000; i++)
        used += (size_t)snprintf(line + used, sizeof line - used, "%s\"NAME%d\"", i ? "," : "", i);
    used += (size_t)snprintf(line + used, sizeof line - used, "]}");
    json_t *json = audit_line_load(line, used);
    audit_line_format(json, text);
    json_decref(json);
    assert_int_equal(strlen(text), AUDIT_LINE_SIZE - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_as_wide_as_their_cells),
        cmocka_unit_test(an_empty_table_prints_nothing),
        cmocka_unit_test(cells_cannot_move_the_cursor),
        cmocka_unit_test(tells_ages_and_sizes),
        cmocka_unit_test(any_text_becomes_json),
        cmocka_unit_test(formats_audit_lines),
        cmocka_unit_test(audit_lines_cannot_move_the_cursor),
        cmocka_unit_test(damaged_audit_lines_are_told),
        cmocka_unit_test(long_audit_lines_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
