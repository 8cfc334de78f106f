#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "host/gateway/route.h"

#define ID "sbx_ord_0123456789abcdefghjk"

static void each_route_is_found(void **state)
{
    (void)state;
    static const struct {
        const char *method, *target;
        enum route_kind kind;
    } known[] = {
        {"GET", "/health", ROUTE_HEALTH},
        {"GET", "/api/v3/sandboxes/create", ROUTE_CREATE},
        {"GET", "/api/v3/sandboxes/create?x=1", ROUTE_CREATE},
        {"GET", "/api/v3/sandbox/" ID "/connect", ROUTE_CONNECT},
        {"DELETE", "/api/v3/sandbox/" ID, ROUTE_DELETE},
        {"PATCH", "/api/v3/sandbox/" ID, ROUTE_EXTEND},
        {"POST", "/api/v3/sandbox/" ID "/expose/http", ROUTE_EXPOSE_HTTP},
        {"POST", "/api/v3/sandbox/" ID "/expose/ssh", ROUTE_EXPOSE_SSH},
        {"GET", "/api/v2/sandboxes?labels[a]=b", ROUTE_LIST},
        {"GET", "/api/v2/sandboxes/" ID, ROUTE_SHOW},
        {"PUT", "/api/v3/sandbox/" ID, ROUTE_OTHER_METHOD},
        {"POST", "/api/v2/sandboxes", ROUTE_OTHER_METHOD},
        {"POST", "/api/v2/sandboxes/" ID "/deploy", ROUTE_HOSTED},
        {"GET", "/api/v2/apps", ROUTE_HOSTED},
        {"GET", "/api/v2/apps?limit=1", ROUTE_HOSTED},
        {"DELETE", "/api/v2/layers/x", ROUTE_HOSTED},
        {"GET", "/api/v2/volumes?limit=1", ROUTE_VOLUMES},
        {"POST", "/api/v2/volumes", ROUTE_VOLUMES},
        {"DELETE", "/api/v2/snapshots/x", ROUTE_VOLUMES},
        {"POST", "/api/v2/snapshots", ROUTE_OTHER_METHOD},
        {"PATCH", "/api/v2/volumes/x", ROUTE_OTHER_METHOD},
        {"GET", "/api/v2/volumes/x/y", ROUTE_NONE},
        {"GET", "/api/v2/appsx", ROUTE_NONE},
        {"GET", "/", ROUTE_NONE},
        {"GET", "", ROUTE_NONE},
        {"GET", "/api/v3/sandbox/" ID "/connect/", ROUTE_NONE},
        {"GET", "/api/v3/sandbox/" ID "x/connect", ROUTE_NONE},
        {"GET", "/api/v3/sandbox/../connect", ROUTE_NONE},
        {"GET", "/api/v3/sandbox/sbx_ord_0123456789abcdefghil/connect", ROUTE_NONE},
        {"GET", "/api/v3/sandbox/sbx_OrD_0123456789abcdefghjk/connect", ROUTE_NONE},
        {"GET", "/api/v3/sandbox/sbx/connect", ROUTE_NONE},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        struct route route = route_find(known[i].method, known[i].target);
        assert_int_equal(route.kind, known[i].kind);
        if (strstr(known[i].target, ID) && known[i].kind != ROUTE_NONE)
            assert_string_equal(route.id, ID);
    }
}

static void labels_come_out_of_a_query(void **state)
{
    (void)state;
    json_t *labels;
    assert_int_equal(route_labels("/x?labels%5Ba%5D=b+c&x=1&labels[d%3D]=%C3%A4&flag", &labels), 0);
    assert_int_equal(json_object_size(labels), 2);
    assert_string_equal(json_string_value(json_object_get(labels, "a")), "b c");
    assert_string_equal(json_string_value(json_object_get(labels, "d=")), "\xc3\xa4");
    json_decref(labels);
    assert_int_equal(route_labels("/x", &labels), 0);
    assert_int_equal(json_object_size(labels), 0);
    json_decref(labels);
    static const char *const wrong[] = {"/x?labels[a]=%", "/x?labels[a]=%4", "/x?labels[a]=%zz",
                                        "/x?labels[a]=%00", "/x?labels[%ff]=a"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(route_labels(wrong[i], &labels), -EINVAL);
}

static void only_own_names_are_taken_as_host(void **state)
{
    (void)state;
    static const char *const names[] = {"box.lan", NULL};
    char id[ROUTE_ID_SIZE];
    static const char *const good[] = {"localhost", "LOCALHOST:8787", "127.0.0.1:1", "[::1]:8787",
                                       "[::1]",     "box.lan",        "Box.Lan:80"};
    static const char *const bad[] = {"",
                                      "evil.example",
                                      "localhost.evil.example",
                                      "127.0.0.1.evil.example",
                                      "localhost:80:80",
                                      "localhost:x",
                                      "[::1",
                                      "[::1]x",
                                      "[",
                                      "box.lan.",
                                      "127.0.0.2"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_int_equal(route_host(good[i], names, id), ROUTE_HOST_GATEWAY);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(route_host(bad[i], names, id), ROUTE_HOST_WRONG);
    assert_int_equal(route_host("box.lan", NULL, id), ROUTE_HOST_WRONG);
    assert_int_equal(route_host(ID ".localhost:8787", NULL, id), ROUTE_HOST_SANDBOX);
    assert_string_equal(id, ID);
    assert_int_equal(route_host(ID ".box.lan", names, id), ROUTE_HOST_SANDBOX);
    assert_int_equal(route_host(ID ".evil.example", names, id), ROUTE_HOST_WRONG);
    assert_int_equal(route_host(ID ".", names, id), ROUTE_HOST_WRONG);
    assert_int_equal(route_host(ID, names, id), ROUTE_HOST_WRONG);
    assert_int_equal(route_host(ID "x.localhost", names, id), ROUTE_HOST_WRONG);
}

static void an_origin_is_the_gateway_s_own(void **state)
{
    (void)state;
    assert_true(route_origin_ok("http://localhost:8787", "localhost:8787"));
    assert_true(route_origin_ok("https://box.lan", "box.lan"));
    assert_false(route_origin_ok("http://evil.example", "localhost:8787"));
    assert_false(route_origin_ok("null", "localhost:8787"));
    assert_false(route_origin_ok("http://localhost:1", "localhost:8787"));
    assert_false(route_origin_ok("", ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_route_is_found),
        cmocka_unit_test(labels_come_out_of_a_query),
        cmocka_unit_test(only_own_names_are_taken_as_host),
        cmocka_unit_test(an_origin_is_the_gateway_s_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
