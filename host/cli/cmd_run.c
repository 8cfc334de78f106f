#include "host/cli/commands.h"

#include <fcntl.h>

#include "host/cli/from.h"
#include "host/cli/guest_command.h"
#include "host/cli/launch.h"
#include "host/cli/life.h"
#include "host/cli/pool.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/shares.h"
#include "host/cli/signals.h"

static const struct option_spec options[] = {
    SANDBOX_OPTIONS,
    {OPTION_NAME, 0, false, "name", "NAME",
     "call the sandbox NAME and keep it running afterwards; without it, it is removed"},
    EXEC_OPTIONS,
    {0},
};

static const char *const forms[] = {"[OPTIONS] [--] COMMAND [ARG...]", NULL};

static const char *const examples[] = {
    "run -- uname -a",
    "run --allow '*.debian.org' -- curl -sI https://www.debian.org/",
    "run --secret GITHUB_TOKEN@api.github.com --allow api.github.com -- ./agent",
    "run -t -- bash",
    "run --volume cache:/home/app/.cache -- make",
    "run --from web@before-upgrade -- make test",
    NULL,
};

/* Ends what is left of a sandbox that shall not stay. A failure is told, but the command's own
 * status is what the user asked for. */
static void remove_sandbox(struct app *app, struct bg_sandbox *sandbox)
{
    struct life life = {.sandbox = *sandbox};
    struct bg_err err = {0};
    int r = bg_sandbox_state(sandbox, &life.state, &life.launcher_pid, &err);
    if (r == 0)
        r = life_stop(app, &life, /* grace_ms= */ 0, NULL, &err);
    if (r == 0)
        r = life_remove(app, &life, &err);
    if (r < 0 && r != -ENOENT) /* its launcher has removed it */
        app_note("%s", err.text);
}

static int run_in(struct app *app, struct bg_sandbox *sandbox, int claim_fd,
                  const struct args *args, struct guest_command *command)
{
    struct bg_err err;
    int owner[2] = {-1, -1};
    if (sandbox->ephemeral && pipe2(owner, O_CLOEXEC) < 0) {
        (void)bg_err_errno(&err, -errno, "pipe");
        return app_fail(&err);
    }
    /* Only we hold the other end: when we are gone, whatever the reason, the sandbox is too. */
    BG_AUTOCLOSE int read_end = owner[0];
    BG_AUTOCLOSE int write_end = owner[1];
    (void)write_end; /* held until the end of this function */
    struct launch_opts launch = {.signal_fd = command->signal_fd,
                                 .owner_fd = read_end,
                                 .claim_fd = claim_fd,
                                 .quiet = args_flag(args, OPTION_QUIET)};
    int signal_number, status = APP_FAILED;
    int r = launch_start(sandbox, &launch, NULL, &signal_number, &err);
    if (r == 0)
        r = shares_start_all(app, sandbox, &err);
    bool started = r == 0;
    if (!started)
        app_hint_space(&err);
    if (r == 0)
        r = guest_command_run(app, sandbox, command, NULL, &status, &err);
    if (r < 0 || err.text[0] != '\0')
        (void)app_fail(&err);
    if (!started || sandbox->ephemeral)
        remove_sandbox(app, sandbox);
    return signal_number ? 128 + signal_number : status;
}

static int run(struct app *app, const struct args *args)
{
    struct bg_err err = {0};
    struct bg_sandbox sandbox = {0};
    struct guest_command command = {.user = args_text(args, OPTION_USER, ""),
                                    .cwd = args_text(args, OPTION_CWD, ""),
                                    .tty = args_flag(args, OPTION_TTY)};
    BG_AUTOCLOSE int signal_fd = -1;
    int claim = 0;
    const char *name = args_text(args, OPTION_NAME, NULL);
    int r = guest_command_operands(args, 0, &command, &err);
    bool from = args_text(args, OPTION_FROM, NULL) != NULL;
    if (r == 0 && !from)
        r = sandbox_options_read(app, args, name, &sandbox, &err);
    sandbox.ephemeral = !name;
    if (r == 0)
        r = signals_open(&signal_fd, &err);
    if (r == 0)
        r = from ? from_create(app, args, name, /* ephemeral= */ !name, &sandbox, &err)
            : args_flag(args, OPTION_NO_POOL) ? bg_sandbox_create(&app->paths, &sandbox, &err)
                                              : pool_create(app, &sandbox, &claim, &err);
    BG_AUTOCLOSE int claim_fd = claim > 0 ? claim : -1;
    if (r < 0) {
        bg_sandbox_done(&sandbox);
        app_hint_space(&err);
        return app_fail(&err);
    }
    command.signal_fd = signal_fd;
    int status = run_in(app, &sandbox, claim_fd, args, &command);
    bg_sandbox_done(&sandbox);
    return status;
}

const struct command cmd_run = {
    .name = "run",
    .summary = "run a command in a new sandbox",
    .forms = forms,
    .options = options,
    .details =
        "Forks a sandbox, runs the command in it, and removes the sandbox when the command has "
        "ended, or when this command has, however that comes. Standard input, output and error are "
        "the command's own, byte for byte.\n\n"
        "Signals go to the command. A second Ctrl-C within two seconds ends it at once. With -t "
        "all keys, Ctrl-C too, go to its terminal.\n\n"
        "The exit status is the command's; 128+N if signal N ended it; 127 if it was not found, "
        "126 if it could not be run; 125 if bellglass itself failed.",
    .examples = examples,
    .rest_is_operands = true,
    .operands_min = 1,
    .operands_max = -1,
    .run = run,
};
