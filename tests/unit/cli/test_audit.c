/* The audit's filters and its HAR. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "host/cli/audit_filter.h"
#include "host/cli/audit_har.h"
#include "host/cli/audit_line.h"

#define NOW_MS UINT64_C(1790000000000)

static void reads_times(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t ms;
    } good[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2023-11-14T22:13:20.123Z", 1700000000123},
        {"2023-11-14t22:13:20.1239999999z", 1700000000123},
        {"2023-11-14 22:13:20.5Z", 1700000000500},
        {"2023-11-15T00:13:20+02:00", 1700000000000},
        {"2023-11-14T17:43:20-04:30", 1700000000000},
        {"2024-02-29T00:00:00Z", 1709164800000},
        {"2016-12-31T23:59:60Z", 1483228800000},
    };
    static const char *const bad[] = {
        "",
        "2023",
        "2023-11-14",
        "2023-11-14T22:13:20",
        "2023-11-14T22:13Z",
        "2023-11-14T22:13:20.Z",
        "2023-11-14T22:13:20Zx",
        "2023-13-14T22:13:20Z",
        "2023-00-14T22:13:20Z",
        "2023-02-29T22:13:20Z",
        "2023-11-31T22:13:20Z",
        "2023-11-00T22:13:20Z",
        "2023-11-14T24:13:20Z",
        "2023-11-14T22:60:20Z",
        "2023-11-14T22:13:61Z",
        "2023-11-14T22:13:20+0200",
        "2023-11-14T22:13:20+24:00",
        "2023-11-14T22:13:20+02:60",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+00:01",
        "23-11-14T22:13:20Z",
        "+023-11-14T22:13:20Z",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint64_t ms = 1;
        if (audit_filter_parse_time(good[i].text, &ms) != 0 || ms != good[i].ms)
            fail_msg("%s: %llu", good[i].text, (unsigned long long)ms);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t ms = 1;
        if (audit_filter_parse_time(bad[i], &ms) != -EINVAL || ms != 1)
            fail_msg("%s was taken", bad[i]);
    }
}

static void reads_times_that_are_past(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t ms;
    } rows[] = {{"0s", NOW_MS},           {"90s", NOW_MS - 90000},    {"10m", NOW_MS - 600000},
                {"2h", NOW_MS - 7200000}, {"3d", NOW_MS - 259200000}, {"1000000000d", 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct audit_filter filter = {0};
        struct bg_err err;
        assert_int_equal(audit_filter_add(&filter, AUDIT_FILTER_SINCE, rows[i].text, NOW_MS, &err),
                         0);
        assert_true(filter.has_since && !filter.has_until && filter.since_ms == rows[i].ms);
    }
}

static void refuses_what_is_no_condition(void **state)
{
    (void)state;
    static const struct {
        enum audit_filter_key key;
        const char *text, *says;
    } rows[] = {
        {AUDIT_FILTER_SINCE, "", "--since"},
        {AUDIT_FILTER_SINCE, "10", "10m for ten minutes ago"},
        {AUDIT_FILTER_SINCE, "m", "--since"},
        {AUDIT_FILTER_SINCE, "-1m", "--since"},
        {AUDIT_FILTER_SINCE, "1w", "--since"},
        {AUDIT_FILTER_SINCE, "1000000001s", "--since"},
        {AUDIT_FILTER_UNTIL, "99999999999999999999s", "--until"},
        {AUDIT_FILTER_UNTIL, "yesterday\x1b", "--until"},
        {AUDIT_FILTER_HOST, "", "--host"},
        {AUDIT_FILTER_HOST, "a b", "--host"},
        {AUDIT_FILTER_HOST, "https//x/", "--host"},
        {AUDIT_FILTER_HOST, "*.", "--host"},
        {AUDIT_FILTER_DECISION, "denied", "allow, deny or error"},
        {AUDIT_FILTER_DECISION, "", "--decision"},
        {AUDIT_FILTER_REASON, "", "--reason"},
        {AUDIT_FILTER_REASON, "a b", "--reason"},
        {AUDIT_FILTER_METHOD, "", "--method"},
        {AUDIT_FILTER_METHOD, "G ET", "--method"},
        {AUDIT_FILTER_STATUS, "40", "--status"},
        {AUDIT_FILTER_STATUS, "4000", "--status"},
        {AUDIT_FILTER_STATUS, "4x4", "--status"},
        {AUDIT_FILTER_STATUS, "xxx", "403 or 4xx"},
        {AUDIT_FILTER_STATUS, "0xx", "--status"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct audit_filter filter = {0};
        struct bg_err err = {0};
        if (audit_filter_add(&filter, rows[i].key, rows[i].text, NOW_MS, &err) != -EINVAL)
            fail_msg("'%s' was taken", rows[i].text);
        assert_non_null(strstr(err.text, rows[i].says));
        assert_null(strchr(err.text, '\x1b'));
    }
    struct audit_filter filter = {0};
    struct bg_err err;
    for (size_t i = 0; i < AUDIT_FILTER_WORDS_MAX; i++)
        assert_int_equal(audit_filter_add(&filter, AUDIT_FILTER_METHOD, "GET", NOW_MS, &err), 0);
    assert_int_equal(audit_filter_add(&filter, AUDIT_FILTER_METHOD, "GET", NOW_MS, &err), -E2BIG);
}

static const char line[] =
    "{\"ts\":\"2026-09-21T14:13:20.000Z\",\"decision\":\"deny\",\"reason\":\"request-denied\","
    "\"host\":\"api.example.org\",\"port\":8443,\"scheme\":\"https\",\"method\":\"POST\","
    "\"path\":\"/a b\\u00ff\",\"rule\":\"r\",\"status\":403,\"bytes_up\":3,\"bytes_down\":44,"
    "\"duration_ms\":1500,\"secrets\":[\"KEY\"],\"detail\":\"why\"}";

static void picks_lines(void **state)
{
    (void)state;
    static const struct {
        bool fits;
        struct {
            enum audit_filter_key key;
            const char *text;
        } conditions[3];
    } rows[] = {
        {true, {{0}}},
        {true, {{AUDIT_FILTER_SINCE, "2026-09-21T14:13:20Z"}}},
        {false, {{AUDIT_FILTER_SINCE, "2026-09-21T14:13:20.001Z"}}},
        {false, {{AUDIT_FILTER_UNTIL, "2026-09-21T14:13:20Z"}}},
        {true, {{AUDIT_FILTER_UNTIL, "2026-09-21T14:13:20.001Z"}}},
        {true, {{AUDIT_FILTER_SINCE, "0s"}}}, /* it is of NOW_MS */
        {true, {{AUDIT_FILTER_HOST, "api.example.org"}}},
        {true, {{AUDIT_FILTER_HOST, "API.Example.org"}}},
        {true, {{AUDIT_FILTER_HOST, "*.example.org"}}},
        {true, {{AUDIT_FILTER_HOST, "*.org"}}},
        {false, {{AUDIT_FILTER_HOST, "*.api.example.org"}}},
        {false, {{AUDIT_FILTER_HOST, "*.xample.org"}}},
        {false, {{AUDIT_FILTER_HOST, "example.org"}}},
        {true, {{AUDIT_FILTER_HOST, "x.org"}, {AUDIT_FILTER_HOST, "api.example.org"}}},
        {true, {{AUDIT_FILTER_DECISION, "deny"}}},
        {false, {{AUDIT_FILTER_DECISION, "allow"}}},
        {true, {{AUDIT_FILTER_DECISION, "error"}, {AUDIT_FILTER_DECISION, "deny"}}},
        {true, {{AUDIT_FILTER_REASON, "request-denied"}}},
        {false, {{AUDIT_FILTER_REASON, "request"}}},
        {true, {{AUDIT_FILTER_METHOD, "post"}}},
        {false, {{AUDIT_FILTER_METHOD, "GET"}}},
        {true, {{AUDIT_FILTER_STATUS, "403"}}},
        {true, {{AUDIT_FILTER_STATUS, "4xx"}}},
        {true, {{AUDIT_FILTER_STATUS, "4XX"}}},
        {false, {{AUDIT_FILTER_STATUS, "404"}}},
        {false, {{AUDIT_FILTER_STATUS, "5xx"}}},
        {false, {{AUDIT_FILTER_DECISION, "deny"}, {AUDIT_FILTER_METHOD, "GET"}}},
        {true,
         {{AUDIT_FILTER_DECISION, "deny"},
          {AUDIT_FILTER_METHOD, "POST"},
          {AUDIT_FILTER_STATUS, "403"}}},
    };
    json_t *json = audit_line_load(line, sizeof line - 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct audit_filter filter = {0};
        struct bg_err err;
        for (size_t k = 0; k < 3 && rows[i].conditions[k].text; k++)
            assert_int_equal(audit_filter_add(&filter, rows[i].conditions[k].key,
                                              rows[i].conditions[k].text, NOW_MS, &err),
                             0);
        if (audit_filter_matches(&filter, json) != rows[i].fits)
            fail_msg("row %zu: %s", i, rows[i].conditions[0].text);
    }
    json_decref(json);
}

static void finds_addresses(void **state)
{
    (void)state;
    static const char six[] = "{\"host\":\"2001:db8::7\"}";
    json_t *json = audit_line_load(six, sizeof six - 1);
    static const struct {
        const char *host;
        bool fits;
    } rows[] = {{"[2001:db8::7]", true}, {"2001:db8::7", true}, {"[2001:db8::70]", false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct audit_filter filter = {0};
        struct bg_err err;
        assert_int_equal(audit_filter_add(&filter, AUDIT_FILTER_HOST, rows[i].host, 0, &err), 0);
        assert_int_equal(audit_filter_matches(&filter, json), rows[i].fits);
    }
    json_decref(json);
}

/* A condition about what is not there, or is of another kind, is not met. */
static void picks_no_odd_lines(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "{}",
        "{\"ts\":1,\"host\":[],\"decision\":null,\"reason\":{},\"method\":true,\"status\":\"403\"}",
        "{\"ts\":\"x\",\"host\":\"\",\"decision\":\"\",\"reason\":\"\",\"method\":\"\",\"status\":"
        "0}",
        "{\"ts\":\"2026-09-21T14:13:20Z\\u0000\",\"host\":\"a.org\\u0000\",\"decision\":"
        "\"deny\\u0000\","
        "\"reason\":\"r\\u0000\",\"method\":\"GET\\u0000\",\"status\":-403}"};
    static const char *const texts[] = {[AUDIT_FILTER_SINCE] = "1970-01-01T00:00:00Z",
                                        [AUDIT_FILTER_UNTIL] = "0s",
                                        [AUDIT_FILTER_HOST] = "a.org",
                                        [AUDIT_FILTER_DECISION] = "deny",
                                        [AUDIT_FILTER_REASON] = "r",
                                        [AUDIT_FILTER_METHOD] = "GET",
                                        [AUDIT_FILTER_STATUS] = "403"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        json_t *json = audit_line_load(lines[i], strlen(lines[i]));
        assert_non_null(json);
        for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
            struct audit_filter filter = {0};
            struct bg_err err;
            assert_int_equal(
                audit_filter_add(&filter, (enum audit_filter_key)k, texts[k], NOW_MS, &err), 0);
            assert_false(audit_filter_matches(&filter, json));
        }
        json_decref(json);
    }
}

/* ---- HAR ---- */

static json_t *entry_of(const char *text)
{
    char *har;
    json_t *json = audit_line_load(text, strlen(text));
    assert_non_null(json);
    assert_int_equal(audit_har_entry(json, &har), 0);
    json_decref(json);
    if (!har)
        return NULL;
    for (const char *p = har; *p != '\0'; p++)
        assert_true(*p >= 0x20 && *p < 0x7f);
    json = json_loads(har, JSON_REJECT_DUPLICATES, NULL);
    free(har);
    assert_non_null(json);
    return json;
}

static const char *at(const json_t *json, const char *outer, const char *key)
{
    return json_string_value(json_object_get(json_object_get(json, outer), key));
}

static void makes_entries(void **state)
{
    (void)state;
    json_t *entry = entry_of(line);
    assert_string_equal(json_string_value(json_object_get(entry, "startedDateTime")),
                        "2026-09-21T14:13:18.500Z");
    assert_int_equal(json_integer_value(json_object_get(entry, "time")), 1500);
    assert_string_equal(at(entry, "request", "method"), "POST");
    assert_string_equal(at(entry, "request", "url"), "https://api.example.org:8443/a%20b%C3%BF");
    const json_t *request = json_object_get(entry, "request");
    const json_t *response = json_object_get(entry, "response");
    assert_int_equal(json_integer_value(json_object_get(request, "bodySize")), 3);
    assert_int_equal(json_integer_value(json_object_get(response, "bodySize")), 44);
    assert_int_equal(json_integer_value(json_object_get(response, "status")), 403);
    assert_string_equal(json_string_value(json_object_get(entry, "_reason")), "request-denied");
    /* What HAR 1.2 calls for, and the audit does not have. */
    static const char *const request_keys[] = {"httpVersion", "cookies", "headers", "queryString",
                                               "headersSize"};
    static const char *const response_keys[] = {
        "statusText", "httpVersion", "cookies", "headers", "content", "redirectURL", "headersSize"};
    for (size_t i = 0; i < sizeof request_keys / sizeof *request_keys; i++)
        assert_non_null(json_object_get(request, request_keys[i]));
    for (size_t i = 0; i < sizeof response_keys / sizeof *response_keys; i++)
        assert_non_null(json_object_get(response, response_keys[i]));
    assert_int_equal(json_array_size(json_object_get(request, "headers")), 0);
    assert_non_null(json_object_get(entry, "cache"));
    assert_int_equal(json_object_size(json_object_get(entry, "timings")), 3);
    assert_null(json_object_get(entry, "serverIPAddress")); /* nothing was dialled */
    json_decref(entry);
}

static void makes_urls(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"{\"method\":\"GET\",\"scheme\":\"http\",\"host\":\"a\",\"port\":80,\"path\":\"/\"}",
         "http://a/"},
        {"{\"method\":\"GET\",\"scheme\":\"https\",\"host\":\"a\",\"port\":443,\"path\":\"/x\"}",
         "https://a/x"},
        {"{\"method\":\"GET\",\"scheme\":\"https\",\"host\":\"2001:db8::7\",\"port\":80}",
         "https://[2001:db8::7]:80/"},
        {"{\"method\":\"OPTIONS\",\"scheme\":\"http\",\"host\":\"a\",\"path\":\"*\"}",
         "http://a/*"},
        {"{\"method\":\"GET\",\"host\":\"\\u001b\\u0000\\\"\",\"path\":\"/<\\n>\"}",
         "http://%1B%00%22/%3C%0A%3E"},
        {"{\"method\":\"GET\",\"host\":7,\"path\":[],\"port\":\"x\",\"ts\":{}}", "http:///"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *entry = entry_of(rows[i][0]);
        assert_non_null(entry);
        assert_string_equal(at(entry, "request", "url"), rows[i][1]);
        json_decref(entry);
    }
}

static void makes_no_entries_of_connections(void **state)
{
    (void)state;
    assert_null(entry_of("{\"ts\":\"2026-09-21T14:13:20Z\",\"scheme\":\"tcp\",\"host\":\"a\"}"));
    assert_null(entry_of("{\"method\":1}"));
}

static void makes_a_file(void **state)
{
    (void)state;
    char *begin = audit_har_begin("1.2.3"), *entry, *text;
    json_t *json = audit_line_load(line, sizeof line - 1);
    assert_int_equal(audit_har_entry(json, &entry), 0);
    json_decref(json);
    assert_true(asprintf(&text, "%s%s,%s" AUDIT_HAR_END, begin, entry, entry) > 0);
    json = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const json_t *log = json_object_get(json, "log");
    assert_string_equal(json_string_value(json_object_get(log, "version")), "1.2");
    assert_string_equal(at(log, "creator", "version"), "1.2.3");
    assert_int_equal(json_array_size(json_object_get(log, "entries")), 2);
    json_decref(json);
    free(begin);
    free(entry);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_times),
        cmocka_unit_test(reads_times_that_are_past),
        cmocka_unit_test(refuses_what_is_no_condition),
        cmocka_unit_test(picks_lines),
        cmocka_unit_test(finds_addresses),
        cmocka_unit_test(picks_no_odd_lines),
        cmocka_unit_test(makes_entries),
        cmocka_unit_test(makes_urls),
        cmocka_unit_test(makes_no_entries_of_connections),
        cmocka_unit_test(makes_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
