#include "host/cli/start.h"

#include "host/cli/shares.h"

/* Back to where it was: its memory shall not be lost. */
static int suspend(struct app *app, struct life *life)
{
    json_auto_t *answer = NULL;
    int r = bg_sandbox_state(&life->sandbox, &life->state, &life->launcher_pid, NULL);
    return r < 0 ? r : life_suspend(app, life, /* note= */ NULL, &answer, NULL);
}

int start_with_shares(struct app *app, struct life *life, const struct launch_opts *opts,
                      int *ret_signal, struct bg_err *err)
{
    bool suspended = life->state == BG_SANDBOX_SUSPENDED;
    int r = shares_check(&life->sandbox, err);
    if (r == 0)
        r = launch_start(&life->sandbox, opts, NULL, ret_signal, err);
    if (r < 0)
        return r;
    r = shares_start_all(app, &life->sandbox, err);
    if (r == 0)
        return 0;
    struct bg_err why;
    if (suspended && suspend(app, life) == 0)
        return r;
    if (bg_sandbox_state(&life->sandbox, &life->state, &life->launcher_pid, &why) < 0 ||
        life_stop(app, life, /* grace_ms= */ 0, NULL, &why) < 0)
        app_note("%s", why.text);
    return r;
}

void start_undo(struct app *app, const struct bg_sandbox *sandbox)
{
    struct life life = {.sandbox = *sandbox};
    struct bg_err err = {0};
    int r = bg_sandbox_state(sandbox, &life.state, &life.launcher_pid, &err);
    if (r == 0)
        r = life_stop(app, &life, /* grace_ms= */ 0, NULL, &err);
    if (r == 0)
        r = life_remove(app, &life, &err);
    if (r < 0 && r != -ENOENT)
        app_note("%s", err.text);
}
