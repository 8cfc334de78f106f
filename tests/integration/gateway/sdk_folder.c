#include "tests/integration/gateway/sdk_folder.h"

/* cmocka wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char made[] = "/tmp/bg-sdk-XXXXXX"; /* a template until there is one */

/* Runs a script with up to two arguments. */
static int run_script(const char *text, const char *first, const char *second)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        (void)execl("/bin/sh", "sh", "-c", text, "sh", first, second, (char *)NULL);
        _exit(127);
    }
    (void)waitpid(pid, &status, 0);
    return pid < 0 || status != 0 ? -1 : 0;
}

int sdk_folder_begin(const char *sources)
{
    const char *required = getenv("BG_TEST_REQUIRE");
    if (getenv("BG_TEST_SDK"))
        return 0;
    if (mkdtemp(made) &&
        run_script(
            "cp \"$1\"/package*.json \"$2\" && cd \"$2\" && npm ci --ignore-scripts --no-audit "
            "--no-fund >npm.log 2>&1",
            sources, made) == 0 &&
        setenv("BG_TEST_SDK", made, 1) == 0)
        return 0;
    bool must = required && strstr(required, "npm");
    print_error("%s: npm cannot install @deno/sandbox; see %s/npm.log\n",
                must ? "required" : "skipped", made);
    return must ? 1 : 77;
}

void sdk_folder_end(void)
{
    const char *folder = getenv("BG_TEST_SDK");
    if (folder && strcmp(folder, made) == 0)
        (void)run_script("rm -rf \"$1\"", made, NULL); /* the folder is in /tmp */
}
