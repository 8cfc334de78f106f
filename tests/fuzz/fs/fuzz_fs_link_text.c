/* Texts of links: the input is a folder, a target and a rest, with NULs between. What comes out
 * goes up first and then down, no further up than the folder is deep. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fs/server/link_text.h"

#define PART_MAX 6000

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void require(bool good)
{
    if (!good)
        abort();
}

/* The next part of the input, without "." and ".." as components if they must not be there. */
static void take(const uint8_t **at, size_t *left, bool plain, char out[PART_MAX])
{
    size_t used = 0;
    while (*left > 0 && **at != 0 && used < PART_MAX - 1) {
        out[used++] = plain && **at == '.' ? '_' : (char)**at;
        ++*at;
        --*left;
    }
    out[used] = '\0';
    if (*left > 0) {
        ++*at;
        --*left;
    }
}

static size_t components(const char *path)
{
    size_t count = 0;
    for (size_t i = 0; path[i]; i++)
        count += path[i] != '/' && (i == 0 || path[i - 1] == '/');
    return count;
}

static size_t leading_parents(const char *path)
{
    size_t count = 0;
    while (strncmp(path, "..", 2) == 0 && (path[2] == '/' || path[2] == '\0')) {
        count++;
        path += path[2] == '/' ? 3 : 2;
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static char folder[PART_MAX], target[PART_MAX], rest[PART_MAX], out[BG_PATH_MAX];
    size_t used;
    take(&bytes, &size, true, folder);
    take(&bytes, &size, true, target);
    take(&bytes, &size, true, rest);
    /* As the kernel gives paths: no slash at the start, none twice. */
    if (folder[0] == '/' || target[0] == '/' || strstr(folder, "//") || strstr(target, "//"))
        return 0;
    if (fs_link_between(folder, target, rest, out, &used) < 0)
        return 0;
    require(used > 0 && used < BG_PATH_MAX && strlen(out) == used);
    require(out[0] != '/' && !fs_link_needs_cleaning(out));
    require(leading_parents(out) <= components(folder));
    return 0;
}
