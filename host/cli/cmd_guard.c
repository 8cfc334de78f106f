/* guard and trust: the files of a sandbox that programs here run or believe. The work is done by
 * bellglass-guard, a program of its own: it reads what a hostile guest sends. */
#include "host/cli/commands.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "common/quote.h"
#include "common/wire.h"
#include "host/cli/client.h"
#include "host/cli/grammar.h"
#include "host/cli/life.h"
#include "host/cli/process.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/wake.h"

#define REPLY_TIMEOUT_MS 120000 /* a loaded guest without KVM is slow */

enum { OPTION_YES = OPTION_OWN, OPTION_FORGET, OPTION_RULES };

static const struct option_spec guard_options[] = {
    {OPTION_RULES, 0, false, "rules", NULL, "print which files are guarded, and why, instead"},
    {OPTION_JSON, 0, false, "json", NULL, "print it as JSON"},
    {0},
};

static const struct option_spec trust_options[] = {
    {OPTION_YES, 'y', false, "yes", NULL, "do not ask"},
    {OPTION_FORGET, 0, false, "forget", NULL, "take the approval back: the files are not there"},
    {OPTION_JSON, 0, false, "json", NULL, "print what was approved as JSON; needs --yes"},
    {0},
};

static const char *const guard_forms[] = {"[OPTIONS] NAME[:PATH]", "[--json] --rules", NULL};
static const char *const trust_forms[] = {"[OPTIONS] NAME PATH...", NULL};
static const char *const guard_examples[] = {"guard web", "guard --json web:/home/app/src",
                                             "guard --rules", NULL};
static const char *const trust_examples[] = {"trust web /home/app/src/.envrc",
                                             "trust --forget web /home/app/src/.envrc", NULL};

/* The stream over which the helper reads the sandbox's files, from their root. */
static int open_stream(struct app *app, const struct bg_sandbox *sandbox, int *ret_fd,
                       struct bg_err *err)
{
    struct bg_fuse_request q = {.flags = BG_FUSE_READ_ONLY, .path = "/"};
    uint8_t body[BG_PATH_MAX + 64];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_fuse_request_emit(&q, &w);
    int r = wake_open(app, sandbox, "fuse", body, w.used, ret_fd, err);
    return r < 0 ? r : client_stream_reply(*ret_fd, REPLY_TIMEOUT_MS, err);
}

/* Becomes the helper; returns only with an error. verb: "list" or "trust". */
static int become_helper(const struct bg_sandbox *sandbox, const struct args *args, int fd,
                         const char *verb, char **paths, size_t count, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *store = NULL;
    BG_AUTOFREE char *last = strdup(verb);
    BG_AUTOFREE char **argv = calloc(count + 12, sizeof *argv);
    char program[] = "bellglass-guard", stream[] = "--stream-fd", store_option[] = "--store",
         json[] = "--json", yes[] = "--yes", forget[] = "--forget", number[16];
    int r = bg_helper_path("bellglass-guard", &path, err);
    if (r < 0)
        return r;
    if (!argv || !last || asprintf(&store, "%s/guard", sandbox->dir) < 0)
        return bg_err_errno(err, -ENOMEM, "%s", verb);
    if (fcntl(fd, F_SETFD, 0) < 0)
        return bg_err_errno(err, -errno, "%s", verb);
    (void)snprintf(number, sizeof number, "%d", fd);
    size_t argc = 0;
    argv[argc++] = program;
    argv[argc++] = stream;
    argv[argc++] = number;
    argv[argc++] = store_option;
    argv[argc++] = store;
    if (args_flag(args, OPTION_JSON))
        argv[argc++] = json;
    if (args_flag(args, OPTION_YES))
        argv[argc++] = yes;
    if (args_flag(args, OPTION_FORGET))
        argv[argc++] = forget;
    argv[argc++] = last;
    memcpy(argv + argc, paths, count * sizeof *argv);
    return process_become(path, argv, err);
}

static int run_with(struct app *app, const struct args *args, const char *name, const char *verb,
                    char **paths, size_t count)
{
    struct life life;
    struct bg_err err;
    int fd = -1, r = life_open_running(app, name, &life, &err);
    if (r < 0)
        return app_fail(&err);
    r = open_stream(app, &life.sandbox, &fd, &err);
    BG_AUTOCLOSE int stream = fd;
    if (r == 0)
        (void)become_helper(&life.sandbox, args, stream, verb, paths, count, &err);
    life_done(&life);
    return app_fail(&err); /* it is back: it failed */
}

static int print_rules(const struct args *args)
{
    BG_AUTOFREE char *path = NULL;
    char program[] = "bellglass-guard", json[] = "--json", rules[] = "rules";
    char *with_json[] = {program, json, rules, NULL}, *plain[] = {program, rules, NULL};
    struct bg_err err;
    if (bg_helper_path("bellglass-guard", &path, &err) == 0)
        (void)process_become(path, args_flag(args, OPTION_JSON) ? with_json : plain, &err);
    return app_fail(&err); /* it is back: it failed */
}

static int run_guard(struct app *app, const struct args *args)
{
    BG_AUTOFREE char *name = NULL;
    const char *path = "/";
    struct bg_err err;
    if (args_flag(args, OPTION_RULES) != (args->operand_count == 0)) {
        (void)bg_err_set(&err, -EINVAL, "guard: a sandbox, or --rules: see bellglass guard --help");
        return app_fail(&err);
    }
    if (args_flag(args, OPTION_RULES))
        return print_rules(args);
    if (!grammar_split_path(args->operands[0], &name, &path))
        name = strdup(args->operands[0]);
    BG_AUTOFREE char *copy = strdup(path[0] != '\0' ? path : "/");
    if (!name || !copy) {
        (void)bg_err_errno(&err, -ENOMEM, "guard");
        return app_fail(&err);
    }
    return run_with(app, args, name, "list", &copy, 1);
}

static int run_trust(struct app *app, const struct args *args)
{
    return run_with(app, args, args->operands[0], "trust", args->operands + 1,
                    args->operand_count - 1);
}

const struct command cmd_guard = {
    .name = "guard",
    .summary = "list the files that programs here would run or believe",
    .forms = guard_forms,
    .options = guard_options,
    .details =
        "Below PATH, or in all but the folders that its distribution fills. Each with its state on "
        "mounts:\n\n"
        "approved: shown, the sandbox has it as it was written or approved here. changed: shown as "
        "it was approved, the sandbox has something else. missing: likewise, the sandbox has "
        "nothing. not approved: not shown. filtered: a file of git's, shown without what could run "
        "something. hidden: a hook of git's, not shown.",
    .examples = guard_examples,
    .operands_min = 0,
    .operands_max = 1,
    .run = run_guard,
};

const struct command cmd_trust = {
    .name = "trust",
    .summary = "approve files that programs here would run or believe",
    .forms = trust_forms,
    .options = trust_options,
    .details =
        "Shows what is new against what was approved before, asks, and approves exactly that: "
        "mounts show it at once, whatever the sandbox does with the file later. What is written "
        "on a mount is approved by that.",
    .examples = trust_examples,
    .operands_min = 2,
    .operands_max = -1,
    .run = run_trust,
};
