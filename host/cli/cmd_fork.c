/* fork: makes sandboxes from another one, or from a snapshot. */
#include "host/cli/commands.h"

#include <stdlib.h>

#include "common/checked.h"
#include "common/fault.h"
#include "common/quote.h"
#include "host/cli/forking.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/signals.h"
#include "host/cli/snapshots.h"
#include "host/cli/start.h"

#define CHILDREN_MAX 1000 /* of one command */

enum { OPTION_COUNT = OPTION_OWN, OPTION_NO_START, OPTION_FRESH };

static const struct option_spec options[] = {
    {OPTION_COUNT, 'n', false, "count", "N", "how many [one, or as many as there are names]"},
    {OPTION_FRESH, 0, false, "fresh-secrets", NULL,
     "placeholders that it has from its source are worthless in it"},
    {OPTION_NO_START, 0, false, "no-start", NULL, "leave them suspended"},
    {OPTION_QUIET, 'q', false, "quiet", NULL, "no progress on stderr"},
    {OPTION_JSON, 0, false, "json", NULL, "print the new sandboxes as JSON"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] SANDBOX|SNAPSHOT [NAME...]", NULL};
static const char *const examples[] = {"fork web", "fork web try-1 try-2",
                                       "fork -n 10 web@before-upgrade", NULL};

static int read_count(const struct args *args, size_t *ret, struct bg_err *err)
{
    char quoted[64];
    size_t names = args->operand_count - 1;
    uint64_t count = names > 0 ? names : 1;
    const char *text = args_text(args, OPTION_COUNT, NULL);
    if (text && bg_parse_u64(text, 1, CHILDREN_MAX, &count) < 0)
        return bg_err_set(err, -EINVAL, "-n %s: want a number from 1 to %d",
                          bg_quote(text, quoted, sizeof quoted), CHILDREN_MAX);
    if (names > count || count > CHILDREN_MAX)
        return bg_err_set(err, -EINVAL, "%zu names for %llu sandboxes", names,
                          (unsigned long long)count);
    *ret = (size_t)count;
    return 0;
}

/* All are made before one is started: a name in use is known at once. */
static int make_all(struct app *app, const struct args *args, const struct snapshots_source *source,
                    struct forking_child *children, size_t count, struct bg_err *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        const char *name = i + 1 < args->operand_count ? args->operands[i + 1] : NULL;
        r = snapshots_child(source, name, &children[i].sandbox, err);
        if (r == 0 && args_flag(args, OPTION_FRESH))
            bg_sandbox_disinherit(&children[i].sandbox);
        if (r == 0)
            r = snapshots_create(app, source, &children[i].sandbox, err);
        children[i].made = r == 0;
    }
    return r;
}

/* Removes what is half made. */
static void clear(struct app *app, struct forking_child *children, size_t count, bool all)
{
    for (size_t i = 0; i < count; i++)
        if (children[i].made && (all || !children[i].started)) {
            start_undo(app, &children[i].sandbox);
            children[i].made = false;
        }
}

static int print(const struct forking_child *children, size_t count, const char *snapshot,
                 bool as_json)
{
    json_auto_t *array = as_json ? json_array() : NULL;
    for (size_t i = 0; i < count; i++) {
        if (!children[i].made)
            continue;
        if (!as_json) {
            (void)printf("%s\n", children[i].sandbox.name);
            continue;
        }
        json_t *json = output_sandbox(&children[i].sandbox);
        if (!json || json_object_set_new(json, "parent", json_string(snapshot)) < 0 ||
            json_array_append_new(array, json) < 0)
            return output_json(NULL);
    }
    return as_json ? output_json(array) : app_printed(0);
}

static int fork_all(struct app *app, const struct args *args, const struct snapshots_source *source,
                    struct forking_child *children, size_t count, int signal_fd)
{
    struct bg_err err;
    int status = 0, number = 0;
    (void)bg_fault("fork-taken");
    if (make_all(app, args, source, children, count, &err) < 0) {
        app_hint_space(&err);
        clear(app, children, count, /* all= */ true);
        return app_fail(&err);
    }
    (void)bg_fault("fork-made");
    if (args_flag(args, OPTION_NO_START))
        return print(children, count, source->snapshot.name, args_flag(args, OPTION_JSON));
    number = forking_start(app, children, count, signal_fd, args_flag(args, OPTION_QUIET));
    for (size_t i = 0; i < count && !number; i++)
        if (!children[i].started) {
            app_hint_space(&children[i].why);
            status = app_fail(&children[i].why);
        }
    clear(app, children, count, /* all= */ false);
    int printed = print(children, count, source->snapshot.name, args_flag(args, OPTION_JSON));
    return number ? 128 + number : status ? status : printed;
}

static int run(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct snapshots_source source;
    size_t count = 0;
    BG_AUTOCLOSE int signal_fd = -1;
    int r = read_count(args, &count, &err);
    if (r == 0)
        r = signals_open(&signal_fd, &err);
    BG_AUTOFREE struct forking_child *children = r < 0 ? NULL : calloc(count, sizeof *children);
    if (r == 0 && !children)
        r = bg_err_errno(&err, -ENOMEM, "fork");
    if (r == 0)
        r = snapshots_open(app, args->operands[0],
                           &(struct snapshots_open_opts){.sandboxes = true,
                                                         .quiet = args_flag(args, OPTION_QUIET)},
                           &source, &err);
    if (r < 0) {
        app_hint_space(&err);
        return app_fail(&err);
    }
    int status = fork_all(app, args, &source, children, count, signal_fd);
    snapshots_close(app, &source);
    for (size_t i = 0; i < count; i++)
        bg_sandbox_done(&children[i].sandbox);
    return status;
}

const struct command cmd_fork = {
    .name = "fork",
    .summary = "make sandboxes that go on from another one's instant",
    .forms = forms,
    .options = options,
    .details =
        "Each goes on from the memory and disk of SANDBOX as they are now, or of SNAPSHOT as they "
        "were then, and shares with it what neither changes. A running source pauses for a moment; "
        "a suspended or stopped one stays so. Settings are the source's: image, size, environment, "
        "what it may reach, secrets and shared folders.\n\n"
        "Before any of its programs runs on, a child has a name, an id, random numbers, a clock, "
        "ssh host keys and placeholders of its own. Its programs run on; connections that they had "
        "to the world are closed, and nobody is at their terminals.\n\n"
        "Prints the names, one a line. A name that is not given is made up. Ctrl-C removes those "
        "that are not running yet.",
    .examples = examples,
    .operands_min = 1,
    .operands_max = -1,
    .run = run,
};
