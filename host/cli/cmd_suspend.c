/* suspend and resume. */
#include "host/cli/commands.h"

#include <stdio.h>

#include "host/cli/offline.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/signals.h"
#include "host/cli/start.h"

static const struct option_spec suspend_options[] = {
    {OPTION_QUIET, 'q', false, "quiet", NULL, "no progress on stderr"},
    {OPTION_JSON, 0, false, "json", NULL, "print what it took, as JSON"},
    {0},
};

static const struct option_spec resume_options[] = {
    {OPTION_QUIET, 'q', false, "quiet", NULL, "no progress on stderr"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] NAME...", NULL};

static int suspend_one(struct app *app, const char *name, bool quiet, json_t *array,
                       struct bg_err *err)
{
    struct life life;
    char note[128];
    json_auto_t *answer = NULL;
    int r = life_open(app, name, &life, err);
    if (r < 0)
        return r;
    (void)snprintf(note, sizeof note, "suspending '%.63s'", name);
    if (life.state == BG_SANDBOX_SUSPENDED)
        app_note("sandbox '%s' is suspended already", name);
    else if (bg_sandbox_rests(life.state))
        r = bg_err_set(err, -ENOTCONN, "sandbox '%s' is %s: there is nothing to suspend", name,
                       bg_sandbox_state_name(life.state));
    else if (life.state != BG_SANDBOX_RUNNING)
        r = bg_err_set(err, -EAGAIN, "sandbox '%s' is %s: try again in a moment", name,
                       bg_sandbox_state_name(life.state));
    else
        r = life_suspend(app, &life, quiet ? NULL : note, &answer, err);
    life_done(&life);
    if (r < 0) {
        app_hint_space(err);
        return r;
    }
    json_t *entry = json_pack("{s:s, s:s, s:O*, s:O*, s:O*}", "name", name, "state", "suspended",
                              "pause_ms", json_object_get(answer, "pause_ms"), "dirty_bytes",
                              json_object_get(answer, "dirty_bytes"), "written_bytes",
                              json_object_get(answer, "written_bytes"));
    return json_array_append_new(array, entry) < 0 ? bg_err_errno(err, -ENOMEM, "suspend") : 0;
}

static int run_suspend(struct app *app, const struct args *args)
{
    struct bg_err err;
    int status = 0;
    json_auto_t *array = json_array();
    for (size_t i = 0; i < args->operand_count; i++)
        if (suspend_one(app, args->operands[i], args_flag(args, OPTION_QUIET), array, &err) < 0)
            status = app_fail(&err);
    if (!args_flag(args, OPTION_JSON))
        return status;
    int printed = output_json(array);
    return status ? status : printed;
}

static int resume_one(struct app *app, const char *name, const struct launch_opts *opts,
                      int *ret_signal, struct bg_err *err)
{
    struct life life;
    int r = life_open(app, name, &life, err);
    if (r < 0)
        return r;
    if (life.state == BG_SANDBOX_RUNNING)
        app_note("sandbox '%s' is running already", name);
    else if (life.state != BG_SANDBOX_SUSPENDED)
        r = bg_err_set(err, -ENOTCONN, "sandbox '%s' is %s, not suspended%s%s", name,
                       bg_sandbox_state_name(life.state),
                       bg_sandbox_rests(life.state) ? ": bellglass start " : "",
                       bg_sandbox_rests(life.state) ? name : "");
    else
        r = offline_await(&life.sandbox, /* write= */ true, err);
    if (r == 0 && life.state == BG_SANDBOX_SUSPENDED)
        r = start_with_shares(app, &life, opts, ret_signal, err);
    if (r < 0)
        app_hint_space(err);
    life_done(&life);
    return r;
}

static int run_resume(struct app *app, const struct args *args)
{
    struct bg_err err;
    BG_AUTOCLOSE int signal_fd = -1;
    int status = 0;
    if (signals_open(&signal_fd, &err) < 0)
        return app_fail(&err);
    struct launch_opts opts = {
        .signal_fd = signal_fd, .owner_fd = -1, .quiet = args_flag(args, OPTION_QUIET)};
    for (size_t i = 0; i < args->operand_count; i++) {
        int signal_number = 0;
        if (resume_one(app, args->operands[i], &opts, &signal_number, &err) < 0)
            status = app_fail(&err);
        if (signal_number)
            return 128 + signal_number;
    }
    return status;
}

const struct command cmd_suspend = {
    .name = "suspend",
    .summary = "write sandboxes' memory to disk and end them until resume",
    .forms = forms,
    .options = suspend_options,
    .details =
        "What has changed in its memory since it was forked goes to its folder, and its processes "
        "here end: it costs that on disk and nothing else. `bellglass resume`, or `start`, lets it "
        "go on: its programs do not notice but for the clock, and that connections to the world "
        "were closed.\n\n"
        "Commands that need it to run (exec, shell, cp, ssh, a connection that `bellglass forward` "
        "takes) let it go on by themselves, and so do its mounts, which stay, when they are asked "
        "for what is not known here. With BELLGLASS_WAKE=0 in the environment no command does, and "
        "`mount` and `cp` read its files as they are on its disk.",
    .operands_min = 1,
    .operands_max = -1,
    .run = run_suspend,
};

const struct command cmd_resume = {
    .name = "resume",
    .summary = "let suspended sandboxes go on",
    .forms = forms,
    .options = resume_options,
    .details = "If what one was suspended with cannot be used any more, since QEMU or the CPU is "
               "another one now, its disk still can be booted: bellglass start --cold NAME.",
    .operands_min = 1,
    .operands_max = -1,
    .run = run_resume,
};
