/* A repository's control folder cannot be made, moved or replaced by the guest, so what is in it is
 * the host's. In it, and in those of submodules and further work trees, the configuration and what
 * leads to another one is fixed. Everything else, such as objects and references, is the guest's
 * daily work. */
#include "fs/share/executed.h"

#include <stdbool.h>
#include <string.h>

#include "fs/server/share.h"

static bool is_control(const char *name)
{
    return strcmp(name, ".git") == 0 || strcmp(name, "git~1") == 0;
}

/* One part of a path in a control folder. */
static unsigned judge_part(const char *name)
{
    static const char *const fixed[] = {"config", "config.worktree", "commondir", "gitdir"};
    if (strcmp(name, "hooks") == 0)
        return FS_SHARE_FIXED | FS_SHARE_FROZEN;
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (strcmp(name, fixed[i]) == 0)
            return FS_SHARE_FIXED;
    return 0;
}

/* Beside git: a name, in any folder or in one of this name, and whether all below it counts. */
static const struct rule {
    const char *folder, *name;
    bool frozen;
} rules[] = {
    {".vscode", "tasks.json", false},
    {".vscode", "launch.json", false},
    {".vscode", "settings.json", false},
    {".vscode", "extensions.json", false},
    {".vscode", "mcp.json", false},
    {".cargo", "config", false},
    {".cargo", "config.toml", false},
    {NULL, ".devcontainer", true},
    {NULL, ".devcontainer.json", false},
    {NULL, ".idea", true},
    {NULL, ".fleet", true},
    {NULL, ".zed", true},
    {NULL, ".vimrc", false},
    {NULL, ".exrc", false},
    {NULL, ".nvimrc", false},
    {NULL, ".nvim.lua", false},
    {NULL, ".dir-locals.el", false},
    {NULL, ".gdbinit", false},
    {NULL, ".lldbinit", false},
    {NULL, "mise.toml", false},
    {NULL, ".mise.toml", false},
    {NULL, ".tool-versions", false},
    {NULL, ".yarnrc", false},
    {NULL, ".yarnrc.yml", false},
    {NULL, ".mcp.json", false},
    {NULL, ".claude", true},
    {NULL, ".cursor", true},
};

static bool has_suffix(const char *name, const char *suffix)
{
    size_t size = strlen(name), end = strlen(suffix);
    return size > end && strcmp(name + size - end, suffix) == 0;
}

static unsigned judge_tools(const char *const *names, size_t count)
{
    const char *last = names[count - 1];
    unsigned verdict = has_suffix(last, ".code-workspace") ? FS_SHARE_FIXED : 0;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        const struct rule *rule = &rules[i];
        if (rule->folder && strcmp(last, rule->folder) == 0)
            verdict |= FS_SHARE_ANCHORED;
        for (size_t at = rule->frozen ? 0 : count - 1; at < count; at++) {
            bool there = !rule->folder || (at > 0 && strcmp(names[at - 1], rule->folder) == 0);
            if (there && strcmp(names[at], rule->name) == 0)
                verdict |= FS_SHARE_FIXED | (rule->frozen ? FS_SHARE_FROZEN : 0);
        }
    }
    return verdict;
}

static unsigned judge_git(const char *const *names, size_t count)
{
    size_t control = count;
    for (size_t i = 0; i < count; i++)
        if (is_control(names[i]))
            control = i;
    if (control == count)
        return 0;
    if (control + 1 == count)
        return FS_SHARE_FIXED | FS_SHARE_ANCHORED;
    const char *first = names[control + 1];
    bool nested = strcmp(first, "modules") == 0 || strcmp(first, "worktrees") == 0;
    unsigned verdict = nested ? FS_SHARE_ANCHORED : 0;
    for (size_t i = control + 1; i < count && (i == control + 1 || nested); i++) {
        unsigned part = judge_part(names[i]);
        verdict |= i + 1 == count ? part : part & FS_SHARE_FROZEN;
    }
    return verdict & FS_SHARE_FROZEN ? verdict | FS_SHARE_FIXED : verdict;
}

unsigned executed_judge(const char *const *names, size_t count)
{
    return judge_git(names, count) | judge_tools(names, count);
}
