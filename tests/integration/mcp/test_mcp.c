/* `bellglass mcp` with real client libraries, and with what none of them sends. Needs Node and npm,
 * which installs what package-lock.json names. */
#include "tests/lib/vm.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "tests/lib/npm_folder.h"

#define PYTHON "/usr/bin/python3"

static const char *sources(void)
{
    const char *text = getenv("BG_TEST_MCP");
    return text ? text : "tests/integration/mcp";
}

static const char *script(struct vm *vm, const char *name)
{
    return npm_folder_script(vm, sources(), "BG_TEST_MCP_SDK", name);
}

static bool none_left(void *arg)
{
    json_t *list = vm_json(arg, "ls", "--json", NULL);
    bool none = json_array_size(list) == 0;
    json_decref(list);
    if (none) {
        list = vm_json(arg, "snapshot", "ls", "--json", NULL);
        none = json_array_size(list) == 0;
        json_decref(list);
    }
    return none;
}

static void the_client_libraries_work(void **state)
{
    struct vm *vm = *state;
    uint8_t bytes[12];
    char hex[2 * sizeof bytes + 1];
    bg_random(bytes, sizeof bytes);
    bg_hex(bytes, sizeof bytes, hex);
    const char *internet = vm_path(vm, "internet"), *secret = vm_text(vm, "bgtest-%s", hex);
    (void)vm_host(vm, "mkdir '%s'", internet);
    vm_write(vm_text(vm, "%s/token", internet), secret, strlen(secret));
    const char *const set[] = {"secret", "set", "TOKEN", NULL};
    assert_int_equal(vm_call_with(vm, set, secret, strlen(secret))->status, 0);
    const char *const argv[] = {PYTHON, "-B", vm_text(vm, "%s/../clients/internet.py", sources()),
                                internet, NULL};
    struct vm_process *web = vm_start_program(vm, argv);
    vm_expect(web, "ready\n");
    unsigned port;
    /* Its own line, in a fixed form. NOLINTNEXTLINE(cert-err34-c) */
    assert_int_equal(sscanf(web->text, "web %u", &port), 1);
    const char *output =
        vm_host(vm,
                "CA='%s/ca.pem' ALLOW=api.test:%u=127.0.0.1 WEB=https://api.test:%u/ node "
                "--test-reporter=spec '%s' '%s' 2>&1 || echo FAILED",
                internet, port, port, script(vm, "sdk.mjs"), vm->bellglass);
    if (strstr(output, "FAILED"))
        vm_fail(output);
    assert_non_null(strstr(vm_read(vm, vm_text(vm, "%s/got", internet), NULL), secret));
    vm_wait("nothing is left", none_left, vm);
    assert_int_equal(vm_stop(web, SIGTERM), 128 + SIGTERM);
}

static void what_no_client_sends_does_no_harm(void **state)
{
    struct vm *vm = *state;
    const char *output = vm_host(vm, "node --test-reporter=spec '%s' '%s' 2>&1 || echo FAILED",
                                 script(vm, "raw.mjs"), vm->bellglass);
    if (strstr(output, "FAILED"))
        vm_fail(output);
}

#define CALL(id, tool, arguments)                                                                  \
    "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"method\":\"tools/call\",\"params\":{\"name\":\"" tool    \
    "\",\"arguments\":" arguments "}}\n"

static void say(struct vm_process *server, const char *text)
{
    vm_send(server, text, strlen(text));
}

static struct vm_process *serve(struct vm *vm, const char *option, const char *value)
{
    const char *const argv[] = {"mcp", option, value, NULL};
    struct vm_process *server = vm_start(vm, argv);
    say(server,
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{\"protocolVersion\":"
        "\"2025-11-25\",\"capabilities\":{},\"clientInfo\":{\"name\":\"t\",\"version\":\"1\"}}}\n");
    vm_expect(server, "\"serverInfo\"");
    return server;
}

/* A server with one sandbox and one snapshot of it. */
static struct vm_process *begin(struct vm *vm, const char *option)
{
    struct vm_process *server = serve(vm, option, NULL);
    say(server, CALL("2", "create_sandbox", "{\"name\":\"x\"}"));
    vm_expect(server, "\"sandbox\":\"mcp-x\"");
    say(server, CALL("3", "snapshot_sandbox", "{\"sandbox\":\"x\",\"tag\":\"s\"}"));
    vm_expect(server, "\"snapshot\":\"mcp-x@s\"");
    assert_string_equal(vm_state(vm, "mcp-x"), "running");
    return server;
}

/* Such as code in a sandbox could do to a file in a folder that is shared with it. */
static void a_policy_that_is_changed_meanwhile_is_not_read_again(void **state)
{
    struct vm *vm = *state;
    static const char narrow[] = "network:\n  rules:\n    - allow: api.test\n",
                      wide[] = "network:\n  default: learn\n";
    const char *policy = vm_path(vm, "policy.yaml");
    vm_write(policy, narrow, sizeof narrow - 1);
    struct vm_process *server = serve(vm, "--policy", policy);
    vm_write(policy, wide, sizeof wide - 1);
    say(server, CALL("2", "create_sandbox", "{\"name\":\"x\"}"));
    vm_expect(server, "\"sandbox\":\"mcp-x\"");
    const char *made =
        vm_read(vm, vm_text(vm, "%s/sandbox.json", vm_sandbox_dir(vm, "mcp-x")), NULL);
    assert_non_null(strstr(made, "api.test"));
    assert_null(strstr(made, "learn"));
    assert_int_equal(vm_finish(server), 0);
}

static void a_server_that_is_killed_leaves_nothing(void **state)
{
    struct vm *vm = *state;
    assert_int_equal(vm_stop(begin(vm, NULL), SIGKILL), 128 + SIGKILL);
    vm_wait("nothing is left", none_left, vm);
}

static void a_signal_and_the_end_of_input_end_it_in_order(void **state)
{
    struct vm *vm = *state;
    assert_int_equal(vm_stop(begin(vm, NULL), SIGTERM), 0);
    assert_true(none_left(vm));
    assert_int_equal(vm_finish(begin(vm, NULL)), 0);
    assert_true(none_left(vm));
}

static void what_is_to_be_kept_stays(void **state)
{
    struct vm *vm = *state;
    assert_int_equal(vm_finish(begin(vm, "--keep")), 0);
    assert_string_equal(vm_state(vm, "mcp-x"), "running");
    (void)vm_ok(vm, "rm", "-f", "mcp-x", NULL);
    (void)vm_ok(vm, "snapshot", "rm", "mcp-x@s", NULL);
}

static void wrong_options_are_refused(void **state)
{
    struct vm *vm = *state;
    vm_refused(vm, "--max|256", "mcp", "--max", "257", NULL);
    vm_refused(vm, "--prefix", "mcp", "--prefix", "../a", NULL);
    vm_refused(vm, "--run-timeout", "mcp", "--run-timeout", "0s", NULL);
    vm_refused(vm, "--sandbox|none", "mcp", "--sandbox", "none", NULL);
    vm_refused(vm, "--policy", "mcp", "--policy", "/nowhere", NULL);
    vm_refused(vm, "no secret", "mcp", "--secret", "NONE@a.test", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_client_libraries_work),
        cmocka_unit_test(what_no_client_sends_does_no_harm),
        cmocka_unit_test(a_server_that_is_killed_leaves_nothing),
        cmocka_unit_test(a_signal_and_the_end_of_input_end_it_in_order),
        cmocka_unit_test(what_is_to_be_kept_stays),
        cmocka_unit_test(a_policy_that_is_changed_meanwhile_is_not_read_again),
        cmocka_unit_test(wrong_options_are_refused),
    };
    int status = npm_folder_begin(sources(), "BG_TEST_MCP_SDK", "the client libraries");
    if (status == 0)
        status = vm_main(__FILE__, VM_NEEDS_VM, tests, sizeof tests / sizeof *tests);
    npm_folder_end();
    return status;
}
