#include "images/modules.h"

#include <stdbool.h>
#include <string.h>

#define DEPTH_MAX 32 /* real chains are under 10 deep; a circle in modules.dep ends here */

/* A piece of one of the texts. */
struct span {
    const char *at;
    size_t size;
};

/* Cuts the next line off *text, without its newline. False at the end. */
static bool next_line(const char **text, struct span *ret)
{
    if (!**text)
        return false;
    size_t size = strcspn(*text, "\n");
    *ret = (struct span){.at = *text, .size = size};
    *text += size + ((*text)[size] == '\n');
    return true;
}

/* Cuts the next word off *rest. False at the end. */
static bool next_word(struct span *rest, struct span *ret)
{
    while (rest->size > 0 && (*rest->at == ' ' || *rest->at == '\t')) {
        rest->at++;
        rest->size--;
    }
    size_t size = 0;
    while (size < rest->size && rest->at[size] != ' ' && rest->at[size] != '\t')
        size++;
    *ret = (struct span){.at = rest->at, .size = size};
    rest->at += size;
    rest->size -= size;
    return size > 0;
}

/* "kernel/fs/fuse/fuse.ko" -> "fuse"; ".ko.xz" and the like end a name too. */
static struct span name_of_path(struct span path)
{
    const char *slash = memrchr(path.at, '/', path.size);
    struct span name = path;
    if (slash) {
        name.at = slash + 1;
        name.size = path.size - (size_t)(name.at - path.at);
    }
    const char *dot = memmem(name.at, name.size, ".ko", 3);
    if (dot)
        name.size = (size_t)(dot - name.at);
    return name;
}

static bool same_name(struct span a, struct span b)
{
    if (a.size != b.size)
        return false;
    for (size_t i = 0; i < a.size; i++) {
        char x = a.at[i] == '-' ? '_' : a.at[i], y = b.at[i] == '-' ? '_' : b.at[i];
        if (x != y)
            return false;
    }
    return true;
}

/* Finds "PATH: DEPENDENCIES" by the module's name. */
static bool find_module(const char *dep, struct span name, struct span *ret_path,
                        struct span *ret_needs)
{
    struct span line;
    while (next_line(&dep, &line)) {
        const char *colon = memchr(line.at, ':', line.size);
        if (!colon)
            continue;
        struct span path = {.at = line.at, .size = (size_t)(colon - line.at)};
        if (!same_name(name_of_path(path), name))
            continue;
        *ret_path = path;
        *ret_needs = (struct span){.at = colon + 1, .size = line.size - path.size - 1};
        return true;
    }
    return false;
}

static bool is_builtin(const char *builtin, struct span name)
{
    struct span line;
    while (next_line(&builtin, &line))
        if (same_name(name_of_path(line), name))
            return true;
    return false;
}

static bool is_taken(const struct modules *modules, struct span path)
{
    for (size_t i = 0; i < modules->count; i++)
        if (strlen(modules->paths[i]) == path.size &&
            memcmp(modules->paths[i], path.at, path.size) == 0)
            return true;
    return false;
}

/* Adds what the module needs, then the module. */
static int take_module(struct modules *modules, const char *dep, struct span name, unsigned depth,
                       struct bg_err *err)
{
    struct span path, needs, need;
    int shown = name.size > 64 ? 64 : (int)name.size;
    if (!find_module(dep, name, &path, &needs))
        return bg_err_set(err, depth == 0 ? -ENOENT : -EUCLEAN,
                          "module '%.*s': the kernel has none", shown, name.at);
    if (is_taken(modules, path))
        return 0;
    if (depth >= DEPTH_MAX)
        return bg_err_set(err, -EUCLEAN, "module '%.*s': modules.dep goes round in a circle", shown,
                          name.at);
    while (next_word(&needs, &need)) {
        int r = take_module(modules, dep, name_of_path(need), depth + 1, err);
        if (r < 0)
            return r;
    }
    if (is_taken(modules, path))
        return 0;
    if (modules->count == MODULES_MAX)
        return bg_err_set(err, -E2BIG, "more than %d modules", MODULES_MAX);
    char *copy = strndup(path.at, path.size);
    if (!copy)
        return bg_err_errno(err, -ENOMEM, "modules");
    modules->paths[modules->count++] = copy;
    return 0;
}

int modules_resolve(const char *list, const char *dep, const char *builtin, struct modules *ret,
                    struct bg_err *err)
{
    struct modules modules = {.paths = calloc(MODULES_MAX, sizeof *modules.paths)};
    if (!modules.paths)
        return bg_err_errno(err, -ENOMEM, "modules");
    int r = 0;
    struct span line, name;
    while (r == 0 && next_line(&list, &line)) {
        const char *comment = memchr(line.at, '#', line.size);
        if (comment)
            line.size = (size_t)(comment - line.at);
        if (next_word(&line, &name) && !is_builtin(builtin, name))
            r = take_module(&modules, dep, name, 0, err);
    }
    if (r < 0) {
        modules_done(&modules);
        return r;
    }
    *ret = modules;
    return 0;
}

void modules_done(struct modules *modules)
{
    for (size_t i = 0; i < modules->count; i++)
        free(modules->paths[i]);
    free(modules->paths);
    *modules = (struct modules){0};
}
