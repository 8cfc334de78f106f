#include "images/commands.h"

#include <stdio.h>

int fail(const struct bg_err *err)
{
    (void)fprintf(stderr, "bellglass image: %s\n", err->text);
    return EXIT_FAILED;
}

int usage(const char *text, bool asked)
{
    (void)fputs(text, asked ? stdout : stderr);
    return asked ? 0 : EXIT_FAILED;
}

int print_json(json_t *value)
{
    int r = value ? json_dumpf(value, stdout, JSON_INDENT(2)) : -1;
    json_decref(value);
    if (r < 0 || putchar('\n') == EOF || fflush(stdout) == EOF) {
        (void)fputs("bellglass image: could not write the result\n", stderr);
        return EXIT_FAILED;
    }
    return 0;
}
