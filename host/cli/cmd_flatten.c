/* flatten. */
#include "host/cli/commands.h"

#include <stdio.h>

#include "host/cli/flattening.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"

static const struct option_spec options[] = {
    {OPTION_QUIET, 'q', false, "quiet", NULL, "no progress on stderr"},
    {OPTION_JSON, 0, false, "json", NULL, "print how many layers each had and has, as JSON"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] NAME...", NULL};
static const char *const examples[] = {"flatten web", NULL};

static int flatten_one(struct app *app, const char *name, bool quiet, json_t *array,
                       struct bg_err *err)
{
    struct life life;
    struct flattened done;
    int r = life_open_running(app, name, &life, err);
    if (r < 0)
        return r;
    r = flattening_run(app, &life, quiet, &done, err);
    life_done(&life);
    if (r < 0) {
        app_hint_space(err);
        return r;
    }
    json_t *entry = json_pack("{s:s, s:i, s:i}", "name", name, "layers_before",
                              (int)done.layers_before, "layers", (int)done.layers);
    return json_array_append_new(array, entry) < 0 ? bg_err_errno(err, -ENOMEM, "flatten") : 0;
}

static void print(const json_t *array)
{
    size_t i;
    json_t *entry;
    json_array_foreach(array, i, entry)
    {
        int before = (int)json_integer_value(json_object_get(entry, "layers_before"));
        int after = (int)json_integer_value(json_object_get(entry, "layers"));
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (before == after && after <= 2)
            (void)printf("%s: flat already, %d layers\n", name, after); /* checked at the end */
        else
            (void)printf("%s: %d layers, %d before\n", name, after, before); /* likewise */
    }
}

static int run(struct app *app, const struct args *args)
{
    struct bg_err err;
    int status = 0;
    json_auto_t *array = json_array();
    for (size_t i = 0; i < args->operand_count; i++)
        if (flatten_one(app, args->operands[i], args_flag(args, OPTION_QUIET), array, &err) < 0)
            status = app_fail(&err);
    if (args_flag(args, OPTION_JSON)) {
        int printed = output_json(array);
        return status ? status : printed;
    }
    print(array);
    return app_printed(status);
}

const struct command cmd_flatten = {
    .name = "flatten",
    .summary = "make the disks of sandboxes short again",
    .forms = forms,
    .options = options,
    .details =
        "Each snapshot puts another layer on a sandbox's disk. When there are many, those that are "
        "written no more are copied into one, in the background and slowly, while the sandbox goes "
        "on: nobody has to ask for that. This does it now, for all of them, and waits.\n\n"
        "Snapshots and other sandboxes that stand on the old layers keep them; the others go. What "
        "is copied is what was written in the sandbox, not its image. A sandbox that is suspended "
        "is "
        "woken for it; one that is stopped has to be started.",
    .examples = examples,
    .operands_min = 1,
    .operands_max = -1,
    .run = run,
};
