#include "host/gateway/path_text.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

char *path_join(const char *folder, const char *name)
{
    char *path = NULL;
    size_t size = strlen(folder);
    while (size > 0 && folder[size - 1] == '/')
        size--;
    bool here = size == 1 && folder[0] == '.';
    return asprintf(&path, "%.*s%s%s", here ? 0 : (int)size, folder, here ? "" : "/", name) < 0
               ? NULL
               : path;
}

/* Appends the names of path to out, which has room. Returns out's new size. */
static size_t append(char *out, size_t used, const char *path)
{
    while (*(path += strspn(path, "/"))) {
        size_t size = strcspn(path, "/");
        bool dots = size <= 2 && strspn(path, ".") >= size;
        if (dots && size == 2) {
            while (used > 0 && out[--used] != '/') {
            }
        } else if (!dots) {
            out[used++] = '/';
            memcpy(out + used, path, size);
            used += size;
        }
        path += size;
    }
    return used;
}

char *path_resolve(const char *root, const char *path)
{
    char *out = malloc(strlen(root) + strlen(path) + 3);
    size_t used = 0;
    if (!out)
        return NULL;
    if (path[0] != '/')
        used = append(out, used, root);
    used = append(out, used, path);
    if (used == 0)
        out[used++] = '/';
    out[used] = '\0';
    return out;
}

const char *path_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}
