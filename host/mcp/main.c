/* bellglass-mcp: what `bellglass mcp` runs. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/limits.h"
#include "common/quote.h"
#include "host/cli/cmd_mcp.h"
#include "host/cli/commands.h"
#include "host/cli/grammar.h"
#include "host/mcp/server.h"

#define MAX_DEFAULT     "4"
#define TIMEOUT_DEFAULT "10m"
#define PREFIX_MAX      32 /* leaves as much for the rest of a name */

struct settings {
    struct bg_sandbox sandbox;
    const char *prefix;
    uint64_t max, timeout_ms;
    const char **named; /* owned; the texts are borrowed from args */
};

static void settings_done(struct settings *settings)
{
    bg_sandbox_done(&settings->sandbox);
    free(settings->named);
}

static int read_limits(const struct args *args, struct settings *ret, struct bg_err *err)
{
    char quoted[128];
    size_t at = 0, count = 0;
    const char *max = args_text(args, MCP_MAX, MAX_DEFAULT);
    ret->prefix = args_text(args, MCP_PREFIX, "mcp");
    ret->named = calloc(args->given_count + 1, sizeof *ret->named);
    if (!ret->named)
        return bg_err_errno(err, -ENOMEM, "mcp");
    for (const char *name; (name = args_next(args, MCP_SANDBOX, &at));)
        ret->named[count++] = name;
    if (bg_parse_u64(max, 0, BG_MCP_SANDBOXES_MAX, &ret->max) < 0)
        return bg_err_set(err, -EINVAL, "--max %s: want a number from 0 to %d",
                          bg_quote(max, quoted, sizeof quoted), BG_MCP_SANDBOXES_MAX);
    if (!bg_sandbox_name_ok(ret->prefix) || strlen(ret->prefix) > PREFIX_MAX)
        return bg_err_set(err, -EINVAL,
                          "--prefix %s: want a-z, 0-9, '.', '_' and '-', at most %d, and a letter "
                          "or digit first",
                          bg_quote(ret->prefix, quoted, sizeof quoted), PREFIX_MAX);
    int r = grammar_parse_duration(args_text(args, MCP_RUN_TIMEOUT, TIMEOUT_DEFAULT),
                                   &ret->timeout_ms, err);
    if (r == 0 && (ret->timeout_ms < 1000 || ret->timeout_ms > 1000ull * BG_MCP_TIMEOUT_S_MAX))
        r = bg_err_set(err, -EINVAL, "want from 1s to %dh", BG_MCP_TIMEOUT_S_MAX / 3600);
    return r < 0 ? bg_err_prefix(err, "--run-timeout") : 0;
}

static int serve(struct app *app, const struct args *args, const struct settings *settings,
                 struct bg_err *err)
{
    const struct bg_log log = {.fd = STDERR_FILENO, .level = BG_LOG_INFO, .tag = "mcp"};
    BG_AUTOFREE char *program = NULL;
    struct keeper keeper = {.fd = -1};
    struct boxes *boxes = NULL;
    const struct boxes_opts opts = {.app = app,
                                    .settings = &settings->sandbox,
                                    .keeper = &keeper,
                                    .prefix = settings->prefix,
                                    .max = settings->max};
    int r = bg_program_path(&program, err);
    if (r == 0)
        r = boxes_open(&opts, settings->named, &boxes, err);
    if (r == 0 && !args_flag(args, MCP_KEEP))
        r = keeper_start(app, &keeper, err);
    const struct server_opts server = {.app = app,
                                       .log = &log,
                                       .boxes = boxes,
                                       .program = program,
                                       .hold_fd = keeper.fd,
                                       .timeout_s_max = (unsigned)(settings->timeout_ms / 1000)};
    if (r == 0 && isatty(STDIN_FILENO))
        app_note("this speaks the Model Context Protocol: a client of it should start it");
    if (r == 0)
        r = server_run(&server, err);
    keeper_finish(&keeper);
    boxes_close(boxes);
    return r;
}

static int run(struct app *app, const struct args *args)
{
    struct settings settings = {.prefix = NULL};
    struct bg_err err;
    int r = read_limits(args, &settings, &err);
    if (r == 0)
        r = sandbox_options_read(app, args, NULL, &settings.sandbox, &err);
    if (r == 0)
        r = serve(app, args, &settings, &err);
    settings_done(&settings);
    return r < 0 ? app_fail(&err) : 0;
}

int main(int argc, char **argv)
{
    struct app app = {.version = BELLGLASS_VERSION};
    if (!app_start())
        return APP_FAILED;
    int status = APP_FAILED;
    if (argc < 2 || strcmp(argv[1], cmd_mcp.name) != 0)
        app_note("this program is for bellglass: say bellglass mcp");
    else
        status = command_run(&app, &cmd_mcp, run, argc - 2, argv + 2);
    app_done(&app);
    return status;
}
