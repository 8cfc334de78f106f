#include "common/changes.h"

#include <string.h>

int bg_changes_request_parse(const uint8_t *bytes, size_t size, struct bg_changes_request *ret,
                             struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_changes_request q = {.op = bg_reader_u8(&in)};
    q.share = bg_reader_u32le(&in);
    bg_reader_text32le(&in, q.path, sizeof q.path);
    bool path_ok = q.op >= BG_CHANGES_MOUNT ? q.path[0] == '/' && q.path[1] != '\0' : !q.path[0];
    if (!bg_reader_end(&in) || q.op > BG_CHANGES_DETACH || q.share == 0 || !path_ok)
        return bg_err_set(err, -EPROTO, "changes request of %zu bytes: malformed", size);
    *ret = q;
    return 0;
}

void bg_changes_request_emit(const struct bg_changes_request *request, struct bg_writer *w)
{
    bg_writer_u8(w, request->op);
    bg_writer_u32le(w, request->share);
    bg_writer_text32le(w, request->path);
}

static bool component_ok(const char *name, size_t size)
{
    bool dots = size <= 2 && memcmp("..", name, size) == 0; /* "" too */
    return !dots && size <= BG_NAME_MAX;
}

bool bg_changes_path_ok(const char *path)
{
    for (unsigned depth = 1; depth <= BG_CHANGES_DEPTH_MAX; depth++) {
        size_t size = strcspn(path, "/");
        if (!component_ok(path, size))
            return false;
        path += size;
        if (*path == '\0')
            return true;
        path++;
    }
    return false;
}

int bg_change_parse(const uint8_t *bytes, size_t size, struct bg_change *ret, struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_change c = {.type = bg_reader_u8(&in)};
    c.flags = bg_reader_u8(&in);
    c.mode = bg_reader_u16le(&in);
    c.size = bg_reader_u64le(&in);
    c.mtime_ns = bg_reader_u64le(&in);
    c.ctime_ns = bg_reader_u64le(&in);
    c.inode = bg_reader_u64le(&in);
    bg_reader_text32le(&in, c.path, sizeof c.path);
    bg_reader_text32le(&in, c.target, sizeof c.target);
    if (!bg_reader_end(&in))
        return bg_err_set(err, -EPROTO, "record of %zu bytes: too short or malformed", size);
    if (c.type < BG_CHANGE_FILE || c.type > BG_CHANGE_SPECIAL || c.mode > 07777 ||
        c.size > INT64_MAX || (c.size > 0 && c.type != BG_CHANGE_FILE))
        return bg_err_set(err, -EPROTO, "record: type %u, mode 0%o, size %llu", c.type, c.mode,
                          (unsigned long long)c.size);
    if ((c.flags & ~(BG_CHANGE_OPAQUE | BG_CHANGE_NEWER | BG_CHANGE_BUSY)) ||
        ((c.flags & BG_CHANGE_OPAQUE) && c.type != BG_CHANGE_FOLDER))
        return bg_err_set(err, -EPROTO, "record: type %u with flags 0x%x", c.type, c.flags);
    if ((c.target[0] != '\0') != (c.type == BG_CHANGE_SYMLINK))
        return bg_err_set(err, -EPROTO, "record: a link without target, or a target alone");
    if (!bg_changes_path_ok(c.path))
        return bg_err_set(err, -EPROTO, "record: not a path below the share");
    *ret = c;
    return 0;
}

void bg_change_emit(const struct bg_change *change, struct bg_writer *w)
{
    size_t paths = strlen(change->path) + strlen(change->target);
    bg_writer_u32le(w, (uint32_t)(44 + paths));
    bg_writer_u8(w, change->type);
    bg_writer_u8(w, change->flags);
    bg_writer_u16le(w, change->mode);
    bg_writer_u64le(w, change->size);
    bg_writer_u64le(w, change->mtime_ns);
    bg_writer_u64le(w, change->ctime_ns);
    bg_writer_u64le(w, change->inode);
    bg_writer_text32le(w, change->path);
    bg_writer_text32le(w, change->target);
}

bool bg_change_same(const struct bg_change *a, const struct bg_change *b)
{
    return a->type == b->type && a->flags == b->flags && a->mode == b->mode && a->size == b->size &&
           a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns && a->inode == b->inode &&
           strcmp(a->path, b->path) == 0 && strcmp(a->target, b->target) == 0;
}
