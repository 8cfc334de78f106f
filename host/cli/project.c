#include "host/cli/project.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/limits.h"
#include "common/quote.h"
#include "host/cli/policy_helper.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/share_spec.h"

#define TIMEOUT_MS 30000
#define OUTPUT_SIZE                                                                                \
    ((size_t)2 * 1024 * 1024) /* the file's 256 KiB, and what JSON makes of them                   \
                               */
#define QUOTED_SIZE 256

/* ---- the file, as bellglass-policy reads it ---- */

static int ask(const char *path, json_t **ret, struct bg_err *err)
{
    char verb[] = "project";
    BG_AUTOFREE char *out = malloc(OUTPUT_SIZE);
    if (!out)
        return bg_err_errno(err, -ENOMEM, "--file");
    int r = policy_helper_ask("--file", verb, path, out, OUTPUT_SIZE, err);
    if (r < 0)
        return r;
    *ret = json_loads(out, JSON_REJECT_DUPLICATES, NULL);
    return *ret ? 0 : bg_err_set(err, -EINVAL, "--file: %s is too large", path);
}

/* ---- options ---- */

/* text: taken; the option points to it. */
static int give(struct project *p, int id, char *text, struct bg_err *err)
{
    char **grown = text ? reallocarray(p->texts, p->text_count + 1, sizeof *grown) : NULL;
    if (!grown) {
        free(text);
        return bg_err_errno(err, -ENOMEM, "--file");
    }
    p->texts = grown;
    grown[p->text_count++] = text;
    p->args.given[p->args.given_count++] = (struct arg){.id = id, .value = text};
    return 0;
}

/* "K" and "K=V" of -e are about the same variable. */
static bool has_variable(const struct args *args, const char *variable)
{
    size_t at = 0, size = strcspn(variable, "=");
    for (const char *text; (text = args_next(args, OPTION_ENV, &at));)
        if (strcspn(text, "=") == size && strncmp(text, variable, size) == 0)
            return true;
    return false;
}

static int give_env(struct project *p, const struct args *args, const json_t *list,
                    struct bg_err *err)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        const char *text = json_string_value(item);
        int r = has_variable(args, text) ? 0 : give(p, OPTION_ENV, strdup(text), err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The folder of the file: heap, the caller's. */
static char *folder_of(const char *path)
{
    char *real = realpath(path, NULL);
    char *slash = real ? strrchr(real, '/') : NULL;
    if (slash)
        slash[slash == real] = '\0';
    return real;
}

static int give_mount(struct project *p, const char *folder, const char *text, struct bg_err *err)
{
    struct share_spec spec;
    char quoted[QUOTED_SIZE], *option;
    BG_AUTOFREE char *joined = NULL;
    int r = share_spec_parse(text, &spec, err);
    if (r < 0)
        return bg_err_prefix(err, "--file: mounts");
    if (asprintf(&joined, "%s/%s", spec.dir[0] == '/' ? "" : folder, spec.dir) < 0)
        joined = NULL;
    BG_AUTOFREE char *dir = joined ? realpath(joined, NULL) : NULL;
    size_t size = strcmp(folder, "/") == 0 ? 0 : strlen(folder);
    (void)bg_quote(spec.dir, quoted, sizeof quoted);
    if (!dir)
        r = bg_err_errno(err, -errno, "--file: mounts: %s", quoted);
    else if (strncmp(dir, folder, size) != 0 || (dir[size] != '/' && dir[size] != '\0'))
        r = bg_err_set(err, -EPERM,
                       "--file: mounts: %s is not in the file's own folder; if you mean to share "
                       "it, say so yourself: --mount %s",
                       quoted, quoted);
    else if (strchr(dir, ':'))
        r = bg_err_set(err, -EINVAL, "--file: mounts: %s: ':' in a folder's path", quoted);
    if (r == 0) {
        if (asprintf(&option, "%s%s%s:%s", dir, spec.guest ? ":" : "", spec.guest ? spec.guest : "",
                     bg_share_mode_name(spec.mode)) < 0)
            option = NULL;
        r = give(p, OPTION_MOUNT, option, err);
    }
    share_spec_done(&spec);
    return r;
}

static int give_mounts(struct project *p, const char *path, const json_t *list, struct bg_err *err)
{
    size_t i;
    json_t *item;
    if (json_array_size(list) == 0)
        return 0;
    BG_AUTOFREE char *folder = folder_of(path);
    if (!folder)
        return bg_err_errno(err, -errno, "--file %s", path);
    json_array_foreach(list, i, item)
    {
        int r = give_mount(p, folder, json_string_value(item), err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int give_all(struct project *p, const struct args *args, const char *path,
                    const json_t *json, struct bg_err *err)
{
    static const struct {
        const char *key;
        int id;
    } texts[] = {{"image", OPTION_IMAGE},
                 {"cpus", OPTION_CPUS},
                 {"memory", OPTION_MEMORY},
                 {"ttl", OPTION_TTL},
                 {"idle-suspend", OPTION_IDLE_SUSPEND}};
    const json_t *env = json_object_get(json, "env"), *mounts = json_object_get(json, "mount");
    size_t most = sizeof texts / sizeof *texts + json_array_size(env) + json_array_size(mounts) + 1;
    int r = 0;
    p->args.given = calloc(most + args->given_count, sizeof *p->args.given);
    if (!p->args.given)
        return bg_err_errno(err, -ENOMEM, "--file");
    for (size_t i = 0; r == 0 && i < sizeof texts / sizeof *texts; i++) {
        const char *text = json_string_value(json_object_get(json, texts[i].key));
        if (text)
            r = give(p, texts[i].id, strdup(text), err);
    }
    if (r == 0)
        r = give_env(p, args, env, err);
    if (r == 0)
        r = give_mounts(p, path, mounts, err);
    if (r == 0 && json_is_true(json_object_get(json, "policy"))) {
        if (args_text(args, OPTION_POLICY, NULL) || args_flag(args, OPTION_LEARN))
            return bg_err_set(err, -EINVAL,
                              "--file %s has a policy of its own: leave --policy and --learn away",
                              path);
        r = give(p, OPTION_POLICY, strdup(path), err);
    }
    return r;
}

int project_read(const struct args *args, struct project *ret, struct bg_err *err)
{
    const char *path = args_text(args, OPTION_PROJECT, NULL);
    struct project p = {.args = {.operands = args->operands, .operand_count = args->operand_count}};
    json_auto_t *json = NULL;
    int r = path ? ask(path, &json, err) : 0;
    if (r == 0)
        r = give_all(&p, args, path, json, err);
    if (r < 0) {
        project_done(&p);
        return r;
    }
    if (args->given_count > 0)
        memcpy(p.args.given + p.args.given_count, args->given,
               args->given_count * sizeof *args->given);
    p.args.given_count += args->given_count;
    *ret = p;
    return 0;
}

void project_done(struct project *project)
{
    for (size_t i = 0; i < project->text_count; i++)
        free(project->texts[i]);
    free(project->texts);
    free(project->args.given);
    *project = (struct project){.text_count = 0};
}
