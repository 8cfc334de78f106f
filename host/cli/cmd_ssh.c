/* ssh and ssh-config. */
#include "host/cli/commands.h"

#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/quote.h"
#include "host/cli/life.h"
#include "host/cli/process.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/ssh_config.h"
#include "host/cli/ssh_files.h"
#include "host/cli/ssh_names.h"
#include "host/cli/ssh_stream.h"

#define USER_CONFIG_MAX (1024 * 1024) /* the user's ~/.ssh/config; a larger one is left alone */

enum { OPTION_PROXY = OPTION_OWN, OPTION_WRITE, OPTION_REMOVE, OPTION_FILE };

static const struct option_spec ssh_options[] = {
    {OPTION_PROXY, 0, false, "proxy", NULL,
     "only carry a connection on stdin and stdout to NAME" SSH_DOMAIN ": what ssh's ProxyCommand "
     "runs"},
    {0},
};

static const struct option_spec config_options[] = {
    {OPTION_WRITE, 0, false, "write", NULL,
     "have ~/.ssh/config include it, so that every program finds the sandboxes"},
    {OPTION_REMOVE, 0, false, "remove", NULL, "take that out again"},
    {OPTION_FILE, 0, false, "file", "FILE", "with these, another file than ~/.ssh/config"},
    {0},
};

static const char *const ssh_forms[] = {"[USER@]NAME [SSH-OPTION...] [--] [COMMAND [ARG...]]",
                                        "--proxy NAME" SSH_DOMAIN, NULL};
static const char *const config_forms[] = {"[--write|--remove] [--file FILE]", NULL};

static const char *const ssh_examples[] = {
    "ssh web",
    "ssh root@web -- apt-get install -y gdb",
    "ssh web -N -L 8080:localhost:80",
    NULL,
};

static const char *const config_examples[] = {"ssh-config --write", NULL};

/* --- ssh --- */

static int carry(struct app *app, const struct args *args)
{
    char name[BG_SANDBOX_NAME_MAX + 1];
    struct bg_err err;
    struct life life;
    if (args->operand_count != 1) {
        (void)bg_err_set(&err, -EINVAL, "--proxy takes one host, NAME" SSH_DOMAIN);
        return app_fail(&err);
    }
    int r = ssh_names_sandbox(args->operands[0], name, &err);
    if (r == 0)
        r = life_open_running(app, name, &life, &err);
    if (r < 0)
        return app_fail(&err);
    r = ssh_stream_run(app, &life.sandbox, &err);
    life_done(&life);
    return r < 0 ? app_fail(&err) : 0;
}

static int become_ssh(const char *config, const char *host, const struct args *args,
                      struct bg_err *err)
{
    BG_AUTOFREE char *path = process_find("ssh");
    BG_AUTOFREE char *config_copy = strdup(config);
    BG_AUTOFREE char *host_copy = strdup(host);
    BG_AUTOFREE char **argv = calloc(args->operand_count + 4, sizeof *argv);
    char program[] = "ssh", option[] = "-F";
    if (!path)
        return bg_err_set(err, -ENOENT,
                          "there is no ssh here; install openssh-client, or use bellglass shell "
                          "and bellglass exec");
    if (!config_copy || !host_copy || !argv)
        return bg_err_errno(err, -ENOMEM, "ssh");
    size_t argc = 0;
    argv[argc++] = program;
    argv[argc++] = option;
    argv[argc++] = config_copy;
    argv[argc++] = host_copy;
    for (size_t i = 1; i < args->operand_count; i++)
        argv[argc++] = args->operands[i];
    return process_become(path, argv, err);
}

static int run_ssh(struct app *app, const struct args *args)
{
    BG_AUTOFREE char *user = NULL;
    BG_AUTOFREE char *config = NULL;
    BG_AUTOFREE char *host = NULL;
    const char *name;
    struct bg_err err;
    struct life life;
    if (args_flag(args, OPTION_PROXY))
        return carry(app, args);
    int r = ssh_names_split(args->operands[0], &user, &name, &err);
    if (r == 0)
        r = life_open_running(app, name, &life, &err);
    if (r < 0)
        return app_fail(&err);
    if (!user)
        user = ssh_files_user(app, &life.sandbox);
    r = asprintf(&host, "%s%s%s" SSH_DOMAIN, user ? user : "", user ? "@" : "", life.sandbox.name) <
                0
            ? bg_err_errno(&err, -ENOMEM, "ssh")
            : 0;
    life_done(&life);
    if (r == 0)
        r = ssh_files_config(app, &config, NULL, &err);
    if (r == 0)
        r = become_ssh(config, host, args, &err); /* it is back: it failed */
    return app_fail(&err);
}

/* --- ssh-config --- */

/* ~/.ssh/config as ssh finds it, which does not look at $HOME. Heap. */
static int default_file(char **ret, struct bg_err *err)
{
    const struct passwd *pw = getpwuid(getuid());
    BG_AUTOFREE char *folder = NULL;
    if (!pw || !pw->pw_dir || pw->pw_dir[0] != '/')
        return bg_err_set(err, -ENOENT, "you have no home folder; name the file with --file");
    if (asprintf(&folder, "%s/.ssh", pw->pw_dir) < 0 || asprintf(ret, "%s/config", folder) < 0)
        return bg_err_errno(err, -ENOMEM, "ssh configuration");
    if (mkdir(folder, 0700) < 0 && errno != EEXIST) {
        free(*ret);
        return bg_err_errno(err, -errno, "%s", folder);
    }
    return 0;
}

/* The file itself, where path is a link to it (a folder of dotfiles): that one is written. A file
 * that is not there yet is its own. Heap; NULL with errno. */
static char *real_file(const char *path)
{
    char *real = realpath(path, NULL);
    struct stat st;
    if (!real && errno == ENOENT && lstat(path, &st) < 0)
        real = strdup(path);
    return real;
}

static int edit_file(const char *path, const char *lines, bool *ret_changed, struct bg_err *err)
{
    char quoted[512];
    BG_AUTOFREE char *text = NULL;
    BG_AUTOFREE char *made = NULL;
    BG_AUTOFREE char *real = real_file(path);
    size_t size = 0;
    struct stat st;
    (void)bg_quote(path, quoted, sizeof quoted);
    if (!real)
        return bg_err_errno(err, -errno, "%s", quoted);
    bool there = stat(real, &st) == 0;
    int r = there ? bg_read_file(AT_FDCWD, real, USER_CONFIG_MAX, &text, &size, err) : 0;
    if (r < 0)
        return r;
    const char *old = text ? text : "";
    r = lines ? ssh_config_insert(old, size, lines, &made, ret_changed, err)
              : ssh_config_remove(old, size, &made, ret_changed, err);
    if (r < 0)
        return bg_err_prefix(err, "%s", quoted), r;
    if (!*ret_changed)
        return 0;
    return bg_write_file(AT_FDCWD, real, made, strlen(made), there ? st.st_mode & 07777 : 0600,
                         err);
}

static int change_config(struct app *app, const struct args *args, bool write, struct bg_err *err)
{
    BG_AUTOFREE char *file = NULL;
    BG_AUTOFREE char *config = NULL;
    BG_AUTOFREE char *lines = NULL;
    char quoted[512];
    bool changed;
    const char *given = args_text(args, OPTION_FILE, NULL);
    int r = 0;
    if (given && !(file = strdup(given)))
        r = bg_err_errno(err, -ENOMEM, "ssh configuration");
    else if (!given)
        r = default_file(&file, err);
    if (r == 0 && write)
        r = ssh_files_config(app, &config, NULL, err);
    if (r == 0 && write)
        r = ssh_config_include(config, &lines, err);
    if (r == 0)
        r = edit_file(file, lines, &changed, err);
    if (r < 0)
        return r;
    (void)bg_quote(file, quoted, sizeof quoted);
    if (write)
        app_note("%s %s it: ssh NAME" SSH_DOMAIN, quoted, changed ? "now includes" : "includes");
    else
        app_note("%s %s", quoted, changed ? "is as it was" : "did not include it");
    return 0;
}

static int run_config(struct app *app, const struct args *args)
{
    bool write = args_flag(args, OPTION_WRITE), remove = args_flag(args, OPTION_REMOVE);
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *text = NULL;
    struct bg_err err;
    if (write && remove) {
        (void)bg_err_set(&err, -EINVAL, "give one of --write and --remove");
        return app_fail(&err);
    }
    if (write || remove)
        return change_config(app, args, write, &err) < 0 ? app_fail(&err) : 0;
    if (args_text(args, OPTION_FILE, NULL)) {
        (void)bg_err_set(&err, -EINVAL, "--file goes with --write or --remove");
        return app_fail(&err);
    }
    if (ssh_files_config(app, &path, &text, &err) < 0)
        return app_fail(&err);
    (void)fputs(text, stdout);
    return app_printed(0);
}

const struct command cmd_ssh = {
    .name = "ssh",
    .summary = "log in to a running sandbox by ssh",
    .forms = ssh_forms,
    .options = ssh_options,
    .details =
        "Runs this machine's ssh with the options and the command that follow NAME. The connection "
        "needs no network: it goes over a stream to an sshd in the sandbox that is started for it. "
        "USER is the image's user unless given; root may log in too.\n\n"
        "There is one key for all sandboxes, made at first use; it is good for nothing else. Each "
        "sandbox makes a host key of its own, which is checked against the one that it told "
        "bellglass over its stream. Agent and X11 forwarding are off.\n\n"
        "For scp, sftp, rsync and editors: `bellglass ssh-config`. When the connection ends, what "
        "runs in it gets a hangup, as with any ssh, and is not killed.\n\n"
        "The exit status is ssh's: the command's, or 255 if the connection failed; 125 if "
        "bellglass itself failed.",
    .examples = ssh_examples,
    .rest_is_operands = true,
    .operands_min = 1,
    .operands_max = -1,
    .run = run_ssh,
};

const struct command cmd_ssh_config = {
    .name = "ssh-config",
    .summary = "let ssh, scp, rsync and editors find the sandboxes",
    .forms = config_forms,
    .options = config_options,
    .details =
        "Prints the ssh configuration by which NAME" SSH_DOMAIN " is the sandbox NAME, for every "
        "program that uses ssh: scp, sftp, rsync, git, VS Code (Remote-SSH), JetBrains Gateway. "
        "With --write a marked line in front of ~/.ssh/config includes it; nothing else there is "
        "touched, and --remove takes it out.\n\n"
        "An image with another user than app: ssh USER@NAME" SSH_DOMAIN ".",
    .examples = config_examples,
    .run = run_config,
};
