/* Every option of every command is in its --help, its man page and the completion, and the tables
 * are sound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "host/cli/help.h"

static char *captured(void (*print)(FILE *out, const struct command *command),
                      const struct command *command)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    print(out, command);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void print_man(FILE *out, const struct command *command)
{
    help_man(out, command, "1.2.3");
}

static void print_completion(FILE *out, const struct command *command)
{
    (void)command;
    help_completion(out);
}

static void print_overview(FILE *out, const struct command *command)
{
    (void)command;
    help_overview(out);
}

/* roff's spelling of an option. */
static void roff_option(const char *name, char *out)
{
    memcpy(out, "\\-\\-", 4);
    out += 4;
    for (; *name != '\0'; name++) {
        if (*name == '-')
            *out++ = '\\';
        *out++ = *name;
    }
    *out = '\0';
}

static void check_option(const struct command *command, const struct option_spec *o,
                         const char *help, const char *man, const char *completion)
{
    char text[128];
    (void)snprintf(text, sizeof text, "--%s", o->name);
    if (!strstr(help, text))
        fail_msg("%s: --help lacks %s", command->name, text);
    if (!strstr(completion, text))
        fail_msg("completion lacks %s", text);
    roff_option(o->name, text);
    if (!strstr(man, text))
        fail_msg("%s: the man page lacks %s", command->name, text);
    (void)snprintf(text, sizeof text, "-%c, --%s", o->letter, o->name);
    if (o->letter && !strstr(help, text))
        fail_msg("%s: --help lacks %s", command->name, text);
    if (o->value)
        assert_non_null(strstr(help, o->value));
}

static void every_option_is_explained_everywhere(void **state)
{
    (void)state;
    char *completion = captured(print_completion, NULL);
    for (size_t i = 0; commands[i]; i++) {
        char *help = captured(help_command, commands[i]), *man = captured(print_man, commands[i]);
        assert_non_null(strstr(help, "-h, --help"));
        for (const struct option_spec *o = commands[i]->options; o && o->id; o++)
            check_option(commands[i], o, help, man, completion);
        free(help);
        free(man);
    }
    free(completion);
}

static void every_command_is_listed(void **state)
{
    (void)state;
    char *overview = captured(print_overview, NULL), *man = captured(print_man, NULL);
    for (size_t i = 0; commands[i]; i++) {
        assert_non_null(strstr(overview, commands[i]->name));
        assert_non_null(strstr(man, commands[i]->name));
        assert_ptr_equal(command_find(commands[i]->name), commands[i]);
    }
    assert_null(command_find("no-such"));
    free(overview);
    free(man);
}

static void every_command_has_a_page_to_install(void **state)
{
    (void)state;
    for (size_t i = 0; commands[i]; i++) {
        char word[64];
        (void)snprintf(word, sizeof word, " %s ", commands[i]->name);
        if (!strstr(" " MAN_VERBS " ", word))
            fail_msg("docs/man/meson.build lacks %s", commands[i]->name);
    }
}

static void tables_are_sound(void **state)
{
    (void)state;
    for (size_t i = 0; commands[i]; i++) {
        const struct command *c = commands[i];
        assert_true(c->name && c->summary && c->forms && c->forms[0]);
        assert_true(c->run || c->helper);
        assert_true(c->operands_max < 0 || c->operands_min <= c->operands_max);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(commands[j]->name, c->name);
        for (const struct option_spec *o = c->options; o && o->id; o++) {
            assert_true(o->id > 0 && o->name && o->help);
            assert_true(o->letter != 'h' && strcmp(o->name, "help") != 0);
            assert_false(o->help[strlen(o->help) - 1] == '.');
            for (const struct option_spec *p = c->options; p != o; p++) {
                assert_int_not_equal(p->id, o->id);
                assert_string_not_equal(p->name, o->name);
                if (p->letter && p->letter == o->letter)
                    fail_msg("%s: -%c twice", c->name, o->letter);
            }
        }
    }
}

static void help_fits_a_terminal(void **state)
{
    (void)state;
    for (size_t i = 0; commands[i]; i++) {
        char *help = captured(help_command, commands[i]);
        bool examples = false;
        for (const char *line = help; *line != '\0';) {
            size_t size = strcspn(line, "\n");
            examples = examples || strncmp(line, "Examples:", 9) == 0;
            if (!examples && size > 80)
                fail_msg("%s: a line of %zu: %.*s", commands[i]->name, size, (int)size, line);
            assert_false(size > 0 && line[size - 1] == ' ');
            line += size + (line[size] == '\n');
        }
        free(help);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_option_is_explained_everywhere),
        cmocka_unit_test(every_command_is_listed),
        cmocka_unit_test(every_command_has_a_page_to_install),
        cmocka_unit_test(tables_are_sound),
        cmocka_unit_test(help_fits_a_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
