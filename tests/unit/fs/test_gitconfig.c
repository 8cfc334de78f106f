/* git's configuration, filtered: what passes, what does not, and what is no configuration. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fs/guard/gitconfig.h"

static const struct guard_config_opts usual = {.depth = 2};

/* The filtered text; "!" when it is refused. */
static const char *shown(const char *text)
{
    static char *last;
    size_t size, dropped;
    struct bg_err err;
    free(last);
    last = NULL;
    if (guard_config_filter((const uint8_t *)text, strlen(text), &usual, &last, &size, &dropped,
                            &err) < 0)
        return "!";
    assert_int_equal(strlen(last), size);
    return last;
}

static void what_a_repository_needs_passes(void **state)
{
    (void)state;
    static const char text[] = "[core]\n"
                               "\trepositoryformatversion = 0\n"
                               "\tbare = false\n"
                               "[remote \"origin\"]\n"
                               "\turl = \"https://example.com/a b.git\"\n" /* no URL */
                               "\turl = git@example.com:x/y.git\n"
                               "\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
                               "[branch \"main\"]\n"
                               "\tremote = origin\n"
                               "\tmerge = refs/heads/main\n"
                               "[user]\n"
                               "\tname = A \\\"B\\\" \\\\ C\n";
    assert_string_equal(shown(text), "[core]\n"
                                     "\trepositoryformatversion = \"0\"\n"
                                     "\tbare = \"false\"\n"
                                     "[remote \"origin\"]\n"
                                     "\turl = \"git@example.com:x/y.git\"\n"
                                     "\tfetch = \"+refs/heads/*:refs/remotes/origin/*\"\n"
                                     "[branch \"main\"]\n"
                                     "\tremote = \"origin\"\n"
                                     "\tmerge = \"refs/heads/main\"\n"
                                     "[user]\n"
                                     "\tname = \"A \\\"B\\\" \\\\ C\"\n");
}

static void whatever_runs_something_does_not(void **state)
{
    (void)state;
    static const char *const settings[] = {
        "[core]\nfsmonitor = x\n",
        "[core]\nfsmonitor\n",
        "[core]\nhooksPath = /x\n",
        "[core]\nsshCommand = x\n",
        "[core]\npager = x\n",
        "[core]\neditor = x\n",
        "[core]\ngitProxy = x\n",
        "[core]\naskPass = x\n",
        "[core]\nattributesFile = x\n",
        "[core]\nexcludesFile = x\n",
        "[core]\nalternateRefsCommand = x\n",
        "[core]\nworktree = /etc\n",
        "[core]\nworktree = ../../..\n",
        "[core]\nworktree = a/../..\n",
        "[core]\nworktree = ~\n",
        "[core]\nbare = !x\n",
        "[core]\nrepositoryformatversion = 99999999999\n",
        "[core \"x\"]\nbare = true\n",
        "[include]\npath = /x\n",
        "[includeIf \"gitdir:/\"]\npath = /x\n",
        "[filter \"x\"]\nclean = x\nsmudge = x\nprocess = x\n",
        "[diff]\nexternal = x\n",
        "[diff \"x\"]\ncommand = x\ntextconv = x\n",
        "[merge \"x\"]\ndriver = x\n",
        "[alias]\nst = !x\n",
        "[credential]\nhelper = !x\n",
        "[credential \"https://x\"]\nhelper = !x\n",
        "[gpg]\nprogram = x\n",
        "[gpg \"ssh\"]\ndefaultKeyCommand = x\n",
        "[protocol \"ext\"]\nallow = always\n",
        "[protocol]\nallow = always\n",
        "[pager]\nlog = x\n",
        "[sequence]\neditor = x\n",
        "[interactive]\ndiffFilter = x\n",
        "[difftool \"x\"]\ncmd = x\n",
        "[mergetool \"x\"]\ncmd = x\n",
        "[man \"x\"]\ncmd = x\n",
        "[browser \"x\"]\ncmd = x\n",
        "[trailer \"x\"]\ncommand = x\ncmd = x\n",
        "[tar \"x\"]\ncommand = x\n",
        "[sendemail]\nsmtpServer = /x\n",
        "[uploadpack]\npackObjectsHook = x\n",
        "[url \"ext::sh -c x\"]\ninsteadOf = https://\n",
        "[http]\nsslVerify = false\n",
        "[submodule \"x\"]\nupdate = !x\n",
        "[remote \"x\"]\nuploadpack = x\n",
        "[remote \"x\"]\nreceivepack = x\n",
        "[remote \"x\"]\nvcs = x\n",
        "[remote \"x\"]\nproxy = x\n",
        "[remote \"x\"]\nurl = ext::sh -c x\n",
        "[remote \"x\"]\nurl = /etc\n",
        "[remote \"x\"]\nurl = file:///etc\n",
        "[remote \"x\"]\nurl = http://x/\n",
        "[remote \"x\"]\nurl = --upload-pack=x\n",
        "[remote \"x\"]\nurl = ssh://-oProxyCommand=x/y\n",
        "[remote \"x\"]\nurl = ssh://a@-oProxyCommand=x/y\n",
        "[remote \"x\"]\nurl = git@-oProxyCommand=x:y\n",
        "[remote \"x\"]\nurl = git@x::y\n",
        "[remote \"x\"]\nurl = git@/x:y\n",
        "[remote \"x\"]\nurl = \"https://x/\\ny\"\n",
        "[remote \"x\"]\ntagopt = --upload-pack=x\n",
        "[remote \"x\"]\nfetch = --upload-pack=x\n",
        "[remote \"-x\"]\nurl = https://x/\n",
        "[remote \"../x\"]\nurl = https://x/\n",
        "[remote \"/x\"]\nurl = https://x/\n",
        "[remote \"\"]\nurl = https://x/\n",
        "[remote]\nurl = https://x/\n",
        "[branch \"m\"]\nremote = ext::x\n",
        "[branch \"m\"]\nmergeOptions = x\n",
        "[user]\nsigningKey = x\n",
        "[extensions]\npartialClone = x\n",
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (strcmp(shown(settings[i]), "") != 0)
            fail_msg("%s: %s", settings[i], shown(settings[i]));
}

static void the_grammar_is_gits(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } rows[] = {
        {"", ""},
        {"# x\n; y\n\n", ""},
        {"\xef\xbb\xbf[core]\nbare=true", "[core]\n\tbare = \"true\"\n"},
        {"[CORE] Bare = TRUE\r\n", "[core]\n\tbare = \"TRUE\"\n"},
        {"[core]\nbare\n", "[core]\n\tbare = \"true\"\n"},
        {"[core]\nbare =\n", "[core]\n\tbare = \"\"\n"},
        {"[user]\nname = a # c\n", "[user]\n\tname = \"a\"\n"},
        {"[user]\nname = a \"b # \" c  \n", "[user]\n\tname = \"a b #  c\"\n"},
        {"[user]\nname = a\\\nb\n", "[user]\n\tname = \"ab\"\n"},
        {"[user]\nname = \"a\\\nb\"\n", "[user]\n\tname = \"ab\"\n"},
        {"[user]\nname = \"  a  \"  \n", "[user]\n\tname = \"  a  \"\n"},
        {"[branch.x]\nremote = o\n", "[branch \"x\"]\n\tremote = \"o\"\n"},
        {"[branch \"a\\\"b\\\\c\"]\nremote = o\n", "[branch \"a\\\"b\\\\c\"]\n\tremote = \"o\"\n"},
        /* A comment that a reader of lines would take for a setting, and the reverse. */
        {"[user]\nname = x\\\n[core]\nbare = y\n", "[user]\n\tname = \"x[core]\"\n"},
        {"[user]\nname = \"x\n", "!"},
        {"[user]\nname = \"x", "!"},
        {"[user]\nname = x\\q\n", "!"},
        {"[user]\nname = x\\", "!"},
        {"[user]\nname x\n", "!"},
        {"[user]\n1x = y\n", "!"},
        {"bare = true\n", "!"},
        {"[]\n", "!"},
        {"[core\n", "!"},
        {"[core x]\n", "!"},
        {"[core \"x]\n", "!"},
        {"[core \"x\" ]\n", "!"},
        {"[core \"x\ny\"]\n", "!"},
        {"[co/re]\n", "!"},
        {"[a.b \"c\"]\n", "!"},
        {"=\n", "!"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(shown(rows[i].text), rows[i].want) != 0)
            fail_msg("%s: %s", rows[i].text, shown(rows[i].text));
}

static void a_nul_is_refused(void **state)
{
    (void)state;
    static const uint8_t text[] = "[user]\nname = a\0b\n";
    char *out;
    size_t size, dropped;
    assert_int_equal(
        guard_config_filter(text, sizeof text - 1, &usual, &out, &size, &dropped, NULL), -EPROTO);
}

/* What comes out goes in again unchanged, wherever the text is cut. */
static void every_truncation_is_refused_or_stable(void **state)
{
    (void)state;
    static const char text[] = "[core]\n\tbare = \"fal\\\nse\" # x\n[remote \"a\\\"b\"]\n"
                               "\turl = https://example.com/x\n\tfsmonitor = \"!x\"\n[user]\n"
                               "email = a\\tb\n\tname = \"x \\\\ y\"\n";
    for (size_t cut = 0; cut < sizeof text; cut++) {
        char *once, *twice;
        size_t once_size, twice_size, dropped;
        int r = guard_config_filter((const uint8_t *)text, cut, &usual, &once, &once_size, &dropped,
                                    NULL);
        if (r == -EPROTO)
            continue;
        assert_int_equal(r, 0);
        assert_int_equal(guard_config_filter((const uint8_t *)once, once_size, &usual, &twice,
                                             &twice_size, &dropped, NULL),
                         0);
        assert_string_equal(once, twice);
        assert_int_equal(dropped, 0);
        assert_null(strstr(once, "fsmonitor"));
        free(once);
        free(twice);
    }
}

static const char *hidden(const char *guest, const char *host)
{
    static char *last;
    size_t size;
    free(last);
    last = NULL;
    int r = guard_config_hidden((const uint8_t *)guest, strlen(guest), (const uint8_t *)host,
                                strlen(host), &usual, &last, &size, NULL);
    return r == -E2BIG ? "!!" : r < 0 ? "!" : last;
}

static void what_the_host_does_not_see_is_kept(void **state)
{
    (void)state;
    assert_string_equal(hidden("[core]\nbare=true\npager=x\n[alias \"y\"]\nz\n", ""),
                        "[core]\n\tpager = \"x\"\n[alias \"y\"]\n\tz = \"true\"\n");
    assert_string_equal(hidden("[core]\npager=x\npager=y\n", "[core]\npager=x\n"),
                        "[core]\n\tpager = \"y\"\n");
    assert_string_equal(hidden("[a]\nb = \"x\\n\\t\\b\\\"\\\\y\"\n", ""),
                        "[a]\n\tb = \"x\\n\\t\\b\\\"\\\\y\"\n");
    assert_string_equal(hidden("[core]\nbare=true\n", ""), "");
    assert_string_equal(hidden("[core\n", ""), "!");
    char *many = calloc(1, 4 + 2 * (BG_GUARD_HIDDEN_MAX + 2));
    assert_non_null(many);
    memcpy(many, "[a]\n", 4);
    for (size_t i = 0; i < BG_GUARD_HIDDEN_MAX; i++)
        memcpy(many + 4 + 2 * i, "b\n", 2);
    assert_string_not_equal(hidden(many, ""), "!!");
    memcpy(many + 4 + 2 * BG_GUARD_HIDDEN_MAX, "b\n", 2);
    assert_string_equal(hidden(many, ""), "!!");
    free(many);
}

static void lengths_and_counts_have_a_maximum(void **state)
{
    (void)state;
    char *text = calloc(1, BG_GUARD_FILE_MAX + 2), *out;
    size_t size, dropped, used;
    assert_non_null(text);
    for (size_t length = GUARD_CONFIG_VALUE_MAX - 2; length <= GUARD_CONFIG_VALUE_MAX; length++) {
        memcpy(text, "[user]\nname=", 12);
        memset(text + 12, 'a', length);
        int r = guard_config_filter((const uint8_t *)text, 12 + length, &usual, &out, &size,
                                    &dropped, NULL);
        assert_int_equal(r, length < GUARD_CONFIG_VALUE_MAX ? 0 : -EPROTO);
        if (r == 0)
            free(out);
    }
    for (size_t length = GUARD_CONFIG_NAME_MAX - 1; length <= GUARD_CONFIG_NAME_MAX; length++) {
        memcpy(text, "[branch \"", 9);
        memset(text + 9, 'a', length);
        memcpy(text + 9 + length, "\"]\n", 3);
        int r = guard_config_filter((const uint8_t *)text, 12 + length, &usual, &out, &size,
                                    &dropped, NULL);
        assert_int_equal(r, length < GUARD_CONFIG_NAME_MAX ? 0 : -EPROTO);
        if (r == 0)
            free(out);
    }
    for (size_t count = BG_GUARD_SETTINGS_MAX; count <= BG_GUARD_SETTINGS_MAX + 1; count++) {
        memcpy(text, "[a]\n", 4);
        for (used = 4; used < 4 + 2 * count; used += 2)
            memcpy(text + used, "b\n", 2);
        int r =
            guard_config_filter((const uint8_t *)text, used, &usual, &out, &size, &dropped, NULL);
        assert_int_equal(r, count <= BG_GUARD_SETTINGS_MAX ? 0 : -E2BIG);
        if (r == 0) {
            assert_int_equal(dropped, count);
            free(out);
        }
    }
    memset(text, '\n', BG_GUARD_FILE_MAX + 1);
    assert_int_equal(guard_config_filter((const uint8_t *)text, BG_GUARD_FILE_MAX, &usual, &out,
                                         &size, &dropped, NULL),
                     0);
    free(out);
    assert_int_equal(guard_config_filter((const uint8_t *)text, BG_GUARD_FILE_MAX + 1, &usual, &out,
                                         &size, &dropped, NULL),
                     -E2BIG);
    free(text);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_repository_needs_passes),
        cmocka_unit_test(whatever_runs_something_does_not),
        cmocka_unit_test(the_grammar_is_gits),
        cmocka_unit_test(a_nul_is_refused),
        cmocka_unit_test(every_truncation_is_refused_or_stable),
        cmocka_unit_test(what_the_host_does_not_see_is_kept),
        cmocka_unit_test(lengths_and_counts_have_a_maximum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
