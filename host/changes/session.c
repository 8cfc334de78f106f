#include "host/changes/session.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "host/changes/scan.h"
#include "host/cli/output.h"

#define PROGRESS_FROM     (4u << 20) /* bytes; less is over before anybody wonders */
#define PROGRESS_EVERY_MS 500

int session_open(struct app *app, const struct bg_sandbox *sandbox, const struct bg_share *share,
                 struct session *ret, struct bg_err *err)
{
    struct session s = {.link = {.app = app, .sandbox = sandbox, .share = share->id}, .root = -1};
    int r = store_open(sandbox, share, &s.store, err);
    if (r < 0)
        return r;
    s.root = open(share->host, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s.root < 0) {
        r = bg_err_errno(err, -errno, "the shared folder %s", share->host);
        session_close(&s);
        return r;
    }
    *ret = s;
    return 0;
}

void session_close(struct session *session)
{
    view_done(&session->view);
    entries_done(&session->base);
    entries_done(&session->host);
    entries_done(&session->guest);
    entries_done(&session->shown);
    bg_cleanup_close(&session->root);
    store_close(&session->store);
}

/* ---- contents ---- */

static char *read_whole(int fd, uint64_t size)
{
    char *bytes = size <= BG_CHANGES_TEXT_MAX ? malloc((size_t)size + 1) : NULL;
    if (bytes && bg_read_full(fd, bytes, (size_t)size) < 0) {
        free(bytes);
        return NULL;
    }
    return bytes;
}

char *session_read_host(const struct session *session, const struct entry *entry)
{
    BG_AUTOCLOSE int fd = scan_open(session->root, entry->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    return fd < 0 ? NULL : read_whole(fd, entry->size);
}

char *session_read_guest(const struct session *session, const struct entry *entry)
{
    BG_AUTOCLOSE int fd = entry->has_hash ? store_read(&session->store, entry->hash) : -ENOENT;
    return fd < 0 ? NULL : read_whole(fd, entry->size);
}

int session_hash_host(const struct session *session, const struct entry *entry,
                      uint8_t ret[BG_SHA256_SIZE])
{
    BG_AUTOCLOSE int fd = scan_open(session->root, entry->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    return fd < 0 ? fd : bg_sha256_fd(fd, ret);
}

static int equal(void *owner, const struct entry *host, const struct entry *guest)
{
    uint8_t hash[BG_SHA256_SIZE];
    /* What cannot be read differs: a person decides then. */
    return guest->has_hash && session_hash_host(owner, host, hash) == 0 &&
           memcmp(hash, guest->hash, sizeof hash) == 0;
}

/* ---- loading ---- */

static int load_or_empty(const struct session *s, const char *name, struct entries *ret,
                         bool *ret_there, struct bg_err *err)
{
    int r = entries_load(s->store.dir, name, ret, err);
    *ret_there = r == 0;
    return r == -ENOENT ? 0 : r;
}

static bool wanted_by(const struct entry *entry, const char *const *paths)
{
    if (entry->type != BG_CHANGE_FILE || entry->has_hash)
        return false;
    if (!paths || !paths[0])
        return true;
    for (size_t i = 0; paths[i]; i++)
        if (path_within(entry->path, paths[i]))
            return true;
    return false;
}

struct progress {
    uint64_t total, done, said_ms;
};

static void say_progress(void *owner, size_t size)
{
    struct progress *p = owner;
    uint64_t now_ms = bg_now_ms();
    p->done += size;
    if (p->total < PROGRESS_FROM || now_ms < p->said_ms + PROGRESS_EVERY_MS)
        return;
    p->said_ms = now_ms;
    char done[OUTPUT_SIZE_SIZE], total[OUTPUT_SIZE_SIZE];
    output_size(p->done, done);
    output_size(p->total, total);
    (void)fprintf(stderr, "\rfetching the changed files: %s of %s\x1b[K", done, total);
}

static int fetch(struct session *s, const char *const *paths, bool progress, struct bg_err *err)
{
    BG_AUTOFREE bool *wanted = calloc(s->guest.count + 1, sizeof *wanted);
    struct progress p = {0};
    if (!wanted)
        return bg_err_errno(err, -ENOMEM, "changes");
    for (size_t i = 0; i < s->guest.count; i++) {
        struct entry *entry = &s->guest.list[i];
        const struct entry *shown = entries_find(&s->shown, entry->path);
        if (shown && shown->has_hash && entry_same(shown, entry)) {
            entry->has_hash = true;
            memcpy(entry->hash, shown->hash, sizeof entry->hash);
        }
        wanted[i] = wanted_by(entry, paths);
        p.total += wanted[i] ? entry->size : 0;
    }
    int r =
        link_fetch(&s->link, &s->store, &s->guest, wanted, progress ? say_progress : NULL, &p, err);
    if (p.said_ms > 0)
        (void)fputs("\r\x1b[K", stderr);
    return r;
}

static int make_view(struct session *s, struct bg_err *err)
{
    struct entries fresh;
    view_done(&s->view);
    int r = view_make(&s->base, &s->host, &s->guest, equal, s, &s->view);
    if (r == 0)
        r = view_new_base(&s->view, &s->base, &s->host, &fresh);
    if (r < 0)
        return bg_err_errno(err, r, "comparing");
    r = entries_save(&fresh, s->store.dir, "base", err);
    entries_done(&fresh);
    return r;
}

int session_load(struct session *s, const char *const *paths, bool contents, bool progress,
                 struct bg_err *err)
{
    bool has_base = false;
    int r = load_or_empty(s, "base", &s->base, &has_base, err);
    if (r == 0)
        r = load_or_empty(s, "shown", &s->shown, &s->has_shown, err);
    /* First the host's side, then the guest's: what the guest has not touched by then it saw as it
     * is now, or newer. */
    if (r == 0)
        r = scan_folder(s->root, &s->host, err);
    if (r == 0)
        r = link_list(&s->link, &s->guest, err);
    if (r == 0 && contents)
        r = fetch(s, paths, progress, err);
    if (r == 0)
        r = make_view(s, err);
    return r;
}

bool session_was_shown(const struct session *session, const struct entry *guest)
{
    const struct entry *shown = entries_find(&session->shown, guest->path);
    return shown && entry_same(shown, guest) && (guest->type != BG_CHANGE_FILE || shown->has_hash);
}

int session_note_shown(struct session *session, struct bg_err *err)
{
    int r = entries_save(&session->guest, session->store.dir, "shown", err);
    if (r == 0)
        store_sweep(&session->store, &session->guest);
    return r;
}

int session_settle(struct session *s, size_t *ret_kept, struct bg_err *err)
{
    struct entries kept, host;
    int r = scan_folder(s->root, &host, err);
    if (r < 0)
        return r;
    view_done(&s->view); /* it borrows from the old one */
    entries_done(&s->host);
    s->host = host;
    r = make_view(s, err);
    if (r == 0)
        r = link_drop(&s->link, BG_CHANGES_SETTLE, s->view.same, s->view.same_count, &kept, err);
    if (r < 0)
        return r;
    *ret_kept = kept.count;
    entries_done(&kept);
    return 0;
}
