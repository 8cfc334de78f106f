#include "host/gateway/audit_tail.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/checked.h"
#include "common/limits.h"
#include "common/state/audit_files.h"
#include "host/cli/audit_line.h"

int audit_cursor_parse(const char *text, struct audit_cursor *ret)
{
    char inode[24];
    struct audit_cursor cursor;
    size_t size = strcspn(text, "-");
    if (size == 0 || size >= sizeof inode || text[size] != '-')
        return -EINVAL;
    (void)snprintf(inode, sizeof inode, "%.*s", (int)size, text);
    if (bg_parse_u64(inode, 0, UINT64_MAX, &cursor.inode) < 0 ||
        bg_parse_u64(text + size + 1, 0, INT64_MAX, &cursor.offset) < 0)
        return -EINVAL;
    *ret = cursor;
    return 0;
}

void audit_cursor_emit(const struct audit_cursor *cursor, char out[AUDIT_CURSOR_SIZE])
{
    (void)snprintf(out, AUDIT_CURSOR_SIZE, "%" PRIu64 "-%" PRIu64, cursor->inode, cursor->offset);
}

struct file {
    int fd;
    uint64_t inode, size;
};

/* Reads whole lines from an offset on. *used: bytes of them. */
static int read_lines(const struct file *file, uint64_t offset, bool in_a_line, json_t *lines,
                      size_t *used)
{
    BG_AUTOFREE char *text = malloc(BG_GATEWAY_AUDIT_MAX);
    if (!text)
        return -ENOMEM;
    ssize_t n = pread(file->fd, text, BG_GATEWAY_AUDIT_MAX, (off_t)offset);
    if (n < 0)
        return -errno;
    const char *at = text, *end = text + n, *stop;
    while (at < end && (stop = memchr(at, '\n', (size_t)(end - at)))) {
        json_t *line = in_a_line ? NULL : audit_line_load(at, (size_t)(stop - at));
        in_a_line = false;
        if (line && json_array_append_new(lines, line) < 0)
            return -ENOMEM;
        at = stop + 1;
    }
    /* No line is that long: something else is in the file, and is passed over. */
    *used = at == text && n == BG_GATEWAY_AUDIT_MAX ? (size_t)n : (size_t)(at - text);
    return 0;
}

/* Where to begin: an index into files, and an offset there. */
static size_t find_begin(const struct file *files, size_t count, const struct audit_cursor *cursor,
                         uint64_t *ret_offset, bool *ret_in_a_line)
{
    *ret_in_a_line = false;
    *ret_offset = 0;
    for (size_t i = 0; cursor && i < count; i++)
        if (files[i].inode == cursor->inode && cursor->offset <= files[i].size) {
            *ret_offset = cursor->offset;
            return i;
        }
    if (cursor)
        return 0;
    size_t at = count - 1;
    if (files[at].size == 0 && at > 0)
        at--; /* it was turned over just now */
    if (files[at].size > BG_GATEWAY_AUDIT_MAX) {
        *ret_offset = files[at].size - BG_GATEWAY_AUDIT_MAX;
        *ret_in_a_line = true;
    }
    return at;
}

static json_t *result(json_t *lines, const struct audit_cursor *cursor, bool more)
{
    char next[AUDIT_CURSOR_SIZE] = "";
    if (cursor)
        audit_cursor_emit(cursor, next);
    return json_pack("{s:O, s:s, s:b}", "lines", lines, "next", next, "more", (int)more);
}

static int read_files(const struct file *files, size_t count, const struct audit_cursor *cursor,
                      json_t **ret)
{
    json_auto_t *lines = json_array();
    struct audit_cursor next = {0};
    bool in_a_line = false;
    if (!lines)
        return -ENOMEM;
    size_t used = 0,
           at = count > 0 ? find_begin(files, count, cursor, &next.offset, &in_a_line) : 0;
    for (; at < count; at++) {
        next.inode = files[at].inode;
        int r = read_lines(&files[at], next.offset, in_a_line, lines, &used);
        if (r < 0)
            return r;
        next.offset += used;
        if (used > 0 || at + 1 == count)
            break; /* the next file next time */
        next.offset = 0;
        in_a_line = false;
    }
    bool more = count > 0 && (at + 1 < count || next.offset < files[at].size) && used > 0;
    return (*ret = result(lines, count > 0 ? &next : NULL, more)) ? 0 : -ENOMEM;
}

int audit_tail_read(const char *dir, const struct audit_cursor *cursor, json_t **ret,
                    struct bg_err *err)
{
    int fds[BG_AUDIT_FILES_MAX];
    struct file files[BG_AUDIT_FILES_MAX];
    size_t count = 0;
    BG_AUTOCLOSE int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return bg_err_errno(err, -errno, "%s", dir);
    int r = bg_audit_open_all(dir_fd, fds, &count, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++) {
        struct stat st = {0};
        if (fstat(fds[i], &st) < 0)
            r = -errno;
        files[i] = (struct file){.fd = fds[i], .inode = st.st_ino, .size = (uint64_t)st.st_size};
    }
    if (r == 0)
        r = read_files(files, count, cursor, ret);
    for (size_t i = 0; i < count; i++)
        (void)close(fds[i]); /* only read from */
    return r < 0 ? bg_err_errno(err, r, "audit log") : 0;
}
