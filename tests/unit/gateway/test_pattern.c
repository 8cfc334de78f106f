#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/gateway/path_text.h"
#include "host/gateway/pattern.h"

static void regular_expressions_are_javascripts(void **state)
{
    (void)state;
    static const struct {
        const char *source, *flags, *text;
        int matches;
    } cases[] = {
        {"\\.ts$", "", "a.ts", 1},
        {"\\.ts$", "", "a.ts\n", 0},
        {"\\.TS$", "i", "a.ts", 1},
        {"^b", "m", "a\nb", 1},
        {"^b", "", "a\nb", 0},
        {"a.b", "", "a\nb", 0},
        {"a.b", "s", "a\nb", 1},
        {"b", "y", "ab", 0},
        {"b", "g", "ab", 1},
        {"[]", "", "a", 0},
        {"[^]", "", "a", 1},
        {"[[]", "", "[", 1},
        {"[[:alpha:]]", "", "x", 0},
        {"[^^]", "", "^", 0},
        {"\\x41\\u0042\\u{43}", "u", "ABC", 1},
        {"\\ud83d\\ude00", "", "\xf0\x9f\x98\x80", 1},
        {"\\cJ", "", "\n", 1},
        {"\\v", "", "\v", 1},
        {"\\Q", "", "Q", 1},
        {"\\h", "", "h", 1},
        {"\\-\\/", "u", "-/", 1},
        {"(a)\\1", "", "aa", 1},
        {"(?<n>a)\\k<n>", "", "aa", 1},
        {"(?<=a)b|(?<!a)c", "", "c", 1},
        {"\\s", "", "\xe2\x80\xaf", 1},
        {"\\S", "", " ", 0},
        {"[\\s]", "", "\xef\xbb\xbf", 1},
        {"\\p{Lu}", "u", "\xc3\x9c", 1},
        {"", "", "", 1},
        {"\xff", "", "a", -EINVAL},
        {"(", "", "", -EINVAL},
        {"[a", "", "", -EINVAL},
        {"\\", "", "", -EINVAL},
        {"(*LIMIT_MATCH=1)a", "", "", -EINVAL},
        {"(?R)", "", "", -EINVAL},
        {"(?>a)", "", "", -EINVAL},
        {"(?C1)a", "", "", -EINVAL},
        {"(?#a)", "", "", -EINVAL},
        {"(?<=a+)b", "", "", -EINVAL},
        {"[\\S]", "", "", -EINVAL},
        {"\\ud83d", "", "", -EINVAL},
        {"\\u{110000}", "u", "", -EINVAL},
        {"((a{1000}){1000}){1000}", "", "", -EINVAL},
        {"a", "x", "", -EINVAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct pattern *p = NULL;
        int r = pattern_from_regexp(cases[i].source, cases[i].flags, &p, NULL);
        if (r == 0)
            r = pattern_matches(p, cases[i].text);
        if (r != cases[i].matches)
            fail_msg("/%s/%s on '%s': %d", cases[i].source, cases[i].flags, cases[i].text, r);
        pattern_free(p);
    }
}

static void globs_are_of_whole_paths(void **state)
{
    (void)state;
    static const struct {
        const char *glob, *text;
        int matches, without; /* extended and globstar; without these */
    } cases[] = {
        {"*", "a", 1, 1},
        {"*", "a/b", 0, 0},
        {"*", "", 1, 1},
        {"a?c", "abc", 1, 1},
        {"a?c", "a/c", 0, 0},
        {"**", "a/b", 1, 0},
        {"a/**", "a/b/c", 1, 0},
        {"a/**", "a", 0, 0},
        {"a/**/c", "a/c", 1, 0},
        {"a/**/c", "a/x/y/c", 1, 0},
        {"a**b", "axb", 1, 1},
        {"{a,b/c}", "b/c", 1, 1},
        {"{a,{b,c}d}", "cd", 1, 1},
        {"{a", "{a", 1, 1},
        {"[a-c]", "b", 1, 1},
        {"[!a-c]", "b", 0, 0},
        {"[!a]", "/", 0, 0},
        {"[[:digit:]x]", "7", 1, 1},
        {"[a", "[a", 1, 1},
        {"[]]", "]", 1, 1},
        {"[^a]", "^", 1, 1},
        {"\\*", "*", 1, 1},
        {"\\*", "a", 0, 0},
        {"a.c", "abc", 0, 0},
        {"a\\", "a\\", 1, 1},
        {"+(a|b)", "abba", 1, 0},
        {"?(a)b", "b", 1, 0},
        {"@(a|b)", "@(a|b)", 0, 1},
        {"!(a)", "b", 1, 0},
        {"!(a)", "a", 0, 0},
        {"a//", "a", 1, 1},
        {"a/b", "a//b", 1, 1},
        {"\n*", "\nx", 1, 1},
    };
    const struct glob_opts with = {.extended = true, .globstar = true}, without = {0};
    for (size_t i = 0; i < 2 * sizeof cases / sizeof cases[0]; i++) {
        struct pattern *p = NULL;
        assert_int_equal(pattern_from_glob(cases[i / 2].glob, i % 2 ? &without : &with, &p, NULL),
                         0);
        int r = pattern_matches(p, cases[i / 2].text);
        if (r != (i % 2 ? cases[i / 2].without : cases[i / 2].matches))
            fail_msg("%s on '%s', %zu: %d", cases[i / 2].glob, cases[i / 2].text, i % 2, r);
        pattern_free(p);
    }
}

static void work_and_size_have_bounds(void **state)
{
    (void)state;
    struct pattern *p = NULL;
    struct patterns all = {0};
    char text[BG_GATEWAY_PATTERN_MAX + 2];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    assert_int_equal(pattern_from_regexp(text, "", &p, NULL), -EMSGSIZE);
    assert_int_equal(pattern_from_glob(text, &(struct glob_opts){0}, &p, NULL), -EMSGSIZE);
    text[sizeof text - 2] = '\0';
    assert_int_equal(pattern_from_regexp(text, "", &p, NULL), 0);
    assert_int_equal(pattern_matches(p, text), 1);
    pattern_free(p);
    assert_int_equal(pattern_from_regexp("(x+x+)+[yz]$", "", &p, NULL), 0);
    assert_int_equal(pattern_matches(p, text), -EOVERFLOW);
    for (size_t i = 0; i < BG_GATEWAY_PATTERNS_MAX; i++) {
        assert_int_equal(patterns_match(&all, "x"), 0);
        if (i > 0)
            assert_int_equal(pattern_from_regexp("y", "", &p, NULL), 0);
        assert_int_equal(patterns_add(&all, p), 0);
        assert_int_equal(patterns_match(&all, text), -EOVERFLOW);
    }
    assert_int_equal(pattern_from_regexp("y", "", &p, NULL), 0);
    assert_int_equal(patterns_add(&all, p), -E2BIG);
    patterns_done(&all);
}

static void every_class_and_escape_has_room(void **state)
{
    (void)state;
    char source[201];
    for (size_t i = 0; i < sizeof source - 1; i += 2)
        memcpy(source + i, "\\S", 2);
    source[sizeof source - 1] = '\0';
    struct pattern *p = NULL;
    assert_int_equal(pattern_from_regexp(source, "", &p, NULL), 0);
    pattern_free(p);
}

static void names_are_told_from_patterns(void **state)
{
    (void)state;
    static const char *const names[] = {"a",   "a.b",   "[a",  "a]",  "{a",
                                        "\\*", "\\[a]", "a+b", "(a)", ""};
    static const char *const patterns[] = {"*", "a?", "[a]", "{a,b}", "@(a)", "!(a)", "\\\\*"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_false(glob_is_pattern(names[i], strlen(names[i])));
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
        assert_true(glob_is_pattern(patterns[i], strlen(patterns[i])));
    char out[16];
    glob_unescape("\\*a\\\\b\\", 7, out);
    assert_string_equal(out, "*a\\b\\");
}

static void paths_are_put_together(void **state)
{
    (void)state;
    static const struct {
        const char *root, *path, *resolved;
    } cases[] = {
        {"/a", "b", "/a/b"},
        {"/a", "/b", "/b"},
        {"/a/b", "../c", "/a/c"},
        {"/", "../..", "/"},
        {"/a//b/", "./c/.", "/a/b/c"},
        {"/a", "", "/a"},
        {"/a", "...", "/a/..."},
        {"/a", "b/..", "/a"},
        {"/", "", "/"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *path = path_resolve(cases[i].root, cases[i].path);
        assert_string_equal(path, cases[i].resolved);
        free(path);
    }
    static const char *const joined[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {".", "b", "b"}, {"/", "b", "/b"}};
    for (size_t i = 0; i < sizeof joined / sizeof joined[0]; i++) {
        char *path = path_join(joined[i][0], joined[i][1]);
        assert_string_equal(path, joined[i][2]);
        free(path);
    }
    assert_string_equal(path_name("/a/b"), "b");
    assert_string_equal(path_name("a"), "a");
    assert_string_equal(path_name("/"), "/");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regular_expressions_are_javascripts),
        cmocka_unit_test(globs_are_of_whole_paths),
        cmocka_unit_test(work_and_size_have_bounds),
        cmocka_unit_test(every_class_and_escape_has_room),
        cmocka_unit_test(names_are_told_from_patterns),
        cmocka_unit_test(paths_are_put_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
