#include "common/wire.h"

int bg_stream_header_parse(const uint8_t *bytes, size_t size, struct bg_stream_header *ret,
                           struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    uint32_t magic = bg_reader_u32le(&in);
    uint16_t version = bg_reader_u16le(&in);
    struct bg_stream_header h = {.kind = bg_reader_u16le(&in)};
    h.id = bg_reader_u32le(&in);
    h.flags = bg_reader_u32le(&in);
    const uint8_t *resume = bg_reader_bytes(&in, sizeof h.resume);
    h.body_size = bg_reader_u32le(&in);
    if (!bg_reader_end(&in) || !resume)
        return bg_err_set(err, -EPROTO, "stream header of %zu bytes: want %u", size,
                          BG_STREAM_HEADER_SIZE);
    if (magic != BG_WIRE_MAGIC || version != BG_WIRE_VERSION)
        return bg_err_set(err, -EPROTO, "stream header: magic 0x%x, version %u", magic, version);
    if ((h.flags & ~BG_STREAM_RESUME) != 0 || h.id == 0)
        return bg_err_set(err, -EPROTO, "stream header: flags 0x%x, id %u", h.flags, h.id);
    if (!((h.kind >= BG_STREAM_SESSION && h.kind <= BG_STREAM_FILES) || h.kind == BG_STREAM_DISK ||
          h.kind == BG_STREAM_EXECS || h.kind == BG_STREAM_VOLUME || h.kind == BG_STREAM_CONNECT))
        return bg_err_set(err, -EPROTO, "stream header: unknown kind %u", h.kind);
    if (h.body_size > BG_STREAM_BODY_MAX ||
        ((h.flags & BG_STREAM_RESUME) && h.body_size != BG_RESUME_SIZE))
        return bg_err_set(err, -EPROTO, "stream header: body of %u bytes", h.body_size);
    memcpy(h.resume, resume, sizeof h.resume);
    *ret = h;
    return 0;
}

void bg_stream_header_emit(const struct bg_stream_header *header,
                           uint8_t out[BG_STREAM_HEADER_SIZE])
{
    struct bg_writer w = bg_writer_init(out, BG_STREAM_HEADER_SIZE);
    bg_writer_u32le(&w, BG_WIRE_MAGIC);
    bg_writer_u16le(&w, BG_WIRE_VERSION);
    bg_writer_u16le(&w, header->kind);
    bg_writer_u32le(&w, header->id);
    bg_writer_u32le(&w, header->flags);
    bg_writer_bytes(&w, header->resume, sizeof header->resume);
    bg_writer_u32le(&w, header->body_size);
}

int bg_reply_header_parse(const uint8_t *bytes, size_t size, struct bg_reply_header *ret,
                          struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    uint32_t magic = bg_reader_u32le(&in);
    struct bg_reply_header h = {.status = (int32_t)bg_reader_u32le(&in)};
    h.body_size = bg_reader_u32le(&in);
    if (!bg_reader_end(&in))
        return bg_err_set(err, -EPROTO, "reply of %zu bytes: want %u", size, BG_REPLY_HEADER_SIZE);
    if (magic != BG_WIRE_REPLY_MAGIC)
        return bg_err_set(err, -EPROTO, "reply: magic 0x%x", magic);
    if (h.status > 0 || h.status < -4095)
        return bg_err_set(err, -EPROTO, "reply: status %d", h.status);
    if (h.body_size > BG_REPLY_TEXT_MAX)
        return bg_err_set(err, -EPROTO, "reply: body of %u bytes", h.body_size);
    *ret = h;
    return 0;
}

void bg_reply_header_emit(const struct bg_reply_header *reply, uint8_t out[BG_REPLY_HEADER_SIZE])
{
    struct bg_writer w = bg_writer_init(out, BG_REPLY_HEADER_SIZE);
    bg_writer_u32le(&w, BG_WIRE_REPLY_MAGIC);
    bg_writer_u32le(&w, (uint32_t)reply->status);
    bg_writer_u32le(&w, reply->body_size);
}

int bg_frame_header_parse(const uint8_t *bytes, size_t size, uint32_t size_max,
                          struct bg_frame_header *ret, struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_frame_header h = {.type = bg_reader_u8(&in)};
    uint8_t zero = bg_reader_u8(&in);
    zero |= bg_reader_u8(&in);
    zero |= bg_reader_u8(&in);
    h.size = bg_reader_u32le(&in);
    if (!bg_reader_end(&in))
        return bg_err_set(err, -EPROTO, "frame header of %zu bytes: want %u", size,
                          BG_FRAME_HEADER_SIZE);
    if (zero != 0 || h.size > size_max)
        return bg_err_set(err, -EPROTO, "frame type %u: padding 0x%x, size %u", h.type, zero,
                          h.size);
    *ret = h;
    return 0;
}

void bg_frame_header_emit(uint8_t type, uint32_t size, uint8_t out[BG_FRAME_HEADER_SIZE])
{
    struct bg_writer w = bg_writer_init(out, BG_FRAME_HEADER_SIZE);
    bg_writer_u32le(&w, type);
    bg_writer_u32le(&w, size);
}

/* Checks count blobs without NUL, each of at least one byte, at in; leaves in after them. */
static void check_strings(struct bg_reader *in, uint32_t count)
{
    for (uint32_t i = 0; i < count && bg_reader_ok(in); i++) {
        size_t size;
        const uint8_t *p = bg_reader_blob32le(in, BG_STREAM_BODY_MAX, &size);
        if (p && memchr(p, 0, size))
            in->failed = true;
    }
}

int bg_exec_request_parse(const uint8_t *bytes, size_t size, struct bg_exec_request *ret,
                          struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_exec_request q = {.flags = bg_reader_u32le(&in)};
    q.rows = bg_reader_u16le(&in);
    q.columns = bg_reader_u16le(&in);
    bg_reader_text32le(&in, q.user, sizeof q.user);
    bg_reader_text32le(&in, q.cwd, sizeof q.cwd);
    q.argc = bg_reader_u32le(&in);
    q.envc = bg_reader_u32le(&in);
    if (!bg_reader_ok(&in))
        return bg_err_set(err, -EPROTO, "exec request of %zu bytes: too short or malformed", size);
    if (q.argc > BG_EXEC_STRINGS_MAX || q.envc > BG_EXEC_STRINGS_MAX)
        return bg_err_set(err, -E2BIG, "exec request: %u arguments, %u variables; at most %u each",
                          q.argc, q.envc, BG_EXEC_STRINGS_MAX);
    q.strings = in.at;
    q.strings_size = in.left;
    check_strings(&in, q.argc + q.envc);
    if (!bg_reader_end(&in) || q.argc == 0 ||
        (q.flags & ~(BG_EXEC_TTY | BG_EXEC_CLEAR_ENV | BG_EXEC_DETACH | BG_EXEC_ALONE)) != 0)
        return bg_err_set(err, -EPROTO, "exec request: malformed (flags 0x%x, argc %u)", q.flags,
                          q.argc);
    *ret = q;
    return 0;
}

bool bg_exec_is_attach(const uint8_t *bytes, size_t size)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    uint32_t flags = bg_reader_u32le(&in);
    return bg_reader_ok(&in) && (flags & BG_EXEC_ATTACH);
}

int bg_exec_attach_parse(const uint8_t *bytes, size_t size, struct bg_exec_attach *ret,
                         struct bg_err *err)
{
    const uint32_t known = BG_EXEC_ATTACH | BG_EXEC_STEAL | BG_EXEC_KEPT | BG_EXEC_OWN;
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_exec_attach q = {.flags = bg_reader_u32le(&in)};
    q.rows = bg_reader_u16le(&in);
    q.columns = bg_reader_u16le(&in);
    q.pid = bg_reader_u32le(&in);
    q.out_at = bg_reader_u64le(&in);
    q.err_at = bg_reader_u64le(&in);
    if (!bg_reader_end(&in) || !(q.flags & BG_EXEC_ATTACH) || (q.flags & ~known))
        return bg_err_set(err, -EPROTO, "attach request of %zu bytes: malformed (flags 0x%x)", size,
                          q.flags);
    *ret = q;
    return 0;
}

void bg_exec_attach_emit(const struct bg_exec_attach *attach, struct bg_writer *w)
{
    bg_writer_u32le(w, attach->flags);
    bg_writer_u16le(w, attach->rows);
    bg_writer_u16le(w, attach->columns);
    bg_writer_u32le(w, attach->pid);
    bg_writer_u64le(w, attach->out_at);
    bg_writer_u64le(w, attach->err_at);
}

int bg_exec_attached_parse(const uint8_t *bytes, size_t size, struct bg_exec_attached *ret,
                           struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_exec_attached q = {.pid = bg_reader_u32le(&in)};
    q.flags = bg_reader_u32le(&in);
    q.out_at = bg_reader_u64le(&in);
    q.err_at = bg_reader_u64le(&in);
    q.stdin_taken = bg_reader_u64le(&in);
    q.stdin_owed = bg_reader_u32le(&in);
    if (!bg_reader_end(&in) || q.pid == 0 || (q.flags & ~(BG_EXEC_IS_TTY | BG_EXEC_STDIN_ENDED)) ||
        q.stdin_owed > BG_EXEC_STDIN_WINDOW || q.stdin_owed > q.stdin_taken)
        return bg_err_set(err, -EPROTO, "reply of %zu bytes to an attach: malformed", size);
    *ret = q;
    return 0;
}

void bg_exec_attached_emit(const struct bg_exec_attached *attached, struct bg_writer *w)
{
    bg_writer_u32le(w, attached->pid);
    bg_writer_u32le(w, attached->flags);
    bg_writer_u64le(w, attached->out_at);
    bg_writer_u64le(w, attached->err_at);
    bg_writer_u64le(w, attached->stdin_taken);
    bg_writer_u32le(w, attached->stdin_owed);
}

int bg_exec_info_parse(const uint8_t *bytes, size_t size, struct bg_exec_info *ret,
                       struct bg_err *err)
{
    const uint32_t known = BG_EXEC_INFO_TTY | BG_EXEC_INFO_ATTACHED | BG_EXEC_INFO_ENDED;
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_exec_info q = {.pid = bg_reader_u32le(&in)};
    q.flags = bg_reader_u32le(&in);
    q.age_ms = bg_reader_u64le(&in);
    q.waiting = bg_reader_u64le(&in);
    bg_reader_text32le(&in, q.command, sizeof q.command);
    if (!bg_reader_end(&in) || q.pid == 0 || (q.flags & ~known))
        return bg_err_set(err, -EPROTO, "a command's record of %zu bytes: malformed", size);
    *ret = q;
    return 0;
}

void bg_exec_info_emit(const struct bg_exec_info *info, struct bg_writer *w)
{
    bg_writer_u32le(w, info->pid);
    bg_writer_u32le(w, info->flags);
    bg_writer_u64le(w, info->age_ms);
    bg_writer_u64le(w, info->waiting);
    bg_writer_text32le(w, info->command);
}

int bg_copy_request_parse(const uint8_t *bytes, size_t size, struct bg_copy_request *ret,
                          struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_copy_request q = {.direction = bg_reader_u8(&in)};
    q.flags = bg_reader_u32le(&in);
    bg_reader_text32le(&in, q.user, sizeof q.user);
    bg_reader_text32le(&in, q.path, sizeof q.path);
    bg_reader_text32le(&in, q.root, sizeof q.root);
    if (!bg_reader_end(&in) || q.direction > BG_COPY_OUT_OF_GUEST ||
        (q.flags & ~(BG_COPY_UNPACK | BG_COPY_DISK)))
        return bg_err_set(err, -EPROTO, "copy request of %zu bytes: malformed", size);
    if (q.path[0] == '\0' || strchr(q.root, '/') || q.root[0] == '\0' || strcmp(q.root, "..") == 0)
        return bg_err_set(err, -EPROTO, "copy request: bad path or top name");
    *ret = q;
    return 0;
}

void bg_copy_request_emit(const struct bg_copy_request *request, struct bg_writer *w)
{
    bg_writer_u8(w, request->direction);
    bg_writer_u32le(w, request->flags);
    bg_writer_text32le(w, request->user);
    bg_writer_text32le(w, request->path);
    bg_writer_text32le(w, request->root);
}

/* At most one of them: each says how the guest came to be where it is. */
static bool identity_flags_ok(uint32_t flags)
{
    const uint32_t known = BG_IDENTITY_GOLDEN | BG_IDENTITY_CONTINUE | BG_IDENTITY_AGAIN;
    return (flags & ~known) == 0 && (flags & (flags - 1)) == 0;
}

int bg_identity_parse(const uint8_t *bytes, size_t size, struct bg_identity *ret,
                      struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_identity q = {.flags = bg_reader_u32le(&in)};
    q.realtime_ns = bg_reader_u64le(&in);
    const uint8_t *entropy = bg_reader_bytes(&in, sizeof q.entropy);
    const uint8_t *machine_id = bg_reader_bytes(&in, sizeof q.machine_id);
    bg_reader_text32le(&in, q.hostname, sizeof q.hostname);
    bg_reader_text32le(&in, q.sandbox_id, sizeof q.sandbox_id);
    q.ca_pem = bg_reader_blob32le(&in, BG_IDENTITY_SIZE_MAX, &q.ca_pem_size);
    q.envc = bg_reader_u32le(&in);
    q.env = in.at;
    q.env_size = in.left;
    if (q.envc > BG_EXEC_STRINGS_MAX)
        in.failed = true;
    check_strings(&in, q.envc);
    if (!bg_reader_end(&in) || !entropy || !machine_id || !identity_flags_ok(q.flags))
        return bg_err_set(err, -EPROTO, "identity of %zu bytes: malformed", size);
    memcpy(q.entropy, entropy, sizeof q.entropy);
    memcpy(q.machine_id, machine_id, sizeof q.machine_id);
    *ret = q;
    return 0;
}

void bg_identity_emit(const struct bg_identity *identity, struct bg_writer *w)
{
    bg_writer_u32le(w, identity->flags);
    bg_writer_u64le(w, identity->realtime_ns);
    bg_writer_bytes(w, identity->entropy, sizeof identity->entropy);
    bg_writer_bytes(w, identity->machine_id, sizeof identity->machine_id);
    bg_writer_text32le(w, identity->hostname);
    bg_writer_text32le(w, identity->sandbox_id);
    bg_writer_blob32le(w, identity->ca_pem, identity->ca_pem_size);
    bg_writer_u32le(w, identity->envc);
    bg_writer_bytes(w, identity->env, identity->env_size);
}

int bg_connect_request_parse(const uint8_t *bytes, size_t size, struct bg_connect_request *ret,
                             struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_connect_request q = {.form = bg_reader_u8(&in)};
    q.port = bg_reader_u16le(&in);
    bg_reader_text32le(&in, q.host, sizeof q.host);
    if (!bg_reader_end(&in) || (q.form != BG_CONNECT_NAME && q.form != BG_CONNECT_ADDRESS) ||
        q.port == 0 || q.host[0] == '\0')
        return bg_err_set(err, -EPROTO, "connect request of %zu bytes: malformed", size);
    *ret = q;
    return 0;
}

void bg_connect_request_emit(const struct bg_connect_request *request, struct bg_writer *w)
{
    bg_writer_u8(w, request->form);
    bg_writer_u16le(w, request->port);
    bg_writer_text32le(w, request->host);
}

int bg_bench_request_parse(const uint8_t *bytes, size_t size, struct bg_bench_request *ret,
                           struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_bench_request q = {.mode = bg_reader_u8(&in)};
    q.bytes = bg_reader_u64le(&in);
    if (!bg_reader_end(&in) || q.mode > BG_BENCH_SOURCE)
        return bg_err_set(err, -EPROTO, "bench request of %zu bytes: malformed", size);
    *ret = q;
    return 0;
}

void bg_bench_request_emit(const struct bg_bench_request *request, struct bg_writer *w)
{
    bg_writer_u8(w, request->mode);
    bg_writer_u64le(w, request->bytes);
}

int bg_forward_request_parse(const uint8_t *bytes, size_t size, uint16_t *ret_port,
                             struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    uint16_t port = bg_reader_u16le(&in);
    if (!bg_reader_end(&in) || port == 0)
        return bg_err_set(err, -EPROTO, "forward request of %zu bytes: malformed", size);
    *ret_port = port;
    return 0;
}

int bg_fuse_request_parse(const uint8_t *bytes, size_t size, struct bg_fuse_request *ret,
                          struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_fuse_request q = {.flags = bg_reader_u32le(&in)};
    bg_reader_text32le(&in, q.path, sizeof q.path);
    if (!bg_reader_end(&in) || (q.flags & ~(BG_FUSE_READ_ONLY | BG_FUSE_AS_ROOT | BG_FUSE_DISK)) ||
        q.path[0] != '/')
        return bg_err_set(err, -EPROTO, "fuse request of %zu bytes: malformed", size);
    *ret = q;
    return 0;
}

void bg_fuse_request_emit(const struct bg_fuse_request *request, struct bg_writer *w)
{
    bg_writer_u32le(w, request->flags);
    bg_writer_text32le(w, request->path);
}

int bg_share_request_parse(const uint8_t *bytes, size_t size, struct bg_share_request *ret,
                           struct bg_err *err)
{
    const uint32_t known = BG_SHARE_READ_ONLY | BG_SHARE_END | BG_SHARE_LAZY;
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_share_request q = {.flags = bg_reader_u32le(&in)};
    bg_reader_text32le(&in, q.path, sizeof q.path);
    if (!bg_reader_end(&in) || (q.flags & ~known) || q.path[0] != '/' || q.path[1] == '\0' ||
        ((q.flags & BG_SHARE_LAZY) && !(q.flags & BG_SHARE_END)))
        return bg_err_set(err, -EPROTO, "share request of %zu bytes: malformed", size);
    *ret = q;
    return 0;
}

void bg_share_request_emit(const struct bg_share_request *request, struct bg_writer *w)
{
    bg_writer_u32le(w, request->flags);
    bg_writer_text32le(w, request->path);
}

int bg_watch_request_parse(const uint8_t *bytes, size_t size, char path[BG_PATH_MAX],
                           struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    uint32_t flags = bg_reader_u32le(&in);
    bg_reader_text32le(&in, path, BG_PATH_MAX);
    if (!bg_reader_end(&in) || flags != 0 || path[0] != '/')
        return bg_err_set(err, -EPROTO, "watch request of %zu bytes: malformed", size);
    return 0;
}

void bg_watch_request_emit(const char *path, struct bg_writer *w)
{
    bg_writer_u32le(w, 0);
    bg_writer_text32le(w, path);
}

static bool watch_change_is_whole(const struct bg_watch_change *c)
{
    const uint32_t happened = BG_WATCH_CREATED | BG_WATCH_MODIFIED | BG_WATCH_ATTRIBUTES |
                              BG_WATCH_WRITTEN | BG_WATCH_DELETED;
    uint32_t kinds = c->kinds & ~(uint32_t)BG_WATCH_IS_FOLDER;
    bool path = c->path[0] == '/', old_path = c->old_path[0] == '/';
    if ((c->path[0] != '\0' && !path) || (c->old_path[0] != '\0' && !old_path))
        return false;
    if (c->kinds == BG_WATCH_LOST)
        return !path && !old_path;
    if (kinds == BG_WATCH_MOVED)
        return path || old_path;
    return kinds != 0 && (kinds & ~happened) == 0 && path && !old_path;
}

int bg_watch_change_parse(const uint8_t *bytes, size_t size, struct bg_watch_change *ret,
                          struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    ret->kinds = bg_reader_u32le(&in);
    bg_reader_text32le(&in, ret->path, sizeof ret->path);
    bg_reader_text32le(&in, ret->old_path, sizeof ret->old_path);
    if (!bg_reader_end(&in) || !watch_change_is_whole(ret))
        return bg_err_set(err, -EPROTO, "change of kinds 0x%x in %zu bytes", ret->kinds, size);
    return 0;
}

void bg_watch_change_emit(const struct bg_watch_change *change, struct bg_writer *w)
{
    bg_writer_u32le(w, change->kinds);
    bg_writer_text32le(w, change->path);
    bg_writer_text32le(w, change->old_path);
}

int bg_disk_request_parse(const uint8_t *bytes, size_t size, struct bg_disk_request *ret,
                          struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_disk_request q = {.flags = bg_reader_u32le(&in)};
    bg_reader_text32le(&in, q.serial, sizeof q.serial);
    if (!bg_reader_end(&in) || (q.flags & ~(BG_DISK_READ_ONLY | BG_DISK_REPAIR)) ||
        q.serial[0] == '\0')
        return bg_err_set(err, -EPROTO, "disk request of %zu bytes: malformed", size);
    *ret = q;
    return 0;
}

void bg_disk_request_emit(const struct bg_disk_request *request, struct bg_writer *w)
{
    bg_writer_u32le(w, request->flags);
    bg_writer_text32le(w, request->serial);
}

int bg_volume_request_parse(const uint8_t *bytes, size_t size, struct bg_volume_request *ret,
                            struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_volume_request q = {.flags = bg_reader_u32le(&in)};
    bg_reader_text32le(&in, q.serial, sizeof q.serial);
    bg_reader_text32le(&in, q.path, sizeof q.path);
    if (!bg_reader_end(&in) || (q.flags & ~BG_VOLUME_NEW) || q.serial[0] == '\0' ||
        q.path[0] != '/')
        return bg_err_set(err, -EPROTO, "volume request of %zu bytes: malformed", size);
    *ret = q;
    return 0;
}

void bg_volume_request_emit(const struct bg_volume_request *request, struct bg_writer *w)
{
    bg_writer_u32le(w, request->flags);
    bg_writer_text32le(w, request->serial);
    bg_writer_text32le(w, request->path);
}
