#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "host/cli/grammar.h"

static void checks_rules_of_allow(void **state)
{
    (void)state;
    static const char *const good[] = {
        "example.org",
        "example.org:443",
        "*.example.org",
        "*.example.org:8080",
        "localhost:1",
        "10.0.0.1:65535",
        "[::1]:443",
        "[2001:db8::1]",
        "xn--bcher-kva.de",
        "_dmarc.example.org",
        "EXAMPLE.org",
        "db:5432=10.0.3.4",
        "db=10.0.3.4,[::1]",
        "db:5432=fd00::1",
        "a",
        "10.0.3.0/24",
        "10.0.3.0/24:5432",
        "0.0.0.0/0",
        "fd00::/8",
        "fd00::/8:443",
        "[fd00::]/8:443",
        "::1/128",
        "db:5432=10.0.3.0/24,10.0.4.7",
    };
    static const char *const bad[] = {
        "",
        ":443",
        "example.org:",
        "example.org:0",
        "example.org:65536",
        "example.org:http",
        "https://example.org",
        "example.org/path",
        "a b",
        "*",
        "*.",
        "*example.org",
        "a.*.org",
        ".example.org",
        "example..org",
        "example.org.",
        "-a.org",
        "a-.org",
        "b\xc3\xbcger.de",
        "::1",
        "[::1",
        "[]:443",
        "[::1]x",
        "[::1]443",
        "user@example.org",
        "db=",
        "db=evil.org",
        "db:1=",
        "a:1:2",
        "10.0.3.1/24",
        "10.0.3.0/33",
        "10.0.3.0/",
        "10.0.3.0/24:0",
        "10.0.3.0/24:",
        "10.0.3.0/24/24",
        "10.0.3.0/24=1.2.3.4",
        "10.3/24",
        "fd00::1/8",
        "fd00::/129",
        "/24",
        "a.org/24",
        "a\n",
        "a:99999999999999999999",
    };
    struct bg_err err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (grammar_check_allow(good[i], &err) != 0)
            fail_msg("%s", err.text);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (grammar_check_allow(bad[i], &err) != -EINVAL)
            fail_msg("accepted: '%s'", bad[i]);
}

static void bounds_host_names(void **state)
{
    (void)state;
    char text[300];
    memset(text, 'a', sizeof text);
    for (size_t i = 63; i < sizeof text; i += 64)
        text[i] = '.';
    assert_true(grammar_host_ok(text, 63));
    assert_true(grammar_host_ok(text, 253));
    assert_false(grammar_host_ok(text, 254));
    text[63] = 'a';
    assert_false(grammar_host_ok(text, 64)); /* a label of 64 */
}

static void reads_secrets(void **state)
{
    (void)state;
    struct grammar_secret secret;
    struct bg_err err;
    assert_int_equal(grammar_parse_secret("GH_2@API.github.com,*.x.org", &secret, &err), 0);
    assert_string_equal(secret.name, "GH_2");
    assert_int_equal(secret.host_count, 2);
    assert_string_equal(secret.hosts[0], "api.github.com");
    assert_string_equal(secret.hosts[1], "*.x.org");
    grammar_secret_done(&secret);
    static const char *const bad[] = {"",        "TOKEN", "TOKEN@",     "@host", "2X@host",
                                      "A-B@h",   "A B@h", "A@h,",       "A@,h",  "A@h,,i",
                                      "A@h:443", "A@h/p", "A@http://h", "A@h@i", "\xc3\xa4@h"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (grammar_parse_secret(bad[i], &secret, &err) != -EINVAL)
            fail_msg("accepted: '%s'", bad[i]);
    assert_non_null(strstr(err.text, "NAME@HOST"));
}

static char *fake_getenv(const char *name)
{
    static char value[] = "from=here";
    return strcmp(name, "SET") == 0 ? value : NULL;
}

static void reads_variables(void **state)
{
    (void)state;
    static const char *const good[][2] = {{"A=b", "A=b"},       {"A=", "A="},
                                          {"A==", "A=="},       {"SET", "SET=from=here"},
                                          {"A=\xff", "A=\xff"}, {"a.b-c=1", "a.b-c=1"}};
    struct bg_err err;
    char *text;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(grammar_parse_env(good[i][0], fake_getenv, &text, &err), 0);
        assert_string_equal(text, good[i][1]);
        free(text);
    }
    assert_int_equal(grammar_parse_env("UNSET", fake_getenv, &text, &err), -EINVAL);
    assert_non_null(strstr(err.text, "'UNSET'"));
    assert_int_equal(grammar_parse_env("=x", fake_getenv, &text, &err), -EINVAL);
    assert_int_equal(grammar_parse_env("", fake_getenv, &text, &err), -EINVAL);
}

static void tells_paths_in_sandboxes_from_others(void **state)
{
    (void)state;
    static const struct {
        const char *text, *name, *path;
    } cases[] = {
        {"web:/srv", "web", "/srv"},   {"web:", "web", ""}, {"web:a:b", "web", "a:b"},
        {"a.b_c-1:x", "a.b_c-1", "x"}, {"web", NULL, NULL}, {"./web:x", NULL, NULL},
        {"/web:x", NULL, NULL},        {"-", NULL, NULL},   {":x", NULL, NULL},
        {"Web:x", NULL, NULL},         {"", NULL, NULL},    {"a/b:c", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *name = NULL;
        const char *path;
        bool found = grammar_split_path(cases[i].text, &name, &path);
        assert_int_equal(found, cases[i].name != NULL);
        if (found) {
            assert_string_equal(name, cases[i].name);
            assert_string_equal(path, cases[i].path);
        }
        free(name);
    }
}

static void durations_have_a_unit(void **state)
{
    (void)state;
    struct bg_err err;
    uint64_t ms = 0;
    assert_int_equal(grammar_parse_duration("90s", &ms, &err), 0);
    assert_int_equal(ms, 90000);
    assert_int_equal(grammar_parse_duration("7d", &ms, &err), 0);
    assert_int_equal(ms, 7 * 24 * 3600 * 1000);
    assert_int_equal(grammar_parse_duration("0m", &ms, &err), 0);
    static const char *const bad[] = {"",
                                      "s",
                                      "10",
                                      "-1s",
                                      "1.5h",
                                      "1 h",
                                      "10w",
                                      "1hh",
                                      "s10",
                                      "1000000001s",
                                      "11111111111111111s"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(grammar_parse_duration(bad[i], &ms, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations_have_a_unit),
        cmocka_unit_test(checks_rules_of_allow),
        cmocka_unit_test(bounds_host_names),
        cmocka_unit_test(reads_secrets),
        cmocka_unit_test(reads_variables),
        cmocka_unit_test(tells_paths_in_sandboxes_from_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
