#include "images/argv.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void take(struct argv *argv, char *text)
{
    char **at = text ? reallocarray(argv->at, argv->count + 2, sizeof *at) : NULL;
    if (!at) {
        free(text);
        argv->failed = true;
        return;
    }
    argv->at = at;
    at[argv->count++] = text;
    at[argv->count] = NULL;
}

void argv_add(struct argv *argv, const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    take(argv, text);
}

void argv_add_quoted(struct argv *argv, const char *prefix, const char *text, const char *suffix)
{
    char *quoted = NULL;
    size_t size;
    FILE *out = open_memstream(&quoted, &size);
    if (!out) {
        argv->failed = true;
        return;
    }
    (void)fprintf(out, "%s'", prefix);
    for (; *text; text++)
        if (*text == '\'')
            (void)fputs("'\\''", out);
        else
            (void)fputc(*text, out);
    (void)fprintf(out, "'%s", suffix);
    bool failed = ferror(out);
    if (fclose(out) != 0 || failed) {
        free(quoted);
        argv->failed = true;
        return;
    }
    take(argv, quoted);
}

void argv_done(struct argv *argv)
{
    for (size_t i = 0; i < argv->count; i++)
        free(argv->at[i]);
    free(argv->at);
    *argv = (struct argv){0};
}
