#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "host/mcp/message.h"

/* The status of reading text; *ret is as long as *ret_value. */
static int read_text(const char *text, json_t **ret_value, struct message *ret)
{
    struct bg_err err;
    *ret_value = NULL;
    int r = message_load(text, strlen(text), ret_value, &err);
    return r < 0 ? r : message_read(*ret_value, ret, &err);
}

static void requests_notifications_and_answers_are_told_apart(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int kind;
    } cases[] = {
        {"{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"a\"}", MESSAGE_REQUEST},
        {"{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"a\",\"params\":{}}", MESSAGE_REQUEST},
        {"{\"jsonrpc\":\"2.0\",\"method\":\"a\"}", MESSAGE_NOTIFICATION},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}", MESSAGE_RESPONSE},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{}}", MESSAGE_RESPONSE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *value;
        struct message m;
        assert_int_equal(read_text(cases[i].text, &value, &m), 0);
        assert_int_equal(m.kind, cases[i].kind);
        assert_int_equal(m.id != NULL, cases[i].kind == MESSAGE_REQUEST);
        json_decref(value);
    }
}

static void what_is_none_is_refused_with_its_id(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
        bool has_id;
    } wrong[] = {
        {"", -EBADMSG, false},
        {"{\"a\":", -EBADMSG, false},
        {"1", -EPROTO, false},
        {"[]", -EPROTO, false},
        {"{}", -EPROTO, false},
        {"{\"id\":1,\"method\":\"a\"}", -EPROTO, true},
        {"{\"jsonrpc\":\"2.0\",\"id\":1}", -EPROTO, true},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}", -EPROTO, true},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\\u0000\"}", -EPROTO, true},
        {"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"a\"}", -EPROTO, false},
        {"{\"jsonrpc\":\"2.0\",\"id\":[],\"method\":\"a\"}", -EPROTO, false},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":[]}", -EPROTO, true},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":{\"_meta\":1}}", -EPROTO, true},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":{\"_meta\":{\"progressToken\":"
         "{}}}}",
         -EPROTO, true},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        json_t *value;
        struct message m = {.id = NULL};
        assert_int_equal(read_text(wrong[i].text, &value, &m), wrong[i].code);
        assert_int_equal(m.id != NULL, wrong[i].has_id);
        json_decref(value);
    }
}

static void a_request_may_say_its_revision_and_ask_for_progress(void **state)
{
    (void)state;
    json_t *value;
    struct message m;
    assert_int_equal(
        read_text("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":{\"_meta\":{"
                  "\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\","
                  "\"io.modelcontextprotocol/clientCapabilities\":{},\"progressToken\":\"t\"}}}",
                  &value, &m),
        0);
    assert_string_equal(m.version, MESSAGE_VERSION_STATELESS);
    assert_true(m.has_capabilities);
    assert_string_equal(json_string_value(m.progress_token), "t");
    json_decref(value);
}

static void a_known_revision_is_agreed_to_and_no_other(void **state)
{
    (void)state;
    assert_string_equal(message_negotiate("2024-11-05"), "2024-11-05");
    assert_string_equal(message_negotiate("2025-06-18"), "2025-06-18");
    assert_string_equal(message_negotiate("2026-07-28"), MESSAGE_VERSION_HANDSHAKE);
    assert_string_equal(message_negotiate(""), MESSAGE_VERSION_HANDSHAKE);
}

static void lines_are_written_whole(void **state)
{
    (void)state;
    json_t *id = json_integer(7);
    char *line = message_result(id, message_complete(json_object(), /* stateless= */ true));
    assert_string_equal(
        line, "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"resultType\":\"complete\"}}\n");
    free(line);
    line = message_result(id, message_complete(json_object(), /* stateless= */ false));
    assert_string_equal(line, "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n");
    free(line);
    line = message_error(NULL, MESSAGE_PARSE_ERROR, "a\nb", NULL);
    assert_string_equal(
        line,
        "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"a\\nb\"}}\n");
    free(line);
    assert_null(message_result(id, NULL));
    json_decref(id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_notifications_and_answers_are_told_apart),
        cmocka_unit_test(what_is_none_is_refused_with_its_id),
        cmocka_unit_test(a_request_may_say_its_revision_and_ask_for_progress),
        cmocka_unit_test(a_known_revision_is_agreed_to_and_no_other),
        cmocka_unit_test(lines_are_written_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
