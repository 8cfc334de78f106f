/* pool: sandboxes that are ready before they are asked for. */
#include "host/cli/commands.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/limits.h"
#include "common/quote.h"
#include "common/state/image.h"
#include "host/cli/launch.h"
#include "host/cli/output.h"
#include "host/cli/pools.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/signals.h"

static const struct option_spec options[] = {
    {OPTION_IMAGE, 0, false, "image", "IMAGE", "what they are forks of [debian]"},
    {OPTION_CPUS, 0, false, "cpus", "N", "virtual CPUs of each [1]"},
    {OPTION_MEMORY, 0, false, "memory", "SIZE", "memory of each [512M]"},
    {OPTION_QUIET, 'q', false, "quiet", NULL, "no progress on stderr"},
    {OPTION_JSON, 0, false, "json", NULL, "print JSON (ls)"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] N", "[OPTIONS] rm", "[ls] [--json]", NULL};

static const char *const examples[] = {
    "pool 2", "pool --image debian --memory 768M 4", "pool ls", "pool rm", NULL,
};

/* ---- ls ---- */

static json_t *to_json(const struct pool_info *info)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:i, s:b}", "image", info->image, "cpus",
                     (json_int_t)info->cpus, "memory_bytes", (json_int_t)info->memory_bytes,
                     "wanted", (json_int_t)info->wanted, "ready", (json_int_t)info->ready,
                     "keeper_pid", info->keeper_pid, "gateway", (int)info->gateway);
}

static void add_row(struct table *table, const struct pool_info *info)
{
    char memory[OUTPUT_SIZE_SIZE], cpus[16], wanted[16], ready[16];
    output_size(info->memory_bytes, memory);
    (void)snprintf(cpus, sizeof cpus, "%u", info->cpus);
    (void)snprintf(wanted, sizeof wanted, "%u", info->wanted);
    (void)snprintf(ready, sizeof ready, "%u", info->ready);
    const char *const cells[] = {info->image, memory, cpus,
                                 ready,       wanted, info->gateway ? "bellglass serve" : ""};
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++)
        table_add(table, cells[i]);
}

static int list(struct app *app, const struct args *args)
{
    static const char *const heading[] = {"IMAGE", "MEMORY", "CPUS", "READY", "WANTED", "OF"};
    struct bg_err err;
    struct pool_info *pools;
    size_t count;
    int r = pools_list(&app->paths, &pools, &count, &err);
    if (r < 0)
        return app_fail(&err);
    struct table table;
    table_init(&table, sizeof heading / sizeof *heading);
    for (size_t i = 0; i < table.columns; i++)
        table_add(&table, heading[i]);
    json_auto_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        add_row(&table, &pools[i]);
        if (r == 0 && json_array_append_new(array, to_json(&pools[i])) < 0)
            r = bg_err_errno(&err, -ENOMEM, "pool");
    }
    pools_free(pools, count);
    bool as_json = args_flag(args, OPTION_JSON);
    if (r == 0 && !as_json && table_print(&table, stdout) < 0)
        r = bg_err_errno(&err, -ENOMEM, "pool");
    table_done(&table);
    if (r < 0)
        return app_fail(&err);
    return as_json ? output_json(array) : app_printed(0);
}

/* ---- N ---- */

static int keep(const struct pool_info *info, const struct args *args)
{
    struct bg_err err = {0};
    BG_AUTOCLOSE int signal_fd = -1;
    int fds[2], signal_number = 0;
    pid_t pid;
    if (signals_open(&signal_fd, &err) < 0)
        return app_fail(&err);
    if (pipe2(fds, O_CLOEXEC) < 0) {
        (void)bg_err_errno(&err, -errno, "pipe");
        return app_fail(&err);
    }
    BG_AUTOCLOSE int status_fd = fds[0];
    int r = pools_start(info, fds[1], /* owner_fd= */ -1, &pid, &err);
    (void)close(fds[1]); /* the keeper's */
    if (r < 0)
        return app_fail(&err);
    const struct launch_opts launch = {
        .signal_fd = signal_fd, .owner_fd = -1, .quiet = args_flag(args, OPTION_QUIET)};
    r = launch_follow("the pool's keeper", pid, status_fd, &launch, &signal_number, &err);
    if (r == 0)
        return 0;
    app_hint_space(&err);
    (void)app_fail(&err);
    return signal_number ? 128 + signal_number : APP_FAILED;
}

static int read_pool(struct app *app, const struct args *args, struct pool_info *ret,
                     struct bg_err *err)
{
    struct bg_sandbox sizes = {0};
    char digest[65], image_text[] = "debian";
    bool tagged;
    const char *image = args_text(args, OPTION_IMAGE, image_text);
    int r = sandbox_options_sizes(args, &sizes, err);
    if (r == 0)
        r = bg_image_resolve(&app->paths, image, digest, &tagged, err);
    if (r < 0)
        return r;
    *ret = (struct pool_info){
        .image = strdup(image), .cpus = sizes.cpus, .memory_bytes = sizes.memory_bytes};
    if (!ret->image)
        return bg_err_errno(err, -ENOMEM, "pool");
    pool_info_key(ret);
    return 0;
}

/* Another number: the one that keeps it now ends first, and its members with it. */
static int change(struct app *app, const struct args *args, unsigned wanted)
{
    struct bg_err err;
    struct pool_info info;
    bool ended;
    int r = read_pool(app, args, &info, &err);
    if (r < 0)
        return app_fail(&err);
    info.wanted = wanted;
    r = pools_end(&app->paths, info.key, &ended, &err);
    if (r == 0 && wanted == 0 && !ended)
        app_note("there is no such pool: see bellglass pool ls");
    int status = r < 0 ? app_fail(&err) : wanted > 0 ? keep(&info, args) : 0;
    pool_info_done(&info);
    return status;
}

static int run(struct app *app, const struct args *args)
{
    const char *word = args->operand_count > 0 ? args->operands[0] : "ls";
    char quoted[128];
    uint64_t wanted = 0;
    struct bg_err err;
    if (app_paths(app, &err) < 0)
        return app_fail(&err);
    if (strcmp(word, "ls") == 0)
        return list(app, args);
    if (strcmp(word, "rm") != 0 && bg_parse_u64(word, 0, BG_POOL_MEMBERS_MAX, &wanted) < 0) {
        (void)bg_err_set(&err, -EINVAL, "pool %s: want a number from 0 to %d, ls or rm",
                         bg_quote(word, quoted, sizeof quoted), BG_POOL_MEMBERS_MAX);
        return app_fail(&err);
    }
    return change(app, args, (unsigned)wanted);
}

const struct command cmd_pool = {
    .name = "pool",
    .summary = "keep sandboxes ready, so that new ones are there at once",
    .forms = forms,
    .options = options,
    .details =
        "Starts N sandboxes ahead and returns when they are ready. From then on `run` and `create` "
        "take one of them when image, CPUs and memory are the same, and another one is started in "
        "its place. One that is ready has no name, no settings and no secrets yet, and its CPUs "
        "stand: it costs some memory and nothing else. `ls` does not show it.\n\n"
        "Another N for the same image and sizes begins anew; 0, or rm, ends the pool. What was "
        "taken from it stays. Without N: which pools there are.",
    .examples = examples,
    .operands_max = 1,
    .run = run,
};
