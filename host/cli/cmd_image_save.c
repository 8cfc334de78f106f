/* image save: a snapshot of the disk, of which bellglass-image makes an image. */
#include "host/cli/commands.h"

#include "host/cli/process.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/signals.h"
#include "host/cli/snapshots.h"

static const struct option_spec options[] = {
    {OPTION_QUIET, 'q', false, "quiet", NULL, "no progress of the snapshot on stderr"},
    {OPTION_JSON, 0, false, "json", NULL, "print the image as JSON"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] SANDBOX|SNAPSHOT IMAGE", NULL};
static const char *const examples[] = {"image save web web-ready", "create --image web-ready again",
                                       NULL};

static int make_image(const char *snapshot, char *image, bool as_json, int *ret_status,
                      struct bg_err *err)
{
    char program[] = "bellglass-image", verb[] = "save", option[] = "--snapshot", end[] = "--",
         json[] = "--json";
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *name = strdup(snapshot);
    pid_t pid;
    int r = name ? bg_helper_path(program, &path, err) : bg_err_errno(err, -ENOMEM, "image");
    if (r < 0)
        return r;
    char *with_json[] = {program, verb, json, option, name, end, image, NULL},
         *plain[] = {program, verb, option, name, end, image, NULL};
    const struct process_opts opts = {.path = path, .argv = as_json ? with_json : plain};
    r = process_start(&opts, &pid, err);
    if (r == 0)
        *ret_status = process_wait(pid);
    return r;
}

static int run(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct snapshots_source source;
    BG_AUTOCLOSE int signal_fd = -1;
    int status = 0;
    const struct snapshots_open_opts opts = {
        .sandboxes = true, .disk_only = true, .quiet = args_flag(args, OPTION_QUIET)};
    /* Blocked here, a signal ends the helper, and we remove the snapshot then. */
    int r = signals_open(&signal_fd, &err);
    if (r == 0)
        r = snapshots_open(app, args->operands[0], &opts, &source, &err);
    if (r < 0) {
        app_hint_space(&err);
        return app_fail(&err);
    }
    r = make_image(source.snapshot.name, args->operands[1], args_flag(args, OPTION_JSON), &status,
                   &err);
    snapshots_close(app, &source);
    return r < 0 ? app_fail(&err) : status;
}

const struct command cmd_image_save = {
    .name = "image save",
    .summary = "make an image of a sandbox's disk",
    .forms = forms,
    .options = options,
    .details =
        "The disk as it is now, or as it was in a snapshot: its layers in one, with the kernel of "
        "the image that it stands on. A sandbox that runs goes on; its file systems are brought to "
        "rest for the moment of the snapshot. What the image holds is what was written in the "
        "sandbox: whoever has controlled that controls what is forked from the image too.",
    .examples = examples,
    .operands_min = 2,
    .operands_max = 2,
    .run = run,
};
