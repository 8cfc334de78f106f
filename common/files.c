#include "common/files.h"

#include <string.h>

int bg_files_request_parse(const uint8_t *bytes, size_t size, struct bg_files_request *ret,
                           struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_files_request q = {.umask = bg_reader_u32le(&in)};
    bg_reader_text32le(&in, q.user, sizeof q.user);
    if (!bg_reader_end(&in))
        return bg_err_set(err, -EPROTO, "files request of %zu bytes", size);
    if (q.umask > 0777)
        return bg_err_set(err, -EPROTO, "files request: umask 0%o", q.umask);
    *ret = q;
    return 0;
}

void bg_files_request_emit(const struct bg_files_request *request, struct bg_writer *w)
{
    bg_writer_u32le(w, request->umask);
    bg_writer_text32le(w, request->user);
}

void bg_files_answer_emit(const struct bg_files_answer *answer, struct bg_writer *w)
{
    bg_writer_u32le(w, (uint32_t)answer->status);
    bg_writer_u8(w, answer->more);
}

int bg_files_answer_parse(struct bg_reader *r, struct bg_files_answer *ret, struct bg_err *err)
{
    int32_t status = (int32_t)bg_reader_u32le(r);
    uint8_t more = bg_reader_u8(r);
    if (!bg_reader_ok(r) || status > 0 || status < -4095 || more > 1 || (status < 0 && more))
        return bg_err_set(err, -EPROTO, "files answer: status %d, more %u", status, more);
    if (status < 0 && !bg_reader_end(r))
        return bg_err_set(err, -EPROTO, "files answer: %zu bytes behind an error", r->left);
    *ret = (struct bg_files_answer){.status = status, .more = more};
    return 0;
}

void bg_files_attributes_emit(const struct bg_files_attributes *a, struct bg_writer *w)
{
    const uint32_t small[] = {a->mode, a->nlink, a->uid, a->gid, a->block_size};
    const uint64_t large[] = {a->size,
                              a->blocks,
                              a->inode,
                              a->device,
                              a->special_device,
                              (uint64_t)a->atime_ns,
                              (uint64_t)a->mtime_ns,
                              (uint64_t)a->ctime_ns,
                              (uint64_t)a->birth_ns};
    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++)
        bg_writer_u32le(w, small[i]);
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++)
        bg_writer_u64le(w, large[i]);
}

struct bg_files_attributes bg_files_attributes_parse(struct bg_reader *r)
{
    struct bg_files_attributes a = {.mode = bg_reader_u32le(r)};
    a.nlink = bg_reader_u32le(r);
    a.uid = bg_reader_u32le(r);
    a.gid = bg_reader_u32le(r);
    a.block_size = bg_reader_u32le(r);
    a.size = bg_reader_u64le(r);
    a.blocks = bg_reader_u64le(r);
    a.inode = bg_reader_u64le(r);
    a.device = bg_reader_u64le(r);
    a.special_device = bg_reader_u64le(r);
    a.atime_ns = (int64_t)bg_reader_u64le(r);
    a.mtime_ns = (int64_t)bg_reader_u64le(r);
    a.ctime_ns = (int64_t)bg_reader_u64le(r);
    a.birth_ns = (int64_t)bg_reader_u64le(r);
    return a;
}

void bg_files_entry_emit(uint8_t type, const char *name, struct bg_writer *w)
{
    bg_writer_u8(w, type);
    bg_writer_text32le(w, name);
}

bool bg_files_entry_parse(struct bg_reader *r, uint8_t *ret_type, char name[BG_NAME_MAX + 1])
{
    *ret_type = bg_reader_u8(r);
    bg_reader_text32le(r, name, BG_NAME_MAX + 1);
    return bg_reader_ok(r) && *ret_type <= 15 && name[0] != '\0' && !strchr(name, '/') &&
           strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}
