/* ps and attach: the commands that run in a sandbox. */
#include "host/cli/commands.h"

#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/quote.h"
#include "host/cli/client.h"
#include "host/cli/exec_list.h"
#include "host/cli/guest_command.h"
#include "host/cli/life.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/signals.h"

#define REPLY_TIMEOUT_MS 120000 /* a loaded guest without KVM is slow */

enum { OPTION_STEAL = OPTION_OWN };

static const struct option_spec ps_options[] = {
    {OPTION_JSON, 0, false, "json", NULL, "print JSON"},
    {0},
};

static const struct option_spec attach_options[] = {
    {OPTION_STEAL, 0, false, "steal", NULL, "from who is attached to it now"},
    {0},
};

static const char *const ps_forms[] = {"[OPTIONS] NAME", NULL};
static const char *const attach_forms[] = {"[OPTIONS] NAME [PID]", NULL};
static const char *const attach_examples[] = {"attach web", "attach --steal web 412", NULL};

static const char *state_of(const struct bg_exec_info *info)
{
    return info->flags & BG_EXEC_INFO_ENDED      ? "ended"
           : info->flags & BG_EXEC_INFO_ATTACHED ? "attached"
                                                 : "alone";
}

static int print_json(const struct bg_exec_info *infos, size_t count)
{
    json_auto_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        const struct bg_exec_info *info = &infos[i];
        json_t *entry = json_pack(
            "{s:I, s:b, s:b, s:b, s:I, s:I, s:o}", "pid", (json_int_t)info->pid, "tty",
            info->flags & BG_EXEC_INFO_TTY, "attached", (info->flags & BG_EXEC_INFO_ATTACHED) != 0,
            "ended", (info->flags & BG_EXEC_INFO_ENDED) != 0, "age_ms",
            (json_int_t)(info->age_ms & INT64_MAX), "waiting_bytes",
            (json_int_t)(info->waiting & INT64_MAX), "command", output_text(info->command));
        if (json_array_append_new(array, entry) < 0)
            return output_json(NULL);
    }
    return output_json(array);
}

static int print_table(const struct bg_exec_info *infos, size_t count)
{
    static const char *const heading[] = {"PID", "TTY", "STATE", "AGE", "WAITING", "COMMAND"};
    struct table table;
    table_init(&table, sizeof heading / sizeof *heading);
    for (size_t i = 0; i < sizeof heading / sizeof *heading; i++)
        table_add(&table, heading[i]);
    for (size_t i = 0; i < count; i++) {
        char pid[16], age[OUTPUT_AGE_SIZE], waiting[OUTPUT_SIZE_SIZE];
        uint64_t now_ms = output_now_ms();
        (void)snprintf(pid, sizeof pid, "%u", infos[i].pid);
        output_age(infos[i].age_ms < now_ms ? now_ms - infos[i].age_ms : 0, now_ms, age);
        output_size(infos[i].waiting, waiting);
        table_add(&table, pid);
        table_add(&table, infos[i].flags & BG_EXEC_INFO_TTY ? "yes" : "no");
        table_add(&table, state_of(&infos[i]));
        table_add(&table, age);
        table_add(&table, waiting);
        table_add(&table, infos[i].command);
    }
    int r = table_print(&table, stdout);
    table_done(&table);
    return app_printed(r < 0 ? APP_FAILED : 0);
}

static int run_ps(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct life life;
    BG_AUTOCLOSE int fd = -1;
    BG_AUTOFREE struct bg_exec_info *infos = NULL;
    size_t count = 0;
    int r = life_open_running(app, args->operands[0], &life, &err);
    if (r < 0)
        return app_fail(&err);
    r = client_open(&app->paths, &life.sandbox, "execs", "", 0, &fd, &err);
    if (r == 0)
        r = client_stream_reply(fd, REPLY_TIMEOUT_MS, &err);
    if (r == 0)
        r = exec_list_read(fd, &infos, &count, &err);
    life_done(&life);
    if (r < 0)
        return app_fail(&err);
    return args_flag(args, OPTION_JSON) ? print_json(infos, count) : print_table(infos, count);
}

static int run_attach(struct app *app, const struct args *args)
{
    struct bg_err err = {0};
    struct life life;
    BG_AUTOCLOSE int signal_fd = -1;
    char quoted[64];
    uint64_t pid = 0;
    int status = APP_FAILED;
    if (args->operand_count > 1 && bg_parse_u64(args->operands[1], 1, UINT32_MAX, &pid) < 0) {
        (void)bg_err_set(&err, -EINVAL, "%s: want a process number; see bellglass ps %s",
                         bg_quote(args->operands[1], quoted, sizeof quoted), args->operands[0]);
        return app_fail(&err);
    }
    int r = life_open_running(app, args->operands[0], &life, &err);
    if (r < 0)
        return app_fail(&err);
    r = signals_open(&signal_fd, &err);
    if (r == 0)
        r = guest_command_attach(app, &life.sandbox, (uint32_t)pid, args_flag(args, OPTION_STEAL),
                                 signal_fd, &status, &err);
    life_done(&life);
    if (r < 0)
        return app_fail(&err);
    return status;
}

const struct command cmd_ps = {
    .name = "ps",
    .summary = "list the commands that run in a sandbox",
    .forms = ps_forms,
    .options = ps_options,
    .details = "Those that `run`, `exec`, `shell` and `ssh` have begun, in a fork those of its "
               "source too; not what they have started. WAITING is output that nobody has fetched "
               "yet. A command that has ended stays in the list until its end has been told to who "
               "attaches to it, or until there are more than 16 of them.",
    .operands_min = 1,
    .operands_max = 1,
    .run = run_ps,
};

const struct command cmd_attach = {
    .name = "attach",
    .summary = "connect to a command that runs in a sandbox",
    .forms = attach_forms,
    .options = attach_options,
    .details =
        "Standard input, output and error here become the command's: of one that was begun with "
        "`exec --detach`, of one that was left, and in a fork of one that its source had running. "
        "Without PID there must be only one. What it wrote meanwhile comes first. Several cannot "
        "be attached to one command.\n\n"
        "Ctrl-P Ctrl-Q leaves a command that has a terminal, and it goes on; so it does when this "
        "command is killed. Else signals go to it, as with `exec`. The exit status is the "
        "command's, 0 if it is left.",
    .examples = attach_examples,
    .operands_min = 1,
    .operands_max = 2,
    .run = run_attach,
};
