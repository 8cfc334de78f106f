#include "fs/proto/proto.h"

#include <assert.h>
#include <stddef.h>

#define U32(m)                                                                                     \
    {                                                                                              \
        .width = 4, .member = offsetof(struct fs_request, m)                                       \
    }
#define U64(m)                                                                                     \
    {                                                                                              \
        .width = 8, .member = offsetof(struct fs_request, m)                                       \
    }
#define PAD32                                                                                      \
    {                                                                                              \
        .width = 4, .member = FS_PAD                                                               \
    }
#define PAD64                                                                                      \
    {                                                                                              \
        .width = 8, .member = FS_PAD                                                               \
    }
#define R32(m)                                                                                     \
    {                                                                                              \
        .width = 4, .member = offsetof(struct fs_reply, m)                                         \
    }
#define R64(m)                                                                                     \
    {                                                                                              \
        .width = 8, .member = offsetof(struct fs_reply, m)                                         \
    }
#define COMMON  (1u << 0) /* walking a path, and what may happen anywhere */
#define CHANGE  (1u << 1) /* making, removing, writing */
#define XATTR   (1u << 2)
#define LOCK    (1u << 3)
#define SEEK    (1u << 4)
#define OPENING (1u << 5)
#define RANGES  (1u << 6) /* copying and allocating ranges */
#define MUTATES (1u << 7) /* not a kind of error: refused on a read-only stream */

#define IO_LAYOUT                                                                                  \
    {                                                                                              \
        U64(fh), U64(offset), U32(size), U32(flags2), U64(owner), U32(flags), PAD32                \
    }
#define LOCK_LAYOUT                                                                                \
    {                                                                                              \
        U64(fh), U64(owner), U64(lock_start), U64(lock_end), U32(lock_type), U32(lock_pid),        \
            U32(flags), PAD32                                                                      \
    }
#define CREATE_LAYOUT                                                                              \
    {                                                                                              \
        U32(flags), U32(mode), U32(umask), U32(flags2)                                             \
    }
#define OPEN_LAYOUT                                                                                \
    {                                                                                              \
        U32(flags), U32(flags2)                                                                    \
    }
#define RELEASE_LAYOUT                                                                             \
    {                                                                                              \
        U64(fh), U32(flags), U32(flags2), U64(owner)                                               \
    }
#define FSYNC_LAYOUT                                                                               \
    {                                                                                              \
        U64(fh), U32(flags), PAD32                                                                 \
    }

/* FORGET, BATCH_FORGET and INTERRUPT have no answer. A fixed part is as long as its items say. */
static const struct fs_op ops[FS_OPCODE_MAX] = {
    [FUSE_LOOKUP] = {"LOOKUP", FS_TAIL_NAME, FS_REPLY_ENTRY, FS_CLASS_META, COMMON, {{0}}},
    [FUSE_FORGET] = {"FORGET", FS_TAIL_NONE, FS_REPLY_NONE, FS_CLASS_META, 0, {U64(nlookup)}},
    [FUSE_GETATTR] = {"GETATTR",
                      FS_TAIL_NONE,
                      FS_REPLY_ATTR,
                      FS_CLASS_META,
                      COMMON,
                      {U32(flags), PAD32, U64(fh)}},
    [FUSE_SETATTR] = {"SETATTR",
                      FS_TAIL_NONE,
                      FS_REPLY_ATTR,
                      FS_CLASS_META,
                      MUTATES | COMMON | CHANGE,
                      {U32(valid), PAD32, U64(fh), U64(size), U64(owner), U64(atime), U64(mtime),
                       U64(ctime), U32(atime_ns), U32(mtime_ns), U32(ctime_ns), U32(mode), PAD32,
                       U32(uid), U32(gid), PAD32}},
    [FUSE_READLINK] = {"READLINK", FS_TAIL_NONE, FS_REPLY_TEXT, FS_CLASS_META, COMMON, {{0}}},
    [FUSE_SYMLINK] = {"SYMLINK",
                      FS_TAIL_NAME_TEXT,
                      FS_REPLY_ENTRY,
                      FS_CLASS_META,
                      MUTATES | COMMON | CHANGE,
                      {{0}}},
    [FUSE_MKNOD] = {"MKNOD",
                    FS_TAIL_NAME,
                    FS_REPLY_ENTRY,
                    FS_CLASS_META,
                    MUTATES | COMMON | CHANGE,
                    {U32(mode), U32(rdev), U32(umask), PAD32}},
    [FUSE_MKDIR] = {"MKDIR",
                    FS_TAIL_NAME,
                    FS_REPLY_ENTRY,
                    FS_CLASS_META,
                    MUTATES | COMMON | CHANGE,
                    {U32(mode), U32(umask)}},
    [FUSE_UNLINK] =
        {"UNLINK", FS_TAIL_NAME, FS_REPLY_EMPTY, FS_CLASS_META, MUTATES | COMMON | CHANGE, {{0}}},
    [FUSE_RMDIR] =
        {"RMDIR", FS_TAIL_NAME, FS_REPLY_EMPTY, FS_CLASS_META, MUTATES | COMMON | CHANGE, {{0}}},
    [FUSE_RENAME] = {"RENAME",
                     FS_TAIL_NAME_NAME,
                     FS_REPLY_EMPTY,
                     FS_CLASS_META,
                     MUTATES | COMMON | CHANGE,
                     {U64(node2)}},
    [FUSE_LINK] = {"LINK",
                   FS_TAIL_NAME,
                   FS_REPLY_ENTRY,
                   FS_CLASS_META,
                   MUTATES | COMMON | CHANGE,
                   {U64(node2)}},
    [FUSE_OPEN] = {"OPEN", FS_TAIL_NONE, FS_REPLY_OPEN, FS_CLASS_META, COMMON | CHANGE | OPENING,
                   OPEN_LAYOUT},
    [FUSE_READ] = {"READ", FS_TAIL_NONE, FS_REPLY_DATA, FS_CLASS_DATA, COMMON, IO_LAYOUT},
    [FUSE_WRITE] = {"WRITE", FS_TAIL_DATA, FS_REPLY_COUNT, FS_CLASS_DATA, MUTATES | COMMON | CHANGE,
                    IO_LAYOUT},
    [FUSE_STATFS] = {"STATFS", FS_TAIL_NONE, FS_REPLY_STATFS, FS_CLASS_META, COMMON, {{0}}},
    [FUSE_RELEASE] = {"RELEASE", FS_TAIL_NONE, FS_REPLY_EMPTY, FS_CLASS_META, COMMON,
                      RELEASE_LAYOUT},
    [FUSE_FSYNC] = {"FSYNC", FS_TAIL_NONE, FS_REPLY_EMPTY, FS_CLASS_SYNC, COMMON | CHANGE,
                    FSYNC_LAYOUT},
    [FUSE_SETXATTR] = {"SETXATTR",
                       FS_TAIL_NAME_DATA,
                       FS_REPLY_EMPTY,
                       FS_CLASS_META,
                       MUTATES | COMMON | CHANGE | XATTR,
                       {U32(size), U32(flags)}},
    [FUSE_GETXATTR] = {"GETXATTR",
                       FS_TAIL_NAME,
                       FS_REPLY_XATTR,
                       FS_CLASS_META,
                       COMMON | XATTR,
                       {U32(size), PAD32}},
    [FUSE_LISTXATTR] = {"LISTXATTR",
                        FS_TAIL_NONE,
                        FS_REPLY_XATTR,
                        FS_CLASS_META,
                        COMMON | XATTR,
                        {U32(size), PAD32}},
    [FUSE_REMOVEXATTR] = {"REMOVEXATTR",
                          FS_TAIL_NAME,
                          FS_REPLY_EMPTY,
                          FS_CLASS_META,
                          MUTATES | COMMON | CHANGE | XATTR,
                          {{0}}},
    [FUSE_FLUSH] = {"FLUSH",
                    FS_TAIL_NONE,
                    FS_REPLY_EMPTY,
                    FS_CLASS_DATA,
                    COMMON | CHANGE,
                    {U64(fh), PAD32, PAD32, U64(owner)}},
    [FUSE_INIT] = {"INIT", FS_TAIL_NONE, FS_REPLY_OTHER, FS_CLASS_META, 0, {{0}}},
    [FUSE_OPENDIR] = {"OPENDIR", FS_TAIL_NONE, FS_REPLY_OPEN, FS_CLASS_META, COMMON | OPENING,
                      OPEN_LAYOUT},
    [FUSE_READDIR] = {"READDIR", FS_TAIL_NONE, FS_REPLY_DIRENTS, FS_CLASS_META, COMMON, IO_LAYOUT},
    [FUSE_RELEASEDIR] = {"RELEASEDIR", FS_TAIL_NONE, FS_REPLY_EMPTY, FS_CLASS_META, COMMON,
                         RELEASE_LAYOUT},
    [FUSE_FSYNCDIR] = {"FSYNCDIR", FS_TAIL_NONE, FS_REPLY_EMPTY, FS_CLASS_SYNC, COMMON | CHANGE,
                       FSYNC_LAYOUT},
    [FUSE_GETLK] = {"GETLK", FS_TAIL_NONE, FS_REPLY_LOCK, FS_CLASS_META, COMMON | LOCK,
                    LOCK_LAYOUT},
    [FUSE_SETLK] = {"SETLK", FS_TAIL_NONE, FS_REPLY_EMPTY, FS_CLASS_META, COMMON | LOCK,
                    LOCK_LAYOUT},
    [FUSE_SETLKW] = {"SETLKW", FS_TAIL_NONE, FS_REPLY_EMPTY, FS_CLASS_WAIT, COMMON | LOCK,
                     LOCK_LAYOUT},
    [FUSE_ACCESS] = {"ACCESS",
                     FS_TAIL_NONE,
                     FS_REPLY_EMPTY,
                     FS_CLASS_META,
                     COMMON | CHANGE,
                     {U32(mask), PAD32}},
    [FUSE_CREATE] = {"CREATE", FS_TAIL_NAME, FS_REPLY_ENTRY_OPEN, FS_CLASS_META,
                     MUTATES | COMMON | CHANGE | OPENING, CREATE_LAYOUT},
    [FUSE_INTERRUPT] =
        {"INTERRUPT", FS_TAIL_NONE, FS_REPLY_NONE, FS_CLASS_META, 0, {U64(interrupted)}},
    [FUSE_BMAP] =
        {"BMAP", FS_TAIL_NONE, FS_REPLY_OTHER, FS_CLASS_META, 0, {U64(offset), U32(size), PAD32}},
    [FUSE_DESTROY] = {"DESTROY", FS_TAIL_NONE, FS_REPLY_EMPTY, FS_CLASS_META, COMMON, {{0}}},
    [FUSE_IOCTL] = {"IOCTL",
                    FS_TAIL_DATA,
                    FS_REPLY_OTHER,
                    FS_CLASS_META,
                    0,
                    {U64(fh), U32(flags), U32(flags2), U64(offset), U32(size), U32(count)}},
    [FUSE_POLL] = {"POLL",
                   FS_TAIL_NONE,
                   FS_REPLY_OTHER,
                   FS_CLASS_META,
                   0,
                   {U64(fh), U64(offset), U32(flags), U32(mask)}},
    [FUSE_BATCH_FORGET] =
        {"BATCH_FORGET", FS_TAIL_FORGETS, FS_REPLY_NONE, FS_CLASS_META, 0, {U32(count), PAD32}},
    [FUSE_FALLOCATE] = {"FALLOCATE",
                        FS_TAIL_NONE,
                        FS_REPLY_EMPTY,
                        FS_CLASS_DATA,
                        MUTATES | COMMON | CHANGE | RANGES,
                        {U64(fh), U64(offset), U64(size), U32(mode), PAD32}},
    [FUSE_READDIRPLUS] = {"READDIRPLUS", FS_TAIL_NONE, FS_REPLY_DIRENTS_PLUS, FS_CLASS_META, COMMON,
                          IO_LAYOUT},
    [FUSE_RENAME2] = {"RENAME2",
                      FS_TAIL_NAME_NAME,
                      FS_REPLY_EMPTY,
                      FS_CLASS_META,
                      MUTATES | COMMON | CHANGE,
                      {U64(node2), U32(flags), PAD32}},
    [FUSE_LSEEK] = {"LSEEK",
                    FS_TAIL_NONE,
                    FS_REPLY_OFFSET,
                    FS_CLASS_META,
                    COMMON | SEEK,
                    {U64(fh), U64(offset), U32(whence), PAD32}},
    [FUSE_COPY_FILE_RANGE] = {"COPY_FILE_RANGE",
                              FS_TAIL_NONE,
                              FS_REPLY_COUNT,
                              FS_CLASS_DATA,
                              MUTATES | COMMON | CHANGE | RANGES,
                              {U64(fh), U64(offset), U64(node2), U64(fh2), U64(offset2), U64(size),
                               U64(flags)}},
    [FUSE_SYNCFS] = {"SYNCFS", FS_TAIL_NONE, FS_REPLY_EMPTY, FS_CLASS_SYNC, COMMON, {PAD64}},
    [FUSE_TMPFILE] = {"TMPFILE", FS_TAIL_NAME, FS_REPLY_ENTRY_OPEN, FS_CLASS_META,
                      MUTATES | COMMON | CHANGE | OPENING, CREATE_LAYOUT},
};

#define ATTR_ITEMS                                                                                 \
    R64(attr.ino), R64(attr.size), R64(attr.blocks), R64(attr.atime), R64(attr.mtime),             \
        R64(attr.ctime), R32(attr.atime_ns), R32(attr.mtime_ns), R32(attr.ctime_ns),               \
        R32(attr.mode), R32(attr.nlink), R32(attr.uid), R32(attr.gid), R32(attr.rdev),             \
        R32(attr.blksize), R32(attr.flags)
#define ENTRY_ITEMS                                                                                \
    R64(node), R64(generation), R64(entry_valid), R64(attr_valid), R32(entry_valid_ns),            \
        R32(attr_valid_ns), ATTR_ITEMS
#define OPEN_ITEMS R64(fh), R32(open_flags), PAD32

static const struct fs_item reply_layouts[][FS_ITEMS_MAX] = {
    [FS_REPLY_NONE] = {{0}},
    [FS_REPLY_EMPTY] = {{0}},
    [FS_REPLY_ENTRY] = {ENTRY_ITEMS},
    [FS_REPLY_ATTR] = {R64(attr_valid), R32(attr_valid_ns), PAD32, ATTR_ITEMS},
    [FS_REPLY_OPEN] = {OPEN_ITEMS},
    [FS_REPLY_ENTRY_OPEN] = {ENTRY_ITEMS, OPEN_ITEMS},
    [FS_REPLY_DATA] = {{0}},
    [FS_REPLY_TEXT] = {{0}},
    [FS_REPLY_DIRENTS] = {{0}},
    [FS_REPLY_DIRENTS_PLUS] = {{0}},
    [FS_REPLY_COUNT] = {R32(size), PAD32},
    [FS_REPLY_STATFS] = {R64(statfs.blocks), R64(statfs.bfree), R64(statfs.bavail),
                         R64(statfs.files), R64(statfs.ffree), R32(statfs.bsize),
                         R32(statfs.namelen), R32(statfs.frsize), PAD32, PAD64, PAD64, PAD64},
    [FS_REPLY_LOCK] = {R64(lock_start), R64(lock_end), R32(lock_type), R32(lock_pid)},
    [FS_REPLY_XATTR] = {R32(size), PAD32}, /* only when there is no data */
    [FS_REPLY_OFFSET] = {R64(offset)},
    [FS_REPLY_OTHER] = {{0}},
};

static const struct fs_item entry_layout[FS_ITEMS_MAX] = {ENTRY_ITEMS};

static bool has_data(enum fs_reply_kind kind)
{
    return kind == FS_REPLY_DATA || kind == FS_REPLY_TEXT || kind == FS_REPLY_DIRENTS ||
           kind == FS_REPLY_DIRENTS_PLUS || kind == FS_REPLY_XATTR;
}

/* The members are all uint64_t, whatever their width on the wire. */
static void items_parse(const struct fs_item *items, struct bg_reader *in, void *values)
{
    for (size_t i = 0; i < FS_ITEMS_MAX && items[i].width > 0; i++) {
        uint64_t v = items[i].width == 8 ? bg_reader_u64le(in) : bg_reader_u32le(in);
        if (items[i].member != FS_PAD)
            memcpy((uint8_t *)values + items[i].member, &v, sizeof v);
    }
}

static void items_emit(const struct fs_item *items, const void *values, struct bg_writer *out)
{
    for (size_t i = 0; i < FS_ITEMS_MAX && items[i].width > 0; i++) {
        uint64_t v = 0;
        if (items[i].member != FS_PAD)
            memcpy(&v, (const uint8_t *)values + items[i].member, sizeof v);
        if (items[i].width == 8)
            bg_writer_u64le(out, v);
        else if (v <= UINT32_MAX)
            bg_writer_u32le(out, (uint32_t)v);
        else
            out->failed = true;
    }
}

static size_t items_size(const struct fs_item *items)
{
    size_t size = 0;
    for (size_t i = 0; i < FS_ITEMS_MAX && items[i].width > 0; i++)
        size += items[i].width;
    return size;
}

const struct fs_op *fs_op_find(uint32_t opcode)
{
    return opcode < FS_OPCODE_MAX && ops[opcode].name ? &ops[opcode] : NULL;
}

bool fs_op_mutates(uint32_t opcode)
{
    const struct fs_op *op = fs_op_find(opcode);
    return op && (op->traits & MUTATES);
}

bool fs_op_has_handle(uint32_t opcode)
{
    const struct fs_op *op = fs_op_find(opcode);
    for (size_t i = 0; op && i < FS_ITEMS_MAX && op->request[i].width > 0; i++)
        if (op->request[i].member == offsetof(struct fs_request, fh))
            return true;
    return false;
}

bool fs_error_allowed(uint32_t opcode, int32_t error)
{
    /* Left out on purpose: ENOSYS switches a feature off for the life of the mount, and the
     * kernel's own codes above 511 must never come from outside. */
    static const struct {
        int error;
        uint32_t classes;
    } table[] = {
        {EPERM, COMMON},    {ENOENT, COMMON},     {EIO, COMMON},         {ENOMEM, COMMON},
        {EACCES, COMMON},   {ENOTDIR, COMMON},    {EINVAL, COMMON},      {ENFILE, COMMON},
        {EMFILE, COMMON},   {EBADF, COMMON},      {ELOOP, COMMON},       {ENAMETOOLONG, COMMON},
        {ESTALE, COMMON},   {EISDIR, COMMON},     {EOVERFLOW, COMMON},   {EROFS, CHANGE},
        {ENOSPC, CHANGE},   {EDQUOT, CHANGE},     {EEXIST, CHANGE},      {EMLINK, CHANGE},
        {EFBIG, CHANGE},    {EBUSY, CHANGE},      {ENOTEMPTY, CHANGE},   {EXDEV, CHANGE},
        {ETXTBSY, CHANGE},  {EOPNOTSUPP, CHANGE}, {EBUSY, OPENING},      {ENXIO, OPENING},
        {ENODEV, OPENING},  {ETXTBSY, OPENING},   {EOPNOTSUPP, OPENING}, {ENODATA, XATTR},
        {ERANGE, XATTR},    {E2BIG, XATTR},       {EOPNOTSUPP, XATTR},   {EAGAIN, LOCK},
        {EDEADLK, LOCK},    {ENOLCK, LOCK},       {EINTR, LOCK},         {ENXIO, SEEK},
        {EOPNOTSUPP, SEEK}, {EOPNOTSUPP, RANGES},
    };
    const struct fs_op *op = fs_op_find(opcode);
    for (size_t i = 0; op && i < sizeof table / sizeof *table; i++)
        if (table[i].error == -error && (table[i].classes & op->traits))
            return true;
    return false;
}

int fs_message_size(const uint8_t bytes[4], size_t header_size, size_t *ret_size,
                    struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, 4);
    size_t size = bg_reader_u32le(&in);
    if (size < header_size || size > BG_FS_MESSAGE_MAX)
        return bg_err_set(err, -EPROTO, "message of %zu bytes: want %zu to %d", size, header_size,
                          BG_FS_MESSAGE_MAX);
    *ret_size = size;
    return 0;
}

bool fs_name_ok(const char *name, size_t size)
{
    if (size == 0 || size > BG_FS_NAME_MAX || memchr(name, '/', size) || memchr(name, 0, size))
        return false;
    return !(size == 1 && name[0] == '.') && !(size == 2 && name[0] == '.' && name[1] == '.');
}

/* Bytes up to the next NUL, which is taken too. */
static const char *text_parse(struct bg_reader *in, size_t *ret_size)
{
    *ret_size = 0;
    const uint8_t *nul = in->failed || in->left == 0 ? NULL : memchr(in->at, 0, in->left);
    if (!nul) {
        in->failed = true;
        return NULL;
    }
    size_t size = (size_t)(nul - in->at);
    *ret_size = size;
    return (const char *)bg_reader_bytes(in, size + 1);
}

static int tail_parse(const struct fs_op *op, struct bg_reader *in, struct fs_request *request,
                      struct bg_err *err)
{
    bool one = op->tail == FS_TAIL_NAME || op->tail == FS_TAIL_NAME_DATA;
    bool two = op->tail == FS_TAIL_NAME_NAME || op->tail == FS_TAIL_NAME_TEXT;
    if (one || two)
        request->name = text_parse(in, &request->name_size);
    if (two)
        request->name2 = text_parse(in, &request->name2_size);
    if (op->tail == FS_TAIL_DATA || op->tail == FS_TAIL_NAME_DATA)
        request->data_size = (size_t)request->size;
    if (op->tail == FS_TAIL_FORGETS) {
        if (request->count > BG_FS_MESSAGE_MAX / FS_FORGET_SIZE)
            in->failed = true;
        else
            request->data_size = (size_t)request->count * FS_FORGET_SIZE;
    }
    if (request->data_size > 0)
        request->data = bg_reader_bytes(in, request->data_size);
    if (!bg_reader_end(in))
        return bg_err_set(err, -EPROTO, "%s: payload has the wrong size", op->name);

    size_t name2_max = op->tail == FS_TAIL_NAME_TEXT ? BG_PATH_MAX - 1 : BG_FS_NAME_MAX;
    if (request->name_size > BG_FS_NAME_MAX || request->name2_size > name2_max)
        return bg_err_set(err, -ENAMETOOLONG, "%s: name of %zu bytes", op->name,
                          request->name_size > BG_FS_NAME_MAX ? request->name_size
                                                              : request->name2_size);
    /* The kernel names a temporary file "/"; nobody uses that name. */
    bool names_ok = request->opcode == FUSE_TMPFILE || !request->name ||
                    fs_name_ok(request->name, request->name_size);
    if (op->tail == FS_TAIL_NAME_NAME)
        names_ok = names_ok && fs_name_ok(request->name2, request->name2_size);
    if (op->tail == FS_TAIL_NAME_TEXT)
        names_ok = names_ok && request->name2_size > 0;
    if (!names_ok)
        return bg_err_set(err, -EPROTO, "%s: not a name", op->name);
    return 0;
}

int fs_request_parse(const uint8_t *bytes, size_t size, struct fs_request *ret, struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct fs_request request = {0};
    uint32_t stated = bg_reader_u32le(&in);
    request.opcode = bg_reader_u32le(&in);
    request.unique = bg_reader_u64le(&in);
    request.node = bg_reader_u64le(&in);
    request.caller_uid = bg_reader_u32le(&in);
    request.caller_gid = bg_reader_u32le(&in);
    request.caller_pid = bg_reader_u32le(&in);
    uint16_t extensions = bg_reader_u16le(&in);
    (void)bg_reader_u16le(&in); /* padding */
    if (!bg_reader_ok(&in) || stated != size || extensions != 0)
        return bg_err_set(err, -EPROTO, "request of %zu bytes says %u, extensions %u", size, stated,
                          extensions);
    const struct fs_op *op = fs_op_find(request.opcode);
    if (!op) {
        *ret = request;
        return bg_err_set(err, -ENOSYS, "opcode %u", request.opcode);
    }
    if (request.opcode == FUSE_INIT) {
        request.data_size = in.left;
        request.data = bg_reader_bytes(&in, in.left);
        *ret = request;
        return 0;
    }
    items_parse(op->request, &in, &request);
    int r = tail_parse(op, &in, &request, err);
    if (r == 0 || r == -ENAMETOOLONG)
        *ret = request;
    return r;
}

void fs_request_emit(const struct fs_request *request, struct bg_writer *w)
{
    const struct fs_op *op = fs_op_find(request->opcode);
    assert(op);
    size_t size = FS_REQUEST_HEADER_SIZE + items_size(op->request) + request->data_size;
    if (request->name)
        size += request->name_size + 1;
    if (request->name2)
        size += request->name2_size + 1;
    if (size > BG_FS_MESSAGE_MAX) {
        w->failed = true;
        return;
    }
    bg_writer_u32le(w, (uint32_t)size);
    bg_writer_u32le(w, request->opcode);
    bg_writer_u64le(w, request->unique);
    bg_writer_u64le(w, request->node);
    bg_writer_u32le(w, request->caller_uid);
    bg_writer_u32le(w, request->caller_gid);
    bg_writer_u32le(w, request->caller_pid);
    bg_writer_u32le(w, 0); /* no extensions, padding */
    items_emit(op->request, request, w);
    if (request->name)
        bg_writer_bytes(w, request->name, request->name_size + 1);
    if (request->name2)
        bg_writer_bytes(w, request->name2, request->name2_size + 1);
}

uint64_t fs_reply_unique(const uint8_t *bytes)
{
    struct bg_reader in = bg_reader_init(bytes + 8, 8);
    return bg_reader_u64le(&in);
}

int fs_reply_parse(uint32_t opcode, const uint8_t *bytes, size_t size, struct fs_reply *ret,
                   struct bg_err *err)
{
    const struct fs_op *op = fs_op_find(opcode);
    assert(op);
    struct bg_reader in = bg_reader_init(bytes, size);
    struct fs_reply reply = {0};
    uint32_t stated = bg_reader_u32le(&in);
    reply.error = (int32_t)bg_reader_u32le(&in);
    reply.unique = bg_reader_u64le(&in);
    if (!bg_reader_ok(&in) || stated != size)
        return bg_err_set(err, -EPROTO, "%s: reply of %zu bytes says %u", op->name, size, stated);
    if (reply.error > 0 || reply.error < -4095)
        return bg_err_set(err, -EPROTO, "%s: reply with error %d", op->name, reply.error);
    if (reply.error < 0) {
        if (in.left > 0)
            return bg_err_set(err, -EPROTO, "%s: error with %zu bytes after it", op->name, in.left);
        *ret = reply;
        return 0;
    }
    /* A count and a value look alike: which it is only the request's size tells, so both are set.
     */
    if (has_data(op->reply)) {
        struct bg_reader again = in;
        reply.data_size = in.left;
        reply.data = bg_reader_bytes(&in, in.left);
        if (op->reply == FS_REPLY_XATTR && again.left == 8)
            items_parse(reply_layouts[op->reply], &again, &reply);
    } else {
        items_parse(reply_layouts[op->reply], &in, &reply);
        if (opcode == FUSE_OPEN && in.left > 0 && in.left <= BG_FS_AHEAD_MAX) {
            reply.data_size = in.left;
            reply.data = bg_reader_bytes(&in, in.left);
        }
    }
    if (!bg_reader_end(&in))
        return bg_err_set(err, -EPROTO, "%s: reply of %zu bytes", op->name, size);
    *ret = reply;
    return 0;
}

void fs_reply_emit(uint32_t opcode, const struct fs_reply *reply, struct bg_writer *w)
{
    const struct fs_op *op = fs_op_find(opcode);
    assert(op || reply->error < 0); /* an unknown opcode is answered with an error */
    const struct fs_item *layout = NULL;
    if (reply->error == 0 &&
        (!has_data(op->reply) || (op->reply == FS_REPLY_XATTR && !reply->data)))
        layout = reply_layouts[op->reply];
    size_t size = FS_REPLY_HEADER_SIZE + (reply->error == 0 ? reply->data_size : 0);
    if (layout)
        size += items_size(layout);
    if (size > BG_FS_MESSAGE_MAX) {
        w->failed = true;
        return;
    }
    bg_writer_u32le(w, (uint32_t)size);
    bg_writer_u32le(w, (uint32_t)reply->error);
    bg_writer_u64le(w, reply->unique);
    if (layout)
        items_emit(layout, reply, w);
}

void fs_forget_at(const struct fs_request *request, size_t index, uint64_t *ret_node,
                  uint64_t *ret_nlookup)
{
    assert(request->opcode == FUSE_BATCH_FORGET && index < request->count);
    struct bg_reader in = bg_reader_init(request->data + index * FS_FORGET_SIZE, FS_FORGET_SIZE);
    *ret_node = bg_reader_u64le(&in);
    *ret_nlookup = bg_reader_u64le(&in);
}

/* Records are padded to 8 bytes; an entry's fixed part is a multiple of 8 already. */
#define DIRENT_HEAD 24u

static size_t padded(size_t size)
{
    return (size + 7) & ~(size_t)7;
}

bool fs_dirent_parse(struct bg_reader *r, bool plus, struct fs_dirent *ret)
{
    if (r->failed || r->left == 0)
        return false;
    struct fs_dirent entry = {0};
    if (plus)
        items_parse(entry_layout, r, &entry.entry);
    entry.ino = bg_reader_u64le(r);
    entry.offset = bg_reader_u64le(r);
    entry.name_size = bg_reader_u32le(r);
    entry.type = bg_reader_u32le(r);
    if (entry.name_size == 0 || entry.name_size > BG_FS_NAME_MAX)
        r->failed = true;
    size_t room = padded(DIRENT_HEAD + entry.name_size) - DIRENT_HEAD;
    entry.name = (const char *)bg_reader_bytes(r, room);
    if (!entry.name)
        return false;
    *ret = entry;
    return true;
}

size_t fs_dirent_size(const struct fs_dirent *entry, bool plus)
{
    return (plus ? items_size(entry_layout) : 0) + padded(DIRENT_HEAD + entry->name_size);
}

void fs_dirent_emit(const struct fs_dirent *entry, bool plus, struct bg_writer *w)
{
    static const uint8_t zeros[8];
    if (plus)
        items_emit(entry_layout, &entry->entry, w);
    bg_writer_u64le(w, entry->ino);
    bg_writer_u64le(w, entry->offset);
    bg_writer_u32le(w, (uint32_t)entry->name_size);
    bg_writer_u32le(w, entry->type);
    bg_writer_bytes(w, entry->name, entry->name_size);
    bg_writer_bytes(w, zeros, padded(entry->name_size) - entry->name_size);
}

int fs_init_parse(const uint8_t *payload, size_t size, struct fs_init *ret, struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(payload, size);
    struct fs_init init = {0};
    init.major = bg_reader_u32le(&in);
    init.minor = bg_reader_u32le(&in);
    init.max_readahead = bg_reader_u32le(&in);
    init.flags = bg_reader_u32le(&in);
    if (bg_reader_ok(&in) && in.left > 0 && (init.flags & FUSE_INIT_EXT))
        init.flags |= (uint64_t)bg_reader_u32le(&in) << 32;
    if (!bg_reader_ok(&in))
        return bg_err_set(err, -EPROTO, "INIT of %zu bytes", size);
    *ret = init;
    return 0;
}

void fs_init_reply_emit(uint64_t unique, const struct fs_init *init, struct bg_writer *w)
{
    bg_writer_u32le(w, FS_REPLY_HEADER_SIZE + 64);
    bg_writer_u32le(w, 0);
    bg_writer_u64le(w, unique);
    bg_writer_u32le(w, init->major);
    bg_writer_u32le(w, init->minor);
    bg_writer_u32le(w, init->max_readahead);
    bg_writer_u32le(w, (uint32_t)init->flags);
    bg_writer_u16le(w, init->max_background);
    bg_writer_u16le(w, init->congestion_threshold);
    bg_writer_u32le(w, init->max_write);
    bg_writer_u32le(w, init->time_gran);
    bg_writer_u16le(w, init->max_pages);
    bg_writer_u16le(w, 0); /* map_alignment: no DAX */
    bg_writer_u32le(w, (uint32_t)(init->flags >> 32));
    for (int i = 0; i < 7; i++)
        bg_writer_u32le(w, 0);
}

#define HELLO_CLIENT 0x43464742u /* "BGFC" */
#define HELLO_SERVER 0x53464742u /* "BGFS" */

int fs_hello_parse(const uint8_t *bytes, size_t size, bool from_server, struct fs_hello *ret,
                   struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    uint32_t magic = bg_reader_u32le(&in);
    uint16_t version = bg_reader_u16le(&in);
    uint16_t zero = bg_reader_u16le(&in);
    struct fs_hello hello = {.server = from_server};
    hello.flags = bg_reader_u32le(&in);
    hello.uid = bg_reader_u32le(&in);
    hello.gid = bg_reader_u32le(&in);
    hello.boot = bg_reader_u64le(&in);
    uint32_t reserved = bg_reader_u32le(&in);
    uint32_t known = FS_HELLO_READ_ONLY | FS_HELLO_FEED;
    known |=
        from_server ? FS_HELLO_ALL_USERS | FS_HELLO_WHOLE | FS_HELLO_PIECES : FS_HELLO_CLEAN_LINKS;
    if (!bg_reader_end(&in))
        return bg_err_set(err, -EPROTO, "hello of %zu bytes: want %u", size, FS_HELLO_SIZE);
    if (magic != (from_server ? HELLO_SERVER : HELLO_CLIENT))
        return bg_err_set(err, -EPROTO, "hello: magic 0x%08x: no file server there", magic);
    if (version != FS_HELLO_VERSION)
        return bg_err_set(err, -EPROTO, "hello: version %u: want %u", version, FS_HELLO_VERSION);
    if (zero != 0 || (hello.flags & ~known) || reserved != 0 || (!from_server && hello.boot != 0))
        return bg_err_set(err, -EPROTO, "hello: flags 0x%x", hello.flags);
    *ret = hello;
    return 0;
}

void fs_hello_emit(const struct fs_hello *hello, uint8_t out[FS_HELLO_SIZE])
{
    struct bg_writer w = bg_writer_init(out, FS_HELLO_SIZE);
    bg_writer_u32le(&w, hello->server ? HELLO_SERVER : HELLO_CLIENT);
    bg_writer_u32le(&w, FS_HELLO_VERSION); /* u16 version, u16 zero */
    bg_writer_u32le(&w, hello->flags);
    bg_writer_u32le(&w, hello->uid);
    bg_writer_u32le(&w, hello->gid);
    bg_writer_u64le(&w, hello->boot);
    bg_writer_u32le(&w, 0);
    assert(bg_writer_ok(&w));
}
