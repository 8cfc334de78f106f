#include "fs/guard/rules.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/fold.h"

#define PARTS_MAX 4 /* names of a rule */

/* The names that a path ends with, folded. "@git" is a git folder; a "*" stands for anything, once
 * in a name. The rules of GUARD_FOLDER and GUARD_HOOKS are folders, and hold for everything below.
 * The first rule that matches decides. */
struct rule {
    const char *parts[PARTS_MAX];
    enum guard_class class;
    const char *why;
};

static const struct rule rules[] = {
    /* git: what its commands run or follow */
    {{"@git", "hooks", "*.sample"}, GUARD_NONE, "git: never run"},
    {{"@git", "hooks"}, GUARD_HOOKS, "git runs them"},
    {{"@git", "config"},
     GUARD_CONFIG,
     "git runs what it names: fsmonitor, pager, filters, aliases"},
    {{"@git", "config.worktree"}, GUARD_CONFIG, "git: as config"},
    {{"@git", "commondir"}, GUARD_POINTER, "git: where the rest of the repository is"},
    {{"@git", "gitdir"}, GUARD_POINTER, "git: where a work tree is"},
    {{"@git", "objects", "info", "alternates"}, GUARD_POINTERS, "git: where further objects are"},
    {{"git-rebase-todo"}, GUARD_PINNED, "git rebase --continue runs its exec lines"},
    {{".git"}, GUARD_GIT, "git finds a repository by it"},

    /* shells and environments */
    {{".envrc"}, GUARD_PINNED, "direnv runs it"},
    {{".env"}, GUARD_PINNED, "many tools take their environment from it"},
    {{".autoenv*"}, GUARD_PINNED, "autoenv runs it"},
    {{"mise.toml"}, GUARD_PINNED, "mise runs its hooks and tasks"},
    {{".mise.toml"}, GUARD_PINNED, "as mise.toml"},
    {{".tool-versions"}, GUARD_PINNED, "asdf and mise fetch and run what it names"},

    /* editors */
    {{".vscode", "tasks.json"}, GUARD_PINNED, "VS Code runs tasks when a folder is opened"},
    {{".vscode", "launch.json"}, GUARD_PINNED, "VS Code runs what it names"},
    {{".vscode", "settings.json"}, GUARD_PINNED, "VS Code: paths of programs that it runs"},
    {{".vscode", "extensions.json"}, GUARD_PINNED, "VS Code offers to install them"},
    {{".vscode", "mcp.json"}, GUARD_PINNED, "VS Code starts these servers"},
    {{"*.code-workspace"}, GUARD_PINNED, "VS Code: tasks and settings"},
    {{".devcontainer"}, GUARD_FOLDER, "editors build and run containers from it"},
    {{".devcontainer.json"}, GUARD_PINNED, "as .devcontainer"},
    {{".idea"}, GUARD_FOLDER, "JetBrains: run configurations, startup tasks"},
    {{".fleet"}, GUARD_FOLDER, "Fleet: run configurations"},
    {{".zed"}, GUARD_FOLDER, "Zed: tasks, paths of language servers"},
    {{".vimrc"}, GUARD_PINNED, "Vim runs it with exrc"},
    {{".exrc"}, GUARD_PINNED, "as .vimrc"},
    {{".gvimrc"}, GUARD_PINNED, "as .vimrc"},
    {{".nvimrc"}, GUARD_PINNED, "as .vimrc"},
    {{".nvim.lua"}, GUARD_PINNED, "Neovim runs it with exrc"},
    {{".dir-locals*.el"}, GUARD_PINNED, "Emacs sets variables from it, and may evaluate"},
    {{".projectile"}, GUARD_PINNED, "Emacs: commands of a project"},
    {{"*.sublime-project"}, GUARD_PINNED, "Sublime Text: build systems"},

    /* debuggers, tool chains, package managers */
    {{".gdbinit"}, GUARD_PINNED, "gdb runs it"},
    {{".lldbinit"}, GUARD_PINNED, "lldb runs it"},
    {{".cargo", "config"}, GUARD_PINNED, "cargo: linkers, runners, wrappers"},
    {{".cargo", "config.toml"}, GUARD_PINNED, "as .cargo/config"},
    {{"rust-toolchain*"}, GUARD_PINNED, "rustup runs the tool chain that it names, also by path"},
    {{".clangd"}, GUARD_PINNED, "clangd: compilers that it runs"},
    {{".ccls"}, GUARD_PINNED, "ccls: compilers that it runs"},
    {{".npmrc"}, GUARD_PINNED, "npm: registry, shell, git to run"},
    {{".yarnrc*"}, GUARD_PINNED, "yarn runs the release that it names"},
    {{".pnp.*"}, GUARD_PINNED, "node loads it"},
    {{".pypirc"}, GUARD_PINNED, "where packages are sent to"},
    {{"pip.conf"}, GUARD_PINNED, "pip: where packages are from"},
    {{"sitecustomize.py"}, GUARD_PINNED, "Python runs it at every start"},
    {{"usercustomize.py"}, GUARD_PINNED, "as sitecustomize.py"},

    /* what coding agents on the host obey or start */
    {{".mcp.json"}, GUARD_PINNED, "agents start these servers"},
    {{".claude"}, GUARD_FOLDER, "an agent's hooks, commands, permissions"},
    {{".cursor"}, GUARD_FOLDER, "as .claude"},
    {{".gemini"}, GUARD_FOLDER, "as .claude"},
    {{".codex"}, GUARD_FOLDER, "as .claude"},
    {{".windsurf"}, GUARD_FOLDER, "as .claude"},
    {{".clinerules"}, GUARD_FOLDER, "as .claude"},
    {{"claude*.md"}, GUARD_PINNED, "instructions for agents"},
    {{"agents*.md"}, GUARD_PINNED, "as CLAUDE.md"},
    {{"gemini.md"}, GUARD_PINNED, "as CLAUDE.md"},
    {{".cursorrules"}, GUARD_PINNED, "as CLAUDE.md"},
    {{".windsurfrules"}, GUARD_PINNED, "as CLAUDE.md"},
    {{".github", "copilot-instructions.md"}, GUARD_PINNED, "as CLAUDE.md"},
    {{".aider*"}, GUARD_PINNED, "aider: options, commands that it runs"},
};

#define RULES (sizeof rules / sizeof *rules)

/* ---- folding ---- */

void guard_fold(const char *name, size_t size, char *out)
{
    const char *colon = size > 0 ? memchr(name, ':', size) : NULL;
    (void)bg_fold_name(name, colon ? (size_t)(colon - name) : size, 0, out);
    if (strcmp(out, "git~1") == 0) /* what a FAT or NTFS driver may call .git; as long */
        memcpy(out, ".git", 5);
}

/* ---- matching ---- */

static bool name_matches(const char *pattern, const char *folded)
{
    if (pattern[0] != folded[0] && pattern[0] != '*')
        return false; /* nearly all of them */
    const char *star = strchr(pattern, '*');
    if (!star)
        return strcmp(pattern, folded) == 0;
    size_t length = strlen(folded), before = (size_t)(star - pattern), after = strlen(star + 1);
    return length >= before + after && memcmp(pattern, folded, before) == 0 &&
           memcmp(star + 1, folded + length - after, after) == 0;
}

static void fold_step(const struct guard_step *step, char out[BG_FS_NAME_MAX + 2])
{
    out[0] = '\0';
    if (step->size <= BG_FS_NAME_MAX) /* longer ones are no rule's */
        guard_fold(step->name, step->size, out);
}

static bool part_matches(const char *part, const struct guard_step *step)
{
    char folded[BG_FS_NAME_MAX + 2] = "";
    fold_step(step, folded);
    if (strcmp(part, "@git") == 0)
        return step->git || strcmp(folded, ".git") == 0;
    return name_matches(part, folded);
}

static size_t count_parts(const struct rule *rule)
{
    size_t count = 0;
    while (count < PARTS_MAX && rule->parts[count])
        count++;
    return count;
}

/* Whether the rule's first count parts end exactly at steps[last]. Its last one is known to. */
static bool leads_to(const struct rule *rule, size_t count, const struct guard_step *steps,
                     size_t last)
{
    if (count > last + 1)
        return false;
    for (size_t i = 0; i + 1 < count; i++)
        if (!part_matches(rule->parts[i], &steps[last + 1 - count + i]))
            return false;
    return true;
}

/* Whether a rule leads through this folder: a link in its place would lead around the rule. */
static bool is_on_the_way(const struct guard_step *steps, size_t count, const char *folded)
{
    for (size_t i = 0; i < RULES; i++) {
        size_t parts = count_parts(&rules[i]);
        for (size_t inner = 1; inner < parts; inner++)
            if (name_matches(rules[i].parts[inner - 1], folded) &&
                leads_to(&rules[i], inner, steps, count - 1))
                return true;
    }
    return false;
}

static bool holds_below(const struct rule *rule)
{
    return rule->class == GUARD_FOLDER || rule->class == GUARD_HOOKS;
}

enum guard_class guard_classify(const struct guard_step *steps, size_t count)
{
    size_t found = RULES;
    enum guard_class class = GUARD_NONE;
    char folded[BG_FS_NAME_MAX + 2] = "";
    for (size_t at = 0; at < count; at++) {
        bool last = at + 1 == count;
        fold_step(&steps[at], folded);
        for (size_t i = 0; i < found; i++) {
            if (!last && !holds_below(&rules[i]))
                continue;
            size_t parts = count_parts(&rules[i]);
            if (!name_matches(rules[i].parts[parts - 1], folded) ||
                !leads_to(&rules[i], parts, steps, at))
                continue;
            found = i;
            class = last                            ? rules[i].class
                    : rules[i].class == GUARD_HOOKS ? GUARD_FORBIDDEN
                                                    : GUARD_PINNED;
        }
    }
    return found == RULES && is_on_the_way(steps, count, folded) ? GUARD_WAY : class;
}

bool guard_is_git(const char *name, size_t size)
{
    struct guard_step step = {.name = name, .size = size};
    char folded[BG_FS_NAME_MAX + 2] = "";
    fold_step(&step, folded);
    return strcmp(folded, ".git") == 0;
}

static bool is(const char *name, size_t size, const char *want)
{
    return size == strlen(want) && memcmp(name, want, size) == 0;
}

enum guard_sign guard_sign(const char *name, size_t size)
{
    if (is(name, size, "HEAD"))
        return GUARD_SIGN_HEAD;
    return is(name, size, "objects") || is(name, size, "commondir") ? GUARD_SIGN_STORE
                                                                    : GUARD_SIGN_NONE;
}

bool guard_signs_suffice(unsigned signs)
{
    return (signs & GUARD_SIGN_HEAD) && (signs & GUARD_SIGN_STORE);
}

bool guard_rule_at(size_t index, char out[GUARD_RULE_SIZE], enum guard_class *ret_class,
                   const char **ret_why)
{
    if (index >= RULES)
        return false;
    const struct rule *rule = &rules[index];
    struct bg_writer w = bg_writer_init(out, GUARD_RULE_SIZE - 1);
    for (size_t i = 0; i < count_parts(rule); i++) {
        if (i > 0)
            bg_writer_u8(&w, '/');
        bg_writer_bytes(&w, rule->parts[i], strlen(rule->parts[i]));
    }
    if (holds_below(rule))
        bg_writer_u8(&w, '/');
    out[w.used] = '\0';
    *ret_class = rule->class;
    *ret_why = rule->why;
    return true;
}

int guard_policy_parse(const char *text, enum guard_policy *ret)
{
    static const char *const names[] = {
        [GUARD_OFF] = "off", [GUARD_OWNER] = "owner", [GUARD_PIN] = "pin"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(text, names[i]) == 0) {
            *ret = (enum guard_policy)i;
            return 0;
        }
    return -EINVAL;
}
