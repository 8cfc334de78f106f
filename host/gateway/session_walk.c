/* walk: a folder and what is in it, depth first, in the order in which the guest lists it. One list
 * is asked for at a time, and none while the client does not read. */
#include <string.h>
#include <sys/stat.h>

#include "common/limits.h"
#include "host/gateway/fault.h"
#include "host/gateway/guest_files.h"
#include "host/gateway/session_state.h"
#include "host/gateway/text.h"

#define TYPE_FOLDER  (S_IFDIR >> 12)
#define TYPE_FILE    (S_IFREG >> 12)
#define TYPE_SYMLINK (S_IFLNK >> 12)

/* One folder that is being gone through. */
struct level {
    char *path;      /* as the guest takes it */
    char *entries;   /* each: a byte with its type, its name, a NUL */
    size_t used, at; /* size of those, and where the next one begins */
    size_t count;
};

struct walk {
    LIST_ENTRY(walk) link;
    struct session *session;
    struct guest_files *files;
    json_t *id;   /* NULL: answered */
    json_t *exts; /* texts that one of which a path must end with; NULL: none */
    char *doing;
    int64_t depth_max;
    bool files_too, folders_too, links_too;
    struct outbound out;
    struct level levels[BG_TREE_DEPTH_MAX]; /* from the root on */
    size_t depth;                           /* of those that are in use */
    bool listing;                           /* the last one's list has not come yet */
};

static void walk_free(struct walk *w)
{
    guest_files_close(w->files);
    LIST_REMOVE(w, link);
    for (size_t i = 0; i < w->depth; i++) {
        free(w->levels[i].path);
        free(w->levels[i].entries);
    }
    json_decref(w->id);
    json_decref(w->exts);
    free(w->doing);
    free(w);
}

static void cancelled(void *owner)
{
    walk_free(owner);
}

static void fail(struct walk *w, int status)
{
    json_t *error = fault_errno(status, w->doing);
    if (w->id)
        session_throw(w->session, w->id, error);
    else
        session_stream_break(w->session, &w->out, error);
    walk_free(w);
}

/* As JavaScript's path.join: no "./" in front, one slash between. Heap; NULL: out of memory. */
static char *join(const char *folder, const char *name)
{
    char *path = NULL;
    size_t size = strlen(folder);
    while (size > 0 && folder[size - 1] == '/')
        size--;
    bool here = size == 1 && folder[0] == '.';
    return asprintf(&path, "%.*s%s%s", here ? 0 : (int)size, folder, here ? "" : "/", name) < 0
               ? NULL
               : path;
}

static bool wanted(const struct walk *w, const char *path)
{
    size_t i, size = strlen(path);
    json_t *ext;
    json_array_foreach(w->exts, i, ext)
    {
        const char *text = json_string_value(ext);
        bool dot = text[0] != '.';
        size_t length = strlen(text);
        if (size >= length + dot && strcmp(path + size - length, text) == 0 &&
            (!dot || path[size - length - 1] == '.'))
            return true;
    }
    return !w->exts;
}

/* Tells the client of one. Errors: -ENOMEM. */
static int tell(struct walk *w, const char *path, uint8_t type)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash && slash[1] ? slash + 1 : path;
    if (!wanted(w, path))
        return 0;
    json_auto_t *entry =
        json_pack("{s:o, s:o, s:b, s:b, s:b}", "path", text_lossy(path, strlen(path)), "name",
                  text_lossy(name, strlen(name)), "isFile", type == TYPE_FILE, "isDirectory",
                  type == TYPE_FOLDER, "isSymlink", type == TYPE_SYMLINK);
    BG_AUTOFREE char *text = entry ? json_dumps(entry, JSON_COMPACT) : NULL;
    if (!text)
        return -ENOMEM;
    session_stream_send(w->session, &w->out, text, strlen(text));
    return 0;
}

static void have_list(void *owner, int status, bool more, struct bg_reader *in);

/* Goes one level down. path: taken; NULL: out of memory. */
static int enter(struct walk *w, char *path)
{
    uint8_t bytes[BG_PATH_MAX + 16];
    struct bg_writer call = bg_writer_init(bytes, sizeof bytes);
    if (!path)
        return -ENOMEM;
    if (w->depth == BG_TREE_DEPTH_MAX || strlen(path) >= BG_PATH_MAX) {
        free(path);
        return -ENAMETOOLONG;
    }
    w->levels[w->depth++] = (struct level){.path = path};
    bg_writer_u8(&call, BG_FILES_LIST);
    bg_writer_text32le(&call, path);
    w->listing = true;
    return guest_files_call(w->files, &call, have_list, w);
}

/* The next entry of the last level. Errors: -ENOMEM, -ECONNRESET, -ENAMETOOLONG. */
static int step(struct walk *w)
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
    BG_AUTOFREE char *path = join(level->path, name);
    if (!path)
        return -ENOMEM;
    if (type == TYPE_FOLDER) {
        int r = w->folders_too ? tell(w, path, type) : 0;
        return r < 0 || (int64_t)w->depth >= w->depth_max ? r : enter(w, BG_TAKE(path));
    }
    return (type == TYPE_SYMLINK ? w->links_too : w->files_too) ? tell(w, path, type) : 0;
}

/* Goes on as far as it may. May free w. */
static void go_on(struct walk *w)
{
    int r = 0;
    while (r == 0 && w->depth > 0 && !w->listing && !w->session->congested && w->out.open)
        r = step(w);
    if (r < 0) {
        fail(w, r);
    } else if (w->depth == 0) {
        session_stream_end(w->session, &w->out);
        walk_free(w);
    }
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
    struct walk *w = owner;
    if (status == 0 && !keep_entries(&w->levels[w->depth - 1], in))
        status = -EPROTO;
    if (status < 0) {
        fail(w, status);
    } else if (!more) {
        w->listing = false;
        go_on(w);
    }
}

static void have_root(void *owner, int status, bool more, struct bg_reader *in)
{
    struct walk *w = owner;
    struct session *s = w->session;
    const struct bg_files_attributes a = bg_files_attributes_parse(in);
    if (status == 0 && (more || !bg_reader_end(in)))
        status = -EPROTO;
    if (status < 0) {
        fail(w, status);
        return;
    }
    w->out.on_cancel = cancelled;
    w->out.owner = w;
    session_stream_start(s, &w->out);
    json_t *id = BG_TAKE(w->id);
    session_reply(s, id, json_pack("{s:I}", "streamId", (json_int_t)w->out.id));
    json_decref(id);
    char *root = BG_TAKE(w->levels[0].path);
    w->depth = 0;
    int r = w->folders_too ? tell(w, root, (uint8_t)((a.mode & S_IFMT) >> 12)) : 0;
    if (r == 0 && w->depth_max >= 1)
        r = enter(w, root);
    else
        free(root);
    if (r < 0)
        fail(w, r);
    else
        go_on(w);
}

static int start(struct walk *w, const char *path)
{
    struct session *s = w->session;
    uint8_t bytes[BG_PATH_MAX + 16];
    struct bg_writer call = bg_writer_init(bytes, sizeof bytes);
    struct bg_err err;
    if (strlen(path) >= BG_PATH_MAX)
        return -ENAMETOOLONG;
    bg_writer_u8(&call, BG_FILES_STAT);
    bg_writer_u8(&call, 1);
    bg_writer_text32le(&call, path);
    int r = guest_files_open(s->opts.shared->loop, s->opts.shared->paths, &s->opts.entry->sandbox,
                             s->umask, &w->files, &err);
    return r < 0 ? r : guest_files_call(w->files, &call, have_root, w);
}

void method_walk(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *path = rpc_text(params, "path");
    const json_t *exts = rpc_texts(params, "exts");
    int64_t depth_max = rpc_number_or(params, "maxDepth", INT64_MIN, INT64_MAX, INT64_MAX);
    bool files_too = rpc_flag(params, "includeFiles", true);
    bool folders_too = rpc_flag(params, "includeDirs", true);
    bool links_too = rpc_flag(params, "includeSymlinks", true);
    bool follows = rpc_flag(params, "followSymlinks", false);
    if (!rpc_params_ok(params))
        return;
    if (follows || rpc_has(params, "match") || rpc_has(params, "skip")) {
        session_throw(s, id,
                      fault_new("NotSupported",
                                "walk: bellglass serve has no followSymlinks, match and skip"));
        return;
    }
    struct walk *w = calloc(1, sizeof *w);
    if (!w) {
        session_throw(s, id, fault_errno(-ENOMEM, "walk"));
        return;
    }
    w->session = s;
    w->id = json_deep_copy(id);
    w->exts = json_deep_copy(exts);
    w->doing = session_doing("walk", path);
    w->depth_max = depth_max;
    w->files_too = files_too;
    w->folders_too = folders_too;
    w->links_too = links_too;
    w->levels[0].path = strdup(path);
    w->depth = 1;
    LIST_INSERT_HEAD(&s->walks, w, link);
    int r = w->id && w->doing && w->levels[0].path ? start(w, path) : -ENOMEM;
    if (r < 0)
        fail(w, r);
}

void session_walks_congested(struct session *s, bool congested)
{
    struct walk *w, *next;
    for (w = congested ? NULL : LIST_FIRST(&s->walks); w; w = next) {
        next = LIST_NEXT(w, link);
        if (!w->id)
            go_on(w);
    }
}

void session_walks_close(struct session *s)
{
    while (!LIST_EMPTY(&s->walks))
        walk_free(LIST_FIRST(&s->walks));
}
