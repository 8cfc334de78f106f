/* What who runs a gateway decides: limits, metrics, TLS, sleep; and exposed ports. */
#include "tests/integration/gateway/gateway.h"

#include <signal.h>
#include <string.h>

/* Runs one of the scripts here with these arguments, which must not have a quote in them. */
static void run_script(struct vm *vm, const struct gateway *g, const char *name, const char *words)
{
    const char *output =
        vm_host(vm,
                "DENO_SANDBOX_ENDPOINT=%s DENO_DEPLOY_ENDPOINT=%s BELLGLASS=%s "
                "NODE_EXTRA_CA_CERTS='%s' timeout 900 node --test-reporter=spec '%s' %s 2>&1 || "
                "echo FAILED",
                g->url, g->url, vm->bellglass, g->tls ? vm_path(vm, "cert.pem") : "",
                gateway_script(vm, name), words);
    if (strstr(output, "FAILED"))
        vm_fail(output);
}

void a_token_has_its_limits(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {NULL};
    struct gateway g = gateway_serve(vm, options);
    vm_refused(vm, "--max-memory", "serve", "token", "add", "x", "--max-memory", "much", NULL);
    vm_refused(vm, "--max-sandboxes", "serve", "token", "add", "x", "--max-sandboxes", "-1", NULL);
    vm_refused(vm, "--nested", "serve", "token", "add", "x", "--nested", "perhaps", NULL);
    run_script(vm, &g, "limits.mjs", vm_text(vm, "%u", g.port));
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
}

void a_port_is_reached_from_outside(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {NULL};
    struct gateway g = gateway_serve(vm, options);
    run_script(vm, &g, "ports.mjs", vm_text(vm, "%u %s", g.port, gateway_token(vm)));
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
}

void tls_is_spoken_with_a_certificate(void **state)
{
    struct vm *vm = *state;
    const char *cert = vm_path(vm, "cert.pem"), *key = vm_path(vm, "key.pem");
    (void)vm_host(vm,
                  "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
                  "-subj /CN=localhost -addext subjectAltName=DNS:localhost,DNS:*.localhost "
                  "-keyout '%s' -out '%s' 2>&1",
                  key, cert);
    vm_refused(vm, "--tls-cert|--without-tls", "serve", "--listen", "0.0.0.0:0", NULL);
    vm_refused(vm, "belong together", "serve", "--tls-cert", cert, NULL);
    vm_refused(vm, "--tls-key", "serve", "--tls-cert", cert, "--tls-key", cert, NULL);
    const char *const options[] = {"--tls-cert", cert, "--tls-key", key, NULL};
    struct gateway g = gateway_serve(vm, options);
    assert_true(g.tls);
    run_script(vm, &g, "tls.mjs", vm_text(vm, "%u %s %s", g.port, cert, gateway_token(vm)));
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
}

void a_sandbox_sleeps_until_it_is_asked_for(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {"--idle-suspend", "1s", NULL};
    vm_refused(vm, "--idle-suspend", "serve", "--idle-suspend", "0s", NULL);
    struct gateway g = gateway_serve(vm, options);
    const char *token = gateway_token(vm);
    const char *id = vm_text(vm, "%s", vm_path(vm, "id"));
    run_script(vm, &g, "sleep.mjs", vm_text(vm, "%u %s %s", g.port, token, id));
    assert_int_equal(kill(g.process->pid, SIGTERM), 0);
    vm_expect(g.process, "ending, by signal");
    assert_null(strstr(g.process->text, "it has volumes")); /* what cannot sleep was left alone */
    assert_int_equal(vm_finish(g.process), 0);
    /* The next gateway knows of one that sleeps. */
    g = gateway_serve(vm, options);
    run_script(vm, &g, "sleep.mjs", vm_text(vm, "%u %s %s again", g.port, token, id));
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
}

static bool has_no_pool(void *arg)
{
    struct vm *vm = arg;
    return strcmp(
               vm_host(
                   vm,
                   "ls -A %s/state/pools %s/state/sandboxes | grep -c 'pool-\\|^[0-9a-f]' || true",
                   vm->home, vm->home),
               "0\n") == 0;
}

void a_pool_has_sandboxes_ready(void **state)
{
    struct vm *vm = *state;
    const char *const options[] = {"--pool", "2", "--pool-memory", "768M", NULL};
    vm_refused(vm, "--pool", "serve", "--pool", "many", NULL);
    vm_refused(vm, "--pool-memory", "serve", "--pool", "2", "--pool-memory", "1", NULL);
    struct gateway g = gateway_serve(vm, options);
    const char *token = gateway_token(vm);
    (void)vm_ok(vm, "serve", "token", "set", vm_text(vm, "t%u", vm->names), "--max-sandboxes", "3",
                NULL);
    run_script(vm, &g, "pool.mjs", token);
    vm_wait("no sandbox is left", gateway_empty, vm);
    assert_int_equal(vm_stop(g.process, SIGTERM), 0);
    vm_wait("no member is left", has_no_pool, vm);
    /* However it ends. */
    g = gateway_serve(vm, options);
    assert_int_equal(vm_stop(g.process, SIGKILL), 128 + SIGKILL);
    vm_wait("no member is left", has_no_pool, vm);
}
