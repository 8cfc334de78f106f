#include "fs/relay/view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/guard/gitconfig.h"
#include "fs/relay/check.h"

static const char gitdir[] = "gitdir: "; /* what a ".git" that is a file starts with */

/* Writes a path that stays inside the mount, and a line's end. Errors: -EPERM it does not. */
static int write_path(struct bg_writer *out, const uint8_t *text, size_t size, unsigned depth,
                      bool whole)
{
    char path[BG_PATH_MAX];
    size_t path_size;
    for (size_t i = 0; i < size; i++)
        if (text[i] < 0x20 || text[i] == 0x7f || text[i] == '"')
            return -EPERM; /* a quoted path, or none */
    int r = fs_check_link(text, size, depth, whole, path, &path_size);
    if (r < 0)
        return r == -ENAMETOOLONG ? r : -EPERM;
    if (path[0] == '#')
        return -EPERM; /* "/#x", made relative, would be a comment */
    bg_writer_bytes(out, path, path_size);
    bg_writer_u8(out, '\n');
    return 0;
}

static size_t without_line_ends(const uint8_t *text, size_t size)
{
    while (size > 0 && (text[size - 1] == '\n' || text[size - 1] == '\r'))
        size--;
    return size;
}

static int make_pointer(const struct fs_view_opts *opts, const uint8_t *text, size_t size,
                        struct bg_writer *out)
{
    size_t head = opts->class == GUARD_GIT ? strlen(gitdir) : 0;
    size = without_line_ends(text, size);
    if (size <= head || memcmp(text, gitdir, head) != 0)
        return -EPROTO;
    bg_writer_bytes(out, gitdir, head);
    return write_path(out, text + head, size - head, opts->depth, opts->whole);
}

/* objects/info/alternates: paths are relative to objects. */
static void make_pointers(const struct fs_view_opts *opts, const uint8_t *text, size_t size,
                          struct bg_writer *out, size_t *ret_dropped)
{
    while (size > 0) {
        const uint8_t *end = memchr(text, '\n', size);
        size_t line = end ? (size_t)(end - text) : size;
        if (line > 0 && text[0] != '#' &&
            (opts->depth == 0 || write_path(out, text, line, opts->depth - 1, opts->whole) < 0))
            (*ret_dropped)++;
        line += end ? 1 : 0;
        text += line;
        size -= line;
    }
}

int fs_view_make(const struct fs_view_opts *opts, const uint8_t *text, size_t size, uint8_t **ret,
                 size_t *ret_size, size_t *ret_dropped, struct bg_err *err)
{
    if (opts->class == GUARD_CONFIG) {
        struct guard_config_opts config = {.depth = opts->depth};
        char *shown;
        int r = guard_config_filter(text, size, &config, &shown, ret_size, ret_dropped, err);
        if (r == 0)
            *ret = (uint8_t *)shown;
        return r;
    }
    if (size > BG_PATH_MAX * 16)
        return bg_err_set(err, -E2BIG, "%zu bytes of paths", size);
    /* Longer than any that git writes: lines grow when they are made relative. */
    size_t room = BG_PATH_MAX * 64, dropped = 0;
    BG_AUTOFREE uint8_t *bytes = malloc(room);
    if (!bytes)
        return bg_err_errno(err, -ENOMEM, "a path");
    struct bg_writer out = bg_writer_init(bytes, room);
    int r = 0;
    if (opts->class == GUARD_POINTERS)
        make_pointers(opts, text, size, &out, &dropped);
    else
        r = make_pointer(opts, text, size, &out);
    if (r == -EPERM)
        return bg_err_set(err, r, "its path leads out of the mount");
    if (r < 0 || !bg_writer_ok(&out))
        return bg_err_set(err, r < 0 ? r : -E2BIG, "not a path as git writes it");
    *ret_size = out.used;
    *ret_dropped = dropped;
    *ret = BG_TAKE(bytes);
    return 0;
}
