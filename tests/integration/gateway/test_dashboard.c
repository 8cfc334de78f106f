/* The dashboard of `bellglass serve`, in a headless Chromium and over bare HTTP. BG_TEST_SDK: as in
 * test_gateway.c. Screenshots are in BG_TEST_SCREENSHOTS, if that names a folder. */
#include "tests/lib/vm.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/npm_folder.h"

static const char *sources(void)
{
    const char *folder = getenv("BG_TEST_GATEWAY");
    return folder ? folder : "tests/integration/gateway";
}

static struct vm_process *serve(struct vm *vm, unsigned *ret_port)
{
    const char *const argv[] = {"serve", "--listen", "127.0.0.1:0", NULL};
    struct vm_process *process = vm_start(vm, argv);
    vm_expect(process, "listening on http://127.0.0.1:");
    const char *at = process->text + process->matched;
    vm_expect(process, "\n");
    /* Our own line, in a fixed form. NOLINTNEXTLINE(cert-err34-c) */
    assert_int_equal(sscanf(at, "%u", ret_port), 1);
    return process;
}

static const char *line_of(struct vm *vm, const char *text)
{
    return vm_text(vm, "%.*s", (int)strcspn(text, "\n"), text);
}

static bool is_alone(void *arg)
{
    struct vm *vm = arg;
    json_t *list = vm_json(vm, "ls", "--json", NULL);
    size_t count = json_array_size(list);
    json_decref(list);
    return count == 1;
}

static void a_person_works_in_a_browser(void **state)
{
    struct vm *vm = *state;
    unsigned port;
    const char *given = getenv("BG_TEST_SCREENSHOTS");
    const char *shots = given ? given : vm_path(vm, "screenshots");
    struct vm_process *gateway = serve(vm, &port);
    const char *token = line_of(vm, vm_ok(vm, "serve", "token", "add", "--all", "me", NULL));
    const char *name = vm_sandbox(vm);
    const char *output =
        vm_host(vm,
                "mkdir -p '%s' && HOME='%s' node --test-reporter=spec '%s/dashboard.mjs' "
                "http://localhost:%u %s %s '%s' 2>&1 || echo FAILED",
                shots, vm->folder, sources(), port, token, name, shots);
    if (strstr(output, "FAILED"))
        vm_fail(output);
    assert_int_equal(vm_stop(gateway, SIGTERM), 0);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@before", name), NULL);
    (void)vm_ok(vm, "rm", "-f", name, NULL);
}

static void its_routes_refuse_what_they_should(void **state)
{
    struct vm *vm = *state;
    unsigned port;
    struct vm_process *gateway = serve(vm, &port);
    const char *token = line_of(vm, vm_ok(vm, "serve", "token", "add", "--all", "owner", NULL));
    const char *other = line_of(vm, vm_ok(vm, "serve", "token", "add", "other", NULL));
    const char *name = vm_sandbox(vm);
    const char *output =
        vm_host(vm, "node --test-reporter=spec '%s' %u %s %s %s 2>&1 || echo FAILED",
                npm_folder_script(vm, sources(), "BG_TEST_SDK", "dashboard_raw.mjs"), port, token,
                other, name);
    if (strstr(output, "FAILED"))
        vm_fail(output);
    vm_wait("only ours is left", is_alone, vm);
    assert_int_equal(vm_stop(gateway, SIGTERM), 0);
    (void)vm_ok(vm, "rm", "-f", name, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_person_works_in_a_browser),
        cmocka_unit_test(its_routes_refuse_what_they_should),
    };
    const char *required = getenv("BG_TEST_REQUIRE");
    if (access("/usr/bin/chromium", X_OK) < 0) {
        bool must = required && strstr(required, "chromium");
        print_error("%s: there is no chromium\n", must ? "required" : "skipped");
        return must ? 1 : 77;
    }
    int status = npm_folder_begin(sources(), "BG_TEST_SDK", "@deno/sandbox");
    if (status == 0)
        status = vm_main(__FILE__, VM_NEEDS_VM, tests, sizeof tests / sizeof *tests);
    npm_folder_end();
    return status;
}
