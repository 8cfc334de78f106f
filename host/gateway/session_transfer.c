/* Whole files on their way, read or written by one call. Each has a stream to the guest of its own,
 * and a few calls on it under way at once, so that a round trip is not waited for with each piece.
 * They can be aborted. */
#include <stdio.h>
#include <string.h>

#include "common/base64.h"
#include "common/limits.h"
#include "host/gateway/fault.h"
#include "host/gateway/guest_files.h"
#include "host/gateway/session_state.h"
#include "host/gateway/text.h"

#define AHEAD    8 /* reads or writes under way */
#define MODE_MAX 07777

struct transfer {
    LIST_ENTRY(transfer) link;
    struct session *session;
    struct guest_files *files;
    json_t *id;
    char *doing;
    int64_t abort_id; /* -1: none */
    bool writes, is_text;
    bool opened, at_end;
    unsigned ahead; /* calls not yet answered, without the open */
    /* read: what came. Written without a stream: what goes. */
    uint8_t *bytes;
    size_t size, used, room;
    uint64_t sent, wrote;  /* bytes of writes, and what the guest took of them */
    struct inbound *input; /* written from a stream: NULL once it is over */
    bool streamed;
};

static void transfer_free(struct transfer *t)
{
    struct session *s = t->session;
    session_stream_refuse(s, BG_TAKE(t->input));
    guest_files_close(t->files);
    LIST_REMOVE(t, link);
    s->file_count--;
    json_decref(t->id);
    free(t->doing);
    free(t->bytes);
    free(t);
}

static void fail(struct transfer *t, int status)
{
    session_throw(t->session, t->id, fault_errno(status, t->doing));
    transfer_free(t);
}

/* ---- reading ---- */

static int keep(struct transfer *t, const uint8_t *bytes, size_t size)
{
    if (size > BG_GATEWAY_READ_MAX - t->used)
        return -EFBIG;
    if (size > t->room - t->used) {
        size_t room = 2 * t->room > t->used + size ? 2 * t->room : t->used + size;
        uint8_t *grown = realloc(t->bytes, room);
        if (!grown)
            return -ENOMEM;
        t->bytes = grown;
        t->room = room;
    }
    memcpy(t->bytes + t->used, bytes, size);
    t->used += size;
    return 0;
}

static void have_read(void *owner, int status, bool more, struct bg_reader *in);

static int read_ahead(struct transfer *t)
{
    uint8_t bytes[8];
    while (t->opened && !t->at_end && t->ahead < AHEAD) {
        struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
        bg_writer_u8(&w, BG_FILES_READ);
        bg_writer_u32le(&w, BG_FILES_DATA_MAX);
        int r = guest_files_call(t->files, &w, have_read, t);
        if (r < 0)
            return r;
        t->ahead++;
    }
    return 0;
}

static void reply_read(struct transfer *t)
{
    struct session *s = t->session;
    if (t->is_text)
        session_reply(s, t->id, text_lossy(t->bytes, t->used));
    else
        session_reply_bytes(s, t->id, t->bytes, t->used);
    transfer_free(t);
}

static void have_read(void *owner, int status, bool more, struct bg_reader *in)
{
    struct transfer *t = owner;
    size_t size = 0;
    const uint8_t *bytes = bg_reader_blob32le(in, BG_FILES_DATA_MAX, &size);
    int r = status;
    t->ahead--;
    if (r == 0 && (more || !bg_reader_end(in)))
        r = -EPROTO;
    if (r == 0 && size == 0)
        t->at_end = true;
    else if (r == 0 && !t->at_end)
        r = keep(t, bytes, size);
    if (r == 0)
        r = read_ahead(t);
    if (r < 0)
        fail(t, r);
    else if (t->at_end && t->ahead == 0)
        reply_read(t);
}

/* ---- writing ---- */

/* What goes next, at most one call's; 0: nothing now. */
static size_t next_bytes(struct transfer *t, const uint8_t **ret)
{
    size_t size = t->streamed ? (t->input ? inbound_next(t->input, ret) : 0) : t->size - t->used;
    if (!t->streamed && size > 0)
        *ret = t->bytes + t->used;
    return size < BG_FILES_DATA_MAX ? size : BG_FILES_DATA_MAX;
}

static void bytes_taken(struct transfer *t, size_t size)
{
    if (t->streamed)
        inbound_take(t->input, size);
    else
        t->used += size;
}

static void have_written(void *owner, int status, bool more, struct bg_reader *in);

/* Sends what there is, as far as it may. Errors: -ENOMEM, -ECONNRESET; -EPIPE the client's stream
 * broke off. */
static int write_ahead(struct transfer *t)
{
    BG_AUTOFREE uint8_t *frame = malloc(BG_FRAME_SIZE_MAX);
    const uint8_t *bytes;
    size_t size;
    if (!frame)
        return -ENOMEM;
    while (t->opened && t->ahead < AHEAD && (size = next_bytes(t, &bytes)) > 0) {
        struct bg_writer w = bg_writer_init(frame, BG_FRAME_SIZE_MAX);
        bg_writer_u8(&w, BG_FILES_WRITE);
        bg_writer_blob32le(&w, bytes, size);
        int r = guest_files_call(t->files, &w, have_written, t);
        if (r < 0)
            return r;
        t->ahead++;
        t->sent += size;
        bytes_taken(t, size);
    }
    session_input_taken(t->session);
    if (t->input && inbound_over(t->input)) {
        bool failed = t->input->failed;
        inbound_drop(BG_TAKE(t->input));
        if (failed)
            return -EPIPE;
    }
    t->at_end = t->streamed ? !t->input : t->used == t->size;
    return 0;
}

static void finish_write(struct transfer *t, int r)
{
    if (r < 0) {
        fail(t, r);
    } else if (t->opened && t->at_end && t->ahead == 0 && t->wrote < t->sent) {
        /* Pieces behind a part that was not taken had gone already: none can be sent again. The
         * next write would have said why, and regular files have one reason only. */
        fail(t, -ENOSPC);
    } else if (t->opened && t->at_end && t->ahead == 0) {
        session_reply(t->session, t->id, json_null());
        transfer_free(t);
    }
}

static void have_written(void *owner, int status, bool more, struct bg_reader *in)
{
    struct transfer *t = owner;
    uint32_t size = bg_reader_u32le(in);
    int r = status;
    t->ahead--;
    if (r == 0 && (more || !bg_reader_end(in)))
        r = -EPROTO;
    t->wrote += size;
    finish_write(t, r == 0 ? write_ahead(t) : r);
}

static void input_changed(void *owner)
{
    struct transfer *t = owner;
    finish_write(t, write_ahead(t));
}

/* ---- both ---- */

static void have_opened(void *owner, int status, bool more, struct bg_reader *in)
{
    struct transfer *t = owner;
    if (status == 0 && (more || !bg_reader_end(in)))
        status = -EPROTO;
    if (status < 0) {
        fail(t, status);
        return;
    }
    t->opened = true;
    if (t->writes) {
        finish_write(t, write_ahead(t));
        return;
    }
    int r = read_ahead(t);
    if (r < 0)
        fail(t, r);
}

static int open_file(struct transfer *t, const char *path, uint32_t flags, uint32_t mode)
{
    struct session *s = t->session;
    uint8_t bytes[BG_PATH_MAX + 16];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    struct bg_err err;
    if (strlen(path) >= BG_PATH_MAX)
        return -ENAMETOOLONG;
    bg_writer_u8(&w, BG_FILES_OPEN);
    bg_writer_u32le(&w, flags);
    bg_writer_u32le(&w, mode);
    bg_writer_text32le(&w, path);
    int r = guest_files_open(s->opts.shared->loop, s->opts.shared->paths, &s->opts.entry->sandbox,
                             s->umask, &t->files, &err);
    return r < 0 ? r : guest_files_call(t->files, &w, have_opened, t);
}

/* In the list; NULL: the call is answered. */
static struct transfer *transfer_new(struct session *s, const json_t *id, const char *verb,
                                     const char *path, int64_t abort_id)
{
    struct transfer *t = s->file_count < BG_GATEWAY_FILES_MAX ? calloc(1, sizeof *t) : NULL;
    if (!t) {
        session_throw(s, id, fault_errno(-EMFILE, verb));
        return NULL;
    }
    *t = (struct transfer){.session = s,
                           .id = json_deep_copy(id),
                           .doing = session_doing(verb, path),
                           .abort_id = abort_id};
    LIST_INSERT_HEAD(&s->transfers, t, link);
    s->file_count++;
    return t;
}

static void start_read(struct session *s, const json_t *id, struct rpc_params *params, bool is_text)
{
    const char *path = rpc_text(params, "path");
    int64_t abort_id = rpc_number_or(params, "abortId", 0, INT64_MAX, -1);
    if (!rpc_params_ok(params))
        return;
    struct transfer *t = transfer_new(s, id, is_text ? "readTextFile" : "readFile", path, abort_id);
    if (!t)
        return;
    t->is_text = is_text;
    int r = open_file(t, path, BG_FILES_OPEN_READ, 0);
    if (r < 0)
        fail(t, r);
}

void method_read_file(struct session *s, const json_t *id, struct rpc_params *params)
{
    start_read(s, id, params, false);
}

void method_read_text_file(struct session *s, const json_t *id, struct rpc_params *params)
{
    start_read(s, id, params, true);
}

/* Takes the content of the call: a stream's, or its own. Errors: -ENOMEM; -EINVAL not base64, or no
 * such stream. */
static int take_content(struct transfer *t, struct rpc_params *params, int64_t stream, bool is_text)
{
    size_t size = 0;
    if (stream >= 0) {
        t->streamed = true;
        t->input = stream_table_claim(&t->session->inbound, stream, input_changed, t);
        return t->input ? 0 : -EINVAL;
    }
    const char *text = rpc_bytes(params, "content", &size);
    t->bytes = malloc(size + 3);
    if (!t->bytes)
        return -ENOMEM;
    if (is_text)
        memcpy(t->bytes, text, size);
    ssize_t n = is_text ? (ssize_t)size : bg_base64_decode(text, size, t->bytes);
    t->size = n < 0 ? 0 : (size_t)n;
    return n < 0 ? -EINVAL : 0;
}

static void start_write(struct session *s, const json_t *id, struct rpc_params *params,
                        bool is_text)
{
    const char *path = rpc_text(params, "path");
    int64_t abort_id = rpc_number_or(params, "abortId", 0, INT64_MAX, -1);
    int64_t stream = rpc_number_or(params, "contentStreamId", 0, INT64_MAX, -1);
    struct rpc_params options = rpc_options(params, "options");
    bool append = rpc_flag(&options, "append", false);
    bool create = rpc_flag(&options, "create", true);
    bool create_new = rpc_flag(&options, "createNew", false);
    int64_t mode = rpc_number_or(&options, "mode", 0, MODE_MAX, -1);
    size_t size;
    if (stream < 0)
        (void)rpc_bytes(params, "content", &size);
    if (!rpc_params_merge(params, &options))
        return;
    uint32_t flags =
        (append ? BG_FILES_OPEN_APPEND : BG_FILES_OPEN_WRITE | BG_FILES_OPEN_TRUNCATE) |
        (create ? BG_FILES_OPEN_CREATE : 0) | (create_new ? BG_FILES_OPEN_EXCLUSIVE : 0) |
        (mode >= 0 ? BG_FILES_OPEN_SET_MODE : 0);
    struct transfer *t =
        transfer_new(s, id, is_text ? "writeTextFile" : "writeFile", path, abort_id);
    if (!t)
        return;
    t->writes = true;
    int r = take_content(t, params, stream, is_text);
    if (r == 0)
        r = open_file(t, path, flags, mode >= 0 ? (uint32_t)mode : 0666);
    if (r < 0)
        fail(t, r);
}

void method_write_file(struct session *s, const json_t *id, struct rpc_params *params)
{
    start_write(s, id, params, false);
}

void method_write_text_file(struct session *s, const json_t *id, struct rpc_params *params)
{
    start_write(s, id, params, true);
}

bool session_transfer_abort(struct session *s, int64_t abort_id)
{
    struct transfer *t;
    LIST_FOREACH(t, &s->transfers, link)
    {
        if (t->abort_id != abort_id)
            continue;
        session_throw(s, t->id, fault_dom("AbortError", "The signal has been aborted"));
        transfer_free(t);
        return true;
    }
    return false;
}

void session_transfers_close(struct session *s)
{
    while (!LIST_EMPTY(&s->transfers))
        transfer_free(LIST_FIRST(&s->transfers));
}
