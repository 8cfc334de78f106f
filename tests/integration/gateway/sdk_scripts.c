/* The SDK's own programs, under Node or Deno: the same files. */
#include "tests/integration/gateway/gateway.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/io.h"

#define PYTHON "/usr/bin/python3"

/* The very example of README.md, with a host of ours in the place of its own. */
static void check_readme(struct vm *vm, const char *env, unsigned port, const char *secret)
{
    const char *output = vm_host(
        vm,
        "cd \"$(dirname '%s')\" && sed -n '/^```js$/,/^```$/p' '%s/../../../README.md' | grep -v "
        "'^```' | "
        "sed 's,//api.github.com/user,//api.test:%u/echo,; s/api\\.github\\.com/api.test/g' "
        ">readme.mjs && %s GITHUB_TOKEN=%s %s readme.mjs 2>&1",
        gateway_script(vm, "sdk.mjs"), gateway_sources(), port, env, secret,
        gateway_runs(vm, "run"));
    assert_memory_equal(output, "BELLGLASS_SECRET_", 17);
    assert_non_null(
        strstr(strchr(output, '\n'), "BELLGLASS_SECRET_")); /* what the host gave back */
    assert_null(strstr(output, secret));
    assert_non_null(strstr(output, "\n403\n"));
}

void the_sdk_works_unchanged(void **state)
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
    (void)gateway_run(vm, &g, vm_text(vm, "WEB=https://api.test:%u/ SECRET=%s", port, secret),
                      "sdk.mjs");
    check_readme(vm,
                 vm_text(vm,
                         "DENO_SANDBOX_ENDPOINT=%s DENO_DEPLOY_ENDPOINT=%s DENO_DEPLOY_TOKEN=%s",
                         g.url, g.url, gateway_token(vm)),
                 port, secret);
    /* The server got what the sandbox never had. */
    assert_non_null(strstr(vm_read(vm, vm_text(vm, "%s/got", folder), NULL), secret));
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
    assert_int_equal(vm_stop(web, SIGTERM), 128 + SIGTERM);
}

void paths_are_matched_as_the_library_does(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {NULL};
    struct gateway g = gateway_serve(vm, options);
    (void)gateway_run(vm, &g, "", "sdk-glob.mjs");
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
}

void deno_runs_in_a_sandbox(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {NULL};
    struct gateway g = gateway_serve(vm, options);
    const char *output =
        gateway_run(vm, &g, vm_text(vm, "DENO='%s'", gateway_deno(vm)), "sdk-deno.mjs");
    if (strstr(output, "no Deno for the guest"))
        print_message("skipped for want of Deno from npm:\n%s", output);
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
}

void volumes_and_snapshots_of_the_sdk_keep_what_is_written(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {NULL};
    struct gateway g = gateway_serve(vm, options);
    (void)gateway_run(vm, &g, vm_text(vm, "BELLGLASS=%s", vm->bellglass), "sdk-volumes.mjs");
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
}
