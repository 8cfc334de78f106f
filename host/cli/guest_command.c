#include "host/cli/guest_command.h"

#include <stdio.h>
#include <string.h>

#include "common/quote.h"
#include "common/wire.h"
#include "host/cli/exec_request.h"
#include "host/cli/exec_stream.h"
#include "host/cli/reattach.h"
#include "host/cli/wake.h"

int guest_command_operands(const struct args *args, size_t at, struct guest_command *ret,
                           struct bg_err *err)
{
    char quoted[128];
    bool separated = at < args->operand_count && strcmp(args->operands[at], "--") == 0;
    at += separated;
    if (at >= args->operand_count)
        return bg_err_set(err, -EINVAL, "the command to run is missing");
    if (!separated && at > 0 && args->operands[at][0] == '-')
        return bg_err_set(err, -EINVAL,
                          "%s: options go before the sandbox's name; a command that begins with a "
                          "dash goes behind --",
                          bg_quote(args->operands[at], quoted, sizeof quoted));
    ret->argv = args->operands + at;
    ret->argc = args->operand_count - at;
    return 0;
}

/* With a terminal the command must know its kind: our TERM, unless env has one. *ret_env: heap
 * array of borrowed texts but the last, which is *ret_term (heap), if that is not NULL. */
static int env_with_term(const struct guest_command *c, char ***ret_env, size_t *ret_envc,
                         char **ret_term)
{
    const char *term = c->tty ? getenv("TERM") : NULL;
    *ret_env = calloc(c->envc + 2, sizeof **ret_env);
    if (!*ret_env)
        return -ENOMEM;
    for (size_t i = 0; i < c->envc; i++) {
        (*ret_env)[i] = c->env[i];
        if (strncmp(c->env[i], "TERM=", 5) == 0)
            term = NULL;
    }
    *ret_envc = c->envc;
    *ret_term = NULL;
    if (!term)
        return 0;
    if (asprintf(ret_term, "TERM=%s", term) < 0) {
        *ret_term = NULL;
        return -ENOMEM;
    }
    (*ret_env)[(*ret_envc)++] = *ret_term;
    return 0;
}

static int open_stream(struct app *app, const struct bg_sandbox *sandbox,
                       const struct guest_command *c, int *ret_fd, struct bg_err *err)
{
    BG_AUTOFREE uint8_t *body = NULL;
    BG_AUTOFREE char *term = NULL;
    BG_AUTOFREE char **env = NULL;
    size_t size, envc;
    if (env_with_term(c, &env, &envc, &term) < 0)
        return bg_err_errno(err, -ENOMEM, "environment");
    struct exec_request request = {.tty = c->tty,
                                   .alone = c->leave,
                                   .user = c->user,
                                   .cwd = c->cwd,
                                   .argv = c->argv,
                                   .argc = c->argc,
                                   .env = env,
                                   .envc = envc};
    if (c->tty)
        terminal_size(isatty(STDIN_FILENO) ? STDIN_FILENO : STDOUT_FILENO, &request.rows,
                      &request.columns);
    int r = exec_request_emit(&request, &body, &size, err);
    return r < 0 ? r : wake_open(app, sandbox, "exec", body, size, ret_fd, err);
}

/* Runs the stream, as stdin, stdout and stderr are here. */
static int run(struct exec_stream_opts *opts, struct reattach *reattach,
               struct exec_stream_result *ret, struct bg_err *err)
{
    opts->stdin_fd = STDIN_FILENO;
    opts->stdout_fd = STDOUT_FILENO;
    opts->stderr_fd = STDERR_FILENO;
    opts->signal_fd = reattach->signal_fd;
    opts->on_lost = reattach_lost;
    opts->owner = reattach;
    int r = exec_stream_run(opts, ret, err);
    /* What the control socket says of it names it already. */
    char prefix[BG_SANDBOX_NAME_MAX + 16];
    (void)snprintf(prefix, sizeof prefix, "sandbox '%s'", reattach->sandbox->name);
    if (err->text[0] != '\0' && !strstr(err->text, prefix))
        (void)bg_err_prefix(err, "%s", prefix);
    return r;
}

int guest_command_run(struct app *app, const struct bg_sandbox *sandbox,
                      const struct guest_command *command, uint32_t *ret_pid, int *ret_status,
                      struct bg_err *err)
{
    BG_AUTOCLOSE int stream = -1;
    struct terminal terminal;
    struct exec_stream_result result;
    *err = (struct bg_err){0};
    int r = open_stream(app, sandbox, command, &stream, err);
    if (r < 0)
        return r;
    terminal_init(&terminal, STDIN_FILENO);
    struct reattach reattach = {.app = app,
                                .sandbox = sandbox,
                                .signal_fd = command->signal_fd,
                                .own = true,
                                .resize = command->tty};
    struct exec_stream_opts opts = {
        .stream_fd = stream, .leave = command->leave, .terminal = command->tty ? &terminal : NULL};
    r = run(&opts, &reattach, &result, err);
    if (r < 0)
        return r;
    if (ret_pid)
        *ret_pid = result.pid;
    *ret_status = result.exit_status;
    return 0;
}

int guest_command_attach(struct app *app, const struct bg_sandbox *sandbox, uint32_t pid,
                         bool steal, int signal_fd, int *ret_status, struct bg_err *err)
{
    BG_AUTOCLOSE int stream = -1;
    struct terminal terminal;
    struct exec_stream_result result;
    bool typed = isatty(STDIN_FILENO);
    struct reattach reattach = {
        .app = app, .sandbox = sandbox, .signal_fd = signal_fd, .resize = typed};
    *err = (struct bg_err){0};
    int r = reattach_open(&reattach, /* at= */ NULL, pid, steal ? BG_EXEC_STEAL : 0, &stream, err);
    if (r < 0)
        return r;
    terminal_init(&terminal, STDIN_FILENO);
    struct exec_stream_opts opts = {.stream_fd = stream,
                                    .attach = true,
                                    .detach_keys = typed,
                                    .terminal = typed ? &terminal : NULL};
    r = run(&opts, &reattach, &result, err);
    if (r == -EBUSY && !steal) {
        size_t used = strlen(err->text);
        (void)snprintf(err->text + used, sizeof err->text - used, "; take it over with --steal");
    }
    if (r < 0)
        return r;
    if (result.left)
        app_note("it goes on in sandbox '%s': bellglass attach %s %u", sandbox->name, sandbox->name,
                 result.pid);
    *ret_status = result.exit_status;
    return 0;
}
