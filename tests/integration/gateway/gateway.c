#include "tests/integration/gateway/gateway.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/npm_folder.h"

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

const char *gateway_script(struct vm *vm, const char *name)
{
    return npm_folder_script(vm, gateway_sources(), "BG_TEST_SDK", name);
}

const char *gateway_deno(struct vm *vm)
{
    return vm_host(vm,
                   "f='%s/" GATEWAY_DENO "'; [ -x \"$f\" ] && printf %%s "
                   "\"$f\" || true",
                   getenv("BG_TEST_SDK"));
}

/* Deno's own cache is the test's, its types are not looked at, and it fetches nothing. */
const char *gateway_runs(struct vm *vm, const char *verb)
{
    if (!getenv("BG_TEST_RUNTIME"))
        return strcmp(verb, "test") == 0 ? "node --test --test-reporter=spec" : "node";
    return vm_text(vm, "env NO_COLOR=1 DENO_DIR='%s' '%s' %s -A --no-check --no-remote --no-lock",
                   vm_path(vm, "deno"), gateway_deno(vm), verb);
}

/* In its folder: Deno looks for package.json where it is started. */
const char *gateway_run(struct vm *vm, const struct gateway *g, const char *env, const char *name)
{
    const char *output = vm_host(vm,
                                 "cd \"$(dirname '%s')\" && DENO_SANDBOX_ENDPOINT=%s "
                                 "DENO_DEPLOY_ENDPOINT=%s DENO_DEPLOY_TOKEN=%s %s %s %s 2>&1 || "
                                 "echo FAILED",
                                 gateway_script(vm, name), g->url, g->url, gateway_token(vm), env,
                                 gateway_runs(vm, "test"), name);
    if (strstr(output, "FAILED"))
        vm_fail(output);
    return output;
}

int gateway_sdk_begin(void)
{
    return npm_folder_begin(gateway_sources(), "BG_TEST_SDK", "@deno/sandbox");
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
