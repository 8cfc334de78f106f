#include "fs/trust/walk.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NAMES_MAX 2000000u /* of a whole walk */
#define STEPS_MAX (BG_FS_DEPTH_MAX + 2)

/* One name of a folder that has been read. */
struct item {
    char *name;
    uint32_t type;
};

struct items {
    struct item *all;
    size_t count, room;
    unsigned signs;
};

struct walk {
    struct trust_client *client;
    const struct trust_walk_opts *opts;
    struct guard_step steps[STEPS_MAX];
    size_t depth; /* steps */
    char path[BG_PATH_MAX];
    size_t path_size, names;
};

static int add(void *owner, const char *name, uint32_t type)
{
    struct items *items = owner;
    if (items->count == items->room) {
        size_t room = items->room ? items->room * 2 : 64;
        struct item *grown = reallocarray(items->all, room, sizeof *grown);
        if (!grown)
            return -ENOMEM;
        items->all = grown;
        items->room = room;
    }
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    items->signs |= guard_sign(name, strlen(name));
    items->all[items->count++] = (struct item){copy, type};
    return 0;
}

static void items_done(struct items *items)
{
    for (size_t i = 0; i < items->count; i++)
        free(items->all[i].name);
    free(items->all);
}

/* What a distribution puts there is many thousand files, and no project's. */
static bool is_system(const char *path)
{
    static const char *const folders[] = {"/usr", "/etc",  "/var/lib", "/var/cache", "/boot",
                                          "/lib", "/proc", "/sys",     "/dev",       "/run"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (strcmp(path, folders[i]) == 0)
            return true;
    return false;
}

static int go_into(struct walk *walk, uint64_t node, struct bg_err *err);

static int visit(struct walk *walk, uint64_t folder, const struct item *item, struct bg_err *err)
{
    size_t size = strlen(item->name), before = walk->path_size;
    if (walk->depth + 1 >= STEPS_MAX || before + size + 2 > sizeof walk->path)
        return 0; /* deeper than any mount shows */
    walk->path[walk->path_size++] = '/';
    memcpy(walk->path + walk->path_size, item->name, size + 1);
    walk->path_size += size;
    walk->steps[walk->depth++] = (struct guard_step){
        .name = item->name, .size = size, .git = guard_is_git(item->name, size)};
    enum guard_class class = guard_classify(walk->steps, walk->depth);
    bool is_folder = item->type == DT_DIR;
    bool file = class == GUARD_PINNED || class == GUARD_CONFIG || class == GUARD_POINTER ||
                class == GUARD_POINTERS || class == GUARD_FORBIDDEN || class == GUARD_GIT;
    int r = 0;
    if (file && !is_folder) {
        struct trust_found found = {.path = walk->path,
                                    .name = item->name,
                                    .class = class,
                                    .folder = folder,
                                    .type = item->type};
        r = walk->opts->on_found(walk->opts->owner, &found);
        if (r < 0)
            (void)bg_err_errno(err, r, "files");
    }
    if (r == 0 && is_folder && !(walk->opts->spare_system && is_system(walk->path))) {
        struct trust_node node = {0};
        struct bg_err why;
        r = trust_client_look_up(walk->client, folder, item->name, &node, &why);
        bool gone = r == -ENOENT || r == -EACCES;
        if (r == 0 && (node.mode & S_IFMT) == S_IFDIR)
            r = go_into(walk, node.id, &why);
        if (r == 0 && !gone)
            r = trust_client_forget(walk->client, node.id, &why);
        if (gone)
            r = 0;
        if (r < 0)
            *err = why;
    }
    walk->depth--;
    walk->path_size = before;
    walk->path[before] = '\0';
    return r;
}

static int go_into(struct walk *walk, uint64_t node, struct bg_err *err)
{
    struct items items = {0};
    int r = trust_client_list(walk->client, node, add, &items, err);
    if (r == -EACCES || r == -ENOENT)
        r = 0; /* not ours to read, or gone meanwhile */
    walk->names += items.count;
    if (r == 0 && walk->names > NAMES_MAX)
        r = bg_err_set(err, -ELOOP, "more than %u files: name a folder", NAMES_MAX);
    if (walk->opts->on_folder)
        walk->opts->on_folder(walk->opts->owner);
    if (guard_signs_suffice(items.signs))
        walk->steps[walk->depth - 1].git = true;
    for (size_t i = 0; r == 0 && i < items.count; i++)
        r = visit(walk, node, &items.all[i], err);
    items_done(&items);
    return r;
}

/* The path's names as steps after an empty one for the root. Returns how many; 0: too many. */
static size_t cut(const char *path, struct guard_step *steps)
{
    size_t count = 0;
    steps[count++] = (struct guard_step){.name = ""};
    for (const char *p = path; *p != '\0';) {
        size_t size = strcspn(++p, "/");
        if (count == STEPS_MAX)
            return 0;
        steps[count++] = (struct guard_step){.name = p, .size = size, .git = guard_is_git(p, size)};
        p += size;
    }
    return count;
}

int trust_walk(struct trust_client *client, const struct trust_walk_opts *opts, struct bg_err *err)
{
    struct walk walk = {.client = client, .opts = opts};
    size_t size = strlen(opts->root);
    walk.depth = size < sizeof walk.path ? cut(opts->root, walk.steps) : 0;
    if (walk.depth == 0)
        return bg_err_set(err, -ENAMETOOLONG, "the path is too long");
    memcpy(walk.path, opts->root, size + 1);
    walk.path_size = size;
    return go_into(&walk, opts->node, err);
}

/* Whether a folder has the signs of git's. */
static int look_for_signs(struct trust_client *client, uint64_t folder, bool *ret,
                          struct bg_err *err)
{
    static const char *const names[] = {"HEAD", "objects", "commondir"};
    unsigned signs = 0;
    for (size_t i = 0; i < 3; i++) {
        struct trust_node node = {0};
        int r = trust_client_look_up(client, folder, names[i], &node, err);
        if (r == 0)
            r = trust_client_forget(client, node.id, err);
        else if (r == -ENOENT || r == -EACCES)
            continue;
        if (r < 0)
            return r;
        signs |= guard_sign(names[i], strlen(names[i]));
    }
    *ret = *ret || guard_signs_suffice(signs);
    return 0;
}

int trust_find(struct trust_client *client, const char *path, struct trust_found *ret,
               struct bg_err *err)
{
    struct guard_step steps[STEPS_MAX];
    size_t count = cut(path, steps);
    uint64_t folder = FUSE_ROOT_ID;
    if (count < 2)
        return bg_err_set(err, -ENAMETOOLONG, "the path is too long");
    for (size_t i = 1; i < count; i++) {
        int r = look_for_signs(client, folder, &steps[i - 1].git, err);
        if (r < 0)
            return r;
        if (i + 1 == count)
            break;
        char name[BG_FS_NAME_MAX + 1];
        struct trust_node node = {0};
        if (steps[i].size > BG_FS_NAME_MAX)
            return bg_err_errno(err, -ENAMETOOLONG, "the path");
        memcpy(name, steps[i].name, steps[i].size);
        name[steps[i].size] = '\0';
        r = trust_client_look_up(client, folder, name, &node, err);
        if (r == 0 && (node.mode & S_IFMT) != S_IFDIR)
            r = bg_err_set(err, -ENOTDIR,
                           "there is a link or a file on the way; name the place "
                           "where it is");
        if (r < 0)
            return r;
        folder = node.id;
    }
    *ret = (struct trust_found){.path = path,
                                .name = steps[count - 1].name,
                                .class = guard_classify(steps, count),
                                .folder = folder};
    return 0;
}
