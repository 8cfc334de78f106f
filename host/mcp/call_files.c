/* The tools read_file, write_file and list_files: each a files stream to the guest, on which one
 * request follows another. What a guest says is checked here: it may say anything. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base64.h"
#include "common/files.h"
#include "common/limits.h"
#include "common/quote.h"
#include "host/gateway/guest_files.h"
#include "host/gateway/text.h"
#include "host/mcp/call.h"

#define READ_DEFAULT (256 * 1024)
#define UMASK        022
#define QUOTED_SIZE  512

struct entry {
    char *name;
    uint8_t type; /* S_IFMT >> 12 */
    bool known;   /* the rest is */
    struct bg_files_attributes is;
};

struct files {
    struct call *call;
    struct guest_files *stream;
    const char *path; /* of call->args */
    bool base64;
    uint64_t offset;
    /* What was read, or is to be written. */
    uint8_t *bytes;
    size_t size, used, max;
    bool at_end;
    /* Of a folder. */
    struct entry *entries;
    size_t entry_count, entry_room, next_entry, name_bytes;
    uint64_t total;
    uint8_t frame[BG_FRAME_SIZE_MAX];
};

static void files_abort(void *work)
{
    struct files *f = work;
    guest_files_close(BG_TAKE(f->stream));
    for (size_t i = 0; i < f->entry_count; i++)
        free(f->entries[i].name);
    free(f->entries);
    free(f->bytes);
    free(f);
}

/* status: negative errno; the guest's, or of speaking with it. */
static void fail(struct files *f, int status)
{
    char quoted[QUOTED_SIZE];
    struct bg_err err;
    (void)bg_err_errno(&err, status, "%s", bg_quote(f->path, quoted, sizeof quoted));
    if (status == -ECONNRESET)
        call_fail(f->call, "the sandbox ended, or its guest");
    else
        call_fail(f->call, "%s", err.text);
}

/* Sends what is in the frame. */
static void ask(struct files *f, const struct bg_writer *w, guest_files_answer *on_answer)
{
    int r = bg_writer_ok(w) ? guest_files_call(f->stream, w, on_answer, f) : -E2BIG;
    if (r < 0)
        fail(f, r);
}

static struct bg_writer begin(struct files *f, enum bg_files_op op)
{
    struct bg_writer w = bg_writer_init(f->frame, sizeof f->frame);
    bg_writer_u8(&w, (uint8_t)op);
    return w;
}

/* An answer of its own that has been read up to its end. */
static int checked(int status, bool more, const struct bg_reader *in)
{
    return status < 0 ? status : more || !bg_reader_end(in) ? -EPROTO : 0;
}

static void ask_stat(struct files *f, const char *path, bool follow, guest_files_answer *on_answer)
{
    struct bg_writer w = begin(f, BG_FILES_STAT);
    bg_writer_u8(&w, follow);
    bg_writer_text32le(&w, path);
    ask(f, &w, on_answer);
}

/* A fifo would let us wait for ever, and a device never end. False: the call has ended. */
static bool regular(struct files *f, const struct bg_files_attributes *is)
{
    char quoted[QUOTED_SIZE];
    if (S_ISREG(is->mode))
        return true;
    call_fail(f->call, "%s: %s", bg_quote(f->path, quoted, sizeof quoted),
              S_ISDIR(is->mode) ? "is a folder: see list_files"
                                : "is no regular file: use run to read or write it");
    return false;
}

/* ---- read ---- */

/* Bytes of the last character, if that is cut off at the end. */
static size_t cut_character(const uint8_t *bytes, size_t size)
{
    for (size_t n = 1; n <= 3 && n <= size; n++) {
        uint8_t byte = bytes[size - n];
        size_t want = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 0;
        if (want > 0)
            return want > n ? n : 0;
        if (byte < 0x80)
            return 0;
    }
    return 0;
}

static json_t *base64_text(const uint8_t *bytes, size_t size)
{
    size_t encoded = BG_BASE64_SIZE(size);
    BG_AUTOFREE char *text = malloc(encoded + 1);
    if (!text)
        return NULL;
    bg_base64_encode(bytes, size, text);
    return json_stringn(text, encoded);
}

static void answer_read(struct files *f)
{
    char quoted[QUOTED_SIZE];
    if (!f->base64 && !f->at_end)
        f->used -= cut_character(f->bytes, f->used);
    const char *bytes = f->used > 0 ? (const char *)f->bytes : "";
    json_auto_t *content =
        f->base64 ? base64_text(f->bytes, f->used) : json_stringn(bytes, f->used);
    if (!content) { /* memory is seldom what is missing */
        call_fail(f->call, "%s: is not UTF-8 text; ask for it with encoding \"base64\"",
                  bg_quote(f->path, quoted, sizeof quoted));
        return;
    }
    json_t *next = f->at_end ? NULL : json_integer((json_int_t)(f->offset + f->used));
    json_t *structured =
        json_pack("{s:s, s:O, s:s, s:I, s:I, s:o*}", "path", f->path, "content", content,
                  "encoding", f->base64 ? "base64" : "utf-8", "offset", (json_int_t)f->offset,
                  "bytes", (json_int_t)f->used, "next_offset", next);
    call_answer(f->call, structured, json_incref(content), /* is_error= */ false);
}

static void read_more(struct files *f);

static void have_read(void *owner, int status, bool more, struct bg_reader *in)
{
    struct files *f = owner;
    size_t size = 0;
    const uint8_t *bytes = bg_reader_blob32le(in, BG_FILES_DATA_MAX, &size);
    int r = checked(status, more, in);
    if (r == 0 && size > f->max + 1 - f->used)
        r = -EPROTO; /* more than was asked for */
    if (r < 0) {
        fail(f, r);
        return;
    }
    if (size > 0)
        memcpy(f->bytes + f->used, bytes, size);
    f->used += size;
    f->at_end = size == 0;
    read_more(f);
}

/* One byte more than is wanted tells whether there is more. */
static void read_more(struct files *f)
{
    size_t left = f->max + 1 - f->used;
    if (f->at_end || left == 0) {
        if (!f->at_end)
            f->used--;
        answer_read(f);
        return;
    }
    struct bg_writer w = begin(f, BG_FILES_READ);
    bg_writer_u32le(&w, (uint32_t)(left < BG_FILES_DATA_MAX ? left : BG_FILES_DATA_MAX));
    ask(f, &w, have_read);
}

static void sought(void *owner, int status, bool more, struct bg_reader *in)
{
    struct files *f = owner;
    (void)bg_reader_u64le(in);
    int r = checked(status, more, in);
    if (r < 0)
        fail(f, r);
    else
        read_more(f);
}

static void opened_to_read(void *owner, int status, bool more, struct bg_reader *in)
{
    struct files *f = owner;
    int r = checked(status, more, in);
    if (r < 0) {
        fail(f, r);
        return;
    }
    struct bg_writer w = begin(f, BG_FILES_SEEK);
    bg_writer_u64le(&w, f->offset);
    bg_writer_u8(&w, SEEK_SET);
    ask(f, &w, sought);
}

static void open_file(struct files *f, uint32_t flags, uint32_t mode, guest_files_answer *on_answer)
{
    struct bg_writer w = begin(f, BG_FILES_OPEN);
    bg_writer_u32le(&w, flags);
    bg_writer_u32le(&w, mode);
    bg_writer_text32le(&w, f->path);
    ask(f, &w, on_answer);
}

static void looked_to_read(void *owner, int status, bool more, struct bg_reader *in)
{
    struct files *f = owner;
    struct bg_files_attributes is = bg_files_attributes_parse(in);
    int r = checked(status, more, in);
    if (r < 0)
        fail(f, r);
    else if (regular(f, &is))
        open_file(f, BG_FILES_OPEN_READ, 0, opened_to_read);
}

/* ---- write ---- */

static void write_more(struct files *f);

static void have_written(void *owner, int status, bool more, struct bg_reader *in)
{
    struct files *f = owner;
    uint32_t size = bg_reader_u32le(in);
    int r = checked(status, more, in);
    if (r == 0 && (size == 0 || size > f->size - f->used))
        r = -EPROTO;
    if (r < 0) {
        fail(f, r);
        return;
    }
    f->used += size;
    write_more(f);
}

static void write_more(struct files *f)
{
    size_t left = f->size - f->used;
    if (left == 0) {
        call_answer(f->call, json_pack("{s:s, s:I}", "path", f->path, "bytes", (json_int_t)f->size),
                    NULL,
                    /* is_error= */ false);
        return;
    }
    struct bg_writer w = begin(f, BG_FILES_WRITE);
    bg_writer_blob32le(&w, f->bytes + f->used, left < BG_FILES_DATA_MAX ? left : BG_FILES_DATA_MAX);
    ask(f, &w, have_written);
}

static void opened_to_write(void *owner, int status, bool more, struct bg_reader *in)
{
    struct files *f = owner;
    int r = checked(status, more, in);
    if (r < 0)
        fail(f, r);
    else
        write_more(f);
}

static void open_to_write(struct files *f)
{
    bool executable = tool_flag(f->call->args, "executable");
    uint32_t flags = BG_FILES_OPEN_WRITE | BG_FILES_OPEN_CREATE;
    flags |= tool_flag(f->call->args, "append") ? BG_FILES_OPEN_APPEND : BG_FILES_OPEN_TRUNCATE;
    flags |= executable ? BG_FILES_OPEN_SET_MODE : 0;
    open_file(f, flags, executable ? 0755 : 0666, opened_to_write);
}

static void folders_made(void *owner, int status, bool more, struct bg_reader *in)
{
    struct files *f = owner;
    int r = checked(status, more, in);
    if (r < 0)
        fail(f, r);
    else
        open_to_write(f);
}

static void make_folders(struct files *f)
{
    const char *slash = strrchr(f->path, '/');
    if (!slash || slash == f->path) {
        open_to_write(f);
        return;
    }
    struct bg_writer w = begin(f, BG_FILES_MKDIR);
    bg_writer_u8(&w, 1);
    bg_writer_u32le(&w, 0777);
    bg_writer_blob32le(&w, f->path, (size_t)(slash - f->path));
    ask(f, &w, folders_made);
}

static void looked_to_write(void *owner, int status, bool more, struct bg_reader *in)
{
    struct files *f = owner;
    struct bg_files_attributes is = bg_files_attributes_parse(in);
    int r = checked(status, more, in);
    if (r == -ENOENT) {
        if (tool_flag(f->call->args, "create_folders"))
            make_folders(f);
        else
            open_to_write(f);
    } else if (r < 0) {
        fail(f, r);
    } else if (regular(f, &is)) {
        open_to_write(f);
    }
}

/* What is to be written. False: the call has ended. */
static bool take_content(struct files *f)
{
    const json_t *content = json_object_get(f->call->args, "content");
    size_t size = json_string_length(content);
    ssize_t decoded = (ssize_t)size;
    f->bytes = malloc(size + 4);
    if (!f->bytes) {
        call_fail(f->call, "out of memory");
        return false;
    }
    if (f->base64)
        decoded = bg_base64_decode(json_string_value(content), size, f->bytes);
    else
        memcpy(f->bytes, json_string_value(content), size);
    if (decoded < 0)
        call_fail(f->call, "content: is not base64");
    else if (decoded > (ssize_t)BG_MCP_CONTENT_MAX)
        call_fail(f->call, "content: %zd bytes; at most %u at a time: append the rest", decoded,
                  BG_MCP_CONTENT_MAX);
    else
        f->size = (size_t)decoded;
    return decoded >= 0 && decoded <= (ssize_t)BG_MCP_CONTENT_MAX;
}

/* ---- list ---- */

static const char *type_name(uint8_t type)
{
    return type == S_IFREG >> 12   ? "file"
           : type == S_IFDIR >> 12 ? "folder"
           : type == S_IFLNK >> 12 ? "symlink"
                                   : "other";
}

static json_t *entry_json(const struct entry *e)
{
    char mode[16];
    (void)snprintf(mode, sizeof mode, "%04o", e->is.mode & 07777);
    json_t *name = text_lossy(e->name, strlen(e->name));
    if (!e->known)
        return json_pack("{s:o, s:s}", "name", name, "type", type_name(e->type));
    return json_pack("{s:o, s:s, s:I, s:s, s:o}", "name", name, "type",
                     type_name((uint8_t)((e->is.mode & S_IFMT) >> 12)), "size",
                     (json_int_t)(e->is.size <= INT64_MAX ? e->is.size : INT64_MAX), "mode", mode,
                     "modified", text_time(e->is.mtime_ns));
}

static void answer_list(struct files *f)
{
    json_t *list = json_array();
    for (size_t i = 0; i < f->entry_count && i < BG_MCP_ENTRIES_MAX; i++)
        if (json_array_append_new(list, entry_json(&f->entries[i])) < 0) {
            json_decref(list);
            list = NULL;
            break;
        }
    call_answer(f->call,
                json_pack("{s:s, s:o, s:I}", "path", f->path, "entries", list, "total",
                          (json_int_t)f->total),
                NULL, /* is_error= */ false);
}

static void look_at_next(struct files *f);

static void looked(void *owner, int status, bool more, struct bg_reader *in)
{
    struct files *f = owner;
    struct entry *e = &f->entries[f->next_entry++];
    e->is = bg_files_attributes_parse(in);
    int r = checked(status, more, in);
    /* One that is gone by now, or may not be looked at, is told without this. */
    e->known = r == 0;
    if (r == -ECONNRESET || r == -EPROTO)
        fail(f, r);
    else
        look_at_next(f);
}

static void look_at_next(struct files *f)
{
    BG_AUTOFREE char *path = NULL;
    if (f->next_entry == f->entry_count || f->next_entry == BG_MCP_ENTRIES_MAX) {
        answer_list(f);
        return;
    }
    if (asprintf(&path, "%s/%s", f->path, f->entries[f->next_entry].name) < 0) {
        path = NULL;
        fail(f, -ENOMEM);
        return;
    }
    ask_stat(f, path, /* follow= */ false, looked);
}

static int by_name(const void *a, const void *b)
{
    const struct entry *one = a, *other = b;
    return strcmp(one->name, other->name);
}

static int add_entry(struct files *f, uint8_t type, const char *name)
{
    f->name_bytes += strlen(name) + sizeof *f->entries;
    if (f->name_bytes > BG_MCP_LIST_MAX)
        return -EFBIG;
    if (f->entry_count == f->entry_room) {
        size_t room = f->entry_room ? 2 * f->entry_room : 64;
        struct entry *grown = reallocarray(f->entries, room, sizeof *grown);
        if (!grown)
            return -ENOMEM;
        f->entries = grown;
        f->entry_room = room;
    }
    struct entry *e = &f->entries[f->entry_count];
    *e = (struct entry){.name = strdup(name), .type = type};
    if (!e->name)
        return -ENOMEM;
    f->entry_count++;
    f->total++;
    return 0;
}

static void listed(void *owner, int status, bool more, struct bg_reader *in)
{
    struct files *f = owner;
    char name[BG_NAME_MAX + 1];
    uint8_t type;
    int r = status;
    while (r == 0 && bg_reader_ok(in) && !bg_reader_end(in))
        r = bg_files_entry_parse(in, &type, name) ? add_entry(f, type, name) : -EPROTO;
    if (r == 0 && !bg_reader_ok(in))
        r = -EPROTO;
    if (r < 0) {
        fail(f, r);
    } else if (!more) {
        if (f->entry_count > 0)
            qsort(f->entries, f->entry_count, sizeof *f->entries, by_name);
        look_at_next(f);
    }
}

static void list(struct files *f)
{
    struct bg_writer w = begin(f, BG_FILES_LIST);
    bg_writer_text32le(&w, f->path);
    ask(f, &w, listed);
}

/* ---- their start ---- */

static void start_reading(struct files *f)
{
    f->offset = (uint64_t)tool_number(f->call->args, "offset", 0);
    f->max = (size_t)tool_number(f->call->args, "bytes_max", READ_DEFAULT);
    f->bytes = malloc(f->max + 1);
    if (!f->bytes)
        call_fail(f->call, "out of memory");
    else
        ask_stat(f, f->path, /* follow= */ true, looked_to_read);
}

static void start_files(struct call *call)
{
    struct bg_err err;
    const char *encoding = tool_text(call->args, "encoding");
    struct files *f = calloc(1, sizeof *f);
    if (!f) {
        call_fail(call, "out of memory");
        return;
    }
    f->call = call;
    f->path = tool_text(call->args, "path");
    f->base64 = encoding && strcmp(encoding, "base64") == 0;
    call->work = f;
    call->abort = files_abort;
    if (guest_files_open(call->all->loop, &call->all->app->paths, &call->box->sandbox, UMASK,
                         &f->stream, &err) < 0)
        call_fail(call, "%s", err.text);
    else if (tool_id(call->tool) == TOOL_READ)
        start_reading(f);
    else if (tool_id(call->tool) == TOOL_LIST_FILES)
        list(f);
    else if (take_content(f))
        ask_stat(f, f->path, /* follow= */ true, looked_to_write);
}

static void have_turn(struct call *call)
{
    call_awake(call, start_files);
}

static void call_files(struct call *call)
{
    if (call_find_box(call, "sandbox"))
        call_queue(call, have_turn);
}

void call_read_file(struct call *call)
{
    call_files(call);
}

void call_write_file(struct call *call)
{
    call_files(call);
}

void call_list_files(struct call *call)
{
    call_files(call);
}
