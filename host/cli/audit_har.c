#include "host/cli/audit_har.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "host/cli/audit_filter.h"
#include "host/cli/output.h"

#define TIME_SIZE 80

char *audit_har_begin(const char *version)
{
    char *text = NULL;
    int n = asprintf(&text,
                     "{\"log\":{\"version\":\"1.2\",\"creator\":{\"name\":\"bellglass\","
                     "\"version\":\"%s\"},\"comment\":\"From an audit log, which has no bodies, "
                     "header fields and queries.\",\"entries\":[",
                     version);
    return n < 0 ? NULL : text;
}

static json_int_t number_of(const json_t *line, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(line, key));
    return value > 0 ? value : 0;
}

/* A line is written when its request ends; HAR wants to know when it began. */
static void began(const json_t *line, char out[TIME_SIZE])
{
    const char *text = json_string_value(json_object_get(line, "ts"));
    uint64_t ms = 0, took = (uint64_t)number_of(line, "duration_ms");
    struct tm utc;
    if (!text || audit_filter_parse_time(text, &ms) < 0)
        ms = 0;
    ms = took < ms ? ms - took : 0;
    time_t seconds = (time_t)(ms / 1000);
    (void)gmtime_r(&seconds, &utc); /* years of four digits came in */
    (void)snprintf(out, TIME_SIZE, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", utc.tm_year + 1900,
                   utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                   (unsigned)(ms % 1000));
}

/* What has no place in a URL is percent-encoded, so that no reader takes a guest's text for
 * something else. */
static void put_text(FILE *out, const json_t *value)
{
    const char *text = json_string_value(value);
    for (size_t i = 0; i < json_string_length(value); i++) {
        unsigned char c = (unsigned char)text[i];
        if (c <= 0x20 || c >= 0x7f || strchr("\"<>\\^`{|}", c))
            (void)fprintf(out, "%%%02X", c);
        else
            (void)fputc(c, out);
    }
}

static char *url_of(const json_t *line)
{
    char *text = NULL;
    size_t size;
    const char *scheme = json_string_value(json_object_get(line, "scheme"));
    const json_t *host = json_object_get(line, "host"), *path = json_object_get(line, "path");
    bool tls = scheme && strcmp(scheme, "https") == 0;
    bool address6 = json_is_string(host) && strchr(json_string_value(host), ':');
    json_int_t port = number_of(line, "port");
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    (void)fprintf(out, "%s://%s", tls ? "https" : "http", address6 ? "[" : "");
    put_text(out, host);
    (void)fprintf(out, "%s", address6 ? "]" : "");
    if (port > 0 && port != (tls ? 443 : 80))
        (void)fprintf(out, ":%" JSON_INTEGER_FORMAT, port);
    if (!json_is_string(path) || json_string_value(path)[0] != '/')
        (void)fputc('/', out); /* "*" of OPTIONS; a target that could not be read */
    put_text(out, path);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

/* Their own names begin with "_", as HAR 1.2 wants it of what it does not define. */
static int put_extras(json_t *entry, const json_t *line)
{
    static const char *const keys[][2] = {
        {"decision", "_decision"}, {"reason", "_reason"},   {"rule", "_rule"},
        {"detail", "_detail"},     {"secrets", "_secrets"}, {"address", "serverIPAddress"}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *value = json_object_get(line, keys[i][0]);
        if (value && json_object_set(entry, keys[i][1], value) < 0)
            return -ENOMEM;
    }
    return 0;
}

int audit_har_entry(const json_t *line, char **ret)
{
    char time_text[TIME_SIZE];
    const json_t *method = json_object_get(line, "method");
    *ret = NULL;
    if (!json_is_string(method))
        return 0;
    BG_AUTOFREE char *url = url_of(line);
    if (!url)
        return -ENOMEM;
    began(line, time_text);
    json_int_t took = number_of(line, "duration_ms");
    json_auto_t *entry = json_pack(
        "{s:s, s:I, s:{s:O, s:s, s:s, s:[], s:[], s:[], s:i, s:I},"
        " s:{s:I, s:s, s:s, s:[], s:[], s:{s:I, s:s}, s:s, s:i, s:I}, s:{}, s:{s:i, s:I, s:i}}",
        "startedDateTime", time_text, "time", took, /* */
        "request", "method", method, "url", url, "httpVersion", "unknown", "cookies", "headers",
        "queryString", "headersSize", -1, "bodySize", number_of(line, "bytes_up"), /* */
        "response", "status", number_of(line, "status"), "statusText", "", "httpVersion", "unknown",
        "cookies", "headers", "content", "size", number_of(line, "bytes_down"), "mimeType",
        "x-unknown", "redirectURL", "", "headersSize", -1, "bodySize",
        number_of(line, "bytes_down"), /* */
        "cache", "timings", "send", 0, "wait", took, "receive", 0);
    if (!entry || put_extras(entry, line) < 0)
        return -ENOMEM;
    *ret = output_json_text(entry, JSON_COMPACT);
    return *ret ? 0 : -ENOMEM;
}
