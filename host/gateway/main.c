/* bellglass-serve: what `bellglass serve` runs. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "common/checked.h"
#include "common/limits.h"
#include "host/cli/cmd_serve.h"
#include "host/cli/commands.h"
#include "host/cli/grammar.h"
#include "host/cli/pools.h"
#include "host/cli/process.h"
#include "host/gateway/server.h"
#include "host/gateway/tokens.h"

/* Starts and ends of sandboxes at once: libuv's four threads would be few, and they only wait. */
#define THREADS "32"

#define POOL_EXIT_MS 20000 /* for a keeper to let a start come to its end */

/* The file of the installation: DATA/gateway/tokens. *ret: heap, the caller's. */
static int token_path(struct app *app, const struct args *args, char **ret, struct bg_err *err)
{
    const char *given = args_text(args, SERVE_TOKEN_FILE, NULL);
    BG_AUTOFREE char *folder = NULL;
    if (given)
        return (*ret = strdup(given)) ? 0 : bg_err_errno(err, -ENOMEM, "--token-file");
    if (asprintf(&folder, "%s/gateway", app->paths.data) < 0 ||
        asprintf(ret, "%s/tokens", folder) < 0)
        return bg_err_errno(err, -ENOMEM, "tokens");
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "%s", folder);
    return 0;
}

static uint64_t unix_ms(void)
{
    return (uint64_t)time(NULL) * 1000;
}

static json_t *describe(const struct token *token)
{
    const struct quota *q = &token->quota;
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {{"max_sandboxes", q->sandboxes},
                   {"max_memory_bytes", q->memory_bytes},
                   {"max_lifetime_ms", q->lifetime_ms}};
    json_t *object = json_pack("{s:s, s:I, s:b, s:b, s:b}", "name", token->name, "created_ms",
                               (json_int_t)token->created_ms, "all", token->all, "nested",
                               q->nested, "metrics", q->metrics);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        bool any = numbers[i].value == QUOTA_UNLIMITED;
        (void)json_object_set_new(object, numbers[i].name,
                                  any ? json_null() : json_integer((json_int_t)numbers[i].value));
    }
    return object;
}

static int print_tokens(const struct tokens *tokens, bool as_json)
{
    json_auto_t *list = json_array();
    char when[32], quota[QUOTA_TEXT_SIZE];
    for (size_t i = 0; i < tokens->count; i++) {
        const struct token *token = &tokens->list[i];
        struct tm tm;
        time_t seconds = (time_t)(token->created_ms / 1000);
        quota_emit(&token->quota, quota);
        if (as_json)
            (void)json_array_append_new(list, describe(token));
        else if (gmtime_r(&seconds, &tm) && strftime(when, sizeof when, "%F %T", &tm) > 0)
            (void)printf("%-20s %s%s%s\n", token->name, when, token->all ? " all" : "", quota);
    }
    if (as_json) {
        if (json_array_size(list) != tokens->count ||
            json_dumpf(list, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER) < 0)
            return APP_FAILED;
        (void)putchar('\n');
    }
    return app_printed(0);
}

/* A number of the quota; untouched if the option is not given. */
static int read_limit(const struct args *args, int id, uint64_t *value, struct bg_err *err)
{
    const char *text = args_text(args, id, NULL);
    if (!text)
        return 0;
    if (strcmp(text, "none") == 0) {
        *value = QUOTA_UNLIMITED;
        return 0;
    }
    if (id == SERVE_MAX_SANDBOXES)
        return bg_parse_u64(text, 0, BG_GATEWAY_SANDBOXES_MAX, value) == 0
                   ? 0
                   : bg_err_set(err, -EINVAL,
                                "--max-sandboxes: want a number from 0 to %d, or none",
                                BG_GATEWAY_SANDBOXES_MAX);
    if (id == SERVE_MAX_MEMORY)
        return bg_parse_bytes(text, 0, INT64_MAX, value) == 0
                   ? 0
                   : bg_err_set(err, -EINVAL, "--max-memory: want a size such as 8G, or none");
    int r = grammar_parse_duration(text, value, err);
    return r < 0 ? bg_err_prefix(err, "--max-lifetime") : 0;
}

static int read_yes(const struct args *args, int id, bool *value, struct bg_err *err)
{
    const char *text = args_text(args, id, NULL);
    if (!text)
        return 0;
    *value = strcmp(text, "yes") == 0;
    return *value || strcmp(text, "no") == 0
               ? 0
               : bg_err_set(err, -EINVAL, "--%s: want yes or no",
                            id == SERVE_NESTED ? "nested" : "metrics");
}

static int read_quota(const struct args *args, struct quota *quota, struct bg_err *err)
{
    bool nested = quota->nested;
    int r = read_yes(args, SERVE_NESTED, &quota->nested, err);
    /* What stands in a sandbox makes none itself, unless that is said. */
    if (r == 0 && quota->nested && !nested)
        quota->sandboxes = 0;
    if (r == 0)
        r = read_yes(args, SERVE_METRICS, &quota->metrics, err);
    if (r == 0)
        r = read_limit(args, SERVE_MAX_SANDBOXES, &quota->sandboxes, err);
    if (r == 0)
        r = read_limit(args, SERVE_MAX_MEMORY, &quota->memory_bytes, err);
    return r == 0 ? read_limit(args, SERVE_MAX_LIFETIME, &quota->lifetime_ms, err) : r;
}

/* Whoever has the owner's token has every sandbox, so that no sandbox is to have it. */
static int read_all(const struct args *args, bool add, struct token *token, struct bg_err *err)
{
    bool given = args_flag(args, SERVE_ALL);
    if (given && !add)
        return bg_err_set(err, -EINVAL, "--all is for token add: make another token");
    token->all |= given;
    return token->all && token->quota.nested
               ? bg_err_set(err, -EINVAL,
                            "--nested: the machine owner's token must not get into a sandbox; make "
                            "another token")
               : 0;
}

static int change_tokens(const char *path, const struct args *args, struct tokens *tokens)
{
    const char *verb = args->operands[1], *name = args->operands[2];
    char text[TOKEN_SIZE] = "";
    struct token *token;
    struct bg_err err;
    bool add = strcmp(verb, "add") == 0, remove = strcmp(verb, "rm") == 0;
    int r = add      ? tokens_add(tokens, name, unix_ms(), text, &err)
            : remove ? tokens_remove(tokens, name, &err)
                     : 0;
    if (r == 0 && !remove)
        r = tokens_get(tokens, name, &token, &err);
    if (r == 0 && !remove)
        r = read_quota(args, &token->quota, &err);
    if (r == 0 && !remove)
        r = read_all(args, add, token, &err);
    if (r == 0)
        r = tokens_save(path, tokens, &err);
    if (r < 0)
        return app_fail(&err);
    if (add)
        (void)printf("%s\n", text);
    explicit_bzero(text, sizeof text);
    return app_printed(0);
}

/* token add NAME, token set NAME, token ls, token rm NAME */
static int run_token(const char *path, const struct args *args)
{
    const char *verb = args->operand_count > 1 ? args->operands[1] : "";
    bool list = strcmp(verb, "ls") == 0 && args->operand_count == 2;
    bool change =
        (strcmp(verb, "add") == 0 || strcmp(verb, "set") == 0 || strcmp(verb, "rm") == 0) &&
        args->operand_count == 3;
    struct tokens tokens = {0};
    struct bg_err err;
    if (!list && !change) {
        (void)bg_err_set(&err, -EINVAL,
                         "want: token add NAME, token set NAME, token ls or token rm NAME");
        return app_fail(&err);
    }
    if (tokens_load(path, &tokens, &err) < 0)
        return app_fail(&err);
    int status = list ? print_tokens(&tokens, args_flag(args, SERVE_JSON))
                      : change_tokens(path, args, &tokens);
    tokens_done(&tokens);
    return status;
}

static bool region_ok(const char *region)
{
    return strlen(region) == 3 && strspn(region, "abcdefghijklmnopqrstuvwxyz") == 3;
}

static int read_allow(const struct args *args, const char **allow, struct bg_err *err)
{
    size_t at = 0, count = 0;
    for (const char *rule; (rule = args_next(args, SERVE_ALLOW, &at));) {
        int r = grammar_check_allow(rule, err);
        if (r < 0)
            return r;
        allow[count++] = rule;
    }
    return 0;
}

/* *ret: image is borrowed of args; wanted 0: no pool. */
static int read_pool(const struct args *args, struct pool_info *ret, struct bg_err *err)
{
    const char *number = args_text(args, SERVE_POOL, "0");
    const char *memory = args_text(args, SERVE_POOL_MEMORY, NULL);
    uint64_t wanted;
    if (bg_parse_u64(number, 0, BG_POOL_MEMBERS_MAX, &wanted) < 0)
        return bg_err_set(err, -EINVAL, "--pool: want a number from 0 to %d", BG_POOL_MEMBERS_MAX);
    ret->wanted = (unsigned)wanted;
    ret->memory_bytes = BG_GATEWAY_MEMORY_DEFAULT;
    if (memory && (bg_parse_bytes(memory, BG_SANDBOX_MEMORY_MIN, BG_SANDBOX_MEMORY_MAX,
                                  &ret->memory_bytes) < 0 ||
                   ret->memory_bytes % (1u << 20) != 0))
        return bg_err_set(err, -EINVAL, "--pool-memory: want whole MiB, such as 768M or 2G");
    return 0;
}

/* With its keeper, which ends when we do, whatever the reason; here it is waited for. */
static int serve(const struct server_opts *opts, const struct pool_info *pool, struct bg_err *err)
{
    int owner[2] = {-1, -1};
    pid_t keeper = 0;
    if (pool->wanted > 0 && pipe2(owner, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    BG_AUTOCLOSE int write_end = owner[1];
    int r = 0;
    if (pool->wanted > 0) {
        r = pools_start(pool, /* status_fd= */ -1, owner[0], &keeper, err);
        (void)close(owner[0]); /* the keeper's */
    }
    if (r == 0)
        r = server_run(opts, err);
    if (keeper > 0) {
        (void)close(bg_take_fd(&write_end)); /* nothing was written */
        (void)process_wait_for(keeper, POOL_EXIT_MS);
    }
    return r;
}

static int run_server(struct app *app, const struct args *args, const char *path)
{
    const struct bg_log log = {.fd = STDERR_FILENO, .level = BG_LOG_INFO, .tag = "serve"};
    BG_AUTOFREE const char **names = calloc(args->given_count + 1, sizeof *names);
    BG_AUTOFREE const char **allow = calloc(args->given_count + 1, sizeof *allow);
    BG_AUTOFREE char *ca = NULL;
    const char *ca_option = args_text(args, SERVE_UPSTREAM_CA, NULL);
    struct bg_err err = {0};
    uint64_t cpus = 0;
    size_t at = 0, count = 0;
    int r = names && allow ? 0 : bg_err_errno(&err, -ENOMEM, "serve");
    for (const char *name; r == 0 && (name = args_next(args, SERVE_HOST_NAME, &at));)
        names[count++] = name;
    r = r == 0 ? read_allow(args, allow, &err) : r;
    if (r == 0 && bg_parse_u64(args_text(args, SERVE_CPUS, "1"), 1, BG_SANDBOX_CPUS_MAX, &cpus) < 0)
        r = bg_err_set(&err, -EINVAL, "--cpus: want a number from 1 to %d", BG_SANDBOX_CPUS_MAX);
    if (r == 0 && !region_ok(args_text(args, SERVE_REGION, "ord")))
        r = bg_err_set(&err, -EINVAL, "--region: want three letters from a to z");
    if (r == 0 && ca_option && !(ca = realpath(ca_option, NULL)))
        r = bg_err_errno(&err, -errno, "--upstream-ca");
    uint64_t idle_ms = 0;
    const char *idle = args_text(args, SERVE_IDLE_SUSPEND, NULL);
    if (r == 0 && idle && (grammar_parse_duration(idle, &idle_ms, &err) < 0 || idle_ms < 1000))
        r = bg_err_set(&err, -EINVAL, "--idle-suspend: want a time of 1s or more, such as 10m");
    const char *cert = args_text(args, SERVE_TLS_CERT, NULL);
    const char *key = args_text(args, SERVE_TLS_KEY, NULL);
    if (r == 0 && !cert != !key)
        r = bg_err_set(&err, -EINVAL, "--tls-cert and --tls-key belong together");
    const struct server_opts opts = {.app = app,
                                     .log = &log,
                                     .listen = args_text(args, SERVE_LISTEN, "127.0.0.1:8787"),
                                     .tls_cert = cert,
                                     .tls_key = key,
                                     .plain = args_flag(args, SERVE_WITHOUT_TLS),
                                     .token_file = path,
                                     .host_names = names,
                                     .image = args_text(args, SERVE_IMAGE, "debian"),
                                     .region = args_text(args, SERVE_REGION, "ord"),
                                     .upstream_ca = ca,
                                     .allow = allow,
                                     .cpus = (unsigned)cpus,
                                     .idle_ms = idle_ms};
    BG_AUTOFREE char *image = strdup(opts.image);
    struct pool_info pool = {.image = image, .cpus = (unsigned)cpus};
    if (r == 0 && !image)
        r = bg_err_errno(&err, -ENOMEM, "serve");
    if (r == 0)
        r = read_pool(args, &pool, &err);
    if (r == 0)
        r = serve(&opts, &pool, &err);
    return r < 0 ? app_fail(&err) : 0;
}

static int run(struct app *app, const struct args *args)
{
    BG_AUTOFREE char *path = NULL;
    struct bg_err err;
    int r = app_paths(app, &err);
    if (r == 0)
        r = token_path(app, args, &path, &err);
    if (r == 0 && args->operand_count > 0 && strcmp(args->operands[0], "token") != 0)
        r = bg_err_set(&err, -EINVAL, "serve takes no such word; see bellglass help serve");
    if (r < 0)
        return app_fail(&err);
    return args->operand_count > 0 ? run_token(path, args) : run_server(app, args, path);
}

int main(int argc, char **argv)
{
    struct app app = {.version = BELLGLASS_VERSION};
    if (!app_start())
        return APP_FAILED;
    int status = APP_FAILED;
    if (argc < 2)
        app_note("this program is for bellglass: say bellglass serve");
    else if (strcmp(argv[1], cmd_serve.name) != 0)
        status =
            commands_run(&app, argc - 1, argv + 1); /* the gateway's own way to them (extra.c) */
    else if (setenv("UV_THREADPOOL_SIZE", THREADS, 1) == 0) /* no thread runs yet */
        status = command_run(&app, &cmd_serve, run, argc - 2, argv + 2);
    app_done(&app);
    return status;
}
