#include "host/cli/commands.h"

#include <string.h>

#include "host/cli/from.h"
#include "host/cli/output.h"
#include "host/cli/pool.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/shares.h"
#include "host/cli/signals.h"
#include "host/cli/start.h"

static const struct option_spec options[] = {
    SANDBOX_OPTIONS,
    {OPTION_NAME, 0, false, "name", "NAME", "the same as the argument NAME"},
    {OPTION_JSON, 0, false, "json", NULL, "print the new sandbox as JSON"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] [NAME]", NULL};

static const char *const examples[] = {
    "create web",
    "create --cpus 2 --memory 2G --allow 'pypi.org' --allow '*.pythonhosted.org' build",
    "create --volume cache:/home/app/.cache build",
    NULL,
};

static int create(struct app *app, const char *name, struct bg_sandbox *sandbox,
                  const struct args *args)
{
    struct bg_err err;
    BG_AUTOCLOSE int signal_fd = -1;
    json_t *timings = NULL;
    int signal_number, claim = 0;
    int r = signals_open(&signal_fd, &err);
    if (r == 0)
        r = args_text(args, OPTION_FROM, NULL)
                ? from_create(app, args, name, /* ephemeral= */ false, sandbox, &err)
            : args_flag(args, OPTION_NO_POOL) ? bg_sandbox_create(&app->paths, sandbox, &err)
                                              : pool_create(app, sandbox, &claim, &err);
    BG_AUTOCLOSE int claim_fd = claim > 0 ? claim : -1;
    if (r < 0) {
        app_hint_space(&err);
        return app_fail(&err);
    }
    struct launch_opts launch = {.signal_fd = signal_fd,
                                 .owner_fd = -1,
                                 .claim_fd = claim_fd,
                                 .quiet = args_flag(args, OPTION_QUIET)};
    r = launch_start(sandbox, &launch, &timings, &signal_number, &err);
    if (r == 0)
        r = shares_start_all(app, sandbox, &err);
    if (r < 0) {
        app_hint_space(&err);
        (void)app_fail(&err);
        start_undo(app, sandbox);
        return signal_number ? 128 + signal_number : APP_FAILED;
    }
    if (!args_flag(args, OPTION_JSON)) {
        json_decref(timings);
        (void)printf("%s\n", sandbox->name);
        return app_printed(0);
    }
    json_auto_t *json = output_sandbox(sandbox);
    if (json && timings)
        (void)json_object_set_new(json, "timings", timings); /* out of memory: without it */
    return output_json(json);
}

static int run(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct bg_sandbox sandbox = {0};
    const char *option = args_text(args, OPTION_NAME, NULL);
    const char *name = args->operand_count > 0 ? args->operands[0] : option;
    if (option && strcmp(name, option) != 0) {
        (void)bg_err_set(&err, -EINVAL, "two names: give either --name or the argument");
        return app_fail(&err);
    }
    if (!args_text(args, OPTION_FROM, NULL) &&
        sandbox_options_read(app, args, name, &sandbox, &err) < 0)
        return app_fail(&err);
    int status = create(app, name, &sandbox, args);
    bg_sandbox_done(&sandbox);
    return status;
}

const struct command cmd_create = {
    .name = "create",
    .summary = "make and start a sandbox that stays",
    .forms = forms,
    .options = options,
    .details = "Forks a sandbox, starts it, and prints its name. It stays until `bellglass rm`, "
               "stopped or running.",
    .examples = examples,
    .operands_max = 1,
    .run = run,
};
