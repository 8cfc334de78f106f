/* logs. */
#include "host/cli/commands.h"

#include <string.h>

#include "common/quote.h"
#include "host/cli/follow.h"
#include "host/cli/life.h"
#include "host/cli/sandbox_options.h"

enum { OPTION_FOLLOW = OPTION_OWN, OPTION_SUPERVISOR, OPTION_CONSOLE, OPTION_PROXY, OPTION_RAW };

static const struct option_spec logs_options[] = {
    {OPTION_FOLLOW, 'f', false, "follow", NULL, "wait for more until the sandbox is removed"},
    {OPTION_CONSOLE, 0, false, "console", NULL, "only what the guest's kernel and agent printed"},
    {OPTION_SUPERVISOR, 0, false, "supervisor", NULL, "only the supervisor's log"},
    {OPTION_PROXY, 0, false, "proxy", NULL, "only the egress proxy's log"},
    {OPTION_RAW, 0, false, "raw", NULL,
     "bytes as they are: the guest may send escape sequences to your terminal"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] NAME", NULL};

struct printer {
    char *text;                           /* room for an escaped line */
    const char *labels[FOLLOW_FILES_MAX]; /* what a line begins with, by file */
    bool raw;
};

#define PRINTER_TEXT_SIZE (4 * FOLLOW_LINE_MAX + 8)

static int print_done(void)
{
    return ferror(stdout) ? -(errno ? errno : EIO) : 0;
}

static int print_log_line(void *owner, size_t index, const char *line, size_t size)
{
    struct printer *p = owner;
    (void)fputs(p->labels[index], stdout);
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

static void flush(void *owner)
{
    (void)owner;
    (void)fflush(stdout); /* an error shows at the next line */
}

/* Prints the files, each to its end, and then what comes. */
static int print_files(struct app *app, const struct args *args, struct follow_opts *opts,
                       struct printer *printer)
{
    struct bg_err err;
    struct life life;
    BG_AUTOFREE char *text = malloc(PRINTER_TEXT_SIZE);
    if (!text) {
        (void)bg_err_errno(&err, -ENOMEM, "logs");
        return app_fail(&err);
    }
    if (life_open_any(app, args->operands[0], &life, &err) < 0)
        return app_fail(&err);
    printer->text = text;
    opts->dir = life.sandbox.dir;
    opts->on = args_flag(args, OPTION_FOLLOW);
    opts->on_idle = flush;
    opts->owner = printer;
    int r = follow_files(opts, &err);
    life_done(&life);
    if (r < 0 && !ferror(stdout))
        return app_fail(&err);
    return app_printed(0);
}

static int run_logs(struct app *app, const struct args *args)
{
    static const struct {
        int option;
        const char *name, *label;
    } files[] = {{OPTION_SUPERVISOR, "supervisor.log", "supervisor| "},
                 {OPTION_PROXY, "proxy.log", "proxy| "},
                 {OPTION_CONSOLE, "console.log", "console| "}};
    struct follow_opts opts = {.on_line = print_log_line};
    struct printer printer = {.raw = args_flag(args, OPTION_RAW)};
    size_t asked = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        asked += args_flag(args, files[i].option);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (asked > 0 && !args_flag(args, files[i].option))
            continue;
        opts.names[opts.count] = files[i].name;
        printer.labels[opts.count++] = asked == 1 ? "" : files[i].label;
    }
    return print_files(app, args, &opts, &printer);
}

const struct command cmd_logs = {
    .name = "logs",
    .summary = "show what a sandbox's processes logged",
    .forms = forms,
    .options = logs_options,
    .details = "The logs of its supervisor and its proxy and the guest's console, one after the "
               "other, or those that the options name. Control characters are shown as \\xNN.",
    .operands_min = 1,
    .operands_max = 1,
    .run = run_logs,
};
