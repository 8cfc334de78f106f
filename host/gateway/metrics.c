#include "host/gateway/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

static const uint64_t bounds_ms[METRIC_BOUNDS] = METRIC_BOUNDS_MS;

void metric_count(struct metric_family *family, const char *name)
{
    char cut[METRIC_NAME_SIZE];
    (void)snprintf(cut, sizeof cut, "%s", name);
    for (size_t i = 0; i < family->count; i++)
        if (strcmp(family->list[i].name, cut) == 0) {
            family->list[i].count++;
            return;
        }
    if (family->count == BG_GATEWAY_METRICS_MAX) {
        family->other++;
        return;
    }
    memcpy(family->list[family->count].name, cut, sizeof cut);
    family->list[family->count++].count = 1;
}

void metric_observe(struct metric_histogram *histogram, uint64_t ms)
{
    size_t i = 0;
    while (i < METRIC_BOUNDS && ms > bounds_ms[i])
        i++;
    histogram->counts[i]++;
    histogram->sum_ms += ms;
}

/* ---- text ---- */

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    (void)fprintf(out, "# HELP bellglass_%s %s\n# TYPE bellglass_%s %s\n", name, help, name, type);
}

static void single(FILE *out, const char *name, const char *type, const char *help, uint64_t value)
{
    head(out, name, type, help);
    (void)fprintf(out, "bellglass_%s %" PRIu64 "\n", name, value);
}

/* A label's value: backslash, quote and line feed are escaped. */
static void print_value(FILE *out, const char *text)
{
    for (; *text; text++)
        if (*text == '\n')
            (void)fputs("\\n", out);
        else if (*text == '"' || *text == '\\')
            (void)fprintf(out, "\\%c", *text);
        else
            (void)fputc(*text, out);
}

static void print_family(FILE *out, const char *name, const char *label, const char *help,
                         const struct metric_family *family)
{
    head(out, name, "counter", help);
    for (size_t i = 0; i < family->count; i++) {
        (void)fprintf(out, "bellglass_%s{%s=\"", name, label);
        print_value(out, family->list[i].name);
        (void)fprintf(out, "\"} %" PRIu64 "\n", family->list[i].count);
    }
    if (family->other > 0)
        (void)fprintf(out, "bellglass_%s{%s=\"other\"} %" PRIu64 "\n", name, label, family->other);
}

static void print_histogram(FILE *out, const char *name, const char *help,
                            const struct metric_histogram *histogram)
{
    uint64_t sum = 0;
    head(out, name, "histogram", help);
    for (size_t i = 0; i < METRIC_BOUNDS; i++) {
        sum += histogram->counts[i];
        (void)fprintf(out, "bellglass_%s_bucket{le=\"%" PRIu64 ".%03" PRIu64 "\"} %" PRIu64 "\n",
                      name, bounds_ms[i] / 1000, bounds_ms[i] % 1000, sum);
    }
    sum += histogram->counts[METRIC_BOUNDS];
    (void)fprintf(out,
                  "bellglass_%s_bucket{le=\"+Inf\"} %" PRIu64 "\nbellglass_%s_sum %" PRIu64
                  ".%03" PRIu64 "\nbellglass_%s_count %" PRIu64 "\n",
                  name, sum, name, histogram->sum_ms / 1000, histogram->sum_ms % 1000, name, sum);
}

static int by_token_and_state(const void *a, const void *b)
{
    const struct metric_sandbox *first = a, *second = b;
    int order = strcmp(first->token, second->token);
    return order != 0 ? order : strcmp(first->state, second->state);
}

/* One line for each token and state that there is. sandboxes: sorted. */
static void print_sandboxes(FILE *out, const struct metric_sandbox *sandboxes, size_t count,
                            bool memory)
{
    for (size_t i = 0; i < count;) {
        const struct metric_sandbox *first = &sandboxes[i];
        uint64_t value = 0;
        for (; i < count && by_token_and_state(first, &sandboxes[i]) == 0; i++)
            value += memory ? sandboxes[i].memory_bytes : 1;
        (void)fprintf(out, "bellglass_%s{state=\"", memory ? "sandbox_memory_bytes" : "sandboxes");
        print_value(out, first->state);
        (void)fputs("\",token=\"", out);
        print_value(out, first->token);
        (void)fprintf(out, "\"} %" PRIu64 "\n", value);
    }
}

static void print_now(FILE *out, const struct metrics_now *now, struct metric_sandbox *sorted)
{
    for (size_t i = 0; i < now->sandbox_count; i++)
        sorted[i] = now->sandboxes[i];
    if (now->sandbox_count > 0)
        qsort(sorted, now->sandbox_count, sizeof *sorted, by_token_and_state);
    head(out, "sandboxes", "gauge", "Sandboxes that there are.");
    print_sandboxes(out, sorted, now->sandbox_count, /* memory= */ false);
    head(out, "sandbox_memory_bytes", "gauge", "Memory that they may use, as their guests see it.");
    print_sandboxes(out, sorted, now->sandbox_count, /* memory= */ true);
    single(out, "connections", "gauge", "Open connections of clients.", now->connections);
    single(out, "websockets", "gauge", "Of these, clients that use a sandbox.", now->websockets);
    single(out, "tunnels", "gauge", "Of these, requests to exposed ports.", now->tunnels);
}

static void print_counters(FILE *out, const struct metrics *m)
{
    single(out, "connections_total", "counter", "Connections that were accepted.", m->connections);
    single(out, "connections_refused_total", "counter",
           "Connections that were closed at once, since there were too many.",
           m->refused_connections);
    single(out, "http_requests_total", "counter", "Requests to the gateway itself.", m->requests);
    print_family(out, "http_refusals_total", "code", "Requests that were refused, by code.",
                 &m->refusals);
    print_family(out, "rpc_calls_total", "method", "Calls of clients.", &m->calls);
    print_family(out, "rpc_errors_total", "class", "Calls that ended with an error, by class.",
                 &m->call_errors);
    head(out, "streams_total", "counter", "Streams that were begun, by who sends.");
    (void)fprintf(out,
                  "bellglass_streams_total{from=\"client\"} %" PRIu64
                  "\nbellglass_streams_total{from=\"sandbox\"} %" PRIu64 "\n",
                  m->streams_in, m->streams_out);
    head(out, "bytes_total", "counter", "Bytes on clients' connections, as they were sent.");
    (void)fprintf(out,
                  "bellglass_bytes_total{direction=\"in\"} %" PRIu64
                  "\nbellglass_bytes_total{direction=\"out\"} %" PRIu64 "\n",
                  m->bytes_in, m->bytes_out);
    single(out, "sandboxes_suspended_total", "counter", "Sandboxes that were put to sleep.",
           m->suspended);
    single(out, "sandboxes_woken_total", "counter", "Sandboxes that a request has woken.",
           m->woken);
    single(out, "create_failures_total", "counter", "Sandboxes that could not be made.",
           m->create_failed);
    print_histogram(out, "create_duration_seconds", "From the request to a sandbox that runs.",
                    &m->create);
}

char *metrics_text(const struct metrics *metrics, const struct metrics_now *now)
{
    char *text = NULL;
    size_t size = 0;
    BG_AUTOFREE struct metric_sandbox *sorted = calloc(now->sandbox_count + 1, sizeof *sorted);
    FILE *out = sorted ? open_memstream(&text, &size) : NULL;
    if (!out)
        return NULL;
    print_now(out, now, sorted);
    print_counters(out, metrics);
    bool whole = ferror(out) == 0;
    if (fclose(out) != 0 || !whole)
        free(BG_TAKE(text));
    return text;
}
