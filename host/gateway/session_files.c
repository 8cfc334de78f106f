/* Files of a session. What is about names goes by one stream to the guest, in its order; each file
 * that is open has a stream of its own, since it may block (locks, pipes), and the guest closes and
 * unlocks it when that ends. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base64.h"
#include "common/limits.h"
#include "host/gateway/fault.h"
#include "host/gateway/guest_files.h"
#include "host/gateway/session_state.h"
#include "host/gateway/text.h"

#define TIME_MAX_S 9.2e9             /* in nanoseconds it fits 63 bits */
#define CALL_SIZE  (3 * BG_PATH_MAX) /* of what has no data in it */
#define MODE_MAX   07777
#define ID_MAX     (UINT32_MAX - 1) /* the one above means: as it is */

/* What an answer becomes. */
enum shape {
    SHAPE_NULL,
    SHAPE_ATTRIBUTES,
    SHAPE_TEXT,
    SHAPE_ENTRIES,
    SHAPE_DATA,
    SHAPE_WRITTEN,
    SHAPE_POSITION
};

struct file_call {
    LIST_ENTRY(file_call) link;
    struct session *session;
    const struct guest_files *files; /* the stream that it was made on */
    json_t *id;
    char *doing; /* for an error */
    enum shape shape;
    json_t *entries;
};

struct handle {
    LIST_ENTRY(handle) link;
    struct session *session;
    struct guest_files *files;
    int64_t id;
    json_t *open_id; /* NULL: it is open */
    char *doing;
};

/* ---- values ---- */

static json_int_t clamp(uint64_t n)
{
    return n > INT64_MAX ? INT64_MAX : (json_int_t)n;
}

static json_t *attributes_json(struct bg_reader *in)
{
    const struct bg_files_attributes a = bg_files_attributes_parse(in);
    unsigned type = a.mode & S_IFMT;
    if (!bg_reader_end(in))
        return NULL;
    return json_pack(
        "{s:b, s:b, s:b, s:I, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:b, s:b, s:b, s:b}",
        "isFile", type == S_IFREG, "isDirectory", type == S_IFDIR, "isSymlink", type == S_IFLNK,
        "size", clamp(a.size), "mtime", text_time(a.mtime_ns), "atime", text_time(a.atime_ns),
        "birthtime", text_time(a.birth_ns), "ctime", text_time(a.ctime_ns), "mode",
        (json_int_t)a.mode, "dev", clamp(a.device), "ino", clamp(a.inode), "nlink",
        (json_int_t)a.nlink, "uid", (json_int_t)a.uid, "gid", (json_int_t)a.gid, "rdev",
        clamp(a.special_device), "blksize", (json_int_t)a.block_size, "blocks", clamp(a.blocks),
        "isBlockDevice", type == S_IFBLK, "isCharDevice", type == S_IFCHR, "isFifo",
        type == S_IFIFO, "isSocket", type == S_IFSOCK);
}

static json_t *blob_text(struct bg_reader *in)
{
    size_t size;
    const uint8_t *bytes = bg_reader_blob32le(in, BG_PATH_MAX, &size);
    return bg_reader_end(in) ? text_lossy(bytes, size) : NULL;
}

/* {"data": base64, or null at the end} */
static json_t *data_json(struct bg_reader *in)
{
    size_t size;
    const uint8_t *bytes = bg_reader_blob32le(in, BG_FILES_DATA_MAX, &size);
    if (!bg_reader_end(in))
        return NULL;
    if (size == 0)
        return json_pack("{s:n}", "data");
    BG_AUTOFREE char *text = malloc(BG_BASE64_SIZE(size));
    if (!text)
        return NULL;
    bg_base64_encode(bytes, size, text);
    return json_pack("{s:o}", "data", json_stringn(text, BG_BASE64_SIZE(size)));
}

/* False: malformed, or too many. */
static bool add_entries(json_t *list, struct bg_reader *in)
{
    char name[BG_NAME_MAX + 1];
    uint8_t type;
    while (in->left > 0) {
        if (json_array_size(list) >= BG_GATEWAY_ENTRIES_MAX ||
            !bg_files_entry_parse(in, &type, name) ||
            json_array_append_new(
                list, json_pack("{s:o, s:b, s:b, s:b}", "name", text_lossy(name, strlen(name)),
                                "isFile", type == S_IFREG >> 12, "isDirectory",
                                type == S_IFDIR >> 12, "isSymlink", type == S_IFLNK >> 12)) < 0)
            return false;
    }
    return true;
}

/* NULL: malformed, or out of memory. */
static json_t *value_of(struct file_call *call, struct bg_reader *in)
{
    json_int_t number;
    switch (call->shape) {
    case SHAPE_NULL:
        return bg_reader_end(in) ? json_null() : NULL;
    case SHAPE_ATTRIBUTES:
        return attributes_json(in);
    case SHAPE_TEXT:
        return blob_text(in);
    case SHAPE_ENTRIES:
        return bg_reader_end(in) ? BG_TAKE(call->entries) : NULL;
    case SHAPE_DATA:
        return data_json(in);
    case SHAPE_WRITTEN:
        number = bg_reader_u32le(in);
        return bg_reader_end(in) ? json_pack("{s:I}", "bytesWritten", number) : NULL;
    case SHAPE_POSITION:
        number = clamp(bg_reader_u64le(in));
        return bg_reader_end(in) ? json_pack("{s:I}", "position", number) : NULL;
    }
    return NULL;
}

/* ---- calls ---- */

static void call_free(struct file_call *call)
{
    LIST_REMOVE(call, link);
    json_decref(call->id);
    json_decref(call->entries);
    free(call->doing);
    free(call);
}

/* What was asked on a stream is not answered any more. */
static void drop_calls(struct session *s, const struct guest_files *files, int status)
{
    struct file_call *call, *next;
    for (call = LIST_FIRST(&s->file_calls); call; call = next) {
        next = LIST_NEXT(call, link);
        if (call->files != files)
            continue;
        session_throw(s, call->id, fault_errno(status, call->doing));
        call_free(call);
    }
}

static void on_answer(void *owner, int status, bool more, struct bg_reader *in)
{
    struct file_call *call = owner;
    struct session *s = call->session;
    if (more && call->shape == SHAPE_ENTRIES && add_entries(call->entries, in))
        return;
    if (more) { /* too large, or makes no sense: the rest of it is not wanted either */
        struct guest_files *files = BG_TAKE(s->files);
        drop_calls(s, files, -EMSGSIZE);
        guest_files_close(files);
        return;
    }
    json_t *value = status == 0 ? value_of(call, in) : NULL;
    if (value)
        session_reply(s, call->id, value);
    else
        session_throw(s, call->id, fault_errno(status < 0 ? status : -EPROTO, call->doing));
    call_free(call);
}

/* The stream for names, opened if need be. */
static int names_stream(struct session *s, struct bg_err *err)
{
    if (s->files && guest_files_lost(s->files))
        guest_files_close(BG_TAKE(s->files));
    return s->files ? 0
                    : guest_files_open(s->opts.shared->loop, s->opts.shared->paths,
                                       &s->opts.entry->sandbox, s->umask, &s->files, err);
}

/* Sends a call, and answers the client's when the guest has. files NULL: the stream for names. */
static void make_call(struct session *s, const json_t *id, struct guest_files *files,
                      const struct bg_writer *w, enum shape shape, const char *verb,
                      const char *path)
{
    struct file_call *call = calloc(1, sizeof *call);
    struct bg_err err;
    int r = call ? 0 : bg_err_errno(&err, -ENOMEM, "%s", verb);
    if (r == 0) {
        *call = (struct file_call){.session = s,
                                   .id = json_deep_copy(id),
                                   .doing = session_doing(verb, path),
                                   .shape = shape,
                                   .entries = shape == SHAPE_ENTRIES ? json_array() : NULL};
        LIST_INSERT_HEAD(&s->file_calls, call, link);
        if (!bg_writer_ok(w))
            r = bg_err_errno(&err, -ENAMETOOLONG, "%s", verb);
        else if (!call->id || !call->doing)
            r = bg_err_errno(&err, -ENOMEM, "%s", verb);
    }
    if (r == 0 && !files) {
        r = names_stream(s, &err);
        files = s->files;
    }
    if (r == 0) {
        call->files = files;
        r = guest_files_call(files, w, on_answer, call);
        if (r < 0)
            (void)bg_err_errno(&err, r, "%s", verb);
    }
    if (r < 0) {
        session_throw(s, id, fault_errno(r, err.text));
        if (call)
            call_free(call);
    }
}

struct names {
    uint8_t bytes[CALL_SIZE];
    struct bg_writer w;
};

static struct bg_writer *begin(struct names *n, enum bg_files_op op)
{
    n->w = bg_writer_init(n->bytes, sizeof n->bytes);
    bg_writer_u8(&n->w, (uint8_t)op);
    return &n->w;
}

/* A path that the guest does not take on the wire is too long for Linux too. */
static void put_path(struct bg_writer *w, const char *path)
{
    if (strlen(path) >= BG_PATH_MAX)
        w->failed = true;
    bg_writer_text32le(w, path);
}

static void path_call(struct session *s, const json_t *id, struct rpc_params *params,
                      enum bg_files_op op, enum shape shape, const char *verb)
{
    const char *path = rpc_text(params, "path");
    struct names n;
    if (!rpc_params_ok(params))
        return;
    put_path(begin(&n, op), path);
    make_call(s, id, NULL, &n.w, shape, verb, path);
}

void method_read_dir(struct session *s, const json_t *id, struct rpc_params *params)
{
    path_call(s, id, params, BG_FILES_LIST, SHAPE_ENTRIES, "readdir");
}

void method_read_link(struct session *s, const json_t *id, struct rpc_params *params)
{
    path_call(s, id, params, BG_FILES_READLINK, SHAPE_TEXT, "readlink");
}

void method_real_path(struct session *s, const json_t *id, struct rpc_params *params)
{
    path_call(s, id, params, BG_FILES_REALPATH, SHAPE_TEXT, "realpath");
}

static void stat_call(struct session *s, const json_t *id, struct rpc_params *params, bool follow)
{
    const char *path = rpc_text(params, "path");
    struct names n;
    if (!rpc_params_ok(params))
        return;
    bg_writer_u8(begin(&n, BG_FILES_STAT), follow);
    put_path(&n.w, path);
    make_call(s, id, NULL, &n.w, SHAPE_ATTRIBUTES, follow ? "stat" : "lstat", path);
}

void method_stat(struct session *s, const json_t *id, struct rpc_params *params)
{
    stat_call(s, id, params, true);
}

void method_lstat(struct session *s, const json_t *id, struct rpc_params *params)
{
    stat_call(s, id, params, false);
}

void method_remove(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *path = rpc_text(params, "path");
    struct rpc_params options = rpc_options(params, "options");
    bool recursive = rpc_flag(&options, "recursive", false);
    struct names n;
    if (!rpc_params_merge(params, &options))
        return;
    bg_writer_u8(begin(&n, BG_FILES_REMOVE), recursive);
    put_path(&n.w, path);
    make_call(s, id, NULL, &n.w, SHAPE_NULL, "remove", path);
}

void method_mkdir(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *path = rpc_text(params, "path");
    struct rpc_params options = rpc_options(params, "options");
    bool recursive = rpc_flag(&options, "recursive", false);
    int64_t mode = rpc_number_or(&options, "mode", 0, MODE_MAX, 0777);
    struct names n;
    if (!rpc_params_merge(params, &options))
        return;
    bg_writer_u8(begin(&n, BG_FILES_MKDIR), recursive);
    bg_writer_u32le(&n.w, (uint32_t)mode);
    put_path(&n.w, path);
    make_call(s, id, NULL, &n.w, SHAPE_NULL, "mkdir", path);
}

static void names_call(struct session *s, const json_t *id, struct rpc_params *params,
                       enum bg_files_op op, const char *from_key, const char *to_key,
                       const char *verb)
{
    const char *from = rpc_text(params, from_key), *to = rpc_text(params, to_key);
    struct names n;
    if (!rpc_params_ok(params))
        return;
    BG_AUTOFREE char *both = NULL;
    if (asprintf(&both, "%s' -> '%s", from, to) < 0)
        both = NULL;
    put_path(begin(&n, op), from);
    put_path(&n.w, to);
    make_call(s, id, NULL, &n.w, SHAPE_NULL, verb, both ? both : from);
}

void method_rename(struct session *s, const json_t *id, struct rpc_params *params)
{
    names_call(s, id, params, BG_FILES_RENAME, "oldPath", "newPath", "rename");
}

void method_copy_file(struct session *s, const json_t *id, struct rpc_params *params)
{
    names_call(s, id, params, BG_FILES_COPY, "fromPath", "toPath", "copy");
}

void method_link(struct session *s, const json_t *id, struct rpc_params *params)
{
    names_call(s, id, params, BG_FILES_LINK, "target", "path", "link");
}

void method_symlink(struct session *s, const json_t *id, struct rpc_params *params)
{
    names_call(s, id, params, BG_FILES_SYMLINK, "target", "path", "symlink");
}

void method_chmod(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *path = rpc_text(params, "path");
    /* The type's bits may be in it, as stat gave them. */
    int64_t mode = rpc_number(params, "mode", 0, UINT32_MAX);
    struct names n;
    if (!rpc_params_ok(params))
        return;
    bg_writer_u32le(begin(&n, BG_FILES_CHMOD), (uint32_t)mode & MODE_MAX);
    put_path(&n.w, path);
    make_call(s, id, NULL, &n.w, SHAPE_NULL, "chmod", path);
}

void method_chown(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *path = rpc_text(params, "path");
    int64_t uid = rpc_number_or(params, "uid", 0, ID_MAX, UINT32_MAX);
    int64_t gid = rpc_number_or(params, "gid", 0, ID_MAX, UINT32_MAX);
    struct names n;
    if (!rpc_params_ok(params))
        return;
    bg_writer_u32le(begin(&n, BG_FILES_CHOWN), (uint32_t)uid);
    bg_writer_u32le(&n.w, (uint32_t)gid);
    put_path(&n.w, path);
    make_call(s, id, NULL, &n.w, SHAPE_NULL, "chown", path);
}

void method_truncate(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *path = rpc_text(params, "name");
    int64_t size = rpc_number_or(params, "length", 0, INT64_MAX, 0);
    struct names n;
    if (!rpc_params_ok(params))
        return;
    bg_writer_u64le(begin(&n, BG_FILES_TRUNCATE), (uint64_t)size);
    put_path(&n.w, path);
    make_call(s, id, NULL, &n.w, SHAPE_NULL, "truncate", path);
}

static void ignore_answer(void *owner, int status, bool more, struct bg_reader *in)
{
    (void)owner;
    (void)status; /* it cannot fail but with the stream, whose successor begins with the mask */
    (void)more;
    (void)in;
}

/* The umask is kept here: each stream to the guest begins with it. */
void method_umask(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t mask = rpc_number_or(params, "mask", 0, 0777, -1);
    if (!rpc_params_ok(params))
        return;
    uint32_t before = s->umask;
    if (mask >= 0 && (uint32_t)mask != before) {
        s->umask = (uint32_t)mask;
        struct names n;
        bg_writer_u32le(begin(&n, BG_FILES_UMASK), s->umask);
        if (s->files && guest_files_call(s->files, &n.w, ignore_answer, NULL) < 0)
            guest_files_close(BG_TAKE(s->files));
    }
    session_reply(s, id, json_integer((json_int_t)before));
}

static bool read_times(struct rpc_params *params, int64_t ret_ns[2])
{
    static const char *const keys[] = {"atime", "mtime"};
    for (size_t i = 0; i < 2; i++) {
        double seconds;
        if (rpc_real(params, keys[i], &seconds)) {
            if (seconds > -TIME_MAX_S && seconds < TIME_MAX_S)
                ret_ns[i] = (int64_t)(seconds * 1e9);
            else
                rpc_complain(params, keys[i], "seconds since 1970");
            continue;
        }
        const char *text = rpc_text(params, keys[i]);
        if (text_parse_time(text, &ret_ns[i]) < 0)
            rpc_complain(params, keys[i], "a time, such as 2026-01-01T00:00:00.000Z");
    }
    return rpc_params_ok(params);
}

void method_utime(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *path = rpc_text(params, "path");
    int64_t ns[2];
    struct names n;
    if (!read_times(params, ns))
        return;
    bg_writer_u64le(begin(&n, BG_FILES_UTIME), (uint64_t)ns[0]);
    bg_writer_u64le(&n.w, (uint64_t)ns[1]);
    put_path(&n.w, path);
    make_call(s, id, NULL, &n.w, SHAPE_NULL, "utime", path);
}

static void temp_call(struct session *s, const json_t *id, struct rpc_params *params,
                      bool is_folder)
{
    struct rpc_params options = rpc_options(params, "options");
    const char *dir = rpc_text_or_null(&options, "dir");
    const char *prefix = rpc_text_or_null(&options, "prefix");
    const char *suffix = rpc_text_or_null(&options, "suffix");
    struct names n;
    if (suffix && strlen(suffix) > BG_NAME_MAX)
        rpc_complain(&options, "suffix", "at most 255 bytes");
    if (!rpc_params_merge(params, &options))
        return;
    bg_writer_u8(begin(&n, BG_FILES_TEMP), is_folder);
    put_path(&n.w, dir ? dir : "");
    put_path(&n.w, prefix ? prefix : "");
    put_path(&n.w, suffix ? suffix : "");
    make_call(s, id, NULL, &n.w, SHAPE_TEXT, is_folder ? "makeTempDir in" : "makeTempFile in",
              dir ? dir : "/tmp");
}

void method_make_temp_dir(struct session *s, const json_t *id, struct rpc_params *params)
{
    temp_call(s, id, params, true);
}

void method_make_temp_file(struct session *s, const json_t *id, struct rpc_params *params)
{
    temp_call(s, id, params, false);
}

/* ---- open files ---- */

static void handle_free(struct handle *h)
{
    struct session *s = h->session;
    guest_files_close(h->files);
    LIST_REMOVE(h, link);
    s->file_count--;
    json_decref(h->open_id);
    free(h->doing);
    free(h);
}

static void on_open(void *owner, int status, bool more, struct bg_reader *in)
{
    struct handle *h = owner;
    struct session *s = h->session;
    json_t *id = BG_TAKE(h->open_id);
    (void)in;
    if (status == 0 && !more) {
        session_reply(s, id, json_pack("{s:I}", "fileHandleId", (json_int_t)h->id));
    } else {
        session_throw(s, id, fault_errno(status < 0 ? status : -EPROTO, h->doing));
        handle_free(h);
    }
    json_decref(id);
}

static void open_call(struct session *s, const json_t *id, const char *path, uint32_t flags,
                      uint32_t mode)
{
    struct bg_err err;
    struct names n;
    struct handle *h = s->file_count < BG_GATEWAY_FILES_MAX ? calloc(1, sizeof *h) : NULL;
    if (!h) {
        session_throw(s, id, fault_errno(-EMFILE, "open"));
        return;
    }
    *h = (struct handle){.session = s,
                         .id = s->next_handle++,
                         .open_id = json_deep_copy(id),
                         .doing = session_doing("open", path)};
    LIST_INSERT_HEAD(&s->handles, h, link);
    s->file_count++;
    bg_writer_u32le(begin(&n, BG_FILES_OPEN), flags);
    bg_writer_u32le(&n.w, mode);
    put_path(&n.w, path);
    int r = h->open_id && h->doing ? 0 : bg_err_errno(&err, -ENOMEM, "open");
    if (r == 0 && !bg_writer_ok(&n.w))
        r = bg_err_errno(&err, -ENAMETOOLONG, "open");
    if (r == 0)
        r = guest_files_open(s->opts.shared->loop, s->opts.shared->paths, &s->opts.entry->sandbox,
                             s->umask, &h->files, &err);
    if (r == 0) {
        r = guest_files_call(h->files, &n.w, on_open, h);
        if (r < 0)
            (void)bg_err_errno(&err, r, "open");
    }
    if (r < 0) {
        session_throw(s, id, fault_errno(r, err.text));
        handle_free(h);
    }
}

void method_open(struct session *s, const json_t *id, struct rpc_params *params)
{
    static const struct {
        const char *key;
        uint32_t flag;
    } keys[] = {{"read", BG_FILES_OPEN_READ},     {"write", BG_FILES_OPEN_WRITE},
                {"append", BG_FILES_OPEN_APPEND}, {"truncate", BG_FILES_OPEN_TRUNCATE},
                {"create", BG_FILES_OPEN_CREATE}, {"createNew", BG_FILES_OPEN_EXCLUSIVE}};
    const char *path = rpc_text(params, "path");
    struct rpc_params options = rpc_options(params, "options");
    int64_t mode = rpc_number_or(&options, "mode", 0, MODE_MAX, 0666);
    uint32_t flags = 0;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        flags |= rpc_flag(&options, keys[i].key, false) ? keys[i].flag : 0;
    if (!rpc_params_merge(params, &options))
        return;
    if (!rpc_has(params, "options"))
        flags = BG_FILES_OPEN_READ;
    bool writes = flags & (BG_FILES_OPEN_WRITE | BG_FILES_OPEN_APPEND);
    if (flags == 0)
        session_throw(s, id,
                      fault_new("TypeError", "open: one of read, write, append, truncate, "
                                             "create and createNew must be true"));
    else if (!writes && (flags & ~(uint32_t)BG_FILES_OPEN_READ))
        session_throw(s, id,
                      fault_new("TypeError", "open: truncate, create and createNew want "
                                             "write or append"));
    else
        open_call(s, id, path, flags, (uint32_t)mode);
}

void method_create(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *path = rpc_text(params, "path");
    if (rpc_params_ok(params))
        open_call(s, id, path,
                  BG_FILES_OPEN_READ | BG_FILES_OPEN_WRITE | BG_FILES_OPEN_CREATE |
                      BG_FILES_OPEN_TRUNCATE,
                  0666);
}

/* The file that a call is about; NULL: the call is answered, or its parameters are wrong. */
static struct handle *find_handle(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t number = rpc_number(params, "fileHandleId", 0, INT64_MAX);
    struct handle *h;
    if (!rpc_params_ok(params))
        return NULL;
    LIST_FOREACH(h, &s->handles, link)
    {
        if (h->id == number && !h->open_id)
            return h;
    }
    session_throw(s, id, fault_errno(-EBADF, "no such file is open"));
    return NULL;
}

static void handle_call(struct session *s, const json_t *id, const struct handle *h,
                        const struct bg_writer *w, enum shape shape, const char *verb)
{
    make_call(s, id, h->files, w, shape, verb, h->doing);
}

void method_file_close(struct session *s, const json_t *id, struct rpc_params *params)
{
    struct handle *h = find_handle(s, id, params);
    if (!h)
        return;
    drop_calls(s, h->files, -EBADF);
    handle_free(h);
    session_reply(s, id, json_null());
}

void method_file_read(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t size = rpc_number(params, "length", 0, INT64_MAX);
    const struct handle *h = find_handle(s, id, params);
    struct names n;
    if (!h)
        return;
    if (size == 0) { /* no end of the file */
        session_reply(s, id, json_pack("{s:s}", "data", ""));
        return;
    }
    bg_writer_u32le(begin(&n, BG_FILES_READ),
                    size > BG_FILES_DATA_MAX ? BG_FILES_DATA_MAX : (uint32_t)size);
    handle_call(s, id, h, &n.w, SHAPE_DATA, "read");
}

void method_file_write(struct session *s, const json_t *id, struct rpc_params *params)
{
    size_t text_size = 0;
    const char *text = rpc_bytes(params, "data", &text_size);
    const struct handle *h = find_handle(s, id, params);
    if (!h)
        return;
    BG_AUTOFREE uint8_t *data = malloc(text_size / 4 * 3 + 3);
    BG_AUTOFREE uint8_t *bytes = malloc(BG_FRAME_SIZE_MAX);
    ssize_t size = data && bytes ? bg_base64_decode(text, text_size, data) : 0;
    if (!data || !bytes) {
        session_throw(s, id, fault_errno(-ENOMEM, "write"));
        return;
    }
    if (size < 0) {
        rpc_complain(params, "data", "base64");
        return;
    }
    struct bg_writer w = bg_writer_init(bytes, BG_FRAME_SIZE_MAX);
    bg_writer_u8(&w, BG_FILES_WRITE);
    bg_writer_blob32le(&w, data, size > BG_FILES_DATA_MAX ? BG_FILES_DATA_MAX : (size_t)size);
    handle_call(s, id, h, &w, SHAPE_WRITTEN, "write");
}

/* A number, or the decimal text of a big integer. */
static int64_t read_offset(struct rpc_params *params)
{
    const json_t *value = json_object_get(params->object, "offset");
    const char *text = json_string_value(value);
    char *end = NULL;
    if (!text)
        return rpc_number(params, "offset", INT64_MIN, INT64_MAX);
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (*text == '\0' || *end != '\0' || errno != 0 || text[0] == ' ')
        rpc_complain(params, "offset", "a whole number");
    return number;
}

void method_file_seek(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t offset = read_offset(params);
    int64_t whence = rpc_number(params, "whence", 0, 2);
    const struct handle *h = find_handle(s, id, params);
    struct names n;
    if (!h)
        return;
    bg_writer_u64le(begin(&n, BG_FILES_SEEK), (uint64_t)offset);
    bg_writer_u8(&n.w, (uint8_t)whence);
    handle_call(s, id, h, &n.w, SHAPE_POSITION, "seek");
}

void method_file_stat(struct session *s, const json_t *id, struct rpc_params *params)
{
    const struct handle *h = find_handle(s, id, params);
    struct names n;
    if (!h)
        return;
    (void)begin(&n, BG_FILES_FSTAT);
    handle_call(s, id, h, &n.w, SHAPE_ATTRIBUTES, "stat");
}

/* Calls with one byte that says how. */
static void flag_call(struct session *s, const json_t *id, struct rpc_params *params,
                      enum bg_files_op op, uint8_t flag, const char *verb)
{
    const struct handle *h = find_handle(s, id, params);
    struct names n;
    if (!h)
        return;
    bg_writer_u8(begin(&n, op), flag);
    handle_call(s, id, h, &n.w, SHAPE_NULL, verb);
}

void method_file_sync(struct session *s, const json_t *id, struct rpc_params *params)
{
    flag_call(s, id, params, BG_FILES_SYNC, 0, "sync");
}

void method_file_sync_data(struct session *s, const json_t *id, struct rpc_params *params)
{
    flag_call(s, id, params, BG_FILES_SYNC, 1, "syncData");
}

void method_file_lock(struct session *s, const json_t *id, struct rpc_params *params)
{
    bool exclusive = rpc_flag(params, "exclusive", false);
    flag_call(s, id, params, BG_FILES_LOCK, exclusive ? 2 : 1, "lock");
}

void method_file_unlock(struct session *s, const json_t *id, struct rpc_params *params)
{
    flag_call(s, id, params, BG_FILES_LOCK, 0, "unlock");
}

void method_file_truncate(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t size = rpc_number_or(params, "len", 0, INT64_MAX, 0);
    const struct handle *h = find_handle(s, id, params);
    struct names n;
    if (!h)
        return;
    bg_writer_u64le(begin(&n, BG_FILES_RESIZE), (uint64_t)size);
    handle_call(s, id, h, &n.w, SHAPE_NULL, "truncate");
}

void method_file_utime(struct session *s, const json_t *id, struct rpc_params *params)
{
    int64_t ns[2];
    if (!read_times(params, ns))
        return;
    const struct handle *h = find_handle(s, id, params);
    struct names n;
    if (!h)
        return;
    bg_writer_u64le(begin(&n, BG_FILES_SET_TIME), (uint64_t)ns[0]);
    bg_writer_u64le(&n.w, (uint64_t)ns[1]);
    handle_call(s, id, h, &n.w, SHAPE_NULL, "utime");
}

/* ---- all of them ---- */

void session_files_close(struct session *s)
{
    guest_files_close(BG_TAKE(s->files));
    while (!LIST_EMPTY(&s->handles))
        handle_free(LIST_FIRST(&s->handles));
    while (!LIST_EMPTY(&s->file_calls))
        call_free(LIST_FIRST(&s->file_calls));
}
