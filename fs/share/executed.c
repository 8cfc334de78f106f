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

unsigned executed_judge(const char *const *names, size_t count)
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
