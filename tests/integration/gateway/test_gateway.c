/* `bellglass serve` with the real SDK, and with what no SDK sends. Needs Node and npm; BG_TEST_SDK
 * is a folder with this one's package-lock.json installed, else that is done here. */
#include "tests/integration/gateway/gateway.h"

#include <signal.h>
#include <string.h>

#include "tests/lib/npm_folder.h"

static void what_no_client_sends_does_no_harm(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {NULL};
    struct gateway g = gateway_serve(vm, options);
    const char *output = vm_host(vm, "node --test-reporter=spec '%s' %u %s 2>&1 || echo FAILED",
                                 gateway_script(vm, "raw.mjs"), g.port, gateway_token(vm));
    if (strstr(output, "FAILED"))
        vm_fail(output);
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
}

static void a_gateway_after_another_goes_on_with_its_sandboxes(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {NULL};
    struct gateway g = gateway_serve(vm, options);
    const char *token = gateway_token(vm);
    const char *id = vm_host(
        vm,
        "cd '%s' && DENO_SANDBOX_ENDPOINT=%s DENO_DEPLOY_TOKEN=%s node --input-type=module -e '"
        "import { Sandbox } from \"@deno/sandbox\";"
        "const s = await Sandbox.create({ timeout: \"60m\", labels: { a: \"b\" } });"
        "await s.fs.writeTextFile(\"kept\", \"yes\"); await s.env.set(\"K\", \"v\");"
        "console.log(s.id); await s.close();'",
        getenv("BG_TEST_SDK"), g.url, token);
    id = vm_text(vm, "%.*s", (int)strcspn(id, "\n"), id);
    assert_int_equal(vm_stop(g.process, SIGKILL), 128 + SIGKILL);
    assert_string_equal(vm_state(vm, id), "running");
    g = gateway_serve(vm, options);
    const char *output = vm_host(
        vm,
        "cd '%s' && DENO_SANDBOX_ENDPOINT=%s DENO_DEPLOY_ENDPOINT=%s DENO_DEPLOY_TOKEN=%s node "
        "--input-type=module -e '"
        "import { Client, Sandbox } from \"@deno/sandbox\";"
        "const all = await new Client().sandboxes.list({ labels: { a: \"b\" } });"
        "const s = await Sandbox.connect(all[0].id);"
        "console.log(all.length, await s.fs.readTextFile(\"kept\"), await s.env.get(\"K\"));"
        "await s.kill();'",
        getenv("BG_TEST_SDK"), g.url, g.url, token);
    assert_string_equal(output, "1 yes v\n");
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGINT), 0);
}

static void a_sandbox_that_is_removed_ends_its_connections(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {NULL};
    struct gateway g = gateway_serve(vm, options);
    const char *output = vm_host(
        vm,
        "cd '%s' && DENO_SANDBOX_ENDPOINT=%s DENO_DEPLOY_TOKEN=%s node --input-type=module -e '"
        "import { Sandbox } from \"@deno/sandbox\"; import { execFileSync } from "
        "\"node:child_process\";"
        "const s = await Sandbox.create();"
        "execFileSync(\"%s\", [\"rm\", \"-f\", s.id]);"
        "await s.closed; console.log(\"closed\");'",
        getenv("BG_TEST_SDK"), g.url, gateway_token(vm), vm->bellglass);
    assert_string_equal(output, "closed\n");
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
}

static void wrong_arguments_are_refused(void **state)
{
    struct vm *vm = *state;
    vm_refused(vm, "--listen|numeric", "serve", "--listen", "localhost:1", NULL);
    vm_refused(vm, "--region", "serve", "--region", "europe", NULL);
    vm_refused(vm, "--cpus", "serve", "--cpus", "0", NULL);
    vm_refused(vm, "token", "serve", "token", "make", "x", NULL);
    vm_refused(vm, "no token|ls", "serve", "token", "rm", "none", NULL);
    vm_refused(vm, "such word", "serve", "everything", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_has_its_limits),
        cmocka_unit_test(a_pool_has_sandboxes_ready),
        cmocka_unit_test(a_sandbox_sleeps_until_it_is_asked_for),
        cmocka_unit_test(a_port_is_reached_from_outside),
        cmocka_unit_test(tls_is_spoken_with_a_certificate),
        cmocka_unit_test(the_sdk_works_unchanged),
        cmocka_unit_test(paths_are_matched_as_the_library_does),
        cmocka_unit_test(deno_runs_in_a_sandbox),
        cmocka_unit_test(volumes_and_snapshots_of_the_sdk_keep_what_is_written),
        cmocka_unit_test(what_no_client_sends_does_no_harm),
        cmocka_unit_test(a_gateway_after_another_goes_on_with_its_sandboxes),
        cmocka_unit_test(a_sandbox_that_is_removed_ends_its_connections),
        cmocka_unit_test(wrong_arguments_are_refused),
    };
    int status = gateway_sdk_begin();
    if (status == 0)
        status = vm_main(__FILE__, VM_NEEDS_VM, tests, sizeof tests / sizeof *tests);
    npm_folder_end();
    return status;
}
