#include "host/cli/removal.h"

#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"

int removal_run(struct app *app, const struct args *args, const char *kind, removal_one *remove)
{
    struct bg_err err;
    json_auto_t *array = json_array();
    int status = 0;
    int r = args->operand_count > 1
                ? app_paths(app, &err)
                : bg_err_set(&err, -EINVAL, "give a %s: see bellglass %s ls", kind, kind);
    if (r < 0)
        return app_fail(&err);
    for (size_t i = 1; i < args->operand_count; i++)
        if (remove(app, args->operands[i], args, array, &err) < 0)
            status = app_fail(&err);
    int printed = args_flag(args, OPTION_JSON) ? output_json(array) : app_printed(0);
    return status ? status : printed;
}
