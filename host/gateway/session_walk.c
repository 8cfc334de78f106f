/* walk: tree_walk's entries as a stream, and what expandGlob shares with it. */
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "host/gateway/fault.h"
#include "host/gateway/session_state.h"
#include "host/gateway/session_tree.h"
#include "host/gateway/text.h"

struct walk {
    LIST_ENTRY(walk) link;
    struct session *session;
    struct guest_files *files;
    struct tree_walk *tree; /* NULL: not yet begun */
    json_t *id;             /* NULL: answered */
    json_t *exts;
    struct patterns match, skip;
    bool has_match;
    char *path, *doing;
    struct tree_walk_opts opts;
    struct outbound out;
};

/* ---- shared with expandGlob ---- */

int session_tell_entry(struct session *s, struct outbound *out, const struct tree_entry *entry)
{
    json_auto_t *json = json_pack(
        "{s:o, s:o, s:b, s:b, s:b}", "path", text_lossy(entry->path, strlen(entry->path)), "name",
        text_lossy(entry->name, strlen(entry->name)), "isFile", entry->type == TREE_FILE,
        "isDirectory", entry->type == TREE_FOLDER, "isSymlink", entry->type == TREE_SYMLINK);
    BG_AUTOFREE char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    if (!text)
        return -ENOMEM;
    session_stream_send(s, out, text, strlen(text));
    return 0;
}

json_t *session_tree_fault(int status, const char *doing)
{
    char text[512];
    if (status != -EOVERFLOW)
        return fault_errno(status, doing);
    (void)snprintf(text, sizeof text, "%.256s: a pattern takes too much work on one of the paths",
                   doing);
    return fault_new("Error", text);
}

/* ---- walk ---- */

static void walk_free(struct walk *w)
{
    tree_walk_free(w->tree);
    guest_files_close(w->files);
    LIST_REMOVE(w, link);
    patterns_done(&w->match);
    patterns_done(&w->skip);
    json_decref(w->id);
    json_decref(w->exts);
    free(w->path);
    free(w->doing);
    free(w);
}

static void cancelled(void *owner)
{
    walk_free(owner);
}

static void fail(struct walk *w, int status)
{
    json_t *error = session_tree_fault(status, w->doing);
    if (w->id)
        session_throw(w->session, w->id, error);
    else
        session_stream_break(w->session, &w->out, error);
    walk_free(w);
}

static int on_entry(void *owner, const struct tree_entry *entry)
{
    struct walk *w = owner;
    return session_tell_entry(w->session, &w->out, entry);
}

static bool may_go_on(void *owner)
{
    const struct walk *w = owner;
    return !w->session->congested && w->out.open;
}

static void on_done(void *owner, int status)
{
    struct walk *w = owner;
    if (status < 0) {
        fail(w, status);
        return;
    }
    session_stream_end(w->session, &w->out);
    walk_free(w);
}

static void have_root(void *owner, int status, bool more, struct bg_reader *in)
{
    struct walk *w = owner;
    struct session *s = w->session;
    const struct bg_files_attributes a = bg_files_attributes_parse(in);
    if (status == 0 && (more || !bg_reader_end(in)))
        status = -EPROTO;
    if (status == 0) {
        w->opts.files = w->files;
        w->opts.root = w->path;
        w->opts.root_type = (uint8_t)((a.mode & S_IFMT) >> 12);
        w->opts.exts = w->exts;
        w->opts.match = w->has_match ? &w->match : NULL;
        w->opts.skip = &w->skip;
        w->opts.on_entry = on_entry;
        w->opts.may_go_on = may_go_on;
        w->opts.on_done = on_done;
        w->opts.owner = w;
        status = tree_walk_start(s->opts.shared->loop, &w->opts, &w->tree);
    }
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
}

int session_stat(struct guest_files *files, const char *path, guest_files_answer *on_answer,
                 void *owner)
{
    uint8_t bytes[BG_PATH_MAX + 16];
    struct bg_writer call = bg_writer_init(bytes, sizeof bytes);
    if (strlen(path) >= BG_PATH_MAX)
        return -ENAMETOOLONG;
    bg_writer_u8(&call, BG_FILES_STAT);
    bg_writer_u8(&call, 1);
    bg_writer_text32le(&call, path);
    return guest_files_call(files, &call, on_answer, owner);
}

/* A list of {source, flags}. Errors: -EINVAL, with its text; -ENOMEM. */
static int read_patterns(const json_t *list, struct patterns *ret, struct bg_err *err)
{
    size_t i;
    json_t *one;
    int r = 0;
    json_array_foreach(list, i, one)
    {
        const json_t *source = json_object_get(one, "source");
        const char *flags = json_string_value(json_object_get(one, "flags"));
        struct pattern *pattern = NULL;
        const char *text = json_string_value(source);
        if (!text || !flags || strlen(text) != json_string_length(source))
            return bg_err_set(err, -EINVAL, "a pattern is not {source, flags}");
        r = pattern_from_regexp(text, flags, &pattern, err);
        if (r == 0 && patterns_add(ret, pattern) < 0)
            r = bg_err_set(err, -EINVAL, "more than %d patterns", BG_GATEWAY_PATTERNS_MAX);
        if (r < 0)
            return r;
    }
    return 0;
}

void method_walk(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *path = rpc_text(params, "path");
    const json_t *exts = rpc_texts(params, "exts");
    const struct tree_walk_opts opts = {
        .depth_max = rpc_number_or(params, "maxDepth", INT64_MIN, INT64_MAX, INT64_MAX),
        .files_too = rpc_flag(params, "includeFiles", true),
        .folders_too = rpc_flag(params, "includeDirs", true),
        .links_too = rpc_flag(params, "includeSymlinks", true),
        .follows = rpc_flag(params, "followSymlinks", false),
        .canonicalizes = rpc_flag(params, "canonicalize", true)};
    const json_t *match = json_object_get(params->object, "match");
    const json_t *skip = json_object_get(params->object, "skip");
    struct bg_err err;
    if (rpc_has(params, "match") && !json_is_array(match))
        rpc_complain(params, "match", "an array");
    if (rpc_has(params, "skip") && !json_is_array(skip))
        rpc_complain(params, "skip", "an array");
    if (!rpc_params_ok(params))
        return;
    struct walk *w = calloc(1, sizeof *w);
    if (!w) {
        session_throw(s, id, fault_errno(-ENOMEM, "walk"));
        return;
    }
    w->session = s;
    w->id = json_deep_copy(id);
    w->exts = json_deep_copy(exts);
    w->path = strdup(path);
    w->doing = session_doing("walk", path);
    w->opts = opts;
    w->has_match = rpc_has(params, "match");
    LIST_INSERT_HEAD(&s->walks, w, link);
    int r = read_patterns(match, &w->match, &err);
    if (r == 0)
        r = read_patterns(skip, &w->skip, &err);
    if (r < 0) {
        session_throw(s, id, fault_new("TypeError", err.text));
        walk_free(w);
        return;
    }
    r = w->id && w->doing && w->path ? 0 : -ENOMEM;
    if (r == 0)
        r = guest_files_open(s->opts.shared->loop, s->opts.shared->paths, &s->opts.entry->sandbox,
                             s->umask, &w->files, &err);
    if (r == 0)
        r = session_stat(w->files, w->path, have_root, w);
    if (r < 0)
        fail(w, r);
}

/* ---- all of them ---- */

void session_walks_congested(struct session *s, bool congested)
{
    struct walk *w, *next;
    for (w = congested ? NULL : LIST_FIRST(&s->walks); w; w = next) {
        next = LIST_NEXT(w, link);
        if (w->tree)
            tree_walk_go_on(w->tree);
    }
}

void session_walks_close(struct session *s)
{
    while (!LIST_EMPTY(&s->walks))
        walk_free(LIST_FIRST(&s->walks));
}
