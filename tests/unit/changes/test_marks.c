/* What a person is told to look at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "host/changes/marks.h"

static void names_that_tools_trust_are_marked(void **state)
{
    (void)state;
    static const char *const trusted[] = {
        ".git/hooks/post-checkout",
        "sub/.git/config",
        ".git/config.worktree",
        ".GIT/Hooks/x",
        ".git/modules/a/config",
        ".gitmodules",
        ".envrc",
        "a/.envrc",
        ".vscode/tasks.json",
        "x.code-workspace",
        "a/.idea/b/c",
        ".husky/pre-commit",
        "CLAUDE.md",
        ".cargo/config.toml",
        ".mcp.json",
    };
    static const char *const plain[] = {
        ".git/HEAD",   ".git/objects/ab/cd", ".git/refs/heads/main",
        "git/hooks/x", "src/main.c",         "Makefile",
        "a.envrc",     ".gitignore",         "vscode",
        "hooks",
    };
    for (size_t i = 0; i < sizeof trusted / sizeof *trusted; i++)
        if (!(marks_of_path(trusted[i]) & MARK_TRUSTED))
            fail_msg("%s is not marked", trusted[i]);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (marks_of_path(plain[i]))
            fail_msg("%s is marked", plain[i]);
}

static void names_of_secrets_are_marked(void **state)
{
    (void)state;
    static const char *const secret[] = {".env",
                                         "a/.env.local",
                                         ".ENV",
                                         "x.pem",
                                         "id_rsa.pub",
                                         ".ssh/config",
                                         ".docker/config.json",
                                         "a.tfstate.backup"};
    static const char *const plain[] = {".env.example", ".environment", "pem", "docker/config.json",
                                        "id_generator.c"};
    for (size_t i = 0; i < sizeof secret / sizeof *secret; i++)
        if (!(marks_of_path(secret[i]) & MARK_SECRET))
            fail_msg("%s is not marked", secret[i]);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (marks_of_path(plain[i]))
            fail_msg("%s is marked", plain[i]);
}

static void odd_names_are_marked(void **state)
{
    (void)state;
    static const char *const odd[] = {"a\x1b[2J",
                                      "a\nb",
                                      "\t",
                                      "\x7f",
                                      "\xff",
                                      "\xc2\x9b",
                                      "a\342\200\256cod.exe",
                                      "\xe2\x80\x8b",
                                      "\xed\xa0\x80",
                                      "\xc0\xaf",
                                      "\xf4\x90\x80\x80",
                                      "\xe2\x82"};
    static const char *const plain[] = {"a b", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                                        "-rf"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        if (!(marks_of_path(odd[i]) & MARK_ODD_NAME))
            fail_msg("%zu is not marked", i);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (marks_of_path(plain[i]))
            fail_msg("%zu is marked", i);
}

static void links_that_may_lead_out_are_known(void **state)
{
    (void)state;
    static const struct {
        const char *path, *target;
        bool out;
    } cases[] = {
        {"l", "a", false},        {"l", "/a", true},           {"l", "..", true},
        {"l", "../a", true},      {"d/l", "../a", false},      {"d/l", "..", false},
        {"d/l", "../..", true},   {"d/e/l", "../../a", false}, {"d/e/l", "../../../a", true},
        {"l", "a/../b", true},    {"l", "./a", false},         {"l", "a/./b", false},
        {"d/l", ".././a", false}, {"d/l", "..//a", false},     {"l", "a/..", true},
        {"l", "...", false},      {"l", "..a/b", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (marks_leads_out(cases[i].path, cases[i].target) != cases[i].out)
            fail_msg("%s -> %s", cases[i].path, cases[i].target);
}

static void modes_and_sizes_are_marked(void **state)
{
    (void)state;
    char path[] = "a";
    struct entry guest = {.path = path, .type = BG_CHANGE_FILE, .mode = 0644}, host = guest;
    assert_int_equal(marks_of(&guest, NULL), 0);
    guest.mode = 04777;
    assert_int_equal(marks_of(&guest, &host), MARK_EXECUTABLE | MARK_SET_ID | MARK_OPEN);
    host.mode = 0664;
    guest.mode = 0664;
    assert_int_equal(marks_of(&guest, &host), 0);
    guest.size = MARKS_LARGE;
    assert_int_equal(marks_of(&guest, &host), 0);
    guest.size++;
    guest.torn = true;
    assert_int_equal(marks_of(&guest, &host), MARK_LARGE | MARK_TORN);
    unsigned at = 0, count = 0;
    while (marks_next(~0u, &at))
        count++;
    assert_int_equal(count, 11);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_that_tools_trust_are_marked),
        cmocka_unit_test(names_of_secrets_are_marked),
        cmocka_unit_test(odd_names_are_marked),
        cmocka_unit_test(links_that_may_lead_out_are_known),
        cmocka_unit_test(modes_and_sizes_are_marked),
    };
    return cmocka_run_group_tests_name("marks", tests, NULL, NULL);
}
