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

static void free_conditions(struct request_condition *conditions, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free_texts(conditions[i].patterns, conditions[i].pattern_count);
        free(conditions[i].name);
    }
    free(conditions);
}

void request_match_done(struct request_match *match)
{
    free_texts(match->methods, match->method_count);
    free_texts(match->paths, match->path_count);
    free_conditions(match->query, match->query_count);
    free_texts(match->keys, match->key_count);
    free_conditions(match->header, match->header_count);
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

/* Adds the pattern to the condition of that name, which is made if there is none. */
static int add_condition(struct request_condition **conditions, size_t *count, const char *name,
                         const char *pattern)
{
    size_t i = 0;
    while (i < *count && strcmp((*conditions)[i].name, name) != 0)
        i++;
    if (i == *count) {
        struct request_condition *grown = reallocarray(*conditions, *count + 1, sizeof *grown);
        if (!grown)
            return -ENOMEM;
        *conditions = grown;
        grown[i] = (struct request_condition){.name = strdup(name)};
        if (!grown[i].name)
            return -ENOMEM;
        (*count)++;
    }
    return add(&(*conditions)[i].patterns, &(*conditions)[i].pattern_count, pattern);
}

static int copy_texts(char *const *texts, size_t count, char ***ret, size_t *ret_count)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = add(ret, ret_count, texts[i]);
    return r;
}

static int copy_conditions(const struct request_condition *conditions, size_t count,
                           struct request_condition **ret, size_t *ret_count)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        for (size_t k = 0; r == 0 && k < conditions[i].pattern_count; k++)
            r = add_condition(ret, ret_count, conditions[i].name, conditions[i].patterns[k]);
    return r;
}

int request_match_copy(const struct request_match *match, struct request_match *ret)
{
    struct request_match copy = {.only_keys = match->only_keys, .any_field = match->any_field};
    int r = copy_texts(match->methods, match->method_count, &copy.methods, &copy.method_count);
    if (r == 0)
        r = copy_texts(match->paths, match->path_count, &copy.paths, &copy.path_count);
    if (r == 0)
        r = copy_conditions(match->query, match->query_count, &copy.query, &copy.query_count);
    if (r == 0)
        r = copy_texts(match->keys, match->key_count, &copy.keys, &copy.key_count);
    if (r == 0)
        r = copy_conditions(match->header, match->header_count, &copy.header, &copy.header_count);
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

static int check_value_pattern(const char *pattern, struct bg_err *err)
{
    char shown[128];
    bool ok = strlen(pattern) <= REQUEST_PATTERN_MAX && !strstr(pattern, "**");
    for (const char *c = pattern; *c; c++)
        ok &= (unsigned char)*c >= ' ' && *c != 0x7f;
    if (ok)
        return 0;
    return bg_err_set(err, -EINVAL,
                      "%s: a value is up to %d bytes without control bytes; '*' is any part of it",
                      bg_quote(pattern, shown, sizeof shown), REQUEST_PATTERN_MAX);
}

/* Adds to conditions whose name and pattern were looked at. */
static int add_checked(struct request_condition **conditions, size_t *count, const char *name,
                       const char *pattern, struct bg_err *err)
{
    size_t patterns = 0;
    for (size_t i = 0; i < *count; i++)
        patterns += (*conditions)[i].pattern_count;
    if (patterns == REQUEST_LIST_MAX)
        return bg_err_set(err, -E2BIG, "more than %d patterns", REQUEST_LIST_MAX);
    int r = add_condition(conditions, count, name, pattern);
    return r < 0 ? bg_err_errno(err, r, "condition") : 0;
}

static int check_key(const char *key, struct bg_err *err)
{
    char shown[64];
    bool ok = *key && strlen(key) <= REQUEST_PATTERN_MAX;
    for (const char *c = key; *c; c++)
        ok &= (unsigned char)*c >= ' ' && *c != 0x7f && *c != '*';
    if (ok)
        return 0;
    return bg_err_set(err, -EINVAL, "%s: want a key as it is when decoded, without '*'",
                      bg_quote(key, shown, sizeof shown));
}

int request_match_add_query(struct request_match *match, const char *key, const char *pattern,
                            struct bg_err *err)
{
    int r = check_key(key, err);
    if (r == 0)
        r = check_value_pattern(pattern, err);
    return r < 0 ? r : add_checked(&match->query, &match->query_count, key, pattern, err);
}

int request_match_add_key(struct request_match *match, const char *key, struct bg_err *err)
{
    int r = check_key(key, err);
    if (r < 0)
        return r;
    if (match->key_count == REQUEST_LIST_MAX)
        return bg_err_set(err, -E2BIG, "more than %d keys", REQUEST_LIST_MAX);
    r = add(&match->keys, &match->key_count, key);
    return r < 0 ? bg_err_errno(err, r, "key") : 0;
}

int request_match_add_header(struct request_match *match, const char *name, const char *pattern,
                             struct bg_err *err)
{
    /* What the guest says in these is not what the host gets. */
    static const char *const ours[] = {
        "connection", "content-length", "host",    "http2-settings",    "keep-alive",
        "te",         "trailer",        "upgrade", "transfer-encoding",
    };
    char lower[65] = "", shown[80];
    size_t size = strlen(name);
    bool ok = size > 0 && size < sizeof lower;
    for (size_t i = 0; ok && i < size; i++) {
        char c = name[i];
        lower[i] = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
        ok = (lower[i] >= 'a' && lower[i] <= 'z') || (c >= '0' && c <= '9') || strchr("-_.", c);
    }
    if (!ok)
        return bg_err_set(err, -EINVAL, "%s is no header's name",
                          bg_quote(name, shown, sizeof shown));
    bool refused = strncmp(lower, "proxy-", 6) == 0;
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        refused |= strcmp(lower, ours[i]) == 0;
    if (refused)
        return bg_err_set(err, -EINVAL, "%s is written by the proxy, whatever the request says",
                          bg_quote(name, shown, sizeof shown));
    int r = check_value_pattern(pattern, err);
    return r < 0 ? r : add_checked(&match->header, &match->header_count, lower, pattern, err);
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

/* ---- queries ---- */

void request_query_done(struct request_query *query)
{
    free(query->text);
    free(query->plus);
    free(query->pairs);
    *query = (struct request_query){0};
}

/* Where a query is decoded to. */
struct decoded {
    struct request_query query;
    size_t used;
    bool plus; /* there was one */
};

/* Decodes a key or a value. Returns its size in text, or -1. */
static ssize_t decode(struct decoded *d, const char *text, size_t size, bool is_key)
{
    size_t start = d->used;
    for (size_t i = 0; i < size; i++) {
        int byte = (unsigned char)text[i];
        bool escaped = byte == '%';
        if (escaped) {
            int high = size - i > 2 ? bg_hex_digit(text[i + 1]) : -1;
            int low = size - i > 2 ? bg_hex_digit(text[i + 2]) : -1;
            byte = high * 16 + low;
            if (high < 0 || low < 0 || byte == 0)
                return -1;
            i += 2;
        }
        bool plus = byte == '+' && !escaped;
        if ((byte == ';' && !escaped) ||
            (is_key && (plus || byte < ' ' || byte == 0x7f || byte == ';' || byte == '&')))
            return -1;
        d->plus |= plus;
        d->query.plus[d->used] = (char)byte;
        d->query.text[d->used++] = plus ? ' ' : (char)byte;
    }
    return (ssize_t)(d->used - start);
}

static bool has_key(const struct request_query *query, const struct request_pair *pair,
                    const char *key)
{
    return pair->key_size == strlen(key) &&
           memcmp(query->text + pair->key, key, pair->key_size) == 0;
}

static bool is_there(const struct request_query *query, const struct request_pair *pair)
{
    for (size_t i = 0; i < query->count; i++)
        if (query->pairs[i].key_size == pair->key_size &&
            memcmp(query->text + query->pairs[i].key, query->text + pair->key, pair->key_size) == 0)
            return true;
    return false;
}

/* Adds one KEY=VALUE or KEY. */
static bool add_pair(struct decoded *d, const char *text, size_t size)
{
    const char *equals = memchr(text, '=', size);
    size_t key_size = equals ? (size_t)(equals - text) : size;
    struct request_pair pair = {.key = d->used};
    ssize_t n = decode(d, text, key_size, /* is_key= */ true);
    if (n <= 0 || d->query.count == REQUEST_QUERY_PAIRS_MAX)
        return false;
    pair.key_size = (size_t)n;
    pair.value = d->used;
    n = equals ? decode(d, equals + 1, size - key_size - 1, /* is_key= */ false) : 0;
    if (n < 0 || is_there(&d->query, &pair))
        return false;
    pair.value_size = (size_t)n;
    d->query.pairs[d->query.count++] = pair;
    return true;
}

int request_query_parse(struct slice target, struct request_query *ret)
{
    const char *mark = target.size > 0 ? memchr(target.at, '?', target.size) : NULL;
    struct decoded d = {0};
    size_t size = mark ? target.size - (size_t)(mark + 1 - target.at) : 0;
    if (size > PATH_MAX_SIZE)
        return -EINVAL;
    d.query.text = malloc(size + 1);
    d.query.plus = malloc(size + 1);
    d.query.pairs = calloc(REQUEST_QUERY_PAIRS_MAX, sizeof *d.query.pairs);
    int r = d.query.text && d.query.plus && d.query.pairs ? 0 : -ENOMEM;
    for (size_t at = 0; r == 0 && at < size;) {
        const char *text = mark + 1 + at;
        const char *end = memchr(text, '&', size - at);
        size_t part = end ? (size_t)(end - text) : size - at;
        if (part > 0 && !add_pair(&d, text, part))
            r = -EINVAL;
        at += part + 1;
    }
    if (r < 0) {
        request_query_done(&d.query);
        return r;
    }
    if (!d.plus) {
        free(d.query.plus);
        d.query.plus = NULL;
    }
    *ret = d.query;
    return 0;
}

/* ---- comparing ---- */

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

/* in_path: a single '*' does not stand for '/'. */
static bool glob(const char *pattern, const char *text, size_t size, bool in_path)
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
            if (pattern[i] == '*' && (twice || !in_path || text[k] != '/'))
                reach(pattern, i, &next);
            else if (pattern[i] == text[k])
                reach(pattern, i + 1, &next);
        }
        now = next;
    }
    return now.at[count];
}

static bool any_glob(const struct request_condition *condition, const char *text, size_t size)
{
    for (size_t i = 0; i < condition->pattern_count; i++)
        if (glob(condition->patterns[i], text, size, /* in_path= */ false))
            return true;
    return false;
}

static bool method_ok(const struct request_match *match, struct slice method)
{
    for (size_t i = 0; i < match->method_count; i++)
        if (strlen(match->methods[i]) == method.size &&
            memcmp(match->methods[i], method.at, method.size) == 0)
            return true;
    return match->method_count == 0;
}

static bool path_ok(const struct request_match *match, const struct request_view *view)
{
    if (match->path_count > 0 && !(view->clear & REQUEST_PATH))
        return false;
    for (size_t i = 0; i < match->path_count; i++)
        if (glob(match->paths[i], (const char *)buffer_bytes(&view->path), buffer_size(&view->path),
                 /* in_path= */ true))
            return true;
    return match->path_count == 0;
}

static bool is_named(const struct request_match *match, const struct request_query *query,
                     const struct request_pair *pair)
{
    for (size_t i = 0; i < match->query_count; i++)
        if (has_key(query, pair, match->query[i].name))
            return true;
    for (size_t i = 0; i < match->key_count; i++)
        if (has_key(query, pair, match->keys[i]))
            return true;
    return false;
}

static bool query_ok(const struct request_match *match, const struct request_view *view)
{
    const struct request_query *query = &view->query;
    if (!request_match_asks_query(match))
        return true;
    if (request_match_query_unclear(match, view))
        return false;
    for (size_t i = 0; i < match->query_count; i++) {
        bool found = false;
        for (size_t k = 0; k < query->count; k++)
            found |= has_key(query, &query->pairs[k], match->query[i].name) &&
                     any_glob(&match->query[i], query->text + query->pairs[k].value,
                              query->pairs[k].value_size);
        if (!found)
            return false;
    }
    for (size_t k = 0; k < query->count; k++)
        if (match->only_keys && !is_named(match, query, &query->pairs[k]))
            return false;
    return true;
}

static bool header_ok(const struct request_match *match, const struct request_text *text)
{
    for (size_t i = 0; i < match->header_count; i++) {
        size_t there = 0, matching = 0;
        for (size_t k = 0; k < text->field_count; k++) {
            const struct http_field *field = &text->fields[k];
            if (!slice_is(field->name, match->header[i].name))
                continue;
            there++;
            matching += any_glob(&match->header[i], field->value.at, field->value.size);
        }
        if (matching == 0 || (matching < there && !match->any_field))
            return false;
    }
    return true;
}

bool request_match_covers(const struct request_match *match, const struct request_view *view)
{
    return method_ok(match, view->text->method) && path_ok(match, view) && query_ok(match, view) &&
           header_ok(match, view->text);
}

/* The next byte of a key as the most forgiving server has it; -1: its end. */
static int next_of_key(const char *key, size_t size, size_t at)
{
    if (at == size || key[at] == '[')
        return -1;
    if (key[at] >= 'A' && key[at] <= 'Z')
        return key[at] | 0x20;
    return key[at] == '.' || key[at] == ' ' ? '_' : (unsigned char)key[at];
}

static bool is_nearly(const char *key, size_t size, const char *name)
{
    size_t name_size = strlen(name), i = 0;
    while (size > 0 && *key == ' ') { /* PHP drops them */
        key++;
        size--;
    }
    for (;; i++) {
        int a = next_of_key(key, size, i), b = next_of_key(name, name_size, i);
        if (a != b)
            return false;
        if (a < 0)
            return true;
    }
}

static bool pair_unclear(const struct request_match *match,
                         const struct request_condition *condition,
                         const struct request_query *query, const struct request_pair *pair)
{
    const char *key = query->text + pair->key;
    if (!has_key(query, pair, condition->name))
        return !is_named(match, query, pair) && is_nearly(key, pair->key_size, condition->name);
    return query->plus && any_glob(condition, query->text + pair->value, pair->value_size) !=
                              any_glob(condition, query->plus + pair->value, pair->value_size);
}

bool request_match_query_unclear(const struct request_match *match, const struct request_view *view)
{
    const struct request_query *query = &view->query;
    if (!request_match_asks_query(match))
        return false;
    if (!(view->clear & REQUEST_QUERY))
        return true;
    for (size_t i = 0; i < match->query_count; i++)
        for (size_t k = 0; k < query->count; k++)
            if (pair_unclear(match, &match->query[i], query, &query->pairs[k]))
                return true;
    return false;
}

void request_view_init(struct request_view *view, const struct request_text *text, unsigned parts)
{
    *view = (struct request_view){.text = text, .path = buffer_init(3 * text->target.size + 1)};
    if ((parts & REQUEST_PATH) && request_path_normalize(text->target, &view->path) == 0)
        view->clear |= REQUEST_PATH;
    if ((parts & REQUEST_QUERY) && request_query_parse(text->target, &view->query) == 0)
        view->clear |= REQUEST_QUERY;
}

void request_view_done(struct request_view *view)
{
    buffer_reset(&view->path);
    request_query_done(&view->query);
}
