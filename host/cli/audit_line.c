#include "host/cli/audit_line.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/quote.h"

#define FIELD_SIZE 512

json_t *audit_line_load(const char *line, size_t size)
{
    json_t *json = json_loadb(line, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    if (json_is_object(json))
        return json;
    json_decref(json);
    return NULL;
}

/* A text field, escaped; "" if there is none. */
static const char *text_of(const json_t *json, const char *key, char out[FIELD_SIZE])
{
    const json_t *value = json_object_get(json, key);
    bg_escape(json_is_string(value) ? json_string_value(value) : "", json_string_length(value), out,
              FIELD_SIZE);
    return out;
}

static json_int_t number_of(const json_t *json, const char *key)
{
    return json_integer_value(json_object_get(json, key));
}

struct line {
    char *out; /* AUDIT_LINE_SIZE */
    size_t used;
};

/* Appends; what does not fit is cut. */
static void BG_PRINTF(2, 3) put(struct line *line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line->out + line->used, AUDIT_LINE_SIZE - line->used, format, args);
    va_end(args);
    if (n > 0)
        line->used +=
            (size_t)n < AUDIT_LINE_SIZE - line->used ? (size_t)n : AUDIT_LINE_SIZE - 1 - line->used;
}

static void put_names(struct line *line, const json_t *json, const char *key, const char *label)
{
    const json_t *names = json_object_get(json, key);
    for (size_t i = 0; i < json_array_size(names); i++) {
        const json_t *name = json_array_get(names, i);
        char text[FIELD_SIZE];
        bg_escape(json_is_string(name) ? json_string_value(name) : "?",
                  json_is_string(name) ? json_string_length(name) : 1, text, sizeof text);
        put(line, "%s%s", i == 0 ? label : ",", text);
    }
}

/* "2026-11-23T23:40:42.123Z" without its T, milliseconds and Z. */
static void put_time(struct line *line, const json_t *json)
{
    char text[FIELD_SIZE];
    (void)text_of(json, "ts", text);
    if (strlen(text) > 19)
        text[19] = '\0';
    if (strlen(text) > 10 && text[10] == 'T')
        text[10] = ' ';
    put(line, "%-19s  ", text);
}

void audit_line_format(const json_t *json, char out[AUDIT_LINE_SIZE])
{
    char text[FIELD_SIZE], path[FIELD_SIZE];
    struct line l = {.out = out};
    out[0] = '\0';
    put_time(&l, json);
    put(&l, "%-5s  ", text_of(json, "decision", text));
    put(&l, "%-5s ", text_of(json, json_object_get(json, "method") ? "method" : "scheme", text));
    put(&l, "%s", text_of(json, "host", text));
    if (number_of(json, "port") > 0)
        put(&l, ":%" JSON_INTEGER_FORMAT, number_of(json, "port"));
    put(&l, "%s", text_of(json, "path", path));
    if (number_of(json, "status") > 0)
        put(&l, "  %" JSON_INTEGER_FORMAT, number_of(json, "status"));
    if (json_is_string(json_object_get(json, "rule")))
        put(&l, "  rule %s", text_of(json, "rule", text));
    put_names(&l, json, "secrets", "  secret ");
    put_names(&l, json, "placeholders_inherited", "  by a placeholder of its source: ");
    put_names(&l, json, "scrubbed", "  taken out of the answer: ");
    put_names(&l, json, "placeholders_not_approved", "  placeholder not approved here: ");
    put_names(&l, json, "secrets_without_value", "  secret without a value: ");
    const char *reason = text_of(json, "reason", text);
    if (reason[0] != '\0' && strcmp(reason, "allowed") != 0)
        put(&l, "  (%s)", reason);
    put(&l, "  %" JSON_INTEGER_FORMAT "B up, %" JSON_INTEGER_FORMAT "B down",
        number_of(json, "bytes_up"), number_of(json, "bytes_down"));
}
