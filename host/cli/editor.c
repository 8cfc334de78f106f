#include "host/cli/editor.h"

#include <stdio.h>
#include <string.h>

#include "common/quote.h"

void editor_plan_done(struct editor_plan *plan)
{
    for (size_t i = 0; i < EDITOR_ARGS_MAX; i++)
        free(plan->argv[i]);
    *plan = (struct editor_plan){0};
}

/* A heap copy of a and b, one behind the other; NULL when memory is out. */
static char *joined(const char *a, const char *b)
{
    char *text = NULL;
    return asprintf(&text, "%s%s", a, b) < 0 ? NULL : text;
}

/* code --remote ssh-remote+HOST [PATH] */
static size_t plan_remote(const struct editor_opts *opts, char **argv)
{
    size_t argc = 0;
    argv[argc++] = strdup(opts->code);
    argv[argc++] = strdup("--remote");
    argv[argc++] = joined("ssh-remote+", opts->host);
    if (opts->path)
        argv[argc++] = strdup(opts->path);
    return argc;
}

/* code FILE, or the editor, whose words a shell splits as it does for git. */
static size_t plan_mount(const struct editor_opts *opts, char **argv)
{
    size_t argc = 0;
    if (opts->code) {
        argv[argc++] = strdup(opts->code);
    } else {
        argv[argc++] = strdup("/bin/sh");
        argv[argc++] = strdup("-c");
        argv[argc++] = joined(opts->editor, " \"$@\"");
        argv[argc++] = strdup(opts->editor); /* $0 */
    }
    argv[argc++] = joined(opts->folder, opts->path ? opts->path : opts->home);
    return argc;
}

int editor_plan(const struct editor_opts *opts, struct editor_plan *ret, struct bg_err *err)
{
    char quoted[512];
    if (opts->path && opts->path[0] != '/')
        return bg_err_set(err, -EINVAL, "%s: the path in the sandbox must be absolute",
                          bg_quote(opts->path, quoted, sizeof quoted));
    if (!opts->code && !opts->editor)
        return bg_err_set(err, -ENOENT,
                          "there is no VS Code here (no `code` on the PATH), and neither $VISUAL "
                          "nor $EDITOR names another editor");
    struct editor_plan plan = {.on_mount = opts->mount || !opts->code};
    size_t argc = plan.on_mount ? plan_mount(opts, plan.argv) : plan_remote(opts, plan.argv);
    for (size_t i = 0; i < argc; i++)
        if (!plan.argv[i]) {
            editor_plan_done(&plan);
            return bg_err_errno(err, -ENOMEM, "editor");
        }
    *ret = plan;
    return 0;
}
