/* help, version, completion, and the commands that are programs of their own. */
#include "host/cli/commands.h"

#include <stdio.h>
#include <string.h>

#include "common/quote.h"
#include "host/cli/help.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"

enum { OPTION_MAN = OPTION_OWN };

static const struct option_spec help_options[] = {
    {OPTION_MAN, 0, false, "man", NULL, "as a man page, in roff"},
    {0},
};

static const struct option_spec version_options[] = {
    {OPTION_JSON, 0, false, "json", NULL, "print JSON"},
    {0},
};

static const char *const help_forms[] = {"[OPTIONS] [COMMAND]", NULL};
static const char *const version_forms[] = {"[OPTIONS]", NULL};
static const char *const completion_forms[] = {"bash", NULL};
static const char *const image_forms[] = {"build [RECIPE]", "ls | inspect IMAGE | rm IMAGE",
                                          "import FILE.qcow2", NULL};
static const char *const policy_forms[] = {
    "check FILE",         "show FILE|SANDBOX", "test FILE|SANDBOX [METHOD] URL [-H 'NAME: VALUE']",
    "apply SANDBOX FILE", "learn SANDBOX",     NULL};
static const char *const ca_forms[] = {"show [--pem|--json]", "rotate [--json]", NULL};
static const char *const proxy_forms[] = {"--listen ADDRESS:PORT [OPTIONS]", "ca-path", NULL};
static const char *const fs_forms[] = {"serve [OPTIONS] DIR",
                                       "mount [OPTIONS] DIR -- COMMAND [ARG...]", NULL};
static const char *const fs_examples[] = {
    "fs serve --read-only /srv", "fs mount ~/srv -- ssh host bellglass fs serve /srv", NULL};
static const char *const secret_forms[] = {"set NAME [--from-env VAR]", "ls", "rm NAME", NULL};

static int run_help(struct app *app, const struct args *args)
{
    struct bg_err err;
    const struct command *command = NULL;
    if (args->operand_count > 0) {
        char quoted[128];
        command = command_find(args->operands[0]);
        if (!command) {
            (void)bg_err_set(&err, -EINVAL, "no command %s: see bellglass help",
                             bg_quote(args->operands[0], quoted, sizeof quoted));
            return app_fail(&err);
        }
    }
    if (args_flag(args, OPTION_MAN))
        help_man(stdout, command, app->version);
    else if (command)
        help_command(stdout, command);
    else
        help_overview(stdout);
    return app_printed(0);
}

static int run_version(struct app *app, const struct args *args)
{
    if (args_flag(args, OPTION_JSON)) {
        json_auto_t *json = json_pack("{s:s}", "version", app->version);
        return output_json(json);
    }
    (void)printf("bellglass %s\n", app->version);
    return app_printed(0);
}

static int run_completion(struct app *app, const struct args *args)
{
    struct bg_err err;
    char quoted[128];
    (void)app;
    if (strcmp(args->operands[0], "bash") != 0) {
        (void)bg_err_set(&err, -EINVAL, "no completion for %s: there is one for bash",
                         bg_quote(args->operands[0], quoted, sizeof quoted));
        return app_fail(&err);
    }
    help_completion(stdout);
    return app_printed(0);
}

const struct command cmd_help = {
    .name = "help",
    .summary = "show what there is, or one command's options",
    .forms = help_forms,
    .options = help_options,
    .operands_max = 1,
    .run = run_help,
};

const struct command cmd_version = {
    .name = "version",
    .summary = "show the version",
    .forms = version_forms,
    .options = version_options,
    .run = run_version,
};

const struct command cmd_completion = {
    .name = "completion",
    .summary = "print a script for the shell's completion",
    .forms = completion_forms,
    .details = "Put it where bash looks: bellglass completion bash > "
               "~/.local/share/bash-completion/completions/bellglass",
    .operands_min = 1,
    .operands_max = 1,
    .run = run_completion,
};

const struct command cmd_image = {
    .name = "image",
    .summary = "build, list, import and remove images",
    .forms = image_forms,
    .details = "Its own options: bellglass image --help",
    .helper = "bellglass-image",
};

const struct command cmd_policy = {
    .name = "policy",
    .summary = "check and try the rules of a policy file",
    .forms = policy_forms,
    .details =
        "The file is for --policy of run and create. Its own options: bellglass policy --help",
    .helper = "bellglass-policy",
};

const struct command cmd_ca = {
    .name = "ca",
    .summary = "show or replace the CA that sandboxes trust",
    .forms = ca_forms,
    .details = "The egress proxy reads TLS with it. Its own options: bellglass ca --help",
    .helper = "bellglass-ca",
};

const struct command cmd_proxy = {
    .name = "proxy",
    .summary = "serve the egress proxy on its own, for containers and CI",
    .forms = proxy_forms,
    .details =
        "The same rules, secrets and audit as a sandbox's, as an HTTP forward proxy. Its own "
        "options: bellglass proxy --help",
    .helper = "bellglass-proxy",
};

const struct command cmd_secret = {
    .name = "secret",
    .summary = "store secrets for sandboxes to use unseen",
    .forms = secret_forms,
    .details = "The value is read from standard input, or from the variable that --from-env names. "
               "Its own options: bellglass secret --help",
    .helper = "bellglass-secret",
};

const struct command cmd_fs = {
    .name = "fs",
    .summary = "serve and mount a folder without a sandbox",
    .forms = fs_forms,
    .details =
        "The same file server and the same mount as a sandbox's, over any stream of bytes: `serve` "
        "speaks on standard input and output, `mount` runs a command and mounts what that serves, "
        "trusting none of it. The mount ends with `bellglass umount` or with the command. Its own "
        "options: bellglass fs --help",
    .examples = fs_examples,
    .helper = "bellglass-fs",
};
