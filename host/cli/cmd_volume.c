/* volume: create, list, snapshot and remove the volumes of `bellglass serve`'s clients. */
#include "host/cli/commands.h"

#include <string.h>

#include "common/state/image.h"
#include "common/state/volume.h"
#include "host/cli/output.h"
#include "host/cli/removal.h"
#include "host/cli/sandbox_options.h"

enum { OPTION_SIZE = OPTION_OWN, OPTION_VOLUME_IMAGE, OPTION_TOKEN };

#define REGION       "ord" /* as of `bellglass serve`; means nothing here */
#define SIZE_DEFAULT "10GiB"

static const struct option_spec options[] = {
    {OPTION_SIZE, 0, false, "size", "SIZE",
     "create: how large, with kB, MB, GB, KiB, MiB or GiB [10GiB, or the snapshot's]"},
    {OPTION_FROM, 0, false, "from", "SNAPSHOT", "create: go on from a snapshot"},
    {OPTION_VOLUME_IMAGE, 0, false, "image", "IMAGE", "create: a bootable one, of an image"},
    {OPTION_TOKEN, 0, false, "token", "NAME",
     "of the clients with this token; without it create's is everybody's, and the others look at "
     "all"},
    {OPTION_QUIET, 'q', false, "quiet", NULL, "rm: nothing but errors"},
    {OPTION_JSON, 0, false, "json", NULL, "print JSON"},
    {0},
};

static const char *const forms[] = {"create [OPTIONS] SLUG", "ls [OPTIONS]",
                                    "snapshot [OPTIONS] VOLUME SLUG", "rm [OPTIONS] VOLUME...",
                                    NULL};

static const char *const examples[] = {
    "volume create --size 20GB cache",
    "run --volume cache:/home/app/.cache -- make",
    "volume create --image debian tools",
    "volume snapshot cache cache-monday",
    "volume create --from cache-monday cache-tuesday",
    "volume ls",
    "volume rm cache",
    NULL,
};

static json_t *to_json(const struct bg_volume *v)
{
    uint64_t own, all;
    bg_volume_sizes(v, &own, &all);
    json_t *source = v->source.id[0]
                         ? json_pack("{s:s, s:s}", "id", v->source.id, "slug", v->source.slug)
                         : json_null();
    return json_pack("{s:s, s:s, s:s, s:o, s:I, s:I, s:I, s:I, s:b, s:b, s:o}", "id", v->id, "slug",
                     v->slug, "kind", v->snapshot ? "snapshot" : "volume", "token",
                     v->owner[0] ? output_text(v->owner) : json_null(), "created_ms",
                     (json_int_t)v->created_ms, "capacity", (json_int_t)v->capacity, "own_bytes",
                     (json_int_t)own, "all_bytes", (json_int_t)all, "bootable",
                     v->image_digest != NULL, "in_use", bg_volume_in_use(v), "source", source);
}

static int print_made(const struct bg_volume *v, const struct args *args)
{
    if (args_flag(args, OPTION_JSON)) {
        json_auto_t *json = to_json(v);
        return output_json(json);
    }
    (void)printf("%s\n", v->id);
    return app_printed(0);
}

static int make(struct app *app, const struct args *args, struct bg_volume *ret, struct bg_err *err)
{
    const char *from_name = args_text(args, OPTION_FROM, NULL);
    const char *image_name = args_text(args, OPTION_VOLUME_IMAGE, NULL);
    const char *size = args_text(args, OPTION_SIZE, from_name ? NULL : SIZE_DEFAULT);
    const char *token = args_text(args, OPTION_TOKEN, NULL);
    struct bg_volume from = {0};
    struct bg_image image = {0};
    struct bg_volume_opts opts = {
        .slug = args->operands[1], .owner = token ? token : "", .region = REGION};
    if (from_name && image_name)
        return bg_err_set(err, -EINVAL, "--from and --image: give one of them");
    int r = size ? bg_volume_parse_capacity(size, &opts.capacity, err) : 0;
    if (r == 0 && image_name) {
        r = bg_image_find(&app->paths, image_name, &image, err);
        opts.image_name = image_name;
        opts.image_digest = image.digest;
    }
    if (r == 0 && from_name) {
        r = bg_volume_find(&app->paths, token, from_name, &from, err);
        if (r == 0 && !from.snapshot)
            r = bg_err_set(err, -EINVAL, "'%s' is a volume: take a snapshot of it first",
                           from.slug);
        opts.from = &from;
        opts.capacity = size ? opts.capacity : from.capacity;
    }
    if (r == 0)
        r = bg_volume_create(&app->paths, &opts, ret, err);
    bg_image_done(&image);
    bg_volume_done(&from);
    return r;
}

static int create(struct app *app, const struct args *args)
{
    struct bg_volume made;
    struct bg_err err;
    int r = args->operand_count == 2
                ? make(app, args, &made, &err)
                : bg_err_set(&err, -EINVAL, "want: volume create [OPTIONS] SLUG");
    if (r < 0)
        return app_fail(&err);
    int status = print_made(&made, args);
    bg_volume_done(&made);
    return status;
}

static void add_row(struct table *table, const struct bg_volume *v)
{
    char age[OUTPUT_AGE_SIZE], capacity[OUTPUT_SIZE_SIZE], own_text[OUTPUT_SIZE_SIZE];
    uint64_t own, all;
    bg_volume_sizes(v, &own, &all);
    output_age(v->created_ms, output_now_ms(), age);
    output_size(v->capacity, capacity);
    output_size(own, own_text);
    table_add(table, v->slug);
    table_add(table, v->snapshot ? "snapshot" : "volume");
    table_add(table, v->id);
    table_add(table, v->owner[0] ? v->owner : "-");
    table_add(table, age);
    table_add(table, v->image_digest ? "bootable" : capacity);
    table_add(table, own_text);
    table_add(table, v->source.id[0] ? v->source.slug : "");
    table_add(table, bg_volume_in_use(v) ? "yes" : "");
}

static int list(struct app *app, const struct args *args)
{
    static const char *const heading[] = {"SLUG", "KIND",  "ID",     "TOKEN", "AGE",
                                          "SIZE", "FREES", "SOURCE", "IN USE"};
    struct bg_err err;
    struct bg_volume *all = NULL;
    size_t count = 0;
    json_auto_t *array = json_array();
    struct table table;
    table_init(&table, sizeof heading / sizeof *heading);
    for (size_t i = 0; i < table.columns; i++)
        table_add(&table, heading[i]);
    int r =
        args->operand_count == 1
            ? bg_volume_list(&app->paths, args_text(args, OPTION_TOKEN, NULL), &all, &count, &err)
            : bg_err_set(&err, -EINVAL, "want: volume ls [OPTIONS]");
    bool as_json = args_flag(args, OPTION_JSON);
    for (size_t i = 0; r == 0 && i < count; i++) {
        if (!as_json)
            add_row(&table, &all[i]);
        else if (json_array_append_new(array, to_json(&all[i])) < 0)
            r = bg_err_errno(&err, -ENOMEM, "volume ls");
    }
    if (r == 0 && !as_json && table_print(&table, stdout) < 0)
        r = bg_err_errno(&err, -ENOMEM, "volume ls");
    bg_volume_list_free(all, count);
    table_done(&table);
    if (r < 0)
        return app_fail(&err);
    return as_json ? output_json(array) : app_printed(0);
}

static int snapshot(struct app *app, const struct args *args)
{
    struct bg_volume volume, made;
    struct bg_err err;
    int r = args->operand_count == 3
                ? bg_volume_find(&app->paths, args_text(args, OPTION_TOKEN, NULL),
                                 args->operands[1], &volume, &err)
                : bg_err_set(&err, -EINVAL, "want: volume snapshot [OPTIONS] VOLUME SLUG");
    if (r < 0)
        return app_fail(&err);
    r = bg_volume_snapshot(&app->paths, &volume, args->operands[2], &made, &err);
    bg_volume_done(&volume);
    if (r < 0)
        return app_fail(&err);
    int status = print_made(&made, args);
    bg_volume_done(&made);
    return status;
}

static int remove_one(struct app *app, const char *name, const struct args *args, json_t *array,
                      struct bg_err *err)
{
    struct bg_volume volume;
    uint64_t own, all;
    char frees[OUTPUT_SIZE_SIZE];
    int r = bg_volume_find(&app->paths, args_text(args, OPTION_TOKEN, NULL), name, &volume, err);
    if (r < 0)
        return r;
    bg_volume_sizes(&volume, &own, &all);
    r = bg_volume_remove(&app->paths, &volume, err);
    output_size(own, frees);
    if (r == 0 && args_flag(args, OPTION_JSON))
        r = json_array_append_new(array, json_pack("{s:s, s:s, s:I}", "id", volume.id, "slug",
                                                   volume.slug, "freed_bytes", (json_int_t)own)) < 0
                ? bg_err_errno(err, -ENOMEM, "volume rm")
                : 0;
    else if (r == 0 && !args_flag(args, OPTION_QUIET))
        (void)printf("%s removed, %s freed\n", volume.slug, frees);
    bg_volume_done(&volume);
    return r;
}

static int run_remove(struct app *app, const struct args *args)
{
    return removal_run(app, args, "volume", remove_one);
}

static int run(struct app *app, const struct args *args)
{
    static const struct {
        const char *name;
        int (*run)(struct app *app, const struct args *args);
    } verbs[] = {{"create", create}, {"ls", list}, {"snapshot", snapshot}, {"rm", run_remove}};
    struct bg_err err;
    if (app_paths(app, &err) < 0)
        return app_fail(&err);
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(args->operands[0], verbs[i].name) == 0)
            return verbs[i].run(app, args);
    (void)bg_err_set(&err, -EINVAL, "volume: want create, ls, snapshot or rm");
    return app_fail(&err);
}

const struct command cmd_volume = {
    .name = "volume",
    .summary = "disks that outlive sandboxes",
    .forms = forms,
    .options = options,
    .details =
        "A volume is for data, with a file system that its first sandbox gets made, or bootable, "
        "and then it is the disk of a sandbox. One sandbox has it at a time: `bellglass run` and "
        "`create` take one for data by --volume. Clients of `bellglass serve` make and use their "
        "own; what is made here without --token every client may use, and only this command "
        "removes.\n\n"
        "A snapshot keeps a volume that no sandbox has as it is. Volumes are made from it, and "
        "sandboxes booted; removing it takes nothing from them: FREES is what only it holds.\n\n"
        "VOLUME is an id, or a slug that only one has.",
    .examples = examples,
    .operands_min = 1,
    .operands_max = -1,
    .run = run,
};
