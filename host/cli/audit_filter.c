#include "host/cli/audit_filter.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/checked.h"
#include "common/quote.h"
#include "host/cli/grammar.h"

#define AGO_MAX 1000000000 /* of any unit; what is before 1970 becomes 1970 */

/* ---- times ---- */

/* count digits at *at as a number, and beyond them. -1: they are not there. */
static int digits(const char **at, int count)
{
    int value = 0;
    for (int i = 0; i < count; i++, (*at)++) {
        if (!isdigit((unsigned char)**at))
            return -1;
        value = 10 * value + (**at - '0');
    }
    return value;
}

static bool skip(const char **at, const char *any_of)
{
    if (**at == '\0' || !strchr(any_of, **at))
        return false;
    (*at)++;
    return true;
}

/* ".123456": milliseconds, further digits are cut. */
static int fraction_ms(const char **at)
{
    int ms = 0;
    if (!skip(at, "."))
        return 0;
    if (!isdigit((unsigned char)**at))
        return -1;
    for (int scale = 100; isdigit((unsigned char)**at); (*at)++, scale /= 10)
        ms += scale * (**at - '0');
    return ms;
}

/* "Z" or "+02:00", in minutes. */
static bool offset_minutes(const char **at, int *ret)
{
    *ret = 0;
    if (skip(at, "Zz"))
        return true;
    bool west = **at == '-';
    if (!skip(at, "+-"))
        return false;
    int hours = digits(at, 2);
    bool ok = skip(at, ":");
    int minutes = digits(at, 2);
    *ret = (west ? -1 : 1) * (60 * hours + minutes);
    return ok && hours >= 0 && hours < 24 && minutes >= 0 && minutes < 60;
}

int audit_filter_parse_time(const char *text, uint64_t *ret_ms)
{
    const char *at = text;
    struct tm tm = {.tm_year = digits(&at, 4) - 1900};
    bool ok = skip(&at, "-");
    tm.tm_mon = digits(&at, 2) - 1;
    ok = ok && skip(&at, "-");
    tm.tm_mday = digits(&at, 2);
    ok = ok && skip(&at, "Tt ");
    tm.tm_hour = digits(&at, 2);
    ok = ok && skip(&at, ":");
    tm.tm_min = digits(&at, 2);
    ok = ok && skip(&at, ":");
    tm.tm_sec = digits(&at, 2);
    int ms = fraction_ms(&at), offset;
    ok = ok && offset_minutes(&at, &offset) && *at == '\0' && ms >= 0;
    if (!ok || tm.tm_year < 70 || tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_hour < 0 ||
        tm.tm_min < 0 || tm.tm_sec < 0 || tm.tm_sec > 60) /* 60: a leap second */
        return -EINVAL;
    struct tm asked = tm;
    /* A day that is not in its month is another day when it comes back. */
    int64_t seconds = timegm(&tm);
    if (asked.tm_sec < 60 && (tm.tm_mday != asked.tm_mday || tm.tm_mon != asked.tm_mon))
        return -EINVAL;
    seconds -= 60 * (int64_t)offset;
    if (seconds < 0)
        return -EINVAL;
    *ret_ms = 1000 * (uint64_t)seconds + (uint64_t)ms;
    return 0;
}

/* "10m" */
static int parse_ago(const char *text, uint64_t now_ms, uint64_t *ret_ms)
{
    static const struct {
        char unit;
        uint64_t ms;
    } units[] = {{'s', 1000}, {'m', 60000}, {'h', 3600000}, {'d', 86400000}};
    char number[16];
    size_t size = strlen(text);
    if (size < 2 || size > sizeof number)
        return -EINVAL;
    (void)snprintf(number, sizeof number, "%.*s", (int)size - 1, text);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        uint64_t count;
        if (units[i].unit != text[size - 1])
            continue;
        if (bg_parse_u64(number, 0, AGO_MAX, &count) < 0)
            return -EINVAL;
        uint64_t ago = count * units[i].ms; /* cannot wrap: AGO_MAX */
        *ret_ms = ago < now_ms ? now_ms - ago : 0;
        return 0;
    }
    return -EINVAL;
}

/* ---- conditions ---- */

static const char *const names[] = {
    [AUDIT_FILTER_SINCE] = "--since",   [AUDIT_FILTER_UNTIL] = "--until",
    [AUDIT_FILTER_HOST] = "--host",     [AUDIT_FILTER_DECISION] = "--decision",
    [AUDIT_FILTER_REASON] = "--reason", [AUDIT_FILTER_METHOD] = "--method",
    [AUDIT_FILTER_STATUS] = "--status",
};

static int refuse(enum audit_filter_key key, const char *text, const char *want, struct bg_err *err)
{
    char quoted[160];
    return bg_err_set(err, -EINVAL, "%s %s: want %s", names[key],
                      bg_quote(text, quoted, sizeof quoted), want);
}

static bool status_ok(const char *text)
{
    return strlen(text) == 3 && text[0] >= '1' && text[0] <= '9' &&
           (strcasecmp(text + 1, "xx") == 0 ||
            (isdigit((unsigned char)text[1]) && isdigit((unsigned char)text[2])));
}

static bool word_ok(const char *text, const char *further)
{
    size_t size = 0;
    for (; text[size] != '\0'; size++)
        if (!isalnum((unsigned char)text[size]) && !strchr(further, text[size]))
            return false;
    return size > 0;
}

static int add_word(struct audit_filter_words *words, enum audit_filter_key key, const char *text,
                    struct bg_err *err)
{
    if (words->count == AUDIT_FILTER_WORDS_MAX)
        return bg_err_set(err, -E2BIG, "more than %d of %s", AUDIT_FILTER_WORDS_MAX, names[key]);
    words->items[words->count++] = text;
    return 0;
}

static int add_time(enum audit_filter_key key, const char *text, uint64_t now_ms, bool *ret_has,
                    uint64_t *ret_ms, struct bg_err *err)
{
    if (audit_filter_parse_time(text, ret_ms) < 0 && parse_ago(text, now_ms, ret_ms) < 0)
        return refuse(key, text, "a time such as 2026-11-23T08:30:00Z, or 10m for ten minutes ago",
                      err);
    *ret_has = true;
    return 0;
}

int audit_filter_add(struct audit_filter *filter, enum audit_filter_key key, const char *text,
                     uint64_t now_ms, struct bg_err *err)
{
    switch (key) {
    case AUDIT_FILTER_SINCE:
        return add_time(key, text, now_ms, &filter->has_since, &filter->since_ms, err);
    case AUDIT_FILTER_UNTIL:
        return add_time(key, text, now_ms, &filter->has_until, &filter->until_ms, err);
    case AUDIT_FILTER_HOST:
        return grammar_host_ok(text, strlen(text)) || strchr(text, ':')
                   ? add_word(&filter->hosts, key, text, err)
                   : refuse(key, text, "a host or *.suffix", err);
    case AUDIT_FILTER_DECISION:
        return strcmp(text, "allow") == 0 || strcmp(text, "deny") == 0 || strcmp(text, "error") == 0
                   ? add_word(&filter->decisions, key, text, err)
                   : refuse(key, text, "allow, deny or error", err);
    case AUDIT_FILTER_REASON:
        return word_ok(text, "-") ? add_word(&filter->reasons, key, text, err)
                                  : refuse(key, text, "a word such as host-not-allowed", err);
    case AUDIT_FILTER_METHOD:
        return word_ok(text, "-_") ? add_word(&filter->methods, key, text, err)
                                   : refuse(key, text, "a method such as GET", err);
    case AUDIT_FILTER_STATUS:
        return status_ok(text) ? add_word(&filter->statuses, key, text, err)
                               : refuse(key, text, "a status such as 403 or 4xx", err);
    }
    return bg_err_set(err, -EINVAL, "no such condition");
}

/* ---- lines ---- */

/* A text without NUL in it; NULL otherwise. */
static const char *text_of(const json_t *line, const char *key)
{
    const json_t *value = json_object_get(line, key);
    const char *text = json_string_value(value);
    return text && strlen(text) == json_string_length(value) ? text : NULL;
}

static bool time_fits(const struct audit_filter *filter, const json_t *line)
{
    uint64_t ms;
    if (!filter->has_since && !filter->has_until)
        return true;
    const char *text = text_of(line, "ts");
    return text && audit_filter_parse_time(text, &ms) == 0 &&
           (!filter->has_since || ms >= filter->since_ms) &&
           (!filter->has_until || ms < filter->until_ms);
}

static bool is_word(const char *word, const char *text)
{
    return strcasecmp(word, text) == 0;
}

/* The log has addresses without brackets. */
static bool is_host(const char *word, const char *text)
{
    size_t size = strlen(word), host = strlen(text);
    if (size > 2 && word[0] == '*' && word[1] == '.')
        return host > size - 1 && strcasecmp(text + host - (size - 1), word + 1) == 0;
    if (size > 2 && word[0] == '[' && word[size - 1] == ']')
        return host == size - 2 && strncasecmp(word + 1, text, host) == 0;
    return is_word(word, text);
}

static bool words_fit(const struct audit_filter_words *words, const char *text,
                      bool (*fits)(const char *word, const char *text))
{
    for (size_t i = 0; text && i < words->count; i++)
        if (fits(words->items[i], text))
            return true;
    return words->count == 0;
}

static bool is_status(const char *word, const char *text)
{
    return strlen(text) == 3 && word[0] == text[0] &&
           (strcasecmp(word + 1, "xx") == 0 || strcmp(word, text) == 0);
}

bool audit_filter_matches(const struct audit_filter *filter, const json_t *line)
{
    char status[32] = "";
    const json_t *number = json_object_get(line, "status");
    if (json_is_integer(number))
        (void)snprintf(status, sizeof status, "%" JSON_INTEGER_FORMAT, json_integer_value(number));
    return time_fits(filter, line) && words_fit(&filter->hosts, text_of(line, "host"), is_host) &&
           words_fit(&filter->decisions, text_of(line, "decision"), is_word) &&
           words_fit(&filter->reasons, text_of(line, "reason"), is_word) &&
           words_fit(&filter->methods, text_of(line, "method"), is_word) &&
           words_fit(&filter->statuses, status, is_status);
}
