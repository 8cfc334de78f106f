/* commands: one file per command, or per family of small ones. The table is in commands.c. */
#pragma once

#include "host/cli/app.h"
#include "host/cli/args.h"

extern const struct command cmd_run, cmd_create, cmd_exec, cmd_shell, cmd_attach, cmd_ps, cmd_cp,
    cmd_ls, cmd_inspect, cmd_logs, cmd_stop, cmd_start, cmd_rm, cmd_mount, cmd_umount, cmd_guard,
    cmd_trust, cmd_share, cmd_unshare, cmd_diff, cmd_apply, cmd_discard, cmd_watch, cmd_forward,
    cmd_image, cmd_secret, cmd_policy, cmd_ca, cmd_proxy, cmd_audit, cmd_doctor, cmd_ssh,
    cmd_ssh_config, cmd_fs, cmd_code, cmd_serve, cmd_mcp, cmd_completion, cmd_version, cmd_help,
    cmd_snapshot, cmd_fork, cmd_restore, cmd_suspend, cmd_resume, cmd_tree, cmd_prune, cmd_export,
    cmd_import, cmd_volume, cmd_flatten, cmd_pool;

/* `bellglass image save`, the one verb of image that begins here; in no list of commands. */
extern const struct command cmd_image_save;

/* Runs the command that argv[0] names; argv: without the program's name. Returns the exit status.
 */
int commands_run(struct app *app, int argc, char **argv);

/* Reads argv (without the command's name) by the command's table and calls run, or prints its help.
 * Returns the exit status. */
int command_run(struct app *app, const struct command *command,
                int (*run)(struct app *app, const struct args *args), int argc, char **argv);
