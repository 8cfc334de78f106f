#include "host/cli/help.h"

#include <ctype.h>
#include <string.h>

#define HELP_WIDTH  80
#define HELP_COLUMN 28 /* where an option's text begins */

/* Beside the commands: what is the same for all of them. */
static const char overview_text[] =
    "A sandbox is a virtual machine that was forked from a snapshot. It has no network of its own: "
    "what it may reach goes through a proxy on the host, which also puts in the secrets that the "
    "sandbox itself never holds.\n\n"
    "The exit status is that of the command that was run (128+N if signal N ended it, 126 and 127 "
    "as shells use them), and 125 for bellglass's own errors.";

static const struct {
    const char *name, *text;
} environment[] = {
    {"BELLGLASS_HOME", "One folder for all that bellglass keeps, instead of the XDG folders."},
    {"BELLGLASS_ACCEL", "kvm or tcg, instead of what doctor finds."},
    {"BELLGLASS_QEMU", "The QEMU to use, instead of qemu-system-x86_64 on the PATH."},
    {"BELLGLASS_HELPER_DIR", "Where the helper programs are, instead of beside bellglass."},
    {"XDG_DATA_HOME, XDG_STATE_HOME, XDG_RUNTIME_DIR",
     "Where images and secrets, sandboxes, and control sockets are kept, in a folder bellglass "
     "each."},
};

/* Prints words with a line break where the width ends. Newlines in text are kept. The first line
 * begins at column `at`, the others at `indent`. */
static void wrap(FILE *out, const char *text, int at, int indent)
{
    int column = at;
    while (*text != '\0') {
        if (*text == '\n') {
            (void)fputc('\n', out);
            column = 0;
            text++;
            continue;
        }
        size_t size = strcspn(text, " \n");
        if (column > indent && column + 1 + (int)size > HELP_WIDTH) {
            (void)fputc('\n', out);
            column = 0;
        }
        if (column == 0 && indent > 0) {
            (void)fprintf(out, "%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            (void)fputc(' ', out);
            column++;
        }
        (void)fwrite(text, 1, size, out);
        column += (int)size;
        text += size;
        while (*text == ' ')
            text++;
    }
    (void)fputc('\n', out);
}

static const struct option_spec help_option = {.letter = 'h', .name = "help", .help = "show this"};

static const char *repeat_note(const struct option_spec *o)
{
    return o->repeats ? " (may be repeated)" : "";
}

static void print_option(FILE *out, const struct option_spec *o)
{
    char letters[8] = "    ", text[512];
    if (o->letter)
        (void)snprintf(letters, sizeof letters, "-%c, ", o->letter);
    (void)snprintf(text, sizeof text, "%s%s", o->help, repeat_note(o));
    int column = fprintf(out, "  %s--%s%s%s", letters, o->name, o->value ? " " : "",
                         o->value ? o->value : "");
    if (column + 2 > HELP_COLUMN) {
        (void)fputc('\n', out);
        column = 0;
    }
    (void)fprintf(out, "%*s", HELP_COLUMN - column, "");
    wrap(out, text, HELP_COLUMN, HELP_COLUMN);
}

void help_command(FILE *out, const struct command *command)
{
    (void)fprintf(out, "bellglass %s: %s\n\n", command->name, command->summary);
    for (size_t i = 0; command->forms[i]; i++)
        (void)fprintf(out, "%s bellglass %s %s\n", i == 0 ? "Usage:" : "      ", command->name,
                      command->forms[i]);
    (void)fprintf(out, "\nOptions:\n");
    for (const struct option_spec *o = command->options; o && o->id; o++)
        print_option(out, o);
    print_option(out, &help_option);
    if (command->details) {
        (void)fputc('\n', out);
        wrap(out, command->details, 0, 0);
    }
    for (size_t i = 0; command->examples && command->examples[i]; i++)
        (void)fprintf(out, "%s  bellglass %s\n", i == 0 ? "\nExamples:\n" : "",
                      command->examples[i]);
}

void help_overview(FILE *out)
{
    (void)fprintf(out, "bellglass: run untrusted code in a virtual machine of its own\n\n"
                       "Usage: bellglass COMMAND [OPTIONS] [ARGUMENTS]\n\nCommands:\n");
    for (size_t i = 0; commands[i]; i++)
        (void)fprintf(out, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
    (void)fputc('\n', out);
    wrap(out, overview_text, 0, 0);
    (void)fprintf(out, "\nMore about one of them: bellglass COMMAND --help\n");
}

/* --- man pages --- */

/* Text for roff: backslashes and dashes escaped, nothing taken for a request. */
static void roff(FILE *out, const char *text)
{
    bool line_start = true;
    for (; *text != '\0'; text++) {
        if (line_start && (*text == '.' || *text == '\''))
            (void)fputs("\\&", out);
        if (*text == '\\')
            (void)fputs("\\e", out);
        else if (*text == '-')
            (void)fputs("\\-", out);
        else if (*text == '\n')
            (void)fputs(text[1] == '\n' ? "\n.PP" : text[-1] == '\n' ? "\n" : "\n.br\n", out);
        else
            (void)fputc(*text, out);
        line_start = *text == '\n';
    }
}

static void roff_line(FILE *out, const char *before, const char *text)
{
    (void)fputs(before, out);
    roff(out, text);
    (void)fputc('\n', out);
}

static void roff_title(FILE *out, const char *name, const char *version)
{
    (void)fprintf(out, ".TH ");
    for (const char *p = name; *p != '\0'; p++)
        (void)fputc(toupper((unsigned char)*p), out);
    (void)fprintf(out, " 1 \"\" \"bellglass %s\" \"bellglass\"\n", version);
}

static void man_command(FILE *out, const struct command *command, const char *version)
{
    char name[64];
    (void)snprintf(name, sizeof name, "bellglass-%s", command->name);
    roff_title(out, name, version);
    (void)fprintf(out, ".SH NAME\n");
    roff(out, name);
    roff_line(out, " \\- ", command->summary);
    (void)fprintf(out, ".SH SYNOPSIS\n");
    for (size_t i = 0; command->forms[i]; i++) {
        (void)fprintf(out, "%s.B bellglass %s\n", i == 0 ? "" : ".br\n", command->name);
        roff_line(out, "", command->forms[i]);
    }
    if (command->details) {
        (void)fprintf(out, ".SH DESCRIPTION\n");
        roff_line(out, "", command->details);
    }
    (void)fprintf(out, ".SH OPTIONS\n");
    for (const struct option_spec *o = command->options; o && o->id; o++) {
        (void)fprintf(out, ".TP\n");
        if (o->letter)
            (void)fprintf(out, "\\fB\\-%c\\fR, ", o->letter);
        (void)fputs("\\fB\\-\\-", out);
        roff(out, o->name);
        (void)fputs("\\fR", out);
        if (o->value) {
            (void)fputs(" \\fI", out);
            roff(out, o->value);
            (void)fputs("\\fR", out);
        }
        (void)fputc('\n', out);
        roff(out, o->help);
        roff_line(out, "", repeat_note(o));
    }
    (void)fprintf(out, ".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nshow the options\n");
    for (size_t i = 0; command->examples && command->examples[i]; i++)
        roff_line(out, i == 0 ? ".SH EXAMPLES\n.nf\nbellglass " : "bellglass ",
                  command->examples[i]);
    (void)fprintf(out, "%s.SH SEE ALSO\n.BR bellglass (1)\n", command->examples ? ".fi\n" : "");
}

void help_man(FILE *out, const struct command *command, const char *version)
{
    if (command) {
        man_command(out, command, version);
        return;
    }
    roff_title(out, "bellglass", version);
    (void)fprintf(out,
                  ".SH NAME\nbellglass \\- run untrusted code in a virtual machine of its own\n"
                  ".SH SYNOPSIS\n.B bellglass\n.I COMMAND\n[OPTIONS] [ARGUMENTS]\n"
                  ".SH DESCRIPTION\n");
    roff_line(out, "", overview_text);
    (void)fprintf(out, ".SH COMMANDS\n");
    for (size_t i = 0; commands[i]; i++) {
        (void)fprintf(out, ".TP\n.BR bellglass\\-%s (1)\n", commands[i]->name);
        roff_line(out, "", commands[i]->summary);
    }
    (void)fprintf(out, ".SH ENVIRONMENT\n");
    for (size_t i = 0; i < sizeof environment / sizeof *environment; i++) {
        roff_line(out, ".TP\n.B ", environment[i].name);
        roff_line(out, "", environment[i].text);
    }
    (void)fprintf(out, ".SH EXIT STATUS\nThat of the command that was run; 128+N if signal N ended "
                       "it; 127 if it was not found,\n126 if it could not be run; 125 for "
                       "bellglass's own errors.\n");
}

/* --- completion --- */

void help_completion(FILE *out)
{
    (void)fprintf(out, "# bash completion for bellglass; made by: bellglass completion bash\n"
                       "_bellglass() {\n"
                       "    local word=${COMP_WORDS[COMP_CWORD]} verb=${COMP_WORDS[1]} options=''\n"
                       "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
                       "        COMPREPLY=($(compgen -W '");
    for (size_t i = 0; commands[i]; i++)
        (void)fprintf(out, "%s%s", i == 0 ? "" : " ", commands[i]->name);
    (void)fprintf(out, "' -- \"$word\"))\n        return\n    fi\n    case $verb in\n");
    for (size_t i = 0; commands[i]; i++) {
        (void)fprintf(out, "    %s) options='--help", commands[i]->name);
        for (const struct option_spec *o = commands[i]->options; o && o->id; o++)
            (void)fprintf(out, " --%s", o->name);
        (void)fprintf(out, "' ;;\n");
    }
    (void)fprintf(out, "    esac\n"
                       "    case $word in\n"
                       "    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$word\")) ;;\n"
                       "    *) COMPREPLY=($(compgen -W \"$(bellglass ls --names 2>/dev/null)\" -- "
                       "\"$word\")) ;;\n"
                       "    esac\n"
                       "}\n"
                       "complete -o default -F _bellglass bellglass\n");
}
