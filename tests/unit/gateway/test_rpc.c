#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "host/gateway/fault.h"
#include "host/gateway/rpc.h"
#include "host/gateway/signal_name.h"

static int parse(const char *text, struct rpc_message *ret)
{
    struct bg_err err;
    return rpc_parse(text, strlen(text), ret, &err);
}

static void a_call_and_a_notification_are_told_apart(void **state)
{
    (void)state;
    struct rpc_message m;
    assert_int_equal(parse("{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"a\",\"params\":{}}", &m), 0);
    assert_non_null(m.id);
    assert_string_equal(m.method, "a");
    assert_non_null(m.params);
    rpc_message_done(&m);
    assert_int_equal(parse("{\"jsonrpc\":\"2.0\",\"method\":\"b\",\"params\":null}", &m), 0);
    assert_null(m.id);
    assert_null(m.params);
    rpc_message_done(&m);
    assert_int_equal(parse("{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"c\"}", &m), 0);
    rpc_message_done(&m);
}

static void what_is_not_json_and_what_is_not_a_call_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
    } wrong[] = {
        {"", -EBADMSG},
        {"{", -EBADMSG},
        {"{\"a\":1,\"a\":2}", -EBADMSG},
        {"[]", -EPROTO},
        {"1x", -EBADMSG},
        {"{\"id\":1,\"method\":\"a\"}", -EPROTO},
        {"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"a\"}", -EPROTO},
        {"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"a\"}", -EPROTO},
        {"{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"a\"}", -EPROTO},
        {"{\"jsonrpc\":\"2.0\",\"id\":1}", -EPROTO},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1}", -EPROTO},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}", -EPROTO},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\\u0000b\"}", -EPROTO},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":[1]}", -EPROTO},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct rpc_message m;
        assert_int_equal(parse(wrong[i].text, &m), wrong[i].code);
    }
}

static void answers_have_the_form_that_the_sdk_reads(void **state)
{
    (void)state;
    json_t *id = json_integer(7);
    char *text = rpc_result(id, json_null());
    assert_string_equal(text, "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"ok\":null}}");
    free(text);
    text = rpc_fault(id, RPC_METHOD_NOT_FOUND, "no");
    assert_string_equal(
        text, "{\"jsonrpc\":\"2.0\",\"id\":7,\"error\":{\"code\":-32601,\"message\":\"no\"}}");
    free(text);
    text = rpc_thrown(id, fault_errno(-ENOENT, "stat '/x'"));
    assert_non_null(strstr(text,
                           "{\"error\":{\"constructorName\":\"NotFound\",\"message\":\"No such "
                           "file or directory (os error 2): stat '/x'\",\"code\":\"ENOENT\""));
    free(text);
    text = rpc_thrown(id, NULL);
    assert_null(text);
    text = rpc_notification("$sandbox.stream.end", json_pack("{s:i}", "streamId", 3));
    assert_string_equal(text, "{\"jsonrpc\":\"2.0\",\"method\":\"$sandbox.stream.end\","
                              "\"params\":{\"streamId\":3}}");
    free(text);
    json_decref(id);
}

static void a_chunk_is_base64(void **state)
{
    (void)state;
    size_t size = 0;
    char *text = rpc_chunk(1ull << 52, "abcd", 4, &size);
    assert_string_equal(text, "{\"jsonrpc\":\"2.0\",\"method\":\"$sandbox.stream.enqueue\","
                              "\"params\":{\"streamId\":4503599627370496,\"data\":\"YWJjZA==\"}}");
    assert_int_equal(size, strlen(text));
    free(text);
}

static void parameters_of_the_wrong_type_are_named(void **state)
{
    (void)state;
    json_t *object = json_pack("{s:i, s:s, s:n, s:f, s:f, s:[s,i], s:{s:i}, s:b}", "i", 5, "t", "x",
                               "n", "f", 3.0, "g", 3.5, "l", "a", 1, "m", "k", 1, "b", 1);
    struct rpc_params p = rpc_params(object);
    assert_int_equal(rpc_number(&p, "i", 0, 9), 5);
    assert_int_equal(rpc_number(&p, "f", 0, 9), 3);
    assert_int_equal(rpc_number_or(&p, "n", 0, 9, 4), 4);
    assert_int_equal(rpc_number_or(&p, "none", 0, 9, 4), 4);
    assert_string_equal(rpc_text(&p, "t"), "x");
    assert_null(rpc_text_or_null(&p, "n"));
    assert_true(rpc_flag(&p, "b", false));
    assert_true(rpc_flag(&p, "n", true));
    assert_null(rpc_texts(&p, "none"));
    assert_true(rpc_params_ok(&p));
    static const char *const wrong_numbers[] = {"g", "t", "n", "l"};
    for (size_t i = 0; i < 4; i++) {
        p = rpc_params(object);
        (void)rpc_number(&p, wrong_numbers[i], 0, 9);
        assert_false(rpc_params_ok(&p));
    }
    p = rpc_params(object);
    (void)rpc_number(&p, "i", 6, 9);
    assert_string_equal(p.problem, "i: want a whole number from 6 to 9");
    p = rpc_params(object);
    assert_null(rpc_texts(&p, "l"));
    assert_false(rpc_params_ok(&p));
    p = rpc_params(object);
    assert_null(rpc_map(&p, "m"));
    assert_false(rpc_params_ok(&p));
    p = rpc_params(object);
    assert_string_equal(rpc_text(&p, "i"), "");
    assert_string_equal(p.problem, "i: want a text without a NUL");
    p = rpc_params(NULL);
    assert_string_equal(rpc_text(&p, "i"), "");
    assert_string_equal(p.problem, "i: want a text");
    json_decref(object);
}

static void signals_have_linux_names(void **state)
{
    (void)state;
    char text[16];
    assert_int_equal(signal_number("SIGTERM"), 15);
    assert_int_equal(signal_number("SIGKILL"), 9);
    assert_int_equal(signal_number("TERM"), 0);
    assert_int_equal(signal_number("SIG"), 0);
    assert_int_equal(signal_number("SIGNONE"), 0);
    assert_string_equal(signal_name(9, text), "SIGKILL");
    assert_string_equal(signal_name(40, text), "SIG40");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_and_a_notification_are_told_apart),
        cmocka_unit_test(what_is_not_json_and_what_is_not_a_call_are_refused),
        cmocka_unit_test(answers_have_the_form_that_the_sdk_reads),
        cmocka_unit_test(a_chunk_is_base64),
        cmocka_unit_test(parameters_of_the_wrong_type_are_named),
        cmocka_unit_test(signals_have_linux_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
