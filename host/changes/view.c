#include "host/changes/view.h"

#include <string.h>

struct maker {
    const struct entries *base, *host, *guest;
    view_equal *equal;
    void *owner;
    bool held; /* the opaque folder that we are in hides something, so what is in it must stay */
    struct view view;
};

/* ---- lists ---- */

static int add_change(struct maker *m, const struct change *change)
{
    struct view *view = &m->view;
    if (view->count == view->room) {
        size_t room = view->room ? view->room * 2 : 64;
        struct change *grown = reallocarray(view->list, room, sizeof *grown);
        if (!grown)
            return -ENOMEM;
        view->list = grown;
        view->room = room;
    }
    view->list[view->count++] = *change;
    return 0;
}

static int add_same(struct maker *m, const struct entry *entry)
{
    struct view *view = &m->view;
    if (view->same_count == view->same_room) {
        size_t room = view->same_room ? view->same_room * 2 : 64;
        const struct entry **grown = reallocarray(view->same, room, sizeof *grown);
        if (!grown)
            return -ENOMEM;
        view->same = grown;
        view->same_room = room;
    }
    view->same[view->same_count++] = entry;
    return 0;
}

/* ---- one path ---- */

static const char *conflict_of(const struct entry *base, const struct entry *host)
{
    if (!base && !host)
        return NULL;
    if (!base)
        return "made on the host since";
    if (!host)
        return "removed on the host since";
    /* A folder's times change with what is in it. */
    if (base->type == BG_CHANGE_FOLDER && host->type == BG_CHANGE_FOLDER)
        return base->mode == host->mode ? NULL : "its permissions changed on the host since";
    return entry_same(base, host) ? NULL : "changed on the host since";
}

static int add(struct maker *m, enum change_kind kind, const struct entry *host,
               const struct entry *guest, bool in_opaque)
{
    const char *path = guest ? guest->path : host->path;
    const struct entry *base = entries_find(m->base, path);
    bool gone = kind == CHANGE_REMOVED;
    const struct change change = {.path = path,
                                  .kind = kind,
                                  .base = base,
                                  .host = host,
                                  .guest = gone ? NULL : guest,
                                  .marks = gone ? marks_of_path(path) : marks_of(guest, host),
                                  .conflict = conflict_of(base, host),
                                  .in_opaque = in_opaque};
    return add_change(m, &change);
}

/* Everything that the host has below path and the guest has not is gone for the guest. */
static int remove_below(struct maker *m, const char *path, bool opaque)
{
    size_t first, end;
    entries_below(m->host, path, &first, &end);
    for (size_t i = first; i < end; i++) {
        const struct entry *host = &m->host->list[i];
        const struct entry *guest = entries_find(m->guest, host->path);
        if (guest && guest->type != BG_CHANGE_REMOVED)
            continue; /* has its own turn */
        int r = add(m, CHANGE_REMOVED, host, NULL, opaque);
        if (r < 0)
            return r;
    }
    return 0;
}

static bool same_mode(const struct entry *host, const struct entry *guest)
{
    /* Set-id bits are never applied, so they are no change either. */
    return (host->mode & 0777) == (guest->mode & 0777);
}

/* Both have a thing of the same type. */
static int compare(struct maker *m, const struct entry *host, const struct entry *guest,
                   bool in_opaque)
{
    bool same = true;
    if (guest->type == BG_CHANGE_SYMLINK) {
        same = strcmp(host->target, guest->target) == 0;
    } else if (guest->type == BG_CHANGE_FILE) {
        same = host->size == guest->size && !guest->torn;
        int r = same ? m->equal(m->owner, host, guest) : 0;
        if (r < 0)
            return r;
        same = same && r > 0;
    }
    if (!same)
        return add(m, CHANGE_MODIFIED, host, guest, in_opaque);
    if (guest->type != BG_CHANGE_SYMLINK && !same_mode(host, guest))
        return add(m, CHANGE_MODE, host, guest, in_opaque);
    bool stays = guest->type == BG_CHANGE_FOLDER || (in_opaque && m->held);
    return stays ? 0 : add_same(m, guest);
}

static int take_removed(struct maker *m, const struct entry *guest)
{
    const struct entry *host = entries_find(m->host, guest->path);
    if (!host)
        return add_same(m, guest);
    int r = add(m, CHANGE_REMOVED, host, guest, false);
    return r < 0 || host->type != BG_CHANGE_FOLDER ? r : remove_below(m, guest->path, false);
}

/* in_opaque: a folder above hides what the host has. */
static int take(struct maker *m, const struct entry *guest, bool in_opaque)
{
    const struct entry *host = entries_find(m->host, guest->path);
    if (guest->type == BG_CHANGE_REMOVED)
        return in_opaque ? 0 : take_removed(m, guest); /* else remove_below had it */
    if (!host)
        return add(m, CHANGE_ADDED, NULL, guest, in_opaque);
    if (host->type != guest->type) {
        int r = add(m, CHANGE_TYPE, host, guest, in_opaque);
        /* In an opaque folder all that is below was told with it. */
        return r < 0 || in_opaque || host->type != BG_CHANGE_FOLDER
                   ? r
                   : remove_below(m, guest->path, false);
    }
    bool opaque = guest->flags & BG_CHANGE_OPAQUE;
    size_t before = m->view.count;
    int r = opaque && !in_opaque ? remove_below(m, guest->path, true) : 0;
    bool hides = m->view.count > before;
    if (!in_opaque)
        m->held = hides;
    if (r == 0)
        r = compare(m, host, guest, in_opaque);
    /* Opaque, but it hides nothing (any more). */
    return r == 0 && opaque && !in_opaque && !hides ? add_same(m, guest) : r;
}

static int compare_changes(const void *a, const void *b)
{
    const struct change *x = a, *y = b;
    return path_compare(x->path, y->path);
}

int view_make(const struct entries *base, const struct entries *host, const struct entries *guest,
              view_equal *equal, void *owner, struct view *ret)
{
    struct maker m = {.base = base, .host = host, .guest = guest, .equal = equal, .owner = owner};
    const char *opaque = NULL; /* the outermost such folder that we are in */
    int r = 0;
    for (size_t i = 0; r == 0 && i < guest->count; i++) {
        const struct entry *entry = &guest->list[i];
        bool in_opaque = opaque && path_within(entry->path, opaque);
        r = take(&m, entry, in_opaque);
        if (!in_opaque)
            opaque = entry->type == BG_CHANGE_FOLDER && (entry->flags & BG_CHANGE_OPAQUE)
                         ? entry->path
                         : NULL;
    }
    if (r < 0) {
        view_done(&m.view);
        return r;
    }
    if (m.view.count > 1)
        qsort(m.view.list, m.view.count, sizeof *m.view.list, compare_changes);
    *ret = m.view;
    return 0;
}

void view_done(struct view *view)
{
    free(view->list);
    free(view->same);
    *view = (struct view){0};
}

const struct change *view_find(const struct view *view, const char *path)
{
    size_t low = 0, high = view->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = path_compare(view->list[middle].path, path);
        if (order == 0)
            return &view->list[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

int view_new_base(const struct view *view, const struct entries *base, const struct entries *host,
                  struct entries *ret)
{
    struct entries list = {0};
    int r = 0;
    for (size_t i = 0; r == 0 && i < host->count; i++)
        if (!view_find(view, host->list[i].path))
            r = entries_copy(&list, &host->list[i]);
    for (size_t i = 0; r == 0 && i < base->count; i++)
        if (view_find(view, base->list[i].path))
            r = entries_copy(&list, &base->list[i]);
    if (r < 0) {
        entries_done(&list);
        return r;
    }
    entries_sort(&list);
    *ret = list;
    return 0;
}
