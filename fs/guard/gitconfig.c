#include "fs/guard/gitconfig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- reading: the grammar is git-config(1)'s ---- */

void guard_config_init(struct guard_config *config, const uint8_t *text, size_t size)
{
    *config = (struct guard_config){.at = text, .end = text + size, .line = 1};
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        config->at += 3; /* a byte order mark, as editors write it */
}

/* The next byte, or -1 at the end. CR LF is LF. A NUL is no byte of a configuration: git stops
 * reading lines there in some places and not in others. */
static int peek(const struct guard_config *c)
{
    if (c->at == c->end)
        return -1;
    if (*c->at == '\r' && c->end - c->at > 1 && c->at[1] == '\n')
        return '\n';
    return *c->at;
}

static void skip(struct guard_config *c)
{
    if (*c->at == '\r' && c->end - c->at > 1 && c->at[1] == '\n')
        c->at++;
    if (*c->at == '\n')
        c->line++;
    c->at++;
}

static bool is_alpha(int ch)
{
    return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z');
}

static bool is_name(int ch)
{
    return is_alpha(ch) || (ch >= '0' && ch <= '9') || ch == '-';
}

static bool is_blank(int ch)
{
    return ch == ' ' || ch == '\t';
}

static void skip_blanks(struct guard_config *c)
{
    while (is_blank(peek(c)))
        skip(c);
}

static void skip_line(struct guard_config *c)
{
    while (peek(c) >= 0 && peek(c) != '\n')
        skip(c);
}

static bool put(char *out, size_t *used, size_t size, int ch)
{
    if (*used + 1 >= size || ch <= 0)
        return false;
    out[(*used)++] = (char)ch;
    return true;
}

static char lower(int ch)
{
    return (char)(ch >= 'A' && ch <= 'Z' ? ch - 'A' + 'a' : ch);
}

/* After the quote of [section "subsection"]; eats it and the "]". */
static bool read_subsection(struct guard_config *c)
{
    size_t used = 0;
    for (;;) {
        int ch = peek(c);
        if (ch < 0 || ch == '\n')
            return false;
        skip(c);
        if (ch == '"')
            break;
        if (ch == '\\') {
            ch = peek(c);
            if (ch < 0 || ch == '\n')
                return false;
            skip(c);
        }
        if (!put(c->setting.subsection, &used, sizeof c->setting.subsection, ch))
            return false;
    }
    c->setting.subsection[used] = '\0';
    c->setting.has_subsection = true;
    if (peek(c) != ']')
        return false;
    skip(c);
    return true;
}

/* After "[". */
static bool read_section(struct guard_config *c)
{
    size_t used = 0;
    c->setting.has_subsection = false;
    c->setting.subsection[0] = '\0';
    while (is_name(peek(c)) || peek(c) == '.') {
        if (!put(c->setting.section, &used, sizeof c->setting.section, lower(peek(c))))
            return false;
        skip(c);
    }
    c->setting.section[used] = '\0';
    if (used == 0)
        return false;
    if (peek(c) == ']') {
        skip(c);
        char *dot = strchr(c->setting.section, '.'); /* the old form, [section.subsection] */
        if (dot) {
            *dot = '\0';
            memcpy(c->setting.subsection, dot + 1, strlen(dot + 1) + 1);
            c->setting.has_subsection = true;
        }
        return true;
    }
    if (strchr(c->setting.section, '.') || !is_blank(peek(c)))
        return false;
    skip_blanks(c);
    if (peek(c) != '"')
        return false;
    skip(c);
    return read_subsection(c);
}

static int unescape(int ch)
{
    switch (ch) {
    case 'n':
        return '\n';
    case 't':
        return '\t';
    case 'b':
        return '\b';
    case '\\':
    case '"':
        return ch;
    default:
        return -1;
    }
}

/* After "=" up to the end of the line. */
static bool read_value(struct guard_config *c)
{
    char *out = c->setting.value;
    size_t used = 0, trimmed = 0; /* without the blanks at its end, unless quoted */
    bool quoted = false;
    skip_blanks(c);
    for (;;) {
        int ch = peek(c);
        if (ch < 0 || ch == '\n') {
            if (quoted)
                return false;
            break;
        }
        if (!quoted && (ch == '#' || ch == ';')) {
            skip_line(c);
            break;
        }
        skip(c);
        bool blank = !quoted && is_blank(ch);
        if (ch == '"') {
            quoted = !quoted;
            trimmed = used;
            continue;
        }
        if (ch == '\\') {
            int next = peek(c);
            if (next < 0)
                return false;
            skip(c);
            if (next == '\n')
                continue;
            ch = unescape(next);
        }
        if (!put(out, &used, sizeof c->setting.value, ch))
            return false;
        if (!blank)
            trimmed = used;
    }
    out[trimmed] = '\0';
    return true;
}

static bool read_setting(struct guard_config *c)
{
    size_t used = 0;
    while (is_name(peek(c))) {
        if (!put(c->setting.key, &used, sizeof c->setting.key, lower(peek(c))))
            return false;
        skip(c);
    }
    c->setting.key[used] = '\0';
    skip_blanks(c);
    if (peek(c) == '=') {
        skip(c);
        return read_value(c);
    }
    memcpy(c->setting.value, "true", 5);
    return peek(c) == '\n' || peek(c) < 0;
}

int guard_config_next(struct guard_config *c, struct bg_err *err)
{
    for (int ch; (ch = peek(c)) >= 0;) {
        bool good = true;
        if (is_blank(ch) || ch == '\n') {
            skip(c);
        } else if (ch == '#' || ch == ';') {
            skip_line(c);
        } else if (ch == '[') {
            skip(c);
            good = read_section(c);
        } else {
            good = is_alpha(ch) && c->setting.section[0] != '\0' && read_setting(c);
            if (good)
                return 1;
        }
        if (!good)
            return bg_err_set(err, -EPROTO, "line %zu is not one of a git configuration", c->line);
    }
    return 0;
}

/* ---- what is harmless ---- */

enum check {
    CHECK_BOOL,
    CHECK_WORD, /* letters, digits, "._-/", not at its start "-" */
    CHECK_NUMBER,
    CHECK_TEXT, /* a person's name or address */
    CHECK_URL,  /* of another machine, by a protocol that runs no program here but ssh */
    CHECK_REFSPEC,
    CHECK_TAGS,
    CHECK_INSIDE, /* a relative path that stays in the mount */
};

/* Lower case; subsection: any or none. */
static const struct {
    const char *section, *key;
    bool subsection;
    enum check check;
} allowed[] = {
    {"core", "repositoryformatversion", false, CHECK_NUMBER},
    {"core", "filemode", false, CHECK_BOOL},
    {"core", "bare", false, CHECK_BOOL},
    {"core", "logallrefupdates", false, CHECK_WORD},
    {"core", "ignorecase", false, CHECK_BOOL},
    {"core", "precomposeunicode", false, CHECK_BOOL},
    {"core", "symlinks", false, CHECK_BOOL},
    {"core", "autocrlf", false, CHECK_WORD},
    {"core", "safecrlf", false, CHECK_WORD},
    {"core", "eol", false, CHECK_WORD},
    {"core", "sparsecheckout", false, CHECK_BOOL},
    {"core", "sparsecheckoutcone", false, CHECK_BOOL},
    {"core", "worktree", false, CHECK_INSIDE},
    {"extensions", "objectformat", false, CHECK_WORD},
    {"extensions", "refstorage", false, CHECK_WORD},
    {"extensions", "worktreeconfig", false, CHECK_BOOL},
    {"extensions", "preciousobjects", false, CHECK_BOOL},
    {"remote", "url", true, CHECK_URL},
    {"remote", "pushurl", true, CHECK_URL},
    {"remote", "fetch", true, CHECK_REFSPEC},
    {"remote", "push", true, CHECK_REFSPEC},
    {"remote", "prune", true, CHECK_BOOL},
    {"remote", "tagopt", true, CHECK_TAGS},
    {"branch", "remote", true, CHECK_WORD},
    {"branch", "pushremote", true, CHECK_WORD},
    {"branch", "merge", true, CHECK_WORD},
    {"branch", "rebase", true, CHECK_WORD},
    {"submodule", "url", true, CHECK_URL},
    {"submodule", "active", true, CHECK_BOOL},
    {"user", "name", false, CHECK_TEXT},
    {"user", "email", false, CHECK_TEXT},
    {"pull", "rebase", false, CHECK_WORD},
    {"pull", "ff", false, CHECK_WORD},
    {"push", "default", false, CHECK_WORD},
    {"fetch", "prune", false, CHECK_BOOL},
};

static bool is_bool(const char *value)
{
    static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "1", "0", ""};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(value, words[i]) == 0)
            return true;
    return false;
}

/* Only bytes that are letters, digits or in more. */
static bool consists_of(const char *value, const char *more)
{
    for (const char *p = value; *p != '\0'; p++)
        if (!is_alpha(*p) && !(*p >= '0' && *p <= '9') && !strchr(more, *p))
            return false;
    return true;
}

static bool is_number(const char *value)
{
    size_t size = strlen(value);
    return size > 0 && size < 8 && strspn(value, "0123456789") == size;
}

static bool is_text(const char *value)
{
    for (const char *p = value; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return false;
    return true;
}

/* What ssh and git would take for an option is none of a host's or path's. */
static bool is_url(const char *value)
{
    static const char *const schemes[] = {"https://", "ssh://"};
    if (!consists_of(value, ":/@._-~%+=?&,[]"))
        return false;
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        size_t size = strlen(schemes[i]);
        if (strncmp(value, schemes[i], size) != 0)
            continue;
        const char *host = value + size, *at = strchr(host, '@');
        return host[0] != '\0' && host[0] != '-' && host[0] != '/' && (!at || at[1] != '-');
    }
    if (strncmp(value, "git@", 4) != 0)
        return false;
    const char *colon = strchr(value, ':');
    return colon && colon > value + 4 && value[4] != '-' && colon[1] != ':' &&
           !memchr(value, '/', (size_t)(colon - value));
}

/* A relative path, all of whose ".." come first and are not more than depth. */
static bool is_inside(const char *value, unsigned depth)
{
    unsigned up = 0;
    bool named = false;
    if (value[0] == '/' || value[0] == '~' || value[0] == '\0' || !is_text(value))
        return false;
    for (const char *p = value; *p != '\0';) {
        size_t size = strcspn(p, "/");
        if (size == 2 && memcmp(p, "..", 2) == 0) {
            if (named || ++up > depth)
                return false;
        } else if (size > 0 && !(size == 1 && p[0] == '.')) {
            named = true;
        }
        p += size + (p[size] == '/');
    }
    return true;
}

static bool is_harmless(enum check check, const char *value, unsigned depth)
{
    switch (check) {
    case CHECK_BOOL:
        return is_bool(value);
    case CHECK_WORD:
        return value[0] != '-' && consists_of(value, "._-/");
    case CHECK_NUMBER:
        return is_number(value);
    case CHECK_TEXT:
        return is_text(value);
    case CHECK_URL:
        return is_url(value);
    case CHECK_REFSPEC:
        return value[0] != '-' && consists_of(value, "._-/:+*^");
    case CHECK_TAGS:
        return strcmp(value, "--no-tags") == 0 || strcmp(value, "--tags") == 0;
    case CHECK_INSIDE:
        return is_inside(value, depth);
    }
    return false;
}

/* A remote or submodule whose name is a path or an option is nothing that git makes. */
static bool subsection_ok(const char *name)
{
    return name[0] != '\0' && name[0] != '-' && is_text(name) && !strstr(name, "..") &&
           name[0] != '/';
}

bool guard_config_allows(const struct guard_setting *setting, const struct guard_config_opts *opts)
{
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
        if (strcmp(setting->section, allowed[i].section) == 0 &&
            strcmp(setting->key, allowed[i].key) == 0 &&
            setting->has_subsection == allowed[i].subsection)
            return (!allowed[i].subsection || subsection_ok(setting->subsection)) &&
                   is_harmless(allowed[i].check, setting->value, opts->depth);
    return false;
}

/* ---- writing ---- */

static void write_quoted(FILE *out, const char *text)
{
    (void)fputc('"', out); /* memory: errors are seen at the end */
    for (const char *p = text; *p != '\0'; p++) {
        char ch = (char)(*p == '\n' ? 'n' : *p == '\t' ? 't' : *p == '\b' ? 'b' : *p);
        if (ch != *p || ch == '"' || ch == '\\')
            (void)fputc('\\', out);
        (void)fputc(ch, out);
    }
    (void)fputc('"', out);
}

/* has_previous: that a header was written, previous is whose. */
static void write_setting(FILE *out, const struct guard_setting *setting,
                          struct guard_setting *previous, bool *has_previous)
{
    bool same = *has_previous && strcmp(setting->section, previous->section) == 0 &&
                setting->has_subsection == previous->has_subsection &&
                strcmp(setting->subsection, previous->subsection) == 0;
    if (!same) {
        (void)fprintf(out, "[%s", setting->section);
        if (setting->has_subsection) {
            (void)fputc(' ', out);
            write_quoted(out, setting->subsection);
        }
        (void)fputs("]\n", out);
        *previous = *setting;
        *has_previous = true;
    }
    (void)fprintf(out, "\t%s = ", setting->key);
    write_quoted(out, setting->value);
    (void)fputc('\n', out);
}

static int filter_to(FILE *out, const uint8_t *text, size_t size,
                     const struct guard_config_opts *opts, size_t *ret_dropped, struct bg_err *err)
{
    struct guard_config config;
    struct guard_setting previous;
    bool has_previous = false;
    size_t count = 0;
    int r;
    *ret_dropped = 0;
    guard_config_init(&config, text, size);
    while ((r = guard_config_next(&config, err)) > 0) {
        if (++count > BG_GUARD_SETTINGS_MAX)
            return bg_err_set(err, -E2BIG, "more than %d settings", BG_GUARD_SETTINGS_MAX);
        if (guard_config_allows(&config.setting, opts))
            write_setting(out, &config.setting, &previous, &has_previous);
        else
            (*ret_dropped)++;
    }
    return r;
}

static bool equal(const struct guard_setting *a, const struct guard_setting *b)
{
    return strcmp(a->section, b->section) == 0 && strcmp(a->key, b->key) == 0 &&
           a->has_subsection == b->has_subsection && strcmp(a->subsection, b->subsection) == 0 &&
           strcmp(a->value, b->value) == 0;
}

static bool has_setting(const uint8_t *text, size_t size, const struct guard_setting *setting)
{
    struct guard_config config;
    guard_config_init(&config, text, size);
    while (guard_config_next(&config, NULL) > 0)
        if (equal(&config.setting, setting))
            return true;
    return false;
}

static int hidden_to(FILE *out, const uint8_t *guest, size_t guest_size, const uint8_t *host,
                     size_t host_size, const struct guard_config_opts *opts, struct bg_err *err)
{
    struct guard_config config;
    struct guard_setting previous;
    bool has_previous = false;
    size_t count = 0;
    int r;
    guard_config_init(&config, guest, guest_size);
    while ((r = guard_config_next(&config, err)) > 0) {
        if (guard_config_allows(&config.setting, opts) ||
            has_setting(host, host_size, &config.setting))
            continue;
        if (++count > BG_GUARD_HIDDEN_MAX)
            return bg_err_set(err, -E2BIG, "more than %d settings", BG_GUARD_HIDDEN_MAX);
        write_setting(out, &config.setting, &previous, &has_previous);
    }
    return r;
}

int guard_config_hidden(const uint8_t *guest, size_t guest_size, const uint8_t *host,
                        size_t host_size, const struct guard_config_opts *opts, char **ret,
                        size_t *ret_size, struct bg_err *err)
{
    char *text = NULL;
    size_t size;
    FILE *out = guest_size > BG_GUARD_FILE_MAX ? NULL : open_memstream(&text, &size);
    if (!out)
        return bg_err_errno(err, guest_size > BG_GUARD_FILE_MAX ? -E2BIG : -ENOMEM,
                            "git configuration");
    int r = hidden_to(out, guest, guest_size, host, host_size, opts, err);
    if (fclose(out) != 0 && r == 0)
        r = bg_err_errno(err, -ENOMEM, "git configuration");
    if (r < 0) {
        free(text);
        return r;
    }
    *ret = text;
    *ret_size = size;
    return 0;
}

int guard_config_filter(const uint8_t *text, size_t size, const struct guard_config_opts *opts,
                        char **ret, size_t *ret_size, size_t *ret_dropped, struct bg_err *err)
{
    char *shown = NULL;
    size_t shown_size, dropped = 0;
    if (size > BG_GUARD_FILE_MAX)
        return bg_err_set(err, -E2BIG, "%zu bytes are more than a git configuration has", size);
    FILE *out = open_memstream(&shown, &shown_size);
    if (!out)
        return bg_err_errno(err, -ENOMEM, "git configuration");
    int r = filter_to(out, text, size, opts, &dropped, err);
    if (fclose(out) != 0 && r == 0)
        r = bg_err_errno(err, -ENOMEM, "git configuration");
    if (r < 0) {
        free(shown);
        return r;
    }
    *ret = shown;
    *ret_size = shown_size;
    *ret_dropped = dropped;
    return 0;
}
