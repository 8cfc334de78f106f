/* prune: what can go, and its removal. */
#include "host/cli/commands.h"

#include "host/cli/grammar.h"
#include "host/cli/output.h"
#include "host/cli/prunable.h"
#include "host/cli/sandbox_options.h"

enum { OPTION_YES = OPTION_OWN, OPTION_DRY_RUN, OPTION_OLDER_THAN, OPTION_ALL_SNAPSHOTS };

static const struct option_spec options[] = {
    {OPTION_YES, 'y', false, "yes", NULL, "remove it"},
    {OPTION_DRY_RUN, 0, false, "dry-run", NULL, "only tell, which is what happens without --yes"},
    {OPTION_OLDER_THAN, 0, false, "older-than", "AGE",
     "nothing younger than AGE, such as 12h or 7d"},
    {OPTION_ALL_SNAPSHOTS, 0, false, "all-snapshots", NULL,
     "also your snapshots on which no sandbox stands"},
    {OPTION_JSON, 0, false, "json", NULL, "print JSON"},
    {0},
};

static const char *const forms[] = {"[OPTIONS]", NULL};
static const char *const examples[] = {"prune", "prune --yes",
                                       "prune --all-snapshots --older-than 30d", NULL};

static const char *kind_text(enum prunable_kind kind)
{
    switch (kind) {
    case PRUNABLE_UNFINISHED:
        return "a snapshot that was not finished";
    case PRUNABLE_MOMENTARY:
        return "a snapshot of a command that was killed";
    case PRUNABLE_GOLDEN:
        return "a golden snapshot that nothing stands on";
    case PRUNABLE_BOOT:
        return "a golden snapshot that was not finished";
    case PRUNABLE_SNAPSHOT:
        break;
    }
    return "a snapshot that no sandbox stands on";
}

static int print_table(const struct prunable_list *list, const bool *removed)
{
    struct table table;
    char age[OUTPUT_AGE_SIZE], size[OUTPUT_SIZE_SIZE];
    table_init(&table, 4);
    table_add(&table, "NAME");
    table_add(&table, "AGE");
    table_add(&table, "FREES");
    table_add(&table, removed ? "REMOVED" : "WHAT");
    for (size_t i = 0; i < list->count; i++) {
        const struct prunable *item = &list->items[i];
        if (removed && !removed[i])
            continue;
        output_age(item->since_ms, output_now_ms(), age);
        output_size(item->frees, size);
        table_add(&table, item->name);
        table_add(&table, age);
        table_add(&table, size);
        table_add(&table, kind_text(item->kind));
    }
    int r = list->count > 0 ? table_print(&table, stdout) : 0;
    table_done(&table);
    return r;
}

static json_t *to_json(const struct prunable_list *list, const bool *removed)
{
    json_t *items = json_array();
    for (size_t i = 0; items && i < list->count; i++) {
        const struct prunable *item = &list->items[i];
        if (json_array_append_new(items, json_pack("{s:s, s:s, s:I, s:I, s:b}", "name", item->name,
                                                   "kind", prunable_kind_name(item->kind),
                                                   "since_ms", (json_int_t)item->since_ms,
                                                   "frees_bytes", (json_int_t)item->frees,
                                                   "removed", removed && removed[i])) < 0) {
            json_decref(items);
            return NULL;
        }
    }
    return json_pack("{s:o, s:I, s:b}", "items", items, "frees_bytes", (json_int_t)list->frees,
                     "complete", !list->unsure);
}

static int show(const struct prunable_list *list, const bool *removed, bool as_json)
{
    struct bg_err err;
    char size[OUTPUT_SIZE_SIZE];
    if (as_json) {
        json_auto_t *json = to_json(list, removed);
        return output_json(json);
    }
    output_size(list->frees, size);
    if (print_table(list, removed) < 0) {
        (void)bg_err_errno(&err, -ENOMEM, "prune");
        return app_fail(&err);
    }
    if (list->count == 0)
        (void)printf("nothing to remove\n");
    else if (removed)
        (void)printf("\n%s freed\n", size);
    else
        (void)printf("\n%s together; remove them: bellglass prune --yes\n", size);
    if (list->unsure)
        app_note("a sandbox or snapshot is damaged and may stand on any golden snapshot: they all "
                 "stay; see bellglass doctor");
    return app_printed(0);
}

static int run(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct prunable_list list;
    struct prunable_opts opts = {.snapshots = args_flag(args, OPTION_ALL_SNAPSHOTS),
                                 .now_ms = output_now_ms()};
    bool yes = args_flag(args, OPTION_YES);
    const char *age = args_text(args, OPTION_OLDER_THAN, NULL);
    int r = 0, status = 0;
    if (yes && args_flag(args, OPTION_DRY_RUN))
        r = bg_err_set(&err, -EINVAL, "--yes and --dry-run: give one of them");
    if (r == 0 && age)
        r = grammar_parse_duration(age, &opts.older_than_ms, &err);
    if (r < 0)
        (void)bg_err_prefix(&err, "prune");
    if (r == 0)
        r = prunable_find(app, &opts, &list, &err);
    if (r < 0)
        return app_fail(&err);
    BG_AUTOFREE bool *removed = yes ? calloc(list.count + 1, sizeof *removed) : NULL;
    for (size_t i = 0; removed && i < list.count; i++) {
        removed[i] = prunable_remove(app, &list.items[i], &err) == 0;
        if (!removed[i])
            status = app_fail(&err);
    }
    int shown = show(&list, removed, args_flag(args, OPTION_JSON));
    prunable_done(&list);
    return status ? status : shown;
}

const struct command cmd_prune = {
    .name = "prune",
    .summary = "tell what is not needed any more, and remove it",
    .forms = forms,
    .options = options,
    .details =
        "What killed commands left of snapshots, and golden snapshots from which no new sandbox "
        "will be made and on which none stands. With --all-snapshots also your own on which no "
        "sandbox stands; those of sandboxes that were removed, for example. Nothing that anything "
        "stands on is ever removed.\n\n"
        "FREES is what would come back if that alone were removed; what several share is counted "
        "in the sum.",
    .examples = examples,
    .run = run,
};
