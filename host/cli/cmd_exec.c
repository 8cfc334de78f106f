#include "host/cli/commands.h"

#include <stdio.h>
#include <unistd.h>

#include "host/cli/guest_command.h"
#include "host/cli/life.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/signals.h"

enum { OPTION_DETACH = OPTION_OWN };

static const struct option_spec exec_options[] = {
    EXEC_OPTIONS,
    {OPTION_DETACH, 'd', false, "detach", NULL,
     "let it run by itself, and print its process number"},
    {OPTION_ENV, 'e', true, "env", "K=V", "a variable for it; K alone: your own"},
    {0},
};

static const struct option_spec shell_options[] = {
    {OPTION_USER, 'u', false, "user", "USER", "as USER [the image's]"},
    {OPTION_CWD, 'w', false, "workdir", "DIR", "in DIR [the user's home]"},
    {OPTION_ENV, 'e', true, "env", "K=V", "a variable for it; K alone: your own"},
    {0},
};

static const char *const exec_forms[] = {"[OPTIONS] NAME [--] COMMAND [ARG...]", NULL};
static const char *const shell_forms[] = {"[OPTIONS] NAME", NULL};

static const char *const exec_examples[] = {
    "exec web -- ls -l /srv",      "exec -u root -w /etc web cat hostname",
    "exec -t web -- vi notes.txt", "exec web -- sh -c 'tar c -C /srv .' > srv.tar",
    "exec -d -t web -- python3",   NULL,
};

/* Runs command in the sandbox that the first operand names. */
static int run_command(struct app *app, const struct args *args, struct guest_command *command)
{
    struct bg_err err = {0};
    struct life life;
    BG_AUTOCLOSE int signal_fd = -1;
    char **env;
    size_t envc;
    uint32_t pid = 0;
    int status = APP_FAILED;
    int r = sandbox_options_env(args, &env, &envc, &err);
    if (r < 0)
        return app_fail(&err);
    command->user = args_text(args, OPTION_USER, "");
    command->cwd = args_text(args, OPTION_CWD, "");
    command->env = env;
    command->envc = envc;
    r = life_open_running(app, args->operands[0], &life, &err);
    if (r == 0) {
        r = signals_open(&signal_fd, &err);
        command->signal_fd = signal_fd;
        if (r == 0)
            r = guest_command_run(app, &life.sandbox, command, &pid, &status, &err);
        life_done(&life);
    }
    sandbox_options_env_free(env, envc);
    if (r < 0 || err.text[0] != '\0')
        (void)app_fail(&err);
    if (!command->leave || pid == 0)
        return status;
    (void)printf("%u\n", pid);
    return app_printed(status);
}

static int run_exec(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct guest_command command = {.tty = args_flag(args, OPTION_TTY),
                                    .leave = args_flag(args, OPTION_DETACH)};
    if (guest_command_operands(args, 1, &command, &err) < 0)
        return app_fail(&err);
    return run_command(app, args, &command);
}

static int run_shell(struct app *app, const struct args *args)
{
    /* $SHELL is what the guest's /etc/passwd says. */
    char sh[] = "/bin/sh", option[] = "-c",
         script[] = "for s in \"$SHELL\" /bin/bash /bin/sh; do "
                    "[ -x \"$s\" ] && exec \"$s\" -l; done";
    char *argv[] = {sh, option, script, NULL};
    struct guest_command command = {
        .tty = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO), .argv = argv, .argc = 3};
    return run_command(app, args, &command);
}

const struct command cmd_exec = {
    .name = "exec",
    .summary = "run a command in a running sandbox",
    .forms = exec_forms,
    .options = exec_options,
    .details =
        "Standard input, output and error are the command's own, byte for byte; signals go "
        "to it. When this command ends before it, the command and all that it started are "
        "ended too. When the sandbox is suspended, it waits, and goes on with the sandbox.\n\n"
        "With --detach the command runs until its own end. What it writes is kept until "
        "`bellglass attach` fetches it, 256 KiB of its output and its errors each; then it "
        "waits, so a server should log to a file.\n\nThe exit status is as for `bellglass run`.",
    .examples = exec_examples,
    .rest_is_operands = true,
    .operands_min = 1,
    .operands_max = -1,
    .run = run_exec,
};

const struct command cmd_shell = {
    .name = "shell",
    .summary = "open a login shell in a running sandbox",
    .forms = shell_forms,
    .options = shell_options,
    .details = "With a terminal if there is one here; else the shell reads its commands from "
               "standard input.",
    .operands_min = 1,
    .operands_max = 1,
    .run = run_shell,
};
