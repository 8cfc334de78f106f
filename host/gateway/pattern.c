#include "host/gateway/pattern.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "common/cleanup.h"
#include "common/limits.h"

/* What one byte of a source may become: JavaScript's `\s`, the longest. */
#define GROWTH_MAX 128

#define JS_SPACES                                                                                  \
    "\\x09-\\x0d\\x20\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"                 \
    "\\x{205f}\\x{3000}\\x{feff}"

struct pattern {
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *limits;
};

void pattern_free(struct pattern *pattern)
{
    if (!pattern)
        return;
    pcre2_match_context_free(pattern->limits);
    pcre2_match_data_free(pattern->data);
    pcre2_code_free(pattern->code);
    free(pattern);
}

static int compile(const char *text, size_t size, uint32_t options, struct pattern **ret,
                   struct bg_err *err)
{
    struct pattern *p = calloc(1, sizeof *p);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    int code = 0, r = 0;
    size_t at = 0;
    if (p && context) {
        (void)pcre2_set_newline(context, PCRE2_NEWLINE_ANYCRLF); /* a value that it knows */
        (void)pcre2_set_parens_nest_limit(context, 64);          /* cannot fail */
        p->code = pcre2_compile((PCRE2_SPTR)text, size,
                                options | PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C |
                                    PCRE2_ALLOW_EMPTY_CLASS | PCRE2_MATCH_UNSET_BACKREF,
                                &code, &at, context);
        p->limits = pcre2_match_context_create(NULL);
        p->data = p->code ? pcre2_match_data_create(1, NULL) : NULL;
    }
    if (p && context && !p->code && code != PCRE2_ERROR_HEAP_FAILED) {
        PCRE2_UCHAR why[128];
        (void)pcre2_get_error_message(code, why, sizeof why); /* at worst it is cut */
        r = bg_err_set(err, -EINVAL, "a pattern cannot be used: %s", (const char *)why);
    } else if (!p || !context || !p->code || !p->data || !p->limits) {
        r = bg_err_errno(err, -ENOMEM, "pattern");
    } else {
        (void)pcre2_set_match_limit(p->limits, BG_GATEWAY_MATCH_MAX); /* these cannot fail */
        (void)pcre2_set_depth_limit(p->limits, BG_GATEWAY_MATCH_MAX);
        (void)pcre2_set_heap_limit(p->limits, BG_GATEWAY_MATCH_HEAP_KIB);
        *ret = BG_TAKE(p);
    }
    pcre2_compile_context_free(context);
    pattern_free(p);
    return r;
}

int pattern_matches(const struct pattern *pattern, const char *text)
{
    int r = pcre2_match(pattern->code, (PCRE2_SPTR)text, strlen(text), 0, PCRE2_NO_JIT,
                        pattern->data, pattern->limits);
    switch (r) {
    case PCRE2_ERROR_NOMATCH:
        return 0;
    case PCRE2_ERROR_NOMEMORY:
        return -ENOMEM;
    case PCRE2_ERROR_MATCHLIMIT:
    case PCRE2_ERROR_DEPTHLIMIT:
    case PCRE2_ERROR_HEAPLIMIT:
        return -EOVERFLOW;
    default:
        return r >= 0; /* the rest is text that is not UTF-8 */
    }
}

/* What is made of a source: room for all of it. */
struct out {
    char *text;
    size_t used, size;
};

static bool out_init(struct out *out, size_t source_size)
{
    out->size = source_size * GROWTH_MAX + 64;
    out->used = 0;
    out->text = malloc(out->size);
    return out->text != NULL;
}

static void put(struct out *out, const char *text)
{
    size_t size = strlen(text);
    if (size <= out->size - out->used) { /* GROWTH_MAX is enough: see there */
        memcpy(out->text + out->used, text, size);
        out->used += size;
    }
}

static void put_byte(struct out *out, char byte)
{
    const char text[2] = {byte, '\0'};
    put(out, text);
}

/* A character that stands for itself, wherever it is. */
static void put_literal(struct out *out, char byte)
{
    if (byte != '\0' && strchr("\\^$.|?*+()[]{}-/&~#", byte))
        put_byte(out, '\\');
    put_byte(out, byte);
}

/* ---- JavaScript's regular expressions ---- */

struct source {
    const char *at;
    bool unicode;  /* flag u or v */
    bool in_class; /* between [ and ] */
};

/* `digits` hexadecimal ones. -1: there are fewer. */
static int32_t hex(const char *at, size_t digits)
{
    static const char all[] = "0123456789abcdef";
    int32_t value = 0;
    for (size_t i = 0; i < digits; i++) {
        const char *digit =
            at[i] ? strchr(all, at[i] >= 'A' && at[i] <= 'F' ? at[i] | 32 : at[i]) : NULL;
        if (!digit)
            return -1;
        value = value * 16 + (int32_t)(digit - all);
    }
    return value;
}

static bool put_code_point(struct out *out, int32_t code)
{
    char text[16];
    if (code < 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return false;
    (void)snprintf(text, sizeof text, "\\x{%x}", (unsigned)code);
    put(out, text);
    return true;
}

/* `\u…`; at: behind the u. The second half of a pair goes with the first. */
static bool take_unicode(struct source *in, struct out *out)
{
    if (in->unicode && *in->at == '{') {
        size_t digits = strspn(in->at + 1, "0123456789abcdefABCDEF");
        bool whole = digits >= 1 && digits <= 6 && in->at[1 + digits] == '}';
        int32_t code = whole ? hex(in->at + 1, digits) : -1;
        in->at += whole ? digits + 2 : 0;
        return put_code_point(out, code);
    }
    int32_t code = hex(in->at, 4);
    if (code < 0) { /* no escape then, but a letter */
        put_byte(out, 'u');
        return !in->unicode;
    }
    in->at += 4;
    if (code >= 0xd800 && code < 0xdc00 && in->at[0] == '\\' && in->at[1] == 'u') {
        int32_t low = hex(in->at + 2, 4);
        if (low >= 0xdc00 && low < 0xe000) {
            in->at += 6;
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    return put_code_point(out, code);
}

/* Behind a backslash. False: it is nothing that can be matched. */
static bool take_escape(struct source *in, struct out *out)
{
    char c = *in->at++;
    int32_t code;
    switch (c) {
    case '\0':
        return false;
    case 'd':
    case 'D':
    case 'w':
    case 'W':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        put_byte(out, '\\');
        put_byte(out, c);
        return true;
    case 'b': /* in a class it is a backspace, in both languages */
        put(out, "\\b");
        return true;
    case 'B':
        put(out, in->in_class ? "B" : "\\B");
        return true;
    case 'v':
        put(out, "\\x0b");
        return true;
    case 's':
        put(out, in->in_class ? JS_SPACES : "[" JS_SPACES "]");
        return true;
    case 'S':
        if (in->in_class)
            return false; /* would be a class in a class */
        put(out, "[^" JS_SPACES "]");
        return true;
    case 'x':
        code = hex(in->at, 2);
        if (code < 0) {
            put_byte(out, 'x');
            return !in->unicode;
        }
        in->at += 2;
        return put_code_point(out, code);
    case 'u':
        return take_unicode(in, out);
    case 'c':
        code = *in->at | 32;
        if (code < 'a' || code > 'z')
            return false;
        in->at++;
        return put_code_point(out, code - 'a' + 1);
    case 'p':
    case 'P':
        if (!in->unicode) {
            put_byte(out, c);
            return true;
        }
        put_byte(out, '\\');
        put_byte(out, c);
        return *in->at == '{';
    case 'k':
        if (*in->at != '<' || in->in_class) {
            put_byte(out, 'k');
            return !in->unicode;
        }
        put(out, "\\k");
        return true;
    case '0':
        put(out, "\\x{0}");
        return *in->at < '0' || *in->at > '9';
    default:
        if (c >= '1' && c <= '9' && !in->in_class) {
            char text[16];
            long number = c - '0';
            while (*in->at >= '0' && *in->at <= '9' && number < 1000)
                number = number * 10 + *in->at++ - '0';
            (void)snprintf(text, sizeof text, "\\g{%ld}", number);
            put(out, text);
            return true;
        }
        if (c >= '1' && c <= '9')
            return false; /* an octal number, or nothing */
        put_literal(out, c);
        return true;
    }
}

/* What begins a group, which JavaScript has fewer kinds of. at: behind the parenthesis. */
static bool group_ok(const char *at)
{
    if (at[0] == '*')
        return false;
    if (at[0] != '?')
        return true;
    at++;
    if (*at == ':' || *at == '=' || *at == '!')
        return true;
    if (*at == '<') /* looks behind, or has a name */
        return at[1] == '=' || at[1] == '!' ||
               strspn(at + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") >
                   0;
    at += strspn(at, "ims-");
    return *at == ':';
}

static bool translate(struct source *in, struct out *out)
{
    bool class_start = false; /* nothing but [ or [^ before */
    while (*in->at) {
        bool first = class_start;
        char c = *in->at++;
        class_start = false;
        if (c == '\\') {
            if (!take_escape(in, out))
                return false;
        } else if (in->in_class) {
            in->in_class = c != ']';
            if (c == '[')
                put(out, "\\["); /* a class by name begins like this, which JavaScript has not */
            else if (c == '^' && first)
                put(out, "\\^");
            else
                put_byte(out, c);
        } else {
            if (c == '(' && !group_ok(in->at))
                return false;
            put_byte(out, c);
            if (c == '[') {
                in->in_class = true;
                if (*in->at == '^')
                    put_byte(out, *in->at++);
                class_start = true;
            }
        }
    }
    return !in->in_class;
}

int pattern_from_regexp(const char *source, const char *flags, struct pattern **ret,
                        struct bg_err *err)
{
    struct source in = {.at = source, .unicode = strpbrk(flags, "uv") != NULL};
    struct out out;
    uint32_t options = PCRE2_DOLLAR_ENDONLY;
    if (strlen(source) > BG_GATEWAY_PATTERN_MAX)
        return bg_err_set(err, -EMSGSIZE, "a pattern is larger than %d bytes",
                          BG_GATEWAY_PATTERN_MAX);
    if (flags[strspn(flags, "dgimsuvy")] != '\0')
        return bg_err_set(err, -EINVAL, "a pattern has a flag that JavaScript has not");
    if (!out_init(&out, strlen(source)))
        return bg_err_errno(err, -ENOMEM, "pattern");
    options |= strchr(flags, 'i') ? PCRE2_CASELESS : 0;
    options |= strchr(flags, 'm') ? PCRE2_MULTILINE : 0;
    options |= strchr(flags, 's') ? PCRE2_DOTALL : 0;
    options |= strchr(flags, 'y') ? PCRE2_ANCHORED : 0;
    int r = translate(&in, &out)
                ? compile(out.text, out.used, options, ret, err)
                : bg_err_set(err, -EINVAL,
                             "a pattern cannot be used: it is not JavaScript's, or "
                             "beyond what bellglass serve takes");
    free(out.text);
    return r;
}

/* ---- globs ---- */

#define GROUPS_MAX 32

struct glob {
    const char *at, *end;
    const struct glob_opts *opts;
    char groups[GROUPS_MAX]; /* '{', or what is before a parenthesis */
    size_t depth;
};

static bool is_group(const struct glob *g, char c)
{
    return g->opts->extended && strchr("?*+@!", c) && g->at < g->end && *g->at == '(';
}

/* A class, behind its bracket. False: it does not end. */
static bool take_class(struct glob *g, struct out *out)
{
    bool negated = g->at < g->end && *g->at == '!';
    g->at += negated;
    put(out, negated ? "[^/" : "[");
    for (bool first = true; g->at < g->end; first = false) {
        static const char *const names[] = {"alnum", "alpha", "ascii", "blank", "cntrl",
                                            "digit", "graph", "lower", "print", "punct",
                                            "space", "upper", "word",  "xdigit"};
        char c = *g->at++;
        bool named = false;
        if (c == ']' && !first) {
            put_byte(out, ']');
            return true;
        }
        for (size_t i = 0; c == '[' && !named && i < sizeof names / sizeof names[0]; i++) {
            size_t size = strlen(names[i]), left = (size_t)(g->end - g->at);
            if (left < size + 3 || *g->at != ':' || memcmp(g->at + 1, names[i], size) != 0 ||
                memcmp(g->at + 1 + size, ":]", 2) != 0)
                continue;
            put(out, "[:");
            put(out, names[i]);
            put(out, ":]");
            g->at += size + 3;
            named = true;
        }
        if (named)
            continue;
        if (c == '\\') {
            if (g->at == g->end)
                return false;
            put_literal(out, *g->at++);
        } else if (c == '-') {
            put_byte(out, c);
        } else {
            put_literal(out, c);
        }
    }
    return false;
}

static void end_group(struct glob *g, struct out *out)
{
    char kind = g->groups[--g->depth];
    put_byte(out, ')');
    if (kind == '!')
        put(out, "[^/]*");
    else if (kind != '{' && kind != '@')
        put_byte(out, kind);
}

static bool begin_group(struct glob *g, struct out *out, char kind)
{
    if (g->depth == GROUPS_MAX)
        return false;
    g->groups[g->depth++] = kind;
    put(out, kind == '!' ? "(?!" : "(?:");
    return true;
}

/* One piece of a segment. False: it is to be taken literally. */
static bool take_piece(struct glob *g, struct out *out)
{
    char c = *g->at++;
    char group = g->depth > 0 ? g->groups[g->depth - 1] : '\0';
    if (c == '\\') {
        if (g->at == g->end)
            return false;
        put_literal(out, *g->at++);
    } else if (c == '[') {
        return take_class(g, out);
    } else if (is_group(g, c)) {
        g->at++;
        return begin_group(g, out, c);
    } else if (c == '{') {
        return begin_group(g, out, c);
    } else if ((c == '}' && group == '{') || (c == ')' && group && group != '{')) {
        end_group(g, out);
    } else if ((c == ',' && group == '{') || (c == '|' && group && group != '{')) {
        put_byte(out, '|');
    } else if (c == '*') {
        while (g->at < g->end && *g->at == '*')
            g->at++; /* as one: two quantifiers in a row would only be slow */
        put(out, "[^/]*");
    } else if (c == '?') {
        put(out, "[^/]");
    } else {
        put_literal(out, c);
    }
    return true;
}

/* One segment: up to a slash that is in no group. Returns where it ends. */
static const char *take_segment(struct glob *g, struct out *out)
{
    const char *start = g->at;
    size_t used = out->used;
    g->depth = 0;
    bool ok = true;
    while (ok && g->at < g->end && (*g->at != '/' || g->depth > 0))
        ok = take_piece(g, out);
    if (ok && g->depth == 0)
        return g->at;
    const char *slash = memchr(start, '/', (size_t)(g->end - start));
    const char *end = slash ? slash : g->end;
    out->used = used;
    for (const char *c = start; c < end; c++)
        put_literal(out, *c);
    return end;
}

static void translate_glob(struct glob *g, struct out *out)
{
    put_byte(out, '^');
    while (g->at < g->end) {
        size_t size = (size_t)(g->end - g->at);
        bool stars = g->opts->globstar && size >= 2 && memcmp(g->at, "**", 2) == 0;
        if (stars && size == 2) {
            put(out, ".*");
            g->at = g->end;
        } else if (stars && g->at[2] == '/') {
            put(out, "(?:[^/]+/)*");
            g->at += 2 + strspn(g->at + 2, "/");
        } else {
            g->at = take_segment(g, out);
            const char *next = g->at;
            while (next < g->end && *next == '/')
                next++;
            if (next > g->at)
                put(out, next < g->end ? "/+" : "/*");
            g->at = next;
        }
    }
    put(out, "$");
}

int pattern_from_glob(const char *glob, const struct glob_opts *opts, struct pattern **ret,
                      struct bg_err *err)
{
    size_t size = strlen(glob);
    struct glob g = {.at = glob, .end = glob + size, .opts = opts};
    struct out out;
    if (size > BG_GATEWAY_PATTERN_MAX)
        return bg_err_set(err, -EMSGSIZE, "a pattern is larger than %d bytes",
                          BG_GATEWAY_PATTERN_MAX);
    if (!out_init(&out, size))
        return bg_err_errno(err, -ENOMEM, "pattern");
    translate_glob(&g, &out);
    uint32_t options = PCRE2_DOLLAR_ENDONLY | PCRE2_DOTALL;
    int r = compile(out.text, out.used, options | (opts->case_insensitive ? PCRE2_CASELESS : 0),
                    ret, err);
    free(out.text);
    return r;
}

bool glob_is_pattern(const char *segment, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        size_t left = size - i - 1;
        const char *rest = segment + i + 1;
        char c = segment[i];
        if (c == '\\')
            i++;
        else if (c == '*' || c == '?' || (c == '[' && memchr(rest, ']', left)) ||
                 (c == '{' && memchr(rest, '}', left)) ||
                 (strchr("+@!", c) && left > 0 && *rest == '(' && memchr(rest, ')', left)))
            return true;
    }
    return false;
}

void glob_unescape(const char *segment, size_t size, char *out)
{
    for (size_t i = 0; i < size; i++) {
        if (segment[i] == '\\' && i + 1 < size)
            i++;
        *out++ = segment[i];
    }
    *out = '\0';
}

/* ---- several ---- */

int patterns_add(struct patterns *patterns, struct pattern *pattern)
{
    if (patterns->count == BG_GATEWAY_PATTERNS_MAX) {
        pattern_free(pattern);
        return -E2BIG;
    }
    patterns->list[patterns->count++] = pattern;
    return 0;
}

int patterns_match(const struct patterns *patterns, const char *text)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < patterns->count; i++)
        r = pattern_matches(patterns->list[i], text);
    return r;
}

void patterns_done(struct patterns *patterns)
{
    for (size_t i = 0; i < patterns->count; i++)
        pattern_free(patterns->list[i]);
    patterns->count = 0;
}
