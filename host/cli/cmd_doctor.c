#include "host/cli/commands.h"

#include <stdio.h>

#include "host/cli/checks.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"

enum { OPTION_FIX = OPTION_OWN };

static const struct option_spec options[] = {
    {OPTION_FIX, 0, false, "fix", NULL, "remove what crashed or killed sandboxes left"},
    {OPTION_JSON, 0, false, "json", NULL, "print JSON"},
    {0},
};

static const char *const forms[] = {"[OPTIONS]", NULL};

static const char *level_name(enum check_level level)
{
    switch (level) {
    case CHECK_OK:
        return "ok";
    case CHECK_WARN:
        return "warn";
    case CHECK_FAIL:
        break;
    }
    return "fail";
}

static int run(struct app *app, const struct args *args)
{
    bool as_json = args_flag(args, OPTION_JSON), failed = false;
    json_auto_t *array = json_array();
    for (size_t i = 0; checks[i].name; i++) {
        struct check_result result = {.level = CHECK_OK};
        checks[i].run(app, args_flag(args, OPTION_FIX), &result);
        failed = failed || result.level == CHECK_FAIL;
        const char *level = level_name(result.level);
        if (!as_json) {
            (void)printf("%-4s  %-12s %s\n", level, checks[i].name, result.text);
            if (result.hint[0] != '\0')
                (void)printf("%-4s  %-12s -> %s\n", "", "", result.hint);
            (void)fflush(stdout); /* some checks take a moment; a failure shows at the end */
        } else if (json_array_append_new(array,
                                         json_pack("{s:s, s:s, s:o, s:o}", "check", checks[i].name,
                                                   "level", level, "text", output_text(result.text),
                                                   "hint", output_text(result.hint))) < 0) {
            return output_json(NULL);
        }
    }
    int status = as_json ? output_json(array) : app_printed(0);
    return status != 0 ? status : failed;
}

const struct command cmd_doctor = {
    .name = "doctor",
    .summary = "check what bellglass needs of this machine",
    .forms = forms,
    .options = options,
    .details = "Each line is ok, warn (something is slower or missing that you may not need) or "
               "fail, with what to do. The exit status is 1 if anything failed.",
    .run = run,
};
