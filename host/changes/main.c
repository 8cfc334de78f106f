/* bellglass-changes: `bellglass diff`, `apply` and `discard`; the first argument says which. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/quote.h"
#include "host/changes/apply.h"
#include "host/changes/patch.h"
#include "host/changes/show.h"
#include "host/cli/args.h"
#include "host/cli/cmd_changes.h"
#include "host/cli/commands.h"
#include "host/cli/life.h"
#include "host/cli/output.h"

#define CONFLICTS 1 /* exit status of an apply that left something out */

/* What a command works on. */
struct job {
    struct app *app;
    const struct args *args;
    struct life life;
    char **paths; /* of the operands that are in the share at hand; NULL-terminated */
};

static void job_done(struct job *job)
{
    free(job->paths);
    life_done(&job->life);
}

/* The next copy-on-write share after one, or the first. NULL: there is none. */
static const struct bg_share *next_share(const struct bg_sandbox *sandbox,
                                         const struct bg_share *share)
{
    share = share ? share + 1 : sandbox->shares;
    for (; share && share < sandbox->shares + sandbox->share_count; share++)
        if (share->mode == BG_SHARE_COW)
            return share;
    return NULL;
}

static int job_open(struct app *app, const struct args *args, struct job *job, struct bg_err *err)
{
    const char *name = args->operands[0];
    *job = (struct job){.app = app, .args = args};
    int r = life_open_running(app, name, &job->life, err);
    if (r < 0)
        return r;
    if (!next_share(&job->life.sandbox, NULL))
        r = bg_err_set(err, -ENOENT, "%s has no copy-on-write share: make it with --mount DIR:cow",
                       name);
    if (r == 0 && !(job->paths = calloc(args->operand_count + 1, sizeof *job->paths)))
        r = bg_err_errno(err, -ENOMEM, "paths");
    if (r < 0)
        job_done(job);
    return r;
}

/* ---- paths ---- */

/* The part of path below folder, "" for folder itself; NULL if it is not in there. */
static char *below(char *path, const char *folder)
{
    if (!path_within(path, folder))
        return NULL;
    path += strlen(folder);
    return *path == '/' ? path + 1 : path;
}

/* Sets job->paths to the operands that are in this share. False if there were operands, and none
 * is in it. */
static bool take_paths(struct job *job, const struct bg_share *share)
{
    size_t used = 0;
    for (size_t i = 1; i < job->args->operand_count; i++) {
        char *path = job->args->operands[i];
        size_t size = strlen(path);
        while (size > 1 && path[size - 1] == '/')
            path[--size] = '\0';
        while (strncmp(path, "./", 2) == 0)
            path += 2;
        char *in = path[0] != '/' ? path : below(path, share->guest);
        if (!in)
            in = below(path, share->host);
        if (in && (!*in || strcmp(in, ".") == 0)) {
            used = 0; /* all of it */
            break;
        }
        if (in)
            job->paths[used++] = in;
        else
            continue;
    }
    job->paths[used] = NULL;
    if (job->args->operand_count == 1 || used > 0)
        return true;
    for (size_t i = 1; i < job->args->operand_count; i++) {
        const char *path = job->args->operands[i];
        if (path[0] != '/' || path_within(path, share->guest) || path_within(path, share->host))
            return true;
    }
    return false;
}

/* A path without any change is most likely a mistake. */
static int check_paths(const struct job *job, const struct session *s, struct bg_err *err)
{
    for (size_t i = 0; job->paths[i]; i++) {
        char quoted[512];
        bool found = false;
        for (size_t k = 0; !found && k < s->view.count; k++)
            found = path_within(s->view.list[k].path, job->paths[i]);
        for (size_t k = 0; !found && k < s->guest.count; k++)
            found = path_within(s->guest.list[k].path, job->paths[i]);
        if (!found)
            return bg_err_set(err, -ENOENT, "%s: nothing changed there",
                              bg_quote(job->paths[i], quoted, sizeof quoted));
    }
    return 0;
}

static bool ask_user(const char *question)
{
    char line[16];
    (void)fflush(stdout);
    (void)fprintf(stderr, "%s [y/N] ", question);
    return fgets(line, sizeof line, stdin) && (line[0] == 'y' || line[0] == 'Y');
}

/* Runs do_share for each share that the paths are in. Returns the exit status: the worst. */
static int each_share(struct app *app, const struct args *args,
                      int (*do_share)(struct job *job, struct session *s, void *owner,
                                      struct bg_err *err),
                      void *owner)
{
    struct bg_err err = {0};
    struct job job;
    int status = 0, r = job_open(app, args, &job, &err);
    bool any = false;
    if (r < 0)
        return app_fail(&err);
    const struct bg_sandbox *sandbox = &job.life.sandbox;
    for (const struct bg_share *share = NULL; r >= 0 && (share = next_share(sandbox, share));) {
        struct session s;
        r = session_open(app, sandbox, share, &s, &err);
        if (r < 0)
            break;
        if (take_paths(&job, share)) {
            any = true;
            r = do_share(&job, &s, owner, &err);
            status = r > status ? r : status;
        }
        session_close(&s);
    }
    if (r >= 0 && !any)
        r = bg_err_set(&err, -ENOENT, "none of these paths is in a copy-on-write share");
    job_done(&job);
    if (r < 0) {
        app_hint_space(&err);
        return app_fail(&err);
    }
    return status;
}

/* ---- diff ---- */

struct diff {
    enum show_form form;
    json_t *shares;
    size_t count;
};

/* Only what was asked for. */
static const char **choose_asked(const struct job *job, const struct session *s)
{
    const char **reasons = calloc(s->view.count + 1, sizeof *reasons);
    for (size_t i = 0; reasons && job->paths[0] && i < s->view.count; i++) {
        reasons[i] = "";
        for (size_t k = 0; job->paths[k]; k++)
            if (path_within(s->view.list[i].path, job->paths[k]))
                reasons[i] = NULL;
    }
    return reasons;
}

static int diff_share(struct job *job, struct session *s, void *owner, struct bg_err *err)
{
    struct diff *diff = owner;
    int r = session_load(s, (const char *const *)job->paths, /* contents= */ true,
                         /* progress= */ isatty(STDERR_FILENO), err);
    if (r < 0)
        return r;
    BG_AUTOFREE const char **reasons = choose_asked(job, s);
    if (!reasons)
        return bg_err_errno(err, -ENOMEM, "diff");
    if (diff->form == SHOW_JSON) {
        json_t *json = show_json(s, reasons);
        diff->count += json_array_size(json_object_get(json, "changes"));
        if (json_array_append_new(diff->shares, json) < 0)
            return bg_err_errno(err, -ENOMEM, "diff");
    } else {
        size_t count;
        r = show_changes(stdout, s, diff->form, reasons, &count, err);
        if (r < 0)
            return r;
        diff->count += count;
    }
    return session_note_shown(s, err);
}

static int run_diff(struct app *app, const struct args *args)
{
    struct bg_err err;
    bool patch = args_flag(args, CHANGES_PATCH), stat = args_flag(args, CHANGES_STAT);
    bool names = args_flag(args, CHANGES_NAME_ONLY), json = args_flag(args, CHANGES_JSON);
    struct diff diff = {.form = patch   ? SHOW_PATCH
                                : stat  ? SHOW_STAT
                                : names ? SHOW_NAMES
                                : json  ? SHOW_JSON
                                        : SHOW_SUMMARY};
    if (patch + stat + names + json > 1) {
        (void)bg_err_set(&err, -EINVAL, "say one of --patch, --stat, --name-only and --json");
        return app_fail(&err);
    }
    diff.shares = json_array();
    int status = each_share(app, args, diff_share, &diff);
    if (status == 0 && json)
        status = output_json(diff.shares);
    json_decref(diff.shares);
    if (status == 0 && diff.count > 0 && args_flag(args, CHANGES_EXIT_CODE))
        status = 1;
    return app_printed(status);
}

/* ---- apply ---- */

static void print_step(const struct step *step)
{
    if (step->state == STEP_DONE)
        return;
    (void)fputs("bellglass: ", stderr);
    patch_name(stderr, step->path);
    (void)fprintf(stderr, ": %s\n",
                  step->state == STEP_CONFLICT ? "it changed here while it was applied, and stays"
                                               : strerror(-step->code));
}

/* Says how it went. Returns how many steps did not come to their end. */
static size_t report(const struct plan *plan)
{
    size_t done = 0, missed = 0;
    for (size_t i = 0; i < plan->count; i++) {
        const struct step *step = &plan->list[i];
        done += step->state == STEP_DONE && step->op != STEP_MODE;
        missed += step->state != STEP_DONE;
        print_step(step);
    }
    (void)printf("%zu applied\n", done);
    return missed;
}

static int resume(const struct apply *apply, size_t *ret_missed, struct bg_err *err)
{
    struct plan plan;
    bool undone;
    int r = apply_resume(apply, &plan, &undone, err);
    if (r < 0)
        return r;
    if (undone)
        app_note(
            "an apply that was interrupted had changed nothing; what it had made ready is gone");
    else
        app_note("ending an apply that was interrupted");
    *ret_missed += undone ? 0 : report(&plan);
    plan_done(&plan);
    return 0;
}

static int settle(struct session *s, struct bg_err *err)
{
    size_t kept = 0;
    int r = session_settle(s, &kept, err);
    if (r < 0)
        return bg_err_prefix(err, "the files are written, but the sandbox keeps its own copies");
    if (kept > 0)
        app_note("%zu of them are in use in the sandbox, or changed again: it keeps its own copies",
                 kept);
    return 0;
}

/* With --yes nobody looks, so nothing but what was shown before is applied. */
static size_t count_unseen(const struct session *s, const char *const *reasons)
{
    size_t count = 0;
    for (size_t i = 0; s->has_shown && i < s->view.count; i++) {
        const struct change *change = &s->view.list[i];
        const struct entry *guest = entries_find(&s->guest, change->path);
        count += !reasons[i] && guest && !session_was_shown(s, guest);
    }
    return count;
}

static int do_plan(const struct apply *apply, const struct session *s, const char *const *reasons,
                   size_t *ret_missed, struct bg_err *err)
{
    uint8_t random[(PLAN_TOKEN_SIZE - 1) / 2];
    char token[PLAN_TOKEN_SIZE];
    struct plan plan;
    bg_random(random, sizeof random);
    bg_hex(random, sizeof random, token);
    int r = plan_make(&s->view, &s->host, reasons, token, &plan);
    if (r < 0)
        return bg_err_errno(err, r, "apply");
    r = apply_run(apply, &plan, err);
    if (r == 0)
        *ret_missed += report(&plan);
    plan_done(&plan);
    return r;
}

static int apply_chosen(const struct job *job, const struct apply *apply, struct session *s,
                        const char **reasons, struct bg_err *err)
{
    bool yes = args_flag(job->args, CHANGES_YES);
    const struct plan_opts opts = {.paths = (const char *const *)job->paths,
                                   .force = args_flag(job->args, CHANGES_FORCE),
                                   .trusted = args_flag(job->args, CHANGES_TRUSTED)};
    size_t count, refused = 0, missed = 0;
    plan_choose(&s->view, &s->host, &opts, reasons);
    for (size_t i = 0; i < s->view.count; i++)
        refused += reasons[i] && reasons[i][0];
    size_t unseen = yes ? count_unseen(s, reasons) : 0;
    int r = show_changes(stdout, s, SHOW_SUMMARY, reasons, &count, err);
    if (r == 0)
        r = session_note_shown(s, err);
    if (r < 0)
        return r;
    if (unseen > 0) {
        app_note("%zu of them changed since they were last shown: look, and apply again", unseen);
        return CONFLICTS;
    }
    if (count > 0 && !yes && !ask_user("Write this?")) {
        app_note("nothing was written");
        return CONFLICTS;
    }
    if (count > 0)
        r = do_plan(apply, s, reasons, &missed, err);
    if (r == 0)
        r = settle(s, err);
    return r < 0 ? r : refused + missed > 0 ? CONFLICTS : 0;
}

static int apply_share(struct job *job, struct session *s, void *owner, struct bg_err *err)
{
    const struct apply apply = {.root = s->root, .state = s->store.dir, .store = s->store.contents};
    size_t missed = 0;
    bool only = args_flag(job->args, CHANGES_RESUME);
    (void)owner;
    int r = apply_pending(&apply) ? resume(&apply, &missed, err) : 0;
    if (r == 0)
        r = session_load(s, (const char *const *)job->paths, /* contents= */ true,
                         /* progress= */ isatty(STDERR_FILENO), err);
    if (r == 0 && only)
        r = settle(s, err);
    if (r == 0 && !only)
        r = check_paths(job, s, err);
    if (r < 0 || only)
        return r < 0 ? r : missed > 0 ? CONFLICTS : 0;
    BG_AUTOFREE const char **reasons = calloc(s->view.count + 1, sizeof *reasons);
    if (!reasons)
        return bg_err_errno(err, -ENOMEM, "apply");
    r = apply_chosen(job, &apply, s, reasons, err);
    return r == 0 && missed > 0 ? CONFLICTS : r;
}

static int run_apply(struct app *app, const struct args *args)
{
    struct bg_err err;
    if (!args_flag(args, CHANGES_YES) && !args_flag(args, CHANGES_RESUME) &&
        !isatty(STDIN_FILENO)) {
        (void)bg_err_set(&err, -EINVAL, "there is no terminal to ask on: say --yes");
        return app_fail(&err);
    }
    return app_printed(each_share(app, args, apply_share, NULL));
}

/* ---- discard ---- */

/* The folder that hides the entry, with all that the host has in it: only with it can the entry be
 * dropped. NULL: there is none. */
static const struct entry *hidden_by(const struct session *s, const char *path)
{
    BG_AUTOFREE char *folder = strdup(path);
    const struct entry *found = NULL;
    for (char *slash; folder && (slash = strrchr(folder, '/'));) {
        *slash = '\0';
        const struct entry *above = entries_find(&s->guest, folder);
        const struct entry *host = entries_find(&s->host, folder);
        bool hides = above && host && host->type == BG_CHANGE_FOLDER &&
                     (above->type != BG_CHANGE_FOLDER || (above->flags & BG_CHANGE_OPAQUE));
        found = hides ? above : found;
    }
    return found;
}

static bool asked(const struct job *job, const char *path)
{
    for (size_t i = 0; job->paths[i]; i++)
        if (path_within(path, job->paths[i]))
            return true;
    return !job->paths[0];
}

/* The items of the layer, what is in a folder before the folder. */
static int collect(const struct job *job, const struct session *s, const struct entry **items,
                   size_t *ret_count, struct bg_err *err)
{
    size_t count = 0;
    char quoted[2][256];
    for (size_t i = s->view.count; i-- > 0;) {
        const char *path = s->view.list[i].path;
        const struct entry *above = asked(job, path) ? hidden_by(s, path) : NULL;
        if (above && !asked(job, above->path))
            return bg_err_set(err, -EINVAL, "%s comes back only with its folder: discard %s",
                              bg_quote(path, quoted[0], sizeof quoted[0]),
                              bg_quote(above->path, quoted[1], sizeof quoted[1]));
    }
    for (size_t i = s->guest.count; i-- > 0;) {
        const struct entry *entry = &s->guest.list[i];
        bool plain = entry->type == BG_CHANGE_FOLDER && !(entry->flags & BG_CHANGE_OPAQUE);
        if (asked(job, entry->path) && (!plain || view_find(&s->view, entry->path)))
            items[count++] = entry;
    }
    *ret_count = count;
    return 0;
}

static int discard_share(struct job *job, struct session *s, void *owner, struct bg_err *err)
{
    struct entries kept;
    size_t count = 0, shown;
    (void)owner;
    int r = session_load(s, NULL, /* contents= */ false, /* progress= */ false, err);
    if (r == 0)
        r = check_paths(job, s, err);
    if (r < 0)
        return r;
    BG_AUTOFREE const struct entry **items = calloc(s->guest.count + 1, sizeof *items);
    BG_AUTOFREE const char **reasons = choose_asked(job, s);
    if (!items || !reasons)
        return bg_err_errno(err, -ENOMEM, "discard");
    r = collect(job, s, items, &count, err);
    if (r == 0)
        r = show_changes(stdout, s, SHOW_SUMMARY, reasons, &shown, err);
    if (r < 0 || count == 0)
        return r;
    if (!args_flag(job->args, CHANGES_YES) && !ask_user("Drop this from the sandbox?")) {
        app_note("nothing was dropped");
        return CONFLICTS;
    }
    r = link_drop(&s->link, BG_CHANGES_DISCARD, items, count, &kept, err);
    if (r < 0)
        return r;
    size_t left = kept.count;
    entries_done(&kept);
    if (left > 0)
        app_note("%zu could not be dropped: they are in use in the sandbox", left);
    (void)printf("%zu dropped\n", count - left);
    return left > 0 ? CONFLICTS : 0;
}

static int run_discard(struct app *app, const struct args *args)
{
    struct bg_err err;
    if (!args_flag(args, CHANGES_YES) && !isatty(STDIN_FILENO)) {
        (void)bg_err_set(&err, -EINVAL, "there is no terminal to ask on: say --yes");
        return app_fail(&err);
    }
    return app_printed(each_share(app, args, discard_share, NULL));
}

/* ---- base ---- */

/* For host/cli/cow.c: NAME ID DIR. The share is in no file yet. */
static int run_base(struct app *app, int argc, char **argv)
{
    struct bg_err err;
    struct life life;
    uint64_t id = 0;
    if (argc != 3 || bg_parse_u64(argv[1], 1, UINT32_MAX, &id) < 0) {
        (void)bg_err_set(&err, -EINVAL, "want NAME ID DIR");
        return app_fail(&err);
    }
    int r = life_open(app, argv[0], &life, &err);
    if (r < 0)
        return app_fail(&err);
    const struct bg_share share = {.id = (unsigned)id, .host = argv[2]};
    r = store_create(&life.sandbox, &share, &err);
    life_done(&life);
    return r < 0 ? app_fail(&err) : 0;
}

int main(int argc, char **argv)
{
    struct app app = {.version = BELLGLASS_VERSION};
    if (!app_start())
        return APP_FAILED;
    const char *verb = argc > 1 ? argv[1] : "";
    int status = APP_FAILED;
    if (strcmp(verb, cmd_diff.name) == 0)
        status = command_run(&app, &cmd_diff, run_diff, argc - 2, argv + 2);
    else if (strcmp(verb, cmd_apply.name) == 0)
        status = command_run(&app, &cmd_apply, run_apply, argc - 2, argv + 2);
    else if (strcmp(verb, cmd_discard.name) == 0)
        status = command_run(&app, &cmd_discard, run_discard, argc - 2, argv + 2);
    else if (strcmp(verb, "base") == 0)
        status = run_base(&app, argc - 2, argv + 2);
    else
        app_note("this program is for bellglass: say bellglass diff");
    app_done(&app);
    return status;
}
