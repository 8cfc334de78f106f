/* start, stop and rm: each takes several names and does what it can. */
#include "host/cli/commands.h"

#include "common/checked.h"
#include "common/quote.h"
#include "host/cli/offline.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/signals.h"
#include "host/cli/start.h"

#define GRACE_MS_DEFAULT 10000
#define GRACE_S_MAX      3600

enum { OPTION_TIME = OPTION_OWN, OPTION_FORCE, OPTION_COLD };

static const struct option_spec start_options[] = {
    LIFETIME_OPTIONS,
    {OPTION_COLD, 0, false, "cold", NULL,
     "boot its disk, even if it could go on from a memory, which is dropped"},
    {OPTION_QUIET, 'q', false, "quiet", NULL, "no progress on stderr"},
    {0},
};

static const struct option_spec stop_options[] = {
    {OPTION_TIME, 't', false, "time", "SECONDS",
     "for the guest to power off before it is killed [10]; 0: kill it"},
    {0},
};

static const struct option_spec rm_options[] = {
    {OPTION_FORCE, 'f', false, "force", NULL, "stop running ones first; do not mind unknown names"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] NAME...", NULL};

/* What was given counts at once, for one that runs too. One whose time is over gets as much again:
 * who starts it wants it. */
static int set_lifetime(const struct args *args, struct bg_sandbox *sandbox, struct bg_err *err)
{
    bool given;
    uint64_t now_ms = output_now_ms();
    int r = sandbox_options_lifetime(args, now_ms, sandbox, &given, err);
    if (r < 0)
        return r;
    bool over = sandbox->expires_ms > 0 && sandbox->expires_ms <= now_ms;
    if (over)
        sandbox->expires_ms = now_ms + sandbox->ttl_s * 1000;
    return given || over ? bg_sandbox_save(sandbox, err) : 0;
}

static int start_one(struct app *app, const char *name, const struct args *args,
                     const struct launch_opts *opts, int *ret_signal, struct bg_err *err)
{
    struct life life;
    int r = life_open(app, name, &life, err);
    if (r < 0)
        return r;
    r = set_lifetime(args, &life.sandbox, err);
    if (r < 0) {
        life_done(&life);
        return r;
    }
    if (life.state == BG_SANDBOX_RUNNING)
        app_note("sandbox '%s' is running already", name);
    else
        r = offline_await(&life.sandbox, /* write= */ true, err);
    offline_sweep(app, life.sandbox.id);
    if (r == 0 && life.state != BG_SANDBOX_RUNNING)
        r = start_with_shares(app, &life, opts, ret_signal, err);
    if (r < 0)
        app_hint_space(err);
    life_done(&life);
    return r;
}

static int run_start(struct app *app, const struct args *args)
{
    struct bg_err err;
    BG_AUTOCLOSE int signal_fd = -1;
    int status = 0;
    if (signals_open(&signal_fd, &err) < 0)
        return app_fail(&err);
    struct launch_opts opts = {.signal_fd = signal_fd,
                               .owner_fd = -1,
                               .cold = args_flag(args, OPTION_COLD),
                               .quiet = args_flag(args, OPTION_QUIET)};
    for (size_t i = 0; i < args->operand_count; i++) {
        int signal_number = 0;
        if (start_one(app, args->operands[i], args, &opts, &signal_number, &err) < 0)
            status = app_fail(&err);
        if (signal_number)
            return 128 + signal_number;
    }
    return status;
}

static int stop_one(struct app *app, const char *name, uint64_t grace_ms, struct bg_err *err)
{
    struct life life;
    bool clean;
    int r = life_open(app, name, &life, err);
    if (r < 0)
        return r;
    bool ran = life.state == BG_SANDBOX_RUNNING;
    r = life_stop(app, &life, grace_ms, &clean, err);
    life_done(&life);
    if (r == 0 && ran && grace_ms > 0 && !clean)
        app_note("sandbox '%s' did not power off within %llu s and was killed", name,
                 (unsigned long long)grace_ms / 1000);
    return r;
}

static int run_stop(struct app *app, const struct args *args)
{
    struct bg_err err;
    int status = 0;
    uint64_t grace_s = GRACE_MS_DEFAULT / 1000;
    const char *text = args_text(args, OPTION_TIME, NULL);
    char quoted[64];
    if (text && bg_parse_u64(text, 0, GRACE_S_MAX, &grace_s) < 0) {
        (void)bg_err_set(&err, -EINVAL, "--time %s: want seconds from 0 to %d",
                         bg_quote(text, quoted, sizeof quoted), GRACE_S_MAX);
        return app_fail(&err);
    }
    for (size_t i = 0; i < args->operand_count; i++)
        if (stop_one(app, args->operands[i], grace_s * 1000, &err) < 0)
            status = app_fail(&err);
    return status;
}

static int remove_one(struct app *app, const char *name, bool force, struct bg_err *err)
{
    struct life life;
    int r = life_open_any(app, name, &life, err);
    if (r < 0)
        return r == -ENOENT && force ? 0 : r;
    bool runs = !bg_sandbox_rests(life.state);
    if (!force && life.damaged)
        r = bg_err_set(err, -EUCLEAN, "sandbox '%s' is damaged: remove it with: bellglass rm -f %s",
                       name, name);
    else if (!force && runs)
        r = bg_err_set(err, -EBUSY, "sandbox '%s' is %s: stop it first, or: bellglass rm -f %s",
                       name, bg_sandbox_state_name(life.state), name);
    else if (runs)
        r = life_stop(app, &life, /* grace_ms= */ 0, NULL, err);
    if (r == 0)
        r = life_remove(app, &life, err);
    life_done(&life);
    return r;
}

static int run_rm(struct app *app, const struct args *args)
{
    struct bg_err err;
    int status = 0;
    for (size_t i = 0; i < args->operand_count; i++)
        if (remove_one(app, args->operands[i], args_flag(args, OPTION_FORCE), &err) < 0)
            status = app_fail(&err);
    return status;
}

const struct command cmd_start = {
    .name = "start",
    .summary = "start stopped sandboxes",
    .forms = forms,
    .options = start_options,
    .details =
        "With --ttl and --idle-suspend it changes these, of a running one too. A lifetime begins "
        "when the sandbox is made, and goes on while it is stopped or suspended; one that is over "
        "begins anew with a start. At its end the sandbox is stopped (`bellglass inspect` says "
        "why), and what sleeps is not woken any more.\n\n"
        "A sandbox has done nothing if no byte went over its streams (commands, mounts, forwarded "
        "and its own connections) and it used less than a fiftieth of a CPU. A terminal or "
        "connection that is open and silent does not keep it awake: terminals and commands are "
        "there again when it is woken, connections are not.",
    .operands_min = 1,
    .operands_max = -1,
    .run = run_start,
};

const struct command cmd_stop = {
    .name = "stop",
    .summary = "stop running sandboxes; their files stay",
    .forms = forms,
    .options = stop_options,
    .details = "Mounts of their files are unmounted first.",
    .operands_min = 1,
    .operands_max = -1,
    .run = run_stop,
};

const struct command cmd_rm = {
    .name = "rm",
    .summary = "remove sandboxes and all their files",
    .forms = forms,
    .options = rm_options,
    .details = "Also what a crash or a kill left of one.",
    .operands_min = 1,
    .operands_max = -1,
    .run = run_rm,
};
