/* ls and inspect. */
#include "host/cli/commands.h"

#include <fcntl.h>
#include <string.h>

#include "common/state/resume.h"
#include "host/cli/client.h"
#include "host/cli/life.h"
#include "host/cli/mounts.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/shares.h"

#define STATUS_TIMEOUT_MS 5000

enum { OPTION_NAMES = OPTION_OWN };

static const struct option_spec ls_options[] = {
    {OPTION_JSON, 0, false, "json", NULL, "print JSON"},
    {OPTION_NAMES, 'q', false, "names", NULL, "print the names only"},
    {0},
};

static const struct option_spec inspect_options[] = {
    {OPTION_JSON, 0, false, "json", NULL, "the only form there is"},
    {0},
};

static const char *const ls_forms[] = {"[OPTIONS]", NULL};
static const char *const inspect_forms[] = {"NAME...", NULL};

/* Where a sandbox is mounted, as an array of paths. */
static json_t *mounts_of(const struct mount_list *mounts, const struct bg_sandbox *sandbox)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < mounts->count; i++)
        if (mounts_match(&mounts->entries[i], sandbox) &&
            json_array_append_new(array, output_text(mounts->entries[i].path)) < 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static const char *state_text(const struct life *life)
{
    return life->damaged ? "damaged" : bg_sandbox_state_name(life->state);
}

/* Its layers, what it is from, and the instant that it goes on from at its next start. */
static int add_disk(json_t *json, const struct bg_sandbox *sandbox)
{
    struct bg_disk disk;
    struct bg_snapshot resume;
    struct bg_err why;
    BG_AUTOCLOSE int dir = open(sandbox->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = dir < 0 ? -errno : bg_disk_load(dir, &disk, &why);
    if (r < 0) /* it was never started, or is gone; damage is told */
        return json_object_set_new(
            json, "disk",
            r == -EUCLEAN ? json_pack("{s:o}", "damage", output_text(why.text)) : json_null());
    BG_AUTOFREE char *text = bg_disk_emit(&disk);
    json_t *shown = text ? json_loads(text, 0, NULL) : NULL;
    r = json_object_set_new(json, "disk", shown);
    if (r == 0 && bg_resume_present(dir)) {
        int loaded = bg_resume_load(dir, &disk, &resume, &why);
        if (loaded == 0)
            r = json_object_set_new(json, "resume",
                                    json_pack("{s:s, s:s, s:I, s:I}", "kind",
                                              bg_snapshot_kind_name(resume.kind), "id", resume.id,
                                              "created_ms", (json_int_t)resume.created_ms,
                                              "dirty_bytes", (json_int_t)resume.dirty_bytes));
        else if (loaded == -EUCLEAN)
            r = json_object_set_new(json, "resume",
                                    json_pack("{s:o}", "damage", output_text(why.text)));
        if (loaded == 0)
            bg_snapshot_done(&resume);
    }
    bg_disk_done(&disk);
    return r;
}

/* What is known without asking its supervisor. */
static json_t *describe(const struct life *life, const struct mount_list *mounts)
{
    char reason[BG_ERR_TEXT_SIZE];
    enum bg_sandbox_state noted;
    json_t *json = life->damaged ? json_pack("{s:s, s:o}", "name", life->sandbox.name, "dir",
                                             output_text(life->sandbox.dir))
                                 : output_sandbox(&life->sandbox);
    (void)bg_sandbox_noted(&life->sandbox, &noted, reason);
    if (json && (json_object_set_new(json, "state", json_string(state_text(life))) < 0 ||
                 json_object_set_new(json, "reason", output_text(reason)) < 0 ||
                 json_object_set_new(json, "shares", shares_json(&life->sandbox)) < 0 ||
                 json_object_set_new(json, "mounts", mounts_of(mounts, &life->sandbox)) < 0)) {
        json_decref(json);
        return NULL;
    }
    return json;
}

/* What the future holds for it: "ends 3h, idle 10m". */
static void plans(const struct bg_sandbox *s, char *out, size_t size)
{
    char left[OUTPUT_AGE_SIZE], idle[OUTPUT_AGE_SIZE];
    uint64_t now_ms = output_now_ms();
    bool over = s->expires_ms > 0 && s->expires_ms <= now_ms;
    output_age(now_ms, s->expires_ms, left);
    output_age(0, s->idle_suspend_s * 1000, idle);
    (void)snprintf(out, size, "%s%s%s%s%s",
                   s->expires_ms == 0 ? ""
                   : over             ? "over"
                                      : "ends ",
                   s->expires_ms == 0 || over ? "" : left,
                   s->expires_ms > 0 && s->idle_suspend_s > 0 ? ", " : "",
                   s->idle_suspend_s > 0 ? "idle " : "", s->idle_suspend_s > 0 ? idle : "");
}

static void add_row(struct table *table, const struct life *life, const struct mount_list *mounts)
{
    const struct bg_sandbox *s = &life->sandbox;
    char age[OUTPUT_AGE_SIZE], memory[OUTPUT_SIZE_SIZE], cpus[16], planned[64];
    bool mounted = false;
    output_age(s->created_ms, output_now_ms(), age);
    output_size(s->memory_bytes, memory);
    (void)snprintf(cpus, sizeof cpus, "%u", s->cpus);
    table_add(table, s->name);
    table_add(table, state_text(life));
    table_add(table, life->damaged ? "?" : s->image_name);
    table_add(table, life->damaged ? "?" : age);
    table_add(table, life->damaged ? "?" : memory);
    table_add(table, life->damaged ? "?" : cpus);
    plans(s, planned, sizeof planned);
    table_add(table, life->damaged ? "?" : planned);
    for (size_t i = 0; i < mounts->count; i++) {
        if (!mounts_match(&mounts->entries[i], s))
            continue;
        if (mounted) { /* further ones have a line each */
            for (int j = 0; j < 7; j++)
                table_add(table, "");
        }
        table_add(table, mounts->entries[i].path);
        mounted = true;
    }
    if (!mounted)
        table_add(table, "");
}

/* Goes through all sandboxes, into table or array; those that are removed meanwhile are not there.
 */
static int collect(struct app *app, const struct mount_list *mounts, struct table *table,
                   json_t *array, struct bg_err *err)
{
    char **names;
    int r = bg_sandbox_names(&app->paths, &names, err);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && names[i]; i++) {
        struct life life;
        r = life_open_any(app, names[i], &life, err);
        if (r == -ENOENT) {
            r = 0;
            continue;
        }
        if (r < 0)
            break;
        if (array && json_array_append_new(array, describe(&life, mounts)) < 0)
            r = bg_err_errno(err, -ENOMEM, "ls");
        if (table)
            add_row(table, &life, mounts);
        life_done(&life);
    }
    bg_sandbox_names_free(names);
    return r;
}

static int print_names(struct app *app)
{
    struct bg_err err;
    char **names;
    if (bg_sandbox_names(&app->paths, &names, &err) < 0)
        return app_fail(&err);
    for (size_t i = 0; names[i]; i++)
        (void)printf("%s\n", names[i]);
    bg_sandbox_names_free(names);
    return app_printed(0);
}

static int run_ls(struct app *app, const struct args *args)
{
    static const char *const heading[] = {"NAME",   "STATE", "IMAGE",    "AGE",
                                          "MEMORY", "CPUS",  "LIFETIME", "MOUNTS"};
    struct bg_err err;
    struct mount_list mounts = {0};
    bool as_json = args_flag(args, OPTION_JSON);
    int r = app_paths(app, &err);
    if (r == 0 && args_flag(args, OPTION_NAMES))
        return print_names(app);
    if (r == 0)
        r = mounts_read(&mounts, &err);
    struct table table;
    table_init(&table, sizeof heading / sizeof *heading);
    for (size_t i = 0; i < table.columns; i++)
        table_add(&table, heading[i]);
    json_auto_t *array = as_json ? json_array() : NULL;
    if (r == 0 && as_json && !array)
        r = bg_err_errno(&err, -ENOMEM, "ls");
    if (r == 0)
        r = collect(app, &mounts, as_json ? NULL : &table, array, &err);
    if (r == 0 && !as_json && table_print(&table, stdout) < 0)
        r = bg_err_errno(&err, -ENOMEM, "ls");
    table_done(&table);
    mounts_done(&mounts);
    if (r < 0)
        return app_fail(&err);
    return as_json ? output_json(array) : app_printed(0);
}

/* Adds what the supervisor says; that it does not answer is said too. */
static int add_status(struct app *app, const struct life *life, json_t *json)
{
    struct bg_err err;
    json_auto_t *request = json_pack("{s:s}", "op", "status");
    json_t *status = NULL;
    if (!request)
        return -ENOMEM;
    if (client_request(&app->paths, &life->sandbox, request, STATUS_TIMEOUT_MS, &status, &err) < 0)
        status = json_pack("{s:o}", "error", output_text(err.text));
    else
        (void)json_object_del(status, "ok"); /* it is there: that was the answer's condition */
    return json_object_set_new(json, "status", status);
}

static int inspect_one(struct app *app, const char *name, const struct mount_list *mounts,
                       json_t *array, struct bg_err *err)
{
    struct life life;
    int r = life_open_any(app, name, &life, err);
    if (r < 0)
        return r;
    json_t *json = describe(&life, mounts);
    if (json &&
        ((!life.damaged && add_disk(json, &life.sandbox) < 0) ||
         (life.state == BG_SANDBOX_RUNNING && !life.damaged && add_status(app, &life, json) < 0))) {
        json_decref(json);
        json = NULL;
    }
    life_done(&life);
    return json_array_append_new(array, json) < 0 ? bg_err_errno(err, -ENOMEM, "inspect") : 0;
}

static int run_inspect(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct mount_list mounts = {0};
    json_auto_t *array = json_array();
    int r = app_paths(app, &err);
    if (r == 0)
        r = mounts_read(&mounts, &err);
    for (size_t i = 0; r == 0 && i < args->operand_count; i++)
        r = inspect_one(app, args->operands[i], &mounts, array, &err);
    mounts_done(&mounts);
    if (r < 0)
        return app_fail(&err);
    /* One is printed as itself, several as an array. */
    return output_json(args->operand_count == 1 ? json_array_get(array, 0) : array);
}

const struct command cmd_ls = {
    .name = "ls",
    .summary = "list sandboxes",
    .forms = ls_forms,
    .options = ls_options,
    .run = run_ls,
};

const struct command cmd_inspect = {
    .name = "inspect",
    .summary = "show all about a sandbox, as JSON",
    .forms = inspect_forms,
    .options = inspect_options,
    .operands_min = 1,
    .operands_max = -1,
    .run = run_inspect,
};
