#include "fs/relay/guard_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/quote.h"

#define STEPS_MAX (2 * BG_FS_DEPTH_MAX + 2) /* the mount's own path, the folders, the name */
#define LINES_MAX 200u                      /* in the log, for what the guest has */

/* ---- places ---- */

bool fs_guard_is_git_folder(const struct fs_rnode *folder)
{
    return guard_signs_suffice(folder->signs) ||
           (folder->name && guard_is_git(folder->name, strlen(folder->name)));
}

enum guard_class fs_guard_class_as(const struct fs_relay *relay, const struct fs_rnode *folder,
                                   const char *name, size_t size, bool all_git)
{
    const struct fs_guard *guard = relay->guard;
    struct guard_step steps[STEPS_MAX];
    size_t at = STEPS_MAX;
    steps[--at] = (struct guard_step){.name = name, .size = size};
    for (; folder->parent && at > BG_FS_DEPTH_MAX; folder = folder->parent)
        steps[--at] = (struct guard_step){.name = folder->name,
                                          .size = strlen(folder->name),
                                          .git = all_git || fs_guard_is_git_folder(folder)};
    at -= guard->root_count;
    memcpy(steps + at, guard->root_steps, guard->root_count * sizeof *steps);
    steps[at + guard->root_count - 1].git =
        all_git || fs_guard_is_git_folder(folder); /* the mount's root */
    return guard_classify(steps + at, STEPS_MAX - at);
}

enum guard_class fs_guard_class_at(const struct fs_relay *relay, const struct fs_rnode *folder,
                                   const char *name, size_t size)
{
    return fs_guard_class_as(relay, folder, name, size, /* all_git= */ false);
}

bool fs_guard_is_file(enum guard_class class)
{
    return class == GUARD_PINNED || class == GUARD_CONFIG || class == GUARD_POINTER ||
           class == GUARD_POINTERS;
}

bool fs_guard_is_folder(enum guard_class class)
{
    return class == GUARD_GIT || class == GUARD_FOLDER || class == GUARD_HOOKS ||
           class == GUARD_WAY;
}

static bool put_before(char *out, size_t *at, const char *name, size_t size)
{
    if (*at < size + 1)
        return false;
    *at -= size;
    memcpy(out + *at, name, size);
    out[--*at] = '/';
    return true;
}

bool fs_guard_path(const struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                   char out[BG_PATH_MAX])
{
    char path[BG_PATH_MAX];
    size_t at = sizeof path - 1, root_size = strlen(relay->guard->root);
    path[at] = '\0';
    bool good = !name || put_before(path, &at, name, strlen(name));
    for (; good && folder->parent; folder = folder->parent)
        good = put_before(path, &at, folder->name, strlen(folder->name));
    if (!good || at < root_size)
        return false;
    at -= root_size;
    memcpy(path + at, relay->guard->root, root_size);
    memcpy(out, path + at, sizeof path - at);
    return true;
}

/* ---- telling ---- */

void fs_guard_say(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                  const char *what)
{
    char path[BG_PATH_MAX], quoted[512];
    if (relay->guard->lines++ >= LINES_MAX)
        return;
    const char *at = fs_guard_path(relay, folder, name, path) ? path : name;
    bg_log(relay->opts.log, BG_LOG_WARN, "%s: %s", bg_quote(at, quoted, sizeof quoted), what);
}

void fs_guard_say_once(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                       const char *what)
{
    struct fs_guard *guard = relay->guard;
    char path[BG_PATH_MAX];
    if (!fs_guard_path(relay, folder, name, path))
        return;
    uint64_t hash = fs_table_hash_bytes(&relay->handles, 0, path, strlen(path));
    for (size_t i = 0; i < guard->seen_count; i++)
        if (guard->seen[i] == hash)
            return;
    if (guard->seen_count == SEEN_MAX)
        return;
    guard->seen[guard->seen_count++] = hash;
    fs_guard_say(relay, folder, name, what);
}

void fs_guard_tell(const struct fs_guard *guard, const struct fs_pin *pin, const char *forgotten)
{
    struct fs_pin_note note = {.forget = forgotten != NULL};
    const char *path = forgotten ? forgotten : pin->path;
    if (!guard->opts.on_note)
        return;
    memcpy(note.path, path, strlen(path) + 1); /* made by path_of */
    if (!forgotten) {
        note.mode = pin->mode;
        note.mtime = pin->mtime;
        note.bytes = pin->bytes;
        note.size = pin->size;
    }
    guard->opts.on_note(guard->opts.owner, &note);
}

uint64_t fs_guard_now(const struct fs_guard *guard)
{
    return guard->opts.now_s ? guard->opts.now_s(guard->opts.owner) : 0;
}
