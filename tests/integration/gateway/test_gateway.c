/* `bellglass serve` with the real SDK, and with what no SDK sends. Needs Node and npm; BG_TEST_SDK
 * is a folder with this one's package-lock.json installed, else that is done here. */
#include "tests/integration/gateway/gateway.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "tests/integration/gateway/sdk_folder.h"

#define PYTHON "/usr/bin/python3"

const char *gateway_sources(void)
{
    const char *folder = getenv("BG_TEST_GATEWAY");
    return folder ? folder : "tests/integration/gateway";
}

struct gateway gateway_serve(struct vm *vm, const char *const *options)
{
    struct gateway g = {0};
    const char *argv[24] = {"serve", "--listen", "127.0.0.1:0"};
    for (size_t i = 0; options[i]; i++)
        argv[3 + i] = options[i];
    g.process = vm_start(vm, argv);
    vm_expect(g.process, "listening on http");
    g.tls = g.process->text[g.process->matched] == 's';
    vm_expect(g.process, "://127.0.0.1:");
    const char *at = g.process->text + g.process->matched;
    vm_expect(g.process, "\n");
    /* Our own line, in a fixed form. NOLINTNEXTLINE(cert-err34-c) */
    assert_int_equal(sscanf(at, "%u", &g.port), 1);
    g.url =
        vm_text(vm, "http%s://%s:%u", g.tls ? "s" : "", g.tls ? "localhost" : "127.0.0.1", g.port);
    return g;
}

const char *gateway_token(struct vm *vm)
{
    const char *text = vm_ok(vm, "serve", "token", "add", vm_name(vm), NULL);
    assert_memory_equal(text, "ddo_", 4);
    return vm_text(vm, "%.*s", (int)strcspn(text, "\n"), text);
}

/* A copy of a script beside node_modules, where Node looks for the package. */
const char *gateway_script(struct vm *vm, const char *name)
{
    return vm_host(vm, "cp '%s/%s' '%s/' && printf %%s '%s/%s'", gateway_sources(), name,
                   getenv("BG_TEST_SDK"), getenv("BG_TEST_SDK"), name);
}

/* What the gateway made, as `bellglass ls` names it. */
size_t gateway_sandboxes(struct vm *vm)
{
    json_t *list = vm_json(vm, "ls", "--json", NULL);
    size_t count = json_array_size(list);
    json_decref(list);
    return count;
}

bool gateway_empty(void *arg)
{
    return gateway_sandboxes(arg) == 0;
}

/* The very example of README.md, with a host of ours in the place of its own. */
static void check_readme(struct vm *vm, const char *env, unsigned port, const char *secret)
{
    const char *output = vm_host(
        vm,
        "cd '%s' && sed -n '/^```js$/,/^```$/p' '%s/../../../README.md' | grep -v '^```' | "
        "sed 's,//api.github.com/user,//api.test:%u/echo,; s/api\\.github\\.com/api.test/g' "
        ">readme.mjs && %s GITHUB_TOKEN=%s node readme.mjs 2>&1",
        getenv("BG_TEST_SDK"), gateway_sources(), port, env, secret);
    assert_memory_equal(output, "BELLGLASS_SECRET_", 17);
    assert_non_null(
        strstr(strchr(output, '\n'), "BELLGLASS_SECRET_")); /* what the host gave back */
    assert_null(strstr(output, secret));
    assert_non_null(strstr(output, "\n403\n"));
}

static void the_sdk_works_unchanged(void **state)
{
    struct vm *vm = *state;
    uint8_t bytes[12];
    char hex[2 * sizeof bytes + 1];
    bg_random(bytes, sizeof bytes);
    bg_hex(bytes, sizeof bytes, hex);
    const char *folder = vm_path(vm, "internet"), *secret = vm_text(vm, "bgtest-%s", hex);
    (void)vm_host(vm, "mkdir '%s'", folder);
    vm_write(vm_text(vm, "%s/token", folder), secret, strlen(secret));
    const char *const internet[] = {
        PYTHON, "-B", vm_text(vm, "%s/../clients/internet.py", gateway_sources()), folder, NULL};
    struct vm_process *web = vm_start_program(vm, internet);
    vm_expect(web, "ready\n");
    unsigned port;
    /* Its own line, in a fixed form. NOLINTNEXTLINE(cert-err34-c) */
    assert_int_equal(sscanf(web->text, "web %u", &port), 1);

    const char *const options[] = {"--upstream-ca", vm_text(vm, "%s/ca.pem", folder), "--allow",
                                   vm_text(vm, "api.test:%u=127.0.0.1", port), NULL};
    struct gateway g = gateway_serve(vm, options);
    const char *token = gateway_token(vm);
    const char *output =
        vm_host(vm,
                "DENO_SANDBOX_ENDPOINT=%s DENO_DEPLOY_ENDPOINT=%s DENO_DEPLOY_TOKEN=%s "
                "WEB=https://api.test:%u/ SECRET=%s node --test --test-reporter=spec '%s' 2>&1 || "
                "echo FAILED",
                g.url, g.url, token, port, secret, gateway_script(vm, "sdk.mjs"));
    if (strstr(output, "FAILED"))
        vm_fail(output);
    check_readme(vm,
                 vm_text(vm,
                         "DENO_SANDBOX_ENDPOINT=%s DENO_DEPLOY_ENDPOINT=%s DENO_DEPLOY_TOKEN=%s",
                         g.url, g.url, token),
                 port, secret);
    /* The server got what the sandbox never had. */
    assert_non_null(strstr(vm_read(vm, vm_text(vm, "%s/got", folder), NULL), secret));
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
    assert_int_equal(vm_stop(web, SIGTERM), 128 + SIGTERM);
}

static void paths_are_matched_as_the_library_does(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {NULL};
    struct gateway g = gateway_serve(vm, options);
    const char *output = vm_host(
        vm,
        "DENO_SANDBOX_ENDPOINT=%s DENO_DEPLOY_TOKEN=%s node --test --test-reporter=spec '%s' 2>&1 "
        "|| echo FAILED",
        g.url, gateway_token(vm), gateway_script(vm, "sdk-glob.mjs"));
    if (strstr(output, "FAILED"))
        vm_fail(output);
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
}

/* Deno from npm, for this kind of machine; "": npm has none. */
static const char *find_deno(struct vm *vm)
{
    return vm_host(vm,
                   "f='%s/node_modules/@deno/linux-x64-glibc/deno'; [ -x \"$f\" ] && printf %%s "
                   "\"$f\" || true",
                   getenv("BG_TEST_SDK"));
}

static void deno_runs_in_a_sandbox(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {NULL};
    struct gateway g = gateway_serve(vm, options);
    const char *output =
        vm_host(vm,
                "DENO_SANDBOX_ENDPOINT=%s DENO_DEPLOY_TOKEN=%s DENO='%s' node --test "
                "--test-reporter=spec '%s' 2>&1 || echo FAILED",
                g.url, gateway_token(vm), find_deno(vm), gateway_script(vm, "sdk-deno.mjs"));
    if (strstr(output, "FAILED"))
        vm_fail(output);
    if (strstr(output, "no Deno for the guest"))
        print_message("skipped for want of Deno from npm:\n%s", output);
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
}

static void volumes_and_snapshots_of_the_sdk_keep_what_is_written(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {NULL};
    struct gateway g = gateway_serve(vm, options);
    const char *output = vm_host(
        vm,
        "DENO_SANDBOX_ENDPOINT=%s DENO_DEPLOY_ENDPOINT=%s DENO_DEPLOY_TOKEN=%s "
        "BELLGLASS=%s node --test --test-reporter=spec '%s' 2>&1 || echo FAILED",
        g.url, g.url, gateway_token(vm), vm->bellglass, gateway_script(vm, "sdk-volumes.mjs"));
    if (strstr(output, "FAILED"))
        vm_fail(output);
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
}

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
    int status = sdk_folder_begin(gateway_sources());
    if (status == 0)
        status = vm_main(__FILE__, VM_NEEDS_VM, tests, sizeof tests / sizeof *tests);
    sdk_folder_end();
    return status;
}
