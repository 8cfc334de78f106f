#include "tests/lib/npm_folder.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char made[] = "/tmp/bg-npm-XXXXXX"; /* a template until there is one */

/* Runs a script with up to two arguments, before there is a struct vm. */
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

int npm_folder_begin(const char *sources, const char *variable, const char *what)
{
    const char *required = getenv("BG_TEST_REQUIRE");
    if (getenv(variable))
        return 0;
    if (mkdtemp(made) &&
        run_script("cp \"$1\"/package*.json \"$2\" && cd \"$2\" && npm ci --ignore-scripts "
                   "--no-audit --no-fund >npm.log 2>&1",
                   sources, made) == 0 &&
        setenv(variable, made, 1) == 0)
        return 0;
    bool must = required && strstr(required, "npm");
    print_error("%s: npm cannot install %s; see %s/npm.log\n", must ? "required" : "skipped", what,
                made);
    return must ? 1 : 77;
}

/* What went wrong stays for who wants to read it. */
void npm_folder_end(void)
{
    if (strstr(made, "XXXXXX") == NULL)
        (void)run_script("[ ! -d \"$1/node_modules\" ] || rm -rf \"$1\"", made, NULL);
}

const char *npm_folder_script(struct vm *vm, const char *sources, const char *variable,
                              const char *name)
{
    const char *folder = vm_path(vm, "scripts");
    (void)vm_host(vm,
                  "mkdir -p '%s' && cp '%s/%s' '%s/package.json' '%s/' && ln -sfn "
                  "'%s/node_modules' '%s/node_modules'",
                  folder, sources, name, sources, folder, getenv(variable), folder);
    return vm_text(vm, "%s/%s", folder, name);
}
