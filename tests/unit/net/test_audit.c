#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>

#include "common/limits.h"
#include "net/audit.h"

static json_t *format(const struct audit_event *event)
{
    static char line[AUDIT_LINE_MAX];
    size_t size = audit_format(event, line, sizeof line);
    assert_int_equal(line[size - 1], '\n');
    assert_null(memchr(line, '\n', size - 1));
    for (size_t i = 0; i < size - 1; i++)
        assert_in_range((unsigned char)line[i], 0x20, 0x7e);
    json_t *json = json_loadb(line, size, 0, NULL);
    assert_non_null(json);
    return json;
}

static const char *text_of(const json_t *json, const char *key)
{
    return json_string_value(json_object_get(json, key));
}

static void writes_one_line_of_json(void **state)
{
    (void)state;
    static char names[2][2] = {"A", "B"};
    struct secret items[2] = {{.name = names[0]}, {.name = names[1]}};
    struct secrets secrets = {.items = items, .count = 2};
    const struct audit_event event = {
        .realtime_ms = UINT64_C(1700000000123),
        .sandbox = "web",
        .stream = 7,
        .host = "a.org",
        .port = 443,
        .scheme = "https",
        .method = {"GET", 3},
        .path = {"/x?secret=1", 11},
        .rule = "a.org",
        .decision = AUDIT_ALLOW,
        .reason = "allowed",
        .status = 200,
        .address = "192.0.2.1",
        .bytes_up = 1,
        .bytes_down = UINT64_MAX / 4,
        .duration_ms = 5,
        .secrets = &secrets,
        .use = {.used = 1, .inherited = 1, .not_approved = 2, .valueless = 3, .unknown = 4},
    };
    json_t *json = format(&event);
    assert_string_equal(text_of(json, "ts"), "2023-11-14T22:13:20.123Z");
    assert_string_equal(text_of(json, "sandbox"), "web");
    assert_string_equal(text_of(json, "decision"), "allow");
    assert_string_equal(text_of(json, "path"), "/x");
    assert_string_equal(text_of(json, "address"), "192.0.2.1");
    assert_int_equal(json_integer_value(json_object_get(json, "status")), 200);
    assert_int_equal(json_array_size(json_object_get(json, "secrets")), 1);
    assert_int_equal(json_array_size(json_object_get(json, "placeholders_inherited")), 1);
    assert_string_equal(
        json_string_value(json_array_get(json_object_get(json, "placeholders_not_approved"), 0)),
        "B");
    assert_int_equal(json_array_size(json_object_get(json, "secrets_without_value")), 2);
    assert_int_equal(json_integer_value(json_object_get(json, "placeholders_unknown")), 4);
    json_decref(json);
}

static void leaves_out_what_is_not_known(void **state)
{
    (void)state;
    const struct audit_event event = {
        .sandbox = "web", .host = "x", .scheme = "", .decision = AUDIT_DENY, .reason = "r"};
    json_t *json = format(&event);
    assert_null(json_object_get(json, "method"));
    assert_null(json_object_get(json, "status"));
    assert_null(json_object_get(json, "detail"));
    assert_true(json_is_null(json_object_get(json, "rule")));
    assert_int_equal(json_array_size(json_object_get(json, "secrets")), 0);
    json_decref(json);
}

static void escapes_what_comes_from_outside(void **state)
{
    (void)state;
    static const char odd[] = "a\"b\\c\n{\"x\":1}\x1b[31m\xff\x7f";
    const struct audit_event event = {.sandbox = "web",
                                      .host = odd,
                                      .scheme = "",
                                      .method = {"GET", 3},
                                      .path = {odd, sizeof odd - 1},
                                      .decision = AUDIT_DENY,
                                      .reason = "r",
                                      .detail = odd};
    json_t *json = format(&event);
    /* Bytes above 0x7f are shown as the code points of the same number. */
    static const char want[] = "a\"b\\c\n{\"x\":1}\x1b[31m\xc3\xbf\x7f";
    assert_string_equal(text_of(json, "host"), want);
    assert_string_equal(text_of(json, "path"), want);
    assert_string_equal(text_of(json, "detail"), want);
    json_decref(json);
}

static void cuts_and_fits_the_largest(void **state)
{
    (void)state;
    static char huge[100000];
    memset(huge, '\x01', sizeof huge - 1);
    static struct secret items[BG_EGRESS_SECRETS_MAX];
    static char name[129];
    memset(name, 'n', 128);
    for (size_t i = 0; i < BG_EGRESS_SECRETS_MAX; i++)
        items[i].name = name;
    struct secrets secrets = {.items = items, .count = BG_EGRESS_SECRETS_MAX};
    const struct audit_event event = {
        .realtime_ms = UINT64_C(253402300799000),
        .sandbox = huge,
        .stream = UINT32_MAX,
        .host = huge,
        .port = 65535,
        .scheme = huge,
        .method = {huge, sizeof huge - 1},
        .path = {huge, sizeof huge - 1},
        .rule = huge,
        .decision = AUDIT_ERROR,
        .reason = huge,
        .detail = huge,
        .status = 999,
        .address = huge,
        .bytes_up = UINT64_C(1) << 62,
        .bytes_down = UINT64_C(1) << 62,
        .duration_ms = 1,
        .secrets = &secrets,
        .use = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT32_MAX},
    };
    json_t *json = format(&event);
    assert_int_equal(strlen(text_of(json, "path")), BG_EGRESS_AUDIT_TEXT + 3);
    assert_int_equal(json_array_size(json_object_get(json, "secrets")), BG_EGRESS_SECRETS_MAX);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_one_line_of_json),
        cmocka_unit_test(leaves_out_what_is_not_known),
        cmocka_unit_test(escapes_what_comes_from_outside),
        cmocka_unit_test(cuts_and_fits_the_largest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
