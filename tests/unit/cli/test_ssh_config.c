#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/cli/ssh_config.h"

static const struct ssh_config plain = {.program = "/usr/bin/bellglass",
                                        .env = (const char *const[]){NULL},
                                        .key = "/data/ssh/id_ed25519",
                                        .hosts = "/state/ssh/known_hosts"};

static void the_text_gives_a_guest_nothing(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "Host *.bellglass \"!*'*\"\n",
        "\n    ProxyCommand /usr/bin/bellglass ssh --proxy -- '%h'\n",
        "\n    IdentityFile \"/data/ssh/id_ed25519\"\n",
        "\n    UserKnownHostsFile \"/state/ssh/known_hosts/%h\"\n",
        "\n    BatchMode yes\n",
        "\n    HostName %h\n",
        "\n    IdentitiesOnly yes\n",
        "\n    IdentityAgent none\n",
        "\n    ForwardAgent no\n",
        "\n    ForwardX11 no\n",
        "\n    PermitLocalCommand no\n",
        "\n    StrictHostKeyChecking yes\n",
        "\n    PasswordAuthentication no\n",
        "\n    UpdateHostKeys no\n",
    };
    char *text;
    assert_int_equal(ssh_config_text(&plain, &text, NULL), 0);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(text, lines[i]))
            fail_msg("no line %s in\n%s", lines[i], text);
    /* One entry, which ends with the file: nothing is said about other hosts. */
    assert_ptr_equal(strstr(text, "\nHost "), strstr(text, "\nHost *.bellglass"));
    assert_null(strstr(strstr(text, "\nHost ") + 1, "\nHost "));
    assert_null(strstr(text, "\nMatch"));
    free(text);
}

static void odd_paths_are_quoted_twice(void **state)
{
    (void)state;
    struct ssh_config odd = plain;
    odd.program = "/a b/it's 100%/bellglass";
    odd.env = (const char *const[]){"BELLGLASS_HOME=/x y", "P=%h", NULL};
    odd.key = "/k y/50%/id";
    char *text;
    assert_int_equal(ssh_config_text(&odd, &text, NULL), 0);
    assert_non_null(strstr(text, "    ProxyCommand env 'BELLGLASS_HOME=/x y' P=%%h "
                                 "'/a b/it'\\''s 100%%/bellglass' ssh --proxy -- '%h'\n"));
    assert_non_null(strstr(text, "    IdentityFile \"/k y/50%%/id\"\n"));
    free(text);
    odd.program = "/a\nHost *\n/b";
    assert_int_equal(ssh_config_text(&odd, &text, NULL), -EINVAL);
    odd.program = plain.program;
    odd.env = (const char *const[]){"A=x\ny", NULL};
    assert_int_equal(ssh_config_text(&odd, &text, NULL), -EINVAL);
    odd.env = plain.env;
    odd.hosts = "/a\"b";
    assert_int_equal(ssh_config_text(&odd, &text, NULL), -EINVAL);
}

static char *include_lines(void)
{
    char *lines;
    assert_int_equal(ssh_config_include("/data/my ssh/config", &lines, NULL), 0);
    assert_non_null(strstr(lines, "\nInclude \"/data/my ssh/config\"\n"));
    return lines;
}

static void an_include_is_no_pattern(void **state)
{
    (void)state;
    static const char *const bad[] = {"/a*", "/a?", "/[a]", "/%d/a", "/a\nb", "/a\"", "/${A}"};
    char *lines;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(ssh_config_include(bad[i], &lines, NULL), -EINVAL);
}

static void what_is_put_in_comes_out_again(void **state)
{
    (void)state;
    static const char *const files[] = {
        "",
        "\n",
        "\n\n",
        "Host a\n    User b\n",
        "Host a\n    User b", /* no end of the last line */
        "Host a\r\n    User b\r\n",
        "\nHost a\n",
        "# only a comment",
        "    \t  \n",
        "Include ~/.ssh/config.d/*\n\n\nHost *\n",
        "\xef\xbb\xbfHost a\n",
        "Host \xff\xfe\n",
        "# about >>> bellglass >>> marks\n# <<< bellglass <<< too\n",
    };
    char *lines = include_lines();
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *with, *again, *without;
        bool changed;
        assert_int_equal(
            ssh_config_insert(files[i], strlen(files[i]), lines, &with, &changed, NULL), 0);
        assert_true(changed);
        /* In front, so that no Host line of the user's is over it. */
        assert_memory_equal(with, lines, strlen(lines));
        assert_int_equal(ssh_config_insert(with, strlen(with), lines, &again, &changed, NULL), 0);
        assert_false(changed);
        assert_string_equal(again, with);
        assert_int_equal(ssh_config_remove(with, strlen(with), &without, &changed, NULL), 0);
        assert_true(changed);
        assert_string_equal(without, files[i]);
        free(with);
        free(again);
        free(without);
        assert_int_equal(ssh_config_remove(files[i], strlen(files[i]), &without, &changed, NULL),
                         0);
        assert_false(changed);
        free(without);
    }
    free(lines);
}

static void lines_that_were_moved_or_are_old_are_replaced(void **state)
{
    (void)state;
    char *lines = include_lines(), *old, *with, *expected, *text;
    bool changed;
    assert_int_equal(ssh_config_include("/old/config", &old, NULL), 0);
    assert_true(asprintf(&text, "Host a\n%s\nHost b\n", old) > 0);
    assert_true(asprintf(&expected, "%s\nHost a\nHost b\n", lines) > 0);
    assert_int_equal(ssh_config_insert(text, strlen(text), lines, &with, &changed, NULL), 0);
    assert_true(changed);
    assert_string_equal(with, expected);
    free(with);
    free(text);
    free(expected);
    free(old);
    free(lines);
}

static void marks_that_were_edited_are_left_to_the_user(void **state)
{
    (void)state;
    char *lines = include_lines(), *made, *text = NULL;
    const char *end = strstr(lines, "# <<<");
    struct bg_err err;
    bool changed;
    int begin_size = (int)strcspn(lines, "\n") + 1;
    for (int i = 0; i < 5; i++) {
        int n = i == 0   ? asprintf(&text, "Host a\n%.*s", begin_size, lines)
                : i == 1 ? asprintf(&text, "%s", end)
                : i == 2 ? asprintf(&text, "%s%.*s", end, begin_size, lines)
                : i == 3 ? asprintf(&text, "%s%s", lines, lines)
                         : asprintf(&text, "%s%s", lines, end);
        assert_true(n > 0);
        assert_int_equal(ssh_config_insert(text, strlen(text), lines, &made, &changed, &err),
                         -EUCLEAN);
        assert_int_equal(ssh_config_remove(text, strlen(text), &made, &changed, &err), -EUCLEAN);
        assert_non_null(strstr(err.text, "by hand"));
        free(text);
    }
    assert_int_equal(ssh_config_insert("a\0b", 3, lines, &made, &changed, NULL), -EINVAL);
    free(lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_text_gives_a_guest_nothing),
        cmocka_unit_test(odd_paths_are_quoted_twice),
        cmocka_unit_test(an_include_is_no_pattern),
        cmocka_unit_test(what_is_put_in_comes_out_again),
        cmocka_unit_test(lines_that_were_moved_or_are_old_are_replaced),
        cmocka_unit_test(marks_that_were_edited_are_left_to_the_user),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
