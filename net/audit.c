#include "net/audit.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/limits.h"

/* Cannot overflow: the sum of all parts at their largest is below AUDIT_LINE_MAX (the assertion at
 * the end of audit_format would say otherwise). */
struct line {
    char *out;
    size_t used, size;
};

static void put(struct line *line, const char *text)
{
    size_t size = strlen(text);
    if (size > line->size - line->used)
        size = line->size - line->used;
    memcpy(line->out + line->used, text, size);
    line->used += size;
}

/* A JSON string of at most BG_EGRESS_AUDIT_TEXT bytes of the text. All but printable ASCII becomes
 * \u00xx, so that no reader's terminal or parser meets a byte of the guest's choice. */
static void put_string(struct line *line, const char *text, size_t size)
{
    bool cut = size > BG_EGRESS_AUDIT_TEXT;
    if (cut)
        size = BG_EGRESS_AUDIT_TEXT;
    put(line, "\"");
    for (size_t i = 0; i < size; i++) {
        uint8_t c = (uint8_t)text[i];
        char escaped[8] = {(char)c};
        if (c == '"' || c == '\\')
            (void)snprintf(escaped, sizeof escaped, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            (void)snprintf(escaped, sizeof escaped, "\\u%04x", c);
        put(line, escaped);
    }
    put(line, cut ? "...\"" : "\"");
}

static void put_text_field(struct line *line, const char *key, const char *text)
{
    put(line, ",\"");
    put(line, key);
    put(line, "\":");
    if (text)
        put_string(line, text, strlen(text));
    else
        put(line, "null");
}

static void put_number_field(struct line *line, const char *key, uint64_t value)
{
    char text[64];
    (void)snprintf(text, sizeof text, ",\"%s\":%" PRIu64, key, value);
    put(line, text);
}

static void put_names(struct line *line, const char *key, const struct secrets *secrets,
                      uint64_t bits)
{
    put(line, ",\"");
    put(line, key);
    put(line, "\":[");
    bool first = true;
    for (size_t i = 0; secrets && i < secrets->count; i++) {
        if (!(bits >> i & 1))
            continue;
        if (!first)
            put(line, ",");
        first = false;
        put_string(line, secrets->items[i].name, strlen(secrets->items[i].name));
    }
    put(line, "]");
}

static void put_time(struct line *line, uint64_t realtime_ms)
{
    time_t seconds = (time_t)(realtime_ms / 1000);
    struct tm utc;
    char text[80];
    (void)gmtime_r(&seconds, &utc); /* fails only for years that do not fit an int */
    (void)snprintf(text, sizeof text, "{\"ts\":\"%04d-%02d-%02dT%02d:%02d:%02d.%03uZ\"",
                   utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                   utc.tm_sec, (unsigned)(realtime_ms % 1000));
    put(line, text);
}

size_t audit_format(const struct audit_event *event, char *out, size_t out_size)
{
    static const char *const decisions[] = {"allow", "deny", "error"};
    assert(out_size >= AUDIT_LINE_MAX);
    struct line line = {.out = out, .size = out_size};
    put_time(&line, event->realtime_ms);
    put_text_field(&line, "sandbox", event->sandbox);
    put_number_field(&line, "stream", event->stream);
    put_text_field(&line, "decision", decisions[event->decision]);
    put_text_field(&line, "reason", event->reason);
    put_text_field(&line, "host", event->host);
    put_number_field(&line, "port", event->port);
    put_text_field(&line, "scheme", event->scheme);
    if (event->method.size > 0) {
        const char *query = memchr(event->path.at, '?', event->path.size);
        put(&line, ",\"method\":");
        put_string(&line, event->method.at, event->method.size);
        put(&line, ",\"path\":");
        put_string(&line, event->path.at,
                   query ? (size_t)(query - event->path.at) : event->path.size);
    }
    put_text_field(&line, "rule", event->rule);
    if (event->status > 0)
        put_number_field(&line, "status", (uint64_t)event->status);
    if (event->address)
        put_text_field(&line, "address", event->address);
    put_number_field(&line, "bytes_up", event->bytes_up);
    put_number_field(&line, "bytes_down", event->bytes_down);
    put_number_field(&line, "duration_ms", event->duration_ms);
    put_names(&line, "secrets", event->secrets, event->use.used);
    if (event->use.inherited)
        put_names(&line, "placeholders_inherited", event->secrets, event->use.inherited);
    if (event->use.scrubbed)
        put_names(&line, "scrubbed", event->secrets, event->use.scrubbed);
    if (event->use.not_approved)
        put_names(&line, "placeholders_not_approved", event->secrets, event->use.not_approved);
    if (event->use.valueless)
        put_names(&line, "secrets_without_value", event->secrets, event->use.valueless);
    if (event->use.unknown)
        put_number_field(&line, "placeholders_unknown", event->use.unknown);
    if (event->detail)
        put_text_field(&line, "detail", event->detail);
    put(&line, "}\n");
    assert(line.used < line.size);
    return line.used;
}
