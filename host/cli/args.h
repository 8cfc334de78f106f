/* args: what a command takes, as a table, and the reading of a command line by it. The same table
 * gives --help, the man page and the shell completion (help.h), so that none of them can be wrong.
 * Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

struct app;
struct args;

struct option_spec {
    int id;            /* > 0, unique in its command: what args_* are asked with */
    char letter;       /* 0: long form only */
    bool repeats;      /* may be given more than once, each counts; else the last one counts */
    const char *name;  /* without the dashes */
    const char *value; /* what stands for its value in help: "HOST[:PORT]"; NULL: a flag */
    const char *help;  /* one line, without a dot at the end */
};

struct command {
    const char *name;
    const char *summary;               /* one line for the list of commands */
    const char *const *forms;          /* what follows "bellglass NAME"; NULL-terminated */
    const struct option_spec *options; /* ends with a zero id; NULL: none */
    const char *details;               /* paragraphs, may be NULL */
    const char *const *examples;       /* NULL-terminated, may be NULL */
    /* Everything after the first operand belongs to it, options too (commands that run others). */
    bool rest_is_operands;
    /* The whole line goes to this helper program, unread (image, secret, cp). */
    const char *helper;
    bool helper_verb; /* it is the helper of several: its first argument says of which */
    int operands_min, operands_max; /* max < 0: any number */
    /* Returns the exit status. */
    int (*run)(struct app *app, const struct args *args);
};

struct arg {
    int id;
    const char *value; /* borrowed from argv; NULL for a flag */
};

struct args {
    struct arg *given; /* in order */
    size_t given_count;
    char **operands; /* borrowed from argv, NULL-terminated; "--" is gone unless it came after the
                        first operand of a command with rest_is_operands */
    size_t operand_count;
    bool help; /* --help or -h was met: the rest was not read. In no table, since every command has
                  it */
};

/* Reads argv (without the command's name) by the command's table. argv: borrowed as long as ret is
 * used. Errors: -EINVAL unknown option (with the nearest one), a missing or surplus value, too few
 * or too many operands; -ENOMEM. */
int args_parse(const struct command *command, int argc, char **argv, struct args *ret,
               struct bg_err *err) BG_MUST_CHECK;
void args_done(struct args *args);

bool args_flag(const struct args *args, int id);
/* The last value given, or fallback. */
const char *args_text(const struct args *args, int id, const char *fallback);
/* The next value of a repeating option; *at starts at 0. NULL after the last. */
const char *args_next(const struct args *args, int id, size_t *at);

/* The one of count words that is nearest to what was typed, or NULL if none is near. */
const char *args_nearest(const char *typed, const char *const *words, size_t count);
