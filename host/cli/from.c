#include "host/cli/from.h"

#include <stdlib.h>
#include <string.h>

#include "host/cli/grammar.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/snapshots.h"

/* What its memory and disk are of, or what a start could not change any more. */
static int check_options(const struct args *args, struct bg_err *err)
{
    static const struct {
        int id;
        const char *name;
    } fixed[] = {
        {OPTION_IMAGE, "image"},
        {OPTION_CPUS, "cpus"},
        {OPTION_MEMORY, "memory"},
        {OPTION_SECRET, "secret"},
        {OPTION_PROJECT, "file"},
        {OPTION_POLICY, "policy"},
        {OPTION_LEARN, "learn"},
        {OPTION_UPSTREAM_CA, "upstream-ca"},
        {OPTION_MOUNT, "mount"},
        {OPTION_VOLUME, "volume"},
        {OPTION_HIDE, "hide"},
        {OPTION_SHOW, "show"},
        {OPTION_SHARE_UNGUARDED, "share-unguarded"},
        {OPTION_SHARE_ANY_LINKS, "share-any-links"},
        {OPTION_SHARE_ANYWAY, "share-anyway"},
    };
    for (size_t i = 0; i < args->given_count; i++)
        for (size_t k = 0; k < sizeof fixed / sizeof *fixed; k++)
            if (args->given[i].id == fixed[k].id)
                return bg_err_set(err, -EINVAL,
                                  "--%s does not go with --from: it has what its source has; "
                                  "change it afterwards (bellglass policy apply, share)",
                                  fixed[k].name);
    return 0;
}

/* text: taken. Errors: -ENOMEM. */
static int append(char ***list, size_t *count, char *text)
{
    char **grown = text ? reallocarray(*list, *count + 1, sizeof *grown) : NULL;
    if (!grown) {
        free(text);
        return -ENOMEM;
    }
    *list = grown;
    grown[(*count)++] = text;
    return 0;
}

/* A variable that is there already gets the new value. */
static int set_env(struct bg_sandbox *s, const char *text)
{
    size_t size = strcspn(text, "=") + 1;
    char *copy = strdup(text);
    for (size_t i = 0; copy && i < s->env_count; i++)
        if (strncmp(s->env[i], text, size) == 0) {
            free(s->env[i]);
            s->env[i] = copy;
            return 0;
        }
    return append(&s->env, &s->env_count, copy);
}

static int add_settings(const struct args *args, struct bg_sandbox *s, struct bg_err *err)
{
    char **env = NULL;
    size_t count = 0, at = 0;
    int r = sandbox_options_lifetime(args, output_now_ms(), s, NULL, err);
    if (r == 0)
        r = sandbox_options_env(args, &env, &count, err);
    for (size_t i = 0; r == 0 && i < count; i++)
        if (set_env(s, env[i]) < 0)
            r = bg_err_errno(err, -ENOMEM, "-e");
    sandbox_options_env_free(env, count);
    for (const char *text; r == 0 && (text = args_next(args, OPTION_ALLOW, &at));) {
        r = grammar_check_allow(text, err);
        if (r == 0 && append(&s->allow, &s->allow_count, strdup(text)) < 0)
            r = bg_err_errno(err, -ENOMEM, "--allow");
    }
    return r;
}

int from_create(struct app *app, const struct args *args, const char *name, bool ephemeral,
                struct bg_sandbox *ret, struct bg_err *err)
{
    struct snapshots_source source;
    struct bg_sandbox s = {0};
    int r = check_options(args, err);
    if (r == 0)
        r = snapshots_open(app, args_text(args, OPTION_FROM, ""),
                           &(struct snapshots_open_opts){.sandboxes = true,
                                                         .quiet = args_flag(args, OPTION_QUIET)},
                           &source, err);
    if (r < 0)
        return r;
    r = snapshots_child(&source, name, &s, err);
    s.ephemeral = ephemeral;
    if (r == 0)
        r = add_settings(args, &s, err);
    if (r == 0)
        r = snapshots_create(app, &source, &s, err);
    snapshots_close(app, &source); /* the new one has links of all that it needs */
    if (r < 0) {
        bg_sandbox_done(&s);
        return r;
    }
    *ret = s;
    return 0;
}
