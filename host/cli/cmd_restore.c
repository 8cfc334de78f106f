/* restore: takes a sandbox back to one of its snapshots, in place. */
#include "host/cli/commands.h"

#include <fcntl.h>
#include <string.h>

#include "common/fault.h"
#include "common/state/resume.h"
#include "host/cli/confirm.h"
#include "host/cli/offline.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/signals.h"
#include "host/cli/snapshots.h"
#include "host/cli/start.h"

enum { OPTION_YES = OPTION_OWN, OPTION_NO_START };

static const struct option_spec options[] = {
    {OPTION_YES, 'y', false, "yes", NULL, "do not ask"},
    {OPTION_NO_START, 0, false, "no-start", NULL, "leave it suspended there"},
    {OPTION_QUIET, 'q', false, "quiet", NULL, "no progress on stderr"},
    {OPTION_JSON, 0, false, "json", NULL, "print the sandbox as JSON"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] NAME TAG", "[OPTIONS] NAME@TAG", NULL};
static const char *const examples[] = {"restore web before-upgrade", "restore -y web@3", NULL};

/* *ret: of the sandbox's name, heap. */
static int split(const struct args *args, char **ret_name, char **ret_snapshot, struct bg_err *err)
{
    const char *first = args->operands[0], *at = strchr(first, '@');
    const char *second = args->operand_count > 1 ? args->operands[1] : NULL;
    if ((at != NULL) == (second != NULL))
        return bg_err_set(err, -EINVAL,
                          "give the sandbox and the snapshot to go back to: bellglass restore NAME "
                          "TAG; bellglass snapshot ls lists them");
    *ret_name = strndup(first, at ? (size_t)(at - first) : strlen(first));
    if (at)
        *ret_snapshot = strdup(first);
    else if (strchr(second, '@'))
        *ret_snapshot = strdup(second);
    else if (asprintf(ret_snapshot, "%s@%s", first, second) < 0)
        *ret_snapshot = NULL;
    return *ret_name && *ret_snapshot ? 0 : bg_err_errno(err, -ENOMEM, "restore");
}

/* A snapshot's memory fits a machine of its size on its image only; of others a fork is made. */
static int check_fits(const struct bg_sandbox *sandbox, const struct bg_snapshot *snapshot,
                      struct bg_err *err)
{
    const char *why =
        strcmp(sandbox->name, snapshot->source_name) != 0            ? "of another sandbox"
        : strcmp(sandbox->image_digest, snapshot->image_digest) != 0 ? "of one with another image"
        : sandbox->cpus != snapshot->cpus || sandbox->memory_bytes != snapshot->memory_bytes
            ? "of one with another size"
            : NULL;
    return why ? bg_err_set(err, -EINVAL,
                            "snapshot '%s' is %s: make a sandbox from it: bellglass fork %s",
                            snapshot->name, why, snapshot->name)
               : 0;
}

static bool confirmed(const struct life *life, const struct bg_snapshot *snapshot)
{
    char question[512];
    (void)snprintf(question, sizeof question,
                   "What sandbox '%s' has done and written since '%s' will be lost%s. Go on?",
                   life->sandbox.name, snapshot->name,
                   bg_sandbox_rests(life->state) ? "" : ", and it runs: it will be killed");
    return confirm(question);
}

/* The sandbox does not run. */
static int put_back(struct app *app, const struct bg_sandbox *sandbox,
                    const struct bg_snapshot *snapshot, struct bg_err *err)
{
    BG_AUTOCLOSE int lock = -1;
    BG_AUTOCLOSE int dir = open(sandbox->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = dir < 0 ? bg_err_errno(err, -errno, "%s", sandbox->dir)
                    : offline_await(sandbox, /* write= */ true, err);
    if (r == 0 && (r = bg_sandbox_lock(sandbox, &lock, err)) < 0)
        (void)bg_err_prefix(err, "sandbox '%s'", sandbox->name);
    if (r == 0)
        r = bg_resume_settle(dir, err);
    if (r == 0)
        r = bg_snapshot_fork_into(&app->paths, snapshot, dir, err);
    return r < 0 ? r
                 : bg_sandbox_set_state(sandbox,
                                        snapshot->kind == BG_SNAPSHOT_DISK ? BG_SANDBOX_STOPPED
                                                                           : BG_SANDBOX_SUSPENDED,
                                        NULL, err);
}

static int restore(struct app *app, struct life *life, const struct bg_snapshot *snapshot,
                   const struct args *args, int *ret_signal, struct bg_err *err)
{
    BG_AUTOCLOSE int signal_fd = -1;
    int r = signals_open(&signal_fd, err);
    if (r == 0)
        r = life_stop(app, life, /* grace_ms= */ 0, NULL, err);
    (void)bg_fault("restore-stopped");
    if (r == 0)
        r = put_back(app, &life->sandbox, snapshot, err);
    (void)bg_fault("restore-put");
    if (r < 0 || args_flag(args, OPTION_NO_START))
        return r;
    struct launch_opts opts = {
        .signal_fd = signal_fd, .owner_fd = -1, .quiet = args_flag(args, OPTION_QUIET)};
    return start_with_shares(app, life, &opts, ret_signal, err);
}

static int run(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct life life = {0};
    struct snapshots_source source = {.hold_fd = -1};
    BG_AUTOFREE char *name = NULL;
    BG_AUTOFREE char *snapshot = NULL;
    int signal_number = 0;
    int r = split(args, &name, &snapshot, &err);
    if (r == 0)
        r = life_open(app, name, &life, &err);
    if (r < 0)
        return app_fail(&err);
    r = snapshots_open(app, snapshot,
                       &(struct snapshots_open_opts){.sandboxes = false, .quiet = true}, &source,
                       &err);
    if (r == 0)
        r = check_fits(&life.sandbox, &source.snapshot, &err);
    if (r == 0 && !args_flag(args, OPTION_YES) && !confirmed(&life, &source.snapshot))
        r = bg_err_set(&err, -ECANCELED, "nothing was changed");
    if (r == 0)
        r = restore(app, &life, &source.snapshot, args, &signal_number, &err);
    int status = 0;
    if (r < 0) {
        app_hint_space(&err);
        status = signal_number ? 128 + signal_number : APP_FAILED;
        (void)app_fail(&err);
    } else if (args_flag(args, OPTION_JSON)) {
        json_auto_t *json = output_sandbox(&life.sandbox);
        status = output_json(json);
    }
    if (source.snapshot.name)
        snapshots_close(app, &source);
    life_done(&life);
    return status;
}

const struct command cmd_restore = {
    .name = "restore",
    .summary = "take a sandbox back to one of its snapshots",
    .forms = forms,
    .options = options,
    .details =
        "In place: it keeps its name, its id, its settings as they are now, and its snapshots. If "
        "it runs it is killed. Its memory and disk are then those of the snapshot, and it goes on "
        "from there; from one of a disk alone it boots. What it has done since is lost: take a "
        "snapshot before, or fork the old one instead.\n\n"
        "The layers of copy-on-write shares are in its disk, and go back with it. At a terminal it "
        "asks first.",
    .examples = examples,
    .operands_min = 1,
    .operands_max = 2,
    .run = run,
};
