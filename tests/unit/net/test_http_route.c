#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>

#include "net/http_route.h"

static const struct {
    const char *fixed; /* NULL: a forward proxy */
    bool tls;
    const char *request_line, *host; /* host NULL: none (HTTP/1.0) */
    int status;                      /* 0: fine */
    const char *to, *path;
} rows[] = {
    {"a.org:443", true, "GET /x?y", "a.org", 0, "a.org:443", "/x?y"},
    {"a.org:443", true, "GET /x", "a.org:443", 0, "a.org:443", "/x"},
    {"a.org:443", true, "GET /x", "A.ORG.", 0, "a.org:443", "/x"},
    {"a.org:8443", true, "GET /x", "a.org:8443", 0, "a.org:8443", "/x"},
    {"a.org:8443", true, "GET /x", "a.org", 0, "a.org:8443", "/x"},
    {"a.org:443", true, "GET /x", NULL, 0, "a.org:443", "/x"},
    {"a.org:443", true, "GET https://a.org/x", "a.org", 0, "a.org:443", "/x"},
    {"a.org:443", true, "GET HTTPS://A.org", "a.org", 0, "a.org:443", "/"},
    {"a.org:80", false, "GET http://a.org/x", "a.org", 0, "a.org:80", "/x"},
    {"a.org:443", true, "OPTIONS *", "a.org", 0, "a.org:443", "*"},
    {"a.org:443", true, "GET //evil.org/x", "a.org", 0, "a.org:443", "//evil.org/x"},
    {"127.0.0.1:443", true, "GET /", "127.1", 0, "127.0.0.1:443", "/"},
    {"[::1]:443", true, "GET /", "[::1]", 0, "[::1]:443", "/"},
    /* names that disagree */
    {"a.org:443", true, "GET /", "b.org", 421, NULL, NULL},
    {"a.org:443", true, "GET /", "a.org:80", 421, NULL, NULL},
    {"a.org:443", true, "GET /", "a.org.b.org", 421, NULL, NULL},
    {"a.org:443", true, "GET https://b.org/", "a.org", 421, NULL, NULL},
    {"a.org:443", true, "GET https://a.org/", "b.org", 421, NULL, NULL},
    {"a.org:443", true, "GET https://a.org:8443/", "a.org", 421, NULL, NULL},
    {"127.0.0.1:443", true, "GET /", "localhost", 421, NULL, NULL},
    /* not one name, or no target */
    {"a.org:443", true, "GET /", "a.org, b.org", 400, NULL, NULL},
    {"a.org:443", true, "GET /", "u@a.org", 400, NULL, NULL},
    {"a.org:443", true, "GET /", "a org", 400, NULL, NULL},
    {"a.org:443", true, "GET /", "", 400, NULL, NULL},
    {"a.org:443", true, "GET /", "a.org/", 400, NULL, NULL},
    {"a.org:443", true, "GET http://a.org/", "a.org", 400, NULL, NULL},
    {"a.org:80", false, "GET https://a.org/", "a.org", 400, NULL, NULL},
    {"a.org:443", true, "GET https://u:p@a.org/", "a.org", 400, NULL, NULL},
    {"a.org:443", true, "GET https://", "a.org", 400, NULL, NULL},
    {"a.org:443", true, "GET https:///x", "a.org", 400, NULL, NULL},
    {"a.org:443", true, "GET ftp://a.org/", "a.org", 400, NULL, NULL},
    {"a.org:443", true, "GET x", "a.org", 400, NULL, NULL},
    {"a.org:443", true, "GET *", "a.org", 400, NULL, NULL},
    {"a.org:443", true, "GET https://a.org?x", "a.org", 400, NULL, NULL},
    {"a.org:443", true, "CONNECT a.org:443", "a.org", 400, NULL, NULL},
    {"a.org:80", false, "CONNECT a.org:443", "a.org", 400, NULL, NULL},
    /* a forward proxy */
    {NULL, false, "GET http://a.org/x", "a.org", 0, "a.org:80", "/x"},
    {NULL, false, "GET http://a.org:8080/x", "a.org:8080", 0, "a.org:8080", "/x"},
    {NULL, false, "GET http://2130706433/", "127.0.0.1", 0, "127.0.0.1:80", "/"},
    {NULL, false, "GET http://a.org/x", "b.org", 421, NULL, NULL},
    {NULL, false, "GET https://a.org/x", "a.org", 400, NULL, NULL},
    {NULL, false, "GET /x", "a.org", 400, NULL, NULL},
    {NULL, false, "OPTIONS *", "a.org", 400, NULL, NULL},
    {NULL, false, "CONNECT a.org:443", "a.org:443", 0, "a.org:443", ""},
    {NULL, false, "CONNECT a.org:443", "a.org", 0, "a.org:443", ""},
    {NULL, false, "CONNECT a.org:443", "b.org:443", 421, NULL, NULL},
    {NULL, false, "CONNECT a.org", "a.org", 400, NULL, NULL},
    {NULL, false, "CONNECT a.org:0", "a.org", 400, NULL, NULL},
    {NULL, false, "CONNECT http://a.org:443", "a.org", 400, NULL, NULL},
};

static void lets_a_request_name_one_destination(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[512];
        struct http_head head;
        struct http_route route;
        struct destination fixed;
        int status = 0;
        (void)snprintf(text, sizeof text, "%s HTTP/1.%d\r\n%s%s%s\r\n", rows[i].request_line,
                       rows[i].host != NULL, rows[i].host ? "Host: " : "",
                       rows[i].host ? rows[i].host : "", rows[i].host ? "\r\n" : "");
        assert_int_equal(http_head_parse_request(text, strlen(text), &head, &status, NULL), 0);
        if (rows[i].fixed)
            assert_int_equal(
                destination_parse(rows[i].fixed, strlen(rows[i].fixed), 0, &fixed, NULL), 0);
        const struct http_route_opts opts = {.fixed = rows[i].fixed ? &fixed : NULL,
                                             .tls = rows[i].tls};
        int r = http_route(&head, &opts, &route, &status, NULL);
        if ((r == 0) != (rows[i].status == 0) || (r < 0 && status != rows[i].status))
            fail_msg("%zu %s (%s): %d, status %d", i, rows[i].request_line,
                     rows[i].host ? rows[i].host : "-", r, status);
        if (r == 0) {
            char to[DESTINATION_TEXT_SIZE];
            destination_format(&route.destination, 0, to);
            assert_string_equal(to, rows[i].to);
            assert_int_equal(route.path.size, strlen(rows[i].path));
            if (route.path.size > 0)
                assert_memory_equal(route.path.at, rows[i].path, route.path.size);
            assert_int_equal(route.is_connect, strncmp(rows[i].request_line, "CONNECT", 7) == 0);
        }
        http_head_done(&head);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lets_a_request_name_one_destination),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
