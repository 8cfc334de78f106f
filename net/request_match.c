#include "net/request_match.h"

#include <errno.h>
#include <string.h>

#include "common/io.h"
#include "common/quote.h"

#define PATH_MAX_SIZE ((size_t)8192)

static void free_texts(char **texts, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(texts[i]);
    free(texts);
}

void request_match_done(struct request_match *match)
{
    free_texts(match->methods, match->method_count);
    free_texts(match->paths, match->path_count);
    *match = (struct request_match){0};
}

static int add(char ***texts, size_t *count, const char *text)
{
    char **grown = reallocarray(*texts, *count + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    *texts = grown;
    grown[*count] = strdup(text);
    if (!grown[*count])
        return -ENOMEM;
    (*count)++;
    return 0;
}

int request_match_copy(const struct request_match *match, struct request_match *ret)
{
    struct request_match copy = {0};
    int r = 0;
    for (size_t i = 0; r == 0 && i < match->method_count; i++)
        r = add(&copy.methods, &copy.method_count, match->methods[i]);
    for (size_t i = 0; r == 0 && i < match->path_count; i++)
        r = add(&copy.paths, &copy.path_count, match->paths[i]);
    if (r < 0)
        request_match_done(&copy);
    else
        *ret = copy;
    return r;
}

int request_match_add_method(struct request_match *match, const char *method, struct bg_err *err)
{
    char shown[64];
    size_t size = strlen(method);
    if (size == 0 || size > 32 || strspn(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != size)
        return bg_err_set(err, -EINVAL, "%s: a method is written in capitals, such as GET",
                          bg_quote(method, shown, sizeof shown));
    if (match->method_count == REQUEST_LIST_MAX)
        return bg_err_set(err, -E2BIG, "more than %d methods", REQUEST_LIST_MAX);
    int r = add(&match->methods, &match->method_count, method);
    return r < 0 ? bg_err_errno(err, r, "method") : 0;
}

int request_match_add_path(struct request_match *match, const char *pattern, struct bg_err *err)
{
    char shown[128];
    bool ok =
        pattern[0] == '/' && strlen(pattern) <= REQUEST_PATTERN_MAX && !strstr(pattern, "***");
    for (const char *c = pattern; *c; c++)
        ok &= *c > ' ' && *c < 0x7f && *c != '?' && *c != '#' && *c != '\\' && *c != ';';
    if (!ok)
        return bg_err_set(
            err, -EINVAL,
            "%s: a path is '/' and printable ASCII without '?', '#', ';' or '\\'; '*' "
            "is any part of a segment, '**' anything",
            bg_quote(pattern, shown, sizeof shown));
    if (match->path_count == REQUEST_LIST_MAX)
        return bg_err_set(err, -E2BIG, "more than %d paths", REQUEST_LIST_MAX);
    int r = add(&match->paths, &match->path_count, pattern);
    return r < 0 ? bg_err_errno(err, r, "path") : 0;
}

/* ---- paths ---- */

static bool is_unreserved(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c > 0 && strchr("-._~", c));
}

/* Ends a segment that begins at start in out. */
static bool segment_ok(const struct buffer *out, size_t start, bool last)
{
    const char *text = (const char *)buffer_bytes(out) + start;
    size_t size = buffer_size(out) - start;
    bool dots = (size == 1 && text[0] == '.') || (size == 2 && text[0] == '.' && text[1] == '.');
    return !dots && (size > 0 || last);
}

int request_path_normalize(struct slice target, struct buffer *out)
{
    const char *query = memchr(target.at, '?', target.size);
    size_t size = query ? (size_t)(query - target.at) : target.size, start = 1;
    if (size == 0 || target.at[0] != '/' || size > PATH_MAX_SIZE)
        return -EINVAL;
    buffer_put(out, "/", 1);
    for (size_t i = 1; i < size && buffer_ok(out); i++) {
        char c = target.at[i];
        if (c == '/') {
            if (!segment_ok(out, start, false))
                return -EINVAL;
            buffer_put(out, "/", 1);
            start = buffer_size(out);
        } else if (c == '%') {
            int high = i + 2 < size ? bg_hex_digit(target.at[i + 1]) : -1;
            int low = i + 2 < size ? bg_hex_digit(target.at[i + 2]) : -1;
            int byte = high * 16 + low;
            if (high < 0 || low < 0 || byte == '/' || byte == '\\' || byte == 0)
                return -EINVAL;
            if (is_unreserved(byte))
                buffer_put(out, &(char){(char)byte}, 1);
            else
                buffer_printf(out, "%%%02X", (unsigned)byte);
            i += 2;
        } else if (c == ';' || c == '\\') {
            return -EINVAL;
        } else {
            buffer_put(out, &c, 1);
        }
    }
    if (!buffer_ok(out))
        return -ENOMEM;
    return segment_ok(out, start, true) ? 0 : -EINVAL;
}

/* All places of the pattern that the text read so far may have led to. */
struct places {
    bool at[REQUEST_PATTERN_MAX + 1];
    bool any;
};

static void reach(const char *pattern, size_t i, struct places *places)
{
    places->at[i] = places->any = true;
    while (pattern[i] == '*') { /* which may stand for nothing */
        i += pattern[i + 1] == '*' ? 2 : 1;
        places->at[i] = true;
    }
}

static bool glob(const char *pattern, const char *text, size_t size)
{
    struct places now = {0};
    size_t count = strlen(pattern);
    reach(pattern, 0, &now);
    for (size_t k = 0; k < size && now.any; k++) {
        struct places next = {0};
        for (size_t i = 0; i < count; i++) {
            if (!now.at[i])
                continue;
            bool twice = pattern[i] == '*' && pattern[i + 1] == '*';
            if (pattern[i] == '*' && (twice || text[k] != '/'))
                reach(pattern, i, &next);
            else if (pattern[i] == text[k])
                reach(pattern, i + 1, &next);
        }
        now = next;
    }
    return now.at[count];
}

bool request_match_covers(const struct request_match *match, struct slice method,
                          const struct buffer *path)
{
    bool found = match->method_count == 0;
    for (size_t i = 0; i < match->method_count; i++)
        found |= strlen(match->methods[i]) == method.size &&
                 memcmp(match->methods[i], method.at, method.size) == 0;
    if (!found || match->path_count == 0)
        return found;
    for (size_t i = 0; i < match->path_count; i++)
        if (glob(match->paths[i], (const char *)buffer_bytes(path), buffer_size(path)))
            return true;
    return false;
}
