/* tree: what goes on from what. */
#include "host/cli/commands.h"

#include <fcntl.h>
#include <string.h>

#include "common/state/snapshot.h"
#include "host/cli/family.h"
#include "host/cli/life.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"

static const struct option_spec options[] = {
    {OPTION_JSON, 0, false, "json", NULL, "print JSON"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] [NAME]", NULL};

static int add_snapshot(struct app *app, const char *name, struct family *family,
                        struct bg_err *err)
{
    struct bg_snapshot s;
    const char *layers[BG_DISK_LAYERS_MAX];
    int r = bg_snapshot_load(&app->paths, name, &s, err);
    if (r < 0) /* a damaged one has no place in it that is known; ls and doctor tell of it */
        return r == -ENOMEM ? r : 0;
    for (size_t i = 0; i < s.disk_count; i++)
        layers[i] = s.disk[i].id;
    const struct family_entry entry = {.kind = FAMILY_SNAPSHOT,
                                       .name = name,
                                       .parent = s.parent,
                                       .state = bg_snapshot_kind_name(s.kind),
                                       .note = s.note,
                                       .created_ms = s.created_ms,
                                       .layers = layers,
                                       .layer_count = s.disk_count};
    r = family_add(family, &entry);
    bg_snapshot_done(&s);
    return r;
}

static int add_sandbox(struct app *app, const char *name, struct family *family, struct bg_err *err)
{
    struct life life;
    struct bg_disk disk = {0};
    const char *layers[BG_DISK_LAYERS_MAX];
    int r = life_open(app, name, &life, err);
    if (r < 0)
        return r == -ENOMEM ? r : 0; /* removed meanwhile, or damaged */
    BG_AUTOCLOSE int dir = open(life.sandbox.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0 && bg_disk_load(dir, &disk, NULL) < 0)
        disk.count = 0; /* never started, or damaged: it has no parent */
    size_t frozen = disk.count - (disk.count > 0 && disk.top);
    for (size_t i = 0; i < frozen; i++)
        layers[i] = disk.layers[i].id;
    const struct family_entry entry = {.kind = FAMILY_SANDBOX,
                                       .name = name,
                                       .parent = disk.parent,
                                       .state = bg_sandbox_state_name(life.state),
                                       .created_ms = life.sandbox.created_ms,
                                       .layers = layers,
                                       .layer_count = frozen};
    r = family_add(family, &entry);
    bg_disk_done(&disk);
    life_done(&life);
    return r;
}

static int collect(struct app *app, struct family *family, struct bg_err *err)
{
    char **snapshots = NULL, **sandboxes = NULL;
    int r = app_paths(app, err);
    if (r == 0)
        r = bg_snapshot_names(&app->paths, &snapshots, err);
    if (r == 0)
        r = bg_sandbox_names(&app->paths, &sandboxes, err);
    for (size_t i = 0; r == 0 && snapshots[i]; i++)
        r = add_snapshot(app, snapshots[i], family, err);
    for (size_t i = 0; r == 0 && sandboxes[i]; i++)
        r = add_sandbox(app, sandboxes[i], family, err);
    bg_sandbox_names_free(snapshots);
    bg_sandbox_names_free(sandboxes);
    if (r == 0)
        r = family_link(family);
    return r == -ENOMEM ? bg_err_errno(err, r, "tree") : r;
}

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
    int r = family ? collect(app, family, &err) : bg_err_errno(&err, -ENOMEM, "tree");
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
