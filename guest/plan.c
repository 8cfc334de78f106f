#include "guest/plan.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"

#define PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

void plan_done(struct plan *plan)
{
    env_done(&plan->env);
    for (uint32_t i = 0; plan->argv && i < plan->argc; i++)
        free(plan->argv[1 + i]);
    free(plan->argv);
    plan->argv = NULL;
}

static int put_user_env(struct env *env, const struct account *account)
{
    const char *const entries[][2] = {
        {"HOME", account->home},   {"USER", account->name}, {"LOGNAME", account->name},
        {"SHELL", account->shell}, {"LANG", "C.UTF-8"},
    };
    int r = 0;
    for (size_t i = 0; i < sizeof entries / sizeof *entries && r == 0; i++)
        r = env_set(env, entries[i][0], entries[i][1]);
    return r;
}

/* Splits the request's strings: argc arguments, the rest is environment. */
static int take_strings(const struct bg_exec_request *request, const struct env *agent_env,
                        struct plan *plan)
{
    plan->argv = calloc((size_t)request->argc + 2, sizeof *plan->argv);
    if (!plan->argv)
        return -ENOMEM;
    plan->argc = request->argc;
    struct bg_reader in = bg_reader_init(request->strings, request->strings_size);
    for (uint32_t i = 0; i < request->argc; i++) {
        size_t size;
        const uint8_t *bytes = bg_reader_blob32le(&in, request->strings_size, &size);
        if (!bytes)
            return -EPROTO;
        plan->argv[1 + i] = strndup((const char *)bytes, size);
        if (!plan->argv[1 + i])
            return -ENOMEM;
    }
    int r = env_set(&plan->env, "PATH", PATH);
    if (r == 0 && !(request->flags & BG_EXEC_CLEAR_ENV)) {
        r = put_user_env(&plan->env, &plan->account);
        if (r == 0)
            r = env_put_all(&plan->env, agent_env);
    }
    return r < 0 ? r : env_put_blobs(&plan->env, in.at, in.left, request->envc);
}

static int choose_cwd(const char *asked, struct plan *plan)
{
    const char *home = plan->account.home;
    plan->cwd_optional = asked[0] == '\0';
    int size = asked[0] == '\0'  ? snprintf(plan->cwd, sizeof plan->cwd, "%s", home)
               : asked[0] == '/' ? snprintf(plan->cwd, sizeof plan->cwd, "%s", asked)
                                 : snprintf(plan->cwd, sizeof plan->cwd, "%s/%s", home, asked);
    return (size_t)size < sizeof plan->cwd ? 0 : -ENAMETOOLONG;
}

int plan_make(const struct bg_exec_request *request, const struct env *agent_env, struct plan *ret,
              struct bg_err *err)
{
    *ret = (struct plan){0};
    int r = account_load(request->user, &ret->account, err);
    if (r < 0)
        return r;
    r = choose_cwd(request->cwd, ret);
    if (r == 0)
        r = take_strings(request, agent_env, ret);
    if (r < 0) {
        plan_done(ret);
        return bg_err_errno(err, r, "exec request");
    }
    return 0;
}
