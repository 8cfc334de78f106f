#include "host/cli/sandbox_options.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "common/state/image.h"
#include "host/cli/grammar.h"
#include "host/cli/output.h"
#include "host/cli/policy_helper.h"
#include "host/cli/project.h"
#include "host/cli/shares.h"
#include "host/cli/volume_option.h"

#define QUOTED_SIZE       256
#define POLICY_NAMES_SIZE 16384

int sandbox_options_sizes(const struct args *args, struct bg_sandbox *s, struct bg_err *err)
{
    char quoted[QUOTED_SIZE];
    uint64_t cpus = 1;
    const char *text = args_text(args, OPTION_CPUS, "1");
    if (bg_parse_u64(text, 1, BG_SANDBOX_CPUS_MAX, &cpus) < 0)
        return bg_err_set(err, -EINVAL, "--cpus %s: want a number from 1 to %d",
                          bg_quote(text, quoted, sizeof quoted), BG_SANDBOX_CPUS_MAX);
    text = args_text(args, OPTION_MEMORY, "512M");
    int r = bg_parse_bytes(text, BG_SANDBOX_MEMORY_MIN, BG_SANDBOX_MEMORY_MAX, &s->memory_bytes);
    if (r == 0 && s->memory_bytes % (1u << 20) != 0)
        r = -EINVAL;
    if (r < 0)
        return bg_err_set(err, -EINVAL, "--memory %s: want whole MiB from %lluM to %lluG",
                          bg_quote(text, quoted, sizeof quoted), BG_SANDBOX_MEMORY_MIN >> 20,
                          BG_SANDBOX_MEMORY_MAX >> 30);
    s->cpus = (unsigned)cpus;
    return 0;
}

static int read_seconds(const char *option, const char *text, uint64_t *ret_s, struct bg_err *err)
{
    uint64_t ms = 0;
    if (strcmp(text, "none") == 0) {
        *ret_s = 0;
        return 0;
    }
    int r = grammar_parse_duration(text, &ms, err);
    if (r == 0 && (ms == 0 || ms / 1000 > BG_SANDBOX_SECONDS_MAX))
        r = bg_err_set(err, -EINVAL, "want from 1s to %dd, or none",
                       BG_SANDBOX_SECONDS_MAX / (24 * 3600));
    if (r < 0)
        return bg_err_prefix(err, "%s", option);
    *ret_s = ms / 1000;
    return 0;
}

int sandbox_options_lifetime(const struct args *args, uint64_t now_ms, struct bg_sandbox *sandbox,
                             bool *ret_given, struct bg_err *err)
{
    const char *ttl = args_text(args, OPTION_TTL, NULL);
    const char *idle = args_text(args, OPTION_IDLE_SUSPEND, NULL);
    uint64_t ttl_s = sandbox->ttl_s, idle_s = sandbox->idle_suspend_s;
    int r = ttl ? read_seconds("--ttl", ttl, &ttl_s, err) : 0;
    if (r == 0 && idle)
        r = read_seconds("--idle-suspend", idle, &idle_s, err);
    if (r < 0)
        return r;
    if (ttl)
        sandbox->expires_ms = ttl_s > 0 ? now_ms + ttl_s * 1000 : 0;
    sandbox->ttl_s = ttl_s;
    sandbox->idle_suspend_s = idle_s;
    if (ret_given)
        *ret_given = ttl || idle;
    return 0;
}

static int read_image(struct app *app, const struct args *args, struct bg_sandbox *s,
                      struct bg_err *err)
{
    struct bg_image image;
    const char *name = args_text(args, OPTION_IMAGE, "debian");
    int r = bg_image_find(&app->paths, name, &image, err);
    if (r < 0)
        return r;
    s->image_name = strdup(name);
    s->image_digest = strdup(image.digest);
    bg_image_done(&image);
    return s->image_name && s->image_digest ? 0 : bg_err_errno(err, -ENOMEM, "image");
}

int sandbox_options_env(const struct args *args, char ***ret, size_t *ret_count, struct bg_err *err)
{
    size_t count = 0, at = 0;
    char **env = calloc(args->given_count + 1, sizeof *env);
    if (!env)
        return bg_err_errno(err, -ENOMEM, "-e");
    for (const char *text; (text = args_next(args, OPTION_ENV, &at));) {
        int r = grammar_parse_env(text, getenv, &env[count], err);
        if (r < 0) {
            sandbox_options_env_free(env, count);
            return r;
        }
        count++;
    }
    *ret = env;
    *ret_count = count;
    return 0;
}

void sandbox_options_env_free(char **env, size_t count)
{
    for (size_t i = 0; env && i < count; i++)
        free(env[i]);
    free(env);
}

static int read_allow(const struct args *args, struct bg_sandbox *s, struct bg_err *err)
{
    size_t at = 0;
    s->allow = calloc(args->given_count + 1, sizeof *s->allow);
    if (!s->allow)
        return bg_err_errno(err, -ENOMEM, "--allow");
    for (const char *text; (text = args_next(args, OPTION_ALLOW, &at));) {
        int r = grammar_check_allow(text, err);
        if (r < 0)
            return r;
        s->allow[s->allow_count] = strdup(text);
        if (!s->allow[s->allow_count])
            return bg_err_errno(err, -ENOMEM, "--allow");
        s->allow_count++;
    }
    return 0;
}

/* More hosts for a secret that was named before are added to it. Takes what it keeps of secret. */
static int add_secret(struct bg_sandbox *s, struct grammar_secret *secret)
{
    struct bg_secret_use *use = NULL;
    for (size_t i = 0; i < s->secret_count; i++)
        if (strcmp(s->secrets[i].name, secret->name) == 0)
            use = &s->secrets[i];
    if (!use) {
        use = &s->secrets[s->secret_count++];
        use->name = BG_TAKE(secret->name);
    }
    char **grown =
        reallocarray(use->hosts, use->host_count + secret->host_count, sizeof *use->hosts);
    if (!grown)
        return -ENOMEM;
    use->hosts = grown;
    for (size_t i = 0; i < secret->host_count; i++)
        use->hosts[use->host_count++] = secret->hosts[i];
    secret->host_count = 0; /* they moved */
    return 0;
}

static bool in_env(const struct bg_sandbox *s, const char *name)
{
    size_t size = strlen(name);
    for (size_t i = 0; i < s->env_count; i++)
        if (strncmp(s->env[i], name, size) == 0 && s->env[i][size] == '=')
            return true;
    return false;
}

static int read_secrets(const struct args *args, struct bg_sandbox *s, struct bg_err *err)
{
    size_t at = 0;
    s->secrets = calloc(args->given_count + 1, sizeof *s->secrets);
    if (!s->secrets)
        return bg_err_errno(err, -ENOMEM, "--secret");
    for (const char *text; (text = args_next(args, OPTION_SECRET, &at));) {
        struct grammar_secret secret;
        int r = grammar_parse_secret(text, &secret, err);
        if (r < 0)
            return r;
        if (in_env(s, secret.name))
            r = bg_err_set(err, -EINVAL,
                           "%s is both -e and --secret: the secret's placeholder "
                           "goes into that variable, so leave -e away",
                           secret.name);
        else if (add_secret(s, &secret) < 0)
            r = bg_err_errno(err, -ENOMEM, "--secret");
        grammar_secret_done(&secret);
        if (r < 0)
            return r;
    }
    return 0;
}

static bool has_secret(const struct bg_sandbox *s, const char *name)
{
    for (size_t i = 0; i < s->secret_count; i++)
        if (strcmp(s->secrets[i].name, name) == 0)
            return true;
    return false;
}

/* The secrets that only the policy has rules for; names: one a line, cut up here. */
static int add_policy_secrets(struct bg_sandbox *s, char *names, struct bg_err *err)
{
    for (char *rest = names, *name; (name = strsep(&rest, "\n"));) {
        if (!*name || has_secret(s, name))
            continue;
        if (in_env(s, name))
            return bg_err_set(err, -EINVAL,
                              "%s is both -e and a secret of the policy: the secret's placeholder "
                              "goes into that variable, so leave -e away",
                              name);
        struct bg_secret_use *grown =
            reallocarray(s->secrets, s->secret_count + 1, sizeof *s->secrets);
        if (!grown)
            return bg_err_errno(err, -ENOMEM, "--policy");
        s->secrets = grown;
        grown[s->secret_count] = (struct bg_secret_use){.name = strdup(name)};
        if (!grown[s->secret_count].name)
            return bg_err_errno(err, -ENOMEM, "--policy");
        s->secret_count++;
    }
    return 0;
}

#define LEARNING "network:\n  default: learn\n" /* docs/policy.md */

/* The helper knows what a policy is; we keep its text. */
static int read_policy(const struct args *args, struct bg_sandbox *s, struct bg_err *err)
{
    const char *path = args_text(args, OPTION_POLICY, NULL);
    char verb[] = "names", names[POLICY_NAMES_SIZE];
    size_t size;
    bool learn = args_flag(args, OPTION_LEARN);
    if (learn && path)
        return bg_err_set(err, -EINVAL,
                          "--learn and --policy: put 'default: learn' into the policy instead");
    if (learn && !(s->policy = strdup(LEARNING)))
        return bg_err_errno(err, -ENOMEM, "--learn");
    if (!path)
        return 0;
    int r = policy_helper_ask("--policy", verb, path, names, sizeof names, err);
    if (r < 0)
        return r;
    r = bg_read_file(AT_FDCWD, path, BG_MANIFEST_MAX / 4, &s->policy, &size, err);
    return r < 0 ? bg_err_prefix(err, "--policy") : add_policy_secrets(s, names, err);
}

/* Only whether there is one: the values are for the proxy alone to read. */
static int check_secrets(const struct app *app, const struct bg_sandbox *s, struct bg_err *err)
{
    for (size_t i = 0; i < s->secret_count; i++) {
        BG_AUTOFREE char *path = NULL;
        if (asprintf(&path, "%s/secrets/%s", app->paths.data, s->secrets[i].name) < 0)
            return bg_err_errno(err, -ENOMEM, "--secret");
        if (access(path, F_OK) < 0 && errno == ENOENT)
            return bg_err_set(err, -ENOENT,
                              "no secret '%s': store it first: bellglass secret set "
                              "%s",
                              s->secrets[i].name, s->secrets[i].name);
    }
    return 0;
}

static int read_upstream_ca(const struct args *args, struct bg_sandbox *s, struct bg_err *err)
{
    const char *text = args_text(args, OPTION_UPSTREAM_CA, NULL);
    char quoted[QUOTED_SIZE];
    struct stat st;
    if (!text)
        return 0;
    s->upstream_ca = realpath(text, NULL);
    if (!s->upstream_ca || access(s->upstream_ca, R_OK) < 0)
        return bg_err_errno(err, -errno, "--upstream-ca %s", bg_quote(text, quoted, sizeof quoted));
    if (stat(s->upstream_ca, &st) == 0 && !S_ISREG(st.st_mode))
        return bg_err_set(err, -EINVAL, "--upstream-ca %s: want a file",
                          bg_quote(text, quoted, sizeof quoted));
    return 0;
}

static int read_mounts(struct app *app, const struct args *args, struct bg_sandbox *s,
                       struct bg_err *err)
{
    size_t at = 0;
    for (const char *text; (text = args_next(args, OPTION_MOUNT, &at));) {
        int r = shares_add(app, args, text, s, err);
        if (r < 0)
            return bg_err_prefix(err, "--mount");
    }
    return 0;
}

static int read_all(struct app *app, const struct args *args, const char *name,
                    struct bg_sandbox *ret, struct bg_err *err)
{
    struct bg_sandbox s = {0};
    int r = app_paths(app, err);
    if (r == 0)
        r = sandbox_options_sizes(args, &s, err);
    if (r == 0)
        r = sandbox_options_lifetime(args, output_now_ms(), &s, NULL, err);
    if (r == 0)
        r = sandbox_options_env(args, &s.env, &s.env_count, err);
    if (r == 0)
        r = read_allow(args, &s, err);
    if (r == 0)
        r = read_secrets(args, &s, err);
    if (r == 0)
        r = read_policy(args, &s, err);
    if (r == 0)
        r = read_upstream_ca(args, &s, err);
    if (r == 0)
        r = read_mounts(app, args, &s, err);
    if (r == 0)
        r = volume_option_read(app, args, &s, err);
    if (r == 0)
        r = check_secrets(app, &s, err);
    if (r == 0)
        r = read_image(app, args, &s, err);
    if (r == 0 && name && !(s.name = strdup(name)))
        r = bg_err_errno(err, -ENOMEM, "--name");
    if (r < 0) {
        bg_sandbox_done(&s);
        return r;
    }
    *ret = s;
    return 0;
}

int sandbox_options_read(struct app *app, const struct args *args, const char *name,
                         struct bg_sandbox *ret, struct bg_err *err)
{
    struct project project;
    int r = project_read(args, &project, err);
    if (r < 0)
        return r;
    r = read_all(app, &project.args, name, ret, err);
    project_done(&project);
    return r;
}
