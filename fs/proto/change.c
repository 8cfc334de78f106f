#include "fs/proto/change.h"

#include <assert.h>
#include <errno.h>

#include "fs/proto/proto.h"

void fs_changes_begin(struct bg_writer *w)
{
    bg_writer_u32le(w, 0); /* the size, at the end */
    bg_writer_u32le(w, 0);
    bg_writer_u64le(w, 0);
}

bool fs_changes_add(struct bg_writer *w, const struct fs_change *change)
{
    assert(change->name_size <= BG_FS_NAME_MAX && change->name2_size <= BG_FS_NAME_MAX);
    size_t size = FS_CHANGE_HEAD_SIZE + change->name_size + change->name2_size;
    if (w->failed || size > w->size - w->used)
        return false;
    bg_writer_u16le(w, (uint16_t)change->kinds);
    bg_writer_u16le(w, (uint16_t)change->name_size);
    bg_writer_u16le(w, (uint16_t)change->name2_size);
    bg_writer_u16le(w, 0);
    bg_writer_u64le(w, change->node);
    bg_writer_u64le(w, change->folder);
    bg_writer_u64le(w, change->folder2);
    bg_writer_bytes(w, change->name, change->name_size);
    bg_writer_bytes(w, change->name2, change->name2_size);
    return true;
}

void fs_changes_end(struct bg_writer *w)
{
    assert(bg_writer_ok(w) && w->used <= BG_FS_MESSAGE_MAX);
    struct bg_writer head = bg_writer_init(w->start, 4);
    bg_writer_u32le(&head, (uint32_t)w->used);
}

int fs_changes_open(const uint8_t *bytes, size_t size, struct bg_reader *ret, struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    uint32_t stated = bg_reader_u32le(&in), error = bg_reader_u32le(&in);
    uint64_t unique = bg_reader_u64le(&in);
    if (!bg_reader_ok(&in) || stated != size || error != 0 || unique != 0)
        return bg_err_set(err, -EPROTO, "changes: message of %zu bytes says %u, error %u", size,
                          stated, error);
    *ret = in;
    return 0;
}

/* Whether the record's parts go together. */
static bool is_whole(const struct fs_change *c)
{
    const uint32_t known =
        FS_CHANGE_HAPPENED | FS_CHANGE_IS_FOLDER | FS_CHANGE_EVERYTHING | FS_CHANGE_ENDED;
    bool about_one = c->kinds & FS_CHANGE_HAPPENED;
    if (c->kinds == FS_CHANGE_EVERYTHING || c->kinds == FS_CHANGE_ENDED)
        return c->node == 0 && c->folder == 0 && c->folder2 == 0 && !c->name && !c->name2;
    if (!about_one || (c->kinds & ~known) ||
        (c->kinds & (uint32_t)(FS_CHANGE_EVERYTHING | FS_CHANGE_ENDED)))
        return false;
    if ((c->kinds & FS_CHANGE_MOVED) &&
        (c->kinds & ~(uint32_t)FS_CHANGE_IS_FOLDER) != FS_CHANGE_MOVED)
        return false;
    if ((c->folder != 0) != (c->name != NULL) || (c->folder2 != 0) != (c->name2 != NULL))
        return false;
    if (c->folder2 != 0 && !(c->kinds & FS_CHANGE_MOVED))
        return false;
    return c->node != 0 || c->folder != 0 || c->folder2 != 0;
}

int fs_changes_next(struct bg_reader *records, struct fs_change *ret, struct bg_err *err)
{
    if (bg_reader_end(records))
        return 0;
    struct fs_change change = {0};
    change.kinds = bg_reader_u16le(records);
    change.name_size = bg_reader_u16le(records);
    change.name2_size = bg_reader_u16le(records);
    uint16_t zero = bg_reader_u16le(records);
    change.node = bg_reader_u64le(records);
    change.folder = bg_reader_u64le(records);
    change.folder2 = bg_reader_u64le(records);
    const char *name = (const char *)bg_reader_bytes(records, change.name_size);
    const char *name2 = (const char *)bg_reader_bytes(records, change.name2_size);
    if (!bg_reader_ok(records) || zero != 0)
        return bg_err_set(err, -EPROTO, "changes: a record that is cut off");
    change.name = change.name_size > 0 ? name : NULL;
    change.name2 = change.name2_size > 0 ? name2 : NULL;
    if ((change.name && !fs_name_ok(change.name, change.name_size)) ||
        (change.name2 && !fs_name_ok(change.name2, change.name2_size)) || !is_whole(&change))
        return bg_err_set(err, -EPROTO, "changes: a record of kinds 0x%x", change.kinds);
    *ret = change;
    return 1;
}
