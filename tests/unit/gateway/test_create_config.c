#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base64.h"
#include "host/gateway/create_config.h"

#define NOW_MS 1000000

static int parse(const char *json, struct create_config *ret, struct bg_err *err)
{
    size_t size = strlen(json);
    char *text = malloc(BG_BASE64_SIZE(size));
    assert_non_null(text);
    bg_base64_encode((const uint8_t *)json, size, text);
    int r = create_config_parse(text, BG_BASE64_SIZE(size), NOW_MS, ret, err);
    free(text);
    return r;
}

static void what_is_absent_has_the_sdk_s_defaults(void **state)
{
    (void)state;
    struct create_config c;
    struct bg_err err;
    assert_int_equal(parse("{\"memory_mb\":null,\"volumes\":[]}", &c, &err), 0);
    assert_int_equal(c.stop_at_ms, 0);
    assert_int_equal(c.memory_bytes, 1280u << 20);
    assert_int_equal(json_object_size(c.labels), 0);
    assert_false(c.restricted);
    assert_int_equal(c.secret_count, 0);
    create_config_done(&c);
}

static void the_python_library_s_forms_are_read(void **state)
{
    (void)state;
    struct create_config c;
    struct bg_err err;
    assert_int_equal(
        parse("{\"memory_mb\":1280,\"debug\":false,\"timeout\":\"5m\",\"env\":{\"A\":\"1\"},"
              "\"volumes\":{\"/b\":\"two\",\"/a\":\"one\"},\"ssh\":true,\"port\":8000}",
              &c, &err),
        0);
    assert_int_equal(c.stop_at_ms, NOW_MS + 300000);
    assert_string_equal(json_string_value(json_object_get(c.env, "A")), "1");
    assert_int_equal(c.volume_count, 2);
    assert_string_equal(c.volumes[0].path, "/a");
    assert_string_equal(c.volumes[0].volume, "one");
    create_config_done(&c);
    static const struct {
        const char *text;
        uint64_t stop_at_ms;
    } times[] = {{"session", 0}, {"30s", NOW_MS + 30000}, {"2h", NOW_MS + 7200000}};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        char json[64];
        (void)snprintf(json, sizeof json, "{\"timeout\":\"%s\"}", times[i].text);
        assert_int_equal(parse(json, &c, &err), 0);
        assert_int_equal(c.stop_at_ms, times[i].stop_at_ms);
        create_config_done(&c);
    }
}

static void all_of_it_is_read(void **state)
{
    (void)state;
    struct create_config c;
    struct bg_err err;
    assert_int_equal(parse("{\"stop_at_ms\":1600000,\"memory_mb\":768,\"labels\":{\"a\":\"b\"},"
                           "\"allow_net\":[\"example.com\",\"*.b.org:8080\"],"
                           "\"secrets\":{\"KEY\":{\"hosts\":[\"api.example.com\"],"
                           "\"value\":\"v\"}}}",
                           &c, &err),
                     0);
    assert_int_equal(c.stop_at_ms, 1600000);
    assert_int_equal(c.memory_bytes, 768u << 20);
    assert_string_equal(json_string_value(json_object_get(c.labels, "a")), "b");
    assert_true(c.restricted);
    assert_int_equal(c.allow_count, 2);
    assert_string_equal(c.allow[1], "*.b.org:8080");
    assert_int_equal(c.secret_count, 1);
    assert_string_equal(c.secrets[0].name, "KEY");
    assert_string_equal(c.secrets[0].value, "v");
    assert_string_equal(c.secrets[0].hosts[0], "api.example.com");
    create_config_done(&c);
}

static void an_empty_list_of_hosts_allows_nothing(void **state)
{
    (void)state;
    struct create_config c;
    struct bg_err err;
    assert_int_equal(parse("{\"allow_net\":[]}", &c, &err), 0);
    assert_true(c.restricted);
    assert_int_equal(c.allow_count, 0);
    create_config_done(&c);
}

/* btoa() of "ä" is one byte; another client may send UTF-8. */
static void latin_1_and_utf_8_are_read(void **state)
{
    (void)state;
    static const char *const texts[] = {"{\"labels\":{\"a\":\"\xe4\"}}",
                                        "{\"labels\":{\"a\":\"\xc3\xa4\"}}"};
    for (size_t i = 0; i < 2; i++) {
        struct create_config c;
        struct bg_err err;
        assert_int_equal(parse(texts[i], &c, &err), 0);
        assert_string_equal(json_string_value(json_object_get(c.labels, "a")), "\xc3\xa4");
        create_config_done(&c);
    }
}

static void volumes_are_sorted_by_path(void **state)
{
    (void)state;
    struct create_config c;
    struct bg_err err;
    assert_int_equal(parse("{\"root\":{\"volume\":\"r\"},\"volumes\":[{\"volume\":\"x\",\"path\":"
                           "\"/a//b/\"},{\"volume\":\"y\",\"path\":\"/a\"}]}",
                           &c, &err),
                     0);
    assert_string_equal(c.root, "r");
    assert_int_equal(c.volume_count, 2);
    assert_string_equal(c.volumes[0].path, "/a");
    assert_string_equal(c.volumes[0].volume, "y");
    assert_string_equal(c.volumes[1].path, "/a/b");
    create_config_done(&c);
}

static void wrong_ones_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        int code;
    } wrong[] = {
        {"", -EINVAL},
        {"[]", -EINVAL},
        {"{", -EINVAL},
        {"{\"memory_mb\":64}", -EINVAL},
        {"{\"memory_mb\":\"1G\"}", -EINVAL},
        {"{\"memory_mb\":99999999999}", -EINVAL},
        {"{\"stop_at_ms\":0}", -EINVAL},
        {"{\"stop_at_ms\":\"5\"}", -EINVAL},
        {"{\"stop_at_ms\":99999999999999}", -EINVAL},
        {"{\"labels\":{\"a\":1}}", -EINVAL},
        {"{\"labels\":[]}", -EINVAL},
        {"{\"allow_net\":\"a\"}", -EINVAL},
        {"{\"allow_net\":[\"http://a\"]}", -EINVAL},
        /* opens what is not public: for the machine's owner only */
        {"{\"allow_net\":[\"a.org=127.0.0.1\"]}", -EINVAL},
        {"{\"secrets\":[]}", -EINVAL},
        {"{\"secrets\":{\"A\":{\"hosts\":[],\"value\":\"x\"}}}", -EINVAL},
        {"{\"secrets\":{\"A\":{\"hosts\":[\"a.org\"],\"value\":\"\"}}}", -EINVAL},
        {"{\"secrets\":{\"A\":{\"hosts\":[\"a.org\"]}}}", -EINVAL},
        {"{\"secrets\":{\"A\":\"x\"}}", -EINVAL},
        {"{\"secrets\":{\"../A\":{\"hosts\":[\"a.org\"],\"value\":\"x\"}}}", -EINVAL},
        {"{\"secrets\":{\"A\":{\"hosts\":[\"a.org=10.0.0.1\"],\"value\":\"x\"}}}", -EINVAL},
        {"{\"root\":\"x\"}", -EINVAL},
        {"{\"root\":{}}", -EINVAL},
        {"{\"volumes\":{\"/a\":1}}", -EINVAL},
        {"{\"volumes\":{\"a\":\"x\"}}", -EINVAL},
        {"{\"timeout\":5}", -EINVAL},
        {"{\"timeout\":\"\"}", -EINVAL},
        {"{\"timeout\":\"m\"}", -EINVAL},
        {"{\"timeout\":\"0s\"}", -EINVAL},
        {"{\"timeout\":\"5d\"}", -EINVAL},
        {"{\"timeout\":\"5m \"}", -EINVAL},
        {"{\"timeout\":\"99999999999999999999h\"}", -EINVAL},
        {"{\"env\":[]}", -EINVAL},
        {"{\"env\":{\"A\":1}}", -EINVAL},
        {"{\"env\":{\"A=B\":\"1\"}}", -EINVAL},
        {"{\"volumes\":[1]}", -EINVAL},
        {"{\"volumes\":[{\"volume\":\"x\"}]}", -EINVAL},
        {"{\"volumes\":[{\"volume\":\"x\",\"path\":\"x\"}]}", -EINVAL},
        {"{\"volumes\":[{\"volume\":\"x\",\"path\":\"/a/../b\"}]}", -EINVAL},
        {"{\"volumes\":[{\"volume\":\"x\",\"path\":\"/x\"},{\"volume\":\"y\",\"path\":\"/x/\"}]}",
         -EINVAL},
    };
    struct create_config c;
    struct bg_err err;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(parse(wrong[i].json, &c, &err), wrong[i].code);
    assert_int_equal(create_config_parse("!!!!", 4, NOW_MS, &c, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_absent_has_the_sdk_s_defaults),
        cmocka_unit_test(all_of_it_is_read),
        cmocka_unit_test(the_python_library_s_forms_are_read),
        cmocka_unit_test(an_empty_list_of_hosts_allows_nothing),
        cmocka_unit_test(latin_1_and_utf_8_are_read),
        cmocka_unit_test(volumes_are_sorted_by_path),
        cmocka_unit_test(wrong_ones_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
