#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "host/cli/args.h"

enum { FLAG = 1, TEXT, LIST };

static const struct option_spec options[] = {
    {FLAG, 'f', false, "flag", NULL, "a flag"},
    {TEXT, 't', false, "text", "T", "a text"},
    {LIST, 'e', true, "each", "E", "texts"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] A [B]", NULL};

static const struct command plain = {
    .name = "plain", .forms = forms, .options = options, .operands_min = 1, .operands_max = 2};
static const struct command runner = {.name = "runner",
                                      .forms = forms,
                                      .options = options,
                                      .rest_is_operands = true,
                                      .operands_min = 1,
                                      .operands_max = -1};

/* The words, split at spaces ("_" stands for the empty word), as a command line. */
static int parse(const struct command *command, const char *line, struct args *ret,
                 struct bg_err *err)
{
    static char text[256];
    static char *argv[32];
    int argc = 0;
    assert_true(strlen(line) < sizeof text);
    memcpy(text, line, strlen(line) + 1);
    char *rest = text;
    for (char *word; (word = strsep(&rest, " "));)
        if (*word != '\0')
            argv[argc++] = strcmp(word, "_") == 0 ? word + 1 : word;
    argv[argc] = NULL;
    return args_parse(command, argc, argv, ret, err);
}

/* What was parsed, as one text: flag, text, each value, operands. */
static const char *shown(const struct args *args)
{
    static char out[512];
    size_t at = 0, used = 0;
#define PUT(...) used += (size_t)snprintf(out + used, sizeof out - used, __VA_ARGS__)
    PUT("%d|%s|", args_flag(args, FLAG), args_text(args, TEXT, "none"));
    for (const char *value; (value = args_next(args, LIST, &at));)
        PUT("%s,", value);
    PUT("|");
    for (size_t i = 0; i < args->operand_count; i++)
        PUT("%s,", args->operands[i]);
#undef PUT
    return out;
}

static void reads_command_lines(void **state)
{
    (void)state;
    static const struct {
        const struct command *command;
        const char *line, *want;
    } cases[] = {
        {&plain, "a", "0|none||a,"},
        {&plain, "-f a", "1|none||a,"},
        {&plain, "a -f", "1|none||a,"},
        {&plain, "--flag --text x a b", "1|x||a,b,"},
        {&plain, "--text=x=y a", "0|x=y||a,"},
        {&plain, "--text= a", "0|||a,"},
        {&plain, "--text _ a", "0|||a,"},
        {&plain, "-tx -ft y a", "1|y||a,"},
        {&plain, "-e 1 -e2 --each 3 --each=4 a", "0|none|1,2,3,4,|a,"},
        {&plain, "-e --flag a", "0|none|--flag,|a,"},
        {&plain, "-- -f -t", "0|none||-f,-t,"},
        {&plain, "a -- -f", "0|none||a,-f,"},
        {&plain, "- -", "0|none||-,-,"},
        {&runner, "-f a -f --text x -- b", "1|none||a,-f,--text,x,--,b,"},
        {&runner, "-f -- -x -f", "1|none||-x,-f,"},
        {&runner, "-- -- a", "0|none||--,a,"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct args args;
        struct bg_err err = {0};
        if (parse(cases[i].command, cases[i].line, &args, &err) < 0)
            fail_msg("%s: %s", cases[i].line, err.text);
        assert_string_equal(shown(&args), cases[i].want);
        args_done(&args);
    }
}

static void refuses_what_it_does_not_know(void **state)
{
    (void)state;
    static const struct {
        const char *line, *says;
    } cases[] = {
        {"--flga a", "unknown option '--flga'; did you mean --flag?"},
        {"--fl a", "unknown option '--fl'; did you mean --flag?"},
        {"--hepl a", "did you mean --help?"},
        {"--zebra a", "unknown option '--zebra'; see bellglass plain --help"},
        {"--text-x=1 a", "unknown option '--text-x=1'"},
        {"-z a", "unknown option '-z'; see bellglass plain --help"},
        {"-fz a", "unknown option '-fz'"},
        {"--flag=1 a", "--flag takes no value"},
        {"a --text", "--text needs a value: --text T"},
        {"a -t", "-t needs a value: -t T"},
        {"", "an argument is missing: bellglass plain [OPTIONS] A [B]"},
        {"-f", "an argument is missing"},
        {"a b c", "'c' is one argument too many: bellglass plain [OPTIONS] A [B]"},
        {"--\x1b[2J", "unknown option '--\\x1b[2J'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct args args;
        struct bg_err err = {0};
        assert_int_equal(parse(&plain, cases[i].line, &args, &err), -EINVAL);
        if (!strstr(err.text, cases[i].says))
            fail_msg("%s: %s", cases[i].line, err.text);
    }
}

static void help_stands_above_all_else(void **state)
{
    (void)state;
    static const char *const lines[] = {"--help", "-h", "a --help --no-such", "a b c -h"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct args args;
        struct bg_err err;
        assert_int_equal(parse(&plain, lines[i], &args, &err), 0);
        assert_true(args.help);
        args_done(&args);
    }
    struct args args;
    struct bg_err err;
    assert_int_equal(parse(&runner, "ls --help", &args, &err), 0);
    assert_false(args.help); /* it is the command's own */
    args_done(&args);
}

static void finds_the_nearest_word(void **state)
{
    (void)state;
    static const char *const words[] = {"run", "create", "exec", "inspect", "image"};
    static const char *const cases[][2] = {
        {"rn", "run"},        {"nur", NULL},       {"rnu", "run"},   {"creat", "create"},
        {"craete", "create"}, {"insp", "inspect"}, {"ima", "image"}, {"imgae", "image"},
        {"frobnicate", NULL}, {"x", NULL},         {"", NULL},       {"exce", "exec"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *near = args_nearest(cases[i][0], words, 5);
        if (!cases[i][1] ? near != NULL : !near || strcmp(near, cases[i][1]) != 0)
            fail_msg("%s: %s", cases[i][0], near ? near : "none");
    }
    char long_word[4096];
    memset(long_word, 'r', sizeof long_word - 1);
    long_word[sizeof long_word - 1] = '\0';
    assert_null(args_nearest(long_word, words, 5));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_command_lines),
        cmocka_unit_test(refuses_what_it_does_not_know),
        cmocka_unit_test(help_stands_above_all_else),
        cmocka_unit_test(finds_the_nearest_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
