#include "host/gateway/tree_walk.h"

#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "host/gateway/path_text.h"

#define TURN_NS (BG_GATEWAY_TURN_MS * UINT64_C(1000000))

/* One folder that is being gone through. */
struct level {
    char *path;      /* as the guest takes it */
    char *entries;   /* each: a byte with its type, its name, a NUL */
    size_t used, at; /* size of those, and where the next one begins */
    size_t count;
};

struct tree_walk {
    uv_timer_t turn; /* the loop's until closed() */
    struct tree_walk_opts opts;
    char *root;                             /* NULL: begun */
    struct level levels[BG_TREE_DEPTH_MAX]; /* from the root on */
    size_t depth;                           /* of those that are in use */
    bool waiting;                           /* for an answer of the guest's */
    char *link, *target;                    /* one that is followed */
    bool freed;
};

static void closed(uv_handle_t *handle)
{
    free(handle->data);
}

void tree_walk_free(struct tree_walk *walk)
{
    struct tree_walk *w = walk;
    if (!w || w->freed)
        return;
    w->freed = true;
    for (size_t i = 0; i < w->depth; i++) {
        free(w->levels[i].path);
        free(w->levels[i].entries);
    }
    w->depth = 0;
    free(w->root);
    free(w->link);
    free(w->target);
    uv_close((uv_handle_t *)&w->turn, closed);
}

static void done(struct tree_walk *w, int status)
{
    w->opts.on_done(w->opts.owner, status);
}

/* ---- what is wanted ---- */

static bool has_ext(const struct tree_walk *w, const char *path)
{
    size_t i, size = strlen(path);
    json_t *ext;
    json_array_foreach(w->opts.exts, i, ext)
    {
        const char *text = json_string_value(ext);
        bool dot = text[0] != '.';
        size_t length = strlen(text);
        if (size >= length + dot && strcmp(path + size - length, text) == 0 &&
            (!dot || path[size - length - 1] == '.'))
            return true;
    }
    return !w->opts.exts;
}

/* 1: neither the folder nor what is in it. */
static int skipped(const struct tree_walk *w, const char *path)
{
    return w->opts.skip ? patterns_match(w->opts.skip, path) : 0;
}

static int tell(struct tree_walk *w, const char *path, const char *name, uint8_t type)
{
    const struct tree_entry entry = {.path = path, .name = name, .type = type};
    if (!has_ext(w, path))
        return 0;
    int matches = w->opts.match ? patterns_match(w->opts.match, path) : 1;
    if (matches <= 0)
        return matches;
    int skips = skipped(w, path);
    if (skips != 0)
        return skips < 0 ? skips : 0;
    return w->opts.on_entry(w->opts.owner, &entry);
}

/* ---- going down ---- */

static int call_path(struct tree_walk *w, uint8_t op, const char *path,
                     guest_files_answer *on_answer)
{
    uint8_t bytes[BG_PATH_MAX + 16];
    struct bg_writer call = bg_writer_init(bytes, sizeof bytes);
    if (strlen(path) >= BG_PATH_MAX)
        return -ENAMETOOLONG;
    bg_writer_u8(&call, op);
    if (op == BG_FILES_STAT)
        bg_writer_u8(&call, 0);
    bg_writer_text32le(&call, path);
    int r = guest_files_call(w->opts.files, &call, on_answer, w);
    w->waiting = r == 0;
    return r;
}

/* False: malformed, or too many. */
static bool keep_entries(struct level *level, struct bg_reader *in)
{
    char name[BG_NAME_MAX + 1];
    uint8_t type;
    size_t room = level->used + in->left; /* each is longer on the wire */
    char *grown = in->left > 0 ? realloc(level->entries, room) : level->entries;
    if (in->left > 0 && !grown)
        return false;
    level->entries = grown;
    while (in->left > 0) {
        if (level->count++ == BG_GATEWAY_ENTRIES_MAX || !bg_files_entry_parse(in, &type, name))
            return false;
        level->entries[level->used] = (char)type;
        memcpy(level->entries + level->used + 1, name, strlen(name) + 1);
        level->used += strlen(name) + 2;
    }
    return true;
}

static void have_list(void *owner, int status, bool more, struct bg_reader *in)
{
    struct tree_walk *w = owner;
    if (status == 0 && !keep_entries(&w->levels[w->depth - 1], in))
        status = -EPROTO;
    if (status < 0) {
        done(w, status);
    } else if (!more) {
        w->waiting = false;
        tree_walk_go_on(w);
    }
}

/* A folder: it is told, and gone into if it is not too deep or to be skipped. path: taken. */
static int take_folder(struct tree_walk *w, char *path)
{
    BG_AUTOFREE char *mine = path;
    int r = w->opts.folders_too ? tell(w, mine, path_name(mine), TREE_FOLDER) : 0;
    int skips = r == 0 && (int64_t)w->depth < w->opts.depth_max ? skipped(w, mine) : 1;
    if (r < 0 || skips != 0)
        return r < 0 ? r : skips < 0 ? skips : 0;
    if (w->depth == BG_TREE_DEPTH_MAX)
        return w->opts.follows ? -ELOOP : -ENAMETOOLONG;
    w->levels[w->depth++] = (struct level){.path = BG_TAKE(mine)};
    return call_path(w, BG_FILES_LIST, w->levels[w->depth - 1].path, have_list);
}

/* ---- links that are followed ---- */

static void have_target_type(void *owner, int status, bool more, struct bg_reader *in)
{
    struct tree_walk *w = owner;
    const struct bg_files_attributes a = bg_files_attributes_parse(in);
    if (status == 0 && (more || !bg_reader_end(in)))
        status = -EPROTO;
    w->waiting = false;
    BG_AUTOFREE char *link = BG_TAKE(w->link);
    BG_AUTOFREE char *target = BG_TAKE(w->target);
    const char *path = w->opts.canonicalizes ? target : link;
    int r = status;
    if (r == 0 && (S_ISDIR(a.mode) || S_ISLNK(a.mode))) {
        char *copy = strdup(path);
        r = copy ? take_folder(w, copy) : -ENOMEM;
    } else if (r == 0 && w->opts.files_too) {
        r = tell(w, path, path_name(link), TREE_SYMLINK);
    }
    if (r < 0)
        done(w, r);
    else
        tree_walk_go_on(w);
}

static void have_target(void *owner, int status, bool more, struct bg_reader *in)
{
    struct tree_walk *w = owner;
    size_t size = 0;
    const uint8_t *text = bg_reader_blob32le(in, BG_PATH_MAX, &size);
    if (status == 0 && (more || !bg_reader_end(in) || size == 0 || memchr(text, '\0', size)))
        status = -EPROTO;
    if (status == 0) {
        w->target = strndup((const char *)text, size);
        status = w->target ? call_path(w, BG_FILES_STAT, w->target, have_target_type) : -ENOMEM;
    }
    if (status < 0)
        done(w, status);
}

/* ---- the walk ---- */

/* The next entry of the last level. Errors: -ENOMEM, -ECONNRESET, -ENAMETOOLONG, the owner's. */
static int step(struct tree_walk *w)
{
    struct level *level = &w->levels[w->depth - 1];
    if (level->at == level->used) {
        free(level->path);
        free(level->entries);
        w->depth--;
        return 0;
    }
    uint8_t type = (uint8_t)level->entries[level->at];
    const char *name = level->entries + level->at + 1;
    level->at += strlen(name) + 2;
    BG_AUTOFREE char *path = path_join(level->path, name);
    if (!path)
        return -ENOMEM;
    if (type == TREE_FOLDER)
        return take_folder(w, BG_TAKE(path));
    if (type == TREE_SYMLINK && w->opts.follows) {
        w->link = BG_TAKE(path);
        return call_path(w, BG_FILES_REALPATH, w->link, have_target);
    }
    return (type == TREE_SYMLINK ? w->opts.links_too : w->opts.files_too)
               ? tell(w, path, name, type)
               : 0;
}

static void turn_came(uv_timer_t *timer)
{
    struct tree_walk *w = timer->data;
    char *root = BG_TAKE(w->root);
    int r = 0;
    if (root && w->opts.depth_max < 0) {
        free(root);
    } else if (root && w->opts.root_type == TREE_FOLDER) {
        r = take_folder(w, root);
    } else if (root) { /* the guest says what is wrong with it */
        w->levels[w->depth++] = (struct level){.path = root};
        r = call_path(w, BG_FILES_LIST, root, have_list);
    }
    if (r < 0)
        done(w, r);
    else
        tree_walk_go_on(w);
}

void tree_walk_go_on(struct tree_walk *walk)
{
    struct tree_walk *w = walk;
    uint64_t start = uv_hrtime();
    int r = 0;
    if (w->root) /* its first turn comes */
        return;
    while (r == 0 && w->depth > 0 && !w->waiting && w->opts.may_go_on(w->opts.owner)) {
        if (uv_hrtime() - start > TURN_NS) {
            (void)uv_timer_start(&w->turn, turn_came, 0, 0); /* fails only when closing */
            return;
        }
        r = step(w);
    }
    if (r < 0 || (w->depth == 0 && !w->waiting))
        done(w, r);
}

int tree_walk_start(uv_loop_t *loop, const struct tree_walk_opts *opts, struct tree_walk **ret)
{
    struct tree_walk *w = calloc(1, sizeof *w);
    char *root = strdup(opts->root);
    if (!w || !root || uv_timer_init(loop, &w->turn) < 0) {
        free(w);
        free(root);
        return -ENOMEM;
    }
    w->turn.data = w;
    w->opts = *opts;
    w->root = root;
    (void)uv_timer_start(&w->turn, turn_came, 0, 0); /* fails only when closing */
    *ret = w;
    return 0;
}
