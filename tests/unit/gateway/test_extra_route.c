#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "host/gateway/extra_route.h"

static void routes_are_found_with_their_names(void **state)
{
    (void)state;
    static const struct {
        const char *method, *path;
        enum extra_kind kind;
        const char *name;
    } cases[] = {
        {"POST", "session", EXTRA_LOGIN, ""},
        {"DELETE", "session", EXTRA_LOGOUT, ""},
        {"GET", "session?x=1", EXTRA_SESSION, ""},
        {"PUT", "session", EXTRA_OTHER_METHOD, ""},
        {"GET", "overview", EXTRA_OVERVIEW, ""},
        {"GET", "overview/", EXTRA_NONE, ""},
        {"GET", "sandboxes/web/connect", EXTRA_CONNECT, "web"},
        {"DELETE", "sandboxes/web", EXTRA_REMOVE, "web"},
        {"GET", "sandboxes/web", EXTRA_OTHER_METHOD, ""},
        {"POST", "sandboxes/web/start", EXTRA_START, "web"},
        {"POST", "sandboxes/w%65b/resume", EXTRA_START, "web"},
        {"POST", "sandboxes/web/fork", EXTRA_FORK, "web"},
        {"POST", "snapshots/web%401/fork", EXTRA_FORK, "web@1"},
        {"POST", "snapshots/web@1/fork", EXTRA_FORK, "web@1"},
        {"DELETE", "snapshots/web@1", EXTRA_REMOVE_SNAPSHOT, "web@1"},
        {"DELETE", "snapshots/web", EXTRA_BAD_NAME, ""},
        {"POST", "sandboxes/web@1/fork", EXTRA_BAD_NAME, ""},
        {"POST", "sandboxes/-f/fork", EXTRA_BAD_NAME, ""},
        {"POST", "sandboxes/..%2fweb/fork", EXTRA_BAD_NAME, ""},
        {"POST", "sandboxes/a/b/fork", EXTRA_NONE, ""},
        {"POST", "sandboxes//fork", EXTRA_NONE, ""},
        {"POST", "sandboxes/a%00/fork", EXTRA_BAD_NAME, ""},
        {"POST", "sandboxes/a%4/fork", EXTRA_BAD_NAME, ""},
        {"PUT", "sandboxes/web/policy", EXTRA_SET_POLICY, "web"},
        {"GET", "sandboxes/web/policy", EXTRA_POLICY, "web"},
        {"", "", EXTRA_NONE, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char target[128];
        (void)snprintf(target, sizeof target, EXTRA_PREFIX "%s", cases[i].path);
        const struct extra_route route = extra_route_find(cases[i].method, target);
        assert_int_equal(route.kind, cases[i].kind);
        assert_string_equal(route.name, cases[i].name);
    }
    assert_false(extra_route_is("/api/bellglas"));
    assert_int_equal(extra_route_find("GET", "/api/v2/overview").kind, EXTRA_NONE);
}

static void a_name_of_any_size_is_taken_or_refused(void **state)
{
    (void)state;
    char target[400];
    for (size_t size = 1; size < 300; size++) {
        size_t used = strlen(EXTRA_PREFIX "sandboxes/");
        memcpy(target, EXTRA_PREFIX "sandboxes/", used);
        memset(target + used, 'a', size);
        memcpy(target + used + size, "/stop", sizeof "/stop");
        assert_int_equal(extra_route_find("POST", target).kind,
                         size <= 63 ? EXTRA_STOP : EXTRA_BAD_NAME);
    }
}

static void the_query_says_after_what(void **state)
{
    (void)state;
    static const struct {
        const char *query, *after;
    } cases[] = {
        {"", ""},
        {"?", ""},
        {"?after=1-2", "1-2"},
        {"?x=1&after=3", "3"},
        {"?after", ""},
        {"?after=%31", "1"},
        {"?after=%3", ""},
        {"?after=1#after=2", "1"},
        {"?xafter=1", ""},
        {"?after=", ""},
        {"?after=1&after=2", "1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char target[128];
        (void)snprintf(target, sizeof target, EXTRA_PREFIX "sandboxes/web/audit%s", cases[i].query);
        const struct extra_route route = extra_route_find("GET", target);
        assert_int_equal(route.kind, EXTRA_AUDIT);
        assert_string_equal(route.after, cases[i].after);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes_are_found_with_their_names),
        cmocka_unit_test(a_name_of_any_size_is_taken_or_refused),
        cmocka_unit_test(the_query_says_after_what),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
