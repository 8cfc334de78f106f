/* expandGlob: segment by segment, each over what the one before it has found, as the library of the
 * SDK does it: names that are no patterns are gone to at once, `..` goes up, `**` is a walk,
 * anything else is looked for in each folder found. What the last one found is told in the order of
 * paths. */
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "host/gateway/fault.h"
#include "host/gateway/path_text.h"
#include "host/gateway/session_state.h"
#include "host/gateway/session_tree.h"

#define HOME "/home/app" /* where relative paths begin */

struct match {
    char *path;
    uint8_t type;
};

struct matches {
    struct match *list;
    size_t count, room;
};

struct glob {
    LIST_ENTRY(glob) link;
    struct session *session;
    struct guest_files *files;
    struct tree_walk *tree; /* of the match that is being gone through; NULL: none */
    json_t *id;             /* NULL: answered */
    char *doing;
    char *text, **segments;        /* text: what they point into */
    size_t segment_count, segment; /* and which one is at work */
    struct pattern *pattern;       /* of that one; NULL: `..` or `**` */
    struct patterns exclude;
    struct glob_opts opts;
    bool folders_too, follows, canonicalizes, folders_only;
    struct matches matches, found; /* of the segment before, and of this one */
    size_t at;                     /* of the matches, or of what is told in the end */
    bool telling;
    struct outbound out;
};

static void matches_done(struct matches *m)
{
    for (size_t i = 0; i < m->count; i++)
        free(m->list[i].path);
    free(m->list);
    *m = (struct matches){0};
}

static void glob_free(struct glob *g)
{
    tree_walk_free(g->tree);
    guest_files_close(g->files);
    LIST_REMOVE(g, link);
    matches_done(&g->matches);
    matches_done(&g->found);
    patterns_done(&g->exclude);
    pattern_free(g->pattern);
    json_decref(g->id);
    free(g->doing);
    free(g->text);
    free(g->segments);
    free(g);
}

static void cancelled(void *owner)
{
    glob_free(owner);
}

static void fail(struct glob *g, int status)
{
    json_t *error = session_tree_fault(status, g->doing);
    if (g->id)
        session_throw(g->session, g->id, error);
    else
        session_stream_break(g->session, &g->out, error);
    glob_free(g);
}

/* path: taken; NULL: out of memory. Errors: -ENOMEM; -E2BIG BG_GATEWAY_ENTRIES_MAX. */
static int add(struct matches *m, char *path, uint8_t type)
{
    if (m->count == m->room && path) {
        size_t room = m->room ? m->room * 2 : 64;
        struct match *grown =
            m->count < BG_GATEWAY_ENTRIES_MAX ? reallocarray(m->list, room, sizeof *grown) : NULL;
        if (!grown) {
            free(path);
            return m->count < BG_GATEWAY_ENTRIES_MAX ? -ENOMEM : -E2BIG;
        }
        m->list = grown;
        m->room = room;
    }
    if (!path)
        return -ENOMEM;
    m->list[m->count++] = (struct match){.path = path, .type = type};
    return 0;
}

static int by_path(const void *a, const void *b)
{
    const struct match *left = a, *right = b;
    return strcmp(left->path, right->path);
}

/* In the order of paths, each once. */
static void sort(struct matches *m)
{
    size_t kept = 0;
    if (m->count > 0)
        qsort(m->list, m->count, sizeof *m->list, by_path);
    for (size_t i = 0; i < m->count; i++) {
        if (kept > 0 && strcmp(m->list[kept - 1].path, m->list[i].path) == 0)
            free(m->list[i].path);
        else
            m->list[kept++] = m->list[i];
    }
    m->count = kept;
}

/* ---- one segment ---- */

static void go_on(struct glob *g);

static int on_entry(void *owner, const struct tree_entry *entry)
{
    struct glob *g = owner;
    int matches = 1;
    if (g->pattern) {
        if (strcmp(entry->path, g->matches.list[g->at].path) == 0)
            return 0;
        matches = pattern_matches(g->pattern, entry->name);
    }
    return matches <= 0 ? matches : add(&g->found, strdup(entry->path), entry->type);
}

static bool may_go_on(void *owner)
{
    (void)owner; /* nothing is told until all is found */
    return true;
}

static void on_done(void *owner, int status)
{
    struct glob *g = owner;
    if (status < 0) {
        fail(g, status);
        return;
    }
    tree_walk_free(BG_TAKE(g->tree));
    g->at++;
    go_on(g);
}

static int walk(struct glob *g, int64_t depth_max)
{
    const struct match *match = &g->matches.list[g->at];
    const struct tree_walk_opts opts = {.files = g->files,
                                        .root = match->path,
                                        .root_type = match->type,
                                        .depth_max = depth_max,
                                        .files_too = true,
                                        .folders_too = true,
                                        .links_too = true,
                                        .follows = g->follows,
                                        .canonicalizes = g->canonicalizes,
                                        .skip = &g->exclude,
                                        .on_entry = on_entry,
                                        .may_go_on = may_go_on,
                                        .on_done = on_done,
                                        .owner = g};
    return tree_walk_start(g->session->opts.shared->loop, &opts, &g->tree);
}

static void have_parent(void *owner, int status, bool more, struct bg_reader *in)
{
    struct glob *g = owner;
    const struct bg_files_attributes a = bg_files_attributes_parse(in);
    if (status == 0 && (more || !bg_reader_end(in)))
        status = -EPROTO;
    if (status == 0)
        status = add(&g->found, path_resolve(g->matches.list[g->at].path, ".."),
                     (uint8_t)((a.mode & S_IFMT) >> 12));
    if (status < 0) {
        fail(g, status);
        return;
    }
    g->at++;
    go_on(g);
}

/* 1: an answer is to come; 0: nothing is found in this match. */
static int expand(struct glob *g)
{
    const char *segment = g->segments[g->segment];
    const struct match *match = &g->matches.list[g->at];
    int r;
    if (match->type != TREE_FOLDER)
        return 0;
    if (strcmp(segment, "..") == 0) {
        BG_AUTOFREE char *parent = path_resolve(match->path, "..");
        r = parent ? patterns_match(&g->exclude, parent) : -ENOMEM;
        if (r == 0)
            r = session_stat(g->files, parent, have_parent, g);
        else if (r > 0)
            return 0;
    } else if (strcmp(segment, "**") == 0) {
        r = walk(g, g->opts.globstar ? INT64_MAX : 1);
    } else {
        r = walk(g, 1);
    }
    return r < 0 ? r : 1;
}

/* The pattern of the segment that is to come. Errors: -EINVAL; -ENOMEM. */
static int begin_segment(struct glob *g)
{
    struct bg_err err;
    pattern_free(BG_TAKE(g->pattern));
    g->at = 0;
    if (g->segment == g->segment_count || strcmp(g->segments[g->segment], "..") == 0 ||
        strcmp(g->segments[g->segment], "**") == 0)
        return 0;
    return pattern_from_glob(g->segments[g->segment], &g->opts, &g->pattern, &err);
}

/* ---- what was found ---- */

static void tell(struct glob *g)
{
    struct session *s = g->session;
    int r = 0;
    g->telling = true;
    while (r == 0 && g->at < g->matches.count && !s->congested && g->out.open) {
        const struct match *match = &g->matches.list[g->at++];
        const struct tree_entry entry = {
            .path = match->path, .name = path_name(match->path), .type = match->type};
        bool folder = match->type == TREE_FOLDER;
        if (folder ? g->folders_too : !g->folders_only)
            r = session_tell_entry(s, &g->out, &entry);
    }
    if (r < 0) {
        fail(g, r);
    } else if (g->at == g->matches.count) {
        session_stream_end(s, &g->out);
        glob_free(g);
    }
}

static void go_on(struct glob *g)
{
    int r = 0;
    while (r == 0 && g->segment < g->segment_count) {
        if (g->at < g->matches.count) {
            r = expand(g);
            g->at += r == 0;
            continue;
        }
        matches_done(&g->matches);
        sort(&g->found);
        g->matches = g->found;
        g->found = (struct matches){0};
        g->segment++;
        r = begin_segment(g);
    }
    if (r < 0)
        fail(g, r);
    else if (r == 0)
        tell(g);
}

/* ---- the call ---- */

/* Cuts the glob into segments; root: where it begins. Returns the path that those at its beginning
 * lead to which are no patterns: heap. NULL: out of memory. */
static char *split(struct glob *g, const char *root)
{
    char *path = path_resolve(g->text[0] == '/' ? "/" : HOME, g->text[0] == '/' ? "" : root);
    size_t size = strlen(g->text);
    g->folders_only = size > 0 && g->text[size - 1] == '/';
    g->segments = calloc(size / 2 + 1, sizeof *g->segments);
    bool fixed = true;
    for (char *at = g->text; g->segments && path && *(at += strspn(at, "/"));) {
        size_t length = strcspn(at, "/");
        bool last = at[length] == '\0';
        at[length] = '\0';
        fixed = fixed && !glob_is_pattern(at, length);
        if (fixed) {
            BG_AUTOFREE char *before = BG_TAKE(path);
            BG_AUTOFREE char *name = malloc(length + 1);
            if (name) {
                glob_unescape(at, length, name);
                path = path_resolve(before, name);
            }
        } else {
            g->segments[g->segment_count++] = at;
        }
        at += last ? length : length + 1;
    }
    if (g->segments)
        return path;
    free(path);
    return NULL;
}

static void have_root(void *owner, int status, bool more, struct bg_reader *in)
{
    struct glob *g = owner;
    struct session *s = g->session;
    const struct bg_files_attributes a = bg_files_attributes_parse(in);
    if (status == 0 && (more || !bg_reader_end(in)))
        status = -EPROTO;
    if (status == 0)
        g->matches.list[0].type = (uint8_t)((a.mode & S_IFMT) >> 12);
    else if (status == -ENOENT) /* nothing is there: nothing is found */
        matches_done(&g->matches);
    if ((status < 0 && status != -ENOENT) || (status = begin_segment(g)) < 0) {
        fail(g, status);
        return;
    }
    g->out.on_cancel = cancelled;
    g->out.owner = g;
    session_stream_start(s, &g->out);
    json_t *id = BG_TAKE(g->id);
    session_reply(s, id, json_pack("{s:I}", "streamId", (json_int_t)g->out.id));
    json_decref(id);
    go_on(g);
}

static int read_exclude(struct glob *g, const json_t *list, const char *root, struct bg_err *err)
{
    size_t i;
    json_t *one;
    BG_AUTOFREE char *base = path_resolve(HOME, root);
    json_array_foreach(list, i, one)
    {
        struct pattern *pattern = NULL;
        BG_AUTOFREE char *path = base ? path_resolve(base, json_string_value(one)) : NULL;
        int r = path ? pattern_from_glob(path, &g->opts, &pattern, err)
                     : bg_err_errno(err, -ENOMEM, "expandGlob");
        if (r == 0 && patterns_add(&g->exclude, pattern) < 0)
            r = bg_err_set(err, -EINVAL, "more than %d patterns", BG_GATEWAY_PATTERNS_MAX);
        if (r < 0)
            return r;
    }
    return 0;
}

static int start(struct glob *g, const char *root)
{
    struct session *s = g->session;
    struct bg_err err;
    char *path = g->id && g->doing && g->text ? split(g, root) : NULL;
    int r = add(&g->matches, path, 0);
    if (r == 0)
        r = guest_files_open(s->opts.shared->loop, s->opts.shared->paths, &s->opts.entry->sandbox,
                             s->umask, &g->files, &err);
    return r < 0 ? r : session_stat(g->files, g->matches.list[0].path, have_root, g);
}

void method_expand_glob(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *text = rpc_text(params, "glob"), *root = rpc_text_or_null(params, "root");
    const json_t *exclude = rpc_texts(params, "exclude");
    const struct glob_opts opts = {.extended = rpc_flag(params, "extended", true),
                                   .globstar = rpc_flag(params, "globstar", true),
                                   .case_insensitive = rpc_flag(params, "caseInsensitive", false)};
    bool folders_too = rpc_flag(params, "includeDirs", true);
    bool follows = rpc_flag(params, "followSymlinks", false);
    bool canonicalizes = rpc_flag(params, "canonicalize", true);
    struct bg_err err;
    if (rpc_params_ok(params) && strlen(text) > BG_GATEWAY_PATTERN_MAX)
        rpc_complain(params, "glob", "a shorter one");
    if (!rpc_params_ok(params))
        return;
    struct glob *g = calloc(1, sizeof *g);
    if (!g) {
        session_throw(s, id, fault_errno(-ENOMEM, "expandGlob"));
        return;
    }
    g->session = s;
    g->id = json_deep_copy(id);
    g->text = strdup(text);
    g->doing = session_doing("expandGlob", text);
    g->opts = opts;
    g->folders_too = folders_too;
    g->follows = follows;
    g->canonicalizes = canonicalizes;
    LIST_INSERT_HEAD(&s->globs, g, link);
    if (read_exclude(g, exclude, root ? root : "", &err) < 0) {
        session_throw(s, id, fault_new("TypeError", err.text));
        glob_free(g);
        return;
    }
    int r = start(g, root ? root : "");
    if (r < 0)
        fail(g, r);
}

/* ---- all of them ---- */

void session_globs_congested(struct session *s, bool congested)
{
    struct glob *g, *next;
    for (g = congested ? NULL : LIST_FIRST(&s->globs); g; g = next) {
        next = LIST_NEXT(g, link);
        if (g->telling)
            tell(g);
    }
}

void session_globs_close(struct session *s)
{
    while (!LIST_EMPTY(&s->globs))
        glob_free(LIST_FIRST(&s->globs));
}
