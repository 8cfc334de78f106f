#include "host/cli/commands.h"

#include <assert.h>
#include <string.h>

#include "common/quote.h"
#include "host/cli/help.h"
#include "host/cli/process.h"

#define COMMANDS_MAX 64

const struct command *const commands[] = {
    &cmd_run,    &cmd_create,     &cmd_exec,    &cmd_shell,      &cmd_attach,  &cmd_ps,
    &cmd_ssh,    &cmd_ssh_config, &cmd_code,    &cmd_cp,         &cmd_mount,   &cmd_umount,
    &cmd_fs,     &cmd_watch,      &cmd_guard,   &cmd_trust,      &cmd_share,   &cmd_unshare,
    &cmd_diff,   &cmd_apply,      &cmd_discard, &cmd_ls,         &cmd_inspect, &cmd_logs,
    &cmd_audit,  &cmd_start,      &cmd_stop,    &cmd_suspend,    &cmd_resume,  &cmd_snapshot,
    &cmd_fork,   &cmd_restore,    &cmd_forward, &cmd_tree,       &cmd_prune,   &cmd_flatten,
    &cmd_export, &cmd_import,     &cmd_rm,      &cmd_image,      &cmd_secret,  &cmd_policy,
    &cmd_ca,     &cmd_proxy,      &cmd_serve,   &cmd_mcp,        &cmd_volume,  &cmd_pool,
    &cmd_doctor, &cmd_help,       &cmd_version, &cmd_completion, NULL,
};

const struct command *command_find(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[COMMANDS_MAX];
    size_t count = 0;
    struct bg_err err;
    char quoted[128];
    for (; commands[count]; count++) {
        assert(count < COMMANDS_MAX);
        names[count] = commands[count]->name;
    }
    const char *near = args_nearest(name, names, count);
    (void)bg_quote(name, quoted, sizeof quoted);
    if (near)
        (void)bg_err_set(&err, -EINVAL, "no command %s; did you mean '%s'?", quoted, near);
    else
        (void)bg_err_set(&err, -EINVAL, "no command %s: see bellglass help", quoted);
    return app_fail(&err);
}

/* image, secret, policy, ca, cp: the rest of the line as it is. */
static int run_helper(const struct command *command, int argc, char **argv)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char **helper_argv = calloc((size_t)argc + 3, sizeof *helper_argv);
    BG_AUTOFREE char *name = strdup(command->helper);
    BG_AUTOFREE char *verb = strdup(command->name);
    struct bg_err err;
    if (!helper_argv || !name || !verb) {
        (void)bg_err_errno(&err, -ENOMEM, "%s", command->name);
        return app_fail(&err);
    }
    if (bg_helper_path(command->helper, &path, &err) < 0)
        return app_fail(&err);
    size_t used = 0;
    helper_argv[used++] = name;
    if (command->helper_verb)
        helper_argv[used++] = verb;
    for (int i = 0; i < argc; i++)
        helper_argv[used++] = argv[i];
    (void)process_become(path, helper_argv, &err); /* it is back: it failed */
    return app_fail(&err);
}

int command_run(struct app *app, const struct command *command,
                int (*run)(struct app *app, const struct args *args), int argc, char **argv)
{
    struct bg_err err;
    struct args args;
    if (args_parse(command, argc, argv, &args, &err) < 0)
        return app_fail(&err);
    int status;
    if (args.help) {
        help_command(stdout, command);
        status = app_printed(0);
    } else {
        status = run(app, &args);
    }
    args_done(&args);
    return status;
}

int commands_run(struct app *app, int argc, char **argv)
{
    if (argc == 0) {
        help_overview(stderr);
        return APP_FAILED;
    }
    const char *name = argv[0];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    else if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
        name = "version";
    const struct command *command = command_find(name);
    if (!command)
        return unknown_command(name);
    if (command == &cmd_image && argc > 1 && strcmp(argv[1], "save") == 0)
        return command_run(app, &cmd_image_save, cmd_image_save.run, argc - 2, argv + 2);
    return command->helper ? run_helper(command, argc - 1, argv + 1)
                           : command_run(app, command, command->run, argc - 1, argv + 1);
}
