/* Which names of a shared folder are hidden or fixed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "fs/server/share.h"
#include "fs/share/names.h"

#define HIDDEN   FS_SHARE_HIDDEN
#define FIXED    FS_SHARE_FIXED
#define FROZEN   (FS_SHARE_FIXED | FS_SHARE_FROZEN)
#define ANCHORED FS_SHARE_ANCHORED

struct row {
    const char *path;
    unsigned verdict;
};

static struct share_names *names_with(const struct share_names_opts *opts)
{
    struct share_names *names;
    struct bg_err err;
    assert_int_equal(share_names_new(opts, &names, &err), 0);
    return names;
}

static void expect(struct share_names *names, const struct row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (share_names_judge(names, rows[i].path) != rows[i].verdict)
            fail_msg("%s: %u, want %u", rows[i].path, share_names_judge(names, rows[i].path),
                     rows[i].verdict);
    share_names_free(names);
}
#define EXPECT(opts, rows) expect(names_with(opts), rows, sizeof(rows) / sizeof *(rows))

static void hides_secrets_by_default(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {".env", HIDDEN},
        {"a/b/.env", HIDDEN},
        {".env.local", HIDDEN},
        {".envrc", HIDDEN},
        {".env.example", 0},
        {"x/.env.template", 0},
        {".env.sample", 0},
        {"env", 0},
        {"tls.pem", HIDDEN},
        {"pem", 0},
        {"a.key", HIDDEN},
        {"monkey", 0},
        {"id_rsa", HIDDEN},
        {"id_ed25519.pub", HIDDEN},
        {"id_map.c", 0},
        {".ssh", HIDDEN},
        {".ssh/config", HIDDEN},
        {"deep/.aws/credentials", HIDDEN},
        {".docker", ANCHORED},
        {".docker/config.json", HIDDEN},
        {"x/.docker/config.json", HIDDEN},
        {".docker/other.json", 0},
        {"config.json", 0},
        {".config", ANCHORED},
        {".config/gh", HIDDEN},
        {".config/gh/hosts.yml", HIDDEN},
        {".config/nextest.toml", 0},
        {"terraform.tfstate", HIDDEN},
        {"terraform.tfstate.backup", HIDDEN},
        {"service-account-1.json", HIDDEN},
        {".npmrc", HIDDEN},
        {"src/main.c", 0},
    };
    EXPECT(&(struct share_names_opts){0}, rows);
}

static void folds_names_as_file_systems_do(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {".ENV", HIDDEN},
        {".Env.Local", HIDDEN},
        {"A.PEM", HIDDEN},
        {".s\u200csh", HIDDEN},
        {".\uFEFFenv", HIDDEN},
        {".ssh. .", HIDDEN},
        {".\u017Fsh", HIDDEN},  /* long s */
        {".\u212Aube", HIDDEN}, /* Kelvin sign */
        {".GIT", FIXED | ANCHORED},
        {".git ", FIXED | ANCHORED},
        {"GIT~1", FIXED | ANCHORED},
        {".g\u200Dit/Config", FIXED},
        {".git/HOOKS.", FROZEN},
        {"\xff\xfe", 0},
        {"\xe2\x80", 0},
        {"...", 0},
    };
    EXPECT(&(struct share_names_opts){0}, rows);
}

static void fixes_what_git_executes(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {".git", FIXED | ANCHORED},
        {"sub/project/.git", FIXED | ANCHORED},
        {".git/config", FIXED},
        {".git/config.lock", 0},
        {".git/config.worktree", FIXED},
        {".git/commondir", FIXED},
        {".git/hooks", FROZEN},
        {".git/hooks/pre-commit", FROZEN},
        {".git/hooks/a/b", FROZEN},
        {".git/HEAD", 0},
        {".git/objects/ab/cdef", 0},
        {".git/refs/heads/config", 0},
        {".git/refs/heads/hooks", 0},
        {".git/modules", ANCHORED},
        {".git/modules/a/b/config", FIXED | ANCHORED},
        {".git/modules/a/hooks/x", FROZEN | ANCHORED},
        {".git/worktrees/w/gitdir", FIXED | ANCHORED},
        {".git/worktrees/w/HEAD", ANCHORED},
        {".gitignore", 0},
        {"config", 0},
        {"hooks/pre-commit", 0},
    };
    EXPECT(&(struct share_names_opts){0}, rows);
    static const struct row unguarded[] = {{".git", 0}, {".git/config", 0}, {".git/hooks/x", 0}};
    EXPECT(&(struct share_names_opts){.unguarded = true}, unguarded);
}

static void fixes_what_editors_and_debuggers_run(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {".vscode", ANCHORED},
        {".vscode/tasks.json", FIXED},
        {"sub/.VSCode/Settings.JSON", FIXED},
        {".vscode/notes.md", 0},
        {"tasks.json", 0},
        {"tasks.json/x", 0},
        {".idea", FROZEN},
        {".idea/runConfigurations/x.xml", FROZEN},
        {"a.code-workspace", FIXED},
        {".code-workspace", 0},
        {".cargo", ANCHORED},
        {".cargo/config.toml", FIXED},
        {".cargo/registry/x", 0},
        {"deep/in/.gdbinit", FIXED},
        {".claude/settings.json", FROZEN},
        {".editorconfig", 0},
        {"Makefile", 0},
        {"build.rs", 0},
    };
    EXPECT(&(struct share_names_opts){0}, rows);
    static const struct row unguarded[] = {{".vscode/tasks.json", 0}, {".idea", 0}};
    EXPECT(&(struct share_names_opts){.unguarded = true}, unguarded);
}

static void takes_patterns_of_the_users(void **state)
{
    (void)state;
    static const char *const hide[] = {"*.sqlite", "/build", "private/*.txt", "[ab]c"};
    static const char *const show[] = {".npmrc", "certs/*.pem", "/.env"};
    static const struct row rows[] = {
        {"x.sqlite", HIDDEN},
        {"a/X.SQLITE", HIDDEN},
        {"build", HIDDEN},
        {"build/x", HIDDEN},
        {"a/build", 0},
        {"private", ANCHORED},
        {"private/a.txt", HIDDEN},
        {"x/private/a.txt", HIDDEN},
        {"private/a.c", 0},
        {"private/x/a.txt", 0},
        {"ac", HIDDEN},
        {"cc", 0},
        {".npmrc", 0},
        {"certs", ANCHORED},
        {"certs/a.pem", 0},
        {"other/a.pem", HIDDEN},
        {".env", 0},
        {"a/.env", HIDDEN},
    };
    EXPECT(
        &((struct share_names_opts){.hide = hide, .hide_count = 4, .show = show, .show_count = 3}),
        rows);
}

static void refuses_what_is_no_pattern(void **state)
{
    (void)state;
    char longest[BG_FS_NAME_MAX + 2];
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    const char *const bad[] = {"", "/", "a//b", "a/", "..", "a/../b", longest, "1/2/3/4/5/6/7/8/9"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct share_names *names;
        struct bg_err err;
        const struct share_names_opts opts = {.hide = &bad[i], .hide_count = 1};
        assert_int_equal(share_names_new(&opts, &names, &err), -EINVAL);
    }
    const char *many[BG_SHARE_PATTERNS_MAX + 1];
    for (size_t i = 0; i < sizeof many / sizeof *many; i++)
        many[i] = "x";
    struct share_names *names;
    struct share_names_opts opts = {.show = many, .show_count = BG_SHARE_PATTERNS_MAX + 1};
    assert_int_equal(share_names_new(&opts, &names, NULL), -EINVAL);
    opts.show_count--;
    assert_int_equal(share_names_new(&opts, &names, NULL), 0);
    share_names_free(names);
}

static void hides_paths_that_are_too_deep(void **state)
{
    (void)state;
    struct share_names *names = names_with(&(struct share_names_opts){0});
    char path[2 * (BG_FS_DEPTH_MAX + 2) + 1];
    for (size_t i = 0; i < BG_FS_DEPTH_MAX + 2; i++)
        memcpy(path + 2 * i, "d/", 2);
    path[2 * (BG_FS_DEPTH_MAX + 2) - 1] = '\0';
    assert_int_equal(share_names_judge(names, path), HIDDEN);
    path[2 * (BG_FS_DEPTH_MAX + 1) - 1] = '\0';
    assert_int_equal(share_names_judge(names, path), 0);
    share_names_free(names);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hides_secrets_by_default),
        cmocka_unit_test(folds_names_as_file_systems_do),
        cmocka_unit_test(fixes_what_git_executes),
        cmocka_unit_test(fixes_what_editors_and_debuggers_run),
        cmocka_unit_test(takes_patterns_of_the_users),
        cmocka_unit_test(refuses_what_is_no_pattern),
        cmocka_unit_test(hides_paths_that_are_too_deep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
