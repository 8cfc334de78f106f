/* Which places are guarded: a case for each class, and for each way to write a name otherwise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fs/guard/rules.h"

#define STEPS_MAX 16

/* Classifies a path; a name with "!" after it is a git folder by its signs. */
static enum guard_class class_of(const char *path)
{
    struct guard_step steps[STEPS_MAX];
    size_t count = 0;
    for (const char *p = path; *p != '\0'; count++) {
        assert_true(count < STEPS_MAX);
        size_t size = strcspn(p, "/");
        bool git = size > 0 && p[size - 1] == '!';
        steps[count] = (struct guard_step){.name = p, .size = size - git, .git = git};
        p += size + (p[size] == '/');
    }
    return guard_classify(steps, count);
}

struct row {
    const char *path;
    enum guard_class class;
};

static void check(const struct row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (class_of(rows[i].path) != rows[i].class)
            fail_msg("%s: %d, not %d", rows[i].path, class_of(rows[i].path), rows[i].class);
}

#define CHECK(...)                                                                                 \
    do {                                                                                           \
        static const struct row rows[] = {__VA_ARGS__};                                            \
        check(rows, sizeof rows / sizeof *rows);                                                   \
    } while (0)

static void what_git_runs_is_guarded(void **state)
{
    (void)state;
    CHECK({"a/.git", GUARD_GIT}, {".git/hooks", GUARD_HOOKS},
          {"a/.git/hooks/pre-commit", GUARD_FORBIDDEN}, {".git/hooks/dir/x", GUARD_FORBIDDEN},
          {".git/hooks/pre-commit.sample", GUARD_NONE}, {"a/.git/config", GUARD_CONFIG},
          {".git/config.worktree", GUARD_CONFIG}, {".git/commondir", GUARD_POINTER},
          {".git/objects/info/alternates", GUARD_POINTERS}, {".git/objects", GUARD_WAY},
          {".git/objects/info", GUARD_WAY}, {".git/worktrees/w!/gitdir", GUARD_POINTER},
          {".git/worktrees/w!/config.worktree", GUARD_CONFIG},
          {".git/modules/m!/config", GUARD_CONFIG}, {".git/modules/m!/hooks/x", GUARD_FORBIDDEN},
          {".git/rebase-merge/git-rebase-todo", GUARD_PINNED});
}

static void what_git_needs_is_not(void **state)
{
    (void)state;
    CHECK({".git/HEAD", GUARD_NONE}, {".git/index", GUARD_NONE}, {".git/config.lock", GUARD_NONE},
          {".git/refs/heads/config", GUARD_NONE}, {".git/refs/heads/hooks/x", GUARD_NONE},
          {".git/logs/refs/heads/config", GUARD_NONE}, {".git/objects/ab/cdef", GUARD_NONE},
          {".gitmodules", GUARD_NONE}, {".gitattributes", GUARD_NONE}, {".gitignore", GUARD_NONE},
          {".github/workflows/ci.yml", GUARD_NONE});
}

static void a_bare_repository_is_known_by_its_signs(void **state)
{
    (void)state;
    CHECK({"x/config", GUARD_NONE}, {"x!/config", GUARD_CONFIG}, {"x/hooks/post", GUARD_NONE},
          {"x!/hooks/post", GUARD_FORBIDDEN}, {"x!/hooks", GUARD_HOOKS}, {"x/objects", GUARD_NONE},
          {"x!/objects", GUARD_WAY}, {"x!/y/config", GUARD_NONE});
    assert_false(guard_signs_suffice(guard_sign("HEAD", 4)));
    assert_false(guard_signs_suffice(guard_sign("objects", 7)));
    assert_true(guard_signs_suffice(guard_sign("HEAD", 4) | guard_sign("objects", 7)));
    assert_true(guard_signs_suffice(guard_sign("HEAD", 4) | guard_sign("commondir", 9)));
    assert_int_equal(guard_sign("HEADS", 5), GUARD_SIGN_NONE);
}

static void shells_editors_tools_and_agents(void **state)
{
    (void)state;
    CHECK({".envrc", GUARD_PINNED}, {"a/b/.env", GUARD_PINNED}, {".env.example", GUARD_NONE},
          {".autoenv.zsh", GUARD_PINNED}, {"mise.toml", GUARD_PINNED},
          {".tool-versions", GUARD_PINNED}, {".nvmrc", GUARD_NONE}, {".vscode", GUARD_WAY},
          {".vscode/tasks.json", GUARD_PINNED}, {".vscode/launch.json", GUARD_PINNED},
          {".vscode/settings.json", GUARD_PINNED}, {".vscode/extensions.json", GUARD_PINNED},
          {".vscode/mcp.json", GUARD_PINNED}, {".vscode/notes.json", GUARD_NONE},
          {"tasks.json", GUARD_NONE}, {"x.code-workspace", GUARD_PINNED},
          {".devcontainer", GUARD_FOLDER}, {".devcontainer/a/Dockerfile", GUARD_PINNED},
          {".idea", GUARD_FOLDER}, {".idea/x.xml", GUARD_PINNED}, {".fleet/run.json", GUARD_PINNED},
          {".zed/settings.json", GUARD_PINNED}, {".vimrc", GUARD_PINNED}, {".exrc", GUARD_PINNED},
          {".nvim.lua", GUARD_PINNED}, {".nvimrc", GUARD_PINNED}, {".dir-locals.el", GUARD_PINNED},
          {".dir-locals-2.el", GUARD_PINNED}, {".projectile", GUARD_PINNED},
          {"p.sublime-project", GUARD_PINNED}, {".editorconfig", GUARD_NONE});
    CHECK({".gdbinit", GUARD_PINNED}, {".lldbinit", GUARD_PINNED}, {".cargo", GUARD_WAY},
          {".cargo/config", GUARD_PINNED}, {".cargo/config.toml", GUARD_PINNED},
          {".cargo/registry", GUARD_NONE}, {"rust-toolchain", GUARD_PINNED},
          {"rust-toolchain.toml", GUARD_PINNED}, {".clangd", GUARD_PINNED}, {".ccls", GUARD_PINNED},
          {".npmrc", GUARD_PINNED}, {".yarnrc.yml", GUARD_PINNED}, {".pnp.cjs", GUARD_PINNED},
          {".pypirc", GUARD_PINNED}, {"pip.conf", GUARD_PINNED}, {"sitecustomize.py", GUARD_PINNED},
          {".mcp.json", GUARD_PINNED}, {"CLAUDE.md", GUARD_PINNED},
          {"CLAUDE.local.md", GUARD_PINNED}, {"AGENTS.md", GUARD_PINNED},
          {".claude/settings.json", GUARD_PINNED}, {"a/.cursor/rules/x", GUARD_PINNED},
          {".github", GUARD_WAY}, {".github/copilot-instructions.md", GUARD_PINNED},
          {"README.md", GUARD_NONE}, {"main.c", GUARD_NONE}, {"package.json", GUARD_NONE});
}

static void other_spellings_are_the_same_name(void **state)
{
    (void)state;
    CHECK({".GIT", GUARD_GIT}, {".Git/Config", GUARD_CONFIG}, {".git.", GUARD_GIT},
          {".git ", GUARD_GIT}, {".git. . ", GUARD_GIT}, {"git~1", GUARD_GIT}, {"GIT~1", GUARD_GIT},
          {".git::$INDEX_ALLOCATION", GUARD_GIT}, {".git:x", GUARD_GIT},
          {".g\xe2\x80\x8cit", GUARD_GIT}, {"\xe2\x80\x8e.git", GUARD_GIT},
          {".gi\xe2\x80\xaat", GUARD_GIT}, {".git\xe2\x81\xaf", GUARD_GIT},
          {"\xef\xbb\xbf.git", GUARD_GIT}, {".ENVRC", GUARD_PINNED},
          {".v\xc5\xbf"
           "code/tasks.json",
           GUARD_PINNED},
          {"roc\xe2\x84\xaa", GUARD_NONE}, {"claude.MD", GUARD_PINNED});
    /* One that only looks like it, and pieces of sequences. */
    CHECK({".g\xc4\xb1t", GUARD_NONE}, {".git\xe2", GUARD_NONE}, {".git\xe2\x80", GUARD_NONE},
          {"git", GUARD_NONE}, {".gitx", GUARD_NONE}, {".", GUARD_NONE}, {":", GUARD_NONE},
          {"...", GUARD_NONE});
    char folded[16];
    guard_fold("A\xe2\x84\xaa\xc5\xbf. ", 8, folded);
    assert_string_equal(folded, "aks");
}

/* The table is what tests and documents read: each row must match what it says. */
static void every_rule_matches_what_it_names(void **state)
{
    (void)state;
    char text[GUARD_RULE_SIZE];
    enum guard_class class;
    const char *why;
    size_t count = 0;
    for (; guard_rule_at(count, text, &class, &why); count++) {
        char path[GUARD_RULE_SIZE] = "";
        size_t used = 0;
        for (const char *p = text; *p != '\0'; p++)
            path[used++] = *p == '*' ? 'x' : *p;
        if (used > 0 && path[used - 1] == '/')
            used--;
        path[used] = '\0';
        if (strncmp(path, "@git", 4) == 0)
            memcpy(path, ".git", 4);
        if (class_of(path) != class)
            fail_msg("%s: %d, not %d", path, class_of(path), class);
        assert_true(strlen(why) > 0);
    }
    assert_true(count > 50);
}

static void names_longer_than_any_are_not_guarded(void **state)
{
    (void)state;
    char name[BG_FS_NAME_MAX + 2];
    memset(name, '.', sizeof name);
    memcpy(name, ".git", 4);
    struct guard_step step = {.name = name, .size = BG_FS_NAME_MAX};
    assert_int_equal(guard_classify(&step, 1), GUARD_GIT);
    step.size++;
    assert_int_equal(guard_classify(&step, 1), GUARD_NONE);
}

static void policies_have_names(void **state)
{
    (void)state;
    enum guard_policy policy;
    assert_int_equal(guard_policy_parse("pin", &policy), 0);
    assert_int_equal(policy, GUARD_PIN);
    assert_int_equal(guard_policy_parse("owner", &policy), 0);
    assert_int_equal(policy, GUARD_OWNER);
    assert_int_equal(guard_policy_parse("off", &policy), 0);
    assert_int_equal(policy, GUARD_OFF);
    assert_int_equal(guard_policy_parse("", &policy), -EINVAL);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_git_runs_is_guarded),
        cmocka_unit_test(what_git_needs_is_not),
        cmocka_unit_test(a_bare_repository_is_known_by_its_signs),
        cmocka_unit_test(shells_editors_tools_and_agents),
        cmocka_unit_test(other_spellings_are_the_same_name),
        cmocka_unit_test(every_rule_matches_what_it_names),
        cmocka_unit_test(names_longer_than_any_are_not_guarded),
        cmocka_unit_test(policies_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
