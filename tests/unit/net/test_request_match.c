#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
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
        const struct request_text text = {.method = {"GET", 3}};
        struct request_view view = {
            .text = &text, .clear = REQUEST_PATH, .path = buffer_init(1024)};
        assert_int_equal(request_match_add_path(&match, rows[i].pattern, NULL), 0);
        buffer_put_text(&view.path, rows[i].path);
        if (request_match_covers(&match, &view) != rows[i].covers)
            fail_msg("%s %s", rows[i].pattern, rows[i].path);
        view.clear = 0;
        assert_false(request_match_covers(&match, &view));
        request_view_done(&view);
        request_match_done(&match);
    }
}

/* Of a request for target with fields: NAME and value in turn, NULL at the end. */
static bool covers(const struct request_match *match, const char *method, const char *target,
                   const char *const *fields)
{
    struct http_field list[8];
    struct request_text text = {
        .method = {method, strlen(method)}, .target = {target, strlen(target)}, .fields = list};
    for (; fields && fields[0]; fields += 2)
        list[text.field_count++] =
            (struct http_field){{fields[0], strlen(fields[0])}, {fields[1], strlen(fields[1])}};
    struct request_view view;
    request_view_init(&view, &text, (unsigned)REQUEST_PATH | REQUEST_QUERY);
    bool found = request_match_covers(match, &view);
    if (request_match_query_unclear(match, &view))
        assert_false(found);
    request_view_done(&view);
    return found;
}

static void reads_a_query_in_one_way(void **state)
{
    (void)state;
    static char many[4 * REQUEST_QUERY_PAIRS_MAX + 32] = "/?", long_one[8300] = "/?a=";
    for (unsigned i = 0; i <= REQUEST_QUERY_PAIRS_MAX; i++) {
        char pair[8];
        assert_true(snprintf(pair, sizeof pair, "%x&", i) > 0);
        assert_true(strlen(many) + strlen(pair) < sizeof many);
        memcpy(many + strlen(many), pair, strlen(pair) + 1);
    }
    memset(long_one + 4, 'x', sizeof long_one - 5);
    static const struct {
        const char *target, *query; /* KEY=VALUE| of all pairs; NULL: it has several readings */
    } rows[] = {
        {"/", ""},
        {"/?", ""},
        {"/?&", ""},
        {"/?a", "a=|"},
        {"/?a=", "a=|"},
        {"/?a=b", "a=b|"},
        {"/?a=b=c", "a=b=c|"},
        {"/?a=b&c=d&", "a=b|c=d|"},
        {"/?a=b?c", "a=b?c|"},
        {"/?%61=%62%2f", "a=b/|"},
        {"/?a=b+c%2Bd", "a=b c+d|"},
        {"/?a=%26b%3Dc", "a=&b=c|"},
        {"/?a=%0d%0A", "a=\r\n|"},
        {"/?a[b]=1&a[c]=2", "a[b]=1|a[c]=2|"},
        {"/?a=1&A=2", "a=1|A=2|"},
        {"/?a=%c3%a9", "a=\xc3\xa9|"},
        {"/?a=1&a=1", NULL},
        {"/?a=1&%61=2", NULL},
        {"/?a&a", NULL},
        {"/?=b", NULL},
        {"/?a;b", NULL},
        {"/?a=b;c=d", NULL},
        {"/?a+b=1", NULL},
        {"/?a%00=1", NULL},
        {"/?a=%00", NULL},
        {"/?a%0a=1", NULL},
        {"/?a%26b=1", NULL},
        {"/?a=%", NULL},
        {"/?a=%4", NULL},
        {"/?a=%4g", NULL},
        {"/?a=%u0061", NULL},
        {"/?a%", NULL},
        {many, NULL},
        {long_one, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct request_query query;
        struct buffer out = buffer_init(4096);
        int r = request_query_parse((struct slice){rows[i].target, strlen(rows[i].target)}, &query);
        if ((r == 0) != (rows[i].query != NULL))
            fail_msg("%s: %d", rows[i].target, r);
        if (r < 0)
            continue;
        for (size_t k = 0; k < query.count; k++) {
            const struct request_pair *pair = &query.pairs[k];
            buffer_put(&out, query.text + pair->key, pair->key_size);
            buffer_put_text(&out, "=");
            buffer_put(&out, query.text + pair->value, pair->value_size);
            buffer_put_text(&out, "|");
        }
        buffer_put(&out, "", 1);
        assert_string_equal(buffer_bytes(&out), rows[i].query);
        buffer_reset(&out);
        request_query_done(&query);
    }
    struct request_query none = {0};
    many[strlen(many) - 4] = '\0'; /* the last pair: as many as may be */
    assert_int_equal(request_query_parse((struct slice){many, strlen(many)}, &none), 0);
    assert_int_equal(none.count, REQUEST_QUERY_PAIRS_MAX);
    request_query_done(&none);
}

static void compares_queries(void **state)
{
    (void)state;
    static const struct {
        const char *key, *pattern, *target;
        bool covers;
    } rows[] = {
        {"a", "b", "/?a=b", true},
        {"a", "b", "/?a=B", false},
        {"a", "b", "/?a=bc", false},
        {"a", "b", "/?x=1&a=b", true},
        {"a", "b", "/?ab=b", false},
        {"a", "b", "/", false},
        {"a", "*", "/?a", true},
        {"a", "*", "/?a=x/y%20z", true},
        {"a", "b*d", "/?a=b/c/d", true},
        {"a", "b c", "/?a=b%20c", true},
        /* A '+' is a space for some. */
        {"a", "b c", "/?a=b+c", false},
        {"a", "b+c", "/?a=b+c", false},
        {"a", "b+c", "/?a=b%2bc", true},
        {"a", "b*c", "/?a=b+c", true},
        {"a", "b", "/?a=b&x=c+d", true},
        /* Nearly the key. */
        {"a", "b", "/?a=b&A=c", false},
        {"a", "b", "/?a=b&a[]=c", false},
        {"a", "b", "/?a=b&a[x]=c", false},
        {"a", "b", "/?a=b&%20a=c", false},
        {"a", "b", "/?a=b&aa=c", true},
        {"a_b", "*", "/?a_b=b&a.b=c", false},
        {"a_b", "*", "/?a_b=b&a%20b=c", false},
        {"a[x]", "b", "/?a[x]=b", true},
        {"a[x]", "b", "/?a[x]=b&a[y]=b", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct request_match match = {0};
        assert_int_equal(request_match_add_query(&match, rows[i].key, rows[i].pattern, NULL), 0);
        assert_false(request_match_is_any(&match));
        if (covers(&match, "GET", rows[i].target, NULL) != rows[i].covers)
            fail_msg("%s=%s, %s", rows[i].key, rows[i].pattern, rows[i].target);
        request_match_done(&match);
    }
}

static void compares_keys(void **state)
{
    (void)state;
    struct request_match match = {.only_keys = true}, copy;
    assert_false(request_match_is_any(&match));
    assert_true(covers(&match, "GET", "/", NULL));
    assert_false(covers(&match, "GET", "/?a", NULL));
    assert_int_equal(request_match_add_key(&match, "a", NULL), 0);
    assert_int_equal(request_match_add_query(&match, "b", "1", NULL), 0);
    assert_int_equal(request_match_add_query(&match, "b", "2", NULL), 0);
    assert_int_equal(request_match_copy(&match, &copy), 0);
    request_match_done(&match);
    assert_true(covers(&copy, "GET", "/?b=1", NULL));
    assert_true(covers(&copy, "GET", "/?b=2&a=x", NULL));
    assert_false(covers(&copy, "GET", "/?b=3&a=x", NULL));
    assert_false(covers(&copy, "GET", "/?a=x", NULL));
    assert_false(covers(&copy, "GET", "/?b=1&c", NULL));
    assert_false(covers(&copy, "GET", "/?b=1&A=1", NULL));
    request_match_done(&copy);
}

static void compares_headers(void **state)
{
    (void)state;
    static const struct {
        const char *fields[9];
        bool each, one; /* what is covered, when each has to match, and when one is enough */
    } rows[] = {
        {{"x-a", "1", "x-b", "yes"}, true, true},
        {{"X-A", "1", "X-B", "yes"}, true, true},
        {{"x-a", "2", "x-b", "yesterday"}, true, true},
        {{"x-a", "1"}, false, false},
        {{"x-b", "yes"}, false, false},
        {{"x-a", "3", "x-b", "yes"}, false, false},
        {{"x-a", "1", "x-b", "no"}, false, false},
        {{"x-a", "1", "x-b", "Yes"}, false, false},
        {{"x-a", "1", "x-a", "2", "x-b", "yes"}, true, true},
        {{"x-a", "1", "x-a", "3", "x-b", "yes"}, false, true},
        {{"x-a", "3", "x-a", "1", "x-b", "yes"}, false, true},
        {{"x-a", "1, 2", "x-b", "yes"}, false, false},
        {{NULL}, false, false},
    };
    struct request_match match = {0}, copy;
    assert_int_equal(request_match_add_header(&match, "X-A", "1", NULL), 0);
    assert_int_equal(request_match_add_header(&match, "x-a", "2", NULL), 0);
    assert_int_equal(request_match_add_header(&match, "X-b", "yes*", NULL), 0);
    assert_int_equal(match.header_count, 2);
    assert_false(request_match_is_any(&match));
    assert_int_equal(request_match_copy(&match, &copy), 0);
    request_match_done(&match);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        copy.any_field = false;
        if (covers(&copy, "GET", "/", rows[i].fields) != rows[i].each)
            fail_msg("row %zu, each", i);
        copy.any_field = true;
        if (covers(&copy, "GET", "/", rows[i].fields) != rows[i].one)
            fail_msg("row %zu, one", i);
    }
    request_match_done(&copy);
}

static void compares_methods(void **state)
{
    (void)state;
    struct request_match match = {0}, copy;
    assert_true(request_match_is_any(&match));
    assert_true(covers(&match, "X", "/", NULL));
    assert_int_equal(request_match_add_method(&match, "GET", NULL), 0);
    assert_int_equal(request_match_add_method(&match, "PUT", NULL), 0);
    assert_int_equal(request_match_copy(&match, &copy), 0);
    request_match_done(&match);
    assert_false(request_match_is_any(&copy));
    assert_true(covers(&copy, "PUT", "/", NULL));
    assert_false(covers(&copy, "PUTS", "/", NULL));
    assert_false(covers(&copy, "get", "/", NULL));
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
    static const char *const keys[] = {"", "*", "a*", "a\n", "\x7f"};
    static const char *const values[] = {"**", "a\n", "\x7f"};
    static const char *const names[] = {
        "",        "a b",           "a:", "\xe9", "Connection", "proxy-authorization", "Host",
        "upgrade", "Content-Length"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        assert_int_equal(request_match_add_query(&match, keys[i], "b", &err), -EINVAL);
        assert_int_equal(request_match_add_key(&match, keys[i], &err), -EINVAL);
    }
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        assert_int_equal(request_match_add_query(&match, "a", values[i], &err), -EINVAL);
        assert_int_equal(request_match_add_header(&match, "a", values[i], &err), -EINVAL);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(request_match_add_header(&match, names[i], "b", &err), -EINVAL);
    assert_true(request_match_is_any(&match));
    for (size_t i = 0; i < REQUEST_LIST_MAX; i++) {
        char name[8];
        assert_true(snprintf(name, sizeof name, "k%zu", i) > 0);
        assert_int_equal(request_match_add_query(&match, name, "", NULL), 0);
        assert_int_equal(request_match_add_header(&match, "a", "", NULL), 0);
        assert_int_equal(request_match_add_key(&match, name, NULL), 0);
    }
    assert_int_equal(request_match_add_query(&match, "k0", "", &err), -E2BIG);
    assert_int_equal(request_match_add_header(&match, "a", "", &err), -E2BIG);
    assert_int_equal(request_match_add_key(&match, "k", &err), -E2BIG);
    for (size_t i = 0; i < REQUEST_LIST_MAX; i++)
        assert_int_equal(request_match_add_path(&match, "/", NULL), 0);
    assert_int_equal(request_match_add_path(&match, "/", &err), -E2BIG);
    request_match_done(&match);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_path_in_one_way), cmocka_unit_test(compares_patterns),
        cmocka_unit_test(compares_methods),        cmocka_unit_test(reads_a_query_in_one_way),
        cmocka_unit_test(compares_queries),        cmocka_unit_test(compares_keys),
        cmocka_unit_test(compares_headers),        cmocka_unit_test(refuses_what_is_no_condition),
    };
    return cmocka_run_group_tests_name("net-request-match", tests, NULL, NULL);
}
