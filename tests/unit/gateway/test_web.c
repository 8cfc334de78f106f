#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/gateway/web.h"

static struct http_request parse(const char *first, const char *fields)
{
    static struct http_request q; /* its parser points to it */
    char text[1024];
    struct bg_err err;
    size_t used;
    (void)snprintf(text, sizeof text, "%s / HTTP/1.1\r\nHost: localhost\r\n%s\r\n", first, fields);
    http_request_init(&q);
    assert_int_equal(http_request_feed(&q, (const uint8_t *)text, strlen(text), &used, &err), 0);
    return q;
}

#define KEY "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void the_key_comes_by_field_or_by_subprotocol(void **state)
{
    (void)state;
    static const struct {
        const char *fields;
        bool key, protocol;
    } cases[] = {
        {"", false, false},
        {"X-Bellglass-Key: " KEY "\r\n", true, false},
        {"X-Bellglass-Key: " KEY "0\r\n", false, false},
        {"X-Bellglass-Key: short\r\nSec-WebSocket-Protocol: key." KEY "\r\n", false, false},
        {"Sec-WebSocket-Protocol: bellglass.v1, key." KEY "\r\n", true, true},
        {"Sec-WebSocket-Protocol: key." KEY ",bellglass.v1\r\n", true, true},
        {"Sec-WebSocket-Protocol: bellglass.v10, key.\r\n", false, false},
        {"X-Bellglass-Key: " KEY "\r\nX-Bellglass-Key: " KEY "\r\n", false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct http_request q = parse("GET", cases[i].fields);
        char key[LOGINS_SECRET_SIZE];
        assert_int_equal(web_key(&q, key), cases[i].key);
        if (cases[i].key)
            assert_string_equal(key, KEY);
        assert_int_equal(web_offers_protocol(&q), cases[i].protocol);
        http_request_done(&q);
    }
}

/* Pages of other ports, and of ID.localhost, are of the same site: that is not enough. */
static void only_the_own_page_may_use_a_cookie(void **state)
{
    (void)state;
    static const struct {
        const char *method, *fields;
        bool ok;
    } cases[] = {
        {"GET", "", true},
        {"GET", "Sec-Fetch-Site: same-origin\r\n", true},
        {"GET", "Sec-Fetch-Site: same-site\r\n", false},
        {"GET", "Sec-Fetch-Site: cross-site\r\n", false},
        {"GET", "Sec-Fetch-Site: none\r\n", false},
        {"POST", "Sec-Fetch-Site: same-origin\r\n", false},
        {"POST", "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n", true},
        {"POST", "Origin: http://localhost\r\nSec-Fetch-Site: same-site\r\n", false},
        {"GET", "Connection: Upgrade\r\nUpgrade: websocket\r\n", false},
        {"GET", "Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://localhost\r\n", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct http_request q = parse(cases[i].method, cases[i].fields);
        assert_int_equal(web_from_own_page(&q), cases[i].ok);
        http_request_done(&q);
    }
}

static void a_cookie_is_of_this_host_and_port_alone(void **state)
{
    (void)state;
    char field[WEB_COOKIE_FIELD_SIZE], longest[LOGINS_SECRET_SIZE];
    web_cookie_field(8787, "x", /* secure= */ false, field);
    assert_string_equal(field, "Set-Cookie: bellglass_8787=x; Path=/; HttpOnly; SameSite=Strict; "
                               "Max-Age=43200\r\n");
    web_cookie_field(8787, "x", /* secure= */ true, field);
    assert_string_equal(field, "Set-Cookie: bellglass_8787=x; Path=/; HttpOnly; SameSite=Strict; "
                               "Max-Age=43200; Secure\r\n");
    web_cookie_field(1, "", /* secure= */ false, field);
    assert_non_null(strstr(field, "bellglass_1=; "));
    assert_non_null(strstr(field, "Max-Age=0\r\n"));
    memset(longest, 'f', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    web_cookie_field(65535, longest, /* secure= */ true, field);
    assert_string_equal(field + strlen(field) - 2, "\r\n");
}

static void pages_are_found_by_their_paths(void **state)
{
    (void)state;
    const struct web_page *page = web_page_find("GET", "/");
    assert_non_null(page);
    assert_string_equal(page->type, "text/html; charset=utf-8");
    assert_ptr_equal(web_page_find("GET", "/?x#y"), page);
    assert_non_null(web_page_find("GET", "/web/app.js"));
    assert_null(web_page_find("POST", "/"));
    assert_null(web_page_find("GET", "/web/../web/app.js"));
    assert_null(web_page_find("GET", "/web/"));
    assert_null(web_page_find("GET", ""));
}

/* A script or a style in it would need a hole in the policy. */
static void the_page_has_no_script_and_no_style_in_it(void **state)
{
    (void)state;
    const struct web_page *page = web_page_find("GET", "/");
    const char *html = (const char *)page->bytes;
    for (const char *at = html; (at = strstr(at, "<script")); at++)
        assert_memory_equal(at, "<script src=\"/web/", strlen("<script src=\"/web/"));
    assert_null(strstr(html, "<style"));
    assert_null(strstr(html, " style="));
    assert_null(strstr(html, " onclick="));
    assert_null(strstr(html, " onload="));
    assert_non_null(strstr(web_page_fields, "default-src 'none'"));
    assert_null(strstr(web_page_fields, "unsafe"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_key_comes_by_field_or_by_subprotocol),
        cmocka_unit_test(only_the_own_page_may_use_a_cookie),
        cmocka_unit_test(a_cookie_is_of_this_host_and_port_alone),
        cmocka_unit_test(pages_are_found_by_their_paths),
        cmocka_unit_test(the_page_has_no_script_and_no_style_in_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
