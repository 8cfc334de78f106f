/* bellglass-secret: what `bellglass secret` runs. A value comes in by stdin or the environment,
 * never by an argument, and is never printed. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/state/paths.h"
#include "net/locked.h"
#include "net/reload.h"
#include "net/secrets.h"
#include "net/store.h"

static const char help[] =
    "usage: bellglass secret set NAME [--from-env VARIABLE]\n"
    "       bellglass secret ls [--json]\n"
    "       bellglass secret rm NAME\n"
    "\n"
    "Keeps the values of secrets on this machine, for --secret NAME@HOST of run and create. A "
    "sandbox\n"
    "sees only a placeholder; the egress proxy puts the value in its place on the way to HOST.\n"
    "\n"
    "set   stores the value read from stdin, or from VARIABLE; one line break at its end is "
    "dropped.\n"
    "      A sandbox that runs takes a new value for its next request\n"
    "ls    lists the names, never the values\n"
    "rm    removes a secret; sandboxes that run do not send it any more\n"
    "\n"
    "NAME: letters, digits and _, no digit in front. A value is one line of at most 64 KiB.\n";

/* One more than may be, so that too much is noticed; and a line break. */
#define INPUT_MAX (BG_SECRET_SIZE_MAX + 2)

static int read_stdin(uint8_t *value, size_t *ret_size, struct bg_err *err)
{
    size_t used = 0;
    if (isatty(STDIN_FILENO))
        (void)fputs("value (ends with Ctrl-D): ", stderr); /* a prompt that is lost is no harm */
    while (used < INPUT_MAX) {
        ssize_t n = read(STDIN_FILENO, value + used, INPUT_MAX - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return bg_err_errno(err, -errno, "stdin");
        if (n == 0)
            break;
        used += (size_t)n;
    }
    *ret_size = used;
    return 0;
}

static int read_variable(const char *name, uint8_t *value, size_t *ret_size, struct bg_err *err)
{
    const char *text = getenv(name);
    if (!text)
        return bg_err_set(err, -EINVAL, "--from-env %s: not set here", name);
    size_t size = strlen(text);
    if (size > INPUT_MAX)
        size = INPUT_MAX;
    memcpy(value, text, size);
    *ret_size = size;
    return 0;
}

/* Sandboxes that run and have it take what the store says now at once; one that cannot is told of.
 * done: what has been done to the value. */
static void reload_users(const struct bg_paths *paths, const char *secret, const char *done)
{
    char **names;
    struct bg_err err;
    if (bg_sandbox_names(paths, &names, &err) < 0)
        return;
    for (char **name = names; *name; name++) {
        struct bg_sandbox s;
        if (bg_sandbox_load(paths, *name, &s, &err) < 0)
            continue;
        bool has = false;
        for (size_t i = 0; i < s.secret_count; i++)
            has |= strcmp(s.secrets[i].name, secret) == 0;
        int r = has ? reload_sandbox(paths, &s, &err) : 0;
        if (r < 0 && r != -ENOTCONN)
            (void)fprintf(stderr, "bellglass: the value is %s, but: %s\n", done, err.text);
        bg_sandbox_done(&s);
    }
    bg_sandbox_names_free(names);
}

static int set(const struct bg_paths *paths, const char *name, const char *variable,
               struct bg_err *err)
{
    uint8_t *value = locked_new(INPUT_MAX, NULL);
    if (!value)
        return bg_err_errno(err, -ENOMEM, "secret");
    size_t size = 0;
    int r = secret_name_ok(name) ? 0
                                 : bg_err_set(err, -EINVAL,
                                              "a name is letters, digits and _, "
                                              "no digit in front");
    if (r == 0)
        r = variable ? read_variable(variable, value, &size, err) : read_stdin(value, &size, err);
    if (r == 0 && size > 0 && value[size - 1] == '\n')
        size--;
    if (r == 0)
        r = store_set(paths->data, name, value, size, err);
    locked_free(value, INPUT_MAX);
    if (r == 0)
        reload_users(paths, name, "stored");
    return r < 0 ? bg_err_prefix(err, "secret set") : 0;
}

static int remove_secret(const struct bg_paths *paths, const char *name, struct bg_err *err)
{
    int r = store_remove(paths->data, name, err);
    if (r == 0)
        reload_users(paths, name, "removed");
    return r;
}

static json_t *entry_json(const struct store_entry *entry)
{
    return json_pack("{s:s, s:I}", "name", entry->name, "changed_ms",
                     (json_int_t)entry->changed_ms);
}

static int print_json(const struct store_entry *entries, size_t count)
{
    json_t *array = json_array();
    int r = array ? 0 : -ENOMEM;
    for (size_t i = 0; i < count && r == 0; i++)
        r = json_array_append_new(array, entry_json(&entries[i])) < 0 ? -ENOMEM : 0;
    if (r == 0 && (json_dumpf(array, stdout, JSON_INDENT(2)) < 0 || putchar('\n') == EOF))
        r = -EIO;
    json_decref(array);
    return r;
}

static int print_lines(const struct store_entry *entries, size_t count)
{
    size_t width = 4;
    for (size_t i = 0; i < count; i++)
        if (strlen(entries[i].name) > width)
            width = strlen(entries[i].name);
    if (count > 0 && printf("%-*s  CHANGED\n", (int)width, "NAME") < 0)
        return -EIO;
    for (size_t i = 0; i < count; i++) {
        time_t seconds = (time_t)(entries[i].changed_ms / 1000);
        struct tm local;
        char when[64];
        (void)localtime_r(&seconds, &local); /* fails only for years that do not fit an int */
        (void)strftime(when, sizeof when, "%Y-%m-%d %H:%M", &local); /* always fits */
        if (printf("%-*s  %s\n", (int)width, entries[i].name, when) < 0)
            return -EIO;
    }
    return 0;
}

static int list(const struct bg_paths *paths, bool json, struct bg_err *err)
{
    struct store_entry *entries;
    size_t count;
    int r = store_list(paths->data, &entries, &count, err);
    if (r < 0)
        return bg_err_prefix(err, "secret ls");
    r = json ? print_json(entries, count) : print_lines(entries, count);
    store_list_free(entries, count);
    return r < 0 || fflush(stdout) != 0 ? bg_err_set(err, -EIO, "secret ls: cannot print") : 0;
}

struct options {
    const char *variable;
    bool json, help;
};

static int parse_options(int argc, char **argv, struct options *o, struct bg_err *err)
{
    static const struct option longs[] = {{"from-env", required_argument, NULL, 'e'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    for (int option; (option = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        switch (option) {
        case 'e':
            o->variable = optarg;
            break;
        case 'j':
            o->json = true;
            break;
        case 'h':
            o->help = true;
            break;
        default:
            return bg_err_set(err, -EINVAL, "secret: see bellglass secret --help");
        }
    }
    return 0;
}

static int run(const struct options *o, char *const *words, int count, struct bg_err *err)
{
    struct bg_paths paths;
    int r = bg_paths_init(&paths, err);
    if (r < 0)
        return r;
    const char *verb = count > 0 ? words[0] : "";
    if (strcmp(verb, "set") == 0 && count == 2 && !o->json)
        r = set(&paths, words[1], o->variable, err);
    else if (strcmp(verb, "set") == 0 && count > 2) /* a value on a command line is no secret */
        r = bg_err_set(err, -EINVAL,
                       "secret set takes only a name; give the value on stdin or "
                       "with --from-env");
    else if (strcmp(verb, "ls") == 0 && count == 1 && !o->variable)
        r = list(&paths, o->json, err);
    else if (strcmp(verb, "rm") == 0 && count == 2 && !o->variable && !o->json)
        r = remove_secret(&paths, words[1], err);
    else
        r = bg_err_set(err, -EINVAL,
                       "secret: want set NAME, ls or rm NAME; see bellglass secret "
                       "--help");
    bg_paths_done(&paths);
    return r;
}

int main(int argc, char **argv)
{
    struct rlimit no_core = {0, 0};
    struct options o = {0};
    struct bg_err err = {0};
    /* Both are a second line: the value is here for a moment only. */
    (void)setrlimit(RLIMIT_CORE, &no_core);
    (void)prctl(PR_SET_DUMPABLE, BG_SANITIZED, 0, 0, 0);
    int r = parse_options(argc, argv, &o, &err);
    if (r == 0 && o.help)
        r = fputs(help, stdout) < 0 || fflush(stdout) != 0 ? -EIO : 0;
    else if (r == 0)
        r = run(&o, argv + optind, argc - optind, &err);
    if (r < 0)
        (void)fprintf(stderr, "bellglass: %s\n", err.text);
    return r < 0 ? 125 : 0;
}
