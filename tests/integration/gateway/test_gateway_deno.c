/* `bellglass serve` with the real SDK under Deno: the programs that test_gateway.c runs under Node.
 */
#include "tests/integration/gateway/gateway.h"

#include <string.h>
#include <unistd.h>

#include "tests/lib/npm_folder.h"

/* Of npm's package, for one kind of machine, which npm leaves out on others. */
static int deno_begin(void)
{
    char path[4096];
    const char *required = getenv("BG_TEST_REQUIRE");
    bool must = required && strstr(required, "npm");
    int n = snprintf(path, sizeof path, "%s/" GATEWAY_DENO, getenv("BG_TEST_SDK"));
    if (n > 0 && (size_t)n < sizeof path && access(path, X_OK) == 0)
        return setenv("BG_TEST_RUNTIME", "deno", 1) == 0 ? 0 : 1;
    print_error("%s: npm has no Deno for this machine: there is no %s\n",
                must ? "required" : "skipped", path);
    return must ? 1 : 77;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sdk_works_unchanged),
        cmocka_unit_test(paths_are_matched_as_the_library_does),
        cmocka_unit_test(deno_runs_in_a_sandbox),
        cmocka_unit_test(volumes_and_snapshots_of_the_sdk_keep_what_is_written),
    };
    int status = gateway_sdk_begin();
    if (status == 0)
        status = deno_begin();
    if (status == 0)
        status = vm_main(__FILE__, VM_NEEDS_VM, tests, sizeof tests / sizeof *tests);
    npm_folder_end();
    return status;
}
