/* audit. */
#include "host/cli/commands.h"

#include <string.h>

#include "common/checked.h"
#include "common/limits.h"
#include "common/quote.h"
#include "host/cli/audit_filter.h"
#include "host/cli/audit_har.h"
#include "host/cli/audit_line.h"
#include "host/cli/follow.h"
#include "host/cli/life.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"

enum {
    OPTION_FOLLOW = OPTION_OWN,
    OPTION_LAST,
    OPTION_HAR,
    OPTION_SINCE,
    OPTION_UNTIL,
    OPTION_HOST,
    OPTION_DECISION,
    OPTION_REASON,
    OPTION_METHOD,
    OPTION_STATUS
};

static const struct option_spec options[] = {
    {OPTION_FOLLOW, 'f', false, "follow", NULL, "wait for more until the sandbox is removed"},
    {OPTION_LAST, 'n', false, "last", "COUNT", "only the last COUNT lines, of those asked for"},
    {OPTION_SINCE, 0, false, "since", "TIME", "only from TIME on"},
    {OPTION_UNTIL, 0, false, "until", "TIME", "only before TIME"},
    {OPTION_HOST, 0, true, "host", "HOST", "only of HOST; *.suffix: of every name below suffix"},
    {OPTION_DECISION, 0, true, "decision", "WORD", "only allow, deny or error"},
    {OPTION_REASON, 0, true, "reason", "WORD", "only with this reason, such as host-not-allowed"},
    {OPTION_METHOD, 0, true, "method", "METHOD", "only requests with this method"},
    {OPTION_STATUS, 0, true, "status", "STATUS", "only with this answer: 403, or 4xx"},
    {OPTION_JSON, 0, false, "json", NULL, "one JSON object a line"},
    {OPTION_HAR, 0, false, "har", NULL, "the HTTP requests as a HAR 1.2 file"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] NAME", NULL};

struct printer {
    struct audit_filter filter;
    bool json, har;
    size_t printed, damaged;
    /* -n: the lines that may be the last ones, in a ring; printed when the reading comes to an end
     * for the first time. */
    char **last;
    size_t last_max, last_count, last_next;
};

static int print(struct printer *p, const char *text)
{
    if (p->har && p->printed > 0)
        (void)fputc(',', stdout);
    (void)printf("%s%s", p->har ? "\n" : "", text);
    if (!p->har)
        (void)fputc('\n', stdout);
    p->printed++;
    return ferror(stdout) ? -(errno ? errno : EIO) : 0;
}

/* Prints what -n has kept; from then on every line is printed as it comes. */
static int print_last(struct printer *p)
{
    int r = 0;
    size_t at = p->last_count < p->last_max ? 0 : p->last_next;
    for (size_t i = 0; i < p->last_count; i++) {
        char **slot = &p->last[(at + i) % p->last_max];
        if (r == 0)
            r = print(p, *slot);
        free(*slot);
        *slot = NULL;
    }
    free(p->last);
    p->last = NULL;
    p->last_count = 0;
    return r;
}

/* Takes text. */
static void keep(struct printer *p, char *text)
{
    free(p->last[p->last_next]);
    p->last[p->last_next] = text;
    p->last_next = (p->last_next + 1) % p->last_max;
    if (p->last_count < p->last_max)
        p->last_count++;
}

/* The line as it is to be printed, heap; *ret NULL: not at all. */
static int format(const struct printer *p, const json_t *json, char **ret)
{
    char text[AUDIT_LINE_SIZE];
    *ret = NULL;
    if (!audit_filter_matches(&p->filter, json))
        return 0;
    if (p->har)
        return audit_har_entry(json, ret);
    if (p->json) {
        *ret = output_json_text(json, JSON_COMPACT);
    } else {
        audit_line_format(json, text);
        *ret = strdup(text);
    }
    return *ret ? 0 : -ENOMEM;
}

static int on_line(void *owner, size_t index, const char *line, size_t size)
{
    struct printer *p = owner;
    BG_AUTOFREE char *text = NULL;
    json_auto_t *json = audit_line_load(line, size);
    (void)index;
    if (!json) {
        p->damaged++; /* a line cut by a crash hides none of the others */
        return 0;
    }
    int r = format(p, json, &text);
    if (r < 0 || !text)
        return r;
    if (!p->last)
        return print(p, text);
    keep(p, BG_TAKE(text));
    return 0;
}

static void on_idle(void *owner)
{
    struct printer *p = owner;
    if (p->last)
        (void)print_last(p); /* an error shows at the next line, and at the end */
    (void)fflush(stdout);
}

static int read_filter(const struct args *args, struct audit_filter *filter, struct bg_err *err)
{
    static const struct {
        int option;
        enum audit_filter_key key;
    } keys[] = {{OPTION_SINCE, AUDIT_FILTER_SINCE},   {OPTION_UNTIL, AUDIT_FILTER_UNTIL},
                {OPTION_HOST, AUDIT_FILTER_HOST},     {OPTION_DECISION, AUDIT_FILTER_DECISION},
                {OPTION_REASON, AUDIT_FILTER_REASON}, {OPTION_METHOD, AUDIT_FILTER_METHOD},
                {OPTION_STATUS, AUDIT_FILTER_STATUS}};
    uint64_t now_ms = output_now_ms();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        size_t at = 0;
        for (const char *text; (text = args_next(args, keys[i].option, &at)) != NULL;) {
            int r = audit_filter_add(filter, keys[i].key, text, now_ms, err);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

static int read_options(const struct args *args, struct printer *p, struct bg_err *err)
{
    char quoted[80];
    const char *last = args_text(args, OPTION_LAST, NULL);
    uint64_t count = 0;
    p->json = args_flag(args, OPTION_JSON);
    p->har = args_flag(args, OPTION_HAR);
    if (p->har && (p->json || args_flag(args, OPTION_FOLLOW)))
        return bg_err_set(err, -EINVAL, "--har is one whole file: not with --json or --follow");
    if (last && bg_parse_u64(last, 1, BG_AUDIT_LAST_MAX, &count) < 0)
        return bg_err_set(err, -EINVAL, "--last %s: want a number from 1 to %d",
                          bg_quote(last, quoted, sizeof quoted), BG_AUDIT_LAST_MAX);
    int r = read_filter(args, &p->filter, err);
    if (r < 0 || !last)
        return r;
    p->last_max = (size_t)count;
    p->last = calloc(p->last_max, sizeof *p->last);
    return p->last ? 0 : bg_err_errno(err, -ENOMEM, "audit");
}

static int print_all(struct app *app, const struct args *args, struct printer *p,
                     struct bg_err *err)
{
    struct life life;
    int r = life_open_any(app, args->operands[0], &life, err);
    if (r < 0)
        return r;
    BG_AUTOFREE char *begin = p->har ? audit_har_begin(app->version) : NULL;
    const struct follow_opts opts = {.dir = life.sandbox.dir,
                                     .audit = true,
                                     .on = args_flag(args, OPTION_FOLLOW),
                                     .on_line = on_line,
                                     .on_idle = on_idle,
                                     .owner = p};
    if (p->har && !begin)
        r = bg_err_errno(err, -ENOMEM, "audit");
    if (r == 0 && begin)
        (void)fputs(begin, stdout);
    if (r == 0)
        r = follow_files(&opts, err);
    if (r == 0 && p->last)
        r = print_last(p);
    if (r == 0 && p->har)
        (void)fputs(p->printed > 0 ? "\n" AUDIT_HAR_END : AUDIT_HAR_END, stdout);
    life_done(&life);
    return r < 0 && ferror(stdout) ? 0 : r; /* app_printed tells it */
}

static int run_audit(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct printer p = {0};
    int r = read_options(args, &p, &err);
    if (r == 0)
        r = print_all(app, args, &p, &err);
    for (size_t i = 0; p.last && i < p.last_max; i++)
        free(p.last[i]);
    free(p.last);
    if (r < 0)
        return app_fail(&err);
    if (p.damaged > 0)
        app_note("%zu damaged lines were left out", p.damaged);
    return app_printed(0);
}

static const char *const examples[] = {"audit --decision deny --since 10m work",
                                       "audit -f --host '*.example.org' --json work",
                                       "audit --har work > work.har", NULL};

const struct command cmd_audit = {
    .name = "audit",
    .summary = "show what a sandbox reached, or tried to",
    .forms = forms,
    .options = options,
    .details =
        "One line for each connection or request: when, the decision, what was asked for, the "
        "answer, the rule that allowed it, and the secrets that were put in, by name.\n\n"
        "TIME is as in 2026-11-23T08:30:00Z, or 10m for ten minutes ago (s, m, h, d). Of --host, "
        "--decision, --reason, --method and --status several may be given: any of one kind is "
        "enough, and each kind has to fit.\n\n"
        "A HAR file holds what the audit does: no bodies, header fields or queries.",
    .examples = examples,
    .operands_min = 1,
    .operands_max = 1,
    .run = run_audit,
};
