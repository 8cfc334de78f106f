#include "host/changes/link.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "host/changes/records.h"
#include "host/cli/client.h"
#include "host/cli/copy_stream.h"
#include "host/cli/wake.h"

/* ---- the stream ---- */

struct question {
    int fd;
    struct copy_stream *stream;
    struct records records;
    /* Of the answers: */
    struct entries *into;
    const struct store *store;
    const bool *wanted;
    struct entry *current; /* its contents are coming */
    struct store_file file;
    uint64_t received; /* bytes of contents */
    void (*on_bytes)(void *owner, size_t size);
    void *owner;
};

static int ask(const struct link *link, enum bg_changes_op op, int *ret_fd, struct bg_err *err)
{
    uint8_t body[64];
    const struct bg_changes_request q = {.op = (uint8_t)op, .share = link->share};
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_changes_request_emit(&q, &w);
    int fd = -1;
    int r = wake_open(link->app, link->sandbox, "changes", body, w.used, &fd, err);
    if (r == 0)
        r = client_stream_reply(fd, BG_CHANGES_WAIT_MS, err);
    if (r < 0) {
        bg_cleanup_close(&fd);
        return r;
    }
    /* A guest that says nothing for so long is not going to. */
    const struct timeval wait = {.tv_sec = BG_CHANGES_WAIT_MS / 1000};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait); /* a socket takes it */
    *ret_fd = fd;
    return 0;
}

static void question_done(struct question *q)
{
    if (q->store)
        store_drop(q->store, &q->file);
    free(q->stream);
    bg_cleanup_close(&q->fd);
}

static int question_open(const struct link *link, enum bg_changes_op op, struct question *q,
                         struct bg_err *err)
{
    q->fd = q->file.fd = -1;
    int r = ask(link, op, &q->fd, err);
    if (r < 0)
        return r;
    q->stream = copy_stream_new(q->fd);
    q->records.owner = q;
    return q->stream ? 0 : bg_err_errno(err, -ENOMEM, "stream");
}

static int broken(struct question *q, int r, struct bg_err *err)
{
    if (r == -EPROTO)
        return bg_err_prefix(err, "the sandbox sent what is no list of changes");
    if (r == -EAGAIN)
        return bg_err_set(err, -ETIME, "the sandbox does not answer");
    return copy_stream_explain(q->stream, r, err);
}

/* All that the guest has to say. */
static int read_answers(struct question *q, struct bg_err *err)
{
    for (;;) {
        const void *bytes;
        ssize_t n = copy_stream_read(q->stream, &bytes);
        if (n < 0)
            return n == -EPROTO ? bg_err_set(err, -EPROTO, "the sandbox broke the protocol")
                                : broken(q, (int)n, err);
        int r = n > 0 ? records_feed(&q->records, bytes, (size_t)n, err)
                      : records_finish(&q->records, err);
        if (r < 0)
            return r == -EPROTO ? broken(q, r, err) : r;
        if (n == 0)
            return 0;
    }
}

static int send_items(struct question *q, const struct entry *const *items, size_t count,
                      struct bg_err *err)
{
    BG_AUTOFREE struct bg_change *change = malloc(sizeof *change);
    BG_AUTOFREE uint8_t *bytes = malloc(BG_FRAME_SIZE_MAX);
    if (!change || !bytes)
        return bg_err_errno(err, -ENOMEM, "list");
    struct bg_writer w = bg_writer_init(bytes, BG_FRAME_SIZE_MAX);
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        entry_to_change(items[i], change);
        bg_change_emit(change, &w);
        if (w.used > BG_FRAME_SIZE_MAX - BG_CHANGE_RECORD_MAX - 4 || i + 1 == count) {
            r = copy_stream_write(q->stream, bytes, w.used);
            w = bg_writer_init(bytes, BG_FRAME_SIZE_MAX);
        }
    }
    if (r == 0)
        r = copy_stream_end_write(q->stream);
    return r < 0 ? copy_stream_explain(q->stream, r, err) : 0;
}

/* ---- list ---- */

static int add_record(void *owner, const struct bg_change *change, struct bg_err *err)
{
    struct question *q = owner;
    return entries_add(q->into, change) ? 0 : bg_err_errno(err, -ENOMEM, "list of changes");
}

int link_list(const struct link *link, struct entries *ret, struct bg_err *err)
{
    struct entries list = {0};
    BG_AUTOFREE struct question *q = calloc(1, sizeof *q);
    if (!q)
        return bg_err_errno(err, -ENOMEM, "list of changes");
    q->into = &list;
    q->records.on_record = add_record;
    int r = question_open(link, BG_CHANGES_LIST, q, err);
    if (r == 0)
        r = read_answers(q, err);
    question_done(q);
    if (r < 0) {
        entries_done(&list);
        return r;
    }
    entries_sort(&list);
    *ret = list;
    return 0;
}

/* ---- fetch ---- */

static int begin_file(void *owner, const struct bg_change *change, struct bg_err *err)
{
    struct question *q = owner;
    struct entry *entry = entries_find(q->into, change->path);
    if (!entry || !q->wanted[entry - q->into->list] || change->type != BG_CHANGE_FILE)
        return bg_err_set(err, -EPROTO, "a file that nobody asked for");
    /* As it is now; what was listed is older. */
    entry->mode = change->mode;
    entry->size = change->size;
    entry->mtime_ns = change->mtime_ns;
    entry->ctime_ns = change->ctime_ns;
    entry->inode = change->inode;
    entry->has_hash = false;
    entry->torn = true;
    if (change->size > BG_CHANGES_BYTES_MAX)
        return bg_err_set(err, -EFBIG, "a file of %llu bytes", (unsigned long long)change->size);
    q->current = entry;
    return store_begin(q->store, &q->file, err);
}

static int take_bytes(void *owner, const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct question *q = owner;
    q->received += size;
    if (q->received > BG_CHANGES_BYTES_MAX)
        return bg_err_set(err, -EFBIG, "the sandbox sends more than it listed");
    if (q->on_bytes)
        q->on_bytes(q->owner, size);
    return store_write(&q->file, bytes, size, err);
}

static int end_file(void *owner, enum bg_change_read how, struct bg_err *err)
{
    struct question *q = owner;
    struct entry *entry = q->current;
    if (how != BG_CHANGE_READ_WHOLE) {
        store_drop(q->store, &q->file);
        return 0;
    }
    entry->has_hash = true;
    entry->torn = false;
    return store_keep(q->store, &q->file, entry->hash, err);
}

int link_fetch(const struct link *link, const struct store *store, struct entries *guest,
               const bool *wanted, void (*on_bytes)(void *owner, size_t size), void *owner,
               struct bg_err *err)
{
    BG_AUTOFREE struct question *q = calloc(1, sizeof *q);
    BG_AUTOFREE const struct entry **items = calloc(guest->count + 1, sizeof *items);
    if (!q || !items)
        return bg_err_errno(err, -ENOMEM, "changes");
    size_t count = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < guest->count; i++) {
        if (!wanted[i])
            continue;
        items[count++] = &guest->list[i];
        if (guest->list[i].size > BG_CHANGES_BYTES_MAX - bytes)
            return bg_err_set(err, -EFBIG,
                              "the changed files have more than %llu GiB: name the paths that you "
                              "want",
                              BG_CHANGES_BYTES_MAX >> 30);
        bytes += guest->list[i].size;
    }
    if (count == 0)
        return 0;
    q->into = guest;
    q->store = store;
    q->wanted = wanted;
    q->on_bytes = on_bytes;
    q->owner = owner;
    q->records.with_contents = true;
    q->records.on_record = begin_file;
    q->records.on_bytes = take_bytes;
    q->records.on_end = end_file;
    int r = question_open(link, BG_CHANGES_FETCH, q, err);
    if (r == 0)
        r = send_items(q, items, count, err);
    if (r == 0)
        r = read_answers(q, err);
    question_done(q);
    return r;
}

/* ---- the others ---- */

int link_drop(const struct link *link, enum bg_changes_op op, const struct entry *const *items,
              size_t count, struct entries *ret_kept, struct bg_err *err)
{
    struct entries kept = {0};
    BG_AUTOFREE struct question *q = calloc(1, sizeof *q);
    if (!q)
        return bg_err_errno(err, -ENOMEM, "changes");
    q->into = &kept;
    q->records.on_record = add_record;
    int r = count > 0 ? question_open(link, op, q, err) : 0;
    if (r == 0 && count > 0)
        r = send_items(q, items, count, err);
    if (r == 0 && count > 0)
        r = read_answers(q, err);
    if (count > 0)
        question_done(q);
    if (r < 0) {
        entries_done(&kept);
        return r;
    }
    *ret_kept = kept;
    return 0;
}
