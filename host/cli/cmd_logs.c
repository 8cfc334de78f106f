/* logs and audit. */
#include "host/cli/commands.h"

#include <string.h>

#include "common/quote.h"
#include "host/cli/audit_line.h"
#include "host/cli/follow.h"
#include "host/cli/life.h"
#include "host/cli/sandbox_options.h"

enum { OPTION_FOLLOW = OPTION_OWN, OPTION_CONSOLE, OPTION_PROXY, OPTION_RAW };

static const struct option_spec logs_options[] = {
    {OPTION_FOLLOW, 'f', "follow", NULL, false, "wait for more until the sandbox is removed"},
    {OPTION_CONSOLE, 0, "console", NULL, false, "what the guest's kernel and agent printed"},
    {OPTION_PROXY, 0, "proxy", NULL, false, "the egress proxy's log"},
    {OPTION_RAW, 0, "raw", NULL, false,
     "bytes as they are: the guest may send escape sequences to your terminal"},
    {0},
};

static const struct option_spec audit_options[] = {
    {OPTION_FOLLOW, 'f', "follow", NULL, false, "wait for more until the sandbox is removed"},
    {OPTION_JSON, 0, "json", NULL, false, "one JSON object a line"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] NAME", NULL};

struct printer {
    char *text; /* room for an escaped line */
    bool raw, json;
    size_t damaged;
};

#define PRINTER_TEXT_SIZE (4 * FOLLOW_LINE_MAX + 8)

static int print_done(void)
{
    return ferror(stdout) ? -(errno ? errno : EIO) : 0;
}

static int print_log_line(void *owner, const char *line, size_t size)
{
    struct printer *p = owner;
    if (p->raw) {
        (void)fwrite(line, 1, size, stdout);
    } else {
        size -= size > 0 && line[size - 1] == '\r'; /* a console's line ends */
        bg_escape(line, size, p->text, PRINTER_TEXT_SIZE);
        (void)fputs(p->text, stdout);
    }
    (void)fputc('\n', stdout);
    return print_done();
}

static int print_audit_line(void *owner, const char *line, size_t size)
{
    struct printer *p = owner;
    BG_AUTOFREE char *json = NULL;
    char text[AUDIT_LINE_SIZE];
    int r = p->json ? audit_line_json(line, size, &json, NULL)
                    : audit_line_format(line, size, text, NULL);
    if (r < 0) {
        p->damaged++; /* a line cut by a crash hides none of the others */
        return r == -ENOMEM ? r : 0;
    }
    (void)printf("%s\n", p->json ? json : text);
    return print_done();
}

static void flush(void *owner)
{
    (void)owner;
    (void)fflush(stdout); /* an error shows at the next line */
}

static int print_file(struct app *app, const struct args *args, const char *file,
                      int (*on_line)(void *, const char *, size_t))
{
    struct bg_err err;
    struct life life;
    if (life_open_any(app, args->operands[0], &life, &err) < 0)
        return app_fail(&err);
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *text = malloc(PRINTER_TEXT_SIZE);
    struct printer printer = {
        .text = text, .raw = args_flag(args, OPTION_RAW), .json = args_flag(args, OPTION_JSON)};
    int r = text && asprintf(&path, "%s/%s", life.sandbox.dir, file) >= 0
                ? 0
                : bg_err_errno(&err, -ENOMEM, "%s", file);
    life_done(&life);
    if (r == 0) {
        struct follow_opts opts = {.path = path,
                                   .on = args_flag(args, OPTION_FOLLOW),
                                   .on_line = on_line,
                                   .on_idle = flush,
                                   .owner = &printer};
        r = follow_file(&opts, &err);
    }
    /* One that never ran has written nothing. */
    if (r < 0 && r != -ENOENT && !ferror(stdout))
        return app_fail(&err);
    if (printer.damaged > 0)
        app_note("%zu damaged lines were left out", printer.damaged);
    return app_printed(0);
}

static int run_logs(struct app *app, const struct args *args)
{
    const char *file = args_flag(args, OPTION_CONSOLE) ? "console.log"
                       : args_flag(args, OPTION_PROXY) ? "proxy.log"
                                                       : "supervisor.log";
    return print_file(app, args, file, print_log_line);
}

static int run_audit(struct app *app, const struct args *args)
{
    return print_file(app, args, "audit.ndjson", print_audit_line);
}

const struct command cmd_logs = {
    .name = "logs",
    .summary = "show what a sandbox's processes logged",
    .forms = forms,
    .options = logs_options,
    .details = "The supervisor's log, or the one that an option names. Control characters are "
               "shown as \\xNN.",
    .operands_min = 1,
    .operands_max = 1,
    .run = run_logs,
};

const struct command cmd_audit = {
    .name = "audit",
    .summary = "show what a sandbox reached, or tried to",
    .forms = forms,
    .options = audit_options,
    .details = "One line for each connection or request: when, the decision, what was asked for, "
               "the answer, the rule that allowed it, and the secrets that were put in, by name.",
    .operands_min = 1,
    .operands_max = 1,
    .run = run_audit,
};
