#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "host/mcp/tools.h"

static int check(const char *tool, const char *args)
{
    struct bg_err err;
    json_t *value = json_loads(args, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    assert_non_null(value);
    int r = tool_check(tool_find(tool), value, &err);
    json_decref(value);
    return r;
}

static void each_tool_has_whole_schemas(void **state)
{
    (void)state;
    size_t i;
    json_t *tool, *list = tools_list();
    assert_int_equal(json_array_size(list), TOOL_COUNT);
    json_array_foreach(list, i, tool)
    {
        const struct tool *found = tool_find(json_string_value(json_object_get(tool, "name")));
        assert_non_null(found);
        assert_int_equal(tool_id(found), i);
        static const char *const schemas[] = {"inputSchema", "outputSchema"};
        for (size_t j = 0; j < 2; j++) {
            const json_t *schema = json_object_get(tool, schemas[j]);
            const json_t *properties = json_object_get(schema, "properties");
            assert_string_equal(json_string_value(json_object_get(schema, "type")), "object");
            size_t k;
            json_t *name;
            json_array_foreach(json_object_get(schema, "required"), k, name)
                assert_non_null(json_object_get(properties, json_string_value(name)));
        }
    }
    json_decref(list);
    assert_null(tool_find("none"));
}

static void arguments_are_taken_as_the_schema_says(void **state)
{
    (void)state;
    struct bg_err err;
    assert_int_equal(check("run", "{\"sandbox\":\"a\",\"command\":\"b\",\"env\":{\"A\":\"\"}}"), 0);
    assert_int_equal(check("run", "{\"sandbox\":\"a\",\"argv\":[\"b\"],\"timeout_seconds\":3.0}"),
                     0);
    assert_int_equal(check("run", "{\"sandbox\":\"a\",\"argv\":[\"b\"],\"cwd\":null}"), 0);
    assert_int_equal(
        check("write_file", "{\"sandbox\":\"a\",\"path\":\"b\",\"content\":\"\\u0000\"}"), 0);
    assert_int_equal(tool_check(tool_find("list_sandboxes"), NULL, &err), 0);
}

static void others_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "1",
        "[]",
        "{}",
        "{\"sandbox\":null,\"command\":\"b\"}",
        "{\"sandbox\":\"\",\"command\":\"b\"}",
        "{\"sandbox\":1,\"command\":\"b\"}",
        "{\"sandbox\":\"a\",\"command\":\"b\\u0000\"}",
        "{\"sandbox\":\"a\",\"image\":\"b\"}",
        "{\"sandbox\":\"a\",\"argv\":[]}",
        "{\"sandbox\":\"a\",\"argv\":[1]}",
        "{\"sandbox\":\"a\",\"argv\":\"b\"}",
        "{\"sandbox\":\"a\",\"argv\":[\"b\\u0000\"]}",
        "{\"sandbox\":\"a\",\"env\":{\"A\":1}}",
        "{\"sandbox\":\"a\",\"env\":[]}",
        "{\"sandbox\":\"a\",\"timeout_seconds\":0}",
        "{\"sandbox\":\"a\",\"timeout_seconds\":1.5}",
        "{\"sandbox\":\"a\",\"timeout_seconds\":1e300}",
        "{\"sandbox\":\"a\",\"timeout_seconds\":\"1\"}",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(check("run", wrong[i]), -EINVAL);
    assert_int_equal(check("read_file", "{\"sandbox\":\"a\",\"path\":\"b\",\"encoding\":\"x\"}"),
                     -EINVAL);
    assert_int_equal(check("read_file", "{\"sandbox\":\"a\",\"path\":\"b\",\"offset\":-1}"),
                     -EINVAL);
    assert_int_equal(
        check("write_file", "{\"sandbox\":\"a\",\"path\":\"b\",\"content\":\"\",\"append\":1}"),
        -EINVAL);
}

static void a_text_may_be_as_long_as_its_limit(void **state)
{
    (void)state;
    struct bg_err err;
    for (size_t over = 0; over < 2; over++) {
        size_t size = BG_MCP_COMMAND_MAX + over;
        char *text = malloc(size);
        assert_non_null(text);
        memset(text, 'a', size);
        json_t *args = json_pack("{s:s, s:o}", "sandbox", "a", "command", json_stringn(text, size));
        assert_int_equal(tool_check(tool_find("run"), args, &err), over ? -EINVAL : 0);
        json_decref(args);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_tool_has_whole_schemas),
        cmocka_unit_test(arguments_are_taken_as_the_schema_says),
        cmocka_unit_test(others_are_refused),
        cmocka_unit_test(a_text_may_be_as_long_as_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
