#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/request_match.h"

static void reads_a_path_in_one_way(void **state)
{
    (void)state;
    static const struct {
        const char *target, *path; /* NULL: it has several readings */
    } rows[] = {
        {"/", "/"},
        {"/a/b", "/a/b"},
        {"/a/b/", "/a/b/"},
        {"/a?b/../c", "/a"},
        {"/%61%2Db%5f", "/a-b_"},
        {"/a%20b%c3%a9", "/a%20b%C3%A9"},
        {"/a.b/..c/d..", "/a.b/..c/d.."},
        {"", NULL},
        {"*", NULL},
        {"a", NULL},
        {"//", NULL},
        {"/a//b", NULL},
        {"/./a", NULL},
        {"/a/..", NULL},
        {"/a/../b", NULL},
        {"/a/%2e%2E/b", NULL},
        {"/a/.%2e/b", NULL},
        {"/a%2fb", NULL},
        {"/a%5Cb", NULL},
        {"/a\\b", NULL},
        {"/a%00", NULL},
        {"/a;b=c", NULL},
        {"/a%", NULL},
        {"/a%4", NULL},
        {"/a%4g", NULL},
        {"/a%?41", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buffer out = buffer_init(1024);
        int r =
            request_path_normalize((struct slice){rows[i].target, strlen(rows[i].target)}, &out);
        buffer_put(&out, "", 1);
        if ((r == 0) != (rows[i].path != NULL) ||
            (rows[i].path && strcmp((const char *)buffer_bytes(&out), rows[i].path) != 0))
            fail_msg("%s: %d %s", rows[i].target, r, (const char *)buffer_bytes(&out));
        buffer_reset(&out);
    }
}

static void compares_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *path;
        bool covers;
    } rows[] = {
        {"/", "/", true},
        {"/", "/a", false},
        {"/a", "/a", true},
        {"/a", "/A", false},
        {"/a", "/a/", false},
        {"/a", "/ab", false},
        {"/a*", "/a", true},
        {"/a*", "/abc", true},
        {"/a*", "/ab/c", false},
        {"/*/c", "/ab/c", true},
        {"/*/c", "/a/b/c", false},
        {"/*/c", "//c", true},
        {"/**/c", "/a/b/c", true},
        {"/**/c", "/c", false},
        {"/**", "/", true},
        {"/**", "/a/b?", true},
        {"/a/**", "/a", false},
        {"/a/**", "/a/", true},
        {"/a/**", "/ab/c", false},
        {"/*a*b*", "/xaxbx", true},
        {"/*a*b*", "/xbxax", false},
        {"/*.json", "/x.json", true},
        {"/*.json", "/x.json.x", false},
        {"/**.json", "/x/y.json", true},
        {"/a%20b", "/a%20b", true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct request_match match = {0};
        struct buffer path = buffer_init(1024);
        assert_int_equal(request_match_add_path(&match, rows[i].pattern, NULL), 0);
        buffer_put_text(&path, rows[i].path);
        if (request_match_covers(&match, (struct slice){"GET", 3}, &path) != rows[i].covers)
            fail_msg("%s %s", rows[i].pattern, rows[i].path);
        buffer_reset(&path);
        request_match_done(&match);
    }
}

static void compares_methods(void **state)
{
    (void)state;
    struct request_match match = {0}, copy;
    const struct buffer none = {0};
    assert_true(request_match_is_any(&match));
    assert_true(request_match_covers(&match, (struct slice){"X", 1}, &none));
    assert_int_equal(request_match_add_method(&match, "GET", NULL), 0);
    assert_int_equal(request_match_add_method(&match, "PUT", NULL), 0);
    assert_int_equal(request_match_copy(&match, &copy), 0);
    request_match_done(&match);
    assert_false(request_match_is_any(&copy));
    assert_true(request_match_covers(&copy, (struct slice){"PUT", 3}, &none));
    assert_false(request_match_covers(&copy, (struct slice){"PUTS", 4}, &none));
    assert_false(request_match_covers(&copy, (struct slice){"get", 3}, &none));
    request_match_done(&copy);
}

static void refuses_what_is_no_condition(void **state)
{
    (void)state;
    struct request_match match = {0};
    struct bg_err err;
    static const char *const methods[] = {"", "get", "GET ", "GET,PUT", "*"};
    static const char *const paths[] = {"",     "a",     "*",    "/a?b", "/a b",
                                        "/a;b", "/a\\b", "/***", "/\xe9"};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        assert_int_equal(request_match_add_method(&match, methods[i], &err), -EINVAL);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        assert_int_equal(request_match_add_path(&match, paths[i], &err), -EINVAL);
    for (size_t i = 0; i < REQUEST_LIST_MAX; i++)
        assert_int_equal(request_match_add_path(&match, "/", NULL), 0);
    assert_int_equal(request_match_add_path(&match, "/", &err), -E2BIG);
    request_match_done(&match);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_path_in_one_way),
        cmocka_unit_test(compares_patterns),
        cmocka_unit_test(compares_methods),
        cmocka_unit_test(refuses_what_is_no_condition),
    };
    return cmocka_run_group_tests_name("net-request-match", tests, NULL, NULL);
}
