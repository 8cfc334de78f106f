/* snapshot: take, list, show and remove. */
#include "host/cli/commands.h"

#include <fcntl.h>
#include <string.h>

#include "common/state/folder.h"
#include "host/cli/output.h"
#include "host/cli/removal.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/snapshots.h"

enum { OPTION_NOTE = OPTION_OWN, OPTION_DISK_ONLY, OPTION_ALL };

static const struct option_spec options[] = {
    {OPTION_NOTE, 0, false, "note", "TEXT", "what to remember about it"},
    {OPTION_DISK_ONLY, 0, false, "disk-only", NULL,
     "its disk without its memory; what is made from it boots"},
    {OPTION_ALL, 'a', false, "all", NULL, "ls: also those that a command makes for a moment"},
    {OPTION_QUIET, 'q', false, "quiet", NULL, "no progress; rm: nothing but errors"},
    {OPTION_JSON, 0, false, "json", NULL, "print JSON"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] NAME [TAG]",     "[OPTIONS] NAME@TAG",
                                    "ls [OPTIONS] [NAME]",      "inspect SNAPSHOT...",
                                    "rm [OPTIONS] SNAPSHOT...", NULL};

static const char *const examples[] = {
    "snapshot web",
    "snapshot web before-upgrade --note 'all tests pass'",
    "snapshot ls web",
    "restore web before-upgrade",
    "snapshot rm web@before-upgrade",
    NULL,
};

/* ---- take ---- */

static int print_taken(const struct snapshots_taken *taken, bool as_json)
{
    if (!as_json) {
        (void)printf("%s\n", taken->name);
        return app_printed(0);
    }
    json_auto_t *json = json_pack("{s:s}", "name", taken->name);
    if (json && taken->ran) {
        json_auto_t *numbers = json_pack(
            "{s:I, s:I, s:I, s:I}", "pause_ms", (json_int_t)taken->pause_ms, "stream_pause_ms",
            (json_int_t)taken->stream_pause_ms, "dirty_bytes", (json_int_t)taken->dirty_bytes,
            "written_bytes", (json_int_t)taken->written_bytes);
        if (!numbers || json_object_update(json, numbers) < 0)
            return output_json(NULL);
    }
    return output_json(json);
}

static int take(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct life life;
    struct snapshots_taken taken;
    const char *first = args->operands[0], *at = strchr(first, '@');
    BG_AUTOFREE char *name = strndup(first, at ? (size_t)(at - first) : strlen(first));
    const char *tag = at ? at + 1 : args->operand_count > 1 ? args->operands[1] : NULL;
    const char *note = args_text(args, OPTION_NOTE, NULL);
    int r = name ? 0 : bg_err_errno(&err, -ENOMEM, "snapshot");
    if (r == 0 && args->operand_count > (at ? 1 : 2))
        r = bg_err_set(&err, -EINVAL, "too many arguments: see bellglass snapshot --help");
    if (r == 0 && tag)
        r = snapshots_check_tag(tag, &err);
    if (r == 0 && note && strlen(note) > BG_SNAPSHOT_NOTE_MAX)
        r = bg_err_set(&err, -EINVAL, "--note: at most %d bytes", BG_SNAPSHOT_NOTE_MAX);
    if (r == 0)
        r = life_open(app, name, &life, &err);
    if (r < 0)
        return app_fail(&err);
    const struct snapshots_take_opts opts = {.tag = tag,
                                             .note = note,
                                             .disk_only = args_flag(args, OPTION_DISK_ONLY),
                                             .quiet = args_flag(args, OPTION_QUIET)};
    r = snapshots_take(app, &life, &opts, &taken, &err);
    life_done(&life);
    if (r < 0) {
        app_hint_space(&err);
        return app_fail(&err);
    }
    int status = print_taken(&taken, args_flag(args, OPTION_JSON));
    snapshots_taken_done(&taken);
    return status;
}

/* ---- list ---- */

struct sizes {
    uint64_t all, frees;
};

static struct sizes sizes_of(int store_fd, const char *name)
{
    struct sizes sizes = {0};
    (void)(bg_folder_size(store_fd, name, &sizes.all, &sizes.frees) < 0); /* removed meanwhile */
    return sizes;
}

static void add_row(struct table *table, const char *name, const struct bg_snapshot *s,
                    const struct sizes *sizes)
{
    char age[OUTPUT_AGE_SIZE] = "?", all[OUTPUT_SIZE_SIZE], frees[OUTPUT_SIZE_SIZE];
    if (s)
        output_age(s->created_ms, output_now_ms(), age);
    output_size(sizes->all, all);
    output_size(sizes->frees, frees);
    table_add(table, name);
    table_add(table, s ? bg_snapshot_kind_name(s->kind) : "damaged");
    table_add(table, age);
    table_add(table, all);
    table_add(table, frees);
    table_add(table, s && s->parent ? s->parent : "");
    table_add(table, s ? s->note : "");
}

/* One for the list. Damaged ones are in it too, since they are to be removed. */
static int list_one(struct app *app, int store_fd, const char *name, struct table *table,
                    json_t *array, struct bg_err *err)
{
    struct bg_snapshot s;
    int r = bg_snapshot_load(&app->paths, name, &s, err);
    if (r == -ENOENT)
        return 0;
    bool whole = r == 0;
    if (!whole && r != -EUCLEAN && r != -EPROTONOSUPPORT)
        return r;
    struct sizes sizes = sizes_of(store_fd, name);
    r = 0;
    if (array) {
        json_t *json =
            whole ? snapshots_json(&s, sizes.all, sizes.frees)
                  : json_pack("{s:s, s:o}", "name", name, "damage", output_text(err->text));
        if (json_array_append_new(array, json) < 0)
            r = bg_err_errno(err, -ENOMEM, "snapshot ls");
    } else {
        add_row(table, name, whole ? &s : NULL, &sizes);
    }
    if (whole)
        bg_snapshot_done(&s);
    return r;
}

static bool is_listed(const char *name, const char *source, bool all)
{
    char own[BG_SANDBOX_NAME_MAX + 1], tag[BG_SANDBOX_NAME_MAX + 2];
    return bg_snapshot_split(name, own, tag) && (all || tag[0] != '.') &&
           (!source || strcmp(own, source) == 0);
}

static int list(struct app *app, const struct args *args)
{
    static const char *const heading[] = {"SNAPSHOT", "KIND",   "AGE", "SIZE",
                                          "FREES",    "PARENT", "NOTE"};
    struct bg_err err;
    BG_AUTOCLOSE int store = -1;
    char **names = NULL;
    bool as_json = args_flag(args, OPTION_JSON);
    const char *source = args->operand_count > 1 ? args->operands[1] : NULL;
    json_auto_t *array = as_json ? json_array() : NULL;
    struct table table;
    table_init(&table, sizeof heading / sizeof *heading);
    for (size_t i = 0; i < table.columns; i++)
        table_add(&table, heading[i]);
    int r = args->operand_count > 2
                ? bg_err_set(&err, -EINVAL, "too many arguments: see bellglass snapshot --help")
                : app_paths(app, &err);
    if (r == 0)
        r = bg_snapshot_open_store(&app->paths, &store, &err);
    if (r == 0)
        r = bg_snapshot_names(&app->paths, &names, &err);
    for (size_t i = 0; r == 0 && names[i]; i++)
        if (is_listed(names[i], source, args_flag(args, OPTION_ALL)))
            r = list_one(app, store, names[i], &table, array, &err);
    if (r == 0 && !as_json && table_print(&table, stdout) < 0)
        r = bg_err_errno(&err, -ENOMEM, "snapshot ls");
    bg_sandbox_names_free(names);
    table_done(&table);
    if (r < 0)
        return app_fail(&err);
    return as_json ? output_json(array) : app_printed(0);
}

/* ---- inspect ---- */

static int inspect_one(struct app *app, const char *text, json_t *array, struct bg_err *err)
{
    struct bg_snapshot s;
    struct bg_err damage = {.code = 0};
    BG_AUTOFREE char *name = NULL;
    BG_AUTOCLOSE int store = -1;
    int r = bg_snapshot_resolve(&app->paths, text, &name, err);
    if (r == 0)
        r = bg_snapshot_load(&app->paths, name, &s, err);
    if (r < 0)
        return r;
    r = bg_snapshot_open_store(&app->paths, &store, err);
    if (r == 0) {
        BG_AUTOCLOSE int dir = openat(store, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir >= 0 && bg_snapshot_check_files(&s, dir, &damage) == 0)
            damage.text[0] = '\0';
        struct sizes sizes = sizes_of(store, name);
        json_t *json = snapshots_json(&s, sizes.all, sizes.frees);
        json_t *what = damage.text[0] ? output_text(damage.text) : json_null();
        if (!json || json_object_set_new(json, "damage", what) < 0 ||
            json_array_append_new(array, json) < 0)
            r = bg_err_errno(err, -ENOMEM, "snapshot inspect");
    }
    bg_snapshot_done(&s);
    return r;
}

static int inspect(struct app *app, const struct args *args)
{
    struct bg_err err;
    json_auto_t *array = json_array();
    int r = args->operand_count > 1
                ? app_paths(app, &err)
                : bg_err_set(&err, -EINVAL, "give a snapshot: see bellglass snapshot ls");
    for (size_t i = 1; r == 0 && i < args->operand_count; i++)
        r = inspect_one(app, args->operands[i], array, &err);
    if (r < 0)
        return app_fail(&err);
    /* One is printed as itself, several as an array. */
    return output_json(args->operand_count == 2 ? json_array_get(array, 0) : array);
}

/* ---- remove ---- */

static int remove_one(struct app *app, const char *text, const struct args *args, json_t *array,
                      struct bg_err *err)
{
    BG_AUTOFREE char *name = NULL;
    BG_AUTOCLOSE int store = -1;
    char frees[OUTPUT_SIZE_SIZE];
    int r = bg_snapshot_resolve(&app->paths, text, &name, err);
    if (r == 0)
        r = bg_snapshot_open_store(&app->paths, &store, err);
    if (r < 0)
        return r;
    struct sizes sizes = sizes_of(store, name);
    r = bg_snapshot_remove(&app->paths, name, err);
    if (r < 0)
        return r;
    output_size(sizes.frees, frees);
    if (args_flag(args, OPTION_JSON))
        r = json_array_append_new(
            array, json_pack("{s:s, s:I}", "name", name, "freed_bytes", (json_int_t)sizes.frees));
    else if (!args_flag(args, OPTION_QUIET))
        (void)printf("%s removed, %s freed%s\n", name, frees,
                     sizes.all > sizes.frees ? "; what others stand on stays" : "");
    return r < 0 ? bg_err_errno(err, -ENOMEM, "snapshot rm") : 0;
}

static int run_remove(struct app *app, const struct args *args)
{
    return removal_run(app, args, "snapshot", remove_one);
}

static int run(struct app *app, const struct args *args)
{
    static const struct {
        const char *name;
        int (*run)(struct app *app, const struct args *args);
    } verbs[] = {{"ls", list}, {"inspect", inspect}, {"rm", run_remove}};
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(args->operands[0], verbs[i].name) == 0)
            return verbs[i].run(app, args);
    return take(app, args);
}

const struct command cmd_snapshot = {
    .name = "snapshot",
    .summary = "keep a sandbox as it is at this instant",
    .forms = forms,
    .options = options,
    .details =
        "Memory and disk, of one instant. A running sandbox pauses for a moment and goes on, its "
        "commands, terminals and connections too. One that is stopped gives its disk. Without TAG "
        "the next number is taken. `bellglass fork` makes sandboxes from a snapshot, `bellglass "
        "restore` takes the sandbox itself back to it.\n\n"
        "SNAPSHOT is NAME@TAG, or a TAG or the beginning of an id that only one has. A snapshot "
        "outlives its sandbox. Removing one takes nothing from what was made from it: FREES is "
        "what only it holds.\n\n"
        "ls, inspect and rm are verbs: a sandbox of such a name is given as NAME@TAG.",
    .examples = examples,
    .operands_min = 1,
    .operands_max = -1,
    .run = run,
};
