#include "host/cli/args.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/checked.h"
#include "common/quote.h"

#define WORD_MAX    48 /* longer words are near nothing */
#define QUOTED_SIZE 96

/* Edit distance with swaps of neighbours counted once (optimal string alignment). */
static size_t distance(const char *a, const char *b)
{
    size_t rows[3][WORD_MAX + 1];
    size_t a_size = strlen(a), b_size = strlen(b);
    if (a_size > WORD_MAX || b_size > WORD_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= b_size; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= a_size; i++) {
        size_t *now = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= b_size; j++) {
            size_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best)
                best = above[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                two_above[j - 2] + 1 < best)
                best = two_above[j - 2] + 1;
            now[j] = best;
        }
    }
    return rows[a_size % 3][b_size];
}

const char *args_nearest(const char *typed, const char *const *words, size_t count)
{
    const char *best = NULL;
    size_t best_distance = SIZE_MAX, typed_size = strlen(typed);
    for (size_t i = 0; i < count; i++) {
        size_t d = distance(typed, words[i]);
        if (d > 0 && typed_size > 1 && strncmp(typed, words[i], typed_size) == 0)
            d = 1; /* the beginning of a word is as near as a slip */
        if (d < best_distance) {
            best_distance = d;
            best = words[i];
        }
    }
    return best && best_distance <= 1 + typed_size / 4 ? best : NULL;
}

static int unknown_option(const struct command *command, const char *given, const char *name,
                          struct bg_err *err)
{
    const char *names[64] = {"help"};
    size_t count = 1;
    for (const struct option_spec *o = command->options; o && o->id; o++) {
        assert(count < sizeof names / sizeof *names);
        names[count++] = o->name;
    }
    char quoted[QUOTED_SIZE];
    (void)bg_quote(given, quoted, sizeof quoted);
    const char *near = name ? args_nearest(name, names, count) : NULL;
    if (near)
        return bg_err_set(err, -EINVAL, "unknown option %s; did you mean --%s?", quoted, near);
    return bg_err_set(err, -EINVAL, "unknown option %s; see bellglass %s --help", quoted,
                      command->name);
}

/* Where the reading is. */
struct reading {
    const struct command *command;
    int argc;
    char **argv;
    int at; /* the argument after the current one */
    struct args *args;
};

static void give(struct reading *in, int id, const char *value)
{
    in->args->given[in->args->given_count++] = (struct arg){.id = id, .value = value};
}

static int read_long(struct reading *in, const char *text, struct bg_err *err)
{
    const char *equals = strchr(text, '=');
    size_t size = equals ? (size_t)(equals - text) : strlen(text);
    const struct option_spec *o = in->command->options;
    while (o && o->id && (strlen(o->name) != size || strncmp(o->name, text, size) != 0))
        o++;
    if (!o || !o->id) {
        BG_AUTOFREE char *name = strndup(text, size);
        return unknown_option(in->command, text - 2, name, err);
    }
    if (!o->value) {
        if (equals)
            return bg_err_set(err, -EINVAL, "--%s takes no value", o->name);
        give(in, o->id, NULL);
        return 0;
    }
    if (!equals && in->at == in->argc)
        return bg_err_set(err, -EINVAL, "--%s needs a value: --%s %s", o->name, o->name, o->value);
    give(in, o->id, equals ? equals + 1 : in->argv[in->at++]);
    return 0;
}

/* "-t", "-it", "-eK=V", "-e" "K=V". */
static int read_letters(struct reading *in, const char *text, struct bg_err *err)
{
    for (const char *p = text + 1; *p != '\0'; p++) {
        const struct option_spec *o = in->command->options;
        while (o && o->id && o->letter != *p)
            o++;
        if (!o || !o->id)
            return unknown_option(in->command, text, strlen(text) > 2 ? text + 1 : NULL, err);
        if (!o->value) {
            give(in, o->id, NULL);
            continue;
        }
        if (p[1] == '\0' && in->at == in->argc)
            return bg_err_set(err, -EINVAL, "-%c needs a value: -%c %s", *p, *p, o->value);
        give(in, o->id, p[1] != '\0' ? p + 1 : in->argv[in->at++]);
        return 0;
    }
    return 0;
}

static int count_operands(const struct command *command, const struct args *args,
                          struct bg_err *err)
{
    size_t max = command->operands_max < 0 ? SIZE_MAX : (size_t)command->operands_max;
    if (args->operand_count >= (size_t)command->operands_min && args->operand_count <= max)
        return 0;
    char quoted[QUOTED_SIZE];
    if (args->operand_count > max)
        return bg_err_set(err, -EINVAL, "%s is one argument too many: bellglass %s %s",
                          bg_quote(args->operands[max], quoted, sizeof quoted), command->name,
                          command->forms[0]);
    return bg_err_set(err, -EINVAL, "an argument is missing: bellglass %s %s", command->name,
                      command->forms[0]);
}

int args_parse(const struct command *command, int argc, char **argv, struct args *ret,
               struct bg_err *err)
{
    struct args args = {0};
    /* Each argument gives at most as many options as it has letters. */
    size_t letters = 1;
    for (int i = 0; i < argc; i++)
        letters += strlen(argv[i]);
    args.given = calloc(letters, sizeof *args.given);
    args.operands = calloc((size_t)argc + 1, sizeof *args.operands);
    if (!args.given || !args.operands) {
        args_done(&args);
        (void)bg_err_errno(err, -ENOMEM, "command line");
        return -ENOMEM;
    }
    int r = 0;
    struct reading in = {.command = command, .argc = argc, .argv = argv, .args = &args};
    bool options_ended = false;
    while (r == 0 && in.at < argc && !args.help) {
        char *text = argv[in.at++];
        if (options_ended || text[0] != '-' || text[1] == '\0') {
            args.operands[args.operand_count++] = text;
            options_ended = options_ended || command->rest_is_operands;
        } else if (strcmp(text, "--") == 0) {
            options_ended = true;
        } else if (strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0) {
            args.help = true;
        } else {
            r = text[1] == '-' ? read_long(&in, text + 2, err) : read_letters(&in, text, err);
        }
    }
    if (r == 0 && !args.help)
        r = count_operands(command, &args, err);
    if (r < 0) {
        args_done(&args);
        return r;
    }
    *ret = args;
    return 0;
}

void args_done(struct args *args)
{
    free(args->given);
    free(args->operands);
    *args = (struct args){0};
}

bool args_flag(const struct args *args, int id)
{
    for (size_t i = 0; i < args->given_count; i++)
        if (args->given[i].id == id)
            return true;
    return false;
}

const char *args_text(const struct args *args, int id, const char *fallback)
{
    for (size_t i = args->given_count; i > 0; i--)
        if (args->given[i - 1].id == id)
            return args->given[i - 1].value;
    return fallback;
}

const char *args_next(const struct args *args, int id, size_t *at)
{
    while (*at < args->given_count) {
        const struct arg *arg = &args->given[(*at)++];
        if (arg->id == id)
            return arg->value;
    }
    return NULL;
}
