#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/cli/ssh_names.h"

static void a_host_is_a_sandbox_and_the_domain(void **state)
{
    (void)state;
    char longest[BG_SANDBOX_NAME_MAX + 32], out[BG_SANDBOX_NAME_MAX + 1];
    memset(longest, 'a', BG_SANDBOX_NAME_MAX);
    memcpy(longest + BG_SANDBOX_NAME_MAX, ".bellglass", 11);
    const char *const good[][2] = {
        {"web.bellglass", "web"},
        {"WEB.Bellglass", "web"},
        {"a.b-c_9.bellglass", "a.b-c_9"},
        {"x.bellglass.bellglass", "x.bellglass"},
        {"0.bellglass", "0"},
    };
    static const char *const bad[] = {
        "",
        "web",
        ".bellglass",
        "bellglass",
        "web.bellglass.",
        "web.org",
        "-x.bellglass",
        "_x.bellglass",
        "a b.bellglass",
        "a'b.bellglass",
        "../x.bellglass",
        "a/b.bellglass",
        "a\n.bellglass",
        "\xc3\xa4.bellglass",
        "..bellglass",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(ssh_names_sandbox(good[i][0], out, NULL), 0);
        assert_string_equal(out, good[i][1]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(ssh_names_sandbox(bad[i], out, NULL), -EINVAL);
    assert_int_equal(ssh_names_sandbox(longest, out, NULL), 0);
    assert_int_equal(strlen(out), BG_SANDBOX_NAME_MAX);
    memcpy(longest + BG_SANDBOX_NAME_MAX, "a.bellglass", 12);
    assert_int_equal(ssh_names_sandbox(longest, out, NULL), -EINVAL);
}

static void a_target_may_have_a_user(void **state)
{
    (void)state;
    static const char *const bad[] = {"@web",    "-l@web",   "a b@web",
                                      "a'b@web", "$(x)@web", "a@b@web"};
    char *user;
    const char *name;
    assert_int_equal(ssh_names_split("web", &user, &name, NULL), 0);
    assert_null(user);
    assert_string_equal(name, "web");
    assert_int_equal(ssh_names_split("root@web", &user, &name, NULL), 0);
    assert_string_equal(user, "root");
    assert_string_equal(name, "web");
    free(user);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(ssh_names_split(bad[i], &user, &name, NULL), -EINVAL);
}

static void a_shell_reads_words_as_they_were(void **state)
{
    (void)state;
    const char *const words[][2] = {
        {"plain/word-1.0:x,y+z@a=b%", "plain/word-1.0:x,y+z@a=b%"},
        {"", "''"},
        {"a b", "'a b'"},
        {"it's", "'it'\\''s'"},
        {"'", "''\\'''"},
        {"$HOME `x` \"y\" \\z", "'$HOME `x` \"y\" \\z'"},
        {"~", "'~'"},
        {"a\nb", "'a\nb'"},
        {"\xff", "'\xff'"},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        char *word = ssh_names_shell_word(words[i][0]);
        assert_string_equal(word, words[i][1]);
        free(word);
    }
}

static void a_path_is_one_value(void **state)
{
    (void)state;
    static const char *const bad[] = {"/a\"b", "/a\\b", "/a\nb", "/${HOME}", "/a\tb", "/\x7f"};
    char *text;
    assert_int_equal(ssh_names_config_path("/a b/%h/$x/'#", true, &text, NULL), 0);
    assert_string_equal(text, "\"/a b/%%h/$x/'#\"");
    free(text);
    assert_int_equal(ssh_names_config_path("/%", false, &text, NULL), 0);
    assert_string_equal(text, "\"/%\"");
    free(text);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(ssh_names_config_path(bad[i], true, &text, NULL), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_host_is_a_sandbox_and_the_domain),
        cmocka_unit_test(a_target_may_have_a_user),
        cmocka_unit_test(a_shell_reads_words_as_they_were),
        cmocka_unit_test(a_path_is_one_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
