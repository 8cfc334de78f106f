/* share and unshare. */
#include "host/cli/commands.h"

#include "common/quote.h"
#include "host/cli/cow.h"
#include "host/cli/life.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/shares.h"
#include "host/cli/wake.h"

enum { OPTION_FORCE = OPTION_OWN };

static const struct option_spec share_options[] = {
    SHARE_OPTIONS,
    {OPTION_JSON, 0, false, "json", NULL, "print the shares as JSON"},
    {0},
};

static const struct option_spec unshare_options[] = {
    {OPTION_FORCE, 'f', false, "force", NULL, "also end what is in use: it gets errors"},
    {0},
};

static const char *const share_forms[] = {"[OPTIONS] NAME DIR[:GUESTDIR][:ro|rw|cow]",
                                          "[--json] NAME", NULL};
static const char *const unshare_forms[] = {"[OPTIONS] NAME GUESTDIR...", NULL};

static const char *const share_examples[] = {"share work ~/src/app", "share work ~/data:/data:ro",
                                             "share --hide '*.sqlite' --show .npmrc work ~/src/app",
                                             "share work", NULL};

static int list(const struct bg_sandbox *sandbox, bool as_json)
{
    static const char *const heading[] = {"FOLDER", "IN THE SANDBOX", "MODE", "STATE"};
    struct bg_err err;
    if (as_json) {
        json_auto_t *array = shares_json(sandbox);
        return output_json(array);
    }
    struct table table;
    table_init(&table, sizeof heading / sizeof *heading);
    for (size_t i = 0; i < table.columns; i++)
        table_add(&table, heading[i]);
    for (size_t i = 0; i < sandbox->share_count; i++) {
        const struct bg_share *share = &sandbox->shares[i];
        table_add(&table, share->host);
        table_add(&table, share->guest);
        table_add(&table, bg_share_mode_name(share->mode));
        table_add(&table, shares_served(sandbox, share) ? "shared" : "not running");
    }
    int r = table_print(&table, stdout);
    table_done(&table);
    if (r < 0) {
        (void)bg_err_errno(&err, r, "share");
        return app_fail(&err);
    }
    return app_printed(0);
}

/* A share whose server has ended is put there anew. */
static int add(struct app *app, const struct args *args, struct life *life, struct bg_err *err)
{
    struct bg_sandbox *sandbox = &life->sandbox;
    struct bg_sandbox fresh = {0};
    int r = shares_add(app, args, args->operands[1], &fresh, err);
    struct bg_share *old = r == 0 ? shares_find(sandbox, fresh.shares[0].guest) : NULL;
    if (old && life->state == BG_SANDBOX_RUNNING && !shares_served(sandbox, old))
        shares_remove(sandbox, old);
    bg_sandbox_done(&fresh);
    if (r == 0)
        r = shares_add(app, args, args->operands[1], sandbox, err);
    if (r < 0)
        return r;
    struct bg_share *share = &sandbox->shares[sandbox->share_count - 1];
    /* First, so that whatever ends us leaves no share that is in no list. */
    r = bg_sandbox_save(sandbox, err);
    if (r < 0)
        return r;
    if (life->state != BG_SANDBOX_RUNNING) {
        app_note("%s will be shared when '%s' is started", share->host, sandbox->name);
        return 0;
    }
    r = shares_start(app, sandbox, share, err);
    if (r < 0) {
        struct bg_err why;
        shares_remove(sandbox, share);
        if (bg_sandbox_save(sandbox, &why) < 0)
            app_note("%s", why.text);
    }
    return r;
}

static int run_share(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct life life;
    int status = 0;
    if (life_open(app, args->operands[0], &life, &err) < 0)
        return app_fail(&err);
    if (args->operand_count > 1 && wake(app, &life, &err) < 0) {
        life_done(&life);
        return app_fail(&err);
    }
    if (args->operand_count == 1)
        status = list(&life.sandbox, args_flag(args, OPTION_JSON));
    else if (add(app, args, &life, &err) < 0)
        status = app_fail(&err);
    else if (args_flag(args, OPTION_JSON))
        status = list(&life.sandbox, /* as_json= */ true);
    life_done(&life);
    return status;
}

static int remove_one(struct app *app, const char *text, bool force, struct life *life,
                      struct bg_err *err)
{
    BG_AUTOFREE char *guest = NULL;
    struct bg_sandbox *sandbox = &life->sandbox;
    char quoted[512];
    bool busy = false;
    int r = share_spec_guest(text, &guest, err);
    if (r < 0)
        return r;
    struct bg_share *share = shares_find(sandbox, guest);
    (void)bg_quote(guest, quoted, sizeof quoted);
    if (!share)
        return bg_err_set(err, -ENOENT, "'%s' has no share at %s: see bellglass share %s",
                          sandbox->name, quoted, sandbox->name);
    if (life->state == BG_SANDBOX_RUNNING)
        r = shares_end(app, sandbox, share, force, &busy, err);
    if (r < 0)
        return r;
    if (busy)
        app_note("%s was in use: it is gone from there, and what has files of it open keeps them "
                 "until it closes them (--force ends that)",
                 quoted);
    if (share->mode == BG_SHARE_COW)
        cow_forget(sandbox, share);
    shares_remove(sandbox, share);
    return bg_sandbox_save(sandbox, err);
}

static int run_unshare(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct life life;
    int status = 0;
    if (life_open(app, args->operands[0], &life, &err) < 0)
        return app_fail(&err);
    if (wake(app, &life, &err) < 0) {
        life_done(&life);
        return app_fail(&err);
    }
    for (size_t i = 1; i < args->operand_count; i++)
        if (remove_one(app, args->operands[i], args_flag(args, OPTION_FORCE), &life, &err) < 0)
            status = app_fail(&err);
    life_done(&life);
    return status;
}

const struct command cmd_share = {
    .name = "share",
    .summary = "share a folder here with a sandbox, or list what is shared",
    .forms = share_forms,
    .options = share_options,
    .details =
        "The folder appears in the sandbox at GUESTDIR, by default /home/app and its own name. It "
        "can be changed from there (rw) unless ro is given; what is made there belongs to you. "
        "With "
        "cow, changes stay in the sandbox until `bellglass apply` brings them here, after "
        "`bellglass diff` has shown them. The share stays over stop and start, until `bellglass "
        "unshare`.\n\n"
        "Secrets are not seen in the sandbox: .env files (but .env.example), private keys, .ssh, "
        ".aws, .npmrc, .netrc and the like. --hide and --show take names or paths with * ? [...] "
        "in them; with '/' in front they begin at the folder. --show is the stronger one.\n\n"
        "git's configuration and hooks (.git/config, .git/hooks) can be read there and not "
        "changed, since git here would run what stands in them; so neither `git clone` nor `git "
        "init` works in the folder. Neither can what editors, debuggers and other tools run or "
        "believe when the folder is opened here (.vscode/tasks.json, .idea, .devcontainer, "
        ".gdbinit, .claude and the like). --share-unguarded lifts that. Symbolic links that lead "
        "out of it cannot be made. Set-id "
        "bits, devices and other people's files are not given to it.",
    .examples = share_examples,
    .operands_min = 1,
    .operands_max = 2,
    .run = run_share,
};

const struct command cmd_unshare = {
    .name = "unshare",
    .summary = "end the sharing of folders with a sandbox",
    .forms = unshare_forms,
    .options = unshare_options,
    .operands_min = 2,
    .operands_max = -1,
    .run = run_unshare,
};
