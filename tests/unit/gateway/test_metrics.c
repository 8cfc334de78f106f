#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/gateway/metrics.h"

static void has_line(const char *text, const char *line)
{
    const char *at = strstr(text, line);
    if (!at || (at != text && at[-1] != '\n') || at[strlen(line)] != '\n')
        fail_msg("no line %s in\n%s", line, text);
}

static void what_was_counted_is_told(void **state)
{
    (void)state;
    struct metrics m = {.connections = 7, .bytes_in = 1ull << 40, .streams_out = 3};
    static const struct metric_sandbox sandboxes[] = {
        {"b", "running", 5}, {"a", "running", 1}, {"b", "suspended", 7}, {"b", "running", 6}};
    const struct metrics_now now = {.connections = 2, .sandboxes = sandboxes, .sandbox_count = 4};
    for (int i = 0; i < 3; i++)
        metric_count(&m.calls, "stat");
    metric_count(&m.calls, "spawn");
    metric_count(&m.refusals, "a\"b\\c\nd");
    char *text = metrics_text(&m, &now);
    assert_non_null(text);
    static const char *const lines[] = {
        "bellglass_connections_total 7",
        "bellglass_connections 2",
        "bellglass_bytes_total{direction=\"in\"} 1099511627776",
        "bellglass_streams_total{from=\"sandbox\"} 3",
        "bellglass_rpc_calls_total{method=\"stat\"} 3",
        "bellglass_rpc_calls_total{method=\"spawn\"} 1",
        "bellglass_http_refusals_total{code=\"a\\\"b\\\\c\\nd\"} 1",
        "bellglass_sandboxes{state=\"running\",token=\"a\"} 1",
        "bellglass_sandboxes{state=\"running\",token=\"b\"} 2",
        "bellglass_sandboxes{state=\"suspended\",token=\"b\"} 1",
        "bellglass_sandbox_memory_bytes{state=\"running\",token=\"b\"} 11",
        "# TYPE bellglass_sandboxes gauge",
        "# TYPE bellglass_create_duration_seconds histogram",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        has_line(text, lines[i]);
    free(text);
}

static void a_histogram_adds_up(void **state)
{
    (void)state;
    struct metrics m = {0};
    const struct metrics_now now = {0};
    static const uint64_t times[] = {0, 50, 51, 1234, 60000, 60001, 3600000};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++)
        metric_observe(&m.create, times[i]);
    char *text = metrics_text(&m, &now);
    has_line(text, "bellglass_create_duration_seconds_bucket{le=\"0.050\"} 2");
    has_line(text, "bellglass_create_duration_seconds_bucket{le=\"0.100\"} 3");
    has_line(text, "bellglass_create_duration_seconds_bucket{le=\"2.500\"} 4");
    has_line(text, "bellglass_create_duration_seconds_bucket{le=\"60.000\"} 5");
    has_line(text, "bellglass_create_duration_seconds_bucket{le=\"+Inf\"} 7");
    has_line(text, "bellglass_create_duration_seconds_count 7");
    has_line(text, "bellglass_create_duration_seconds_sum 3721.336");
    free(text);
}

static void names_beyond_the_room_are_others(void **state)
{
    (void)state;
    struct metrics *m = calloc(1, sizeof *m);
    const struct metrics_now now = {0};
    char name[100];
    assert_non_null(m);
    for (int i = 0; i < BG_GATEWAY_METRICS_MAX + 5; i++) {
        (void)snprintf(name, sizeof name, "m%d", i);
        metric_count(&m->calls, name);
    }
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    metric_count(&m->call_errors, name); /* cut off, and the same the next time */
    metric_count(&m->call_errors, name);
    assert_int_equal(m->call_errors.count, 1);
    char *text = metrics_text(m, &now);
    has_line(text, "bellglass_rpc_calls_total{method=\"other\"} 5");
    free(text);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_counted_is_told),
        cmocka_unit_test(a_histogram_adds_up),
        cmocka_unit_test(names_beyond_the_room_are_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
