/* tree: what goes on from what. */
#include "host/cli/commands.h"

#include <string.h>

#include "host/cli/family.h"
#include "host/cli/family_store.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"

static const struct option_spec options[] = {
    {OPTION_JSON, 0, false, "json", NULL, "print JSON"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] [NAME]", NULL};

static int show(const struct family *family, const char *name, bool as_json)
{
    struct bg_err err;
    json_auto_t *array = as_json ? family_json(family, name) : NULL;
    size_t count =
        as_json ? json_array_size(array) : family_print(family, name, output_now_ms(), stdout);
    if (count == 0 && name) {
        (void)bg_err_set(&err, -ENOENT, "no sandbox or snapshot of '%s': see bellglass ls", name);
        return app_fail(&err);
    }
    return as_json ? output_json(array) : app_printed(0);
}

static int run(struct app *app, const struct args *args)
{
    struct bg_err err;
    const char *name = args->operand_count > 0 ? args->operands[0] : NULL;
    struct family *family = family_new();
    int r = family ? family_store_collect(app, family, NULL, &err)
                   : bg_err_errno(&err, -ENOMEM, "tree");
    int status = 0;
    if (r == 0 && name && !bg_sandbox_name_ok(name))
        r = bg_err_set(&err, -EINVAL, "give a sandbox's name: see bellglass ls");
    status = r < 0 ? app_fail(&err) : show(family, name, args_flag(args, OPTION_JSON));
    family_free(family);
    return status;
}

const struct command cmd_tree = {
    .name = "tree",
    .summary = "show which sandboxes and snapshots go on from which",
    .forms = forms,
    .options = options,
    .details =
        "Below each snapshot what was forked from it or restored to it, the sandbox itself, and "
        "its later snapshots. Sandboxes that were forked from one that ran stand together with it "
        "below the instant that they share. With NAME only its family.\n\n"
        "With --json each has \"name\", \"type\" (sandbox, snapshot, instant, removed) and "
        "\"children\".",
    .operands_max = 1,
    .run = run,
};
