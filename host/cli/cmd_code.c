/* code: opens an editor on a sandbox. */
#include "host/cli/commands.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/cli/editor.h"
#include "host/cli/life.h"
#include "host/cli/mounts.h"
#include "host/cli/process.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/ssh_files.h"
#include "host/cli/ssh_names.h"

#define SSH_TIMEOUT_MS 30000
#define SSH_CONFIG_MAX (64 * 1024) /* what `ssh -G` prints is below 8 KiB */

enum { OPTION_ON_MOUNT = OPTION_OWN, OPTION_PRINT };

static const struct option_spec options[] = {
    {OPTION_ON_MOUNT, 0, false, "mount", NULL, "edit on a mount of its files, not over ssh"},
    {OPTION_PRINT, 0, false, "print", NULL, "only print the commands that would be run"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] NAME [PATH]", NULL};
static const char *const examples[] = {"code web /home/app/project",
                                       "code --mount web /home/app/project", NULL};

/* VS Code asks ssh for the host, and ssh looks into the user's configuration. */
static int check_ssh(const char *host, struct bg_err *err)
{
    BG_AUTOFREE char *output = malloc(SSH_CONFIG_MAX);
    BG_AUTOFREE char *copy = strdup(host);
    char program[] = "ssh", option[] = "-G";
    char *argv[] = {program, option, copy, NULL};
    int status;
    if (!output || !copy)
        return bg_err_errno(err, -ENOMEM, "ssh");
    int r = process_output(argv, output, SSH_CONFIG_MAX, SSH_TIMEOUT_MS, &status, err);
    if (r == -ENOENT)
        return bg_err_set(err, r,
                          "there is no ssh here, which VS Code needs for it; install "
                          "openssh-client, or use --mount");
    if (r == 0 && (status != 0 || !strstr(output, " ssh --proxy ")))
        r = bg_err_set(err, -ENOENT,
                       "VS Code would not find %s: run bellglass ssh-config --write once, or use "
                       "--mount",
                       host);
    return r;
}

/* Where a mount of `bellglass code` is, made if need be. */
static int make_folder(struct app *app, const char *folder, struct bg_err *err)
{
    BG_AUTOFREE char *parent = mounts_own_folder(&app->paths, "");
    if (!parent)
        return bg_err_errno(err, -ENOMEM, "mount");
    if ((mkdir(parent, 0700) < 0 && errno != EEXIST) ||
        (mkdir(folder, 0700) < 0 && errno != EEXIST))
        return bg_err_errno(err, -errno, "%s", folder);
    return 0;
}

static int is_mounted(struct app *app, const struct bg_sandbox *sandbox, bool *ret,
                      struct bg_err *err)
{
    struct mount_list mounts;
    BG_AUTOFREE char *parent = mounts_own_folder(&app->paths, "");
    BG_AUTOFREE char *real = parent ? realpath(parent, NULL) : NULL; /* as the kernel names it */
    BG_AUTOFREE char *folder = NULL;
    if (!parent || (real && asprintf(&folder, "%s/%s", real, sandbox->name) < 0))
        return bg_err_errno(err, -ENOMEM, "mount");
    int r = mounts_read(&mounts, err);
    if (r < 0)
        return r;
    *ret = false;
    for (size_t i = 0; real && i < mounts.count; i++)
        *ret = *ret || (mounts_match(&mounts.entries[i], sandbox) &&
                        strcmp(mounts.entries[i].path, folder) == 0);
    mounts_done(&mounts);
    return 0;
}

/* By a command of its own, which says by itself what is wrong. Returns its exit status. */
static int mount_there(const char *name, char *folder, struct bg_err *err)
{
    BG_AUTOFREE char *path = process_self();
    BG_AUTOFREE char *copy = strdup(name);
    char program[] = "bellglass", verb[] = "mount";
    char *argv[] = {program, verb, copy, folder, NULL};
    struct process_opts opts = {.path = path, .argv = argv};
    pid_t pid;
    if (!path || !copy)
        return bg_err_errno(err, -ENOMEM, "mount");
    int r = process_start(&opts, &pid, err);
    return r < 0 ? r : process_wait(pid);
}

static int print_words(const char *const *words)
{
    for (size_t i = 0; words[i]; i++) {
        BG_AUTOFREE char *word = ssh_names_shell_word(words[i]);
        if (!word)
            return -ENOMEM;
        (void)printf("%s%s", i == 0 ? "" : " ", word);
    }
    (void)printf("\n");
    return 0;
}

static int print_plan(const struct editor_plan *plan, const char *name, const char *folder,
                      bool mounted, struct bg_err *err)
{
    const char *const mount[] = {"bellglass", "mount", name, folder, NULL};
    const char *words[EDITOR_ARGS_MAX + 1] = {NULL};
    int r = plan->on_mount && !mounted ? print_words(mount) : 0;
    for (size_t i = 0; i < EDITOR_ARGS_MAX && plan->argv[i]; i++)
        words[i] = plan->argv[i];
    if (r == 0)
        r = print_words(words);
    return r < 0 ? bg_err_errno(err, r, "code") : app_printed(0);
}

struct place {
    char *host, *folder, *home; /* owned */
};

static void place_done(struct place *place)
{
    free(place->host);
    free(place->folder);
    free(place->home);
}

static int find_place(struct app *app, const struct bg_sandbox *sandbox, struct place *ret,
                      struct bg_err *err)
{
    BG_AUTOFREE char *user = ssh_files_user(app, sandbox);
    struct place place = {.folder = mounts_own_folder(&app->paths, sandbox->name)};
    if (asprintf(&place.host, "%s%s%s" SSH_DOMAIN, user ? user : "", user ? "@" : "",
                 sandbox->name) < 0)
        place.host = NULL;
    if (asprintf(&place.home, user && strcmp(user, "root") == 0 ? "/%s" : "/home/%s",
                 user ? user : SSH_DEFAULT_USER) < 0)
        place.home = NULL;
    if (!place.host || !place.folder || !place.home) {
        place_done(&place);
        return bg_err_errno(err, -ENOMEM, "code");
    }
    *ret = place;
    return 0;
}

/* Returns an exit status, or negative. */
static int open_editor(struct app *app, const struct args *args, const struct bg_sandbox *sandbox,
                       const struct place *place, struct bg_err *err)
{
    BG_AUTOFREE char *code = process_find("code");
    const char *visual = getenv("VISUAL"), *editor = getenv("EDITOR");
    editor = visual && *visual ? visual : editor && *editor ? editor : NULL;
    struct editor_opts opts = {.code = code,
                               .editor = editor,
                               .host = place->host,
                               .path = args->operand_count > 1 ? args->operands[1] : NULL,
                               .folder = place->folder,
                               .home = place->home,
                               .mount = args_flag(args, OPTION_ON_MOUNT)};
    struct editor_plan plan = {0};
    bool mounted = false;
    int r = editor_plan(&opts, &plan, err);
    if (r == 0 && plan.on_mount)
        r = is_mounted(app, sandbox, &mounted, err);
    if (r == 0 && args_flag(args, OPTION_PRINT)) {
        r = print_plan(&plan, sandbox->name, place->folder, mounted, err);
        editor_plan_done(&plan);
        return r;
    }
    if (r == 0 && !plan.on_mount)
        r = check_ssh(place->host, err);
    if (r == 0 && plan.on_mount && !mounted) {
        r = make_folder(app, place->folder, err);
        if (r == 0)
            r = mount_there(sandbox->name, place->folder, err);
        if (r > 0) {
            editor_plan_done(&plan);
            return r;
        }
    }
    if (r == 0 && plan.on_mount && code)
        app_note("these are the sandbox's files: keep the folder in Restricted Mode, or what is in "
                 "them runs as you");
    if (r == 0)
        r = process_become(plan.argv[0], plan.argv, err); /* it is back: it failed */
    editor_plan_done(&plan);
    return r;
}

static int run(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct life life;
    struct place place = {0};
    int r = life_open_running(app, args->operands[0], &life, &err);
    if (r < 0)
        return app_fail(&err);
    r = find_place(app, &life.sandbox, &place, &err);
    if (r == 0)
        r = open_editor(app, args, &life.sandbox, &place, &err);
    place_done(&place);
    life_done(&life);
    return r < 0 ? app_fail(&err) : r;
}

const struct command cmd_code = {
    .name = "code",
    .summary = "open an editor on a running sandbox",
    .forms = forms,
    .options = options,
    .details =
        "With VS Code (`code` on the PATH) over ssh (its extension Remote-SSH; `bellglass "
        "ssh-config --write` once): what the files run, and what extensions run for them, runs in "
        "the sandbox. The extension puts its server into the sandbox: allow the sandbox to fetch "
        "it (--allow update.code.visualstudio.com --allow vscode.download.prss.microsoft.com), or "
        "set remote.SSH.localServerDownload to always.\n\n"
        "With --mount, or with another editor ($VISUAL, $EDITOR), on a mount of its files, which "
        "is made if it is not there and ends with `bellglass umount` or with the sandbox. On a "
        "mount the editor runs here, as you: keep the folder in VS Code's Restricted Mode.\n\n"
        "PATH is absolute, in the sandbox; without one a mount opens the user's home.",
    .examples = examples,
    .operands_min = 1,
    .operands_max = 2,
    .run = run,
};
